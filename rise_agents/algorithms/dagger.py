"""DAgger and HG-DAgger: an expert shows what it would do where the policy gets to, in the work cell.

*DAgger* (arXiv 1011.0686): expert and policy act in turns, by a draw at every decision; the expert says at all states
what it would do, and the policy learns that. The expert's share falls from round to round.

*HG-DAgger* (arXiv 1810.02890): the policy acts until the operator's gate hands control to the expert, for a while. Only
what the expert did with control is learned, of episodes that succeeded.

Nothing is imagined: the budget is of control steps in the cell, whose expert sees the ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from rise_agents.algorithms.cell_algorithm import CellAlgorithm, CellConfig
from rise_agents.algorithms.cell_episodes import Decision, Decisions, RecordingActor
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.data import ChunkSource
from rise_env.errors import requirement

__all__ = ["DAgger", "DAggerConfig"]


@dataclass(frozen=True)
class DAggerConfig(CellConfig):
    """Settings of DAgger; "RLinf" are the values of its embodied DAgger, for pi0.

    Attributes:
        form: "dagger" or "hg", HG-DAgger.
        episodes: Episodes of a round (ours).
        beta_decay: Factor of the expert's share from round to round in the form "dagger", 1 in the first (RLinf: 0.99).
        beta_min: Least share of the expert (RLinf: 0.05).
        window: Control steps that are kept, the newest ones (RLinf: 50,000 in HG-DAgger; DAgger keeps all: give more
            than the budget).
        epochs: Passes over as many decisions as a round brought, drawn from all that are kept (ours).
        batch_size: Decisions per update (RLinf: 256).
        learning_rate: Peak learning rate (RLinf: 1e-5; ours is for the small policy).
    """

    form: str = "dagger"
    episodes: int = 32
    beta_decay: float = 0.99
    beta_min: float = 0.05
    window: int = 50_000
    epochs: int = 16
    batch_size: int = 256
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of dagger")
        require.one_of(("dagger", "hg"), self, "form")
        require.within("(0, 1]", self, "beta_decay")
        require.within("[0, 1]", self, "beta_min")

    def beta(self, rounds: int) -> float:
        """The expert's share in a round: beta_decay^k, at least beta_min."""
        return max(self.beta_decay**rounds, self.beta_min)


class DAgger(CellAlgorithm[DAggerConfig, Decisions]):
    """Learns from an expert in the work cell; arguments as of `CellAlgorithm`."""

    name: ClassVar[str] = "dagger"
    Config = DAggerConfig
    imagines: ClassVar[bool] = False

    def __init__(
        self, policy: Policy, env: Any, config: DAggerConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        self._kept: Decisions | None = None

    @property
    def expert(self) -> str:
        """See `CellAlgorithm`."""
        return "supervised_chunks" if self.config.form == "hg" else "scripted_chunks"

    def step(self) -> None:
        """Run episodes in the cell, and train the actor on what the expert did, or would have done, in them."""
        config, used = self.config, self.progress
        beta = config.beta(self.rounds)
        student = PolicyActor(self.policy)
        actor = _Gated(student, self.env) if config.form == "hg" else _Mixed(student, self.env, beta)
        found = self.run(actor, self.rounds * config.episodes, config.episodes)
        learned = [one for episode, decisions in found for one in decisions
                   if config.form == "dagger" or (episode.success and one.mark)]  # fmt: skip
        self._keep(learned)
        if self._kept is not None:
            self.train_on(np.arange(len(self._kept)), len(learned), self._loss, used)
        marks = [one.mark for _, decisions in found for one in decisions]
        self.metrics |= {
            "rollout/expert_share": float(np.mean(marks)),
            "rollout/learned": float(len(learned)),
            "rollout/kept": float(0 if self._kept is None else len(self._kept)),
        }
        if config.form == "dagger":
            self.metrics["rollout/beta"] = beta

    def _keep(self, decisions: Sequence[Decision]) -> None:
        if decisions:
            before = [] if self._kept is None else [self._kept]
            most = max(1, self.config.window // self.env.task.execute)
            self._kept = Decisions.joined([*before, Decisions.of(decisions)], most)

    def _loss(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """Flow-matching loss of the expert's chunks under the best advantage, (n,)."""
        actor, kept = self.learner.actor, self._kept
        assert kept is not None
        context = actor.context_of({key: value[rows] for key, value in kept.observations.items()}, generator)
        best = torch.full((len(rows),), actor.codec.best_bin, device=actor.device)
        return actor.loss(context, best, kept.chunks[rows].to(actor.device), generator)

    def training_state(self) -> dict[str, Any]:
        """Learner and what is kept."""
        kept = {} if self._kept is None else vars(self._kept)
        return {"learner": self.learner.state_dict(), "kept": kept}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.learner.load_state_dict(state["learner"])
        self._kept = Decisions(**state["kept"]) if state["kept"] else None


class _Mixed(RecordingActor):
    """Expert and policy in turns, by a draw of the episode's own at every decision; the expert's chunks are noted."""

    def __init__(self, student: PolicyActor, envs: Any, beta: float) -> None:
        super().__init__(student.lags)
        self._student, self._envs, self._beta = student, envs, beta
        self._draws: dict[int, np.random.Generator] = {}

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        super().reset(seeds, mask)
        self._student.reset(seeds, mask)
        for index in np.flatnonzero(mask):
            self._draws[int(seeds[index])] = np.random.default_rng([int(seeds[index]), 1])

    def decide(self, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        expert = self._envs.scripted_chunks("expert", self._seeds)
        turn = np.array([self._draws[seed].random() < self._beta for seed in self._seeds])
        ours = self._student.act(observations)
        return np.where(turn[:, None, None], expert, ours), expert, turn


class _Gated(RecordingActor):
    """The policy, until the operator's gate hands control to the expert; what was run is noted."""

    def __init__(self, student: PolicyActor, envs: Any) -> None:
        super().__init__(student.lags)
        self._student, self._envs = student, envs

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        super().reset(seeds, mask)
        self._student.reset(seeds, mask)

    def decide(self, observations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        run, taken = self._envs.supervised_chunks(self._student.act(observations))
        return run, run, taken
