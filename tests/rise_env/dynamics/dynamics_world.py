"""A tiny recorded world in memory: a bright square whose place is the joint state, which follows the commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rise_env.data.array_dataset import ArrayDataset
from rise_env.dynamics.config import (
    AutoencoderConfig,
    DynamicsConfig,
    FlowConfig,
    OfficialConfig,
    TrainingConfig,
    TransformerConfig,
)
from rise_env.tasks import JointLayout, TaskSpec

SPEC = TaskSpec(
    name="square",
    prompt="Move the square.",
    cameras={"front": "observation.images.front", "side": "observation.images.side"},
    image_size=(16, 20),
    layout=JointLayout("xy", ("x", "y"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0)),
    fps=10,
    chunk=4,
    stride=2,
    history=3,
    execute=2,
    max_seconds=5.0,
)

CONFIG = DynamicsConfig(
    autoencoder=AutoencoderConfig(channels=(8, 16), blocks=(1, 1), latent_channels=4, fold=2),
    transformer=TransformerConfig(width=16, depth=2, heads=2, mlp_ratio=2.0, patch=(2, 1), context=(0, -1)),
    flow=FlowConfig(precision="fp32", foreground=1.0),
    training=TrainingConfig(
        batch_size=4,
        held_out=0.25,
        precision="fp32",
        autoencoder_batch_size=4,
        checkpoint_seconds=0.0,
        evaluate_seconds=1e9,
        warmup_steps=2,
    ),
)

TINY_OFFICIAL = OfficialConfig(
    layers=4,
    heads=2,
    head_dim=8,
    latent_channels=4,
    caption_dim=12,
    caption_tokens=8,
    views=3,
    action_dim=6,
    action_tokens=2,
    action_width=8,
    action_layers=2,
    action_heads=2,
    action_head_dim=4,
    action_mlp=10,
)


def with_flow(**changes: Any) -> DynamicsConfig:
    return dataclasses.replace(CONFIG, flow=dataclasses.replace(CONFIG.flow, **changes))


def with_transformer(**changes: Any) -> DynamicsConfig:
    return dataclasses.replace(CONFIG, transformer=dataclasses.replace(CONFIG.transformer, **changes))


def with_training(**changes: Any) -> DynamicsConfig:
    return dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **changes))


class World(ArrayDataset):
    """Episodes of a square that follows random commands."""

    def __init__(self, episodes: int = 4, length: int = 14, spec: TaskSpec = SPEC) -> None:
        rng = np.random.default_rng(0)
        steps = rng.normal(0.0, 0.15, (episodes * length, spec.layout.dim)).astype(np.float32)
        state = np.zeros_like(steps)
        action = np.zeros_like(steps)
        for start in range(0, len(steps), length):
            place = rng.uniform(-0.5, 0.5, spec.layout.dim)
            for t in range(start, start + length):
                state[t] = place
                action[t] = np.clip(place + steps[t], -1, 1)
                place = action[t]
        frames = np.stack([_image(spec, xy) for xy in state])
        super().__init__(spec, [length] * episodes, state, action, frames=frames, outcomes=np.ones(episodes, bool))

    def cached(
        self, tag: str, shape: tuple[int, ...], dtype: Any, make: Callable[[np.ndarray], np.ndarray], **options: Any
    ) -> np.ndarray:
        made = make(np.arange(self.num_frames))
        options["progress"](self.num_frames, self.num_frames)
        assert made.shape == (self.num_frames, *shape)
        assert made.dtype == dtype
        return made


def _image(spec: TaskSpec, xy: np.ndarray) -> np.ndarray:
    height, width = spec.image_size
    image = np.full((len(spec.cameras), height, width, 3), 40, np.uint8)
    row, column = (int((value + 1) / 2 * (size - 4)) for value, size in zip(xy[:2], (height, width), strict=True))
    for view in range(len(image)):
        image[view, row : row + 4, column : column + 4, view] = 230
    return image
