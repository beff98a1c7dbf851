"""Films of single episodes, videos and picture grids: what a person looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rise_agents.evaluation.evaluate import run_episodes
from rise_agents.evaluation.results import Episode
from rise_env.acting import ActorSource, actor_in, needed_by
from rise_env.files import atomic_path

__all__ = ["caption", "film_episodes", "film_outcomes", "outcome", "picture_grid", "write_video"]

_FONT_SIZE = 18


def outcome(episode: Episode) -> str:
    """Outcome of an episode in a word: "success" or its failure mode."""
    return "success" if episode.success else episode.failure_mode


def film_episodes(
    env_id: str, actor: ActorSource, seeds: Sequence[int], env_kwargs: dict[str, Any] | None = None
) -> Iterator[tuple[Episode, np.ndarray, int]]:
    """Run episodes one by one and film every control step.

    Episodes are reproducible: this shows what `evaluate` counted. Only where a hair decides may it end otherwise: a
    policy that is asked for one environment rounds differently from one that is asked for many at once.

    Args:
        env_id: Registered environment id whose environment can film (`start_film`, `take_film`).
        actor: As for `evaluate`.
        seeds: Seeds of the episodes.
        env_kwargs: Further keyword arguments of the environment.

    Yields:
        The episode, its pictures uint8 (T, H, W, 3), and pictures per second.
    """
    kwargs = {**needed_by(actor), **(env_kwargs or {}), "autoreset_mode": "disabled", "render_mode": "rgb_array"}
    envs: Any = gymnasium.make_vec(env_id, num_envs=1, **kwargs)
    try:
        chosen = actor_in(actor, envs)
        for seed in seeds:
            envs.unwrapped.call("start_film")
            (episode,) = run_episodes(envs, chosen, 1, seed)
            (frames,) = envs.unwrapped.call("take_film")
            (task,) = envs.unwrapped.call("task")
            yield episode, np.stack(frames), int(task.fps)
    finally:
        envs.close()


def film_outcomes(
    env_id: str,
    actor: ActorSource,
    episodes: Sequence[Episode],
    folder: Path,
    each: int = 2,
    env_kwargs: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Film the first `each` episodes of every outcome of an evaluation, as `<folder>/episode-<seed>-<outcome>.mp4`.

    The other arguments are as of `film_episodes`. Yields every file, once it is written.
    """
    by_outcome: dict[str, list[int]] = {}
    for episode in episodes:
        by_outcome.setdefault(outcome(episode), []).append(episode.seed)
    seeds = sorted(seed for found in by_outcome.values() for seed in found[:each])
    for episode, frames, fps in film_episodes(env_id, actor, seeds, env_kwargs):
        yield write_video(folder / f"episode-{episode.seed}-{outcome(episode)}.mp4", frames, fps)


def write_video(path: str | Path, frames: np.ndarray, fps: int, hold_seconds: float = 0.7) -> Path:
    """Write an MP4 (H.264, plays anywhere), in one step, whose last picture stays for `hold_seconds`.

    Of frames uint8 (T, H, W, 3), odd sizes are cut by a pixel, as the codec wants it.
    """
    import imageio.v3 as iio

    height, width = (size // 2 * 2 for size in frames.shape[1:3])
    hold = np.repeat(frames[-1:], max(1, round(hold_seconds * fps)), axis=0)
    video = np.concatenate([frames, hold])[:, :height, :width]
    path = Path(path)
    with atomic_path(path) as aside:
        iio.imwrite(aside, video, fps=fps, codec="libx264", plugin="pyav", out_pixel_format="yuv420p")
    return path


def caption(image: np.ndarray, text: str, color: tuple[int, int, int] = (20, 22, 26)) -> np.ndarray:
    """The image, uint8 (H, W, 3), under a strip with one line of text."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (image.shape[1], _FONT_SIZE + 10), color)
    ImageDraw.Draw(strip).text((6, 3), text, fill=(240, 240, 240), font=ImageFont.load_default(_FONT_SIZE))
    return np.concatenate([np.asarray(strip), image])


def picture_grid(path: str | Path, rows: Sequence[tuple[str, np.ndarray]], columns: int = 6, width: int = 320) -> Path:
    """Write a PNG, in one step, with one captioned row per film, uint8 (T, H, W, 3).

    A row has pictures at even times, the first and the last among them, `width` pixels wide.
    """
    from PIL import Image

    strips = []
    for text, frames in rows:
        chosen = frames[np.linspace(0, len(frames) - 1, columns).round().astype(int)]
        size = (width, round(width * frames.shape[1] / frames.shape[2]))
        small = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in chosen]
        strips.append(caption(np.concatenate(small, axis=1), text))
    path = Path(path)
    with atomic_path(path) as aside:
        Image.fromarray(np.concatenate(strips)).save(aside, format="PNG", optimize=True)
    return path
