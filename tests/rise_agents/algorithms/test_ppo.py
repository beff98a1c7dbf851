"""PPO on a flow policy: what is Stable-Baselines3's stays so, and what is put around it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch

from rise_agents.algorithms.ppo import PPO, FlowPPO, PPOConfig
from rise_env.errors import ConfigError, TrainingError

KINDS: dict[str, dict[str, Any]] = {
    "one_step": {}, "all_steps": {"noise": "all_steps"}, "fpo": {"surrogate": "fpo"}, "everything": {"trainable": "all"}
}  # fmt: skip


def made(lab: Any, envs: Any = None, policy: Any = None, **changes: Any) -> PPO:
    settings: dict[str, Any] = {"rollout_steps": 4, "batch_size": 32, "epochs": 2, "value_network": (32,), **changes}
    return PPO(policy or lab.policy(offset=0.3), envs or lab.envs(), PPOConfig(**settings))


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_update_and_buffer_are_those_of_stable_baselines() -> None:
    assert FlowPPO.train is sb3.PPO.train
    assert issubclass(FlowPPO, sb3.PPO)


def test_defaults_are_tied_to_the_noise() -> None:
    assert PPOConfig().clip(pixels=True) == 0.2
    assert PPOConfig().kl_limit is None
    every = PPOConfig(noise="all_steps")
    assert (every.clip(pixels=False), every.clip(pixels=True), every.kl_limit) == (0.01, 0.001, 0.01)
    assert 0.08 <= min(every.noise_std) <= max(every.noise_std) <= 0.14
    fpo = PPOConfig(surrogate="fpo", noise="all_steps")
    assert (fpo.clip(pixels=True), fpo.kl_limit, fpo.loss_samples) == (0.05, None, 8)
    assert PPOConfig(clip_range=0.1, target_kl=0.3).clip(pixels=True) == 0.1


def test_a_chunk_discounts_by_its_control_steps(lab: Any) -> None:
    algorithm = made(lab, gamma=0.97)
    assert algorithm.model.gamma == pytest.approx(0.97**lab.spec.chunk)
    assert algorithm.model.rollout_buffer.gamma == algorithm.model.gamma
    assert algorithm.model.clip_range(1.0) == 0.2


@pytest.mark.parametrize(("threshold", "bias"), [(0.3, 0.0), (0.99, 0.0), (0.3, 50.0), (0.99, -50.0)])
def test_truncation_bootstraps_and_termination_does_not(lab: Any, threshold: float, bias: float) -> None:
    """Rewards, ends and values as the environment gave them; returns and advantages by the definition."""
    algorithm = made(lab, lab.envs(success_threshold=threshold, max_chunks=3), gae_lambda=0.9)
    model, seen = algorithm.model, []
    with torch.no_grad():
        model.policy.value[-1].bias.fill_(bias)
    inner, look = algorithm.env.step, model.policy.values_of

    def step(chunks: Any) -> Any:
        found = inner(chunks)
        seen.append((found[1].copy(), found[2], found[3], look(found[0]), found[4]["progress"].copy()))
        return found

    algorithm.env.step = step
    model.collect(np.random.default_rng(0))
    buffer, gamma = model.rollout_buffer, model.gamma
    rewards, ended, cut, guessed, progress = (np.array(column) for column in zip(*seen, strict=True))
    assert cut.any()
    assert ended.any() == (threshold == 0.3)
    for env in range(16):
        following = 0.0
        for k in reversed(range(len(seen))):
            over, left = ended[k, env] or cut[k, env], 1.0 - progress[k, env]
            if ended[k, env]:  # all that is missing has been gained, nothing follows
                target = rewards[k, env] + left
            elif (
                cut[k, env] or k == len(seen) - 1
            ):  # it would go on: there are at most `left` to gain, the rest to lose
                target = rewards[k, env] + gamma * min(max(guessed[k, env], -progress[k, env]), left)
            else:
                target = rewards[k, env] + gamma * buffer.values[k + 1, env]
            delta = target - buffer.values[k, env]
            following = delta + (0.0 if over else gamma * 0.9 * following)
            assert buffer.advantages[k, env] == pytest.approx(following, abs=1e-3)
    np.testing.assert_allclose(buffer.returns, buffer.advantages + buffer.values, atol=1e-4)


def test_the_value_function_is_trained_alone_at_first(lab: Any) -> None:
    algorithm = made(lab, critic_rounds=2)
    for rounds in (1, 2, 3):
        policy, value = weights(algorithm.policy), weights(algorithm.model.policy.value)
        algorithm.learn(1, reset_num_timesteps=False)
        assert algorithm.rounds == rounds
        assert changed(value, algorithm.model.policy.value)
        assert bool(changed(policy, algorithm.policy)) == (rounds == 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained(lab: Any, kind: str) -> None:
    algorithm = made(lab, critic_rounds=0, learning_rate=1e-3, **KINDS[kind])
    before = weights(algorithm.policy)
    algorithm.learn(64)
    parts = {name.split(".")[0] for name in changed(before, algorithm.policy)}
    assert parts == ({"denoiser", "encoders"} if kind == "everything" else {"denoiser"})
    assert not algorithm.policy.training
    assert {"train/value_loss", "train/approx_kl", "train/loss", "rollout/advantage"} <= set(algorithm.metrics)
    assert all(np.isfinite(list(algorithm.scalars().values())))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_one_before_the_first_update(lab: Any, kind: str) -> None:
    algorithm = made(lab, **KINDS[kind])
    with torch.no_grad():
        algorithm.policy.denoiser.write.weight.normal_(std=0.1)
    algorithm.model.collect(np.random.default_rng(0))
    for batch in algorithm.model.rollout_buffer.get(32):
        values, log_prob, _ = algorithm.model.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(values.flatten(), batch.old_values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["one_step", "fpo"])
def test_it_learns(lab: Any, kind: str) -> None:
    settings = {"learning_rate": 1e-3, "rollout_steps": 8, "batch_size": 64, "epochs": 4, "gamma": 0.9}
    algorithm = made(lab, policy=lab.policy(offset=0.5), **settings, **KINDS[kind])
    before = lab.imagined_advantage(algorithm)
    algorithm.learn(1536)
    assert lab.imagined_advantage(algorithm) > before + 0.01


def test_rounds_are_seeded_and_the_global_generators_left_alone(lab: Any) -> None:
    def drawn() -> list[float]:
        return [float(torch.rand(())), float(np.random.rand())]  # noqa: NPY002

    def seed() -> None:
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002

    base = lab.policy(offset=0.3)
    seed()
    wanted = drawn()
    seed()
    first = made(lab, policy=base, critic_rounds=0).learn(64)
    assert drawn() == wanted
    second = made(lab, policy=base, critic_rounds=0).learn(64)
    assert not changed(weights(first.policy), second.policy)
    assert changed(weights(first.policy), made(lab, policy=base, critic_rounds=0, seed=1).learn(64).policy)


def test_what_is_not_finite_is_not_learned(lab: Any) -> None:
    algorithm = made(lab, critic_rounds=0)
    before, step = weights(algorithm.policy), algorithm.env.step
    algorithm.env.step = lambda chunks: (lambda found: (found[0], found[1] * np.nan, *found[2:]))(step(chunks))
    with pytest.raises(TrainingError, match="reward"):
        algorithm.step()
    algorithm.env.step = step
    with torch.no_grad():
        algorithm.model.policy.value[-1].bias.fill_(np.nan)
    with pytest.raises(TrainingError, match="lower the learning rates"):
        algorithm.step()
    assert not changed(before, algorithm.policy)


def test_wrong_settings_are_refused(lab: Any) -> None:
    for name, value in {
        "surrogate": "grpo", "noise": "none", "trainable": "head", "loss_samples": 0, "rollout_steps": 0, "epochs": 0,
        "batch_size": 1, "critic_rounds": -1, "noise_level": 0.0, "noise_std": (0.1, 0.0), "noise_scale": 2.0,
        "gamma": 1.5, "gae_lambda": -0.1, "clip_range": 0.0, "target_kl": -1.0, "learning_rate": 0.0,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            PPOConfig(**{name: value})


@pytest.mark.slow  # LeRobot and transformers take many seconds to import
@pytest.mark.parametrize("kind", ["one_step", "all_steps", "fpo"])
def test_pi05_is_trained_like_any_other(lab: Any, tokenizer: Any, kind: str) -> None:
    from rise_agents.policies.pi05 import Pi05Policy
    from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes

    torch.manual_seed(0)
    config = Pi05PolicyConfig(sizes=Pi05Sizes(vocabulary=300), tokens=200, image_size=28, steps=3)
    policy = Pi05Policy(lab.spec, config, lab.codec, tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=0.3 if weight.dim() > 1 else 0.1)
    envs = lab.envs(2)
    algorithm = made(lab, envs, policy, critic_rounds=0, rollout_steps=2, batch_size=4, epochs=1, **KINDS[kind])
    before = weights(algorithm.policy)
    algorithm.learn(4)
    names = changed(before, algorithm.policy)
    assert any("gemma_expert" in name for name in names)
    assert not any("paligemma.model" in name for name in names)
    values = algorithm.model.rollout_buffer.values
    assert len(np.unique(values)) == values.size  # the language model tells states apart
