"""The training loop of all models: it survives a kill and goes on to the same result.

Everything random in update i depends on the seed and on i alone, so the whole state of a run is its step, weights,
averaged weights, optimiser, and what a subclass adds.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import math
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from rise_env.errors import CheckpointError, TrainingError, requirement
from rise_env.files import atomic_path, exclusive, to_json, to_plain, write_json
from rise_env.provenance import provenance
from rise_env.training.config import LoopConfig
from rise_env.training.team import Loss, team

__all__ = ["Budget", "Loop", "Progress", "start_run"]

#: What of a loop the state on disk holds: as it is, and by `state_dict`.
_PLAIN: Mapping[str, Any] = {"step": int, "elapsed": float, "finished": bool, "metrics": dict}
_STATEFUL = ("module", "average", "optimiser")
_ANEW = "Delete it to start this phase anew."


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
        self.loss = self._team.join(self.module, self.loss)
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
            if now - evaluated > self.evaluate_seconds:
                self._evaluate()
                evaluated = time.monotonic()
            if now - saved > self.config.checkpoint_seconds:
                self._save()
                saved = time.monotonic()
        self._evaluate()
        self.finished = True
        self._save()
        return self.average

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
        metrics: dict[str, torch.Tensor] = {}
        for part in self._parts:
            waits = part != self._parts[-1]
            with self._team.quietly(self.loss) if waits else contextlib.nullcontext():
                loss, metrics = self.loss(self.step, part)
                self._check_loss(loss, metrics)
                (loss / len(self._parts)).backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_grad_norm)
        if not bool(torch.isfinite(norm)):
            self._not_finite(f"the norm of the gradient is {float(norm)}")
        self.optimiser.step()
        self.step += 1
        decay = self.average_decay()
        with torch.no_grad():
            averaged = list(self.average.state_dict().values())
            current = list(self.module.state_dict().values())
            floats = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in floats], [c for _, c in floats], 1.0 - decay)
            self.updated()
        return {**metrics, "gradient_norm": norm.detach(), "learning_rate": torch.tensor(rate)}

    def _check_loss(self, loss: torch.Tensor, metrics: Mapping[str, torch.Tensor]) -> None:
        if not bool(torch.isfinite(loss)):
            parts = "".join(f", {name} {float(value):.3g}" for name, value in metrics.items() if name != "loss")
            self._not_finite(f"the loss is {float(loss.detach())}{parts}")

    def _cosine(self) -> float:
        floor = self.config.lr_floor
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * self.used))

    def _evaluate(self) -> None:
        if self.evaluate is None or self._team.rank:
            return
        self._write(self.evaluate(self.average, self.step))
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
        if self._team.rank:
            return
        state = {name: getattr(self, name) for name in ("identity", *_PLAIN)} | {"extra": self.extra_state()}
        state |= {name: getattr(self, name).state_dict() for name in _STATEFUL}
        with atomic_path(self.path) as aside:
            torch.save(state, aside)
        self._kept = self.step
        self.saved()

    def _load(self) -> bool:
        if not self.path.exists():
            return False
        state = _read_state(self.path)
        _check_identity(self.path, state["identity"], self.identity)
        try:
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            for name, kind in _PLAIN.items():
                setattr(self, name, kind(state[name]))
            self.load_extra_state(state.get("extra", {}))
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{self.path} does not fit: {shorten(str(error), 200)}. {_ANEW}") from error
        self._kept = self.step
        return True


def _read_state(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        if not isinstance(state["identity"], str):
            raise TypeError("it does not say what run it is of")
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is cut short or damaged: {error}. {_ANEW}") from error
    return state


def _check_identity(path: Path, saved: str, wanted: str) -> None:
    if saved != wanted:
        raise CheckpointError(
            f"{path} belongs to a run with other data or settings:\n{_difference(saved, wanted)}\n"
            "Run with the settings of that run to resume it, or give another folder (--out)."
        )


def _difference(saved: str, current: str) -> str:
    lines = difflib.unified_diff(saved.splitlines(), current.splitlines(), "saved", "now", n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def start_run(
    folder: Path, content: Any, seed: int, identities: Mapping[str, Mapping[str, Any]], tensorboard: bool = True
) -> Any:
    """Write what a run is to `<folder>/config.json`, with its provenance.

    Args:
        folder: Run folder.
        content: What the run is.
        seed: Its seed.
        identities: Of its loops, by phase: as far as known what must be the same where a run is resumed.
        tensorboard: Whether TensorBoard files are wanted.

    Returns:
        A writer of TensorBoard files to `<folder>/tensorboard`, or None if they are not wanted.

    Raises:
        CheckpointError: If the folder holds another run, which is then as it was, or a damaged one.
        ConfigError: If another process trains in the same folder.
    """
    described = to_plain(content)
    with exclusive(folder):
        for phase, identity in identities.items():
            if (path := folder / f"{phase}_state.pt").exists():
                saved = json.loads(_read_state(path, mmap=True)["identity"])
                known = {name: value for name, value in saved.items() if name in identity}
                _check_identity(path, to_json(known), to_json({**dict.fromkeys(known), **identity}))
        write_json(folder / "config.json", {**described, **provenance(described, seed)})
    if not tensorboard:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
