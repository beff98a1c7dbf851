"""Selective RISE: where it starts, what it learns, and what it leaves as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.selective_rise import SelectiveRISE, SelectiveRISEConfig
from rise_env.errors import ConfigError, TrainingError

SETTINGS: dict[str, Any] = {
    "num_candidates": 4, "top_k": 2, "min_advantage_gap": 0.02, "batch_size": 32, "epochs": 2, "buffer_rounds": 2
}  # fmt: skip


def made(lab: Any, **changes: Any) -> SelectiveRISE:
    return SelectiveRISE(lab.policy(offset=0.5), lab.envs(), SelectiveRISEConfig(**{**SETTINGS, **changes}))


def own_advantages(lab: Any) -> tuple[np.ndarray, np.ndarray]:
    """Training start states, and what the base policy's own chunk is worth there."""
    probe = made(lab)
    rows = np.flatnonzero(probe.env.starts.split == "train")
    observations, _ = probe.env.reset(seed=0, options={"start_index": rows.tolist()})
    chunks = probe.predict(observations, deterministic=True)[0]
    return rows, probe.env.evaluate_candidates(chunks[:, None]).advantage[:, 0]


def scored(lab: Any, **changes: Any) -> SelectiveRISE:
    algorithm = made(lab, **changes)
    while algorithm.phase().name == "scoring start states":
        algorithm.step()
    return algorithm


def test_start_states_are_scored_once_and_split_at_the_threshold(lab: Any) -> None:
    rows, own = own_advantages(lab)
    threshold = float(np.median(own))
    algorithm = scored(lab, advantage_threshold=threshold)
    assert algorithm.num_timesteps == len(rows)
    low = {int(row) for row in algorithm._rows[algorithm._low]}
    assert low == {int(row) for row, gain in zip(rows, own, strict=True) if gain < threshold}
    assert algorithm.metrics["rollout/low_advantage_starts"] == pytest.approx(len(low) / len(rows))
    met: list[int] = []
    reset = algorithm.env.reset
    algorithm.env.reset = lambda **given: met.extend(given["options"]["start_index"]) or reset(**given)
    algorithm.step()
    assert set(met) <= low
    assert algorithm.num_timesteps == len(rows) + 16 * 4
    with pytest.raises(TrainingError, match="nothing to gain"):
        scored(lab, advantage_threshold=-10.0)


def test_candidates_ahead_of_the_base_policys_chunk_are_learned(lab: Any) -> None:
    algorithm, found = scored(lab), []
    inner = algorithm.env.evaluate_candidates

    def noted(chunks: np.ndarray) -> Any:
        found.append((chunks.copy(), inner(chunks)))
        return found[-1][1]

    algorithm.env.evaluate_candidates = noted
    learned = algorithm.imagine()
    (chunks, scores), *_ = found
    gap = scores.advantage - scores.advantage[:, :1]
    ahead = gap >= 0.02
    assert 0 < len(learned.starts) == np.minimum(ahead.sum(axis=1), 2).sum()
    wanted = {chunk.tobytes() for chunk in chunks[ahead]}
    assert {chunk.tobytes() for chunk in learned.chunks.numpy()} <= wanted
    shuffled = scored(lab, shuffle_advantages=True).imagine()
    mean = {chunk.tobytes(): value for chunk, value in zip(chunks.reshape(-1, *chunks.shape[2:]), gap.ravel(),
                                                           strict=True)}  # fmt: skip
    right, wrong = (np.mean([mean[c.tobytes()] for c in one.chunks.numpy()]) for one in (learned, shuffled))
    assert wrong < right


