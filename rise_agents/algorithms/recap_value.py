"""The value function of RECAP: a distribution over the normalised return, fitted to the outcomes of recorded episodes.

It is checked before anything is learned from it. A value function that cannot learn 16 pictures by heart is wired
wrongly; one that does not rank episodes by their outcome, or is as good with the pictures of other moments, labels
chunks at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rise_env.data import Dataset, split_episodes
from rise_env.errors import TrainingError, requirement
from rise_env.spaces import image_key
from rise_env.value.augment import augment_pixels
from rise_env.value.config import ModelConfig, TrainingConfig
from rise_env.value.evaluation import auroc, read_values, spearman
from rise_env.value.labels import optional_column
from rise_env.value.losses import expectation
from rise_env.value.model import InputShape, ValueModel
from rise_env.value.returns import TARGETS, bin_targets, episode_returns, return_scales

__all__ = ["ReturnValue", "ReturnValueConfig", "check_problems"]

_WARMUP = 50  # updates
_LR_FLOOR = 0.1  # last learning rate over the peak
#: The checks: samples and updates of the first, and the worst results that pass (ours).
_SAMPLES, _OVERFIT_UPDATES, _OVERFIT_ERROR, _LEAST_AUROC = 16, 400, 0.02, 0.6
_CHECKED = 1024  # held-out frames whose loss is measured


@dataclass(frozen=True)
class ReturnValueConfig:
    """Settings of RECAP's value function.

    Attributes:
        failure_cost: C_fail, cost of a failed episode in control steps (LeRobot's branch of RECAP: 50; RLinf: 300).
        length_percentile: Returns are divided by H - 1 + C_fail, with H this percentile of a task's episode lengths:
            100, the longest, as published; 75 cures a value that single long episodes flatten.
        target: "hl_gauss" or "one_hot", see `rise_env.value.returns.bin_targets`.
        bins: Bins of the return (published: 201).
        updates: Updates. Ours, like all below: the published value function is a small vision-language model.
        batch_size: Frames per update.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay.
    """

    failure_cost: float = 50.0
    length_percentile: float = 100.0
    target: str = "hl_gauss"
    bins: int = 201
    updates: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        require = requirement("value function of recap")
        require(self.failure_cost >= 0, f"failure_cost is {self.failure_cost}, expected at least 0")
        percentile = self.length_percentile
        require(0 < percentile <= 100, f"length_percentile is {percentile}, expected above 0, at most 100")
        require(self.target in TARGETS, f"target is {self.target!r}, expected one of {TARGETS}")
        require(self.bins >= 2, f"bins is {self.bins}, expected at least 2")
        for name in ("updates", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected at least 1")
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}, expected a positive number")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}, expected at least 0")


class ReturnValue:
    """A value function and what it is fitted to.

    Nine tenths of the episodes are learned from, those that `rise improve` trains the policy on; the rest serves the
    checks. Episodes that were cut off (column `episode_truncated`) have no outcome: nothing is learned from them.

    Args:
        dataset: Recorded episodes with explicit outcomes.
        config: Settings.
        seed: Seed of everything random.

    Attributes:
        model: A `ValueModel` with one distributional head.
        returns: Normalised return of every frame, float32 (N,).
        scales: Control steps that a return of -1 stands for, by task.
        episode_scales: The same by episode, (E,).
        ended: Whether an episode's outcome is known, bool (E,).
        num_updates: Updates so far.

    Raises:
        DatasetError: If the dataset does not say which episodes succeeded.
    """

    def __init__(self, dataset: Dataset, config: ReturnValueConfig, seed: int) -> None:
        self.dataset, self.config, self._seed = dataset, config, seed
        lengths = dataset.lengths
        self.tasks = [episode.task for episode in dataset.episodes]
        self.scales = return_scales(lengths, self.tasks, config.failure_cost, config.length_percentile)
        self.episode_scales = np.array([self.scales[task] for task in self.tasks])
        self.returns = episode_returns(lengths, dataset.success, config.failure_cost, self.episode_scales)
        truncated = optional_column(dataset, "episode_truncated")
        self.ended = np.ones(len(lengths), bool) if truncated is None else ~truncated.astype(bool)[dataset.starts]
        self.owner = np.repeat(np.arange(len(lengths)), lengths)
        self._terminal = np.zeros(dataset.num_frames, bool)
        self._terminal[dataset.starts + lengths - 1] = True
        parts = split_episodes(dataset)
        learned, self._held_out = (part[self.ended[part]] for part in (parts["train"], parts["heldout"]))
        self._frames = np.flatnonzero(np.isin(self.owner, learned))
        requirement("recap")(len(self._frames) > 0, "no episode has an outcome: there is nothing to fit a value to")
        self.model = self._new_model()
        self._optimiser = self._new_optimiser(self.model)
        self.num_updates = 0

    def update(self) -> float:
        """One update; its loss.

        Raises:
            TrainingError: If the loss is not finite; the weights are left as they were.
        """
        config = self.config
        rng = np.random.default_rng([self._seed, self.num_updates, 4])
        index = self._frames[rng.integers(len(self._frames), size=config.batch_size)]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rising = (self.num_updates + 1) / _WARMUP
        falling = _LR_FLOOR + (1 - _LR_FLOOR) * (1 - self.num_updates / config.updates)
        self._optimiser.param_groups[0]["lr"] = config.learning_rate * min(1.0, rising, falling)
        pictures = augment_pixels(self._pictures(self.model, index), TrainingConfig(), generator)
        loss = self._step(self.model, self._optimiser, pictures, index)
        self.num_updates += 1
        return loss

    def annotate(self) -> np.ndarray:
        """Value of every frame of the dataset, float32 (N,); in evaluation mode, whatever the model has of dropout."""
        index = np.arange(self.dataset.num_frames)
        found = read_values(self.model, self.dataset, index, [self.tasks[i] for i in self.owner])["output"][0]
        if not np.isfinite(found).all():
            raise TrainingError("the value function gave a value that is not finite; nothing was labelled with it")
        return found

    def read(self, observations: Mapping[str, Any], prompt: str) -> np.ndarray:
        """Values (N,) of an environment's observations."""
        views = [torch.as_tensor(observations[image_key(camera)]) for camera in self.dataset.spec.cameras]
        frames = torch.stack(views, dim=1)[:, None]
        return self.model.estimate(frames, [prompt] * len(frames)).value[:, 0].cpu().numpy()

    def step_cost(self, prompt: str) -> float:
        """Normalised return of one control step of a task, positive; of the longest one where it is not recorded."""
        return 1.0 / self.scales.get(prompt, max(self.scales.values()))

    # ------------------------------------------------------------------ the checks

    def check(self, values: np.ndarray) -> dict[str, float]:
        """How far the value function can be trusted; `check_problems` says what is wrong.

        Args:
            values: From `annotate`.

        Returns:
            Metrics, not a number where they cannot be measured. `overfit_error`: mean error of a new network trained
            on 16 frames alone. On held-out episodes: `outcome_auroc`, probability that a success is valued above a
            failure over its second half; `rank_correlation`, of value and return within an episode, on average; `loss`
            and `shuffled_loss_gap`, cross-entropy, and by how much it rises when pictures are shuffled.
        """
        dataset, held_out = self.dataset, self._held_out
        later, within = [], []
        for episode in held_out:
            rows = slice(dataset.starts[episode], dataset.starts[episode] + dataset.lengths[episode])
            later.append(values[rows][dataset.lengths[episode] // 2 :].mean())
            within.append(spearman(values[rows], self.returns[rows]))
        frames = np.flatnonzero(np.isin(self.owner, held_out))
        rng = np.random.default_rng([self._seed, 5])
        frames = rng.permutation(frames)[:_CHECKED]
        loss = self._loss(frames, frames)
        ranked = auroc(np.array(later), dataset.success[held_out]) if len(held_out) else None
        known = [one for one in within if one is not None]
        return {
            "overfit_error": self._overfit(rng),
            "outcome_auroc": float("nan") if ranked is None else ranked,
            "rank_correlation": float(np.mean(known)) if known else float("nan"),
            "loss": loss,
            "shuffled_loss_gap": self._loss(rng.permutation(frames), frames) - loss,
        }

    def _overfit(self, rng: np.random.Generator) -> float:
        """Mean error of a new network on 16 frames that it is trained on, from all over the returns."""
        order = self._frames[np.argsort(self.returns[self._frames], kind="stable")]
        index = order[np.linspace(0, len(order) - 1, min(_SAMPLES, len(order))).astype(np.int64)]
        model = self._new_model()
        optimiser, pictures = self._new_optimiser(model), self._pictures(model, index)
        prompts, wanted = self._prompts(index), torch.from_numpy(self.returns[index])
        error = float("inf")
        for update in range(_OVERFIT_UPDATES):
            self._step(model, optimiser, pictures, index)
            if update % 20 == 19:
                with torch.no_grad():
                    found = expectation(model(pictures, prompts)["distributional"][0], model.bin_centers)
                error = float((found - wanted).abs().mean())
                if error < _OVERFIT_ERROR:
                    break
        return error

    @torch.no_grad()
    def _loss(self, seen: np.ndarray, meant: np.ndarray) -> float:
        """Mean cross-entropy of the pictures of some frames to the returns of others."""
        if not len(seen):
            return float("nan")
        total, self_mode = 0.0, self.model.training
        self.model.eval()
        for first in range(0, len(seen), 128):
            part = slice(first, first + 128)
            logits = self.model(self._pictures(self.model, seen[part]), self._prompts(meant[part]))["distributional"]
            total += float(-(self._targets(meant[part]) * logits[0].log_softmax(-1)).sum())
        self.model.train(self_mode)
        return total / len(seen)

    # ------------------------------------------------------------------ network and loss

    def _new_model(self) -> ValueModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            spec = self.dataset.spec
            head = ModelConfig(heads=("distributional",), output="distributional", members=1, bins=self.config.bins)
            return ValueModel(head, InputShape(tuple(spec.cameras), *spec.image_size))

    def _new_optimiser(self, model: ValueModel) -> torch.optim.AdamW:
        config = self.config
        return torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)

    def _pictures(self, model: ValueModel, index: np.ndarray) -> torch.Tensor:
        return model.prepare(torch.from_numpy(self.dataset.frames(index)))

    def _prompts(self, index: np.ndarray) -> list[str]:
        return [self.tasks[i] for i in self.owner[index]]

    def _targets(self, index: np.ndarray) -> torch.Tensor:
        returns, terminal = torch.from_numpy(self.returns[index]), torch.from_numpy(self._terminal[index])
        return bin_targets(returns, self.config.bins, self.config.target, terminal)

    def _step(
        self, model: ValueModel, optimiser: torch.optim.Optimizer, pictures: torch.Tensor, index: np.ndarray
    ) -> float:
        model.train()
        logits = model(pictures, self._prompts(index))["distributional"][0]
        loss = -(self._targets(index) * logits.log_softmax(-1)).sum(-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            optimiser.zero_grad(set_to_none=True)
            raise TrainingError(f"update {self.num_updates} of the value function: the loss is {float(loss.detach())}; "
                                "lower value.learning_rate")  # fmt: skip
        optimiser.step()
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and number of updates."""
        return {
            "model": self.model.state_dict(), "optimiser": self._optimiser.state_dict(), "updates": self.num_updates
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.num_updates = int(state["updates"])


def check_problems(metrics: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """What `ReturnValue.check` found to be wrong, and what it could not find out; in words."""
    wrong, unknown = [], []
    if not metrics["overfit_error"] < _OVERFIT_ERROR:
        wrong.append(
            f"a new network does not learn {_SAMPLES} frames by heart (mean error {metrics['overfit_error']:.3f}, "
            f"expected below {_OVERFIT_ERROR}): pictures or returns are broken, or value.learning_rate is wrong"
        )
    if np.isnan(metrics["outcome_auroc"]):
        unknown.append("whether episodes are ranked by outcome: all held-out ones have the same")
    elif metrics["outcome_auroc"] < _LEAST_AUROC:
        wrong.append(
            f"held-out episodes are not ranked by outcome (a success is valued above a failure with probability "
            f"{metrics['outcome_auroc']:.2f}, expected {_LEAST_AUROC} or more)"
        )
    if np.isnan(metrics["shuffled_loss_gap"]):
        unknown.append("whether pictures matter: no held-out episode has an outcome")
    elif metrics["shuffled_loss_gap"] <= 0:
        wrong.append(
            f"the loss does not rise when pictures are shuffled (by {metrics['shuffled_loss_gap']:.3f}): the value "
            "function does not look at them"
        )
    return wrong, unknown
