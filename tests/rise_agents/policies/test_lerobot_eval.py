"""lerobot-eval with our environments and a policy that was exported: it finds the plug-in and loads the policy."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rise_agents.policies.lerobot_export import export_lerobot
from rise_agents.policies.resolve import resolve_policy
from rise_env.envs.reach import reach_spec

pytestmark = pytest.mark.slow  # LeRobot takes many seconds to import
PLUGIN = Path(__file__).resolve().parents[3] / "plugins" / "lerobot_env_rise"


def test_lerobot_eval_finds_the_plugin_and_evaluates_what_was_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_tiny: Callable[..., Path]
) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with the dev extra")
    (wheel,) = builder.WheelBuilder(str(PLUGIN)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    from lerobot.scripts import lerobot_eval

    policy = tmp_path / "policy"
    export_lerobot(resolve_policy(save_tiny(tmp_path / "theirs", reach_spec(), "diffusion"), spec=reach_spec()), policy)
    arguments = {
        "policy.path": policy, "policy.device": "cpu", "env.type": "rise", "env.task": "RISE-Reach-v0",
        "eval.n_episodes": 3, "eval.batch_size": 3, "output_dir": tmp_path / "out",
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["lerobot-eval", *(f"--{key}={value}" for key, value in arguments.items())])
    lerobot_eval.main()
    found = json.loads((tmp_path / "out" / "eval_info.json").read_text())["overall"]
    assert found["n_episodes"] == 3
    assert found["pc_success"] == 0.0
    assert len(found["video_paths"]) == 3
