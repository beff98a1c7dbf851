"""What can be plugged in: algorithms, policies, dynamics and value models, tasks and robot drivers.

A plug-in is an installed package with an entry point in the group `rise.plugins` that names a module. `import rise_env`
imports the module, which registers what it brings:

    from rise_env.registry import ALGORITHMS, DRIVERS, DYNAMICS, register_task

    ALGORITHMS.register("my_algorithm", "my_package.algorithm:MyAlgorithm")
    register_task("block_pushing", title="BlockPushing", cell="my_package.task:BlockPushing", configs=CONFIGS)

Targets are strings "module:Attribute" that are imported when they are first needed, so that `import rise_env` stays
light; `register` also works as a decorator. A plug-in that fails to import causes a warning and is named by `rise info`
and in the error about an unknown name; everything else keeps working.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError, unknown_name

__all__ = [
    "ALGORITHMS",
    "DRIVERS",
    "DYNAMICS",
    "PLUGIN_GROUP",
    "POLICIES",
    "REGISTRIES",
    "TASKS",
    "VALUES",
    "Registration",
    "Registry",
    "TaskRegistration",
    "load_object",
    "load_plugins",
    "no_cell",
    "plugin_config_roots",
    "plugin_errors",
    "register_configs",
    "register_task",
]

PLUGIN_GROUP = "rise.plugins"

#: Entry points that could not be loaded, with the reason.
_failed: dict[str, str] = {}
_loaded: set[str] = set()
#: The entry point that is being loaded.
_loading: str | None = None


@dataclass(frozen=True)
class Registration:
    """A name, its target ("module:Attribute" or the object), and the entry point that registered it, if one did."""

    name: str
    target: Any
    plugin: str | None = None

    @property
    def path(self) -> str:
        """Where the object is defined, "module:Attribute"; of a task, of its work cell or simulation, if it has one."""
        if isinstance(self.target, str):
            return self.target
        if isinstance(self.target, TaskRegistration):
            return self.target.cell or self.target.simulation or self.target.name
        return f"{self.target.__module__}:{self.target.__qualname__}"


class Registry:
    """Names of one `kind` of thing, e.g. "algorithm"; `builtin` are the targets of what comes with this package."""

    def __init__(self, kind: str, builtin: dict[str, str] | None = None) -> None:
        self.kind = kind
        self._known = {name: Registration(name, target) for name, target in (builtin or {}).items()}

    def register(self, name: str, target: Any = None) -> Callable[[Any], Any]:
        """Register a name; registering the same target again changes nothing.

        Args:
            name: Name, a Python identifier; dashes count as underscores.
            target: "module:Attribute", or the object; left out where this decorates a class or function.

        Raises:
            ConfigError: If the name is malformed or stands for something else already.
        """
        key = _key(name)
        if not key.isidentifier():
            raise ConfigError(f"{self.kind} {name!r} cannot be registered: the name must be an identifier")

        def decorator(found: Any) -> Any:
            new = Registration(key, found, _loading)
            old = self._known.setdefault(key, new)
            if old.target != new.target and old.path != new.path:
                raise ConfigError(f"{self.kind} {name!r} is registered already, as {old.path}; choose another name")
            return found

        if target is not None:
            decorator(target)
        return decorator

    def __contains__(self, name: str) -> bool:
        return _key(name) in self._known

    def __iter__(self) -> Iterator[Registration]:
        return iter(list(self._known.values()))

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._known)

    def find(self, name: str) -> Registration:
        """What a name stands for, not imported.

        Raises:
            ConfigError: If there is no such name; the message lists the known ones, and the plug-ins that failed.
        """
        if name not in self:
            raise ConfigError(self.unknown(name))
        return self._known[_key(name)]

    def load(self, name: str) -> Any:
        """The object that a name stands for.

        Raises:
            ConfigError: If there is no such name, or it cannot be imported.
        """
        target = self.find(name).target
        return load_object(target, f"{self.kind} {name!r}") if isinstance(target, str) else target

    def name_of(self, found: Any) -> str | None:
        """The name under which a class or function is registered, None if it is not; the inverse of `load`."""
        for one in self:
            module, _, attribute = one.path.partition(":")
            if found is one.target or found is getattr(sys.modules.get(module), attribute, None):
                return one.name
        return None

    def how_to_register(self, name: str, target: str) -> str:
        """The call that registers something, for messages."""
        variable = next(key.upper() for key, registry in REGISTRIES.items() if registry is self)
        return f"rise_env.registry.{variable}.register({_key(name)!r}, {target!r})"

    def unknown(self, name: str, also: Iterable[str] = ()) -> str:
        """Error message for an unknown name: the nearest name, all known ones and `also`, plug-ins that failed."""
        failed = "".join(f" Plug-in {plugin!r} could not be loaded: {why}." for plugin, why in _failed.items())
        return unknown_name(self.kind, _key(name), dict.fromkeys([*also, *self._known])) + failed


def load_object(target: str, what: str) -> Any:
    """The object "module:Attribute".

    Raises:
        ConfigError: If it cannot be imported; the message names `what` it is.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(f"{what} ({target}) cannot be imported: {type(error).__name__}: {error}") from error