def test_the_base_policys_chunk_is_learned_where_no_candidate_is_ahead(lab: Any) -> None:
    advantages = np.array([[0.0, 0.1, 0.3, 0.2], [0.5, 0.1, 0.3, 0.2], [0.0, 0.01, 0.0, 0.3]])
    picked = made(lab)._pick(advantages)
    assert picked.sum(axis=1).tolist() == [2, 0, 1]
    kept = made(lab, keep_base=True)._pick(advantages)
    assert kept[1].tolist() == [True, False, False, False]
    np.testing.assert_array_equal(kept[[0, 2]], picked[[0, 2]])
    algorithm = scored(lab, keep_base=True, min_advantage_gap=10.0)
    algorithm.step()
    assert algorithm.has_learned, "of no candidate, but of the base policy's own chunks"
    learned = algorithm._buffer[-1]
    places = [int(np.flatnonzero(algorithm._rows == row)[0]) for row in learned.starts]
    np.testing.assert_array_equal(learned.chunks, algorithm._base_chunks[places])


def test_states_where_nothing_is_ahead_can_be_distilled_at_as_well(lab: Any) -> None:
    threshold = float(np.median(own_advantages(lab)[1]))
    for settled in (False, True):
        algorithm = scored(
            lab, distil_settled=settled, min_advantage_gap=10.0, advantage_threshold=threshold, keep_base=True
        )
        algorithm.step()
        (term,) = algorithm.regularisation(np.random.default_rng(0))
        low = set(term[0].tolist()) & set(algorithm._low.tolist())
        tried = set(algorithm._low[algorithm.start_priorities <= 0.01].tolist())
        assert tried
        assert (low and low <= tried) if settled else not low


def test_a_policy_is_improved_at_first_frames_and_distilled_elsewhere(lab: Any) -> None:
    frames = made(lab).env.starts.frame_index
    most = int(np.median(frames)) + 1
    rows = np.flatnonzero(made(lab).env.starts.split == "train")
    first = set(rows[frames[rows] < most].tolist())
    algorithm = scored(lab, learn_frames=most, advantage_threshold=1e6)
    assert 0 < len(first) < len(rows)
    assert set(algorithm._rows[algorithm._low].tolist()) == first
    assert set(algorithm._rows[algorithm._reference_places].tolist()) == set(rows.tolist()) - first
    assert algorithm.num_timesteps == len(first), "the others are not imagined"
    assert algorithm.metrics["rollout/low_advantage_starts"] == 1
    observations, _ = algorithm.env.reset(seed=0, options={"start_index": np.resize(algorithm._rows, 16).tolist()})
    own = algorithm.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(algorithm._base_chunks[:16], own, atol=1e-5)  # what is distilled at is the policy's own
    algorithm.step()
    assert algorithm.has_learned
    starts = algorithm.env.starts
    late = lab.envs(starts=dataclasses.replace(starts, frame_index=starts.frame_index + 1))
    none = SelectiveRISE(lab.policy(), late, SelectiveRISEConfig(**SETTINGS, learn_frames=1))
    with pytest.raises(TrainingError, match="first 1 frames"):
        none.learn(64)


def test_a_policy_goes_on_after_a_candidate_before_that_is_judged(lab: Any) -> None:
    algorithm, asked = scored(lab, lookahead=1), []
    rows = np.flatnonzero(algorithm.env.starts.split == "train")
    assert algorithm.num_timesteps == 2 * len(rows), "every chunk that is imagined counts"
    inner, before = algorithm.env.evaluate_candidates, algorithm.num_timesteps

    def noted(chunks: np.ndarray, continuation: Any, lookahead: int) -> Any:
        asked.append(lookahead)
        return inner(chunks, continuation, lookahead)

    algorithm.env.evaluate_candidates = noted
    algorithm.step()
    assert asked == [1]
    assert algorithm.num_timesteps - before == 2 * 16 * 4
    assert algorithm.has_learned


