"""RECAP: a policy conditioned on whether a chunk was better than expected (pi*0.6, arXiv 2511.14759).

One iteration of it: collect episodes, fit a value function to all outcomes so far, label every chunk by its advantage
over that value, and train the policy again *from the base policy* on the labelled chunks. Collecting happens where
outcomes are known, on the robot or in the cell (`rise record`, with corrections); a run does the rest, offline:

1. `recap_value.ReturnValue` is fitted to the recorded episodes and checked.
2. Every recorded frame gets an n-step advantage, and one threshold per task, over the whole dataset, divides chunks
   into positive and negative ones. Corrections are always positive.
3. The policy is trained on the recorded chunks, with the indicator left out of a part of the samples, so that it can
   act with classifier-free guidance.

With `offline_ratio` below 1 (ours; published is 1) the rest of every batch is imagined: the policy's chunks at recorded
states, labelled by the same value function where the imagined chunk begins and ends. An imagined chunk has no outcome
but an imagined success, so the value function is never fitted to imagination.

The indicator is said in the words that the policy knows: positive is the best of its advantage bins and negative the
worst, so that training starts from what the base policy does when it is asked for the best, whatever its codec, and no
weight has to be converted. For pi0.5 that is "Advantage: 10" and "Advantage: 1" with ten bins, 2 and 1 with two.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from rise_agents.algorithms.base import Phase
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig, OfflineBatches
from rise_agents.algorithms.recap_value import ReturnValue, ReturnValueConfig, check_problems
from rise_agents.policies.base import Policy, observation_tensors
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.data import RecordedChunks
from rise_env.data import interventions
from rise_env.errors import ConfigError, TrainingError, requirement
from rise_env.value.returns import n_step_advantages

__all__ = ["RECAP", "STAGES", "RECAPConfig", "positive_chunks"]

#: Stage to control steps of the advantage (0: Monte Carlo) and part of the frames that is positive, as published.
STAGES = {"pretraining": (0, 0.3), "finetuning": (50, 0.4)}
#: Part of a task's frames that is positive after pre-training where it succeeds, only slowly (published).
_POSITIVE_IF_SOLVED = 0.1
_FITTED = 25  # updates of the value function per round
_CORRECTIONS = ("is_intervention", "complementary_info.is_intervention")


@dataclass(frozen=True)
class RECAPConfig(FlowMatchingConfig):
    """Settings of RECAP.

    Attributes:
        stage: "pretraining" or "finetuning": decides `n_step` and `positive_fraction` unless they are given.
        n_step: Control steps over which an advantage is measured; 0 for all to the end of the episode (published: 0 in
            pre-training, 50 after).
        positive_fraction: Part of a task's frames that is positive (published: 0.3 in pre-training, 0.4 after, 0.1 for
            tasks that succeed but slowly).
        solved_rate: Part of a task's recorded episodes from which on it counts as solved but slow (ours).
        condition_dropout: Part of the samples without indicator (published: 0.3).
        strict: Whether a value function that fails its checks stops the run; else it is a warning.
        value: Settings of the value function.
        offline_ratio: Part of every batch that is recorded; 1 imagines nothing (published).
    """

    epochs: int = 12
    batch_size: int = 96
    lr_decay_fraction: float = 1.0
    ema_decay: float = 0.98
    trainable: str = "all"
    offline_ratio: float = 1.0
    stage: str = "finetuning"
    n_step: int | None = None
    positive_fraction: float | None = None
    solved_rate: float = 0.9
    condition_dropout: float = 0.3
    strict: bool = True
    value: ReturnValueConfig = field(default_factory=ReturnValueConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of recap")
        require(self.stage in STAGES, f"stage is {self.stage!r}, expected one of {tuple(STAGES)}")
        require(self.n_step is None or self.n_step >= 0, f"n_step is {self.n_step}, expected at least 0")
        part = self.positive_fraction
        require(part is None or 0 < part < 1, f"positive_fraction is {part}, expected between 0 and 1")
        require(self.solved_rate > 0, f"solved_rate is {self.solved_rate}, expected a positive number")
        require(0 <= self.condition_dropout < 1, f"condition_dropout is {self.condition_dropout}, expected in [0, 1)")

    @property
    def steps_ahead(self) -> int:
        """Control steps of the advantage, 0 for all."""
        return STAGES[self.stage][0] if self.n_step is None else self.n_step

    def positive_part(self, success_rate: float) -> float:
        """Part of a task's frames that is positive, by the success rate of its recorded episodes."""
        if self.positive_fraction is not None:
            return self.positive_fraction
        solved = self.stage != "pretraining" and success_rate >= self.solved_rate
        return _POSITIVE_IF_SOLVED if solved else STAGES[self.stage][1]


