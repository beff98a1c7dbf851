"""The contract of every algorithm: that of Stable-Baselines3, with imagined chunks as time steps.

An algorithm knows a policy and a vector environment. Budgets, checkpoints, resume, TensorBoard files, films and audits
belong to `rise_agents.training.runner.Runner`. To write one, subclass `Algorithm`, implement `step` and, for exact
resume, `training_state` and `load_training_state`; see docs/add_an_algorithm.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pickle
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch

from rise_agents.policies.base import Policy
from rise_agents.policies.data import ChunkSource
from rise_agents.policies.loading import load_policy
from rise_agents.progress import Bars
from rise_env.config import decode
from rise_env.errors import CheckpointError, ConfigError, requirement
from rise_env.files import atomic_path, to_plain, write_json
from rise_env.threads import single_threaded

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from stable_baselines3.common import logger as sb3

__all__ = ["STATE_FILE", "Algorithm", "AlgorithmConfig", "Phase"]

#: Full training state beside `model/`.
STATE_FILE = "training_state.pt"
_VERSION = 1
#: Bytes from which pictures are compressed in a checkpoint, and the key under which they are.
_PICTURE, _PACKED = 4096, "zlib"


@dataclass(frozen=True)
class AlgorithmConfig:
    """Settings that every algorithm has.

    Attributes:
        seed: Seed of everything random.
    """

    seed: int = 0


class Phase(NamedTuple):
    """Where a run stands, for a progress bar.

    Attributes:
        name: What is being done.
        done: Imagined chunks of this phase so far, or what `unit` says.
        total: The same, of this phase in all.
        unit: What is counted.
    """

    name: str
    done: int
    total: int
    unit: str = "chunks"


class Algorithm[C: AlgorithmConfig](ABC):
    """Improves a policy in a vector environment.

    Args:
        policy: Policy to start from; copied, not changed.
        env: Vector environment: imagination (`RISE-<Task>-v0`), or the oracle in its place; where `needs_cell`, the
            work cell (`RISE-<Task>-Cell-v0`).
        config: Settings; the defaults of `Config` when None.
        offline: Recorded chunks to mix in, for algorithms that use them.

    Attributes:
        name: Name on the command line.
        Config: Dataclass of its settings, a subclass of `AlgorithmConfig`.
        needs_cell: Whether it acts in the task's work cell; its budget is then of control steps there.
        labels_data: Whether it labels recorded data itself, so that `offline` need not come with advantages.
        policy: What acts: `predict` and `save` use it. A subclass keeps it up to date.
        num_timesteps: Imagined chunks so far.
        num_real_steps: Control steps so far outside imagination, in the work cell or on a robot; 0 for most algorithms.
        rounds: Calls of `step` so far.
        metrics: Latest metrics by TensorBoard tag, e.g. "train/loss".
        logger: Logger of Stable-Baselines3 for them; it writes nowhere before `set_logger`.

    Raises:
        ConfigError: If policy, environment and settings do not fit each other.
    """

    name: ClassVar[str]
    Config: ClassVar[Any] = AlgorithmConfig
    needs_cell: ClassVar[bool] = False
    labels_data: ClassVar[bool] = False

    def __init__(
        self, policy: Policy, env: VectorEnv, config: C | None = None, *, offline: ChunkSource | None = None
    ) -> None:
        from stable_baselines3.common.logger import Logger

        self.config: C = config or self.Config()
        requirement(self.name).at_least(0, self.config, "seed")
        self.env: Any = env.unwrapped
        self.offline = offline
        self.policy = policy
        self.num_timesteps, self.num_real_steps, self.rounds = 0, 0, 0
        self.metrics: dict[str, Any] = {}
        self._total_timesteps = 0
        self.logger = Logger(None, [])
        self._noise = torch.Generator().manual_seed(self.config.seed)

    # ------------------------------------------------------------------ what a subclass writes

    @abstractmethod
    def step(self) -> None:
        """Imagine and learn once.

        Must raise `num_timesteps` by the number of imagined chunks (and `num_real_steps`, where it acts in the cell or
        on a robot, by the control steps), and may write `metrics`. Everything random in it
        must depend on `config.seed` and `rounds` alone, so that a resumed run ends where an uninterrupted one does.
        """

    def training_state(self) -> dict[str, Any]:
        """All that `step` depends on besides settings and policy: tensors, arrays, numbers, lists and dicts of them."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (optional: there may be no state)
        """Take over what `training_state` gave; arrays come back as tensors."""

    def close(self) -> None:  # noqa: B027  (optional)
        """Give back threads and the like: called when `learn` ends, after which it may be called again."""

    def phase(self) -> Phase:
        """Where the run stands."""
        if self.needs_cell:
            return Phase("improving in the cell", self.spent, self._total_timesteps, "control steps")
        return Phase("improving in imagination", self.spent, self._total_timesteps)

    @classmethod
    def reads_labels(cls, config: C) -> bool:
        """Whether recorded data need labelled advantages under these settings."""
        del config
        return not cls.labels_data

    @property
    def has_learned(self) -> bool:
        """Whether anything was learned yet; False where all that was spent went into preparations."""
        return self.rounds > 0

    @property
    def spent(self) -> int:
        """What the budget counts: imagined chunks so far, or control steps where `needs_cell`."""
        return self.num_real_steps if self.needs_cell else self.num_timesteps

    @property
    def imagines(self) -> bool:
        """Whether its time steps are imagined chunks; False where it learns from recorded ones alone."""
        return True

    @property
    def progress(self) -> float:
        """Part of the budget of `learn` that is used up, 0 to 1: what schedules follow."""
        return min(self.spent / max(self._total_timesteps, 1), 1.0)

    # ------------------------------------------------------------------ as in Stable-Baselines3

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int = 1,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Improve the policy for a number of imagined chunks, or of control steps where `needs_cell`.

        Torch computes with one thread meanwhile: threads of one operation wait for each other, which is slow beside
        other work, and results would depend on their number.

        Args:
            total_timesteps: How many; with `reset_num_timesteps=False`, in addition to those so far.
            callback: A function that is called with the algorithm after every round, where False stops; or a
                `stable_baselines3.common.callbacks.BaseCallback`.
            log_interval: Rounds between two writes to the logger.
            tb_log_name: Ignored; the folder of TensorBoard is that of the logger.
            reset_num_timesteps: Count from zero.
            progress_bar: Show one, with the time left by the speed measured.

        Raises:
            TrainingError: If a loss or an advantage is not finite; nothing has been learned from it.
        """
        from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback

        if reset_num_timesteps:
            self.num_timesteps = self.num_real_steps = 0
        self._total_timesteps = total_timesteps + self.spent
        called = callback and (lambda *_: callback(self))
        hook: Any = callback if isinstance(callback, BaseCallback) else ConvertCallback(called)
        hook.init_callback(self)
        hook.on_training_start({}, {})
        with Bars() as bars, single_threaded(), contextlib.closing(self):
            while self.spent < self._total_timesteps:
                self.step()
                self.rounds += 1
                if progress_bar:
                    scalars = {tag.rpartition("/")[2]: f"{value:.3g}" for tag, value in self.scalars().items()}
                    bars.show(*self.phase(), dict(list(scalars.items())[:4]))
                if self.rounds % log_interval == 0:
                    for tag, value in {**self.metrics, "time/real_steps": self.num_real_steps}.items():
                        self.logger.record(tag, value, exclude="stdout" if isinstance(value, torch.Tensor) else None)
                    self.logger.dump(self.spent)
                if hook.on_step() is False:
                    break
        hook.on_training_end()
        return self

    def predict(
        self,
        observation: Mapping[str, Any],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Action chunks of `policy`, asked for the best advantage.

        Args:
            observation: Of the environment, with or without a leading axis N.
            state: Not used: the policy reads the past from `observation_lags`.
            episode_start: Not used.
            deterministic: Start from zero instead of noise of the policy's scale.

        Returns:
            Chunks float32 (N, chunk, D), rad and m, without N where `observation` has none; and `state`.
        """
        del episode_start
        single = np.ndim(observation["state"]) == 1
        if single:
            observation = {key: np.asarray(value)[None] for key, value in observation.items()}
        policy, count = self.policy, len(observation["state"])
        scale = 0.0 if deterministic else policy.noise_scale
        noise = scale * torch.randn((count, *policy.noise_shape), generator=self._noise)
        actions = policy.propose(policy.context_of(observation), noise, policy.guidance).numpy()
        return (actions[0] if single else actions), state

    def get_env(self) -> Any:
        """The environment."""
        return self.env

    def set_logger(self, logger: sb3.Logger) -> None:
        """Write metrics to this logger."""
        self.logger = logger

    def scalars(self) -> dict[str, float]:
        """Latest metrics that are single numbers, and "time/real_steps"."""
        found = {tag: float(value) for tag, value in self.metrics.items() if np.ndim(value) == 0}
        return {**found, "time/real_steps": float(self.num_real_steps)}

    def save(self, path: str | Path) -> None:
        """Write the policy (`model/`) and the full training state, each in one step."""
        folder = Path(path)
        self.policy.save_pretrained(folder / "model")
        state = {
            "format_version": _VERSION,
            "algorithm": self.name,
            "config": to_plain(dataclasses.asdict(self.config)),
            "num_timesteps": int(self.num_timesteps),
            "num_real_steps": int(self.num_real_steps),
            "rounds": int(self.rounds),
            "metrics": self.scalars(),
            "policy": self.policy.state_dict(),
            "state": _tensors(self.training_state()),
        }
        with atomic_path(folder / STATE_FILE) as aside:
            torch.save(state, aside)
        summary = {"rounds": self.rounds, "num_timesteps": self.num_timesteps, **state["metrics"]}
        write_json(folder / "metrics.json", summary)

    def restore(self, path: str | Path) -> bool:
        """Go on from what `save` wrote: the rest of the run is the same, bit for bit; False if nothing was saved.

        Raises:
            CheckpointError: If the state is damaged, or of another algorithm or other settings.
        """
        file = Path(path) / STATE_FILE
        if not file.exists():
            if (Path(path) / "rise_state.pt").exists():
                raise CheckpointError(
                    f"{path} is a run of rise-robotics 0.1, which cannot be continued. Its policy can: start a new run "
                    f"with --policy {path}."
                )
            return False
        state = _read_state(file)
        if (other := state["algorithm"]) != self.name:
            raise CheckpointError(f"{file} is of algorithm {other!r}, not {self.name!r}; give another folder")
        theirs = _with_defaults(self.Config, state["config"])
        if theirs != (ours := to_plain(dataclasses.asdict(self.config))):
            names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            changed = ", ".join(f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}" for name in names)
            raise CheckpointError(f"{file} is of a run with other settings ({changed}); give another folder")
        try:
            self.policy.load_state_dict(state["policy"])
            self.load_training_state(_unpacked(state["state"]))
            self.num_timesteps, self.rounds = int(state["num_timesteps"]), int(state["rounds"])
            self.num_real_steps = int(state.get("num_real_steps", 0))  # older states have none
            self.metrics = dict(state["metrics"])
        except (RuntimeError, KeyError, TypeError, ValueError, zlib.error) as error:
            raise CheckpointError(f"{file} does not fit: {error}. Delete it to start anew.") from error
        return True

    @classmethod
    def load(
        cls, path: str | Path, env: Any, *, offline: ChunkSource | None = None, policy: Policy | None = None
    ) -> Self:
        """An algorithm as `save` left it, ready to `predict` or to `learn` on.

        Args:
            path: Folder of `save`.
            env: As in the constructor.
            offline: As in the constructor.
            policy: Any policy of the same shape; that of the folder when None.

        Raises:
            CheckpointError: If there is none, or it is damaged or of another algorithm.
        """
        file = Path(path) / STATE_FILE
        if not file.exists():
            raise CheckpointError(f"{path} holds no training state ({STATE_FILE})")
        try:
            config = decode(cls.Config, _read_state(file)["config"], f"settings in {file}")
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        made = cls(policy or load_policy(Path(path) / "model"), env, config, offline=offline)
        made.restore(path)
        return made

    def check_fit(self) -> None:
        """Compare policy and environment.

        Raises:
            ConfigError: If tasks, lags, output or autoreset mode do not fit; the message says what to pass.
        """
        require, policy, env = requirement(self.name), self.policy, self.env
        for name in ("image_size", "chunk", "stride"):
            mine, other = getattr(policy.spec, name), getattr(env.task, name)
            require(mine == other, f"the policy has {name} {mine}, the environment {other}")
        mine, other = list(policy.spec.cameras), list(env.task.cameras)
        require(mine == other, f"the policy has cameras {mine}, the environment {other}")
        require(policy.spec.layout.names == env.task.layout.names, "policy and environment have different joints")
        wanted, lags = list(policy.lags), env.lags[1:]
        require(set(wanted) <= set(lags), f"make the environment with observation_lags={wanted}, not {lags}")
        mode = str(env.autoreset_mode.value).lower()
        require(mode == "disabled", f'make the environment with autoreset_mode="disabled", not "{mode}"')
        require(env.output == "numpy", 'make the environment with output="numpy"')


