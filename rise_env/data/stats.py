"""Normalisation statistics of state and action, and the normaliser that applies them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.data.dataset import Dataset
from rise_env.data.errors import DatasetError
from rise_env.errors import ConfigError, LayoutError
from rise_env.files import write_json
from rise_env.tasks import JointLayout

__all__ = ["NORMALIZATIONS", "FeatureStats", "Normalizer", "Stats", "compute_stats"]

#: "min_max": minimum and maximum to [-1, 1]. "quantile": 1st and 99th percentile to [-1, 1], openpi's formula.
#: "mean_std": to mean 0 and standard deviation 1, openpi's formula.
NORMALIZATIONS = ("min_max", "quantile", "mean_std")

_EPSILON = 1e-6  # openpi adds it to every divisor
_STATS = ("mean", "std", "min", "max", "q01", "q99")


@dataclass(frozen=True)
class FeatureStats:
    """Statistics of one feature, per dimension, float64 (D,); `min` and `max` are None where they are not known."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    min: np.ndarray | None = None
    max: np.ndarray | None = None


@dataclass(frozen=True)
class Stats:
    """Statistics of a dataset.

    Attributes:
        state: Of the joint state.
        action: Of the action.
        names: Joint names; empty where they are not known.
        num_frames: Frames they were computed from; 0 where that is not known.
    """

    state: FeatureStats
    action: FeatureStats
    names: tuple[str, ...] = ()
    num_frames: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them."""
        plain = {"names": list(self.names), "num_frames": self.num_frames}
        return {**plain, "state": _plain(self.state), "action": _plain(self.action)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "statistics") -> Stats:
        """Read what `to_dict` gave.

        Raises:
            DatasetError: If it is something else; `where` goes into the message.
        """
        try:
            return cls(
                state=_feature(content["state"], f"{where}, state"),
                action=_feature(content["action"], f"{where}, action"),
                names=tuple(content.get("names", ())),
                num_frames=int(content.get("num_frames", 0)),
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{where}: key {error} is missing or malformed") from error

    def save(self, path: str | Path) -> None:
        """Write JSON, in one step."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Stats:
        """Read what `save` wrote.

        Raises:
            DatasetError: If the file is missing or something else.
        """
        return cls.from_dict(_read(path), str(path))

    def to_openpi(self) -> dict[str, Any]:
        """The content of openpi's `assets/<id>/norm_stats.json`."""
        features = {"state": self.state, "actions": self.action}
        return {
            "norm_stats": {
                key: {name: getattr(feature, name).tolist() for name in ("mean", "std", "q01", "q99")}
                for key, feature in features.items()
            }
        }

    def save_openpi(self, path: str | Path) -> None:
        """Write openpi's `norm_stats.json`, in one step."""
        write_json(path, self.to_openpi())

    @classmethod
    def from_openpi(cls, content: str | Path | Mapping[str, Any]) -> Stats:
        """Read openpi's `norm_stats.json`, a path or its content; it has no minimum and maximum.

        Raises:
            DatasetError: If the file is missing or something else.
        """
        where = "norm_stats" if isinstance(content, Mapping) else str(content)
        values = content if isinstance(content, Mapping) else _read(content)
        norm = values.get("norm_stats", values)
        for key in ("state", "actions"):
            if key not in norm:
                raise DatasetError(
                    f"{where}: key {key!r} is missing; expected openpi's norm_stats with state and actions"
                )
        return cls(
            state=_feature(norm["state"], f"{where}, state"), action=_feature(norm["actions"], f"{where}, actions")
        )


def compute_stats(dataset: Dataset, episodes: Any = None) -> Stats:
    """Exact statistics of all frames.

    Args:
        dataset: Dataset.
        episodes: Episodes to use, e.g. the training split; all when omitted.
    """
    rows: Any = slice(None)
    if episodes is not None:
        rows = np.isin(dataset.episode_of(np.arange(dataset.num_frames)), np.asarray(episodes))
    state, action = dataset.state[rows], dataset.action[rows]
    if not len(state):
        raise DatasetError(f"{dataset.name}: statistics of no frames; episodes is empty")
    return Stats(_compute(state), _compute(action), dataset.spec.layout.names, len(state))


