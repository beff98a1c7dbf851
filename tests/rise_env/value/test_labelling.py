from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rise_env.errors import ConfigError
from rise_env.value.evaluation import chunk_advantages
from rise_env.value.labelling import draw_labels, label_frames, write_labels
from rise_env.value.model import ValueModel


def test_every_frame_is_labelled(tiny_model: ValueModel, toy: Any) -> None:
    done: list[int] = []
    labels = label_frames(tiny_model, toy, 4, batch=16, on_frames=done.append)
    assert done[-1] == toy.num_frames
    assert labels.value.shape == labels.spread.shape == (toy.num_frames,)
    assert np.array_equal(labels.measured, chunk_advantages(labels.value, toy.lengths, 4))
    assert labels.value_next - labels.value == pytest.approx(labels.measured, abs=1e-6)
    assert np.array_equal(labels.advantage, labels.measured)
    assert labels.positive.mean() == pytest.approx(0.3, abs=0.05)
    assert labels.measured[labels.positive].min() >= labels.measured[~labels.positive].max()
    assert set(labels.heads) == {"progress", "td", "success"}


def test_corrections_and_demonstrations_are_not_scored(tiny_model: ValueModel, toy: Any) -> None:
    toy.data["is_intervention"][3:7] = True
    labels = label_frames(tiny_model, toy, 4)
    assert np.flatnonzero(labels.forced).tolist() == [3, 4, 5, 6]
    assert (labels.advantage[3:7] == 1).all()
    assert labels.positive[3:7].all()
    assert np.array_equal(labels.advantage[7:], labels.measured[7:])
    expert = label_frames(tiny_model, toy, 4, demonstrations=True)
    assert expert.forced.all()
    assert (expert.advantage == 1).all()
    assert expert.positive.all()


def test_the_name_of_a_dataset_changes_nothing(tiny_model: ValueModel, make_dataset: Any) -> None:
    a, b = (make_dataset([8, 6], [True, False], name=name) for name in ("rollouts", "expert_failure_demo"))
    ours, theirs = label_frames(tiny_model, a, 4), label_frames(tiny_model, b, 4)
    assert np.array_equal(ours.advantage, theirs.advantage)
    assert np.array_equal(ours.positive, theirs.positive)


def test_tasks_have_their_own_best_part(tiny_model: ValueModel, make_dataset: Any) -> None:
    data = make_dataset([20, 20], [True, False], tasks=["one", "two"])
    labels = label_frames(tiny_model, data, 4, positive_fraction=0.5)
    assert labels.positive[:20].sum() == labels.positive[20:].sum() == 10


def test_wrong_arguments(tiny_model: ValueModel, toy: Any) -> None:
    with pytest.raises(ConfigError, match="positive_fraction"):
        label_frames(tiny_model, toy, 4, positive_fraction=1.0)
    with pytest.raises(ConfigError, match="chunk"):
        label_frames(tiny_model, toy, 0)


def test_pictures(tiny_model: ValueModel, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.data["is_intervention"][2:5] = True
    labels = label_frames(tiny_model, toy, 4)
    paths = draw_labels(toy, labels, tmp_path / "pictures", 2, columns=6)
    assert [path.name for path in paths] == ["episode_000000.png", "episode_000001.png"]
    picture = np.asarray(Image.open(paths[0]))
    assert (picture == (23, 107, 184)).all(-1).sum() > 100
    assert (picture == (253, 236, 200)).all(-1).any()

    def full(_: Image.Image, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"No space left on device: '.*new/episode_000000\.png'"):
        draw_labels(toy, labels, tmp_path / "new", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_sidecars(tiny_model: ValueModel, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import rise_env.data.labels as sidecars

    written: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def write(dataset: Any, tag: str, first: Any, **columns: Any) -> list[Path]:
            written[name] = {"tag": tag, "first": first, **columns}
            return [Path(name)]

        return write

    monkeypatch.setattr(sidecars, "write_values", keep("values"))
    monkeypatch.setattr(sidecars, "write_advantages", keep("advantages"))
    labels = label_frames(tiny_model, toy, 4)
    assert write_labels(toy, "v1", labels) == [Path("values"), Path("advantages")]
    assert written["values"]["tag"] == written["advantages"]["tag"] == "v1"
    assert np.array_equal(written["values"]["first"], labels.value)
    assert set(written["values"]) >= {"spread", "value_progress", "value_td", "value_success"}
    assert np.array_equal(written["advantages"]["first"], labels.advantage)
    assert np.array_equal(written["advantages"]["positive"], labels.positive)
    assert np.array_equal(written["advantages"]["value_current"], labels.value)
    assert np.array_equal(written["advantages"]["advantage_measured"], labels.measured)
