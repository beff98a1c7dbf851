"""The critic of outcomes: what it learns from recordings, and what a policy learns from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.outcomes import OutcomeConfig, OutcomeCritic, OutcomeLearner
from rise_agents.algorithms.selective_rise import SelectiveRISE, SelectiveRISEConfig
from rise_agents.policies.data import RecordedChunks
from rise_env.data.array_dataset import ArrayDataset
from rise_env.errors import ConfigError, TrainingError
from rise_env.tasks import JointLayout

SMALL = OutcomeConfig(members=2, updates=120, batch_size=64, width=32, dropout=0.0, noise=0.0, weight_decay=0.0)


def taught(lab: Any, config: OutcomeConfig = SMALL, recorded: RecordedChunks | None = None) -> OutcomeLearner:
    learner = OutcomeLearner(lab.policy(), recorded or lab.recordings(episodes=40), config, 0)
    while learner.num_encoded < learner.num_states:
        learner.look()
    while not learner.finished:
        learner.update()
    return learner


def judged(learner: OutcomeLearner, lab: Any, chunk: np.ndarray) -> np.ndarray:
    """What is expected of one target, held for a chunk, at some recorded states."""
    rows = slice(0, 40)
    chunks = torch.from_numpy(chunk.astype(np.float32)).expand(40, lab.spec.chunk, -1)
    return learner.critic.expected(learner._features[rows], learner._states[rows], chunks)


def test_what_recordings_show_to_succeed_is_expected_to(lab: Any) -> None:
    learner = taught(lab)
    middle, border = (lab.spec.layout.low + lab.spec.layout.high) / 2, lab.spec.layout.high
    good, bad = judged(learner, lab, middle), judged(learner, lab, border)
    assert np.all((good >= 0) & (good <= 1))
    assert good.mean() > bad.mean() + 0.1
    assert learner.held_out_auroc() in (None, pytest.approx(1.0, abs=0.2))


def test_an_angle_is_matched_with_what_is_seen() -> None:
    """Success depends on the difference between a turn and one that the features show, half turns left out."""
    layout = JointLayout("turner", ("reach", "turn"), ("m", "rad"), (0.0, -3.2), (1.0, 3.2))
    torch.manual_seed(0)
    config = OutcomeConfig(members=1, width=48, dropout=0.0, noise=0.0)
    critic = OutcomeCritic(2, layout, 4, config)
    wanted, turned = 6.2 * torch.rand(2, 1536) - 3.1
    features = torch.stack([(2 * wanted).cos(), (2 * wanted).sin()], dim=1)
    states, chunks = torch.zeros(1536, 2), torch.zeros(1536, 4, 2)
    chunks[:, :, 1] = turned[:, None]
    success = ((turned - wanted).sin().abs() < 0.5).float()
    train, test = slice(0, 1024), slice(1024, None)
    critic.fit_normalisation(features[train], states[train], chunks[train])
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(150):
        told = critic.member(0, features[train], states[train], chunks[train])[:, 2]
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(told, success[train]).backward()
        optimiser.step()
    told = critic(features[test], states[test], chunks[test])[0, :, 2]
    assert float(((told > 0) == (success[test] > 0.5)).float().mean()) > 0.9
    chunks[:, :, 1] += torch.pi  # holds the same
    again = critic(features[test], states[test], chunks[test])[0, :, 2]
    assert float(((again > 0) == (success[test] > 0.5)).float().mean()) > 0.75


def test_degrees_are_angles_too() -> None:
    """Told in degrees, harmonics are those of the same angle."""
    found = []
    for unit, scale in (("rad", 1.0), ("deg", 180 / np.pi)):
        layout = JointLayout("turner", ("turn",), (unit,), (-10.0,), (10.0,))
        seen: list[torch.Tensor] = []
        critic = OutcomeCritic(2, layout, 4, OutcomeConfig(members=1, width=8))
        critic.members[0].register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[2]))
        critic(torch.zeros(3, 2), torch.zeros(3, 1), torch.full((3, 4, 1), 0.7 * scale))
        found.append(seen[0])
    torch.testing.assert_close(*found)


def test_values_of_the_chunks_after_are_learned_where_they_are_known(lab: Any) -> None:
    recorded = lab.recordings(episodes=40)
    dataset, windows = recorded.dataset, recorded.windows
    values = np.linspace(0, 1, dataset.num_frames).astype(np.float32)
    given = RecordedChunks(dataset, recorded.lags, recorded.advantage_bins, values=values)
    learner = OutcomeLearner(lab.policy(), given, SMALL, 0)
    owner, length = dataset.episode_of(windows.index[0]), lab.spec.chunk
    last = dataset.starts[owner] + dataset.lengths[owner] - 1
    after = values[np.minimum(windows.index[0] + length + np.arange(length), last)].mean()
    assert float(learner._values[0, 0]) == pytest.approx(after)
    assert OutcomeLearner(lab.policy(), given, SMALL, 0).critic.taught.all()
    # Where they are not known, what a critic says of them has been taught by nothing, and does not count.
    critic = taught(lab).critic
    assert critic.taught.tolist() == [False, False, True]
    joints = lab.spec.layout.dim
    seen, states = torch.zeros(3, critic.feature_mean.numel()), torch.zeros(3, joints)
    chunks = torch.zeros(3, length, joints)
    told = critic(seen, states, chunks)[..., 2].sigmoid().mean(0)
    np.testing.assert_allclose(critic.expected(seen, states, chunks), told.detach().numpy(), rtol=1e-6)
    with pytest.raises(ConfigError, match="values for"):
        RecordedChunks(dataset, recorded.lags, recorded.advantage_bins, values=values[1:])


def test_frames_and_most_bound_what_is_looked_at(lab: Any) -> None:
    recorded = lab.recordings()
    early = OutcomeLearner(lab.policy(), recorded, OutcomeConfig(frames=2), 0)
    assert early.num_states == int((recorded.windows.frame < 2).sum()) < len(recorded)
    assert OutcomeLearner(lab.policy(), recorded, OutcomeConfig(most=5), 0).num_states == 5


def test_outcomes_that_teach_nothing_are_an_error(lab: Any) -> None:
    recorded = lab.recordings()
    data = recorded.dataset
    for outcomes, told in ((np.ones(data.num_episodes, bool), "all that say so ended alike"),
                           ([None] * data.num_episodes, "none says how it ended")):  # fmt: skip
        same = ArrayDataset(data.spec, data.lengths, data.state, data.action, frames=data.frames(np.arange(len(data))),
                            outcomes=outcomes)  # fmt: skip
        with pytest.raises(ConfigError, match=told):
            OutcomeLearner(lab.policy(), RecordedChunks(same, [2], recorded.advantage_bins), SMALL, 0)
    learner = taught(lab, OutcomeConfig(members=1, updates=1, width=8))
    learner._features.fill_(float("nan"))
    with pytest.raises(TrainingError, match="update 1: the loss is nan"):
        learner.update()


# ---------------------------------------------------------------------- in selective RISE


def selective(lab: Any, weight: float = 1.0, offline: Any = None, **changes: Any) -> SelectiveRISE:
    settings: dict[str, Any] = {
        "outcome_weight": weight, "outcome": SMALL, "proposals": ("offset",), "num_candidates": 8, "top_k": 1,
        "learn_best": True, "min_advantage_gap": 0.01, "advantage_threshold": 9.0, "keep_base": True, "batch_size": 32,
        "epochs": 6, "trainable": "action_expert", "seed": 0,
    }  # fmt: skip
    offline = offline or lab.recordings(episodes=40)
    policy = lab.policy(offset=0.4)
    return SelectiveRISE(policy, lab.envs(), SelectiveRISEConfig(**{**settings, **changes}), offline=offline)


def run(algorithm: SelectiveRISE, rounds: int) -> SelectiveRISE:
    algorithm._total_timesteps = 4000  # what `learn` sets
    for _ in range(rounds):
        algorithm.step()
        algorithm.rounds += 1
    return algorithm


def far(lab: Any, algorithm: SelectiveRISE) -> float:
    """How far the policy's chunks are from the centre of the joint range, where recorded episodes succeed."""
    observations, _ = lab.envs().reset(seed=1)
    chunks = algorithm.predict(observations, deterministic=True)[0]
    return float(np.abs(chunks - (lab.spec.layout.low + lab.spec.layout.high) / 2).mean())


