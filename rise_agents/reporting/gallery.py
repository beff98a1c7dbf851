"""Policies side by side: every one evaluated on the same episodes, a typical one of each filmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.policies.resolve import resolve_actor
from rise_agents.reporting.filming import caption, film_episodes, outcome, picture_grid, write_video

__all__ = ["film_gallery", "scripted_policies"]


def scripted_policies(env_id: str, preset: str = "small") -> list[str]:
    """Names of the scripted policies of a work cell."""
    envs = gymnasium.make_vec(env_id, num_envs=1, num_workers=0, preset=preset)
    try:
        return list(envs.unwrapped.scripted_policies)  # type: ignore[attr-defined]
    finally:
        envs.close()


def film_gallery(
    env_id: str,
    policies: list[str],
    out: str | Path,
    episodes: int,
    seed: int = 0,
    *,
    preset: str = "small",
    on_policy: Callable[[str, EvaluationResult], object] = lambda name, result: None,
) -> dict[str, EvaluationResult]:
    """Write `<policy>.mp4` for every scripted policy of a work cell and `grid.png`, a row of pictures per policy.

    What is typical of an imperfect operator is how it fails; of the others, how they succeed. The results by policy are
    given back; `on_policy` is called with each.
    """
    results, rows, kwargs = {}, [], {"preset": preset}
    for name in policies:
        actor = resolve_actor(name)
        result = results[name] = evaluate(env_id, actor, episodes, seed, env_kwargs=kwargs)
        failed = [episode for episode in result.details if not episode.success]
        shown = failed if name.startswith("operator") and failed else list(result.details)
        episode, frames, fps = next(iter(film_episodes(env_id, actor, [shown[0].seed], kwargs)))
        text = f"{name}   seed {episode.seed}   {outcome(episode)}   {episode.seconds:.1f} s"
        rows.append((text, frames))
        write_video(Path(out) / f"{name}.mp4", np.stack([caption(frame, text) for frame in frames]), fps)
        on_policy(name, result)
    picture_grid(Path(out) / "grid.png", rows)
    return results
