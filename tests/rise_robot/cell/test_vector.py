"""Many cells: the vector rules, worker processes that fail, and joined infos."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rise_env
from rise_env.checks import CHECKS, check_vector_env
from rise_env.errors import ActionError, ConfigError, RiseError
from rise_robot.cell.vector import CellVectorEnv, merge_infos

assert rise_env is not None  # registers the id
ID = "RISE-BrickSorting-Cell-v0"
SHORT = {"preset": "tiny", "overrides": ["task.max_seconds=1.0"]}
SHARED_MEMORY = Path("/dev/shm")


def block(envs: CellVectorEnv) -> Path:
    """The file of an environment's shared memory."""
    return SHARED_MEMORY / envs._backend._slots[0].memory.name


def alive(pids: list[int]) -> list[int]:
    def runs(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    return [pid for pid in pids if runs(pid)]


@pytest.fixture
def workers() -> Iterator[CellVectorEnv]:
    envs = CellVectorEnv(num_envs=3, num_workers=2, **SHORT)
    yield envs
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "mode"),
    [(ID, "next_step"), (ID, "same_step"), (ID, "disabled"), ("RISE-BoxClosing-Cell-v0", "same_step")],
)
def test_vector_rules_in_this_process(env_id: str, mode: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, num_workers=0, autoreset_mode=mode, **SHORT)
    report = check_vector_env(envs, act=staggered)
    assert (report.passed, report.skipped) == (list(CHECKS), {})
    envs.close()


def test_vector_rules_with_workers() -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, num_workers=2, autoreset_mode="same_step", **SHORT)
    report = check_vector_env(envs, steps=2, skip=["render", "close", "spec"])  # as above
    assert set(report.passed) == set(CHECKS) - {"render", "close", "spec"}
    envs.close()


def staggered(envs, observation) -> np.ndarray:
    """The first cell holds still and runs into the time limit, the second throws its arm about."""
    chunk = np.repeat(observation["state"][:, None], envs.single_action_space.shape[0], axis=1)
    chunk[1::2, ::2] += 0.2
    return chunk


def test_workers_change_nothing() -> None:
    """Any number of workers gives the bytes of one process, ends and partial resets included."""
    runs = []
    for number in (0, 1, 2):
        envs = CellVectorEnv(num_envs=3, num_workers=number, autoreset_mode="disabled", **SHORT)
        seen = [envs.reset(seed=4)]
        for step in range(5):
            result = envs.step(envs.scripted_chunks("operator", seeds=[1, 2, 3]))
            seen.append(result)
            mask = result[2] | result[3]
            if step == 1:
                mask = mask | np.array([False, False, True])  # a worker of its own
            if mask.any():
                seen.append(envs.reset(seed=[9, 8, 7], options={"reset_mask": mask}))
        runs.append(seen)
        envs.close()
    for other in runs[1:]:
        np.testing.assert_equal(other, runs[0])
        assert str(other) == str(runs[0])


def test_expert_and_idler_end_at_different_times() -> None:
    envs = CellVectorEnv(num_envs=2, num_workers=0, autoreset_mode="same_step", preset="tiny")
    envs.reset(seed=0)
    for _ in range(10):
        actions = envs.scripted_chunks("expert")
        actions[1] = envs.call("action_space")[1].low * 0 + envs.get_attr("cell")[1].command
        _, rewards, terminated, _, infos = envs.step(actions)
        if terminated.any():
            break
    assert terminated.tolist() == [True, False]
    assert rewards.tolist() == [1.0, 0.0]
    assert infos["final_info"]["is_success"].tolist() == [True, False]
    assert infos["_final_info"].tolist() == [True, False]
    assert infos["seconds"][0] == 0
    envs.close()


@pytest.mark.parametrize("number", [0, 2])
def test_a_wrong_action_moves_no_cell(number: int) -> None:
    envs = CellVectorEnv(num_envs=2, num_workers=number, **SHORT)
    envs.reset(seed=0)
    good = envs.scripted_chunks("expert")
    before = [state.arrays["physics"] for state in envs.call("save_state")]
    bad = good.copy()
    bad[1, 0, 0] = np.nan
    with pytest.raises(ActionError, match=r"environments \[1\] are not finite"):
        envs.step(bad)
    with pytest.raises(ActionError, match=r"shape \(1, 8, 14\), expected \(2, 8, 14\)"):
        envs.step(good[:1])
    with pytest.raises(ActionError, match="expected real numbers"):
        envs.step(good.astype(str))
    np.testing.assert_array_equal([state.arrays["physics"] for state in envs.call("save_state")], before)
    envs.close()


def test_an_ended_cells_action_is_ignored_even_if_not_finite() -> None:
    envs = CellVectorEnv(num_envs=2, num_workers=0, **SHORT)
    envs.reset(seed=0)
    actions = envs.scripted_chunks("expert")
    while not envs.step(actions)[3].all():
        continue
    _, rewards, terminated, truncated, _ = envs.step(np.full_like(actions, np.nan))
    for array in (rewards, terminated, truncated):
        assert not array.any()
    with pytest.raises(ActionError):
        envs.step(np.full_like(actions, np.nan))
    envs.close()


