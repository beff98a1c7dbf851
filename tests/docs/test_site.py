"""The pages as a site: it builds without a warning and without the network, and a broken link ends the build."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs."""
    rule = r"^docs:.*\n\t@\$\(PYTHON\) (-m sphinx .*) docs build/docs$"
    (options,) = re.findall(rule, (ROOT / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, *options.split(), str(source), str(site)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)


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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_built_and_nothing_is_fetched(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert pages <= built
    for page in pages:
        text = (site / page).read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]*)|<link[^>]* href=\"([^\"]*)", text)
        assert not [name for pair in loaded for name in pair if "//" in name], page


def test_a_broken_link_and_a_page_without_a_place_fail(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", source)
    (source / "index.md").write_text("# Start\n\n[there](other.md#no-such-heading)\n\n[gone](gone.md)\n")
    (source / "other.md").write_text("# Other\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    assert "no-such-heading" in done.stderr
    assert "gone.md" in done.stderr
    assert "isn't included in any toctree" in done.stderr
