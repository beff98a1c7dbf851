"""What `rise info --settings` prints: every key of every YAML file with meaning, range and default, from the code."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import yaml

from rise_agents.pipelines.docstrings import entries
from rise_env.errors import ConfigError, did_you_mean, observed_requirements
from rise_env.files import to_plain

__all__ = ["Group", "Setting", "reference", "setting_groups", "settings_of"]

_NOUNS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}


class Setting(NamedTuple):
    """A key of a YAML file.

    Attributes:
        key: Its path, such as "dynamics.training.steps"; `<name>` stands for a name of yours, `[]` for the entries of a
            list.
        values: What it may be.
        default: Its default as YAML; None where it must be given.
        meaning: What it does.
    """

    key: str
    values: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Group:
    """Settings of one kind.

    Attributes:
        name: What `rise info --settings NAME` calls it.
        title: Heading.
        where: Where they are written.
        settings: The settings.
    """

    name: str
    title: str
    where: str
    settings: tuple[Setting, ...]


def setting_groups() -> list[Group]:
    """All settings there are, those of registered algorithms and policies included."""
    from rise_agents.pipelines.compare_config import CompareConfig, Variant
    from rise_agents.pipelines.config import BaseConfig, DemoConfig
    from rise_agents.policies.config import PolicyConfig
    from rise_agents.training.cluster.placement import ClusterConfig
    from rise_agents.training.presets import AgentPreset
    from rise_env.config import decode
    from rise_env.dynamics.config import DynamicsConfig
    from rise_env.registry import ALGORITHMS, POLICIES
    from rise_env.tasks import load_task
    from rise_env.value.config import ValueConfig
    from rise_robot.cell.config import load_cell
    from rise_robot.config import load_robot
    from rise_robot.ros.config import RosConfig

    spec, robot = load_task(), load_robot("piper")
    ros = decode(RosConfig, robot.drivers["ros"], "robot 'piper'")
    comparison = CompareConfig({"base": Variant(), "rise": Variant("rise")}, ("brick_sorting",))
    kinds = {one.name: POLICIES.load(one.name).Config for one in POLICIES}
    models = {name: kind() for name, kind in kinds.items() if all(_default(one) is not MISSING for one in fields(kind))}
    sections = {"dynamics": DynamicsConfig(), "policy": PolicyConfig()}
    preset = "a preset (`<task>/<preset>.yaml`)"
    agent = "Settings of the algorithm `{}`: below `config` of an agent, or `--set` of `rise improve`."
    return [
        _group("task", "task", f"Section `task` of {preset}.", spec, skip="layout"),
        _group("layout", "", "A file `layouts/<name>.yaml`, one beside the preset, or all that below `task.layout`.",
               spec.layout),
        *(_group(name, name, f"Section `{name}` of {preset}, or `--set` of `rise train`.", one, skip="model")
          for name, one in sections.items()),
        _group("value", "value", f"Section `value` of {preset}, or `--set` of `rise train`.", ValueConfig()),
        *(_group(f"policy.{name}", "policy.model", f"The same section where `policy.kind` is `{name}`.", one)
          for name, one in models.items()),
        _group("agent", "", "A file `<task>/agent/<name>.yaml`; `config` holds the settings of the algorithm, below.",
               AgentPreset("rise")),
        *(_group(one.name, "", agent.format(one.name), ALGORITHMS.load(one.name).Config()) for one in ALGORITHMS),
        _group("cell", "cell", f"Section `cell` of {preset}, for tasks of the work cell.", load_cell()[1]),
        _group("base", "base", f"Section `base` of {preset}: what `rise train base` does.", BaseConfig()),
        _group("demo", "demo", f"Section `demo` of {preset}: what `rise demo` does.", DemoConfig()),
        _group("compare", "", "A file `<task>/compare/<name>.yaml`: what `rise compare` does.", comparison),
        _group("cluster", "", "The file of `rise improve --cluster`.", ClusterConfig()),
        _group("robot", "", "A file `robots/<name>.yaml`, or overrides of `rise deploy`. `driver: <name>` at its top "
               "makes it a driver's default robot, `extends: <name>` starts from another file.", robot, skip="drivers"),
        _group("ros", "ros", "The same file, where the driver is `ros`.", ros),
    ]  # fmt: skip


def reference(name: str | None = None) -> str:
    """Settings as a page of Markdown: all, or those of the group or the keys that begin with `name`.

    Raises:
        ConfigError: If there are none of this name.
    """
    groups = setting_groups()
    if name is not None:
        chosen = [one for one in groups if one.name == name.replace("-", "_")]
        found = chosen or list(filter(None, (_part(one, name) for one in groups)))
        if not found:
            names = [*(one.name for one in groups), *(s.key for one in groups for s in one.settings)]
            listed = ", ".join(one.name for one in groups)
            raise ConfigError(f"there are no settings {name!r}.{did_you_mean(name, names)} Known: {listed}, or a key.")
        return "\n\n".join(map(_page, found))
    lead = (
        "# Settings\n\n"
        "Every key of every YAML file, written by `rise info --settings > docs/settings.md`. Unknown keys are errors.\n"
        "`rise info --settings NAME` prints a group, such as `value` or `rise`, or the keys that begin so, such as\n"
        "`dynamics.training`.\n\n" + "\n".join(f"* [{one.title}](#{_anchor(one.title)})" for one in groups)
    )
    return "\n\n".join([lead, *map(_page, groups)])


def _part(group: Group, name: str) -> Group | None:
    """The settings of a group whose keys begin so, if there are any."""
    found = tuple(one for one in group.settings if f"{one.key}.".startswith(f"{name}."))
    return replace(group, settings=found) if found else None


def _group(name: str, prefix: str, where: str, sample: Any, skip: str = "") -> Group:
    return Group(name, name.replace("policy.", "policy of kind "), where, tuple(settings_of(sample, prefix, skip)))


def settings_of(sample: Any, prefix: str = "", skip: str = "") -> Iterator[Setting]:
    """Settings of a dataclass and of those within it, but for the one called `skip`, which is a setting as a whole."""
    kind, said = type(sample), _meanings(type(sample))
    hints = typing.get_type_hints(kind)
    with observed_requirements() as expected:
        if hasattr(sample, "__post_init__"):
            sample.__post_init__()
    for field in fields(sample):
        if not field.init:
            continue
        key = f"{prefix}.{field.name}".lstrip(".")
        inner, path = _within(getattr(sample, field.name))
        if inner is not None and field.name != skip:
            yield from settings_of(inner, key + path)
            continue
        default = _default(field)
        yield Setting(key, _values(hints[field.name], expected.get(field.name, [])),
                      None if default is MISSING else _yaml(default), said.get(field.name, ""))  # fmt: skip


def _within(value: Any) -> tuple[Any, str]:
    """The dataclass that a value is or holds, and how it is reached."""
    if isinstance(value, Mapping) and value:
        value, path = next(iter(value.values())), ".<name>"
    elif isinstance(value, tuple | list) and value:
        value, path = value[0], "[]"
    else:
        path = ""
    return (value, path) if is_dataclass(value) else (None, "")


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _meanings(kind: type) -> dict[str, str]:
    """Meaning of every field, from the sections `Attributes` of a class and of those it extends."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        found.update(entries(one, "Attributes"))
    return found


