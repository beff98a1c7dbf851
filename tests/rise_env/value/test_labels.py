from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rise_env.errors import ConfigError, TrainingError
from rise_env.value.config import LabelConfig
from rise_env.value.labels import fill_dips, make_labels


def test_time_labels_end_at_the_outcome_and_leave_failures_out(make_dataset: Any) -> None:
    data = make_dataset([5, 3], [True, False])
    data.data["progress"] = np.array([0, 0.3, 1, 1, 1, 0, 0.5, 0], np.float32)
    labels = make_labels(data, LabelConfig())
    assert labels.outcome.tolist() == [2, 2]
    assert labels.progress[:5].tolist() == [0, 0.5, 1, 1, 1]
    assert labels.progress_known.tolist() == [True] * 5 + [False] * 3
    assert not labels.dense


def test_without_the_progress_column_a_success_ends_with_its_last_frame(make_dataset: Any) -> None:
    data = make_dataset([5, 1], [True, True])
    del data.data["progress"]
    labels = make_labels(data, LabelConfig())
    assert labels.outcome.tolist() == [4, 0]
    assert labels.progress.tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    with pytest.raises(TrainingError, match="no column 'progress'"):
        make_labels(data, LabelConfig(progress="dense"))


def test_dense_labels_are_the_recorded_progress_of_all_episodes(make_dataset: Any) -> None:
    data = make_dataset([4, 4], [True, False])
    data.data["progress"] = np.array([0, 0.1, 0.2, 1, 0, 0.7, 0.1, 0.1], np.float32)
    labels = make_labels(data, LabelConfig(progress="dense", fill_dips=0))
    assert labels.progress.tolist() == pytest.approx(data.data["progress"].tolist())
    assert labels.progress_known.all()


def test_short_dips_are_filled() -> None:
    curve = np.array([0, 0.5, 0.8, 0.2, 0.2, 1, 1, 0.3, 0.3, 0.3, 0.3])
    assert fill_dips(curve, 2).tolist() == [0, 0.5, 0.8, 0.8, 0.8, 1, 1, 0.3, 0.3, 0.3, 0.3]
    assert fill_dips(curve, 1).tolist() == curve.tolist()


def test_returns_are_normalised_per_task(make_dataset: Any) -> None:
    data = make_dataset([5, 3, 5], [True, True, False], tasks=["long", "short", "long"])
    del data.data["progress"]
    labels = make_labels(data, LabelConfig(length_percentile=100))
    assert labels.return_scales == {"long": 5.0, "short": 3.0}
    assert labels.returns[:5].tolist() == pytest.approx([-0.8, -0.6, -0.4, -0.2, 0])
    assert labels.returns[5:8].tolist() == pytest.approx([-2 / 3, -1 / 3, 0])
    assert (labels.returns[8:] == -1).all()


def test_names_say_nothing(make_dataset: Any) -> None:
    a, b = (make_dataset([6, 5], [True, False], name=name) for name in ("rollouts", "failure_fail_expert"))
    ours, theirs = make_labels(a, LabelConfig()), make_labels(b, LabelConfig())
    for field in ("success", "outcome", "progress", "progress_known", "returns"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field))


def test_outcomes_are_never_guessed(make_dataset: Any) -> None:
    data = make_dataset([4, 4], [True, True])
    del data.data["episode_success"]
    with pytest.raises(ValueError, match="episode_success"):
        make_labels(data, LabelConfig())
    assert make_labels(data, LabelConfig(outcome="success")).success.all()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("progress", np.linspace(0, 2, 8), "expected \\[0, 1\\]"),
        ("progress", np.full(8, np.nan), "expected \\[0, 1\\]"),
        ("episode_truncated", np.arange(8) > 5, "changes within an episode"),
        ("episode_truncated", np.zeros(8), "expected bool"),
    ],
)
def test_contradictions_are_said(make_dataset: Any, column: str, values: np.ndarray, message: str) -> None:
    data = make_dataset([4, 4], [True, True])
    data.data[column] = values
    with pytest.raises(TrainingError, match=message):
        make_labels(data, LabelConfig())


def test_config_errors() -> None:
    for values in ({"progress": "other"}, {"outcome": "guess"}, {"length_percentile": 0.0}, {"fill_dips": -1}):
        with pytest.raises(ConfigError, match="labels"):
            LabelConfig(**values)  # type: ignore[arg-type]
