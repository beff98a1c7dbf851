"""What all tests share: one thread per process, no network, bytecode, and the reasons for which some cannot run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

# Before NumPy and torch are imported. Several pytest-xdist workers share the cores; the Hub is never asked.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Many tests start interpreters: where no bytecode is kept, each compiles torch, LeRobot and transformers again (16 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples in every run, however slow the machine is.
settings.register_profile("rise", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("rise")

ROOT = Path(__file__).resolve().parent.parent


def _missing(marker: str) -> str | None:
    """Why tests with a marker cannot run here, if they cannot."""
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "needs a CUDA device; torch.cuda.is_available() is False"
    return None if importlib.util.find_spec("rospy") else "needs ROS 1 (no module rospy): make ros"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine lacks the hardware or software for; slow files first, so that workers end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for marker in ("gpu", "ros"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing(marker) if marked else None
        for item in marked if reason else ():
            item.add_marker(pytest.mark.skip(reason=str(reason)))
    # The longest files first: two workers then end at about the same time.
    items.sort(key=lambda item: not item.path.name.startswith("test_strangers_"))


@pytest.fixture(scope="session")
def real_dataset() -> Path:
    """A recorded LeRobot dataset: RISE_REAL_DATASET, or shared/data/g1_bottle beside the checkout."""
    named = os.environ.get("RISE_REAL_DATASET")
    path = Path(named) if named else ROOT.parent / "shared" / "data" / "g1_bottle"
    if not (path / "meta" / "info.json").is_file():
        where = "RISE_REAL_DATASET" if named else "../shared/data/g1_bottle"
        pytest.skip(f"no LeRobot dataset at {where} (meta/info.json is missing); set RISE_REAL_DATASET to one")
    return path


@pytest.fixture(scope="session")
def stranger_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where the package of `tests/plugin` is installed: its wheel is built and unpacked, as pip does."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the dev extra")
    folder = tmp_path_factory.mktemp("stranger")
    (wheel,) = builder.WheelBuilder(str(ROOT / "tests" / "plugin")).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def stranger(stranger_site: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`stranger(*arguments, cwd=DIR)` runs Python where the package of `tests/plugin` is installed beside ours.

    `stranger("-m", "rise_agents.cli.main", "info", cwd=tmp_path)` is `rise info` there. The result has `returncode`,
    `stdout` and `stderr`; unless `check=False`, a failure fails the test and shows both.
    """

    def run(*arguments: str, cwd: Path, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(stranger_site), str(ROOT)])}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=timeout)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run


_COMMANDS = """
import shlex, sys
import rise_robot.cell.env as cell
from rise_agents.cli.main import main
cell._RENDER_HEIGHT, cell._RENDER_WIDTH = 36, 48
for line in sys.argv[1:]:
    if code := main(shlex.split(line)):
        sys.exit(f"rise {line}: it ended with {code}")
"""


@pytest.fixture(scope="session")
def stranger_commands(stranger: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """`stranger_commands("info", "evaluate --policy expert", cwd=DIR)` is `rise info` and `rise evaluate ...` there.

    One process runs them all: to import torch and LeRobot takes longer than most commands. Films are small. Gives what
    they printed.
    """

    def run(*lines: str, cwd: Path, timeout: float = 240) -> str:
        return stranger("-c", _COMMANDS, *lines, cwd=cwd, timeout=timeout).stdout

    return run
