"""Domain variation: seen where it is on, gone where it is off."""

from __future__ import annotations

import numpy as np
import pytest

from rise_env.config import load_config
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import VariationConfig, load_cell
from rise_robot.cell.env import CellEnv
from rise_robot.cell.variation import DomainVariation

ON = "cell.variation.enabled=true"


def quiet(cell: WorkCell, rng_seed: int) -> dict[str, np.ndarray]:
    cell.reset(np.random.default_rng(rng_seed))
    return cell._variation.get_state()


def test_off_changes_nothing_but_the_tasks_own_colours(new_cell) -> None:
    cell = new_cell(0)
    geoms = [*cell.task._brick_geoms, *np.concatenate(cell.task._bin_geoms)]
    first = quiet(cell, 0)
    for seed in range(1, 5):
        for key, value in quiet(cell, seed).items():
            same = np.delete(value, geoms, 0) if key == "geom_rgba" else value
            np.testing.assert_array_equal(same, np.delete(first[key], geoms, 0) if key == "geom_rgba" else first[key])


def test_on_varies_everything_within_its_ranges(new_cell) -> None:
    cell = new_cell(0, ON)
    config, nominal = cell.config.variation, cell._variation._nominal
    seen = [quiet(cell, seed) for seed in range(40)]
    for key in nominal:
        assert len({state[key].tobytes() for state in seen}) == len(seen), f"{key} does not vary"
    light = np.array([s["light_diffuse"] / nominal["light_diffuse"] for s in seen])
    assert light.min() > 1 - config.light - 1e-6
    assert light.max() < 1 + config.light + 1e-6
    friction = np.array([s["geom_friction"][:, 0] / nominal["geom_friction"][:, 0] for s in seen])
    assert np.ptp(friction, axis=1).max() < 1e-9
    assert friction.min() >= 1 - config.friction
    moved = np.array([s["camera_pos"] - nominal["camera_pos"] for s in seen])
    assert np.abs(moved).max() <= config.camera_position + 1e-9
    cosine = np.abs([np.dot(s["camera_quat"], nominal["camera_quat"]) for s in seen])
    assert (2 * np.arccos(np.clip(cosine, -1, 1))).max() <= np.sqrt(3) * config.camera_angle + 1e-6
    np.testing.assert_allclose([np.linalg.norm(s["light_dir"], axis=-1) for s in seen], 1, atol=1e-6)
    for state in seen:
        assert ((state["geom_rgba"] >= 0) & (state["geom_rgba"] <= 1)).all()


def test_switched_off_it_returns_to_the_nominal_values() -> None:
    spec, config = load_cell("brick_sorting", "tiny", [ON])
    cell = WorkCell(spec, config)
    nominal = {key: value.copy() for key, value in cell._variation._nominal.items()}
    quiet(cell, 0)
    cell._variation._config = VariationConfig(enabled=False)
    cell._variation.draw(np.random.default_rng(1))
    for key, value in cell._variation.get_state().items():
        np.testing.assert_array_equal(value, nominal[key])


def test_draws_do_not_pile_up(new_cell) -> None:
    cell = new_cell(0, ON)
    once = quiet(cell, 3)
    for seed in range(5):
        quiet(cell, seed)
    for key, value in quiet(cell, 3).items():
        np.testing.assert_array_equal(value, once[key])


def test_state_can_be_set(new_cell) -> None:
    cell = new_cell(0, ON)
    state = quiet(cell, 1)
    quiet(cell, 2)
    cell._variation.set_state(state)
    for key, value in cell._variation.get_state().items():
        np.testing.assert_array_equal(value, state[key])


@pytest.mark.parametrize("camera", ["image_head", "image_left_wrist"])
def test_images_vary_with_it_only(camera: str) -> None:
    """With the start noise off and the same bricks, only variation makes the pictures of two episodes differ."""
    pictures = {}
    for on in (False, True):
        env = CellEnv(preset="tiny", variation=on, overrides=["cell.start_noise=0.0"])
        frames = []
        for seed in (0, 1):
            env.reset(seed=0)
            env.cell._variation.draw(np.random.default_rng(seed))
            env.cell.task._paint()
            frames.append(env.observe()[camera].astype(int))
        pictures[on] = np.abs(frames[0] - frames[1]).mean()
        env.close()
    assert pictures[False] == 0
    assert pictures[True] > 1


def test_it_is_off_by_default() -> None:
    assert not load_cell("brick_sorting", "small")[1].variation.enabled
    assert "cell" in load_config("brick_sorting", "small")
    assert DomainVariation.draw is not None
