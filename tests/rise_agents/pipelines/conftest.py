"""A small world for whole pipelines: the cell at preset tiny, imagined flat frames, a policy that knows nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rise_agents.pipelines import compare, recording
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.bundle import save_bundle
from rise_env.errors import RiseError
from rise_env.tasks import load_task
from rise_env.testing import FrameCountingDynamics, counting_starts
from rise_env.value.config import ModelConfig
from rise_env.value.model import InputShape, ValueModel
from rise_env.world_model import CompositionalWorldModel

SPEC = load_task("brick_sorting", "tiny")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    network = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
    path = tmp_path_factory.mktemp("policy") / "random"
    FlowPolicy(SPEC, FlowPolicyConfig(network=network, lags=(2,), steps=1, noise_samples=1)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that imagines flat frames, which a value model of random weights scores."""
    torch.manual_seed(0)
    config = ModelConfig(channels=(8, 16), embed=16, hidden=16, members=2, text_vocabulary=64, text_embed=8)
    value = ValueModel(config, InputShape(tuple(SPEC.cameras), *SPEC.image_size)).eval()
    path = tmp_path_factory.mktemp("bundle") / "brick_sorting"
    save_bundle(path, counting_starts(SPEC, 48), CompositionalWorldModel(FrameCountingDynamics(SPEC), value, SPEC))
    return path


def _in_this_process(
    perform: Callable[[Any, Callable[[float, str], None]], None], work: Mapping[str, Any], jobs: int
) -> dict[str, str]:
    """In place of `side_by_side`: a process that records or trains imports libraries for ten seconds first."""
    failed = {}
    for name, one in work.items():
        try:
            perform(one, lambda part, text: None)
        except RiseError as error:
            failed[name] = str(error)
    return failed


@pytest.fixture(scope="module")
def light_work() -> Iterator[None]:
    """Pipelines start no processes and film small pictures; the demo of somebody else's task starts some."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compare, recording):
            patch.setattr(module, "side_by_side", _in_this_process)
        patch.setattr("rise_robot.cell.env._RENDER_HEIGHT", 36)
        patch.setattr("rise_robot.cell.env._RENDER_WIDTH", 48)
        yield
