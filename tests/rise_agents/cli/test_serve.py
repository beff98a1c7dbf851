"""`rise serve`: one line when it is ready, answers, a clean end; and clear words where it may not start."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.cli.main import main
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.loading import load_policy
from rise_agents.policies.served import PolicyService
from rise_env.errors import RobotError
from rise_env.spaces import observation_space
from rise_env.tasks import load_task
from rise_env.world_model import CompositionalWorldModel
from rise_robot.serving import PolicyClient, PolicyServer, RemotePolicy, ServerConfig

CELL = "RISE-BrickSorting-Cell-v0"
SHORT = ["task.max_seconds=2.0"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy with random weights that reads the past."""
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,), steps=2))
    with torch.no_grad():
        policy.denoiser.write.weight.normal_(std=0.3)
        policy.chunk_std.fill_(0.1)
    path = tmp_path_factory.mktemp("policy") / "model"
    policy.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RISE_SERVE_TOKEN", raising=False)


class Visitor(threading.Thread):
    """Waits for the line that says where the server is, does something there, and ends the server with a signal."""

    def __init__(self, action: Any, ending: signal.Signals) -> None:
        super().__init__()
        self.action, self.ending = action, ending
        self.printed = io.StringIO()
        self.found: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            deadline = time.monotonic() + 300
            while (ready := re.search(r"ws://127\.0\.0\.1:(\d+);.*\n", self.printed.getvalue())) is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            self.found = self.action(int(ready[1]))
        except BaseException as error:  # noqa: BLE001  (raised again in the test's own thread)
            self.error = error
        finally:
            os.kill(os.getpid(), self.ending)


def serve(arguments: list[str], action: Any, ending: signal.Signals = signal.SIGTERM) -> Visitor:
    """Run the command until the visitor ends it."""
    visitor = Visitor(action, ending)
    visitor.start()
    with contextlib.redirect_stdout(visitor.printed):
        code = main(["serve", "--port", "0", "--quiet", *arguments])
    visitor.join()
    if visitor.error is not None:
        raise visitor.error
    assert code == 0
    return visitor


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serves_what_the_policy_does_and_ends_cleanly(checkpoint: Path, ending: signal.Signals) -> None:
    policy = load_policy(checkpoint)
    space = observation_space(policy.spec, policy.lags)
    space.seed(0)
    single = [space.sample() for _ in range(4)]
    for one in single:
        one |= {key: value.clip(policy.spec.layout.low, policy.spec.layout.high) for key, value in one.items()
                if key.startswith("state")}  # fmt: skip
    turns = [{key: np.stack([one[key], two[key]]) for key in one} for one, two in (single[:2], single[2:])]

    def act(chooser: Any) -> list[np.ndarray]:
        chooser.reset([3, 4], np.array([True, True]))
        return [chooser.act(turn) for turn in turns]

    def remote(port: int) -> list[np.ndarray]:
        with RemotePolicy(port=port) as chooser:
            assert chooser.lags == policy.lags
            return act(chooser)

    visitor = serve(["--policy", str(checkpoint)], remote, ending)
    first, second = visitor.printed.getvalue().splitlines()
    assert "FlowPolicy, brick_sorting, 8 x 14 actions" in first
    assert second == "stopped"
    for found, expected in zip(visitor.found, act(PolicyActor(policy)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)  # here both environments are one batch


def test_episodes_in_the_cell_are_the_same_through_the_server(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    kwargs = {"preset": "tiny", "num_workers": 0, "observation_lags": list(policy.lags), "overrides": SHORT}
    here = evaluate(CELL, PolicyActor(policy), 2, 5, num_envs=1, env_kwargs=kwargs)
    with PolicyServer(PolicyService(policy), ServerConfig(port=0)) as server, RemotePolicy(port=server.port) as remote:
        there = evaluate(CELL, lambda envs: remote, 2, 5, num_envs=1, env_kwargs=kwargs)
    assert there.details == here.details
    assert here.details[0].chunks > 2


def test_token_comes_from_a_file_or_from_the_environment(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knock(port: int) -> str:
        with pytest.raises(RobotError, match="401"):
            PolicyClient(port=port).connect()
        with PolicyClient(port=port, api_key="open-sesame") as client:
            return client.metadata["task"]

    (tmp_path / "token").write_text("open-sesame\n")
    arguments = ["--policy", str(checkpoint)]
    assert serve([*arguments, "--token-file", str(tmp_path / "token")], knock).found == "brick_sorting"
    monkeypatch.setenv("RISE_SERVE_TOKEN", "open-sesame")
    assert serve(arguments, knock).found == "brick_sorting"


def test_the_world_model_stays_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the world model was loaded")

    monkeypatch.setattr(CompositionalWorldModel, "from_pretrained", refuse)
    monkeypatch.setattr(CompositionalWorldModel, "__init__", refuse)

    def ask(port: int) -> tuple[int, ...]:
        with PolicyClient(port=port, timeout=60) as client:
            images = {name: np.zeros((3, 224, 224), np.uint8) for name in ("top_head", "hand_left", "hand_right")}
            answer = client.infer({"state": np.zeros(14), "images": images, "prompt": client.metadata["prompt"]})
            assert list(answer["actions"].shape) == client.metadata["action_shape"]
            return answer["actions"].shape

    assert serve(["--policy", "base"], ask).found == (16, 14)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--policy", "base", "--host", "0.0.0.0"], "token is needed"),
        (["--policy", "expert"], "'expert': there is no such trained policy"),
        (["--policy", "base", "--token-file", "/no/such/file"], "token file /no/such/file"),
        (["--policy", "base", "--port", "99999"], "port is 99999"),
        (["--policy", "base", "--advantage", "good"], "advantage 'good'"),
        (["--policy", "base", "--device", "tpu9"], "device 'tpu9'"),
    ],
)
def test_what_cannot_be_served_is_said(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    for word in ("rise serve --policy base", "PolicyClient", "RISE_SERVE_TOKEN", "/healthz", "docs/serving.md"):
        assert word in text
