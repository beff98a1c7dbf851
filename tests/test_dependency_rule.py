"""Who may import whom: packages, files and names.

rise_env knows neither agents nor robots, rise_robot knows no agents, and only the command line puts them together.
Nothing imports benchmarks. Files import each other in one direction, and no file imports a private name of another.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rise_env", "rise_agents", "rise_robot", "benchmarks")
HEAVY = (
    "accelerate", "av", "datasets", "diffusers", "draccus", "imageio", "lerobot", "matplotlib", "mujoco", "pandas",
    "pyarrow", "ray", "scipy", "stable_baselines3", "tensorboard", "torch", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """An import statement: the module, the name taken from it (if any), and whether it is for type checkers only."""

    line: int
    module: str
    name: str | None = None
    types_only: bool = False


def forbidden(module: str) -> tuple[str, ...]:
    """Packages that a module must not import."""
    if module.startswith("rise_env"):
        return ("rise_agents", "rise_robot", "benchmarks")
    if module.startswith("rise_robot"):
        return ("rise_agents", "benchmarks")
    if module.startswith("rise_agents.cli"):
        return ("benchmarks",)
    if module.startswith("rise_agents.pipelines"):  # with the command line the composition root
        return ("rise_agents.cli", "benchmarks")
    if module.startswith("rise_agents"):
        return ("rise_agents.cli", "rise_agents.pipelines", "rise_robot", "benchmarks")
    return ("rise_agents.cli",)


def inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Whatever is imported, anywhere in the source: in functions and for type checkers as well."""
    yield from _imports(ast.parse(source), module, is_package, types_only=False)


def _imports(node: ast.AST, module: str, is_package: bool, types_only: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _imports(child, module, is_package, True)
        for child in node.orelse:
            yield from _imports(child, module, is_package, types_only)
        return
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(node.lineno, alias.name, None, types_only)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = module.split(".")
            base = ".".join([*parents[: len(parents) - node.level + is_package], *([base] if base else [])])
        for alias in node.names:
            yield Import(node.lineno, base, alias.name, types_only)
    elif isinstance(node, ast.Call) and node.args:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        target = node.args[0]
        if name in ("import_module", "__import__") and isinstance(target, ast.Constant):
            yield Import(node.lineno, str(target.value), None, types_only)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, module, is_package, types_only)


def read_tree(root: Path) -> dict[str, tuple[str, list[Import]]]:
    """Source and imports of every module of our packages."""
    tree = {}
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text(encoding="utf-8")
        tree[name] = source, list(imports_of(source, name, path.name == "__init__.py"))
    return tree


TREE = read_tree(ROOT)


def target_of(one: Import, modules: Iterable[str]) -> str | None:
    """Our own file that an import reads."""
    if one.name is not None and f"{one.module}.{one.name}" in modules:
        return f"{one.module}.{one.name}"
    return one.module if one.module in modules else None


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Files that reach each other by imports, group by group."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        queue = [start]
        while queue:
            for other in edges.get(queue.pop(), set()) - seen:
                seen.add(other)
                queue.append(other)
        reach[start] = seen
    groups = {tuple(sorted(b for b in reach[a] if a in reach.get(b, set()))) for a in edges if a in reach[a]}
    return sorted(list(group) for group in groups)


def test_there_is_something_to_check() -> None:
    assert all(sum(inside(module, [package]) for module in TREE) > 5 for package in PACKAGES)


def test_imports_point_downwards() -> None:
    wrong = [
        f"{module} imports {one.module}"
        for module, (_, imports) in TREE.items()
        for one in imports
        if inside(one.module, forbidden(module)) or inside(f"{one.module}.{one.name}", forbidden(module))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_a_private_name() -> None:
    wrong = set()
    for module, (source, imports) in TREE.items():
        aliases = set()
        for one in imports:
            if not inside(one.module, PACKAGES):
                continue
            if one.name is not None and one.name.startswith("_"):
                wrong.add(f"{module} imports {one.module}.{one.name}")
            if one.name is not None and f"{one.module}.{one.name}" in TREE:
                aliases.add(one.name)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                if owner in aliases or owner in TREE:
                    wrong.add(f"{module} uses {owner}.{node.attr}")
    assert not wrong, "\n".join(wrong)


def test_files_import_each_other_in_one_direction() -> None:
    edges = {
        module: {found for one in imports if not one.types_only and (found := target_of(one, TREE))}
        for module, (_, imports) in TREE.items()
    }
    wrong = [f"circle: {', '.join(group)}" for group in cycles(edges)]
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
    assert [one.module for one in imports_of(source, "rise_env.data.windows") if one.module != "importlib"] == [
        expected
    ]


def test_relative_imports_of_a_package_start_at_the_package() -> None:
    found = list(imports_of("from . import a\nfrom .b import c", "rise_env.data", is_package=True))
    assert found == [Import(1, "rise_env.data", "a"), Import(2, "rise_env.data.b", "c")]


def test_imports_for_type_checkers_are_told_apart() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b"
    assert [(one.module, one.types_only) for one in imports_of(source, "m")][1:] == [("a", True), ("b", False)]


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert cycles(edges) == [["b", "c"], ["e"]]


@pytest.mark.parametrize("module", ["rise_env", "rise_env.provenance", "rise_agents.cli.main"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
