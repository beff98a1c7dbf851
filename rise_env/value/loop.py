"""The training loop of value models: two phases, and a target network for temporal differences."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from rise_env.training.loop import Budget, Loop
from rise_env.value.augment import augment_latents, augment_pixels
from rise_env.value.config import ValueConfig
from rise_env.value.imagined import ImaginedFrames
from rise_env.value.labels import FrameDataset, Labels
from rise_env.value.losses import distributional_loss, progress_loss, success_loss, td_loss, td_target, td_transition
from rise_env.value.model import ValueModel

__all__ = ["ValueLoop"]


class ValueLoop(Loop):
    """Trains a value model: every head but `td` first, then every head.

    The share of the updates that the first phase has is its share of any budget. The model with averaged weights is
    kept in `model/` of the run folder. Arguments are as for `Loop`, and:

    Args:
        dataset: Where frames come from.
        labels: Their labels.
        index: Frames to train on.
        imagined: Imagined frames to mix in.
    """

    def __init__(
        self, folder: Path, model: ValueModel, config: ValueConfig, budget: Budget, identity: Mapping[str, Any],
        dataset: FrameDataset, labels: Labels, index: np.ndarray, imagined: ImaginedFrames | None, **outlets: Any,
    ) -> None:  # fmt: skip
        training = config.training
        outlets |= {"accumulate": training.gradient_accumulation_steps}
        super().__init__("value", folder, model, self._loss, training, budget, identity, **outlets)
        self.model, self.value_config, self.device = model, config, model.device
        self.dataset, self.labels, self.index, self.imagined = dataset, labels, index, imagined
        self.target: ValueModel | None = None
        keep = np.random.default_rng([training.seed, 0xB007]).random((config.model.members, len(labels.lengths)))
        self.members = torch.from_numpy((keep < training.bootstrap).astype(np.float32))
        self.first_phase = training.progress_steps / (training.progress_steps + training.td_steps)

    def make_optimiser(self) -> torch.optim.Optimizer:
        """AdamW; everything decays."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, self.peak, (0.9, 0.95), weight_decay=self.config.weight_decay)

    def learning_rate(self) -> float:
        """As in other loops, but that the warm-up of a short run is as long as that of others."""
        warmup = self.config.warmup_steps
        return self.peak * (min(1.0, (self.step + 1) / warmup) if warmup else 1.0) * self._cosine()

    def average_decay(self) -> float:
        """Decay of the averaged weights."""
        return min(self.config.ema_decay, self.step / (self.step + 9.0))

    def begin_update(self) -> None:
        """Start the target network with the second phase."""
        if self._with_td and self.target is None:
            self._start_target().load_state_dict(self.weights())

    def updated(self) -> None:
        """Let the target network follow."""
        if self.target is not None:
            slow, weights = dict(self.target.named_parameters()), self.weights()
            torch._foreach_lerp_(list(slow.values()), [weights[name] for name in slow], self.value_config.td.tau)

    def saved(self) -> None:
        """Write the model that the state belongs to."""
        cast(ValueModel, self.average).save_pretrained(self.path.parent / "model")

    def extra_state(self) -> dict[str, Any]:
        """The target network."""
        return {} if self.target is None else {"target": self.target.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the target network back."""
        if "target" in state:
            self._start_target().load_state_dict(state["target"])

    def _start_target(self) -> ValueModel:
        self.target = copy.deepcopy(cast(ValueModel, self.average)).to(self.device)  # of the right shape
        return self.target

    @property
    def _with_td(self) -> bool:
        return "td" in self.value_config.model.heads and self.used >= self.first_phase

    def _loss(self, step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        losses = self._losses(step, part)
        weights = self.value_config.training.weights
        total = torch.stack([weights.get(head, 1.0) * loss for head, loss in losses.items()]).sum()
        return total, {"loss": total.detach(), **{head: loss.detach() for head, loss in losses.items()}}

    def _losses(self, step: int, part: int) -> dict[str, torch.Tensor]:
        config, labels = self.value_config, self.labels
        rng = np.random.default_rng([config.training.seed, step, *([part] if part else [])])
        size = config.training.batch_size // config.training.gradient_accumulation_steps
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        count = round(size * config.training.imagined_ratio) if self.imagined is not None else 0
        index = self.index[rng.integers(len(self.index), size=size - count)]
        frames = self.dataset.frames(index)
        if self.imagined is not None and count:
            others, imitated = self.imagined.draw(rng, count)
            frames, index = np.concatenate([frames, others]), np.concatenate([index, imitated])
        moments = self.model.prepare(torch.from_numpy(np.ascontiguousarray(frames)))
        if self.model.reads_latents:
            moments = augment_latents(moments, self.model.latent_std, config.training, noise)
        else:
            moments = augment_pixels(moments, config.training, noise)
        owner = labels.episode[index]
        prompts = [labels.tasks[i] for i in owner]
        outputs = self.model(moments, prompts)
        seen = self.members[:, torch.from_numpy(owner)].to(self.device)

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

        ended = seen * tensor(labels.ended[owner])
        losses: dict[str, torch.Tensor] = {}
        if "progress" in outputs:
            known = seen * tensor(labels.progress_known[index])
            losses["progress"] = progress_loss(outputs["progress"], tensor(labels.progress[index]), known)
        if "success" in outputs:
            losses["success"] = success_loss(outputs["success"], tensor(labels.success[owner]), ended)
        if "distributional" in outputs:
            returns, centers = tensor(labels.returns[index]), self.model.bin_centers
            losses["distributional"] = distributional_loss(outputs["distributional"], returns, centers, ended)
        if self._with_td:
            assert self.target is not None
            move = td_transition(labels, index, config.td)
            following = self.model.prepare(torch.from_numpy(np.ascontiguousarray(self.dataset.frames(move.next_index))))
            with torch.no_grad():
                ahead = torch.tanh(self.target(following, prompts)["td"])
            target = td_target(tensor(move.reward), tensor(move.discount), ahead, config.td)
            losses["td"] = td_loss(outputs["td"], target, seen * tensor(move.known))
        return losses