def test_seeds_and_masks_are_checked(workers: CellVectorEnv) -> None:
    with pytest.raises(ConfigError, match="got 2 seeds for 3 environments"):
        workers.reset(seed=[1, 2])
    for mask in ([False] * 3, [True] * 2, [1, 0, 0]):
        with pytest.raises(ConfigError, match=r"reset_mask must be bool with shape \(3,\)"):
            workers.reset(options={"reset_mask": np.array(mask)})
    ours, _ = workers.reset(seed=np.int64(3))
    theirs, _ = workers.reset(seed=[3, 4, 5])
    np.testing.assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"num_envs": float("nan")}, "num_envs is nan, expected a whole number from 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"autoreset_mode": "never"}, "unknown autoreset_mode 'never'"),
        ({"render_mode": "human"}, "does not show several cells"),
        ({"preset": "huge"}, "no preset 'huge'"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CellVectorEnv(**{"num_envs": 2, "preset": "tiny", **arguments})


def test_attributes_are_called_read_and_set(workers: CellVectorEnv) -> None:
    workers.reset(seed=0)
    assert [cell_task.name for cell_task in workers.get_attr("task")] == ["brick_sorting"] * 3
    workers.set_attr("label", ["a", "b", "c"])
    assert workers.get_attr("label") == ("a", "b", "c")
    workers.set_attr("label", 1)
    assert workers.get_attr("label") == (1, 1, 1)
    with pytest.raises(ConfigError, match="2 values for 3 environments"):
        workers.set_attr("label", [1, 2])
    chunks = workers.scripted_chunks("operator", seeds=[1, 2, 3])
    assert (chunks.shape, chunks.dtype) == ((3, 8, 14), np.float32)


def test_an_error_in_a_worker_is_raised_as_itself_and_leaves_the_workers_usable(workers: CellVectorEnv) -> None:
    workers.reset(seed=0)
    with pytest.raises(ConfigError, match="no scripted policy 'nobody'") as error:
        workers.scripted_chunks("nobody")
    assert any("In a worker process" in note for note in error.value.__notes__)
    with pytest.raises(AttributeError):
        workers.get_attr("no_such_thing")
    observation, _ = workers.reset(seed=0)
    assert workers.observation_space.contains(observation)


@pytest.mark.parametrize("idle", [True, False], ids=["between calls", "in a call"])
def test_a_dead_worker_is_a_clear_error_and_close_still_cleans_up(idle: bool) -> None:
    envs = CellVectorEnv(num_envs=3, num_workers=2, **SHORT)
    memory = block(envs)
    pids = [process.pid for process in envs._backend._processes]
    envs.reset(seed=0)
    if idle:
        os.kill(pids[1], signal.SIGKILL)
        envs._backend._processes[1].wait()
    else:  # it stops, is asked, and dies before it answers
        os.kill(pids[1], signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (pids[1], signal.SIGKILL)).start()
    for _ in range(2):
        with pytest.raises(RiseError, match=r"worker process 1 of the cell ended.*num_workers=0"):
            envs.step(envs.action_space.sample())
        with pytest.raises(RiseError, match="worker process 1"):  # the other worker is not waited for
            envs.reset(options={"reset_mask": np.array([False, False, True])})
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.close()
    assert alive(pids) == []
    assert not memory.exists()


def test_nothing_is_left_after_close() -> None:
    envs = CellVectorEnv(num_envs=3, num_workers=2, **SHORT)
    memory = block(envs)
    pids = [process.pid for process in envs._backend._processes]
    envs.reset(seed=0)
    assert memory.exists() == SHARED_MEMORY.is_dir()
    assert alive(pids) == pids
    envs.close()
    envs.close()
    assert alive(pids) == []
    assert not memory.exists()
    with pytest.raises((RiseError, gymnasium.error.Error)):
        envs.reset(seed=0)


def test_nothing_is_left_when_a_worker_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(TypeError, match="unknown_argument"):
        CellVectorEnv(num_envs=2, num_workers=2, preset="tiny", unknown_argument=1)
    assert [process.returncode for process in started] == [0, 0]


def test_nothing_is_left_when_the_program_ends_without_close() -> None:
    code = (
        "from rise_robot.cell.vector import CellVectorEnv\n"
        "envs = CellVectorEnv(num_envs=2, num_workers=2, preset='tiny')\n"
        "envs.reset(seed=0); b = envs._backend; print(b._slots[0].memory.name, *[p.pid for p in b._processes])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    name, *numbers = done.stdout.split()
    pids = [int(number) for number in numbers]
    deadline = time.monotonic() + 10
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(pids) == []
    assert not (SHARED_MEMORY / name).exists()
    assert done.stderr == ""


values = st.sampled_from([1, 2.5, True, "text", np.float32(3), np.array([1.0, 2.0])])


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_merged_infos_are_those_of_one_process(sizes: list[int], data: st.DataObject) -> None:
    """Joining the infos of groups gives what Gymnasium gathers for all environments at once."""
    kinds = {key: data.draw(st.one_of(values, st.just({"x": 1, "y": "t"}))) for key in ("a", "b", "final_obs")}
    singles = []
    for _ in range(sum(sizes)):
        chosen = data.draw(st.sets(st.sampled_from(sorted(kinds))))
        singles.append({key: kinds[key] for key in sorted(chosen)})

    def gathered(infos: list[dict]) -> dict:
        helper = gymnasium.vector.VectorEnv()
        helper.num_envs = len(infos)
        result: dict = {}
        for index, info in enumerate(infos):
            result = helper._add_info(result, info, index)
        return result

    parts, start = [], 0
    for size in sizes:
        parts.append(gathered(singles[start : start + size]))
        start += size
    merged, expected = merge_infos(parts, sizes), gathered(singles)
    assert set(merged) == set(expected)
    assert_same(merged, expected)


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    else:
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert all(np.array_equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
