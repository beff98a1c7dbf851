"""Behaviour cloning, plain or conditioned on the advantage: what RISE starts from, and the control `bc`.

Demonstrations and human corrections carry the best advantage bin, rollouts the bin of their labelled advantage.
With every bin "unconditional" it is plain behaviour cloning. `train_policy` makes a policy from data; the algorithm
`BC` goes on with a policy on the data that others only start from: what it gains was not learned in imagination.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rise_agents.algorithms.base import Phase
from rise_agents.algorithms.learner import FlowMatchingAlgorithm, FlowMatchingConfig
from rise_agents.policies.base import Policy
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.config import CloningConfig, PolicyConfig, make_policy
from rise_agents.policies.data import ChunkSource, Recorded, RecordedChunks
from rise_env.data import Dataset, FocusedSampler, Sampler, ShuffledSampler, split_episodes
from rise_env.errors import ConfigError, requirement
from rise_env.files import write_json
from rise_env.training.loop import Budget, Loop, Progress
from rise_env.training.state import start_run
from rise_env.value.latents import weights_digest

__all__ = ["BC", "BCConfig", "BehaviourCloning", "train_policy"]

_HELD_OUT = 512  # chunks that are evaluated


@dataclass(frozen=True)
class BCConfig(FlowMatchingConfig):
    """Settings of behaviour cloning that goes on; the defaults are those of selective RISE, but for the data.

    Attributes:
        conditioned: Learn chunks under their labelled advantages; if not, all of them as if they were the best.
    """

    batch_size: int = 96
    learning_rate: float = 5e-4
    lr_decay_fraction: float = 0.3
    ema_decay: float = 0.98
    trainable: str = "all"
    offline_ratio: float = 1.0
    conditioned: bool = True


class BC(FlowMatchingAlgorithm[BCConfig, None]):
    """Behaviour cloning of the recorded chunks; nothing is imagined. Time steps are chunks learned from.

    Arguments as of `FlowMatchingAlgorithm`; the environment is only compared with the policy.
    """

    name: ClassVar[str] = "bc"
    Config = BCConfig
    imagines: ClassVar[bool] = False

    def __init__(
        self, policy: Policy, env: Any, config: BCConfig | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        config = config or BCConfig()
        requirement(self.name)(config.offline_ratio == 1, f"offline_ratio is {config.offline_ratio}, expected 1")
        if offline is not None and not config.conditioned:
            offline = _AsBest(offline, policy.codec.best_bin)
        super().__init__(policy, env, config, offline=offline)

    def step(self) -> None:
        """One update on recorded chunks."""
        assert self._offline is not None  # offline_ratio is 1
        rng = np.random.default_rng([self.config.seed, self.rounds])
        used = self.progress
        loss, norm = self.learner.update([self._offline.draw(self.config.batch_size, rng)], rng, used)
        self.num_timesteps += self.config.batch_size
        self.metrics |= {
            "train/loss": loss,
            "train/grad_norm": norm,
            "train/learning_rate": self.learner.learning_rate(used),
            "train/ema_distance": self.learner.distance(),
        }

    def phase(self) -> Phase:
        """Where the run stands."""
        return super().phase()._replace(name="cloning recorded chunks")

    def training_state(self) -> dict[str, Any]:
        """The learner."""
        return {"learner": self.learner.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `training_state`."""
        self.learner.load_state_dict(state["learner"])


class _AsBest:
    """Recorded chunks, every one in the best advantage bin."""

    def __init__(self, data: ChunkSource, best_bin: int) -> None:
        self._data, self._best_bin = data, best_bin

    def __len__(self) -> int:
        return len(self._data)

    def batch(self, which: np.ndarray, device: torch.device | str = "cpu") -> Recorded:
        found = self._data.batch(which, device)
        return dataclasses.replace(found, advantage_bins=torch.full_like(found.advantage_bins, self._best_bin))


@dataclass
class BehaviourCloning:
    """One run: data, settings and where it writes.

    Attributes:
        dataset: Recorded episodes.
        advantage_bins: Advantage bin of every frame, int64 (N,).
        config: Settings.
        folder: Run folder: `policy_state.pt` (for resuming), `model/` (what `load_policy` loads),
            `config.json`, `metrics.json`, `tensorboard/`.
        budget: How long.
        codec: Meaning of the bins, fitted to the data; that of `config` when None.
        first: Use the first so many episodes only; all when None.
        successes: Use the episodes that succeeded only.
        initial: Policy to go on from; a new one when None.
        eyes: Policy whose image encoders a new one takes over for good; see `Policy.see_like`.
        device: Where.
        report: Called with the progress.
        closed_loop_eval: Given the averaged policy, closed-loop metrics; called at every evaluation.
        tensorboard: Whether to write TensorBoard files.
    """

    dataset: Dataset
    advantage_bins: np.ndarray
    config: PolicyConfig
    folder: Path
    budget: Budget
    codec: AdvantageCodec | None = None
    first: int | None = None
    successes: bool = False
    initial: Policy | None = None
    eyes: Policy | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Progress], None] | None = None
    closed_loop_eval: Callable[[Policy], dict[str, float]] | None = None
    tensorboard: bool = True


