#!/usr/bin/env bash
# Stable-Baselines3 2.9.2: an agent writes into the dict that it was given as `policy_kwargs`, and the next agent that is
# made from the same dict silently becomes another algorithm.
#
# A comparison of agents gives all of them the same sizes of networks. If they share one dict, then
#   * PPO made after A2C is optimised by RMSprop, not by Adam;
#   * TD3 made after DDPG has one critic, not two: it is no TD3 any more;
#   * TD3 made after SAC ends with a TypeError about an argument `use_sde` that the user never gave.
# The order of the agents decides, and the first two say nothing.
#
# What helps: a fresh dict for every agent, policy_kwargs=dict(sizes).
#
# Installs public packages in a temporary folder. Ends with 0 while the behaviour is as described, with 1 when it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "stable-baselines3==2.9.2" "gymnasium==1.4.0" "numpy==2.2.6"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3

print("stable-baselines3", version("stable-baselines3"))


def after(first, second):
    """What the second agent is, alone and made from a dict that the first one was made from."""
    sizes = {"net_arch": [8]}
    alone = second("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(sizes), device="cpu")
    first("MlpPolicy", "Pendulum-v1", policy_kwargs=sizes, device="cpu")
    try:
        shared = second("MlpPolicy", "Pendulum-v1", policy_kwargs=sizes, device="cpu")
    except TypeError as error:
        shared = str(error)
    return sizes, alone, shared


def optimizer(agent):
    return type(agent.policy.optimizer).__name__


def critics(agent):
    return len(agent.critic.q_networks)


sizes, alone, shared = after(A2C, PPO)
print("PPO after A2C: optimiser", optimizer(shared), "alone", optimizer(alone), "| dict is now", list(sizes))
holds = [(optimizer(shared), optimizer(alone)) == ("RMSprop", "Adam")]
sizes, alone, shared = after(DDPG, TD3)
print("TD3 after DDPG: critics", critics(shared), "alone", critics(alone), "| dict is now", sizes)
holds.append((critics(shared), critics(alone)) == (1, 2))
sizes, alone, shared = after(SAC, TD3)
print("TD3 after SAC:", shared, "| dict is now", sizes)
holds.append("use_sde" in str(shared))
print("as described" if all(holds) else "CHANGED")
raise SystemExit(not all(holds))
PYTHON
