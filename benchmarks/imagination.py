"""Speed of imagination: chunks per second by batch size, split into encode, denoise, decode, value and environment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from rise_env.dynamics.config import PRECISIONS
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import precision
from rise_env.envs.starts import StartStates
from rise_env.envs.vector import ImaginationVectorEnv
from rise_env.errors import ConfigError
from rise_env.world_model import CompositionalWorldModel

__all__ = ["BATCHES", "compile_parts", "describe", "measure", "set_precision"]

BATCHES = (1, 8, 32, 64)
#: Steps are repeated so often and for so long; twice is enough once they have taken `_MOST_SECONDS` together.
_REPEATS, _LEAST_SECONDS, _MOST_SECONDS = 5, 1.0, 60.0
_PARTS = ("encode", "denoise", "decode", "value", "env_overhead")


def measure(
    world_model: CompositionalWorldModel,
    starts: StartStates,
    batches: tuple[int, ...] = BATCHES,
    on_batch: Callable[[int], object] = lambda _: None,
    quick: bool = False,
) -> dict[str, Any]:
    """Time environments of a world model.

    The parts are timed inside whole steps, each without the parts that it calls, and wait for the device, so that
    nothing is hidden in a queue: `denoise`, `decode`, `reencode` (imagined frames into the next history; nothing where
    latents stay latent), `value` and `env_overhead` add up to the step, the median of several. `encode` (of recorded
    histories) happens at resets only. A batch that does not fit into the device's memory ends the list with a row that
    says so.

    Args:
        world_model: What imagines.
        starts: Where episodes begin.
        batches: Numbers of environments.
        on_batch: Called with each before it is measured.
        quick: Two repetitions, however short.
    """
    rows = []
    for count in batches:
        on_batch(count)
        try:
            rows.append(_one(world_model, starts, count, quick))
        except torch.OutOfMemoryError as error:
            rows.append({"num_envs": count, "out_of_memory": str(error).splitlines()[0]})
            break
    return {"threads": torch.get_num_threads(), "batches": rows}


def describe(world_model: CompositionalWorldModel) -> dict[str, Any]:
    """What was measured, as plain values."""
    spec, dynamics, value = world_model.spec, world_model.dynamics, world_model.value
    content: dict[str, Any] = {
        "image_size": list(spec.image_size),
        "views": len(spec.cameras),
        "chunk": spec.chunk,
        "frames_per_chunk": spec.frames_per_chunk,
        "history": spec.history,
        "device": str(world_model.device),
        "value_reads_latents": value.reads_latents,
        "parameters": {
            name: sum(tensor.numel() for tensor in part.parameters())
            for name, part in (("dynamics", dynamics), ("value", value))
            if isinstance(part, torch.nn.Module)
        },
    }
    if isinstance(dynamics, LatentDynamics):
        config = dynamics.config
        with precision(config.flow.precision, dynamics.device):
            bf16 = torch.is_autocast_enabled(dynamics.device.type)
        content |= {
            "transformer": config.transformer_kind,
            "autoencoder": config.autoencoder_kind,
            "denoising_steps": config.flow.steps,
            "precision": "bf16" if bf16 else "fp32",
            "made_once_per_chunk": ["history latents"]
            + (["caption and action tokens", "rotary positions"] if config.transformer_kind == "official" else []),
        }
    return content


def set_precision(world_model: CompositionalWorldModel, name: str) -> None:
    """Imagine in "fp32", "bf16" or "auto" (bf16 where the device computes it fast).

    Raises:
        ConfigError: If the name is unknown, or the dynamics model is of a kind that has no such setting.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is not one of {', '.join(PRECISIONS)}")
    dynamics = _latent_dynamics(world_model, "--precision")
    flow = dataclasses.replace(dynamics.config.flow, precision=name)
    dynamics.config = dataclasses.replace(dynamics.config, flow=flow)


def compile_parts(world_model: CompositionalWorldModel, backend: str = "inductor") -> None:
    """Compile transformer, encoder, decoder and value with torch.compile, in place; each batch size is compiled anew.

    Args:
        world_model: What imagines.
        backend: "inductor" (needs a C++ compiler, and Triton on a GPU) or another that torch knows.

    Raises:
        ConfigError: If torch does not know the backend, or the dynamics model is of a kind that cannot be compiled.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"--compile {backend!r}: torch knows the backends {', '.join(known)}")
    dynamics = _latent_dynamics(world_model, "--compile")
    autoencoder: Any = dynamics.autoencoder
    coders = autoencoder if autoencoder.per_frame else autoencoder.vae
    modules: list[Any] = [dynamics.transformer, coders.encoder, coders.decoder]
    if isinstance(world_model.value, torch.nn.Module):
        value: Any = world_model.value
        modules += [value.encoder, value.trunk]
    for module in modules:
        module.compile(backend=backend, dynamic=False)


def _latent_dynamics(world_model: CompositionalWorldModel, argument: str) -> LatentDynamics:
    if not isinstance(world_model.dynamics, LatentDynamics):
        raise ConfigError(f"{argument} is for LatentDynamics, this is a {type(world_model.dynamics).__name__}")
    return world_model.dynamics


def _one(world_model: CompositionalWorldModel, starts: StartStates, count: int, quick: bool) -> dict[str, Any]:
    device = world_model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    envs = ImaginationVectorEnv(
        num_envs=count, autoreset_mode="disabled", max_chunks=10**6, success_threshold=float("inf"),
        starts=starts, world_model=world_model,
    )  # fmt: skip
    watch = _Stopwatch(device, *((2, 0.0) if quick else (_REPEATS, _LEAST_SECONDS)))
    try:
        begin = time.perf_counter()
        envs.reset(seed=0)
        actions = _actions(envs)
        envs.step(actions)
        watch.wait()
        warm_up = time.perf_counter() - begin
        with watch.inside(world_model):
            step = watch.median(lambda: envs.step(actions), before=lambda: envs.reset(seed=0))
            reset = watch.median(lambda: envs.reset(seed=0))
    finally:
        envs.close()
    total, opening = sum(step.values()), sum(reset.values())
    encode, step["reencode"] = reset["encode"], step.pop("encode")
    return {
        "num_envs": count,
        "chunks_per_second": count / total,
        "seconds_per_chunk": total / count,
        "step_seconds": total,
        "split_seconds": {"encode": encode, **step},
        "env_overhead_share": step["env_overhead"] / total,
        "reset_seconds_per_env": opening / count,
        "reset_seconds_per_env_without_encoding": (opening - encode) / count,
        "warm_up_seconds": warm_up,
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _actions(envs: ImaginationVectorEnv) -> np.ndarray:
    """Recorded chunks; where start states carry none, the middle of the joint limits."""
    actions, known = envs.recorded_actions()
    layout = envs.task.layout
    actions[~known] = (layout.low + layout.high) / 2
    return np.ascontiguousarray(actions, np.float32)


class _Stopwatch:
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
