"""How pictures become video in the datasets that this project writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lerobot.configs import RGBEncoderConfig

__all__ = ["video_encoder"]

_SMALL = 128  # pixels


def video_encoder(image_size: tuple[int, int]) -> RGBEncoderConfig:
    """Encoder settings for pictures of a size: h264, a key frame every 10 frames.

    What a policy is trained on should be what a camera will show it. Where a pixel is centimetres, an encoder's losses
    move the tool by half a centimetre (lab notebook), so that pictures below 128 pixels, which cost little, are stored
    without loss and in full colour resolution. Larger ones get crf 18, and yuv420p if their sides are even.

    Args:
        image_size: Height and width in pixels.
    """
    from lerobot.configs import RGBEncoderConfig  # takes seconds to import

    small, odd = min(image_size) < _SMALL, any(size % 2 for size in image_size)
    return RGBEncoderConfig(
        "h264", "yuv444p" if small or odd else "yuv420p", crf=0 if small else 18, preset="veryfast",
        # Without B-frames decoding order is display order, and joined files keep exact timestamps.
        g=10, extra_options={"bf": 0},
    )  # fmt: skip
