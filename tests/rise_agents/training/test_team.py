"""Two processes learn what one learns, through accelerate; a run goes on with another number of processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rise_agents.algorithms.bc import BehaviourCloning, train_policy
from rise_agents.policies.config import CloningConfig, PolicyConfig
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicyConfig
from rise_env.dynamics.official import OfficialNetwork
from rise_env.dynamics.run import DynamicsTraining
from rise_env.dynamics.training import train_dynamics
from rise_env.errors import CheckpointError, ConfigError
from rise_env.training import team as teams
from rise_env.training.config import LoopConfig
from rise_env.training.loop import Budget, Loop
from rise_env.training.team import Team, team
from rise_env.value.config import ModelConfig, TrainingConfig, ValueConfig
from rise_env.value.training import train_value
from tests.rise_agents.algorithms.conftest import Lab
from tests.rise_env.dynamics.dynamics_world import TINY_OFFICIAL, World, with_training
from tests.rise_env.value.conftest import FakeDataset

pytest.importorskip("accelerate", reason="needs Hugging Face accelerate: pip install 'rise-robotics[accelerate]'")


def in_two_processes(
    work: Callable[[Path], Any], folder: Path, sharded: bool = False, precision: str = "no", **environ: str
) -> list[int | None]:
    """Exit codes of two processes, forked (to import torch twice would take longer than all the rest)."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        environ |= {"MASTER_PORT": str(one.getsockname()[1]), "ACCELERATE_MIXED_PRECISION": precision}
    environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} if sharded else {}
    said = [folder.with_name(f"{folder.name}-{rank}.log") for rank in range(2)]
    _server.send([(rank, environ, work, folder, said[rank]) for rank in range(2)])
    codes: list[int | None] = _server.recv()
    print(*(one.read_text(encoding="utf-8") for one in said), file=sys.stderr)
    return codes


def _serve(asked: Connection) -> None:
    """Fork members and tell their exit codes, until nobody is left to ask."""
    fork = multiprocessing.get_context("fork")
    while True:
        try:
            members = asked.recv()
        except EOFError:
            return
        processes = [fork.Process(target=_member, args=arguments) for arguments in members]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        asked.send([process.exitcode for process in processes])


def _member(rank: int, environ: dict[str, str], work: Callable[[Path], Any], folder: Path, said: Path) -> None:
    sys.stderr = said.open("w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    os.environ.update(environ, RANK=str(rank), LOCAL_RANK=str(rank))
    work(team().folder(folder))
    torch.distributed.destroy_process_group()


def dynamics(folder: Path) -> None:
    config = with_training(gradient_accumulation_steps=2, autoencoder_batch_size=8)
    train_dynamics(DynamicsTraining(World(), config, folder, Budget(steps=2), Budget(steps=3), tensorboard=False))


def value(folder: Path) -> None:
    model = ModelConfig(channels=(8, 16), embed=16, hidden=16, members=2, text_vocabulary=32, text_embed=4,
                        heads=("progress", "td"))  # fmt: skip
    training = TrainingConfig(progress_steps=2, td_steps=2, batch_size=8, gradient_accumulation_steps=2)
    data = FakeDataset([14, 12, 16, 12], [True, True, False, True])
    train_value(ValueConfig(model=model, training=training), data, folder, cameras=("head", "wrist"), chunk=4,
                tensorboard=False)  # fmt: skip


def policy(folder: Path) -> None:
    torch.set_num_threads(1)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16, dropout=0.1)
    training = CloningConfig(batch_size=8, gradient_accumulation_steps=2, held_out=0.25)
    config = PolicyConfig(model=FlowPolicyConfig(network=network, lags=(2,), steps=2), training=training)
    data = Lab().recordings(episodes=8).dataset
    bins = np.arange(data.num_frames) % 10
    train_policy(BehaviourCloning(data, bins, config, folder, Budget(steps=3), tensorboard=False))


@pytest.mark.parametrize("train", [dynamics, value, policy])
def test_two_processes_learn_what_one_learns(tmp_path: Path, train: Callable[[Path], None]) -> None:
    train(tmp_path / "one")
    assert in_two_processes(train, tmp_path / "two") == [0, 0]
    for state in (tmp_path / "one").glob("*_state.pt"):
        ours, theirs = (torch.load(tmp_path / name / state.name, weights_only=True) for name in ("one", "two"))
        for part in ("module", "average"):
            for name, tensor in ours[part].items():
                assert torch.equal(tensor, theirs[part][name]), (state.name, name)
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def official(folder: Path) -> None:
    """The published network, whose blocks are computed twice, on noise."""
    torch.manual_seed(0)
    network = OfficialNetwork(TINY_OFFICIAL)
    network.checkpointing = True

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        drawn = torch.Generator().manual_seed(10 * step + part)
        torch.manual_seed(10 * step + part)  # dropout draws from here
        latents = torch.randn(2, 3, 4, TINY_OFFICIAL.latent_channels, 2, 2, generator=drawn)
        actions = torch.randn(2, TINY_OFFICIAL.action_tokens, TINY_OFFICIAL.action_dim, generator=drawn)
        caption = torch.ones(TINY_OFFICIAL.action_tokens + 1, TINY_OFFICIAL.caption_dim)
        found = network(latents, torch.full((2,), 500.0), 2, actions, caption).square().mean()
        return found, {"loss": found.detach()}

    Loop("official", folder, network, loss, LoopConfig(), Budget(steps=3), {}, accumulate=2).run()


