"""The kill benchmark: what it compares, and what it says of a process that does not go on rightly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import killed
from rise_env.errors import RiseError
from rise_env.tasks import load_task
from rise_robot.recording import EpisodeRecorder


def test_weights_arrays_and_leftovers_are_compared(tmp_path: Path) -> None:
    save_file({"w": np.arange(3.0), "b": np.zeros(2)}, tmp_path / "model.safetensors")
    np.save(tmp_path / "states.npy", np.ones(3))
    (tmp_path / "config.json").write_text("{}")
    before = killed.content(tmp_path)
    assert set(before) == {"model.safetensors", "states.npy", "config.json"}
    (tmp_path / "config.json").write_text('{"seconds": 3}')
    assert killed.content(tmp_path) == before
    save_file({"b": np.zeros(2), "w": np.arange(3.0)}, tmp_path / "model.safetensors")
    assert killed.content(tmp_path) == before
    save_file({"w": np.arange(3.0) + 1e-12, "b": np.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / ".model.0a1b.tmp").touch()
    after = killed.content(tmp_path)
    assert {key for key in after if after[key] != before.get(key)} == {"model.safetensors", ".model.0a1b.tmp"}


@pytest.mark.parametrize(("resumes", "left"), [(True, []), (False, ["differs: b.npy"])])
def test_a_process_that_does_not_go_on_rightly_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resumes: bool, left: list[str]
) -> None:
    """Writes `a.npy`, takes its time, writes `b.npy`, whose content depends on `a.npy` unless it was killed between."""
    script = (
        "import pathlib, sys, time\n"
        "out, fresh = pathlib.Path(sys.argv[1]), not pathlib.Path(sys.argv[1]).exists()\n"
        "out.mkdir(exist_ok=True); (out / 'a.npy').write_bytes(b'a')\n"
        "sys.stderr.write('x' * 200_000)\n"  # more than a pipe holds
        f"time.sleep(1.6 * fresh); (out / 'b.npy').write_bytes(b'b' if fresh or {resumes} else b'c')\n"
    )

    def start(command: list[str], log: object) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", script, *command]
        return subprocess.Popen(words, start_new_session=True, stderr=log)

    monkeypatch.setattr(killed, "_start", start)
    out = tmp_path / "out"
    whole = killed.Undisturbed([str(out)], out)
    assert 0 < whole.first < whole.seconds
    assert set(whole.content) == {"a.npy", "b.npy"}
    shutil.rmtree(out)
    moment = (whole.first + whole.seconds) / 2
    assert killed.kill_once([str(out)], out, moment, whole.content) == (True, left)


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RiseError, match=r"rise no-such-command.*ended with 2"):
        killed.Undisturbed(["no-such-command"], tmp_path)


def test_recorded_frames_are_compared(tmp_path: Path) -> None:
    spec = load_task("brick_sorting", "tiny")
    for name, grey in (("a", 10), ("b", 12), ("c", 10)):
        with EpisodeRecorder(tmp_path / name / "data", spec) as recorder:
            image = np.full((*spec.image_size, 3), grey, np.uint8)
            for _ in range(3):
                pose = np.zeros(spec.layout.dim, np.float32)
                recorder.add_frame(
                    images=dict.fromkeys(spec.cameras, image), state=pose, action=pose, progress=0.0, subgoal=0.0
                )
            recorder.end_episode(success=True, failure_mode="none", seed=0, operator="expert")
    first, other, same = (killed.content(tmp_path / name) for name in "abc")
    assert first.keys() == {"dataset data"}
    assert first == same != other
