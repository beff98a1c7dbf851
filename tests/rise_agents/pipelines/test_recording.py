"""Sets of recordings: which comes first, and which comes back first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rise_agents.pipelines import recording
from rise_agents.pipelines.config import Recording


def test_the_longest_set_begins_first_and_the_order_given_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def begin(perform: object, work: Mapping[str, object], jobs: int) -> dict[str, str]:
        begun.extend(work)
        return {}

    monkeypatch.setattr(recording, "side_by_side", begin)
    sets = [Recording("expert", 2, 0), Recording("expert", 2, 10), Recording("operator", 5, 20)]
    folders = recording.record(tmp_path, sets, "brick_sorting")
    assert [folder.name for folder in folders] == ["expert-0", "expert-10", "operator-20"]
    assert begun == ["operator-20", "expert-0", "expert-10"]
