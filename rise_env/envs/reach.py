"""`RISE-Reach-v0`: a task whose optimum is known, on which an algorithm can be tried out in seconds.

A camera on a pan-tilt head is to be turned towards a red dot. It is imagination like any other (same spaces, options,
autoreset modes, `evaluate_candidates`, start states), but its world model computes instead of predicting: thousands of
chunks a second, no weights, no noise. `rise_agents.policies.reach` makes a policy that turns the wrong way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_env.data.array_dataset import ArrayDataset
from rise_env.envs.single import ImaginationEnv
from rise_env.envs.starts import StartStates
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import requirement
from rise_env.protocols import History, Prediction, ValueEstimate
from rise_env.tasks import JointLayout, TaskSpec
from rise_env.world_model import CompositionalWorldModel

__all__ = [
    "ReachEnv", "ReachVectorEnv", "mean_return", "optimal_chunks", "optimal_return", "reach_batch", "reach_recordings",
    "reach_spec",
]  # fmt: skip

_SPEED = 0.045  # most rad per control step
_DISTANCE = (0.75, 0.85)  # rad from the start to the dot: two chunks get close to it, never there
_SCALE = 0.9  # rad over which the value falls from 1 to 0
_SUCCESS = 0.75  # out of reach for one chunk
_START = 0.1  # rad, largest start position
_PIXELS, _VIEW, _BLOB = 36, 2.5, 2.0  # side of the picture in pixels and in rad, and deviation of a dot in pixels
_FINE = 64  # places of a dot per pixel


def reach_spec() -> TaskSpec:
    """The task: one camera of 36 x 36 pixels, two joints in rad, chunks of 8 at stride 2."""
    layout = JointLayout("pan_tilt", ("pan", "tilt"), ("rad", "rad"), (-1.2, -1.2), (1.2, 1.2))
    return TaskSpec(
        name="reach", prompt="Point at the red dot.", cameras={"top": "observation.images.top"},
        image_size=(_PIXELS, _PIXELS), layout=layout, fps=10, chunk=8, stride=2, history=2, execute=8, max_seconds=2.4,
    )  # fmt: skip


class ReachVectorEnv(ImaginationVectorEnv):
    """A camera on a pan-tilt head is to be turned towards a red dot: imagination that computes, with a known optimum.

    Everything that is not said here is as in `ImaginationVectorEnv`.

    **Observation**: `image_top` uint8 (36, 36, 3), the dot in red and where the head points in green, and `state`
    float32 (2,), pan and tilt in rad; nothing but the picture tells where the dot is.
    **Action**: Box (8, 2), absolute targets in rad, to which the head turns at 0.045 rad per control step at most.
    **Reward**: the chunk's advantage. The value of a state is 1 - (distance to the dot) / 0.9 rad.
    **Optimum**: turn straight to the dot at full speed: 0.25 per chunk from any state, see `optimal_return`.
    **End**: `terminated` at a value of 0.75, which takes two chunks that hardly deviate; else `truncated` after
    `max_chunks`.

    Args:
        num_envs: Number of environments.
        max_chunks: Chunks until truncation, 1 or 2. With more, the dot would be reached, and it would pay to wait.
        num_starts: Start states to draw, the last eighth of them held out.
        offset: Of the recorded chunks at the start states: degrees by which they miss the dot.
        spread: Their deviation, degrees.
        **kwargs: As of `ImaginationVectorEnv`, but for what says where to find start states and world model.

    Example:
        >>> envs = ReachVectorEnv(2, autoreset_mode="disabled")
        >>> observation, infos = envs.reset(seed=0)
        >>> [round(float(reward), 2) for reward in envs.step(optimal_chunks(observation))[1]]
        [0.25, 0.25]
        >>> envs.close()
    """

    def __init__(
        self,
        num_envs: int = 1,
        max_chunks: int = 2,
        num_starts: int = 1024,
        offset: float = 45.0,
        spread: float = 35.0,
        **kwargs: Any,
    ) -> None:
        require = requirement("RISE-Reach-v0")
        require.one_of((1, 2), max_chunks=max_chunks)  # for these the optimum is known
        require.whole(1, num_starts=num_starts)
        require.within("[0, 360]", offset=offset, spread=spread)
        model = CompositionalWorldModel(_Dynamics(), _Value(), reach_spec())
        starts = _starts(num_starts, offset, spread)
        super().__init__(
            num_envs, max_chunks=max_chunks, starts=starts, world_model=model,
            **{"success_threshold": _SUCCESS, **kwargs},
        )  # fmt: skip


class ReachEnv(ImaginationEnv):
    """A `ReachVectorEnv` of one environment, without the batch axis."""

    core_class = ReachVectorEnv


# ---------------------------------------------------------------------- what is known about it


def optimal_return(max_chunks: int = 2) -> float:
    """Largest sum of rewards of an episode, from any start state."""
    spec = reach_spec()
    return max_chunks * _SPEED * spec.stride * (spec.frames_per_chunk + 1) / 2 / _SCALE


def optimal_chunks(observations: Mapping[str, Any]) -> np.ndarray:
    """The best chunks (N, 8, 2): an expert that reads the picture."""
    pixels = torch.as_tensor(observations["image_top"])
    position = np.asarray(observations["state"], np.float64)
    return _straight(position, _read(pixels, 0).double().numpy(), np.zeros(len(position)))


def mean_return(
    envs: Any, act: Callable[[dict[str, Any]], np.ndarray], episodes: int = 256, seed: int = 1_000_000
) -> float:
    """Mean sum of rewards of episodes from held-out start states, as a part of the optimum.

    Args:
        envs: A `ReachVectorEnv` in autoreset mode "disabled" (or a wrapper of it); its episodes are given up.
        act: Observations to chunks (N, 8, 2), e.g. `lambda seen: agent.predict(seen, deterministic=True)[0]`.
        episodes: Number of episodes, rounded up to whole batches.
        seed: Of the first batch.
    """
    core, total, batches = envs.unwrapped, 0.0, -(-episodes // envs.num_envs)
    for batch in range(batches):
        observations, _ = core.reset(seed=seed + batch * core.num_envs, options={"split": "heldout"})
        for _ in range(core.max_chunks):
            observations, rewards, *_ = core.step(act(observations))
            total += float(np.asarray(rewards, np.float64).mean()) / batches
    return total / optimal_return(core.max_chunks)


def reach_batch(
    count: int, offset: float, spread: float, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Observations (of the present alone) and chunks (count, 8, 2) of somebody who misses the dot by an angle.

    Args:
        count: Number of chunks; they start anywhere in the first chunk of an episode, or at its end.
        offset: Mean angle in degrees; 0 for an expert.
        spread: Its deviation in degrees.
        rng: Source of everything.
    """
    position, target = _draw(rng, count)
    earlier, angle = np.radians(offset + spread * rng.standard_normal((2, count)))
    position = position + rng.random((count, 1)) * (_straight(position, target, earlier)[:, -1] - position)
    picture = _draw_pictures(torch.from_numpy(position), torch.from_numpy(target)).numpy()
    return {"image_top": picture, "state": position.astype(np.float32)}, _straight(position, target, angle)


