"""The reference of settings: complete, true, and the same as docs/settings.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from rise_agents.cli.main import main
from rise_agents.pipelines.settings import Setting, setting_groups, settings_of
from rise_env.config import available_presets, config_files, load_config, load_extended
from rise_env.errors import observed_requirements, requirement


def test_every_setting_says_what_it_does() -> None:
    assert [f"{one.name}: {s.key}" for one in setting_groups() for s in one.settings if len(s.meaning) < 4] == []


def test_every_key_of_every_shipped_file_is_there() -> None:
    known = {one.name: {s.key for s in one.settings} for one in setting_groups()}
    sections = set().union(*(keys for name, keys in known.items()))
    for task, presets in available_presets().items():
        for preset in presets:
            for key in keys_of(load_config(task, preset)):
                assert covered(key, sections), f"{task}/{preset}: {key}"
        for path in config_files(f"{task}/agent").values():
            content = load_extended(path)
            settings = known[content.get("algorithm", path.stem)]
            assert set(content) <= known["agent"]
            assert all(covered(key, settings) for key in keys_of(content.get("config", {}))), path
        for path in config_files(f"{task}/compare").values():
            assert all(covered(key, known["compare"]) for key in keys_of(load_extended(path))), path
    for name, keys in (("layouts", known["layout"]), ("robots", known["robot"] | known["ros"] | {"driver", "extends"})):
        for path in config_files(name).values():
            assert all(covered(key, keys) for key in keys_of(load_extended(path))), path


def keys_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def covered(key: str, known: set[str]) -> bool:
    """Whether a key, or a mapping that it is in, is known; names of one's own are `<name>`."""
    parts, found = key.split("."), {one.split("[]")[0] for one in known}
    return any(
        len(parts) >= len(one.split("."))
        and all(b in (a, "<name>") for a, b in zip(parts, one.split("."), strict=False))
        for one in found
    )


@dataclass(frozen=True)
class Inner:
    """Sizes.

    Attributes:
        width: How wide it is,
            in pixels.
    """

    width: int | None = 3


@dataclass(frozen=True)
class Outer:
    """Something.

    Attributes:
        kind: Which one.
        rate: How fast.
        inner: See `Inner`.
        names: By name.
    """

    kind: str
    rate: float = 0.5
    inner: Inner = field(default_factory=Inner)
    names: dict[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require = requirement("outer")
        require.one_of(("a", "b"), self, "kind")
        require.within("[0, 1)", self, "rate")


def test_meaning_range_and_default_are_read_from_the_class() -> None:
    assert list(settings_of(Outer("a", names={"x": Inner()}), "outer")) == [
        Setting("outer.kind", "one of a, b", None, "Which one."),
        Setting("outer.rate", "number in [0, 1)", "0.5", "How fast."),
        Setting("outer.inner.width", "whole number or null", "3", "How wide it is, in pixels."),
        Setting("outer.names.<name>.width", "whole number or null", "3", "How wide it is, in pixels."),
    ]
    with observed_requirements() as outside:  # one does not disturb another
        with observed_requirements() as inside:
            requirement("x").at_least(1, steps=2)
        requirement("x").positive(rate=2)
    assert (outside, inside) == ({"rate": ["a positive number"]}, {"steps": ["at least 1"]})


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--settings", "selective-rise"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("## selective_rise\n")
    assert "`num_candidates`" in text
    assert main(["info", "--settings", "value.training"]) == 0
    assert {
        line.split("`")[1].rpartition(".")[0] for line in capsys.readouterr().out.splitlines() if line[:1] == "*"
    } == {"value.training"}
    assert main(["info", "--settings", "polcy"]) == 2
    assert "Did you mean 'policy'?" in capsys.readouterr().err
