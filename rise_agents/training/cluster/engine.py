"""Workers on Ray: where they run, what they are made of, and how they are asked.

Ray does what it is for: it places the workers, moves weights and observations through its object store, and starts a
worker that died again, on another machine where its own is gone. Every call holds all that its result depends on, so
Ray may repeat it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rise_agents.algorithms.learner import FlowMatchingAlgorithm
from rise_agents.policies.base import Policy
from rise_agents.policies.loading import load_policy
from rise_agents.training.cluster.learners import Learners
from rise_agents.training.cluster.placement import ClusterConfig
from rise_agents.training.cluster.proposers import slices
from rise_agents.training.cluster.remote import Files, files_of, is_gone, on_one_core, result_of, unpacked
from rise_agents.training.cluster.replicas import Recipe, StandIn
from rise_agents.training.cluster.sharded_env import Call, ShardedVectorEnv, ShardWorker
from rise_env.dynamics.settings import VARIABLE
from rise_env.envs.starts import StartStates
from rise_env.errors import ConfigError

__all__ = ["Cluster", "RemoteProposer"]


class Cluster:
    """Places of a Ray cluster, and the workers on them; a context manager that ends the workers.

    Args:
        config: What computes where.
        note: Told what a user may want to know.

    Raises:
        ConfigError: If machines or places are missing.
    """

    def __init__(self, config: ClusterConfig, note: Callable[[str], None] = lambda text: None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._workers, self._started = list[Any](), False
        self._parts: list[Any] = []  # what workers are made of: objects nobody refers to are gone when one is replaced
        if not ray.is_initialized():
            self._started = True
            try:  # a cluster that `ray start` made, else one on this machine alone
                if is_gone():
                    raise ConnectionError
                ray.init(address="auto", logging_level="warning")
            except ConnectionError:
                if config.num_nodes > 1:
                    raise ConfigError(
                        f"no Ray cluster is running, num_nodes is {config.num_nodes}: `ray start --head` here, and "
                        "`ray start --address=HEAD:6379` on the other machines"
                    ) from None
                ray.init(address="local", logging_level="warning", include_dashboard=False)
        places, self._cuda = _places(config)
        self._places = config.places(len(places))
        self._nodes = places
        note(", ".join(f"{name}: {len(numbers)}" for name, numbers in self._places.items())
             + f" of {len(places)} {'GPUs' if self._cuda else 'CPU cores'}")  # fmt: skip

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(list(self._workers))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if self._started:
            ray.shutdown()

    @property
    def device(self) -> str:
        """Where this process learns."""
        return self._nodes[self._places.get("actor", [0])[0]][1]

    def end(self, workers: Sequence[Any]) -> None:
        """End some workers."""
        for worker in workers:
            ray.kill(worker)
            self._workers.remove(worker)

    def environments(self, env: Any, env_id: str, kwargs: Mapping[str, Any], bundle: Path) -> Any:
        """Imagination on the places of "env"; `env` itself where there are none.

        Args:
            env: The same environment in this process.
            env_id: Its id.
            kwargs: Its arguments; `starts` may be `StartStates`.
            bundle: Its bundle, which need not be on the other machines.
        """
        if "env" not in self._places:
            return env
        parts = ray.put(files_of(bundle)), ray.put(_plain(env.starts))
        options = {name: value for name, value in kwargs.items() if name not in ("bundle", "starts", "device")}
        self._parts += parts
        imagine = os.environ.get(VARIABLE, "")  # what `--imagine` said
        workers = self.spawn(self._places["env"], _EnvWorker, *parts, env_id, options, imagine)

        def perform(jobs: Sequence[tuple[int, int, list[Call]]]) -> list[Any]:
            asked = [workers[job[0] % len(workers)].run.remote(*job) for job in jobs]
            return [result_of(one) for one in asked]

        return ShardedVectorEnv(env, env.num_envs, perform)

    def proposer(self, policy: Policy, rows: int) -> RemoteProposer | None:
        """What asks the policies on the places of "rollout", `rows` observations at once; None without such places."""
        if "rollout" not in self._places:
            return None
        with tempfile.TemporaryDirectory() as folder:
            policy.save_pretrained(Path(folder) / "policy")
            files = ray.put(files_of(Path(folder) / "policy"))
        self._parts.append(files)
        return RemoteProposer(self.spawn(self._places["rollout"], _PolicyWorker, files), rows)

    def learners(
        self, algorithm: FlowMatchingAlgorithm[Any, Any], settings: Mapping[str, Any],
        offline: Callable[[StartStates], Any], budget: int,
    ) -> Learners | None:  # fmt: skip
        """Share the updates of an algorithm, which is restored, with the other places of "actor"; None without such.

        Args:
            algorithm: The algorithm.
            settings: What it was made with.
            offline: Makes its recorded chunks on another place, from its start states; is sent there.
            budget: Chunks in all.

        Raises:
            ConfigError: If the shards of a batch cannot be divided by the number of places.
        """
        places = self._places.get("actor", [0])
        if len(places) == 1:
            return None
        if (shards := algorithm.config.num_shards) % len(places):
            raise ConfigError(
                f"{len(places)} learners share the {shards} shards of a batch: set num_shards to a multiple of "
                f"{len(places)} (--set num_shards={len(places)}; another number gives other last digits)"
            )
        starts = _plain(algorithm.env.starts)
        recipe = Recipe(algorithm.name, settings, StandIn(algorithm.env, starts), offline)
        spawn = partial(self.spawn, places[1:], again=False)
        return Learners(spawn, self.end, algorithm, recipe, budget, self._cuda)

    def spawn(self, places: Sequence[int], kind: Any, *args: Any, again: bool = True) -> list[Any]:
        """Workers, one a place; `again`: Ray starts one that died again, and repeats its call."""
        made, often = [], -1 if again else 0
        for place in places:
            node, device = self._nodes[place]
            where = NodeAffinitySchedulingStrategy(node, soft=True)  # soft: elsewhere if that machine is gone
            # Which GPU is this project's business: several components may share one.
            env_vars = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"} if self._cuda else {}
            actor = ray.remote(num_cpus=0, max_restarts=often, max_task_retries=often)(kind)
            options = {"scheduling_strategy": where} | ({"runtime_env": {"env_vars": env_vars}} if env_vars else {})
            made.append(actor.options(**options).remote(device, *args))
        self._workers += made
        return made


class RemoteProposer:
    """Chunks from policies on workers, a fixed number of observations at once, whatever the number of workers.

    Args:
        workers: Ray actors of `_PolicyWorker`.
        rows: Observations at once.
    """

    def __init__(self, workers: Sequence[Any], rows: int) -> None:
        self._workers, self._rows = workers, rows
        self._sent: dict[int, _Sent] = {}

    def __call__(
        self, policy: Policy, observations: Mapping[str, Any], noise: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Chunks as of `Policy.propose`; weights are sent where they have changed since the last call."""
        weights, workers = self._weights(policy), itertools.cycle(self._workers)
        parts = slices(observations, noise, self._rows)
        asked = [next(workers).propose.remote(weights, *part, guidance) for part in parts]
        found = [result_of(one) for one in asked]
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return torch.cat(found)

    def _weights(self, policy: Policy) -> list[Any]:
        """References to all weights as they were first, and to those that have changed since.

        Every change in place counts up a tensor's version.
        """
        state = policy.state_dict()
        versions = {name: (value.data_ptr(), value._version) for name, value in state.items()}
        if id(policy) not in self._sent:
            self._sent[id(policy)] = _Sent(policy, versions, versions, [_put(state), _put({})])
        sent = self._sent[id(policy)]
        if sent.last != versions:
            changed = {name: value for name, value in state.items() if versions[name] != sent.first[name]}
            self._sent[id(policy)] = _Sent(policy, sent.first, versions, [sent.references[0], _put(changed)])
        return self._sent[id(policy)].references


