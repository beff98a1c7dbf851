"""A stopwatch that divides the time of a step among the parts of a world model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from rise_env.dynamics.model import LatentDynamics
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Stopwatch", "peak_memory", "reset_peak_memory"]

#: Twice is enough once the repetitions have taken so many seconds together.
_MOST_SECONDS = 60.0
_PARTS = ("encode", "denoise", "decode", "value", "env_overhead")


def reset_peak_memory(device: torch.device) -> None:
    """Begin to look for the most memory that is used from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # of Linux; elsewhere the peak is that of the whole process, or unknown
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """The most bytes since then: tensors on a GPU, the whole process on a CPU; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


class Stopwatch:
    """Divides time among parts that call each other: the innermost one is charged."""

    def __init__(self, device: torch.device, repeats: int, least_seconds: float) -> None:
        self._device, self._repeats, self._least_seconds = device, repeats, least_seconds
        self._running: list[str] = []
        self._since = 0.0
        self._seconds = dict.fromkeys(_PARTS, 0.0)

    def wait(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge a block to a part."""
        self._charge()
        self._running.append(name)
        try:
            yield
        finally:
            self._charge()
            self._running.pop()

    @contextmanager
    def inside(self, world_model: CompositionalWorldModel) -> Iterator[None]:
        """Watch the two models of a world model."""
        dynamics, value = world_model.dynamics, world_model.value
        watched = [(dynamics, "open", "encode"), (dynamics, "predict", "denoise"), (dynamics, "decode", "decode"),
                   (dynamics, "encode", "encode"), (value, "estimate", "value")]  # fmt: skip
        if isinstance(dynamics, LatentDynamics):  # a video autoencoder decodes, and encodes again, inside `predict`
            watched += [(dynamics, "_decode", "decode"), (dynamics, "_encode", "encode")]
        with ExitStack() as stack:
            for owner, method, name in watched:
                stack.enter_context(self._watch(owner, method, name))
            yield

    @contextmanager
    def _watch(self, owner: Any, method: str, name: str) -> Iterator[None]:
        original, own = getattr(owner, method), vars(owner).get(method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, watched)
        try:
            yield
        finally:
            delattr(owner, method)
            if own is not None:
                setattr(owner, method, own)

    def median(self, call: Callable[[], object], before: Callable[[], object] = lambda: None) -> dict[str, float]:
        """Seconds by part of the call that took the median time; what belongs to no model is "env_overhead"."""
        found: list[dict[str, float]] = []
        spent = 0.0
        while len(found) < self._repeats or spent < self._least_seconds:
            before()
            self._seconds = dict.fromkeys(_PARTS, 0.0)
            with self.part("env_overhead"):
                call()
            found.append(self._seconds)
            spent += sum(self._seconds.values())
            self._seconds = dict.fromkeys(_PARTS, 0.0)  # what `before` takes is not this call's
            if spent > _MOST_SECONDS and len(found) > 1:
                break
        return sorted(found, key=lambda parts: sum(parts.values()))[(len(found) - 1) // 2]

    def _charge(self) -> None:
        self.wait()
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
