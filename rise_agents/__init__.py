"""Policies and algorithms that learn in imagination and on the robot, and the `rise` command."""

from __future__ import annotations

from typing import Any

__all__ = ["make_agent"]


def make_agent(name: str, env: Any, policy: Any, *, offline: Any = None, **config: Any) -> Any:
    """Make an algorithm that improves a policy in an environment.

    Args:
        name: Name in `rise_env.registry.ALGORITHMS`.
        env: Vector environment, e.g. from `gym.make_vec("RISE-BrickSorting-v0", autoreset_mode="disabled", ...)`.
        policy: Policy, or a name or path for `rise_agents.policies.resolve.resolve_policy`.
        offline: Recorded chunks to mix in (`rise_agents.policies.data.ChunkSource`), for algorithms that want them.
        **config: Settings, fields of the algorithm's `Config`.

    Returns:
        The algorithm, with `learn`, `predict`, `save` and `load` as in Stable-Baselines3.

    Raises:
        ConfigError: If there is no such algorithm or policy, or the settings are wrong.
    """
    import rise_env  # noqa: F401  (loads plug-ins)
    from rise_agents.policies.resolve import resolve_policy
    from rise_env.config import decode
    from rise_env.registry import ALGORITHMS

    algorithm = ALGORITHMS.load(name)
    if isinstance(policy, str):
        policy = resolve_policy(policy, task=env.unwrapped.task.name, spec=env.unwrapped.task)
    decoded = decode(algorithm.Config, config, f"settings of algorithm {name!r}")
    return algorithm(policy, env, decoded, offline=offline)
