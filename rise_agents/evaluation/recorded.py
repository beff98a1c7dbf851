"""How near the chunks that policies propose are to those that were recorded: a check that needs no robot.

A policy that improves may well do otherwise than the recordings. One that leaves them far behind in everything has
probably found what imagination gets wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rise_agents.policies.data import ChunkSource
from rise_env.acting import Actor
from rise_env.metrics.agreement import Mean, mean_over_groups
from rise_env.tasks import JointLayout

__all__ = ["ChunkErrors", "chunk_errors", "joint_groups"]

_TOGETHER = 32
_KINDS = {"rad": "angles", "deg": "angles", "m": "lengths", "none": "joints without unit"}
_SHOWN = {"rad": "rad", "deg": "deg", "m": "m", "none": ""}


@dataclass(frozen=True)
class ChunkErrors:
    """Mean distance of proposed from recorded chunks in one group of joints.

    Attributes:
        group: Which joints, in words.
        unit: Unit of the distances; empty for joints without one.
        before: Of the policy before.
        after: Of the policy after.
        hold: Of holding still, to compare with.
        change: After minus before, chunk by chunk, with an interval over episodes.
    """

    group: str
    unit: str
    before: float
    after: float
    hold: float
    change: Mean


def joint_groups(layout: JointLayout) -> dict[str, tuple[str, np.ndarray]]:
    """Unit and dimensions, int64 (n,), of joints of one side and kind, by a name in words.

    Example:
        >>> from rise_env.tasks import JointLayout
        >>> layout = JointLayout("two", ("left_joint1", "rightGripper"), ("rad", "m"), (-1.0, 0.0), (1.0, 0.1))
        >>> list(joint_groups(layout))
        ['left angles', 'right lengths']
    """
    found: dict[str, tuple[str, list[int]]] = {}
    for number, (name, unit) in enumerate(zip(layout.names, layout.units, strict=True)):
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
        side = next((word.lower() for word in words if word.lower() in ("left", "right")), "")
        found.setdefault(f"{side} {_KINDS[unit]}".strip(), (_SHOWN[unit], []))[1].append(number)
    return {name: (unit, np.array(joints)) for name, (unit, joints) in found.items()}


def chunk_errors(
    source: ChunkSource, rows: np.ndarray, episode: np.ndarray, layout: JointLayout, before: Actor, after: Actor
) -> list[ChunkErrors]:
    """Compare what two policies propose with what was recorded, at the same moments under the same noise.

    Args:
        source: Recorded chunks, with what was seen.
        rows: Which of them, int (n,).
        episode: Episode of each, int (n,).
        layout: Joints.
        before: Policy before.
        after: Policy after.
    """
    errors: dict[str, list[np.ndarray]] = {"before": [], "after": [], "hold": []}
    for start in range(0, len(rows), _TOGETHER):
        chosen = rows[start : start + _TOGETHER]
        batch = source.batch(chosen)
        seen: dict[str, Any] = {key: value.cpu().numpy() for key, value in batch.observations.items()}
        recorded = batch.chunks.cpu().numpy()
        proposals = {"hold": np.repeat(seen["state"][:, None], recorded.shape[1], axis=1)}
        for name, actor in (("before", before), ("after", after)):
            actor.reset(chosen.tolist(), np.ones(len(chosen), bool))
            proposals[name] = actor.act(seen)
        for name, chunks in proposals.items():
            errors[name].append(np.abs(chunks - recorded).mean(axis=1))
    return list(_grouped({name: np.concatenate(parts) for name, parts in errors.items()}, episode, layout))


def _grouped(errors: dict[str, np.ndarray], episode: np.ndarray, layout: JointLayout) -> Sequence[ChunkErrors]:
    found = []
    for group, (unit, joints) in joint_groups(layout).items():
        one = {name: distance[:, joints].mean(axis=1) for name, distance in errors.items()}
        change = mean_over_groups(one["after"] - one["before"], episode)
        means = {name: float(distance.mean()) for name, distance in one.items()}
        found.append(ChunkErrors(group, unit, means["before"], means["after"], means["hold"], change))
    return found
