"""Recording of episodes in the work cell into a LeRobot dataset, one frame per control step.

A policy that takes several observations at a time acts in as many cells at once, and always in that many rows, filled
up where fewer episodes are left: so a recording depends on its seed and on the policy alone, not on where it was begun,
continued or interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rise_env.acting import Actor, rows_at_a_time
from rise_env.spaces import image_key
from rise_env.tasks import TaskSpec
from rise_robot.cell.acting import ActorInCell, ScriptedActor, cell_observation
from rise_robot.cell.cell import WorkCell
from rise_robot.cell.config import CellConfig
from rise_robot.cell.render import CellRenderer
from rise_robot.recording import EpisodeRecorder, OpenEpisode, check_continues

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

    Episodes are saved in the order of their seeds. Of a policy that acts in several cells at once, those that are under
    way, or wait for one with a lower seed, are recorded again after an interruption; they come out the same.

    Args:
        spec: The task.
        config: The cell.
        name: Name of the policy in the records; without `actor`, the scripted policy of the task that acts.
        episodes: Number of episodes the dataset shall hold of this policy and seed.
        seed: Seed of the first episode.
        root: Directory of the dataset.
        actor: Who acts; it is asked for a chunk once `execute` steps of the last one are done, about
            `rows_at_a_time` observations in one call.
        tail_seconds: See above; one chunk when omitted.
        on_episode: Called with the number of episodes on disk and the outcome of the one just recorded: "success",
            "timeout" or a failure mode of the task; None for those that were there before.

    Raises:
        ConfigError: If the policy is unknown, or the dataset at `root` holds other episodes than these.
        RecordingError: If the dataset at `root` cannot be continued.
    """
    seats = [_seat(spec, config, name, actor, 0, seed)]
    tail = round((spec.chunk / spec.fps if tail_seconds is None else tail_seconds) * spec.fps)
    with EpisodeRecorder(root, spec, background=False) as recorder:
        found = recorder.num_episodes
        recorder.commit()
        check_continues(root, name, seed, found)
        if on_episode is not None and found:
            on_episode(found, None)
        waiting: dict[int, _Recorded] = {}
        indices = range(found, episodes)
        with closing(_play(seats, name, actor, indices, seed, tail, recorder.begin_episode)) as playing:
            for recorded in playing:
                waiting[recorded.index] = recorded
                while (one := waiting.pop(recorder.num_episodes, None)) is not None:
                    recorder.keep(one.episode)
                    if on_episode is not None:
                        on_episode(recorder.num_episodes, one.outcome)


@dataclass(frozen=True)
class _Recorded:
    """A finished episode: which it is, and what came of it."""

    index: int
    episode: OpenEpisode
    outcome: str


class _Row:
    """One environment of an actor that acts in several; what it does there is asked of all at once."""

    def __init__(self, actor: Actor, row: int) -> None:
        self.lags, self._actor, self._row = actor.lags, actor, row

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """An episode starts."""
        del mask
        rows = rows_at_a_time(self._actor)
        self._actor.reset([*seeds] * rows, np.arange(rows) == self._row)

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Never asked: see `_play`."""
        raise NotImplementedError


type _Seat = tuple[WorkCell, CellRenderer, ActorInCell]


def _seat(spec: TaskSpec, config: CellConfig, name: str, actor: Actor | None, row: int, seed: int) -> _Seat:
    """A cell of its own for a row of the actor, or for the scripted policy of a name."""
    cell = WorkCell(spec, config)
    renderer = CellRenderer(cell.model, cell.data, config.supersample)
    acts = ScriptedActor(cell.task.scripted(name, seed)) if actor is None else _Row(actor, row)
    return cell, renderer, ActorInCell(cell, acts, seed)


def _play(
    seats: list[_Seat],
    name: str,
    actor: Actor | None,
    indices: Iterable[int],
    seed: int,
    tail: int,
    begin: Callable[[], OpenEpisode],
) -> Generator[_Recorded]:
    """Record episodes, as many at a time as the actor takes observations; gives each as it ends."""
    rows = 1 if actor is None else rows_at_a_time(actor)
    left = list(indices)[::-1]
    running: dict[int, Generator[dict[str, np.ndarray], np.ndarray, _Recorded]] = {}
    asked: dict[int, dict[str, np.ndarray]] = {}
    chunks = np.empty((rows, 0, 0), np.float32)

    def start(row: int) -> Generator[dict[str, np.ndarray], np.ndarray, _Recorded]:
        if row == len(seats):
            cell = seats[0][0]
            seats.append(_seat(cell.spec, cell.config, name, actor, row, seed))
        return _record_episode(*seats[row], begin, name, left.pop(), seed, tail)

    try:
        while left or running:
            for row in range(rows):
                while row in running or left:  # one episode after the other, until a chunk is asked for
                    try:
                        if row in running:
                            asked[row] = running[row].send(chunks[row])
                        else:
                            running[row] = start(row)
                            asked[row] = next(running[row])
                        break
                    except StopIteration as end:
                        del running[row]
                        asked.pop(row, None)
                        yield end.value
            if actor is not None and asked:
                filling = next(iter(asked.values()))
                batch = [asked.get(row, filling) for row in range(rows)]
                chunks = actor.act({key: np.concatenate([one[key] for one in batch]) for key in filling})
    finally:
        for one in running.values():
            one.close()


def _record_episode(
    cell: WorkCell,
    renderer: CellRenderer,
    acting: ActorInCell,
    begin: Callable[[], OpenEpisode],
    name: str,
    index: int,
    seed: int,
    tail: int,
) -> Generator[dict[str, np.ndarray], np.ndarray, _Recorded]:
    """Record one episode from its beginning to `tail` control steps after its outcome is clear.

    Yields what the actor is to choose a chunk from, arrays (1, ...), and is sent the chunk (chunk, D).
    """
    cell.reset(episode_rng(seed + index))
    acting.reset()
    operator = name if acting.kind is None or name.endswith(acting.kind) else f"{name}/{acting.kind}"
    spec, outcome, remaining, episode = cell.spec, None, tail, begin()
    try:
        while True:
            seen = cell_observation(cell, renderer)
            status = cell.status
            if outcome is None and (status.finished or cell.steps >= spec.max_steps):
                timeout = not status.success and status.failure_mode == "none"
                outcome = status.success, "timeout" if timeout else status.failure_mode
            if (asked := acting.asks(lambda: seen)) is not None:  # noqa: B023  (called at once)
                acting.take((yield asked))
            target = acting.next()
            episode.add_frame(
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
        episode.finish(success=success, failure_mode=mode, seed=seed + index, operator=operator)
    except BaseException:
        episode.discard()
        raise
    return _Recorded(index, episode, "success" if success else mode)
