"""Pictures of imagination beside the truth: one PNG per state and a video of some."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.truth_metrics import Imagined
from benchmarks.truth_set import TruthSet
from rise_agents.reporting.filming import caption, write_video
from rise_env.files import atomic_path

__all__ = ["write_pictures"]

_SCALE = 3


def write_pictures(folder: str | Path, truth: TruthSet, imagined: Imagined, fps: int, states: int = 6) -> list[Path]:
    """Write `state-<seed>.png` (a row per chunk kind: truth above imagination, over time) and `truth.mp4`.

    Of so many states, spread over all of them; `fps` are imagined frames per second of the episode.
    """
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.unique(np.linspace(0, len(truth.seeds) - 1, states).round().astype(int))
    kinds = [int(np.flatnonzero(truth.kinds == kind)[0]) for kind in dict.fromkeys(truth.kinds)]
    horizon = truth.frames.shape[2]
    columns = sorted({0, horizon // 3, 2 * horizon // 3, horizon - 1})
    paths, clips = [], []
    for s in chosen:
        rows = []
        for c in kinds:
            text = f"seed {truth.seeds[s]}, {truth.kinds[c]} chunk: true above, imagined below"
            strips = [np.concatenate([_views(frames[s, c, k]) for k in columns], axis=1)
                      for frames in (truth.frames, imagined.frames)]  # fmt: skip
            rows.append(caption(_enlarge(np.concatenate(strips)), text))
            pair = np.stack([
                _enlarge(np.concatenate([_views(truth.frames[s, c, k]), _views(imagined.frames[s, c, k])]))
                for k in range(horizon)
            ])  # fmt: skip
            clips.append(np.stack([caption(frame, text) for frame in np.concatenate([pair, pair[-1:]])]))
        path = folder / f"state-{truth.seeds[s]}.png"
        with atomic_path(path) as aside:
            Image.fromarray(np.concatenate(rows)).save(aside, format="PNG", optimize=True)
        paths.append(path)
    paths.append(write_video(folder / "truth.mp4", np.concatenate(clips), fps))
    return paths


def _views(frame: np.ndarray) -> np.ndarray:
    """Views (V, H, W, 3) side by side."""
    return np.concatenate(list(frame), axis=1)


def _enlarge(image: np.ndarray) -> np.ndarray:
    return image.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
