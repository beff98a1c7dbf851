"""Speed of imagination: chunks per second by batch size, split into encode, denoise, decode, value and environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rise_env.imagination import ImaginationVectorEnv
from rise_env.protocols import History
from rise_env.world_model import CompositionalWorldModel

__all__ = ["BATCHES", "measure"]

BATCHES = (1, 8, 32, 64)
_REPEATS, _LEAST_SECONDS = 5, 1.0


def measure(
    env_kwargs: dict[str, Any], batches: tuple[int, ...] = BATCHES, on_batch: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """Time the environment that `env_kwargs` describe.

    Every part is timed on its own on the same inputs, the median of several calls; `env_overhead` is what a whole
    `step` takes beyond its parts. The parts wait for the device, so that nothing is hidden in a queue.

    Args:
        env_kwargs: Keyword arguments of `ImaginationVectorEnv` besides `num_envs`.
        batches: Numbers of environments.
        on_batch: Called with each before it is measured.
    """
    rows = []
    for count in batches:
        on_batch(count)
        rows.append(_one(env_kwargs, count))
    return {"threads": torch.get_num_threads(), "batches": rows}


def _one(env_kwargs: dict[str, Any], count: int) -> dict[str, Any]:
    envs = ImaginationVectorEnv(num_envs=count, autoreset_mode="disabled", max_chunks=10**6, **env_kwargs)
    try:
        model: CompositionalWorldModel = envs.world_model
        envs.reset(seed=0)
        actions, _ = envs.recorded_actions()
        spec = envs.task
        batch = envs.starts.batch(np.resize(envs.starts.rows("train"), count))
        device = model.device
        history = History(
            torch.from_numpy(batch.frames).to(device), torch.from_numpy(batch.states).to(device), batch.prompts
        )
        generators = [torch.Generator().manual_seed(i) for i in range(count)]
        tensor = torch.from_numpy(np.ascontiguousarray(actions, np.float32)).to(model.device)
        dynamics = model.dynamics

        parts: dict[str, float] = {}
        parts["encode"], session = _timed(lambda: dynamics.open(history), model.device)
        parts["denoise"], (prediction, _) = _timed(lambda: dynamics.predict(session, tensor, generators), model.device)
        parts["decode"], _ = _timed(lambda: dynamics.decode(prediction, [spec.frames_per_chunk - 1]), model.device)
        if model.value.reads_latents:
            frames = prediction.latents
        else:
            seconds, frames = _timed(lambda: dynamics.decode(prediction, range(spec.frames_per_chunk)), model.device)
            parts["decode"] = seconds
        parts["value"], _ = _timed(lambda: model.value.estimate(frames, history.prompts), model.device)

        total, _ = _timed(lambda: envs.step(actions), model.device, before=lambda: envs.reset(seed=0))
        reset, _ = _timed(lambda: envs.reset(seed=0), model.device)
    finally:
        envs.close()
    inside = parts["denoise"] + parts["decode"] + parts["value"]
    return {
        "num_envs": count,
        "chunks_per_second": count / total,
        "step_seconds": total,
        "split_seconds": {**parts, "env_overhead": total - inside},
        "env_overhead_share": (total - inside) / total,
        "reset_seconds_per_env": reset / count,
        "reset_seconds_per_env_without_encoding": max(0.0, reset - parts["encode"]) / count,
    }


def _timed(
    call: Callable[[], Any], device: torch.device, before: Callable[[], object] = lambda: None
) -> tuple[float, Any]:
    """Median time of a call, and its last result."""
    before()
    result, times = call(), []
    while len(times) < _REPEATS or sum(times) < _LEAST_SECONDS:
        before()
        _wait(device)
        start = time.perf_counter()
        result = call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
