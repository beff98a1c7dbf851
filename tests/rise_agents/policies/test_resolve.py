"""Policy names: a given bundle decides, no task is assumed, scripted policies take no options."""

from __future__ import annotations

import shutil
from pathlib import Path

import gymnasium
import pytest
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.resolve import find_policy, record_name, resolve_actor, resolve_policy, task_of
from rise_env.acting import Actor
from rise_env.bundle import find_bundle, load_bundle
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import load_task


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    policy = FlowPolicy(load_task("brick_sorting", "tiny"), FlowPolicyConfig(network=network, lags=(2,), steps=2))
    path = tmp_path_factory.mktemp("run") / "model"
    policy.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with another policy."""
    path = tmp_path_factory.mktemp("bundles") / "other"
    shutil.copytree(find_bundle("brick_sorting"), path, ignore=lambda _, names: {"policy"} & set(names))
    shutil.copytree(checkpoint, path / "policy")
    return path


def test_base_is_the_policy_of_the_given_bundle(bundle: Path) -> None:
    shipped = load_bundle(find_bundle("brick_sorting")).policy
    assert find_policy("base", "brick_sorting") == str(shipped)
    for given in (bundle, str(bundle), load_bundle(bundle)):
        for task in ("brick_sorting", None):
            assert find_policy("base", task, given) == str(bundle / "policy")
    assert resolve_policy("base", task="brick_sorting", bundle=bundle).spec.image_size == (36, 48)
    actor = resolve_actor("base", task="brick_sorting", bundle=bundle)
    assert isinstance(actor, PolicyActor)
    assert actor.lags == (2,)


def test_no_task_is_assumed() -> None:
    with pytest.raises(ConfigError, match="which task"):
        find_policy("base")


def test_run_folders_checkpoints_and_hub_ids(checkpoint: Path) -> None:
    assert find_policy(checkpoint.parent) == find_policy(checkpoint) == str(checkpoint)
    with pytest.raises(CheckpointError, match=r"no policy at somebody/something.*HF_HUB_OFFLINE is set"):
        find_policy("somebody/something")
    with pytest.raises(ConfigError, match="'expert': there is no such trained policy"):
        resolve_policy("expert")


def test_recordings_are_named_by_the_run(checkpoint: Path, tmp_path: Path) -> None:
    """`model` and `last` are the names of every run's: episodes of two policies would be taken for one's."""
    assert record_name("base") == "base"
    assert record_name("user/act") == "policy-act"
    for run in ("a", "b"):
        shutil.copytree(checkpoint, tmp_path / run / "model")
        assert {record_name(str(tmp_path / run / part)) for part in ("", "model")} == {f"policy-{run}"}
    (tmp_path / "act/checkpoints/000300/pretrained_model").mkdir(parents=True)
    (tmp_path / "act/checkpoints/last").symlink_to("000300")
    assert record_name(str(tmp_path / "act/checkpoints/last/pretrained_model")) == "policy-act-000300"


def test_options_reach_the_actor(checkpoint: Path) -> None:
    actor = resolve_actor(checkpoint, advantage="worst", guidance=2.0, steps=3, noise_scale=0.5)
    assert isinstance(actor, PolicyActor)
    assert (actor.advantage_bin, actor.guidance, actor.steps, actor.noise_scale) == (0, 2.0, 3, 0.5)


def test_scripted_policies_are_found_in_the_environments() -> None:
    with pytest.raises(ConfigError, match="'expert' is scripted: it takes no guidance"):
        resolve_actor("expert", guidance=1.0)
    envs = gymnasium.make_vec("RISE-BrickSorting-Cell-v0", num_envs=1, preset="tiny", num_workers=0)
    try:
        for name in ("expert", "operator-noisy", "random"):
            source = resolve_actor(name)
            assert not isinstance(source, Actor)
            assert isinstance(source(envs), Actor)
    finally:
        envs.close()


def test_ids_name_their_task() -> None:
    assert task_of("RISE-BrickSorting-Cell-v0") == "brick_sorting"
    assert task_of("RISE-Imagination-v0") is None
    with pytest.raises(ConfigError, match="unknown environment id 'RISE-Nothing-v0'"):
        task_of("RISE-Nothing-v0")