@dataclass(frozen=True)
class _Imagined:
    """Imagined chunks: what the policy saw, chunks float32 (n, chunk, D), and whether they are positive, bool (n,)."""

    observations: dict[str, torch.Tensor]
    chunks: torch.Tensor
    positive: torch.Tensor


class RECAP(FlowMatchingAlgorithm[RECAPConfig, _Imagined]):
    """One iteration of RECAP; arguments as of `FlowMatchingAlgorithm`, with recorded episodes as `offline`.

    Time steps are imagined chunks; where nothing is imagined, chunks that were trained on.

    Attributes:
        value: The value function.
        positive: Label of every recorded frame, bool (N,); None before they are labelled.
        thresholds: Advantage from which recorded chunks are positive, by task.
    """

    name: ClassVar[str] = "recap"
    Config = RECAPConfig
    labels_data: ClassVar[bool] = True

    def __init__(self, policy: Policy, env: Any, config: RECAPConfig | None = None, *, offline: Any = None) -> None:
        if not isinstance(offline, RecordedChunks):
            raise ConfigError("recap learns from the outcomes of whole recorded episodes: give recordings (--data)")
        super().__init__(policy, env, config, offline=offline)
        self._recorded = offline
        self.value = ReturnValue(offline.dataset, self.config.value, self.config.seed)
        self.positive: np.ndarray | None = None
        self.thresholds: dict[str, float] = {}
        self._imagined_threshold = 0.0
        self._mean_advantage = 0.0

    def step(self) -> None:
        """Fit the value function and label, until that is done; then train the policy."""
        if self.value.num_updates < self.config.value.updates:
            left = self.config.value.updates - self.value.num_updates
            self.metrics["value/loss"] = float(np.mean([self.value.update() for _ in range(min(left, _FITTED))]))
        elif self.positive is None:
            self._label()
        else:
            self._train()

    def phase(self) -> Phase:
        """Fitting of the value function, then training."""
        if self.positive is None:
            return Phase("fitting the value function", self.value.num_updates, self.config.value.updates)
        name = "improving in imagination" if self.imagines else "training on labelled chunks"
        return Phase(name, self.num_timesteps, self._total_timesteps)

    @property
    def imagines(self) -> bool:
        """Whether a part of every batch is imagined."""
        return self.config.offline_ratio < 1

    # ------------------------------------------------------------------ labels

    def _label(self) -> None:
        """Check the value function, and label all recorded frames with it."""
        value, config, dataset = self.value, self.config, self.value.dataset
        values = value.annotate()
        found = value.check(values)
        self.metrics |= {f"value/{name}": number for name, number in found.items() if np.isfinite(number)}
        wrong, unknown = check_problems(found)
        if unknown:
            warnings.warn(f"recap: could not be checked: {'; '.join(unknown)}", stacklevel=2)
        if wrong and config.strict:
            raise TrainingError(f"recap: the value function is not to be trusted: {'; '.join(wrong)}. Record more "
                                "episodes, raise value.updates, or set strict=false to go on.")  # fmt: skip
        if wrong:
            warnings.warn(f"recap: the value function is not to be trusted: {'; '.join(wrong)}", stacklevel=2)
        corrected = np.zeros(dataset.num_frames, bool)
        if any(name in dataset.columns for name in _CORRECTIONS):
            corrected = interventions(dataset)
        tasks, success = np.array(value.tasks), dataset.success
        parts = {task: config.positive_part(float(success[tasks == task].mean())) for task in value.scales}

        def advantages(steps: int) -> np.ndarray:
            return n_step_advantages(values, value.returns, dataset.lengths, value.ended, value.episode_scales, steps)

        measured = advantages(config.steps_ahead)
        self.positive, self.thresholds = positive_chunks(measured, corrected, tasks[value.owner], parts)
        # Imagined chunks end after a chunk: theirs is the threshold that recorded ones would have there.
        prompt = self.env.task.prompt
        ahead = positive_chunks(advantages(self.env.task.chunk), corrected, tasks[value.owner], parts)[1]
        self._imagined_threshold = ahead.get(prompt, max(ahead.values(), default=0.0))
        self._mean_advantage = float(measured.mean())
        self._use_labels()

    def _use_labels(self) -> None:
        assert self.positive is not None
        chunks = RecordedChunks(
            self._recorded.dataset, self._recorded.lags, self._bins(self.positive), self._recorded.windows.episodes
        )
        self._offline = OfflineBatches(self.learner, chunks, self.config.condition_dropout)

    def _bins(self, positive: np.ndarray) -> np.ndarray:
        """Advantage bins, int64 (n,): the best that the policy knows, or the worst."""
        return np.where(positive, self.policy.codec.best_bin, 0).astype(np.int64)

    # ------------------------------------------------------------------ training

    def _train(self) -> None:
        assert self.positive is not None
        used = self.progress
        if not self.imagines:
            self.train_on(np.zeros(0, np.int64), 0, self._loss, used)
            self.num_timesteps += self.config.batch_size
            share = float(self.positive[self._recorded.windows.index].mean())
            self.metrics |= {"rollout/advantage": self._mean_advantage, "rollout/positive_share": share}
            return
        found = self.imagine()
        self.keep(found)
        sizes = [len(part.chunks) for part in self._buffer]
        self.train_on(np.arange(sum(sizes)), len(found.chunks), self._loss, used)

    @torch.no_grad()
    def imagine(self) -> _Imagined:
        """Let the policy propose chunks at recorded states, imagine them, and label them by the value function."""
        config, env, policy = self.config, self.env, self.policy
        rng = np.random.default_rng([config.seed, self.rounds])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        observations, _ = env.reset(seed=[int(seed) for seed in rng.integers(2**31, size=env.num_envs)], options={})
        seen = observation_tensors(observations)
        noise = config.noise_scale * torch.randn((env.num_envs, *policy.noise_shape), generator=generator)
        chunks, _ = self.propose(policy, seen, noise, config.guidance)
        before = self.value.read(seen, env.task.prompt)
        after, _, terminated, _, _ = env.step(chunks.numpy())
        ahead = np.where(terminated, 0.0, self.value.read(after, env.task.prompt))
        advantages = ahead - env.task.chunk * self.value.step_cost(env.task.prompt) - before
        if not np.isfinite(advantages).all():
            raise TrainingError("the value function gave an advantage that is not finite; nothing was trained on it")
        if config.shuffle_advantages:
            advantages = np.random.default_rng([config.seed, self.rounds, 2]).permutation(advantages)
        positive = advantages >= self._imagined_threshold
        self.num_timesteps += len(chunks)
        self.metrics |= {
            "rollout/advantage": float(advantages.mean()),
            "rollout/positive_share": float(positive.mean()),
            "rollout/advantages": torch.from_numpy(advantages),
        }
        return _Imagined(seen, chunks, torch.from_numpy(positive))

    def _loss(self, rows: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """Loss of some imagined chunks of the buffer under their labels, (n,)."""
        actor, count = self.learner.actor, self.env.num_envs
        parts = [(self._buffer[row // count], row % count) for row in rows.tolist()]
        keys = self._buffer[0].observations
        seen = {key: torch.stack([part.observations[key][i] for part, i in parts]) for key in keys}
        chunks = torch.stack([part.chunks[i] for part, i in parts]).to(actor.device)
        bins = torch.from_numpy(self._bins(np.array([bool(part.positive[i]) for part, i in parts]))).to(actor.device)
        return actor.loss(
            actor.context_of(seen, generator), bins, chunks, generator, condition_dropout=self.config.condition_dropout
        )

    # ------------------------------------------------------------------ state

    def training_state(self) -> dict[str, Any]:
        """Learner, value function, labels and buffer."""
        return {
            "learner": self.learner.state_dict(),
            "value": self.value.state_dict(),
            "positive": self.positive,
            "thresholds": self.thresholds,
            "imagined_threshold": self._imagined_threshold,
            "mean_advantage": self._mean_advantage,
            "buffer": [vars(part) for part in self._buffer],
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.learner.load_state_dict(state["learner"])
        self.value.load_state_dict(state["value"])
        self.thresholds = dict(state["thresholds"])
        self._imagined_threshold = float(state["imagined_threshold"])
        self._mean_advantage = float(state["mean_advantage"])
        self._buffer = [_Imagined(**part) for part in state["buffer"]]
        self.positive = None
        if state["positive"] is not None:
            self.positive = state["positive"].numpy()
            if self.positive.shape != (self.value.dataset.num_frames,):
                raise ValueError("the recordings are others than those of the run")
            self._use_labels()


def positive_chunks(
    advantages: np.ndarray, corrected: np.ndarray, tasks: Sequence[str] | np.ndarray, parts: Mapping[str, float]
) -> tuple[np.ndarray, dict[str, float]]:
    """Divide recorded chunks into positive and negative ones by one threshold per task, over the whole dataset.

    Args:
        advantages: Advantage of every frame, (N,).
        corrected: Frames that a human or expert corrected, bool (N,): always positive, and not counted.
        tasks: Instruction of every frame, (N,).
        parts: Part of each task's frames that is to be positive.

    Returns:
        Labels, bool (N,), and the threshold of each task with frames to count.
    """
    positive, thresholds = corrected.copy(), {}
    for task, part in parts.items():
        scored = (np.asarray(tasks) == task) & ~corrected
        if scored.any():
            codec = AdvantageCodec(form="binary", num_bins=2, positive_fraction=part).fit(advantages[scored])
            positive[scored] = codec.encode(advantages[scored]) == codec.best_bin
            thresholds[task] = codec.edges[0]
    return positive, thresholds
