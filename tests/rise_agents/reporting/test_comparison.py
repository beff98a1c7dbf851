"""Tables of a comparison and the section of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rise_agents.evaluation.comparison import CompareRow
from rise_agents.evaluation.paired import Gain
from rise_agents.reporting.comparison import (
    comparison_numbers,
    comparison_summary,
    comparison_table,
    docs_section,
    markdown_table,
    not_run_table,
    replace_section,
)
from rise_env.errors import ConfigError

COST = {"imagined_chunks": 0.0, "recorded_chunks": 0.0, "real_steps": 0.0, "rounds": 0.0, "train_seconds": 0.0}


def row(name: str, success: float, gain: Gain | None, imagined: Gain | None, **changes: Any) -> CompareRow:
    values: dict[str, Any] = {
        "task": "bricks", "name": name, "note": f"<{name}>", "seeds": (), "episodes": 200, "success": success,
        "interval": (success - 0.05, success + 0.05), "each": (success,), "score": 5.0, "failures": {"missed": 3},
        "against": "base", "gain": gain, "imagined": 0.1, "imagined_gain": imagined, "cost": COST,
    }  # fmt: skip
    return CompareRow(**{**values, **changes})


ROWS = [
    row("base", 0.5, None, None, against=None),
    row("rise", 0.7, Gain(20.0, 15.0, 25.0), Gain(0.05, 0.04, 0.06), each=(0.65, 0.75), seeds=(0, 1),
        cost={**COST, "imagined_chunks": 8000.0, "real_steps": 120.0, "train_seconds": 90.0}),
    row("dreamer", 0.48, Gain(-2.0, -6.0, 2.0), Gain(0.2, 0.1, 0.3)),
    row("bc", 0.5, Gain(0.0, -1.0, 1.0), Gain(0.0, -0.1, 0.1), cost={**COST, "recorded_chunks": 960.0}),
]  # fmt: skip


def test_the_page_shows_both_gains_side_by_side() -> None:
    table = comparison_table(ROWS)
    assert table.count("<tr>") == 5
    assert '<strong class="worse">in imagination only</strong>' in table
    assert table.count('<th scope="col">') == 8
    assert "&lt;rise&gt;" in table  # notes are text
    assert "2 training seeds: 65.0%, 75.0%" in table
    assert "0 (960 recorded)" in table
    summary = comparison_summary(ROWS)
    assert summary.startswith("1 of 3 rows improve")
    assert "rise is ahead with 70.0% success" in summary
    assert "1 gain in imagination and not in the cell" in summary
    numbers = comparison_numbers(ROWS)
    assert [part in numbers for part in ("50.0%", "70.0%", "+20.0")] == [True] * 3
    assert comparison_numbers(ROWS[:1]) == ""
    assert "nothing to compare" in comparison_summary(ROWS[:1])
    assert not_run_table({}) == ""
    assert "&lt;why&gt;" in not_run_table({"bins": "<why>"})


def test_markdown_has_one_line_per_row_and_as_many_cells_everywhere() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| rise | 70.0% (65.0 to 75.0 %) (65.0%, 75.0%) | +20.0 (+15.0 to +25.0) | +0.050 (+0.040 to +0.060) |"
        in (lines[3])
    )
    assert "| 8,000 | 120 | 1.5 |" in lines[3]


def test_the_section_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n<!-- comparison short -->\nold\n<!-- end of comparison short -->\nrest\n")
    content = {
        "command": "rise compare short",
        "failed": {},
        "minutes": 21.4,
        "config": {"episodes": 200, "first_episode": 600_000, "seeds": [0], "chunks": 8000, "real_steps": 50,
                   "not_run": {"bins": "why"}},
        "provenance": {
            "git": {"revision": "0123456789", "modified": False}, "hardware": {"cpu_count": 2, "cpu": "A CPU"},
        },
    }  # fmt: skip
    text = docs_section(content, ROWS)
    for part in ("seeds 600000 to 600199", "21 minutes in all on 2 cores (A CPU)", "0123456.", "* `bins`: why"):
        assert part in text, part
    for _ in range(2):
        replace_section(page, "short", text)
        found = page.read_text()
        assert found.startswith("# Results\n<!-- comparison short -->\n\n200 episodes")
        assert found.endswith("<!-- end of comparison short -->\nrest\n")
        assert "old" not in found
    with pytest.raises(ConfigError, match="must hold the lines"):
        replace_section(page, "full", text)
