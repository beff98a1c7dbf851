"""Imagination as a plain Gymnasium loop: what was recorded at a state against holding still there."""

import gymnasium as gym
import numpy as np

import rise_env  # registers the ids


def main(num_envs: int = 16) -> dict[str, float]:
    envs = gym.make_vec("RISE-BrickSorting-v0", num_envs=num_envs, autoreset_mode="disabled")  # a learned world model
    advantages = {}
    for name in ("recorded", "still"):
        observations, infos = envs.reset(seed=0)  # the same recorded states each time
        if name == "recorded":
            chunks, _ = envs.unwrapped.recorded_actions()  # (N, chunk, D): absolute joint targets, rad and m
        else:
            chunks = np.repeat(observations["state"][:, None], envs.single_action_space.shape[0], axis=1)
        observations, rewards, terminated, truncated, infos = envs.step(chunks)  # the reward is the chunk's advantage
        advantages[name] = float(rewards.mean())
        print(f"{name:<9} advantage {advantages[name]:+.3f}, progress after it {infos['progress'].mean():.3f}")
    envs.close()
    return advantages


if __name__ == "__main__":
    main()
