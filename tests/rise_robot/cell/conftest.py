"""Work cells for the tests. Making one takes 50 ms, so tests share them: each starts with a reset or a restore."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import mujoco
import numpy as np
import pytest

from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.env import CellEnv
from rise_robot.cell.tasks.brick_sorting.task import BrickSorting


@functools.cache
def shared_cell(*overrides: str) -> WorkCell:
    return WorkCell(*load_cell("brick_sorting", "tiny", overrides))


@pytest.fixture
def new_cell() -> Callable[..., WorkCell]:
    """Makes a reset cell from a seed and overrides; the same overrides give the same cell."""

    def make(seed: int = 0, *overrides: str) -> WorkCell:
        cell = shared_cell(*overrides)
        cell.reset(np.random.default_rng(seed))
        return cell

    return make


@pytest.fixture(scope="module")
def env() -> Iterator[CellEnv]:
    """One tiny environment; every test resets it."""
    env = CellEnv(preset="tiny")
    yield env
    env.close()


@pytest.fixture
def put_brick() -> Callable[..., None]:
    """Puts a brick of a cell somewhere, at rest."""

    def put(cell: WorkCell, position: object, index: int = 0) -> None:
        task = cell.task
        assert isinstance(task, BrickSorting)
        address, speed = task._brick_qpos[index], task._brick_qvel[index]
        cell.data.qpos[address : address + 7] = [*np.asarray(position, float), 1, 0, 0, 0]
        cell.data.qvel[speed : speed + 6] = 0
        mujoco.mj_forward(cell.model, cell.data)

    return put


@pytest.fixture
def play() -> Callable[..., dict[str, object]]:
    """Plays an episode with a scripted policy; gives the last info, with `chunks`, `truncated` and `interventions`."""

    def run(env: CellEnv, policy: str, seed: int, policy_seed: int = 0) -> dict[str, object]:
        env.reset(seed=seed)
        chunks = interventions = 0
        while True:
            action = env.scripted_chunk(policy, policy_seed)
            interventions += env._scripted[policy].intervening
            _, _, terminated, truncated, info = env.step(action)
            chunks += 1
            if terminated or truncated:
                return {**info, "chunks": chunks, "truncated": truncated, "interventions": interventions}

    return run
