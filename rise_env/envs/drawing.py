"""Pictures of imagined frames with their values written below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["picture"]

_LEAST_HEIGHT, _LINE, _BAR = 160, 16, 6
_GROUND, _INK, _FILL = (24, 24, 28), (235, 235, 235), (64, 170, 110)


def picture(views: np.ndarray, texts: Sequence[str], level: float | None = None) -> np.ndarray:
    """Views side by side, enlarged to a readable size, above a strip with a bar and lines of text.

    Args:
        views: uint8 (V, H, W, 3).
        texts: Short texts; as many as fit go on one line.
        level: Length of the bar, 0 to 1, or None for no bar.

    Returns:
        uint8 (H', W', 3). The size depends on the size of the views and the number of texts only.
    """
    from PIL import Image, ImageDraw

    factor = -(-_LEAST_HEIGHT // views.shape[1]) if views.shape[1] < _LEAST_HEIGHT else 1
    row = np.concatenate(list(views), axis=1).repeat(factor, axis=0).repeat(factor, axis=1)
    per_line = max(1, row.shape[1] // 130)
    lines = [texts[i : i + per_line] for i in range(0, len(texts), per_line)]
    height = _BAR + 4 + _LINE * len(lines)
    height += (row.shape[0] + height) % 2  # video encoders want even sizes
    strip = Image.new("RGB", (row.shape[1], height), _GROUND)
    draw = ImageDraw.Draw(strip)
    if level is not None:
        width = round(min(max(level, 0.0), 1.0) * (row.shape[1] - 1))
        draw.rectangle((0, 0, width, _BAR - 1), fill=_FILL)
    for number, line in enumerate(lines):
        for place, text in enumerate(line):
            draw.text((6 + place * row.shape[1] // per_line, _BAR + 2 + number * _LINE), text, fill=_INK)
    return np.concatenate([row, np.asarray(strip)], axis=0)
