"""Playing with imagination: from a state, chunk by chunk, beside what the cameras truly see where there is a cell."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch

from rise_agents.pipelines.play_cell import TrueCell
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.resolve import resolve_policy
from rise_agents.policies.scripted import RandomPolicy
from rise_env.acting import Actor
from rise_env.bundle import Bundle
from rise_env.envs.arguments import checked_actions
from rise_env.envs.batch import observation_of
from rise_env.errors import ConfigError, RiseError, check_known, requirement
from rise_env.protocols import History
from rise_env.spaces import action_space, check_lags
from rise_env.world_model import Session, resolve_device
from rise_robot.cell.cell import CellState

__all__ = ["Moment", "PlaySession", "acting_policy"]

_EXPERT = "expert"


@dataclass(frozen=True)
class Moment:
    """One frame, recorded or imagined.

    Attributes:
        seconds: Time since the start state.
        source: Who chose the chunk that led here; "start" for the start state.
        frames: uint8 (V, H, W, 3).
        state: float32 (D,), joints as imagined, rad and m.
        value: What the value model says of it.
        spread: Disagreement of the value ensemble.
        uncertainty: Of the whole chunk, as the world model tells it; 0 at the start.
        true_frames: uint8 (V, H, W, 3), what the work cell's cameras saw; None without a cell.
        true_value: What the value model says of that; None without a cell.
        true_progress: Ground truth, [0, 1]; None without a cell.
    """

    seconds: float
    source: str
    frames: np.ndarray
    state: np.ndarray
    value: float
    spread: float
    uncertainty: float = 0.0
    true_frames: np.ndarray | None = None
    true_value: float | None = None
    true_progress: float | None = None


@dataclass(frozen=True)
class _Place:
    """Where imagination and cell stand after some chunks; nothing in it is changed."""

    session: Session
    moments: tuple[Moment, ...]
    cell: CellState | None


@dataclass
class PlaySession:
    """One imagination, one's own: begin somewhere, choose chunks, look at what follows, go back.

    All of it must be called from one thread where a cell is beside it, because rendering belongs to a thread.

    Args:
        bundle: Its world model imagines, from its start states.
        cell: What truly happens; None where there is no work cell.
        policy: Trained policy to choose chunks; None without.
        device: Where to imagine.
        seed: Of the noise that is imagined from, and of random chunks: the same choices give the same pictures.

    Attributes:
        chunks: Names of what `propose` can be asked for now.

    Raises:
        ConfigError: If the policy reads the past at times that are not imagined.

    Example:
        >>> from rise_env.bundle import find_bundle, load_bundle
        >>> session = PlaySession(load_bundle(find_bundle("brick_sorting")))
        >>> session.begin(0)
        >>> [len(session.moments), len(session.step(session.propose("random"), "random")), len(session.moments)]
        [1, 8, 9]
    """

    bundle: Bundle
    cell: TrueCell | None = None
    policy: Actor | None = None
    device: str = "cpu"
    seed: int = 0
    _places: list[_Place] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.model = self.bundle.world_model(device=self.device)
        self.spec, self.starts = self.model.spec, self.bundle.starts()
        self.starts.check(self.spec)
        self._lags = (0, *check_lags(self.spec, () if self.policy is None else self.policy.lags))
        self._random = RandomPolicy(action_space(self.spec))
        self._past: list[tuple[np.ndarray, np.ndarray]] = []
        self._recorded: np.ndarray | None = None

    def fresh(self) -> Self:
        """Another imagination of the same models, not yet begun."""
        twin = copy.copy(self)
        twin._places, twin._past, twin._recorded = [], [], None
        return twin

    # ------------------------------------------------------------------ where to begin

    def begin(self, row: int) -> None:
        """Begin at a recorded state, by its number.

        Raises:
            ConfigError: If there is no such state.
        """
        self.starts.rows(start_index=row)
        batch = self.starts.batch([row])
        self._recorded = None if self.starts.actions is None else np.array(self.starts.actions[row])
        self._begin(batch.frames[0], batch.states[0], batch.prompts[0])

    def begin_in_cell(self, seed: int, policy: str = _EXPERT, steps: int = 0) -> None:
        """Begin in the work cell, where a scripted policy has got to after so many control steps of an episode.

        Raises:
            ConfigError: If there is no cell, or no such policy.
        """
        if self.cell is None:
            raise ConfigError(f"task {self.spec.name!r} has no work cell: begin at a recorded state")
        requirement("play").whole(0, seed=seed, steps=steps)
        start, self._recorded = self.cell.lead(seed, policy, steps), None
        self._begin(start.frames, start.states, self.spec.prompt, start.state, start.progress)

    def describe(self, row: int) -> str:
        """A recorded state in words: episode, frame, outcome, part of the data."""
        starts = self.starts
        outcome = {1: "succeeded", 0: "failed"}.get(int(starts.success[row]), "outcome unknown")
        return (
            f"episode {starts.episode_index[row]}, frame {starts.frame_index[row]}, {outcome}, {starts.split[row]}: "
            f"{starts.prompts[starts.prompt_index[row]]}"
        )

    # ------------------------------------------------------------------ what to do

    @property
    def chunks(self) -> tuple[str, ...]:
        """Names of what `propose` can be asked for now."""
        recorded = self._recorded is not None and len(self._places) == 1
        there = {
            "policy": self.policy is not None,
            _EXPERT: bool(self._places) and self._present.cell is not None,
            "recorded": recorded,
            "random": True,
        }
        return tuple(name for name, known in there.items() if known)

    def propose(self, name: str) -> np.ndarray:
        """A chunk float32 (chunk, D), rad and m, for the present state.

        Args:
            name: "policy", "expert" (of the work cell, at its true state), "recorded" (what was done at a recorded
                start), "random".

        Raises:
            ConfigError: If that is not to be had here.
        """
        place = self._present
        check_known("chunk", name, self.chunks)
        if name == "policy":
            assert self.policy is not None
            chunk = self.policy.act(self._observation())[0, : self.spec.chunk]
        elif name == _EXPERT:
            assert self.cell is not None
            assert place.cell is not None
            chunk = self.cell.plan(place.cell, _EXPERT, self.seed)
        elif name == "recorded":
            assert self._recorded is not None
            chunk = self._recorded
        else:
            chunk = self._random.act({})[0]
        return np.asarray(chunk, np.float32)

    def towards(self, target: np.ndarray) -> np.ndarray:
        """The chunk that moves evenly from the present joints to a target (D,), rad and m: float32 (chunk, D)."""
        present = self.present.state
        shares = np.linspace(0, 1, self.spec.chunk + 1, dtype=np.float32)[1:, None]
        return (present + shares * (np.asarray(target, np.float32) - present)).astype(np.float32)

    def step(self, chunk: np.ndarray, source: str) -> tuple[Moment, ...]:
        """Imagine a chunk (chunk, D), and run it in the cell where there is one.

        Args:
            chunk: Absolute joint targets, rad and m; they are kept within the joint limits.
            source: Who chose it.

        Returns:
            The new moments, one per imagined frame.

        Raises:
            ActionError: If the chunk has another shape or is not finite; nothing has happened then.
            RiseError: Before the first `begin`.
        """
        place, spec = self._present, self.spec
        actions, _ = checked_actions(chunk[None], np.ones(1, bool), spec.chunk, spec.layout, self.model.device)
        noise = torch.Generator().manual_seed(self.seed * 1_000_003 + len(self._places))
        imagined = self.model.imagine(place.session, actions, [noise])
        count = spec.frames_per_chunk
        frames = imagined.frames(range(count))[0].cpu().numpy()
        states = actions[0, spec.stride - 1 :: spec.stride] if imagined.states is None else imagined.states[0]
        values, spread = imagined.values[0].tolist(), imagined.spread[0].tolist()
        truth = true_values = None
        if self.cell is not None and place.cell is not None:
            truth = self.cell.run(place.cell, actions[0].cpu().numpy())
            true_values = self._values(truth.frames, place.session.prompts[0])
        begun = place.moments[-1].seconds
        moments = tuple(
            Moment(
                begun + (k + 1) * spec.stride / spec.fps, source, frames[k], states[k].cpu().numpy(), values[k],
                spread[k], float(imagined.uncertainty[0]),
                *(() if truth is None or true_values is None else
                  (truth.frames[k], true_values[k], float(truth.progress[k]))),
            )
            for k in range(count)
        )  # fmt: skip
        after = _Place(imagined.session, place.moments + moments, None if truth is None else truth.state)
        self._places.append(after)
        return moments

    def back(self) -> None:
        """Take the last chunk back; at the start nothing happens."""
        if len(self._places) > 1:
            self._places.pop()

    # ------------------------------------------------------------------ what there is to see

    @property
    def begun(self) -> bool:
        """Whether there is anything to see."""
        return bool(self._places)

    @property
    def moments(self) -> tuple[Moment, ...]:
        """All moments from the start state on."""
        return self._present.moments

    @property
    def present(self) -> Moment:
        """The last one."""
        return self.moments[-1]

    @property
    def _present(self) -> _Place:
        if not self._places:
            raise RiseError("begin somewhere first")
        return self._places[-1]

    def _begin(
        self, frames: np.ndarray, states: np.ndarray, prompt: str, cell: CellState | None = None, progress: float = 0.0
    ) -> None:
        device = self.model.device
        history = History(
            torch.from_numpy(frames[None]).to(device), torch.from_numpy(states[None]).to(device), (prompt,)
        )
        session = self.model.open(history)
        value, spread = float(session.value[0]), float(session.spread[0])
        true = () if cell is None else (frames[-1], value, progress)
        first = Moment(0.0, "start", frames[-1], states[-1], value, spread, 0.0, *true)
        self._past = [(frame, state) for frame, state in zip(frames[:-1], states[:-1], strict=True)]
        self._places = [_Place(session, (first,), cell)]
        for actor in (self._random, self.policy):
            if actor is not None:
                actor.reset([self.seed], np.ones(1, bool))

    def _observation(self) -> dict[str, np.ndarray]:
        seen = [*self._past, *((moment.frames, moment.state) for moment in self.moments)]
        moments = [seen[max(0, len(seen) - 1 - lag // self.spec.stride)] for lag in self._lags]
        frames, states = (torch.from_numpy(np.stack(column)[None]) for column in zip(*moments, strict=True))
        return observation_of(frames, states, list(self.spec.cameras), self._lags, tensors=False)

    def _values(self, frames: np.ndarray, prompt: str) -> list[float]:
        given = torch.from_numpy(frames[None]).to(self.model.device)
        values: list[float] = self.model.score_frames(given, (prompt,)).value[0].tolist()
        return values


def acting_policy(name: str | None, bundle: Bundle, device: str = "cpu") -> Actor | None:
    """Who chooses chunks as "policy": a trained policy by name, the bundle's own when None, nobody if it has none.

    Raises:
        ConfigError: If the name is of no trained policy, or its policy is of another task.
        CheckpointError: If it cannot be read.
    """
    if name is None and bundle.policy is None:
        return None
    policy = resolve_policy(name or "base", bundle=bundle, spec=bundle.spec, device=resolve_device(device))
    if policy.spec.layout != bundle.spec.layout or policy.spec.chunk != bundle.spec.chunk:
        raise ConfigError(
            f"policy {name!r} has {policy.spec.layout.dim} joints and chunks of {policy.spec.chunk}, the bundle "
            f"{bundle.spec.layout.dim} and {bundle.spec.chunk}: they are of different tasks"
        )
    return PolicyActor(policy)
