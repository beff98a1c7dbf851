"""Agents compared: one base policy, the same recordings, budgets and episodes, one table.

Data are recorded and labelled once. Every variant and training seed is a run folder of its own; runs go side by side,
are left alone once they are done, and go on after a kill. The table is made of what is in the folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.evaluation.comparison import CompareRow, RunResult, compare_rows
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.pipelines.compare_config import BASE, CompareConfig
from rise_agents.pipelines.compare_run import CURVE, EVALUATION, IMAGINED, LABELS, RESULT, Run, perform
from rise_agents.pipelines.demo import Clock
from rise_agents.pipelines.processes import cores, side_by_side
from rise_agents.pipelines.recording import label, record
from rise_agents.policies.resolve import find_policy
from rise_agents.progress import bar, say
from rise_agents.reporting import comparison as reporting
from rise_agents.reporting.filming import film_episodes, outcome, write_video
from rise_agents.reporting.line_chart import STYLES, Curve
from rise_agents.reporting.media import Film
from rise_agents.reporting.report import write_page
from rise_agents.training.runner import read_history
from rise_env.bundle import find_bundle, load_bundle
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.files import exclusive, read_json, to_plain, write_json, write_text
from rise_env.provenance import provenance
from rise_env.threads import single_threaded

__all__ = ["Comparison"]

#: Most points of a line of a chart.
_POINTS = 40
_BUDGET = "chunks (control steps of agents in the cell)"

type Line = list[tuple[float, float]]


@dataclass
class Comparison:
    """A comparison in a folder.

    Args:
        config: What is compared.
        out: Folder.
        policy: Policy that all start from: "base" (the bundle's), a run folder, a checkpoint or a Hub id.
        bundle: Bundle in place of the shipped one.
        jobs: Runs at once; one per core when None.
        name: Name of the settings, for title and documentation.
        command: What was typed, for "run it again".
    """

    config: CompareConfig
    out: Path
    policy: str = BASE
    bundle: Path | None = None
    jobs: int | None = None
    name: str = "comparison"
    command: str = "rise compare"

    def run(self) -> list[CompareRow]:
        """Do what is left, and write `comparison.json`, `table.md` and `report.html`.

        Raises:
            ConfigError: If the folder holds another comparison or is in use, or something does not fit.
            TrainingError: If runs failed; the others are done, and in the report.
        """
        clock = Clock(self.out / "seconds.json")
        if self.bundle is not None and len(self.config.tasks) > 1:
            raise ConfigError("one bundle cannot serve several tasks: leave out --bundle, or compare on one task")
        with exclusive(self.out):
            self._check_same()
            runs = [run for task in self.config.tasks for run in self._prepared(task, clock)]
            left = {run.label: run for run in runs if not run.done}
            jobs = min(self.jobs or cores(), max(len(left), 1))
            say(f"{len(runs)} runs, {len(left)} of them to do, {jobs} at a time")
            with clock.timed("runs"):
                failed = side_by_side(perform, left, jobs)
            rows = self._write(runs, failed, clock)
        if failed:
            lines = "".join(f"\n  {name}: {why}" for name, why in failed.items())
            raise TrainingError(f"{len(failed)} of {len(runs)} runs failed:{lines}\nThe same command tries them again.")
        return rows

    # ------------------------------------------------------------------ before the runs

    def _check_same(self) -> None:
        """Refuse to go on with another comparison; more variants and seeds are fine."""
        file = self.out / "config.json"
        mine = to_plain({"policy": self.policy, "bundle": self.bundle and self.bundle.name, **vars(self.config)})
        known = {**mine, **read_json(file, dict[str, Any], mine)}
        if not isinstance(known["variants"], dict):
            raise CheckpointError(f"{file} is damaged: variants is {known['variants']!r:.80}")
        changed = [name for name in mine if name not in ("variants", "seeds", "not_run") and mine[name] != known[name]]
        changed += [f"variant {name}" for name, one in mine["variants"].items()
                    if known["variants"].get(name, one) != one]  # fmt: skip
        if changed:
            raise ConfigError(f"{self.out} holds a comparison with other settings ({', '.join(changed)}). Remove it, "
                              "or give another folder (--out).")  # fmt: skip
        write_json(file, {**mine, "variants": {**known["variants"], **mine["variants"]}})

    def _prepared(self, task: str, clock: Clock) -> list[Run]:
        """Record and label the data of a task; its runs."""
        config = self.config
        bundle = load_bundle(self.bundle or find_bundle(task))
        policy = find_policy(self.policy, bundle=bundle)
        if policy is None:
            raise ConfigError(f"policy {self.policy!r}: give 'base', a run folder, a checkpoint or a Hub id")
        root, recorded = self.out / "data" / task, self.out / "data" / f"{task}.json"
        if not recorded.exists():
            with clock.timed("recording"):
                found = record(root, config.recorded(task), task, config.preset, policy)
            with clock.timed("labelling"), single_threaded():
                label(found, LABELS, bundle.world_model().value, bundle.spec)
            write_json(recorded, [folder.name for folder in found])
        data = [root / name for name in read_json(recorded, list[str])]
        runs = []
        for name, variant in config.variants.items():
            for seed in (variant.seeds or config.seeds) if variant.agent else config.seeds[:1]:
                folder = self.out / "runs" / task / (f"{name}-{seed}" if variant.agent else name)
                runs.append(Run(task, name, variant, seed, config, folder, policy, bundle.path, tuple(data)))
        return runs

    # ------------------------------------------------------------------ after the runs

    def _write(self, runs: Sequence[Run], failed: Mapping[str, str], clock: Clock) -> list[CompareRow]:
        done = [run for run in runs if run.done]
        rows = [row for task in self.config.tasks for row in self._rows(task, done)]
        with clock.timed("filming"), single_threaded():
            films = _films(done, self.out / "films")
        content = {
            "name": self.name,
            "command": self.command,
            "config": to_plain(self.config),
            "rows": [row.to_dict() for row in rows],
            "runs": {run.label: {"folder": str(run.folder.relative_to(self.out)), **_read(run.folder / RESULT)}
                     for run in done},
            "failed": dict(failed),
            "minutes": sum(clock.seconds.values()) / 60,
            "seconds": clock.seconds,
            "provenance": provenance(to_plain(self.config), self.config.seeds[0]),
        }  # fmt: skip
        write_json(self.out / "comparison.json", content)
        write_text(self.out / "table.md", reporting.docs_section(content, rows) + "\n")
        tables = [(f"Success in {task}" if len(self.config.tasks) > 1 else "Success",
                   reporting.comparison_table([row for row in rows if row.task == task]))
                  for task in self.config.tasks]  # fmt: skip
        write_page(
            self.out / "report.html",
            f"RISE: {self.name.replace('_', ' ')}",
            reporting.comparison_summary(rows),
            reporting.comparison_numbers(rows),
            [*tables, ("Not run", reporting.not_run_table({**self.config.not_run, **failed}))],
            curves=[curve for task in self.config.tasks for curve in _curves([r for r in done if r.task == task])],
            films=films,
            provenance={"minutes": round(content["minutes"], 1), **content["provenance"]},
            commands=[self.command],
        )
        return rows

    def _rows(self, task: str, done: Sequence[Run]) -> list[CompareRow]:
        variants = self.config.variants
        runs = {name: [_result(run) for run in done if (run.task, run.name) == (task, name)] for name in variants}
        against = {name: variant.against for name, variant in variants.items()}
        return compare_rows(task, runs, against, {name: one.note for name, one in variants.items()}, BASE)


def _read(file: Path) -> Any:
    return read_json(file, object, None)


def _result(run: Run) -> RunResult:
    found = EvaluationResult.from_dict(_read(run.folder / EVALUATION))
    return RunResult(run.seed, found, np.array(_read(run.folder / IMAGINED)["returns"]), _read(run.folder / RESULT))


def _films(runs: Sequence[Run], folder: Path) -> list[Film]:
    """A film of every variant's first run: an episode that the base failed and it won, where there is one."""
    first = {(run.task, run.name): run for run in reversed(runs)}
    chosen = [run for run in runs if first[run.task, run.name] is run]
    films = []
    with bar(len(chosen), "filming", "episodes") as progress:
        for run in chosen:
            base = first.get((run.task, BASE), run)
            before = {episode.seed: episode for episode in _result(base).evaluation.details}
            mine = _result(run).evaluation.details
            won = [e for e in mine if e.success and not before[e.seed].success]
            typical = [e for e in mine if e.success != (run is base)]  # how the base fails, how others succeed
            shown = (won or typical or mine)[0]
            stem = f"{run.task}-{run.name}-{shown.seed}"
            path = next(iter(sorted(folder.glob(f"{stem}-*.mp4"))), None)
            if path is None:
                kwargs = {"preset": run.config.preset}
                ((episode, frames, fps),) = film_episodes(run.env_id("-Cell"), run.actor(), [shown.seed], kwargs)
                path = write_video(folder / f"{stem}-{outcome(episode)}.mp4", frames, fps)
            ended = path.stem.removeprefix(f"{stem}-")
            other = "" if run is base else f" ({base.label}: {outcome(before[shown.seed])})"
            films.append(Film(f"{run.label}, episode {shown.seed}: {ended}{other}", path))
            progress.update()
    return films


def _curves(runs: Sequence[Run]) -> list[Curve]:
    """Charts over imagined chunks: return in imagination, success in the cell, advantage of the proposals."""
    trained: dict[str, list[Run]] = {}
    for run in runs:
        if run.variant.agent:
            trained.setdefault(run.name, []).append(run)
    base = next((_result(run) for run in runs if run.name == BASE), None)
    begin = {} if base is None else {"imagined_return": float(base.returns.mean())}
    charts: list[tuple[str, str, dict[str, Line]]] = []
    for title, label_y, key in (("Return in imagination from states of held-out episodes", "mean return",
                                 "imagined_return"),
                                ("Success in the cell while training", "success rate", "success")):  # fmt: skip
        lines = {name: _mean_line([_read(run.folder / CURVE) or [] for run in some], key, begin.get(key))
                 for name, some in trained.items()}  # fmt: skip
        charts.append((title, label_y, lines))
    history = {name: _line(read_history(some[0].folder), "rollout/advantage") for name, some in trained.items()}
    charts.append(("Imagined advantage of what is proposed, as the algorithm sees it", "mean advantage", history))
    task = f" ({runs[0].task})" if runs and len(runs[0].config.tasks) > 1 else ""
    found = []
    for title, label_y, lines in charts:
        drawn = [(name, points) for name, points in lines.items() if points]
        for start in range(0, len(drawn), STYLES):
            found.append(Curve(title + task, _BUDGET, label_y, dict(drawn[start : start + STYLES])))
    return found


def _mean_line(seeds: Sequence[Sequence[Mapping[str, float]]], key: str, begin: float | None) -> Line:
    """Mean over training seeds, point by point."""
    lines = [[(row["chunks"], row[key]) for row in rows if key in row] for rows in seeds]
    points: Line = [tuple(np.mean(some, axis=0)) for some in zip(*lines, strict=False)]
    return [*([(0.0, begin)] if points and begin is not None else []), *points]


def _line(rows: Sequence[Mapping[str, float]], key: str) -> Line:
    points = [(row["chunks"], row[key]) for row in rows if key in row]
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int))]