def test_the_critic_alone_improves_a_policy_and_nothing_is_imagined(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = selective(lab)
    before = far(lab, algorithm)
    asked: list[int] = []
    monkeypatch.setattr(algorithm.env, "evaluate_candidates", lambda *given, **kwargs: asked.append(1))
    names, step = [], algorithm.step

    def noted() -> None:
        names.append(algorithm.phase().name)
        step()

    monkeypatch.setattr(algorithm, "step", noted)
    algorithm.learn(4000)
    assert not asked
    assert list(dict.fromkeys(names)) == [
        "looking at recorded states", "learning outcomes", "scoring start states", "improving by the critic"
    ]  # fmt: skip
    assert algorithm.metrics["rollout/base_advantage"] == 0.0
    assert far(lab, algorithm) < 0.95 * before


def test_both_judges_are_weighted(lab: Any) -> None:
    algorithm = selective(lab, 0.25)
    while algorithm.phase().name != "improving in imagination":
        run(algorithm, 1)
    observations, _ = algorithm.env.reset(seed=0)
    chunks = torch.from_numpy(np.stack([algorithm.env.action_space.sample() for _ in range(3)], 1))
    found = algorithm._advantages_of(chunks, algorithm.policy, observations)
    imagined = algorithm.env.evaluate_candidates(chunks.numpy()).advantage
    assert algorithm.critic is not None
    expected = algorithm.critic.judge(algorithm.reference, algorithm.reference.context_of(observations), chunks)
    np.testing.assert_allclose(found, 0.75 * imagined + 0.25 * (expected - expected[:, :1]), atol=1e-6)


def test_the_best_of_those_ahead_is_learned(lab: Any) -> None:
    algorithm = selective(lab, top_k=2, keep_base=False, min_advantage_gap=0.1)
    picked = algorithm._pick(np.array([[0.0, 0.3, 0.05, 0.2, 0.4, 0, 0, 0], [0.0, 0.05, 0, 0, 0, 0, 0, 0]]))
    np.testing.assert_array_equal(np.argwhere(picked), [[0, 1], [0, 4]])


def test_an_interrupted_run_goes_on_the_same(lab: Any, tmp_path: Any) -> None:
    whole = run(selective(lab, warm_up=15), 26)
    for stop in (1, 3, 10, 22):  # while it clones, while it looks, while it learns outcomes, and afterwards
        run(selective(lab, warm_up=15), stop).save(tmp_path / str(stop))
        again = selective(lab, warm_up=15)
        assert again.restore(tmp_path / str(stop))
        run(again, 26 - stop)
        assert again.num_timesteps == whole.num_timesteps > 0
        assert again.has_learned
        for name, tensor in whole.policy.state_dict().items():
            assert torch.equal(tensor, again.policy.state_dict()[name]), (stop, name)


def test_candidates_lie_around_the_base_policys_chunk_if_asked(lab: Any) -> None:
    algorithm = selective(lab, around_base=True, proposals=("offset",))
    while algorithm.phase().name != "improving by the critic":
        run(algorithm, 1)
    with torch.no_grad():
        algorithm.policy.chunk_mean.add_(5.0)  # it has drifted far
    places = np.zeros(algorithm.env.num_envs, np.int64)
    observations = algorithm._start(algorithm._rows[places], 0)
    for around in (True, False):
        algorithm.config = dataclasses.replace(algorithm.config, around_base=around)
        others = algorithm._others(places, observations, torch.Generator().manual_seed(0))
        away = float((others - algorithm._base_chunks[places][:, None]).abs().mean())
        assert (away < 0.5) == around


def test_a_critic_needs_recordings(lab: Any) -> None:
    with pytest.raises(ConfigError, match=r"outcome_weight: a critic learns from .*\(--data\)"):
        SelectiveRISE(lab.policy(), lab.envs(), SelectiveRISEConfig(outcome_weight=0.5), offline=lab.offline())


def test_a_critic_that_was_taught_judges_elsewhere_and_nothing_is_taught(lab: Any, tmp_path: Path) -> None:
    first = selective(lab, epochs=1)
    while first.phase().name != "improving by the critic":
        run(first, 1)
    first.save(tmp_path)
    again = selective(lab, outcome=OutcomeConfig(model=str(tmp_path / "critic")), offline=lab.offline())
    assert again.outcomes is None
    assert again.phase().name == "scoring start states"
    observations, _ = lab.envs().reset(seed=0)
    chunks = torch.from_numpy(np.stack([first.env.action_space.sample() for _ in range(3)], 1))
    found, expected = (one._advantages_of(chunks, one.policy, observations) for one in (again, first))
    np.testing.assert_allclose(found, expected, atol=0.02)  # it is stored in whole numbers
    assert np.abs(expected).max() > 0.1
    before = far(lab, again)
    again.learn(4000)
    assert far(lab, again) < 0.95 * before


def test_a_critic_does_not_judge_what_other_eyes_see(lab: Any, tmp_path: Path) -> None:
    taught(lab, OutcomeConfig(members=1, updates=1, width=8)).critic.save_pretrained(tmp_path / "critic")
    critic = OutcomeCritic.from_pretrained(tmp_path / "critic")
    critic.check_eyes(lab.policy())
    moved = lab.policy()
    with torch.no_grad():
        for weight in moved.denoiser.parameters():  # it acts otherwise and sees the same
            weight.add_(1.0)
    critic.check_eyes(moved)
    with pytest.raises(ConfigError, match=r"outcome.model\) was taught with other image encoders"):
        critic.check_eyes(lab.policy(seed=1))


def test_labels_are_not_needed_by_a_critic_that_was_taught() -> None:
    taught = OutcomeConfig(model="bundle")
    for config, needed in ((SelectiveRISEConfig(), True), (SelectiveRISEConfig(outcome_weight=1.0), True),
                           (SelectiveRISEConfig(outcome_weight=1.0, outcome=taught), False),
                           (SelectiveRISEConfig(outcome_weight=0.5, outcome=taught), True)):  # fmt: skip
        assert SelectiveRISE.reads_labels(config) == needed


# ---------------------------------------------------------------------- what succeeded is cloned first


def test_a_critic_sees_with_the_eyes_of_what_was_cloned(lab: Any, tmp_path: Path) -> None:
    algorithm = selective(lab, warm_up=20, trainable="all", learning_rate=3e-2)
    while algorithm.phase().name != "improving by the critic":
        run(algorithm, 1)
    algorithm.save(tmp_path)
    critic = OutcomeCritic.from_pretrained(tmp_path / "critic")
    critic.check_eyes(algorithm.reference)
    with pytest.raises(ConfigError, match="other image encoders"):
        critic.check_eyes(lab.policy(offset=0.4))  # as it was before
    with pytest.raises(ConfigError, match=r"warm_up trains the encoders .* trainable=action_expert"):
        selective(lab, warm_up=1, trainable="all", outcome=OutcomeConfig(model=str(tmp_path / "critic")))


def test_successes_alone_are_cloned_and_become_the_base(lab: Any) -> None:
    """Recorded successes lie at the centre of the joint range, failures at its border."""
    algorithm = selective(lab, warm_up=200, learning_rate=3e-3)
    before = far(lab, algorithm)
    assert algorithm.phase() == ("cloning successes", 0, 200, "updates")
    while algorithm.phase().name == "cloning successes":
        run(algorithm, 1)
    assert far(lab, algorithm) < 0.5 * before
    for name, tensor in algorithm.policy.state_dict().items():
        assert torch.equal(algorithm.reference.state_dict()[name], tensor)
        assert torch.equal(algorithm.learner.actor.state_dict()[name], tensor)


def test_successes_that_are_not_there_are_an_error(lab: Any) -> None:
    with pytest.raises(ConfigError, match=r"warm_up: .*\(--data\)"):
        SelectiveRISE(lab.policy(), lab.envs(), SelectiveRISEConfig(warm_up=1), offline=lab.offline())
    recorded = lab.recordings(episodes=4)
    failed = RecordedChunks(recorded.dataset, recorded.lags, recorded.advantage_bins, [1, 3])
    with pytest.raises(ConfigError, match="warm_up: of 2 recorded episodes none is known to have succeeded"):
        SelectiveRISE(lab.policy(), lab.envs(), SelectiveRISEConfig(warm_up=1), offline=failed)
