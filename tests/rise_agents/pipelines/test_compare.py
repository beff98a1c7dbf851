"""A comparison, whole but tiny: a policy that knows nothing, a world model without weights; killed, it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rise_agents.cli.main import main
from rise_agents.pipelines.compare_config import load_compare_config
from rise_env.errors import ConfigError

SETTINGS = """
preset: tiny
chunks: 64
episodes: 2
curve_points: 2
imagined_states: 4
recordings: [{policy: base, episodes: 3, seed: 70000}, {policy: expert, episodes: 3, seed: 170000}]
variants:
  base: {note: where all start}
  best_of_n: {best_of: 2, note: nothing trained}
  bc: {agent: bc, config: {batch_size: 8}}
  rise: {agent: rise, chunks: 320, config: {batch_size: 16, epochs: 1}}
  broken: {agent: selective_rise, note: scores start states and no more}
not_run: {bins_5: another policy}
"""

RUNS = Path("runs") / "brick_sorting"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, policy: Path, bundle: Path) -> list[str]:
    """The command."""
    file = tmp_path_factory.mktemp("compare") / "tiny.yaml"
    file.write_text(SETTINGS, encoding="utf-8")
    return ["compare", str(file), "--policy", str(policy), "--bundle", str(bundle), "--jobs", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, given: list[str], light_work: None) -> Path:
    """A comparison that nothing interrupted, but of whose runs one cannot end well."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*given, "--out", str(out)]) == 2
    return out


def weights(out: Path, run: str) -> bytes:
    return (out / RUNS / run / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_run_has_a_folder_and_the_table_holds_them_all(whole: Path) -> None:
    content = json.loads((whole / "comparison.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == ["base", "best_of_n", "bc", "rise"]
    assert all(row["episodes"] == 2 and 0 <= row["score"] <= 10 for row in rows.values())
    assert [rows[name]["cost"]["imagined_chunks"] for name in ("base", "best_of_n", "bc")] == [0, 0, 0]
    assert 320 <= rows["rise"]["cost"]["imagined_chunks"] < 384
    assert rows["bc"]["cost"]["recorded_chunks"] == 64
    assert rows["rise"]["cost"]["train_seconds"] > 0
    assert rows["base"]["gain"] is None
    assert all(np.isfinite(list(rows[name]["imagined_gain"].values())).all() for name in ("bc", "rise", "best_of_n"))
    assert list(content["failed"]) == ["broken 0"]
    assert "larger budget" in content["failed"]["broken 0"]
    assert {"git", "hardware", "seed", "command"} <= set(content["provenance"])
    rise = whole / RUNS / "rise-0"
    curve = json.loads((rise / "curve.json").read_text())
    assert len(curve) == 2
    assert 160 <= curve[0]["chunks"] < curve[1]["chunks"] == rows["rise"]["cost"]["imagined_chunks"]
    imagined = json.loads((rise / "imagined.json").read_text())
    assert len(imagined["returns"]) == 4
    assert curve[-1]["imagined_return"] == pytest.approx(imagined["mean"], abs=0.01)  # saved in fp16
    board = EventAccumulator(str(rise / "tensorboard")).Reload()
    assert {"train/loss", "eval/imagined_return", "time/real_steps"} <= set(board.Tags()["scalars"])
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert page.count("<video") == 4
    for part in ("Return in imagination", "bins_5", "broken 0", "nothing trained"):
        assert part in page, part
    assert "| rise |" in (whole / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_comparison_goes_on_to_the_same_weights(tmp_path: Path, given: list[str], whole: Path) -> None:
    out = tmp_path / "killed"
    for done in ("data", RUNS / "base"):
        shutil.copytree(whole / done, out / done)
    given = [*given, "--out", str(out), "--only", "rise"]
    process = subprocess.Popen([sys.executable, "-m", "rise_agents.cli.main", *given], stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: (out / RUNS / "rise-0" / "config.json").exists() or process.poll() is not None)
        assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _wait(lambda: not any(_alive(child) for child in children))  # nothing goes on writing
    assert not (out / RUNS / "rise-0" / "run.json").exists()
    assert main(given) == 0
    assert weights(out, "rise-0") == weights(whole, "rise-0")
    before = [(path, path.stat().st_mtime_ns) for path in sorted((out / "runs").rglob("*")) if path.is_file()]
    assert main(given) == 0  # all is done: only the report is written again
    assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_comparison_is_not_mixed_in(given: list[str], whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*given, "--out", str(whole)]
    for more, changed in (
        (["--set", "episodes=3"], "episodes"),
        (["--set", "variants.rise.chunks=640"], "variant rise"),
    ):
        assert main([*given, *more]) == 2
        assert f"other settings ({changed})" in capsys.readouterr().err
    import fcntl

    with (whole / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(given) == 2
    assert "another process" in capsys.readouterr().err


def _wait(condition: Any, seconds: float = 500.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_shipped_settings_are_sound() -> None:
    small = dict.fromkeys(("backpack_packing", "box_closing"), ("short", "full"))
    shipped = {"brick_sorting": ("short", "full", "ablations"), **small}
    for task, name in ((task, name) for task, names in shipped.items() for name in names):
        found = load_compare_config(name, task)
        assert found.tasks == (task,)
        trained = [seed for one in found.recorded(task) for seed in range(one.seed, one.seed + one.episodes)]
        for first, count in ((found.first_episode, found.episodes), (found.curve_seed, found.curve_episodes)):
            assert not set(trained) & set(range(first, first + count)), name
        assert not set(found.not_run) & set(found.variants)
    short, full = (load_compare_config(name, "brick_sorting") for name in ("short", "full"))
    assert set(short.variants) < set(full.variants)
    assert full.variants["bc"].config == {"conditioned": False}  # merged, not replaced
    assert full.agent(full.variants["shuffled"], 2, "brick_sorting").config["seed"] == 2


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("variants.rise.chunsk=3", "variant 'rise': unknown key 'chunsk'. Did you mean 'chunks'"),
        ("variants.rise.agent=rize", "Did you mean 'rise'"),
        ("variants.rise.config.horizn=1", "horizon"),
        ("variants.bc.against=rise", "which trains"),
        ("variants.bc.against=nobody", "which is none"),
        ("variants.base.agent=rise", "it is what all are compared with"),
        ("variants.base.chunks=8", "no agent"),
        ("variants.base.real_steps=8", "no agent"),
        ("episods=3", "Did you mean 'episodes'"),
        ("episodes=0", "episodes"),
        ("seeds=[1,1]", "seeds"),
        ("tasks=[hanging]", "no work cell"),
    ],
)
@pytest.mark.usefixtures("hanging")
def test_what_is_wrong_is_told_at_once(override: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        load_compare_config("short", "brick_sorting", [override])


def test_rows_are_chosen_with_what_they_are_compared_with() -> None:
    assert list(load_compare_config("short", "brick_sorting", only=["best_of_n"]).variants) == [
        "base", "base_with_noise", "best_of_n",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Did you mean 'rise'"):
        load_compare_config("short", "brick_sorting", only=["ris"])
    with pytest.raises(ConfigError, match="Did you mean 'short'"):
        load_compare_config("shrt", "brick_sorting")
