"""In which joints, and when, is a policy wrong? Its chunks against recorded demonstrations that it was not trained on.

  rise record --policy expert --episodes 30 --seed 655000 --out data/held-out
  rise bench errors --policy runs/base --data data/held-out

A joint whose relative error is near 1 at the first decision is one that the policy does not read off its pictures:
proposals have to vary it (`rise_agents.algorithms.proposals`), and a judge has to see it. On the training data the same
numbers are small, whatever was learned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.data import RecordedChunks
from rise_agents.policies.resolve import resolve_policy
from rise_env.data import open_dataset
from rise_env.errors import ConfigError
from rise_env.tasks import load_task

__all__ = ["add_arguments", "joint_errors", "run"]

_TOGETHER = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", required=True, help="policy that is compared")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="recorded demonstrations")
    parser.add_argument("--frames", type=int, nargs="+", default=[0, 1, 8, 16], metavar="FRAME",
                        help="where parts of an episode begin, in frames (default: %(default)s)")  # fmt: skip


def joint_errors(policy: Policy, chunks: RecordedChunks, frames: list[int]) -> list[dict[str, Any]]:
    """Errors of a policy's chunks, without noise, joint by joint, for parts of the episodes.

    Args:
        policy: Asked for the best advantage.
        chunks: Recorded chunks.
        frames: First frames of the parts, rising; the last one goes on to the episodes' ends.

    Returns:
        For every part with a chunk in it its first frame, the number of chunks, and by the joints' names the root mean
        square error (`rms`, rad or m, over the whole chunk), and the same divided by that of a policy that knows the
        mean recorded motion of this part and nothing else (`relative`).

    Raises:
        ConfigError: If the frames do not rise from 0 or more, or no chunk is in any part.
    """
    if frames != sorted(set(frames)) or not frames or frames[0] < 0:
        raise ConfigError(f"frames {frames}: expected rising numbers from 0 or more")
    actor, errors, motions, found = PolicyActor(policy, noise_scale=0.0), [], [], []
    angles = policy.spec.layout.angles
    for first in range(0, len(chunks), _TOGETHER):
        which = np.arange(first, min(first + _TOGETHER, len(chunks)))
        batch = chunks.batch(which)
        actor.reset([0] * len(which), np.ones(len(which), bool))
        recorded = batch.chunks.numpy()
        errors.append(actor.act(batch.observations) - recorded)
        motions.append(recorded - np.where(angles, batch.observations["state"].numpy(), 0.0)[:, None])
        found.append(chunks.windows.batch(which).frame)
    error, motion, frame = (np.concatenate(parts) for parts in (errors, motions, found))
    rows = []
    for begin, end in zip(frames, [*frames[1:], np.inf], strict=True):
        inside = (frame >= begin) & (frame < end)
        if not inside.any():
            continue
        rms = np.sqrt(np.square(error[inside]).mean((0, 1)))
        known = np.sqrt(np.square(motion[inside] - motion[inside].mean(0)).mean((0, 1)))
        relative = np.where(known > 1e-3, rms / np.maximum(known, 1e-3), 0.0)
        names = policy.spec.layout.names
        rows.append({
            "from_frame": begin,
            "chunks": int(inside.sum()),
            "rms": dict(zip(names, rms.astype(float).round(4).tolist(), strict=True)),
            "relative": dict(zip(names, relative.astype(float).round(3).tolist(), strict=True)),
        })  # fmt: skip
    if not rows:
        raise ConfigError(f"no recorded chunk begins at frame {frames[0]} or later")
    return rows


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure."""
    spec = load_task(args.task, args.preset or "small")
    policy = resolve_policy(args.policy, task=args.task, spec=spec)
    dataset = open_dataset(list(args.data), policy.spec)
    best = np.full(dataset.num_frames, policy.codec.best_bin)
    return {"parts": joint_errors(policy, RecordedChunks(dataset, policy.lags, best), args.frames)}
