"""A task of a package that is not ours works in every command, with no edit in ours."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Stranger = Callable[..., subprocess.CompletedProcess[str]]

RISE = ("-m", "rise_agents.cli.main")


def test_a_plugin_is_found_and_listed(stranger: Stranger, tmp_path: Path) -> None:
    text = stranger(*RISE, "info", cwd=tmp_path).stdout
    for name in ("RISE-BlockPushing-v0", "RISE-BlockPushing-Cell-v0", "RISE-BlockPushing-Oracle-v0"):
        assert name in text
    assert "block_pushing" in text


def test_its_environment_is_made_by_its_id(stranger: Stranger, tmp_path: Path) -> None:
    code = """
        import gymnasium, rise_env
        from gymnasium.utils.env_checker import check_env

        env = gymnasium.make("RISE-BlockPushing-Cell-v0", preset="tiny")
        check_env(env.unwrapped, skip_render_check=True)
        env.reset(seed=3)
        state = env.unwrapped.save_state()
        chunk = env.unwrapped.scripted_chunk("expert")
        seen, *_ = env.step(chunk)
        env.unwrapped.restore_state(state)
        again, *_ = env.step(chunk)
        assert all((seen[key] == again[key]).all() for key in seen)
        while not (done := env.step(env.unwrapped.scripted_chunk("expert")))[2]:
            assert not done[3]
        assert done[4]["is_success"] and done[4]["progress"] == 1
    """
    stranger("-c", textwrap.dedent(code), cwd=tmp_path)


@pytest.fixture(scope="module")
def worked(stranger_commands: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which commands evaluated, recorded and filmed its policies, and what they printed."""
    folder = tmp_path_factory.mktemp("worked")
    tiny = "--task block_pushing --preset tiny"
    return folder, stranger_commands(
        *(f"evaluate {tiny} --policy {policy} --episodes 20 --json {policy}.json" for policy in ("expert", "operator")),
        f"record {tiny} --policy corrected --episodes 2 --tail-seconds 0.2 --preview 0 --out data",
        f"showcase {tiny} --episodes 1 --recorded 1 --out out --json out.json",
        cwd=folder,
    )  # fmt: skip


@pytest.mark.slow
def test_its_expert_succeeds_and_its_operator_less_often(worked: tuple[Path, str]) -> None:
    rates = {}
    for policy in ("expert", "operator"):
        rates[policy] = json.loads((worked[0] / f"{policy}.json").read_text())["success_rate"]
    assert rates["expert"] >= 0.95
    assert rates["operator"] <= rates["expert"] - 0.2


@pytest.mark.slow
def test_its_episodes_are_recorded(worked: tuple[Path, str]) -> None:
    assert "data: 2 episodes" in worked[1]


def test_its_oracle_environment_starts_where_its_operator_got_to(stranger: Stranger, tmp_path: Path) -> None:
    code = """
        import gymnasium, numpy, rise_env

        envs = gymnasium.make_vec(
            "RISE-BlockPushing-Oracle-v0", num_envs=2, preset="tiny", behaviour_policies=["operator"], latest_start=8,
            pool=2,
        )
        count = len(envs.unwrapped.starts)
        observations, infos = envs.reset(options={"start_index": [0, count - 1]})
        candidates = numpy.repeat(observations["state"][:, None, None], 8, axis=2)
        assert envs.unwrapped.evaluate_candidates(candidates).advantage.shape == (2, 1)
        assert abs(envs.step(candidates[:, 0])[1]).max() < 0.2
    """
    stranger("-c", textwrap.dedent(code), cwd=tmp_path)


@pytest.mark.slow
def test_its_policies_are_filmed(worked: tuple[Path, str]) -> None:
    folder, text = worked
    text = text.partition("data: 2 episodes")[2]
    for policy in ("expert", "operator", "operator-sloppy", "operator-hesitant", "corrected"):
        assert policy in text
        assert (folder / "out" / f"{policy}.mp4").is_file()
    assert (folder / "out" / "grid.png").is_file()
    assert (folder / "out" / "dataset" / "preview.mp4").is_file()
    assert set(json.loads((folder / "out.json").read_text())["results"]["expert"]) >= {"success_rate", "details"}
