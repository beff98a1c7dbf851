"""One process of `CellVectorEnv`: runs a slice of the cells.

Started as `python -m rise_robot.cell.worker FD` with one end of a socket pair, never by forking: a forked OpenGL
context does not work, and a spawned interpreter would run the user's script again. Observations travel through shared
memory, the rest over the socket, which no other process can reach.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.vector_env import AutoresetMode

__all__ = ["CellSlice", "Slots", "main", "spawn"]


class Slots:
    """Batched observations of all environments in one block of shared memory.

    Args:
        space: Single observation space: a flat Dict of Boxes.
        num_envs: Number of environments.
        name: Name of an existing block, or None to create one.
    """

    def __init__(self, space: gymnasium.spaces.Dict, num_envs: int, name: str | None = None) -> None:
        shapes = {key: (num_envs, *box.shape) for key, box in space.items() if box.shape is not None}
        dtypes = {key: np.dtype(box.dtype) for key, box in space.items()}
        sizes = {key: int(np.prod(shape)) * dtypes[key].itemsize for key, shape in shapes.items()}
        offsets, total = {}, 0
        for key, size in sizes.items():
            offsets[key], total = total, total + (size + 63) // 64 * 64
        # The creator removes the block; the workers' resource trackers must not.
        if name is None:
            self.memory = SharedMemory(create=True, size=max(total, 1))
        else:
            self.memory = SharedMemory(name=name)
            resource_tracker.unregister(self.memory._name, "shared_memory")  # type: ignore[attr-defined]
        self.arrays: dict[str, np.ndarray] = {}
        for key, shape in shapes.items():
            self.arrays[key] = np.ndarray(shape, dtypes[key], self.memory.buf, offsets[key])

    def write(self, observation: dict[str, np.ndarray], rows: slice) -> None:
        """Store the observations of some environments."""
        for key, array in self.arrays.items():
            array[rows] = observation[key]

    def read(self) -> dict[str, np.ndarray]:
        """A fresh copy of all observations."""
        return {key: array.copy() for key, array in self.arrays.items()}

    def close(self, *, remove: bool) -> None:
        """Detach, and remove the block where this is its creator."""
        self.arrays.clear()
        self.memory.close()
        if remove:
            self.memory.unlink()


class CellSlice(SyncVectorEnv):
    """The cells of one process, stepped in turn; Gymnasium's own vector environment keeps the autoreset rules."""

    def __init__(self, count: int, kwargs: dict[str, Any], mode: AutoresetMode, copy: bool) -> None:
        from rise_robot.cell.env import CellEnv

        super().__init__([lambda: CellEnv(**kwargs)] * count, copy=copy, autoreset_mode=mode)

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every cell with arguments of its own, or read an attribute."""
        found = [getattr(env, name) for env in self.envs]
        return tuple(f(*args, **kwargs) if callable(f) else f for f, args in zip(found, arguments, strict=True))


def spawn(module: str, **options: Any) -> tuple[subprocess.Popen[bytes], Connection]:
    """Run `python -m module FD`, FD the number of its end of a pair of sockets; returns the process and our end."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", module, str(theirs.fileno())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, **options)
    return process, Connection(ours.detach())


def _serve(connection: Connection) -> None:
    rows, num_envs, kwargs, mode = connection.recv()
    try:
        envs = CellSlice(rows.stop - rows.start, kwargs, AutoresetMode(mode), copy=False)
    except Exception as error:  # noqa: BLE001  (as below)
        connection.send(("error", (error, traceback.format_exc())))
        return
    connection.send(("ok", None))
    name = connection.recv()
    if isinstance(name, tuple):  # "close": another worker could not start
        return
    slots = Slots(envs.single_observation_space, num_envs, name)  # type: ignore[arg-type]
    connection.send(("ok", None))
    while (request := connection.recv())[0] != "close":
        try:
            result = _answer(envs, slots, rows, *request)
        except Exception as error:  # noqa: BLE001  (every failure belongs to the caller: it is raised again there)
            connection.send(("error", (error, traceback.format_exc())))
        else:
            connection.send(("ok", result))
    envs.close()
    slots.close(remove=False)
    connection.send(("ok", None))


def _answer(envs: CellSlice, slots: Slots, rows: slice, command: str, arguments: Any) -> Any:
    if command == "call_each":
        name, each, kwargs = arguments
        return envs.call_each(name, each, **kwargs)
    observation, *rest = envs.reset(**arguments) if command == "reset" else envs.step(arguments)
    slots.write(observation, rows)
    return rest


def main() -> None:
    """Serve until told to close or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes its workers
    connection = Connection(int(sys.argv[1]))
    try:
        _serve(connection)
    except (EOFError, ConnectionError):
        return  # the parent is gone: nobody is left to tell


if __name__ == "__main__":
    main()
