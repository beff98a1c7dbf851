"""What a Piper arm's node publishes, made from the work cell."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from rise_robot.cell.cell import WorkCell
from rise_robot.ros import messages, ros1
from rise_robot.ros.config import ArmConfig

__all__ = ["ArmTopics"]

_CAN_CONTROL = 1


class ArmTopics:
    """Publishers of one arm, the name of whose first joint begins with the side."""

    def __init__(self, cell: WorkCell, arm: ArmConfig) -> None:
        self._cell, self._arm = cell, arm
        self._ros = ros = ros1.load()
        self._indices = arm.indices(cell.spec.layout)
        self._side = arm.joints[0].rpartition("_")[0]
        #: Velocities of the joints; the gripper's is 0, as on the robot.
        self._speeds = np.array([int(cell.model.joint(name).dofadr[0]) for name in arm.joints[:-1]])
        self._site = cell.model.site(f"{self._side}_flange").id

        def publisher(topic: str | None, kind: Any) -> Any:
            return None if topic is None else ros.rospy.Publisher(topic, kind, queue_size=5, tcp_nodelay=True)

        self._state = publisher(arm.state, ros.sensor_msgs.JointState)
        self._status = publisher(arm.status, messages.message_class("piper_msgs/PiperStatusMsg"))
        self._pose = publisher(arm.pose, ros.geometry_msgs.PoseStamped)
        self._euler = publisher(arm.pose_euler, messages.message_class("piper_msgs/PosCmd"))

    def publish(self, stamp: Any, position: np.ndarray) -> None:
        """Publish state and status, and the pose where somebody listens: `position` (D,) of the whole layout, rad and
        m.
        """
        own = position[self._indices]
        message = messages.joint_message(self._arm.message_names, own, stamp)
        message.velocity = [*self._cell.data.qvel[self._speeds].tolist(), 0.0]
        message.effort = [0.0] * len(own)
        self._state.publish(message)
        if self._status is not None:
            status = self._status.data_class()
            status.ctrl_mode = _CAN_CONTROL
            self._status.publish(status)
        listeners = [p for p in (self._pose, self._euler) if p is not None and p.get_num_connections()]
        if listeners:
            self._publish_pose(stamp, float(own[-1]))

    def _publish_pose(self, stamp: Any, opening: float) -> None:
        data = self._cell.data
        point = data.site_xpos[self._site] - self._cell.bases[self._side]
        turn = np.empty(4)
        mujoco.mju_mat2Quat(turn, data.site_xmat[self._site])
        if self._pose is not None:
            message = self._ros.geometry_msgs.PoseStamped()
            message.header.stamp, message.header.frame_id = stamp, f"{self._side}_base"
            where, how = message.pose.position, message.pose.orientation
            where.x, where.y, where.z = point.tolist()
            how.w, how.x, how.y, how.z = turn.tolist()
            self._pose.publish(message)
        if self._euler is not None:
            euler = self._euler.data_class()
            euler.x, euler.y, euler.z = point.tolist()
            euler.roll, euler.pitch, euler.yaw = _roll_pitch_yaw(data.site_xmat[self._site].reshape(3, 3))
            euler.gripper = opening
            self._euler.publish(euler)


def _roll_pitch_yaw(rotation: np.ndarray) -> tuple[float, float, float]:
    """Angles about the fixed axes x, y, z, rad."""
    roll = np.arctan2(rotation[2, 1], rotation[2, 2])
    pitch = np.arctan2(-rotation[2, 0], np.hypot(rotation[2, 1], rotation[2, 2]))
    return float(roll), float(pitch), float(np.arctan2(rotation[1, 0], rotation[0, 0]))
