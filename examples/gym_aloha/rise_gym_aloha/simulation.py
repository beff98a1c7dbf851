"""gym_aloha's cube transfer, at the pictures and the control rate that we train with; everything else is theirs."""

from __future__ import annotations

import gymnasium
import numpy as np

from rise_env.envs.simulation import Outcome

__all__ = ["TransferCube"]

#: Cameras, and the window of their 144 x 192 picture in which everything happens: first row and column of 48 x 64.
WINDOWS = {"top": (64, 65), "angle": (44, 65)}
#: From a gripper's body to the place between its fingertips, m.
REACH = 0.14
#: Joint targets at the start: six joints (rad) and a gripper (0 closed, 1 open), left and right.
START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2)


class TransferCube:
    """`gym_aloha/AlohaTransferCube-v0` as a `rise_env.envs.simulation.Simulation`.

    A control step of 0.1 s is five of theirs, whose targets lie on a straight line. Seeds, physics and success are
    theirs: the left gripper touches the cube, which is off the table (their reward 4 of 4).
    """

    def __init__(self) -> None:
        name = "gym_aloha:gym_aloha/AlohaTransferCube-v0"
        self.env = gymnasium.make(name, obs_type="pixels_agent_pos", disable_env_checker=True)
        core = self.env.unwrapped._env
        self.physics, task = core.physics, core.task
        # They draw three pictures of 480 x 640 at every step, whatever was asked for: 0.2 s in software.
        task.get_observation = lambda physics: {"qpos": task.get_qpos(physics), "images": {"top": np.zeros(0)}}

    def start(self, seed: int) -> None:
        self.env.reset(seed=seed)
        self.target, self.stage, self.present = START, 0.0, 0.0

    def advance(self, target: np.ndarray) -> Outcome:
        before, self.target, success, self.present = self.target, target, False, 0.0
        for part in (0.2, 0.4, 0.6, 0.8, 1.0):
            _, reward, terminated, _, _ = self.env.step(before + part * (target - before))
            success, self.present = success or bool(terminated), max(self.present, float(reward))
        self.stage = max(self.stage, self.present)
        return Outcome(success, score=2.5 * self.stage, progress=self.progress())

    def progress(self) -> float:
        """How far the task is at present, [0, 1]: the stages of their reward, and how near the next one is.

        A gripper that closes beside the cube, and a cube that falls, are not farther than before.
        """
        cube = self.physics.data.qpos[16:19]
        right, left = (max(0.0, 1 - np.linalg.norm(self._tip(side) - cube) / 0.3) for side in ("right", "left"))
        if self.stage == 4:  # the left gripper had it off the table: theirs is over
            return 1.0
        if self.present == 2:  # in the right gripper, off the table
            return float(0.4 + 0.2 * np.clip((cube[2] - 0.02) / 0.2, 0, 1) + 0.3 * left)
        return 0.3 if self.present else float(0.3 * right)  # touched on the table; not touched

    def observe(self) -> dict[str, np.ndarray]:
        seen = {"state": self.env.unwrapped._env.task.get_qpos(self.physics).astype(np.float32)}
        for name, (row, column) in WINDOWS.items():
            seen[f"image_{name}"] = self._draw(name, 144, 192)[row : row + 48, column : column + 64].copy()
        return seen

    def picture(self) -> np.ndarray:
        return np.concatenate([self._draw(name, 240, 320) for name in WINDOWS], axis=1)

    def close(self) -> None:
        self.physics.free()  # theirs closes nothing, which ends in errors of EGL

    def _tip(self, side: str) -> np.ndarray:
        body = self.physics.data.ptr.body(f"vx300s_{side}/gripper_link")
        return body.xpos + REACH * body.xmat.reshape(3, 3)[:, 0]

    def _draw(self, camera: str, height: int, width: int) -> np.ndarray:
        # Without shadows, which take two thirds of the time.
        return self.physics.render(height, width, camera_id=camera, render_flag_overrides={"shadow": False})
