"""A work cell that keeps real time: commands come in whenever they come, physics follows the clock."""

from __future__ import annotations

import numpy as np
from gymnasium.utils import seeding

from rise_env.errors import ActionError
from rise_robot.cell.cell import CellState, WorkCell

__all__ = ["RealTimeCell"]


class RealTimeCell:
    """Physics of a work cell in single steps, with servos that take targets at any time.

    From the moment a target comes, set-points move in a straight line to it within one control period, no faster than
    the arm can. Targets that come exactly once per control period make the cell move as `WorkCell.step` does, bit for
    bit.

    Attributes:
        timestep: Length of a physics step, s.
        episode: Number of resets so far.
        seed: Seed of the present episode.
    """

    def __init__(self, cell: WorkCell) -> None:
        self.cell = cell
        self.timestep = 1.0 / (cell.spec.fps * cell.substeps)
        self.episode, self.seed = 0, 0
        self._start = self._goal = np.zeros(cell.spec.layout.dim)
        self._elapsed = np.zeros(cell.spec.layout.dim, int)

    def reset(self, seed: int) -> CellState:
        """Start the episode that `CellEnv.reset(seed=seed)` starts.

        Returns:
            Everything that decides what comes, for a second cell that draws.
        """
        self.cell.reset(seeding.np_random(seed)[0])
        self.episode, self.seed = self.episode + 1, seed
        self._start, self._goal = self.cell.command.copy(), self.cell.command.copy()
        self._elapsed[:] = self.cell.substeps
        return self.cell.save()

    def set_target(self, indices: np.ndarray, target: np.ndarray) -> None:
        """New targets for some joints; ActionError if a target is not finite.

        Args:
            indices: (n,) which joints of the layout.
            target: (n,) absolute targets, rad and m; limited as on the arm.
        """
        if not np.isfinite(target).all():
            raise ActionError(f"joint targets {target} are not finite")
        wanted = self.cell.command.copy()
        wanted[indices] = target
        reached = self.cell.reachable(self.cell.command, wanted)
        self._start[indices], self._goal[indices] = self.cell.command[indices], reached[indices]
        self._elapsed[indices] = 0

    def advance(self, steps: int) -> bool:
        """Run physics steps.

        Returns:
            Whether a control step ended, so that the ground truth is news.
        """
        news = False
        for _ in range(steps):
            news |= self.cell.substep(self._start, self._goal, self._elapsed)
            self._elapsed += 1
        return news