def reach_recordings(
    episodes: int = 256,
    offset: float = 45.0,
    spread: float = 35.0,
    seed: int = 0,
    act: Callable[[dict[str, Any]], np.ndarray] | None = None,
) -> ArrayDataset:
    """Recorded episodes of somebody who misses the dot by an angle, another one in every chunk; or of a policy.

    Args:
        episodes: Number of episodes, of two or three chunks each.
        offset: Mean angle in degrees; 0 for an expert.
        spread: Its deviation in degrees.
        seed: Seed.
        act: Who acts in their place: observations of the present to chunks (episodes, 8, 2).

    Returns:
        A dataset with explicit outcomes: an episode ends at success, or fails after three chunks.
    """
    rng, spec = np.random.default_rng(seed), reach_spec()
    position, target = _draw(rng, episodes)
    angles = np.radians(offset + spread * rng.standard_normal((3, episodes)))
    places, actions, values = [], [], []
    for angle in angles:
        if act is None:
            chunk = _straight(position, target, angle)
        else:
            picture = _draw_pictures(torch.from_numpy(position), torch.from_numpy(target)).numpy()
            chunk = act({"image_top": picture, "state": position.astype(np.float32)})
        for action in chunk.swapaxes(0, 1):
            places.append(position)
            actions.append(action)
            position = _turned(torch.from_numpy(position), torch.from_numpy(action)).numpy()
        values.append(1 - np.linalg.norm(position - target, axis=1) / _SCALE)
    won = np.asarray(np.stack(values) >= _SUCCESS)  # chunks, episodes
    lengths = spec.chunk * np.where(won.any(0), won.argmax(0) + 1, len(angles))
    kept = np.arange(len(places)) < lengths[:, None]  # episodes, steps
    state = np.stack(places, axis=1)[kept].astype(np.float32)
    frames = _draw_pictures(torch.from_numpy(state), torch.from_numpy(np.repeat(target, lengths, axis=0)))
    return ArrayDataset(
        spec, lengths.tolist(), state, np.stack(actions, axis=1)[kept].astype(np.float32),
        frames=frames.numpy()[:, None], outcomes=np.asarray(won.any(0)),
    )  # fmt: skip


# ---------------------------------------------------------------------- geometry and pictures


def _draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and dots (count, 2), rad."""
    start = rng.uniform(-_START, _START, (count, 2))
    angle, distance = rng.uniform(0, 2 * np.pi, count), rng.uniform(*_DISTANCE, count)
    return start, start + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _straight(position: np.ndarray, target: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Chunks at full speed along a line that misses the target by an angle in rad, float32 (N, chunk, 2)."""
    ahead = np.arctan2(*(target - position).T[::-1]) + angle
    steps = _SPEED * np.arange(1, reach_spec().chunk + 1)
    chunks = position[:, None] + steps[:, None] * np.stack([np.cos(ahead), np.sin(ahead)], axis=1)[:, None]
    return chunks.astype(np.float32)


