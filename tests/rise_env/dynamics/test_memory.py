"""What training the official transformer takes, counted without memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from rise_env.dynamics.config import OfficialConfig, load_dynamics_config
from rise_env.dynamics.memory import count_training, training_memory
from rise_env.dynamics.shape import DynamicsShape
from rise_env.errors import RiseError
from rise_env.tasks import load_task
from rise_env.training.setup import TrainingSetup, train_dynamics_on


def test_activations_grow_with_the_batch_and_the_rest_does_not() -> None:
    config = OfficialConfig(layers=3, heads=2, head_dim=32, action_layers=1, caption_dim=64)
    one, two = (count_training(config, batch_size=size) for size in (4, 8))
    assert one.fixed == two.fixed == (4 + 2 + 4 + 8) * one.parameters
    assert 1.9 * one.activations < two.activations <= 2 * one.activations
    assert 0 < two.activations_checkpointed < 0.6 * two.activations
    averaged = count_training(config, averaged=True)
    assert averaged.fixed == two.fixed + 4 * two.parameters
    longer = count_training(config, places=(12, 8))  # no scores of attention, which would grow with the square
    assert 1.9 * two.activations < longer.activations < 2.1 * two.activations


def test_the_published_size_trains_in_80_gb_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RiseError, match="nowhere"):
        train_dynamics_on(TrainingSetup([tmp_path / "nowhere"], preset="official", log=said.append), tmp_path / "run")
    config = load_dynamics_config("brick_sorting", "official")
    memory = training_memory(config, DynamicsShape.of(load_task("brick_sorting", "official")))
    assert said == [memory.describe()]
    assert "1,991 million parameters with a batch of 8" in said[0]
    assert memory.parameters == 1_990_672_572
    assert config.training.gradient_checkpointing
    assert memory.total(checkpointed=True) + 4e9 < 80e9 < memory.total(checkpointed=False)  # 4 GB: an autoencoder
