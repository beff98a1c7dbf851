"""What of a task decides the shapes of a dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rise_env.tasks import TaskSpec

__all__ = ["DynamicsShape"]


@dataclass(frozen=True)
class DynamicsShape:
    """What of a task decides the shapes of a dynamics model; see `TaskSpec`."""

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    joints: tuple[str, ...]
    chunk: int
    stride: int
    history: int

    @classmethod
    def of(cls, spec: TaskSpec) -> Self:
        """The shape of a task."""
        return cls(tuple(spec.cameras), spec.image_size, spec.layout.names, spec.chunk, spec.stride, spec.history)

    @property
    def frames(self) -> int:
        """Imagined frames K per chunk."""
        return self.chunk // self.stride
