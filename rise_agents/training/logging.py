"""What RISE writes to TensorBoard: scalars, histograms, and films of what is imagined of the policy's chunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import torch
from tensorboard.compat.proto.summary_pb2 import Summary

from rise_env.envs.vector import ImaginationVectorEnv

if TYPE_CHECKING:
    from rise_agents.algorithms.rise import Round

__all__ = ["RiseLog"]

_HISTOGRAM_ROUNDS = 10
#: Imaginations in a film: few, for a film is looked at.
_FILMED = 4


class RiseLog:
    """TensorBoard files, opened when first written to.

    Args:
        folder: Where; None writes nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._writer: Any = None

    def __bool__(self) -> bool:
        return self._folder is not None

    def scalars(self, group: str, figures: Mapping[str, float], chunks: int) -> None:
        """Write figures as `<group>/<name>`, after so many imagined chunks."""
        if self:
            for name, value in figures.items():
                self._open().add_scalar(f"{group}/{name}", value, chunks)

    def round(self, number: int, last: Round, levels: int, chunks: int) -> None:
        """Write what a round's chunks were worth, every few rounds: advantages, and the share of every level."""
        if self and number % _HISTOGRAM_ROUNDS == 1 and len(last):
            self._open().add_histogram("rise/advantages", last.advantages, chunks)
            occupied = torch.bincount(last.levels.cpu(), minlength=levels).double() / max(len(last), 1)
            self.scalars("levels", {f"{level:02d}": float(share) for level, share in enumerate(occupied)}, chunks)

    def film(self, envs: ImaginationVectorEnv, chunks: int) -> None:
        """Write what the last step of the first environments imagined, frame by frame, one above the other.

        Args:
            envs: With `render_mode="rgb_array"`.
            chunks: Imagined so far.
        """
        if not self:
            return
        films = [np.stack(film) for film in envs.film()[:_FILMED] if film]
        if films:
            pictures = np.concatenate(films, axis=1)  # T, height, width, 3
            milliseconds = 1000 * envs.task.stride / envs.task.fps
            # `SummaryWriter.add_video` would ask for moviepy; TensorBoard plays any encoded GIF.
            gif = iio.imwrite("<bytes>", pictures, extension=".gif", duration=milliseconds, loop=0)
            image = Summary.Image(height=pictures.shape[1], width=pictures.shape[2], colorspace=3,
                                  encoded_image_string=gif)  # fmt: skip
            summary = Summary(value=[Summary.Value(tag="imagined", image=image)])
            self._open().file_writer.add_summary(summary, chunks)
            self._open().flush()  # films are rare: whoever looks now sees the last one, and all figures up to it

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        return self._writer
