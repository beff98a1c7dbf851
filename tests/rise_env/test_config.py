"""Presets: inheritance, overrides, and errors that name the nearest key."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rise_env.config import SECTIONS, available_presets, config_root, decode, load_config, load_yaml, with_overrides
from rise_env.errors import ConfigError, RiseError
from rise_env.tasks import JointLayout, load_task
from rise_robot.cell.config import CellConfig, load_cell


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty configuration directory."""
    config_root.cache_clear()
    monkeypatch.setenv("RISE_CONFIG_ROOT", str(tmp_path))
    (tmp_path / "demo").mkdir()
    yield tmp_path
    config_root.cache_clear()


def write(root: Path, name: str, text: str) -> None:
    (root / "demo" / f"{name}.yaml").write_text(text)


def test_every_shipped_preset_loads() -> None:
    presets = available_presets()
    assert {"tiny", "small", "h200", "paper"} <= set(presets["brick_sorting"])
    for task, names in presets.items():
        for name in names:
            load_task(task, name)
            if "cell" in load_config(task, name):
                load_cell(task, name)


def test_hyphens_and_underscores_are_the_same() -> None:
    assert load_config("brick-sorting", "tiny") == load_config("brick_sorting", "tiny")


def test_extends_overrides_key_by_key(root: Path) -> None:
    write(root, "a", "task: {fps: 10, chunk: 8}\ncell: {difficulties: {easy: {x: 1, y: 2}}}")
    write(root, "b", "extends: a\ntask: {fps: 20}\ncell: {difficulties: {easy: {x: 3}}}")
    write(root, "c", "extends: b\ntask: {chunk: null}")
    assert load_config("demo", "c") == {
        "task": {"fps": 20, "chunk": None},
        "cell": {"difficulties": {"easy": {"x": 3, "y": 2}}},
    }


@pytest.mark.parametrize("parents", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "../demo/b", "b": "../demo/a"}])
def test_extends_loop(root: Path, parents: dict[str, str]) -> None:
    for name, parent in parents.items():
        write(root, name, f"extends: {parent}")
    with pytest.raises(ConfigError, match=r"extends itself: a.yaml -> .*a.yaml"):
        load_config("demo", "a")


def test_extends_a_missing_preset(root: Path) -> None:
    write(root, "a", "extends: nowhere")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config("demo", "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"task: [1, 2", "not valid YAML"),
        (b"task: {fps: 10}\n\tcell: 1", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "must hold a mapping of sections, got NoneType"),
        (b"- task", "must hold a mapping of sections, got list"),
        (b"task: 3", "section 'task' must be a mapping, got int"),
        (b"tasks: {}", "unknown section 'tasks'. Did you mean 'task'?"),
        (b"3: {}", "unknown section 3"),
    ],
)
def test_corrupted_file(root: Path, content: bytes, message: str) -> None:
    (root / "demo" / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config("demo", "a")
    assert message in str(error.value)
    assert "a.yaml" in str(error.value)


def test_missing_file_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml")
    config_root.cache_clear()
    monkeypatch.setenv("RISE_CONFIG_ROOT", str(tmp_path / "none"))
    try:
        with pytest.raises(ConfigError, match="RISE_CONFIG_ROOT"):
            config_root()
    finally:
        config_root.cache_clear()


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'brick_sorting'"):
        load_config("brick_sortin")
    with pytest.raises(ConfigError, match=r"Did you mean 'tiny'.*Known presets: .*paper"):
        load_config("brick_sorting", "tinny")
    with pytest.raises(ConfigError, match=r"unknown key 'chunks'. Did you mean 'chunk'"):
        load_task("brick_sorting", "tiny", ["task.chunks=8"])
    with pytest.raises(ConfigError, match=r"unknown key 'lihgt'. Did you mean 'light'"):
        load_cell("brick_sorting", "tiny", ["cell.variation.lihgt=0.1"])


@pytest.mark.parametrize("bad", ["task.fps", "fps=10", "task.=3", ".fps=3", "=", "", "task..fps=3"])
def test_malformed_override(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"not of the form section.key=value"):
        with_overrides({}, [bad])


def test_override_errors() -> None:
    with pytest.raises(ConfigError, match=r"unknown section 'tsk'. Did you mean 'task'"):
        with_overrides({}, ["tsk.fps=10"])
    with pytest.raises(ConfigError, match="value is not valid YAML"):
        with_overrides({}, ["task.fps=[1"])
    with pytest.raises(ConfigError, match="section 'task'"):
        load_task("brick_sorting", "tiny", ["task.fps=fast"])


def test_missing_and_wrong_values() -> None:
    with pytest.raises(ConfigError, match=r"units|missing|lower"):
        decode(JointLayout, {"name": "x", "names": ["a"]}, "here")
    with pytest.raises(ConfigError, match=r"unknown difficulty 'brutal'. Known difficulties: easy, normal, hard"):
        load_cell("brick_sorting", "tiny", ["cell.difficulty=brutal"])


keys = st.text("abcdefgh_", min_size=1, max_size=5)
values = st.one_of(st.integers(), st.booleans(), st.none(), st.text("abc xyz", max_size=6), st.lists(st.integers()))
trees = st.recursive(values, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@given(
    config=st.dictionaries(st.sampled_from(sorted(SECTIONS)), st.dictionaries(keys, trees, max_size=3)),
    path=st.lists(keys, min_size=1, max_size=4),
    section=st.sampled_from(sorted(SECTIONS)),
    value=trees,
)
def test_override_sets_one_thing_and_changes_nothing_else(config, path, section, value) -> None:
    before = copy.deepcopy(config)
    text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
    result = with_overrides(config, [f"{section}.{'.'.join(path)}={text}"])
    assert config == before
    node = result[section]
    for key in path[:-1]:
        node = node[key]
    old = config.get(section)
    for key in path:
        old = old.get(key) if isinstance(old, dict) else None
    if not (isinstance(value, dict) and isinstance(old, dict)):
        assert node[path[-1]] == value
    else:
        assert value.items() <= node[path[-1]].items() or any(isinstance(v, dict) for v in value.values())
    for other in set(config) - {section}:
        assert result[other] == before[other]
    for key, kept in before.get(section, {}).items():
        if key != path[0]:
            assert result[section][key] == kept


scalars = st.one_of(
    st.integers(-(10**6), 10**6), st.floats(), st.booleans(), st.none(), st.text("ab1.", max_size=4),
    st.lists(st.one_of(st.integers(-5, 300), st.floats(), st.text("ab", max_size=2)), max_size=4),
)  # fmt: skip


@given(key=st.sampled_from(["name", "prompt", "cameras", "image_size", "layout", "fps", "chunk", "stride", "history",
                            "execute", "max_seconds"]), value=scalars)  # fmt: skip
def test_any_task_value_is_taken_or_refused_by_name(key: str, value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
    try:
        task = load_task("brick_sorting", "tiny", [f"task.{key}={text}"])
    except RiseError:
        return
    assert task.max_steps >= 0
    assert task.frames_per_chunk * task.stride == task.chunk


@given(key=st.sampled_from(["difficulty", "max_timestep", "arm_spacing", "head_camera", "wrist_fovy", "supersample",
                            "start_joints", "start_noise", "variation"]), value=scalars)  # fmt: skip
def test_any_cell_value_is_taken_or_refused_by_name(key: str, value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
    try:
        _, cell = load_cell("brick_sorting", "tiny", [f"cell.{key}={text}"])
    except RiseError:
        return
    assert isinstance(cell, CellConfig)
