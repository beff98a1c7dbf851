"""What happened between policy and robot: latency, dropped steps and overlap of every chunk."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.files import write_text
from rise_robot.execution.base import Merge

__all__ = ["ExecutionLog", "MergeRecord"]


@dataclass(frozen=True)
class MergeRecord(Merge):
    """A merge, and when it happened.

    Attributes:
        latency_steps: Control steps from the observation to the arrival of the chunk.
        inference_ms: Time that the inference took, ms.
        episode: Number of the episode, from 0.
    """

    latency_steps: int
    inference_ms: float
    episode: int


class ExecutionLog:
    """Collects merges and the control steps at which the arm held for want of a target."""

    def __init__(self) -> None:
        self.merges: list[MergeRecord] = []
        self.held_steps = 0
        self._episode = -1

    def begin(self) -> None:
        """Another episode."""
        self._episode += 1

    def merged(self, merge: Merge, seconds: float) -> None:
        """Note a chunk and the time that its inference took, s."""
        late, took, episode = merge.merged_at - merge.computed_at, seconds * 1e3, max(0, self._episode)
        self.merges.append(MergeRecord(**asdict(merge), latency_steps=late, inference_ms=took, episode=episode))

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON; percentiles are null where no chunk arrived."""

        def percentiles(name: str) -> dict[str, float | None]:
            values = [getattr(merge, name) for merge in self.merges]
            found = np.percentile(values, [50, 99]).tolist() if values else [None, None]
            return dict(zip(("p50", "p99"), found, strict=True))

        count = len(self.merges)
        return {
            "chunks": count,
            "inference_ms": percentiles("inference_ms"),
            "latency_steps": percentiles("latency_steps"),
            "dropped_steps": sum(merge.dropped for merge in self.merges),
            "overlap_steps_mean": sum(merge.overlap for merge in self.merges) / count if count else None,
            "held_steps": self.held_steps,
        }

    def write_csv(self, path: str | Path) -> None:
        """One line per chunk, in one step."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(MergeRecord)])
        writer.writeheader()
        writer.writerows(asdict(merge) for merge in self.merges)
        write_text(path, text.getvalue())
