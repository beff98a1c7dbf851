"""What RISE leaves in TensorBoard."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rise_agents.algorithms.rise import RISE, RiseConfig
from rise_agents.cli import improve
from rise_agents.training.logging import RiseLog
from rise_env.testing import counting_envs, counting_starts, counting_world_model
from tests.rise_agents.algorithms.test_rise import policy


def test_scalars_levels_advantages_and_films(tmp_path: Path) -> None:
    envs = counting_envs(
        4, starts=counting_starts(count=8), world_model=counting_world_model(), observation_lags=[2],
        autoreset_mode="disabled", render_mode="rgb_array",
    )  # fmt: skip
    agent = RISE(policy(), envs, None, RiseConfig(offline_ratio=0.0, epochs=1), log=tmp_path)
    agent.film()
    agent.learn(20)
    before = agent.num_chunks
    agent.film()
    assert agent.num_chunks == before  # what is filmed is not learned
    written = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    tags = written.Tags()
    assert {"rise/loss", "rise/ema_distance", "rise/advantage", "levels/00", "levels/09"} <= set(tags["scalars"])
    assert sum(written.Scalars(f"levels/{level:02d}")[0].value for level in range(10)) == pytest.approx(1)
    assert "rise/advantages" in tags["histograms"]
    assert [film.step for film in written.Images("imagined")] == [0, before]
    assert written.Images("imagined")[0].height > written.Images("imagined")[0].width / 2  # four, one above the other


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = RiseLog(None)
    log.scalars("rise", {"loss": 1.0}, 1)
    assert not log
    assert not list(tmp_path.iterdir())


def test_audits_of_a_run_that_goes_on_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"states": 2, "overall": 0.5, "within_state": 0.4, "advantage_mean": 0.1}
    leaders: list[Any] = []

    def audited(_policy: Any, _model: Any, *, behaviour_policy: Any, **_: Any) -> dict[str, float]:
        leaders.append(behaviour_policy)
        return figures

    monkeypatch.setattr("rise_agents.evaluation.audit.audit_policy", audited)
    base = policy()
    args = argparse.Namespace(out=tmp_path, audit=2, oracle=False)
    envs = counting_envs(
        2, starts=counting_starts(count=8), world_model=counting_world_model(), observation_lags=[2],
        autoreset_mode="disabled",
    )  # fmt: skip
    agent = RISE(base, envs, None, RiseConfig(offline_ratio=0.0))
    for chunks in (0, 8):  # two processes, one after the other
        agent.num_chunks = chunks
        improve._audit(base, args)(agent)
    assert [row["chunks"] for row in json.loads((tmp_path / "audit.json").read_text())] == [0, 8]
    assert all(leader is not agent.policy for leader in leaders)  # the states stay those of the base
