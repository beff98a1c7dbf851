"""Post-training of a dynamics model on rollouts: what is learned and what is kept aside, PSNR, exact resume."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rise_env.dynamics.config import AutoencoderConfig, DynamicsConfig, FlowConfig, TransformerConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.shape import DynamicsShape
from rise_env.dynamics.training import transformer_loss
from rise_env.errors import ConfigError
from rise_env.testing import LinearValue, counting_spec, counting_world_model
from rise_env.training.post_training import PostTraining, Rollout
from rise_env.world_model import CompositionalWorldModel

SPEC = counting_spec()


def tiny_world_model(value_head: int = 2) -> CompositionalWorldModel:
    """A world model of random weights for the counting task."""
    torch.manual_seed(0)
    transformer = TransformerConfig(width=16, depth=1, heads=2, patch=(3, 2), context=(0, -1), value_head=value_head)
    autoencoder = AutoencoderConfig(channels=(4, 8), blocks=(1, 1), latent_channels=2)
    config = DynamicsConfig(autoencoder=autoencoder, transformer=transformer, flow=FlowConfig(precision="fp32"))
    dynamics = LatentDynamics(config, DynamicsShape.of(SPEC)).eval()
    source = "dynamics" if value_head else "value"
    return CompositionalWorldModel(dynamics, LinearValue(), SPEC, reward_source=source)


def rollouts(count: int, frames: int = 7, first: int = 0) -> list[Rollout]:
    """Every frame's red is its number, of all; actions and states tell to which frame they belong."""
    found = []
    for start in range(first, first + count * frames, frames):
        pictures = np.zeros((frames, 2, *SPEC.image_size, 3), np.uint8)
        pictures[..., 0] = (start + np.arange(frames))[:, None, None, None]
        number = np.arange(start, start + frames, dtype=np.float32)
        states = np.repeat(number[:, None] / 1000, SPEC.layout.dim, axis=1)
        actions = number[:-1, None, None] + np.zeros((frames - 1, SPEC.stride, SPEC.layout.dim), np.float32)
        actions[:, 1] += 0.5
        found.append(Rollout(pictures, states, actions / 1000))
    return found


def error(post: PostTraining, world_model: CompositionalWorldModel) -> float:
    """Loss of a model on all windows that are learned from, under the same noise."""
    kept, model = post._train, world_model.dynamics
    assert kept is not None
    assert isinstance(model, LatentDynamics)
    batch = post._batch(kept, np.arange(len(post._windows(kept)[0])))
    pair = (kept.pictures[torch.from_numpy(index)].transpose(1, 2).float()
            for index in (batch.history_index, batch.future_index))  # fmt: skip
    return float(transformer_loss(model, batch, *pair, torch.Generator().manual_seed(0), "fp32", None)[0].detach())


def weights(post: PostTraining) -> list[torch.Tensor]:
    return [value.clone() for value in post.world_model.dynamics.state_dict().values()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("value_head", [0, 2])
def test_the_transformer_learns_from_rollouts_and_the_given_model_stays(value_head: int) -> None:
    given = tiny_world_model(value_head)
    before = [value.clone() for value in given.dynamics.state_dict().values()]  # type: ignore[attr-defined]
    post = PostTraining(given, updates=12, batch_size=8, learning_rate=1e-3, held_out=3)
    assert post.train() == {}  # nothing to learn from yet
    post.add(rollouts(6))
    found = [post.train() for _ in range(2)]
    assert set(found[0]) == {"loss", *(f"{name}{part}" for name in ("psnr", "psnr_before", "psnr_bundle")
                                       for part in ("", "_moved"))}  # fmt: skip
    assert found[0]["psnr_before"] == found[0]["psnr_bundle"] == found[1]["psnr_bundle"]
    assert found[1]["psnr_before"] == found[0]["psnr"]
    assert error(post, post.world_model) < 0.9 * error(post, given)
    assert all(torch.equal(*pair) for pair in zip(before, given.dynamics.state_dict().values(), strict=True))  # type: ignore[attr-defined]
    pairs = zip(given.dynamics.named_parameters(), post.world_model.dynamics.parameters(), strict=True)  # type: ignore[attr-defined]
    moved = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert moved
    assert all(name.startswith("transformer.") for name in moved)


def test_a_window_never_leaves_its_episode_and_has_the_actions_of_its_frames() -> None:
    post = PostTraining(tiny_world_model(), held_out=100)
    post.add([*rollouts(2), *rollouts(1, frames=SPEC.frames_per_chunk), *rollouts(1, first=14)])  # one is too short
    kept = post._train
    assert kept is not None
    current, first, owner = post._windows(kept)
    assert current.tolist() == [0, 1, 2, 7, 8, 9, 14, 15, 16]
    batch = post._batch(kept, np.arange(9))
    assert batch.history_index[1].tolist() == [0, 0, 0, 1]
    assert batch.future_index[4].tolist() == [9, 10, 11, 12]
    expected = [8, 8.5, 9, 9.5, 10, 10.5, 11, 11.5]
    np.testing.assert_allclose(1000 * batch.actions[4, :, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(1000 * batch.states[:, -1, 0], current, rtol=1e-5)
    assert owner.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert first.tolist() == [0, 0, 0, 7, 7, 7, 14, 14, 14]


def test_rollouts_are_kept_aside_and_old_ones_forgotten() -> None:
    post = PostTraining(tiny_world_model(), updates=1, held_out=3, episodes=6)
    post.add(rollouts(12))
    train, test = post._train, post._test
    assert train is not None
    assert test is not None
    assert (len(train.lengths), len(test.lengths)) == (6, 2)
    assert test.pictures[:, 0, 0, 0, 0].tolist() == [*range(56, 63), *range(77, 84)]  # the 9th and the 12th
    starts = (1000 * train.states[::7, 0]).round().tolist()
    assert starts == [21, 28, 42, 49, 63, 70]


def test_a_resumed_training_ends_where_an_uninterrupted_one_does() -> None:
    whole, first, second = (PostTraining(tiny_world_model(), updates=3, batch_size=4, held_out=2) for _ in range(3))
    for post in (whole, first):
        post.add(rollouts(4))
        post.train()
    second.load_state_dict(first.state_dict())
    for post in (whole, second):
        post.add(rollouts(2, first=100))
    assert whole.train() == second.train()
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(second), strict=True))


@pytest.mark.parametrize("settings", [{"updates": 0}, {"batch_size": 0}, {"held_out": 1}, {"episodes": 0}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PostTraining(tiny_world_model(), **settings)


def test_other_dynamics_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"FrameCountingDynamics is no LatentDynamics.*post_updates=0"):
        PostTraining(counting_world_model())
    video = tiny_world_model()
    video.dynamics.autoencoder.per_frame = False  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="image autoencoder"):
        PostTraining(video)
