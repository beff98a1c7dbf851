"""The report is one well-formed page that shows what it was given, and asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from rise_agents.evaluation.paired import paired_change
from rise_agents.evaluation.results import Episode, EvaluationResult, summarise
from rise_agents.reporting.filming import write_video
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import write_report
from rise_agents.reporting.success_table import Row, one_sentence
from rise_env.errors import ConfigError

VOID = {"meta", "link", "img", "br", "hr", "input"}
STRANGE = """<script>alert("1")</script> & 'so' -->"""


@dataclasses.dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    text: str = ""

    def inside(self, tag: str) -> bool:
        return self.parent is not None and (self.parent.tag == tag or self.parent.inside(tag))


class Page(HTMLParser):
    """All elements of a page; fails where a tag is not closed, or closed twice.

    Attributes:
        elements: In the order of their beginnings, each with all text inside it.
    """

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(content)
        self.close()
        assert not self._open, f"never closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = self._found(tag, attrs)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert self._found(tag, attrs).inside("svg"), f"<{tag}/> closes itself in SVG only"

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def _found(self, tag: str, attrs: list[tuple[str, str | None]]) -> Element:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        attributes = {key: value or "" for key, value in attrs}
        self.elements.append(Element(tag, attributes, self._open[-1] if self._open else None))
        return self.elements[-1]

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [e for e in self.elements if e.tag == tag and wanted.items() <= e.attributes.items()]

    def one(self, tag: str, **attributes: str) -> Element:
        (element,) = self.all(tag, **attributes)
        return element


def result(successes: Sequence[int], episodes: int = 50, mode: str = "timeout") -> EvaluationResult:
    done = [
        Episode(s, s in successes, 10.0 if s in successes else 4.0, "none" if s in successes else mode, 6.0, 4)
        for s in range(100, 100 + episodes)
    ]
    return summarise(done, 12.0)


BASE = Row("base", result(range(100, 120)), "behaviour cloning")
RISE = Row("RISE", result(range(105, 140), mode="wrong_bin"), "six minutes")
CONTROL = Row("control", result(range(101, 121)))
CURVE = Curve("Success", "chunks", "share", {"RISE": [(0, 0.4), (10, 0.7)], "offline": [(0, 0.4), (10, 0.4)]})


def report(path: Path, **changed: Any) -> Page:
    given: dict[str, Any] = {
        "title": "Brick sorting",
        "summary": one_sentence(BASE, RISE, 6.2),
        "rows": [BASE, RISE, CONTROL],
        "curves": [CURVE],
        "provenance": {"seed": 0, "git": {"revision": "abc", "modified": False}, "gpus": [{"name": "H200"}]},
        "commands": ["rise demo --json out/demo.json"],
    }
    assert write_report(path, **{**given, **changed}) == path
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    return write_video(tmp_path_factory.mktemp("films") / "a film #1?.mp4", frames, 4)


def test_the_first_screen_says_what_happened(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html")
    assert [element.text for element in page.all("title") if element.inside("head")] == ["Brick sorting"]
    assert page.one("h1").text == "Brick sorting"
    said = page.one("p", class_="summary")
    assert said.inside("header")
    assert said.text.replace("\u00a0", " ") == (
        "Success rose from 40 % to 70 % (+30 points, 95 % interval +10.9 to +46.1, 50 paired episodes) "
        "in 6.2 minutes of imagination, with no robot time."
    )
    figures = [element.text.replace("\u00a0", " ") for element in page.all("b") if element.inside("header")]
    assert figures == ["40 %", "70 %", "+30"]


def test_the_sentence_claims_no_more_than_was_measured() -> None:
    assert "rose" in one_sentence(BASE, RISE, 1)
    assert "fell from 70" in one_sentence(RISE, BASE, 1)
    assert "did not change measurably, from 40" in one_sentence(BASE, CONTROL, 1)
    with pytest.raises(ConfigError, match="minutes is nan"):
        one_sentence(BASE, RISE, float("nan"))


def test_every_row_is_compared_with_the_first(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html")
    lines = [line for line in page.all("tr") if line.inside("tbody") and not line.inside("details")]
    assert [line.text.split()[0] for line in lines] == ["basebehaviour", "RISEsix", "control40"]
    assert "reference" in lines[0].text
    change = paired_change(BASE.result, RISE.result)
    assert (change.gained, change.lost, change.both, change.neither) == (20, 5, 15, 10)
    assert "+30+10.9 to +46.1; p = 0.004gained 20, lost 5both 15, neither 10" in lines[1].text
    assert "wrong_bin 15" in lines[1].text
    assert "8.20" in lines[1].text
    assert "gained 1, lost 1both 19, neither 29" in lines[2].text
    assert [e.text for e in page.all("strong", class_="better")] == ["+30"]
    assert [e.text for e in page.all("strong", class_="same")] == ["0"]


def test_what_a_stranger_needs_is_there(tmp_path: Path, video: Path) -> None:
    page = report(
        tmp_path / "report.html",
        about=["It sorts bricks.", "In a cell."],
        tables=[("How it fails", "<p>often</p>")],
        curves=[dataclasses.replace(CURVE, reading="higher is better")],
        films=[Film("before", video, "look at the brick")],
        links=[("the paper", "https://arxiv.org/abs/2602.11075")],
    )
    assert [one.text for one in page.all("p", class_="about")] == ["It sorts bricks.", "In a cell."]
    headings = [one.text for one in page.all("h2")]
    assert headings.index("What this is") < headings.index("Success") < headings.index("How it fails")
    aids = page.all("span", class_="reading")
    assert [one.text for one in aids] == ["look at the brick", "higher is better"]
    assert all(one.inside("figure") for one in aids)
    (link,) = page.all("a")
    assert (link.text, link.attributes["href"]) == ("the paper", "https://arxiv.org/abs/2602.11075")
    with pytest.raises(ConfigError, match="javascript:alert"):
        report(tmp_path / "other.html", links=[("run", "javascript:alert(1)")])
    assert not (tmp_path / "other.html").exists()


def test_bars_have_the_length_of_the_interval(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html")
    bars = [element for element in page.all("span", class_="bar") if element.inside("tbody")]
    assert len(bars) == 3
    for bar, row in zip(bars, (BASE, RISE, CONTROL), strict=True):
        low, high = row.result.success_interval
        found = {key: float(value) for key, value in re.findall(r"--(\w+):([\d.]+)%", bar.attributes["style"])}
        wanted = {"rate": 100 * row.result.success_rate, "low": 100 * low, "high": 100 * high}
        assert found == pytest.approx(wanted, abs=0.005)
        assert f"{100 * low:.1f} to {100 * high:.1f}" in bar.attributes["aria-label"]


def test_one_row_is_compared_with_nothing(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", rows=[BASE], summary="40 %")
    assert "Change" not in page.one("table", class_="success").text
    assert len([e for e in page.all("b") if e.inside("header")]) == 1


def test_nothing_is_fetched_from_elsewhere(tmp_path: Path, video: Path) -> None:
    page = report(tmp_path / "report.html", films=[Film("film", video)])
    found = [
        (element.tag, element.attributes[key])
        for element in page.elements
        for key in ("src", "href", "poster", "srcset", "data", "xlink:href")
        if key in element.attributes
    ]
    assert {tag for tag, _ in found} == {"link", "video"}
    assert all(link.startswith("data:") for _, link in found)
    style = page.one("style").text
    assert "url(" not in style
    assert "@import" not in style
    assert not page.all("script")
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def test_films_are_inside(tmp_path: Path, video: Path) -> None:
    page = report(tmp_path / "report.html", films=[Film("before", video)])
    head, _, content = page.one("video").attributes["src"].partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(content) == video.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_large_films_lie_beside_the_page(tmp_path: Path, video: Path) -> None:
    path = tmp_path / "out" / "report.html"
    films = [Film("a", video), Film("b", video)]
    page = report(path, films=films, embed_bytes=video.stat().st_size)  # the film is in it twice
    links = [element.attributes["src"] for element in page.all("video")]
    assert len(set(links)) == 2
    for link in links:
        assert re.fullmatch(r"[\w./%-]+", link)  # '#' and '?' would end a path
        assert (path.parent / unquote(link)).read_bytes() == video.read_bytes()
    assert len(list((tmp_path / "out" / "report_files").iterdir())) == 2
    # A second report from those very files leaves them as they are.
    again = [Film("a", path.parent / unquote(links[0]))]
    report(path, films=again, embed_bytes=0)
    assert (path.parent / unquote(links[0])).read_bytes() == video.read_bytes()


def test_strange_texts_stay_texts(tmp_path: Path, video: Path) -> None:
    row = Row(STRANGE, result(range(100, 120), mode=STRANGE), STRANGE)
    page = report(
        tmp_path / "report.html",
        title=STRANGE,
        summary=STRANGE,
        rows=[row, dataclasses.replace(row, note="")],
        curves=[Curve(STRANGE, STRANGE, STRANGE, {STRANGE: [(0, 1)], "other": [(0, 2)]})],
        films=[Film(STRANGE, video)],
        provenance={STRANGE: STRANGE, "list": [STRANGE]},
        commands=[STRANGE],
    )
    assert not page.all("script")
    assert page.one("h1").text == page.one("p", class_="summary").text == page.one("code").text == STRANGE
    assert page.one("video").attributes["aria-label"] == STRANGE
    texts = {element.text for element in page.elements}
    # As it is: names, captions, labels, provenance; with something around it: heading of changes, modes, list.
    assert STRANGE in texts
    assert {f"Change against {STRANGE}", f"{STRANGE} 30"} <= texts
    for tag, count in (("figcaption", 2), ("dt", 2), ("text", 2)):
        assert len([element for element in page.all(tag) if element.text == STRANGE]) == count


def test_the_page_can_be_used_without_seeing_it(tmp_path: Path, video: Path) -> None:
    page = report(tmp_path / "report.html", films=[Film("before", video)])
    assert page.one("html").attributes["lang"] == "en"
    identities = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(identities)) == len(identities) == 5
    named = [e.attributes["aria-labelledby"] for e in page.elements if "aria-labelledby" in e.attributes]
    assert set(named) == set(identities)
    tables = page.all("table")
    assert len(tables) == 2
    heads = page.all("th")
    assert {head.attributes["scope"] for head in heads} == {"col", "row"}
    widths = {line.text: len([e for e in page.elements if e.parent is line]) for line in page.all("tr")}
    assert set(widths.values()) == {6, 2}
    for element in page.elements:
        if element.tag == "svg":
            assert element.attributes.get("aria-label") or element.attributes.get("aria-hidden") == "true"
        if element.tag == "figure":
            assert any(e.parent is element and e.text for e in page.all("figcaption"))
        if element.attributes.get("role") == "img":
            assert element.attributes["aria-label"]
    assert "controls" in page.one("video").attributes
    assert "autoplay" not in page.one("video").attributes


def test_every_style_of_the_page_is_in_the_style_sheet(tmp_path: Path, video: Path) -> None:
    page = report(tmp_path / "report.html", films=[Film("before", video)])
    style = page.one("style").text
    used = {name for element in page.elements for name in element.attributes.get("class", "").split()}
    assert {"figures", "bar", "modes", "chart", "legend", "line-1", "better"} <= used
    assert [name for name in sorted(used) if f".{name}" not in style] == []
    light, dark = style.split("prefers-color-scheme: dark", 1)
    colours = set(re.findall(r"(--[\w]+): #", light))
    assert colours == set(re.findall(r"(--[\w]+): #", dark))
    assert set(re.findall(r"var\((--\w+)\)", style)) - colours == {"--shadow", "--rate", "--low", "--high", "--c"}


def test_provenance_is_flat_and_folded(tmp_path: Path) -> None:
    given = {"seed": 1, "ok": True, "git": {"modified": False, "tag": None}, "gpus": [{"name": "H200"}], "args": [1, 2]}
    page = report(tmp_path / "report.html", provenance=given)
    assert "open" not in page.one("details").attributes
    lines = [e for e in page.all("tr") if e.inside("details") and e.inside("tbody")]
    cells = [[e.text for e in page.elements if e.parent is line] for line in lines]
    assert cells == [
        ["seed", "1"],
        ["ok", "yes"],
        ["git modified", "no"],
        ["git tag", "none"],
        ["gpus 1 name", "H200"],
        ["args", "1 2"],
    ]


def test_what_is_not_given_has_no_heading(tmp_path: Path) -> None:
    page = report(tmp_path / "report.html", curves=[], provenance={}, commands=[])
    assert [element.text for element in page.all("h2")] == ["Success"]


def test_all_headings(tmp_path: Path, video: Path) -> None:
    page = report(tmp_path / "report.html", films=[Film("before", video)])
    heads = ["Success", "Films", "Curves", "Run it again", "Where this comes from"]
    assert [element.text for element in page.all("h2")] == heads


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": []}, "no rows"),
        ({"title": " "}, "title is empty"),
        ({"summary": ""}, "summary is empty"),
        ({"rows": [BASE, Row("other", result([], episodes=60))]}, r"row 'other' against 'base': .*same seeds"),
        ({"films": [Film("before", Path("nowhere.mp4"))]}, "'before': there is no file nowhere.mp4"),
        ({"films": [Film("before", Path("film.gif"))]}, r"film.gif is no .mp4, .webm file"),
        ({"films": [Film("", Path("nowhere.mp4"))]}, "nowhere.mp4 has no caption"),
    ],
)
def test_errors_leave_the_old_report(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ConfigError, match=message):
        report(path, **changed)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_an_empty_film_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").touch()
    with pytest.raises(ConfigError, match=r"film.mp4 is empty"):
        report(tmp_path / "report.html", films=[Film("before", tmp_path / "film.mp4")])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"episodes": 0, "details": ()}, "row 'a' has 0 episodes"),
        ({"details": ()}, "50 episodes and the details of 0"),
        ({"score_mean": float("nan")}, "score_mean is nan"),
        ({"success_interval": (0.1, float("inf"))}, "success_interval is"),
    ],
)
def test_rows_of_nothing(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Row("a", dataclasses.replace(BASE.result, **changed))
