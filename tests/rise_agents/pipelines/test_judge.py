"""The page on recordings: what was kept aside, films of it, and policies compared at the same moments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rise_agents.pipelines.improve import Ingredients
from rise_agents.pipelines.judge import Commands, judge
from rise_agents.policies.loading import load_policy
from rise_env.bundle import load_bundle
from rise_env.data.array_dataset import ArrayDataset
from rise_env.registry import TASKS, Registration, TaskRegistration


@pytest.fixture
def recordings(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ArrayDataset:
    """Twenty episodes without motion; every second one succeeded."""
    spec, rng = load_bundle(bundle).spec, np.random.default_rng(0)
    joints = np.repeat((spec.layout.low + spec.layout.high)[None] / 2, 400, 0).astype(np.float32)
    frames = rng.integers(0, 255, (400, len(spec.cameras), *spec.image_size, 3), np.uint8)
    data = ArrayDataset(spec, [20] * 20, joints, joints, frames=frames, outcomes=np.arange(20) % 2 == 0)
    monkeypatch.setattr("rise_agents.pipelines.improve.open_dataset", lambda *_, **__: data)
    return data


def test_recordings_are_judged_by(
    recordings: ArrayDataset, policy: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = TaskRegistration("brick_sorting", "BrickSorting", simulation="theirs:Simulation")
    monkeypatch.setitem(TASKS._known, "brick_sorting", Registration("brick_sorting", theirs))
    before, moved = load_policy(policy), load_policy(policy)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.3)
    found = load_bundle(bundle)
    about = {"data": ["mine"], "held_out": {"episodes": [3, 4, 5]}}
    made_of_it = dataclasses.replace(found, provenance=about)
    (tmp_path / "config.json").write_text(json.dumps({"despite_ranking": ["the value ranks nothing"]}))
    commands = Commands("rise improve --again", "runs/base", "tasks/mine")
    ingredients = Ingredients(made_of_it, "RISE-BrickSorting-v0", [Path("somewhere/mine")], "v1")
    judged = judge(tmp_path, before, moved, ingredients, commands, states=6)
    assert judged.held_out is not None
    assert judged.held_out["episodes"] == [3, 4, 5]
    assert "which the trainings of the world model kept aside" in judged.held_out_source
    assert "1 succeeded, 2 failed" in judged.held_out_source
    assert judged.warnings == ["--despite-ranking was used although the value ranks nothing."]
    assert judged.imagination.change.groups == 2
    assert judged.recorded is not None
    assert {one.hold for one in judged.recorded} == {0.0}
    assert any(one.before != one.after for one in judged.recorded)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<video") == 3 + 3
    assert page.count('<svg viewBox="0 0 560') >= 3
    assert "--despite-ranking was used" in page
    assert "rise improve --again" in page
    assert "The simulation says:" in page
    for policy_name in ("runs/base", str(tmp_path)):
        assert f"rise evaluate --task brick_sorting --policy {policy_name} " in page
    written = json.loads((tmp_path / "judgement.json").read_text(encoding="utf-8"))
    assert written["verdict"][0]["question"].startswith("Did the policy get better")
    assert written["provenance"]["hardware"]
