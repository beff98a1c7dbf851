"""Reads prompts back, so that tests can say what a model was told."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rise_env.errors import ConfigError

# Greedy: the last ", State: " is ours, whatever the instruction says.
_PATTERN = re.compile(r"Task: (.*), State: (-?\d+(?: -?\d+)*)(?:, Advantage: (\d+))?;\nAction: ", re.DOTALL)


@dataclass(frozen=True)
class Prompt:
    """What a prompt says.

    Attributes:
        text: Instruction, cleaned.
        state: Discretised state, -1 (below the normal range) to 255.
        bin: As `prompt_bin` gives it: 1 the worst; None where none is said.
    """

    text: str
    state: tuple[int, ...]
    bin: int | None


def parse_prompt(prompt: str) -> Prompt:
    """What a prompt says; inverse of `build_prompt` up to cleaning and discretisation.

    Raises:
        ConfigError: If it is no prompt of that form.
    """
    match = _PATTERN.fullmatch(prompt)
    if match is None:
        raise ConfigError(f"not of the form 'Task: ..., State: ...;\\nAction: ': {prompt!r}")
    text, state, said = match.groups()
    return Prompt(text, tuple(int(number) for number in state.split(" ")), None if said is None else int(said))
