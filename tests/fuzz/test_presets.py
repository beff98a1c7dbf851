"""Whatever is in a YAML file or an override: an error of ours, or settings; never a raw error or a hang."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.pipelines.compare_config import load_compare_config
from rise_agents.pipelines.config import load_demo_config
from rise_agents.policies.config import load_policy_config
from rise_agents.training.presets import load_agent_preset
from rise_env.config import config_root, load_config, load_yaml
from rise_env.dynamics.config import load_dynamics_config
from rise_env.tasks import load_task
from rise_env.value.config import load_value_config
from rise_robot.cell.config import load_cell
from rise_robot.config import load_robot
from tests.fuzz.fuzzing import WRONG, budget, damaged, mutate, places, survives

SECTIONS: dict[str, Callable[..., Any]] = {
    "task": load_task, "cell": load_cell, "dynamics": load_dynamics_config, "value": load_value_config,
    "policy": load_policy_config, "demo": load_demo_config,
}  # fmt: skip
FILES: dict[str, Callable[[str], Any]] = {
    "brick_sorting/agent/selective_rise": lambda path: load_agent_preset(path, "brick_sorting"),
    "brick_sorting/compare/short": lambda path: load_compare_config(path, "brick_sorting"),
    "layouts/piper_bimanual": lambda path: load_task("brick_sorting", "tiny", [f"task.layout={path}"]),
    "robots/piper": load_robot,
}


def write(draw: Any, path: Path, document: Any) -> str:
    text = yaml.safe_dump(mutate(draw, document), allow_unicode=True).encode()
    path.write_bytes(damaged(draw, text) if draw(st.integers(0, 3)) == 0 else text)
    return str(path)


@given(data=st.data())
@budget(8)
@pytest.mark.parametrize("section", SECTIONS)
def test_section(tmp_path: Path, section: str, data: Any) -> None:
    preset = load_config("brick_sorting", "tiny")
    content = {name: preset[name] for name in {"task", section} if name in preset}
    path = write(data.draw, tmp_path / "preset.yaml", content)
    survives(lambda: SECTIONS[section](path), tmp_path)


@given(data=st.data())
@budget(8)
@pytest.mark.parametrize("name", FILES)
def test_file(tmp_path: Path, name: str, data: Any) -> None:
    path = write(data.draw, tmp_path / "file.yaml", load_yaml(config_root() / f"{name}.yaml"))
    survives(lambda: FILES[name](path), tmp_path)


@given(data=st.data())
@budget(20)
def test_override(tmp_path: Path, data: Any) -> None:
    section = data.draw(st.sampled_from(sorted(SECTIONS)))
    content = load_config("brick_sorting", "tiny").get(section, {})
    path = data.draw(st.sampled_from(sorted(places(content), key=str)))
    value = data.draw(st.one_of(st.sampled_from(WRONG).map(str), st.text(max_size=8)))
    override = f"{'.'.join(map(str, (section, *path)))}={value}"
    survives(lambda: SECTIONS[section]("brick_sorting", "tiny", [override]), tmp_path)
