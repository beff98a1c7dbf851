"""Ablations: selective RISE and the controls that say what its gain is due to, on the same episodes, in one table.

  python -m benchmarks.ablations --policy base --out out/ablations
  python -m benchmarks.ablations --policy base --out out/ablations --rows selective_rise shuffled --seeds 0 1 2
  python -m benchmarks.ablations --policy base --out out/ablations --table-only

Every row is a training run of its own below `--out` (where the data are recorded and labelled first), is resumed after
an interruption, and is evaluated on `--episodes` episodes of the work cell from `--seed` on. Several processes may work
on different rows in the same folder once the data are there. `table.md` is the table, `<row>-<seed>/evaluation*.json`
every episode. All are evaluated twice: with the noise that a flow policy starts its chunks from, as it was trained, and
deterministically, which makes a policy act more steadily and costs nothing.

Rows: `base`; `guided` (the base policy with guidance 2); `best_of_n` (the base policy, of whose 8 proposals the one
imagined best is executed; nothing trained); `selective_rise` (what `rise demo` does); `rise` (as published); `shuffled`
(selective RISE with the advantages of every round shuffled); `unregularised` (without the distillation loss);
`offline` (recorded chunks only); `bc` (behaviour cloning continued, if `rise train policy --initial base --out
<out>/bc-0` was run); `oracle` (selective RISE with the cell in place of imagination: an upper bound).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.paired import paired_change
from rise_agents.evaluation.results import EvaluationResult, wilson_interval
from rise_agents.pipelines.config import load_demo_config
from rise_agents.pipelines.demo import LABELS
from rise_agents.pipelines.improve import Ingredients, improve
from rise_agents.pipelines.recording import label, record
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import find_policy, resolve_actor
from rise_agents.training.presets import load_agent_preset
from rise_env.bundle import find_bundle, load_bundle
from rise_env.files import write_json, write_text
from rise_env.provenance import provenance
from rise_env.threads import single_threaded

__all__ = ["ROWS", "main", "table"]

_TASK = "brick_sorting"
_CELL, _IMAGINATION = "RISE-BrickSorting-Cell-v0", "RISE-BrickSorting-v0"
_PROPOSALS = 8
#: What a row is evaluated with, noise scale of the acting policy, and where.
_EVALUATIONS = {1.0: "evaluation.json", 0.0: "evaluation-without-noise.json"}


class Row(NamedTuple):
    """How a row is trained: an agent, settings on top of its own, and the part of its imagined chunks."""

    agent: str
    settings: dict[str, Any] = {}  # noqa: RUF012  (read only)
    share: float = 1.0


#: None where nothing is trained. `offline` learns from no imagined chunk, and makes an update for every one.
ROWS: dict[str, Row | None] = {
    "base": None,
    "guided": None,
    "best_of_n": None,
    "selective_rise": Row("selective_rise"),
    "rise": Row("rise"),
    "shuffled": Row("selective_rise", {"shuffle_advantages": True}),
    "unregularised": Row("selective_rise", {"distillation_weight": 0.0}),
    "offline": Row("rise", {"offline_ratio": 1.0, "horizon": 1, "epochs": 1, "batch_size": 96, "learning_rate": 5e-4,
                            "lr_decay_fraction": 0.3, "ema_decay": 0.98, "trainable": "all"}, 0.05),
    "bc": None,
    "oracle": Row("selective_rise"),
}  # fmt: skip
_ACTS_AS_BASE = ("base", "guided", "best_of_n")


def main(arguments: list[str] | None = None) -> int:
    """Train and evaluate the rows asked for, then write the table."""
    args = _parsed(arguments)
    bundle = load_bundle(args.bundle or find_bundle(_TASK))
    if (path := find_policy(args.policy, bundle=bundle)) is None:
        raise SystemExit(f"--policy {args.policy}: there is no such policy")
    base = load_policy(path)
    rows = [] if args.table_only else args.rows
    with single_threaded():
        if rows:
            data = record(args.out / "data", load_demo_config(_TASK).recordings, _TASK, policy=path)
            label(data, LABELS, bundle.world_model().value, bundle.spec)
        for name in rows:
            row = ROWS[name]
            for seed in args.seeds if row is not None else [0]:
                folder = args.out / f"{name}-{seed}"
                if row is not None and not (folder / "done.json").exists():
                    agent = load_agent_preset(row.agent, _TASK)
                    chunks = round((args.chunks or agent.chunks) * row.share)
                    agent = agent.replace({**row.settings, "seed": seed}, chunks=chunks)
                    ingredients = Ingredients(bundle, _IMAGINATION, data, LABELS, oracle=name == "oracle")
                    trained = improve(agent, base, ingredients, folder)
                    write_json(folder / "done.json", {"chunks": trained.num_timesteps, "rounds": trained.rounds})
                if row is not None or name in _ACTS_AS_BASE or (folder / "model").exists():
                    _evaluate(name, folder, path, args)
    text = table(args.out)
    write_text(args.out / "table.md", text)
    print(text)
    return 0


def table(folder: Path) -> str:
    """Markdown table of all rows that have been evaluated below `folder`."""
    heading = ["row", "training seeds"]
    for name in ("acting with noise", "acting deterministically"):
        heading += [f"{name}: success", "95 % interval", "gain on the base, points"]
    lines = ["| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    for row in ROWS:
        cells = [_cells(folder, row, name) for name in _EVALUATIONS.values()]
        if any(cells):
            seeds = len(list(folder.glob(f"{row}-[0-9]*"))) if ROWS[row] is not None else "-"
            lines.append(f"| {row} | {seeds} | " + " | ".join(" | ".join(part or [""] * 3) for part in cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(folder: Path, row: str, name: str) -> list[str]:
    """Success, its interval, and the gains of a row; none if it was not evaluated."""
    base = _result(folder / "base-0" / name)
    results = [_result(path / name) for path in sorted(folder.glob(f"{row}-[0-9]*"))]
    if not (found := [result for result in results if result is not None]):
        return []
    wins = sum(round(result.success_rate * result.episodes) for result in found)
    episodes = sum(result.episodes for result in found)
    low, high = wilson_interval(wins, episodes)
    each = ", ".join(f"{result.success_rate:.1%}" for result in found)
    gain = _gain(base, found) if base is not None and row != "base" else ""
    return [f"{wins / episodes:.1%}" + (f" ({each})" if len(found) > 1 else ""), f"{low:.1%} to {high:.1%}", gain]


def _gain(base: EvaluationResult, found: list[EvaluationResult]) -> str:
    """Mean gain and its 95 % interval; of several seeds, the interval of the episodes' means over the seeds."""
    if len(found) == 1:
        change = paired_change(base, found[0])
        return f"{change.gain:+.1f} ({change.interval[0]:+.1f} to {change.interval[1]:+.1f})"
    before = {episode.seed: float(episode.success) for episode in base.details}
    after = np.array([[episode.success for episode in result.details] for result in found], np.float64).mean(axis=0)
    gains = 100 * (after - np.array([before[episode.seed] for episode in found[0].details]))
    mean, half = float(gains.mean()), 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def _result(file: Path) -> EvaluationResult | None:
    return EvaluationResult.from_dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _evaluate(row: str, folder: Path, base: str, args: argparse.Namespace) -> None:
    guidance, best_of = 2.0 if row == "guided" else None, _PROPOSALS if row == "best_of_n" else None
    policy = base if row in _ACTS_AS_BASE else str(folder)
    for noise, name in _EVALUATIONS.items():
        if (folder / name).exists() or noise not in args.noise or (best_of and not noise):
            continue
        actor = resolve_actor(policy, bundle=args.bundle, guidance=guidance, best_of=best_of, noise_scale=noise)
        result = evaluate(_CELL, actor, args.episodes, args.seed)
        config = {"row": row, "settings": ROWS[row], "chunks": args.chunks, "episodes": args.episodes, "noise": noise}
        write_json(folder / name, {**result.to_dict(), "provenance": provenance(config, args.seed)})
        print(f"{folder.name}, noise {noise:g}: {result.success_rate:.1%} {result.failure_modes}", flush=True)


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle in place of the shipped one")
    parser.add_argument("--out", type=Path, default=Path("out/ablations"), help="directory (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument("--chunks", type=int, help="imagined chunks per run (default: the agents')")
    parser.add_argument("--episodes", type=int, default=200, help="episodes per evaluation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=600_000, help="seed of the first one (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, nargs="+", choices=list(_EVALUATIONS), default=list(_EVALUATIONS),
        help="how policies act when they are evaluated: as trained, 1, and without noise, 0 (default: both)",
    )  # fmt: skip
    parser.add_argument("--table-only", action="store_true", help="only write the table of what is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
