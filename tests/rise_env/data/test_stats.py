"""Statistics, their files, and the normaliser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rise_agents.cli.main import main
from rise_env.data import (
    NORMALIZATIONS,
    DatasetError,
    FeatureStats,
    Normalizer,
    Stats,
    compute_stats,
    open_dataset,
    split_episodes,
)
from rise_env.errors import ConfigError, LayoutError
from rise_env.tasks import TaskSpec, load_layout


@pytest.fixture
def stats(v3_root: Path, spec: Callable[..., TaskSpec]) -> Stats:
    return compute_stats(open_dataset(v3_root, spec()))


def assert_equal(left: Stats, right: Stats) -> None:
    assert left.to_dict() == right.to_dict()


def test_values(stats: Stats, v3_root: Path, spec: Callable[..., TaskSpec]) -> None:
    dataset = open_dataset(v3_root, spec())
    state = dataset.state.astype(float)
    np.testing.assert_allclose(stats.state.mean, state.mean(0))
    np.testing.assert_allclose(stats.state.std, state.std(0))
    np.testing.assert_allclose(stats.action.q99, np.quantile(dataset.action.astype(float), 0.99, axis=0))
    np.testing.assert_array_equal(stats.state.max, [11, 2, state[:, 2].max()])
    assert stats.names == ("left", "right", "gripper")
    assert stats.num_frames == 28
    one = compute_stats(dataset, episodes=[1])
    assert one.num_frames == 12
    assert one.state.std[1] == 0
    with pytest.raises(DatasetError, match="no frames"):
        compute_stats(dataset, episodes=[])


def test_files_round_trip(stats: Stats, tmp_path: Path) -> None:
    stats.save(tmp_path / "stats.json")
    assert_equal(Stats.load(tmp_path / "stats.json"), stats)
    stats.save_openpi(tmp_path / "norm_stats.json")
    content = json.loads((tmp_path / "norm_stats.json").read_text())
    assert set(content) == {"norm_stats"}
    assert set(content["norm_stats"]) == {"state", "actions"}
    assert set(content["norm_stats"]["actions"]) == {"mean", "std", "q01", "q99"}
    back = Stats.from_openpi(tmp_path / "norm_stats.json")
    np.testing.assert_array_equal(back.action.q01, stats.action.q01)
    assert back.action.min is None
    with pytest.raises(DatasetError, match="no minimum and maximum"):
        Normalizer(back.action, "min_max")


@pytest.mark.parametrize(
    ("content", "match"),
    [("{", "not valid JSON"), ("[]", "must hold a mapping"), ("{}", "'state' is missing"), (None, "is missing")],
)
def test_damaged_files(tmp_path: Path, content: str | None, match: str) -> None:
    path = tmp_path / "stats.json"
    if content is not None:
        path.write_text(content)
    for load in (Stats.load, Stats.from_openpi):
        with pytest.raises(DatasetError, match=match):
            load(path)


def test_openpi_quantile_formula() -> None:
    feature = FeatureStats(*(np.array([x]) for x in (0.0, 1.0, -0.3, 0.9)))
    x = np.linspace(-1, 1, 7)[:, None]
    expected = (x - -0.3) / (0.9 - -0.3 + 1e-6) * 2.0 - 1.0
    np.testing.assert_allclose(Normalizer(feature, "quantile").normalize(x), expected, rtol=1e-12)
    np.testing.assert_allclose(Normalizer(feature, "mean_std").normalize(x), x / (1 + 1e-6), rtol=1e-12)


numbers = st.floats(-100, 100, width=32)


@given(
    rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20),
    mode=st.sampled_from(NORMALIZATIONS),
    kind=st.sampled_from(["numpy", "torch"]),
)
@settings(max_examples=80, deadline=None)
def test_normalizer_round_trip(rows: list[tuple[float, ...]], mode: str, kind: str) -> None:
    values = np.array(rows, np.float32)
    exact = values.astype(float)
    q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0)
    normalizer = Normalizer(FeatureStats(exact.mean(0), exact.std(0), q01, q99, exact.min(0), exact.max(0)), mode)
    given_ = values if kind == "numpy" else torch.from_numpy(values)
    unit = normalizer.normalize(given_)
    assert type(unit) is type(given_)
    assert unit.dtype == given_.dtype
    # float32 carries 7 digits of the larger of value and shift
    np.testing.assert_allclose(np.asarray(normalizer.denormalize(unit)), values, atol=2e-4, rtol=1e-5)
    if mode == "min_max":
        assert np.abs(np.asarray(unit)).max() <= 1 + 1e-4
        np.testing.assert_array_equal(np.asarray(unit)[:, exact.std(0) == 0], 0)
    again = Normalizer.from_dict(json.loads(json.dumps(normalizer.to_dict())))
    np.testing.assert_array_equal(np.asarray(again.normalize(given_)), np.asarray(unit))


def test_normalizer_from_limits_and_mistakes(stats: Stats) -> None:
    layout = load_layout("piper_bimanual")
    normalizer = Normalizer.from_limits(layout)
    np.testing.assert_allclose(normalizer.normalize(layout.high), 1, atol=1e-6)
    np.testing.assert_allclose(normalizer.normalize(layout.low), -1, atol=1e-6)
    with pytest.raises(LayoutError, match="14 dimensions"):
        normalizer.normalize(np.zeros((2, 13), np.float32))
    with pytest.raises(LayoutError, match="int64, expected floats"):
        normalizer.normalize(np.zeros((2, 14), np.int64))
    with pytest.raises(ConfigError, match="unknown normalisation 'minmax'"):
        Normalizer(stats.state, "minmax")


def test_command_line(v3_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("stats.json", "norm_stats.json")]
    assert main(["stats", str(v3_root), "--json", paths[0], "--openpi", paths[1]]) == 0
    text = capsys.readouterr().out
    assert "3 episodes, 28 frames at 10 Hz, 2 successful" in text
    assert "gripper" in text
    assert Stats.load(paths[0]).num_frames == 28
    assert Stats.from_openpi(paths[1]).state.mean.shape == (3,)
    assert main(["stats", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_splits(new_dataset: Callable[..., Path], spec: Callable[..., TaskSpec]) -> None:
    outcomes = tuple(i % 3 == 0 for i in range(30))
    root = new_dataset(lengths=(2,) * 30, success=outcomes, images_in_parquet=True, episodes_per_file=30)
    dataset = open_dataset(root, spec())
    split = split_episodes(dataset, {"train": 0.6, "heldout": 0.3, "test": 0.1}, seed=4)
    assert {name: len(members) for name, members in split.items()} == {"train": 18, "heldout": 9, "test": 3}
    assert sorted(np.concatenate(list(split.values()))) == list(range(30))
    assert {name: int(dataset.success[members].sum()) for name, members in split.items()} == {
        "train": 6, "heldout": 3, "test": 1,
    }  # fmt: skip
    again = split_episodes(dataset, {"train": 0.6, "heldout": 0.3, "test": 0.1}, seed=4)
    for name in split:
        np.testing.assert_array_equal(again[name], split[name])
    assert (split_episodes(dataset, seed=1)["heldout"] != split_episodes(dataset, seed=2)["heldout"]).any()
    assert len(split_episodes(dataset, 0.99)["heldout"]) == 1
    for wrong in (1.0, {"train": 0.5}, {"a": -0.5, "b": 1.5}, {}):
        with pytest.raises(ConfigError, match="must be positive and sum to 1"):
            split_episodes(dataset, wrong)
