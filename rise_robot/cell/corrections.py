"""Corrections: the expert watches another policy and takes over when it drifts (data for DAgger).

The gate looks ahead: where would the arms be, and would the grippers be open or closed, half a second from now under
the policy and under the expert? Too large a difference for too long is drift. The expert then keeps control for a while
and hands back once both agree again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rise_robot.cell.kinematics import forward_grasp
from rise_robot.cell.piper import ARM_JOINTS
from rise_robot.cell.scene import SIDES
from rise_robot.cell.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["SupervisedPolicy"]

#: How far ahead both plans are compared, s.
_LOOKAHEAD = 0.5
#: Distance of the grasp points, and difference of the gripper openings, above which the policy drifts, m.
_TOOL, _OPENING = 0.06, 0.025
#: Time the policy may drift before the expert takes over, and least duration of an intervention, s.
_PATIENCE, _LEAST = 0.3, 1.2


class SupervisedPolicy(ScriptedPolicy):
    """A scripted policy, the student, under the supervision of an expert that takes over when it drifts."""

    def __init__(self, cell: WorkCell, student: ScriptedPolicy, expert: ScriptedPolicy) -> None:
        self.name = "corrected"
        self._cell, self._student, self._expert = cell, student, expert
        self._ahead = round(_LOOKAHEAD * cell.spec.fps)
        self._tool = _TOOL * self._ahead / max(1.0, _LOOKAHEAD * cell.spec.fps)  # as far as whole steps look ahead
        self.reset()

    def reset(self) -> None:
        """Start an episode; the student has control."""
        self._student.reset()
        self.kind, self.intervening = self._student.kind, False
        self._drifting_since: float | None = None
        self._taken_at = 0.0

    def plan(self, horizon: int) -> np.ndarray:
        """The student's plan, or the expert's where the student drifts."""
        length = max(horizon, self._ahead)
        ours, theirs, now = self._student.plan(length), self._expert.plan(length), self._cell.seconds
        drifts = self._drifts(ours, theirs)
        if self.intervening:
            if now - self._taken_at >= _LEAST and not drifts:
                self.intervening, self._drifting_since = False, None
        elif not drifts:
            self._drifting_since = None
        else:
            self._drifting_since = now if self._drifting_since is None else self._drifting_since
            # A whole chunk is one decision: patience counts what the policy would go on to do.
            if now - self._drifting_since + (horizon - 1) / self._cell.spec.fps >= _PATIENCE:
                self.intervening, self._taken_at = True, now
        return (theirs if self.intervening else ours)[:horizon]

    def _drifts(self, plan: np.ndarray, expert: np.ndarray) -> bool:
        step = self._ahead - 1
        for side in SIDES:
            ours, theirs = (p[step][self._cell.side_slice(side)] for p in (plan, expert))
            apart = forward_grasp(ours[:ARM_JOINTS])[:3, 3] - forward_grasp(theirs[:ARM_JOINTS])[:3, 3]
            if np.linalg.norm(apart) > self._tool or abs(ours[ARM_JOINTS] - theirs[ARM_JOINTS]) > _OPENING:
                return True
        return False
