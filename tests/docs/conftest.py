"""Reads the code blocks of a page, so that tests run what the documentation shows."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def code_blocks(path: str | Path) -> list[tuple[str, str]]:
    """Fenced code blocks of a page as pairs of language and text, in order; `path` is relative to the checkout.

    Blocks behind a line `<!-- not run: REASON -->` are not among them, nor are directives of the site (`{toctree}`).
    """
    page = (ROOT / path).read_text(encoding="utf-8")
    found = re.findall(r"^(<!-- not run: .+ -->\n)?( *)```(\S*).*?\n(.*?)^\2```$", page, re.MULTILINE | re.DOTALL)
    return [(language, textwrap.dedent(text)) for mark, _, language, text in found if not mark and language[:1] != "{"]


@pytest.fixture(name="code_blocks", scope="session")
def _code_blocks() -> Callable[[str | Path], list[tuple[str, str]]]:
    """The function `code_blocks`."""
    return code_blocks