def test_candidates_come_from_all_ways_of_proposing(lab: Any) -> None:
    algorithm, found = scored(lab, proposals=("policy", "warp"), num_candidates=5), []
    inner = algorithm.env.evaluate_candidates
    algorithm.env.evaluate_candidates = lambda chunks: found.append(chunks) or inner(chunks)
    algorithm.imagine()
    (chunks,) = found
    assert chunks.shape[:2] == (16, 5)
    apart = np.abs(chunks[:, 1:] - chunks[:, :1]).max(axis=(2, 3))
    assert (apart[:, :2] > 1e-4).all(), "drawn from the policy"
    assert (apart[:, 2:] > 1e-4).any(), "run at another speed, which shows where the chunk moves at all"
    assert (apart[:, 2:].mean(axis=1) < apart[:, :2].mean(axis=1)).all()
    with pytest.raises(ConfigError, match="unknown"):
        made(lab, proposals=("sideways",))
    with pytest.raises(ConfigError, match="3 candidates beside the base's for 4 proposals"):
        made(lab, proposals=("policy", "warp", "offset", "both"))


def test_states_without_anything_to_gain_are_seldom_started_from(lab: Any) -> None:
    algorithm = scored(lab, min_advantage_gap=10.0)
    assert len(algorithm.imagine().starts) == 0
    assert set(np.unique(algorithm.start_priorities)) <= {1.0, 0.01}
    assert (algorithm.start_priorities == 0.01).any()
    algorithm._buffer = [algorithm.imagine()]
    algorithm._learn(0.0)  # nothing to learn is no error
    assert algorithm.learner.num_updates == 0


def test_distillation_pulls_the_actor_back_to_the_reference(lab: Any) -> None:
    _, own = own_advantages(lab)
    algorithm = scored(lab, advantage_threshold=float(np.median(own)))
    actor, places = algorithm.learner.actor, algorithm._reference_places
    assert len(places)

    def apart() -> torch.Tensor:
        return algorithm._distillation_loss(places, torch.Generator().manual_seed(0)).mean()

    assert float(apart().detach()) < 1e-9
    with torch.no_grad():
        actor.denoiser.write.bias.add_(0.05)
    before = float(apart().detach())
    for _ in range(60):
        algorithm.learner.update([(places, algorithm._distillation_loss)], np.random.default_rng(0), 0.0)
    assert 0.0 < float(apart().detach()) < 0.3 * before


def test_it_learns_what_pays(lab: Any) -> None:
    algorithm = made(lab, epochs=16, learning_rate=3e-3, warmup_steps=5, ema_decay=0.9, advantage_threshold=0.2)
    before = lab.imagined_advantage(algorithm, deterministic=True)
    algorithm.learn(16 * 4 * 12)
    assert lab.imagined_advantage(algorithm, deterministic=True) > before + 0.05


def test_frozen_encoders_are_left_alone_and_asked_once(lab: Any) -> None:
    algorithm = made(lab, trainable="action_expert")
    asked: list[int] = []
    inner = algorithm.env.start_observations
    algorithm.env.start_observations = lambda rows: asked.append(len(rows)) or inner(rows)
    before = {name: value.clone() for name, value in algorithm.learner.actor.state_dict().items()}
    algorithm.learn(16 * 4 * 4)
    for name, value in algorithm.learner.actor.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("denoiser.")), name
    assert asked == [24]


def test_the_rate_follows_the_budget(lab: Any) -> None:
    algorithm, rates = made(lab, lr_decay_fraction=0.5, warmup_steps=1, learning_rate=1e-3), []
    algorithm.learn(16 + 64 * 8, callback=lambda one: rates.append(one.learner.optimiser.param_groups[0]["lr"]))
    assert rates[-1] < 0.3e-3
    assert max(rates) == 1e-3
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for changes, match in (({"top_k": 8}, "num_candidates"), ({"min_advantage_gap": -1.0}, "min_advantage_gap"),
                           ({"noise_scale": 2.0}, "noise_scale"), ({"scored_starts": 0}, "scored_starts")):  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            SelectiveRISEConfig(**changes)  # type: ignore[arg-type]
