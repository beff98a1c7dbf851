"""The speed benchmark: the published architecture at a tiny size takes the same path as at its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import imagination, random_model
from benchmarks.random_model import Cost, check_affordable, count_cost, random_starts, random_world_model
from benchmarks.stopwatch import Stopwatch
from rise_agents.cli.main import main
from rise_env.errors import ConfigError
from rise_env.testing import counting_starts, counting_world_model

#: The section of `paper` with every size made tiny: LTX's video autoencoder, the official transformer.
TINY_PAPER = """
task:
  name: toy
  prompt: Do it.
  cameras: [head, wrist]
  image_size: [32, 64]
  layout: {names: [shoulder, gripper], units: [rad, m], lower: [-1, 0], upper: [1, 1]}
  fps: 30
  chunk: 18
  stride: 2
  history: 4
  execute: 9
  max_seconds: 2.0
value:
  model: {channels: [4, 8], embed: 8, hidden: 8, members: 2, text_vocabulary: 16, text_embed: 4}
dynamics:
  autoencoder_kind: video
  transformer_kind: official
  alignment: target
  video_autoencoder:
    {latent_channels: 4, channels: [8, 8, 8, 8], layers: [1, 1, 1, 1, 1], weights: Lightricks/LTX-Video}
  official:
    {layers: 4, heads: 2, head_dim: 8, latent_channels: 4, caption_dim: 12, caption_tokens: 16, action_dim: 6,
     action_tokens: 9, action_width: 8, action_layers: 2, action_heads: 2, action_head_dim: 4, action_mlp: 10}
  flow: {target: velocity, steps: 3, precision: fp32}
"""
PARTS = ("denoise", "decode", "reencode", "value", "env_overhead")


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(TINY_PAPER)
    return str(path)


def bench(config: str, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "result.json"
    base = ["bench", "imagination", "--task", config, "--random", "--quick", "--device", "cpu", "--json", str(file)]
    assert main([*base, *arguments]) == 0
    return json.loads(file.read_text())


@pytest.mark.slow
def test_the_published_architecture_with_random_weights(config: str, tmp_path: Path) -> None:
    """Weights that the preset names on the Hub are not asked for: the tests have no network."""
    result = bench(config, tmp_path, "--batch", "1", "3", "--set", "dynamics.flow.steps=2")
    model = result["model"]
    assert (model["transformer"], model["autoencoder"], model["weights"]) == ("official", "video", "random")
    assert (model["denoising_steps"], model["frames_per_chunk"], model["precision"]) == (2, 9, "fp32")
    assert "caption and action tokens" in model["made_once_per_chunk"]
    assert [row["num_envs"] for row in result["batches"]] == [1, 3]
    for row in result["batches"]:
        split = row["split_seconds"]
        assert sum(split[part] for part in PARTS) == pytest.approx(row["step_seconds"], rel=1e-6)
        # A video autoencoder decodes, and encodes the next history, inside the dynamics' own step.
        assert min(split[part] for part in (*PARTS, "encode")) > 0
        assert row["seconds_per_chunk"] * row["num_envs"] == pytest.approx(row["step_seconds"])
        assert row["chunks_per_second"] * row["seconds_per_chunk"] == pytest.approx(1.0)
        assert row["view_frames_per_second"] == pytest.approx(18 * row["chunks_per_second"])
        # The official structure, in the same command: another way to the same latents.
        assert row["largest_difference"] < 1e-4
        assert row["speedup"] == pytest.approx(row["baseline"]["seconds_per_chunk"] / row["seconds_per_chunk"])
        assert min(row["peak_memory_bytes"], row["baseline"]["peak_memory_bytes"]) > 0
    training = model["training_bytes"]
    assert training["batch_size"] == 8
    assert training["total_checkpointed"] < training["total"]


@pytest.mark.slow
def test_bf16_and_torch_compile_take_the_same_path(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backend "eager" traces as the default one does, and spares the test a compiler."""
    result = bench(config, tmp_path, "--batch", "1", "--precision", "bf16", "--compile", "eager")
    assert (result["model"]["precision"], result["model"]["compile"]) == ("bf16", "eager")
    told = capsys.readouterr().err
    for part in ("OfficialTransformer", "LTXVideoDecoder3d", "LTXVideoEncoder3d"):
        assert f"compiling {part} for a batch of" in told
        assert f"{part}: ready after" in told
    assert result["batches"][0]["chunks_per_second"] > 0


@pytest.mark.slow
def test_compiling_changes_no_prediction(config: str) -> None:
    starts, frames = None, []
    for compile in (False, True):
        model = random_world_model(config, "", seed=1)
        starts = starts or random_starts(model.spec, 2)
        imagine = {"compile": compile, "compile_backend": "eager"}
        envs = imagination.ImaginationVectorEnv(2, starts=starts, world_model=model, imagine=imagine)
        envs.reset(seed=0)
        frames.append(envs.step(envs.recorded_actions()[0])[0]["image_head"])
        envs.close()
    assert abs(frames[0].astype(int) - frames[1].astype(int)).max() <= 1


def test_a_preset_with_latents_that_stay_latent(tmp_path: Path) -> None:
    result = bench("brick_sorting", tmp_path, "--preset", "tiny", "--batch", "2")
    split = result["batches"][0]["split_seconds"]
    assert split["reencode"] == 0.0
    assert sum(split[part] for part in PARTS) == pytest.approx(result["batches"][0]["step_seconds"], rel=1e-6)
    assert result["model"]["made_once_per_chunk"] == ["history latents"]


