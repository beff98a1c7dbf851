"""Several processes that train one model: `accelerate launch ... rise train ...`, through Hugging Face accelerate.

An update consists of `gradient_accumulation_steps` parts, whose random draws depend on the seed, the update and the
part alone. The processes share the parts, and the gradients are summed over all of them; so what is learned does not
depend on the number of processes but for the order of sums, and a run may go on with another number. The first process
alone writes files and speaks.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from rise_env.errors import ConfigError

__all__ = ["Loss", "Team", "team"]

#: Given the number of an update and that of a part of it, the part's loss and its metrics.
type Loss = Callable[[int, int], tuple[torch.Tensor, dict[str, torch.Tensor]]]


class Team:
    """A process that trains alone.

    Attributes:
        rank: Number of this process, 0 for the one that writes and speaks.
        size: Number of processes.
        device: Where this process computes, if the team decides that.
        shards: Whether `join` divides the weights of a module among the processes.
    """

    rank, size = 0, 1
    shards = False
    device: torch.device | None = None

    def share(self, parts: int, setting: str) -> range:
        """Which of the parts of an update this process computes.

        Raises:
            ConfigError: If they cannot be divided evenly; `setting` is named as the remedy.
        """
        if parts % self.size:
            raise ConfigError(
                f"{self.size} processes share the {parts} parts of an update: set {setting} to a multiple of "
                f"{self.size} (the batch is split into so many parts, whatever the number of processes)"
            )
        return range(self.rank, parts, self.size)

    def join(self, module: nn.Module, loss: Loss) -> Loss:
        """The loss of a module's training, whose gradients are averaged over the processes."""
        del module
        return loss

    def quietly(self, loss: Loss) -> contextlib.AbstractContextManager[Any]:
        """Context in which the gradients of a loss of `join` are not exchanged: more parts are to come."""
        del loss
        return contextlib.nullcontext()

    def numbers(self, mine: float) -> list[float]:
        """A number of every process, such as its time, the same list in all of them."""
        return [mine]

    def folder(self, run: Path) -> Path:
        """Where this process writes: the run folder; all but the first write to one of their own, which is not kept.

        That holds the states of an interrupted run, if there is one, to go on from.
        """
        return run


class _Accelerated(Team):
    def __init__(self) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ModuleNotFoundError as error:
            raise ConfigError(
                "this is one of several processes (WORLD_SIZE is set), which need Hugging Face accelerate: "
                "pip install 'rise-robotics[accelerate]'"
            ) from error
        # A value model has heads that the first phase does not train; buffers are the same everywhere.
        exchange = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # while the first one evaluates
        self._accelerator = Accelerator(kwargs_handlers=[exchange, patience])
        kind = str(self._accelerator.distributed_type.value)
        self.shards = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if kind not in ("MULTI_CPU", "MULTI_GPU", "FSDP"):
            raise ConfigError(
                f"accelerate is configured for {kind}: training runs as MULTI_GPU or MULTI_CPU (DDP), or FSDP here"
            )
        if self.shards and (version := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ConfigError(f"accelerate is configured for FSDP {version}: training runs with --fsdp_version 2 here")
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes
        self.device = self._accelerator.device

    def join(self, module: nn.Module, loss: Loss) -> Loss:
        parts: Any = _Parts(module, loss)
        if not self.shards:
            parts = self._accelerator.prepare_model(parts)
            return cast(Loss, parts)
        from rise_env.training.sharding import shard

        shard(parts, self.size, self._accelerator.device)

        def joined(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            with self._accelerator.autocast():
                return cast(Loss, parts)(step, part)

        self._parts = parts
        return joined

    def quietly(self, loss: Loss) -> contextlib.AbstractContextManager[Any]:
        if self.shards:
            return self._unexchanged()
        context: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(loss)
        return context

    @contextlib.contextmanager
    def _unexchanged(self) -> Iterator[None]:
        self._parts.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._parts.set_requires_gradient_sync(True)

    def numbers(self, mine: float) -> list[float]:
        own = torch.tensor([mine], dtype=torch.float64, device=self.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(found, own)
        return [float(one) for one in found]

    def folder(self, run: Path) -> Path:
        if not self.rank:
            return run
        self._scratch = tempfile.TemporaryDirectory(prefix="rise-")
        for state in run.glob("*_state.pt"):
            (Path(self._scratch.name) / state.name).symlink_to(state.resolve())
        return Path(self._scratch.name)


class _Parts(nn.Module):
    """A loss as the `forward` of a module: what is called through it is exchanged between processes."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module, self._loss = module, loss

    def forward(self, step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._loss(step, part)


_alone = Team()
_several: Team | None = None


def team() -> Team:
    """The processes that this one trains with, as its launcher says (WORLD_SIZE); most often it is alone.

    Raises:
        ConfigError: If there are several, and accelerate is missing or configured for something else.
    """
    global _several
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _alone
    _several = _several or _Accelerated()
    return _several
