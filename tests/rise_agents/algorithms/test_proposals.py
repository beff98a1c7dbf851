"""Ways of proposing chunks: moved in space or in time, they differ as they say and stay within the limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rise_agents.algorithms.best_of_n import BestOfN, Oracle
from rise_agents.algorithms.proposals import (
    ExploringActor,
    ProposalConfig,
    mixed_proposals,
    offset_chunks,
    turned_chunks,
    warped_chunks,
)
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.errors import ConfigError
from rise_env.tasks import load_task
from rise_robot.cell.vector import CellVectorEnv

SPEC = load_task("brick_sorting", "tiny")
ANGLES = torch.from_numpy(SPEC.layout.angles)


def chunks(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    middle = torch.from_numpy((SPEC.layout.low + SPEC.layout.high) / 2)
    states = middle.expand(count, -1)
    return states[:, None] + 0.02 * torch.arange(1, SPEC.chunk + 1)[:, None] * torch.ones(len(middle)), states


def a_policy() -> FlowPolicy:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    made = FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=2))
    made.chunk_std.fill_(0.2)
    return made


def test_an_offset_builds_up_stays_and_spares_the_grippers() -> None:
    plain, _ = chunks(64)
    config = ProposalConfig(offset=0.1, ramp=0.5)
    apart = offset_chunks(plain, SPEC.layout, config, torch.Generator().manual_seed(1)) - plain
    assert (apart[..., ~ANGLES] == 0).all()
    angles, half = apart[..., ANGLES], SPEC.chunk // 2
    torch.testing.assert_close(angles[:, half - 1 :], angles[:, -1:].expand(-1, SPEC.chunk - half + 1, -1))
    torch.testing.assert_close(angles[:, 0] * half, angles[:, -1])
    assert angles[:, -1].std() == pytest.approx(0.1, rel=0.1)


def test_a_turn_is_large_and_of_the_named_joints_alone() -> None:
    plain, _ = chunks(64)
    config = ProposalConfig(turn=0.6, ramp=0.5)
    apart = turned_chunks(plain, SPEC.layout, config, torch.Generator().manual_seed(1)) - plain
    wrists = torch.tensor([name.endswith("_joint6") for name in SPEC.layout.names])
    assert int(wrists.sum()) == 2
    assert (apart[..., ~wrists] == 0).all()
    assert apart[:, -1, wrists].std() == pytest.approx(0.6, rel=0.2)
    torch.testing.assert_close(apart[:, 0] * (SPEC.chunk // 2), apart[:, -1])
    resting, right = plain.clone(), torch.tensor([name.startswith("right_") for name in SPEC.layout.names])
    resting[:, :, right] = resting[:, :1, right]
    apart = turned_chunks(resting, SPEC.layout, config, torch.Generator().manual_seed(1)) - resting
    assert apart[:, -1, wrists].abs().amin(dim=0).tolist() == [pytest.approx(0, abs=0.1), 0.0]
    assert (apart[..., right] == 0).all()
    for wrong in ("_joint9", "_gripper"):
        with pytest.raises(ConfigError, match="turn_joints"):
            turned_chunks(plain, SPEC.layout, ProposalConfig(turn_joints=(wrong,)), torch.Generator())


def test_a_chunk_moved_in_time_is_the_same_path() -> None:
    plain, states = chunks(64)
    still = ProposalConfig(least_speed=1.0, most_speed=1.0, most_delay=0.0)
    torch.testing.assert_close(warped_chunks(plain, states, still, torch.Generator()), plain)
    moved = warped_chunks(plain, states, ProposalConfig(), torch.Generator().manual_seed(1))
    steps = (moved - states[:, None]) / 0.02  # places on the path, which is straight
    torch.testing.assert_close(steps.amin(-1), steps.amax(-1), atol=1e-3, rtol=0)
    places = steps[..., 0]
    assert (places >= -1e-3).all()
    assert (places <= SPEC.chunk + 1e-3).all()
    assert (places.diff(dim=1) >= -1e-3).all(), "it never runs backwards"
    speed = places.diff(dim=1).amax(dim=1)
    assert speed.min() < 0.8 < 1.2 < speed.max()


def test_ways_share_the_number_and_respect_the_limits() -> None:
    plain, states = chunks(3)
    asked: list[tuple[int, float]] = []

    def draw(number: int, scale: float) -> torch.Tensor:
        asked.append((number, scale))
        return plain[:, None].expand(-1, number, -1, -1)

    config = ProposalConfig(offset=50.0)
    found = mixed_proposals(
        ["policy", "wide", "both"], 8, draw, plain, states, SPEC.layout, config, torch.Generator().manual_seed(0)
    )
    assert found.shape == (3, 8, SPEC.chunk, SPEC.layout.dim)
    assert asked == [(3, 1.0), (3, 2.0)]
    assert (found <= torch.from_numpy(SPEC.layout.high)).all()
    assert (found >= torch.from_numpy(SPEC.layout.low)).all()
    for kinds, words in ((["sideways"], "sideways.*unknown"), ([], "no way")):
        with pytest.raises(ConfigError, match=words):
            mixed_proposals(kinds, 8, draw, plain, states, SPEC.layout, config, torch.Generator())


def test_the_oracle_runs_proposals_in_the_cell_and_takes_them_back() -> None:
    policy = a_policy()
    lags = tuple(policy.lags)
    envs = CellVectorEnv(2, num_workers=0, preset="tiny", observation_lags=lags, autoreset_mode="disabled")
    observations, _ = envs.reset(seed=5)
    chooser = BestOfN(policy, Oracle(envs), 5, proposals=["offset"], config=ProposalConfig(offset=0.3))
    chooser.reset([1, 2], np.ones(2, bool))
    proposals = chooser.propose(observations)
    before = envs.call("save_state")
    gained = envs.true_advantages(proposals.numpy())
    after = envs.call("save_state")
    for one, other in zip(before, after, strict=True):
        assert all(np.array_equal(one.arrays[key], other.arrays[key]) for key in one.arrays)
    assert np.ptp(gained, axis=1).min() > 0, "they differ"
    chooser.reset([1, 2], np.ones(2, bool))
    chosen = chooser.act(observations)
    np.testing.assert_array_equal(chosen, proposals.numpy()[np.arange(2), gained.argmax(axis=1)])
    with pytest.raises(ConfigError, match="expected at least 3, for the policy's own chunk and one each of warp, both"):
        BestOfN(policy, Oracle(envs), 2, proposals=["warp", "both"])
    with pytest.raises(ConfigError, match="work cell only"):
        Oracle(object())
    envs.close()


def test_exploration_takes_its_share_and_no_row_depends_on_another() -> None:
    policy = a_policy()
    envs = CellVectorEnv(3, num_workers=0, preset="tiny", observation_lags=tuple(policy.lags))
    observations, _ = envs.reset(seed=5)
    envs.close()

    def act(actor: PolicyActor, seeds: list[int], rows: slice) -> np.ndarray:
        actor.reset(seeds, np.ones(len(seeds), bool))
        return actor.act({key: value[rows] for key, value in observations.items()})

    own = act(PolicyActor(policy), [1, 2, 3], slice(None))
    np.testing.assert_array_equal(act(ExploringActor(policy, ["warp"], share=0.0), [1, 2, 3], slice(None)), own)
    exploring = ExploringActor(policy, ["offset", "warp"], share=1.0)
    together = act(exploring, [1, 2, 3], slice(None))
    assert (np.abs(together - own).max(axis=(1, 2)) > 1e-3).all()
    alone = np.concatenate([act(exploring, [seed], slice(row, row + 1)) for row, seed in enumerate([1, 2, 3])])
    np.testing.assert_allclose(alone, together, atol=1e-5)
    with torch.no_grad():
        for weight in policy.denoiser.parameters():  # some begin as zeros, and nothing that is asked for matters
            weight.add_(0.1 * torch.randn_like(weight))
    asked = act(ExploringActor(policy, ["policy"], share=1.0, advantage_bin=0), [1, 2, 3], slice(None))
    assert (asked != act(ExploringActor(policy, ["policy"], share=1.0), [1, 2, 3], slice(None))).any()
    with pytest.raises(ConfigError, match="share of 2"):
        ExploringActor(policy, ["warp"], share=2.0)
