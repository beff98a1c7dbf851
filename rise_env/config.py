"""Configuration: YAML presets decoded into dataclasses by draccus.

A preset is `configs/<task>/<preset>.yaml`, or `<preset>.yaml` in a folder of yours (`rise init-task`), whose path then
stands for the task. It is a mapping of *sections* (`task`, `cell`, ...), each of which belongs to one dataclass that
lives beside the class it configures. `extends: <preset>` at the top starts from another preset of the same folder and
overrides it key by key. Unknown keys are errors that name the nearest known key.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rise_env.errors import ConfigError, RiseError, did_you_mean, requirement, unknown_name

__all__ = [
    "available_presets",
    "config_files",
    "config_root",
    "config_roots",
    "decode",
    "load_config",
    "load_extended",
    "load_yaml",
    "merge",
    "parse_override",
    "rename_keys",
    "task_files",
    "task_folder",
    "with_overrides",
]

#: Every section a preset may hold, with its owner.
SECTIONS = {
    "task": "rise_env.tasks.TaskSpec",
    "cell": "rise_robot.cell.config.CellConfig",
    "dynamics": "rise_env.dynamics.config.DynamicsConfig",
    "value": "rise_env.value.config.ValueConfig",
    "policy": "rise_agents.policies.config.PolicyConfig",
    "base": "rise_agents.pipelines.config.BaseConfig",
    "demo": "rise_agents.pipelines.config.DemoConfig",
}


@functools.cache
def config_root() -> Path:
    """Directory of the shipped presets.

    `RISE_CONFIG_ROOT` overrides it. An installed wheel carries the presets inside the package; a checkout has them
    in `configs/` beside it.

    Raises:
        ConfigError: If none of these directories exists.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get("RISE_CONFIG_ROOT")
    candidates = [Path(override)] if override else [package / "configs", package.parent / "configs"]
    if found := [candidate for candidate in candidates if candidate.is_dir()]:
        return found[0]
    raise ConfigError(
        f"no configuration directory: looked in {', '.join(map(str, candidates))}. "
        "Reinstall the package or point RISE_CONFIG_ROOT at a directory of presets."
    )


def config_roots() -> list[Path]:
    """Directories of presets, ours first, then those of registered tasks (`rise_env.registry.register_task`)."""
    from rise_env.registry import plugin_config_roots

    return [config_root(), *plugin_config_roots()]


def config_files(folder: str) -> dict[str, Path]:
    """Files `<folder>/<name>.yaml` by name, e.g. of "layouts"; where two have the same name the first root wins.

    Names that begin with an underscore are left out: those are only extended by others.
    """
    found: dict[str, Path] = {}
    if Path(folder).is_absolute():  # of a task whose name is empty or a path: there is none
        return found
    for root in config_roots():
        for path in sorted(root.glob(f"{folder}/*.yaml")):
            if not path.stem.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def available_presets() -> dict[str, list[str]]:
    """Presets by task name, e.g. `{"brick_sorting": ["paper", "small", "tiny"]}`."""
    folders = {path.parent.name for root in config_roots() for path in root.glob("*/*.yaml")} - {"layouts", "robots"}
    return {folder: list(config_files(folder)) for folder in sorted(folders)}


def task_folder(task: str) -> Path | None:
    """The folder that `task` is the path of; None where it is a name, e.g. of a folder in `configs/`."""
    if task.endswith((".yaml", ".yml")):
        return None
    known = task.replace("-", "_") in available_presets()
    return None if known or not task or not Path(task).is_dir() else Path(task)


def task_files(task: str, kind: str = "") -> dict[str, Path]:
    """YAML files of a task by name: its presets, or with `kind="agent"` its agents.

    Args:
        task: Name of a task, or path of its folder.
        kind: Folder within that of the task.
    """
    folder = task_folder(task)
    if folder is None:
        name = task.replace("-", "_")
        return config_files(f"{name}/{kind}") if name in available_presets() else {}
    return {path.stem: path for path in sorted((folder / kind).glob("*.yaml")) if not path.stem.startswith("_")}


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: If the file is missing, is not valid YAML or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bad text, impossible dates, endless nesting
        raise ConfigError(f"configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {path} must hold a mapping of sections, got {type(content).__name__}")
    return content