@pytest.mark.parametrize("train", [dynamics, official, value, policy])
def test_two_processes_that_share_the_weights_learn_what_one_learns(
    tmp_path: Path, train: Callable[[Path], None]
) -> None:
    train(tmp_path / "one")
    assert in_two_processes(train, tmp_path / "two", sharded=True) == [0, 0]
    for state in (tmp_path / "one").glob("*_state.pt"):
        ours, theirs = (torch.load(tmp_path / name / state.name, weights_only=True) for name in ("one", "two"))
        for part in ("module", "average", "optimiser", "extra"):
            torch.testing.assert_close(theirs[part], ours[part], rtol=1e-4, atol=1e-6)
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


class Killed(BaseException):
    """Stands for kill -9."""


def small(folder: Path, stop_at: int = -1, parts: int = 4, budget: Budget | None = None) -> Loop:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def loss(step: int, part: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step == stop_at:
            raise Killed
        found = module(torch.randn(5, 3, generator=torch.Generator().manual_seed(10 * step + part))).square().mean()
        return found, {"loss": found.detach()}

    return Loop("part", folder, module, loss, LoopConfig(checkpoint_seconds=0.0), budget or Budget(steps=6), {},
                accumulate=parts)  # fmt: skip


def run_small(folder: Path) -> None:
    small(folder).run()


def killed(folder: Path) -> None:
    with pytest.raises(Killed):
        small(folder, stop_at=3).run()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, sharded: bool) -> None:
    straight = small(tmp_path / "straight").run().state_dict()
    killed(tmp_path / "grown")
    assert in_two_processes(run_small, tmp_path / "grown", sharded) == [0, 0]
    assert in_two_processes(killed, tmp_path / "shrunk", sharded) == [0, 0]
    small(tmp_path / "shrunk").run()
    for name in ("grown", "shrunk"):
        again = small(tmp_path / name)
        found = again.run().state_dict()
        assert again.step == 6
        for key, tensor in straight.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7)


def run_and_look(folder: Path) -> None:
    loop = small(folder)
    found, whole = loop.run().state_dict(), loop.module.state_dict()
    assert type(whole["0.weight"]) is type(found["0.weight"]) is torch.Tensor  # as before the training


def test_several_processes_compute_in_bf16_and_keep_fp32(tmp_path: Path) -> None:
    found = {}
    for name, sharded, precision in (("fp32", False, "no"), ("copies", False, "bf16"), ("shares", True, "bf16")):
        assert in_two_processes(run_and_look, tmp_path / name, sharded, precision) == [0, 0]
        found[name] = torch.load(tmp_path / name / "part_state.pt", weights_only=True)["module"]
    torch.testing.assert_close(found["shares"], found["copies"], rtol=1e-4, atol=1e-6)
    assert {tensor.dtype for tensor in found["shares"].values()} == {torch.float32}
    assert not torch.equal(found["copies"]["0.weight"], found["fp32"]["0.weight"])


def test_fsdp_1_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_two_processes(os.fspath, tmp_path / "run", ACCELERATE_USE_FSDP="true") == [1, 1]
    assert "accelerate is configured for FSDP 1: training runs with --fsdp_version 2 here" in capsys.readouterr().err


def run_on_time(folder: Path) -> None:
    made = small(folder, parts=2, budget=Budget(seconds=0.2))
    made.run()
    assert len(set(team().numbers(made.step))) == 1


def run_apart(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found \[0, 3\] updates .* all machines share"):
        small(folder if team().rank == 0 else folder.with_name("elsewhere")).run()


def test_processes_agree_or_say_why_not(tmp_path: Path) -> None:
    assert in_two_processes(run_on_time, tmp_path / "time") == [0, 0]
    killed(tmp_path / "here")
    assert in_two_processes(run_apart, tmp_path / "here") == [0, 0]
    pair = Team()
    pair.size = 2
    with pytest.raises(ConfigError, match=r"2 processes share the 3 parts .* set training\.gradient_acc"):
        pair.share(3, "training.gradient_accumulation_steps")


def test_without_accelerate_several_processes_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert team().size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(teams, "_several", None)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"rise-robotics\[accelerate\]"):
        team()


def test_parts_need_a_batch_that_they_divide() -> None:
    with pytest.raises(ConfigError, match="batch_size 8 is not a multiple of 3 parts"):
        dataclasses.replace(CloningConfig(batch_size=8), gradient_accumulation_steps=3)


# Members are forks of a process that was forked here, before any test: torch computes no gradients in a fork of a
# process that has made use of reentrant checkpointing, as other tests do.
_server, _asked = multiprocessing.Pipe()
if not os.fork():
    _server.close()
    _serve(_asked)
    os._exit(0)
_asked.close()
