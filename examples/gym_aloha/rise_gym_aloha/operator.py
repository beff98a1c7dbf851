"""A scripted operator who makes mistakes: waypoints of both grippers, and the joints that reach them."""

from __future__ import annotations

import mujoco
import numpy as np

from rise_gym_aloha.simulation import REACH, TransferCube

__all__ = ["Operator"]

#: Where the cube is handed over, m: between the arms.
MEETING = np.array([0.0, 0.5, 0.25])
#: How often every mistake is made.
MISTAKES = {"none": 0.45, "aims beside": 0.2, "grips early": 0.1, "lets go": 0.08, "meets beside": 0.1, "slow": 0.07}


class Operator:
    """Picks the cube with the right arm and brings it to the left one, by waypoints that are drawn at the start.

    Args:
        simulation: Just started: the operator sees where the cube is.
        rng: Draws how careful the operator is, and the mistake of this episode.
    """

    def __init__(self, simulation: TransferCube, rng: np.random.Generator) -> None:
        self.model, present = simulation.physics.model.ptr, simulation.physics.data.qpos
        self.data, self.steps = mujoco.MjData(self.model), 0
        self.mistake = str(rng.choice(list(MISTAKES), p=list(MISTAKES.values())))
        self.data.qpos[:] = present
        mujoco.mj_kinematics(self.model, self.data)
        right, left = (self._tool(side)[0] for side in ("right", "left"))

        aim, pace = rng.normal(0, 0.004, 3) * [1, 1, 0.5], rng.uniform(0.9, 1.15)
        meet = MEETING + rng.normal(0, [0.01, 0.02, 0.015])  # nobody meets at the same place twice
        apart, close, opens = np.array([0.02, 0, 0]), 1.6, 4.7
        if self.mistake == "aims beside":
            turn = rng.uniform(0, 2 * np.pi)
            aim += rng.uniform(0.02, 0.05) * np.array([np.cos(turn), np.sin(turn), 0]) + [0, 0, rng.uniform(0, 0.02)]
        elif self.mistake == "grips early":
            close = rng.uniform(0.9, 1.3)
        elif self.mistake == "lets go":
            opens = rng.uniform(2.1, 3.2)
        elif self.mistake == "meets beside":
            apart = np.array([0.02, *rng.choice([-1, 1], 2) * rng.uniform([0.03, 0.04], [0.06, 0.08])])
        elif self.mistake == "slow":
            pace = rng.uniform(1.5, 2.0)
        cube = present[16:19] * [1, 1, 0] + [0, 0, 0.02] + aim
        above, pitch = cube + np.array([0, 0, 0.09]), rng.uniform(0.9, 1.1)
        # Time (s), place between the fingertips (m), angle below the horizon and turn of the hand (rad).
        self.paths = {
            "left": ([0, 2.0, 3.2, 4.0, 9], [left, left, meet - [0.12, 0, 0], meet - apart, meet - apart],
                     [0, 0, 0, 0, 0], [0, 0, np.pi / 2, np.pi / 2, np.pi / 2]),
            "right": ([0, 0.9, 1.6, 2.0, 3.2, 9], [right, above, cube, cube, meet, meet],
                      [0, pitch, pitch, pitch, 0.2, 0.2], [0] * 6),
        }  # fmt: skip
        # Time and opening of the grippers.
        self.grips = {"left": ([0, 1.5, 2, 4.1, 4.4], [0.1, 0.1, 1, 1, 0]),
                      "right": ([0, 0.8, close, close + 0.3, opens, opens + 0.2], [0.1, 1, 1, 0, 0, 1])}  # fmt: skip
        self.pace, self.rng, self.tremor = pace, rng, np.zeros((2, 3))

    def act(self) -> np.ndarray:
        """Targets for the next 0.1 s, float32 (14,)."""
        self.steps += 1
        time, targets = 0.1 * self.steps / self.pace, []
        self.tremor = 0.8 * self.tremor + self.rng.normal(0, 0.002, (2, 3))
        for side, tremor in zip(("left", "right"), self.tremor, strict=True):
            times, places, pitches, turns = self.paths[side]
            place = [np.interp(time, times, axis) for axis in np.transpose(places)]
            joints = self._reach(side, place + tremor, np.interp(time, times, pitches), np.interp(time, times, turns))
            targets += [*joints, np.interp(time, *self.grips[side])]
        return np.array(targets, np.float32)

    def _tool(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """The place between the fingertips, and where the hand points to, (3,) each."""
        body = self.data.body(f"vx300s_{side}/gripper_link")
        ahead = body.xmat.reshape(3, 3)[:, 0]
        return body.xpos + REACH * ahead, ahead

    def _reach(self, side: str, place: np.ndarray, pitch: float, turn: float) -> np.ndarray:
        """Joints (6,) of an arm that bring its hand somewhere: Newton steps of waist, shoulder, elbow and wrist."""
        first, along, around = (0 if side == "left" else 8), *np.zeros((2, 3, self.model.nv))
        moving, arm = first + np.array([0, 1, 2, 4]), slice(first, first + 6)
        self.data.qpos[first + 5] = turn
        for _ in range(10):
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            tool, ahead = self._tool(side)
            body = self.model.body(f"vx300s_{side}/gripper_link").id
            mujoco.mj_jac(self.model, self.data, along, around, tool, body)
            jacobian = np.vstack([along[:, moving], np.cross(around[:, moving].T, ahead)[:, 2]])
            error = np.append(place - tool, -np.sin(pitch) - ahead[2])
            self.data.qpos[moving] += jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-5 * np.eye(4), error)
        return self.data.qpos[arm].copy()
