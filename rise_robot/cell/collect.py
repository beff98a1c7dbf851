"""Recording of episodes in the work cell into a LeRobot dataset, one frame per control step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rise_env.acting import Actor
from rise_env.errors import ConfigError
from rise_env.spaces import image_key
from rise_env.tasks import TaskSpec
from rise_robot.cell.acting import ActorInCell, ScriptedActor, cell_observation
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import CellConfig
from rise_robot.cell.render import CellRenderer
from rise_robot.recording import EpisodeRecorder, read_episode_records

__all__ = ["collect", "episode_rng"]


def episode_rng(seed: int) -> np.random.Generator:
    """Generator of the episode that `CellEnv.reset(seed=seed)` starts."""
    from gymnasium.utils import seeding

    return seeding.np_random(seed)[0]


def collect(
    spec: TaskSpec,
    config: CellConfig,
    name: str,
    episodes: int,
    seed: int,
    root: str | Path,
    *,
    actor: Actor | None = None,
    tail_seconds: float | None = None,
    on_episode: Callable[[int, str | None], None] | None = None,
) -> None:
    """Record episodes `seed ... seed + episodes - 1`; a dataset that has some of them already is continued.

    Episodes go on for `tail_seconds` after their outcome is clear, so that an action chunk starting at any earlier
    frame has its whole future on record; from then on `progress` stays 1 (success) or 0.

    Args:
        spec: The task.
        config: The cell.
        name: Name of the policy in the records; without `actor`, the scripted policy of the task that acts.
        episodes: Number of episodes the dataset shall hold of this policy and seed.
        seed: Seed of the first episode.
        root: Directory of the dataset.
        actor: Who acts, for one environment; it is asked for a chunk once `execute` steps of the last one are done.
        tail_seconds: See above; one chunk when omitted.
        on_episode: Called with the number of episodes on disk and the outcome of the one just recorded: "success",
            "timeout" or a failure mode of the task; None for those that were there before.

    Raises:
        ConfigError: If the policy is unknown, or the dataset at `root` holds other episodes than these.
        RecordingError: If the dataset at `root` cannot be continued.
    """
    cell = WorkCell(spec, config)
    renderer = CellRenderer(cell.model, cell.data, config.supersample)
    acting = ActorInCell(cell, actor or ScriptedActor(cell.task.scripted(name, seed)), seed)
    tail = round((spec.chunk / spec.fps if tail_seconds is None else tail_seconds) * spec.fps)
    with EpisodeRecorder(root, spec) as recorder:
        found = recorder.num_episodes
        recorder.commit()
        _check_continues(root, name, seed, found)
        if on_episode is not None and found:
            on_episode(found, None)
        for index in range(found, episodes):
            cell.reset(episode_rng(seed + index))
            acting.reset()
            kind = acting.kind
            operator = name if kind is None or name.endswith(kind) else f"{name}/{kind}"
            outcome = _record_episode(cell, renderer, acting, recorder, seed + index, operator, tail)
            if on_episode is not None:
                on_episode(recorder.num_episodes, outcome)


def _check_continues(root: str | Path, policy: str, seed: int, found: int) -> None:
    if not found:
        return
    for index, record in enumerate(read_episode_records(root)):
        if record.operator == "unknown" and record.seed == -1:
            raise ConfigError(
                f"{root} was edited: seed and policy of its episode {index} are lost, so that a recording cannot go on "
                "where it stands. Record into another --out, and give both to the command that trains: --data A B."
            )
        if record.seed != seed + index or record.operator.split("/")[0] != policy:
            raise ConfigError(
                f"{root} holds {found} episodes; number {index} is of policy {record.operator!r} with seed "
                f"{record.seed}, not {policy!r} with seed {seed + index}. Choose another --out, or the policy and seed "
                "it was begun with."
            )


def _record_episode(
    cell: WorkCell,
    renderer: CellRenderer,
    acting: ActorInCell,
    recorder: EpisodeRecorder,
    seed: int,
    operator: str,
    tail: int,
) -> str:
    """Record one episode from its beginning to `tail` control steps after its outcome is clear."""
    spec, outcome, remaining = cell.spec, None, tail
    while True:
        seen = cell_observation(cell, renderer)
        status = cell.status
        if outcome is None and (status.finished or cell.steps >= spec.max_steps):
            timeout = not status.success and status.failure_mode == "none"
            outcome = status.success, "timeout" if timeout else status.failure_mode
        target = acting.target(lambda: seen)  # noqa: B023  (called at once)
        recorder.add_frame(
            images={camera: seen[image_key(camera)] for camera in spec.cameras},
            state=seen["state"],
            action=target.astype(np.float32),
            is_intervention=acting.intervening,
            progress=status.progress,
            subgoal=status.score,
        )
        if outcome is not None:
            if remaining == 0:
                break
            remaining -= 1
        cell.step(target)
    success, mode = outcome
    recorder.end_episode(success=success, failure_mode=mode, seed=seed, operator=operator)
    return "success" if success else mode