def train_policy(run: BehaviourCloning) -> Policy:
    """Train a policy on recorded chunks; an interrupted run goes on where it stood.

    Returns:
        The policy with averaged weights, as in `<folder>/model`.

    Raises:
        TrainingError: If a loss is not finite.
        CheckpointError: If a saved state is damaged or belongs to other settings.
    """
    config, training = run.config, run.config.training
    torch.manual_seed(training.seed)
    parts = split_episodes(run.dataset, {"train": 1 - training.held_out, "heldout": training.held_out}, seed=0)
    if run.successes:
        won = run.dataset.success
        parts = {name: episodes[won[episodes]] for name, episodes in parts.items()}
        if lacking := [name for name, episodes in parts.items() if not len(episodes)]:
            raise ConfigError(
                f"of {len(won)} episodes {int(won.sum())} succeeded, none of them in the part {lacking[0]!r}: there is "
                "nothing to learn from; record more"
            )
    policy = run.initial or make_policy(run.dataset.spec, config, run.codec)
    data = RecordedChunks(run.dataset, policy.lags, run.advantage_bins, parts["train"][: run.first])
    held_out = RecordedChunks(run.dataset, policy.lags, run.advantage_bins, parts["heldout"])
    if run.initial is None:
        window = data.windows.at(data.windows.index)
        policy.fit_normalisation(torch.from_numpy(window.states[:, -1]), torch.from_numpy(window.actions))
        if run.eyes is not None:
            policy.see_like(run.eyes)
    policy.to(run.device)
    bins = np.bincount(run.advantage_bins, minlength=config.advantage.num_bins + 1).tolist()
    size = {"episodes": run.dataset.num_episodes, "frames": run.dataset.num_frames}
    described: dict[str, Any] = {"policy": config, "data": {**size, "first": run.first, "advantage_bins": bins}}
    if run.successes:  # runs of before know nothing of it
        described["data"] |= {"successes": sum(map(len, parts.values()))}
    if run.eyes is not None:
        described["encoders"] = weights_digest(run.eyes)
    writer = start_run(run.folder, described, training.seed, {"policy": described}, run.tensorboard)
    sampler = _sampler(data, training)
    shares = training.gradient_accumulation_steps

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        number = training.seed * 1_000_003 + step + (part << 40)
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)  # dropout draws from here
        batch = data.batch(sampler.draw(step)[part::shares], run.device)
        context = policy.context(batch.observations, batch.prompts, generator)
        total = policy.loss(context, batch.advantage_bins, batch.chunks, generator).mean()
        return total, {"loss": total.detach()}

    def evaluate(average: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(average, Policy)
        closed_loop = run.closed_loop_eval(average) if run.closed_loop_eval else {}
        return _metrics(average, held_out, run.device) | closed_loop

    loop = Loop(
        "policy", run.folder, policy, loss, training, run.budget, described,
        evaluate=evaluate, evaluate_seconds=training.evaluate_seconds, accumulate=shares, report=run.report,
        writer=writer,
    )  # fmt: skip
    policy.load_state_dict(loop.run().state_dict())
    policy.eval()
    policy.save_pretrained(run.folder / "model")
    write_json(run.folder / "metrics.json", {"step": loop.step, "seconds": loop.elapsed, **loop.metrics})
    return policy


def _sampler(data: RecordedChunks, training: CloningConfig) -> Sampler:
    """All chunks alike, or some of every batch from the first frames."""
    if not training.focus_frames:
        return ShuffledSampler(len(data), training.batch_size, training.seed)
    first = np.flatnonzero(data.windows.frame < training.focus_frames)
    return FocusedSampler(len(data), first, training.focus_share, training.batch_size, training.seed)


@torch.no_grad()
def _metrics(policy: Policy, held_out: RecordedChunks, device: torch.device) -> dict[str, float]:
    """Flow loss on held-out chunks, and the error of sampled chunks under their recorded bin, in normalised units."""
    which = np.unique(np.linspace(0, len(held_out) - 1, min(len(held_out), _HELD_OUT)).astype(np.int64))
    batch = held_out.batch(which, device)
    context = policy.eval().context(batch.observations, batch.prompts)
    generator = torch.Generator().manual_seed(0)
    loss = policy.loss(context, batch.advantage_bins, batch.chunks, generator).mean()
    noise = torch.randn((len(which), *policy.noise_shape), generator=generator).to(device)
    sampled = policy.sample(context, batch.advantage_bins, noise)
    error = policy.normalise(sampled, context.state) - policy.normalise(batch.chunks, context.state)
    return {"loss_held_out": float(loss), "sample_error": float(error.abs().mean())}
