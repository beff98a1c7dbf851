"""A world model of any preset with random weights: as fast as a trained one, and there is nothing to download or train.

What it will cost is counted first on a model without memory (torch's meta device), so that a shape which is out of
reach of a machine is an error with numbers, not a machine that hangs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rise_env.config import decode, load_config
from rise_env.dynamics.config import DynamicsConfig
from rise_env.dynamics.model import LatentDynamics
from rise_env.dynamics.precision import fast_bf16_cpu
from rise_env.dynamics.shape import DynamicsShape
from rise_env.envs.starts import StartStates
from rise_env.errors import ConfigError
from rise_env.tasks import TaskSpec, task_from_section
from rise_env.value.config import ValueConfig
from rise_env.value.model import InputShape, ValueModel
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Cost", "check_affordable", "count_cost", "random_starts", "random_world_model"]

_PATIENCE = 60.0  # from so many seconds per imagined chunk on, a measurement has to be asked for twice
_MEMORY_SHARE = 0.8  # of the free memory that weights may take; activations need room as well


@dataclass(frozen=True)
class Cost:
    """What a world model takes, whatever the machine.

    Attributes:
        parameters: Number of parameters of dynamics and value.
        flops: Floating-point operations for one chunk of one environment, by part; a product with a sum is two.
    """

    parameters: int
    flops: dict[str, float]

    @property
    def bytes(self) -> int:
        """Memory of the weights, which are kept in float32."""
        return 4 * self.parameters


def random_world_model(
    task: str,
    preset: str,
    overrides: Iterable[str] = (),
    device: torch.device | str = "cpu",
    seed: int = 0,
    imagine: Mapping[str, Any] | None = None,
) -> CompositionalWorldModel:
    """A world model with random weights, made where it will live; settings as of `rise_env.config.load_config`."""
    spec, dynamics, value = _configuration(task, preset, overrides)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        shape = DynamicsShape.of(spec)
        imagining = LatentDynamics(dynamics, shape)
        latent = imagining.autoencoder.latent_shape
        size = (*latent[1:], latent[0]) if value.model.reads_latents else (*spec.image_size, 3)
        scoring = ValueModel(value.model, InputShape(tuple(spec.cameras), *size))
    imagining = imagining.to(device).eval().with_settings(imagine or {})
    if device.type != "meta":
        imagining.freeze()
    return CompositionalWorldModel(imagining, scoring.to(device).eval(), spec)


def random_starts(spec: TaskSpec, count: int = 8, seed: int = 0) -> StartStates:
    """Start states of noise, with actions within the joint limits."""
    rng = np.random.default_rng(seed)
    low, high = spec.layout.low, spec.layout.high
    return StartStates.build(
        spec,
        rng.integers(0, 256, (count, spec.history, len(spec.cameras), *spec.image_size, 3), np.uint8),
        rng.uniform(low, high, (count, spec.history, spec.layout.dim)).astype(np.float32),
        actions=rng.uniform(low, high, (count, spec.chunk, spec.layout.dim)).astype(np.float32),
        source="random",
    )


def count_cost(task: str, preset: str, overrides: Iterable[str] = ()) -> Cost:
    """Count what a preset takes, without memory for its weights; arguments as of `random_world_model`."""
    model: Any = random_world_model(task, preset, overrides, "meta")
    spec, dynamics, value = model.spec, model.dynamics.requires_grad_(False), model.value.requires_grad_(False)
    steps, frames, views = dynamics.config.flow.denoising_steps, spec.frames_per_chunk, len(spec.cameras)
    latent, prompts = dynamics.autoencoder.latent_shape, [spec.prompt]
    if dynamics.config.flow.disagreement:
        steps *= 2
    with torch.no_grad(), torch.device("meta"):
        noise, history = (torch.zeros(1, views, count, *latent) for count in (dynamics.future, spec.history))
        tokens, state = torch.zeros(1, frames, dynamics.scaler.width), torch.zeros(1, spec.layout.dim)
        text = torch.zeros(1, 32 if dynamics._text_buckets else 0, dtype=torch.int64)
        pixels = torch.zeros(1, frames, views, *spec.image_size, 3, dtype=torch.uint8)
        calls = {
            "denoise": lambda: dynamics.denoise(noise, history, torch.ones(1), tokens, state, text),
            "decode": lambda: dynamics._decode(noise.transpose(1, 2)),
            "reencode": lambda: dynamics._encode(pixels[:, : spec.history]),
            "value": lambda: value(
                value.prepare(noise.transpose(1, 2)[0] if value.reads_latents else pixels[0]), prompts * frames
            ),
        }
        if dynamics.autoencoder.per_frame:
            del calls["reencode"]  # latents stay latent
        flops = {}
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            flops[name] = float(counter.get_total_flops() * (steps if name == "denoise" else 1))
    return Cost(sum(tensor.numel() for part in (dynamics, value) for tensor in part.parameters()), flops)


def check_affordable(cost: Cost, device: torch.device, name: str, force: bool = False) -> str:
    """One line on what a measurement of preset `name` will take here.

    Raises:
        ConfigError: If not `force` and the weights do not fit into the free memory, or a chunk would take minutes.
    """
    total, free = sum(cost.flops.values()), _free_memory(device)
    needs = (
        f"{name}: {cost.parameters / 1e6:,.0f} million parameters, {_amount(cost.bytes, 'B')} of weights in float32; "
        f"{_amount(total, 'FLOP')} per chunk of one environment"
    )
    problems = []
    if free is not None and cost.bytes > _MEMORY_SHARE * free:
        problems.append(f"only {_amount(free, 'B')} are free on {device}")
    if device.type == "cpu":
        speed = _speed_of_cpu()
        needs += f", at least {_duration(total / speed)} at the {_amount(speed, 'FLOP')}/s that this CPU reaches"
        if total / speed > _PATIENCE:
            problems.append(f"a measurement takes at least three chunks, {_duration(3 * total / speed)}")
    if problems and not force:
        raise ConfigError(
            f"{needs}; {' and '.join(problems)}. Measure on a GPU (--device cuda), take a smaller shape (--preset "
            "small, --set dynamics.flow.steps=1), or add --force to measure it here all the same."
        )
    return needs


def _configuration(task: str, preset: str, overrides: Iterable[str]) -> tuple[TaskSpec, DynamicsConfig, ValueConfig]:
    content = load_config(task, preset, overrides)
    if "task" not in content:
        raise ConfigError(f"configuration {task!r} has no 'task' section")
    dynamics = decode(DynamicsConfig, content.get("dynamics", {}), f"section 'dynamics' of {task}/{preset}")
    value = decode(ValueConfig, content.get("value", {}), f"section 'value' of {task}/{preset}")
    # Random weights are random weights: nothing is looked up on the Hub for them.
    video = dataclasses.replace(dynamics.video_autoencoder, weights="")
    if value.model.backbone:
        raise ConfigError("value.model.backbone: pretrained weights; with --random add --set value.model.backbone=")
    return task_from_section(content["task"]), dataclasses.replace(dynamics, video_autoencoder=video), value


def _free_memory(device: torch.device) -> float | None:
    """Bytes that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024.0 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _speed_of_cpu() -> float:
    """Floating-point operations per second of large matrix products, in float32 or bf16: what no model exceeds."""
    size, best = 1024, float("inf")
    for kind in (torch.float32, torch.bfloat16) if fast_bf16_cpu() else (torch.float32,):
        matrix = torch.rand(size, size).to(kind)
        for _ in range(4):
            start = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _amount(value: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} P{unit}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
