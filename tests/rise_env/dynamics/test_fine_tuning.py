"""Fine-tuning as the release does it: colours, posterior samples, checkpointed gradients, a converted model tuned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_world import SPEC, TINY_OFFICIAL, World, with_flow, with_training
from torchvision.transforms.v2 import functional

from rise_env.dynamics.augmentation import color_jitter
from rise_env.dynamics.config import DynamicsConfig, TrainingConfig, VideoAutoencoderConfig, load_dynamics_config
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialNetwork
from rise_env.dynamics.run import DynamicsTraining, Latents
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.training import train_dynamics
from rise_env.errors import ConfigError
from rise_env.training.loop import Budget

SHORT = dataclasses.replace(SPEC, image_size=(32, 32), chunk=18, history=2)
VIDEO = VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1))
CONFIG = DynamicsConfig(
    "video", "official", "target", video_autoencoder=VIDEO, flow=with_flow(target="velocity", foreground=0.0).flow,
    official=dataclasses.replace(TINY_OFFICIAL, layers=2, action_tokens=9),
    training=dataclasses.replace(with_training(batch_size=2).training, color_jitter=(0.3, 0.4, 0.5, 0.1),
                                 posterior="sample", gradient_checkpointing=True),
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_official_preset_has_the_settings_of_the_release() -> None:
    training = load_dynamics_config("brick_sorting", "official").training
    assert training.color_jitter == (0.3, 0.4, 0.5, 0.1)
    assert (training.posterior, training.gradient_checkpointing, training.batching) == ("sample", True, "shuffled")


def test_colours_of_a_sample_change_alike() -> None:
    one = torch.randint(0, 256, (1, 1, 1, 8, 8, 3), dtype=torch.uint8, generator=seeded())
    frames = one.expand(2, 3, 2, 8, 8, 3)  # two samples, three frames, two cameras: all the same picture
    changed = color_jitter(frames, (0.3, 0.4, 0.5, 0.1), seeded())
    assert changed.shape == frames.shape
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, color_jitter(frames, (0.3, 0.4, 0.5, 0.1), seeded()))
    assert torch.equal(changed[0], changed[0, :1, :1].expand_as(changed[0]))
    assert not torch.equal(changed[0], changed[1])
    assert torch.equal(color_jitter(frames, (0.0,) * 4, seeded()), frames)


@pytest.mark.parametrize("which", range(4))
def test_each_change_is_that_of_torchvision(which: int) -> None:
    frames = torch.randint(0, 256, (1, 2, 8, 8, 3), dtype=torch.uint8, generator=seeded())
    strengths = [0.4 if i == which else 0.0 for i in range(4)]
    generator = seeded()
    torch.randperm(4, generator=generator)
    draw = float(torch.rand(4, generator=generator)[which]) * 2 - 1
    name = ("brightness", "contrast", "saturation", "hue")[which]
    change = getattr(functional, f"adjust_{name}")
    expected = change(frames[0].movedim(-1, -3).float() / 255, 0.4 * draw + (which != 3)).movedim(-3, -1) * 255
    assert float((color_jitter(frames, strengths, seeded())[0] - expected).abs().max()) <= 0.51


def make(folder: Path, **training: Any) -> tuple[DynamicsTraining, LatentDynamics]:
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **training))
    torch.manual_seed(0)
    run = DynamicsTraining(World(2, 20, SHORT), config, folder, Budget(1), Budget(2), tensorboard=False)
    return run, LatentDynamics(config, DynamicsShape.of(SHORT))


@torch.no_grad()
def test_colours_of_single_frames(tmp_path: Path) -> None:
    """An image autoencoder has a latent of every frame."""
    config = with_training(color_jitter=(0.3, 0.4, 0.5, 0.1))
    torch.manual_seed(0)
    run = DynamicsTraining(World(2, 10), config, tmp_path, Budget(1), Budget(2), tensorboard=False)
    model = LatentDynamics(config, DynamicsShape.of(SPEC))
    latents, batch = Latents(model, run), run.train.batch([0, 1])
    changed = latents.augmented(batch, seeded())
    for made, kept in zip(changed, (latents.history(batch), latents.future(batch)), strict=True):
        assert made.shape == kept.shape
        assert not torch.allclose(made, kept, atol=1e-3)
    frames = torch.from_numpy(run.dataset.frames(batch.future_index[:1, 1]))
    frames = color_jitter(frames[:, None], config.training.color_jitter, seeded())  # the first sample's draw
    torch.testing.assert_close(changed[1][0, :, 1], model.autoencoder.encode_frames(frames[0, 0]), rtol=0, atol=1e-2)


@torch.no_grad()
def test_latents_are_made_anew_only_where_settings_ask_for_it(tmp_path: Path) -> None:
    plain = {"color_jitter": (0.0, 0.0, 0.0, 0.0), "posterior": "mode"}
    run, model = make(tmp_path, **plain)
    latents, batch = Latents(model, run), run.train.batch([0, 0])
    once = latents.augmented(batch, seeded())
    for made, kept in zip(once, (latents.history(batch), latents.future(batch)), strict=True):
        assert torch.equal(made, kept)
    for change in ({"color_jitter": (0.3, 0.4, 0.5, 0.1)}, {"posterior": "sample"}):
        model.config = make(tmp_path, **{**plain, **change})[1].config
        first, again = (latents.augmented(batch, seeded()) for _ in range(2))
        for made, repeated, kept in zip(first, again, once, strict=True):
            assert made.shape == kept.shape
            assert torch.equal(made, repeated)  # from the generator alone
            assert not torch.allclose(made, kept, atol=1e-3)
            assert not torch.equal(made[0], made[1])  # one window, drawn twice


def test_checkpointed_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    network = OfficialNetwork(CONFIG.official)
    torch.nn.init.normal_(network.act_vit_in.mlp_head[1].weight, std=0.5)
    inputs = (torch.randn(1, 2, 4, 4, 1, 1), torch.tensor([300.0]), 2, torch.randn(1, 9, 6), torch.randn(10, 12))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    network.transformer_blocks[0].register_forward_pre_hook(count)
    gradients = []
    for network.checkpointing in (False, True):
        network.eval().zero_grad()  # no dropout
        network(*inputs).square().sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in network.parameters()])
    assert calls == 3  # once, and once more in the second backward pass
    for first, second in zip(*gradients, strict=True):
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            torch.testing.assert_close(first, second)


def test_a_converted_model_is_tuned_with_its_own_autoencoder_and_ranges(tmp_path: Path) -> None:
    run, model = make(tmp_path / "run")
    model.scaler.set_ranges(model.scaler.action_shift.numpy() + 0.25, model.scaler.action_scale.numpy() * 2)
    model.transformer.caption.fill_(0.5)
    model.save_pretrained(tmp_path / "released")
    # Where the settings found the autoencoder need not exist any more: it is in the model.
    video = dataclasses.replace(VIDEO, weights=str(tmp_path / "gone"))
    run.config = dataclasses.replace(run.config, video_autoencoder=video)
    tuned = train_dynamics(run, initial=tmp_path / "released")
    assert bool((tuned.scaler.action_shift == 0.25).all())
    assert bool((tuned.transformer.caption == 0.5).all())
    before, after = model.state_dict(), tuned.state_dict()
    assert not torch.equal(before["transformer.network.proj_out.weight"], after["transformer.network.proj_out.weight"])
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("autoencoder."))


def test_settings_that_do_not_go_together_are_refused() -> None:
    for settings, message in (
        ({"posterior": "sample"}, "needs the video autoencoder"),
        ({"gradient_checkpointing": True}, "needs the official transformer"),
    ):
        with pytest.raises(ConfigError, match=message):
            DynamicsConfig(training=TrainingConfig(**settings))
    with pytest.raises(ConfigError, match="color_jitter"):
        TrainingConfig(color_jitter=(0.3, 0.4, 0.5, 0.6))
