"""What the tests of policies share: small tasks and observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from rise_env.spaces import image_key, lag_key
from rise_env.tasks import TaskSpec, load_task


@pytest.fixture(scope="session")
def spec() -> TaskSpec:
    return load_task("brick_sorting", "tiny")


@pytest.fixture(scope="session")
def wide_spec(spec: TaskSpec) -> TaskSpec:
    """The task with images of 48 x 64, which must get bars."""
    return dataclasses.replace(spec, image_size=(48, 64))


@pytest.fixture(scope="session")
def observe() -> Callable[..., dict[str, torch.Tensor]]:
    """A function that makes random observations of a task."""

    def make(spec: TaskSpec, count: int, lags: tuple[int, ...] = (), seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
        found = {}
        for lag in (0, *lags):
            for camera in spec.cameras:
                shape = (count, *spec.image_size, 3)
                found[lag_key(image_key(camera), lag)] = torch.randint(
                    0, 256, shape, generator=generator, dtype=torch.uint8
                )
            share = torch.rand((count, spec.layout.dim), generator=generator)
            found[lag_key("state", lag)] = low + share * (high - low)
        return found

    return make
