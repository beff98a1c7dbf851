"""A robot as an environment. Here the work cell stands in for it: driver="cell". Yours: driver="ros", or your own.

Read docs/safety.md before anything real moves, and begin with `dry_run=True`: everything but commands.
"""

import gymnasium as gym
import numpy as np

import rise_env  # registers the ids
from rise_agents.policies.resolve import resolve_actor
from rise_env.acting import actor_in, needed_by


def main(driver: str = "cell", dry_run: bool = False) -> dict[str, np.ndarray]:
    source = resolve_actor("base", task="brick_sorting")  # the shipped policy, or the folder of yours
    envs = gym.make_vec(
        "RISE-BrickSorting-Piper-v0", num_envs=1, autoreset_mode="disabled", driver=driver, dry_run=dry_run,
        **needed_by(source),
    )  # fmt: skip
    policy = actor_in(source, envs)
    observations, infos = envs.reset(seed=[0])  # connects, goes to the start pose, asks for the scene where it has to
    policy.reset([0], np.ones(1, bool))
    over = np.zeros(1, bool)
    while not over.any():
        # Every target passes the safety rules; a stop truncates the episode and says why.
        observations, rewards, terminated, truncated, infos = envs.step(policy.act(observations))
        over = terminated | truncated
    print("stopped:", infos["stop_detail"][0] or "no", "| success:", bool(infos["is_success"][0]))
    envs.close()
    return infos


if __name__ == "__main__":
    main()
