"""`rise improve`: what is wrong is told before anything is done, and a run goes on as itself alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.cli.main import main
from rise_agents.pipelines.config import load_demo_config
from rise_agents.pipelines.demo import Clock, Demo
from rise_agents.pipelines.improve import Ingredients, check_same_run, improve
from rise_agents.policies.loading import load_policy
from rise_agents.training.presets import AgentPreset
from rise_agents.training.runner import read_history
from rise_env.bundle import load_bundle
from rise_env.data.array_dataset import ArrayDataset
from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, TrainingError


def test_a_wrong_setting_is_told_at_once(tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["improve", "--policy", str(policy), "--out", str(tmp_path / "run")]
    assert main([*command, "--agent", "selective_rise", "--set", "epohcs=3"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["demo", "--out", str(tmp_path / "demo"), "--set", "epohcs=3"]) == 2
    assert not (tmp_path / "demo" / "config.json").exists()
    assert main([*command, "--env", "RISE-Imagination-v0"]) == 2
    assert "--bundle" in capsys.readouterr().err


def test_a_run_goes_on_as_itself_alone(
    tmp_path: Path, policy: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["improve", "--agent", "rise", "--policy", str(policy), "--out", str(run), "--num-envs", "4",
               "--bundle", str(bundle)]  # fmt: skip
    command += ["--judge", "3", "--set", "batch_size=8", "epochs=1"]
    assert main([*command, "--chunks", "8", "--judge", "0"]) == 0
    assert not (run / "report.html").exists()
    before = (run / "config.json").read_text(encoding="utf-8")
    for changes in (["--num-envs", "8"], ["--seed", "3"]):
        assert main([*command, "--chunks", "16", *changes]) == 2
        assert "other settings (agent)" in capsys.readouterr().err
        assert (run / "config.json").read_text(encoding="utf-8") == before
    older = json.loads(before)
    del older["agent"]["start_frames"], older["agent"]["oracle_episodes"]  # of a build that knew none
    (run / "config.json").write_text(json.dumps(older), encoding="utf-8")
    assert main([*command, "--chunks", "16"]) == 0  # more of the same
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["num_timesteps"] == 16
    config, judgement = (run / name for name in ("config.json", "judgement.json"))
    ended, judged = config.read_bytes(), json.loads(judgement.read_text(encoding="utf-8"))
    (run / "report.html").unlink()
    assert main([*command, "--chunks", "16"]) == 0  # nothing is left to train: the report is made again
    again = json.loads(judgement.read_text(encoding="utf-8"))
    assert {**again, "provenance": None} == {**judged, "provenance": None}
    assert config.read_bytes() == ended
    assert (judged["imagination"]["states"], judged["held_out"], judged["warnings"]) == (3, None, [])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Give --data and --labels" in page
    assert "rise evaluate --task brick_sorting --policy base" not in page
    assert f"rise evaluate --task brick_sorting --policy {run} " in page
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    before_and_after = [f"Before and after {how}" for how in ("in imagination", "against recorded successes")]
    held_out, ends = ["Verdict", "What this page cannot say", "Held-out recordings"], ["Films", "Run it again"]
    assert headings == [*held_out, *before_and_after, *ends, "Where this comes from"]


def test_a_run_goes_on_with_its_own_base_policy_and_start_states_alone(
    tmp_path: Path, policy: Path, bundle: Path
) -> None:
    base, preset = load_policy(policy), AgentPreset("rise", chunks=4, num_envs=4, config={"batch_size": 8, "epochs": 1})
    doubtful = dataclasses.replace(load_bundle(bundle), provenance={"ranking_problem": "the value ranks nothing"})
    ingredients, notes = Ingredients(doubtful, "RISE-BrickSorting-v0"), []
    with pytest.raises(TrainingError, match=r"the value ranks nothing. Nothing was trained. .* --despite-ranking"):
        improve(preset, base, ingredients, tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run" / "model").exists()
    ingredients = dataclasses.replace(ingredients, despite_ranking=True)
    improve(preset, base, ingredients, tmp_path / "run", progress_bar=False, note=notes.append)
    assert notes[0] == f"WARNING: in the recordings that {bundle.name} is made from the value ranks nothing"
    ignored = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["despite_ranking"]
    assert ignored == [notes[0].removeprefix("WARNING: ")]
    other = load_policy(policy)
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    with pytest.raises(CheckpointError, match=r"other settings \(base_policy\)"):
        improve(preset.replace(chunks=8), other, ingredients, tmp_path / "run", progress_bar=False)
    with pytest.raises(CheckpointError, match=r"other settings \(labels\)"):
        improve(preset, base, dataclasses.replace(ingredients, labels="other"), tmp_path / "run", progress_bar=False)
    copied = tmp_path / bundle.name
    shutil.copytree(bundle, copied)
    starts = StartStates.load(copied / "starts")
    moved = dataclasses.replace(starts, states=starts.states + np.float32(0.01))
    moved.save(copied / "starts", compress=True)
    with pytest.raises(CheckpointError, match=r"other settings \(bundle_content\)"):  # of the same name
        improve(preset.replace(chunks=8), base, Ingredients(load_bundle(copied), "RISE-BrickSorting-v0"),
                tmp_path / "run", progress_bar=False)  # fmt: skip


def test_a_value_that_does_not_rank_held_out_recordings_stops_it(
    tmp_path: Path, policy: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_bundle(bundle)
    joints = np.zeros((80, found.spec.layout.dim), np.float32)
    black = ArrayDataset(found.spec, [20] * 4, joints, joints, outcomes=np.ones(4, bool))
    monkeypatch.setattr("rise_agents.pipelines.improve.open_dataset", lambda *_, **__: black)
    ingredients = Ingredients(found, "RISE-BrickSorting-v0", [tmp_path / "data"])
    preset = AgentPreset("recap", chunks=4, num_envs=4)  # it needs no labels
    with pytest.raises(TrainingError, match=r"held-out episodes .* time is undefined: it does not vary .*\+0\.20"):
        improve(preset, load_policy(policy), ingredients, tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run" / "model").exists()


def test_a_budget_that_only_scores_start_states_is_an_error(
    tmp_path: Path, policy: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["improve", "--agent", "selective_rise", "--policy", str(policy), "--out", str(tmp_path / "run"),
               "--bundle", str(bundle)]  # fmt: skip
    assert main([*command, "--num-envs", "8", "--chunks", "16"]) == 2
    assert "larger budget" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", '{"agent": ', "[3]"])
def test_damaged_files_of_a_run_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "rise").mkdir()
    for name in ("config.json", "seconds.json", "history.json", "rise/config.json"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    demo = Demo(load_demo_config("brick_sorting", "tiny"), "brick_sorting", "tiny", tmp_path)
    for name, read in {
        "config.json": lambda: check_same_run(tmp_path, {"agent": {"chunks": 3}}),
        "seconds.json": lambda: Clock(tmp_path / "seconds.json"),
        "history.json": lambda: read_history(tmp_path),
        "rise/config.json": lambda: demo.check_improvement(demo.agent()),
    }.items():
        with pytest.raises(CheckpointError, match=rf"{name} is damaged .* (Delete it|remove .* and start anew)"):
            read()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], (None, None, False, False)),
        (["--skip-bad-episodes"], (None, None, False, True)),
        (["--state-key", "state", "--action-key", "actions", "--trust-layout"], ("state", "actions", True, False)),
    ],
)
def test_how_recordings_are_opened(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: tuple[Any, ...]
) -> None:
    class Opened(Exception):
        pass

    def opened(*_: object, **options: object) -> None:
        assert (
            tuple(options[name] for name in ("state_key", "action_key", "trust_layout", "skip_bad_episodes"))
            == expected
        )
        raise Opened

    monkeypatch.setattr("rise_agents.pipelines.improve.open_dataset", opened)
    with pytest.raises(Opened):
        main(
            ["improve", "--policy", str(policy), "--data", "d", "--labels", "t", "--out", str(tmp_path / "run"), *given]
        )
