"""ImaginationBatch: where every imagination of a batch stands, without episodes, rewards or infos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium.utils import seeding

from rise_env.envs.observations import require_finite
from rise_env.envs.starts import StartBatch, StartStates
from rise_env.errors import RiseError
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel, Imagined, Session

__all__ = ["ImaginationBatch"]


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

    @property
    def session(self) -> Session:
        """The world model's sessions.

        Raises:
            RiseError: Before the first start.
        """
        self.check_started()
        assert self._session is not None
        return self._session

    def check_started(self) -> None:
        """Raise a RiseError before the first start."""
        if self._session is None:
            raise RiseError("call reset() first")

    def start(
        self, rows: np.ndarray, chosen: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[StartBatch, np.ndarray]:
        """Begin some imaginations at recorded states; the first call must be for all.

        Args:
            rows: Which, int64 (n,), rising.
            chosen: Rows of `starts`, int64 (n,).
            generators: What they draw from, from now on.

        Returns:
            The start states, and their values float32 (n,).

        Raises:
            RiseError: If values are not finite; nothing is changed then.
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
        if self._session is None:
            self.start_rows = np.zeros(self.num_envs, np.int64)
        self.start_rows = self.start_rows.copy()
        self.start_rows[rows] = chosen
        self._store(rows, session, frames[:, self.places], states[:, self.places])
        return batch, values

    def imagine(self, rows: np.ndarray, chunks: torch.Tensor) -> tuple[Session, Imagined]:
        """Imagine one chunk in some environments, without going there: see `advance`.

        Args:
            rows: Which, int64 (n,), rising.
            chunks: float32 (n, chunk, D).

        Returns:
            Their sessions as they are, and what was imagined.
        """
        session = self.session
        if len(rows) < self.num_envs:
            session = self.world_model.select(session, rows.tolist())
        return session, self.world_model.imagine(session, chunks, [self.noise[i] for i in rows])

    def advance(self, rows: np.ndarray, chunks: torch.Tensor, imagined: Imagined) -> None:
        """Go on to the end of an imagined chunk; arguments as for `imagine`."""
        if imagined.states is None:
            states = chunks[:, [-1 - lag for lag in self.lags]]
        else:
            states = imagined.states[:, self.places]
        self._store(rows, imagined.session, imagined.frames(self.places), states)

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
