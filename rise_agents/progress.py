"""Progress on standard error: bars, and lines that do not tear them."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

if TYPE_CHECKING:
    from rise_agents.evaluation.results import Episode

__all__ = ["Bars", "Board", "advance", "bar", "episode_bar", "say"]


def bar(total: int, description: str, unit: str, **kwargs: Any) -> tqdm:
    """A progress bar on standard error; where that is no terminal, a line every ten seconds."""
    quiet = not sys.stderr.isatty()
    return tqdm(
        total=total, desc=description, unit=f" {unit}", mininterval=10 if quiet else 0.1, dynamic_ncols=True, **kwargs
    )


def advance(progress: tqdm, done: int) -> None:
    """Set how much is done."""
    progress.update(done - progress.n)


@contextlib.contextmanager
def episode_bar(episodes: int, description: str) -> Iterator[Callable[[Episode], None]]:
    """A progress bar with the success rate so far; gives the `on_episode` of `evaluate`."""
    successes = 0
    with bar(episodes, description, "episodes") as progress:

        def on_episode(episode: Episode) -> None:
            nonlocal successes
            successes += episode.success
            progress.set_postfix(success=f"{successes / (progress.n + 1):.0%}", refresh=False)
            progress.update()

        yield on_episode


def say(message: str) -> None:
    """A line on standard error that does not tear a progress bar."""
    tqdm.write(message, file=sys.stderr)


class Bars:
    """One progress bar at a time, for work in phases: a new name closes the bar before it."""

    _SHOWN = (
        "loss", "progress", "td", "spread", "latent_mse", "latent_mse_copy", "psnr_end", "psnr_end_copy",
        "sample_error", "success",
    )  # fmt: skip

    def __init__(self) -> None:
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def show(self, name: str, done: int, total: int, unit: str, metrics: Mapping[str, str] | None = None) -> None:
        """Show how far a phase is, and metrics beside it."""
        if name != self._name:
            self.close()
            self._bar, self._name = bar(total, name, unit, initial=done), name
        self._bar.set_postfix(metrics, refresh=False)
        advance(self._bar, done)

    def decoding(self, done: int, total: int) -> None:
        """Show how far videos are decoded."""
        self.show("decoding", done, total, "frames")

    def training(self, progress: Any) -> None:
        """Show how far a training loop is (`rise_env.training.loop.Progress`), in thousandths of its budget."""
        if progress.resumed:
            say(f"{progress.phase}: resuming at update {progress.step}")
        metrics = {name: f"{progress.metrics[name]:.3g}" for name in self._SHOWN if name in progress.metrics}
        self.show(progress.phase, round(1000 * progress.used), 1000, "‰", {"step": str(progress.step), **metrics})

    def close(self) -> None:
        """End the bar, if there is one: before anything else draws bars of its own."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""


class Board:
    """A line for each of several things that go on side by side, and one for all; redrawn in place.

    Where standard error is no terminal, the last line alone, now and then.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._height, self._drawn = 0, -math.inf

    def show(self, lines: Sequence[str], total: str, force: bool = False) -> None:
        """Draw the lines, `total` below them; not more often than can be read, unless forced."""
        now = time.monotonic()
        if not force and now - self._drawn < (0.2 if self._terminal else 30.0):
            return
        self._drawn = now
        if not self._terminal:
            self.say(total)
            return
        width = shutil.get_terminal_size().columns - 1
        text = "".join(f"\x1b[2K{line[:width]}\n" for line in (*lines, total))
        sys.stderr.write(self._back() + text + "\x1b[J")
        sys.stderr.flush()
        self._height = len(lines) + 1

    def say(self, text: str) -> None:
        """A line that stays, above those that change."""
        sys.stderr.write(f"{self._back()}\x1b[J{text}\n" if self._terminal else f"{text}\n")
        sys.stderr.flush()
        self._height = 0

    def _back(self) -> str:
        return f"\x1b[{self._height}F" if self._height else ""
