"""What a policy name on the command line stands for: the one place that decides."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium
import torch

import rise_env  # noqa: F401  (registers the environments)
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.loading import advantage_bin_of, load_policy
from rise_agents.policies.scripted import scripted_actor
from rise_env.acting import ActorSource
from rise_env.bundle import Bundle, find_bundle, load_bundle
from rise_env.errors import ConfigError
from rise_env.pretrained import CONFIG

__all__ = ["find_policy", "resolve_actor", "resolve_policy", "task_of"]

type PolicyName = str | os.PathLike[str]
type BundleSource = Bundle | PolicyName | None


def find_policy(name: PolicyName, task: str | None = None, bundle: BundleSource = None) -> str | None:
    """Where a trained policy lies.

    Args:
        name: "base" for the policy of a bundle; a run folder (its `model/` is taken), a checkpoint directory, or the
            id of a repository on the Hugging Face Hub.
        task: Task whose shipped bundle "base" is taken from, unless a bundle is given.
        bundle: Bundle that "base" is taken from, or its directory.

    Returns:
        Directory or Hub id; None if `name` looks like neither, and may be the name of a scripted policy.

    Raises:
        ConfigError: If "base" was asked for and there is no bundle, or it has no policy.
        CheckpointError: If the bundle cannot be read.
    """
    text = os.fspath(name)
    if text == "base":
        found = _bundle(task, bundle)
        if found.policy is None:
            raise ConfigError(f"the bundle {found.path} holds no base policy: train one with `rise train policy`")
        return str(found.policy)
    path = Path(text)
    if (path / "model" / CONFIG).is_file():
        return str(path / "model")
    return text if path.exists() or "/" in text else None


def resolve_policy(
    name: PolicyName, *, task: str | None = None, bundle: BundleSource = None, device: str | torch.device = "cpu"
) -> Policy:
    """The trained policy of a name; arguments as for `find_policy`, and where to put the weights.

    Raises:
        ConfigError: If there is no such trained policy.
        CheckpointError: If it cannot be read.
    """
    path = find_policy(name, task, bundle)
    if path is None:
        raise ConfigError(
            f"policy {os.fspath(name)!r}: there is no such trained policy. Give 'base' (the bundle's), a run folder, a "
            "checkpoint directory or a Hub id; scripted ones see the ground truth and live in the work cell"
        )
    return load_policy(path, device=device)


def resolve_actor(
    name: PolicyName,
    *,
    task: str | None = None,
    bundle: BundleSource = None,
    device: str | torch.device = "cpu",
    advantage: str | None = None,
    guidance: float | None = None,
    steps: int | None = None,
    noise_scale: float | None = None,
    best_of: int | None = None,
) -> ActorSource:
    """What acts under a name: an actor, or for a scripted policy a function that finds it in the environments.

    The name is as for `find_policy`, or that of a scripted policy ("expert", "operator", "random", ...). `advantage` is
    what a trained policy is asked for (`policies.loading.advantage_bin_of`), the best when None. With `best_of` so many
    proposals are imagined by the bundle's world model, and the best is taken (`BestOfN`). The other arguments are as
    for `resolve_policy` and `PolicyActor`.

    Raises:
        ConfigError: If there is no such policy, or options are given to a scripted one.
        CheckpointError: If it cannot be read.
    """
    if find_policy(name, task, bundle) is None:
        scripted = os.fspath(name)
        given = {"advantage": advantage, "guidance": guidance, "steps": steps, "noise_scale": noise_scale,
                 "best_of": best_of}  # fmt: skip
        if useless := [option for option, value in given.items() if value is not None]:
            raise ConfigError(f"policy {scripted!r} is scripted: it takes no {', '.join(useless)}")
        return lambda envs: scripted_actor(scripted, envs)
    policy = resolve_policy(name, task=task, bundle=bundle, device=device)
    asked = advantage_bin_of(policy, advantage or "best")
    if best_of is None:
        return PolicyActor(policy, asked, guidance, steps, noise_scale)
    from rise_agents.algorithms.best_of_n import BestOfN

    model = _bundle(task or policy.spec.name, bundle).world_model(device=device)
    return BestOfN(policy, model, best_of, asked, guidance, steps, 1.0 if noise_scale is None else noise_scale)


def task_of(env_id: str) -> str | None:
    """Task of an environment id; None where the id leaves that open.

    Raises:
        ConfigError: If there is no such id.
    """
    try:
        return gymnasium.spec(env_id).kwargs.get("task")
    except gymnasium.error.Error as error:
        raise ConfigError(f"unknown environment id {env_id!r}: {error}") from error


def _bundle(task: str | None, bundle: BundleSource) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    if bundle is None and task is None:
        raise ConfigError("policy 'base' is that of a bundle: say which task's, or give a bundle")
    return load_bundle(find_bundle(task or "") if bundle is None else Path(bundle))
