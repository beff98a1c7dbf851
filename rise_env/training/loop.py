"""The training loop of all models: it survives a kill and goes on to the same result.

Everything random in update i depends on the seed and on i alone, so the whole state of a run is its step, weights,
averaged weights, optimiser, and what a subclass adds.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rise_env.errors import CheckpointError, TrainingError, requirement
from rise_env.files import atomic_path, exclusive, to_json
from rise_env.training.config import LoopConfig
from rise_env.training.state import ANEW, check_identity, read_state
from rise_env.training.team import Loss, team

if TYPE_CHECKING:
    from rise_env.training.sharding import Shards

__all__ = ["Budget", "Loop", "Progress"]

#: What of a loop the state on disk holds: as it is, and by `state_dict`.
_PLAIN: Mapping[str, Any] = {"step": int, "elapsed": float, "finished": bool, "metrics": dict}
_STATEFUL = ("module", "average", "optimiser")


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of updates, or seconds.

    A run by updates is the same however often it is interrupted; one by seconds ends on time on any machine, its
    learning rate falling with the time that is used up.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        require = requirement("training budget")
        require((self.steps is None) != (self.seconds is None), "give a number of steps or a number of minutes")
        require.positive(self, "steps", "seconds")

    def used(self, step: int, elapsed: float) -> float:
        """Share that is used up, 0 to 1."""
        share = step / self.steps if self.steps is not None else elapsed / (self.seconds or 1.0)
        return min(share, 1.0)


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes:
        phase: "autoencoder", "encoding", "transformer", "value" or "policy".
        step: Updates (frames) done.
        used: Share of the budget used up.
        elapsed: Seconds of training, those before an interruption included.
        metrics: Latest metrics by name.
        resumed: Whether this is the first report after an interruption.
    """

    phase: str
    step: int
    used: float
    elapsed: float
    metrics: Mapping[str, float]
    resumed: bool = False


