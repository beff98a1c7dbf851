"""TensorBoard files through the logger of Stable-Baselines3, so that all algorithms write the same tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary

__all__ = ["make_logger", "write_film"]


def make_logger(folder: str | Path) -> Logger:
    """A logger that writes TensorBoard files to a folder, and nothing else."""
    return Logger(str(folder), [TensorBoardOutputFormat(str(folder))])


def write_film(logger: Logger, tag: str, frames: np.ndarray, fps: float, step: int) -> None:
    """Write a film, which TensorBoard shows among the images.

    Args:
        logger: Where to; without TensorBoard among its outputs nothing is written.
        tag: Name.
        frames: uint8 (T, H, W, 3).
        fps: Frames per second.
        step: Imagined chunks so far.
    """
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            # `SummaryWriter.add_video` would ask for moviepy; TensorBoard plays any encoded GIF.
            gif: Any = iio.imwrite("<bytes>", frames, extension=".gif", duration=1000 / fps, loop=0)
            image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3, encoded_image_string=gif)
            output.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
            output.writer.flush()  # films are rare: whoever looks now sees the last one, and all metrics up to it
