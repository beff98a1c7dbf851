"""Deployment: policies, people, recordings and ends, on the cell and on a fake robot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robot_fakes import FakeRobot, fake_env, robot_config, tiny_task

from rise_env.acting import RtcActor
from rise_env.errors import ConfigError, RobotError
from rise_robot.cell.env import CellEnv
from rise_robot.config import ExecutionConfig
from rise_robot.deploy import make_runner
from rise_robot.deployment import Deployment
from rise_robot.env import RobotEnv, make_robot_env
from rise_robot.operator_keys import Key
from rise_robot.recording import EpisodeRecorder, read_episode_records
from rise_robot.safety import StopReason
from rise_robot.serving import PolicyServer, RemotePolicy, ServerConfig
from rise_robot.teleoperation import ScriptedTeleoperator
from rise_robot.testing import FaultyDriver, ScriptedKeys

TASK = tiny_task()


class Drift:
    """A policy that moves all angles slowly, from where the robot is."""

    lags: tuple[int, ...] = ()
    supports_rtc = False

    def __init__(self, fails_after: int = 10**9) -> None:
        self.seeds: list[int] = []
        self.constraints: list[tuple[np.ndarray, int, int] | None] = []
        self._left = fails_after

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        assert mask.tolist() == [True]
        self.seeds += seeds

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        self.constraints.append(None)
        return self.chunk({key: value[0] for key, value in observations.items()})[None]

    def act_rtc(
        self, observations: Mapping[str, np.ndarray], previous: np.ndarray, delay: int, horizon: int
    ) -> np.ndarray:
        chunks = self.act(observations)
        self.constraints[-1] = (previous, delay, horizon)
        return chunks

    def chunk(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise RobotError("the policy server is gone (a fake)")
        rows = np.arange(1, TASK.chunk + 1)[:, None]
        angles = np.array([unit == "rad" for unit in TASK.layout.units])
        return (observation["state"] + 0.01 * rows * angles).astype(np.float32)


class Scripted(Drift):
    """A scripted policy of the cell."""

    def __init__(self, env: RobotEnv, name: str) -> None:
        super().__init__()
        self._env, self.name = env, name

    def chunk(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._env.scripted_chunk(self.name, 1)


def deployment(
    env: RobotEnv, policy: Any, config: ExecutionConfig, strategy: str, delay: int = 0, **changes: Any
) -> Deployment:
    name = getattr(policy, "name", "drift")
    return Deployment(env, policy, name, make_runner(env, policy, name, config, strategy, delay), **changes)


def deployed(env: RobotEnv, policy: Any, strategy: str = "sync", delay: int = 0, **changes: Any) -> Deployment:
    return deployment(env, policy, ExecutionConfig(), strategy, delay, **changes)


@pytest.fixture(scope="module")
def cell() -> RobotEnv:
    return make_robot_env(preset="tiny", driver="cell")


def test_synchronous_deployment_is_the_environments_own_episode(cell: RobotEnv) -> None:
    policy = Scripted(cell, "operator")
    ours, stop = deployed(cell, policy).run(2, 3)
    assert stop is None
    assert policy.seeds == [3, 3, 4]  # the first one for the inference that is thrown away
    plain = CellEnv(preset="tiny")
    for episode in ours:
        plain.reset(seed=episode.seed)
        chunks = 0
        while True:
            *_, terminated, truncated, info = plain.step(plain.scripted_chunk("operator", 1))
            chunks += 1
            if terminated or truncated:
                break
        assert (episode.success, episode.score, episode.failure_mode, episode.seconds, episode.chunks) == (
            info["is_success"], info["score"], info["failure_mode"], info["seconds"], chunks,
        )  # fmt: skip
    plain.close()


@pytest.mark.parametrize("strategy", ["smooth", "ensemble", "rtc"])
def test_the_expert_succeeds_under_every_strategy_with_latency(cell: RobotEnv, strategy: str) -> None:
    policy = Scripted(cell, "expert")
    policy.supports_rtc = True
    (episode,), stop = deployed(cell, policy, strategy, delay=1).run(1, 1)
    assert (episode.success, stop) == (True, None)
    assert episode.chunks > 3
    for constraints in policy.constraints[2:]:
        assert (constraints is not None) == (strategy == "rtc")
        if constraints is not None:
            previous, delay, horizon = constraints
            assert (previous.shape[0], previous.shape[2]) == (1, 14)
            assert 1 <= previous.shape[1] <= TASK.chunk
            assert (delay, horizon) == (1, ExecutionConfig().rtc.execute_horizon)


def test_a_policy_without_real_time_chunking_is_told_so(cell: RobotEnv) -> None:
    with pytest.raises(ConfigError, match=r"'drift' does not support real-time chunking \(act_rtc\)"):
        deployed(cell, Drift(), "rtc")


def test_a_policy_that_looks_back_needs_an_environment_that_does(cell: RobotEnv) -> None:
    policy = Drift()
    policy.lags = (2,)
    with pytest.raises(ConfigError, match="observation_lags"):
        deployed(cell, policy)


def test_lagged_observations_at_any_step() -> None:
    env = make_robot_env(preset="tiny", driver="cell", observation_lags=[2])
    seen: dict[int, dict[str, np.ndarray]] = {}

    class Looking(Scripted):
        lags = (2,)

        def chunk(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
            seen[env.steps] = dict(observation)
            return super().chunk(observation)

    config = dataclasses.replace(ExecutionConfig(), inference_rate=10.0)  # every step
    policy = Looking(env, "expert")
    deployment(env, policy, config, "smooth").run(1, 1)
    assert len(seen) > 10
    for step in list(seen)[2:]:
        np.testing.assert_array_equal(seen[step]["image_head_lag2"], seen[step - 2]["image_head"])
        np.testing.assert_array_equal(seen[step]["state_lag2"], seen[step - 2]["state"])
    env.close()


def read(root: Path) -> list[dict[str, Any]]:
    """All frames but the pictures."""
    import pyarrow.parquet as pq

    paths = sorted((root / "data").rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_recording_as_in_the_cell_with_interventions(tmp_path: Path) -> None:
    env = make_robot_env(preset="tiny", driver="cell")
    env.session.keys = ScriptedKeys({6: [Key.TAKE_OVER], 14: [Key.HAND_BACK]}, clock=lambda: env.steps)
    policy = Scripted(env, "operator")
    teleoperator = ScriptedTeleoperator(env.driver.scripted("expert"))
    with EpisodeRecorder(tmp_path / "data", env.task) as recorder:
        (episode,), _ = deployed(env, policy, recorder=recorder, teleoperator=teleoperator).run(1, 3)
    (record,) = read_episode_records(tmp_path / "data")
    assert episode.interventions == record.num_intervention_frames == 8
    assert (record.success, record.seed, record.operator) == (episode.success, 3, "operator")
    assert record.failure_mode == episode.failure_mode
    rows = read(tmp_path / "data")
    assert len(rows) == record.num_frames == round(episode.seconds * 10) + TASK.chunk + 1
    flags = [bool(np.squeeze(row["is_intervention"])) for row in rows]
    # The key is seen at the beginning of a control period, so it counts from the next one.
    assert np.flatnonzero(flags).tolist() == list(range(7, 15))
    assert all(bool(np.squeeze(row["episode_success"])) == episode.success for row in rows)
    actions = np.array([row["action"] for row in rows])
    states = np.array([row["observation.state"] for row in rows])
    assert np.isfinite(actions).all()
    np.testing.assert_array_equal(actions[-TASK.chunk - 1 :], np.repeat(actions[-1:], TASK.chunk + 1, axis=0))
    assert np.abs(actions[:-1] - states[1:])[:, :6].max() < 0.35
    env.close()


def test_without_teleoperation_the_arm_holds_while_somebody_intervenes() -> None:
    robot = FakeRobot(tiny_task(max_seconds=2.0))
    env = fake_env(robot, keys=ScriptedKeys({4: [Key.TAKE_OVER], 9: [Key.HAND_BACK]}, clock=lambda: robot.ticks))
    policy = Drift()
    (episode,), _ = deployed(env, policy).run(1, 0)
    assert episode.interventions == 5
    assert len(robot.sent) == 20 - 5
    assert episode.failure_mode == "timeout"


@pytest.mark.parametrize("fault", ["fault", "stale_camera", "link", "interrupt"])
def test_what_was_recorded_until_a_stop_is_saved(fault: str, tmp_path: Path) -> None:
    robot = FakeRobot(TASK)
    env = fake_env(FaultyDriver(robot, fault, 7))
    with EpisodeRecorder(tmp_path / "data", env.task) as recorder:
        running = deployed(env, Drift(), recorder=recorder)
        if fault == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                running.run(3, 5)
        else:
            episodes, stop = running.run(3, 5)
            assert len(episodes) == 1  # people must look first
            assert stop.reason == episodes[0].stop.reason
    (record,) = read_episode_records(tmp_path / "data")
    assert record.num_frames == (11 if fault == "stale_camera" else 7)  # a camera is old after 0.5 s
    assert not record.success
    assert record.failure_mode == ("interrupted" if fault == "interrupt" else f"stop_{stop.reason}")
    assert robot.log[-1] == "hold"


def test_a_server_that_dies_in_the_middle_of_a_chunk() -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    # One inference is thrown away, one gives eight steps, the next fails after the first four.
    config = ExecutionConfig(inference_rate=2.5)
    policy = Drift(fails_after=2)
    episodes, stop = deployment(env, policy, config, "smooth").run(5, 0)
    assert stop.reason == StopReason.POLICY_FAILED
    assert "server is gone" in stop.detail
    assert len(episodes) == 1
    assert len(robot.sent) == TASK.chunk  # the plan was played to its end
    assert robot.log[-1] == "hold"


def test_inference_that_is_late() -> None:
    robot = FakeRobot(TASK)
    env, policy = fake_env(robot), Drift()
    config = ExecutionConfig(late=0.5)
    episodes, stop = deployment(env, policy, config, "sync", 50).run(2, 0)
    assert (len(episodes), stop.reason) == (1, StopReason.POLICY_LATE)
    assert robot.sent == []
    assert episodes[0].seconds == pytest.approx(0.5)


def test_a_policy_of_another_size_is_stopped_before_it_moves_anything() -> None:
    class Long(Drift):
        def chunk(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
            return np.zeros((50, 14), np.float32)

    robot = FakeRobot(TASK)
    _, stop = deployed(fake_env(robot), Long()).run(1, 0)
    assert stop.reason == StopReason.BAD_ACTION
    assert "(50, 14), expected (8, 14)" in stop.detail
    assert robot.sent == []


def test_in_the_cell_a_stop_that_a_reset_mends_does_not_end_the_run(cell: RobotEnv) -> None:
    class Jumping(Drift):
        def chunk(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
            return np.full((8, 14), 9.0, np.float32)

    episodes, stop = deployed(cell, Jumping()).run(2, 0)
    assert stop is None
    assert [episode.failure_mode for episode in episodes] == ["stop_outside_limits"] * 2


def test_the_stop_key_ends_the_run_and_signals_between_episodes_do() -> None:
    robot = FakeRobot(TASK)
    asked: list[str] = []
    keys = ScriptedKeys({3: [Key.SUCCESS], 8: [Key.STOP]}, clock=lambda: robot.ticks)
    env = fake_env(robot, keys=keys, interrupted=lambda: asked[0] if asked else None)
    episodes, stop = deployed(env, Drift()).run(5, 0)
    assert [episode.failure_mode for episode in episodes] == ["none", "stop_operator"]
    assert episodes[0].success
    assert stop.reason == StopReason.OPERATOR
    episodes, stop = deployed(env, Drift()).run(5, 0, on_episode=lambda episode: asked.append("SIGTERM"))
    assert (len(episodes), stop.reason) == (1, StopReason.SIGNAL)


def test_a_dry_run_records_nothing(tmp_path: Path) -> None:
    env = fake_env(dry_run=True)
    with EpisodeRecorder(tmp_path / "data", env.task) as recorder, pytest.raises(ConfigError, match="dry run"):
        deployed(env, Drift(), recorder=recorder)


def test_a_policy_behind_a_server() -> None:
    class Service:
        metadata = {"policy": "x", "action_shape": [8, 14], "lags": [2], "real_time_chunking": True}  # noqa: RUF012
        answer: dict[str, Any] = {"actions": np.zeros((8, 14))}  # noqa: RUF012
        received: dict[str, Any]

        def open(self) -> Service:
            return self

        def example(self) -> dict[str, Any]:
            return {"state": np.zeros(14)}

        def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
            self.received = observation
            return self.answer

    service, state = Service(), {"state": np.zeros((1, 14))}
    with (
        PolicyServer(service, ServerConfig(port=0)) as server,
        RemotePolicy(port=server.port, extra={"prompt": "sort"}) as policy,
    ):
        assert isinstance(policy, RtcActor)
        assert (policy.name, policy.lags, policy.supports_rtc) == ("server-x", (2,), True)
        policy.check(TASK)
        with pytest.raises(ConfigError, match=r"serves action_shape \[8, 14\], task 'brick_sorting' has \[16, 14\]"):
            make_runner(fake_env(FakeRobot(tiny_task(chunk=16))), policy, "x", ExecutionConfig())
        policy.reset([7], np.ones(1, bool))
        chunks = policy.act_rtc(state, np.ones((1, 5, 14)), 3, 4)
        assert (chunks.shape, chunks.dtype) == ((1, 8, 14), np.float32)
        rtc = {"prev_action_chunk", "inference_delay", "execute_horizon"}
        assert set(service.received) == {"state", "prompt", "reset", "seed", *rtc}
        assert [service.received[key] for key in ("seed", "inference_delay", "execute_horizon")] == [7, 3, 4]
        assert service.received["prev_action_chunk"].shape == (5, 14)
        policy.act(state)
        assert set(service.received) == {"state", "prompt"}
        service.answer = {"actions": np.array([["no"]])}
        assert policy.act(state).dtype.kind == "U"  # for the guard to refuse
        service.answer = {"error": 1}
        with pytest.raises(RobotError, match="without 'actions': error"):
            policy.act(state)


def test_robots_in_real_time_take_no_made_up_delay() -> None:
    robot = FakeRobot(TASK)
    robot.real_time = True
    with pytest.raises(ConfigError, match="simulated time"):
        deployed(fake_env(robot, robot_config()), Drift(), delay=2)
