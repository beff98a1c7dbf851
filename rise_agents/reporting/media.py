"""Films and pictures of a report: inside the page, or in a folder beside it."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from rise_env.errors import ConfigError
from rise_env.files import atomic_path

__all__ = ["Film", "checked_files", "film_figures", "picture_figures", "placed"]

_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm"}
_PICTURES = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class Film:
    """A video with a caption.

    Attributes:
        caption: What there is to see; also what a person hears who does not see it.
        path: MP4 (H.264, as `filming.write_video` makes it) or WebM.
    """

    caption: str
    path: Path


def checked_files(films: Sequence[Film], pictures: Sequence[tuple[str, Path]]) -> list[Path]:
    """Files of films, then of pictures.

    Raises:
        ConfigError: If a file is missing, empty or of another kind, or has no caption.
    """
    files = [_checked(film.path, film.caption, _VIDEOS) for film in films]
    return files + [_checked(file, text, _PICTURES) for text, file in pictures]


def placed(report: Path, files: Sequence[Path], embed: bool) -> list[str]:
    """Links to files: their content, or copies of them in the folder `<name>_files` beside the report."""
    return [_embedded(file) if embed else _beside(report, i, file) for i, file in enumerate(files, start=1)]


def film_figures(films: Sequence[Film], sources: Sequence[str]) -> str:
    """HTML of films, by their links."""
    figures = [
        f'<figure><video controls loop muted playsinline preload="metadata" src="{source}" '
        f'aria-label="{escape(film.caption)}">This browser shows no videos.</video>'
        f"<figcaption>{escape(film.caption)}</figcaption></figure>"
        for film, source in zip(films, sources, strict=True)
    ]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def picture_figures(pictures: Sequence[tuple[str, Path]], sources: Sequence[str]) -> str:
    """HTML of pictures, caption and file each, by their links."""
    return "".join(
        f'<figure class="wide"><img src="{source}" alt="{escape(text)}">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for (text, _), source in zip(pictures, sources, strict=True)
    )


def _checked(file: str | Path, text: str, kinds: Mapping[str, str]) -> Path:
    file = Path(file)
    if not text.strip():
        raise ConfigError(f"{file.name} has no caption: say what there is to see")
    if file.suffix.lower() not in kinds:
        raise ConfigError(f"{text!r}: {file.name} is no {', '.join(kinds)} file")
    if not file.is_file():
        raise ConfigError(f"{text!r}: there is no file {file}; write it before the report")
    if file.stat().st_size == 0:
        raise ConfigError(f"{text!r}: the file {file} is empty; write it again")
    return file


def _embedded(file: Path) -> str:
    kind = (_VIDEOS | _PICTURES)[file.suffix.lower()]
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _beside(report: Path, number: int, file: Path) -> str:
    """Copy a file into the report's folder; the link to it."""
    target = report.with_name(f"{report.stem}_files") / f"{number:02d}-{file.name}"
    if not (target.exists() and target.samefile(file)):
        with atomic_path(target) as aside:
            shutil.copyfile(file, aside)
    return quote(f"{target.parent.name}/{target.name}")
