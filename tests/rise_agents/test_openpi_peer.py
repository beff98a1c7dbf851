"""The real openpi-client, in an environment of its own (it needs numpy 1), against our server and our client."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.served import PolicyService
from rise_env.errors import RobotError
from rise_env.tasks import load_task
from rise_robot.serving import PolicyClient, PolicyServer, ServerConfig, decode, encode

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("openpi_peer.py")
PACKAGE = "openpi-client==0.1.2"
PACKAGES = [PACKAGE, "typing_extensions"]  # which it imports but does not ask for


def install(folder: Path) -> None:
    """Make a virtual environment with the peer; raises CalledProcessError or TimeoutExpired where that fails."""
    candidates = [shutil.which("uv"), ROOT / ".cache/bootstrap/bin/uv"]
    uv = next((path for path in candidates if path and Path(path).is_file()), None)
    if uv:
        steps = [
            [uv, "venv", "--quiet", "--python", sys.executable, folder],
            [uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *PACKAGES],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin/python", "-m", "pip", "install", "-q", *PACKAGES],
        ]
    for step in steps:
        subprocess.run(step, check=True, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def peer() -> Path:
    """The interpreter that has openpi's client; made once and kept in .cache."""
    folder = ROOT / ".cache" / f"{PACKAGE.replace('==', '-')}-py{sys.version_info.major}{sys.version_info.minor}"
    python, done = folder / "bin/python", folder / "done"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                install(folder)
            except (OSError, subprocess.SubprocessError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                reason = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
                pytest.skip(f"{PACKAGE} cannot be installed here: {reason}")
            done.touch()
    return python


def run(peer: Path, *arguments: str) -> Any:
    done = subprocess.run([peer, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def values() -> dict[str, Any]:
    """As in openpi_peer.py."""
    source = SCRIPT.read_text(encoding="utf-8")
    start = source.index("def values()")
    space: dict[str, Any] = {"np": np}
    exec(source[start : source.index("\ndef ", start)], space)  # noqa: S102  (our own file, one definition for both sides)
    return space["values"]()


@pytest.fixture(scope="module")
def service() -> PolicyService:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    return PolicyService(FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,))))


def test_bytes_are_the_same_and_are_understood(peer: Path) -> None:
    packed = {name: bytes.fromhex(text) for name, text in run(peer, "pack").items()}
    mine = values()
    assert set(packed) == set(mine)
    for name, value in mine.items():
        assert encode(value) == packed[name], name
        assert encode(decode(packed[name])) == packed[name], name


@pytest.mark.parametrize("token", [None, "open-sesame"])
def test_openpi_client_gets_actions(peer: Path, service: PolicyService, token: str | None) -> None:
    with PolicyServer(service, ServerConfig(port=0, token=token)) as server:
        found = run(peer, "ask", str(server.port), *([token] if token else []))
        assert server.metrics()["clients"]["all"] == 1
    assert found["task"] == "brick_sorting"
    assert (found["shape"], found["dtype"], found["finite"]) == ([8, 14], "float32", True)
    first, second = found["timing"]
    assert "infer_ms" in first
    assert "prev_total_ms" not in first
    assert {"infer_ms", "prev_total_ms"} <= set(second)
    assert found["policy_timing"] == ["infer_ms"]
    assert found["bars"] == "cut"  # those of resize_with_pad
    assert found["unread"] == []
    assert "no image of camera 'head'" in found["error"]


def test_our_client_understands_openpi_servers(peer: Path) -> None:
    with peer_server(peer) as port, PolicyClient(port=port, timeout=20) as client:
        assert client.metadata == {"name": "peer"}
        answer = client.infer({"state": np.arange(3, dtype=np.float32), "prompt": "go"})
        assert np.array_equal(answer["actions"], [[0, 2, 4]] * 3)
        assert answer["actions"].dtype == np.float32
        assert answer["count"] == 1
        assert answer["prompt"] == "go"
        with pytest.raises(RobotError, match="refused: Traceback: no state"):
            client.infer({"prompt": "go"})


@contextlib.contextmanager
def peer_server(peer: Path) -> Iterator[int]:
    process = subprocess.Popen([peer, SCRIPT, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate(timeout=30)
