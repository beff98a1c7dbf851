"""The pages as a site: `make docs`. Nothing is fetched, and a broken link ends the build."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "RISE"
author = "The RISE contributors"
version = release = version_of("rise-robotics")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 4  # the anchors of headings that GitHub makes, too
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"RISE {version}"
html_show_sphinx = False
html_show_copyright = False


def as_paragraphs(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Begin a paragraph at every label (`**Reward**: ...`) of a docstring; other asterisks are meant as they are."""
    text = re.sub(r"^(\*\*\w[\w ]*\*\*: )", r"\n\1", "\n".join(lines), flags=re.MULTILINE)
    parts = re.split(r"(`[^`]*`|\*\*\w[\w ]*\*\*)", text)
    lines[:] = "".join(part.replace("*", "\\*") if i % 2 == 0 else part for i, part in enumerate(parts)).split("\n")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_paragraphs, priority=400)  # before Napoleon
