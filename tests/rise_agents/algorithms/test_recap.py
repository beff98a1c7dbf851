"""RECAP: what is labelled how, what is learned from it, and when its value function is not believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.recap import RECAP, RECAPConfig, positive_chunks
from rise_agents.algorithms.recap_value import ReturnValue, ReturnValueConfig, check_problems
from rise_agents.policies.codec import AdvantageCodec
from rise_env.errors import ConfigError, TrainingError

FAST = {"updates": 100, "batch_size": 32, "learning_rate": 3e-3}


def made(lab: Any, recorded: Any = None, value: Any = None, **changes: Any) -> RECAP:
    settings = {"batch_size": 32, "learning_rate": 3e-3, "ema_decay": 0.9, "warmup_steps": 1, **changes}
    config = RECAPConfig(**settings, value=ReturnValueConfig(**(value or FAST)))  # type: ignore[arg-type]
    return RECAP(lab.policy(offset=0.3), lab.envs(), config, offline=recorded or lab.recordings())


def labelled(algorithm: RECAP) -> RECAP:
    algorithm.learn(1)  # fits, labels, and one update
    return algorithm


# ---------------------------------------------------------------------- labels


def test_one_threshold_per_task_over_the_whole_dataset() -> None:
    advantages = np.concatenate([np.arange(100) / 100, np.arange(50) / 50 + 7])
    tasks = np.array(["a"] * 100 + ["b"] * 50)
    positive, thresholds = positive_chunks(advantages, np.zeros(150, bool), tasks, {"a": 0.4, "b": 0.1})
    assert positive[:100].sum() == 40
    assert positive[100:].sum() == 5
    assert positive[60:100].all()
    assert thresholds == pytest.approx({"a": 0.594, "b": 7.882})  # quantiles 0.6 and 0.9, linear


def test_corrections_are_positive_and_do_not_move_the_threshold() -> None:
    advantages, corrected = np.arange(100) / 100, np.zeros(100, bool)
    corrected[:20] = True
    positive, thresholds = positive_chunks(advantages, corrected, ["a"] * 100, {"a": 0.25})
    assert positive[:20].all()
    assert positive[20:].sum() == 20
    assert thresholds == {"a": pytest.approx(np.quantile(advantages[20:], 0.75))}
    positive, thresholds = positive_chunks(advantages, np.ones(100, bool), ["a"] * 100, {"a": 0.25})
    assert positive.all()
    assert not thresholds


def test_the_published_numbers_of_each_stage() -> None:
    before, after = RECAPConfig(stage="pretraining"), RECAPConfig()
    assert (before.steps_ahead, after.steps_ahead) == (0, 50)
    assert [one.positive_part(rate) for one in (before, after) for rate in (0.5, 0.95)] == [0.3, 0.3, 0.4, 0.1]
    assert RECAPConfig(positive_fraction=0.2, n_step=7).positive_part(0.95) == 0.2
    assert (after.condition_dropout, after.value.failure_cost, after.value.bins) == (0.3, 50.0, 201)


def test_successes_are_positive_and_corrections_in_failures_too(lab: Any) -> None:
    recorded = lab.recordings()
    corrected = recorded.dataset.column("is_intervention")
    failed = np.flatnonzero(~np.repeat(recorded.dataset.success, recorded.dataset.lengths))
    corrected[failed[:5]] = True
    algorithm = labelled(made(lab, recorded, stage="pretraining"))
    assert algorithm.positive is not None
    assert algorithm.positive[failed[:5]].all()
    scored = ~corrected
    assert abs(algorithm.positive[scored].mean() - 0.3) < 0.02
    assert set(algorithm.thresholds) == {lab.spec.prompt}


def test_the_indicator_is_said_in_bins_that_the_policy_knows(lab: Any) -> None:
    algorithm = labelled(made(lab))
    source = algorithm._offline._data  # type: ignore[union-attr]
    assert algorithm.positive is not None
    np.testing.assert_array_equal(source.advantage_bins, np.where(algorithm.positive, lab.codec.best_bin, 0))  # type: ignore[attr-defined]
    assert len(source) == len(lab.recordings())
    binary = lab.policy()
    binary.codec = AdvantageCodec(form="binary", num_bins=2)
    algorithm = RECAP(binary, lab.envs(), RECAPConfig(), offline=lab.recordings())
    assert algorithm._bins(np.array([True, False])).tolist() == [1, 0]


def test_the_indicator_is_left_out_of_three_samples_in_ten(lab: Any) -> None:
    algorithm = labelled(made(lab, offline_ratio=0.5))
    asked: list[float] = []
    inner = algorithm.learner.actor.loss

    def spy(*args: Any, condition_dropout: float | None = None) -> torch.Tensor:
        asked.append(args[4] if len(args) > 4 else condition_dropout)
        return inner(*args[:4], condition_dropout)

    algorithm.learner.actor.loss = spy  # type: ignore[method-assign]
    algorithm.step()
    assert asked
    assert set(asked) == {0.3}


# ---------------------------------------------------------------------- training


def test_it_learns_what_successes_did_from_recordings_alone(lab: Any) -> None:
    before = lab.imagined_advantage(made(lab), deterministic=True)
    algorithm = made(lab, lr_decay_fraction=0.0)
    env_steps: list[int] = []
    step = algorithm.env.step
    algorithm.env.step = lambda actions: env_steps.append(1) or step(actions)
    algorithm.learn(32 * 60)
    assert not env_steps  # nothing is imagined: chunks are counted that were trained on
    assert algorithm.num_timesteps == 32 * 60
    assert not algorithm.imagines
    assert made(lab, offline_ratio=0.5).imagines
    assert algorithm.learner.num_updates == 60
    assert lab.imagined_advantage(algorithm, deterministic=True) > before + 0.02


def test_imagined_chunks_are_labelled_by_the_return_value(lab: Any) -> None:
    algorithm = labelled(made(lab, offline_ratio=0.5))
    read: list[float] = [-0.6, -0.5]
    algorithm.value.read = lambda seen, prompt: np.full(len(seen["state"]), read.pop(0))  # type: ignore[method-assign]
    algorithm._imagined_threshold = 0.0
    before = algorithm.num_timesteps
    found = algorithm.imagine()
    assert algorithm.num_timesteps == before + 16
    scale = algorithm.value.dataset.lengths.max() - 1 + 50
    wanted = -0.5 + 0.6 - lab.spec.chunk / scale
    np.testing.assert_allclose(algorithm.metrics["rollout/advantages"].numpy(), wanted, rtol=1e-6)
    assert found.positive.all() == (wanted >= 0)


def test_a_run_that_was_stopped_anywhere_ends_the_same(lab: Any, tmp_path: Any) -> None:
    """While the value is fitted, before and after labelling, and with imagined chunks in the buffer."""
    quick = {"updates": 60, "batch_size": 8}
    settings = {"offline_ratio": 0.5, "epochs": 2, "buffer_rounds": 2, "value": quick, "strict": False}
    whole = made(lab, **settings).learn(64)  # type: ignore[arg-type]
    for rounds in (1, 3, 4, 6):
        first = made(lab, **settings)  # type: ignore[arg-type]
        first.learn(64, callback=lambda trained, rounds=rounds: trained.rounds < rounds)
        first.save(tmp_path / str(rounds))
        second = made(lab, **settings)  # type: ignore[arg-type]
        assert second.restore(tmp_path / str(rounds))
        second.learn(64 - second.num_timesteps, reset_num_timesteps=False)
        for mine, theirs in zip(second.policy.state_dict().values(), whole.policy.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
        np.testing.assert_array_equal(second.positive, whole.positive)


# ---------------------------------------------------------------------- the value function and its checks


@pytest.mark.parametrize("target", ["hl_gauss", "one_hot"])
def test_a_value_function_that_sees_outcomes_passes_its_checks(lab: Any, target: str) -> None:
    value = ReturnValue(lab.recordings().dataset, ReturnValueConfig(**FAST, target=target), seed=0)  # type: ignore[arg-type]
    for _ in range(100):
        value.update()
    values = value.annotate()
    assert np.abs(values - value.returns)[value._terminal].mean() < 0.1
    found = value.check(values)
    assert check_problems(found) == ([], [])
    assert found["overfit_error"] < 0.02
    assert found["outcome_auroc"] == 1.0
    assert found["rank_correlation"] > 0
    assert found["shuffled_loss_gap"] > 0.5


def test_annotation_knows_no_dropout(lab: Any) -> None:
    value = ReturnValue(lab.recordings().dataset, ReturnValueConfig(**FAST), seed=0)  # type: ignore[arg-type]
    inner = value.model.trunk
    value.model.trunk = torch.nn.Sequential(torch.nn.Dropout(0.5), inner)  # type: ignore[assignment]
    value.model.train()
    first, second = value.annotate(), value.annotate()
    np.testing.assert_array_equal(first, second)
    assert value.model.training  # training goes on with it


def test_a_value_function_that_ranks_nothing_stops_the_run(lab: Any) -> None:
    recorded = lab.recordings()
    recorded.dataset._frames[:] = 7  # pictures that say nothing
    slow = {"updates": 25, "batch_size": 8}
    with pytest.raises(TrainingError, match="not ranked by outcome"):
        made(lab, recorded, slow).learn(1)
    with pytest.warns(UserWarning, match="not to be trusted"):
        made(lab, recorded, slow, strict=False).learn(1)


def test_checks_say_what_is_wrong_and_what_is_unknown() -> None:
    good = {"overfit_error": 0.01, "outcome_auroc": 0.9, "shuffled_loss_gap": 1.0}
    assert check_problems(good) == ([], [])
    for name, number, words in (("overfit_error", 0.2, "by heart"), ("outcome_auroc", 0.5, "ranked by outcome"),
                                ("shuffled_loss_gap", -0.1, "pictures are shuffled")):  # fmt: skip
        wrong, unknown = check_problems({**good, name: number})
        assert len(wrong) == 1
        assert words in wrong[0]
        assert not unknown
    wrong, unknown = check_problems({**good, "outcome_auroc": float("nan")})
    assert not wrong
    assert "all held-out ones have the same" in unknown[0]


def test_episodes_that_were_cut_off_are_not_learned_from(lab: Any) -> None:
    dataset = lab.recordings(truncated=True).dataset
    value = ReturnValue(dataset, ReturnValueConfig(), seed=0)
    assert not value.ended[1]
    assert value.ended.sum() == len(value.ended) - 1
    assert 1 not in set(value.owner[value._frames])


# ---------------------------------------------------------------------- what does not fit


def test_what_does_not_fit_is_said(lab: Any) -> None:
    with pytest.raises(ConfigError, match="whole recorded episodes"):
        RECAP(lab.policy(), lab.envs(), RECAPConfig(), offline=lab.offline())
    for name, wrong in {"stage": "later", "n_step": -1, "positive_fraction": 1.0, "condition_dropout": 1.0,
                        "solved_rate": 0.0}.items():  # fmt: skip
        with pytest.raises(ConfigError, match=name):
            RECAPConfig(**{name: wrong})  # type: ignore[arg-type]
    for name, wrong in {"target": "two_hot", "length_percentile": 0.0, "failure_cost": -1.0, "updates": 0}.items():
        with pytest.raises(ConfigError, match=name):
            ReturnValueConfig(**{name: wrong})  # type: ignore[arg-type]
