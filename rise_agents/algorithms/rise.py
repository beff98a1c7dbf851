"""RISE: self-improvement of an advantage-conditioned policy in imagination (arXiv 2602.11075, section 3; FIELD A1).

Each round starts from recorded states. The rollout policy, an average of the actor's past weights, is asked for its
best chunk; the world model imagines it, the value model scores it, and from the imagined end a second chunk is
imagined. The actor is then trained by flow matching on the chunks that were *proposed*, under the advantages that were
*measured*, mixed sample by sample with recorded chunks under their labelled advantages.

Beyond the paper, behind switches: several proposals per state (`group`) with advantages relative to them (`relative`),
or of which the best alone are learned (`keep`); learning only where the base policy is imagined to do badly, and
holding on to it elsewhere (`anchor`); samples weighted by certainty; starts near failures.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from rise_agents.algorithms.reference_states import ReferenceBatch, ReferenceStates
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Context, Policy, observation_tensors
from rise_agents.policies.data import ChunkSource
from rise_agents.policies.loading import load_policy
from rise_agents.training.logging import RiseLog
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.files import atomic_path, to_plain, write_json

__all__ = ["RISE", "RiseConfig", "Round"]

_STATE = "rise_state.pt"
#: How often bad states are tried again: in proportion to the advantage that their proposals still miss on average, and
#: to this part of what has been found to be gained there; and where nothing was ahead of the base's chunk.
_LEARNED, _HOPELESS = 0.2, 0.01
#: States that are surveyed at most, and so many good ones that are held.
_SURVEY = _HELD = 8192
#: Which recorded states are filmed.
_FILM_SEED = 4711
#: Part of the kept proposals that is learned without a level, where the policy acts with guidance. With a tenth, as in
#: warm-up, proposals chosen at random took a policy from 48 to 25 % success; with half, and a lower rate, to 37 % (lab
#: notebook).
_HIDDEN_OF_KEPT = 0.5


@dataclass(frozen=True)
class RiseConfig:
    """Settings of RISE; the defaults are the paper's where two CPU cores allow it.

    Attributes:
        chunks_per_state: Chunks imagined in a row from a recorded state (paper: 2).
        offline_ratio: Part of every batch that is recorded, drawn sample by sample (paper: 0.6).
        epochs: Passes over the chunks of a round (release: 4).
        batch: Samples per update, recorded ones included (release: 128).
        rate: Learning rate of Adam.
        warm_up: Updates over which it rises.
        cool: Last part of a run over which it falls to zero, in a straight line.
        clip: Largest norm of the gradient.
        ema: Decay of the rollout policy (paper: 0.995).
        scope: What is trained: "action" (the action expert, as in the release; what the images are encoded to is then
            computed once) or "all".
        guidance: Classifier-free guidance of the proposals, 1 for none, as released. What is proposed with guidance and
            learned is guided once more in the next round: 31,000 chunks with guidance 2 took a policy from 47 to 0 %
            success (lab notebook). Acting, the policy keeps its own.
        noise: Deviation of the noise that proposals start from; less than 1 keeps them nearer to the policy's middle.
        group: Proposals per state, all imagined from there. With more than one, imagination goes on from the best.
        keep: Learn only so many of a group, those imagined best, and under the best level: the policy becomes its own
            best of `group`. 0 learns all of them under what was measured, as in the paper. Wants `group` > `keep`.
        margin: With `keep`: leave out groups whose best is imagined less than this above their mean: where it makes no
            difference what is done (the outcome is certain already), there is nothing to learn.
        anchor: With `keep`: change the policy only where it has to be. At first the base policy's own chunks, from the
            middle of its noise, are imagined at all recorded states. Rounds then start where they gain less than
            `mend`; the base's chunk is one of every group, and of the proposals that are `margin` ahead of it `keep`
            are learned, whichever. To all other states every batch is extended by `anchor` times `batch` samples, in
            which the actor is held to what the base puts out. 0 for none.
        mend: With `anchor`: raw advantage of the base's chunk below which there is something to mend. Where it is high,
            mistakes are seen early, and precision is lost: what is ahead of a good chunk is mostly faster, and a policy
            that learns to be fast lifts before it has a grip (lab notebook).
        relative: Take advantages relative to the mean of their group, in units of the deviation of all such
            differences, and spread them over the bins so that the best one begins one deviation above the mean; wants
            `group` > 1.
        recorded_member: One member of every group is the chunk that was recorded there.
        shuffled: Give every imagined chunk the level of another one of its round: a control, in which nothing can be
            learned from advantages.
        certainty: Weight samples by exp(-certainty x uncertainty of their imagination); 0 for none.
        near_failure: Part of the rounds that start from states of failed episodes alone.
        memory: Rounds whose chunks are kept for training.
        seed: Seed of everything random.
    """

    chunks_per_state: int = 2
    offline_ratio: float = 0.6
    epochs: int = 4
    batch: int = 128
    rate: float = 3e-4
    warm_up: int = 50
    cool: float = 0.0
    clip: float = 1.0
    ema: float = 0.995
    scope: str = "action"
    guidance: float = 1.0
    noise: float = 1.0
    group: int = 1
    keep: int = 0
    margin: float = 0.0
    anchor: float = 0.0
    mend: float = 0.15
    relative: bool = False
    recorded_member: bool = False
    shuffled: bool = False
    certainty: float = 0.0
    near_failure: float = 0.0
    memory: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        def require(condition: bool, message: str) -> None:
            if not condition:
                raise ConfigError(f"RISE: {message}")

        for name in ("chunks_per_state", "epochs", "batch", "group", "memory"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("offline_ratio", "near_failure", "noise", "cool"):
            require(0 <= getattr(self, name) <= 1, f"{name} is {getattr(self, name)}, expected in [0, 1]")
        require(0 <= self.ema < 1, f"ema is {self.ema}, expected in [0, 1)")
        require(self.rate > 0 and self.clip > 0, "rate and clip must be positive")
        require(self.scope in ("action", "all"), f"scope {self.scope!r} is neither 'action' nor 'all'")
        require(self.group > 1 or not self.relative, "relative advantages need a group of at least 2 proposals")
        require(0 <= self.keep < self.group or not self.keep, f"keep {self.keep} is not less than group {self.group}")
        require(not (self.keep and self.relative), "keep learns the best under the best level: leave out relative")
        require(self.margin >= 0 and (self.keep > 0 or not self.margin), f"margin {self.margin} wants keep")
        require(self.anchor >= 0 and (self.keep > 0 or not self.anchor), f"anchor {self.anchor} wants keep")
        require(self.certainty >= 0, f"certainty is {self.certainty}, expected at least 0")


@dataclass(frozen=True)
class Round:
    """What one round imagined and wants to learn: n chunks.

    Attributes:
        context: What the policy saw, encoded.
        observations: The same before encoding; None where the encoders are not trained.
        chunks: float32 (n, chunk, D), rad and m.
        advantages: Raw, float32 (n,).
        levels: int64 (n,), what the actor is trained under.
        weights: float32 (n,), weight of each sample.
        position: 0 for chunks from recorded states, 1 for those that follow them, ...; int64 (n,).
        proposed: Whether the policy proposed it, bool (n,); else it was recorded, or is the base policy's.
    """

    context: Context
    observations: dict[str, torch.Tensor] | None
    chunks: torch.Tensor
    advantages: torch.Tensor
    levels: torch.Tensor
    weights: torch.Tensor
    position: torch.Tensor
    proposed: torch.Tensor

    def __len__(self) -> int:
        return len(self.chunks)


class RISE:
    """Improves a policy in an imagination environment; used like an agent of Stable-Baselines3.

    Args:
        policy: Base policy, warmed up on recorded data with advantages; copied, not changed.
        envs: Imagination in autoreset mode "disabled" with the policy's `observation_lags`.
        offline: Recorded chunks to mix in; None only with `offline_ratio` 0.
        config: Settings.
        log: Directory for TensorBoard, or None.

    Attributes:
        actor: What is trained.
        policy: The rollout policy, which `predict` and `save` use.
        num_chunks: Chunks imagined so far.
        seconds: Time spent in `learn` so far.

    Raises:
        ConfigError: If the parts do not fit each other.
    """

    def __init__(
        self,
        policy: Policy,
        envs: ImaginationVectorEnv,
        offline: ChunkSource | None,
        config: RiseConfig | None = None,
        log: str | Path | None = None,
    ) -> None:
        self.config, self.envs, self.offline = config or RiseConfig(), envs, offline
        _check(policy, envs, offline, self.config)
        self.actor = copy.deepcopy(policy)
        self.actor.train(not self.config.anchor)  # what dropout changes cannot be held
        self.policy = copy.deepcopy(policy).eval().requires_grad_(False)
        self.base = copy.deepcopy(self.policy) if self.config.anchor else None
        self.parameters = self.actor.action_parameters()
        if self.config.scope == "all":
            self.parameters = [p for p in self.actor.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.config.rate, betas=(0.9, 0.95))
        self.rounds, self.updates, self.num_chunks, self.seconds = 0, 0, 0, 0.0
        self._used = 0.0  # part of the run that is over
        self.figures: dict[str, float] = {}
        self._memory: list[Round] = []
        self._held = ReferenceStates(_HELD)
        self._bad: np.ndarray | None = None  # start states at which the base does badly
        self._promise = np.ones(0)  # how often to start from each of them
        self._offline = _OfflineFeatures(self.policy, offline) if offline and self.config.scope == "action" else None
        self.log = RiseLog(log)

    # ------------------------------------------------------------------ as in Stable-Baselines3

    def learn(
        self,
        total_chunks: int,
        callback: Callable[[RISE], bool | None] | None = None,
        progress_bar: bool = False,
        seconds: float | None = None,
    ) -> Self:
        """Imagine and train until `total_chunks` chunks in all have been imagined, or the time is up.

        Args:
            total_chunks: Imagined chunks in all, those before a `load` included.
            callback: Called after every round; False stops.
            progress_bar: Show one.
            seconds: Longest time to spend in all, that before a `load` included; at least one round is made.

        Raises:
            TrainingError: If a loss is not finite; the rollout policy is still that of the round before. Or if, with
                `cool`, the time is up before the first round.
        """
        from tqdm import tqdm

        started, before, spent = time.perf_counter(), self.num_chunks, self.seconds
        if self.base is not None and self._bad is None:
            self.survey()
            self.seconds = spent + time.perf_counter() - started
            if seconds is not None and self.seconds >= seconds and self.config.cool and not self.rounds:
                raise TrainingError(
                    f"to survey the recorded states took {self.seconds:.0f} s, all of the time given: the rate would "
                    "be zero. Give more, or cool=0 for one round at the full rate."
                )
        quiet = not sys.stderr.isatty()
        bar = tqdm(
            total=1000, unit=" ‰", desc="improving in imagination", disable=not progress_bar, dynamic_ncols=True,
            mininterval=10 if quiet else 0.1,
        )  # fmt: skip
        with bar:
            while self.num_chunks < total_chunks:
                self._used = min(self._part_used(total_chunks, seconds), 1.0)
                self._memory = [*self._memory, self.imagine()][-self.config.memory :]
                self.train()
                self.rounds += 1
                elapsed = time.perf_counter() - started
                self.seconds = spent + elapsed
                self.figures["chunks_per_second"] = (self.num_chunks - before) / elapsed
                self._write()
                used = self._part_used(total_chunks, seconds)
                bar.update(round(1000 * min(used, 1.0)) - bar.n)
                shown = ("chunks_per_second", "loss", "advantage", "best_share")
                figures = {name: f"{self.figures[name]:.3g}" for name in shown if name in self.figures}
                bar.set_postfix({"chunks": self.num_chunks, **figures}, refresh=False)
                if (callback is not None and callback(self) is False) or used >= 1.0:
                    break
        return self

    def _part_used(self, total_chunks: int, seconds: float | None) -> float:
        """How much of what `learn` was given is used up; 1 and more for all of it."""
        return max(self.num_chunks / total_chunks, 0.0 if seconds is None else self.seconds / max(seconds, 1e-9))

    def predict(
        self, observation: Mapping[str, Any], noise: torch.Tensor | None = None, deterministic: bool = True
    ) -> tuple[np.ndarray, None]:
        """Chunks for a batch of observations, asked for the best advantage; float32 (N, chunk, D), rad and m.

        Args:
            observation: Of the environment, with a leading axis N.
            noise: Initial noise (N, *noise_shape).
            deterministic: Without `noise`: start from zero, the middle of the noise, instead of drawing it.
        """
        count = len(observation["state"])
        if noise is None:
            shape = (count, *self.policy.noise_shape)
            noise = torch.zeros(shape) if deterministic else torch.randn(shape)
        with torch.no_grad():
            context = self._context(self.policy, observation)
            chunks = self.policy.sample(
                context, self._ask(count), noise.to(self.policy.device), guidance=self.policy.guidance
            )
        return self.policy.within_limits(chunks).cpu().numpy(), None

    def runner(self) -> PolicyActor:
        """The rollout policy for `rise_agents.evaluation.evaluate`."""
        return PolicyActor(self.policy)

    @torch.no_grad()
    def film(self) -> None:
        """Imagine chunks of the rollout policy from the same few recorded states every time, for TensorBoard.

        Nothing is learned from what is imagined here. Environments without `render_mode="rgb_array"` give no films.
        """
        if not self.log or self.envs.render_mode is None:
            return
        observations, _ = self.envs.reset(seed=_FILM_SEED)
        chunks, _ = self._propose(self._context(self.policy, observations), torch.Generator().manual_seed(0), 1)
        self.envs.step(chunks[:, 0].cpu().numpy())
        self.log.film(self.envs, self.num_chunks)

    # ------------------------------------------------------------------ a round

    @torch.no_grad()
    def survey(self) -> None:
        """Imagine the base policy's own chunks at recorded states: where it does badly, and where it is held to.

        `learn` does so first, with an anchor.

        Raises:
            TrainingError: If it does well everywhere.
        """
        config, envs = self.config, self.envs
        rng = np.random.default_rng([config.seed, _SURVEY])
        rows = rng.permutation(np.flatnonzero(envs.starts.split == "train"))[:_SURVEY]
        bad = []
        for first in range(0, len(rows), envs.num_envs):
            some = rows[first : first + envs.num_envs]
            index = np.resize(some, envs.num_envs)
            observations, _ = envs.reset(seed=0, options={"start_index": index.tolist()})
            context, chunks = self._of_base(observations)
            good = envs.evaluate_candidates(chunks[:, None].cpu().numpy()).advantage[: len(some), 0] >= config.mend
            bad.append(some[~good])
            states = ReferenceBatch(context, None, chunks)
            if config.scope == "all":
                states = ReferenceBatch(None, observation_tensors(observations), chunks)
            self._held.add(states[torch.from_numpy(np.flatnonzero(good))])
            self.num_chunks += len(some)
        self._bad = np.concatenate(bad)
        if not len(self._bad):
            raise TrainingError(
                f"at all of {len(rows)} recorded states the policy's own chunk is imagined to gain {config.mend} "
                "or more: nothing is to be mended. Record episodes in which it fails, or raise mend."
            )
        self._promise = np.ones(len(self._bad))
        self.figures["to_mend"] = len(self._bad) / len(rows)

    @torch.no_grad()
    def imagine(self) -> Round:
        """Let the rollout policy propose chunks at recorded states, and imagine and score them."""
        config, envs, policy = self.config, self.envs, self.policy
        rng = np.random.default_rng([config.seed, self.rounds])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        seeds = [int(seed) for seed in rng.integers(2**31, size=envs.num_envs)]
        options: dict[str, Any] = {}
        met: np.ndarray | None = None
        if self._bad is not None:
            often = self._promise / self._promise.sum()
            met = rng.choice(len(self._bad), envs.num_envs, p=often, replace=len(self._bad) < envs.num_envs)
            options["start_index"] = self._bad[met].tolist()
        elif config.near_failure and rng.random() < config.near_failure:
            failed = np.flatnonzero((envs.starts.success == 0) & (envs.starts.split == "train"))
            if len(failed):
                options["start_index"] = rng.choice(failed, envs.num_envs).tolist()
        observations, _ = envs.reset(seed=seeds, options=options)
        over, parts = np.zeros(envs.num_envs, bool), []
        for position in range(config.chunks_per_state):
            context = self._context(policy, observations)
            chunks, proposed = self._propose(context, generator, position)
            if self.base is not None:
                chunks[:, 0], proposed[:, 0] = self._of_base(observations)[1], False
            if over.any():  # the ended ones must not be stepped on: begin anew there, and leave the result out
                envs.reset(options={"reset_mask": over})
            seen = observation_tensors(observations) if config.scope == "all" else None
            last = position + 1 == config.chunks_per_state
            if config.group > 1:
                foresight = envs.evaluate_candidates(chunks.cpu().numpy())
                advantages, uncertainty = foresight.advantage, foresight.uncertainty
                going = chunks[torch.arange(envs.num_envs), torch.from_numpy(advantages.argmax(axis=1))]
            else:
                going = chunks[:, 0]
            ended = np.zeros(envs.num_envs, bool)
            if config.group == 1 or not last:
                observations, rewards, terminated, truncated, infos = envs.step(going.cpu().numpy())
                ended = terminated | truncated
            if config.group == 1:
                advantages, uncertainty = np.asarray(rewards)[:, None], np.asarray(infos["uncertainty"])[:, None]
            parts.append(self._part(context, seen, chunks, advantages, uncertainty, position, proposed, ~over))
            if met is not None and position == 0:
                self.figures |= {"proposed": float(advantages[:, 1:].mean()), "own": float(advantages[:, 0].mean())}
                lead = advantages.max(axis=1) - advantages[:, 0]
                missing = advantages.max(axis=1) - advantages[:, 1:].mean(axis=1)
                self._promise[met] = np.where(lead >= config.margin, missing + _LEARNED * lead, _HOPELESS)
            self.num_chunks += int((~over).sum()) * config.group
            over = over | ended
            if over.all():
                break
        return _joined(parts)

    def _propose(self, context: Context, generator: torch.Generator, position: int) -> tuple[torch.Tensor, np.ndarray]:
        """Chunks (N, group, chunk, D), and which of them the policy proposed (else: recorded), bool (N, group)."""
        config, envs, policy = self.config, self.envs, self.policy
        count = envs.num_envs * config.group
        owner = torch.arange(envs.num_envs, device=policy.device).repeat_interleave(config.group)
        noise = config.noise * torch.randn((count, *policy.noise_shape), generator=generator).to(policy.device)
        drawn = policy.sample(context[owner], self._ask(count), noise, guidance=config.guidance)
        chunks = policy.within_limits(drawn).unflatten(0, (envs.num_envs, config.group))
        proposed = np.ones((envs.num_envs, config.group), bool)
        if position == 0 and config.recorded_member:
            recorded, known = envs.recorded_actions()
            proposed[:, 0] = ~known
            chunks[torch.from_numpy(known), 0] = torch.from_numpy(recorded[known]).to(chunks)
        return chunks, proposed

    def _part(
        self,
        context: Context,
        seen: dict[str, torch.Tensor] | None,
        chunks: torch.Tensor,
        advantages: np.ndarray,
        uncertainty: np.ndarray,
        position: int,
        proposed: np.ndarray,
        kept: np.ndarray,
    ) -> Round:
        """The chunks (N, group, ...) of one step, with their levels; of the environments `kept`, bool (N,)."""
        config, codec, device = self.config, self.policy.codec, self.policy.device
        advantages = np.asarray(advantages, np.float64)
        if not np.isfinite(advantages[kept]).all():
            raise TrainingError("the world model gave an advantage that is not finite; nothing was trained on it")
        judged = np.where(kept[:, None], advantages, 0.0)
        if config.relative:
            judged = judged - judged.mean(axis=1, keepdims=True)
            if codec.form == "bins":
                best_edge = codec.edges[-1] / codec.scale
                judged = judged * best_edge / max(float(judged[kept].std()), 1e-6)
        if config.shuffled:
            rows = np.flatnonzero(np.repeat(kept, config.group))
            order = np.random.default_rng([config.seed, self.rounds, 2 + position]).permutation(rows)
            judged.flat[rows] = judged.flat[order]
        levels, chosen = codec.encode(judged), np.repeat(kept[:, None], config.group, axis=1)
        if config.keep:
            if config.anchor:
                # Whichever of those ahead, not the best: that would be the fastest.
                chosen &= judged - judged[:, :1] >= max(config.margin, 1e-6)
                drawn = np.random.default_rng([config.seed, self.rounds, 3 + position]).random(chosen.shape)
                chosen &= np.where(chosen, drawn, 2.0).argsort(axis=1).argsort(axis=1) < config.keep
            else:
                rank = (-judged).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
                chosen &= rank < config.keep
                lead = np.where(kept, judged.max(axis=1) - judged.mean(axis=1), -np.inf)
                # Whatever the margin, a round learns something.
                chosen &= (lead >= min(config.margin, float(lead.max())))[:, None]
            levels = np.full_like(levels, codec.best_bin)
        row, member = (torch.from_numpy(index) for index in np.nonzero(chosen))
        weights = np.exp(-config.certainty * np.asarray(uncertainty, np.float64))

        def of(column: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(column[chosen])

        return Round(
            context=context[row.to(device)],
            observations=None if seen is None else {key: value[row] for key, value in seen.items()},
            chunks=chunks[row.to(device), member.to(device)],
            advantages=of(advantages).float(),
            levels=of(levels).to(device),
            weights=of(weights).float().to(device),
            position=torch.full((len(row),), position),
            proposed=of(proposed),
        )

    # ------------------------------------------------------------------ training

    def train(self) -> None:
        """Update the actor on the chunks in memory, mixed with recorded ones, and the rollout policy with it."""
        config, imagined = self.config, _joined(self._memory)
        if not len(imagined):  # nothing was to be mended
            return
        rng = np.random.default_rng([config.seed, self.rounds, 1])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        torch.manual_seed(int(rng.integers(2**62)))  # dropout draws from here
        online = max(1, round(config.batch * (1 - config.offline_ratio)))
        count = max(1, round(config.epochs * len(self._memory[-1]) / online))
        order = np.concatenate(
            [rng.permutation(len(imagined)) for _ in range(-(-count * config.batch // len(imagined)))]
        )
        losses, norms, used = [], [], 0
        for _ in range(count):
            offline = int((rng.random(config.batch) < config.offline_ratio).sum()) if self.offline else 0
            which = order[used : used + config.batch - offline]
            used += len(which)
            loss = self._loss(imagined, which, rng, offline, generator)
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"RISE, round {self.rounds}: the loss is {float(loss)}; lower the learning rate")
            rising, falling = (self.updates + 1) / max(config.warm_up, 1), (1.0 - self._used) / max(config.cool, 1e-9)
            for group in self.optimiser.param_groups:
                group["lr"] = config.rate * min(1.0, rising, falling if config.cool else 1.0)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)))
            self.optimiser.step()
            self.updates += 1
            self._follow()
            losses.append(float(loss.detach()))
        last = self._memory[-1]
        best = self.policy.codec.best_bin
        first = last.position == 0
        self.figures |= {
            "loss": float(np.mean(losses)),
            "gradient": float(np.mean(norms)),
            "learned": float(len(last)),
            "ema_distance": self._distance(),
        }
        if (first & last.proposed).any():
            self.figures["advantage"] = float(last.advantages[first & last.proposed].mean())
            self.figures["best_share"] = float((last.levels.cpu()[first] == best).float().mean())
        if (~first).any():
            self.figures["advantage_second"] = float(last.advantages[~first].mean())

    def _loss(
        self, imagined: Round, which: np.ndarray, rng: np.random.Generator, offline: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Mean loss of some imagined chunks and of `offline` recorded ones."""
        index, device = torch.from_numpy(which), self.actor.device
        total, weight = torch.zeros((), device=device), 0.0
        if len(which):
            if imagined.observations is None:
                context = imagined.context[index.to(device)]
            else:
                seen = {key: value[index].to(device) for key, value in imagined.observations.items()}
                context = self.actor.context(seen, [self.actor.spec.prompt] * len(which), generator)
            weights = imagined.weights[index]
            levels, chunks = imagined.levels[index], imagined.chunks[index]
            # Proposals were asked to be good: without a level the branch is to go on meaning "as recorded". Where only
            # the best are kept, it follows them closely: guidance would be learned, and added anew, round by round.
            hidden = _HIDDEN_OF_KEPT if self.config.keep and self.policy.guidance != 1.0 else 0.0
            losses = self.actor.loss(context, levels, chunks, generator, condition_dropout=hidden)
            total, weight = total + (weights * losses).sum(), weight + float(weights.sum())
        if offline:
            assert self.offline is not None
            rows = rng.integers(len(self.offline), size=offline)
            if self._offline is not None:
                context, levels, chunks = self._offline.batch(rows)
            else:
                batch = self.offline.batch(rows, device)
                context = self.actor.context(batch.observations, batch.prompts, generator)
                levels, chunks = batch.advantage_bins, batch.chunks
            total = total + self.actor.loss(context, levels, chunks, generator).sum()
            weight += offline
        if self.base is not None and len(self._held):
            held = self._held.draw(rng, round(self.config.anchor * self.config.batch))
            losses = self._distillation_loss(held, generator)
            self.figures["held_loss"] = float(losses.detach().mean())
            total, weight = total + losses.sum(), weight + len(held)
        return total / max(weight, 1e-6)

    def _distillation_loss(self, held: ReferenceBatch, generator: torch.Generator) -> torch.Tensor:
        """How far the actor is from the base at some states, (n,)."""
        assert self.base is not None
        mine = theirs = held.base
        if held.observations is not None:
            # The same augmented pictures for both: they are held together around a state, not at its pixels alone
            # (a consistent teacher, arXiv 2106.05237).
            seen = {key: value.to(self.actor.device) for key, value in held.observations.items()}
            prompts, state = [self.actor.spec.prompt] * len(held), generator.get_state()
            mine = self.actor.context(seen, prompts, generator)
            with torch.no_grad():
                theirs = self.base.context(seen, prompts, torch.Generator().set_state(state))
        assert mine is not None
        assert theirs is not None
        return self.actor.distillation_loss(mine, self._ask(len(held)), held.chunks, self.base, theirs, generator)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the rollout policy towards the actor; buffers are copied."""
        pairs = list(zip(self.policy.parameters(), self.actor.parameters(), strict=True))
        torch._foreach_lerp_([p for p, _ in pairs], [a.detach() for _, a in pairs], 1.0 - self.config.ema)
        for mine, theirs in zip(self.policy.buffers(), self.actor.buffers(), strict=True):
            mine.copy_(theirs)

    def _distance(self) -> float:
        """Relative distance between rollout policy and actor."""
        pairs = list(zip(self.policy.parameters(), self.actor.parameters(), strict=True))
        apart = sum(float((p - a.detach()).square().sum()) for p, a in pairs)
        return (apart / max(sum(float(p.square().sum()) for p, _ in pairs), 1e-12)) ** 0.5

    def _context(self, policy: Policy, observations: Mapping[str, Any]) -> Context:
        tensors = observation_tensors(observations, policy.device)
        return policy.context(tensors, [policy.spec.prompt] * len(tensors["state"]))

    def _of_base(self, observations: Mapping[str, Any]) -> tuple[Context, torch.Tensor]:
        """What the base policy sees, and its chunks from the middle of the noise."""
        assert self.base is not None
        context = self._context(self.base, observations)
        middle = torch.zeros((len(context), *self.base.noise_shape), device=self.base.device)
        chunks = self.base.sample(context, self._ask(len(context)), middle, guidance=self.base.guidance)
        return context, self.base.within_limits(chunks)

    def _ask(self, count: int) -> torch.Tensor:
        return torch.full((count,), self.policy.codec.best_bin, device=self.policy.device)

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write the rollout policy (`model/`) and the full training state, each in one step."""
        folder = Path(path)
        self.policy.save_pretrained(folder / "model")
        state = {
            "config": to_plain(dataclasses.asdict(self.config)),
            "rounds": self.rounds,
            "updates": self.updates,
            "num_chunks": self.num_chunks,
            "seconds": self.seconds,
            "actor": self.actor.state_dict(),
            "policy": self.policy.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        if self.base is not None:
            state["base"] = self.base.state_dict()
        with atomic_path(folder / _STATE) as aside:
            torch.save(state, aside)
        write_json(folder / "metrics.json", {"rounds": self.rounds, "num_chunks": self.num_chunks, **self.figures})

    def restore(self, path: str | Path) -> bool:
        """Go on from what `save` wrote; False if nothing was saved there.

        Chunks in memory are not kept: with `memory` 1 the run goes on to the very same result. With an anchor the
        states are surveyed anew.

        Raises:
            CheckpointError: If the state is damaged or of other settings.
        """
        file = Path(path) / _STATE
        if not file.exists():
            return False
        try:
            state = torch.load(file, map_location=self.actor.device, weights_only=True)
            if state["config"] != to_plain(dataclasses.asdict(self.config)):
                raise CheckpointError(f"{file} is of a run with other settings: {state['config']}; give another folder")
            self.actor.load_state_dict(state["actor"])
            self.policy.load_state_dict(state["policy"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.base is not None:
                self.base.load_state_dict(state["base"])
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{file} is cut short or damaged: {error}. Delete it to start anew.") from error
        self.rounds, self.updates = state["rounds"], state["updates"]
        self.num_chunks, self.seconds = state["num_chunks"], state["seconds"]
        return True

    @classmethod
    def load(
        cls,
        path: str | Path,
        envs: ImaginationVectorEnv,
        offline: ChunkSource | None,
        config: RiseConfig | None = None,
    ) -> RISE:
        """An agent as `save` left it, ready to `predict` or to `learn` on.

        Raises:
            CheckpointError: If there is none, or it is damaged or of other settings.
        """
        agent = cls(load_policy(Path(path) / "model"), envs, offline, config)
        if not agent.restore(path):
            raise CheckpointError(f"{path} holds no state of RISE ({_STATE})")
        return agent

    def _write(self) -> None:
        self.log.scalars("rise", self.figures, self.num_chunks)
        self.log.round(self.rounds, self._memory[-1], self.policy.codec.num_bins, self.num_chunks)


class _OfflineFeatures:
    """Recorded chunks whose observations are encoded when first asked for, and never again."""

    def __init__(self, policy: Policy, data: ChunkSource) -> None:
        self._policy, self._data = policy, data
        self._known = np.zeros(len(data), bool)
        self._context: dict[str, torch.Tensor] = {}
        self._rest: tuple[torch.Tensor, ...] = ()  # levels, chunks
        self._kind: type[Context] = Context

    @torch.no_grad()
    def batch(self, rows: np.ndarray) -> tuple[Context, torch.Tensor, torch.Tensor]:
        new = np.unique(rows[~self._known[rows]])
        if len(new):
            batch = self._data.batch(new, self._policy.device)
            context = self._policy.context(batch.observations, batch.prompts)
            self._kind = type(context)
            found = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
            if not self._rest:
                self._context = {name: self._column(one) for name, one in found.items()}
                self._rest = (self._column(batch.advantage_bins), self._column(batch.chunks))
            index = torch.from_numpy(new)
            for name, one in found.items():
                self._context[name][index] = one
            for column, one in zip(self._rest, (batch.advantage_bins, batch.chunks), strict=True):
                column[index] = one
            self._known[new] = True
        index = torch.from_numpy(rows)
        context = self._kind(**{name: column[index] for name, column in self._context.items()})
        levels, chunks = (column[index] for column in self._rest)
        return context, levels, chunks

    def _column(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((len(self._data), *like.shape[1:]))


def _joined(rounds: list[Round]) -> Round:
    first = rounds[0]
    if len(rounds) == 1:
        return first

    def cat(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in rounds])

    observations = None
    if first.observations is not None:
        observations = {
            key: torch.cat([part.observations[key] for part in rounds if part.observations is not None])
            for key in first.observations
        }
    names = [field.name for field in dataclasses.fields(first.context)]
    context = type(first.context)(
        **{name: torch.cat([getattr(part.context, name) for part in rounds]) for name in names}
    )
    columns = ("chunks", "advantages", "levels", "weights", "position", "proposed")
    return Round(context=context, observations=observations, **{name: cat(name) for name in columns})


def _check(policy: Policy, envs: ImaginationVectorEnv, offline: ChunkSource | None, config: RiseConfig) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigError(f"RISE: {message}")

    ours, theirs = policy.spec, envs.task
    for name in ("cameras", "image_size", "chunk", "stride"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        same = list(mine) == list(other) if name == "cameras" else mine == other
        require(same, f"the policy has {name} {mine}, the environment {other}")
    require(ours.layout.names == theirs.layout.names, "policy and environment have different joints")
    lags = tuple(envs.lags[1:])
    require(
        set(policy.lags) <= set(lags), f"make the environment with observation_lags={list(policy.lags)}, not {lags}"
    )
    require(str(envs.autoreset_mode.value).lower() == "disabled", 'make the environment with autoreset_mode="disabled"')
    require(envs.output == "numpy", 'make the environment with output="numpy"')
    require(envs.max_chunks >= config.chunks_per_state, f"the environment ends after {envs.max_chunks} chunks, "
            f"{config.chunks_per_state} are wanted: max_chunks={config.chunks_per_state}")  # fmt: skip
    require(offline is not None or config.offline_ratio == 0, "recorded chunks are needed, or offline_ratio=0")
