"""Stable-Baselines3's PPO in an imagination, from nothing; SAC and TD3 train in the same way."""

import gymnasium as gym
from stable_baselines3 import PPO

import rise_env  # registers the ids
from rise_env.adapters import SB3VecEnv
from rise_env.envs.reach import mean_return


def main(timesteps: int = 20_000) -> float:
    envs = gym.make_vec("RISE-Reach-v0", num_envs=8, autoreset_mode="same_step")  # its optimum is known
    agent = PPO(
        "MultiInputPolicy", SB3VecEnv(envs), n_steps=64, batch_size=128, seed=0, device="cpu",
        policy_kwargs={"net_arch": [64], "features_extractor_kwargs": {"cnn_output_dim": 32}},
    )  # fmt: skip
    agent.learn(timesteps)  # imagined chunks
    judge = gym.make_vec("RISE-Reach-v0", num_envs=64, autoreset_mode="disabled")
    reached = mean_return(judge, lambda seen: agent.predict(seen, deterministic=True)[0], episodes=128)
    print(f"after {agent.num_timesteps} imagined chunks: {reached:.2f} of the optimal return")
    judge.close()
    envs.close()
    return reached


if __name__ == "__main__":
    main()
