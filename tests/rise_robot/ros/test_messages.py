"""Conversions between messages and arrays. They need ROS's message classes, but no master."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rise_env.errors import RobotError
from rise_robot.ros import messages, ros1

images = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


def image_message(pixels: np.ndarray, encoding: str, padding: int = 0) -> Any:
    height, width, channels = pixels.shape
    rows = np.zeros((height, width * channels + padding), np.uint8)
    rows[:, : width * channels] = pixels.reshape(height, -1)
    return SimpleNamespace(
        height=height, width=width, step=rows.shape[1], encoding=encoding, is_bigendian=0, data=rows.tobytes()
    )


@given(images, st.integers(0, 7), st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8"]))
def test_images_by_encoding_and_step(image: np.ndarray, padding: int, encoding: str) -> None:
    stored = image if encoding.startswith("rgb") else image[:, :, ::-1]
    if encoding.endswith("a8"):
        stored = np.concatenate([stored, np.full((*image.shape[:2], 1), 7, np.uint8)], axis=2)
    found = messages.decode_image(image_message(stored, encoding, padding))
    np.testing.assert_array_equal(found, image)
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["mono8", "16UC1", "bayer_rggb8", "yuv422", ""])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(RobotError, match="encoding"):
        messages.decode_image(image_message(np.zeros((4, 4, 3), np.uint8), encoding))


@pytest.mark.parametrize("change", [{"height": 5}, {"step": 11}, {"step": 10_000}, {"height": 0}, {"data": b""}])
def test_data_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    message = image_message(np.zeros((4, 4, 3), np.uint8), "rgb8")
    vars(message).update(change)
    with pytest.raises(RobotError, match="bytes, expected"):
        messages.decode_image(message)


def test_compressed_images() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24] = (255, 0, 0)
    png = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(messages.decode_compressed(SimpleNamespace(format="png", data=png)), image)
    jpeg = cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
    found = messages.decode_compressed(SimpleNamespace(format="jpeg", data=jpeg))
    assert np.abs(found[:, :16].astype(int) - image[:, :16]).max() < 12  # red stays red


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 cut off"])
def test_damaged_compressed_images_are_refused(data: bytes) -> None:
    with pytest.raises(RobotError, match="neither JPEG nor PNG"):
        messages.decode_compressed(SimpleNamespace(format="jpeg", data=data))


def test_shrinking_averages_as_the_cells_renderer_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    means = image.reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(messages.resize(image, (12, 16)) - means).max() <= 0.5
    assert messages.resize(image, (24, 32)) is image
    assert messages.resize(image, (48, 64)).shape == (48, 64, 3)


@given(st.lists(st.floats(-1e3, 1e3), min_size=7, max_size=9))
def test_joint_positions(values: list[float]) -> None:
    found = messages.joint_positions(SimpleNamespace(name=[], position=values), 7, "x")
    np.testing.assert_array_equal(found, values[:7])
    assert found.dtype == np.float64


@pytest.mark.parametrize("values", [[0.0] * 6, [], [0.0] * 6 + [float("nan")]])
def test_joint_positions_of_another_robot_are_refused(values: list[float]) -> None:
    with pytest.raises(RobotError, match="joint state on /x has"):
        messages.joint_positions(SimpleNamespace(name=["joint0"], position=values), 7, "joint state on /x")


@pytest.mark.ros
@pytest.mark.parametrize("name", sorted(messages.MD5))
def test_the_vendors_messages_have_the_published_checksums(name: str) -> None:
    assert messages.message_class(name)._md5sum == messages.MD5[name]
    assert messages.message_class(name)._type == name


@pytest.mark.ros
@pytest.mark.parametrize("name", sorted(messages.MD5))
def test_tools_of_ros_find_the_vendors_messages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import rospkg
    from roslib.message import get_message_class

    share, (package, kind) = Path(messages.__file__).parent / "share", name.split("/")
    monkeypatch.syspath_prepend(str(share))
    assert get_message_class(name)._md5sum == messages.MD5[name]  # rostopic echo
    folder = rospkg.RosPack(ros_paths=[str(share)]).get_path(package)  # rosmsg
    assert (Path(folder) / "msg" / f"{kind}.msg").is_file()


@pytest.mark.ros
@given(images)
def test_images_survive_the_wire(image: np.ndarray) -> None:
    import io

    ros = ros1.load()
    sent, received = messages.encode_image(image, ros.rospy.Time(12, 5), "head"), ros.sensor_msgs.Image()
    buffer = io.BytesIO()
    sent.serialize(buffer)
    received.deserialize(buffer.getvalue())
    np.testing.assert_array_equal(messages.decode_image(received), image)
    assert (received.header.stamp.secs, received.header.frame_id) == (12, "head")


@pytest.mark.ros
@given(arrays(np.float64, 7, elements=st.floats(-10, 10)))
def test_joints_survive_the_wire(position: np.ndarray) -> None:
    import io

    ros = ros1.load()
    names = [f"joint{i}" for i in range(7)]
    sent, received = messages.joint_message(names, position, ros.rospy.Time(1, 2)), ros.sensor_msgs.JointState()
    buffer = io.BytesIO()
    sent.serialize(buffer)
    received.deserialize(buffer.getvalue())
    np.testing.assert_array_equal(messages.joint_positions(received, 7, "x"), position)
    assert received.name == names


@pytest.mark.ros
def test_status_in_words() -> None:
    kind = messages.message_class("piper_msgs/PiperStatusMsg")
    assert messages.status_words(kind(ctrl_mode=1)) is None
    assert messages.status_words(kind()) is None  # in standby until the first command
    words = messages.status_words(kind(ctrl_mode=2, arm_status=1, err_code=256, communication_status_joint_2=True))
    assert words is not None
    for part in ("emergency stop", "teaching", "joint 2", "err_code 0x100"):
        assert part in words
    assert "unknown" in str(messages.status_words(kind(arm_status=200)))