def no_cell(task: str) -> str:
    """Error message for what acts in the work cell of a task that has none."""
    if task in TASKS and TASKS.find(task).target.simulation:
        return (
            f"task {task!r} has no work cell to act in, but a simulation of its own: `rise evaluate --task {task}` "
            f"counts successes there (two policies: --against), `rise record --task {task}` records a policy. `rise "
            "improve` works as for any task; `rise compare`, `rise demo` and agents that act in the work cell do not"
        )
    return (
        f"task {task!r} has no work cell to act in. What is possible instead: `rise improve`, whose report compares "
        "policies before and after in imagination and with recordings; the robot (`rise deploy --driver NAME`); a "
        "simulation of yours (`register_task(..., simulation=...)`, then `rise evaluate`)"
    )


def _key(name: str) -> str:
    return name.replace("-", "_")


@dataclass(frozen=True)
class TaskRegistration:
    """A task that environments are registered for; attributes as the arguments of `register_task`."""

    name: str
    title: str
    cell: str | None = None
    simulation: str | None = None

    def env_id(self, part: str = "") -> str:
        """Environment id: of imagination, or of the part "-Cell", "-Oracle", "-Sim" or "-Piper".

        Raises:
            ConfigError: If the task has no work cell or simulation, which the part needs.
        """
        needed = {"-Cell": self.cell, "-Oracle": self.cell, "-Sim": self.simulation}
        if part in needed and needed[part] is None:
            raise ConfigError(no_cell(self.name))
        return f"RISE-{self.title}{part}-v0"


#: Algorithms that improve a policy: `rise_agents.algorithms.base.Algorithm`.
ALGORITHMS = Registry(
    "algorithm",
    {
        "bc": "rise_agents.algorithms.bc:BC",
        "dagger": "rise_agents.algorithms.dagger:DAgger",
        "recap": "rise_agents.algorithms.recap:RECAP",
        "rise": "rise_agents.algorithms.rise:RISE",
        "selective_rise": "rise_agents.algorithms.selective_rise:SelectiveRISE",
        "worldsample": "rise_agents.algorithms.worldsample:WorldSample",
        "ppo": "rise_agents.algorithms.ppo:PPO",
        "dsrl": "rise_agents.algorithms.dsrl:DSRL",
    },
)
#: Policies, by the name that presets choose them by: `rise_agents.policies.base.Policy`.
POLICIES = Registry(
    "policy",
    {
        "flow": "rise_agents.policies.flow_policy:FlowPolicy",
        "pi05": "rise_agents.policies.pi05:Pi05Policy",
        "diffusion": "rise_agents.policies.lerobot_diffusion:LeRobotDiffusion",
        "smolvla": "rise_agents.policies.smolvla:SmolVLAPolicy",
        "steered": "rise_agents.policies.steered:SteeredPolicy",
    },
)
#: Dynamics models: `rise_env.protocols.Dynamics` with `save_pretrained` and `from_pretrained`.
DYNAMICS = Registry("dynamics model", {"latent": "rise_env.dynamics.model:LatentDynamics"})
#: Value models: `rise_env.protocols.Value` with `save_pretrained` and `from_pretrained`.
VALUES = Registry("value model", {"ensemble": "rise_env.value.model:ValueModel"})
#: Robot drivers: functions `(task, preset, overrides, robot, **options) -> rise_robot.drivers.base.Driver`.
DRIVERS = Registry(
    "driver", {"cell": "rise_robot.drivers.cell:make_driver", "ros": "rise_robot.drivers.ros:make_driver"}
)
#: Tasks with environment ids; made by `register_task`.
TASKS = Registry("task")

