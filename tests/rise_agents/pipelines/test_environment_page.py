"""Pages about environments: complete, and true to the environments."""

from __future__ import annotations

import re

import gymnasium
import pytest

from rise_agents.cli.main import main
from rise_agents.pipelines.environment_page import environment_ids, environment_page, environment_table
from rise_env.errors import ConfigError

SECTIONS = ("Description", "Action space", "Observation space", "Rewards", "Starting state", "Episode end",
            "Information", "Arguments", "Version history")  # fmt: skip


@pytest.mark.parametrize("name", environment_ids())
def test_every_page_answers_every_question(name: str) -> None:
    page = environment_page(name)
    assert tuple(re.findall(r"^## (.*)$", page, re.MULTILINE)) == SECTIONS
    arguments = page[page.index("## Arguments") : page.index("## Version")]
    assert re.findall(r"^\| `\w+`.* \|  \|$", arguments, re.MULTILINE) == []
    for made in re.findall(r"`gymnasium\.(make\w*)\(", page):
        assert hasattr(gymnasium, made)
    assert "make(" in page.split("##")[0] or gymnasium.spec(name).entry_point is None


def test_spaces_and_arguments_are_those_of_the_environment() -> None:
    with gymnasium.make("RISE-Reach-v0") as env:
        page = environment_page("RISE-Reach-v0")
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        for key, space in env.observation_space.spaces.items():
            assert f"| `{key}` | {space.shape} | {space.dtype} |" in page
        assert f"`Box(shape={env.action_space.shape}, dtype=float32)`" in page
        assert "| 1 | `tilt` | rad | -1.2 | 1.2 |" in page
    assert "| `num_starts` | `1024` | Start states to draw" in page
    assert "| `num_envs` (`make_vec`) | `1` | Number" in page


def test_a_task_of_the_cell_says_what_is_drawn_and_what_fails() -> None:
    page = environment_page("RISE-BrickSorting-Cell-v0")
    assert "| `belt_speed` | [0.03, 0.05] | [0.05, 0.09] | [0.05, 0.11] | Slowest and fastest belt, m/s. |" in page
    assert "**Failures**: `wrong_bin`" in page
    assert "12 s, 120 control steps, 15 calls" in page
    assert "belt_speed" not in environment_page("RISE-BrickSorting-v0")  # imagination starts from recorded states


def test_a_task_without_a_cell_has_a_page(hanging: str) -> None:
    assert (
        "| **Hanging** |  | [imagination](RISE-Hanging-v0.md), [robot](RISE-Hanging-Piper-v0.md) |"
        in environment_table()
    )
    assert "bundle's task" in environment_page("RISE-Hanging-v0")
    assert "RISE-Hanging-Cell" not in environment_table()


def test_unknown_ids_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'RISE-Reach-v0'"):
        environment_page("RISE-Reach-v1")
    assert main(["info", "--environment", "RISE-Reach-v0"]) == 0
    assert capsys.readouterr().out == environment_page("RISE-Reach-v0") + "\n"
    assert main(["info", "--environment"]) == 0
    assert "RISE-Imagination-v0" in capsys.readouterr().out
