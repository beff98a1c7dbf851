"""Ablations of selective RISE: short runs of a policy that knows nothing, in the shipped world model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ablations
from rise_agents.evaluation.results import Episode, summarise
from rise_agents.pipelines.config import DemoConfig, Recording
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.bundle import find_bundle, load_bundle
from rise_env.files import write_json


def result(wins: list[int]) -> dict[str, object]:
    episodes = [Episode(i, bool(win), 10.0 * win, "none" if win else "miss", 1.0, 2) for i, win in enumerate(wins)]
    return summarise(episodes, 1.0).to_dict()


def test_the_table_pools_seeds_and_pairs_episodes(tmp_path: Path) -> None:
    write_json(tmp_path / "base-0" / "evaluation.json", result([1, 0, 0, 0]))
    write_json(tmp_path / "rise-0" / "evaluation.json", result([1, 1, 1, 0]))
    write_json(tmp_path / "rise-1" / "evaluation.json", result([1, 1, 0, 0]))
    rows = ablations.table(tmp_path).splitlines()
    assert len(rows) == 4  # two of heading, base, rise
    assert rows[2].startswith("| base | - | 25.0% |")
    assert rows[3].startswith("| rise | 2 | 62.5% (75.0%, 50.0%) |")
    assert rows[3].count("|") == rows[0].count("|")
    assert "+37.5 (-9.4 to +84.4)" in rows[3]  # gains of 0, 100, 50 and 0 points by episode


@pytest.mark.timeout(300)
def test_rows_are_trained_evaluated_and_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    spec = load_bundle(find_bundle("brick_sorting")).spec
    policy = tmp_path / "policy"
    FlowPolicy(spec, FlowPolicyConfig(network=network, lags=(6,), steps=1, noise_samples=1)).save_pretrained(policy)
    recordings = (Recording("base", 2, 70_000), Recording("expert", 2, 170_000))
    monkeypatch.setattr(ablations, "load_demo_config", lambda task: DemoConfig(recordings=recordings))
    command = ["--policy", str(policy), "--out", str(tmp_path / "out"), "--rows", "base", "shuffled", "--seeds", "7",
               "--chunks", "256", "--episodes", "2"]  # fmt: skip
    assert ablations.main(command) == 0
    folder = tmp_path / "out" / "shuffled-7"
    assert json.loads((folder / "done.json").read_text())["chunks"] >= 256  # the scoring, then whole rounds
    trained = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert "| shuffled | 1 |" in (tmp_path / "out" / "table.md").read_text()
    assert ablations.main(command) == 0
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == trained
