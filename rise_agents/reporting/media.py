"""Films of a report: inside the page, or in a folder beside it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from rise_env.errors import ConfigError
from rise_env.files import atomic_path

__all__ = ["Film", "aid", "checked_files", "film_figures", "placed"]

_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True)
class Film:
    """A video with a caption.

    Attributes:
        caption: What there is to see; also what a person hears who does not see it.
        path: MP4 (H.264, as `filming.write_video` makes it) or WebM.
        reading: What to look at, and why it went so; shown below the caption.
    """

    caption: str
    path: Path
    reading: str = ""


def checked_files(films: Sequence[Film]) -> list[Path]:
    """Files of films.

    Raises:
        ConfigError: If a file is missing, empty or of another kind, or has no caption.
    """
    for text, file in ((film.caption, film.path) for film in films):
        if not text.strip():
            raise ConfigError(f"{file.name} has no caption: say what there is to see")
        if file.suffix.lower() not in _VIDEOS:
            raise ConfigError(f"{text!r}: {file.name} is no {', '.join(_VIDEOS)} file")
        if not file.is_file():
            raise ConfigError(f"{text!r}: there is no file {file}; write it before the report")
        if file.stat().st_size == 0:
            raise ConfigError(f"{text!r}: the file {file} is empty; write it again")
    return [film.path for film in films]


def placed(report: Path, files: Sequence[Path], embed: bool) -> list[str]:
    """Links to files: their content, or copies of them in the folder `<name>_files` beside the report."""
    return [_embedded(file) if embed else _beside(report, i, file) for i, file in enumerate(files, start=1)]


def film_figures(films: Sequence[Film], sources: Sequence[str]) -> str:
    """HTML of films, by their links."""
    figures = [
        f'<figure><video controls loop muted playsinline preload="metadata" src="{source}" '
        f'aria-label="{escape(film.caption)}">This browser shows no videos.</video>'
        f"<figcaption>{escape(film.caption)}{aid(film.reading)}</figcaption></figure>"
        for film, source in zip(films, sources, strict=True)
    ]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def aid(reading: str) -> str:
    """HTML of a reading aid; nothing where there is none."""
    return f'<span class="reading">{escape(reading)}</span>' if reading else ""


def _embedded(file: Path) -> str:
    return f"data:{_VIDEOS[file.suffix.lower()]};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _beside(report: Path, number: int, file: Path) -> str:
    """Copy a file into the report's folder; the link to it."""
    target = report.with_name(f"{report.stem}_files") / f"{number:02d}-{file.name}"
    if not (target.exists() and target.samefile(file)):
        with atomic_path(target) as aside:
            shutil.copyfile(file, aside)
    return quote(f"{target.parent.name}/{target.name}")
