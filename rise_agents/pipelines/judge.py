"""Judge an improved policy without executing anything: `report.html` and `judgement.json` of a run folder.

The world model is measured on recordings that it has not seen, the policies before and after in imagination and against
recorded successes. All of it is bounded by numbers of states and windows and follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.evaluation.imagined import ImaginedReturns
from rise_agents.evaluation.recorded import ChunkErrors, chunk_errors
from rise_agents.evaluation.verdict import judge_policy, judge_recorded, judge_world_model, signed, summarise_verdict
from rise_agents.pipelines.improve import Ingredients
from rise_agents.pipelines.judge_sources import Sources, find_sources
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.reporting.judgement_page import (
    Imagination,
    Judgement,
    policy_films,
    sample_films,
    write_judgement_page,
)
from rise_agents.reporting.line_chart import Curve
from rise_agents.reporting.media import Film
from rise_agents.training.runner import read_history
from rise_env.files import read_json, write_json
from rise_env.metrics.agreement import mean_over_groups
from rise_env.provenance import provenance
from rise_env.registry import TASKS, TaskRegistration
from rise_env.threads import single_threaded
from rise_env.training.held_out import evaluate_on_starts
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Commands", "judge"]

#: Chunks imagined in a row; states from which both policies are filmed.
_CHUNKS, _FILMED = 3, 3
_SEED = 0


@dataclass(frozen=True)
class Commands:
    """What was typed, and what to type next.

    Attributes:
        again: Makes run and page again.
        policy: Name or path of the policy before.
        task: Name or folder of the task.
    """

    again: str
    policy: str
    task: str


@single_threaded()
def judge(
    run: Path,
    before: Policy,
    after: Policy,
    ingredients: Ingredients,
    commands: Commands,
    *,
    states: int = 64,
    note: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Write `report.html` and `judgement.json` into a run folder; what is there is replaced.

    Args:
        run: Run folder of `improve`.
        before: Policy before.
        after: Policy after.
        ingredients: What it was improved with.
        commands: What was typed, and what to type next.
        states: Recorded states that both policies imagine from.
        note: Told what is done.

    Raises:
        DatasetError: If the recordings do not fit the bundle's task.
    """
    bundle = ingredients.bundle
    model = bundle.world_model(device="auto")
    note("judging: held-out recordings")
    sources = find_sources(ingredients, model, before, states, _SEED)
    recorded = sources.recorded
    on_starts = None
    if sources.held_out is None:
        on_starts = evaluate_on_starts(model, sources.starts, np.arange(len(sources.starts)), _SEED)
    note(f"judging: before and after in imagination, from {len(sources.starts)} states")
    actors = PolicyActor(before), PolicyActor(after)
    imagination, shots = _imagine(ingredients.env_id, model, sources, actors)
    errors: list[ChunkErrors] | None = None
    if recorded.chunks is not None:
        errors = chunk_errors(recorded.chunks, recorded.rows, recorded.episodes, bundle.spec.layout, *actors)
    figures = None if sources.held_out is None else sources.held_out.figures
    policy = judge_policy(
        imagination.change, imagination.before, imagination.after, imagination.states, imagination.seconds
    )
    world = judge_world_model(figures, on_starts)
    config = read_json(run / "config.json", dict[str, Any], {})
    metrics = read_json(run / "metrics.json", dict[str, Any], {})
    ran = config.pop("provenance", {})
    seconds = read_json(run / "seconds.json", float, 0.0)
    found = Judgement(
        task=bundle.spec.name,
        summary=summarise_verdict(policy, world, sources.unseen),
        verdict=[policy, *world, judge_recorded(errors, recorded.source)],
        cannot_say=_cannot_say(ingredients, commands, run),
        warnings=[f"--despite-ranking was used although {problem}." for problem in config.get("despite_ranking", [])],
        held_out_source=sources.held_out_source,
        held_out=figures,
        start_states=on_starts,
        imagination=imagination,
        recorded_source=recorded.source,
        recorded=errors,
        run={**config, "metrics": metrics, "seconds": seconds, "ran": ran},
    )
    spec = bundle.spec
    fps, folder = max(1, round(spec.fps / spec.stride)), run / "films"
    films: list[Film] = list(policy_films(folder, shots, fps))
    if sources.held_out is not None:
        films += sample_films(folder, sources.held_out.samples, list(spec.cameras), fps)
    origin = provenance({"states": states, "chunks": _CHUNKS}, _SEED)
    write_json(run / "judgement.json", {**found.to_dict(), "command": commands.again, "provenance": origin})
    write_judgement_page(
        run / "report.html", found, films, _learning(run), {"judged": origin}, [commands.again]
    )  # fmt: skip
    return found


