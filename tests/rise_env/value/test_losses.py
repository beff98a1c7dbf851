from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rise_env.value.config import LabelConfig, TDConfig
from rise_env.value.labels import make_labels
from rise_env.value.losses import (
    bin_centers,
    distributional_loss,
    expectation,
    progress_loss,
    success_loss,
    td_loss,
    td_target,
    td_transition,
    two_hot,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_progress_loss_by_hand() -> None:
    logits = torch.tensor([[logit(0.5), logit(0.9)], [logit(0.2), logit(0.1)]])
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    loss = progress_loss(logits, torch.tensor([0.25, 1.0]), weight)
    assert float(loss) == pytest.approx((0.25**2 + 0.1**2 + 0.05**2) / 3, abs=1e-6)


def test_success_loss_by_hand() -> None:
    loss = success_loss(torch.tensor([[logit(0.8), logit(0.3)]]), torch.tensor([1.0, 0.0]), torch.ones(1, 2))
    assert float(loss) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2, abs=1e-6)


def test_td_loss_by_hand_passes_no_gradient_to_the_target() -> None:
    logits = torch.tensor([[0.5]], requires_grad=True)
    target = torch.tensor([[0.25]], requires_grad=True)
    loss = td_loss(logits, target, torch.ones(1, 1))
    assert loss.item() == pytest.approx((math.tanh(0.5) - 0.25) ** 2)
    loss.backward()
    assert logits.grad is not None
    assert target.grad is None


def test_no_known_label_gives_a_loss_of_zero() -> None:
    assert float(progress_loss(torch.zeros(2, 3), torch.ones(3), torch.zeros(2, 3))) == 0.0


@given(st.lists(st.floats(-1, 0, width=32), min_size=1, max_size=20), st.sampled_from([2, 11, 201]))
def test_two_hot_and_expectation_are_inverse(values: list[float], bins: int) -> None:
    centers = bin_centers(bins)
    wanted = torch.tensor(values)
    probabilities = two_hot(wanted, centers)
    assert torch.allclose(probabilities.sum(-1), torch.ones(len(values)))
    assert (probabilities >= 0).all()
    assert ((probabilities > 0).sum(-1) <= 2).all()
    assert torch.allclose(expectation(probabilities.log(), centers), wanted, atol=2e-5)


def test_bins_of_recap() -> None:
    centers = bin_centers(201)
    assert (len(centers), float(centers[0]), float(centers[-1])) == (201, -1.0, 0.0)
    assert two_hot(torch.tensor(-0.5), centers)[100] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("value", [-1.01, 0.01, math.nan])
def test_two_hot_refuses_what_lies_outside(value: float) -> None:
    with pytest.raises(ValueError, match="leave the bins"):
        two_hot(torch.tensor([value]), bin_centers(201))


def test_distributional_loss_is_least_at_the_label() -> None:
    centers = bin_centers(5)
    returns = torch.tensor([-0.6])
    best = (two_hot(returns, centers) + 1e-9).log()[None]
    entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert float(distributional_loss(best, returns, centers, torch.ones(1, 1))) == pytest.approx(entropy, abs=1e-4)
    assert float(distributional_loss(torch.zeros(1, 1, 5), returns, centers, torch.ones(1, 1))) > entropy


@pytest.fixture
def data(make_dataset: Any) -> Any:
    """A success of 6 frames whose outcome is certain at frame 3, and a failure of 4 frames."""
    data = make_dataset([6, 4], [True, False])
    data.data["progress"] = np.array([0, 0.2, 0.6, 1, 1, 1, 0, 0.1, 0, 0], np.float32)
    return data


def test_td_pays_at_the_outcome_and_after_it(data: Any) -> None:
    labels = make_labels(data, LabelConfig())
    step = td_transition(labels, np.arange(10), TDConfig(gamma=0.5, failure=-0.6))
    assert step.next_index.tolist() == [1, 2, 2, 3, 4, 5, 7, 8, 8, 9]
    assert step.discount.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0, 0.5, 0.5, 0, 0])
    assert step.reward.tolist() == pytest.approx([0, 0, 0.5, 1, 1, 1, 0, 0, -0.3, -0.6])
    assert step.known.all()


def test_td_over_several_steps(data: Any) -> None:
    labels = make_labels(data, LabelConfig())
    step = td_transition(labels, np.array([0, 1, 6]), TDConfig(gamma=0.5, n_step=2))
    assert step.next_index.tolist() == [2, 1, 8]
    assert step.discount.tolist() == [0.25, 0, 0.25]
    assert step.reward.tolist() == [0, 0.25, 0]


def test_td_bootstraps_where_an_episode_was_cut_off(data: Any) -> None:
    data.data["episode_truncated"] = np.repeat([False, True], [6, 4])
    labels = make_labels(data, LabelConfig())
    step = td_transition(labels, np.array([6, 8, 9]), TDConfig(gamma=0.5, n_step=3))
    assert step.reward.tolist() == [0, 0, 0]
    assert step.next_index.tolist() == [9, 9, 9]
    assert step.discount.tolist() == [0.125, 0.5, 1.0]
    assert step.known.tolist() == [True, True, False]


def test_td_target_is_clamped() -> None:
    target = td_target(torch.tensor([0.9, 0.0]), torch.tensor([1.0, 0.5]), torch.tensor([[0.9, -0.4]]), TDConfig())
    assert target.tolist() == [pytest.approx([1.0, -0.2])]
