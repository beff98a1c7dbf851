"""RISE on gym_aloha's cube transfer: a task with a simulation of somebody else's."""

from pathlib import Path

from rise_env.registry import register_task

register_task(
    "aloha_transfer_cube",
    simulation="rise_gym_aloha.simulation:TransferCube",
    configs=Path(__file__).parent / "configs",
)