def _values(hint: Any, expected: list[str]) -> str:
    """What a setting may be, from its type and the checks that it went through."""
    noun = _noun(hint)
    for one in dict.fromkeys(expected):
        if one.startswith("one of "):
            noun = one
        elif one.startswith("a number in "):
            noun += one.removeprefix("a number")
        elif one.startswith("a whole number from "):
            noun += f", at least {one.rpartition(' ')[2]}"
        elif one == "a positive number":
            noun += " above 0"
        elif one.startswith("at least"):
            noun += f", {one}"
    return noun


def _noun(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [_noun(part) for part in parts if part is not type(None)]
        return " or ".join([*kinds, *(["null"] if type(None) in parts else [])])
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        many = parts[-1] is Ellipsis
        noun = _noun(parts[0]) + ("s" if parts[0] in (int, float, str) else "")
        return f"list of {noun}" if many else f"list of {len(parts)} {noun}"
    if origin in (dict, Mapping) or (isinstance(hint, type) and issubclass(hint, Mapping)):
        return "mapping"
    if origin is list:
        return "list"
    return _NOUNS.get(hint, "mapping" if is_dataclass(hint) else "text")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(to_plain(value), default_flow_style=True, width=10_000, sort_keys=False)
    return str(text).removesuffix("\n...\n").strip()


def _page(group: Group) -> str:
    lines = [f"## {group.title}", "", group.where, ""]
    for one in group.settings:
        default = "must be given" if one.default is None else f"default `{one.default}`"
        lines.append(f"* `{one.key}`: {one.meaning} *{one.values}; {default}*")
    return "\n".join(lines)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
