"""What the tests of policies share: small tasks and observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


ACT = {
    "chunk_size": 10, "n_action_steps": 10, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1,
    "n_decoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip


def statistics(spec: TaskSpec) -> dict[str, dict[str, torch.Tensor]]:
    low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
    images = {
        key: {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)} for key in spec.cameras.values()
    }
    joints = {"mean": (low + high) / 2, "std": (high - low) / 2, "min": low, "max": high}
    return {**images, "observation.state": joints, "action": joints}


def save(path: Path, spec: TaskSpec, kind: str, **settings: Any) -> Path:
    """Write a checkpoint of a tiny random policy with its pre- and post-processing, as lerobot-train does."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    images = {key: PolicyFeature(FeatureType.VISUAL, (3, *spec.image_size)) for key in spec.cameras.values()}
    config = make_policy_config(
        kind,
        device="cpu",
        push_to_hub=False,
        input_features={**images, "observation.state": PolicyFeature(FeatureType.STATE, (spec.layout.dim,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (spec.layout.dim,))},
        **settings,
    )
    torch.manual_seed(0)
    get_policy_class(kind)(config).save_pretrained(path)
    for pipeline in make_pre_post_processors(config, dataset_stats=statistics(spec)):
        pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def save_lerobot() -> Callable[..., Path]:
    """`save_lerobot(PATH, SPEC, TYPE, **settings)`."""
    return save


@pytest.fixture(scope="session")
def save_act() -> Callable[[Path, TaskSpec], Path]:
    """`save_act(PATH, SPEC)`: a tiny ACT with random weights."""
    return lambda path, spec: save(path, spec, "act", **ACT)
