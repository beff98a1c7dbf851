"""The demo's report: films of episodes that changed, value curves, learning curves, what was imagined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch

from rise_agents.algorithms.best_of_n import history_lags, observed_history
from rise_agents.evaluation.results import Episode, EvaluationResult
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.progress import bar
from rise_agents.reporting.compositions import imagined_film, side_by_side, write_gif
from rise_agents.reporting.filming import film_episodes, outcome, write_video
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import write_report
from rise_agents.reporting.success_table import Row, one_sentence
from rise_agents.reporting.value_curves import remaining, value_curve
from rise_agents.training.presets import AgentPreset
from rise_agents.training.runner import read_history
from rise_env.bundle import Bundle
from rise_env.files import read_json
from rise_env.provenance import provenance
from rise_env.spaces import image_key
from rise_env.world_model import CompositionalWorldModel

if TYPE_CHECKING:
    from rise_agents.pipelines.demo import Clock, Demo

__all__ = ["write_demo_report"]

#: Most episodes that are filmed for one film.
_FILM_TRIES = 8
#: Value from which a failed episode ends like a success, and what a chart says of it.
_LIKE_SUCCESS = 0.8
_FOOLED = " (a failure that ends high: the value model does not see what went wrong, so no agent learns it from there)"


def write_demo_report(
    demo: Demo,
    agent: AgentPreset,
    base: tuple[Policy, EvaluationResult],
    improved: tuple[Policy, EvaluationResult],
    bundle: Bundle,
    clock: Clock,
    described: dict[str, Any],
) -> Path:
    """Films and the HTML page."""
    (_, before), (new, after) = base, improved
    model = bundle.world_model()
    films, curves = _episodes(demo, base, improved, model)
    films += _imagined(demo, new, model)
    history = read_history(demo.out / "rise")
    learning = [
        Curve(title, "imagined chunks", name, lines)
        for title, name, tags in (
            ("Imagined advantage of the chunks that the policy proposes", "mean advantage",
             {"rollout/advantage": "proposals", "rollout/base_advantage": "base policy",
              "rollout/advantage_next": "second chunk"}),
            ("Training loss", "loss", {"train/loss": agent.algorithm}),
        )
        if (lines := {label: [(row["chunks"], row[tag]) for row in history if tag in row] for tag, label in tags.items()
                      if any(tag in row for row in history)})
    ]  # fmt: skip
    done = read_json(demo.out / "rise" / "done.json", dict[str, Any])
    rows = [Row("base", before, "the policy before"), Row(agent.algorithm, after, f"{done['chunks']} imagined chunks")]
    return write_report(
        demo.out / "report.html",
        title="RISE: improved in imagination, checked in the cell",
        summary=one_sentence(rows[0], rows[1], max(clock.seconds.get("improving", 0.0) / 60, 1e-3)),
        rows=rows,
        curves=[*learning, *curves],
        films=films,
        provenance=provenance(described, demo.seed),
        commands=[demo.command],
    )


def _episodes(
    demo: Demo,
    base: tuple[Policy, EvaluationResult],
    improved: tuple[Policy, EvaluationResult],
    model: CompositionalWorldModel,
) -> tuple[list[Film], list[Curve]]:
    """Films of up to two episodes that were won and one that was lost, side by side, with value curves.

    Policies were evaluated in batches and are filmed alone, where sums are rounded otherwise: once in a while a contact
    decides otherwise too, and the next episode is filmed.
    """
    pairs = list(zip(base[1].details, improved[1].details, strict=True))
    films, curves, kwargs = [], [], {"preset": demo.preset}
    with bar(3, "filming", "episodes") as progress:
        for wanted, count in (((False, True), 2), ((True, False), 1)):
            seeds = [old.seed for old, new in pairs if (old.success, new.success) == wanted][:_FILM_TRIES]
            found = 0
            for seed in seeds:
                shots: list[tuple[Episode, np.ndarray, int]] = []
                for policy in (base[0], improved[0]):
                    shots += film_episodes(demo.cell_id, PolicyActor(policy), [seed], kwargs)
                (first, left, fps), (second, right, _) = shots
                if (first.success, second.success) != wanted:
                    continue
                labels = f"before: {outcome(first)}", f"after: {outcome(second)}"
                joined = side_by_side(left, right, labels)
                path = write_video(demo.out / "films" / f"episode-{seed}.mp4", joined, fps)
                films.append(Film(f"Episode {seed}, {', '.join(labels)}", path))
                lines = {text: value_curve(demo.cell_id, PolicyActor(policy), model, seed, kwargs)
                         for text, policy in zip(labels[::-1], (improved[0], base[0]), strict=True)}  # fmt: skip
                failed = [text for text, (one, _, _) in zip(labels, shots, strict=True) if not one.success]
                fooled = any(lines[text][-1][1] > _LIKE_SUCCESS for text in failed)
                title = f"Value in episode {seed}{_FOOLED if fooled else ''}"
                curves.append(Curve(title, "seconds", "value", lines))
                if len(films) == 1 and second.success:
                    write_gif(demo.out / "before-after.gif", joined[::2], fps / 2, 720)
                progress.update()
                found += 1
                if found == count:
                    break
    return films, curves


def _imagined(demo: Demo, policy: Policy, model: CompositionalWorldModel) -> list[Film]:
    """A film of chunks of the improved policy: what the cameras saw, and what had been imagined.

    None where every one of the few episodes that are tried ends too early.
    """
    spec = model.spec
    kwargs: dict[str, Any] = {"execute": spec.stride, "observation_lags": sorted({*history_lags(spec), *policy.lags})}
    env: Any = gymnasium.make_vec(demo.cell_id, num_envs=1, preset=demo.preset, autoreset_mode="disabled", **kwargs)
    clips, actor = [], PolicyActor(policy)
    for seed in range(demo.seed, demo.seed + 4):
        observations, _ = env.reset(seed=seed)
        actor.reset([seed], np.ones(1, bool))
        over = np.zeros(1, bool)
        for _ in range(6 + seed % 5):  # a moment on the way
            observations, _, terminated, truncated, _ = env.step(actor.act(observations))
            over = terminated | truncated
            if over.any():
                break
        if over.any():
            continue
        chunk = actor.act(observations)
        session = model.open(observed_history(model, observations))
        imagined = model.imagine(session, torch.from_numpy(chunk), [torch.Generator().manual_seed(seed)])
        real = []
        for step in range(0, spec.chunk, spec.stride):
            observations, _, terminated, truncated, _ = env.step(remaining(chunk, step))
            real.append(np.stack([observations[image_key(camera)][0] for camera in spec.cameras]))
            if (terminated | truncated).any():
                break
        frames = imagined.frames(range(len(real)))[0].numpy()
        values = imagined.values[0, : len(real)].tolist()
        clips.append(imagined_film(np.stack(real), frames, f"episode {seed}: the policy's chunk", values))
    env.close()
    if not clips:
        return []
    path = write_video(demo.out / "films" / "imagined.mp4", np.concatenate(clips), max(1, spec.fps // spec.stride))
    return [Film("The same chunks in the cell (above) and in imagination (below)", path)]
