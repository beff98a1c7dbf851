"""Warm-up on recorded chunks: it learns, it goes on after a kill, and the command says what is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms import bc
from rise_agents.algorithms.bc import BC, BCConfig, BehaviourCloning, train_policy
from rise_agents.cli.main import main
from rise_agents.policies.config import CloningConfig, PolicyConfig, load_policy_config, make_policy
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.data import Dataset, open_dataset
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import load_task
from rise_env.training.loop import Budget
from rise_robot.cell.collect import collect
from rise_robot.cell.config import load_cell

NETWORK = NetworkConfig(channels=(4, 8), embed=16, width=96, depth=2, condition=32, dropout=0.0)
CONFIG = PolicyConfig(
    model=FlowPolicyConfig(network=NETWORK, lags=(2,), steps=2, noise_samples=1, storage="fp32"),
    training=CloningConfig(
        batch_size=16, warmup_steps=2, held_out=0.3, checkpoint_seconds=0.0, learning_rate=3e-3, ema_decay=0.9
    ),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "expert"
    spec, config = load_cell("brick_sorting", "tiny")
    collect(spec, config, "expert", 4, 0, path)
    return path


@pytest.fixture
def dataset(recorded: Path) -> Dataset:
    return open_dataset(recorded, load_task("brick_sorting", "tiny"))


def session(
    dataset: Dataset, folder: Path, steps: int = 6, config: PolicyConfig = CONFIG, **changes: Any
) -> BehaviourCloning:
    bins = np.arange(dataset.num_frames) % 10
    return BehaviourCloning(dataset, bins, config, folder, Budget(steps=steps), tensorboard=False, **changes)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_it_learns_what_was_recorded(dataset: Dataset, tmp_path: Path) -> None:
    untrained = train_policy(session(dataset, tmp_path / "short", steps=1))
    trained = train_policy(session(dataset, tmp_path / "long", steps=200))
    before, after = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("short", "long"))
    # Three episodes are learned by heart: what is held out says nothing, what was recorded is imitated.
    assert after["loss"] < 0.6 * before["loss"]
    assert np.isfinite([after["loss_held_out"], after["sample_error"]]).all()
    assert untrained.codec == trained.codec
    loaded = FlowPolicy.from_pretrained(tmp_path / "long" / "model")
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_first_frames_come_more_often_where_that_is_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    class Watched(bc.RecordedChunks):
        def batch(self, which: np.ndarray, device: torch.device | str = "cpu") -> Any:
            seen.append(self.windows.frame[which])
            return super().batch(which, device)

    training = dataclasses.replace(CONFIG.training, focus_frames=2, focus_share=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bc, "RecordedChunks", Watched)
        train_policy(session(dataset, tmp_path, steps=3, config=dataclasses.replace(CONFIG, training=training)))
    batches = [frames for frames in seen if len(frames) == 16]
    assert len(batches) == 3
    assert all((frames[:8] < 2).all() for frames in batches)
    assert max(frames[8:].max() for frames in batches) >= 2
    with pytest.raises(ConfigError, match=r"focus_share is 1\.5"):
        CloningConfig(focus_share=1.5)


class Killed(BaseException):
    """Stands for kill -9."""


def test_a_killed_run_goes_on_to_the_same_result(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = train_policy(session(dataset, tmp_path / "straight"))
    original = bc.Loop._update

    def update(self: Any) -> Any:
        if self.step == 4:
            raise Killed
        return original(self)

    monkeypatch.setattr(bc.Loop, "_update", update)
    with pytest.raises(Killed):
        train_policy(session(dataset, tmp_path / "killed"))
    monkeypatch.setattr(bc.Loop, "_update", original)
    torch.rand(7)  # what happened in between does not matter
    resumed = train_policy(session(dataset, tmp_path / "killed"))
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_it_is_evaluated_in_closed_loop_where_that_is_asked_for(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[bool] = []

    def measure(policy: Any) -> dict[str, float]:
        seen.append(policy.training)
        return {"success": 0.25}

    train_policy(session(dataset, tmp_path, closed_loop_eval=measure))
    assert seen == [False]
    assert json.loads((tmp_path / "metrics.json").read_text())["success"] == 0.25


def test_a_policy_is_trained_on_with_its_own_scales(dataset: Dataset, tmp_path: Path) -> None:
    first = train_policy(session(dataset, tmp_path / "first"))
    still = dataclasses.replace(
        CONFIG, training=dataclasses.replace(CONFIG.training, learning_rate=1e-12, weight_decay=0.0)
    )
    initial = FlowPolicy.from_pretrained(tmp_path / "first" / "model")
    initial.chunk_mean.add_(0.5)
    second = train_policy(session(dataset, tmp_path / "second", config=still, initial=initial))
    torch.testing.assert_close(second.chunk_mean, first.chunk_mean + 0.5)
    torch.testing.assert_close(second.denoiser.write.weight, first.denoiser.write.weight, atol=1e-6, rtol=0)


def test_a_policy_sees_with_the_eyes_of_another_and_learns_all_else(dataset: Dataset, tmp_path: Path) -> None:
    eyes = train_policy(session(dataset, tmp_path / "eyes"))
    seed = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, seed=7))
    plain = train_policy(session(dataset, tmp_path / "plain", config=seed))
    seeing = train_policy(session(dataset, tmp_path / "seeing", config=seed, eyes=eyes))
    assert_same(seeing.encoders.state_dict(), eyes.encoders.state_dict())
    for other in (eyes, plain):
        assert not torch.equal(seeing.denoiser.write.weight, other.denoiser.write.weight)
    assert bool(seeing.denoiser.write.weight.any())
    resumed = session(dataset, tmp_path / "seeing", config=seed, eyes=eyes)
    assert_same(train_policy(resumed).state_dict(), seeing.state_dict())
    with pytest.raises(CheckpointError, match="encoders"):
        train_policy(session(dataset, tmp_path / "seeing", config=seed, eyes=plain))


def test_what_failed_is_left_out(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    made = bc.RecordedChunks
    monkeypatch.setattr(bc, "RecordedChunks", lambda *given: seen.append(given[-1]) or made(*given))
    train_policy(session(dataset, tmp_path / "all", steps=1))
    outcomes = np.ones(dataset.num_episodes, bool)
    lost = int(seen[0][1])
    outcomes[lost] = False
    monkeypatch.setattr(Dataset, "success", outcomes)
    train_policy(session(dataset, tmp_path / "won", steps=1, successes=True))
    assert seen[2].tolist() == [one for one in seen[0].tolist() if one != lost]
    assert seen[3].tolist() == seen[1].tolist()
    outcomes[:] = False
    with pytest.raises(ConfigError, match="of 4 episodes 0 succeeded"):
        train_policy(session(dataset, tmp_path / "none", successes=True))


def test_eyes_that_do_not_fit_are_refused(dataset: Dataset) -> None:
    policy = make_policy(dataset.spec, CONFIG)
    assert isinstance(policy, FlowPolicy)
    network = dataclasses.replace(policy.config.network, embed=policy.config.network.embed + 1)
    with pytest.raises(ConfigError, match="other sizes"):
        policy.see_like(FlowPolicy(dataset.spec, dataclasses.replace(policy.config, network=network)))
    one = dataclasses.replace(dataset.spec, cameras=dict(list(dataset.spec.cameras.items())[:1]))
    with pytest.raises(ConfigError, match="do not fit"):
        policy.see_like(FlowPolicy(one, policy.config))


def test_the_command(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "policy.model.network.channels=[4,8]", "policy.model.network.width=16", "policy.model.lags=[2]",
             "policy.training.batch_size=8", "policy.training.held_out=0.3"]  # fmt: skip
    command = ["train", "policy", "--preset", "tiny", "--data", str(recorded), "--steps", "2"]
    assert main([*command, "--plain", "--out", str(tmp_path / "plain"), *small]) == 0
    policy = FlowPolicy.from_pretrained(tmp_path / "plain" / "model")
    assert policy.lags == (2,)
    content = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert content["data"]["advantage_bins"][:-1] == [0] * 10  # nothing is said of any chunk
    capsys.readouterr()
    assert main([*command, "--labels", "none-such", "--out", str(tmp_path / "labelled"), *small]) == 2
    assert "rise label" in capsys.readouterr().err
    seeing = ["--demonstrations", "--encoders", str(tmp_path / "plain"), "--out", str(tmp_path / "seeing")]
    assert main([*command, *seeing, *small]) == 0
    assert_same(FlowPolicy.from_pretrained(tmp_path / "seeing" / "model").encoders.state_dict(),
                policy.encoders.state_dict())  # fmt: skip
    first = ["--plain", "--initial", str(tmp_path / "plain"), "--out", str(tmp_path / "on")]
    assert main([*command, *first, *small]) == 2  # what is given is not silently kept
    assert "policy.model.lags" in capsys.readouterr().err
    assert main([*command, *first, "--set", *small[-2:]]) == 0
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "neither")])


def test_the_preset_of_the_embedded_default() -> None:
    config = load_policy_config("brick_sorting", "small")
    assert config.model.lags == (6,)
    assert config.advantage.num_bins == 10


def test_the_kind_of_policy_is_a_setting(dataset: Dataset) -> None:
    assert isinstance(make_policy(dataset.spec, CONFIG), FlowPolicy)
    with pytest.raises(ConfigError, match="unknown policy 'nothing'"):
        PolicyConfig("nothing")
    with pytest.raises(ConfigError, match="'predicts' is called 'prediction_type' now"):
        PolicyConfig(model={"predicts": "chunk"})


def test_cloning_goes_on_without_imagining(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offline = lab.offline()
    centre = torch.from_numpy(lab.spec.layout.low + lab.spec.layout.high) / 2
    wanted = {True: centre, False: (centre + torch.from_numpy(lab.spec.layout.high)) / 2}
    for conditioned, mean in wanted.items():  # under the best advantage there is the centre, in all the border as well
        envs = lab.envs()
        monkeypatch.setattr(envs, "step", None)
        made = BC(
            lab.policy(offset=0.6), envs, offline=offline,
            config=BCConfig(conditioned=conditioned, batch_size=32, learning_rate=1e-2, trainable="action_expert"),
        )  # fmt: skip
        made.learn(80 * 32)
        assert (made.num_timesteps, made.rounds, made.learner.num_updates) == (80 * 32, 80, 80)
        noise = torch.randn((64, *made.policy.noise_shape), generator=torch.Generator().manual_seed(0))
        context = made.policy.context_of(envs.start_observations(np.arange(24).repeat(3)[:64]))
        found = made.policy.propose(context, noise, 1.0).mean((0, 1))
        assert float((found - mean).abs().max()) < 0.22, conditioned
    with pytest.raises(ConfigError, match="offline_ratio"):
        BC(lab.policy(), lab.envs(), BCConfig(offline_ratio=0.5), offline=offline)
