"""What docstrings say, for pages that are made from the code."""

from __future__ import annotations

import inspect
import re

__all__ = ["entries", "labelled", "opening"]


def entries(found: object, section: str) -> dict[str, str]:
    """Names and meanings below a heading such as "Args" or "Attributes" of a docstring, each on one line."""
    _, _, text = _cleaned(found).partition(f"{section}:\n")
    text = re.split(r"\n(?=\S)", text)[0]
    pairs = re.findall(r"^    \**(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in pairs}


def labelled(found: object) -> dict[str, str]:
    """Texts behind labels such as `**Reward**:` at the beginning of a line of a docstring, each on one line."""
    pairs = re.findall(r"^\*\*(\w[\w ]*)\*\*: (.*(?:\n(?!\*\*)\S.*)*)", _cleaned(found), re.MULTILINE)
    return {label: " ".join(text.split()) for label, text in pairs}


def opening(found: object) -> list[str]:
    """The paragraphs of a docstring before its first label or heading, each on one line."""
    text = re.split(r"^(?:\*\*\w[\w ]*\*\*: |\w+:$)", _cleaned(found), maxsplit=1, flags=re.MULTILINE)[0]
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def _cleaned(found: object) -> str:
    return inspect.cleandoc(getattr(found, "__doc__", None) or "")
