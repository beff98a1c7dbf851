"""The demo, whole but short: few episodes, a policy that knows nothing, a world model that imagines flat frames."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.outcomes import OutcomeConfig, OutcomeCritic
from rise_agents.algorithms.selective_rise import SelectiveRISE
from rise_agents.cli.main import main
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.pipelines.config import DemoConfig, load_demo_config
from rise_agents.pipelines.demo import Demo
from rise_agents.policies.flow_policy import FlowPolicy
from rise_agents.policies.loading import load_policy
from rise_env.bundle import extend_bundle
from rise_env.data import label_tags
from rise_env.errors import CheckpointError, ConfigError
from rise_env.files import write_json
from rise_robot.cell.task import failure_meanings

RECORDINGS = (
    "demo.recordings=[{policy: base, episodes: 3, seed: 70000}, {policy: expert, episodes: 3, seed: 170000}]"
)  # fmt: skip


def command(out: Path, policy: Path, bundle: Path, *more: str) -> list[str]:
    return [
        "demo", RECORDINGS, "--preset", "tiny", "--bundle", str(bundle), "--out", str(out), "--policy", str(policy),
        "--episodes", "2", "--chunks", "400", "--set", "batch_size=16", "epochs=1", "buffer_rounds=2",
        "scored_starts=32", "num_candidates=4", "top_k=1", "min_advantage_gap=0", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_ends_the_same_after_an_interruption_and_on_a_machine_four_times_slower(
    tmp_path: Path,
    policy: Path,
    bundle: Path,
    light_work: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, file = tmp_path / "out", tmp_path / "demo.json"
    inner = Demo._evaluate

    def stopped(self: Demo, name: str, given: Any) -> Any:
        if name == "improved":
            raise KeyboardInterrupt
        return inner(self, name, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Demo, "_evaluate", stopped)
        assert main(command(out, policy, bundle, "--json", str(file))) == 130
    assert not file.exists()
    model = out / "rise" / "model" / "model.safetensors"
    trained = model.read_bytes()
    assert main(command(out, policy, bundle, "--json", str(file))) == 0
    assert model.read_bytes() == trained  # not trained again
    result = json.loads(file.read_text())
    for name in ("base", "improved"):
        assert result[name]["episodes"] == 2
        low, high = result[name]["success_interval"]
        assert low <= result[name]["success_rate"] <= high
        assert np.isfinite(result[name]["score_mean"])
    assert result["minutes"] > 0
    report = Path(result["report"])
    assert report.resolve() == Path(capsys.readouterr().out.strip().splitlines()[-1])
    page = report.read_text(encoding="utf-8")
    assert "<table" in page
    assert "imagination" in page
    modes = result["improved"]["failure_modes"]
    assert modes  # nothing is learned so fast
    for mode in modes:
        assert f"After: {failure_meanings('brick_sorting')[mode]}." in page  # of an episode that is filmed
    assert "From 0, nothing done, to 1, done" in page  # how to read a value curve
    base = FlowPolicy.from_pretrained(policy).denoiser.write.weight
    assert not torch.equal(base, FlowPolicy.from_pretrained(out / "rise" / "model").denoiser.write.weight)
    assert main(command(out, policy, bundle, "--seed", "1")) == 2  # another run may not be mixed with this one
    assert "other settings (seed)" in capsys.readouterr().err

    step = SelectiveRISE.step

    def slow(self: SelectiveRISE) -> None:
        started = time.perf_counter()
        step(self)
        time.sleep(3 * (time.perf_counter() - started))

    monkeypatch.setattr(SelectiveRISE, "step", slow)
    monkeypatch.setattr(Demo, "_evaluate", stopped)  # its weights are compared, which the rest leaves alone
    again = tmp_path / "slow"
    shutil.copytree(out / "data", again / "data")
    shutil.copy(out / "base.json", again)
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # a machine with other cores, too
    try:
        assert main(command(again, policy, bundle)) == 130
    finally:
        torch.set_num_threads(before)
    assert (again / "rise" / "model" / "model.safetensors").read_bytes() == trained


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_policy_learns_from_a_critic_that_its_bundle_brings(
    tmp_path: Path, policy: Path, bundle: Path, light_work: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_policy(policy)
    torch.manual_seed(0)
    critic = OutcomeCritic(base.features, base.spec.layout, base.spec.chunk, OutcomeConfig(members=1, width=8))
    critic.remember_eyes(base)
    critic.save_pretrained(tmp_path / "critic")
    out, more = tmp_path / "out", extend_bundle(bundle, tmp_path / "more", policies={"novice": policy})
    given = [*command(out, policy, more.path, "warm_up=3"), "--policy", "base:novice", "--agent", "practice"]
    assert main(given) == 2
    assert "has no critic of outcomes" in capsys.readouterr().err
    extend_bundle(more.path, more.path, critic=tmp_path / "critic")
    shutil.move(out / "data", tmp_path / "data")  # the bundle is another one now
    shutil.rmtree(out)
    shutil.move(tmp_path / "data", out / "data")
    assert main(given) == 0
    assert not label_tags(out / "data" / "base-70000")  # nothing reads any
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "improved by a critic of outcomes" in page
    assert "minutes of learning from its own episodes, with no further robot time" in page
    assert "imagined chunks" not in page
    improved = FlowPolicy.from_pretrained(out / "rise" / "model")
    assert not torch.equal(base.state_dict()["denoiser.write.weight"], improved.denoiser.write.weight)


def test_settings(tmp_path: Path, hanging: str) -> None:
    shipped = load_demo_config("brick_sorting")
    assert (shipped.agent, shipped.policy, shipped.episodes) == ("practice", "base:novice", 200)
    assert sum(one.episodes for one in shipped.recordings) == 400
    choice = load_demo_config("brick_sorting", "choice")
    assert (choice.agent, choice.policy, len(choice.recordings)) == ("selective_rise", "base", 3)
    demo = Demo(choice, "brick_sorting", "choice", tmp_path, seed=5, chunks=9, settings={"top_k": 1})
    assert (demo.agent().chunks, demo.agent().config) == (9, {"top_k": 1, "seed": 5})
    assert demo.cell_id == "RISE-BrickSorting-Cell-v0"
    with pytest.raises(ConfigError, match="no work cell"):
        _ = Demo(shipped, hanging, "small", tmp_path).cell_id
    for wrong, match in (({"episodes": 0}, "episodes"), ({"recordings": ()}, "nothing to start from"),
                         ({"bundle_recordings": shipped.recordings}, "before there is a bundle")):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            DemoConfig(**wrong)  # type: ignore[arg-type]


def test_recordings_serve_a_larger_budget(tmp_path: Path) -> None:
    demo = Demo(load_demo_config("brick_sorting"), "brick_sorting", "small", tmp_path, chunks=700)
    run, result = tmp_path / "rise", tmp_path / "improved.json"
    for file, content in ((run / "config.json", {"agent": demo.agent()}), (run / "done.json", {}), (result, {})):
        write_json(file, content)
    demo.check_improvement(demo.agent())
    assert result.exists()
    for other in (dataclasses.replace(demo, chunks=600), dataclasses.replace(demo, settings={"epochs": 3})):
        with pytest.raises(CheckpointError, match="other settings or a larger budget"):
            other.check_improvement(other.agent())
    more = dataclasses.replace(demo, chunks=800)
    more.check_improvement(more.agent())
    assert not result.exists()
    assert not (run / "done.json").exists()


def test_another_number_of_episodes_is_evaluated_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def evaluated(env_id: str, actor: Any, episodes: int, *_: Any, **__: Any) -> EvaluationResult:
        asked.append(episodes)
        return EvaluationResult(0.0, (0.0, 0.5), 0.0, episodes, {}, 0.0, 0.0, ())

    monkeypatch.setattr("rise_agents.pipelines.demo.evaluate", evaluated)
    monkeypatch.setattr("rise_agents.pipelines.demo.PolicyActor", lambda policy: policy)
    config = load_demo_config("brick_sorting", "tiny")
    for episodes in (2, 2, 3, 3):
        demo = Demo(dataclasses.replace(config, episodes=episodes), "brick_sorting", "tiny", tmp_path)
        assert demo._evaluate("base", object()).episodes == episodes  # type: ignore[arg-type]
    assert asked == [2, 3]
