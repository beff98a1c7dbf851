"""What the cell asks of a task: one small interface, implemented by one module per task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from rise_env.errors import ConfigError
from rise_env.registry import TASKS, load_object

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell
    from rise_robot.cell.scripted import ScriptedPolicy

__all__ = ["CellTask", "TaskStatus", "make_cell_task"]


@dataclass(frozen=True)
class TaskStatus:
    """Ground truth after a control step.

    Attributes:
        progress: How far the task is now, in [0, 1]; 1 exactly at success. May fall.
        score: Sub-goal score reached so far, in [0, 10]; never falls.
        success: Whether the task is done.
        failure_mode: "none", or the name of what went wrong for good.
        finished: Whether nothing that follows can change the outcome.
    """

    progress: float
    score: float
    success: bool
    failure_mode: str
    finished: bool


class CellTask(ABC):
    """A task in the work cell: its objects, randomisation, ground truth and experts.

    The cell calls `add_to_scene` once, `bind` after compilation, `reset` at every episode and `advance` after every
    control step. Everything random comes from the generator passed to `reset`.
    """

    #: Ground truth after the last `advance`, `reset` or `set_state`.
    status: TaskStatus
    #: Names that `TaskStatus.failure_mode` may take besides "none".
    failure_modes: tuple[str, ...] = ()
    #: Names of the scripted policies that `scripted` can make.
    scripted_policies: tuple[str, ...] = ()

    @abstractmethod
    def add_to_scene(self, root: Element) -> None:
        """Add bodies, geoms and actuators to the MJCF tree `root`."""

    @abstractmethod
    def bind(self, cell: WorkCell) -> None:
        """Look up the compiled model's indices."""

    @abstractmethod
    def reset(self, rng: np.random.Generator) -> None:
        """Draw and place an episode's objects; the arms are at their start pose already."""

    @abstractmethod
    def advance(self) -> TaskStatus:
        """Update and return the ground truth after a control step (or a reset)."""

    @abstractmethod
    def get_state(self) -> dict[str, np.ndarray]:
        """Everything of the task that is not in the physics state, as arrays."""

    @abstractmethod
    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo everything since `get_state`."""

    @abstractmethod
    def scripted(self, name: str, seed: int) -> ScriptedPolicy:
        """Make a scripted policy that sees the ground truth.

        Raises:
            ConfigError: If `name` is not in `scripted_policies`.
        """


def make_cell_task(name: str, ranges: Mapping[str, Any]) -> CellTask:
    """Make the cell's side of a task.

    Args:
        name: Name of a task of `rise_env.registry.TASKS`.
        ranges: Randomisation of the difficulty, as plain values.

    Raises:
        ConfigError: If there is no such task, or it is not simulated.
    """
    simulated = [task.name for task in TASKS if task.target.cell is not None]
    cell = TASKS.load(name).cell if name in TASKS else None
    if cell is None:
        raise ConfigError(f"task {name!r} has no work cell. Tasks with a work cell: {', '.join(simulated)}.")
    made: CellTask = load_object(cell, f"task {name!r}")(ranges)
    return made
