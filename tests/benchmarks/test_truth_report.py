"""The truth report: what it finds in worlds that are known, and the page in both of its forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.truth_chunks import Chunks, calibration, fidelity
from benchmarks.truth_ladder import RUNGS
from benchmarks.truth_rollouts import Course, Proposals
from benchmarks.truth_worlds import Both, Chain, closed_loop, exploitability, lift, policy_ranking
from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.reporting.filming import write_video
from rise_env.bundle import save_bundle
from rise_env.data.array_dataset import ArrayDataset
from rise_env.errors import ConfigError
from rise_env.metrics import psnr
from rise_env.tasks import load_task
from rise_env.testing import FrameCountingDynamics, counting_starts
from rise_env.value.config import ModelConfig
from rise_env.value.model import InputShape, ValueModel
from rise_env.world_model import CompositionalWorldModel

SPEC = load_task("brick_sorting", "tiny")
STATES, COUNT = 12, 4
RNG = np.random.default_rng(0)


def pictures(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 2, 24, 32, 3), np.uint8)


def chunks(imagined: np.ndarray, true: np.ndarray, error: np.ndarray, doubt: np.ndarray) -> Chunks:
    """Chunks whose pictures are imagined like those of another for other actions."""
    shape = (STATES, COUNT, *true.shape[1:])
    other = np.roll(imagined.reshape(shape), 1, axis=1).reshape(true.shape)
    group = np.repeat(np.arange(STATES), COUNT)
    return Chunks(
        ["a", "b"], group, "states", imagined, true, np.repeat(pictures(STATES), COUNT, 0), psnr(other, true),
        error, 0 * error, None, doubt,
    )  # fmt: skip


def test_actions_that_are_followed_and_actions_that_are_ignored() -> None:
    true, zero = pictures(STATES * COUNT), np.zeros(STATES * COUNT)
    followed = fidelity(chunks(true, true, zero, zero), COUNT)
    assert (followed.answer, followed.good) == ("yes", True)
    by_name = {one.name: one.mean for one in followed.figures}
    assert by_name["Own outcome recognised"] == (1.0, 1.0, 1.0, STATES)
    moved = by_name["How much actions change"]
    assert moved is not None
    assert moved.mean == pytest.approx(1.0)
    one_future = np.repeat(true[::COUNT], COUNT, axis=0)
    ignored = fidelity(chunks(one_future, true, zero, zero), COUNT)
    assert (ignored.answer, ignored.good) == ("no: actions are ignored", False)
    still = {one.name: one.mean for one in ignored.figures}["How much actions change"]
    assert still is not None
    assert still.mean == 0.0


def test_uncertainty_that_knows_and_uncertainty_that_does_not() -> None:
    true, error = pictures(STATES * COUNT), np.tile([0.0, 0.05, 0.2, 0.4], STATES)
    knows = calibration(chunks(true, true, error, error))
    assert (knows.answer, knows.figures[0].mean) == ("yes", (1.0, 1.0, 1.0, STATES))
    assert calibration(chunks(true, true, error, -error)).good is False
    assert calibration(chunks(true, true, 0 * error, error)).answer == "cannot be told"


def course(end: np.ndarray) -> Course:
    level = np.stack([np.zeros_like(end), end], axis=1)
    return Course(np.zeros((len(end), 1, 8, 14), np.float32), level, end > 0.5, None)


def worlds(imagined: list[float], true: list[float]) -> dict[str, Both]:
    noise = RNG.normal(0, 0.01, STATES)
    return {
        f"p{i}": Both("a policy", True, course(guess + noise), course(fact + noise))
        for i, (guess, fact) in enumerate(zip(imagined, true, strict=True))
    }


def test_policies_in_the_right_order_and_in_the_wrong_one() -> None:
    levels = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    right = policy_ranking(worlds([level / 2 for level in levels], levels))
    assert (right.answer, right.figures[0].mean) == ("yes", (1.0, 1.0, 1.0, STATES))
    assert "imagination prefers it, too" in right.verdict
    wrong = policy_ranking(worlds(levels[::-1], levels))
    assert wrong.good is False
    assert wrong.figures[0].mean is not None
    assert wrong.figures[0].mean.mean == pytest.approx(-1.0)
    assert "imagination prefers p0" in wrong.verdict


def test_a_gain_that_is_real_and_one_that_is_not() -> None:
    imagined = RNG.normal(0, 0.1, (STATES, COUNT))
    actions = np.zeros((STATES, COUNT, 8, 14), np.float32)
    found = worlds([0.2, 0.6], [0.2, 0.6])
    base, improved = found["p0"], {"p1": found["p1"]}
    honest = exploitability(Proposals(actions, imagined, imagined), base, improved)
    assert honest.answer == "mostly real"
    assert [one.mean for one in honest.figures[:2]] == [pytest.approx((1, 1, 1, STATES))] * 2
    assert lift(Proposals(actions, imagined, imagined), base, improved).answer == "yes"
    deceived = exploitability(
        Proposals(actions, imagined, -imagined), base, {"p1": base._replace(imagined=course(np.ones(STATES)))}
    )
    assert deceived.answer == "mostly not real"
    lines = honest.charts[0]["lines"]
    assert lines["imagined"] == lines["truly best"]
    assert lines["imagined"][0] == (1.0, pytest.approx(0.0))
    assert lines["imagined"][-1][1] == pytest.approx((imagined.max(1) - imagined.mean(1)).mean())


def test_imagination_that_holds_for_a_chunk_and_then_does_not() -> None:
    true, first = pictures(STATES, 3), pictures(STATES)
    guess = true.copy()
    guess[:, 2] = first
    value = RNG.random((STATES, 4))
    chain = Chain(["a", "b"], np.arange(STATES), "states", 1.6, first, guess, true, value, value, "true progress", None)
    gains = [one.mean for one in closed_loop(chain).figures[:3]]
    assert gains[0] is not None
    assert gains[2] is not None
    assert gains[0].low > 10
    assert gains[2].mean == pytest.approx(0.0, abs=1e-3)
    assert closed_loop(chain).good is not True
    held = chain._replace(imagined=true)
    assert closed_loop(held).answer == "yes"
    flattered = closed_loop(held._replace(value=value + 0.3))
    assert flattered.answer == "in part"
    assert "flatters" in flattered.verdict
    apart = closed_loop(held._replace(own=value - 0.2))
    assert (apart.answer, apart.figures[-1].name) == ("in part", "Gap between the two loops")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that imagines flat frames, with a value and a policy of random weights."""
    torch.manual_seed(0)
    config = ModelConfig(channels=(8, 16), embed=16, hidden=16, members=2, text_vocabulary=64, text_embed=8)
    value = ValueModel(config, InputShape(tuple(SPEC.cameras), *SPEC.image_size)).eval()
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1))
    folder = tmp_path_factory.mktemp("truth")
    policy.save_pretrained(folder / "policy")
    model = CompositionalWorldModel(FrameCountingDynamics(SPEC), value, SPEC)
    save_bundle(folder / "bundle", counting_starts(SPEC, 8), model, policy=folder / "policy")
    return folder / "bundle"


