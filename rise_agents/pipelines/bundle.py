"""A bundle from recordings alone: world model, then a base policy under the advantages that its value model labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rise_agents.pipelines.policy import train_policy_on
from rise_agents.pipelines.recording import label
from rise_agents.progress import Bars, say
from rise_env.bundle import Bundle
from rise_env.training.bundle import train_bundle
from rise_env.training.setup import TrainingSetup

__all__ = ["train_bundle_with_policy"]

_LABELS = "bundle"


def train_bundle_with_policy(task: str, preset: str, data: Sequence[Path], out: Path, runs: Path) -> Bundle:
    """Train world model and base policy for the preset's numbers of updates, and put them into a bundle at `out`.

    Labels are written beside the recorded datasets `data`. An interrupted run goes on where it stood in `runs`.
    """
    with Bars() as bars:
        setup = TrainingSetup(data, task, preset, report=bars.training, log=say)
        world = train_bundle(setup, runs / "world", runs=runs)
        bars.close()
        label(data, _LABELS, world.world_model().value, setup.spec)
        model = world.path / "world_model"
        train_policy_on(setup, runs / "policy", _LABELS)
        return train_bundle(
            setup, out, runs=runs, dynamics=model / "dynamics", value=model / "value", policy=runs / "policy" / "model"
        )
