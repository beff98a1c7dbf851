"""Inference beside control: threads, delays, failures, lateness and the log."""

from __future__ import annotations

import csv
import threading
from pathlib import Path

import numpy as np
import pytest

from rise_env.errors import RobotError
from rise_robot.execution import EnsembleExecutor, SmoothExecutor, SynchronousExecutor
from rise_robot.execution.asynchronous import ChunkRunner, DelayedInference, Failed, ThreadedInference
from rise_robot.execution.log import ExecutionLog
from rise_robot.safety import Stop, StopReason

CHUNK = np.arange(6.0)[:, None]


def fine(chunk: np.ndarray) -> Stop | None:
    return None if np.isfinite(chunk).all() else Stop(StopReason.BAD_ACTION, "not finite")


def observe() -> dict[str, np.ndarray]:
    return {"state": np.zeros(1)}


def run(runner: ChunkRunner, steps: int, fps: float = 10.0) -> list[object]:
    """What the runner says at every step: a number, None or why to stop (the last)."""
    said: list[object] = []
    for step in range(steps):
        target = runner.target(observe, step, step / fps)
        said.append(target.reason if isinstance(target, Stop) else None if target is None else float(target[0]))
        if isinstance(target, Stop):
            break
    return said


def test_a_delayed_chunk_arrives_when_its_time_has_come() -> None:
    runner = ChunkRunner(SynchronousExecutor(3), DelayedInference(lambda o, constraints: CHUNK, 2), fine, late=1.0)
    assert run(runner, 11) == [None, None, 0, 1, 2, None, None, 0, 1, 2, None]
    assert runner.log.held_steps == 5
    assert [merge.latency_steps for merge in runner.log.merges] == [2, 2]


def test_a_policy_that_fails_lets_the_plan_run_out_and_then_the_episode_end() -> None:
    calls = []

    def infer(observation: object, constraints: object) -> np.ndarray:
        calls.append(1)
        if len(calls) > 1:
            raise RobotError("the policy server is gone")
        return CHUNK

    runner = ChunkRunner(SmoothExecutor(period=2), DelayedInference(infer), fine, late=1.0)
    assert run(runner, 20) == [0, 1, 2, 3, 4, 5, StopReason.POLICY_FAILED]
    assert len(calls) == 2  # nobody asks a dead server again
    stop = runner.target(observe, 7, 0.7)
    assert "server is gone" in stop.detail
    runner.reset()
    calls.clear()
    assert run(runner, 2) == [0, 1]


def test_an_error_of_the_policy_itself_is_no_crash() -> None:
    runner = ChunkRunner(SynchronousExecutor(3), DelayedInference(lambda o, constraints: 1 / 0), fine, late=1.0)
    stop = runner.target(observe, 0, 0.0)
    assert stop.reason == StopReason.POLICY_FAILED
    assert "ZeroDivisionError" in stop.detail


def test_a_policy_that_is_late_ends_the_episode_after_a_while() -> None:
    executor = EnsembleExecutor(period=4)
    runner = ChunkRunner(executor, DelayedInference(lambda o, constraints: CHUNK, 1000), fine, late=0.5)
    executor.add(CHUNK, 0, 0)
    assert run(runner, 30) == [0, 1, 2, 3, 4, 5, None, None, None, None, None, StopReason.POLICY_LATE]


def test_a_bad_chunk_is_not_merged() -> None:
    runner = ChunkRunner(
        SynchronousExecutor(3), DelayedInference(lambda o, constraints: CHUNK * np.nan), fine, late=1.0
    )
    assert run(runner, 3) == [StopReason.BAD_ACTION]
    assert runner.log.merges == []


def test_a_thread_computes_while_control_goes_on() -> None:
    release, threads = threading.Event(), []

    def infer(observation: object, constraints: object) -> np.ndarray:
        threads.append(threading.current_thread())
        assert release.wait(10)
        return CHUNK

    inference = ThreadedInference(infer)
    runner = ChunkRunner(SynchronousExecutor(3), inference, fine, late=100.0)
    assert run(runner, 3) == [None] * 3
    assert inference.busy
    release.set()
    for _ in range(1000):
        if (target := runner.target(observe, 3, 0.3)) is not None:
            break
        threading.Event().wait(0.001)
    assert float(target[0]) == 0.0
    assert threads[0] is not threading.current_thread()
    assert runner.log.merges[0].inference_ms > 0
    runner.close()
    assert not threads[0].is_alive()
    runner.close()


def test_what_a_thread_computed_for_nothing_is_not_played() -> None:
    release = threading.Event()

    def infer(observation: dict[str, np.ndarray], constraints: object) -> np.ndarray:
        assert release.wait(10)
        return CHUNK + observation["number"]

    inference = ThreadedInference(infer)
    inference.request({"number": np.array(100.0)}, 0)
    inference.forget()
    assert inference.poll(1) is None
    assert inference.busy  # the policy must not be asked twice at the same time
    release.set()
    inference.forget(wait=True)
    assert not inference.busy
    inference.request({"number": np.array(1.0)}, 2)
    inference.forget(wait=True)
    assert not inference.busy
    inference.request({"number": np.array(2.0)}, 3)
    while (result := inference.poll(3)) is None:
        threading.Event().wait(0.001)
    assert (float(result.chunk[0, 0]), result.step) == (2.0, 3)
    inference.close()


def test_a_policy_that_hangs_is_said_to() -> None:
    release = threading.Event()
    inference = ThreadedInference(lambda o, constraints: release.wait(10) or CHUNK, patience=0.01)
    inference.request({}, 0)
    with pytest.raises(RobotError, match=r"not answered for 0.01 s"):
        inference.forget(wait=True)
    release.set()
    inference.close()


def test_failures_travel_through_the_thread() -> None:
    inference = ThreadedInference(lambda o, constraints: 1 / 0)
    inference.request({}, 0)
    while (result := inference.poll(0)) is None:
        threading.Event().wait(0.001)
    assert isinstance(result, Failed)
    assert "ZeroDivisionError" in result.detail
    inference.close()


def test_the_log(tmp_path: Path) -> None:
    log = ExecutionLog()
    assert log.summary()["inference_ms"] == {"p50": None, "p99": None}
    runner = ChunkRunner(SmoothExecutor(period=2), DelayedInference(lambda o, constraints: CHUNK, 1), fine, 1.0, log)
    for _ in range(2):
        log.begin()
        run(runner, 6)
        runner.reset()
    found = log.summary()
    assert found["chunks"] == len(log.merges) == 6
    assert found["latency_steps"]["p50"] == 1
    assert found["dropped_steps"] == 4  # all but the first chunk of each episode were one step late
    assert found["held_steps"] == 2
    assert 0 < found["overlap_steps_mean"] < 6
    log.write_csv(tmp_path / "log.csv")
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["episode"] for row in rows] == ["0"] * 3 + ["1"] * 3
    assert {"latency_steps", "dropped", "overlap", "inference_ms"} < rows[0].keys()
