"""Corrections: the expert watches another policy and takes over when it drifts (data for DAgger).

The gate looks ahead: where would the arms be, and would the grippers be open or closed, half a second from now under
the policy and under the expert? Too large a difference for too long is drift. The expert then keeps control for a while
and hands back once both agree again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.kinematics import forward_grasp
from rise_robot.cell.piper import ARM_JOINTS
from rise_robot.cell.scene import SIDES
from rise_robot.cell.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["GateConfig", "SupervisedPolicy", "Supervisor"]


@dataclass(frozen=True)
class GateConfig:
    """When the expert takes over and hands back.

    Attributes:
        lookahead: How far ahead both plans are compared, s.
        tool: Distance of the grasp points above which the policy drifts, m.
        opening: Difference of the gripper openings above which it drifts, m.
        patience: Time the policy may drift before the expert takes over, s.
        hold: Least duration of an intervention, s.
    """

    lookahead: float = 0.5
    tool: float = 0.06
    opening: float = 0.025
    patience: float = 0.3
    hold: float = 1.2


class Supervisor:
    """Decides who is in control.

    Args:
        cell: The cell.
        expert: Policy that takes over.
        config: Thresholds.

    Attributes:
        intervening: Whether the expert has control.
    """

    def __init__(self, cell: WorkCell, expert: ScriptedPolicy, config: GateConfig | None = None) -> None:
        self._cell, self._expert = cell, expert
        self._config = config or GateConfig()
        self.reset()

    def reset(self) -> None:
        """Hand control to the policy."""
        self.intervening = False
        self._drifting_since: float | None = None
        self._taken_at = 0.0

    def supervise(self, plan: np.ndarray, execute: int) -> tuple[np.ndarray, bool]:
        """Pass the policy's plan, or the expert's where it drifts.

        Args:
            plan: (horizon, D) joint targets the policy wants to execute from the present state.
            execute: How many of them are run before the next call.

        Returns:
            The plan to execute, (horizon, D), and whether it is the expert's.
        """
        config, now = self._config, self._cell.seconds
        expert = self._expert.plan(max(len(plan), round(config.lookahead * self._cell.spec.fps)))
        drifts = self._drifts(plan, expert)
        if self.intervening:
            if now - self._taken_at >= config.hold and not drifts:
                self.reset()
        elif not drifts:
            self._drifting_since = None
        else:
            self._drifting_since = now if self._drifting_since is None else self._drifting_since
            # A whole chunk is one decision: patience counts what the policy would go on to do.
            if now - self._drifting_since + (execute - 1) / self._cell.spec.fps >= config.patience:
                self.intervening, self._taken_at = True, now
        return (expert[: len(plan)] if self.intervening else plan), self.intervening

    def _drifts(self, plan: np.ndarray, expert: np.ndarray) -> bool:
        step = min(len(plan), len(expert), round(self._config.lookahead * self._cell.spec.fps)) - 1
        for side in SIDES:
            ours, theirs = (p[step][self._cell.side_slice(side)] for p in (plan, expert))
            apart = forward_grasp(ours[:ARM_JOINTS])[:3, 3] - forward_grasp(theirs[:ARM_JOINTS])[:3, 3]
            # With a short plan there is little to compare: scale the tolerance with the horizon.
            share = (step + 1) / max(1.0, self._config.lookahead * self._cell.spec.fps)
            if np.linalg.norm(apart) > self._config.tool * max(share, 0.35):
                return True
            if abs(ours[ARM_JOINTS] - theirs[ARM_JOINTS]) > self._config.opening:
                return True
        return False


class SupervisedPolicy(ScriptedPolicy):
    """A scripted policy under an expert's supervision.

    Args:
        cell: The cell.
        student: Policy in control by default.
        expert: Policy that takes over.

    Attributes:
        intervening: Whether the last plan was the expert's.
    """

    def __init__(self, cell: WorkCell, student: ScriptedPolicy, expert: ScriptedPolicy) -> None:
        self.name = "corrected"
        self._student = student
        self._lookahead = round(GateConfig.lookahead * cell.spec.fps)
        self._supervisor = Supervisor(cell, expert)

    def reset(self) -> None:
        """Start an episode."""
        self._student.reset()
        self._supervisor.reset()
        self.kind, self.intervening = self._student.kind, False

    def plan(self, horizon: int) -> np.ndarray:
        """The student's plan, or the expert's where the student drifts."""
        plan, self.intervening = self._supervisor.supervise(self._student.plan(max(horizon, self._lookahead)), horizon)
        return plan[:horizon]