class _Sent(NamedTuple):
    """What workers have of a policy, which is kept, so that its id stays its own."""

    policy: Policy
    first: Mapping[str, tuple[int, int]]
    last: Mapping[str, tuple[int, int]]
    references: list[Any]


def _put(state: Mapping[str, torch.Tensor]) -> Any:
    return ray.put({name: value.detach().to("cpu", copy=True) for name, value in state.items()})


class _EnvWorker(ShardWorker):
    """Imagination on one place."""

    def __init__(
        self, device: str, files: Files, starts: StartStates, env_id: str, kwargs: dict[str, Any], imagine: str
    ) -> None:
        on_one_core(device)
        os.environ[VARIABLE] = imagine
        import rise_env  # noqa: F401  (registers the ids)

        self._folder = tempfile.TemporaryDirectory()
        bundle = unpacked(files, Path(self._folder.name))
        model = None  # shards share one

        def make(size: int) -> Any:
            nonlocal model
            given = {**kwargs, "starts": starts, "bundle": str(bundle)}
            given |= {"device": device} if model is None else {"world_model": model}
            env = gymnasium.make_vec(env_id, num_envs=size, **given).unwrapped
            model = env.world_model  # type: ignore[attr-defined]
            return env

        super().__init__(make)


class _PolicyWorker:
    """A policy on one place."""

    def __init__(self, device: str, files: Files) -> None:
        on_one_core(device)
        with tempfile.TemporaryDirectory() as folder:
            self._policy = load_policy(unpacked(files, Path(folder)), device=device).eval()
        self._loaded: list[Any] = [None, None]

    def propose(
        self, weights: list[Any], observations: dict[str, np.ndarray], noise: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Chunks for some observations, with the weights behind references (in a list, or Ray would fetch them)."""
        for number, (old, new) in enumerate(zip(self._loaded, weights, strict=True)):
            if old != new or self._loaded[0] != weights[0]:
                self._policy.load_state_dict(ray.get(new), strict=not number)
        self._loaded = list(weights)
        return self._policy.propose(self._policy.context_of(observations), noise, guidance)


def _plain(starts: StartStates) -> StartStates:
    """The same, with plain arrays in place of memory-mapped ones: workers of a machine share them in its store."""
    columns = {field.name: getattr(starts, field.name) for field in dataclasses.fields(starts)}
    plain: dict[str, Any] = {
        name: np.array(value) if isinstance(value, np.memmap) else value for name, value in columns.items()
    }
    return StartStates(**plain)


def _places(config: ClusterConfig) -> tuple[list[tuple[str, str]], bool]:
    """Machine and device of every place, this machine's first, and whether they are GPUs."""
    end = time.monotonic() + config.wait_seconds
    while len(nodes := [node for node in ray.nodes() if node["Alive"]]) < config.num_nodes:
        if time.monotonic() > end:
            raise ConfigError(
                f"{len(nodes)} machines after {config.wait_seconds:.0f} s, num_nodes is {config.num_nodes}: run "
                f"`ray start --address={ray.get_runtime_context().gcs_address}` on the others"
            )
        time.sleep(0.5)
    here = ray.get_runtime_context().get_node_id()
    nodes.sort(key=lambda node: (node["NodeID"] != here, node["NodeManagerAddress"], node["NodeManagerPort"]))
    nodes = nodes[: config.num_nodes]
    cuda = any(node["Resources"].get("GPU") for node in nodes)
    found = []
    for node in nodes:
        for number in range(int(node["Resources"].get("GPU" if cuda else "CPU", 0))):
            found.append((node["NodeID"], f"cuda:{number}" if cuda else "cpu"))
    return found, cuda
