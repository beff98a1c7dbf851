"""The prompt: what is said comes back when it is read, and nothing that is said is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.prompt import (
    build_prompt,
    clean_text,
    prompt_bin,
    state_numbers,
)
from rise_env.errors import ConfigError
from tests.rise_agents.policies.prompts import Prompt, parse_prompt

plain = st.text(max_size=40)
# What could be taken for a segment of the prompt itself.
nasty = st.sampled_from(["a, State: 5", "x, State: 1 2, Advantage: 3;\nAction: ", "Task: y", ", Advantage: 4", "z;"])
texts = st.one_of(plain, nasty, st.tuples(nasty, plain).map("".join)).filter(
    lambda text: text.replace("_", " ").strip()
)
states = st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=32)
bins = st.none() | st.integers(1, 10)


@given(texts, states, bins)
def test_a_prompt_read_back_says_what_went_in(text: str, state: list[float], bin: int | None) -> None:
    found = parse_prompt(build_prompt(text, np.array(state, np.float32), bin))
    assert found == Prompt(clean_text(text), tuple(state_numbers(state).tolist()), bin)
    assert len(found.state) == 32


@given(texts, states, bins, bins)
def test_another_bin_is_another_prompt(text: str, state: list[float], one: int | None, other: int | None) -> None:
    assert (build_prompt(text, state, one) == build_prompt(text, state, other)) == (one == other)


def test_the_words_are_those_of_the_release() -> None:
    state = np.zeros(14, np.float32)
    state[:3] = -1.0, 1.0, 0.5
    numbers = " ".join(["0", "255", "192", *["128"] * 29])
    assert build_prompt(" sort_the\nbricks ", state, 10) == (
        f"Task: sort the bricks, State: {numbers}, Advantage: 10;\nAction: "
    )
    assert build_prompt("sort", state, None) == f"Task: sort, State: {numbers};\nAction: "


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=14))
def test_state_numbers_are_the_published_formula(state: list[float]) -> None:
    padded = np.zeros(32, np.float32)
    padded[: len(state)] = state
    expected = np.digitize(padded, np.linspace(-1, 1, 257)[:-1]) - 1
    np.testing.assert_array_equal(state_numbers(np.array(state, np.float32)), expected)
    np.testing.assert_array_equal(state_numbers(state, width=None), expected[: len(state)])


@pytest.mark.parametrize(
    ("value", "number"), [(-1.01, -1), (-1.0, 0), (-0.9922, 0), (-0.992, 1), (0.0, 128), (0.9999, 255), (7.0, 255)]
)
def test_state_number(value: float, number: int) -> None:
    assert state_numbers([value], width=1).tolist() == [number]


def test_a_prompt_counts_bins_from_one() -> None:
    for codec in (AdvantageCodec(), AdvantageCodec(num_bins=5)):
        found = [prompt_bin(one, codec) for one in range(codec.num_bins)]
        assert found == list(range(1, codec.num_bins + 1))


def test_the_unconditional_bin_is_left_out() -> None:
    codec = AdvantageCodec()
    assert prompt_bin(codec.best_bin, codec) == 10
    assert prompt_bin(codec.unconditional, codec) is None
    assert "Advantage" not in build_prompt("sort", [0.0], prompt_bin(codec.unconditional, codec))


@pytest.mark.parametrize("one", [-1, 11])
def test_a_bin_that_does_not_exist_is_an_error(one: int) -> None:
    with pytest.raises(ConfigError, match=f"advantage bin {one} does not exist"):
        prompt_bin(one, AdvantageCodec())


@pytest.mark.parametrize("text", ["", "  ", "\n", " _ "])
def test_an_empty_instruction_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="says nothing"):
        build_prompt(text, [0.0], 1)


@pytest.mark.parametrize(
    ("state", "bin", "message"),
    [
        ([0.0] * 33, 1, "33 dimensions, the prompt has room for 32"),
        ([0.0, np.nan], 1, "not finite"),
        ([np.inf], 1, "not finite"),
        ([[0.0], [1.0]], 1, r"shape \(2, 32\)"),
        ([0.0], 0, "those of prompts start at 1"),
    ],
)
def test_what_cannot_be_said_is_an_error(state: list[float], bin: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_prompt("sort", state, bin)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "sort the bricks\n",
        "Task: a, State: ;\nAction: ",
        "Task: a, State: 1 2;\nAction: 3",
        "Task: a, State: 1.5;\nAction: ",
    ],
)
def test_something_else_is_no_prompt(prompt: str) -> None:
    with pytest.raises(ConfigError, match="not of the form"):
        parse_prompt(prompt)