class Normalizer:
    """y = (x - shift) / scale per dimension, for NumPy arrays and torch tensors.

    A dimension that never changes keeps its unit (scale 1) in the mode "min_max", and is mapped to 0.

    Args:
        stats: Statistics of the feature.
        mode: One of `NORMALIZATIONS`.

    Raises:
        ConfigError: If the mode is unknown.
        DatasetError: If the statistics lack what the mode needs.

    Example:
        >>> stats = FeatureStats(*(np.array([x]) for x in (0.0, 1.0, -2.0, 2.0, -4.0, 4.0)))
        >>> Normalizer(stats).normalize(np.array([[2.0]], np.float32))
        array([[0.5]], dtype=float32)
    """

    def __init__(self, stats: FeatureStats, mode: str = "min_max") -> None:
        if mode == "min_max":
            if stats.min is None or stats.max is None:
                raise DatasetError(
                    "the statistics have no minimum and maximum (openpi's norm_stats have none): "
                    "use mode 'quantile' or 'mean_std', or compute them with `rise stats`"
                )
            shift, scale = _from_range(stats.min, stats.max)
        elif mode == "quantile":
            scale = (stats.q99 - stats.q01 + _EPSILON) / 2
            shift = stats.q01 + scale
        elif mode == "mean_std":
            shift, scale = stats.mean, stats.std + _EPSILON
        else:
            raise ConfigError(f"unknown normalisation {mode!r}. Known: {', '.join(NORMALIZATIONS)}.")
        self._set(mode, shift, scale)

    @classmethod
    def from_limits(cls, layout: JointLayout) -> Normalizer:
        """Limits of a joint layout to [-1, 1]; no dataset is needed."""
        made = cls.__new__(cls)
        made._set("min_max", *_from_range(np.asarray(layout.lower), np.asarray(layout.upper)))
        return made

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Normalizer:
        """Read what `to_dict` gave."""
        made = cls.__new__(cls)
        made._set(str(content["mode"]), np.asarray(content["shift"]), np.asarray(content["scale"]))
        return made

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the configuration of a model."""
        return {"mode": self.mode, "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    def _set(self, mode: str, shift: np.ndarray, scale: np.ndarray) -> None:
        self.mode = mode
        self.shift = np.asarray(shift, np.float64)
        self.scale = np.asarray(scale, np.float64)
        self._torch: dict[Any, tuple[Any, Any]] = {}
        if self.shift.ndim != 1 or self.shift.shape != self.scale.shape or not (self.scale > 0).all():
            raise DatasetError(f"a normaliser needs shift and positive scale of one length, got {shift} and {scale}")

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return len(self.shift)

    def normalize(self, values: Any) -> Any:
        """Physical units to model units: (..., D) of floats, array or tensor, to the same kind and type."""
        shift, scale = self._like(values)
        return (values - shift) / scale

    def denormalize(self, values: Any) -> Any:
        """Model units to physical units; undoes `normalize`."""
        shift, scale = self._like(values)
        return values * scale + shift

    def _like(self, values: Any) -> tuple[Any, Any]:
        if values.shape[-1:] != (self.dim,):
            raise LayoutError(f"values have shape {tuple(values.shape)}, the normaliser has {self.dim} dimensions")
        if isinstance(values, np.ndarray):
            if values.dtype.kind != "f":
                raise LayoutError(f"values are {values.dtype}, expected floats")
            return self.shift.astype(values.dtype), self.scale.astype(values.dtype)
        key = (values.dtype, values.device)
        if key not in self._torch:
            self._torch[key] = tuple(values.new_tensor(array.tolist()) for array in (self.shift, self.scale))
        return self._torch[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_torch": {}}

    def __repr__(self) -> str:
        return f"Normalizer({self.mode!r}, {self.dim} dimensions)"


def _from_range(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    half = (high - low) / 2
    return (low + high) / 2, np.where(half > _EPSILON, half, 1.0)


def _compute(values: np.ndarray) -> FeatureStats:
    exact = values.astype(np.float64)
    q01, q99 = np.quantile(exact, [0.01, 0.99], axis=0)
    return FeatureStats(exact.mean(0), exact.std(0), q01, q99, exact.min(0), exact.max(0))


def _plain(feature: FeatureStats) -> dict[str, Any]:
    values = {name: getattr(feature, name) for name in _STATS}
    return {name: value.tolist() for name, value in values.items() if value is not None}


def _feature(content: Any, where: str) -> FeatureStats:
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(FeatureStats):
        value = content.get(field.name) if isinstance(content, Mapping) else None
        if value is None:
            if field.name in ("min", "max"):
                continue
            raise DatasetError(f"{where}: {field.name!r} is missing")
        try:
            arrays[field.name] = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{where}: {field.name!r} must be a list of numbers") from error
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not all(np.isfinite(a).all() for a in arrays.values()):
        raise DatasetError(f"{where}: expected lists of finite numbers, all of one length, got shapes {sorted(shapes)}")
    return FeatureStats(**arrays)


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content
