"""Every Python block of every page runs: here, in a test of the page's own, or it is marked `<!-- not run: REASON -->`.

The blocks of a page run one after the other, as a reader would run them. What takes long is cut short by `SHORTER`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.served import PolicyService
from rise_env.tasks import load_task
from rise_robot.serving import PolicyServer, ServerConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Pages with a test of their own, which runs their blocks.
OWN = {
    "add_a_robot.md", "add_a_task.md", "add_a_world_model.md", "add_an_algorithm.md", "plugins.md",
    "stable_baselines3.md",
}  # fmt: skip
#: Texts of pages, and what takes less time.
SHORTER = {
    "README.md": {
        'difficulty="normal"': 'difficulty="normal", preset="tiny"',
        "num_envs=8": "num_envs=2",
        "num_envs=32": "num_envs=4",
        "20_000": "8",
    },
    "simulator.md": {
        "num_envs=64": "num_envs=8",
        "reach_policy()": "reach_policy(updates=4)",
        "12_000": "64",
        "512": "64",
    },
    "serving.md": {"8000": "PORT"},
}
Blocks = Callable[[Path], list[tuple[str, str]]]


def python_blocks(page: Path, code_blocks: Blocks) -> list[str]:
    shorter, texts = SHORTER.get(page.name, {}), []
    shown = [text for language, text in code_blocks(page.relative_to(ROOT)) if language == "python"]
    for old in shorter:
        assert any(old in text for text in shown), f"{page.name} no longer has {old}"
    for text in shown:
        for old, new in shorter.items():
            text = text.replace(old, new)
        texts.append(text)
    return texts


@pytest.fixture
def names(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a page takes for granted."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    page = request.node.callspec.params["page"].name
    if page == "check.md":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "ours").symlink_to(request.getfixturevalue("real_dataset"))
    if page == "serving.md":
        torch.manual_seed(0)
        network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
        policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(), steps=2))
        service = PolicyService(policy)
        with PolicyServer(service, ServerConfig(port=0)) as server:
            yield {"policy": service, "observation": service.example(), "PORT": server.port}
        return
    yield found
    for value in found.values():
        if isinstance(value, gymnasium.Env | gymnasium.vector.VectorEnv):
            value.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in OWN], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, code_blocks: Blocks, names: dict[str, Any]) -> None:
    for number, text in enumerate(python_blocks(page, code_blocks), start=1):
        exec(compile(text, f"{page.name}, Python block {number}", "exec"), names)  # noqa: S102
    if page.name == "README.md":
        assert names["info"]["failure_mode"] == "none"  # the expert's episode
        assert names["advantages"].shape == (2,)
        assert all((Path("runs") / name).is_dir() for name in ("selective_rise", "ppo", "dsrl"))
    if page.name == "simulator.md":
        assert np.isfinite(names["advantages"]).all()


def test_pages_with_a_test_of_their_own_have_one() -> None:
    for name in OWN:
        test = ROOT / "tests" / "docs" / f"test_{name.removesuffix('.md')}.py"
        assert f"docs/{name}" in test.read_text(encoding="utf-8")


def test_what_does_not_run_says_why() -> None:
    """`grep -rn "^<!-- not run:" README.md docs` lists them; the number is here so that it does not grow unseen."""
    lines = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    marks = [line for line in lines if line.lstrip().startswith("<!-- not run")]
    assert all(re.fullmatch(r"<!-- not run: \w.+ -->", line) for line in marks)
    assert len(marks) == 5
