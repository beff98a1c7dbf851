"""Progress bars of the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from rise_agents.evaluation.results import Episode

__all__ = ["advance", "bar", "episode_bar", "say"]


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
