"""Real-time chunking (arXiv 2506.07339): a new chunk is sampled so that it agrees with the one that is being played.

Inference-time guidance of the flow: every step pulls the chunk that it heads for towards the rows that will have been
played by the time it arrives, and ever less towards those after. Works with weights that were trained without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rise_agents.policies.base import Context, Policy, PolicyRunner, observation_tensors
from rise_agents.policies.flow_policy import FlowPolicy
from rise_env.errors import ConfigError

__all__ = ["RealTimeRunner", "can_tie", "prefix_weights", "sample_tied"]


def can_tie(policy: Policy) -> bool:
    """Whether `sample_tied` knows this kind of policy."""
    return isinstance(policy, FlowPolicy) or _is_pi05(policy)


def _is_pi05(policy: Policy) -> bool:
    return type(policy).__name__ == "Pi05Policy"  # importing it to ask would load LeRobot


def prefix_weights(delay: int, horizon: int, length: int) -> torch.Tensor:
    """How strongly each row of a new chunk is tied to the old one, float32 (length,).

    1 for the first `delay` rows, then falling linearly to 0 at row `horizon` (LeRobot's linear schedule).
    """
    delay, horizon = min(delay, horizon, length), min(horizon, length)
    weights = torch.zeros(length)
    weights[:delay] = 1.0
    weights[delay:horizon] = torch.linspace(1.0, 0.0, horizon - delay + 2)[1:-1]
    return weights


def sample_tied(
    policy: Policy,
    context: Context,
    levels: torch.Tensor,
    noise: torch.Tensor,
    previous: torch.Tensor,
    delay: int,
    horizon: int,
    *,
    guidance: float = 1.0,
    steps: int | None = None,
) -> torch.Tensor:
    """Action chunks float32 (B, chunk, D), rad and m, that agree with what is being played.

    Args:
        policy: A policy that `can_tie`.
        context: What is seen.
        levels: As in `Policy.sample`.
        noise: As in `Policy.sample`.
        previous: What is left of the old chunk from the observation on, (B, R, D), rad and m, R >= 1.
        delay: Rows of it that will have been played when the new chunk arrives.
        horizon: Rows over which the two are tied.
        guidance: As in `Policy.sample`.
        steps: As in `Policy.sample`.

    Raises:
        ConfigError: If the policy cannot.
    """
    left = min(previous.shape[1], policy.spec.chunk)
    padding = previous[:, -1:].expand(-1, policy.spec.chunk - left, -1)  # of weight 0
    whole = torch.cat([previous[:, :left], padding], dim=1).to(context.state)
    delay, horizon = min(delay, left), min(horizon, left)
    if isinstance(policy, FlowPolicy):
        return _flow(policy, context, levels, noise, whole, prefix_weights(delay, horizon, policy.spec.chunk),
                     guidance, steps)  # fmt: skip
    if _is_pi05(policy):
        return _pi05(policy, context, levels, noise, whole[:, :left], delay, horizon, guidance, steps)
    raise ConfigError(f"a {type(policy).__name__} knows no real-time chunking; use the execution strategy smooth")


def _flow(
    policy: FlowPolicy,
    context: Context,
    levels: torch.Tensor,
    noise: torch.Tensor,
    previous: torch.Tensor,
    weights: torch.Tensor,
    guidance: float,
    steps: int | None,
) -> torch.Tensor:
    x, count = noise.flatten(1), steps or policy.config.steps
    goal = policy.normalise(previous, context.state)
    tied = weights.to(x).repeat_interleave(policy.spec.layout.dim)
    for step in range(count):
        now = 1.0 - step / count
        time = torch.full((len(x),), now, device=x.device)
        velocity = policy.velocity(x, context.features, time, levels, guidance)
        error = (goal - (x - now * velocity)) * tied
        x = x - (velocity - _pull(now, count) * error) / count
    return policy.denormalise(x, context.state)


def _pull(time: float, steps: int) -> float:
    """Weight of the guidance at a time of the flow; at most `steps`: then one Euler step goes all the way."""
    done = 1.0 - time
    if done <= 0.0:
        return float(steps)
    return min(float(steps), (time / done) * (time**2 + done**2) / time**2)


def _pi05(
    policy: Any,
    context: Context,
    levels: torch.Tensor,
    noise: torch.Tensor,
    previous: torch.Tensor,
    delay: int,
    horizon: int,
    guidance: float,
    steps: int | None,
) -> torch.Tensor:
    """LeRobot's own real-time chunking."""
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    if guidance != 1.0:
        raise ConfigError(
            f"real-time chunking of pi0.5 goes without guidance over the advantage, got {guidance}: use --guidance 1"
        )
    network = policy.network
    images, shown = policy.images(context)
    training, before = network.training, network.config.rtc_config
    network.config.rtc_config = RTCConfig()
    network.init_rtc_processor()
    network.eval()
    try:
        chunks = network.model.sample_actions(
            images, shown, *policy.tokenise(context, levels),
            noise=noise,
            num_steps=policy.config.steps if steps is None else steps,
            prev_chunk_left_over=policy.normalise(previous, context.state),
            inference_delay=delay,
            execution_horizon=horizon,
        )  # fmt: skip
    finally:
        network.config.rtc_config = before
        network.init_rtc_processor()
        network.train(training)
    denormalised: torch.Tensor = policy.denormalise(chunks.detach(), context.state)
    return denormalised


class RealTimeRunner(PolicyRunner):
    """A policy in one environment that can be told what is being played; see `PolicyRunner`."""

    @torch.no_grad()
    def act_tied(self, observations: Mapping[str, Any], previous: np.ndarray, delay: int, horizon: int) -> np.ndarray:
        """Action chunks float32 (N, chunk, D), rad and m, within the joint limits.

        Args:
            observations: With a leading axis N.
            previous: (N, R, D), rad and m; see `sample_tied`.
            delay: As in `sample_tied`.
            horizon: As in `sample_tied`.
        """
        policy = self.policy
        count = len(observations["state"])
        context = policy.context(observation_tensors(observations, policy.device), [policy.spec.prompt] * count)
        levels = torch.full((count,), self.level, device=policy.device)
        noise = self.noise * policy.draw_noise(self._generators)
        old = torch.as_tensor(previous, dtype=torch.float32)
        chunks = sample_tied(
            policy, context, levels, noise, old.to(policy.device), delay, horizon,
            guidance=self.guidance, steps=self.steps,
        )  # fmt: skip
        return policy.within_limits(chunks).cpu().numpy()
