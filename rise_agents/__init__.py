"""Policies and algorithms that learn in imagination and on the robot, and the `rise` command."""

from __future__ import annotations

from typing import Any

__all__ = ["AGENTS", "make_agent"]

#: Agents by name: module, class, and the class of their settings.
AGENTS = {"rise": ("rise_agents.algorithms.rise", "RISE", "RiseConfig")}


def make_agent(name: str, env: Any, policy: Any, *, offline: Any = None, log: Any = None, **config: Any) -> Any:
    """Make an agent that improves a policy in an environment.

    Args:
        name: One of `AGENTS`.
        env: Vector environment, from `gym.make_vec("RISE-BrickSorting-v0", autoreset_mode="disabled", ...)`.
        policy: Policy, or a name or path for `rise_agents.policies.resolve.resolve_policy`.
        offline: Recorded chunks to mix in (`rise_agents.policies.data.ChunkSource`), for agents that want them.
        log: Directory for TensorBoard.
        **config: Settings of the agent.

    Returns:
        The agent, with `learn`, `predict`, `save` and `load` as in Stable-Baselines3.

    Raises:
        ConfigError: If there is no such agent or policy, or the settings are wrong.
    """
    import importlib

    from rise_agents.policies.resolve import resolve_policy
    from rise_env.config import decode
    from rise_env.errors import ConfigError

    if name not in AGENTS:
        raise ConfigError(f"unknown agent {name!r}. Known: {', '.join(AGENTS)}.")
    module, agent, settings = AGENTS[name]
    if isinstance(policy, str):
        policy = resolve_policy(policy, task=env.unwrapped.task.name)
    code = importlib.import_module(module)
    decoded = decode(getattr(code, settings), config, f"settings of agent {name!r}")
    return getattr(code, agent)(policy, env.unwrapped, offline, decoded, log)
