import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rise_env.errors import ConfigError, LayoutError, requirement

require = requirement("preset")


def test_a_condition_that_fails_raises_the_given_error_with_its_place():
    requirement("layout", LayoutError)(True, "never seen")
    with pytest.raises(LayoutError, match=r"^layout: no joints$"):
        requirement("layout", LayoutError)([], "no joints")


def test_numbers_are_checked_by_attribute_and_by_keyword():
    config = SimpleNamespace(steps=0, batch_size=4, limit=None)
    require.at_least(0, config, "steps", "batch_size", "limit", more=1)
    with pytest.raises(ConfigError, match=r"^preset: steps is 0, expected at least 1$"):
        require.at_least(1, config, "batch_size", "steps")
    with pytest.raises(ConfigError, match=r"^preset: more is 0, expected at least 1$"):
        require.at_least(1, config, "batch_size", more=0)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_positive_numbers_are_finite_and_above_zero(value):
    require.positive(value=1e-9)
    with pytest.raises(ConfigError, match="expected a positive number"):
        require.positive(value=value)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [("[0, 1]", (0, 1), (-0.1, 1.1, math.nan)), ("(0, 1)", (0.5,), (0, 1)), ("[0, 1)", (0, 0.9), (1,))],
)
def test_intervals_include_the_bounds_in_square_brackets(interval, inside, outside):
    for value in inside:
        require.within(interval, value=value)
    for value in outside:
        with pytest.raises(ConfigError, match="expected a number in"):
            require.within(interval, value=value)


@pytest.mark.parametrize("value", [0, 1.0, math.nan, math.inf, "1", True, [1]])
def test_whole_numbers_are_of_a_whole_type(value):
    require.whole(1, value=np.int64(1), other=None)
    with pytest.raises(ConfigError, match="expected a whole number from 1"):
        require.whole(1, value=value)


@pytest.mark.parametrize("value", ["many", [1, 2], {}])
def test_what_is_no_number_is_refused_in_the_same_words(value):
    within = functools.partial(require.within, "[0, 1]")
    for check in (require.positive, functools.partial(require.at_least, 1), within):
        with pytest.raises(ConfigError, match=r"^preset: value is .*, expected"):
            check(value=value)


def test_a_value_outside_of_a_choice_is_told_with_the_choice():
    require.one_of(("fp32", "fp16"), storage="fp16")
    with pytest.raises(ConfigError, match=r"^preset: storage is 'int8', expected one of fp32, fp16$"):
        require.one_of(("fp32", "fp16"), storage="int8")