REGISTRIES = {
    "algorithms": ALGORITHMS, "policies": POLICIES, "dynamics": DYNAMICS, "values": VALUES,
    "tasks": TASKS, "drivers": DRIVERS,
}  # fmt: skip

_config_roots: list[Path] = []


def register_task(
    name: str, *, title: str | None = None, cell: str | None = None, simulation: str | None = None,
    configs: str | Path | None = None,
) -> TaskRegistration:  # fmt: skip
    """Make a task known, and register its environments with Gymnasium.

    `RISE-<title>-v0` (imagination) and `RISE-<title>-Piper-v0` (robot) always; `RISE-<title>-Cell-v0` and
    `RISE-<title>-Oracle-v0` where the task has a work cell; `RISE-<title>-Sim-v0` where it has a simulation of somebody
    else's.

    Args:
        name: Name of the task, an identifier.
        title: Name within the ids; the capitalised words of `name` when None.
        cell: "module:Class" of its `rise_robot.cell.task.CellTask`, if it is a task of the work cell.
        simulation: "module:Class" of its `rise_env.envs.simulation.Simulation`, if it is simulated elsewhere.
        configs: As for `register_configs`.

    Raises:
        ConfigError: If name or title are malformed or taken, or `configs` is no directory.
    """
    name = _key(name)
    found = TaskRegistration(name, title or "".join(word.capitalize() for word in name.split("_")), cell, simulation)
    if not found.title.isidentifier():
        raise ConfigError(f"task {name!r}: title {found.title!r} is not an identifier, e.g. 'BlockPushing'")
    known = [one.target for one in TASKS]
    for other in known:
        if other != found and found.name == other.name:
            raise ConfigError(f"task {name!r} is registered already, as {other}; choose another name")
        if other != found and found.title == other.title:
            raise ConfigError(f"task {name!r}: the title {found.title!r} belongs to task {other.name!r}")
    if configs is not None:
        register_configs(configs)
    TASKS.register(name, found)
    if found not in known:
        _register_environments(found)
    return found


def register_configs(folder: str | Path) -> None:
    """Search a directory for `<task>/<preset>.yaml`, `layouts/<name>.yaml` and `robots/<name>.yaml`, after our own.

    Raises:
        ConfigError: If there is no such directory.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"the directory of presets {path} does not exist")
    if path not in _config_roots:
        _config_roots.append(path)


def _register_environments(task: TaskRegistration) -> None:
    import gymnasium

    imagination = ("rise_env.envs.single:ImaginationEnv", "rise_env.envs.vector:ImaginationVectorEnv")
    robot = ("rise_robot.env:make_robot_env", "rise_robot.vector:RobotVectorEnv")
    ids: dict[str, tuple[str | None, str, bool]] = {"": (*imagination, False), "-Piper": (*robot, True)}
    if task.cell is not None:
        ids["-Cell"] = ("rise_robot.cell.env:CellEnv", "rise_robot.cell.vector:CellVectorEnv", False)
        ids["-Oracle"] = (None, "rise_robot.cell.oracle:OracleVectorEnv", False)
    if task.simulation is not None:
        ids["-Sim"] = ("rise_env.envs.simulation:SimulationEnv", "rise_env.envs.simulation:SimulationVectorEnv", True)
    for part, (single, vector, nondeterministic) in ids.items():
        simulation = {"simulation": task.simulation} if part == "-Sim" else {}
        gymnasium.register(
            task.env_id(part), single, vector_entry_point=vector, kwargs={"task": task.name, **simulation},
            nondeterministic=nondeterministic,
        )  # fmt: skip


def load_plugins() -> None:
    """Import every entry point of the group `rise.plugins` once; `import rise_env` calls this."""
    global _loading
    for entry in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        if entry.name in _loaded:
            continue
        _loaded.add(entry.name)
        _loading = entry.name
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  (one broken plug-in must not break the others)
            _failed[entry.name] = f"{type(error).__name__}: {error}"
            problem = f"RISE plug-in {entry.name!r} ({entry.value}) could not be loaded: {_failed[entry.name]}"
            warnings.warn(f"{problem}. Fix it or uninstall its package.", stacklevel=2)
        finally:
            _loading = None


def plugin_errors() -> dict[str, str]:
    """Plug-ins that could not be loaded, and why."""
    return dict(_failed)


def plugin_config_roots() -> list[Path]:
    """Directories of presets that plug-ins brought."""
    return list(_config_roots)
