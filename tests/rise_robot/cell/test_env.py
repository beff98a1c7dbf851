"""The cell as a Gymnasium environment."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from rise_env.errors import ActionError, ConfigError
from rise_robot.cell.env import CellEnv, cell_overrides


def hold(env: CellEnv) -> np.ndarray:
    return np.repeat(env.cell.command[None], env.task.chunk, axis=0).astype(np.float32)


def fingerprint(observation: dict, info: dict) -> str:
    digest = hashlib.sha256()
    for key in sorted(observation):
        digest.update(observation[key].tobytes())
    digest.update(repr(sorted(info.items())).encode())
    return digest.hexdigest()


def episode_fingerprint(env: CellEnv, seed: int = 5, chunks: int = 3) -> list[str]:
    prints = [fingerprint(*env.reset(seed=seed))]
    for index in range(chunks):
        action = env.scripted_chunk("operator", 1) if index else hold(env)
        observation, reward, terminated, truncated, info = env.step(action)
        prints.append(fingerprint(observation, {**info, "r": reward, "te": terminated, "tr": truncated}))
    return prints


def test_arguments_of_a_reset(env: CellEnv) -> None:
    of_numpy, _ = env.reset(seed=np.int64(3))  # type: ignore[arg-type]
    plain, _ = env.reset(seed=3)
    np.testing.assert_array_equal(of_numpy["state"], plain["state"])
    for wrong in ([1], "x"):
        with pytest.raises(ConfigError, match="expected a dict or None"):
            env.reset(options=wrong)
    with pytest.raises(ConfigError, match="got 2 seeds for 1 environments"):
        env.reset(seed=[3, 4])  # type: ignore[arg-type]


def test_same_seed_same_bytes_across_instances_and_processes(env: CellEnv) -> None:
    first = episode_fingerprint(env)
    assert episode_fingerprint(env) == first
    other = CellEnv(preset="tiny")
    other.reset(seed=77)
    assert episode_fingerprint(other) == first
    assert episode_fingerprint(other, seed=6) != first
    other.close()
    code = (
        f"import sys; sys.path.insert(0, {str(__file__).rsplit('/', 1)[0]!r})\n"
        "import test_env as t; print(*t.episode_fingerprint(t.CellEnv(preset='tiny')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == first, done.stderr


def test_a_wrong_action_is_an_error_and_moves_nothing(env: CellEnv) -> None:
    env.reset(seed=0)
    before, good = env.save_state(), hold(env)
    nan, late_inf = good.copy(), good.copy()
    nan[0, 3], late_inf[-1, 0] = np.nan, np.inf
    cases = [
        (good[:-1], r"shape \(7, 14\), expected \(8, 14\).*left_joint1"),
        (good[0], r"shape \(14,\)"),
        (good[None], r"shape \(1, 8, 14\)"),
        (nan, "not finite.*nothing was executed"),
        (late_inf, "not finite"),
        (good.astype(str), "expected real numbers"),
        (None, "expected real numbers"),
    ]
    for action, message in cases:
        with pytest.raises(ActionError, match=message):
            env.step(action)
    for key, value in before.arrays.items():
        np.testing.assert_array_equal(env.save_state().arrays[key], value)


def test_only_the_first_actions_of_a_chunk_are_run(env: CellEnv) -> None:
    env.reset(seed=0)
    state, action = env.save_state(), hold(env)
    _, _, _, _, info = env.step(action)
    assert info["control_steps"] == env.task.execute == 4
    after = env.save_state()
    env.restore_state(state)
    action[4:] = env.action_space.high[4:]
    env.step(action)
    for key, value in after.arrays.items():
        np.testing.assert_array_equal(env.save_state().arrays[key], value)


def test_out_of_limit_targets_are_counted(env: CellEnv) -> None:
    env.reset(seed=0)
    action = hold(env)
    action[:, 0] = 99
    action[0, 8] = -99
    assert env.step(action)[-1]["clamped"] == 4 + 1
    assert env.step(hold(env))[-1]["clamped"] == 0


def test_success_ends_with_reward_one(env: CellEnv, play) -> None:
    info = play(env, "expert", seed=1)
    assert (info["is_success"], info["truncated"], info["failure_mode"]) == (True, False, "none")
    assert (info["score"], info["progress"]) == (10, 1)
    assert info["task"] == env.task.prompt
    assert info["control_steps"] <= env.task.execute  # nothing is run past the end


def test_reward_is_one_only_at_success(env: CellEnv) -> None:
    env.reset(seed=2)
    rewards = []
    while True:
        _, reward, terminated, truncated, info = env.step(env.scripted_chunk("expert"))
        rewards.append(reward)
        if terminated or truncated:
            break
    assert rewards[-1] == 1.0
    assert set(rewards[:-1]) == {0.0}
    assert isinstance(rewards[0], float)
    assert type(terminated) is bool
    assert info["seconds"] == pytest.approx(env.cell.steps / env.task.fps)


def test_time_limit_truncates_with_failure_mode_timeout() -> None:
    env = CellEnv(preset="tiny", overrides=["task.max_seconds=0.9"])
    env.reset(seed=0)
    outcomes = [env.step(hold(env)) for _ in range(3)]
    assert [(o[2], o[3], o[4]["failure_mode"], o[4]["control_steps"]) for o in outcomes] == [
        (False, False, "none", 4),
        (False, False, "none", 4),
        (False, True, "timeout", 1),
    ]
    env.close()


def test_a_lost_brick_terminates_with_its_failure_mode(env: CellEnv, put_brick) -> None:
    env.reset(seed=0)
    put_brick(env.cell, [0.50, 0.25, 0.017])
    for _ in range(4):
        _, reward, terminated, truncated, info = env.step(hold(env))
        if terminated:
            break
    assert (reward, terminated, truncated, info["failure_mode"], info["is_success"]) == (
        0.0,
        True,
        False,
        "drop",
        False,
    )


def test_restore_continues_bit_for_bit_and_shows_the_same_picture(env: CellEnv) -> None:
    env.reset(seed=3)
    for _ in range(2):
        seen, *_ = env.step(env.scripted_chunk("expert"))
    state = env.save_state()
    action = env.scripted_chunk("expert")
    first = env.step(action)
    env.reset(seed=4)
    env.step(hold(env))
    observation, info = env.restore_state(state)
    for key, value in seen.items():
        np.testing.assert_array_equal(observation[key], value)
    assert info["seconds"] == pytest.approx(0.8)
    second = env.step(action)
    assert fingerprint(second[0], second[4]) == fingerprint(first[0], first[4])


def test_scripted_chunks_start_anew_with_every_episode(env: CellEnv) -> None:
    env.reset(seed=0)
    first = env.scripted_chunk("operator-noisy", 3)
    assert (first.shape, first.dtype) == ((8, 14), np.float32)
    env.step(first)
    env.reset(seed=0)
    np.testing.assert_array_equal(env.scripted_chunk("operator-noisy", 3), first)
    env.reset(seed=0)
    assert not np.array_equal(env.scripted_chunk("operator-noisy", 4), first)
    with pytest.raises(ConfigError, match="no scripted policy 'nobody'"):
        env.scripted_chunk("nobody")


def test_spaces_and_metadata_are_the_instances_own() -> None:
    env = CellEnv(preset="small", image_size=(40, 56), execute=1)
    assert env.observation_space["image_head"].shape == (40, 56, 3)
    assert env.metadata["render_fps"] == 10
    assert CellEnv.metadata["render_fps"] == 1
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env.close()


def test_render_and_human_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    env = CellEnv(preset="tiny", render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
    assert frame.std() > 10
    np.testing.assert_array_equal(env.render(), frame)
    env.close()
    env.close()
    silent = CellEnv(preset="tiny")
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert silent.render() is None
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    human = CellEnv(preset="tiny", render_mode="human")
    with pytest.warns(UserWarning, match="found no display"):
        human.reset(seed=0)
    human.step(hold(human))
    human.close()


def test_overrides_of_keyword_arguments() -> None:
    assert cell_overrides(None, None, None, None) == []
    assert cell_overrides("easy", 2, (36, 48), True) == [
        "cell.difficulty=easy", "task.execute=2", "task.image_size=[36, 48]", "cell.variation.enabled=true",
    ]  # fmt: skip