# ---------------------------------------------------------------------- before and after


def _imagine(
    env_id: str, model: CompositionalWorldModel, sources: Sources, actors: tuple[PolicyActor, PolicyActor]
) -> tuple[Imagination, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Both policies in imagination, and films of the states where most is gained, most is lost, and between."""
    starts, spec = sources.starts, model.spec
    returns = ImaginedReturns(env_id, starts, model, _CHUNKS, {*actors[0].lags, *actors[1].lags}, _SEED)
    before, after = (returns.play(actor) for actor in actors)
    gains = after.returns - before.returns
    order = np.argsort(gains, kind="stable")[::-1]
    places = np.unique(np.linspace(0, len(order) - 1, min(len(order), _FILMED)).round().astype(int))
    rows = order[places].tolist()
    films = [returns.films(actor, rows) for actor in actors]
    texts = [
        f"Episode {starts.episode_index[row]}, from frame {starts.frame_index[row]}: return "
        f"{signed(before.returns[row])} | {signed(after.returns[row])}"
        + {0: " (the largest gain of all states).", len(order) - 1: " (the largest loss, or smallest gain)."}.get(
            place, " (in the middle)."
        )
        for place, row in zip(places.tolist(), rows, strict=True)
    ]
    found = Imagination(
        source=sources.starts_source,
        states=len(starts),
        chunks=_CHUNKS,
        seconds=_CHUNKS * spec.chunk / spec.fps,
        before=float(before.returns.mean()),
        after=float(after.returns.mean()),
        change=mean_over_groups(gains, starts.episode_index),
        better=float((gains > 0).mean()),
        values_before=before.values.mean(axis=0).tolist(),
        values_after=after.values.mean(axis=0).tolist(),
    )
    return found, list(zip(texts, *films, strict=True))


def _learning(run: Path) -> list[Curve]:
    """What the training measured of itself."""
    history = read_history(run)
    lines = {
        label: points
        for tag, label in (("rollout/advantage", "proposals"), ("rollout/base_advantage", "base policy"))
        if len(points := [(row["chunks"], row[tag]) for row in history if row.get(tag) is not None]) > 1
    }
    title = "Imagined advantage of what the policy proposed while it learned"
    return [Curve(title, "imagined chunks", "mean advantage", lines)] if lines else []


# ---------------------------------------------------------------------- in words


def _cannot_say(ingredients: Ingredients, commands: Commands, run: Path) -> list[str]:
    """What is unknown, and the command that finds out; commands begin with "$ "."""
    name = ingredients.bundle.spec.name
    registered: TaskRegistration | None = TASKS.load(name) if name in TASKS else None
    where = "robot"
    if registered is not None and (registered.cell or registered.simulation):
        where = "simulation" if registered.simulation else "work cell"
    texts = [
        "How often the task succeeds. Nothing was executed, neither in a work cell nor on a robot: every number here "
        f"is of pictures. The {where} says:",
    ]
    if where != "robot":
        for policy in (commands.policy, str(run)):
            texts.append(f"$ rise evaluate --task {name} --policy {policy} --episodes 200 --seed 600000")
    else:
        texts += [
            f"$ rise deploy --task {commands.task} --policy {run} --driver NAME --robot FILE --record DIR",
            "The task has no work cell. rise info lists drivers, docs/robot.md says what a real robot needs first; "
            "deploy the policy before as well, in turns.",
        ]
    return [
        *texts,
        "Whether the value is right about what the new policy does. Whoever is trained on a score learns its errors "
        "too: the gain in imagination is an upper bound. Look for films that end high without the task being done.",
        "Whether imagination holds far from the recordings: it is measured on recorded actions, and a new policy acts "
        "differently.",
    ]
