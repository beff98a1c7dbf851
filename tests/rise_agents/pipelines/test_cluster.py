"""`rise improve --cluster`: three machines of Ray, of which one is killed with a learner, give what one gives."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rise_agents.cli.main import main
from rise_agents.pipelines.improve import Ingredients, improve
from rise_agents.policies.loading import load_policy
from rise_agents.training.cluster.placement import ClusterConfig
from rise_agents.training.presets import AgentPreset
from rise_env.bundle import load_bundle
from rise_env.errors import ConfigError

_AGENT = AgentPreset(
    "rise", chunks=24, num_envs=4, env={"max_batch": 2}, config={"batch_size": 8, "epochs": 1, "offline_ratio": 0.5}
)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'rise-robotics[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    lean = {"prestart_worker_first_driver": False, "enable_worker_prestart": False, "health_check_period_ms": 1000}
    made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False, "_system_config": lean})
    others = [made.add_node(**small) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False)
    yield made, others
    ray.shutdown()
    made.shutdown()


def is_dead(worker: Any) -> bool:
    import ray
    from ray.exceptions import RayActorError

    try:
        return bool(ray.get(worker.failure.remote()))
    except RayActorError:
        return True


@pytest.mark.slow
def test_a_killed_machine_changes_nothing(
    tmp_path: Path, policy: Path, bundle: Path, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from rise_agents.training.cluster import engine, learners

    cluster, others = machines
    started: list[Any] = []
    spawn = engine.Cluster.spawn

    def late(self: Any, places: Any, kind: Any, *args: Any, **options: Any) -> list[Any]:
        """Ray starts the learner once more on a machine whose end it has not noticed yet."""
        made = spawn(self, places, kind, *args, **options)
        if kind is learners._LearnerWorker:
            started.append(made)
            if len(started) == 2:
                ray.kill(made[0])
        return made

    monkeypatch.setattr(engine.Cluster, "spawn", late)
    base, ingredients = load_policy(policy), Ingredients(load_bundle(bundle), "RISE-BrickSorting-v0")
    alone = improve(_AGENT, base, ingredients, tmp_path / "alone", progress_bar=False)

    def kill(algorithm: Any) -> None:
        if algorithm.rounds == 1:
            first = min(others, key=lambda machine: machine.node_manager_port)  # place 1
            cluster.remove_node(first, allow_graceful=False)
            ray.kill(started[0][0])  # its processes would live until they miss their raylet
            while not is_dead(started[0][0]):
                time.sleep(0.05)

    config = ClusterConfig(num_nodes=3, component_placement={"env": 1, "rollout": 2, "actor": "0-1"})
    notes: list[str] = []
    spread = improve(_AGENT, base, ingredients, tmp_path / "spread", cluster=config, on_round=kill, note=notes.append,
                     progress_bar=False)  # fmt: skip
    assert "env: 1, rollout: 1, actor: 2 of 3 CPU cores" in notes
    assert len(started) >= 3  # at first, in vain, and for good
    assert spread.num_timesteps == alone.num_timesteps
    assert spread.metrics["rollout/advantage"] == alone.metrics["rollout/advantage"]
    for name, value in alone.policy.state_dict().items():
        assert torch.equal(value, spread.policy.state_dict()[name]), name


def test_a_cluster_that_was_killed_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'rise-robotics[ray]'")
    from rise_agents.training.cluster.remote import is_gone

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not is_gone()  # none is remembered
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert not is_gone()
    assert is_gone()


def test_what_a_cluster_cannot_do_is_told(
    tmp_path: Path, policy: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, ingredients = load_policy(policy), Ingredients(load_bundle(bundle), "RISE-BrickSorting-v0")
    with pytest.raises(ConfigError, match="no rollout"):
        improve(AgentPreset("ppo"), base, ingredients, tmp_path / "run", cluster=ClusterConfig())
    several = ClusterConfig(component_placement={"env": 0, "actor": "0-1"})
    with pytest.raises(ConfigError, match="ppo makes its updates in one process: write actor: 0"):
        improve(AgentPreset("ppo"), base, ingredients, tmp_path / "run", cluster=several)
    with pytest.raises(ConfigError, match="work cell"):
        improve(AgentPreset("dagger"), base, ingredients, tmp_path / "run", cluster=ClusterConfig())
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "rise_agents.training.cluster.engine", raising=False)
    (tmp_path / "cluster.yaml").write_text("cluster: {component_placement: {env: 0}}")
    command = ["improve", "--policy", str(policy), "--bundle", str(bundle), "--out", str(tmp_path / "run")]
    assert main([*command, "--cluster", str(tmp_path / "cluster.yaml")]) == 2
    assert "rise-robotics[ray]" in capsys.readouterr().err
