"""RECAP on the smallest pi0.5: it asks nothing of a policy that pi0.5 cannot give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.algorithms.recap import RECAP, RECAPConfig
from rise_agents.algorithms.recap_value import ReturnValueConfig
from rise_agents.policies.data import RecordedChunks
from rise_agents.policies.pi05 import Pi05Policy
from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes
from rise_env.data.array_dataset import ArrayDataset
from rise_env.testing import counting_envs, counting_spec

pytestmark = pytest.mark.slow  # LeRobot and transformers take many seconds to import


@pytest.mark.filterwarnings("ignore:recap:UserWarning")
def test_pi05_is_trained_on_recorded_and_imagined_chunks(tokenizer: Any) -> None:
    spec, rng = counting_spec(), np.random.default_rng(0)
    torch.manual_seed(0)
    config = Pi05PolicyConfig(sizes=Pi05Sizes(vocabulary=300), tokens=360, image_size=28, steps=2)
    policy = Pi05Policy(spec, config, tokenizer=tokenizer).eval()
    lengths = np.full(12, 12)
    frames = rng.integers(0, 256, (144, 2, *spec.image_size, 3), dtype=np.uint8)
    action = rng.uniform(spec.layout.low, spec.layout.high, (144, 3)).astype(np.float32)
    dataset = ArrayDataset(spec, lengths, action, action, frames=frames, outcomes=np.arange(12) % 2 == 0)
    policy.fit_normalisation(torch.from_numpy(action), torch.from_numpy(action)[:, None].repeat(1, spec.chunk, 1))
    recorded = RecordedChunks(dataset, [], np.zeros(144, np.int64))
    settings = RECAPConfig(
        batch_size=4, epochs=1, offline_ratio=0.5, num_shards=1, strict=False, trainable="action_expert",
        value=ReturnValueConfig(updates=5, batch_size=4),
    )  # fmt: skip
    algorithm = RECAP(policy, counting_envs(2, autoreset_mode="disabled"), settings, offline=recorded)
    asked: list[str] = []
    inner = algorithm.learner.actor.prompts
    algorithm.learner.actor.prompts = lambda *args: asked.extend(found := inner(*args)) or found  # type: ignore[method-assign]
    before = [weight.clone() for weight in algorithm.learner.actor.action_parameters()]
    algorithm.learn(8)
    assert algorithm.num_timesteps == 8
    assert any((a != b).any() for a, b in zip(before, algorithm.learner.actor.action_parameters(), strict=True))
    said = {prompt.partition("Advantage: ")[2].partition(";")[0] for prompt in asked}
    assert said <= {"10", "1", ""}
    assert {"10", "1"} & said
