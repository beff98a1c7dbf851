r"""The one place where a policy's text is written: for rollout, training and serving, and read back by tests.

    Task: {text}, State: {32 numbers}, Advantage: {bin};\nAction:

The format is that of RISE's release (arXiv 2602.11075), which puts the advantage into pi0.5's prompt (arXiv
2504.16054). Where no advantage is said, the segment is left out, which is pi0.5's own prompt (byte for byte openpi's
and lerobot's, where the state is not padded): a published policy that never heard of advantages is conditioned as it
always was, and the unconditional branch of classifier-free guidance starts from what it knows. (The release writes -1
instead, a prompt that no published weights have seen.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_agents.policies.codec import AdvantageCodec
from rise_env.errors import ConfigError

__all__ = ["STATE_WIDTH", "build_prompt", "clean_text", "prompt_bin", "state_numbers"]

#: Numbers in the state segment; a shorter state is padded with zeros before it is discretised.
STATE_WIDTH = 32

_EDGES = np.linspace(-1, 1, 257)[:-1]  # multiples of 1/128: exact in float32, so that no state falls between two


def clean_text(text: str) -> str:
    """An instruction as models see it: no surrounding space, and `_` and newlines as spaces.

    Raises:
        ConfigError: If nothing is left.
    """
    cleaned = text.strip().replace("_", " ").replace("\n", " ")
    if not cleaned.strip():
        raise ConfigError(f"the instruction {text!r} says nothing; set the task's prompt")
    return cleaned


def state_numbers(state: Any, width: int | None = STATE_WIDTH) -> np.ndarray:
    """A normalised state as whole numbers.

    Args:
        state: float (..., D), the normal range mapped to [-1, 1].
        width: Numbers wanted; zeros are appended up to it. None takes the state as long as it is.

    Returns:
        int64 (..., width): 0 to 255 within [-1, 1], 255 above and -1 below it.

    Raises:
        ConfigError: If the state is longer than `width`, or not finite.
    """
    values = np.asarray(state, np.float64)
    if not np.isfinite(values).all():
        raise ConfigError("the state is not finite (NaN or infinity): the policy cannot be told where the robot is")
    if width is not None:
        if values.shape[-1] > width:
            raise ConfigError(f"the state has {values.shape[-1]} dimensions, the prompt has room for {width}")
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])
    return np.digitize(values, _EDGES).astype(np.int64) - 1


def prompt_bin(advantage_bin: int, codec: AdvantageCodec) -> int | None:
    """The number that a prompt writes for an advantage bin: one more, or None for `codec.unconditional`.

    Raises:
        ConfigError: If the codec has no such bin.
    """
    best, none = codec.best_bin, codec.unconditional
    if not 0 <= advantage_bin <= none:
        raise ConfigError(f"advantage bin {advantage_bin} does not exist: 0 to {best}, or {none} for none")
    return None if advantage_bin == none else advantage_bin + 1


def build_prompt(text: str, state: Any, bin: int | None, width: int | None = STATE_WIDTH) -> str:
    r"""The prompt of a policy; a pure function, used wherever one is needed.

    Args:
        text: Instruction, as the task or dataset has it.
        state: float (D,), normalised once: the normal range mapped to [-1, 1].
        bin: As `prompt_bin` gives it, from 1; None to say none.
        width: As in `state_numbers`.

    Raises:
        ConfigError: If the text is empty, the state does not fit, or the bin is below 1.

    Example:
        >>> build_prompt("sort_the bricks", [0.0, 1.0], bin=10, width=2)
        'Task: sort the bricks, State: 128 255, Advantage: 10;\nAction: '
    """
    numbers = state_numbers(state, width)
    if numbers.ndim != 1 or not len(numbers):
        raise ConfigError(f"a prompt is built of one state (D,), not of an array of shape {numbers.shape}")
    if bin is not None and bin < 1:
        raise ConfigError(f"advantage bin {bin} does not exist, those of prompts start at 1; None says nothing")
    said = "" if bin is None else f", Advantage: {int(bin)}"
    return f"Task: {clean_text(text)}, State: {' '.join(map(str, numbers))}{said};\nAction: "
