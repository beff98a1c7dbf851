"""What the cell asks of a task: one small interface, implemented by one folder per task, and found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from rise_env.errors import ConfigError
from rise_env.registry import TASKS, load_object
from rise_robot.cell.corrections import SupervisedPolicy
from rise_robot.cell.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from rise_robot.cell.cell import WorkCell

__all__ = ["CellTask", "TaskStatus", "failure_meanings", "make_cell_task"]


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

    def outcome(self) -> dict[str, Any]:
        """The same as plain values under the keys of `SceneDriver.outcome`."""
        values = {"progress": float(self.progress), "score": float(self.score), "is_success": bool(self.success)}
        return {**values, "failure_mode": self.failure_mode, "finished": bool(self.finished)}


class CellTask(ABC):
    """A task in the work cell: its objects, randomisation, ground truth, expert and imperfect operators.

    The cell calls `add_to_scene` once, `bind` after compilation, `reset` at every episode and `advance` after every
    control step. Everything random comes from the generator passed to `reset`. Made with one argument: the
    randomisation of the difficulty, the plain values below `cell.difficulties.<difficulty>` of the preset.
    """

    #: Ground truth after the last `advance`, `reset` or `set_state`.
    status: TaskStatus
    #: Names that `TaskStatus.failure_mode` may take besides "none".
    failure_modes: tuple[str, ...] = ()
    #: What they mean, in a sentence for somebody who reads a report; "timeout" as well.
    failure_meanings: Mapping[str, str] = {}
    #: Kinds of imperfect operators that `operator` can make; none where it is not implemented.
    operator_kinds: tuple[str, ...] = ()
    #: Distance of the grasp points, half a second ahead, above which a policy drifts away from its expert, m.
    drift: float = 0.06

    @abstractmethod
    def add_to_scene(self, root: Element) -> None:
        """Add bodies, geoms and actuators to the MJCF tree `root`."""

    #: The cell that this is the task of, from `bind` on.
    cell: WorkCell

    def bind(self, cell: WorkCell) -> None:
        """Keep the cell; a task looks up the indices of its objects in `cell.model` here as well."""
        self.cell = cell

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
    def expert(self) -> ScriptedPolicy:
        """Make the expert; it sees the ground truth."""

    def operator(self, kind: str | None, seed: int) -> ScriptedPolicy:
        """Make an imperfect operator: one of `operator_kinds`, or a mixture of them where `kind` is None."""
        raise NotImplementedError(f"{type(self).__name__} names operators {self.operator_kinds} and makes none")

    @property
    def scripted_policies(self) -> tuple[str, ...]:
        """Names of the scripted policies that `scripted` can make."""
        if not self.operator_kinds:
            return ("expert",)
        return ("expert", "operator", *(f"operator-{kind}" for kind in self.operator_kinds), "corrected")

    def scripted(self, name: str, seed: int) -> ScriptedPolicy:
        """Make one of `scripted_policies`; `seed` is that of its own randomness, together with the episode.

        ConfigError if there is no such policy.
        """
        if name not in self.scripted_policies:
            known = ", ".join(self.scripted_policies)
            raise ConfigError(f"{type(self).__name__} has no scripted policy {name!r}. Known: {known}.")
        if name == "expert":
            return self.expert()
        if name == "corrected":
            return SupervisedPolicy(self.cell, self.operator(None, seed), self.expert())
        return self.operator(name.removeprefix("operator").removeprefix("-") or None, seed)


def make_cell_task(name: str, ranges: Mapping[str, Any]) -> CellTask:
    """The cell's side of a task of `rise_env.registry.TASKS`, with the plain values of a difficulty as `ranges`.

    ConfigError if there is no such task, or it is not simulated.
    """
    made: CellTask = _class_of(name)(ranges)
    return made


def failure_meanings(name: str) -> Mapping[str, str]:
    """`CellTask.failure_meanings` of a task; errors as of `make_cell_task`."""
    found: Mapping[str, str] = _class_of(name).failure_meanings
    return found


def _class_of(name: str) -> Any:
    simulated = [task.name for task in TASKS if task.target.cell is not None]
    cell = TASKS.load(name).cell if name in TASKS else None
    if cell is None:
        raise ConfigError(f"task {name!r} has no work cell. Tasks with a work cell: {', '.join(simulated)}.")
    return load_object(cell, f"task {name!r}")
