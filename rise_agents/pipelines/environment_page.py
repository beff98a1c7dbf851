"""What `rise info --environment` prints: a page about an environment id, from its code and its presets."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import yaml
from gymnasium.envs.registration import EnvSpec

import rise_env  # noqa: F401  (registers the ids)
from rise_agents.pipelines.docstrings import entries, labelled, opening
from rise_env.config import load_config, task_files
from rise_env.envs.reach import reach_spec
from rise_env.errors import ConfigError, unknown_name
from rise_env.files import to_plain
from rise_env.registry import TASKS, TaskRegistration, load_object
from rise_env.spaces import action_space, observation_space
from rise_env.tasks import TaskSpec, load_task

__all__ = ["environment_ids", "environment_page", "environment_table"]

#: Arguments that only `gymnasium.make_vec` takes.
_OF_MANY = ("num_envs", "num_workers", "autoreset_mode", "group_size")
#: Ends of the names of environments that run the chunks of a task.
_EXECUTING = ("-Cell", "-Sim", "-Piper")
_VERSION = "the only version so far. A change of observations, actions or rewards gets a new number."


class _Environment(NamedTuple):
    """An id: its registration, what makes one environment and many, its task, and the task's side of the work cell."""

    registered: EnvSpec
    single: Any
    many: Any
    task: TaskSpec | None
    cell: Any

    @property
    def is_real(self) -> bool:
        """Whether something moves, in the work cell, in a simulation or on a robot."""
        return self.registered.name.endswith((*_EXECUTING, "-Oracle"))

    @property
    def about(self) -> Any:
        """What documents the environment; where a function makes it, what it makes."""
        made = self.single or self.many
        if inspect.isfunction(made):
            return typing.get_type_hints(made)["return"]
        return made if labelled(made) else self.many


def environment_ids() -> list[str]:
    """All ids of this project and of its plug-ins."""
    return sorted(name for name in gymnasium.registry if name.startswith("RISE-"))


def environment_table() -> str:
    """All environments as tables of Markdown: those of the tasks by task, and the others."""
    found = [_environment(name) for name in environment_ids()]
    tasks = {one.registered.kwargs["task"]: one for one in found if one.registered.kwargs.get("task")}
    rows = [(f"**{TASKS.find(task).target.title}**", _first(one.cell), _links(task)) for task, one in tasks.items()]
    others = [(f"[{one.registered.id}]({one.registered.id}.md)", _first(one.about)) for one in found
              if one.registered.kwargs.get("task") is None]  # fmt: skip
    return "\n\n".join(
        [_table(("task", "what is to be done", "environments"), rows), _table(("others", "what it is"), others)]
    )


def environment_page(name: str) -> str:
    """An environment as a page of Markdown.

    Args:
        name: Its id.

    Raises:
        ConfigError: If there is no such id.
    """
    found = _environment(name)
    said, task = _labelled(found.about), labelled(found.cell) if found.is_real else {}
    parts: dict[str, list[str]] = {
        "Description": [*opening(found.cell), *opening(found.about)],
        "Action space": [said.get("Action", ""), *_actions(found.task)],
        "Observation space": [said.get("Observation", ""), *_observations(found.task)],
        "Rewards": [said.get("Reward", ""), *_named(said, "Optimum"), *_named(task, "Progress", "Score")],
        "Starting state": [said.get("Start", ""), task.get("Start", ""), *_difficulties(found)],
        "Episode end": [said.get("End", ""), *_named(task, "Success", "Failures"), *_limit(found)],
        "Information": [said.get("Info", "")],
        "Arguments": [*_arguments(found)],
        "Version history": [f"* v{found.registered.version}: {_VERSION}"],
    }
    texts = {title: [text[0].upper() + text[1:] for text in some if text] for title, some in parts.items()}
    sections = ["\n\n".join([f"## {title}", *some]) for title, some in texts.items() if some]
    return "\n\n".join([f"# {name}", _summary(found), *sections])


def _environment(name: str) -> _Environment:
    if name not in environment_ids():
        raise ConfigError(unknown_name("environment", name, dict.fromkeys(environment_ids())))
    registered = gymnasium.spec(name)
    single, many = (
        load_object(str(target), f"environment {name}") if target else None
        for target in (registered.entry_point, registered.vector_entry_point)
    )
    task, cell = _TASKS.get(name), None
    if known := registered.kwargs.get("task"):
        task = load_task(known, preset) if (preset := _preset(known)) else None
        target = TASKS.find(known).target.cell
        cell = load_object(target, f"task {known}") if target else None
    return _Environment(registered, single, many, task, cell)


#: Tasks that no preset describes.
_TASKS: dict[str, TaskSpec | None] = {"RISE-Reach-v0": reach_spec()}


def _preset(task: str) -> str | None:
    """The preset whose numbers a page shows."""
    presets = task_files(task)
    return "small" if "small" in presets else next(iter(presets), None)


