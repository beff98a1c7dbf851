"""An actor in one cell, asked control step by control step: how episodes are recorded and start states reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rise_env.acting import Actor, ObservationHistory
from rise_env.spaces import image_key
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["ActorInCell", "ScriptedActor", "cell_observation"]


def cell_observation(cell: WorkCell, renderer: CellRenderer) -> dict[str, np.ndarray]:
    """What cameras and joints show now: `image_<camera>` uint8 (H, W, 3) and `state` float32 (D,)."""
    cameras = list(cell.spec.cameras)
    images = renderer.render(cameras, cell.spec.image_size)
    return {**{image_key(c): image for c, image in zip(cameras, images, strict=True)}, "state": cell.state()}


class ScriptedActor:
    """A scripted policy as an actor: it sees the ground truth, not the observations, and plans anew at every step."""

    lags: tuple[int, ...] = ()

    def __init__(self, policy: ScriptedPolicy) -> None:
        self.policy = policy

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Forget the episode before; its seed it has, together with that of the episode."""
        del seeds, mask
        self.policy.reset()

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """A chunk of one control step, (1, 1, D) float64."""
        del observations
        return self.policy.plan(1)[None]


class ActorInCell:
    """Asks an actor for a chunk whenever the first `execute` steps of the last one are used up.

    Args:
        cell: The cell.
        actor: Who acts in it.
        seed: Seed of the actor's randomness, together with the episode.
    """

    def __init__(self, cell: WorkCell, actor: Actor, seed: int = 0) -> None:
        self._cell, self._actor, self._seed = cell, actor, seed
        self._history = ObservationHistory(actor.lags)
        self._queue: list[np.ndarray] = []

    def reset(self) -> None:
        """Start the episode that the cell is at the beginning of."""
        self._queue = []
        self._history.reset()
        self._actor.reset([(self._seed * 1_000_003 + self._cell.episode_key) % 2**62], np.ones(1, bool))

    def target(self, look: Callable[[], Mapping[str, np.ndarray]]) -> np.ndarray:
        """Joint targets of the next control step, (D,) float64 in rad and m.

        Args:
            look: Gives the present observation (`cell_observation`); called where it is needed.
        """
        if (seen := self.asks(look)) is not None:
            self.take(self._actor.act(seen)[0])
        return self.next()

    def asks(self, look: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
        """What the actor is to choose a chunk from, arrays (1, ...); None while the last one goes on.

        With `take` and `next`, `target` in three parts: whoever has several cells can ask for their chunks together.
        """
        if isinstance(self._actor, ScriptedActor):
            return None
        if self._history.lags or not self._queue:
            self._history.push({key: value[None] for key, value in look().items()})
        return None if self._queue else self._history.observe()

    def take(self, chunk: np.ndarray) -> None:
        """Take the chunk (chunk, D) that the actor has chosen."""
        self._queue = list(chunk[: self._cell.spec.execute].astype(float))

    def next(self) -> np.ndarray:
        """Joint targets of the next control step, (D,) float64 in rad and m; once per call of `asks`."""
        if isinstance(self._actor, ScriptedActor):
            return self._actor.act({})[0, 0]
        return self._queue.pop(0)

    @property
    def intervening(self) -> bool:
        """Whether the last target corrected another policy."""
        return isinstance(self._actor, ScriptedActor) and self._actor.policy.intervening

    @property
    def kind(self) -> str | None:
        """Kind of the operator in this episode, where it draws one."""
        return self._actor.policy.kind if isinstance(self._actor, ScriptedActor) else None
