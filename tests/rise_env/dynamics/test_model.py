from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamics_world import CONFIG, SPEC, TINY_OFFICIAL, with_flow, with_transformer

from rise_env.alignment import ALIGNMENTS, align_actions
from rise_env.dynamics.actions import JointScaler, hash_text
from rise_env.dynamics.config import DynamicsConfig, VideoAutoencoderConfig, load_dynamics_config
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.session import DynamicsState, LatentPrediction
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.transformer import Denoised
from rise_env.errors import CheckpointError, ConfigError
from rise_env.protocols import Dynamics, History
from rise_env.tasks import load_task

SHAPE = DynamicsShape.of(SPEC)


def build(config: DynamicsConfig = CONFIG, shape: DynamicsShape = SHAPE) -> LatentDynamics:
    torch.manual_seed(0)
    model = LatentDynamics(config, shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.1)
    return model.eval()


def history(batch: int, shape: DynamicsShape = SHAPE, prompt: str = "Move it.") -> History:
    g = torch.Generator().manual_seed(5)
    size = (batch, shape.history, len(shape.cameras), *shape.image_size, 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, generator=g)
    states = torch.randn(batch, shape.history, len(shape.joints), generator=g)
    return History(frames, states, [prompt] * batch)


def actions(batch: int, shape: DynamicsShape = SHAPE, seed: int = 6) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, shape.chunk, len(shape.joints), generator=g)


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Counter(torch.nn.Module):
    """Predicts that imagined frame k is the current one plus k + 1."""

    def forward(self, future: torch.Tensor, *rest: Any) -> Denoised:
        count = torch.arange(1.0, future.shape[2] + 1)[:, None, None, None]
        return Denoised(count.expand_as(future[0, 0]).expand_as(future))


def test_it_is_a_dynamics() -> None:
    assert isinstance(build(), Dynamics)


@pytest.mark.parametrize("steps", [1, 3])
def test_shapes_of_a_session(steps: int) -> None:
    model = build(with_flow(steps=steps, disagreement=True))
    state = model.open(history(3))
    prediction, state = model.predict(state, actions(3), generators([0, 1, 2]))
    views, (channels, height, wide) = 2, model.autoencoder.latent_shape
    assert prediction.latents is not None
    assert prediction.latents.shape == (3, SHAPE.frames, views, channels, height, wide)
    assert prediction.states is not None
    assert prediction.states.shape == (3, SHAPE.frames, 2)
    assert prediction.uncertainty is not None
    assert prediction.uncertainty.shape == (3,)
    assert bool((prediction.uncertainty > 0).all())
    every = model.decode(prediction, range(SHAPE.frames))
    assert every.shape == (3, SHAPE.frames, views, *SPEC.image_size, 3)
    assert every.dtype == torch.uint8
    assert torch.equal(model.decode(prediction, [-1])[:, 0], every[:, -1])
    frames = history(3).frames
    assert model.encode(frames).shape == (3, SHAPE.history, views, channels, height, wide)
    assert state.history.shape[1] == SHAPE.history


def test_an_environment_alone_equals_itself_in_a_batch() -> None:
    model = build(with_flow(steps=3))
    whole, chunk = history(4), actions(4)
    together, after = model.predict(model.open(whole), chunk, generators([10, 11, 12, 13]))
    together2, _ = model.predict(after, chunk, generators([20, 21, 22, 23]))
    alone_history = History(whole.frames[2:3], whole.states[2:3], whole.prompts[2:3])
    alone, after = model.predict(model.open(alone_history), chunk[2:3], generators([12]))
    alone2, _ = model.predict(after, chunk[2:3], generators([22]))
    assert together.latents is not None
    assert together2.latents is not None
    assert alone.latents is not None
    assert alone2.latents is not None
    torch.testing.assert_close(alone.latents[0], together.latents[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone2.latents[0], together2.latents[2], rtol=1e-3, atol=1e-3)


def test_same_generators_same_chunk_other_generators_another() -> None:
    model = build()
    state = model.open(history(1))
    first, again, other = (model.predict(state, actions(1), generators([s]))[0].latents for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("length", "expected"), [(3, [0, 1, 2]), (2, [1, 2]), (5, [-2, -1, 0, 1, 2])])
def test_history_stays_in_order_across_chunks(length: int, expected: list[int]) -> None:
    """Oldest first, one stride apart, whether a chunk has fewer frames than the history or more."""
    shape = dataclasses.replace(SHAPE, history=length)
    model = build(shape=shape)
    model.transformer = Counter()
    start = torch.arange(1.0 - length, 1.0).reshape(1, -1, 1, 1, 1, 1)
    latents = start.expand(1, -1, 2, *model.autoencoder.latent_shape).contiguous()
    state = DynamicsState(
        latents, torch.zeros(1, 2), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.uint8)
    )
    for chunk in range(3):
        prediction, state = model.predict(state, actions(1, shape), generators([0]))
        counted = state.history[0, :, 0, 0, 0, 0].tolist()
        shift = shape.frames * chunk
        assert counted == pytest.approx([value + shift for value in expected])
        assert prediction.latents is not None
        assert prediction.latents[0, :, 0, 0, 0, 0].tolist() == pytest.approx([shift + 1, shift + 2])