def _with_defaults(kind: type, config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, with the defaults of those that there were not yet when it began."""
    try:
        return dict(to_plain(dataclasses.asdict(decode(kind, config, "settings"))))
    except ConfigError:  # some are no settings any more
        return config


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        version = state["format_version"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {error}. Delete it to start anew.") from error
    if version != _VERSION:
        raise CheckpointError(f"{file} has format version {version}, this program reads {_VERSION}")
    return dict(state)


def _tensors(value: Any) -> Any:
    """Arrays as tensors, which `torch.load(weights_only=True)` reads; pictures are compressed, without loss."""
    if isinstance(value, np.ndarray):
        return _tensors(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, Mapping):
        return {key: _tensors(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_tensors(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.numel() >= _PICTURE:
        packed = bytearray(zlib.compress(value.cpu().contiguous().numpy()))
        return {_PACKED: torch.frombuffer(packed, dtype=torch.uint8), "shape": list(value.shape)}
    if value is None or isinstance(value, torch.Tensor | str | int | float):
        return value
    raise TypeError(f"training_state() holds a {type(value).__name__}, which no checkpoint can hold: {value!r}")


def _unpacked(value: Any) -> Any:
    """What `_tensors` was given, with its pictures as they were."""
    if isinstance(value, Mapping) and _PACKED in value:
        size = math.prod(value["shape"])
        found = bytearray(zlib.decompressobj().decompress(value[_PACKED].numpy().tobytes(), size))
        if len(found) != size:
            raise ValueError(f"{len(found)} bytes of pictures of shape {value['shape']}")
        return torch.frombuffer(found, dtype=torch.uint8).reshape(value["shape"])
    if isinstance(value, Mapping):
        return {key: _unpacked(one) for key, one in value.items()}
    return [_unpacked(one) for one in value] if isinstance(value, list) else value
