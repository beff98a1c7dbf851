"""A world model that is right about recordings is told from one that ignores actions, or ranks the wrong way round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rise_env.data.array_dataset import ArrayDataset
from rise_env.protocols import Prediction
from rise_env.testing import CountingState, FrameCountingDynamics, LinearValue, counting_spec, counting_starts
from rise_env.training.held_out import evaluate_on_starts, evaluate_world_model, rank_episodes
from rise_env.world_model import CompositionalWorldModel

SPEC, GAIN = counting_spec(), 0.0625
LENGTH, EPISODES = 40, 8
#: Three in eight fail: what they had gained they lose again.
WON = np.arange(EPISODES) % 8 < 5


class Quiet(FrameCountingDynamics):
    """Its frames do not show the noise that they were drawn from."""

    def decode(self, prediction: Prediction, index: Sequence[int]) -> torch.Tensor:
        frames = super().decode(prediction, index)
        frames[..., 2] = 0
        return frames


class Deaf(Quiet):
    """Imagines the same whatever is done."""

    def predict(
        self, state: CountingState, actions: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Prediction, CountingState]:
        return super().predict(state, self.middle.expand_as(actions), generators)


def recorded(length: int = LENGTH, outcomes: bool = True, dense: bool = False) -> ArrayDataset:
    """Progress rises for half the time and then stays, or falls to the end, as `FrameCountingDynamics` imagines it."""
    low, high, middle = SPEC.layout.low, SPEC.layout.high, (SPEC.layout.low + SPEC.layout.high) / 2
    action, green = [], []
    for won in WON:
        later = (middle + high) / 2 if won else high
        commands = np.where((np.arange(length) < length // 2)[:, None], middle, later)
        distance = (np.abs(commands - middle) / ((high - low) / 2)).mean(1)
        moved = np.cumsum(GAIN / SPEC.stride * (1 - 2 * distance))
        action.append(commands)
        green.append(np.concatenate([[0.0], moved[:-1]]))
    progress, commanded = np.concatenate(green).clip(0, 1), np.concatenate(action).astype(np.float32)
    frames = np.zeros((len(progress), len(SPEC.cameras), *SPEC.image_size, 3), np.uint8)
    frames[..., 0] = np.tile(np.arange(length), EPISODES)[:, None, None, None]
    frames[..., 1] = np.round(255 * progress)[:, None, None, None]
    columns = {"progress": progress.astype(np.float32)} if dense else {}
    return ArrayDataset(
        SPEC, [length] * EPISODES, commanded, commanded, frames=frames, outcomes=WON if outcomes else None, **columns
    )


def model(dynamics: Any = None, **value: float) -> CompositionalWorldModel:
    return CompositionalWorldModel(dynamics or Quiet(SPEC, GAIN), LinearValue(**value), SPEC)


def test_imagination_that_is_right_is_told_from_one_that_ignores_actions() -> None:
    data = recorded()
    found = evaluate_world_model(model(), data, range(EPISODES), windows=24)
    dynamics = found.figures["dynamics"]
    quality = dynamics["psnr"]
    assert dynamics["windows"] == 24
    assert quality["imagined"] > quality["copy"] + 3
    assert quality["gain"]["low"] > 0
    assert quality["gain"]["groups"] == EPISODES
    assert dynamics["psnr_moved"]["imagined"] > dynamics["psnr_moved"]["copy"]
    assert dynamics["ssim"]["imagined"] > dynamics["ssim"]["copy"]
    assert dynamics["reaction"]["low"] > 0
    assert not dynamics["reaction"]["ignored"]
    assert found.figures["value"]["imagined"]["advantage_correlation"] > 0.9
    assert abs(found.figures["value"]["imagined"]["advantage_bias"]) < 0.02
    assert [sample.real.shape for sample in found.samples] == [(4, 2, 36, 40, 3)] * 3
    assert found.figures == evaluate_world_model(model(), data, range(EPISODES), windows=24).figures

    deaf = evaluate_world_model(model(Deaf(SPEC, GAIN)), data, range(EPISODES), windows=24).figures["dynamics"]
    assert deaf["reaction"]["ignored"]
    assert deaf["psnr"]["other_actions"] == deaf["psnr"]["imagined"]


def test_a_value_that_ranks_is_told_from_one_that_does_not() -> None:
    data = recorded(dense=True)
    value = evaluate_world_model(model(), data, range(EPISODES), windows=2).figures["value"]
    assert value["problem"] is None
    assert value["correlation"] > 0.8
    assert value["separation"] == 1
    assert value["calibration"]["against"] == "recorded progress"
    assert value["calibration"]["error"] < 0.01
    assert list(value["curves"]) == ["successes", "failures"]
    assert rank_episodes(model(), data, range(EPISODES)).problem is None

    upside_down = rank_episodes(model(scale=-1.0, offset=1.0), data, range(EPISODES))
    assert upside_down.problem is not None
    assert "at least +0.20 is needed" in upside_down.problem
    still = evaluate_world_model(model(scale=0.0, offset=0.5), data, range(EPISODES), windows=2).figures["value"]
    assert still["calibration"]["error"] > 0.15  # although it is right on average
    off = evaluate_world_model(model(offset=0.2), data, range(EPISODES), windows=2).figures["value"]
    assert off["calibration"]["error"] == pytest.approx(0.2, abs=0.01)


def test_what_cannot_be_measured_is_said() -> None:
    short = evaluate_world_model(model(), recorded(6, outcomes=False), [0, 1]).figures
    assert short["dynamics"] is None
    assert "episodes of at least 9" in short["not_measured"]["dynamics"]
    assert "no outcomes" in short["not_measured"]["value.separation"]
    assert short["value"]["separation"] is None
    assert short["value"]["calibration"]["against"].startswith("time since the start")
    failures = evaluate_world_model(model(), recorded(), np.flatnonzero(~WON), windows=2).figures
    assert "no successes" in failures["not_measured"]["value.separation"]
    assert "failures without recorded progress" in failures["not_measured"]["value.calibration"]


def test_start_states_alone_tell_less() -> None:
    starts = counting_starts(SPEC)
    found = evaluate_on_starts(model(), starts, np.arange(12))
    assert (found["states"], found["successes"]) == (12, 4)
    assert found["correlation"] == pytest.approx(1)
    assert found["reaction"] == {"other_actions": 0, "other_noise": 0}  # the same is done everywhere
    assert starts.actions is not None
    starts.actions[::2] = SPEC.layout.high
    assert evaluate_on_starts(model(), starts, np.arange(12))["reaction"]["other_actions"] > 5
    assert evaluate_on_starts(model(Deaf(SPEC, GAIN)), starts, np.arange(12))["reaction"]["other_actions"] == 0
