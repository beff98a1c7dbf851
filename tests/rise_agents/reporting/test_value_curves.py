"""A value curve is of the episode that an evaluation counts."""

from __future__ import annotations

import numpy as np
import torch

import rise_env  # noqa: F401  (registers the environments)
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.loading import load_policy
from rise_agents.reporting.value_curves import value_curve
from rise_env.bundle import find_bundle, load_bundle

CELL = "RISE-BrickSorting-Cell-v0"


def test_it_follows_the_evaluated_episode_and_rises_where_that_succeeds() -> None:
    torch.manual_seed(0)
    bundle = load_bundle(find_bundle("brick_sorting"))
    assert bundle.policy is not None
    policy, model = load_policy(str(bundle.policy)), bundle.world_model()
    result = evaluate(CELL, PolicyActor(policy), 6, 0, num_envs=1, env_kwargs={"num_workers": 0})
    won = next(episode for episode in result.details if episode.success)
    points = value_curve(CELL, PolicyActor(policy), model, won.seed, {"num_workers": 0})
    times, values = np.array(points).T
    spec = model.spec
    np.testing.assert_allclose(np.diff(times), spec.stride / spec.fps)
    # The last moment is the first one at which the episode is over.
    assert times[-1] - spec.stride / spec.fps < won.seconds <= times[-1] + 1e-6
    assert values[-3:].mean() > values[:3].mean() + 0.5
    again = value_curve(CELL, PolicyActor(policy), model, won.seed, {"num_workers": 0})
    np.testing.assert_allclose(again, points, atol=1e-4)
