"""FSDP2: weights, gradients and moments of the optimiser divided among processes, by torch's `fully_shard`.

Files hold everything whole, as those of a process that trains alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

__all__ = ["Shards", "shard"]


def shard(root: nn.Module, size: int, device: torch.device) -> FSDPModule:
    """Divide a module, in place, among `size` processes: every layer of a `ModuleList` by itself, then the rest.

    A layer is whole while its `forward` runs, and not otherwise.
    """
    mesh: Any = init_device_mesh(device.type, (size,))
    lists = [module for module in root.modules() if isinstance(module, nn.ModuleList)]
    layers = [layer for one in lists for layer in one if not isinstance(layer, nn.ModuleList)]
    for layer in reversed(layers):
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(root, mesh=mesh)


class Shards:
    """What this process has of a module that `shard` divided, and of the average of its weights.

    Args:
        module: The module.
        average: The whole of its average; goes to the CPU, and is up to date after `gather`.
        trained: Which of its parameters are trained.
    """

    def __init__(self, module: nn.Module, average: nn.Module, trained: list[bool]) -> None:
        self._module, self._average, self._trained = module, average, trained
        self._device = next(average.parameters()).device
        whole = average.state_dict()
        self._mine = {name: _part(whole[name], like) for name, like in module.state_dict().items()}
        average.to("cpu")

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """What this process has of averaged weights and of present ones."""
        return [(_local(self._mine[name]), _local(now)) for name, now in self._module.state_dict().items()]

    def gather(self) -> None:
        """Make the average whole; all processes take part."""
        whole = self._average.state_dict()
        for name, mine in self._mine.items():
            whole[name].copy_(self.whole(mine))

    def weights(self) -> dict[str, Tensor]:
        """Present weights as a whole; all processes take part."""
        return {name: self.whole(value) for name, value in self._module.state_dict().items()}

    def take(self, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Load the state of an optimiser of whole weights."""
        parameters = [one for group in optimiser.param_groups for one in group["params"]]
        parts = {number: {name: _part(value, parameters[number]) if value.dim() else value
                          for name, value in values.items()} for number, values in state["state"].items()}  # fmt: skip
        optimiser.load_state_dict({**state, "state": parts})

    @staticmethod
    def whole(value: Tensor) -> Tensor:
        """A tensor that may be divided as a whole; all processes take part."""
        return value.full_tensor() if isinstance(value, DTensor) else value

    def on_cpu(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state with whole tensors, on the CPU; all processes take part."""
        found: dict[str, Any] = tree_map(
            lambda value: self.whole(value).cpu() if isinstance(value, Tensor) else value, dict(state)
        )
        return found

    def end(self) -> None:
        """Put module and average where they were, whole, with the weights that they have; all processes take part."""
        weights = self.weights()
        self._average.to(self._device)
        plain = copy.deepcopy(self._average).train(self._module.training)
        plain.load_state_dict(weights)
        for parameter, trained in zip(plain.parameters(), self._trained, strict=True):
            parameter.requires_grad_(trained)
        vars(self._module).update(vars(plain))


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of what all of them have whole."""
    if not isinstance(like, DTensor):
        return value.clone()
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
