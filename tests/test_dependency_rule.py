"""rise_env knows neither agents nor robots, rise_robot knows no agents; only the command line puts them together."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rise_env", "rise_agents", "rise_robot")
HEAVY = (
    "accelerate", "av", "datasets", "diffusers", "draccus", "imageio", "lerobot", "matplotlib", "mujoco", "pandas",
    "pyarrow", "ray", "scipy", "stable_baselines3", "tensorboard", "torch", "transformers",
)  # fmt: skip


def forbidden_packages(module: str) -> frozenset[str]:
    if module.startswith("rise_env"):
        return frozenset({"rise_agents", "rise_robot"})
    if module.startswith("rise_robot"):
        return frozenset({"rise_agents"})
    if module.startswith("rise_agents.cli"):
        return frozenset()
    return frozenset({"rise_robot"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of whatever is imported, anywhere in the source: in functions and for types as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parents = module.split(".")
                base = parents[: len(parents) - node.level + is_package]
                yield node.lineno, ".".join([*base, *([node.module] if node.module else [])])
            else:
                yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0]
            if name in ("import_module", "__import__") and isinstance(target, ast.Constant):
                yield node.lineno, str(target.value)


def test_imports_point_downwards() -> None:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(paths) > 5
    wrong = []
    for path in paths:
        module = module_name(path)
        forbidden = forbidden_packages(module)
        for line, name in imported_modules(path.read_text(encoding="utf-8"), module, path.name == "__init__.py"):
            if name.split(".")[0] in forbidden:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import rise_robot.env as env", "rise_robot.env"),
        ("from rise_robot import env", "rise_robot"),
        ("def late():\n    from rise_robot.cell import x", "rise_robot.cell"),
        ("from . import sibling", "rise_env.data"),
        ("from ..tasks import TaskSpec", "rise_env.tasks"),
        ("import importlib\nimportlib.import_module('rise_robot')", "rise_robot"),
    ],
)
def test_every_way_to_import_is_seen(source: str, expected: str) -> None:
    assert expected in [name for _, name in imported_modules(source, "rise_env.data.windows", is_package=False)]


def test_relative_imports_of_a_package_start_at_the_package() -> None:
    assert list(imported_modules("from . import a\nfrom .b import c", "rise_env.data", is_package=True)) == [
        (1, "rise_env.data"),
        (2, "rise_env.data.b"),
    ]


@pytest.mark.parametrize("module", ["rise_env", "rise_env.provenance", "rise_agents.cli.main"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
