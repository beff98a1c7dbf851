"""CompositionalWorldModel: sessions, lazily decoded chunks, uncertainty, and checkpoints that fail in words."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rise_env.errors import CheckpointError, ConfigError, RiseError
from rise_env.protocols import Dynamics, History, Value, ValueEstimate
from rise_env.registry import DYNAMICS
from rise_env.testing import (
    FrameCountingDynamics,
    LinearValue,
    counting_spec,
    counting_starts,
    counting_world_model,
)
from rise_env.world_model import UNCERTAINTIES, CompositionalWorldModel, resolve_device

SPEC = counting_spec()
STARTS = counting_starts(SPEC)


def history(*rows: int) -> History:
    batch = STARTS.batch(rows)
    return History(torch.from_numpy(batch.frames), torch.from_numpy(batch.states), batch.prompts)


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def actions(count: int) -> torch.Tensor:
    return torch.rand(count, 8, 3, generator=torch.Generator().manual_seed(1)) * 0.2


def test_fakes_satisfy_the_protocols() -> None:
    model = counting_world_model()
    assert isinstance(model.dynamics, Dynamics)
    assert isinstance(model.value, Value)


@pytest.mark.parametrize("reads_latents", [False, True])
def test_only_needed_frames_are_decoded(reads_latents: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = counting_world_model(reads_latents=reads_latents)
    decoded: list[list[int]] = []
    decode = FrameCountingDynamics.decode
    monkeypatch.setattr(
        FrameCountingDynamics, "decode", lambda self, p, i: decoded.append(list(i)) or decode(self, p, i)
    )
    session = model.open(history(0, 1))
    model.value.calls.clear()
    imagined = model.imagine(session, actions(2), noise(0, 1))
    assert [shape[:2] for shape in model.value.calls] == [(2, 4)]  # all frames of all environments in one call
    assert decoded == ([] if reads_latents else [[0, 1, 2, 3]])
    last = imagined.frames([-1])
    assert last.shape == (2, 1, 2, 36, 40, 3)
    assert decoded == ([[3]] if reads_latents else [[0, 1, 2, 3]])
    assert torch.equal(imagined.frames(range(4))[:, 3:], last)
    assert imagined.values.shape == imagined.spread.shape == (2, 4)
    assert imagined.uncertainty.shape == (2,)
    assert torch.equal(imagined.session.value, imagined.values[:, -1])


def test_latents_stay_latent_between_chunks() -> None:
    """Frames are rounded to 256 levels for the eye only: two chunks in a row lose nothing."""
    model = counting_world_model(reads_latents=True, gain=0.001)
    session = model.open(history(0))
    middle = torch.as_tensor((SPEC.layout.low + SPEC.layout.high) / 2).expand(1, 8, 3)
    first = model.imagine(session, middle, noise(0))
    second = model.imagine(first.session, middle, noise(1))
    torch.testing.assert_close(second.values[0, -1], session.value[0] + 8 * 0.001)


def test_sessions_are_not_changed_and_mix() -> None:
    model = counting_world_model(doubt=0.5)
    session = model.open(history(0, 1, 2))
    before = session.state.history.clone()
    whole = model.imagine(session, actions(3), noise(0, 1, 2))
    assert torch.equal(session.state.history, before)
    part = model.select(session, [2, 0])
    some = model.imagine(part, actions(3)[[2, 0]], noise(2, 0))
    assert torch.equal(some.values, whole.values[[2, 0]])
    assert torch.equal(some.spread, whole.spread[[2, 0]])
    merged = model.merge(session, [0], model.select(whole.session, [1]))
    assert torch.equal(merged.state.history[0], whole.session.state.history[1])
    assert torch.equal(merged.state.history[1:], session.state.history[1:])
    assert torch.equal(merged.value, torch.stack([whole.session.value[1], *session.value[1:]]))


@pytest.mark.parametrize("uncertainty", ["spread", "noise", "noise_value"])
@pytest.mark.parametrize("max_batch", [1, 2])
def test_max_batch_changes_nothing_here(uncertainty: str, max_batch: int) -> None:
    results = []
    for size in (None, max_batch):
        model = counting_world_model(doubt=0.5, uncertainty=uncertainty, max_batch=size)
        session = model.open(history(0, 4, 2))
        first = model.imagine(session, actions(3), noise(0, 1, 2))
        second = model.imagine(first.session, actions(3), noise(3, 4, 5))
        results.append((session.value, first.values, second.values, second.uncertainty, second.frames([0, -1])))
        assert session.prompts == (SPEC.prompt,) * 3
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_uncertainty() -> None:
    results = {}
    for name in UNCERTAINTIES:
        model = counting_world_model(doubt=0.5, uncertainty=name)
        if name == "dynamics":
            with pytest.raises(RiseError, match="does not say how uncertain"):
                model.imagine(model.open(history(0, 1)), actions(2), noise(0, 1))
            continue
        generators = noise(0, 1)
        results[name] = model.imagine(model.open(history(0, 1)), actions(2), generators)
        results[name].left = [torch.rand((), generator=generator) for generator in generators]
    torch.testing.assert_close(results["spread"].uncertainty, results["spread"].spread.mean(1))
    for name in ("noise", "noise_value"):  # a second prediction leaves the first, and the noise to come, alone
        assert torch.equal(results[name].values, results["spread"].values)
        assert results[name].left == results["spread"].left
    assert (results["noise"].uncertainty > 0).all()
    assert results["noise"].uncertainty[0] != results["noise"].uncertainty[1]
    assert not results["noise_value"].uncertainty.any()  # this value ignores the noise
    with pytest.raises(ConfigError, match="unknown uncertainty 'entropy'"):
        counting_world_model(uncertainty="entropy")
    with pytest.raises(ConfigError, match="max_batch is 0"):
        counting_world_model(max_batch=0)


def test_save_and_load(tmp_path: Path) -> None:
    model = counting_world_model(doubt=0.5, gain=0.03, reads_latents=True, uncertainty="noise")
    model.save_pretrained(tmp_path / "model")
    loaded = CompositionalWorldModel.from_pretrained(tmp_path / "model")
    assert (loaded.spec, loaded.uncertainty) == (model.spec, "noise")
    ours, theirs = (m.imagine(m.open(history(0)), actions(1), noise(0)) for m in (model, loaded))
    assert torch.equal(ours.values, theirs.values)
    assert torch.equal(ours.uncertainty, theirs.uncertainty)
    assert not [path.name for path in (tmp_path / "model").rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]
    assert CompositionalWorldModel.from_pretrained(tmp_path / "model", uncertainty="spread").uncertainty == "spread"


def test_a_failed_save_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting_world_model().save_pretrained(tmp_path / "model")

    def fail(self, path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LinearValue, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        counting_world_model(gain=0.5).save_pretrained(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert CompositionalWorldModel.from_pretrained(tmp_path / "model").dynamics.gain == 0.0625


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = counting_world_model()

    def fresh() -> None:
        model.save_pretrained(folder)

    fresh()
    parts = json.loads((folder / "config.json").read_text())["parts"]
    assert parts["dynamics"] == "rise_env.testing:FrameCountingDynamics"
    load = CompositionalWorldModel.from_pretrained

    for name in ("os:system", "rise_env_evil.x:Y", "rise_env.testing:counting_spec", "rise_env.nowhere:X", "junk", 3):
        edit(folder / "config.json", parts={**parts, "value": name})
        with pytest.raises(CheckpointError, match=r"is not registered|cannot be imported"):
            load(folder)
    edit(folder / "config.json", parts={"value": parts["value"]})
    with pytest.raises(CheckpointError, match="damaged"):
        load(folder)
    fresh()
    edit(folder / "config.json", format_version=99)
    with pytest.raises(CheckpointError, match=r"format version 99.*Update"):
        load(folder)
    edit(folder / "config.json", format_version=2, kind="policy")
    with pytest.raises(CheckpointError, match="kind 'policy'"):
        load(folder)
    (folder / "config.json").write_text('{"kind": ')
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        load(folder)
    fresh()
    weights = folder / "dynamics" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load(folder)
    save_file({"center": torch.zeros(3)}, weights)
    with pytest.raises(CheckpointError, match="missing middle; unexpected center"):
        load(folder)
    save_file({"middle": torch.zeros(4)}, weights)
    with pytest.raises(CheckpointError, match=r"shape \(4,\), expected \(3,\)"):
        load(folder)
    save_file({"middle": torch.full((3,), torch.nan)}, weights)
    with pytest.raises(CheckpointError, match="not finite"):
        load(folder)
    shutil.rmtree(folder / "value")
    with pytest.raises(CheckpointError, match="lacks its part 'value'"):
        load(folder)
    with pytest.raises(CheckpointError, match="no such directory"):
        load(tmp_path / "elsewhere")


def test_older_versions_are_upgraded(tmp_path: Path) -> None:
    """Version 1 called the reward source "judge", or said nothing, and named classes by their module."""
    counting_world_model(uncertainty="noise").save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    content = json.loads(file.read_text())
    del content["reward_source"]
    file.write_text(json.dumps({**content, "format_version": 1, "judge": "dynamics"}))
    loaded = CompositionalWorldModel.from_pretrained(tmp_path / "model")
    assert (loaded.uncertainty, loaded.reward_source) == ("noise", "dynamics")
    file.write_text(json.dumps({**content, "format_version": 1}))
    assert CompositionalWorldModel.from_pretrained(tmp_path / "model").reward_source == "value"
    edit(file, format_version=0)
    with pytest.raises(CheckpointError, match="format version 0"):
        CompositionalWorldModel.from_pretrained(tmp_path / "model")


class Foreign(FrameCountingDynamics):
    """A dynamics model of another package."""


def test_registered_classes_are_kept_by_name_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DYNAMICS, "_known", dict(DYNAMICS._known))
    monkeypatch.setattr(Foreign, "__module__", "foreign.package")
    monkeypatch.setitem(sys.modules, "foreign.package", types.SimpleNamespace(Foreign=Foreign))  # type: ignore[arg-type]
    model, folder = CompositionalWorldModel(Foreign(SPEC), LinearValue(), SPEC), tmp_path / "model"
    with pytest.raises(ConfigError, match=r"DYNAMICS.register\('foreign', 'foreign.package:Foreign'\)"):
        model.save_pretrained(folder)
    assert not folder.exists()
    DYNAMICS.register("strange", "foreign.package:Foreign")
    model.save_pretrained(folder)
    parts = json.loads((folder / "config.json").read_text())["parts"]
    assert parts["dynamics"] == "strange"
    assert type(CompositionalWorldModel.from_pretrained(folder).dynamics) is Foreign
    edit(folder / "config.json", parts={**parts, "dynamics": "foreign.package:Foreign"})
    assert type(CompositionalWorldModel.from_pretrained(folder).dynamics) is Foreign  # registered, so it may be loaded
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"not registered.*DYNAMICS.register\('foreign', 'foreign.package:For"):
        CompositionalWorldModel.from_pretrained(folder)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="Use 'auto'"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device("cuda")


def test_values_must_be_one_per_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    model = counting_world_model(reads_latents=True)
    predict = model.dynamics.predict

    def compressed(*arguments):
        prediction, state = predict(*arguments)
        return type(prediction)(prediction.latents[:, ::2]), state

    monkeypatch.setattr(model.dynamics, "predict", compressed)
    with pytest.raises(RiseError, match="2 latents for 4 frames"):
        model.imagine(model.open(history(0)), actions(1), noise(0))


class Foreseeing(FrameCountingDynamics):
    """Says itself what its frames are worth."""

    def predict(self, state: Any, actions: torch.Tensor, generators: Sequence[torch.Generator]) -> Any:
        prediction, after = super().predict(state, actions, generators)
        ones = torch.ones(len(actions), 4)
        return dataclasses.replace(prediction, values=ValueEstimate(0.25 * ones, 0.125 * ones)), after


def test_the_dynamics_may_judge_what_it_imagines() -> None:
    model = CompositionalWorldModel(Foreseeing(SPEC), LinearValue(), SPEC, reward_source="dynamics")
    session = model.open(history(0, 1))
    recorded = counting_world_model().open(history(0, 1)).value
    torch.testing.assert_close(session.value, recorded)  # recorded frames are the value model's business
    imagined = model.imagine(session, actions(2), noise(0, 1))
    assert imagined.values.tolist() == [[0.25] * 4] * 2
    assert imagined.uncertainty.tolist() == [0.125] * 2
    assert imagined.session.value.tolist() == [0.25] * 2
    assert imagined.frames([-1]).shape[:2] == (2, 1)
    assert (model.with_options(reward_source="value").imagine(session, actions(2), noise(0, 1)).values != 0.25).all()
    blind = counting_world_model().with_options(reward_source="dynamics")
    with pytest.raises(RiseError, match="value_head"):
        blind.imagine(blind.open(history(0)), actions(1), noise(0))
    with pytest.raises(ConfigError, match="reward_source"):
        model.with_options(reward_source="nobody")


def test_who_judges_is_saved(tmp_path: Path) -> None:
    counting_world_model().with_options(reward_source="dynamics").save_pretrained(tmp_path / "model")
    assert CompositionalWorldModel.from_pretrained(tmp_path / "model").reward_source == "dynamics"
    assert CompositionalWorldModel.from_pretrained(tmp_path / "model", reward_source="value").reward_source == "value"
