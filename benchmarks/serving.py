"""Latency of the policy server: what the network path adds to an inference, by client layout and number of clients."""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rise_agents.policies.resolve import resolve_policy
from rise_agents.policies.served import PolicyService
from rise_agents.progress import say
from rise_env.spaces import image_key
from rise_env.world_model import resolve_device
from rise_robot.serving import PolicyClient, PolicyServer, ServerConfig, encode

__all__ = ["add_arguments", "measure", "run"]

_CLIENTS = (1, 2, 4)
_WARM_UP = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="base", help="policy to serve (default: the bundle's)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    service = PolicyService(resolve_policy(args.policy, task=args.task, device=resolve_device(args.device)))
    return measure(service, args.quick)


def measure(service: PolicyService, quick: bool = False) -> dict[str, Any]:
    """Take all measurements, on loopback, in milliseconds.

    `in_process`: the policy asked directly. By layout: `round_trip` as a client sees it, `infer` as the server measured
    it, `overhead` (their difference, request by request) and the size of an observation. Then round trips of several
    clients that ask without a pause.
    """
    requests = 20 if quick else 300
    observations = _observations(service)
    result: dict[str, Any] = {"requests": requests, "layouts": {}, "clients": {}}
    say("measuring: in process")
    session, times = service.open(), []
    for _ in range(_WARM_UP + requests):
        started = time.perf_counter()
        session.infer(observations["ours"])
        times.append(1e3 * (time.perf_counter() - started))
    result["in_process_ms"] = _summary(times[_WARM_UP:])
    with PolicyServer(service, ServerConfig(port=0, max_clients=max(_CLIENTS) + 1)) as server:
        for name, observation in observations.items():
            say(f"measuring: {name}")
            with PolicyClient(port=server.port) as client:
                trips, infers = _ask(client, observation, requests)
            result["layouts"][name] = {
                "kilobytes": round(len(encode(observation)) / 1000, 1),
                "round_trip_ms": _summary(trips),
                "infer_ms": _summary(infers),
                "overhead_ms": _summary([trip - infer for trip, infer in zip(trips, infers, strict=True)]),
            }
        for count in _CLIENTS:
            say(f"measuring: {count} clients")
            result["clients"][str(count)] = _together(server.port, observations["ours"], count, requests)
    return result


def _observations(service: PolicyService) -> dict[str, dict[str, Any]]:
    """One observation in the layouts that clients use; noise for pictures, which compresses and resizes worst."""
    spec, rng = service.policy.spec, np.random.default_rng(0)

    def picture(height: int, width: int) -> np.ndarray:
        return rng.integers(0, 256, (height, width, 3), np.uint8)

    state = (0.5 * (spec.layout.low + spec.layout.high)).astype(np.float32)
    ours = {image_key(camera): picture(*spec.image_size) for camera in spec.cameras}
    names = {camera: feature.rpartition(".")[2] for camera, feature in spec.cameras.items()}
    padded = {}
    for name in names.values():
        square = np.zeros((224, 224, 3), np.uint8)
        square[28:196] = picture(168, 224)
        padded[name] = square.transpose(2, 0, 1)
    raw = {name: picture(480, 640) for name in names.values()}
    return {
        "ours": {**ours, "state": state},
        "openpi 224x224": {"images": padded, "state": state, "prompt": spec.prompt},
        "cameras 480x640": {"images": raw, "state": state, "prompt": spec.prompt},
    }


def _ask(client: PolicyClient, observation: dict[str, Any], requests: int) -> tuple[list[float], list[float]]:
    trips, infers = [], []
    for _ in range(requests):
        started = time.perf_counter()
        answer = client.infer(observation)
        trips.append(1e3 * (time.perf_counter() - started))
        infers.append(answer["server_timing"]["infer_ms"])
    return trips, infers


def _together(port: int, observation: dict[str, Any], count: int, requests: int) -> dict[str, Any]:
    """Round trips of so many clients at once, and the requests per second of all."""
    clients = [PolicyClient(port=port, timeout=60).connect() for _ in range(count)]
    started = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(lambda client: _ask(client, observation, max(5, requests // count))[0], clients))
    seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    every = [trip for trips in found for trip in trips]
    return {"round_trip_ms": _summary(every), "requests_per_second": round(len(every) / seconds, 1)}


def _summary(values: list[float]) -> dict[str, float]:
    quantiles = np.quantile(values, [0.5, 0.99])
    return {"p50": round(quantiles[0], 3), "p99": round(quantiles[1], 3), "mean": round(statistics.fmean(values), 3)}
