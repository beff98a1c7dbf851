"""DAgger: what is learned where, who acts, what it costs; the schedule, the window, and exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import rise_env  # noqa: F401  (registers the environments)
from rise_agents import make_agent
from rise_agents.algorithms.cell_episodes import TRAINING_SEEDS, training_seed
from rise_agents.algorithms.dagger import DAgger, DAggerConfig
from rise_agents.cli.main import main
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.training.runner import Budget, Runner, read_history
from rise_env.bundle import find_bundle, load_bundle
from rise_env.errors import ConfigError
from tests.rise_agents.algorithms import fake_cell
from tests.rise_agents.algorithms.fake_cell import LIMIT, SPEC, FakeCell

SMALL = {"episodes": 6, "batch_size": 16, "epochs": 1}
FORMS = ["dagger", "hg"]


def make(lab: Any, cell: FakeCell | None = None, offset: float = 0.0, **settings: Any) -> DAgger:
    policy = lab.policy(offset=offset, noise_scale=0.0)
    return make_agent("dagger", cell or FakeCell(), policy, **{**SMALL, **settings})


def weights(algorithm: DAgger) -> list[torch.Tensor]:
    return [value.clone() for value in algorithm.policy.state_dict().values()]


def shown(seen: dict[str, torch.Tensor]) -> np.ndarray:
    """Chunks of an expert that reads the dial, of observations."""
    part = next(value for key, value in seen.items() if key.startswith("image"))[:, 0, 0, 0].numpy() / 255
    return np.stack([np.tile(FakeCell._joints(float(one)), (SPEC.chunk, 1)) for one in part])


def test_the_experts_share_falls_as_published() -> None:
    config = DAggerConfig()
    shares = {0: 1.0, 1: 0.99, 10: 0.904382, 100: 0.366032, 298: 0.050037, 299: 0.05, 5000: 0.05}
    for rounds, share in shares.items():
        assert config.beta(rounds) == pytest.approx(share, abs=1e-6)


def test_dagger_learns_what_the_expert_would_do_at_all_states(lab: Any) -> None:
    algorithm = make(lab, offset=0.5, beta_decay=0.1, beta_min=0.0)
    algorithm.learn(1)
    assert algorithm.metrics["rollout/expert_share"] == 1.0  # in the first round it acts alone
    assert algorithm.metrics["rollout/success"] == 1.0
    algorithm.learn(1, reset_num_timesteps=False)
    assert algorithm.metrics["rollout/beta"] == 0.1
    assert algorithm.metrics["rollout/expert_share"] < 0.5
    assert algorithm.metrics["rollout/success"] < 1.0
    kept = algorithm._kept
    assert kept is not None
    assert len(kept) == 6 + algorithm.metrics["rollout/learned"]  # failed episodes as well
    low, high = (torch.from_numpy(limit) for limit in (SPEC.layout.low, SPEC.layout.high))
    apart = (kept.chunks - torch.from_numpy(shown(kept.observations))) / (high - low)
    assert float(apart.abs().max()) < 1 / 255


def test_hg_dagger_learns_what_the_expert_did_in_episodes_that_succeeded(lab: Any) -> None:
    algorithm = make(lab, offset=0.5, form="hg", episodes=12)
    algorithm.learn(1)
    assert 0.0 < algorithm.metrics["rollout/expert_share"] < 1.0
    kept = algorithm._kept
    assert kept is not None
    assert 0 < len(kept) <= 12  # the expert succeeds with its first chunk
    assert np.abs(kept.chunks.numpy() - shown(kept.observations)).max() < 4 / 255  # the policy's own are not among them
    assert "rollout/beta" not in algorithm.metrics


def test_hg_dagger_leaves_out_what_failed(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_cell, "NEAR", -1.0)
    algorithm = make(lab, form="hg", offset=0.5)
    before = weights(algorithm)
    algorithm.learn(1)
    assert algorithm._kept is None
    assert algorithm.metrics["rollout/expert_share"] > 0
    assert all(torch.equal(a, b) for a, b in zip(weights(algorithm), before, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_control_steps_are_the_budget(lab: Any, form: str) -> None:
    cell = FakeCell(3)
    algorithm = make(lab, cell, form=form)
    algorithm.learn(100)
    assert algorithm.num_timesteps == 0
    assert 100 <= algorithm.num_real_steps < 100 + 6 * LIMIT * SPEC.execute
    assert algorithm.num_real_steps <= cell.control_steps  # less the idle ones
    assert algorithm.spent == algorithm.scalars()["time/real_steps"] == algorithm.num_real_steps
    assert algorithm.progress == 1.0
    assert algorithm.phase().unit == "control steps"


def test_old_decisions_leave_the_window(lab: Any) -> None:
    algorithm = make(lab, window=10 * SPEC.execute)
    algorithm.learn(200)
    assert algorithm._kept is not None
    assert len(algorithm._kept) == 10
    assert len(algorithm._kept.observations["state"]) == 10


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(lab: Any, form: str, tmp_path: Path) -> None:
    cell = FakeCell()
    whole = make(lab, cell, form=form, offset=0.5).learn(300)
    assert whole.rounds > 3
    for rounds in (1, 3):
        first = make(lab, form=form, offset=0.5)
        first.learn(300, callback=lambda trained, rounds=rounds: trained.rounds < rounds)
        first.save(tmp_path / str(rounds))
        other = FakeCell()
        second = make(lab, other, form=form, offset=0.5)
        assert second.restore(tmp_path / str(rounds))
        assert second.num_real_steps == first.num_real_steps
        second.learn(300 - second.num_real_steps, reset_num_timesteps=False)
        assert other.seeds == cell.seeds[-len(other.seeds) :]
        for mine, theirs in zip(weights(second), weights(whole), strict=True):
            assert torch.equal(mine, theirs)


def test_training_episodes_are_never_those_of_an_evaluation(lab: Any) -> None:
    assert TRAINING_SEEDS > 2_000_000
    seeds = [training_seed(seed, episode) for seed in (0, 1, 7) for episode in (0, 31, 999)]
    assert len(set(seeds)) == 9
    assert max(training_seed(999, 999_999), *seeds) < 2**31
    cell = FakeCell()
    make(lab, cell, seed=3).learn(1)
    assert sorted(set(cell.seeds)) == [training_seed(3, episode) for episode in range(6)]


@pytest.mark.parametrize("form", FORMS)
def test_it_learns_to_do_as_the_expert(lab: Any, form: str) -> None:
    cell = FakeCell(8, targets=(0.75, 0.75))
    algorithm = make(lab, cell, offset=-0.6, form=form, episodes=8, epochs=12, batch_size=8, learning_rate=3e-3,
                     warmup_steps=1, ema_decay=0.8, beta_decay=0.5)  # fmt: skip

    def success() -> float:
        seen, _ = cell.reset(seed=list(range(8)))
        return float(cell.step(algorithm.predict(seen, deterministic=True)[0])[2].mean())

    assert success() == 0.0
    algorithm.learn(250)
    assert success() > 0.5  # after 60 updates


def test_what_does_not_fit_is_said(lab: Any) -> None:
    with pytest.raises(ConfigError, match=r"scripted_chunks.*Cell-v0"):
        make_agent("dagger", lab.envs(), lab.policy())
    with pytest.raises(ConfigError, match="supervised_chunks"):
        make_agent("dagger", lab.envs(), lab.policy(), form="hg")
    for field, value in {"form": "both", "beta_decay": 0.0, "beta_min": 2.0, "window": 0}.items():
        with pytest.raises(ConfigError, match=field):
            DAggerConfig(**{field: value})  # type: ignore[arg-type]


def test_a_runner_counts_control_steps(lab: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="real_steps"):
        Runner(make(lab), tmp_path, Budget(10), progress_bar=False, tensorboard=False).run()
    done = Runner(make(lab), tmp_path, Budget(10, real_steps=60), progress_bar=True, tensorboard=True).run()
    assert 60 <= done.num_real_steps < 140
    assert read_history(tmp_path)[0]["time/real_steps"] > 0
    again = Runner(make(lab), tmp_path, Budget(10, real_steps=200), progress_bar=False, tensorboard=False).run()
    assert again.rounds > done.rounds
    assert json.loads((tmp_path / "metrics.json").read_text())["time/real_steps"] == again.num_real_steps


@pytest.mark.parametrize("form", FORMS)
def test_it_acts_in_the_cell(lab: Any, form: str) -> None:
    cell = gymnasium.make_vec(
        "RISE-BrickSorting-Cell-v0", num_envs=2, num_workers=0, preset="tiny", observation_lags=[2],
        autoreset_mode="disabled", overrides=["task.max_seconds=2.4"],
    )  # fmt: skip
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    torch.manual_seed(0)
    policy = FlowPolicy(cell.unwrapped.task, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1))  # type: ignore[attr-defined]
    algorithm = make_agent("dagger", cell, policy, form=form, episodes=2, batch_size=8, epochs=1)
    algorithm.learn(1)
    cell.close()
    assert algorithm.num_real_steps == 2 * 19  # the expert needs 1.9 s
    assert algorithm.metrics["rollout/expert_share"] > 0.5


def test_rise_improve_makes_the_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    spec = load_bundle(find_bundle("brick_sorting")).spec
    config = FlowPolicyConfig(network=network, lags=(6,), steps=1, noise_samples=1)
    FlowPolicy(spec, config).save_pretrained(tmp_path / "policy")
    command = ["improve", "--agent", "dagger", "--policy", str(tmp_path / "policy"), "--out", str(tmp_path / "run")]
    for refused in (["--oracle"], ["--audit", "4"]):
        assert main([*command, *refused]) == 2
        assert "work cell itself" in capsys.readouterr().err
    command += ["--judge", "0", "--num-envs", "1", "--set", "episodes=1", "batch_size=8", "epochs=1"]
    assert main([*command, "--real-steps", "1"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["num_timesteps"] == 0
    assert 0 < metrics["time/real_steps"] <= 120
    assert main([*command, "--real-steps", "1"]) == 0  # there is nothing left to do
    assert json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")) == metrics
