"""The fault benchmark: what it calls well, and what not."""

from __future__ import annotations

import pytest

from benchmarks import faults
from rise_robot.safety import StopReason
from rise_robot.testing import FAULTS


def test_a_stopped_robot_with_a_readable_recording_is_well() -> None:
    row = faults.driver_fault("link")
    assert row.items() >= {"reason": "link", "held": True, "readable": True, "frames": 8, "well": True}.items()


def test_another_reason_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAULTS, "link", StopReason.FAULT)
    assert not faults.driver_fault("link")["well"]
