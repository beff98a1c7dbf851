"""Reads the code blocks of a page, so that tests run what the documentation shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def code_blocks(path: str | Path) -> list[tuple[str, str]]:
    """Fenced code blocks of a page as pairs of language and text, in order; `path` is relative to the checkout."""
    page = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(name="code_blocks", scope="session")
def _code_blocks() -> Callable[[str | Path], list[tuple[str, str]]]:
    """The function `code_blocks`."""
    return code_blocks
