"""Selective RISE: change the policy only where it does badly, and only towards candidates that are clearly better.

Additions to RISE (`rise_agents.algorithms.rise`), measured in docs/results.md:

* *Start-state selection.* The base policy's own chunk is imagined at all recorded states once. Rounds start from those
  where its advantage is below a threshold, the more often the more is still to be gained there.
* *Candidate selection.* Several candidates per state are imagined, the base policy's own chunk among them; up to
  `top_k` of those that are clearly ahead of it are learned, under the best advantage.
* *A critic of outcomes* (optional). What recorded episodes say comes of a chunk after it has ended, which imagination
  does not see: `rise_agents.algorithms.outcomes`.
* *Regularisation.* At all other states the actor is distilled towards the base policy, the reference (a function-space
  anchor: what is learned at some states moves a network at all others as well).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch

from rise_agents.algorithms.base import Phase
from rise_agents.algorithms.features import FeatureCache, Seen
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig, OfflineBatches, Term
from rise_agents.algorithms.outcomes import OutcomeConfig, OutcomeCritic, OutcomeLearner
from rise_agents.algorithms.proposals import ProposalConfig, check_kinds, mixed_proposals
from rise_agents.policies.base import Policy
from rise_agents.policies.data import ChunkSource, RecordedChunks
from rise_env.errors import ConfigError, TrainingError, requirement

__all__ = ["SelectiveRISE", "SelectiveRISEConfig"]

#: Start priorities: in proportion to the advantage that candidates still miss on average, plus this part of what has
#: been found to be gained there; and this much where no candidate was ahead of the base policy's chunk.
_GAIN_WEIGHT, _LEAST_PRIORITY = 0.2, 0.01
#: Part of the learned candidates that is learned without an advantage, where the policy acts with guidance: with a
#: tenth, as in warm-up, random candidates took a policy from 48 to 25 % success; with half, to 37 % (lab notebook).
_DROPOUT_WITH_GUIDANCE = 0.5
_UPDATED = 10  # updates of the critic, and batches of recorded states that it looks at, in a round


@dataclass(frozen=True)
class SelectiveRISEConfig(FlowMatchingConfig):
    """Settings of selective RISE; the defaults are those of `rise demo`.

    Attributes:
        num_candidates: Candidates per state, the base policy's own chunk included.
        top_k: Most candidates of a state that are learned, drawn from those that are ahead.
        learn_best: Learn the best ones of these instead. Where imagination judges, they are the hastiest; where a
            critic of outcomes does, the surest.
        min_advantage_gap: Advantage over the base policy's chunk from which a candidate is ahead.
        advantage_threshold: Raw advantage of the base policy's chunk below which a state is started from. Where it is
            high, mistakes are seen early, and precision is lost: what is ahead of a good chunk is mostly faster, and a
            policy that learns to be fast lifts before it has a grip (lab notebook).
        distillation_weight: Samples of the distillation loss per update, relative to `batch_size`; 0 for none.
        distil_settled: Distil also where the policy gains less than the threshold, but no candidate was imagined to
            be ahead of it.
        learn_frames: Improve the policy within so many first frames of an episode only, where it decides what it copies
            ever after, and distil it at all other states, which are not even scored; 0 for no difference.
        scored_starts: Most recorded states that are scored at first, or distilled at.
        keep_base: Learn the base policy's chunk where no candidate is ahead of it. Where most states are started from,
            little else holds the policy there.
        proposals: Where candidates come from, in equal parts (`rise_agents.algorithms.proposals.PROPOSALS`): a policy
            that fails the same way whatever the noise has to be shown others.
        proposal: How far they lie from the policy's chunk.
        around_base: Move the base policy's chunk, not what the policy has made of it. Otherwise it may drift, round by
            round, to where the judge has seen nothing and everything is good (lab notebook).
        outcome_weight: Weight of what a critic of outcomes says, beside that of imagination: from 0, imagination alone,
            to 1, the critic alone. Nothing is imagined then, and judged chunks are counted in place of imagined ones.
            It is taught before anything else, from recordings of successes and failures, which must be given, unless
            there is one already (`outcome.model`).
        outcome: Settings of that critic.
        warm_up: Updates of filtered behaviour cloning before anything else: of recorded chunks, under the best
            advantage, of the episodes that succeeded. What comes of it is the base policy of all that follows.
        feature_noise: Deviation of the noise, in training, on what frozen encoders make of pictures, relative to its
            own: few scenes are learned by heart otherwise.
        lookahead: Chunks that the policy goes on for after a candidate before that is judged, by its last chunk: for
            mistakes that show later than within a chunk. Each counts as an imagined chunk.
    """

    epochs: int = 6
    batch_size: int = 96
    learning_rate: float = 7e-4
    lr_decay_fraction: float = 0.3
    ema_decay: float = 0.98
    trainable: str = "all"
    offline_ratio: float = 0.0
    buffer_rounds: int = 30
    noise_samples: int | None = 2
    num_candidates: int = 8
    top_k: int = 4
    min_advantage_gap: float = 0.2
    advantage_threshold: float = 0.15
    distillation_weight: float = 1.0
    distil_settled: bool = False
    learn_frames: int = 0
    scored_starts: int = 8192
    keep_base: bool = False
    proposals: tuple[str, ...] = ("policy",)
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    learn_best: bool = False
    around_base: bool = False
    outcome_weight: float = 0.0
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    warm_up: int = 0
    feature_noise: float = 0.0
    lookahead: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement("settings of selective_rise")
        require.at_least(1, self, "top_k", "scored_starts")
        require.at_least(0, self, "min_advantage_gap", "distillation_weight", "lookahead", "learn_frames", "warm_up",
                         "feature_noise")  # fmt: skip
        require.within("[0, 1]", self, "outcome_weight")
        enough = self.num_candidates > self.top_k
        require(enough, f"num_candidates {self.num_candidates} is not above top_k {self.top_k}")
        moves = bool(self.warm_up and self.outcome.model and self.outcome_weight and self.trainable == "all")
        require(not moves, "warm_up trains the encoders that the critic (outcome.model) sees with: "
                           "trainable=action_expert")  # fmt: skip
        check_kinds(self.proposals)
        others = self.num_candidates - 1
        require(
            others >= len(self.proposals), f"{others} candidates beside the base's for {len(self.proposals)} proposals"
        )


@dataclass(frozen=True)
class _Learned:
    """Candidates that are learned: numbers of their start states, int64 (n,), and chunks float32 (n, chunk, D)."""

    starts: np.ndarray
    chunks: torch.Tensor


class SelectiveRISE(FlowMatchingAlgorithm[SelectiveRISEConfig, _Learned]):
    """RISE with start-state selection, candidate selection and regularisation; arguments as of `FlowMatchingAlgorithm`.

    Attributes:
        reference: The base policy.
        critic: The critic of outcomes; None without one.
        outcomes: What teaches it; None where nothing does.
        start_priorities: How often each state with something to gain is started from, float64 (n,).
    """

    name: ClassVar[str] = "selective_rise"
    Config = SelectiveRISEConfig

    def __init__(
        self, policy: Policy, env: Any, config: SelectiveRISEConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        super().__init__(policy, env, config, offline=offline)
        self._successes: OfflineBatches | None = None
        if self.config.warm_up:
            won = _successes(policy, offline)
            self._successes = OfflineBatches(self.learner, won, feature_noise=self.config.feature_noise)
        self._warmed_up = 0
        self.reference = copy.deepcopy(self.policy)
        self.critic: OutcomeCritic | None = None
        self.outcomes: OutcomeLearner | None = None
        if self.config.outcome_weight:
            self._find_critic(offline)
        rng = np.random.default_rng([self.config.seed, self.config.scored_starts])
        train = np.flatnonzero(self.env.starts.split == "train")
        #: Numbers of the scored start states, and of each the base policy's chunk and its advantage.
        self._rows = rng.permutation(train)[: self.config.scored_starts]
        #: It is improved at so many of them, the first ones.
        self._num_learnt = len(self._rows)
        if self.config.learn_frames:
            early = self.env.starts.frame_index[self._rows] < self.config.learn_frames
            self._rows = np.concatenate([self._rows[early], self._rows[~early]])
            self._num_learnt = int(early.sum())
        spec = policy.spec
        self._base_chunks = torch.zeros((len(self._rows), spec.chunk, spec.layout.dim))
        self._base_advantages = np.zeros(len(self._rows))
        self._num_scored, self.start_priorities = 0, np.ones(0)
        self._low: np.ndarray = np.zeros(0, np.int64)  # places in `_rows` with something to gain
        self._reference_places: np.ndarray = np.zeros(0, np.int64)  # and all others
        frozen = self.reference if self.learner.encoders_frozen else None
        noise = self.config.feature_noise
        self._features = FeatureCache(len(self.env.starts.split), self._seen, frozen, noise)

    @classmethod
    def reads_labels(cls, config: SelectiveRISEConfig) -> bool:
        """See `Algorithm.reads_labels`: values teach a critic, advantages say what recorded chunks are worth."""
        return not (config.outcome.model and config.outcome_weight == 1 and config.offline_ratio == 0)

    @property
    def imagines(self) -> bool:
        """See `Algorithm.imagines`."""
        return self.config.outcome_weight < 1

    def _find_critic(self, offline: ChunkSource | None) -> None:
        """Load the critic, or prepare to teach one."""
        if model := self.config.outcome.model:
            self.critic = OutcomeCritic.from_pretrained(model)
            self.critic.check_eyes(self.reference)
            return
        if not isinstance(offline, RecordedChunks):
            raise ConfigError(
                "outcome_weight: a critic learns from the outcomes of whole recorded episodes: give recordings "
                "(--data), or outcome_weight=0"
            )
        self.outcomes = OutcomeLearner(self.reference, offline, self.config.outcome, self.config.seed)
        self.critic = self.outcomes.critic

    def save(self, path: str | Path) -> None:
        """As `Algorithm.save`; the critic beside the policy, in `critic/`, once it is taught here."""
        if self.outcomes is not None and self.outcomes.finished:
            self.outcomes.critic.save_pretrained(Path(path) / "critic")
        super().save(path)

    def step(self) -> None:
        """Clone successes and teach the critic, where asked; score all start states; then judge and learn."""
        if self._warmed_up < self.config.warm_up:
            self._clone_successes()
            return
        if self.outcomes is not None and not self.outcomes.finished:
            self._learn_outcomes(self.outcomes)
            return
        if self._num_scored < len(self._rows):
            self._score_start_states()
            return
        used = self.progress
        self.keep(self.imagine())
        self._learn(used)

    def phase(self) -> Phase:
        """Cloning of successes, learning of outcomes, scoring of start states, then improvement."""
        if self._warmed_up < self.config.warm_up:
            return Phase("cloning successes", self._warmed_up, self.config.warm_up, "updates")
        if self.outcomes is not None and not self.outcomes.finished:
            if self.outcomes.num_encoded < self.outcomes.num_states:
                looked = self.outcomes.num_encoded, self.outcomes.num_states
                return Phase("looking at recorded states", *looked, "states")
            return Phase("learning outcomes", self.outcomes.num_updates, self.config.outcome.updates, "updates")
        if self._num_scored < len(self._rows):
            return Phase("scoring start states", self._num_scored, len(self._rows))
        phase = super().phase()
        return phase if self.imagines else phase._replace(name="improving by the critic")

    def _clone_successes(self) -> None:
        """The next updates of the warm-up; the last one makes what was learned the base policy."""
        assert self._successes is not None
        config, losses = self.config, []
        for _ in range(min(_UPDATED, config.warm_up - self._warmed_up)):
            rng = np.random.default_rng([config.seed, self._warmed_up, 4])
            batch = [self._successes.draw(config.batch_size, rng)]
            losses.append(self.learner.update(batch, rng, self._warmed_up / config.warm_up)[0])
            self._warmed_up += 1
        self.metrics["warm_up/loss"] = float(np.mean(losses))
        if self._warmed_up == config.warm_up:
            for one in (self.reference, self.learner.actor):
                one.load_state_dict(self.policy.state_dict())
            if self.outcomes is not None:
                self.outcomes.critic.remember_eyes(self.reference)

    def _learn_outcomes(self, outcomes: OutcomeLearner) -> None:
        """Look at the next recorded states, or do the next updates of the critic."""
        if outcomes.num_encoded < outcomes.num_states:
            for _ in range(_UPDATED):
                if outcomes.num_encoded < outcomes.num_states:
                    outcomes.look()
            return
        left = self.config.outcome.updates - outcomes.num_updates
        self.metrics["outcome/loss"] = float(np.mean([outcomes.update() for _ in range(min(left, _UPDATED))]))
        if outcomes.finished and (found := outcomes.held_out_auroc()) is not None:
            self.metrics["outcome/auroc"] = found

    @torch.no_grad()
    def _score_start_states(self) -> None:
        """Imagine the base policy's own chunk at the next recorded states."""
        env, first = self.env, self._num_scored
        places = np.arange(first, min(first + env.num_envs, len(self._rows)))
        rows = np.resize(self._rows[places], env.num_envs)
        observations = self._start(rows, 0)
        reference, still = self.reference, torch.zeros((env.num_envs, *self.reference.noise_shape))
        chunks, _ = self.propose(reference, observations, still, reference.guidance)
        self._base_chunks[places] = chunks[: len(places)]
        self._base_advantages[places] = np.inf
        if scored := int((places < self._num_learnt).sum()):
            advantages = self._advantages_of(chunks[:, None], self.reference, observations)
            self._base_advantages[places[:scored]] = advantages[:scored, 0]
        self._num_scored += len(places)
        self.num_timesteps += scored * (1 + self.config.lookahead)
        if self._num_scored == len(self._rows):
            self._select_start_states()
            self.start_priorities = np.ones(len(self._low))

    def _select_start_states(self) -> None:
        low, learnt = self._base_advantages < self.config.advantage_threshold, self._num_learnt
        if not learnt:
            raise TrainingError(
                f"none of {len(low)} recorded states lies within the first {self.config.learn_frames} frames of an "
                "episode (learn_frames): give recordings of whole episodes, or start_frames that begin with 0"
            )
        self._low, self._reference_places = np.flatnonzero(low), np.flatnonzero(~low)
        if not len(self._low):
            raise TrainingError(
                f"at all of {learnt} recorded states the base policy's own chunk has an imagined advantage of "
                f"{self.config.advantage_threshold} or more: there is nothing to gain. Record episodes in which it "
                "fails, or raise advantage_threshold."
            )
        self.metrics["rollout/low_advantage_starts"] = len(self._low) / learnt

    @torch.no_grad()
    def imagine(self) -> _Learned:
        """Let the rollout policy propose candidates at selected states; those to learn from."""
        config, env = self.config, self.env
        rng = np.random.default_rng([config.seed, self.rounds])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        seeds = [int(seed) for seed in rng.integers(2**31, size=env.num_envs)]
        often, few = self.start_priorities / self.start_priorities.sum(), len(self._low) < env.num_envs
        chosen = rng.choice(len(self._low), env.num_envs, p=often, replace=few)
        places = self._low[chosen]
        rows = self._rows[places]
        observations = self._start(rows, seeds)
        candidates = torch.cat(
            [self._base_chunks[places][:, None], self._others(places, observations, generator)], dim=1
        )
        advantages = self._advantages_of(candidates, self.policy, observations)
        if not np.isfinite(advantages).all():
            raise TrainingError("the world model gave an advantage that is not finite; nothing was trained on it")
        self.num_timesteps += advantages.size * (1 + config.lookahead)
        self._update_priorities(chosen, advantages)
        if config.shuffle_advantages:
            order = np.random.default_rng([config.seed, self.rounds, 2]).permutation(advantages.size)
            advantages = advantages.ravel()[order].reshape(advantages.shape)
        picked = self._pick(advantages)
        state, member = np.nonzero(picked)
        self.metrics |= {
            "rollout/advantage": float(advantages[:, 1:].mean()),
            "rollout/base_advantage": float(advantages[:, 0].mean()),
            "rollout/learned": float(len(state)),
            "rollout/advantages": torch.from_numpy(advantages),
        }
        return _Learned(rows[state], candidates[torch.from_numpy(state), torch.from_numpy(member)])

    def _start(self, rows: np.ndarray, seed: int | list[int]) -> Mapping[str, Any]:
        """What is seen at start states, int64 (N,), from which candidates are imagined, if they are."""
        if self.config.outcome_weight == 1:
            return cast("Mapping[str, Any]", self.env.start_observations(rows))
        return cast("Mapping[str, Any]", self.env.reset(seed=seed, options={"start_index": rows.tolist()})[0])

    def _advantages_of(self, candidates: torch.Tensor, policy: Policy, observations: Mapping[str, Any]) -> np.ndarray:
        """Advantages of candidates (N, G, chunk, D), float64 (N, G).

        Imagined ones, where a policy goes on after each candidate; the critic's are those over the first candidate.
        """
        weight = self.config.outcome_weight
        found = np.zeros(candidates.shape[:2])
        if weight < 1:
            found += (1 - weight) * self._imagined_advantages(candidates, policy)
        if self.critic is not None:
            expected = self.critic.judge(self.reference, self.reference.context_of(observations), candidates)
            found += weight * (expected - expected[:, :1])
        return found

    def _imagined_advantages(self, candidates: torch.Tensor, policy: Policy) -> np.ndarray:
        """Imagined advantages of candidates (N, G, chunk, D), after each of which a policy goes on; float64 (N, G)."""

        def go_on(observations: Mapping[str, Any]) -> np.ndarray:
            still = torch.zeros((len(observations["state"]), *policy.noise_shape))
            with torch.no_grad():  # also on the threads of the environment
                return self.propose(policy, observations, still, policy.guidance)[0].numpy()

        ahead = self.config.lookahead
        how = {"continuation": go_on, "lookahead": ahead} if ahead else {}
        return np.asarray(self.env.evaluate_candidates(candidates.numpy(), **how).advantage, np.float64)

    def _others(self, places: np.ndarray, observations: Mapping[str, Any], generator: torch.Generator) -> torch.Tensor:
        """Candidates besides the base policy's chunk, (N, G - 1, chunk, D)."""
        config, policy, count = self.config, self.policy, self.env.num_envs

        def draw(number: int, scale: float) -> torch.Tensor:
            noise = scale * config.noise_scale * torch.randn((count * number, *policy.noise_shape), generator=generator)
            return self.propose(policy, observations, noise, config.guidance)[0].unflatten(0, (count, number))

        undrawn = set(config.proposals) <= {"policy", "wide"} or config.around_base
        own = self._base_chunks[places] if undrawn else draw(1, 0.0)[:, 0]
        return mixed_proposals(
            config.proposals, config.num_candidates - 1, draw, own,
            torch.as_tensor(observations["state"]).float().cpu(), policy.spec.layout, config.proposal, generator,
        )  # fmt: skip

    def _pick(self, advantages: np.ndarray) -> np.ndarray:
        """Which candidates (N, G) are learned: at random among those ahead, or the best of them."""
        config = self.config
        ahead = advantages - advantages[:, :1] >= max(config.min_advantage_gap, 1e-6)
        drawn = np.random.default_rng([config.seed, self.rounds, 3]).random(ahead.shape)
        if config.learn_best:
            drawn = -advantages
        rank = np.where(ahead, drawn, np.inf).argsort(axis=1).argsort(axis=1)
        picked = ahead & (rank < config.top_k)
        if config.keep_base:
            picked[~ahead.any(axis=1), 0] = True
        return picked

    def _update_priorities(self, chosen: np.ndarray, advantages: np.ndarray) -> None:
        lead = advantages.max(axis=1) - advantages[:, 0]
        missing = advantages.max(axis=1) - advantages[:, 1:].mean(axis=1)
        worth = np.maximum(missing + _GAIN_WEIGHT * lead, _LEAST_PRIORITY)
        self.start_priorities[chosen] = np.where(lead >= self.config.min_advantage_gap, worth, _LEAST_PRIORITY)

    def _learn(self, used: float) -> None:
        starts = np.concatenate([part.starts for part in self._buffer])
        if not len(starts):  # no candidate was ahead
            return
        chunks = torch.cat([part.chunks for part in self._buffer])

        def loss(some: np.ndarray, generator: torch.Generator) -> torch.Tensor:
            return self._candidate_loss(starts[some], chunks[some], generator)

        self._features.prepare(starts)
        self.train_on(np.arange(len(starts)), len(self._buffer[-1].starts), loss, used)

    def regularisation(self, rng: np.random.Generator) -> list[Term]:
        """Reference states to distil at."""
        config = self.config
        reference = self._reference_places
        if config.distil_settled:
            settled = self._low[self.start_priorities <= _LEAST_PRIORITY]
            reference = np.concatenate([reference, settled])
        if not config.distillation_weight or not len(reference):
            return []
        count = round(config.distillation_weight * config.batch_size)
        places = reference[rng.integers(len(reference), size=count)]
        self._features.prepare(self._rows[places])
        return [(places, self._distillation_loss)]

    def _candidate_loss(self, starts: np.ndarray, chunks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        actor = self.learner.actor
        context, _ = self._features(actor, starts, generator)
        best = torch.full((len(starts),), actor.codec.best_bin, device=actor.device)
        dropout = _DROPOUT_WITH_GUIDANCE if self.policy.guidance != 1.0 else 0.0
        return actor.loss(context, best, chunks.to(actor.device), generator, condition_dropout=dropout)

    def _distillation_loss(self, places: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        """How far the actor is from the reference at some states, both seeing the same augmented pictures.

        So they stay together around a state, not at its pixels alone (a consistent teacher, arXiv 2106.05237).
        """
        actor, rows = self.learner.actor, self._rows[places]
        before = generator.get_state()
        mine, _ = self._features(actor, rows, generator)
        with torch.no_grad():
            theirs, _ = self._features(self.reference, rows, torch.Generator().set_state(before))
        chunks = self._base_chunks[places].to(actor.device)
        best = torch.full((len(rows),), actor.codec.best_bin, device=actor.device)
        return actor.distillation_loss(mine, best, chunks, self.reference, theirs, generator)

    def _seen(self, policy: Policy, rows: np.ndarray, generator: torch.Generator | None) -> Seen:
        """What a policy sees at start states."""
        return policy.context_of(self.env.start_observations(rows), generator), ()

    def training_state(self) -> dict[str, Any]:
        """Learner, reference, scores, priorities and buffer."""
        return {
            "learner": self.learner.state_dict(),
            "warmed_up": self._warmed_up,
            "outcomes": None if self.outcomes is None else self.outcomes.state_dict(),
            "reference": self.reference.state_dict(),
            "rows": self._rows,
            "base_chunks": self._base_chunks,
            "base_advantages": self._base_advantages,
            "num_scored": self._num_scored,
            "start_priorities": self.start_priorities,
            "buffer": [vars(part) for part in self._buffer],
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        if not np.array_equal(state["rows"].numpy(), self._rows):
            raise ValueError("the start states are others than those of the run")
        self.learner.load_state_dict(state["learner"])
        self.reference.load_state_dict(state["reference"])
        self._warmed_up = int(state.get("warmed_up", 0))  # older runs had none
        if self.outcomes is not None:
            self.outcomes.load_state_dict(state["outcomes"])
        self._base_chunks = state["base_chunks"]
        self._base_advantages = state["base_advantages"].numpy()
        self._num_scored = int(state["num_scored"])
        if self._num_scored == len(self._rows):
            self._select_start_states()
        self.start_priorities = state["start_priorities"].numpy()
        self._buffer = [_Learned(part["starts"].numpy(), part["chunks"]) for part in state["buffer"]]


def _successes(policy: Policy, offline: ChunkSource | None) -> RecordedChunks:
    """Chunks of the recorded episodes that succeeded, all under the best advantage."""
    if not isinstance(offline, RecordedChunks):
        raise ConfigError("warm_up: successes are cloned from recordings of whole episodes (--data)")
    dataset, used = offline.dataset, np.unique(offline.dataset.episode_of(offline.windows.index))
    won = used[np.asarray(dataset.success, np.float32)[used] > 0.5]
    if not len(won):
        raise ConfigError(f"warm_up: of {len(used)} recorded episodes none is known to have succeeded")
    best = np.full(dataset.num_frames, policy.codec.best_bin, np.int64)
    return RecordedChunks(dataset, offline.lags, best, won)
