"""What a stranger adds to RISE. Imported by `import rise_env`, so everything is named by strings, nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from rise_env.registry import ALGORITHMS, DRIVERS, DYNAMICS, register_task

register_task("block_pushing", cell="rise_stranger.task:BlockPushing", configs=Path(__file__).parent / "configs")
register_task("reach")
DRIVERS.register("stranger", "rise_stranger.driver:StrangerDriver")
DYNAMICS.register("drift", "rise_stranger.dynamics:Drift")
ALGORITHMS.register("weighted_cloning", "rise_stranger.algorithm:WeightedCloning")
