"""The folder `examples`: every script runs, at a small size, and so does every cell of the notebook."""

from __future__ import annotations

import ast
import importlib.util
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> Callable[..., Any]:
    """The function `main` of an example."""
    return runpy.run_path(str(EXAMPLES / name))["main"]  # type: ignore[no-any-return]


def test_imagine() -> None:
    advantages = load("imagine.py")(num_envs=8)
    assert advantages["recorded"] > advantages["still"]


def test_sb3_ppo(capsys: pytest.CaptureFixture[str]) -> None:
    assert np.isfinite(load("sb3_ppo.py")(timesteps=512))
    assert "after 512 imagined chunks" in capsys.readouterr().out


def test_own_dataset(
    real_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    load("own_dataset.py")(str(real_dataset))
    assert (tmp_path / "tasks/my_robot/small.yaml").is_file()
    assert "windows of" in capsys.readouterr().out


def test_own_robot() -> None:
    infos = load("own_robot.py")(driver="cell")
    assert infos["stop_reason"].tolist() == [""]
    assert infos["outcome_source"].tolist() == ["scene"]


def test_evaluate_own_policy() -> None:
    change = load("evaluate_own_policy.py")(episodes=1, num_envs=1)
    assert change.episodes == 1
    assert change.gain <= 0  # nobody sorts bricks by holding still


def test_the_notebook() -> None:
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # outputs are stripped
            assert cell["execution_count"] is None
            shown.append(run_cell("".join(cell["source"]), names))
    assert shown[1].shape == (8,)
    assert np.ndim(shown[3]) == 1
    assert shown[3][0] > shown[3][-1]
    assert shown[4].size[0] > 100


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell, and give the value of its last line, as Jupyter does."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307


def test_no_example_hides_a_module() -> None:
    """Python looks for modules beside the script first."""
    assert [file.name for file in EXAMPLES.glob("*.py") if importlib.util.find_spec(file.stem)] == []


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [file.name for file in EXAMPLES.iterdir() if file.is_file() and f'"{file.name}"' not in tested] == []
