"""Many work cells at once: `gym.make_vec("RISE-BrickSorting-Cell-v0", num_envs=...)`."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import weakref
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.arguments import autoreset_mode as parse_mode
from rise_env.envs.arguments import mask_of, options_of, real_numbers, seeds_of
from rise_env.errors import ActionError, ConfigError, RiseError, requirement
from rise_env.spaces import action_space, check_lags, observation_space
from rise_robot.cell.config import cell_overrides, load_cell
from rise_robot.cell.task import make_cell_task
from rise_robot.cell.worker import CellSlice, Slots, spawn

__all__ = ["CellVectorEnv", "merge_infos"]

type Arrays = dict[str, np.ndarray]
type Info = dict[str, Any]
type Seeds = int | Sequence[int | None] | None


class CellVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """`num_envs` work cells over a few processes.

    Spaces, rewards, ends and infos are those of `CellEnv`, batched as Gymnasium does it; environment i behaves exactly
    as `CellEnv` with the same seed. Every step returns fresh arrays.

    Args:
        num_envs: Number of cells.
        num_workers: Processes to use: 0 runs all cells in this process, None takes one per core and none where there
            is only one cell or core.
        autoreset_mode: "next_step", "same_step" or "disabled" (https://farama.org/Vector-Autoreset-Mode).
        render_mode: None or "rgb_array".
        **kwargs: Arguments of `CellEnv`.

    Raises:
        ConfigError: If an argument or the configuration is wrong.
    """

    def __init__(
        self,
        num_envs: int = 1,
        num_workers: int | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        require = requirement("work cells")
        require.whole(1, num_envs=num_envs)
        require.whole(0, num_workers=num_workers)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode {render_mode!r} does not show several cells; use 'rgb_array' or None")
        mode = parse_mode(autoreset_mode)
        overrides = cell_overrides(*(kwargs.get(k) for k in ("difficulty", "execute", "image_size", "variation")))
        chosen = {key: kwargs[key] for key in ("task", "preset") if key in kwargs}
        self.task, cell_config = load_cell(**chosen, overrides=[*overrides, *kwargs.get("overrides", ())])
        #: Names that `scripted_chunks` takes.
        self.scripted_policies = make_cell_task(self.task.name, cell_config.ranges).scripted_policies
        self.num_envs = num_envs
        self.render_mode, self.output = render_mode, "numpy"
        self.lags = (0, *check_lags(self.task, kwargs.get("observation_lags", ()), imagined=False))
        self.single_observation_space = observation_space(self.task, kwargs.get("observation_lags", ()))
        self.single_action_space = action_space(self.task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = mode
        fps = max(1, self.task.fps // self.task.execute)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps, "autoreset_mode": mode}
        self._done = np.zeros(num_envs, bool)

        env_kwargs = {**kwargs, "render_mode": render_mode}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(num_envs, cores) if num_workers is None else min(num_workers, num_envs)
        if workers < 2 and num_workers in (None, 0):
            self._backend: CellSlice | _Workers = CellSlice(num_envs, env_kwargs, mode, copy=True)
        else:
            self._backend = _Workers(num_envs, workers, env_kwargs, mode, self.single_observation_space)

    def reset(self, *, seed: Seeds = None, options: Info | None = None) -> tuple[Arrays, Info]:
        """Reset all cells, or those of `options["reset_mask"]`; ConfigError if seeds or mask do not fit the number of
        cells.

        Args:
            seed: One seed per cell, or an int s that gives cell i the seed s + i.
            options: `reset_mask`, bool (num_envs,) with at least one True; other keys are ignored, nothing is changed.
        """
        seeds = seeds_of(seed, self.num_envs)
        mask = mask_of(options_of(options).get("reset_mask"), self.num_envs)
        self._done = self._done & ~mask
        return self._backend.reset(seed=seeds, options={"reset_mask": mask})

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Run a chunk in every cell.

        Args:
            actions: (num_envs, chunk, D) absolute joint targets, rad and m.

        Raises:
            ActionError: If the actions have the wrong shape or are not finite; nothing moves in any cell.
            RiseError: In autoreset mode "disabled", if an episode has ended and was not reset.
        """
        actions = real_numbers(actions)
        expected = self.action_space.shape
        if actions.shape != expected:
            raise ActionError(f"actions have shape {actions.shape}, expected {expected} (num_envs, chunk, joints)")
        running = ~self._done if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.ones_like(self._done)
        if not np.isfinite(actions[running]).all():
            bad = [int(i) for i in np.flatnonzero(running) if not np.isfinite(actions[i]).all()]
            raise ActionError(f"actions of environments {bad} are not finite (NaN or infinity); nothing was executed")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._done.any():
            ended = np.flatnonzero(self._done).tolist()
            raise RiseError(
                f"the episodes of environments {ended} have ended: reset them first with "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        observation, rewards, terminated, truncated, infos = self._backend.step(actions)
        over = terminated | truncated
        self._done = np.zeros_like(over) if self.autoreset_mode == AutoresetMode.SAME_STEP else over
        return observation, rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One uint8 (H, W, 3) picture per cell."""
        return self.call("picture") if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the worker processes."""
        self._backend.close()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every cell's `CellEnv`, or read an attribute; one result per cell."""
        return self._backend.call_each(name, [args] * self.num_envs, **kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every cell's `CellEnv`."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every cell's `CellEnv`; a list or tuple holds one value per cell."""
        if not isinstance(values, list | tuple):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ConfigError(f"got {len(values)} values for {self.num_envs} environments")
        self._backend.call_each("__setattr__", [(name, value) for value in values])

    def scripted_chunks(self, name: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Action chunks of a scripted policy, float32 (num_envs, chunk, D); see `CellEnv.scripted_chunk`."""
        chosen = [0] * self.num_envs if seeds is None else seeds
        return np.stack(self._backend.call_each("scripted_chunk", [(name, int(seed)) for seed in chosen]))

    def true_advantages(self, chunks: np.ndarray) -> np.ndarray:
        """What chunks (num_envs, G, chunk, D) gain in every cell, float32 (num_envs, G); see `CellEnv.true_advantages`.

        Zero in cells whose episode has ended.
        """
        found = np.zeros(chunks.shape[:2], np.float32)
        for i, gained in enumerate(self._backend.call_each("true_advantages", [(part,) for part in chunks])):
            found[i] = 0.0 if self._done[i] else gained
        return found

    def supervised_chunks(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is to be run in place of chunks (num_envs, chunk, D); and where it is the expert's, bool (num_envs,).

        See `CellEnv.supervised_chunk`.
        """
        found = self._backend.call_each("supervised_chunk", [(chunk,) for chunk in chunks])
        run, taken = zip(*found, strict=True)
        return np.stack(run), np.array(taken)


class _Workers:
    """Cells over processes, see `rise_robot.cell.worker`; has the methods of a `CellSlice`."""

    def __init__(
        self, num_envs: int, workers: int, kwargs: Info, mode: AutoresetMode, space: gymnasium.spaces.Dict
    ) -> None:
        bounds = np.linspace(0, num_envs, workers + 1).round().astype(int).tolist()
        self._slices = [slice(first, end) for first, end in itertools.pairwise(bounds)]
        self.sizes = [rows.stop - rows.start for rows in self._slices]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pipes: list[Connection] = []
        self._slots: list[Slots] = []  # one, once the workers have started
        # Runs at close, at the end of the program, or when nobody needs this any more, whichever comes first.
        self._shut_down = weakref.finalize(self, _shut_down, self._pipes, self._processes, self._slots)
        try:
            for rows in self._slices:
                process, pipe = spawn("rise_robot.cell.worker")
                self._processes.append(process)
                self._pipes.append(pipe)
                pipe.send((rows, num_envs, kwargs, mode.value))
            self._gather(range(workers))
            self._slots.append(Slots(space, num_envs))
            self._exchange(dict.fromkeys(range(workers), self._slots[0].memory.name))
        except BaseException:
            self.close()
            raise

    def _exchange(self, messages: Mapping[int, Any]) -> list[Any]:
        """Send messages to workers, by number, and gather their answers."""
        if not self._pipes:
            raise RiseError("the environment is closed")
        for index, message in messages.items():
            # Whoever is gone is found out, and told, where its answer is missing.
            with contextlib.suppress(ConnectionError):
                self._pipes[index].send(message)
        return self._gather(messages)

    def _gather(self, indices: Iterable[int]) -> list[Any]:
        """One answer of each of these workers; the first failure is raised once all have answered."""
        results, failure = [], None
        for index in indices:
            try:
                status, value = self._pipes[index].recv()
            except (EOFError, ConnectionError):
                code = self._processes[index].wait()
                failure = failure or RiseError(
                    f"worker process {index} of the cell ended with exit code {code}; its messages are above. "
                    "num_workers=0 runs all cells in this process, which shows the error itself."
                )
                continue
            if status == "error" and failure is None:
                failure, trace = value
                failure.add_note(f"In a worker process:\n{trace}")
            results.append(value)
        if failure is not None:
            raise failure
        return results

    def _all(self, command: str, arguments: Sequence[Any]) -> list[Any]:
        return self._exchange({index: (command, argument) for index, argument in enumerate(arguments)})

    def reset(self, seed: list[int | None], options: Info) -> tuple[Arrays, Info]:
        mask, messages = options["reset_mask"], {}
        for index, rows in enumerate(self._slices):
            if mask[rows].any():  # Gymnasium wants at least one
                messages[index] = ("reset", {"seed": seed[rows], "options": {"reset_mask": mask[rows]}})
        infos: list[dict[str, Any]] = [{} for _ in self.sizes]
        for index, answer in zip(messages, self._exchange(messages), strict=True):
            (infos[index],) = answer
        return self._slots[0].read(), merge_infos(infos, self.sizes)

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        answers = self._all("step", [actions[rows] for rows in self._slices])
        *arrays, infos = zip(*answers, strict=True)
        return self._slots[0].read(), *(np.concatenate(parts) for parts in arrays), merge_infos(infos, self.sizes)

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]], **kwargs: Any) -> tuple[Any, ...]:
        answers = self._all("call_each", [(name, arguments[rows], kwargs) for rows in self._slices])
        return tuple(itertools.chain.from_iterable(answers))

    def close(self) -> None:
        self._shut_down()


def _shut_down(pipes: list[Connection], processes: list[subprocess.Popen[bytes]], slots: list[Slots]) -> None:
    """End the workers, by force where they do not listen, and remove the shared memory."""
    for pipe in pipes:
        with contextlib.suppress(OSError):  # that worker is gone already
            pipe.send(("close", None))
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in pipes:
        pipe.close()
    for block in slots:
        block.close(remove=True)
    for parts in (pipes, processes, slots):
        parts.clear()


def merge_infos(parts: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Join vector infos (arrays with `_key` masks, possibly nested) of consecutive groups of environments.

    Args:
        parts: One vector info per group.
        sizes: Number of environments per group.

    Returns:
        The vector info of all environments; entries a group lacks are zero (None in object arrays) and masked out.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part.get(key) for part in parts]
        known = next(value for value in values if value is not None)
        if isinstance(known, dict):
            merged[key] = merge_infos([value or {} for value in values], sizes)
            continue
        filled = [
            np.full(size, None, object) if value is None and known.dtype == object
            else np.zeros((size, *known.shape[1:]), known.dtype) if value is None
            else value
            for value, size in zip(values, sizes, strict=True)
        ]  # fmt: skip
        merged[key] = np.concatenate(filled)
    return merged
