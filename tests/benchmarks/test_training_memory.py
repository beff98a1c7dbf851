"""What training the official transformer takes, counted without memory."""

from __future__ import annotations

from benchmarks.training_memory import GIB, count_training
from rise_env.dynamics.config import OfficialConfig


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


def test_the_published_size_trains_in_80_gb_with_checkpointing() -> None:
    memory = count_training(OfficialConfig(), averaged=True)
    assert memory.parameters == 1_990_672_572
    assert memory.fixed + memory.activations_checkpointed < 76 * GIB
    assert "1,991 million parameters with a batch of 8" in memory.describe()
