"""Environment ids: found without an import, made singly and in numbers, written as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import rise_env
from rise_env.errors import ConfigError

ID = "RISE-BrickSorting-Cell-v0"
assert rise_env is not None  # registers the ids


def test_make_without_an_import() -> None:
    code = (
        "import sys, gymnasium as gym; env = gym.make('rise_env:RISE-BrickSorting-Cell-v0', preset='tiny')\n"
        "print(env.reset(seed=0)[0]['state'].shape, 'torch' in sys.modules); env.close()"
    )
    folder = os.path.dirname(os.path.abspath(__file__))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(14,) False"
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("env_id", [ID, "RISE-BoxClosing-Cell-v0", "RISE-BackpackPacking-Cell-v0"])
def test_gymnasium_and_sb3_check_env(env_id: str) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    short = ["task.max_seconds=1.0", "task.execute=1"]
    env = gymnasium.make(env_id, preset="tiny", render_mode="rgb_array", overrides=short)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec.*max_episode_steps.*")
        warnings.filterwarnings("ignore", message=".*found no display.*")
        warnings.filterwarnings("ignore", message=".*infinity.*")  # the measured state is not bounded by joint limits
        warnings.filterwarnings("ignore", message=".*symmetric and normalized.*")  # actions are physical units
        check_env(env.unwrapped, skip_close_check=True)
        sb3_check_env(env)
    env.close()


@pytest.mark.parametrize("vector", [False, True])
def test_spec_round_trip(vector: bool) -> None:
    keywords = {"preset": "tiny", "difficulty": "easy", "image_size": [40, 48], "variation": True, "execute": 2}
    make = gymnasium.make_vec if vector else gymnasium.make
    if vector:
        keywords |= {"num_envs": 2, "num_workers": 0, "autoreset_mode": "same_step"}
    first = make(ID, **keywords)
    second = make(EnvSpec.from_json(first.spec.to_json()))
    for env in (first, second):
        assert env.unwrapped.spec.kwargs["difficulty"] == "easy"
    (ours, _), (theirs, _) = first.reset(seed=3), second.reset(seed=3)
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    first.close()
    second.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_wrong_arguments_are_named(make) -> None:
    cases = [
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"task": "folding"}, "unknown task 'folding'"),
        ({"difficulty": "brutal"}, "unknown difficulty 'brutal'"),
        ({"execute": 9}, "execute 9 is more than chunk 8"),
        ({"image_size": [4, 4]}, "at least 8 x 8"),
        ({"render_mode": "ansi"}, "render_mode 'ansi'"),
        ({"overrides": ["task.fsp=3"]}, "Did you mean 'fps'"),
    ]
    for change, message in cases:
        with pytest.raises(ConfigError, match=message):
            make(ID, **{"preset": "tiny", **change})
