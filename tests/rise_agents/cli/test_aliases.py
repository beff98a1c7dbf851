"""Old names of options work, say so, and are not in the help."""

from __future__ import annotations

import argparse

import pytest

from rise_agents.cli.aliases import add_alias


def test_an_old_name_sets_the_new_option_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--noise-scale", type=float, default=0.5)
    add_alias(parser, "--noise", "--noise-scale", type=float)
    assert parser.parse_args(["--noise", "0.25"]).noise_scale == 0.25
    assert "--noise is now called --noise-scale" in capsys.readouterr().err
    assert parser.parse_args([]).noise_scale == 0.5
    assert parser.parse_args(["--noise-scale", "1"]).noise_scale == 1.0
    assert capsys.readouterr().err == ""
    assert "--noise " not in parser.format_help()