def test_time_goes_to_the_part_that_spends_it() -> None:
    """A model that sleeps in one part is found out there and nowhere else."""
    import time

    model, starts = counting_world_model(), counting_starts()
    original = model.value.estimate
    model.value.estimate = lambda *args: (time.sleep(0.05), original(*args))[1]  # type: ignore[method-assign]
    row = imagination.measure(model, starts, (2,), quick=True)["batches"][0]
    assert 0.05 <= row["split_seconds"]["value"] < 0.1
    assert sum(row["split_seconds"][part] for part in PARTS if part != "value") < 0.05
    assert not {"open", "predict", "decode"} & set(vars(model.dynamics))  # the watch is taken off again


def test_what_comes_before_a_call_is_not_charged_to_it() -> None:
    watch = Stopwatch(torch.device("cpu"), repeats=5, least_seconds=0.0)

    def before() -> None:
        with watch.part("encode"):
            pass

    def call() -> None:
        with watch.part("denoise"):
            pass

    for _ in range(3):
        assert watch.median(call, before)["encode"] == 0


def test_a_batch_that_does_not_fit_ends_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    model, starts = counting_world_model(), counting_starts()
    original = model.dynamics.predict

    def predict(state: Any, actions: torch.Tensor, generators: Any) -> Any:
        if len(actions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
        return original(state, actions, generators)

    monkeypatch.setattr(model.dynamics, "predict", predict)
    rows = imagination.measure(model, starts, (1, 4, 8), quick=True)["batches"]
    assert [row["num_envs"] for row in rows] == [1, 4]
    assert rows[1] == {"num_envs": 4, "out_of_memory": "CUDA out of memory. Tried to allocate 2 GiB."}


# ---------------------------------------------------------------------- what it would cost


def test_cost_is_counted_by_hand_for_the_transformer(config: str) -> None:
    """Two FLOPs per weight and token that it meets, and two per pair of tokens and channel in attention."""
    cost, model = count_cost(config, ""), random_world_model(config, "")
    parts = [part for part in (model.dynamics, model.value) if isinstance(part, torch.nn.Module)]
    assert cost.parameters == sum(tensor.numel() for part in parts for tensor in part.parameters())
    assert cost.bytes == 4 * cost.parameters
    assert set(cost.flops) == {"denoise", "decode", "reencode", "value"}
    views, history, future, places, width, layers, frames = 2, 4, 2, 1 * 2, 16, 4, 9
    tokens, clean = (history + future) * places, future * places
    known = frames + 1
    work = 0
    for i in range(layers):
        asking = clean if i == layers - 1 else tokens  # the last block computes the future alone
        work += views * tokens * 2 * width**2 + views * asking * (2 + 2 + 8) * width**2
        work += 2 * width * (views if i % 3 == 0 else 1) * views * asking * tokens + 2 * views * asking * known * width
    ends = views * tokens * 4 * width + views * clean * width * 4
    once = 2 * layers * known * 2 * width**2  # keys and values of actions and caption
    least = 3 * 2 * (work + ends) + once  # three steps; embeddings of time and actions come on top
    assert least < cost.flops["denoise"] < 1.6 * least
    longer = count_cost(config, "", ["dynamics.flow.steps=6"])
    assert longer.flops["denoise"] == 2 * cost.flops["denoise"]
    assert longer.flops["decode"] == cost.flops["decode"]


def test_what_is_out_of_reach_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "_speed_of_cpu", lambda: 1e11)
    monkeypatch.setattr(random_model, "_free_memory", lambda device: 16e9)
    cpu = torch.device("cpu")
    assert "2 million parameters" in check_affordable(Cost(2_000_000, {"denoise": 1e9}), cpu, "small")
    slow = Cost(2_000_000_000, {"denoise": 2e14, "decode": 4e12})
    with pytest.raises(ConfigError, match=r"8 GB of weights.*204 TFLOP.*34 minutes.*--device cuda.*--force"):
        check_affordable(slow, cpu, "paper")
    assert "34 minutes" in check_affordable(slow, cpu, "paper", force=True)
    with pytest.raises(ConfigError, match="only 16 GB are free on cpu"):
        check_affordable(Cost(4_000_000_000, {"denoise": 1.0}), cpu, "paper")


@pytest.mark.slow
def test_the_paper_shape_is_refused_by_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(random_model, "_speed_of_cpu", lambda: 1e12)
    arguments = ["bench", "imagination", "--preset", "paper", "--random", "--device", "cpu"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "2,428 million parameters, 9.71 GB" in message
    assert "--device cuda" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "paper"], r"no bundle .*preset 'paper'[\s\S]*--random"),
        (["--set", "dynamics.flow.steps=2"], "go with --random"),
        (["--random", "--bundle", "b"], "leave out --bundle"),
        (["--random", "--batch", "0"], "at least 1"),
        (
            ["--random", "--preset", "tiny", "--compile", "nonsense"],
            "unknown backend of torch.compile 'nonsense'.*inductor",
        ),
        (["--random", "--preset", "tiny", "--set", "value.model.backbone=a/b"], "--set value.model.backbone="),
    ],
)
def test_arguments_that_do_not_go_together(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "imagination", "--device", "cpu", *arguments]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_settings_of_latent_dynamics_are_refused_for_other_models() -> None:
    with pytest.raises(ConfigError, match=r"compile: FrameCountingDynamics has no such settings"):
        counting_world_model().with_options(imagine={"compile": True})
