#!/usr/bin/env bash
# LeRobot 0.6.1: `lerobot-eval` counts one step of the next episode, so that a failed episode can be a success.
#
# Expected: eval_policy reports rewards and success of every environment's first episode ("results after this won't be
# included", says the code where it looks for the first step that ended one).
# What happens: the mask of what counts goes one step further than the step that ended the episode. EnvConfig.create_envs, the
# default of environments and plug-ins, makes vector environments that reset within the same step, and does not use LeRobot's
# own FreezeAfterEpisodeEnd: so that further step is the first one of the next episode. Its reward is added, and if it
# succeeds, the failure before it counts as a success. It happens in every environment but the slowest of a batch, so the
# result depends on the batch size: with batch_size=1 it is right. Episodes whose rewards are all negative have a maximum
# reward of 0, because what does not count is set to 0.
#
# Output seen (two environments: the first fails after 3 steps, the second after 6; every step pays 1; the episode after the
# first one, which nobody asked for, succeeds at once):
#   side by side: successes [True, False], sums of rewards [4.0, 6.0]
#   one after the other: successes [False, False], sums of rewards [3.0, 6.0]
#
# What helps: an environment that stays as it ended until it is reset with options={"lerobot_new_rollout": True}, and pays
# nothing. Here: rise_env.adapters.LeRobotView does so (docs/lerobot.md).
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
    "lerobot[dataset]==0.6.1" "torch==2.11.0" "gymnasium==1.4.0" "numpy==2.2.6"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -n 5 "$folder/log"; exit 1; }
from dataclasses import dataclass
from importlib.metadata import version

import gymnasium as gym
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import eval_policy

print("lerobot", version("lerobot"))


class Task(gym.Env):
    """Fails after 3 steps (even seeds) or 6 (odd seeds); reset without a seed it succeeds in the first step."""

    metadata = {"render_fps": 10, "render_modes": []}
    observation_space = gym.spaces.Dict({"agent_pos": gym.spaces.Box(-1, 1, (1,), np.float64)})
    action_space = gym.spaces.Box(-1, 1, (1,))
    _max_episode_steps = 20
    task_description = "wait"

    def observe(self):
        return {"agent_pos": np.zeros(1)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.succeeds, self.left = seed is None, 1 if seed is None else 3 + 3 * (seed % 2)
        return self.observe(), {"is_success": False}

    def step(self, action):
        self.left -= 1
        return self.observe(), 1.0, self.left == 0, False, {"is_success": self.left == 0 and self.succeeds}


gym.register("gym_waiting/Task-v0", Task)


@EnvConfig.register_subclass("waiting")
@dataclass
class WaitingConfig(EnvConfig):
    task: str | None = "Task-v0"

    @property
    def gym_kwargs(self):
        return {}


@PreTrainedConfig.register_subclass("still")
@dataclass
class StillConfig(PreTrainedConfig):
    observation_delta_indices = action_delta_indices = reward_delta_indices = None

    def get_optimizer_preset(self):
        return None

    def get_scheduler_preset(self):
        return None

    def validate_features(self):
        pass


class Still(PreTrainedPolicy):
    config_class, name = StillConfig, "still"

    def reset(self):
        pass

    def get_optim_params(self):
        return {}

    def forward(self, batch):
        raise NotImplementedError

    def predict_action_chunk(self, batch, **kwargs):
        raise NotImplementedError

    def select_action(self, batch, **kwargs):
        return torch.zeros(len(batch["observation.state"]), 1)


def evaluate(batch_size):
    """Success and sum of rewards of the two episodes with seeds 0 and 1."""
    envs = WaitingConfig().create_envs(batch_size)["waiting"][0]
    as_is = PolicyProcessorPipeline(steps=[])
    actions = PolicyProcessorPipeline(
        steps=[], to_transition=lambda action: {"action": action}, to_output=lambda transition: transition["action"]
    )
    result = eval_policy(
        envs, Still(StillConfig(device="cpu")), as_is, lambda x: x, as_is, actions, n_episodes=2, start_seed=0
    )
    episodes = result["per_episode"]
    return [episode["success"] for episode in episodes], [episode["sum_reward"] for episode in episodes]


together, alone = evaluate(2), evaluate(1)
print(f"side by side: successes {together[0]}, sums of rewards {together[1]}")
print(f"one after the other: successes {alone[0]}, sums of rewards {alone[1]}")
holds = together == ([True, False], [4.0, 6.0]) and alone == ([False, False], [3.0, 6.0])
print("as described" if holds else "CHANGED")
raise SystemExit(not holds)
PYTHON
