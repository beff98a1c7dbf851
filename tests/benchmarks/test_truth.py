"""The truth benchmark: perfect imagination scores perfectly, and the ground truth is what the cell does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.truth_metrics import Imagined, measure
from benchmarks.truth_set import KINDS, TruthSet, collect_truth
from benchmarks.truth_states import FreshStates
from rise_agents.cli.main import main
from rise_env.errors import ConfigError
from rise_env.metrics.perceptual import Lpips, VideoFeatures, frechet_distance
from rise_robot.cell.config import load_cell

STATES, HORIZON, VIEWS = 4, 3, 2


@pytest.fixture
def truth() -> TruthSet:
    rng = np.random.default_rng(0)
    chunks, shape = len(KINDS), (VIEWS, 24, 32, 3)
    history = rng.integers(0, 256, (STATES, 2, *shape), np.uint8)
    frames = rng.integers(0, 256, (STATES, chunks, HORIZON, *shape), np.uint8)
    return TruthSet(
        history_frames=history,
        history_states=np.zeros((STATES, 2, 14), np.float32),
        actions=np.zeros((STATES, chunks, 6, 14), np.float32),
        kinds=np.array(KINDS),
        frames=frames,
        states=np.zeros((STATES, chunks, HORIZON, 14), np.float32),
        start_progress=rng.random(STATES).astype(np.float32),
        progress=rng.random((STATES, chunks, HORIZON)).astype(np.float32),
        seeds=np.arange(STATES),
    )


def imagined(truth: TruthSet, values: np.ndarray, frames: np.ndarray | None = None) -> Imagined:
    doubt = np.abs(values - truth.progress).mean(-1)
    frames = truth.frames if frames is None else frames
    return Imagined(frames, values, truth.progress, truth.start_progress, doubt)


def test_perfect_imagination(truth: TruthSet) -> None:
    result = measure(truth, imagined(truth, truth.progress), ["a", "b"])
    assert result["psnr"]["chunk_end"] == 100.0
    assert result["psnr"]["chunk_end_copy"] < 15.0
    assert result["ssim"]["chunk_end"] == pytest.approx(1.0)
    assert result["epe"]["chunk_end"] == 0.0
    assert result["action_sensitivity"] == {"recognised": 1.0, "chance": 1 / len(KINDS)}
    assert result["spearman"]["overall"] == pytest.approx(1.0)
    assert result["spearman"]["within_state"] == pytest.approx(1.0)
    assert result["spearman"]["states_with_an_order"] == STATES
    assert set(result["spearman"]["by_kind"]) == set(KINDS)
    assert result["value_bias_on_imagined_frames"] == 0.0


def test_ranking_by_the_state_alone_is_found_out(truth: TruthSet) -> None:
    """An imagination that knows the state but not the chunk ranks well overall and not at all within a state."""
    truth.progress[:] = np.linspace(0, 1, STATES)[:, None, None] + 0.05 * truth.progress
    truth.start_progress[:] = 0
    blind = np.broadcast_to(truth.progress.mean((1, 2), keepdims=True), truth.progress.shape)
    result = measure(truth, imagined(truth, blind), ["a", "b"])
    assert result["spearman"]["overall"] > 0.8
    assert result["spearman"]["within_state"] == 0.0


def test_uncertainty_is_rated_by_what_was_imagined_wrongly(truth: TruthSet) -> None:
    values = truth.progress.copy()
    values[::2] += 0.5
    result = measure(truth, imagined(truth, values), ["a", "b"])
    assert result["imagined_wrongly"] == 0.5
    assert result["uncertainty_auroc"] == 1.0


class PixelDistance(torch.nn.Module):
    """In the place of LPIPS: mean squared difference."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().mean((1, 2, 3), keepdim=True)


def clip_features(pixels: torch.Tensor, **flags: bool) -> torch.Tensor:
    """In the place of the I3D: mean brightness of the first, the second and the last frame."""
    assert flags == {"rescale": True, "resize": True, "return_features": True}
    return pixels.mean((1, 3, 4))[:, [0, 1, -1]]


def test_networks_that_were_not_given_are_said_to_be_missing(truth: TruthSet) -> None:
    result = measure(truth, imagined(truth, truth.progress), ["a", "b"])
    assert result["lpips"] is None
    assert result["fvd"] is None
    assert result["not_run"] == {
        "lpips": "no weights given, pass --lpips FILE",
        "fvd": "no weights given, pass --fvd FILE",
    }


