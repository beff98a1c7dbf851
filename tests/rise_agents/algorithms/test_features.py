"""What frozen encoders make of observations: kept, and noisy where asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rise_agents.algorithms.features import FeatureCache, Seen
from rise_agents.policies.base import Context, Policy

SIZE = 300
FEATURES = torch.arange(SIZE * 3, dtype=torch.float32).view(SIZE, 3) * torch.tensor([1.0, 10.0, 0.0])


class Encoder:
    """Gives known features, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, policy: Policy, rows: np.ndarray, generator: torch.Generator | None) -> Seen:
        del policy, generator
        self.asked += rows.tolist()
        return Context(FEATURES[torch.from_numpy(rows)], torch.zeros(len(rows), 2)), (torch.from_numpy(rows),)


def found(cache: FeatureCache, rows: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    some = np.array(rows)
    cache.prepare(some)
    context, (numbers,) = cache(frozen(), some, torch.Generator().manual_seed(seed))
    return context.features, numbers


def frozen() -> Any:
    return object()


def test_each_is_encoded_once() -> None:
    encoder = Encoder()
    cache = FeatureCache(SIZE, encoder, frozen())
    features, numbers = found(cache, [3, 299, 3])
    torch.testing.assert_close(features, FEATURES[[3, 299, 3]])
    assert numbers.tolist() == [3, 299, 3]
    found(cache, [4])  # of the same block
    assert len(encoder.asked) == len(set(encoder.asked)) == 64 + SIZE % 64


def test_noise_is_in_proportion_to_how_far_features_spread_and_comes_from_the_generator() -> None:
    cache = FeatureCache(SIZE, Encoder(), frozen(), noise=0.5)
    rows = [7] * 4000
    features, numbers = found(cache, rows)
    assert set(numbers.tolist()) == {7}
    spread = FEATURES[np.unique(np.linspace(0, SIZE - 1, 64).astype(int))].std(0)
    torch.testing.assert_close(features.std(0), 0.5 * spread, rtol=0.05, atol=0.0)
    torch.testing.assert_close(features.mean(0), FEATURES[7], rtol=0.0, atol=60.0)
    assert torch.equal(features[:, 2], FEATURES[7, 2].expand(4000))  # what never varies stays
    assert torch.equal(features, found(cache, rows)[0])
    assert not torch.equal(features, found(cache, rows, seed=1)[0])
    other = FeatureCache(SIZE, Encoder(), frozen(), noise=0.5)
    found(other, [299])  # asked for something else first
    assert torch.equal(features, found(other, rows)[0])


def test_encoders_that_are_trained_encode_anew() -> None:
    encoder = Encoder()
    cache = FeatureCache(SIZE, encoder, None, noise=0.5)
    for _ in range(2):
        torch.testing.assert_close(found(cache, [1, 2])[0], FEATURES[[1, 2]])
    assert encoder.asked == [1, 2, 1, 2]