def test_the_current_joint_state_goes_on_from_the_end_of_the_chunk() -> None:
    learned = build()
    prediction, state = learned.predict(learned.open(history(2)), actions(2), generators([0, 1]))
    assert prediction.states is not None
    assert torch.equal(state.state, prediction.states[:, -1])
    commanded = build(with_transformer(state_head=False))
    prediction, state = commanded.predict(commanded.open(history(2)), actions(2), generators([0, 1]))
    assert prediction.states is None
    assert torch.equal(state.state, actions(2)[:, -1])


def test_nothing_that_is_given_is_changed_and_the_mode_is_given_back() -> None:
    model = build().train()
    model.autoencoder.eval()
    modes = [module.training for module in model.modules()]
    given, chunk = history(2), actions(2)
    copies = given.frames.clone(), given.states.clone(), chunk.clone()
    state = model.open(given)
    kept = [tensor.clone() for tensor in (state.history, state.state, state.text)]
    prediction, _ = model.predict(state, chunk, generators([0, 1]))
    model.decode(prediction, [0])
    assert all(torch.equal(a, b) for a, b in zip(copies, (given.frames, given.states, chunk), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, (state.history, state.state, state.text), strict=True))
    assert [module.training for module in model.modules()] == modes


def test_select_and_merge() -> None:
    model = build()
    state, other = model.open(history(3)), model.open(history(1))
    picked = model.select(state, torch.tensor([2, 0]))
    assert torch.equal(picked.history[0], state.history[2])
    before = state.history.clone()
    merged = model.merge(state, torch.tensor([1]), other)
    assert torch.equal(merged.history[1], other.history[0])
    assert torch.equal(merged.state[[0, 2]], state.state[[0, 2]])
    assert torch.equal(state.history, before)
    model.close(merged)
    model.offload()
    model.onload()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_tokens_follow_the_named_alignment(alignment: str) -> None:
    scaler = JointScaler(2, SPEC.stride, alignment, relative=False, width=9)
    tokens = scaler.tokens(actions(3), torch.zeros(3, 2))
    expected = align_actions(actions(3), SPEC.stride, alignment)
    torch.testing.assert_close(tokens[..., : expected.shape[-1]], expected)
    assert not bool(tokens[..., expected.shape[-1] :].any())


def test_the_model_uses_the_alignment_of_its_configuration() -> None:
    seen: list[torch.Tensor] = []
    model = build(dataclasses.replace(with_transformer(relative_actions=False), alignment="last"))
    model.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[3]))
    model.predict(model.open(history(1)), actions(1), generators([0]))
    torch.testing.assert_close(seen[0], actions(1)[:, [1, 3]])


def test_scaler_statistics() -> None:
    import numpy as np

    scaler = JointScaler(2, 2, "target", relative=True, form="min_max")
    values = np.array([[0.0, 5.0], [4.0, 5.0]])
    scaler.fit(values, values, values)
    assert scaler.normalise_state(torch.tensor([[0.0, 5.0], [4.0, 5.0]])).tolist() == [[-1, 0], [1, 0]]
    command = torch.randn(1, 2, 2)
    states = torch.randn(1, 2, 2)
    torch.testing.assert_close(scaler.add_residual(command, scaler.residual(states, command)), states)
    with pytest.raises(ConfigError, match="does not fit into"):
        JointScaler(14, 2, "interval", relative=True, width=30)


def test_text_is_hashed_the_same_everywhere() -> None:
    assert hash_text(["Pick the brick", ""], 100, 4).tolist() == [[94, 49, 48, 0], [0, 0, 0, 0]]
    assert hash_text(["Pick"], 0).shape == (1, 0)


def test_save_and_load(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path / "model")
    loaded = LatentDynamics.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.shape == model.shape
    assert not loaded.training
    results = [m.predict(m.open(history(2)), actions(2), generators([3, 4]))[0].latents for m in (model, loaded)]
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize(("storage", "share", "error"), [("fp16", 0.75, 1e-3), ("int8", 0.6, 1e-2)])
def test_less_precision_on_disk_is_for_matrices_only(tmp_path: Path, storage: str, share: float, error: float) -> None:
    model = build(dataclasses.replace(with_transformer(modulation_rank=3), storage=storage))
    model.scaler.state_shift.fill_(0.123456789)
    model.save_pretrained(tmp_path / "model")
    loaded = LatentDynamics.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.scaler.state_shift, model.scaler.state_shift)
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
    space = model.transformer.space
    torch.testing.assert_close(loaded.transformer.space, space, rtol=error, atol=error * space.abs().max().item())
    whole = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < share * whole
    loaded.save_pretrained(tmp_path / "again")  # what is read is written as it was
    again = LatentDynamics.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(again.state_dict(), loaded.state_dict(), rtol=1e-5, atol=1e-7)


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no dynamics model at"):
        LatentDynamics.from_pretrained(tmp_path / "nowhere")
    path = tmp_path / "model"
    build().save_pretrained(path)
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        LatentDynamics.from_pretrained(path)
    (path / "model.safetensors").write_bytes(weights)
    config = json.loads((path / "config.json").read_text())
    config["dynamics"]["transformer"]["depth"] = 3
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing transformer\.blocks\.2"):
        LatentDynamics.from_pretrained(path)
    config["dynamics"]["transformer"]["wdith"] = 3
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"unknown key 'wdith'.*'width'"):
        LatentDynamics.from_pretrained(path)


