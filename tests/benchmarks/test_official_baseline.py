"""The structure of the official implementation gives what ours gives: our short cuts change nothing but the time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional

from benchmarks.official_baseline import OfficialBaseline, baseline_of
from rise_env.dynamics.config import DynamicsConfig, FlowConfig, OfficialConfig, VideoAutoencoderConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.official import OfficialTransformer
from rise_env.dynamics.shape import DynamicsShape
from rise_env.protocols import History

SIZES = OfficialConfig(
    layers=4, heads=2, head_dim=8, latent_channels=4, caption_dim=12, caption_tokens=16, views=3, action_dim=6,
    action_tokens=9, action_width=8, action_layers=2, action_heads=2, action_head_dim=4, action_mlp=10,
)  # fmt: skip
CONFIG = DynamicsConfig(
    autoencoder_kind="video",
    transformer_kind="official",
    alignment="target",
    video_autoencoder=VideoAutoencoderConfig(latent_channels=4, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1, 1)),
    official=SIZES,
    flow=FlowConfig(target="velocity", sigmas=(1.0, 0.5), precision="fp32"),
)
SHAPE = DynamicsShape(("head", "wrist"), (32, 64), ("shoulder", "gripper"), chunk=18, stride=2, history=4)


@pytest.fixture(scope="module")
def dynamics() -> LatentDynamics:
    torch.manual_seed(0)
    model = LatentDynamics(CONFIG, SHAPE).eval()
    transformer: Any = model.transformer
    torch.nn.init.normal_(transformer.network.act_vit_in.mlp_head[1].weight, std=0.5)
    torch.nn.init.normal_(transformer.caption)
    return model


def history(batch: int) -> History:
    g = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (batch, 4, 2, 32, 64, 3), dtype=torch.uint8, generator=g)
    return History(frames, torch.zeros(batch, 4, 2), ["Do it."] * batch)


def actions(batch: int) -> torch.Tensor:
    return torch.randn(batch, 18, 2, generator=torch.Generator().manual_seed(2))


def noise(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def latents_of(prediction: Any) -> torch.Tensor:
    return prediction.latents


def test_two_chunks_are_those_of_the_official_structure(dynamics: LatentDynamics) -> None:
    theirs = baseline_of(dynamics)
    assert isinstance(dynamics.transformer, OfficialTransformer)
    assert isinstance(theirs.transformer, OfficialBaseline)
    ours_state, their_state = (model.open(history(2)) for model in (dynamics, theirs))
    for _ in range(2):
        ours, ours_state = dynamics.predict(ours_state, actions(2), noise(2))
        other, their_state = theirs.predict(their_state, actions(2), noise(2))
        torch.testing.assert_close(latents_of(ours), latents_of(other), rtol=1e-4, atol=1e-5)
        assert (dynamics.decode(ours, [-1]).int() - theirs.decode(other, [-1]).int()).abs().max() <= 1


def test_weights_in_bf16_and_so_is_what_flows(dynamics: LatentDynamics, monkeypatch: pytest.MonkeyPatch) -> None:
    """RMSNorm meets one type of number alone, which is what its fused kernel takes."""
    exact, _ = dynamics.predict(dynamics.open(history(2)), actions(2), noise(2))
    short = LatentDynamics(CONFIG, SHAPE).eval()
    short.load_state_dict(dynamics.state_dict())
    short = short.with_settings({"flow.precision": "bf16"})
    short.freeze()
    network: Any = short.transformer.network
    assert {parameter.dtype for parameter in network.transformer_blocks.parameters()} == {torch.bfloat16}
    assert network.time_embed.linear.weight.dtype == torch.float32  # few tokens meet it, all depend on it
    seen: set[Any] = set()
    original = functional.rms_norm

    def rms_norm(x: torch.Tensor, shape: Any, weight: Any = None, eps: Any = None) -> torch.Tensor:
        seen.add((x.dtype, x.dtype if weight is None else weight.dtype))
        return original(x, shape, weight, eps)

    monkeypatch.setattr(functional, "rms_norm", rms_norm)
    streams: list[torch.dtype] = []
    for block in network.transformer_blocks:
        block.register_forward_pre_hook(lambda module, args: streams.append(args[0].dtype))
    for model in (short, baseline_of(short)):
        rough, _ = model.predict(model.open(history(2)), actions(2), noise(2))
        torch.testing.assert_close(latents_of(rough), latents_of(exact), rtol=0.05, atol=0.05)
        assert latents_of(rough).dtype == torch.float32
    assert seen == {(torch.bfloat16, torch.bfloat16)}
    assert set(streams) == {torch.bfloat16}
    with pytest.raises(Exception, match=r"flow\.precision: the weights are in bf16 already"):
        short.with_settings({"flow.precision": "fp32"})


def test_the_last_block_computes_the_future_alone(dynamics: LatentDynamics) -> None:
    lengths: list[int] = []
    network: Any = dynamics.transformer
    hooks = [
        block.ff.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[2]))
        for block in network.network.transformer_blocks
    ]
    dynamics.predict(dynamics.open(history(1)), actions(1), noise(1))
    for hook in hooks:
        hook.remove()
    assert lengths[:4] == [12, 12, 12, 4]  # (4 + 2) latent frames of 1 x 2 places; 2 of them lie ahead


class Counter:
    """Calls of the video autoencoder, as (videos, latent or real frames) each."""

    def __init__(self, model: Any) -> None:
        self.encoded: list[tuple[int, int]] = []
        self.decoded: list[tuple[int, int]] = []
        for module, calls in (
            (model.autoencoder.vae.encoder, self.encoded),
            (model.autoencoder.vae.decoder, self.decoded),
        ):
            module.register_forward_pre_hook(
                lambda _, args, calls=calls: calls.append((len(args[0]), args[0].shape[2]))
            )

    def taken(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        found = list(self.encoded), list(self.decoded)
        self.encoded.clear()
        self.decoded.clear()
        return found


@pytest.fixture
def counted(dynamics: LatentDynamics) -> tuple[LatentDynamics, Counter]:
    model = LatentDynamics(CONFIG, SHAPE).eval()
    model.load_state_dict(dynamics.state_dict())
    return model, Counter(model)


def test_frames_are_coded_together_and_only_when_they_are_needed(counted: tuple[LatentDynamics, Counter]) -> None:
    model, calls = counted
    state = model.open(history(3))
    assert calls.taken() == ([(3 * 4 * 2, 1)], [])  # environments, history frames, views
    first, after = model.predict(state, actions(3), noise(3))
    assert calls.taken() == ([], [])  # nobody has looked, and nobody goes on
    model.decode(first, [-1])
    model.decode(first, [0, 1])
    assert calls.taken() == ([], [(3 * 2, 2)])
    for _ in range(2):  # several chunks from one state: what is missing is made once
        model.predict(after, actions(3), noise(3))
    assert calls.taken() == ([(3 * 4 * 2, 1)], [])
    _, unseen = model.predict(state, actions(3), noise(3))
    model.predict(unseen, actions(3), noise(3))
    assert calls.taken() == ([(3 * 4 * 2, 1)], [(3 * 2, 2)])
    ended = model.merge(after, torch.arange(3), model.open(history(3)))
    calls.taken()
    model.predict(ended, actions(3), noise(3))
    assert calls.taken() == ([], [])  # the episodes were over: nothing of them is encoded
    autoencoder: Any = model.autoencoder
    autoencoder.config = dataclasses.replace(autoencoder.config, frames_at_once=18)
    cut, _ = model.predict(model.open(history(3)), actions(3), noise(3))
    assert (model.decode(cut, [0]).int() - model.decode(first, [0]).int()).abs().max() <= 1
    assert calls.taken() == ([(18, 1), (6, 1)], [(2, 2)] * 3)
    narrow = baseline_of(model)
    prediction, _ = narrow.predict(narrow.open(history(1)), actions(1), noise(1))
    narrow.decode(prediction, [0])
    assert calls.taken() == ([(1, 1)] * 16, [(1, 2)] * 2)  # 8 frames of the history, 8 again; one view at a time


@pytest.mark.parametrize("looked", [(True, True), (False, False), (True, False), (False, True)])
def test_sessions_change_places(counted: tuple[LatentDynamics, Counter], looked: tuple[bool, bool]) -> None:
    """Whatever was decoded before: each goes on from its own past, and only those encode that imagined something."""
    model, calls = counted
    start = model.open(history(3))
    states = []
    for seed, look in enumerate(looked):
        prediction, after = model.predict(start, actions(3) + seed, noise(3))
        if look:
            model.decode(prediction, [0])
        states.append(after)
    alone = [latents_of(model.predict(state, actions(3), noise(3))[0]) for state in states]
    fresh = latents_of(model.predict(start, actions(3), noise(3))[0])
    for first, index, second, expected in (
        (states[0], [1], model.select(states[1], torch.tensor([1])), [alone[0][0], alone[1][1], alone[0][2]]),
        (states[0], [0, 2], model.select(start, torch.tensor([0, 2])), [fresh[0], alone[0][1], fresh[2]]),
        (start, [2], model.select(states[1], torch.tensor([2])), [fresh[0], fresh[1], alone[1][2]]),
    ):
        mixed = model.merge(first, torch.tensor(index), second)
        calls.taken()
        found = latents_of(model.predict(mixed, actions(3), noise(3))[0])
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
        encoded = sum(count for count, _ in calls.taken()[0])
        assert encoded <= 3 * 8
