"""Weights in every form that other programs write them in."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from rise_env.errors import CheckpointError, ConfigError
from rise_env.foreign_weights import convert_weights, load_weights, names_of, refill
from rise_env.value.config import ModelConfig
from rise_env.value.model import InputShape, ValueModel

WEIGHTS = {"body.weight": torch.arange(20.0).reshape(5, 4), "body.bias": torch.arange(3).bfloat16(), "n": torch.ones(1)}


def save_distributed(folder: Path, content: Callable[[int], dict], ranks: int) -> Path:
    """A checkpoint as so many processes write it together, one after another in this one."""
    planners, plans, writers = [], [], []
    for rank in range(ranks):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        planner, writer = DefaultSavePlanner(), FileSystemWriter(folder)
        writer.set_up_storage_writer(rank == 0)
        planner.set_up_planner(content(rank), writer.storage_meta(), rank == 0)
        plans.append(writer.prepare_local_plan(planner.create_local_plan()))
        planners.append(planner)
        writers.append(writer)
        dist.destroy_process_group()
    together, described = planners[0].create_global_plan(plans)
    results = []
    for planner, writer, plan in zip(planners, writers, writers[0].prepare_global_plan(together), strict=True):
        written = writer.write_data(planner.finish_plan(plan), planner)
        written.wait()
        results.append(written.value())
    writers[0].finish(described, results)
    return folder


def sharded(weights: dict[str, torch.Tensor], rank: int, ranks: int) -> dict[str, DTensor]:
    mesh = init_device_mesh("cpu", (ranks,))
    parts = {name: one.chunk(ranks) for name, one in weights.items()}
    return {
        name: DTensor.from_local(
            part[rank] if rank < len(part) else part[0][:0], mesh, [Shard(0)],
            shape=weights[name].shape, stride=weights[name].stride(), run_check=False,
        ) for name, part in parts.items()
    }  # fmt: skip


def trained(rank: int, ranks: int, weights: dict[str, torch.Tensor]) -> dict:
    """What a trainer keeps: the model in containers and wrappers, the optimiser's state, a number."""
    named = {f"module.{name}": one for name, one in sharded(weights, rank, ranks).items()}
    moments = {f"module.{name}": {"exp_avg": one} for name, one in named.items()}
    return {"fsdp_checkpoint": {"model": named, "optimizers": {"state": moments}, "step": 7}}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in every form, a directory each."""
    home = tmp_path_factory.mktemp("forms")
    for name in ("plain", "shards", "torch", "nested"):
        (home / name).mkdir()
    save_file(WEIGHTS, home / "plain" / "w.safetensors")
    files = {name: f"w-0000{i + 1}-of-00003.safetensors" for i, name in enumerate(WEIGHTS)}
    for name, file in files.items():
        save_file({name: WEIGHTS[name]}, home / "shards" / file)
    (home / "shards" / "w.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    torch.save({f"module.{name}": one for name, one in WEIGHTS.items()}, home / "torch" / "w.pth")
    state = {"step": 3, "state_dict": {f"_orig_mod.{name}": one for name, one in WEIGHTS.items()}}
    torch.save(state, home / "nested" / "w.pt")
    for ranks in (1, 2, 4):
        save_distributed(home / f"dcp{ranks}", lambda rank, ranks=ranks: trained(rank, ranks, WEIGHTS), ranks)
    return home


FILES = ["plain", "plain/w.safetensors", "shards", "shards/w.safetensors.index.json", "torch", "torch/w.pth", "nested",
         "dcp1", "dcp2", "dcp4"]  # fmt: skip


@pytest.mark.parametrize("form", FILES)
def test_every_form_gives_the_same_weights(forms: Path, form: str) -> None:
    found = names_of(load_weights(forms / form), WEIGHTS)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) and found[name].dtype == WEIGHTS[name].dtype for name in WEIGHTS)


def test_what_cannot_be_read_is_told_shortly(forms: Path, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return (print, ("never printed",))

    torch.save({"w": torch.ones(1), "more": Code()}, tmp_path / "code.pt")
    (tmp_path / "cut.pth").write_bytes((forms / "torch" / "w.pth").read_bytes()[:300])
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.safetensors")
    (tmp_path / "w.safetensors.index.json").write_text('{"weight_map": {"w": "../w.safetensors"}}')
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "code.pt": "holds more than tensors", "cut.pth": "cut short or damaged", "nan.safetensors": "w is not finite",
        "w.safetensors.index.json": "another directory", "list.pt": "no tensors", "empty": "holds no weights",
        "none": "does not exist", str(forms / "shards" / "w-00001-of-00003.safetensors"): "one of several",
        str(forms / "dcp2" / "__0_0.distcp"): "give its directory",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=message) as caught:
            load_weights(tmp_path / name)
        assert len(str(caught.value)) < 600


def test_a_distributed_checkpoint_that_lacks_something_is_refused(forms: Path, tmp_path: Path) -> None:
    for name, change in {
        "a part": lambda folder: (folder / "__1_0.distcp").unlink(),
        "bytes": lambda folder: (folder / "__1_0.distcp").write_bytes(b"\0" * 100),
        "metadata": lambda folder: (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:99]),
        "calls": lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(print)),
        "other": lambda folder: (folder / ".metadata").write_bytes(pickle.dumps([1])),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in (forms / "dcp2").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        change(folder)
        with pytest.raises(CheckpointError, match="no distributed checkpoint, or damaged") as caught:
            load_weights(folder)
        assert len(str(caught.value)) < 600


def test_what_no_file_fills_does_not_pass_for_a_weight(tmp_path: Path) -> None:
    folder = save_distributed(tmp_path / "half", lambda rank: sharded(WEIGHTS, rank, 2), 2)
    described = pickle.loads((folder / ".metadata").read_bytes())
    described.state_dict_metadata["body.weight"].chunks.pop()
    (folder / ".metadata").write_bytes(pickle.dumps(described))
    with pytest.raises(CheckpointError, match=r"body\.weight is not finite"):
        load_weights(folder)


def test_names_of_one_model_among_several() -> None:
    both = {f"{kind}.{name}": one for kind in ("model", "ema") for name, one in WEIGHTS.items()}
    with pytest.raises(CheckpointError, match="two sets of weights, 'ema' and 'model': choose one with --prefix"):
        names_of(both, WEIGHTS)
    assert names_of(both, WEIGHTS, "ema").keys() == WEIGHTS.keys()
    assert names_of(both, prefix="ema").keys() == WEIGHTS.keys()
    with pytest.raises(CheckpointError, match="no weight has the prefix 'emma'"):
        names_of(both, WEIGHTS, "emma")
    assert names_of(WEIGHTS, ["other"]).keys() == WEIGHTS.keys()  # left for the comparison that follows
    assert names_of({"model.a": torch.ones(1)}, ["model.a"]).keys() == {"model.a"}  # the model's own name
    with pytest.raises(CheckpointError, match="one name"):
        names_of({"a": torch.ones(1), "module.a": torch.ones(1)}, ["a"])


def test_distributed_weights_become_a_file(forms: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    written = convert_weights(forms / "dcp2", out)  # the model alone, without the optimiser
    assert written.keys() == load_file(out).keys() == WEIGHTS.keys()
    with pytest.raises(ConfigError, match="not overwritten"):
        convert_weights(forms / "dcp2", out)
    assert torch.equal(load_file(out)["body.weight"], WEIGHTS["body.weight"])
    save_file({f"model.{name}": one for name, one in WEIGHTS.items()}, tmp_path / "own.safetensors")
    own = convert_weights(tmp_path / "own.safetensors", tmp_path / "kept.safetensors")
    assert own.keys() == {f"model.{name}" for name in WEIGHTS}  # that may be the model's own name
    assert convert_weights(forms / "dcp2", tmp_path / "named", "fsdp_checkpoint.model").keys() == WEIGHTS.keys()


def test_distributed_weights_go_back_into_a_model(tmp_path: Path) -> None:
    config = ModelConfig(channels=(4, 8), embed=4, hidden=8, members=2, text_vocabulary=16, text_embed=2)
    old, new = (ValueModel(config, InputShape(("head",), 16, 16)) for _ in range(2))
    old.save_pretrained(tmp_path / "old")
    torch.nn.init.ones_(next(new.parameters()))
    weights = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    source = save_distributed(tmp_path / "dcp", lambda rank: trained(rank, 2, weights), 2)
    refill(tmp_path / "old", source, tmp_path / "new")
    loaded = ValueModel.from_pretrained(tmp_path / "new")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(ConfigError, match="not overwritten"):
        refill(tmp_path / "old", source, tmp_path / "new")
    name = next(iter(weights))
    short = save_distributed(tmp_path / "short", lambda rank: {**weights, name: weights[name][:1].clone()}, 1)
    with pytest.raises(CheckpointError, match=f"does not fit .*{name} has shape"):
        refill(tmp_path / "old", short, tmp_path / "other")
    assert not (tmp_path / "other").exists()
