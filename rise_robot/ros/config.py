"""What of a robot over ROS differs from lab to lab: section `ros` of `configs/robots/<name>.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_env.config import decode
from rise_env.errors import ConfigError, LayoutError
from rise_env.tasks import JointLayout, TaskSpec
from rise_robot.config import RobotConfig

__all__ = ["ArmConfig", "CameraConfig", "RosConfig", "ros_config"]

_KINDS = ("image", "compressed")


@dataclass(frozen=True)
class ArmConfig:
    """One arm.

    Attributes:
        joints: Names of the task's layout in the order of the messages: six joints and the gripper.
        state: Topic of the measured joint state, sensor_msgs/JointState.
        command: Topic of the joint targets, sensor_msgs/JointState.
        status: Topic of the arm's status, piper_msgs/PiperStatusMsg; None where there is none.
        pose: Topic of the flange pose, geometry_msgs/PoseStamped; only served by the work cell, None for none.
        pose_euler: The same as piper_msgs/PosCmd.
        names: Joint names in the messages; empty for joint0, joint1, ...
    """

    joints: tuple[str, ...]
    state: str
    command: str
    status: str | None = None
    pose: str | None = None
    pose_euler: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names and len(self.names) != len(self.joints):
            raise ConfigError(f"ros arm: {len(self.joints)} joints but {len(self.names)} message names")

    @property
    def message_names(self) -> tuple[str, ...]:
        """Joint names in the messages."""
        return self.names or tuple(f"joint{i}" for i in range(len(self.joints)))

    def indices(self, layout: JointLayout) -> np.ndarray:
        """Where this arm's joints lie in the task's vectors, int (len(joints),)."""
        return np.array([layout.names.index(name) for name in self.joints])


@dataclass(frozen=True)
class CameraConfig:
    """One camera.

    Attributes:
        topic: Topic of its images.
        kind: "image" for sensor_msgs/Image, "compressed" for sensor_msgs/CompressedImage.
    """

    topic: str
    kind: str = "image"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ConfigError(f"ros camera {self.topic}: kind {self.kind!r}, expected one of {_KINDS}")


@dataclass(frozen=True)
class RosConfig:
    """A robot over ROS.

    Attributes:
        arms: Arms by name; together they hold every joint of the task's layout once.
        cameras: Cameras by their name in the task; more than the task uses are allowed.
        node: Name of our node.
        connect_timeout: Time to wait for the first message of every topic, s.
        clock_tolerance: How far the clocks of the machines may differ, s: images from the future are refused.
        status_timeout: Age of an arm's status at which the arm counts as gone, s.
        watch_interval: Time between two looks at the master and at who commands the arms, s.
        scene: Namespace of the services and topics of a simulated cell; None on a real robot.
        joint_rate: Rate at which the work cell serves joint states and status, Hz.
        camera_rate: Rate at which the work cell serves images, Hz.
    """

    arms: dict[str, ArmConfig]
    cameras: dict[str, CameraConfig]
    node: str = "rise"
    connect_timeout: float = 10.0
    clock_tolerance: float = 0.05
    status_timeout: float = 1.0
    watch_interval: float = 0.5
    scene: str | None = None
    joint_rate: float = 200.0
    camera_rate: float = 30.0

    def __post_init__(self) -> None:
        times = "connect_timeout", "clock_tolerance", "status_timeout", "watch_interval"
        for name in (*times, "joint_rate", "camera_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ros.{name} is {getattr(self, name)}, expected more than 0")
        commands = [arm.command for arm in self.arms.values()]
        states = [arm.state for arm in self.arms.values()]
        if not self.arms or len(set(commands + states)) != 2 * len(self.arms):
            raise ConfigError(
                f"ros.arms: every arm needs a state and a command topic of its own; got {', '.join(states + commands)}"
            )

    def check(self, task: TaskSpec) -> None:
        """Compare with a task.

        Raises:
            LayoutError: If the arms do not hold every joint of the layout exactly once.
            ConfigError: If a camera of the task has no topic.
        """
        found = [name for arm in self.arms.values() for name in arm.joints]
        if sorted(found) != sorted(task.layout.names):
            raise LayoutError(
                f"ros.arms hold {', '.join(found)};\nlayout {task.layout.name!r} has {', '.join(task.layout.names)}.\n"
                "Every joint of the layout must be in exactly one arm (section 'ros' of the robot's YAML file). This "
                "driver moves Piper arms: another robot needs one of its own (docs/add_a_robot.md), see --driver."
            )
        if missing := [camera for camera in task.cameras if camera not in self.cameras]:
            raise ConfigError(
                f"no topic for camera {', '.join(missing)} of task {task.name!r}; section 'ros' of the robot has "
                f"{', '.join(self.cameras) or 'none'}. Add ros.cameras.{missing[0]}.topic to the robot's YAML file."
            )


def ros_config(robot: RobotConfig) -> RosConfig:
    """Decode the section `ros` of a robot; ConfigError if there is none, or something in it is wrong."""
    section = robot.drivers.get("ros")
    if not section:
        raise ConfigError(
            f"robot {robot.name!r} has no section 'ros' (topics of arms and cameras): choose one that has (--robot)"
        )
    return decode(RosConfig, section, f"section 'ros' of robot {robot.name!r}")
