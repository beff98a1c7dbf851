"""The training loop that autoencoder and transformer share: it survives a kill and goes on to the same result.

Everything random in update i depends on the seed and on i alone, so the whole state of a run is its step, weights,
averaged weights and optimiser.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.files import atomic_path, to_json

__all__ = ["Budget", "Loop", "Progress", "Settings"]


@dataclass(frozen=True)
class Budget:
    """How long to train: a number of updates, or seconds.

    A run by updates is the same however often it is interrupted; one by seconds ends on time on any machine, its
    learning rate falling with the time that is used up.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError("a training budget is a number of steps or a number of minutes: give one of them")
        if (self.steps or self.seconds or 0) <= 0:
            raise ConfigError("a training budget must be positive")

    def used(self, step: int, elapsed: float) -> float:
        """Share that is used up, 0 to 1."""
        share = step / self.steps if self.steps is not None else elapsed / (self.seconds or 1.0)
        return min(share, 1.0)


@dataclass(frozen=True)
class Settings:
    """What the loop needs of `TrainingConfig`."""

    rate: float
    warm_up: int
    rate_floor: float
    weight_decay: float
    clip: float
    ema: float
    accumulate: int
    checkpoint_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for whoever shows it.

    Attributes:
        phase: "autoencoder", "encoding" or "transformer".
        step: Updates (frames) done.
        used: Share of the budget used up.
        elapsed: Seconds of training, those before an interruption included.
        metrics: Latest figures by name.
        resumed: Whether this is the first report after an interruption.
    """

    phase: str
    step: int
    used: float
    elapsed: float
    metrics: Mapping[str, float]
    resumed: bool = False


class Loop:
    """Trains one module.

    Args:
        phase: Name, for files and reports.
        folder: Run folder; the state is kept in `<phase>_state.pt`.
        module: What is trained.
        loss: Given the number of an update and that of a part of it (0 to accumulate - 1), the part's loss and its
            figures.
        evaluate: Given the module with averaged weights and the step, figures; called now and then, and at the end.
        settings: Settings.
        budget: How long.
        identity: Plain values that must be the same when the run is resumed.
        report: Called after updates, a few times a second.
        writer: TensorBoard writer, or None.
    """

    def __init__(
        self,
        phase: str,
        folder: Path,
        module: nn.Module,
        loss: Callable[[int, int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
        evaluate: Callable[[nn.Module, int], dict[str, float]],
        settings: Settings,
        budget: Budget,
        identity: Mapping[str, Any],
        report: Callable[[Progress], None] | None = None,
        writer: Any = None,
    ) -> None:
        self.phase, self.path = phase, folder / f"{phase}_state.pt"
        self.module, self.loss, self.evaluate = module, loss, evaluate
        self.settings, self.budget = settings, budget
        self.identity = to_json(identity)
        self.report, self.writer = report, writer
        self.average = copy.deepcopy(module).eval().requires_grad_(False)
        matrices = [p for p in module.parameters() if p.requires_grad and p.dim() >= 2]
        others = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), eps=1e-8)
        self.step, self.elapsed, self.finished = 0, 0.0, False
        self.metrics: dict[str, float] = {}

    def run(self) -> nn.Module:
        """Train to the end of the budget, from where an interrupted run stood; returns the averaged weights.

        Raises:
            TrainingError: If a loss or gradient is not finite. The last full state stays on disk.
            CheckpointError: If that state is damaged or of another run.
        """
        resumed = self._load()
        if self.finished:
            return self.average
        self._say(resumed=resumed)
        started, before = time.monotonic(), self.elapsed
        saved = evaluated = spoken = started
        self.module.train()
        while self.budget.used(self.step, self.elapsed) < 1.0:
            figures = self._update()
            now = time.monotonic()
            self.elapsed = before + now - started
            if now - spoken > 0.5 or self.step == 1:
                spoken = now
                self.metrics |= {name: float(value) for name, value in figures.items()}
                self._say()
            if now - evaluated > self.settings.evaluate_seconds:
                self._evaluate()
                evaluated = time.monotonic()
            if now - saved > self.settings.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._evaluate()
        self.finished = True
        self._save()
        return self.average

    def _update(self) -> dict[str, torch.Tensor]:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * self._rate()
        self.optimiser.zero_grad(set_to_none=True)
        figures: dict[str, torch.Tensor] = {}
        for part in range(self.settings.accumulate):
            loss, figures = self.loss(self.step, part)
            if not bool(torch.isfinite(loss)):
                self._not_finite(f"the loss is {float(loss.detach())}")
            (loss / self.settings.accumulate).backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        if not bool(torch.isfinite(norm)):
            self._not_finite(f"the norm of the gradient is {float(norm)}")
        self.optimiser.step()
        self.step += 1
        decay = min(self.settings.ema, self.step / (self.step + 10.0))
        with torch.no_grad():
            averaged = list(self.average.state_dict().values())
            current = list(self.module.state_dict().values())
            floats = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in floats], [c for _, c in floats], 1.0 - decay)
        return {**figures, "gradient": norm.detach()}

    def _rate(self) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine down to the floor."""
        used = self.budget.used(self.step, self.elapsed)
        warm_up = self.settings.warm_up
        if self.budget.steps is not None:
            warm_up = min(warm_up, max(self.budget.steps // 10, 1))
        floor = self.settings.rate_floor
        cosine = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * used))
        return min(1.0, (self.step + 1) / max(warm_up, 1)) * cosine

    def _evaluate(self) -> None:
        figures = self.evaluate(self.average, self.step)
        self.module.train()
        self.metrics |= figures
        self._write(figures)

    def _say(self, resumed: bool = False) -> None:
        self._write({name: self.metrics[name] for name in ("loss", "gradient") if name in self.metrics})
        if self.report is not None:
            used = self.budget.used(self.step, self.elapsed)
            self.report(Progress(self.phase, self.step, used, self.elapsed, dict(self.metrics), resumed))

    def _write(self, figures: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{self.phase}/{name}", value, self.step)

    def _not_finite(self, what: str) -> None:
        kept = f"The state of {self.path} is intact" if self.path.exists() else "No state was saved yet"
        raise TrainingError(
            f"{self.phase}, update {self.step}: {what}. {kept}; this update was not applied. Lower the learning rate "
            "(dynamics.training.rate, autoencoder_rate) or look for broken frames or joints in the data; then delete "
            "the run folder to start anew, or run the same command to go on from the saved state."
        )

    # ------------------------------------------------------------------ the state on disk

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "elapsed": self.elapsed,
            "finished": self.finished,
            "metrics": dict(self.metrics),
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        with atomic_path(self.path) as aside:
            torch.save(state, aside)

    def _load(self) -> bool:
        if not self.path.exists():
            return False
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"{self.path} is cut short or damaged: {error}. Delete it to start this phase anew."
            ) from error
        if identity != self.identity:
            raise CheckpointError(
                f"{self.path} belongs to a run with other data or settings:\n{_difference(identity, self.identity)}\n"
                "Run with the settings of that run to resume it, or give another folder (--out)."
            )
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed, self.finished = state["step"], state["elapsed"], state["finished"]
        self.metrics = dict(state["metrics"])
        return True


def _difference(saved: str, current: str) -> str:
    import difflib

    lines = difflib.unified_diff(saved.splitlines(), current.splitlines(), "saved", "now", n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def settings_of(config: Any, rate: float, accumulate: int = 1) -> Settings:
    """`Settings` from a `TrainingConfig`."""
    names = {field.name for field in dataclasses.fields(Settings)} - {"rate", "accumulate"}
    return Settings(rate=rate, accumulate=accumulate, **{name: getattr(config, name) for name in names})
