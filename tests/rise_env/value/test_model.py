from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rise_env.errors import CheckpointError, ConfigError
from rise_env.protocols import Value
from rise_env.value.config import ModelConfig
from rise_env.value.encoders import hash_words, load_backbone
from rise_env.value.model import InputShape, ValueModel

HEADS = ("progress", "td", "success", "distributional")


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 2, 16, 24, 3), dtype=torch.uint8, generator=generator)


def with_heads(config: ModelConfig, **changes: Any) -> ValueModel:
    torch.manual_seed(0)
    config = dataclasses.replace(config, heads=HEADS, **changes)
    return ValueModel(config, InputShape(("head", "wrist"), 16, 24))


def test_satisfies_the_protocol(tiny_model: ValueModel) -> None:
    assert isinstance(tiny_model, Value)
    assert not tiny_model.reads_latents


def test_estimate_is_repeatable_and_leaves_no_trace(tiny_model: ValueModel) -> None:
    frames = pixels(3, 4)
    before, state = frames.clone(), torch.random.get_rng_state()
    tiny_model.train()
    first, second = (tiny_model.estimate(frames, ["a", "b", "c"]) for _ in range(2))
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.spread, second.spread)
    assert first.value.shape == first.spread.shape == (3, 4)
    assert first.value.dtype == first.spread.dtype == torch.float32
    assert not first.value.requires_grad
    assert tiny_model.training
    assert torch.equal(frames, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("output", [*HEADS, "blend"])
def test_one_call_equals_many(tiny_config: ModelConfig, output: str) -> None:
    model = with_heads(tiny_config, output=output)
    frames, prompts = pixels(3, 70), ["sort the bricks", "pack", "close the box"]
    whole = model.estimate(frames, prompts)
    for i in range(3):
        for t in (0, 33, 69):
            one = model.estimate(frames[i : i + 1, t : t + 1], prompts[i : i + 1])
            assert float(one.value) == pytest.approx(float(whole.value[i, t]), abs=1e-5)
            assert float(one.spread) == pytest.approx(float(whole.spread[i, t]), abs=1e-5)


def test_ranges_of_the_heads(tiny_config: ModelConfig) -> None:
    heads = with_heads(tiny_config).estimate_heads(pixels(2, 5), ["a", "b"])
    for name, low, high in (("progress", 0, 1), ("success", 0, 1), ("td", -1, 1), ("distributional", -1, 0)):
        assert ((heads[name].value >= low) & (heads[name].value <= high)).all()
    assert torch.equal(heads["output"].value, heads["progress"].value)


def test_blend_is_the_weighted_mean(tiny_config: ModelConfig) -> None:
    model = with_heads(tiny_config, output="blend", blend={"progress": 3.0, "success": 1.0})
    heads = model.estimate_heads(pixels(2, 2), ["a", "b"])
    expected = 0.75 * heads["progress"].value + 0.25 * heads["success"].value
    assert torch.allclose(heads["output"].value, expected, atol=1e-6)


def test_spread_comes_from_the_members(tiny_config: ModelConfig) -> None:
    assert (with_heads(tiny_config).estimate(pixels(1, 3), ["a"]).spread > 0).all()
    assert (with_heads(tiny_config, members=1).estimate(pixels(1, 3), ["a"]).spread == 0).all()


def test_prior_moves_members_apart_and_is_not_trained(tiny_config: ModelConfig) -> None:
    model = with_heads(tiny_config, prior_scale=3.0)
    assert model.prior is not None
    assert not any(parameter.requires_grad for parameter in model.prior.parameters())


def test_instruction_matters_and_case_does_not(tiny_model: ValueModel) -> None:
    frames = pixels(1, 1).expand(3, -1, -1, -1, -1, -1)
    values = tiny_model.estimate(frames, ["sort the bricks", "Sort The BRICKS", "close the box"]).value[:, 0]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_words_hash_to_the_same_bucket_everywhere() -> None:
    assert hash_words("Pick bricks.", 1024) == [127, 71, 105]
    assert hash_words("", 1024) == []


@pytest.mark.parametrize(
    ("frames", "prompts", "message"),
    [
        (torch.zeros(1, 1, 2, 16, 24, 3), ["a"], "torch.float32"),
        (pixels(1, 1).int(), ["a"], "torch.int32"),
        (pixels(1, 1)[:, :, :1], ["a"], "head, wrist"),
        (pixels(1, 1).movedim(-1, -3), ["a"], "expected"),
        (pixels(1, 1)[0], ["a"], "expected"),
        (pixels(1, 0), ["a"], "empty"),
        (pixels(2, 1), ["a"], "1 prompts for 2 environments"),
        (pixels(1, 1), "a", "one string"),
    ],
)
def test_wrong_input_is_refused(tiny_model: ValueModel, frames: torch.Tensor, prompts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model.estimate(frames, prompts)


@pytest.fixture
def latent_model() -> ValueModel:
    config = ModelConfig(reads_latents=True, channels=(8, 8), flat_convs=1, embed=8, hidden=8)
    return ValueModel(config, InputShape(("head", "wrist"), 4, 6, 5))


def test_latents(latent_model: ValueModel) -> None:
    latents = torch.randn(2, 3, 2, 5, 4, 6)
    value = latent_model.estimate(latents, ["a", "b"]).value
    assert value.shape == (2, 3)
    assert torch.equal(latent_model.estimate(latents.half(), ["a", "b"]).value.isfinite(), value.isfinite())
    with pytest.raises(ValueError, match="latents float"):
        latent_model.estimate(latents.to(torch.uint8), ["a", "b"])
    latents[0, 0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        latent_model.estimate(latents, ["a", "b"])


@pytest.mark.parametrize("views", [1, 4])
def test_any_number_of_cameras(tiny_config: ModelConfig, views: int) -> None:
    model = ValueModel(tiny_config, InputShape(tuple(f"camera{i}" for i in range(views)), 10, 14))
    frames = torch.zeros(2, 2, views, 10, 14, 3, dtype=torch.uint8)
    assert model.estimate(frames, ["a", "b"]).value.shape == (2, 2)


def test_save_and_load(tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = with_heads(tiny_config)
    model.save_pretrained(tmp_path / "model")
    loaded = ValueModel.from_pretrained(tmp_path / "model")
    assert not loaded.training
    assert loaded.config == model.config
    frames = pixels(2, 2)
    assert torch.equal(loaded.estimate(frames, ["a", "b"]).value, model.estimate(frames, ["a", "b"]).value)


def test_loading_is_strict(tiny_model: ValueModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"kind": "rise-dynamics"}, "rise-dynamics"),
        ({"format_version": 99}, "99"),
        ({"model": {**config["model"], "hidden": 33}}, "trunk.weights.0 has shape"),
        ({"model": {**config["model"], "prior_scale": 1.0}}, "missing prior"),
        ({"model": {**config["model"], "hiden": 33}}, "hiden"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            ValueModel.from_pretrained(folder)


def test_damage_is_said(tiny_model: ValueModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="no value model"):
        ValueModel.from_pretrained(folder)
    tiny_model.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        ValueModel.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        ValueModel.from_pretrained(folder)


@pytest.mark.slow  # the import alone
def test_a_transformers_backbone_needs_no_network_once_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(settings).save_pretrained(tmp_path / "dino")
    config = ModelConfig(backbone=str(tmp_path / "dino"), backbone_size=(28, 28), embed=8, hidden=8)
    model = ValueModel(config, InputShape(("head", "wrist"), 16, 24))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "dino" / "model.safetensors").unlink()
    loaded = ValueModel.from_pretrained(tmp_path / "model")
    frames = pixels(1, 2)
    assert torch.equal(loaded.estimate(frames, ["a"]).value, model.estimate(frames, ["a"]).value)


@pytest.mark.slow  # the import alone
def test_weights_of_a_backbone_must_fit(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = transformers.ViTConfig(**settings, intermediate_size=16, patch_size=14)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)  # a head too many, and no pooler
    load_backbone(str(tmp_path), None)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if name.endswith("projection.weight"))
    for changed, message in (
        ({key: value for key, value in whole.items() if key != name}, r"missing embeddings\.patch"),
        ({**whole, "vit.extra": torch.ones(1)}, "unexpected vit.extra"),
        ({**whole, name: whole[name] * torch.nan}, "not finite"),
        ({**whole, name: whole[name] * 1j}, "complex64"),
        ({**whole, name: whole[name].int()}, "int32"),
        ({**whole, name: whole[name][:1].clone()}, "cannot be loaded"),
    ):
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            load_backbone(str(tmp_path), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"output": "distributional"}, "heads lacks"),
        ({"heads": ("progress", "other")}, "unknown head"),
        ({"heads": ()}, "heads is empty"),
        ({"output": "blend", "blend": {}}, "sum to nothing"),
        ({"members": 0}, "at least 1"),
        ({"backbone": "x", "reads_latents": True}, "reads pixels"),
    ],
)
def test_config_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**values)
