"""A learner on several places of Ray: what is told to them, and how one that is lost is replaced."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError

from rise_agents.algorithms.learner import FlowMatchingAlgorithm
from rise_agents.policies.loading import load_policy
from rise_agents.progress import say
from rise_agents.training.cluster.remote import Files, files_of, on_one_core, result_of, unpacked
from rise_agents.training.cluster.replicas import LostError, Recipe, SharedGradients, lead

__all__ = ["Learners"]

#: How long the places wait for each other: one that is cut off without a word is given up after that.
_PATIENCE = timedelta(minutes=10)
#: How often places are begun on before the loss of a worker is raised.
_ATTEMPTS = 3


class Learners:
    """The places of a learner besides this process, and what they are told.

    Args:
        spawn: Starts workers of a class, one on every place.
        end: Ends workers.
        algorithm: That of this process, restored.
        recipe: Of the same on other places.
        budget: Chunks in all.
        cuda: Whether the places are GPUs.
    """

    def __init__(
        self,
        spawn: Callable[..., list[Any]],
        end: Callable[[Sequence[Any]], None],
        algorithm: FlowMatchingAlgorithm[Any, Any],
        recipe: Recipe,
        budget: int,
        cuda: bool,
    ) -> None:
        self._spawn, self._end, self._algorithm, self._budget = spawn, end, algorithm, budget
        self._backend, self._recipe = "nccl" if cuda else "gloo", ray.put(recipe)
        self._workers: list[Any] = []
        lead(algorithm, self._tell)
        self._assemble()

    def renew(self) -> None:
        """Begin anew with all places, from the present state, if one was lost; to be called between two rounds."""
        if self._lost:
            self._end(self._workers)
            torch.distributed.destroy_process_group()
            self._assemble()

    def _assemble(self) -> None:
        """Begin on all places; again where Ray had yet to notice that the machine of one is gone.

        A connection breaks at once, Ray misses a machine only after some heartbeats, and until then starts workers on
        it. Their end is how it tells, and the next ones are started elsewhere.
        """
        for attempt in range(_ATTEMPTS):
            self._lost, self._workers = False, self._spawn(_LearnerWorker, self._recipe)
            try:
                return self._begin()
            except RayActorError:
                self._end(self._workers)
                if attempt == _ATTEMPTS - 1:
                    raise

    def _begin(self) -> None:
        size = 1 + len(self._workers)
        address = ray.util.get_node_ip_address()
        store = _meeting(address, 0, size, first=True)
        with tempfile.TemporaryDirectory() as folder:
            self._algorithm.save(folder)
            state = ray.put(files_of(Path(folder)))
        about = self._backend, size, address, store.port
        for reference in [
            worker.learn.remote(rank, *about, state, self._budget) for rank, worker in enumerate(self._workers, 1)
        ]:
            if isinstance(failed := result_of(reference), Exception):
                raise failed
        self._algorithm.learner.sharing = _join(self._backend, store, 0, size, self._on_lost)

    def _tell(self, name: str, result: Any) -> None:
        told = ray.put((name, result))
        for worker in self._workers:
            worker.tell.remote(told)

    def _on_lost(self) -> None:
        """Raise what went wrong on another place, unless it is just gone."""
        self._lost = True
        for worker in self._workers:
            try:
                failed = ray.get(worker.failure.remote(), timeout=10)
            except (RayActorError, GetTimeoutError):
                continue
            if failed is not None:
                raise failed
        say(
            f"WARNING: one of {1 + len(self._workers)} places of the learner was lost: the first computes its share to "
            "the end of the round, then all begin again from there"
        )


class _LearnerWorker:
    """A learner on one place: tells and questions are answered while it learns in a thread."""

    def __init__(self, device: str, recipe: Recipe) -> None:
        on_one_core(device)
        self._device, self._recipe = device, recipe
        self._told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._failure: BaseException | None = None

    def learn(
        self, rank: int, backend: str, size: int, address: str, port: int, state: Files, budget: int
    ) -> None:  # fmt: skip
        """Begin to learn from a state on."""
        if self._device != "cpu":
            torch.cuda.set_device(self._device)
        with tempfile.TemporaryDirectory() as folder:
            policy = load_policy(unpacked(state, Path(folder)) / "model", device=self._device)
            self._recipe.env.listen(self._told)
            algorithm = self._recipe.make(policy)
            algorithm.restore(folder)

        def work() -> None:
            try:
                store = _meeting(address, port, size)
                algorithm.learner.sharing = _join(backend, store, rank, size)
                algorithm.learn(budget - algorithm.spent, reset_num_timesteps=False)
            except LostError:
                pass  # the first place is gone, or begins again without this one
            except BaseException as error:  # noqa: BLE001  (raised by the first place, which asks for it)
                self._failure = error
                torch.distributed.destroy_process_group()  # or the others would wait

        threading.Thread(target=work, daemon=True).start()

    def tell(self, told: tuple[str, Any]) -> None:
        """What the environment or the proposer answered on the first place."""
        self._told.put(told)

    def failure(self) -> BaseException | None:
        """What ended the learning, if something did."""
        return self._failure


def _meeting(address: str, port: int, size: int, first: bool = False) -> Any:
    """Where the places of a learner find each other."""
    store: Any = torch.distributed.TCPStore  # type: ignore[attr-defined]
    return store(address, port, size, is_master=first, wait_for_workers=False, timeout=_PATIENCE)


def _join(
    backend: str, store: Any, rank: int, size: int, on_lost: Callable[[], None] = lambda: None
) -> SharedGradients:
    torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    return SharedGradients(rank, size, torch.distributed.all_reduce, on_lost)