def test_networks_that_were_given_measure_each_camera_against_the_truth(truth: TruthSet) -> None:
    lpips, video = Lpips(PixelDistance(), "vgg"), VideoFeatures(clip_features, "stand-in")
    frames = truth.frames.copy()
    frames[..., 1, :, :, :] //= 2  # the second camera is imagined too dark
    seen: list[int] = []
    networks: dict[str, Any] = {"lpips": lpips, "video": video, "on_state": lambda: seen.append(1)}
    result = measure(truth, imagined(truth, truth.progress, frames), ["a", "b"], **networks)
    assert result["not_run"] == {}
    assert len(seen) == STATES

    wrong = ((frames[:, :, -1, 1] / 127.5 - truth.frames[:, :, -1, 1] / 127.5) ** 2).mean()
    assert result["lpips"]["by_view"] == {"a": 0.0, "b": pytest.approx(wrong, rel=1e-5)}
    assert result["lpips"]["chunk_end"] == pytest.approx(wrong / 2, rel=1e-5)
    start = np.broadcast_to(truth.history_frames[:, -1, None], truth.frames[:, :, -1].shape)
    copied = ((start / 127.5 - truth.frames[:, :, -1] / 127.5) ** 2).mean()
    assert result["lpips"]["chunk_end_copy"] == pytest.approx(copied, rel=1e-5)

    def features(chunks: np.ndarray) -> np.ndarray:
        first = np.broadcast_to(truth.history_frames[:, -1, None, 1], chunks[:, :, 0].shape).mean((2, 3, 4))
        return np.stack([first, chunks[:, :, 0].mean((2, 3, 4)), chunks[:, :, -1].mean((2, 3, 4))], -1).reshape(-1, 3)

    expected = frechet_distance(features(frames[..., 1, :, :, :]), features(truth.frames[..., 1, :, :, :]))
    assert result["fvd"]["clips"] == STATES * len(KINDS) * VIEWS
    assert result["fvd"]["frames_per_clip"] == 1 + HORIZON
    assert result["fvd"]["by_view"] == {"a": pytest.approx(0, abs=1e-6), "b": pytest.approx(expected, rel=1e-4)}
    assert result["fvd"]["chunk"] > 0
    assert result["fvd"]["chunk_copy"] > 0


@pytest.mark.slow
def test_the_command_takes_files_and_says_what_it_did_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks with random weights, in files like the published ones, on two states of the shipped bundle."""
    import torchvision

    class Detector(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
        ) -> torch.Tensor:
            return x.mean([1, 3, 4]) / 255

    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(Detector()).save(str(tmp_path / "detector.pt"))
    common = ["bench", "truth", "--states", "2", "--device", "cpu", "--truth-set", str(tmp_path / "truth.npz")]
    # A wrong file is found before the cell has run anything.
    assert main([*common, "--lpips", str(tmp_path / "missing.pth")]) == 2
    assert "missing.pth does not exist" in capsys.readouterr().err
    assert not (tmp_path / "truth.npz").exists()

    files = ["--lpips", str(tmp_path / "alexnet.pth"), "--fvd", str(tmp_path / "detector.pt")]
    assert main([*common, *files, "--json", str(tmp_path / "with.json")]) == 0
    result = json.loads((tmp_path / "with.json").read_text())
    assert result["not_run"] == {}
    assert result["lpips"]["network"] == "alex"
    assert result["lpips"]["chunk_end"] > 0
    assert result["fvd"]["clips"] == 2 * len(KINDS) * 3
    assert result["fvd"]["frames_per_clip"] == 9
    capsys.readouterr()
    assert main([*common, "--json", str(tmp_path / "without.json")]) == 0
    assert "lpips: not run: no weights given, pass --lpips FILE" in capsys.readouterr().err
    without = json.loads((tmp_path / "without.json").read_text())
    assert (without["lpips"], without["fvd"]) == (None, None)
    assert without["psnr"] == result["psnr"]


def test_truth_set_round_trip_and_missing_entries(truth: TruthSet, tmp_path: Path) -> None:
    truth.save(tmp_path / "truth.npz")
    again = TruthSet.load(tmp_path / "truth.npz")
    assert np.array_equal(again.frames, truth.frames)
    assert again.kinds.tolist() == list(KINDS)
    np.savez(tmp_path / "other.npz", frames=truth.frames)
    with pytest.raises(ConfigError, match="history_frames"):
        TruthSet.load(tmp_path / "other.npz")


def test_ground_truth_comes_from_one_state_and_is_reproducible() -> None:
    spec, config = load_cell("brick_sorting", "tiny")
    first, second = (collect_truth(FreshStates(spec, config, 2, 70)) for _ in range(2))
    assert first.frames.shape == (2, len(KINDS), spec.frames_per_chunk, 3, *spec.image_size, 3)
    assert first.history_frames.shape == (2, spec.history, 3, *spec.image_size, 3)
    for name in ("frames", "history_frames", "actions", "progress", "states"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    # The chunks of one state differ, and so do their outcomes.
    assert len({chunk.tobytes() for chunk in first.actions[0]}) == len(KINDS)
    assert len({outcome.tobytes() for outcome in first.frames[0, :, -1]}) > 1
    # The expert's chunk never does worse than standing still would.
    assert (first.progress[:, 0, -1] >= first.start_progress - 0.3).all()
