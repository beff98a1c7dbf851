"""Recording of a policy's episodes in a simulation of somebody else's, one frame per control step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rise_env.acting import Actor, ObservationHistory
from rise_env.envs.simulation import Outcome, Simulation, checked_view
from rise_env.spaces import image_key, observation_space
from rise_env.tasks import TaskSpec
from rise_robot.recording.recorder import EpisodeRecorder
from rise_robot.recording.records import check_continues

__all__ = ["record_simulation"]


def record_simulation(
    spec: TaskSpec,
    simulation: Simulation,
    actor: Actor,
    name: str,
    episodes: int,
    seed: int,
    root: str | Path,
    *,
    tail_seconds: float | None = None,
    on_episode: Callable[[int, str | None], None] | None = None,
) -> None:
    """Record episodes `seed ... seed + episodes - 1`; a dataset that has some of them already is continued.

    As in the work cell (`rise_robot.cell.collect.collect`), episodes go on after their outcome is clear, and `progress`
    is 1 from a success on. Where the simulation measures no progress, it is 0 before.

    Args:
        spec: The task.
        simulation: Where the policy acts.
        actor: Who acts; it is asked for a chunk once `execute` steps of the last one are done.
        name: Name of the policy in the records.
        episodes: Number of episodes the dataset shall hold of this policy and seed.
        seed: Seed of the first episode.
        root: Directory of the dataset.
        tail_seconds: How long episodes go on; one chunk when omitted.
        on_episode: Called with the number of episodes on disk and the outcome of the one just recorded: "success",
            "failed" or "timeout"; None for those that were there before.

    Raises:
        ConfigError: If the simulation shows other cameras, sizes or joints than the task has, or the dataset at `root`
            holds other episodes than these.
        RecordingError: If the dataset at `root` cannot be continued.
    """
    tail = round((spec.chunk / spec.fps if tail_seconds is None else tail_seconds) * spec.fps)
    with EpisodeRecorder(root, spec, background=False) as recorder:
        found = recorder.num_episodes
        recorder.commit()
        check_continues(root, name, seed, found)
        if on_episode is not None and found:
            on_episode(found, None)
        for number in range(seed + found, seed + episodes):
            ending = _record_episode(spec, simulation, actor, recorder, number, tail)
            success, mode = ending == "success", "none" if ending == "success" else ending
            recorder.end_episode(success=success, failure_mode=mode, seed=number, operator=name)
            if on_episode is not None:
                on_episode(recorder.num_episodes, ending)


def _record_episode(
    spec: TaskSpec, simulation: Simulation, actor: Actor, recorder: EpisodeRecorder, seed: int, tail: int
) -> str:
    shown, history = observation_space(spec), ObservationHistory(actor.lags)
    queue: list[np.ndarray] = []
    simulation.start(seed)
    actor.reset([seed], np.ones(1, bool))
    outcome, steps, ending = Outcome(), 0, ""
    while True:
        seen = checked_view(simulation, spec.name, shown)
        history.push({key: value[None] for key, value in seen.items()})
        if not queue:
            queue = list(actor.act(history.observe())[0, : spec.execute].astype(np.float64))
        target = np.clip(queue.pop(0), spec.layout.low, spec.layout.high)
        measured = 0.0 if outcome.progress is None else outcome.progress
        recorder.add_frame(
            images={camera: seen[image_key(camera)] for camera in spec.cameras},
            state=seen["state"],
            action=target.astype(np.float32),
            progress=1.0 if ending == "success" else measured,
            subgoal=outcome.score,
        )
        if ending and not tail:
            return ending
        tail -= bool(ending)
        outcome, steps = simulation.advance(target), steps + 1
        if not ending and (outcome.success or outcome.over or steps >= spec.max_steps):
            ending = "success" if outcome.success else "failed" if outcome.over else "timeout"
