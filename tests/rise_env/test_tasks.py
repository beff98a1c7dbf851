"""TaskSpec and joint layouts: what contradicts itself is refused, and a mismatch prints both sides."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_env.errors import ConfigError, LayoutError
from rise_env.tasks import JointLayout, TaskSpec, flatten_names, load_layout, load_task


@pytest.fixture(scope="module")
def spec() -> TaskSpec:
    return load_task("brick_sorting", "paper")


def test_the_published_window(spec: TaskSpec) -> None:
    assert (spec.fps, spec.chunk, spec.stride, spec.history, spec.frames_per_chunk) == (30, 50, 2, 4, 25)
    assert spec.max_steps == round(spec.max_seconds * 30)
    assert spec.layout.dim == 14
    assert list(spec.cameras.values()) == [f"observation.images.{n}" for n in ("top_head", "hand_left", "hand_right")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"cameras": {}}, "at least one camera"),
        ({"cameras": {"top.head": "a"}}, "'top.head' must be an identifier"),
        ({"cameras": {"a": "x", "b": "x"}}, "share one dataset feature key"),
        ({"image_size": (4, 64)}, "at least 8 x 8"),
        ({"fps": 0}, "fps is 0"),
        ({"chunk": 51}, "chunk 51 is not a multiple of stride 2"),
        ({"execute": 51}, "execute 51 is more than chunk 50"),
        ({"history": 0}, "history is 0"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0"),
        ({"max_seconds": math.nan}, "max_seconds is nan"),
        ({"max_seconds": math.inf}, "max_seconds is inf"),
    ],
)
def test_contradictions_are_refused(spec: TaskSpec, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match="brick_sorting") as error:
        dataclasses.replace(spec, **change)
    assert message in str(error.value)


def test_cameras_as_a_list_get_lerobot_keys() -> None:
    spec = load_task("brick_sorting", "tiny", ["task.cameras=[head]"])
    assert "head" in spec.cameras


def test_layout_by_name_path_and_value(tmp_path: Path, spec: TaskSpec) -> None:
    values = {"names": ["a", "g"], "units": ["rad", "m"], "lower": [-1, 0], "upper": [1, 0.1]}
    path = tmp_path / "mine.yaml"
    path.write_text(str(values))
    by_path, inline = load_layout(str(path)), load_layout(values)
    assert by_path.name == "mine"
    assert dataclasses.replace(by_path, name="inline") == inline
    assert load_layout("piper_bimanual") == spec.layout
    with pytest.raises(ConfigError, match=r"unknown joint layout 'piper'. Known layouts: .*piper_bimanual"):
        load_layout("piper")
    np.testing.assert_array_equal(inline.low, np.float32([-1, 0]))
    assert inline.high.dtype == np.float32


def test_mismatch_prints_both(spec: TaskSpec) -> None:
    with pytest.raises(LayoutError) as error:
        spec.layout.check_names([["left_waist"], ["right_waist"]], "dataset feature 'action'")
    text = str(error.value)
    assert "dataset feature 'action' has 2 dimensions: left_waist, right_waist" in text
    assert "'piper_bimanual' has 14: left_joint1, " in text
    swapped = (*spec.layout.names[7:], *spec.layout.names[:7])
    with pytest.raises(LayoutError, match="in this order"):
        spec.layout.check_names(swapped, "robot")
    with pytest.raises(LayoutError, match=r"has 0 dimensions: \(unnamed\)"):
        spec.layout.check_names(None, "robot")
    spec.layout.check_names({"motors": list(spec.layout.names)}, "robot")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ()}, "no joints"),
        ({"units": ("rad",)}, "2 names but 1 units"),
        ({"names": ("a", "a")}, "names repeat: a, a"),
        ({"units": ("rad", "turns")}, "unit 'turns'"),
        ({"lower": (0.0, math.nan)}, "must be finite and rise"),
        ({"upper": (1.0, -1.0)}, "must be finite and rise"),
        ({"upper": (math.inf, 1.0)}, "must be finite and rise"),
    ],
)
def test_layout_contradictions(change: dict, message: str) -> None:
    good = {"name": "x", "names": ("a", "b"), "units": ("rad", "m"), "lower": (0.0, 0.0), "upper": (1.0, 1.0)}
    JointLayout(**good)
    with pytest.raises(LayoutError, match=message):
        JointLayout(**{**good, **change})


words = st.text("abcxyz_", min_size=1, max_size=6)
nested = st.recursive(words, lambda inner: st.one_of(st.lists(inner), st.dictionaries(words, inner)), max_leaves=12)


def leaves(tree: object) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


@given(nested)
def test_names_flatten_in_order(tree: object) -> None:
    assert list(flatten_names(tree)) == leaves(tree)


@given(st.lists(words, min_size=1, max_size=9, unique=True), st.data())
def test_any_layout_accepts_its_own_names_only(names: list[str], data: st.DataObject) -> None:
    size = len(names)
    lower = data.draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size))
    units = data.draw(st.lists(st.sampled_from(["rad", "m"]), min_size=size, max_size=size))
    values = {"names": names, "units": units, "lower": lower, "upper": [low + 1 for low in lower]}
    layout = load_layout(values)
    assert layout.dim == size
    assert (layout.low < layout.high).all()
    layout.check_names(names, "dataset")
    shuffled = data.draw(st.permutations(names))
    if shuffled != names:
        with pytest.raises(LayoutError):
            layout.check_names(shuffled, "dataset")
