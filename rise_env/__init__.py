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
_TASKS = {"BrickSorting": "brick_sorting", "BackpackPacking": "backpack_packing", "BoxClosing": "box_closing"}


def _register() -> None:
    names: dict[str, dict[str, str]] = {f"RISE-{title}-v0": {"task": task} for title, task in _TASKS.items()}
    for name, kwargs in {**names, "RISE-Imagination-v0": {}}.items():
        gymnasium.register(
            id=name,
            entry_point="rise_env.imagination:ImaginationEnv",
            vector_entry_point="rise_env.imagination:ImaginationVectorEnv",
            kwargs=kwargs,
        )
    for title, task in _CELL_TASKS.items():
        gymnasium.register(
            id=f"RISE-{title}-Cell-v0",
            entry_point="rise_robot.cell.env:CellEnv",
            vector_entry_point="rise_robot.cell.vector:CellVectorEnv",
            kwargs={"task": task},
        )
    for title, task in _TASKS.items():
        gymnasium.register(
            id=f"RISE-{title}-Piper-v0",
            entry_point="rise_robot.env:make_robot_env",
            vector_entry_point="rise_robot.vector:RobotVectorEnv",
            kwargs={"task": task},
            nondeterministic=True,
        )


_register()
