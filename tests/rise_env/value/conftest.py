"""A dataset in memory: a bright dot crosses the image; in failed episodes it turns back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from rise_env.data import DatasetError
from rise_env.value.config import ModelConfig
from rise_env.value.model import InputShape, ValueModel


class FakeEpisode(NamedTuple):
    task: str
    success: bool | None


class FakeDataset:
    def __init__(
        self,
        lengths: list[int],
        success: list[bool],
        *,
        views: int = 2,
        size: tuple[int, int] = (16, 24),
        tail: int = 2,
        tasks: list[str] | None = None,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.lengths = np.array(lengths)
        self.num_episodes = len(lengths)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.num_frames = int(self.lengths.sum())
        tasks = tasks or ["move the dot"] * len(lengths)
        self.episodes = [FakeEpisode(task, won) for task, won in zip(tasks, success, strict=True)]
        progress: list[float] = []
        for length, won in zip(lengths, success, strict=True):
            climb = np.arange(length) / max(length - 1 - tail, 1)
            progress += np.minimum(climb if won else np.minimum(climb, 0.8 - climb).clip(0), 1).tolist()
        self.data: dict[str, np.ndarray] = {
            "progress": np.array(progress, np.float32),
            "episode_success": np.repeat(np.array(success), self.lengths),
            "is_intervention": np.zeros(self.num_frames, bool),
        }
        height, width = size
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 30, (self.num_frames, views, height, width, 3), dtype=np.uint8)
        for i, part in enumerate(progress):
            left = round(part * (width - 4))
            self.images[i, :, height // 2 - 2 : height // 2 + 2, left : left + 4] = 255

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    @property
    def success(self) -> np.ndarray:
        return self.column("episode_success")[self.starts]

    def column(self, name: str) -> np.ndarray:
        if name not in self.data:
            raise DatasetError(f"no column {name!r}")
        return self.data[name]

    def frames(self, index: Any) -> np.ndarray:
        return self.images[np.asarray(index)]


@pytest.fixture(scope="session")
def make_dataset() -> type[FakeDataset]:
    return FakeDataset


@pytest.fixture
def toy() -> FakeDataset:
    return FakeDataset([14, 12, 16, 12, 13, 15, 14, 12], [True, True, True, False, True, False, True, True])


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(channels=(8, 16), embed=16, hidden=32, members=3, text_vocabulary=32, text_embed=4)


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> ValueModel:
    return ValueModel(tiny_config, InputShape(("head", "wrist"), 16, 24))
