"""One run of a comparison, in a folder of its own: train, evaluate in the cell, evaluate in imagination.

Every step leaves its result in the folder and is skipped where it is there: a killed run goes on, to the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rise_agents.algorithms.base import Algorithm
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.imagined import ImaginedReturns, held_out_starts
from rise_agents.pipelines.compare_config import CompareConfig, Variant
from rise_agents.pipelines.improve import Ingredients, improve
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import resolve_actor
from rise_env.acting import needed_by
from rise_env.bundle import Bundle, load_bundle
from rise_env.data import open_dataset
from rise_env.files import read_json, write_json
from rise_env.provenance import provenance
from rise_env.registry import TASKS
from rise_env.threads import single_threaded

__all__ = ["CURVE", "EVALUATION", "IMAGINED", "LABELS", "RESULT", "Run", "perform"]

#: Tag of the labels of the offline data.
LABELS = "compare"
#: Files of a run: episodes in the cell; returns in imagination; looks at the policy while it was trained; and what the
#: run cost, written last.
EVALUATION, IMAGINED, CURVE, RESULT = "evaluation.json", "imagined.json", "curve.json", "run.json"
#: Part of a run that training takes, for the progress display.
_TRAINING = 0.85

type Report = Callable[[float, str], None]


@dataclass(frozen=True)
class Run:
    """What one process does.

    Attributes:
        task: Task.
        name: Name of the variant.
        variant: The variant.
        seed: Training seed.
        config: Settings of the comparison.
        folder: Run folder.
        policy: Path of the base policy.
        bundle: Directory of the bundle.
        data: Recorded and labelled datasets.
    """

    task: str
    name: str
    variant: Variant
    seed: int
    config: CompareConfig
    folder: Path
    policy: str
    bundle: Path
    data: tuple[Path, ...]

    @property
    def label(self) -> str:
        """For people: variant and seed, and the task where there are several."""
        parts = [self.task] if len(self.config.tasks) > 1 else []
        parts += [self.name, str(self.seed)] if self.variant.agent else [self.name]
        return " ".join(parts)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / RESULT).exists()

    def env_id(self, part: str = "") -> str:
        """Id of an environment of the task."""
        return str(TASKS.load(self.task).env_id(part))

    @property
    def cell(self) -> dict[str, Any]:
        """Keyword arguments of the cell: one process, as runs go side by side."""
        return {"preset": self.config.preset, "num_workers": 0}

    def actor(self) -> Any:
        """What acts in the end."""
        where = str(self.folder) if self.variant.agent else self.policy
        return resolve_actor(where, task=self.task, bundle=self.bundle, **self.variant.acting)


def perform(run: Run, report: Report = lambda part, text: None) -> None:
    """Do a run, or what is left of it.

    Args:
        run: The run.
        report: Told which part of it is done, and in words where it stands.
    """
    if run.done:
        return
    bundle = load_bundle(run.bundle)
    trains, cost = run.variant.agent is not None, {"imagined_chunks": 0, "recorded_chunks": 0, "real_steps": 0,
                                                   "rounds": 0, "train_seconds": 0.0}  # fmt: skip
    with single_threaded():
        if trains:
            cost |= _train(run, bundle, report)
        before = _TRAINING if trains else 0.0
        if not (run.folder / EVALUATION).exists():
            _evaluate(run, lambda part: report(before + (0.95 - before) * part, "evaluating in the cell"))
        if not (run.folder / IMAGINED).exists():
            report(0.95, "evaluating in imagination")
            actor = run.actor()
            returns = _imagination(run, bundle, actor)(actor)
            write_json(run.folder / IMAGINED, {"mean": float(returns.mean()), "returns": returns})
    write_json(run.folder / RESULT, cost)


def _train(run: Run, bundle: Bundle, report: Report) -> dict[str, Any]:
    """Train; what it cost."""
    assert run.variant.agent is not None
    base, agent = load_policy(run.policy), run.config.agent(run.variant, run.seed, run.task)
    curve = _Curve(run, bundle)

    def on_round(algorithm: Algorithm[Any]) -> None:
        curve(algorithm)
        phase = algorithm.phase()
        report(_TRAINING * algorithm.progress, f"{phase.name}, {phase.done:,} of {phase.total:,} {phase.unit}")

    # Success is counted in the cell: controls with a value that ranks nothing are part of what is compared.
    ingredients = Ingredients(bundle, run.env_id(), run.data, LABELS, run.variant.oracle, despite_ranking=True)
    trained = improve(agent, base, ingredients, run.folder, progress_bar=False, on_round=on_round)
    seconds = read_json(run.folder / "seconds.json", float)
    imagined = trained.imagines and not run.variant.oracle
    return {
        "imagined_chunks": trained.num_timesteps if imagined else 0,
        "recorded_chunks": 0 if trained.imagines else trained.num_timesteps,
        "real_steps": trained.num_real_steps + (trained.num_timesteps * bundle.spec.chunk if run.variant.oracle else 0),
        "rounds": trained.rounds,
        "train_seconds": seconds - curve.seconds,
    }


def _evaluate(run: Run, report: Callable[[float], None]) -> None:
    config, count = run.config, 0

    def on_episode(_: Any) -> None:
        nonlocal count
        count += 1
        report(count / config.episodes)

    result = evaluate(
        run.env_id("-Cell"), run.actor(), config.episodes, config.first_episode, env_kwargs=run.cell,
        on_episode=on_episode,
    )  # fmt: skip
    described = {"task": run.task, "variant": run.name, "settings": run.variant, "seed": run.seed}
    source = provenance({**described, "episodes": config.episodes}, run.seed)
    write_json(run.folder / EVALUATION, {**result.to_dict(), **described, "provenance": source})


def _imagination(run: Run, bundle: Bundle, actor: Any) -> ImaginedReturns:
    lags = needed_by(actor).get("observation_lags", [])
    starts = held_out_starts(open_dataset(list(run.data), bundle.spec), bundle.spec, run.config.imagined_states)
    return ImaginedReturns(run.env_id(), starts, bundle.world_model(), run.config.imagined_chunks, lags)


class _Curve:
    """Looks at the policy now and then while it is trained, by how much of the budget is used and not by time.

    Attributes:
        seconds: Time that it took so far.
    """

    def __init__(self, run: Run, bundle: Bundle) -> None:
        self._run, self._file = run, run.folder / CURVE
        self._rows = read_json(self._file, list[dict[str, Any]], [])
        self._bundle = bundle
        self._returns: ImaginedReturns | None = None

    @property
    def seconds(self) -> float:
        return float(sum(row["seconds"] for row in self._rows))

    def __call__(self, algorithm: Algorithm[Any]) -> None:
        run, done = self._run, algorithm.spent
        self._rows = [row for row in self._rows if row["chunks"] < done]  # a run that goes on does some rounds again
        points = run.config.curve_points
        if int(points * algorithm.progress) <= len(self._rows):
            return
        started = time.monotonic()
        acting = {name: value for name, value in run.variant.acting.items() if name != "best_of"}
        actor = PolicyActor(algorithm.policy, **acting)
        self._returns = self._returns or _imagination(run, self._bundle, actor)
        found = {"imagined_return": float(self._returns(actor).mean())}
        if run.config.curve_episodes:
            result = evaluate(
                run.env_id("-Cell"), actor, run.config.curve_episodes, run.config.curve_seed, env_kwargs=run.cell
            )
            found["success"] = result.success_rate
        for name, value in found.items():
            algorithm.logger.record(f"eval/{name}", value)
        algorithm.logger.dump(done)
        self._rows.append({"chunks": done, **found, "seconds": time.monotonic() - started})
        write_json(self._file, self._rows)
