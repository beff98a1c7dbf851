"""Execution strategies: what becomes of chunks, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_env.errors import ConfigError
from rise_env.tasks import load_task
from rise_robot.config import STRATEGIES, EnsembleConfig, ExecutionConfig, RealTimeConfig, SmoothConfig
from rise_robot.execution import (
    ChunkExecutor,
    EnsembleExecutor,
    RealTimeExecutor,
    SmoothExecutor,
    SynchronousExecutor,
    make_executor,
)
from rise_robot.execution.smooth import cross_fade

LENGTH, DIM = 12, 3
ALL = {
    "sync": lambda period: SynchronousExecutor(LENGTH),
    "smooth": lambda period: SmoothExecutor(period),
    "smooth-merge": lambda period: SmoothExecutor(period, SmoothConfig(stale="merge")),
    "ensemble": lambda period: EnsembleExecutor(period),
    "rtc": lambda period: RealTimeExecutor(period),
}


def counting(start: int, length: int = LENGTH) -> np.ndarray:
    """A chunk whose row j says for which step it is meant."""
    return np.repeat(start + np.arange(length, dtype=float)[:, None], DIM, axis=1)


def play(executor: ChunkExecutor, steps: int, delay: int, make=counting) -> list[float | None]:
    """What is played (first joint) when every chunk arrives `delay` steps after its observation."""
    played: list[float | None] = []
    pending: tuple[int, np.ndarray] | None = None
    for step in range(steps):
        if pending is None and executor.wants(step):
            executor.request(step)
            pending = (step, make(step))
        if pending is not None and step - pending[0] >= delay:
            executor.add(pending[1], pending[0], step)
            pending = None
        target = executor.next(step)
        played.append(None if target is None else float(target[0]))
    return played


# Where its queue has run out, smoothing fades from the last target by design.
@pytest.mark.parametrize(
    ("name", "period"),
    [(name, period) for name in ("sync", "smooth", "ensemble", "rtc") for period in (1, 4)]
    + [(name, 30) for name in ("sync", "ensemble", "rtc")],
)
def test_without_latency_every_step_is_played_once_and_at_its_time(name: str, period: int) -> None:
    np.testing.assert_allclose(play(ALL[name](period), 40, 0), np.arange(40), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_chunk_without_overlap_is_reproduced_to_the_bit_and_then_the_robot_holds(name: str) -> None:
    chunk = np.random.default_rng(0).normal(size=(LENGTH, DIM))
    executor = ALL[name](100)
    assert executor.next(0) is None
    merge = executor.add(chunk, 1, 1)
    assert (merge.dropped, merge.overlap, merge.queued) == (0, 0, LENGTH)
    for index in range(LENGTH):
        assert executor.planned == LENGTH - index
        np.testing.assert_array_equal(executor.next(1 + index), chunk[index])
    assert executor.planned == 0
    assert executor.next(1 + LENGTH) is None
    assert executor.wants(2 + LENGTH)


@pytest.mark.parametrize("name", ["smooth", "ensemble", "rtc"])
def test_late_chunks_go_on_where_time_is(name: str) -> None:
    played = play(ALL[name](1), 80, 3, lambda step: counting(step, 30))
    assert played[:3] == [None] * 3  # nothing was there yet
    # Chunks that agree about every step leave no trace of having been late.
    np.testing.assert_allclose(np.array(played[70:], float), np.arange(70, 80), atol=0.02)


def test_synchronous_execution_waits_and_drops_nothing() -> None:
    executor = SynchronousExecutor(4)
    assert play(executor, 12, 2) == [None, None, 0, 1, 2, 3, None, None, 6, 7, 8, 9]


@st.composite
def schedules(draw: st.DrawFn) -> tuple[str, int, int, list[np.ndarray]]:
    name = draw(st.sampled_from(sorted(ALL)))
    period, delay = draw(st.integers(1, 9)), draw(st.integers(0, 15))
    seed = draw(st.integers(0, 2**16))
    size = draw(st.sampled_from([1e-3, 1.0, 1e6]))
    rng = np.random.default_rng(seed)
    lengths = draw(st.lists(st.integers(1, LENGTH), min_size=1, max_size=8))
    return name, period, delay, [rng.normal(size=(length, DIM)) * size for length in lengths]


@given(schedules())
def test_targets_are_finite_and_in_the_hull_of_the_chunks(schedule: tuple[str, int, int, list[np.ndarray]]) -> None:
    name, period, delay, chunks = schedule
    rest = iter(chunks)
    given_chunks: list[np.ndarray] = []
    executor = ALL[name](period)
    pending: tuple[int, np.ndarray] | None = None
    for step in range(40):
        if pending is None and executor.wants(step) and (chunk := next(rest, None)) is not None:
            executor.request(step)
            pending = (step, chunk)
        if pending is not None and step - pending[0] >= delay:
            given_chunks.append(pending[1].copy())
            merge = executor.add(pending[1], pending[0], step)
            assert 0 <= merge.dropped <= len(pending[1])
            assert merge.queued == executor.planned
            pending[1][:] = np.nan  # it was copied
            pending = None
        target = executor.next(step)
        if target is None:
            continue
        assert target.shape == (DIM,)
        rows = np.concatenate(given_chunks)
        assert (target >= rows.min(0)).all()
        assert (target <= rows.max(0)).all()


rows = st.integers(1, 12)


@given(rows, rows, st.integers(0, 2**16))
def test_a_cross_fade_begins_with_the_old_plan_and_ends_with_the_new_one(old: int, new: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.normal(size=(old, DIM)), rng.normal(size=(new, DIM))
    faded, common = cross_fade(before, after), min(old, new)
    assert faded.shape == after.shape
    np.testing.assert_array_equal(faded[0], before[0])
    np.testing.assert_array_equal(faded[common:], after[common:])
    if common > 1:
        np.testing.assert_array_equal(faded[common - 1], after[common - 1])
        weights = np.linspace(1, 0, common)[:, None]
        np.testing.assert_allclose(faded[:common], weights * before[:common] + (1 - weights) * after[:common])
        # No jump is larger than the plans' own steps and the distance between them, spread over the fade.
        own = max(np.abs(np.diff(plan[:common], axis=0)).max() for plan in (before, after))
        apart = np.abs(before[:common] - after[:common]).max()
        assert np.abs(np.diff(faded[:common], axis=0)).max() <= own + apart / (common - 1) + 1e-9


def test_smoothing_as_deployed() -> None:
    executor = SmoothExecutor(config=SmoothConfig(stale="merge", latency_steps=3, least_overlap=4))
    executor.add(np.zeros((6, 1)), 0, 0)
    for step in range(5):
        executor.next(step)
    # One step is left of the old plan; it is padded to four. Five were played since the merge, three may be dropped.
    merge = executor.add(np.arange(10.0)[:, None] * 10, 4, 5)
    assert (merge.dropped, merge.overlap, merge.queued) == (3, 4, 7)
    played = [float(executor.next(5 + i)[0]) for i in range(7)]
    w = np.linspace(1, 0, 4)
    np.testing.assert_allclose(played, [*(1 - w) * [30, 40, 50, 60], 70, 80, 90])
    assert executor.next(12) is None
    # Used up: the last target played stands in for the old plan.
    merge = executor.add(np.full((6, 1), 90.0), 12, 13)
    assert (merge.dropped, merge.overlap) == (3, 3)
    assert float(executor.next(13)[0]) == 90.0


def test_smoothing_counts_stale_steps_from_the_observation() -> None:
    for stale, dropped in (("merge", 6), ("observation", 2)):
        executor = SmoothExecutor(config=SmoothConfig(stale=stale))
        executor.add(counting(0), 0, 0)
        for step in range(6):
            executor.next(step)
        assert executor.add(counting(4), 4, 6).dropped == dropped


def test_a_chunk_of_stale_steps_changes_nothing() -> None:
    for executor in (SmoothExecutor(), RealTimeExecutor()):
        executor.add(counting(0), 0, 0)
        for step in range(5):
            executor.next(step)
        merge = executor.add(counting(0, 4) + 100, 0, 5)
        assert (merge.dropped, merge.overlap) == (4, 0)
        assert float(executor.next(5)[0]) == 5.0


def test_ensemble_weights_old_chunks_most() -> None:
    executor = EnsembleExecutor(config=EnsembleConfig(decay=0.5))
    executor.add(np.full((6, 1), 1.0), 0, 0)
    executor.next(0)
    executor.add(np.full((6, 1), 2.0), 1, 1)
    merge = executor.add(np.full((6, 1), 4.0), 1, 1)
    assert (merge.dropped, merge.overlap, merge.queued) == (0, 6, 6)
    weights = np.exp(-0.5 * np.arange(3))
    assert float(executor.next(1)[0]) == pytest.approx(weights @ [1, 2, 4] / weights.sum())
    assert float(executor.next(6)[0]) == pytest.approx(weights[:2] @ [2, 4] / weights[:2].sum())  # the first has ended


def test_real_time_chunking_constrains_the_policy_by_what_is_played() -> None:
    executor = RealTimeExecutor(2, RealTimeConfig(execute_horizon=6, delay_steps=3))
    assert executor.request(0) is None
    executor.add(counting(0), 0, 1)
    executor.next(1)
    constraints = executor.request(2)
    np.testing.assert_array_equal(constraints.previous[:, 0], np.arange(2, 12))
    assert (constraints.delay, constraints.horizon) == (1, 6)  # measured, not the guess
    executor.add(counting(2), 2, 7)
    assert float(executor.next(7)[0]) == 7.0
    assert executor.request(8).delay == 5
    executor.reset()
    assert executor.request(0) is None


def test_requests_keep_their_distance_unless_nothing_is_planned() -> None:
    for name in ("smooth", "ensemble", "rtc"):
        executor = ALL[name](5)
        assert executor.wants(0)
        executor.request(0)
        executor.add(counting(0), 0, 0)
        executor.next(0)
        assert [step for step in range(1, 9) if executor.wants(step)] == [5, 6, 7, 8]
        executor.reset()
        assert executor.planned == 0
        assert executor.next(0) is None


def test_executors_by_name() -> None:
    task = load_task("brick_sorting", "tiny")
    for name in STRATEGIES:
        executor = make_executor(ExecutionConfig(strategy=name), task)
        assert executor.name == name
        assert make_executor(ExecutionConfig(), task, name).name == name
    with pytest.raises(ConfigError, match="'fast' is not one of sync"):
        make_executor(ExecutionConfig(), task, "fast")
    with pytest.raises(ConfigError, match="expected one of"):
        ExecutionConfig(strategy="fast")
