"""Splits of a dataset by whole episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.errors import ConfigError

__all__ = ["split_episodes"]


def split_episodes(dataset: Dataset, fractions: Any = 0.9, seed: int = 0) -> dict[str, np.ndarray]:
    """Split the episodes of a dataset: rising indices, int64, per split; together every episode once.

    The same dataset, fractions and seed give the same split. Where outcomes are recorded, every split gets its share of
    successes and of failures. No split is empty. `fractions` is the share per split, summing to 1, or one number, the
    share of "train", the rest being "heldout".

    Raises:
        ConfigError: If the fractions are no fractions, or there are fewer episodes than splits.
    """
    if not isinstance(fractions, Mapping):
        fractions = {"train": float(fractions), "heldout": 1.0 - float(fractions)}
    shares = np.array(list(fractions.values()), float)
    if not len(shares) or not (shares > 0).all() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-6):
        raise ConfigError(f"split fractions {dict(fractions)} must be positive and sum to 1")
    if dataset.num_episodes < len(shares):
        raise ConfigError(f"{dataset.num_episodes} episodes cannot fill {len(shares)} splits: {', '.join(fractions)}")
    order = np.random.default_rng(seed).permutation(dataset.num_episodes)
    outcomes = np.array([(None, False, True).index(episode.success) for episode in dataset.episodes])
    order = order[np.argsort(outcomes[order], kind="stable")]
    assigned: list[list[int]] = [[] for _ in shares]
    for count, episode in enumerate(order.tolist(), 1):
        # To whichever split lacks most: shares hold to one episode in every stretch, so in every stratum.
        lacking = shares * count - [len(members) for members in assigned]
        assigned[int(np.argmax(lacking))].append(episode)
    for members in assigned:
        if not members:
            members.append(max(assigned, key=len).pop())
    return {name: np.array(sorted(members), np.int64) for name, members in zip(fractions, assigned, strict=True)}
