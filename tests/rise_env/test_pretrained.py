"""`PretrainedMixin`: what a model with one matrix and one file of its own writes and reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rise_env.config import decode, rename_keys
from rise_env.errors import CheckpointError, ConfigError
from rise_env.pretrained import PretrainedMixin, _asked_for, listed


@dataclass(frozen=True)
class Layer:
    RENAMED: ClassVar[dict[str, str]] = {"rate": "learning_rate"}
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Config:
    RENAMED: ClassVar[dict[str, str]] = {"width": "size"}
    size: int = 3
    storage: str = "fp16"
    layer: Layer = dataclasses.field(default_factory=Layer)


class Scale(PretrainedMixin, nn.Module):
    kind, title, format_version = "scale", "scale", 2
    upgrades: ClassVar[Any] = {1: lambda content: {**content, "scale": rename_keys(Config, content["scale"])}}
    full_precision = ("exact",)

    def __init__(self, config: Config, word: str = "") -> None:
        super().__init__()
        self.config, self.word = config, word
        self.factor, self.exact = (nn.Parameter(torch.rand(config.size, config.size)) for _ in range(2))
        self.register_buffer("count", torch.zeros(2, 2, dtype=torch.int64))

    @property
    def storage(self) -> str:
        return self.config.storage

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.config}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        return cls(decode(Config, config["scale"], "key 'scale'"), (folder / "word.txt").read_text())

    def save_files(self, folder: Path) -> None:
        (folder / "word.txt").write_text(self.word)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    model = Scale(Config(size=2), "tokenizer")
    model.save_pretrained(tmp_path / "model")
    loaded = Scale.from_pretrained(tmp_path / "model")
    assert not loaded.training
    assert (loaded.config, loaded.word) == (model.config, "tokenizer")
    assert torch.equal(loaded.factor, model.factor.half().float())
    assert loaded.factor.dtype == torch.float32
    assert torch.equal(loaded.exact, model.exact)
    config, weights = (tmp_path / "model" / name for name in ("config.json", "model.safetensors"))
    assert weights.stat().st_mode == config.stat().st_mode  # who reads the one reads the other
    model.config = Config(size=2, storage="fp32")
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(Scale.from_pretrained(tmp_path / "model").factor, model.factor)


def test_whole_numbers_are_within_half_a_step_and_damage_is_named(tmp_path: Path) -> None:
    model = Scale(Config(size=5, storage="int8"))
    with torch.no_grad():
        model.factor[1] *= 1e-3
        model.factor[2] = 0.0
    model.save_pretrained(tmp_path / "model")
    loaded = Scale.from_pretrained(tmp_path / "model")
    half_step = model.factor.abs().amax(1, keepdim=True) / 127 / 2
    assert ((loaded.factor - model.factor).abs() <= half_step * 1.001).all()
    assert torch.equal(loaded.exact, model.exact)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert tensors["factor"].dtype == torch.int8
    save_file({**tensors, "factor.int8_scale": torch.ones(3)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected factor\.int8_scale"):
        Scale.from_pretrained(tmp_path / "model")
    save_file({**tensors, "factor.int8_scale": torch.full((5,), torch.nan)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="factor is not finite"):
        Scale.from_pretrained(tmp_path / "model")


def test_older_names_are_understood_in_checkpoints_and_refused_in_presets(tmp_path: Path) -> None:
    Scale(Config(size=2)).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    old = {"width": 2, "layer": {"rate": 0.5}, "storage": "fp32"}
    file.write_text(json.dumps({"kind": "scale", "format_version": 1, "scale": old}))
    assert Scale.from_pretrained(tmp_path / "model").config == Config(2, "fp32", Layer(0.5))
    with pytest.raises(ConfigError, match="section 'scale': key 'width' is called 'size' now"):
        decode(Config, old, "section 'scale'")
    with pytest.raises(ConfigError, match="key 'layer': key 'rate' is called 'learning_rate' now"):
        decode(Config, {"layer": {"rate": 0.5}}, "section 'scale'")


def test_a_wrong_configuration_is_said_to_be_the_checkpoints(tmp_path: Path) -> None:
    Scale(Config(size=2)).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({"kind": "scale", "format_version": 2, "scale": {"sise": 2}}))
    with pytest.raises(CheckpointError, match=r"config.json is damaged: .*'sise'. Did you mean 'size'"):
        Scale.from_pretrained(tmp_path / "model")
    file.write_text(json.dumps({"kind": "scale", "format_version": 2}))
    with pytest.raises(CheckpointError, match=r"config.json is damaged: 'scale'"):
        Scale.from_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="no scale at"):
        Scale.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("factor"), "missing factor"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "unexpected extra"),
        (lambda tensors: tensors.update(factor=torch.ones(3)), r"factor has shape \(3,\), expected \(2, 2\)"),
        (lambda tensors: tensors["factor"].fill_(float("nan")), "factor is not finite"),
        (lambda tensors: tensors["exact"].fill_(float("inf")), "exact is not finite"),
        (lambda tensors: tensors.update(factor=torch.ones(2, 2).long()), "factor holds torch.int64"),
        (lambda tensors: tensors.update(factor=torch.ones(2, 2).bool()), "factor holds torch.bool"),
        (
            lambda tensors: tensors.update(factor=torch.ones(2, 2) * 1j),
            "factor holds torch.complex64 numbers, expected",
        ),
    ],
)
def test_weights_must_fit_in_every_way(tmp_path: Path, damage: Callable[..., None], message: str) -> None:
    Scale(Config(size=2)).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors does not fit .*{message}.*Copy the checkpoint again"
    ):
        Scale.from_pretrained(tmp_path / "model")


def test_long_lists_of_misfits_are_cut() -> None:
    assert listed(["a", "b", "c"], most=2) == "a; b; and 1 more"


@pytest.mark.parametrize(
    ("maker", "args", "kwargs"),
    [
        (torch.empty, (3, 4), {}), (torch.zeros, ((2, 5),), {}), (torch.ones, ([7],), {}), (torch.rand, ((),), {}),
        (torch.randn, (), {"size": (2, 3)}), (torch.full, ((2, 3), 1.5), {}),
        (torch.full, (), {"size": (4,), "fill_value": 0}),
        (torch.empty, (torch.Size([2, 0]),), {}), (torch.arange, (7,), {}), (torch.arange, (2, 9), {}),
        (torch.arange, (0, 1, 0.3), {}), (torch.arange, (9, 2, -2), {}), (torch.arange, (), {"end": 5}),
        (torch.arange, (3,), {"end": 8, "step": 2}), (torch.linspace, (0, 1, 6), {}),
        (torch.linspace, (0, 1), {"steps": 4}),
    ],
)  # fmt: skip
def test_numbers_are_counted_before_they_are_made(maker: Any, args: Any, kwargs: Any) -> None:
    assert _asked_for(maker.__name__, args, kwargs) == maker(*args, **kwargs).numel()
