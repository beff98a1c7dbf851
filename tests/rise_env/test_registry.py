"""Registries, plug-ins found through entry points, and registered tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rise_env.errors import ConfigError
from rise_env.registry import REGISTRIES, Registry, load_object

BROKEN = "raise RuntimeError('no licence found')"
WORKING = """
from pathlib import Path
from rise_env.registry import ALGORITHMS, register_task

ALGORITHMS.register("theirs", "theirs_late:Algorithm")
register_task("block-pushing", cell="theirs_late:Cell", configs=Path(__file__).parent / "presets")
"""
TASK = """
task: {name: block_pushing, prompt: Push., cameras: [head], image_size: [8, 8], layout: piper_bimanual,
       fps: 10, chunk: 4, stride: 2, history: 2, execute: 2, max_seconds: 5.0}
"""


@pytest.fixture
def registry() -> Registry:
    return Registry("thing", {"ratio": "fractions:Fraction"})


def test_builtin_names_are_imported_on_demand(registry: Registry) -> None:
    import fractions

    assert registry.names() == ["ratio"]
    assert "ratio" in registry
    assert registry.find("ratio").target == "fractions:Fraction"
    assert registry.load("ratio") is fractions.Fraction


def test_register_as_function_and_as_decorator(registry: Registry) -> None:
    registry.register("by-path", "fractions:Fraction")

    @registry.register("decorated")
    class Decorated:
        pass

    assert registry.load("decorated") is Decorated
    assert registry.names() == ["ratio", "by_path", "decorated"]
    assert registry.load("by-path") is registry.load("by_path") is registry.load("ratio")
    assert [one.path for one in registry][-1].endswith("Decorated")
    assert all(one.plugin is None for one in registry)


def test_a_name_stands_for_one_target(registry: Registry) -> None:
    registry.register("ratio", "fractions:Fraction")
    with pytest.raises(ConfigError, match="'ratio' is registered already, as fractions:Fraction"):
        registry.register("ratio", "decimal:Decimal")
    assert registry.find("ratio").path == "fractions:Fraction"
    with pytest.raises(ConfigError, match="must be an identifier"):
        registry.register("two words", "decimal:Decimal")


def test_unknown_names_get_a_hint(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"unknown thing 'ratoi'\. Did you mean 'ratio'\? Known: ratio\."):
        registry.load("ratoi")


@pytest.mark.parametrize("target", ["no_such_module:Thing", "fractions:Thing"])
def test_targets_that_cannot_be_imported_are_named(target: str) -> None:
    with pytest.raises(ConfigError, match=f"algorithm 'x' \\({target}\\) cannot be imported"):
        load_object(target, "algorithm 'x'")


@pytest.mark.parametrize("kind", [kind for kind in REGISTRIES if kind != "tasks"])
def test_every_builtin_can_be_imported(kind: str) -> None:
    for one in REGISTRIES[kind]:
        assert REGISTRIES[kind].load(one.name) is not None


def install(site: Path, name: str, source: str) -> None:
    """What pip leaves of a plug-in with one module."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rise.plugins]\n{name} = {name}\n")


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    prelude = f"import sys; sys.path.insert(0, {str(site)!r})\nimport rise_env\n"
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_plugins_are_found_through_entry_points(tmp_path: Path) -> None:
    install(tmp_path, "theirs", WORKING)
    install(tmp_path, "broken", BROKEN)
    (tmp_path / "presets/block_pushing").mkdir(parents=True)
    (tmp_path / "presets/block_pushing/small.yaml").write_text(TASK)
    done = run(
        tmp_path,
        """
import gymnasium
from gymnasium.envs.registration import EnvSpec
from rise_env.config import available_presets, config_roots
from rise_env.errors import ConfigError
from rise_env.registry import ALGORITHMS, TASKS, load_plugins, plugin_errors
from rise_env.tasks import load_task

heavy = {"torch", "mujoco", "lerobot", "draccus"} & set(sys.modules)
assert heavy <= {"draccus"} and "theirs_late" not in sys.modules, heavy
assert ALGORITHMS.find("theirs").plugin == "theirs" and ALGORITHMS.find("rise").plugin is None
assert TASKS.find("block_pushing").plugin == "theirs"
assert TASKS.find("block_pushing").path == "theirs_late:Cell"
assert load_task("block_pushing").fps == 10 and "block_pushing" in available_presets()
assert len(config_roots()) == 2
assert plugin_errors() == {"broken": "RuntimeError: no licence found"}
load_plugins()  # nothing a second time
try:
    ALGORITHMS.load("thiers")
except ConfigError as error:
    print(error)
for part in ("", "-Piper", "-Cell", "-Oracle"):
    spec = gymnasium.spec(f"RISE-BlockPushing{part}-v0")
    assert spec.kwargs == {"task": "block_pushing"}
    assert EnvSpec.from_json(spec.to_json()).kwargs == spec.kwargs
""",
    )
    assert "Did you mean 'theirs'?" in done.stdout
    assert "Plug-in 'broken' could not be loaded: RuntimeError: no licence found." in done.stdout
    assert done.stderr.count("RISE plug-in 'broken' (broken) could not be loaded") == 1


def test_tasks_are_registered_once(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
import warnings
import gymnasium
from rise_env import register_task
from rise_env.errors import ConfigError
from rise_env.registry import TASKS, plugin_config_roots

warnings.simplefilter("error")  # Gymnasium warns of an id that is overridden
first = register_task("hanging")
assert register_task("hanging") == first and first.title == "Hanging"
assert "RISE-Hanging-v0" in gymnasium.registry and "RISE-Hanging-Cell-v0" not in gymnasium.registry
assert TASKS.find("hanging").path == "hanging"
for name, kwargs in [
    ("hanging", {"cell": "a:B", "configs": "."}), ("hanging_up", {"title": "Hanging"}), ("two words", {}),
    ("fine", {"title": "not fine"}), ("fine", {"configs": "/nowhere"}),
]:
    try:
        register_task(name, **kwargs)
    except ConfigError as error:
        print(error)
    else:
        raise AssertionError(name)
assert "fine" not in TASKS and plugin_config_roots() == []
""",
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for line, words in zip(
        lines,
        ["registered already", "belongs to task 'hanging'", "identifier", "'not fine'", "does not exist"],
        strict=True,
    ):
        assert words in line
