"""The pages as a site: `make docs`. Nothing is fetched, and a broken link ends the build."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "RISE"
author = "The RISE contributors"
version = release = version_of("rise-robotics")

extensions = ["myst_parser"]
myst_heading_anchors = 4  # the anchors of headings that GitHub makes, too
exclude_patterns = ["_build"]
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"RISE {version}"
html_show_sphinx = False
html_show_copyright = False
