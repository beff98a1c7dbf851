"""Deployment with a real policy server that goes away in the middle of a chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from robot_fakes import FakeRobot, fake_env, tiny_task

from rise_robot.config import ExecutionConfig
from rise_robot.deploy import make_runner
from rise_robot.deployment import Deployment
from rise_robot.recording import EpisodeRecorder, read_episode_records
from rise_robot.safety import StopReason
from rise_robot.serving import PolicyServer, RemotePolicy, ServerConfig

TASK = tiny_task()


class Holding:
    """Serves chunks that stay where the robot is."""

    metadata = {"policy": "holding", "action_shape": [TASK.chunk, 14]}  # noqa: RUF012

    def open(self) -> Holding:
        return self

    def example(self) -> dict[str, Any]:
        return {"state": np.zeros(14, np.float32)}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.repeat(np.asarray(observation["state"])[None], TASK.chunk, axis=0)}


def test_a_server_that_goes_away_ends_the_episode_and_nothing_is_lost(tmp_path: Path) -> None:
    robot = FakeRobot(TASK)
    env = fake_env(robot)
    server = PolicyServer(Holding(), ServerConfig(port=0, warm_up=1))
    server.start()
    policy = RemotePolicy("127.0.0.1", server.port, timeout=5.0)
    policy.check(TASK)
    config = ExecutionConfig(inference_rate=2.5)  # every fourth step

    class Leaving(EpisodeRecorder):
        def add_frame(self, **frame: Any) -> None:
            super().add_frame(**frame)
            if robot.ticks == 6:  # in the middle of the second chunk
                server.stop()

    with Leaving(tmp_path / "data", TASK) as recorder:
        runner = make_runner(env, policy, policy.name, config, "smooth")
        episodes, stop = Deployment(env, policy, policy.name, runner, recorder=recorder).run(5, 0)
    policy.close()
    assert len(episodes) == 1
    assert stop.reason == StopReason.POLICY_FAILED
    assert "policy server" in stop.detail
    assert len(robot.sent) == 12  # the second chunk, of step 4, to its end
    assert robot.log[-1] == "hold"
    (record,) = read_episode_records(tmp_path / "data")
    assert (record.num_frames, record.failure_mode) == (12, "stop_policy_failed")
