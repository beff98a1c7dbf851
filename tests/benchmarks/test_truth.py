"""The truth benchmark: perfect imagination scores perfectly, and the ground truth is what the cell does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.truth import Imagined, measure
from benchmarks.truth_set import KINDS, TruthSet, collect_truth
from rise_env.errors import ConfigError
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
    first, second = (collect_truth(spec, config, 2, 70) for _ in range(2))
    assert first.frames.shape == (2, len(KINDS), spec.frames_per_chunk, 3, *spec.image_size, 3)
    assert first.history_frames.shape == (2, spec.history, 3, *spec.image_size, 3)
    for name in ("frames", "history_frames", "actions", "progress", "states"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    # The chunks of one state differ, and so do their outcomes.
    assert len({chunk.tobytes() for chunk in first.actions[0]}) == len(KINDS)
    assert len({outcome.tobytes() for outcome in first.frames[0, :, -1]}) > 1
    # The expert's chunk never does worse than standing still would.
    assert (first.progress[:, 0, -1] >= first.start_progress - 0.3).all()
