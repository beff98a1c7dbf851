"""The bundles that ship with the package: `gym.make` works from them alone, and imagination depends on the actions."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import rise_env
from rise_env.bundle import find_bundle
from rise_env.dynamics.model import LatentDynamics

SHIPPED = pytest.mark.parametrize("env_id", ["RISE-BrickSorting-v0", "RISE-BackpackPacking-v0", "RISE-BoxClosing-v0"])


def test_all_shipped_bundles_stay_small() -> None:
    folder = Path(rise_env.__file__).parent / "bundles"
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 45e6


@pytest.mark.parametrize("task", ["brick_sorting", "backpack_packing", "box_closing"])
def test_bundle_is_found_and_names_no_folder(task: str) -> None:
    assert '"/' not in (find_bundle(task) / "bundle.json").read_text()


@SHIPPED
def test_single_and_vector_environment_agree(env_id: str) -> None:
    env = gymnasium.make(env_id)
    envs = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode="disabled")
    single, info = env.reset(seed=5)
    batch, _ = envs.reset(seed=4)
    assert info["state_source"] == "dataset"
    for key in single:
        assert np.array_equal(single[key], batch[key][1]), key
    actions, known = envs.unwrapped.recorded_actions()
    assert known.all()
    _, reward, *_ = env.step(actions[1])
    _, rewards, _, _, infos = envs.step(actions)
    assert reward == pytest.approx(rewards[1], abs=1e-3)
    assert infos["state_source"].tolist() == ["imagined"] * 3
    env.close()
    envs.close()


@SHIPPED
def test_imagination_follows_the_actions_and_is_reproducible(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=4, autoreset_mode="disabled")
    outcomes = []
    for actions in ("recorded", "recorded", "other"):
        envs.reset(seed=0)
        chunk, _ = envs.unwrapped.recorded_actions()
        if actions == "other":
            chunk = np.roll(chunk, 1, axis=0)
        observation, rewards, *_ = envs.step(chunk)
        outcomes.append((observation["image_head"], rewards))
    assert np.array_equal(outcomes[0][0], outcomes[1][0])
    assert np.array_equal(outcomes[0][1], outcomes[1][1])
    assert (outcomes[0][0] != outcomes[2][0]).any((1, 2, 3)).all()
    assert not np.allclose(outcomes[0][1], outcomes[2][1], atol=1e-3)
    envs.close()


def test_older_names_of_settings_are_understood() -> None:
    """The dynamics model of the bundle is of format version 1, whose training settings had other names."""
    folder = find_bundle("brick_sorting") / "world_model" / "dynamics"
    old = json.loads((folder / "config.json").read_text())["dynamics"]["training"]
    assert old["batch"] == 96
    training = LatentDynamics.from_pretrained(folder).config.training
    assert (training.batch_size, training.learning_rate, training.warmup_steps) == (96, old["rate"], old["warm_up"])
    assert (training.max_grad_norm, training.ema_decay, training.lr_floor) == (old["clip"], old["ema"], 0.02)
    assert training.autoencoder_batch_size == old["autoencoder_batch"]
    assert training.gradient_accumulation_steps == old["accumulate"]
