"""Whatever is in a checkpoint or a bundle: an error of ours, or a model; never a raw error or a hang."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmarks.random_model import random_starts, random_world_model
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.resolve import resolve_policy
from rise_env.bundle import load_bundle, save_bundle
from rise_env.envs.starts import StartStates
from rise_env.world_model import CompositionalWorldModel
from tests.fuzz.fuzzing import budget, damaged, mutate, survives

PARTS: dict[str, Callable[[Path], Any]] = {
    "": lambda path: load_bundle(path),
    "starts": lambda path: StartStates.load(path),
    "world_model": lambda path: CompositionalWorldModel.from_pretrained(path),
    "world_model/dynamics": lambda path: CompositionalWorldModel.from_pretrained(path.parent),
    "world_model/value": lambda path: CompositionalWorldModel.from_pretrained(path.parent),
    "policy": lambda path: resolve_policy(str(path)),
}
FILES = [
    "bundle.json", "starts/starts.json", "world_model/config.json", "world_model/dynamics/config.json",
    "world_model/value/config.json", "policy/config.json",
]  # fmt: skip
WEIGHTS = [name.replace("config.json", "model.safetensors") for name in FILES[3:]]
ARRAYS = [f"starts/{name}.npy" for name in ("states", "frame_index", "prompt_index", "split", "actions")]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    model = random_world_model("brick_sorting", "tiny")
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    FlowPolicy(model.spec, FlowPolicyConfig(network=network, lags=(2,), steps=1)).save_pretrained(folder / "policy")
    save_bundle(folder / "bundle", random_starts(model.spec, 4), model, policy=folder / "policy", compress=False)
    return folder / "bundle"


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def use(bundle: Path, name: str) -> None:
    part = name.rpartition("/")[0]
    survives(lambda: PARTS[part](bundle / part), bundle.parent)


@given(data=st.data())
@budget(8)
@pytest.mark.parametrize("name", FILES)
def test_configuration(original: Path, bundle: Path, name: str, data: Any) -> None:
    text = json.dumps(mutate(data.draw, json.loads((original / name).read_text())))
    (bundle / name).write_bytes(
        damaged(data.draw, text.encode()) if data.draw(st.integers(0, 3)) == 0 else text.encode()
    )
    use(bundle, name)


TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nan": lambda tensor: tensor * torch.nan,
    "whole": lambda tensor: tensor.long(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "half": lambda tensor: tensor.half(),
    "scalar": lambda tensor: tensor.sum(),
    "none": lambda tensor: tensor.flatten()[:0],
    "longer": lambda tensor: torch.cat([tensor.flatten(), tensor.flatten()]),
    "deep": lambda tensor: tensor[(None,) * 20],
}


@given(data=st.data())
@budget(8)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(original: Path, bundle: Path, name: str, data: Any) -> None:
    if data.draw(st.booleans()):
        (bundle / name).write_bytes(damaged(data.draw, (original / name).read_bytes()))
    else:
        tensors = load_file(original / name)
        key = data.draw(st.sampled_from(sorted(tensors)))
        kind = data.draw(st.sampled_from(["gone", "other name", *TENSORS]))
        tensor = tensors.pop(key)
        if kind != "gone":
            tensors["x" if kind == "other name" else key] = TENSORS.get(kind, lambda tensor: tensor)(
                tensor
            ).contiguous()
        save_file(tensors, bundle / name)
    use(bundle, name)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float": lambda array: np.full(array.shape, np.nan),
    "huge": lambda array: np.full(array.shape, 2**62),
    "negative": lambda array: np.full(array.shape, -1),
    "text": lambda array: np.full(array.shape, "x"),
    "scalar": lambda array: np.zeros(()),
    "none": lambda array: array[:0],
    "short": lambda array: array[:2],
    "deep": lambda array: array[..., None],
    "complex": lambda array: np.zeros(array.shape, np.complex64),
    "time": lambda array: np.zeros(array.shape, "M8[s]"),
    "fields": lambda array: np.zeros(array.shape, [("a", "f4")]),
}


@given(data=st.data())
@budget(8)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(original: Path, bundle: Path, name: str, data: Any) -> None:
    if data.draw(st.booleans()):
        (bundle / name).write_bytes(damaged(data.draw, (original / name).read_bytes()))
    else:
        np.save(bundle / name, KINDS[data.draw(st.sampled_from(sorted(KINDS)))](np.load(original / name)))
    use(bundle, name)
