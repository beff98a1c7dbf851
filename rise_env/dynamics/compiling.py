"""torch.compile in imagination: announced before it takes its time; where it fails, done without, with a warning."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from rise_env.errors import check_known

__all__ = ["Call", "Compiler", "plain"]

#: How a module is called: module, then its arguments.
type Call = Callable[..., Any]


def plain(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a module as it is."""
    return module(*args, **kwargs)


class Compiler:
    """Calls modules, each of which is compiled at its first call, and once more for other batch sizes.

    With "inductor" on a GPU the kernels of a call are replayed as one CUDA graph. Copies (`copy.deepcopy`, pickles)
    begin with nothing compiled: they belong to other weights.

    Args:
        backend: One of torch's (`torch.compiler.list_backends(exclude_tags=())`), or None to compile nothing.

    Raises:
        ConfigError: If there is no such backend.
    """

    def __init__(self, backend: str | None = None) -> None:
        if backend is not None:
            check_known("backend of torch.compile", backend, torch.compiler.list_backends(exclude_tags=()))
        self.backend = backend
        self._parts: dict[tuple[int, str], _Part] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Compiler, (self.backend,)

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Call a module, compiled."""
        if self.backend is None:
            return module(*args, **kwargs)
        first = next(one for one in tree_leaves(args) if isinstance(one, Tensor))
        key = id(module), first.device.type
        with self._lock:  # compiling is not for several threads at once
            if key not in self._parts:
                self._parts[key] = _Part(module, self.backend, first.device)
            return self._parts[key](len(first), args, kwargs)


class _Part:
    """One module, compiled."""

    def __init__(self, module: nn.Module, backend: str, device: torch.device) -> None:
        self._module, self._name = module, type(module).__name__
        self._graphs = backend == "inductor" and device.type == "cuda"
        self._how = f"{backend} and CUDA graphs" if self._graphs else backend
        options: dict[str, Any] = {"mode": "reduce-overhead"} if self._graphs else {}
        self._compiled: Callable[..., Any] | None = torch.compile(module, backend=backend, **options)
        self._sizes: set[int] = set()

    def __call__(self, size: int, args: Any, kwargs: Any) -> Any:
        if self._compiled is None:
            return self._module(*args, **kwargs)
        # torch compiles for the first size, then for any other; a batch of one is always a case of its own.
        news = size not in self._sizes and (size == 1 or len(self._sizes - {1}) < 2)
        self._sizes.add(size)
        begin = time.perf_counter()
        if news:
            tqdm.write(f"compiling {self._name} for a batch of {size} ({self._how}) ...", file=sys.stderr)
        try:
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            result = self._compiled(*args, **kwargs)
            if self._graphs:  # the next replay writes over what this one returned
                result = tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, result)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (backends fail in many ways)
            result = self._module(*args, **kwargs)  # where the call itself is wrong, it says so here
            self._compiled = None
            error = getattr(error, "inner_exception", error)  # dynamo wraps what a backend raises
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            warnings.warn(
                f"{self._name} could not be compiled ({self._how}) and is computed without, slower but alike: "
                f"{type(error).__name__}: {reason:.300}. inductor needs a C++ compiler, and Triton on a GPU; "
                "dynamics.compile=false (--imagine compile=false) does without from the start.",
                stacklevel=2,
            )
            return result
        if news:
            tqdm.write(f"{self._name}: ready after {time.perf_counter() - begin:.1f} s", file=sys.stderr)
        return result
