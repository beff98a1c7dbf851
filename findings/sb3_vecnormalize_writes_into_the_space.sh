#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: VecNormalize writes into the environment's own observation space. One VecNormalize over a Dict with
# pictures costs every later agent on that class of environment its CNN, also those that never use VecNormalize.
#
# Expected (documentation of VecNormalize and of MultiInputPolicy): a wrapper changes what it hands out itself; a uint8 picture
# in a Dict is read by a CNN ("NatureCNN"), and `norm_obs_keys=["state"]` leaves pictures alone.
# What happens: VecNormalize over all keys puts Box(-10, 10, float32) in the place of the picture, in the very Dict that the
# environment (and, as is usual, its class) holds. MultiInputPolicy does not take that for a picture and flattens it, silently.
# A second environment of the class without VecNormalize, or with `norm_obs_keys=["state"]`, is changed as well: its space
# says float32 while its observations are uint8, so an evaluation environment made later does not help.
#
# Output seen:
#   before: uint8 0..255, picture read by NatureCNN
#   over all keys: picture read by Flatten
#   afterwards, new environment without VecNormalize: float32 -10..10, picture read by Flatten, observations are uint8
#   afterwards, norm_obs_keys=["state"]: picture read by Flatten
#
# What helps: norm_obs_keys=["state"] from the start, and an observation space of its own for every environment.
# Here: rise_env.adapters.SB3VecEnv hands out a copy of the space (docs/stable_baselines3.md).
#
# Installs public packages in a temporary folder. Ends with 0 while the behaviour is as described, with 1 when it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/uv"
"$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
uv=$folder/uv/bin/uv
"$uv" venv --quiet --python 3.12 "$folder/venv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" \
    "stable-baselines3==2.9.2" "torch==2.11.0" "gymnasium==1.4.0" "numpy==2.2.6"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

print("stable-baselines3", version("stable-baselines3"))


class Robot(gym.Env):
    observation_space = Dict({"image": Box(0, 255, (36, 36, 3), np.uint8), "state": Box(-1, 1, (2,))})
    action_space = Box(-1, 1, (1,))

    def observe(self):
        return {"image": np.zeros((36, 36, 3), np.uint8), "state": np.zeros(2, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action):
        return self.observe(), 0.0, False, False, {}


def reader(envs):
    """What an agent reads the picture with."""
    agent = PPO("MultiInputPolicy", envs, n_steps=64, device="cpu")
    return type(agent.policy.features_extractor.extractors["image"]).__name__


def space(envs):
    box = envs.observation_space["image"]
    return f"{box.dtype} {box.low.min():g}..{box.high.max():g}"


plain = DummyVecEnv([Robot])
before = space(plain), reader(plain)
everything = reader(VecNormalize(DummyVecEnv([Robot])))
later = DummyVecEnv([Robot])
after = space(later), reader(later), str(later.envs[0].reset()[0]["image"].dtype)
state_only = reader(VecNormalize(DummyVecEnv([Robot]), norm_obs_keys=["state"]))
print(f"before: {before[0]}, picture read by {before[1]}")
print("over all keys: picture read by", everything)
print(f"afterwards, new environment without VecNormalize: {after[0]}, picture read by {after[1]}, observations are {after[2]}")
print('afterwards, norm_obs_keys=["state"]: picture read by', state_only)
holds = (
    before == ("uint8 0..255", "NatureCNN")
    and everything == "Flatten"
    and after == ("float32 -10..10", "Flatten", "uint8")
    and state_only == "Flatten"
)
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
