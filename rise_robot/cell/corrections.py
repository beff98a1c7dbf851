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

__all__ = ["SupervisedPolicy", "TakeoverGate"]

#: How far ahead both plans are compared, s.
_LOOKAHEAD = 0.5
#: Difference of the gripper openings above which the policy drifts, m.
_OPENING = 0.025
#: Time the policy may drift before the expert takes over, and least duration of an intervention, s.
_PATIENCE, _LEAST = 0.3, 1.2


class TakeoverGate:
    """Decides when an expert takes over from a student, whoever that is, and when it hands back.

    Args:
        cell: Where they act.

    Attributes:
        ahead: Control steps that plans must reach ahead.
        intervening: Whether the expert has control.
    """

    def __init__(self, cell: WorkCell) -> None:
        self._cell = cell
        self.ahead = round(_LOOKAHEAD * cell.spec.fps)
        whole = self.ahead / max(1.0, _LOOKAHEAD * cell.spec.fps)  # as far as whole steps look ahead
        self._tool = cell.task.drift * whole
        self.reset()

    def reset(self) -> None:
        """Start an episode; the student has control."""
        self.intervening = False
        self._drifting_since: float | None = None
        self._taken_at = 0.0

    def decide(self, student: np.ndarray, expert: np.ndarray, horizon: int) -> bool:
        """Whether the expert is to have control of the next `horizon` control steps.

        Args:
            student: Its plan, (at least `ahead`, D), rad and m.
            expert: The expert's, alike.
            horizon: Control steps until the next decision.
        """
        drifts, now = self._drifts(student, expert), self._cell.seconds
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
        return self.intervening

    def _drifts(self, plan: np.ndarray, expert: np.ndarray) -> bool:
        step = self.ahead - 1
        for side in SIDES:
            ours, theirs = (p[step][self._cell.side_slice(side)] for p in (plan, expert))
            apart = forward_grasp(ours[:ARM_JOINTS])[:3, 3] - forward_grasp(theirs[:ARM_JOINTS])[:3, 3]
            if np.linalg.norm(apart) > self._tool or abs(ours[ARM_JOINTS] - theirs[ARM_JOINTS]) > _OPENING:
                return True
        return False


class SupervisedPolicy(ScriptedPolicy):
    """A scripted policy, the student, under the supervision of an expert that takes over when it drifts."""

    def __init__(self, cell: WorkCell, student: ScriptedPolicy, expert: ScriptedPolicy) -> None:
        self.name = "corrected"
        self._gate, self._student, self._expert = TakeoverGate(cell), student, expert
        self.reset()

    def reset(self) -> None:
        """Start an episode; the student has control."""
        self._student.reset()
        self._gate.reset()
        self.kind, self.intervening = self._student.kind, False

    def plan(self, horizon: int) -> np.ndarray:
        """The student's plan, or the expert's where the student drifts."""
        length = max(horizon, self._gate.ahead)
        ours, theirs = self._student.plan(length), self._expert.plan(length)
        self.intervening = self._gate.decide(ours, theirs, horizon)
        return (theirs if self.intervening else ours)[:horizon]