def _turned(position: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Positions (N, 2) one control step later: on the way to a target, as far as the speed allows."""
    way = action - position
    length = (way[:, 0] * way[:, 0] + way[:, 1] * way[:, 1]).sqrt()
    return position + way * (_SPEED / length.clamp(min=_SPEED))[:, None]


def _profiles() -> torch.Tensor:
    """Brightness along a line of pixels for every place of a dot, float32 (36 x 64, 36)."""
    places = (torch.arange(_PIXELS * _FINE) + 0.5) / _FINE
    return torch.exp(-0.5 * ((torch.arange(_PIXELS) + 0.5 - places[:, None]) / _BLOB).square())


_PROFILES = _profiles()


def _draw_pictures(position: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 (..., 36, 36, 3) of positions and dots (..., 2); looked up, so that no row depends on others."""
    channels = []
    for dot in (target, position):
        place = ((dot / _VIEW + 0.5) * (_PIXELS * _FINE)).long().clamp(0, _PIXELS * _FINE - 1)
        across, down = _PROFILES[place[..., 0]], _PROFILES[place[..., 1]]
        channels.append((255 * down[..., :, None] * across[..., None, :]).round().to(torch.uint8))
    return torch.stack([*channels, torch.zeros_like(channels[0])], dim=-1)


def _read(pixels: torch.Tensor, channel: int) -> torch.Tensor:
    """Where a dot is in pictures uint8 (..., 36, 36, 3): its centre of mass, (..., 2), rad; summed in integers."""
    light, place = pixels[..., channel].long(), torch.arange(_PIXELS)
    whole = light.sum((-1, -2))
    across, down = (light.sum(-2) * place).sum(-1), (light.sum(-1) * place).sum(-1)
    return ((torch.stack([across, down], dim=-1) / whole[..., None] + 0.5) / _PIXELS - 0.5) * _VIEW


def _starts(count: int, offset: float, spread: float) -> StartStates:
    rng, spec = np.random.default_rng(0), reach_spec()
    position, target = _draw(rng, count)
    recorded = _straight(position, target, np.radians(offset + spread * rng.standard_normal(count)))
    pictures = _draw_pictures(torch.from_numpy(position), torch.from_numpy(target)).numpy()
    return StartStates.build(
        spec,
        np.repeat(pictures[:, None, None], spec.history, axis=1),
        np.repeat(position[:, None], spec.history, axis=1),
        split=np.where(np.arange(count) < count - max(1, count // 8), "train", "heldout"),
        actions=recorded,
        source="RISE-Reach-v0",
    )


# ---------------------------------------------------------------------- the world model


@dataclass(frozen=True)
class _State:
    """Where the head points and where the dot is, float32 (B, 2) each, rad."""

    position: torch.Tensor
    target: torch.Tensor


class _Dynamics:
    """Turns the head; latents (B, K, 1, 4, 1, 1) are its position and the dot's."""

    device, thread_safe = torch.device("cpu"), True

    def open(self, history: History) -> _State:
        return _State(history.states[:, -1].clone(), _read(history.frames[:, -1, 0], 0))

    def predict(
        self, state: _State, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, _State]:
        spec, position, places = reach_spec(), state.position, []
        for step in range(spec.chunk):
            position = _turned(position, actions[:, step])
            places.append(position)
        states = torch.stack(places[spec.stride - 1 :: spec.stride], dim=1)
        latents = torch.cat([states, state.target[:, None].expand_as(states)], dim=-1)[:, :, None, :, None, None]
        return Prediction(latents, states), _State(position, state.target)

    def decode(self, prediction: Prediction, index: Sequence[int]) -> torch.Tensor:
        assert prediction.latents is not None
        chosen = prediction.latents[:, list(index), :, :, 0, 0]
        return _draw_pictures(chosen[..., :2], chosen[..., 2:])

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return torch.cat([_read(frames, 1), _read(frames, 0)], dim=-1)[..., None, None]

    def select(self, state: _State, index: torch.Tensor) -> _State:
        return _State(state.position[index], state.target[index])

    def merge(self, state: _State, index: torch.Tensor, other: _State) -> _State:
        return _State(
            state.position.index_copy(0, index, other.position), state.target.index_copy(0, index, other.target)
        )

    def close(self, state: _State) -> None:
        pass

    def offload(self) -> None:
        pass

    def onload(self) -> None:
        pass


class _Value:
    """1 - (distance to the dot) / 0.9 rad."""

    device, reads_latents, thread_safe = torch.device("cpu"), True, True

    def estimate(self, frames: torch.Tensor, prompts: Sequence[str]) -> ValueEstimate:
        way = frames[:, :, 0, 2:, 0, 0] - frames[:, :, 0, :2, 0, 0]
        distance = (way[..., 0] * way[..., 0] + way[..., 1] * way[..., 1]).sqrt()
        return ValueEstimate(1 - distance / _SCALE, torch.zeros_like(distance))
