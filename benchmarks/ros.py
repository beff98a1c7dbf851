"""What ROS costs: delays from stamp to arrival, lost messages, and from a camera's stamp to the first command after it.

A master and the cell node run on this machine, as in `rise ros-cell --with-master`; this process is the robot's
computer. `transport`: images, joint states and commands (30 per second) while nothing else runs. `closed_loop`: a
trained policy through `RobotEnv`, in this process and behind the policy server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.resolve import resolve_policy
from rise_agents.progress import say
from rise_env.acting import Actor
from rise_env.tasks import load_task
from rise_robot.config import load_robot
from rise_robot.env import RobotEnv
from rise_robot.ros import ros1
from rise_robot.ros.children import ChildProcess
from rise_robot.ros.config import ros_config
from rise_robot.ros.master import RosMaster
from rise_robot.ros.scene import RosCellDriver
from rise_robot.serving.remote import RemotePolicy

__all__ = ["add_arguments", "run"]

_RISE = "from rise_agents.cli.main import main; sys.exit(main(sys.argv[1:]))"
_COMMAND_RATE = 30  # Hz
SIZES = ((480, 640), (192, 256))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="base", help="policy to ask (default: the bundle's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure.

    Returns:
        `load_average` of the machine before, `transport` per image size, and `closed_loop` with and without the server;
        times in ms.
    """
    policy, quick = PolicyActor(resolve_policy(args.policy, task=args.task)), args.quick
    seconds, chunks = (2.0, 4) if quick else (20.0, 100)
    before = dict(os.environ)
    result: dict[str, Any] = {"load_average": os.getloadavg()[0], "transport": [], "closed_loop": []}
    with RosMaster() as master:
        os.environ |= master.environment
        try:
            for number, size in enumerate(SIZES[:1] if quick else SIZES):
                say(f"measuring: transport, {size[1]} x {size[0]}")
                with _cell(size):
                    result["transport"].append(_transport(size, seconds))
                    if number > 0:
                        continue
                    say("measuring: closed loop, policy in this process")
                    result["closed_loop"].append({"server": False, **_closed_loop(policy, chunks)})
                    say("measuring: closed loop, policy server")
                    with _server(args.policy) as port, RemotePolicy("127.0.0.1", port) as remote:
                        result["closed_loop"].append({"server": True, **_closed_loop(remote, chunks)})
        finally:
            os.environ.clear()
            os.environ.update(before)
    return result


@contextmanager
def _cell(size: tuple[int, int]) -> Iterator[None]:
    process = ChildProcess(_RISE, ["ros-cell", "--image-size", *map(str, size)], name="cell", timeout=120.0)
    try:
        yield
    finally:
        process.stop()


@contextmanager
def _server(name: str) -> Iterator[int]:
    arguments = ["serve", "--policy", name, "--port", "0", "--threads", "1", "--quiet"]
    process = ChildProcess(_RISE, arguments, name="policy server", timeout=120.0, ready="serving")
    try:
        found = re.search(r":(\d+);", process.ready)
        assert found is not None, process.ready
        yield int(found[1])
    finally:
        process.stop()


def _transport(size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Delays while commands hold the arms."""
    driver = RosCellDriver(load_task(), ros_config(load_robot("cell")))
    driver.connect()
    connected, ros = time.monotonic(), ros1.load()
    status: list[dict[str, Any]] = []
    note = lambda message: status.append(json.loads(message.data))  # noqa: E731
    listener = ros.rospy.Subscriber("/rise_cell/status", ros.std_msgs.String, note)
    try:
        driver.reset_scene(0)
        target = driver.target()
        assert target is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            driver.command(target)
            time.sleep(1 / _COMMAND_RATE)
        counts, seconds = driver.counts(), time.monotonic() - connected
    finally:
        listener.unregister()
        driver.close()
    cameras = [camera.topic for camera in driver.config.cameras.values()]
    arms = [arm.state for arm in driver.config.arms.values()]
    kept = status[1:] or status
    return {
        "image_size": list(size),
        "image_ms": _summary(counts, cameras, seconds),
        "joint_ms": _summary(counts, arms, seconds),
        "command_ms": dict(zip(("p50", "p99"), kept[-1]["command_ms"] or (None, None), strict=True)),
        "real_time_factor": float(np.mean([one["real_time_factor"] for one in kept])),
        "camera_skipped": int(np.sum([one["camera_skipped"] for one in kept])),
    }


def _summary(counts: dict[str, dict[str, float]], topics: list[str], seconds: float) -> dict[str, float]:
    found = [counts[topic] for topic in topics]
    return {
        "p50": 1e3 * float(np.mean([one["delay_p50"] for one in found])),
        "p99": 1e3 * float(np.max([one["delay_p99"] for one in found])),
        "longest_gap": 1e3 * max(one["longest_gap"] for one in found),
        "per_second": sum(one["messages"] for one in found) / len(found) / seconds,
        "lost": sum(one["lost"] for one in found),
    }


def _closed_loop(policy: Actor, chunks: int) -> dict[str, Any]:
    robot = load_robot("cell")
    driver = RosCellDriver(load_task(), ros_config(robot))
    env = RobotEnv(driver, robot, observation_lags=list(policy.lags))
    inference, latency, stops, seed = [], [], [], 0
    try:
        while len(latency) < chunks:
            observation, _ = env.reset(seed=seed)
            policy.reset([seed], np.ones(1, bool))
            over, seed = False, seed + 1
            while not over and len(latency) < chunks:
                begun = time.perf_counter()
                action = policy.act({key: value[None] for key, value in observation.items()})[0]
                inference.append(time.perf_counter() - begun)
                observation, _, terminated, truncated, info = env.step(action)
                latency.append(info["command_latency"])
                over = terminated or truncated
                if info["stop_reason"]:
                    stops.append(info["stop_reason"])
        counts = driver.counts()
    finally:
        env.close()
    percentiles = lambda values: dict(zip(("p50", "p99"), np.percentile(values, (50, 99)) * 1e3, strict=True))  # noqa: E731
    return {
        "chunks": len(latency),
        "episodes": seed,
        "camera_to_command_ms": percentiles(latency),
        "inference_ms": percentiles(inference),
        "lost": sum(one["lost"] for one in counts.values()),
        "stops": stops,
    }