def _summary(found: _Environment) -> str:
    name, task = found.registered.id, found.task
    made = [f'`gymnasium.make("{name}")`'] if found.single else []
    rows = {"Made by": ", ".join([*made, f'`gymnasium.make_vec("{name}", num_envs=8)`'])}
    if task is not None:
        rows["Instruction"] = task.prompt
        run = f", of which `step` runs {task.execute}" if found.registered.name.endswith(_EXECUTING) else ""
        rows["Control"] = f"{task.fps} Hz, chunks of {task.chunk} control steps{run}"
        if not found.is_real:
            rows["Imagined frames"] = f"every {task.stride} control steps, {task.frames_per_chunk} a chunk"
    if preset := _preset(found.registered.kwargs.get("task", "")):
        rows["Preset"] = f"`{preset}`; other presets have other numbers"
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {text} |" for key, text in rows.items())])


def _labelled(kind: type) -> dict[str, str]:
    """Labelled texts of a class, and of those it extends where it has none of its own."""
    return {label: text for one in reversed(kind.__mro__) for label, text in labelled(one).items()}


def _first(found: object) -> str:
    return next(iter(opening(found)), "")


def _links(task: str) -> str:
    registered: TaskRegistration = TASKS.find(task).target
    parts = {"imagination": "", "work cell": "-Cell", "oracle": "-Oracle", "simulation": "-Sim", "robot": "-Piper"}
    missing = {part for part, there in (("-Cell", registered.cell), ("-Oracle", registered.cell),
                                        ("-Sim", registered.simulation)) if there is None}  # fmt: skip
    return ", ".join(
        f"[{kind}]({registered.env_id(part)}.md)" for kind, part in parts.items()
        if part not in missing
    )  # fmt: skip


def _named(said: Mapping[str, str], *labels: str) -> Iterator[str]:
    yield from (f"**{label}**: {said[label]}" for label in labels if label in said)


def _actions(task: TaskSpec | None) -> Iterator[str]:
    if task is None:
        yield "Chunk, dimensions and limits are those of the bundle's task."
        return
    layout = task.layout
    space = action_space(task)
    yield f"`Box(shape={space.shape}, dtype={space.dtype})`, for every control step of a chunk:"
    rows = enumerate(zip(layout.names, layout.units, layout.lower, layout.upper, strict=True))
    yield _table(
        ("", "dimension", "unit", "least", "most"),
        [(i, f"`{joint}`", unit, f"{low:g}", f"{high:g}") for i, (joint, unit, low, high) in rows],
    )


def _observations(task: TaskSpec | None) -> Iterator[str]:
    if task is None:
        yield "Cameras, sizes and joints are those of the bundle's task."
        return
    meanings = {f"image_{camera}": f"RGB picture of the camera `{camera}`" for camera in task.cameras}
    entries_of = observation_space(task).spaces.items()
    yield _table(
        ("key", "shape", "dtype", "what it is"),
        [(f"`{key}`", space.shape, space.dtype, meanings.get(key, "joints in the order of the action"))
         for key, space in entries_of],
    )  # fmt: skip


def _difficulties(found: _Environment) -> Iterator[str]:
    if not found.is_real or found.cell is None:
        return
    known = found.registered.kwargs["task"]
    section = load_config(known, _preset(known) or "")["cell"]
    ranges: Mapping[str, Mapping[str, Any]] = section["difficulties"]
    meanings = entries(type(found.cell(ranges[section["difficulty"]]).ranges), "Attributes")
    keys = list(dict.fromkeys(key for values in ranges.values() for key in values))
    yield f"Ranges by difficulty; `{section['difficulty']}` unless another is asked for:"
    cells = {key: [_plain(values[key]) if key in values else "" for values in ranges.values()] for key in keys}
    yield _table(("", *ranges, "meaning"), [(f"`{key}`", *cells[key], meanings.get(key, "")) for key in keys])


def _limit(found: _Environment) -> Iterator[str]:
    if found.task is not None and found.registered.name.endswith(_EXECUTING):
        task = found.task
        calls = -(-task.max_steps // task.execute)
        yield f"**Time limit**: {task.max_seconds:g} s, {task.max_steps} control steps, {calls} calls of `step`."


def _arguments(found: _Environment) -> Iterator[str]:
    made = [one for one in (found.single, found.many) if one is not None]
    kinds = [kind for one in made for kind in reversed(one.__mro__ if isinstance(one, type) else (one,))]
    meanings = {name: text for kind in kinds for name, text in entries(kind, "Args").items()}
    parameters = {name: one for kind in made for name, one in inspect.signature(kind).parameters.items()}
    rows = [
        (f"`{name}`{' (`make_vec`)' if name in _OF_MANY else ''}", f"`{one.default!r}`".replace("'", '"'),
         meanings.get(name, ""))
        for name, one in parameters.items()
        if name not in found.registered.kwargs and one.kind is not one.VAR_KEYWORD
    ]  # fmt: skip
    yield _table(("argument", "default", "meaning"), rows)
    if found.registered.id in _TASKS:
        yield f"And others, {meanings['kwargs'][0].lower()}{meanings['kwargs'][1:]}"


def _table(head: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _plain(value: Any) -> str:
    return str(yaml.safe_dump(to_plain(value), default_flow_style=True, width=10_000)).removesuffix("\n...\n").strip()
