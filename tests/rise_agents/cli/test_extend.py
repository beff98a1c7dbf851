"""`rise extend`: further parts of a bundle, read before they are put in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rise_agents.algorithms.outcomes import OutcomeConfig, OutcomeCritic
from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.resolve import find_policy, record_name, resolve_policy
from rise_env.bundle import load_bundle, save_bundle
from rise_env.errors import ConfigError
from rise_env.testing import counting_spec, counting_starts, counting_world_model

SPEC = counting_spec()


def test_policies_and_a_critic_are_put_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = save_bundle(tmp_path / "before", counting_starts(), counting_world_model()).path
    torch.manual_seed(0)
    policy = FlowPolicy(SPEC, FlowPolicyConfig(network=NetworkConfig(channels=(4,), embed=8, width=16, depth=1)))
    policy.save_pretrained(tmp_path / "run" / "model")
    critic = OutcomeCritic(policy.features, SPEC.layout, SPEC.chunk, OutcomeConfig(members=1, width=8))
    critic.remember_eyes(policy)
    critic.save_pretrained(tmp_path / "run" / "critic")
    out = tmp_path / "after"
    command = ["extend", str(before), "--policy", f"novice={tmp_path / 'run'}", "--critic", str(tmp_path / "run")]
    assert main([*command, "--out", str(out)]) == 0
    assert "base, base:novice" in capsys.readouterr().out
    bundle = load_bundle(out)
    assert find_policy("base:novice", bundle=bundle) == str(bundle.policies["novice"])
    loaded = resolve_policy("base:novice", bundle=bundle)
    assert bundle.critic is not None
    OutcomeCritic.from_pretrained(bundle.critic).check_eyes(loaded)
    assert record_name("base:novice") == "base-novice"
    with pytest.raises(ConfigError, match="has no policy 'base:other'; it has base:novice"):
        find_policy("base:other", bundle=bundle)
    assert load_bundle(before).policies == {}
    for wrong, told in ((["--policy", "novice"], "expected NAME=POLICY"), (["--policy", "a=nowhere"], "nowhere"),
                        (["--critic", str(before)], "is no checkpoint"), ([], "nothing to put into")):  # fmt: skip
        assert main(["extend", str(before), *wrong, "--out", str(tmp_path / "wrong")]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
