"""Between ROS messages and arrays, without cv_bridge; and the vendor's messages, made from their text."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rise_env.errors import RobotError
from rise_robot.ros import ros1

__all__ = [
    "MD5",
    "decode_compressed",
    "decode_image",
    "encode_image",
    "joint_message",
    "joint_positions",
    "message_class",
    "resize",
    "status_words",
]

#: Colour encodings of sensor_msgs/Image: bytes per pixel, and whether red comes first.
_ENCODINGS = {"rgb8": (3, True), "bgr8": (3, False), "rgba8": (4, True), "bgra8": (4, False)}
_ARM = range(1, 7)
#: Definitions of the vendor's messages, as a ROS package.
_PACKAGES = Path(__file__).parent / "share"
#: Checksums by which nodes recognise the same message; those of piper_msgs as published.
MD5 = {
    "piper_msgs/PiperStatusMsg": "18e0aaa943372aaa58f1495907dd9a17",
    "piper_msgs/PosCmd": "1c57ab1c25d2c8b93367daa40ff13cae",
}

#: `arm_status` of PiperStatusMsg in words; 0 is normal.
_ARM_STATUS = (
    "normal", "emergency stop", "no solution for the target", "singular pose", "target beyond the joint limits",
    "joints do not communicate", "a brake is closed", "collision", "too fast while being taught", "a joint is in fault",
)  # fmt: skip
_TEACHING = 2


@functools.cache
def message_class(name: str) -> Any:
    """Class of one of the vendor's messages, "piper_msgs/PiperStatusMsg" or "piper_msgs/PosCmd"; RobotError if ROS is
    missing.
    """
    package, _, kind = name.partition("/")
    text = (_PACKAGES / package / "msg" / f"{kind}.msg").read_text(encoding="utf-8")
    made = ros1.load().genpy.dynamic.generate_dynamic(name, text)[name]
    if made._md5sum != MD5[name]:
        raise RobotError(f"{name} has md5 {made._md5sum}, the robot's nodes have {MD5[name]}")
    return made


def decode_image(message: Any) -> np.ndarray:
    """Pixels of a sensor_msgs/Image; RobotError if the encoding is another one, or the data do not fit height, width
    and step.

    Args:
        message: Image in rgb8, bgr8, rgba8 or bgra8; rows may be padded (`step`).

    Returns:
        uint8 (H, W, 3) RGB, writable, not shared with the message.
    """
    encoding = message.encoding
    if encoding not in _ENCODINGS:
        raise RobotError(
            f"image has encoding {encoding!r}, expected one of {', '.join(_ENCODINGS)}. Set the camera to "
            "colour, or name its colour topic in the robot's YAML file (ros.cameras)."
        )
    channels, red_first = _ENCODINGS[encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    if height < 1 or width < 1 or step < width * channels or len(message.data) != height * step:
        raise RobotError(
            f"image of {height} x {width} {encoding} with step {step} has {len(message.data)} bytes, expected "
            f"{height} rows of at least {width * channels} bytes"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)[:, :, :3]
    return np.array(pixels if red_first else pixels[:, :, ::-1], order="C")


def decode_compressed(message: Any) -> np.ndarray:
    """Pixels of a sensor_msgs/CompressedImage (JPEG or PNG), uint8 (H, W, 3) RGB; RobotError if it is damaged."""
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise RobotError(
            f"compressed image ({message.format!r}, {len(message.data)} bytes) is neither JPEG nor PNG, or damaged"
        )
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def encode_image(image: np.ndarray, stamp: Any, frame: str) -> Any:
    """A sensor_msgs/Image in rgb8 from uint8 (H, W, 3) RGB."""
    message = ros1.load().sensor_msgs.Image()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = image.shape[:2]
    message.encoding, message.is_bigendian, message.step = "rgb8", 0, 3 * image.shape[1]
    message.data = image.tobytes()
    return message


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image at height and width `size`: averaged where it gets smaller, interpolated where it gets larger.

    The whole image is kept; where its proportions are others it is stretched, as in the datasets of the original.
    """
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def joint_message(names: Sequence[str], position: np.ndarray, stamp: Any) -> Any:
    """A sensor_msgs/JointState with `position` alone: six joints (rad) and the total gripper opening (m)."""
    message = ros1.load().sensor_msgs.JointState()
    message.header.stamp = stamp
    message.name = list(names)
    message.position = [float(value) for value in position]
    return message


def joint_positions(message: Any, count: int, where: str) -> np.ndarray:
    """The first `count` positions of a sensor_msgs/JointState, float64 (count,), rad and m; RobotError if there are
    fewer, or one is not finite.
    """
    position = np.asarray(message.position[:count], float)
    if len(position) < count:
        raise RobotError(
            f"{where} has {len(message.position)} positions ({', '.join(message.name) or 'unnamed'}), expected {count}:"
            " the joints and the gripper. Is this the topic of the whole arm?"
        )
    if not np.isfinite(position).all():
        raise RobotError(f"{where} has positions that are not finite: {position}")
    return position


def status_words(message: Any) -> str | None:
    """What a piper_msgs/PiperStatusMsg reports to be wrong, in words; None where nothing is."""
    found, status = [], message.arm_status
    if status:
        found.append(f"arm_status {status} ({_ARM_STATUS[status] if status < len(_ARM_STATUS) else 'unknown'})")
    if message.ctrl_mode == _TEACHING:
        found.append("the arm is in teaching mode and obeys no commands (press its button, or power-cycle it)")
    if silent := [str(i) for i in _ARM if getattr(message, f"communication_status_joint_{i}")]:
        found.append(f"no communication with joint {', '.join(silent)}")
    if message.err_code:
        found.append(f"err_code {message.err_code:#x}")
    return "; ".join(found) or None
