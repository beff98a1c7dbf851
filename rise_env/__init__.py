"""RISE: a learned world model as a Gymnasium environment.

Importing this package registers the environment ids and loads neither torch nor MuJoCo. Entry points are strings that
Gymnasium resolves when an environment is made, so the work cell (`rise_robot`) is found here without being imported.
`gym.make("rise_env:RISE-BrickSorting-Cell-v0")` works without an import.
"""

from __future__ import annotations

import gymnasium

__all__: list[str] = []

#: Task names by the name used in environment ids.
_CELL_TASKS = {"BrickSorting": "brick_sorting"}


def _register() -> None:
    for title, task in _CELL_TASKS.items():
        gymnasium.register(
            id=f"RISE-{title}-Cell-v0",
            entry_point="rise_robot.cell.env:CellEnv",
            vector_entry_point="rise_robot.cell.vector:CellVectorEnv",
            kwargs={"task": task},
        )


_register()