def load_config(task: str, preset: str = "small", overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Load a preset, follow `extends` and apply overrides.

    Args:
        task: Task name (a folder of `configs/`, `-` and `_` are the same), the path of such a folder of yours, or that
            of a YAML file, in which case `preset` is ignored.
        preset: Preset name, e.g. "small".
        overrides: Dotted assignments such as `"task.fps=15"`; values are YAML.

    Returns:
        Mapping from section name to a plain mapping.

    Raises:
        ConfigError: If the task, preset, a section or an override is unknown or malformed.
    """
    if task.endswith((".yaml", ".yml")):
        path = Path(task)
    else:
        files = task_files(task)
        if not files and task_folder(task) is None:
            known = unknown_name("task", task.replace("-", "_"), available_presets())
            raise ConfigError(f"{known} Or give the folder of a task: `rise init-task DATASET` writes one.")
        if preset not in files:
            hint, listed = did_you_mean(preset, files), ", ".join(files) or "none"
            raise ConfigError(f"task {task!r} has no preset {preset!r}.{hint} Known presets: {listed}.")
        path = files[preset]
    content, require = load_extended(path), requirement(str(path))
    for section, value in content.items():
        require(section in SECTIONS, unknown_name("section", section, ("extends", *SECTIONS)))
        require(isinstance(value, dict), f"section {section!r} must be a mapping, got {type(value).__name__}")
    return with_overrides(content, overrides)


def load_extended(
    path: str | Path, find: Callable[[str, Path], Path] | None = None, _seen: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Content of a YAML file on top of that of the file that it `extends`.

    Args:
        path: The file.
        find: File that a name means in a file of some folder; when None `<folder>/<name>.yaml`.

    Raises:
        ConfigError: If a file is missing or malformed, or files extend each other in a circle.
    """
    path = Path(path).resolve()
    if path in _seen:
        raise ConfigError(f"configuration file {path} extends itself: {' -> '.join(p.name for p in (*_seen, path))}")
    content = load_yaml(path)
    task, parent = content.get("task"), content.pop("extends", None)
    if isinstance(task, dict) and str(layout := task.get("layout")).endswith((".yaml", ".yml")):
        content["task"] = {**task, "layout": str(path.parent / str(layout))}  # beside the file that names it
    if parent is None:
        return content
    above = find(str(parent), path.parent) if find else path.parent / f"{parent}.yaml"
    return merge(load_extended(above, find, (*_seen, path)), content)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `change`, mappings within mappings key by key; neither is changed."""
    merged = dict(base)
    for key, value in change.items():
        both_mappings = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_mappings else value
    return merged


def with_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `config` with dotted assignments such as `"task.fps=15"` applied; the argument is not changed.

    Raises:
        ConfigError: If an override is not of the form `section.key=value` or names an unknown section.
    """
    result = dict(config)
    for override in overrides:
        require = requirement(f"override {override!r}")
        change = parse_override(override, "section.key=value")
        section, dot, _ = override.partition("=")[0].strip().partition(".")
        require(dot, "it is not of the form section.key=value")
        require(section in SECTIONS, unknown_name("section", section, SECTIONS))
        result = merge(result, change)
    return result


def parse_override(override: str, form: str = "key.key=value") -> dict[str, Any]:
    """A dotted assignment such as "task.fps=15" as mappings within mappings; values are YAML.

    Raises:
        ConfigError: If it is not of this form.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {override!r} is not of the form {form}")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def decode[T](cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from plain values; unknown and missing keys are errors.

    Args:
        cls: Dataclass to build.
        values: Plain YAML values.
        where: What is being read, for the error message (e.g. "section 'task'").

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type.
    """
    import draccus  # 0.1 s: only where a configuration is read

    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r:.80}, expected a mapping")
    _reject_unknown_keys(cls, values, where)
    _reject_nan(values, where)
    try:
        return draccus.decode(cls, dict(values))
    except draccus.ParsingError as error:
        ours = error.__cause__ or error.__context__
        if isinstance(ours, RiseError):  # a dataclass rejected its values: its own words are better
            raise ours from None
        raise ConfigError(f"{where}: {error}") from error


def rename_keys(cls: Any, values: Any) -> Any:
    """Values of the dataclass `cls` as they were written under older names, under the present ones.

    A dataclass lists its older names as `RENAMED: ClassVar[Mapping[str, str]]`, old to new. In a checkpoint they are
    understood, by an upgrade that calls this; in a preset they are an error that gives the new name (`decode`).
    """
    if not (dataclasses.is_dataclass(cls) and isinstance(values, Mapping)):
        return values
    hints: dict[str, Any] = typing.get_type_hints(cls)
    renamed: Mapping[str, str] = getattr(cls, "RENAMED", {})
    pairs = ((renamed.get(key, key), value) for key, value in values.items())
    return {key: rename_keys(hints.get(key), value) for key, value in pairs}


def _reject_nan(values: Any, where: str, key: str = "") -> None:
    """No setting is NaN: comparisons with it are false, so that hardly any check would notice."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            _reject_nan(value, where, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            _reject_nan(value, where, key)
    elif isinstance(values, float) and math.isnan(values):
        raise ConfigError(f"{where}: {key} is nan, expected a number")


def _reject_unknown_keys(cls: Any, values: Any, where: str) -> None:
    if not (dataclasses.is_dataclass(cls) and isinstance(values, Mapping)):
        return
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    renamed = getattr(cls, "RENAMED", {})
    for key, value in values.items():
        if key not in known and key in renamed:
            raise ConfigError(f"{where}: key {key!r} is called {renamed[key]!r} now")
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('key', key, known)}")
        if value is None and type(None) not in typing.get_args(hints[key]):
            raise ConfigError(f"{where}: key {key!r} has no value")
        _reject_unknown_keys(hints[key], value, f"{where}, key {key!r}")
