"""What algorithms that act in the work cell and learn by flow matching have in common: settings, checks, episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rise_agents.algorithms.cell_episodes import Decision, RecordingActor, run_and_record, training_seed
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig
from rise_agents.evaluation.results import Episode
from rise_env.errors import requirement

__all__ = ["CellAlgorithm", "CellConfig"]


@dataclass(frozen=True)
class CellConfig(FlowMatchingConfig):
    """Settings of a `CellAlgorithm`.

    Attributes:
        episodes: Episodes of a round.
        window: What is kept to learn from, the newest; a subclass says in which unit.
        offline_ratio: Part of every batch that is recorded. 0: recordings here are of operators who are no experts.
        trainable: As in `FlowMatchingConfig`; who never saw a colour matter must train the encoders.
    """

    episodes: int = 16
    window: int = 4000
    batch_size: int = 96
    ema_decay: float = 0.98
    offline_ratio: float = 0.0
    trainable: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        requirement("settings of algorithms in the cell").at_least(1, self, "episodes", "window")


class CellAlgorithm[C: CellConfig, R](FlowMatchingAlgorithm[C, R]):
    """Arguments as of `FlowMatchingAlgorithm`, but for the environment: the work cell, with an expert."""

    needs_cell: ClassVar[bool] = True

    @property
    def expert(self) -> str:
        """The method of the environment that asks its expert."""
        return "scripted_chunks"

    def check_fit(self) -> None:
        """Compare policy and environment, and look for the expert."""
        super().check_fit()
        requirement(self.name)(
            hasattr(self.env, self.expert),
            f"the environment has no {self.expert}: it needs an expert, as the work cell RISE-<Title>-Cell-v0 has",
        )

    def run(self, actor: RecordingActor, first: int, count: int) -> list[tuple[Episode, list[Decision]]]:
        """Run training episodes `first ... first + count - 1` of the run, and count their control steps."""
        found = run_and_record(self.env, actor, count, training_seed(self.config.seed, first))
        self.num_real_steps += sum(round(episode.seconds * self.env.task.fps) for episode, _ in found)
        self.metrics |= {
            "rollout/success": float(np.mean([episode.success for episode, _ in found])),
            "rollout/score": float(np.mean([episode.score for episode, _ in found])),
        }
        return found
