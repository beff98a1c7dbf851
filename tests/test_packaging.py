"""What is shipped, what is locked, and what `make` promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked_versions() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line and not line.lstrip().startswith("#"):
            name, _, version = line.partition(";")[0].strip().partition("==")
            pins[canonicalize_name(name)] = version
    return pins


def test_lock_has_pins_and_nothing_else() -> None:
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[a-z0-9.+!]+( ; .+)?")
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert line.lstrip().startswith("#") or pin.fullmatch(line), f"not a plain pin: {line!r}"
        assert "://" not in line
        assert " @ " not in line


def test_lock_satisfies_what_the_project_asks_for() -> None:
    pins = locked_versions()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not locked; run `make lock`"
        assert requirement.specifier.contains(Version(pins[name])), f"{name}=={pins[name]} is locked, wanted {text}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_wheel_holds_packages_and_presets(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "rise = rise_agents.cli.main:main" in archive.read(entry_points).decode()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"rise_env", "rise_agents", "rise_robot"}
    shipped = {name.removeprefix("rise_env/configs/") for name in names if name.startswith("rise_env/configs/")}
    assert shipped == {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"{package}/py.typed" for package in ("rise_env", "rise_agents", "rise_robot")} <= set(names)


def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import rise_env.config as c; print(c.config_root()); print(*c.available_presets())"
    environment = {key: value for key, value in os.environ.items() if key != "RISE_CONFIG_ROOT"}
    environment["PYTHONPATH"] = str(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    root, presets = done.stdout.splitlines()
    assert Path(root) == tmp_path / "site" / "rise_env" / "configs"
    assert "brick_sorting" in presets.split()


def test_scripts_are_executable_and_parse() -> None:
    for name in (".ci/run", "scripts/setup.sh", "scripts/lock.sh"):
        assert os.access(ROOT / name, os.X_OK), f"{name} is not executable"
    for name in (".ci/run", "scripts/setup.sh", "scripts/lock.sh", "scripts/common.sh"):
        subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "lint", "clean"):
        assert f"make {target}" in done.stdout


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "type", "title", "authors"} <= set(citation)  # what the format asks for
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    (paper,) = citation["references"]
    number = paper["url"].removeprefix("https://arxiv.org/abs/")
    assert f"arXiv {number}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(set(one) == {"given-names", "family-names"} for one in paper["authors"])
