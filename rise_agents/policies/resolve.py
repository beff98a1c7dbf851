"""What a policy name on the command line stands for: the one place that decides."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

import rise_env  # noqa: F401  (registers the environments)
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.lerobot_files import find_lerobot, lerobot_config
from rise_agents.policies.loading import advantage_bin_of, load_policy
from rise_agents.policies.scripted import scripted_actor
from rise_env.acting import Actor, ActorSource
from rise_env.bundle import MANIFEST, Bundle, find_bundle, load_bundle
from rise_env.errors import CheckpointError, ConfigError
from rise_env.hub import hub_id
from rise_env.pretrained import CONFIG, local_directory
from rise_env.tasks import TaskSpec

__all__ = [
    "LeRobotSource",
    "find_policy",
    "lerobot_source",
    "record_name",
    "resolve_actor",
    "resolve_policy",
    "takes_any_task",
    "task_of",
]

_NAMED = "base:"  # begins the names of a bundle's other policies
#: Folders that have the same name in every run.
_EVERYWHERE = {"model", "policy", "checkpoints", "last", "pretrained_model"}

type PolicyName = str | os.PathLike[str]
type BundleSource = Bundle | PolicyName | None


def find_policy(name: PolicyName, task: str | None = None, bundle: BundleSource = None) -> str | None:
    """Where a trained policy lies.

    Args:
        name: "base" for the policy of a bundle, "base:NAME" for another of its policies; a run folder (its `model/` is
            taken, or of lerobot-train the last checkpoint's `pretrained_model/`), a checkpoint directory, or a
            repository on the Hugging Face Hub (`owner/name`, `owner/name@revision`), which is fetched: a policy's, or a
            bundle's with one.
        task: Task whose shipped bundle "base" is taken from, unless a bundle is given.
        bundle: Bundle that "base" is taken from, or its directory.

    Returns:
        Directory; None if `name` looks like none, and may be the name of a scripted policy.

    Raises:
        ConfigError: If "base" was asked for and there is no bundle, or it has no policy.
        CheckpointError: If the bundle cannot be read, or the Hub has no such repository.
    """
    text = os.fspath(name)
    if text == "base" or text.startswith(_NAMED):
        return _policy_of(_bundle(task, bundle), text.removeprefix("base").removeprefix(":"))
    path = Path(text)
    if not path.exists() and "/" in text:
        path = local_directory(text, "policy", (), (CONFIG, MANIFEST))  # what it is, before weights are fetched
        if not (path / MANIFEST).is_file():
            return str(local_directory(text, "policy"))
        return _policy_of(load_bundle(text))
    if (path / "model" / CONFIG).is_file():
        return str(path / "model")
    if lerobot := find_lerobot(path):
        return str(lerobot)
    if (path / MANIFEST).is_file():
        return _policy_of(load_bundle(path))
    return text if path.exists() else None


def record_name(name: str) -> str:
    """What episodes of a trained policy are recorded under: "policy-" and its run, with the number of a checkpoint.

    The policy of a bundle is "base", as in the recordings that demo and comparisons make.

    Example:
        >>> record_name("runs/rise/model"), record_name("outputs/act/checkpoints/000100/pretrained_model")
        ('policy-rise', 'policy-act-000100')
    """
    if name == "base" or name.startswith(_NAMED):
        return name.replace(":", "-")
    if not Path(name).exists() and (hub := hub_id(name)):
        return "-".join(["policy", hub.repo.partition("/")[2], *(hub.revision or "").split("/")]).rstrip("-")
    folder = Path(find_policy(name) or name).resolve()
    parts = [part for part in folder.parts if part not in _EVERYWHERE] or [folder.name]
    return "-".join(["policy", *parts[-2 if parts[-1].isdecimal() else -1 :]])


@dataclass(frozen=True)
class LeRobotSource:
    """A policy that lerobot-train wrote, until the task of the environment it acts in is known: an `ActorSource`.

    Attributes:
        folder: Its checkpoint.
        device: Where to put the weights.
        lags: Past observations that it reads, in control steps.
        acting: Makes it an actor once it is taken over for training; None for the policy as LeRobot runs it.
    """

    folder: Path
    device: str | torch.device
    lags: tuple[int, ...]
    acting: Callable[[Policy], Actor] | None = None

    def __call__(self, envs: gymnasium.vector.VectorEnv) -> Actor:
        """The policy, for the task of a vector environment."""
        core: Any = envs.unwrapped
        return self.load(core.task)

    def load(self, spec: TaskSpec) -> Any:
        """The policy, for a task: a `LeRobotBase`, or what `acting` makes of it; errors as of these."""
        from rise_agents.policies.lerobot_base import LeRobotBase  # imports LeRobot, which takes seconds
        from rise_agents.policies.taking_over import take_over

        if self.acting is not None:
            return self.acting(take_over(self.folder, spec, self.device))
        return LeRobotBase.from_pretrained(self.folder, spec, device=self.device)


def lerobot_source(path: str | Path, device: str | torch.device = "cpu") -> LeRobotSource | None:
    """The policy of LeRobot in a directory, None if it is another's.

    Raises:
        CheckpointError: If its number of observations is damaged.
    """
    folder = find_lerobot(path)
    if folder is None:
        return None
    steps = (lerobot_config(folder) or {}).get("n_obs_steps", 1)
    if type(steps) is not int or not 1 <= steps <= 1000:
        raise CheckpointError(f"{folder / CONFIG}: n_obs_steps is {steps!r}, expected a whole number from 1")
    return LeRobotSource(folder, device, tuple(range(1, steps)))


def takes_any_task(name: PolicyName) -> bool:
    """Whether a policy's task is that of whatever it is used with: "base", and policies of LeRobot."""
    if os.fspath(name) == "base" or os.fspath(name).startswith(_NAMED):
        return True
    path = find_policy(name)
    return path is not None and lerobot_source(path) is not None


@dataclass(frozen=True)
class _Judged:
    """An `ActorSource` whose actor is known in its environments only; `lags` as of `Actor`."""

    lags: tuple[int, ...]
    make: Callable[[Any], Actor]

    def __call__(self, envs: Any) -> Actor:
        return self.make(envs)


def resolve_policy(
    name: PolicyName,
    *,
    task: str | None = None,
    bundle: BundleSource = None,
    spec: TaskSpec | None = None,
    device: str | torch.device = "cpu",
) -> Policy:
    """The trained policy of a name; a policy of LeRobot is taken over, if it can be trained here.

    Args:
        name: As for `find_policy`.
        task: As for `find_policy`.
        bundle: As for `find_policy`.
        spec: Task that a policy of LeRobot is for; that of the bundle when None.
        device: Where to put the weights.

    Raises:
        ConfigError: If there is no such trained policy, or one of LeRobot does not fit the task.
        CheckpointError: If it cannot be read.
    """
    path = find_policy(name, task, bundle)
    if path is None:
        raise ConfigError(
            f"policy {os.fspath(name)!r}: there is no such trained policy. Give 'base' (the bundle's), a run folder, a "
            "checkpoint directory or a Hub id; scripted ones see the ground truth and live in the work cell"
        )
    if (source := lerobot_source(path, device)) is not None:
        from rise_agents.policies.taking_over import take_over

        return take_over(source.folder, spec or _bundle(task, bundle).spec, device)
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
    proposals: Sequence[str] | None = None,
    judge: str | None = None,
) -> ActorSource:
    """What acts under a name: an actor, or for a scripted policy a function that finds it in the environments.

    The name is as for `find_policy`, or that of a scripted policy ("expert", "operator", "random", ...). `advantage` is
    what a trained policy is asked for (`policies.loading.advantage_bin_of`), the best when None. With `best_of` so many
    proposals, of some ways of proposing (`algorithms.proposals.PROPOSALS`), are imagined by the bundle's world model,
    or with the `judge` "oracle" run in the cell, and the best is taken (`BestOfN`). A policy of LeRobot acts as
    LeRobot runs it, unless one of these options makes it act as the policy that training would start from. The other
    arguments are as for `resolve_policy` and `PolicyActor`.

    Raises:
        ConfigError: If there is no such policy, or options are given to a scripted one.
        CheckpointError: If it cannot be read.
    """
    path = find_policy(name, task, bundle)
    source = None if path is None else lerobot_source(path, device)

    def choosing(policy: Policy, judge: Any) -> Actor:
        from rise_agents.algorithms.best_of_n import BestOfN

        assert best_of is not None
        asked = advantage_bin_of(policy, advantage or "best")
        scale = 1.0 if noise_scale is None else noise_scale
        return BestOfN(policy, judge, best_of, asked, guidance, steps, scale, proposals or ("policy",))

    def acting(policy: Policy) -> Actor:
        if best_of is not None:
            return choosing(policy, _bundle(task or policy.spec.name, bundle).world_model(device=device))
        return PolicyActor(policy, advantage_bin_of(policy, advantage or "best"), guidance, steps, noise_scale)

    if path is None or source is not None:
        text, kind = os.fspath(name), "scripted" if source is None else "of LeRobot"
        given = {"advantage": advantage, "guidance": guidance, "steps": steps, "noise_scale": noise_scale,
                 "best_of": best_of, "proposals": proposals, "judge": judge}  # fmt: skip
        if useless := [option for option, value in given.items() if value is not None]:
            from rise_agents.policies.taking_over import trainable_types

            if (
                source is not None
                and judge != "oracle"
                and (lerobot_config(source.folder) or {}).get("type") in trainable_types()
            ):
                return dataclasses.replace(source, acting=acting)
            raise ConfigError(f"policy {text!r} is {kind}: it takes no {', '.join(useless)}")
        return source or (lambda envs: scripted_actor(text, envs))
    policy = resolve_policy(name, task=task, bundle=bundle, device=device)
    if judge != "oracle":
        return acting(policy)
    from rise_agents.algorithms.best_of_n import Oracle

    return _Judged(tuple(policy.lags), lambda envs: choosing(policy, Oracle(envs)))


def task_of(env_id: str) -> str | None:
    """Task of an environment id; None where the id leaves that open.

    Raises:
        ConfigError: If there is no such id.
    """
    try:
        return gymnasium.spec(env_id).kwargs.get("task")
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise ConfigError(f"unknown environment id {env_id!r}: {error}") from error


def _policy_of(bundle: Bundle, name: str = "") -> str:
    """Directory of a bundle's policy: its base policy, or another by name."""
    if name:
        found = bundle.policies.get(name)
        if found is None:
            known = ", ".join(f"base:{one}" for one in bundle.policies) or "base alone"
            raise ConfigError(f"the bundle {bundle.path} has no policy 'base:{name}'; it has {known}")
        return str(found)
    if bundle.policy is None:
        raise ConfigError(f"the bundle {bundle.path} holds no base policy: train one with `rise train policy`")
    return str(bundle.policy)


def _bundle(task: str | None, bundle: BundleSource) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    if bundle is None and task is None:
        raise ConfigError("policy 'base' is that of a bundle: say which task's, or give a bundle")
    return load_bundle(find_bundle(task or "") if bundle is None else os.fspath(bundle))