class Loop:
    """Trains one module. Subclasses change optimiser, learning rate or average, or keep more state, by overriding.

    Args:
        phase: Name, for files and reports.
        folder: Run folder; the state is kept in `<phase>_state.pt`.
        module: What is trained.
        loss: Given the number of an update and that of a part of it (0 to accumulate - 1), the part's loss and its
            metrics.
        config: Settings.
        budget: How long.
        identity: Plain values that must be the same when the run is resumed.
        evaluate: Given the module with averaged weights and the step, metrics; called now and then, and at the end.
        evaluate_seconds: Time between two evaluations.
        learning_rate: Peak learning rate; that of `config` when None.
        accumulate: Parts of an update, whose gradients are summed; processes of a `Team` share them.
        report: Called after updates, a few times a second.
        writer: TensorBoard writer, or None.

    Attributes:
        average: Copy of the module with averaged weights.
        step: Updates done.
        elapsed: Seconds of training, those before an interruption included.
        metrics: Latest metrics by name.
    """

    def __init__(
        self,
        phase: str,
        folder: Path,
        module: nn.Module,
        loss: Loss,
        config: LoopConfig,
        budget: Budget,
        identity: Mapping[str, Any],
        *,
        evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
        evaluate_seconds: float = math.inf,
        learning_rate: float | None = None,
        accumulate: int = 1,
        report: Callable[[Progress], None] | None = None,
        writer: Any = None,
    ) -> None:
        self.phase, self.path = phase, folder / f"{phase}_state.pt"
        self.module, self.loss, self.evaluate = module, loss, evaluate
        self.config, self.budget = config, budget
        self.evaluate_seconds, self.accumulate = evaluate_seconds, accumulate
        self.peak = config.learning_rate if learning_rate is None else learning_rate
        self.identity = to_json(identity)
        self.report, self.writer = report, writer
        self._team = team()
        self._parts = self._team.share(accumulate, f"{config.section}.gradient_accumulation_steps")
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        self.optimiser = self.make_optimiser()
        self.step, self.elapsed, self.finished = 0, 0.0, False
        self._kept: int | None = None  # updates in the state on disk
        self._shards: Shards | None = None  # where several processes share the weights
        self.metrics: dict[str, float] = {}

    @property
    def used(self) -> float:
        """Share of the budget that is used up, 0 to 1."""
        return self.budget.used(self.step, self.elapsed)

    def run(self) -> nn.Module:
        """Train to the end of the budget, from where an interrupted run stood; returns the averaged weights.

        Raises:
            TrainingError: If a loss or gradient is not finite. The last full state stays on disk.
            CheckpointError: If that state is damaged or of another run.
            ConfigError: If another process trains in the same folder.
        """
        with exclusive(self.path.parent):
            try:
                return self._run()
            except BaseException as stopped:
                stopped.add_note(
                    f"{self.path.parent} keeps nothing of this yet ({self.phase}): it begins anew" if self._kept is None
                    else f"{self.path} keeps {self._kept:,} updates: the same command goes on from there"
                )  # fmt: skip
                raise

    def _run(self) -> nn.Module:
        resumed = self._load()
        if len(found := set(self._team.numbers(self.step))) > 1:
            raise CheckpointError(
                f"the processes found {sorted(map(int, found))} updates in {self.path}: put the run folder (--out) on "
                "a file system that all machines share"
            )
        if self.finished:
            return self.average
        trained = [parameter.requires_grad for parameter in self.module.parameters()]
        self.loss = self._team.join(self.module, self.loss)
        if self._team.shards:
            self._share(trained)
        self._say({}, resumed)
        started, before = time.monotonic(), self.elapsed
        saved = evaluated = spoken = started
        self.module.train()
        while self.used < 1.0:
            metrics = self._update()
            now = time.monotonic()
            self.elapsed = before + now - started
            if self.budget.seconds is not None:
                self.elapsed = self._team.numbers(self.elapsed)[0]  # it decides what is learned, and how long
            if now - spoken > 0.5 or self.step == 1:
                spoken = now
                self._say({name: float(value) for name, value in metrics.items()})
            if self._due(now - evaluated > self.evaluate_seconds):
                self._evaluate()
                evaluated = time.monotonic()
            if self._due(now - saved > self.config.checkpoint_seconds):
                self._save()
                saved = time.monotonic()
        self._evaluate()
        self.finished = True
        self._save()
        if self._shards is not None:
            self._shards.end()
        return self.average

    def _share(self, trained: list[bool]) -> None:
        """Go on with this process's part of the weights, which have been divided, and of all that belongs to them."""
        from rise_env.training.sharding import Shards

        self._shards, state = Shards(self.module, self.average, trained), self.optimiser.state_dict()
        self.optimiser = self.make_optimiser()
        self._shards.take(self.optimiser, state)

    def _due(self, mine: bool) -> bool:
        """Whether something is due; the first process decides where all have to take part."""
        return mine if self._shards is None else bool(self._team.numbers(mine)[0])

    def weights(self) -> dict[str, torch.Tensor]:
        """State of the module, whole; where processes share the weights, all of them have to ask."""
        return self.module.state_dict() if self._shards is None else self._shards.weights()

    # ------------------------------------------------------------------ what a subclass may change

    def make_optimiser(self) -> torch.optim.Optimizer:
        """AdamW; only matrices decay."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        matrices = {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.config.weight_decay}
        others = {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}
        return torch.optim.AdamW([matrices, others], lr=self.peak, betas=(0.9, 0.95), eps=1e-8)

    def learning_rate(self) -> float:
        """Learning rate of the next update: linear warm-up (at most a tenth of the run), cosine down to the floor."""
        warmup = self.config.warmup_steps
        if self.budget.steps is not None:
            warmup = min(warmup, max(self.budget.steps // 10, 1))
        return self.peak * (min(1.0, (self.step + 1) / max(warmup, 1)) * self._cosine())

    def average_decay(self) -> float:
        """Decay of the averaged weights after the present update; less at first, to forget the random start."""
        return min(self.config.ema_decay, self.step / (self.step + 10.0))

    def begin_update(self) -> None:
        """Called before every update; nothing here."""

    def updated(self) -> None:
        """Called after every update; nothing here."""

    def saved(self) -> None:
        """Called after the state was written; nothing here."""

    def extra_state(self) -> dict[str, Any]:
        """More to keep in the state on disk: tensors and plain values."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave."""

    # ------------------------------------------------------------------ one update

    def _update(self) -> dict[str, torch.Tensor]:
        rate = self.learning_rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        self.begin_update()
        metrics: dict[str, torch.Tensor] = {}
        for part in self._parts:
            waits = part != self._parts[-1]
            with self._team.quietly(self.loss) if waits else contextlib.nullcontext():
                loss, metrics = self.loss(self.step, part)
                self._check_loss(loss, metrics)
                (loss / len(self._parts)).backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_grad_norm)
        norm = norm if self._shards is None else self._shards.whole(norm)
        if not bool(torch.isfinite(norm)):
            self._not_finite(f"the norm of the gradient is {float(norm)}")
        self.optimiser.step()
        self.step += 1
        decay = self.average_decay()
        with torch.no_grad():
            pairs = [(averaged, present) for averaged, present in self._pairs() if averaged.is_floating_point()]
            torch._foreach_lerp_([one for one, _ in pairs], [one for _, one in pairs], 1.0 - decay)
            self.updated()
        return {**metrics, "gradient_norm": norm.detach(), "learning_rate": torch.tensor(rate)}

    def _pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Averaged and present state of this process."""
        if self._shards is not None:
            return self._shards.pairs()
        return list(zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True))

    def _check_loss(self, loss: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
        if not bool(torch.isfinite(loss)):
            parts = "".join(f", {name} {float(value):.3g}" for name, value in metrics.items() if name != "loss")
            self._not_finite(f"the loss is {float(loss.detach())}{parts}")

    def _cosine(self) -> float:
        floor = self.config.lr_floor
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * self.used))

    def _evaluate(self) -> None:
        if self.evaluate is not None and self._shards is not None:
            self._shards.gather()
        if self.evaluate is None or self._team.rank:
            return
        device = next(self.module.parameters()).device
        self._write(self.evaluate(self.average.to(device), self.step))
        if self._shards is not None:
            self.average.to("cpu")
        self.module.train()

    def _say(self, metrics: dict[str, float], resumed: bool = False) -> None:
        self._write(metrics)
        if self.report is not None:
            self.report(Progress(self.phase, self.step, self.used, self.elapsed, dict(self.metrics), resumed))

    def _write(self, metrics: Mapping[str, float]) -> None:
        self.metrics |= metrics
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(f"{self.phase}/{name}", value, self.step)

    def _not_finite(self, what: str) -> None:
        kept = f"The state of {self.path} is intact" if self.path.exists() else "No state was saved yet"
        raise TrainingError(
            f"{self.phase}, update {self.step}: {what}. {kept}; this update was not applied. Lower the learning rate "
            f"({self.config.section}.learning_rate, now {self.peak}) or look for broken frames or joints in the data; "
            "then delete the run folder to start anew, or run the same command to go on from the saved state."
        )

    # ------------------------------------------------------------------ the state on disk

    def _save(self) -> None:
        state = {name: getattr(self, name) for name in ("identity", *_PLAIN)} | {"extra": self.extra_state()}
        if self._shards is not None:
            self._shards.gather()
        state |= {name: getattr(self, name).state_dict() for name in _STATEFUL}
        state = state if self._shards is None else self._shards.on_cpu(state)
        if self._team.rank:
            return
        with atomic_path(self.path) as aside:
            torch.save(state, aside)
        self._kept = self.step
        self.saved()

    def _load(self) -> bool:
        if not self.path.exists():
            return False
        state = read_state(self.path)
        check_identity(self.path, state["identity"], self.identity)
        try:
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            for name, kind in _PLAIN.items():
                setattr(self, name, kind(state[name]))
            self.load_extra_state(state.get("extra", {}))
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.path} does not fit: {shorten(str(error), 200)}. {ANEW}") from error
        self._kept = self.step
        return True