def test_wrong_inputs_are_refused() -> None:
    model = build()
    good = history(1)
    with pytest.raises(ConfigError, match="cameras front, side"):
        model.open(History(good.frames[:, :, :1], good.states, good.prompts))
    with pytest.raises(ConfigError, match="2 frames, expected 3"):
        model.open(History(good.frames[:, 1:], good.states, good.prompts))
    with pytest.raises(ConfigError, match=r"torch\.float32"):
        model.encode(good.frames.float())
    state = model.open(good)
    with pytest.raises(ConfigError, match="there are 2 generators"):
        model.predict(state, actions(1), generators([0, 1]))
    with pytest.raises(ConfigError, match=r"expected \(1, 4, 2\) \(environments, chunk, joints"):
        model.predict(state, actions(1)[:, :2], generators([0]))


def test_official_architecture_with_video_latents() -> None:
    shape = dataclasses.replace(SHAPE, image_size=(32, 64), chunk=18, history=2)
    video = VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1))
    official = dataclasses.replace(TINY_OFFICIAL, action_tokens=9)
    config = DynamicsConfig(
        autoencoder_kind="video",
        transformer_kind="official",
        alignment="target",
        video_autoencoder=video,
        official=official,
        flow=with_flow(target="velocity", steps=2).flow,
    )
    model = build(config, shape)
    state = model.open(history(1, shape))
    calls = {"act_vit_in": 0, "proj_in": 0}
    for name in calls:
        module = getattr(model.transformer.network, name)
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    prediction, after = model.predict(state, actions(1, shape), generators([0]))
    assert calls == {"act_vit_in": 1, "proj_in": 2}  # actions are encoded once per chunk, latents in both steps
    assert isinstance(prediction, LatentPrediction)
    assert prediction.latents is not None
    assert prediction.latents.shape[:3] == (1, 2, 2)  # nine frames are two latent ones
    frames = model.decode(prediction, range(9))
    assert frames.shape == (1, 9, 2, 32, 64, 3)
    pending = after.pending
    assert pending is not None
    following = pending.taken_in(after.history, model._decode, model._encode)
    torch.testing.assert_close(following, model.encode(frames[:, -2:]))


@pytest.mark.parametrize("preset", ["tiny", "small", "h200"])
def test_presets(preset: str) -> None:
    spec = load_task("brick_sorting", preset)
    with torch.device("meta"):
        model = LatentDynamics(load_dynamics_config("brick_sorting", preset), DynamicsShape.of(spec))
    assert model.future == spec.frames_per_chunk


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_large_presets_are_configured(preset: str) -> None:
    config, spec = load_dynamics_config("brick_sorting", preset), load_task("brick_sorting", preset)
    assert (config.transformer_kind, config.autoencoder_kind, config.alignment) == ("official", "video", "target")
    assert config.official.action_tokens == spec.frames_per_chunk == 25
    assert config.flow.target == "velocity"


def test_details_are_kept_where_nothing_changes() -> None:
    plain, carried = build(), build(dataclasses.replace(CONFIG, details=16.0))
    past = history(2)
    prediction, after = carried.predict(carried.open(past), actions(2), generators([1, 2]))
    same, _ = plain.predict(plain.open(past), actions(2), generators([1, 2]))
    torch.testing.assert_close(prediction.latents, same.latents)
    assert (plain.decode(same, [0, -1]) != carried.decode(prediction, [0, -1])).any()
    actual, coded = past.frames[:, -1:], plain._decode(plain.open(past).history[:, -1:])
    # Beside no change at all stands the recorded pixel itself, beside a large one what was decoded.
    still = carried.with_details(coded, after.details)
    torch.testing.assert_close(still, actual)
    elsewhere = (coded.float() + 100).clamp(0, 255).to(torch.uint8)
    moved, far = carried.with_details(elsewhere, after.details), coded.amax(dim=-1) <= 155
    assert far.any()
    torch.testing.assert_close(moved[far], elsewhere[far])
    # The second chunk, and environments that change places, keep what is theirs.
    second, _ = carried.predict(carried.select(after, torch.tensor([1, 0])), actions(2), generators([1, 2]))
    torch.testing.assert_close(second.details, after.details.flip(0))  # type: ignore[attr-defined]


def test_details_are_for_image_autoencoders() -> None:
    with pytest.raises(ConfigError, match="image autoencoder"):
        dataclasses.replace(CONFIG, details=1.0, autoencoder_kind="video")
    with pytest.raises(ConfigError, match="at least 0"):
        dataclasses.replace(CONFIG, details=-1.0)
