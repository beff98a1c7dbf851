"""Who moves the robot while an operator has taken over."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["ScriptedTeleoperator", "Teleoperator"]


class Teleoperator(Protocol):
    """A source of targets: a leader arm, a space mouse, a scripted expert.

    Its targets pass the safety guard like a policy's: where a leader arm is far from the robot at first, the robot goes
    there no faster than the speed limit.
    """

    def begin(self) -> None:
        """The operator takes over now."""

    def target(self) -> np.ndarray:
        """Joint targets (D,) for the control period that begins, rad and m; asked for once per period, never waits;
        RobotError if there are none; the robot holds then and the episode ends.
        """


class ScriptedTeleoperator:
    """A scripted policy of the work cell takes over, as if it were a person.

    Args:
        policy: For example `CellDriver.scripted("expert")`.
    """

    def __init__(self, policy: ScriptedPolicy) -> None:
        self._policy = policy

    def begin(self) -> None:
        """Plan anew."""
        self._policy.reset()

    def target(self) -> np.ndarray:
        """The first step of its plan from the present state."""
        return self._policy.plan(1)[0]
