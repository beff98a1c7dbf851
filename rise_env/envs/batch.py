"""ImaginationBatch: where every imagination of a batch stands, without episodes, rewards or infos; observations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.utils import seeding

from rise_env.envs.advantage import chunk_advantage
from rise_env.envs.arguments import checked_actions, checked_candidates
from rise_env.envs.starts import StartBatch, StartStates
from rise_env.errors import RiseError, requirement
from rise_env.protocols import History
from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec
from rise_env.threads import cores
from rise_env.world_model import CompositionalWorldModel, Imagined, Session

__all__ = [
    "CandidateScores",
    "Continuation",
    "ImaginationBatch",
    "check_lookahead",
    "observation_of",
    "require_finite",
    "rows_of",
    "start_observations",
]

#: Who goes on after a candidate: observations with a leading axis N in, chunks (N, chunk, D) in rad and m out.
type Continuation = Callable[[Mapping[str, Any]], Any]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "candidates", initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True)
class CandidateScores:
    """Predicted results of several chunks from the same state; N environments, G chunks each.

    Attributes:
        advantage: float32 (N, G), raw.
        uncertainty: float32 (N, G).
    """

    advantage: np.ndarray
    uncertainty: np.ndarray


def check_lookahead(continuation: Any, lookahead: int) -> None:
    """ConfigError unless the lookahead is a whole number of chunks that there is somebody to go on for."""
    require = requirement("evaluate_candidates")
    require.whole(0, lookahead=lookahead)
    require(continuation is not None or not lookahead, f"lookahead {lookahead}, but no continuation: who goes on?")


class ImaginationBatch:
    """Sessions of N imaginations, their present pictures and joints, and their generators.

    Args:
        world_model: World model.
        starts: Start states.
        num_envs: Number of imaginations N.
        lags: L control steps in the past that observations hold, the present (0) first.

    Attributes:
        frames: uint8 (N, L, V, H, W, 3).
        states: float32 (N, L, D).
        start_rows: int64 (N,), rows of `starts` that the imaginations began at.
        generators: One NumPy generator per imagination, for start states and the seeds of `noise`.
        noise: One CPU generator per imagination, for the dynamics model.
    """

    def __init__(
        self, world_model: CompositionalWorldModel, starts: StartStates, num_envs: int, lags: Sequence[int]
    ) -> None:
        self.world_model, self.starts, self.num_envs, self.lags = world_model, starts, num_envs, tuple(lags)
        #: Places of the observed moments, counted from the end of a history or an imagined chunk.
        self.places = [-1 - lag // world_model.spec.stride for lag in lags]
        self.device = world_model.device
        self.generators = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self.noise = [torch.Generator() for _ in range(num_envs)]
        self.frames = self.states = torch.zeros(0)
        self.start_rows = np.zeros(0, np.int64)
        self._session: Session | None = None

    @property
    def started(self) -> bool:
        """Whether there are imaginations."""
        return self._session is not None

    def session(self) -> Session:
        """The world model's sessions; a RiseError before the first start."""
        if self._session is None:
            raise RiseError("call reset() first")
        return self._session

    def start(
        self, rows: np.ndarray, chosen: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[StartBatch, np.ndarray]:
        """Begin some imaginations at recorded states; the first call must be for all.

        Args:
            rows: Which, int64 (n,), rising.
            chosen: Rows of `starts`, int64 (n,).
            generators: What they draw from, from now on.

        Returns the start states, and their values float32 (n,). A RiseError if these are not finite changes nothing.
        """
        batch = self.starts.batch(chosen)
        frames = torch.from_numpy(batch.frames).to(self.device)
        states = torch.from_numpy(batch.states).to(self.device)
        session = self.world_model.open(History(frames, states, batch.prompts))
        values = session.value.cpu().numpy()
        require_finite(values, rows)
        for i, generator in zip(rows, generators, strict=True):
            self.generators[i] = generator
            self.noise[i].manual_seed(int(generator.integers(2**63 - 1)))
        self.start_rows = np.zeros(self.num_envs, np.int64) if self._session is None else self.start_rows.copy()
        self.start_rows[rows] = chosen
        self._store(rows, session, frames[:, self.places], states[:, self.places])
        return batch, values

    def imagine(self, rows: np.ndarray, chunks: torch.Tensor) -> tuple[Session, Imagined]:
        """Imagine chunks float32 (n, chunk, D) in the environments `rows`, int64 (n,), rising, without going there.

        Returns their sessions as they are, and what was imagined, for `advance`.
        """
        session = self.session()
        if len(rows) < self.num_envs:
            session = self.world_model.select(session, rows.tolist())
        return session, self.world_model.imagine(session, chunks, [self.noise[i] for i in rows])

    def advance(self, rows: np.ndarray, chunks: torch.Tensor, imagined: Imagined) -> None:
        """Go on to the end of an imagined chunk; arguments as for `imagine`."""
        self._store(rows, imagined.session, imagined.frames(self.places), self._states_after(chunks, imagined))

    def _states_after(self, chunks: torch.Tensor, imagined: Imagined) -> torch.Tensor:
        """Joints at the observed moments of an imagined chunk, float32 (n, L, D)."""
        if imagined.states is None:
            return chunks[:, [-1 - lag for lag in self.lags]]
        return imagined.states[:, self.places]

    def evaluate_candidates(
        self, actions: Any, mode: str, continuation: Continuation | None = None, lookahead: int = 0
    ) -> CandidateScores:
        """See `ImaginationVectorEnv.evaluate_candidates`; `mode` is one of `ADVANTAGE_MODES`."""
        task, session, everyone = self.world_model.spec, self.session(), np.ones(self.num_envs, bool)
        check_lookahead(continuation, lookahead)
        actions = checked_candidates(actions, self.num_envs, task.chunk, task.layout)

        def scored(candidate: int) -> torch.Tensor:
            chunks, _ = checked_actions(actions[:, candidate], everyone, task.chunk, task.layout, self.device)
            copies = [torch.Generator().set_state(generator.get_state()) for generator in self.noise]
            imagined = self.world_model.imagine(session, chunks, copies)
            uncertainty = imagined.uncertainty
            for _ in range(lookahead):
                assert continuation is not None
                frames, states = imagined.frames(self.places), self._states_after(chunks, imagined)
                seen = observation_of(frames, states, list(task.cameras), self.lags, tensors=False)
                chunks, _ = checked_actions(continuation(seen), everyone, task.chunk, task.layout, self.device)
                imagined = self.world_model.imagine(imagined.session, chunks, copies)
                uncertainty = torch.maximum(uncertainty, imagined.uncertainty)
            advantage = chunk_advantage(imagined.values, session.value, mode)
            return torch.stack([advantage, uncertainty]).float()

        # Where torch has one thread, candidates are imagined side by side; each gives the same as it does alone.
        side_by_side = torch.get_num_threads() == 1 and self.device.type == "cpu" and self.world_model.thread_safe
        found = (_threads().map if side_by_side else map)(scored, range(actions.shape[1]))
        table = torch.stack(list(found), dim=-1).cpu().numpy()  # 2, N, G
        require_finite(table.sum((0, 2)), np.arange(self.num_envs))
        return CandidateScores(table[0], table[1])

    def close(self) -> None:
        """End the imaginations."""
        if self._session is not None:
            self.world_model.close(self._session)
        self._session = None

    def _store(self, rows: np.ndarray, session: Session, frames: torch.Tensor, states: torch.Tensor) -> None:
        if self._session is None or len(rows) == self.num_envs:
            self._session, self.frames, self.states = session, frames, states
            return
        index = torch.from_numpy(rows).to(self.device)
        self._session = self.world_model.merge(self._session, rows.tolist(), session)
        self.frames = self.frames.index_copy(0, index, frames)
        self.states = self.states.index_copy(0, index, states)


def observation_of(
    frames: torch.Tensor, states: torch.Tensor, cameras: Sequence[str], lags: Sequence[int], tensors: bool
) -> dict[str, Any]:
    """Observation of frames uint8 (N, L, V, H, W, 3) and states float32 (N, L, D), as tensors or as arrays.

    `lags` has one entry per L, the present (0) first.
    """
    images: Any = frames if tensors else frames.cpu().numpy()
    joints: Any = states if tensors else states.cpu().numpy()
    observation: dict[str, Any] = {}
    for place, lag in enumerate(lags):
        for view, camera in enumerate(cameras):
            observation[lag_key(image_key(camera), lag)] = _copy(images[:, place, view])
        observation[lag_key("state", lag)] = _copy(joints[:, place])
    return observation


def start_observations(
    starts: StartStates, rows: np.ndarray, task: TaskSpec, lags: Sequence[int], tensors: bool = False
) -> dict[str, Any]:
    """Observation at start states, by their numbers, int64 (n,); lags and tensors as for `observation_of`."""
    places = [task.history - 1 - lag // task.stride for lag in lags]
    frames = torch.from_numpy(starts.frames[np.asarray(rows)[:, None], places])
    states = torch.from_numpy(starts.states[np.asarray(rows)[:, None], places])
    return observation_of(frames, states, list(task.cameras), lags, tensors)


def rows_of(observation: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """Single observations of the environments in the mask, as an object array."""
    rows = np.full(len(mask), None, object)
    for i in np.flatnonzero(mask):
        rows[i] = {key: _copy(value[i]) for key, value in observation.items()}
    return rows


def require_finite(numbers: np.ndarray, rows: np.ndarray) -> None:
    """Raise a RiseError that names the environments, of `rows`, for which the world model's numbers are not finite."""
    if not np.isfinite(numbers).all():
        bad = rows[~np.isfinite(numbers)].tolist()
        raise RiseError(f"the world model gives values that are not finite (NaN or infinity) for environments {bad}")


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else np.array(value)
