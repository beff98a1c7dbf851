"""A dynamics model of a package that is not ours imagines wherever ours does, with no edit in ours."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Stranger = Callable[..., subprocess.CompletedProcess[str]]

BUILD = """
    import numpy as np, torch
    from rise_env.envs.starts import StartStates
    from rise_env.tasks import load_task
    from rise_env.value.config import ModelConfig
    from rise_env.value.model import InputShape, ValueModel
    from rise_env.world_model import CompositionalWorldModel
    from rise_stranger.dynamics import Drift

    spec, rng = load_task("brick_sorting", "tiny"), np.random.default_rng(0)
    torch.manual_seed(0)
    config = ModelConfig(channels=(8, 16), embed=16, hidden=16, members=2, text_vocabulary=64, text_embed=8)
    value = ValueModel(config, InputShape(tuple(spec.cameras), *spec.image_size))
    CompositionalWorldModel(Drift(spec.stride, pixels=25.0), value.eval(), spec).save_pretrained("model")
    size = (6, spec.history, len(spec.cameras), *spec.image_size, 3)
    states = rng.uniform(spec.layout.low, spec.layout.high, (6, spec.history, spec.layout.dim)).astype(np.float32)
    StartStates.build(spec, rng.integers(0, 256, size, np.uint8), states).save("starts")
"""
USE = """
    import gymnasium, numpy as np, rise_env
    from rise_env.checks import check_vector_env
    from rise_env.pretrained import load_registered
    from rise_env.registry import DYNAMICS

    assert float(load_registered("model/dynamics", DYNAMICS).pixels) == 25.0  # alone, by its kind
    assert DYNAMICS.find("drift").plugin == "rise_stranger"
    given = {"world_model": "model", "starts": "starts", "device": "cpu", "max_batch": 1}
    envs = gymnasium.make_vec("RISE-Imagination-v0", num_envs=3, **given)
    assert type(envs.unwrapped.world_model.dynamics).__name__ == "Drift"
    report = check_vector_env(envs)
    assert "alone" in report.passed
    before, _ = envs.reset(seed=0)
    low, high = envs.unwrapped.task.layout.low, envs.unwrapped.task.layout.high
    chunk = np.broadcast_to(before["state"][:, None] + 0.2, envs.action_space.shape).clip(low, high)
    after, reward, *_ = envs.step(chunk.astype(np.float32))
    assert np.isfinite(reward).all()
    shift = int(np.round(25.0 * (chunk[0, -1].astype(np.float64) - before["state"][0]).mean()))
    assert shift > 0 and np.array_equal(after["image_head"][0], np.roll(before["image_head"][0], shift, axis=1))
    env = gymnasium.make("RISE-Imagination-v0", **given)
    env.reset(seed=0)
    env.step(env.action_space.sample())
"""


@pytest.fixture(scope="module")
def folder(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drift")
    stranger("-c", textwrap.dedent(BUILD), cwd=path)
    return path


def test_it_is_loaded_alone_listed_and_imagines_in_our_environments(stranger: Stranger, folder: Path) -> None:
    assert json.loads((folder / "model" / "config.json").read_text())["parts"] == {
        "dynamics": "drift", "value": "ensemble",
    }  # fmt: skip
    stranger("-c", textwrap.dedent(USE), cwd=folder)


def test_its_speed_is_measured(stranger: Stranger, folder: Path) -> None:
    command = ["bench", "imagination", "--world-model", "model", "--starts", "starts", "--batch", "2", "--quick"]
    stranger("-m", "rise_agents.cli.main", *command, "--json", "speed.json", cwd=folder)
    row = json.loads((folder / "speed.json").read_text())["batches"][0]
    assert row["chunks_per_second"] > 0


def test_without_the_package_the_error_says_what_to_install(folder: Path) -> None:
    code = "from rise_env.world_model import CompositionalWorldModel as C; C.from_pretrained('model')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 1
    assert "needs the dynamics model 'drift', which is not registered" in done.stderr
    assert "rise_env.registry.DYNAMICS.register('drift', 'package.module:Class')" in done.stderr