@pytest.fixture
def small_films(monkeypatch: pytest.MonkeyPatch) -> None:
    """To encode noise at its full size takes most of the time."""
    for module in ("truth_films", "truth_recordings"):
        monkeypatch.setattr(
            f"benchmarks.{module}.write_video", lambda path, frames, fps: write_video(path, frames[:, ::8, ::8], fps)
        )


@pytest.mark.usefixtures("small_films")
def test_the_page_of_a_cell(bundle: Path, tmp_path: Path) -> None:
    common = [
        "bench",
        "truth",
        "--quick",
        "--preset",
        "tiny",
        "--bundle",
        str(bundle),
        "--device",
        "cpu",
        "--seed",
        "71",
    ]
    out = ["--page", str(tmp_path / "page"), "--json", str(tmp_path / "truth.json")]
    assert main([*common, "--improved", str(bundle.parent / "policy"), *out]) == 0
    result = json.loads((tmp_path / "truth.json").read_text())
    assert [one["key"] for one in result["ladder"]] == list(RUNGS)
    assert {"spearman", "psnr", "ssim", "epe", "action_sensitivity", "uncertainty_auroc"} <= result.keys()
    names = [one["policy"] for one in result["policies"]]
    assert len(names) == 8
    assert {"base", "base (noise)", "expert", str(bundle.parent / "policy")} <= set(names)
    # The same policy under another name gains nothing in either world.
    gains = {one["name"]: one["value"] for one in result["ladder"][4]["figures"] if "policy" in one["name"]}
    assert list(gains.values()) == [0.0, 0.0]
    ignored = result["ladder"][0]
    assert ignored["answer"] == "no: actions are ignored"  # flat frames count, whatever is done
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert all(f">{rung.title}</h2>" in page for rung in RUNGS.values())
    assert page.count("<video") == 2 + 2 + 2
    assert page.count("What it cannot say.") == len(RUNGS)
    assert "from seed 71: in episodes 71 to 72" in page


@pytest.mark.usefixtures("small_films")
def test_the_page_of_recordings(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joints = np.repeat((SPEC.layout.low + SPEC.layout.high)[None] / 2, 800, 0).astype(np.float32)
    frames = RNG.integers(0, 255, (800, len(SPEC.cameras), *SPEC.image_size, 3), np.uint8)
    data = ArrayDataset(SPEC, [40] * 20, joints, joints, frames=frames, outcomes=np.arange(20) % 2 == 0)
    monkeypatch.setattr("benchmarks.truth.open_dataset", lambda *_, **__: data)
    out = ["--page", str(tmp_path / "page"), "--json", str(tmp_path / "truth.json"), "--data", "mine"]
    assert main(["bench", "truth", "--quick", "--bundle", str(bundle), "--device", "cpu", *out]) == 0
    ladder = json.loads((tmp_path / "truth.json").read_text())["ladder"]
    assert [one["key"] for one in ladder] == list(RUNGS)
    missing = [one["key"] for one in ladder if one["answer"] == "needs a cell"]
    assert missing == ["policy_ranking", "optimisation_lift", "exploitability"]
    assert all(one["figures"] for one in ladder if one["key"] not in missing)
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert page.count("<video") == 2 + 2
    assert "nobody carried these policies out" in page


def test_a_task_without_a_cell_asks_for_recordings(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(task: str) -> str:
        raise ConfigError(f"{task} has no work cell.")

    monkeypatch.setattr("benchmarks.truth.cell_id", none)
    assert main(["bench", "truth", "--quick", "--bundle", str(bundle), "--device", "cpu"]) == 2
    assert "give recordings with --data" in capsys.readouterr().err
