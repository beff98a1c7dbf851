"""The cell's cameras: a process of its own that draws what the physics sends and publishes it, as camera nodes do.

Drawing three images takes 11 ms of a core at 640 x 480 and holds Python's lock meanwhile: in the process of the
physics it would delay every joint state. Started as `python -m rise_robot.ros.cameras FD` with one end of a socket
pair, never by forking.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import cv2
import numpy as np

from rise_env.errors import RobotError
from rise_robot.cell.cell import CellState, WorkCell
from rise_robot.cell.config import load_cell
from rise_robot.cell.render import CellRenderer
from rise_robot.cell.worker import spawn
from rise_robot.ros import messages, ros1
from rise_robot.ros.config import RosConfig

__all__ = ["CameraProcess", "main"]

_JPEG_QUALITY = 90


class CameraProcess:
    """The physics' end of the cameras.

    Args:
        task: Arguments of `load_cell`.
        config: Topics.
        size: Height and width of the images.
        supersample: Images are drawn at this multiple and averaged.

    Attributes:
        sent: Moments that were sent to be drawn.
        skipped: Moments that were not, because the one before was still being drawn.
        seconds: Time that the last one took to draw and publish, s.

    Raises:
        RobotError: If it does not start.
    """

    def __init__(
        self, task: tuple[str, str, list[str]], config: RosConfig, size: tuple[int, int], supersample: int
    ) -> None:
        self.sent = self.skipped = 0
        self.seconds = 0.0
        self._process, self._connection = spawn("rise_robot.ros.cameras", start_new_session=True)
        self._connection.send((task, config, size, supersample))
        self._ready = False

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until it has drawn a first image; RobotError if it ends before, or takes too long."""
        if not self._connection.poll(timeout):
            self.close()
            raise RobotError(f"the cell's cameras have not started after {timeout:g} s")
        self._take_answers()

    def begin(self, state: CellState) -> None:
        """A new episode: colours and lights may change."""
        self._connection.send(dict(state.arrays))

    def show(self, stamp: float, physics: np.ndarray) -> None:
        """Draw a moment, unless the one before is not done: time of day, s, and `WorkCell.physics`.

        RobotError if the process has ended.
        """
        self._take_answers()
        if not self._ready:
            self.skipped += 1
            return
        self._ready = False
        self.sent += 1
        self._connection.send((stamp, physics))

    def close(self) -> None:
        """End the process. Twice is fine."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._process.kill()
        self._process.wait()

    def _take_answers(self) -> None:
        try:
            while self._connection.poll():
                answer = self._connection.recv()
                if isinstance(answer, str):
                    raise RobotError(f"the cell's cameras: {answer}")
                self.seconds, self._ready = answer, True
        except (EOFError, ConnectionError) as error:
            raise RobotError(f"the cell's camera process ended (exit code {self._process.poll()})") from error


def main(descriptor: int) -> None:
    """Draw and publish until the other end closes."""
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, ConnectionError):  # the physics has ended
        try:
            _serve(connection)
        except RobotError as error:
            connection.send(str(error))


def _serve(connection: Connection) -> None:
    task, config, size, supersample = connection.recv()
    ros = ros1.start_node("rise_cell_cameras")
    spec, cell_config = load_cell(*task)
    cell = WorkCell(spec, cell_config)
    renderer = CellRenderer(cell.model, cell.data, supersample)
    cameras = list(spec.cameras)
    publishers = []
    for camera in cameras:
        source = config.cameras[camera]
        compressed = source.kind == "compressed"
        kind = ros.sensor_msgs.CompressedImage if compressed else ros.sensor_msgs.Image
        publisher = ros.rospy.Publisher(source.topic, kind, queue_size=2, tcp_nodelay=True)
        publishers.append((publisher, _compressed if compressed else messages.encode_image))
    cell.restore(CellState(connection.recv()))
    renderer.render(cameras, size)  # the first one takes far longer than the others
    connection.send(0.0)
    while True:
        found = connection.recv()
        if isinstance(found, dict):
            cell.restore(CellState(found))
            continue
        begun = time.perf_counter()
        stamp, physics = found
        cell.show(physics)
        images = renderer.render(cameras, size)
        when = ros.rospy.Time.from_sec(stamp)
        for camera, image, (publisher, encode) in zip(cameras, images, publishers, strict=True):
            publisher.publish(encode(image, when, f"{camera}_color_optical_frame"))
        connection.send(time.perf_counter() - begun)


def _compressed(image: np.ndarray, stamp: Any, frame: str) -> Any:
    message = ros1.load().sensor_msgs.CompressedImage()
    message.header.stamp, message.header.frame_id = stamp, frame
    fine, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not fine:
        raise RobotError("an image could not be compressed")
    message.format, message.data = "rgb8; jpeg compressed bgr8", data.tobytes()
    return message


if __name__ == "__main__":
    main(int(sys.argv[1]))
