"""Bundles: everything in one directory, found by task."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rise_env  # noqa: F401  (registers the ids)
from rise_env.bundle import extend_bundle, find_bundle, load_bundle, save_bundle
from rise_env.errors import CheckpointError, ConfigError
from rise_env.testing import counting_spec, counting_starts, counting_world_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of bundles with one for box closing."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    save_bundle(
        tmp_path / "bundles" / "box_closing",
        counting_starts(),
        counting_world_model(),
        policy=tmp_path / "policy",
        env={"success_threshold": 0.5, "uncertainty_limit": 3.0},
        about={"data": "none"},
        seed=3,
    )
    monkeypatch.setenv("RISE_BUNDLES", str(tmp_path / "bundles"))
    return tmp_path / "bundles"


def test_contents(folder: Path) -> None:
    bundle = load_bundle(find_bundle("box-closing"))
    assert bundle.spec == counting_spec()
    assert bundle.policy == folder / "box_closing" / "policy"
    assert (bundle.provenance["data"], bundle.provenance["seed"]) == ("none", 3)
    assert len(bundle.starts()) == 12
    assert bundle.world_model().spec == bundle.spec


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_environment_of_a_bundle(folder: Path, make) -> None:
    env = make("RISE-BoxClosing-v0")
    core = getattr(env.unwrapped, "core", env.unwrapped)
    assert (core.success_threshold, core.uncertainty_limit) == (0.5, 3.0)
    observation, _ = env.reset(seed=0)
    other = make("RISE-Imagination-v0", bundle=str(folder / "box_closing"), success_threshold=0.7)
    np.testing.assert_array_equal(other.reset(seed=0)[0]["image_head"], observation["image_head"])
    core = getattr(other.unwrapped, "core", other.unwrapped)
    assert (core.success_threshold, core.uncertainty_limit) == (0.7, 3.0)
    env.close()
    other.close()


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_a_missing_bundle_says_how_to_build_it(folder: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rise_env.bundle.bundle_directories", lambda: [folder])  # as if none had shipped
    with pytest.raises(ConfigError, match=r"rise train bundle --task backpack_packing[\s\S]*RISE_BUNDLES"):
        make("RISE-BackpackPacking-v0")
    with pytest.raises(ConfigError, match=r"preset 'h200'[\s\S]*--preset h200"):
        make("RISE-BoxClosing-v0", preset="h200")
    with pytest.raises(ConfigError, match="world_model= is missing"):
        make("RISE-Imagination-v0")
    with pytest.raises(ConfigError, match=r"dataset= .* or starts= is missing"):
        make("RISE-Imagination-v0", world_model=str(folder / "box_closing" / "world_model"))
    with pytest.raises(ConfigError, match="give one of them"):
        make("RISE-BoxClosing-v0", starts="a", dataset="b")


def test_damage_is_named(folder: Path) -> None:
    bundle = folder / "box_closing"
    shutil.rmtree(bundle / "starts")
    with pytest.raises(CheckpointError, match="incomplete"):
        load_bundle(bundle)
    (bundle / "bundle.json").write_text('{"format_version": 1}')
    with pytest.raises(CheckpointError, match="damaged"):
        load_bundle(bundle)
    (bundle / "bundle.json").write_text('{"format_version": 5}')
    with pytest.raises(CheckpointError, match="format version 5"):
        load_bundle(bundle)
    with pytest.raises(CheckpointError, match="no checkpoint of kind 'bundle'"):
        load_bundle(folder)


@pytest.mark.parametrize("part", ["policy", "policy/config.json", "starts/states.npy", "world_model/value"])
def test_every_missing_part_is_noticed(folder: Path, part: str) -> None:
    bundle = folder / "box_closing"
    (shutil.rmtree if (bundle / part).is_dir() else os.unlink)(bundle / part)
    with pytest.raises(CheckpointError, match=f"incomplete, missing: {part}.*Copy or build it again"):
        load_bundle(bundle)


def test_a_manifest_without_a_list_of_files_asks_for_the_least(folder: Path) -> None:
    manifest = folder / "box_closing" / "bundle.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "files": [3]}))
    with pytest.raises(CheckpointError, match="files is"):
        load_bundle(manifest.parent)
    del content["files"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"missing: policy/model.safetensors"):
        load_bundle(manifest.parent)
    shutil.rmtree(manifest.parent / "policy")
    assert load_bundle(manifest.parent).policy is None


def test_parts_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stride"):
        save_bundle(tmp_path / "b", counting_starts(counting_spec(stride=4)), counting_world_model())
    assert not list(tmp_path.iterdir())


def test_further_parts_are_put_into_a_copy(folder: Path, tmp_path: Path) -> None:
    before = folder / "box_closing"
    parts = {name: tmp_path / name for name in ("one", "two", "critic")}
    for name, path in parts.items():
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"of": name}))
        (path / "model.safetensors").write_bytes(b"")
    assert (load_bundle(before).policies, load_bundle(before).critic) == ({}, None)
    more = extend_bundle(before, tmp_path / "more", policies={"novice": parts["one"]}, critic=parts["critic"])
    assert more.policies == {"novice": tmp_path / "more/policies/novice"}
    assert more.critic == tmp_path / "more/critic"
    assert "packages" in more.provenance["extended"]
    assert load_bundle(before).policies == {}
    extend_bundle(more.path, more.path, policies={"novice": parts["two"], "second": parts["one"]})  # in place
    again = load_bundle(more.path)
    assert list(again.policies) == ["novice", "second"]
    assert json.loads((again.policies["novice"] / "config.json").read_text()) == {"of": "two"}
    assert again.critic is not None
    assert len(again.starts()) == 12
    (again.critic / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing: critic/config\.json"):
        load_bundle(more.path)
    with pytest.raises(ConfigError, match="nothing to put into the bundle"):
        extend_bundle(before, tmp_path / "x")
    with pytest.raises(ConfigError, match=r"cannot be called '\.\./x'"):
        extend_bundle(before, tmp_path / "x", policies={"../x": parts["one"]})
    assert not (tmp_path / "x").exists()
