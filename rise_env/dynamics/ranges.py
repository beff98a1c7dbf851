"""The ranges by which published models normalise actions, as their projects write them down."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_env.config import load_yaml
from rise_env.data import Dataset
from rise_env.errors import ConfigError
from rise_env.tasks import JointLayout

__all__ = ["ActionRanges", "ranges_of", "read_ranges"]

_DEEPEST = 8
_NONE: Any = object()
#: Names of the two lists of a convention: the lower and the upper end, or mean and standard deviation.
_FORMS = {
    "min_max": [("min_val", "max_val"), ("min", "max"), ("action_min", "action_max"), ("low", "high")],
    "mean_std": [("mean", "std")],
    "quantiles": [("q01", "q99")],
}


@dataclass(frozen=True)
class ActionRanges:
    """How actions become model units: (action - shift) / scale.

    Attributes:
        shift: float64 (D,), rad and m, or whatever units the model was trained in.
        scale: float64 (D,), the same units; positive.
        form: "min_max" (to [-1, 1]), "mean_std" or "quantiles" (1st and 99th percentile to [-1, 1]).
        source: Where they come from.
    """

    shift: np.ndarray
    scale: np.ndarray
    form: str
    source: str

    def narrow(self, layout: JointLayout) -> list[str]:
        """Joints that the whole range of the layout moves by less than a tenth of [-1, 1]: probably another unit."""
        low, high = ((end - self.shift) / self.scale for end in (layout.low, layout.high))
        return [
            f"{name} from {layout.lower[i]:g} to {layout.upper[i]:g} {layout.units[i]} becomes {low[i]:.3f} to "
            f"{high[i]:.3f}" for i, name in enumerate(layout.names) if high[i] - low[i] < 0.2
        ]  # fmt: skip


def ranges_of(dataset: Dataset) -> ActionRanges:
    """Smallest and largest action of a dataset, as the release takes them when it fine-tunes."""
    low, high = dataset.action.min(axis=0), dataset.action.max(axis=0)
    return _ranges([low.tolist(), high.tolist()], "min_max", dataset.name, dataset.spec.layout)


def read_ranges(path: str | Path, layout: JointLayout, name: str | None = None) -> ActionRanges:
    """Ranges in a file of another project, which is read and never run.

    What is known: two lists under `min_val` and `max_val` (RISE's configurations), `min` and `max` (LeRobot, `rise
    stats`), `mean` and `std` (Genie Envisioner's `statistics.py`), `q01` and `q99`; in JSON, YAML, or a Python file of
    constants, at any depth. Where a place has several, min and max are taken.

    Args:
        path: The file.
        layout: Joints, whose number must be that of the ranges.
        name: Which ranges of a file that has several: the last part, or all parts, of where they are, joined by "/".

    Raises:
        ConfigError: If the file cannot be read, has no ranges, or has several and `name` does not choose; if their
            number is not that of the joints, or they are not finite and rising.
    """
    path = Path(path)
    found = dict(_search(_content(path), ()))
    if not found:
        known = ", ".join(f"{low} and {high}" for pairs in _FORMS.values() for low, high in pairs)
        raise ConfigError(f"{path} has no action ranges: two lists of numbers side by side, such as {known}")
    chosen = [where for where in found if name is None or name in (where, where.rpartition("/")[2])]
    actions = [where for where in chosen if where.rpartition("/")[2] in ("action", "actions")]
    if name is None and len(actions) == 1:  # beside those of the state, which the model does not read
        chosen = actions
    if len(chosen) != 1:
        listed = ", ".join(sorted(where or "(top level)" for where in found))
        what = f"has no ranges {name!r}" if name is not None and not chosen else "has several ranges"
        raise ConfigError(f"{path} {what}: choose one with --range-set NAME: {listed}")
    place = found[chosen[0]]
    if "min_max" not in place and len(place) > 1:
        raise ConfigError(
            f"{path} has {' and '.join(place)} but no min and max at {chosen[0]!r}: leave only the convention that the "
            "model was trained with"
        )
    form = "min_max" if "min_max" in place else next(iter(place))
    return _ranges(place[form], form, f"{path}{f', {chosen[0]}' if chosen[0] else ''}", layout)


def _ranges(pair: Sequence[Sequence[float]], form: str, source: str, layout: JointLayout) -> ActionRanges:
    for values in pair:
        if len(values) != layout.dim:
            raise ConfigError(
                f"{source}: ranges of {len(values)} dimensions, layout {layout.name!r} has {layout.dim}: "
                f"{', '.join(layout.names)}. Choose the ranges, or the task, that belong to the weights"
            )
    first, second = (np.asarray(values, np.float64) for values in pair)
    shift, scale = (first, second) if form == "mean_std" else ((first + second) / 2, (second - first) / 2)
    for joint in np.flatnonzero(~(np.isfinite(shift) & np.isfinite(scale) & (scale >= 0))):
        raise ConfigError(
            f"{source}: joint {layout.names[joint]!r} has {first[joint]:g} and {second[joint]:g}, "
            f"expected {'a mean and a standard deviation' if form == 'mean_std' else 'a lower and an upper end'}"
        )
    return ActionRanges(shift, np.where(scale > 5e-5, scale, 1.0), form, source)  # a joint that never moves


def _search(content: Any, where: tuple[str, ...]) -> Iterator[tuple[str, dict[str, list[list[float]]]]]:
    """Places in nested mappings that have a convention's two lists, and which."""
    if not isinstance(content, Mapping) or len(where) > _DEEPEST:
        return
    lists = {str(key): numbers for key, value in content.items() if (numbers := _numbers(value)) is not None}
    forms = {
        form: [lists[first], lists[second]]
        for form, pairs in _FORMS.items() for first, second in reversed(pairs) if first in lists and second in lists
    }  # fmt: skip
    if forms:
        yield "/".join(where), forms
    for key, value in content.items():
        yield from _search(value, (*where, str(key)))


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, list | tuple) or not value or any(isinstance(one, bool) for one in value):
        return None
    try:  # YAML has 1e-5 as a text
        return [float(one) for one in value]
    except (TypeError, ValueError, OverflowError):
        return None


def _content(path: Path) -> Any:
    if path.suffix in (".yaml", ".yml"):
        return load_yaml(path)
    if path.suffix not in (".json", ".py"):
        raise ConfigError(f"{path}: ranges are read from .json, .yaml and .py files")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else _constants(ast.parse(text))
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _constants(module: ast.Module) -> dict[str, Any]:
    """Constants of a Python file: literals, names of earlier ones, lists of them repeated or joined. Nothing is run."""
    known: dict[str, Any] = {}
    for statement in module.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=node)
                | ast.AnnAssign(target=ast.Name(id=name), value=node)
            ):
                if (value := _value(node, known)) is not _NONE:
                    known[name] = value
    return known


def _value(node: ast.expr | None, known: Mapping[str, Any]) -> Any:
    """What an expression stands for; `_NONE` where that would have to be computed."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return known.get(node.id, _NONE)
        case ast.Attribute(attr="pi"):
            return math.pi
        case ast.Call(args=[item, *_]):  # np.array([...]), torch.tensor([...])
            return _value(item, known)
        case ast.UnaryOp(op=ast.USub()):
            value = _value(node.operand, known)
            return -value if isinstance(value, int | float) else _NONE
        case ast.List() | ast.Tuple():
            items = [_value(item, known) for item in node.elts]
            return _NONE if _NONE in items else items
        case ast.Dict():
            pairs = [(_value(k, known), _value(v, known)) for k, v in zip(node.keys, node.values, strict=True)]
            return {key: value for key, value in pairs if isinstance(key, str | int) and value is not _NONE}
        case ast.BinOp(op=ast.Add() | ast.Mult()):
            left, right = _value(node.left, known), _value(node.right, known)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            items, count = (left, right) if isinstance(left, list) else (right, left)
            if isinstance(node.op, ast.Mult) and isinstance(items, list) and isinstance(count, int) and count < 1000:
                return items * count
    return _NONE
