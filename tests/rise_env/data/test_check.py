"""Faults planted in recordings are found, each by its name; clean recordings stay silent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rise_env.data.check.commands import command_findings, measure_lag
from rise_env.data.check.episodes import (
    coverage_findings,
    episode_findings,
    length_findings,
    outcome_findings,
    text_findings,
)
from rise_env.data.check.finding import Finding
from rise_env.data.check.joints import joint_findings
from rise_env.data.check.reading import Motion
from rise_env.errors import ConfigError
from rise_env.tasks import JointLayout

FPS, JOINTS = 20.0, ("shoulder", "elbow", "wrist", "gripper")
Recording = Callable[..., Motion]
LAYOUT = JointLayout("arm", JOINTS, ("rad", "rad", "rad", "m"), (-2.0, -2.0, -2.0, -0.02), (2.0, 2.0, 2.0, 0.1))
LAG = 3  # of the recordings, frames


def findings(motion: Motion, layout: JointLayout | None = None) -> list[Finding]:
    """All findings about a recording without pictures."""
    return [
        *joint_findings(motion, layout),
        *episode_findings(motion),
        *coverage_findings(motion),
        *command_findings(motion, measure_lag(motion)),
        *length_findings(motion.lengths, motion.numbers, 17, motion.fps),
    ]


def codes(found: list[Finding]) -> set[str]:
    return {one.code for one in found}


def changed(motion: Motion, **values: Any) -> Motion:
    copies = {"state": motion.state.copy(), "action": motion.action.copy(), "times": np.array(motion.times)}
    return dataclasses.replace(motion, **{**copies, **values})


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_clean_recordings_are_silent(recording: Recording, seed: int) -> None:
    motion = recording(seed)
    assert findings(motion) == []
    assert findings(motion, LAYOUT) == []


def edit(state: Callable[[np.ndarray], Any] | None = None, action: Callable[[np.ndarray], Any] | None = None) -> Any:
    """A fault: a change of state and action in place, or their replacement."""

    def plant(motion: Motion) -> Motion:
        motion = changed(motion)
        new: dict[str, Any] = {}
        for name, change in (("state", state), ("action", action)):
            if change is not None:
                values = getattr(motion, name)
                made = change(values)
                new[name] = np.asarray(values if made is None else made, np.float32)
        return dataclasses.replace(motion, **new)

    return plant


def put(place: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[place] = value

    return change


def shifted(motion: Motion, frames: int) -> Motion:
    """Actions of so many frames earlier."""
    action = motion.action.copy()
    for rows in motion.rows():
        action[rows][frames:] = motion.action[rows][:-frames]
    return changed(motion, action=action)


def zeros(values: np.ndarray) -> np.ndarray:
    values[300:302, 1] = 0
    return values


def repeated(every: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values[np.arange(len(values)) // every * every]


def slow(motion: Motion) -> Motion:
    """The arm follows 10 frames later still."""
    state = motion.state.copy()
    for rows in motion.rows():
        state[rows][10:] = motion.state[rows][:-10]
    return changed(motion, state=state)


def states_as_actions(shift: int) -> Callable[[Motion], Motion]:
    def plant(motion: Motion) -> Motion:
        action = np.concatenate([motion.state[np.minimum(np.arange(r.start, r.stop) + shift, r.stop - 1)]
                                 for r in motion.rows()])  # fmt: skip
        return changed(motion, action=action)

    return plant


def relative(motion: Motion) -> Motion:
    return changed(motion, action=np.concatenate([np.diff(motion.state[r], axis=0, append=motion.state[r][-1:])
                                                  for r in motion.rows()]))  # fmt: skip


def wrapped(motion: Motion) -> Motion:
    state, action = motion.state.copy(), motion.action.copy()
    for values in (state, action):
        values[:, 2] = (values[:, 2] * 2 + math.pi) % (2 * math.pi) - math.pi
    return changed(motion, state=state, action=action)


def copied(part: float) -> Callable[[Motion], Motion]:
    """The fifth episode repeats a part of the second."""

    def plant(motion: Motion) -> Motion:
        motion = changed(motion)
        source, target = (list(motion.rows())[i] for i in (1, 4))
        count = round(part * min(source.stop - source.start, target.stop - target.start))
        for values in (motion.state, motion.action):
            values[target.start : target.start + count] = values[source.start : source.start + count]
        return motion

    return plant


def paused(motion: Motion) -> Motion:
    """Every second episode begins with 3 s of nothing."""
    motion = changed(motion)
    for rows in list(motion.rows())[::2]:
        for values in (motion.state, motion.action):
            values[rows.start : rows.start + 60] = values[rows.start + 60]
    return motion


def later(row: int, seconds: float) -> Callable[[Motion], Motion]:
    def plant(motion: Motion) -> Motion:
        times = np.array(motion.times)
        end = motion.starts[np.searchsorted(motion.starts, row, side="right")]
        times[row:end] += seconds
        return changed(motion, times=times)

    return plant


FAULTS: dict[str, tuple[str, Any]] = {
    "a NaN": ("not_finite", edit(put((100, 1), np.nan))),
    "an infinite command": ("not_finite", edit(action=put((7, 0), np.inf))),
    "a mad value": ("impossible", edit(put((50, 0), 3e7))),
    "a joint that is never used": ("constant_joint", edit(put((slice(None), 2), 0.3), put((slice(None), 2), 0.3))),
    "a sensor that is stuck": ("dead_sensor", edit(put((slice(None), 1), 0.3))),
    "commands that were not recorded": ("dead_command", edit(action=put((slice(None), 1), 0.0))),
    "white noise": ("noisy_joint", edit(lambda x: x + np.random.default_rng(1).normal(0, [0, 0.3, 0, 0], x.shape))),
    "a glitch of a frame": ("spikes", edit(put((40, 0), 4.0))),
    "zeros for two frames": ("spikes", edit(lambda x: zeros(x + 5), lambda x: x + 5)),
    "a frame of zeros": ("spikes", edit(put(500, 0.0))),
    "a glitch of the command": ("spikes", edit(action=put((40, 0), 9.0))),
    "angles modulo a turn": ("angle_wraps", wrapped),
    "degrees": ("unit_unlikely", edit(lambda x: x * 57.3, lambda x: x * 57.3)),
    "steps of encoders": ("unit_unlikely", edit(lambda x: np.round(x * 4000), lambda x: np.round(x * 4000))),
    "commands in degrees": ("units_differ", edit(action=lambda x: x * 57.3)),
    "states in millimetres": ("units_differ", edit(lambda x: x * np.array([1, 1, 1, 1000]))),
    "a turned sign": ("sign", edit(lambda x: x * np.array([1, -1, 1, 1]))),
    "exchanged joints": ("joint_order", edit(lambda x: x[:, [1, 0, 2, 3]])),
    "arms in another order": ("joint_order", edit(action=lambda x: x[:, [2, 3, 0, 1]])),
    "changes as actions": ("actions_relative", relative),
    "states as actions": ("actions_are_states", states_as_actions(0)),
    "guided by hand": ("actions_are_states", states_as_actions(1)),
    "actions behind": ("action_late", lambda motion: shifted(motion, LAG + 3)),
    "a slow robot": ("lag_long", slow),
    "commands to nobody": ("does_not_follow", edit(action=lambda x: np.where([1, 0, 0, 0], np.roll(x, 700, 0), x))),
    "states at half the rate": ("held_values", edit(repeated(2))),
    "wrong frame rate": ("rate", lambda motion: changed(motion, times=np.array(motion.times) / 2)),
    "missing frames": ("gaps", later(130, 0.4)),
    "a copy": ("duplicates", copied(1.0)),
    "a trimmed copy": ("duplicates", copied(0.7)),
    "pauses": ("idle", paused),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str, recording: Recording) -> None:
    code, plant = FAULTS[fault]
    found = findings(plant(recording()))
    assert code in codes(found), found
    unrelated = codes(found) - {code} - ACCOMPANY.get(code, set())
    assert not unrelated, found


#: What a fault brings along.
ACCOMPANY = {
    "not_finite": {"spikes"},
    "impossible": {"spikes"},
    "dead_command": {"units_differ"},
    "units_differ": {"unit_unlikely"},
    "noisy_joint": {"does_not_follow"},
    "actions_relative": {"action_late", "noisy_joint", "lag_long", "does_not_follow"},
    "joint_order": {"does_not_follow", "units_differ"},
    "lag_long": {"spikes"},
}


def test_a_joint_that_is_held_still_is_in_its_own_units(recording: Recording) -> None:
    motion = changed(recording())
    motion.action[:, 2] = 0.3 + 1e-4 * motion.action[:, 2]
    motion.state[:, 2] = 0.3 + 0.01 * motion.state[:, 1] + 0.01 * motion.state[:, 2]
    assert "units_differ" not in codes(findings(motion))


def test_faults_say_where(recording: Recording) -> None:
    motion = changed(recording())
    row = int(motion.starts[5]) + 9
    motion.state[row, 1] = np.nan
    (found,) = joint_findings(motion, LAYOUT)
    assert found.episodes == (5,)
    assert found.subjects == ("elbow",)
    assert "episode 5, frame 9: elbow is nan" in found.message


def test_limits_need_a_layout(recording: Recording) -> None:
    motion = changed(recording())
    motion.state[200:230, 3] = 70  # mm
    found = {one.code: one for one in joint_findings(motion, LAYOUT)}
    assert found["limits"].subjects == ("gripper",)
    assert "millimetres would fit" in found["limits"].message


def test_lengths() -> None:
    def found(*lengths: int, needed: int = 17) -> dict[str, Finding]:
        all_of = length_findings(np.array(lengths), np.arange(len(lengths)) + 10, needed, FPS)
        return {one.code: one for one in all_of}

    assert set(found(*[80] * 30)) == set()
    assert set(found(80)) == {"one_episode"}
    assert set(found(80, 90)) == {"few_episodes"}
    short = found(*[80] * 29, 8)["too_short"]
    assert (short.severity, short.episodes) == ("warning", (39,))
    assert found(*[8] * 30)["too_short"].severity == "error"
    assert found(*[80] * 29, 800)["odd_length"].episodes == (39,)


def test_outcomes() -> None:
    def found(*outcomes: bool | None, assumed: bool | None = None, unclear: Any = None) -> dict[str, Finding]:
        known = {i: one for i, one in enumerate(outcomes) if one is not None}
        return {one.code: one for one in outcome_findings(range(len(outcomes)), known, unclear or {}, assumed)}

    assert found(*[True, False] * 10) == {}
    assert set(found(True, True)) == {"no_failures"}
    assert set(found(False, False)) == {"no_successes"}
    assert outcome_findings([0, 9], {0: False, 9: False}, {}, part=True)[0].severity == "warning"  # others may succeed
    assert set(found(*[True] * 9, False)) == {"few_outcomes"}
    assert found(None, None)["outcomes_missing"].severity == "warning"
    assert found(None, None, assumed=False)["outcomes_missing"].severity == "error"
    assert found(True, None, assumed=False)["outcomes_missing"].episodes == (1,)
    assert found(None, None, assumed=True)["outcomes_assumed"].severity == "note"
    assert found(True, False, assumed=True)["outcomes_assumed"].episodes == (1,)
    assert set(found(None, True, unclear={0: "it is 'maybe'"})) == {"outcomes_unclear"}


def test_instructions() -> None:
    assert text_findings({0: "Sort.", 1: "Sort."}) == []
    assert codes(text_findings({0: "Sort.", 1: " ", 2: "Fold."})) == {"no_instruction", "several_tasks"}


def test_same_start(recording: Recording) -> None:
    motion = changed(recording())
    motion.state[motion.starts] = 0.2
    assert codes(coverage_findings(motion)) == {"same_start"}


def test_unknown_codes_and_severities_are_refused() -> None:
    with pytest.raises(ConfigError, match="code"):
        Finding("nothing", "")
    with pytest.raises(ConfigError, match="severity"):
        Finding("not_finite", "", "note")
