"""RISE: a learned world model as a Gymnasium environment.

Importing this package registers the environment ids and loads neither torch nor MuJoCo. Entry points are strings that
Gymnasium resolves when an environment is made, so the work cell (`rise_robot`) is found here without being imported.
`gym.make("rise_env:RISE-BrickSorting-Cell-v0")` works without an import. Plug-ins of other packages (entry points of
the group `rise.plugins`) are imported too: see `rise_env.registry`.
"""

from __future__ import annotations

import gymnasium

from rise_env.registry import load_plugins, register_task

__all__ = ["register_task"]

gymnasium.register(
    id="RISE-Imagination-v0",
    entry_point="rise_env.envs.single:ImaginationEnv",
    vector_entry_point="rise_env.envs.vector:ImaginationVectorEnv",
)
gymnasium.register(
    id="RISE-Reach-v0",
    entry_point="rise_env.envs.reach:ReachEnv",
    vector_entry_point="rise_env.envs.reach:ReachVectorEnv",
)
register_task("brick_sorting", cell="rise_robot.cell.tasks.brick_sorting.task:BrickSorting")
register_task("backpack_packing", cell="rise_robot.cell.tasks.backpack_packing.task:BackpackPacking")
register_task("box_closing", cell="rise_robot.cell.tasks.box_closing.task:BoxClosing")
load_plugins()
