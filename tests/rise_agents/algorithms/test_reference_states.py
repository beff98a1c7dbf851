"""The ring of held states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.algorithms.reference_states import ReferenceBatch, ReferenceStates
from rise_agents.policies.base import Context


def held(numbers: list[int], seen: bool) -> ReferenceBatch:
    column = torch.tensor(numbers, dtype=torch.float32)[:, None]
    observations = {"image_head": column[:, :, None, None].to(torch.uint8).expand(-1, 2, 2, 3)} if seen else None
    return ReferenceBatch(Context(2 * column, -column), observations, column[:, :, None].expand(-1, 4, 3))


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 9), st.booleans())
def test_the_latest_are_kept_and_their_parts_stay_together(sizes: list[int], capacity: int, seen: bool) -> None:
    ring, added = ReferenceStates(capacity), 0
    for size in sizes:
        ring.add(held(list(range(added, added + size)), seen))
        added += size
        assert len(ring) == min(added, capacity)
    if not added:
        return
    drawn = ring.draw(np.random.default_rng(0), 64)
    numbers = drawn.chunks[:, 0, 0]
    expected = set(range(max(0, added - capacity), added))
    assert set(numbers.tolist()) <= expected
    parts: list[Any] = [drawn.base.features[:, 0] / 2, -drawn.base.state[:, 0]]
    if seen:
        assert drawn.observations is not None
        parts.append(drawn.observations["image_head"][:, 0, 0, 0].float())
    for part in parts:
        torch.testing.assert_close(part, numbers)
