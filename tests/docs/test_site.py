"""The pages as a site: it builds without a warning and without the network, and a broken link ends the build."""

from __future__ import annotations

import importlib.util
import multiprocessing
import re
import shutil
import sys
from pathlib import Path

import pytest
from sphinx.cmd.build import main

ROOT = Path(__file__).resolve().parents[2]
#: MyST and Napoleon still use what Sphinx 11 will drop.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:'myst_parser\..*' is deprecated"),
    pytest.mark.filterwarnings("ignore:The mapping interface for autodoc"),
]


def options() -> list[str]:
    """What `make docs` gives to Sphinx, the builder and the folders aside."""
    rule = r"^docs:.*\n\t@\$\(PYTHON\) -m sphinx (.*) -b html docs build/docs$"
    (found,) = re.findall(rule, (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(found).split()


def test_pages_made_from_the_code_are_up_to_date() -> None:
    path = ROOT / "docs" / "write_pages.py"
    spec = importlib.util.spec_from_file_location("write_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (path.parent / name).read_text(encoding="utf-8") == text, f"docs/{name} is old: run make pages"
    written = {f"environments/{one.name}" for one in (path.parent / "environments").iterdir()}
    assert written == {name for name in module.pages() if "/" in name}


@pytest.mark.slow
def test_every_page_can_be_reached_and_every_link_leads_somewhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All that `make docs` does but write HTML, which takes as long again."""
    command = [*options(), "-b", "dummy", str(ROOT / "docs"), str(tmp_path)]
    # In a process of its own: autodoc writes other signatures into the classes that it describes.
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(main(command)))
    process.start()
    process.join()
    assert process.exitcode == 0, capfd.readouterr().err


def test_a_broken_link_and_a_page_without_a_place_fail(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "index.md").write_text("# Start\n\n[there](other.md#no-such-heading)\n\n[gone](gone.md)\n")
    assert main([*options(), "-b", "html", str(small), str(small / "site")]) != 0
    said = capsys.readouterr().err
    assert "no-such-heading" in said
    assert "gone.md" in said
    assert "isn't included in any toctree" in said


def test_html_fetches_nothing(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "index.md").write_text("# Start\n\n```{toctree}\nother\n```\n\n```python\nprint(1)\n```\n")
    assert main([*options(), "-b", "html", str(small), str(small / "site")]) == 0, capsys.readouterr().err
    for name in ("index.html", "other.html", "search.html"):
        text = (small / "site" / name).read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]*)|<link[^>]* href=\"([^\"]*)", text)
        assert len(loaded) > 3
        assert not [one for pair in loaded for one in pair if "//" in one], name


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two pages with our configuration."""
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path)
    (tmp_path / "other.md").write_text("# Other\n")
    return tmp_path
