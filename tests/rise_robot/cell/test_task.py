"""What every shipped task of the work cell says of itself."""

from __future__ import annotations

import pytest

from rise_env.errors import ConfigError
from rise_robot.cell.config import load_cell
from rise_robot.cell.task import failure_meanings, make_cell_task


@pytest.mark.parametrize("name", ["brick_sorting", "backpack_packing", "box_closing"])
def test_every_failure_is_explained(name: str) -> None:
    modes = make_cell_task(name, load_cell(name)[1].ranges).failure_modes
    assert list(failure_meanings(name)) == [*modes, "timeout"]


def test_a_task_without_a_cell_has_no_failures_to_explain() -> None:
    with pytest.raises(ConfigError, match="'juggling' has no work cell"):
        failure_meanings("juggling")
