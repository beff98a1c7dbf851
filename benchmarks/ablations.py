"""The ladder: RISE beside the controls that say what its gain is due to, all on the same episodes, in one table.

  python -m benchmarks.ablations --policy base --out out/ladder
  python -m benchmarks.ablations --policy base --out out/ladder --rows rise shuffled --seeds 0 1 2 --threads 1
  python -m benchmarks.ablations --policy base --out out/ladder --table-only

Every row is a training run of its own below `--out` (where the data are recorded and labelled first), is resumed after
an interruption, and is evaluated on `--episodes` episodes of the work cell from `--seed` on. Several processes may work
on different rows in the same folder once the data are there. `table.md` is the table, `<row>-<seed>/evaluation*.json`
every episode. All are evaluated twice: with the noise that a flow policy starts its chunks from, as it was trained, and
without, which makes a policy act more steadily and costs nothing.

Rows: `base`; `guided` (the base with guidance 2); `best-of` (the base, of whose 8 proposals the one imagined best is
executed; nothing trained); `rise` (what `rise demo` does); `paper` (one proposal per state, two chunks in a row, all
learned under their measured levels, by the action expert alone); `shuffled` (`rise` with the advantages of every round
shuffled); `offline` (recorded chunks only); `free` (`rise` without an anchor: the best of the proposals is learned
everywhere, beside recorded chunks); `bc` (the warm-up continued, if `rise train policy --initial base --out
<out>/bc-0` was run); `true` (`rise` with the cell in place of imagination: the ceiling, nothing a robot could do).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rise_agents.cli.demo import LABELS, SETTINGS, STARTS, record_data
from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.paired import paired_change
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.evaluation.statistics import wilson_interval
from rise_agents.policies.resolve import find_policy, resolve_actor
from rise_env.files import write_json, write_text

__all__ = ["ROWS", "main", "table"]

_CELL, _IMAGINATION = "RISE-BrickSorting-Cell-v0", "RISE-BrickSorting-v0"
_PROPOSALS = 8
#: What a row is evaluated with, noise of the acting policy, and where.
_EVALUATIONS = {1.0: "evaluation.json", 0.0: "evaluation-without-noise.json"}

#: Settings of RISE by row, on top of `SETTINGS`; None where nothing is trained.
ROWS: dict[str, dict[str, Any] | None] = {
    "base": None,
    "guided": None,
    "best-of": None,
    "rise": {},
    "paper": {
        "group": 1, "keep": 0, "margin": 0.0, "anchor": 0.0, "chunks_per_state": 2, "offline_ratio": 0.6, "epochs": 4,
        "batch": 128, "memory": 1, "rate": 3e-4, "ema": 0.995, "scope": "action",
    },
    "shuffled": {"shuffled": True},
    "offline": {"group": 1, "keep": 0, "margin": 0.0, "anchor": 0.0, "offline_ratio": 1.0, "epochs": 1},
    "free": {"keep": 1, "margin": 0.08, "anchor": 0.0, "offline_ratio": 0.3},
    "bc": None,
    "true": {},
}  # fmt: skip
#: Part of the chunks that a row imagines, where not all. `offline` learns from none of them, and makes an update for
#: every one. Of `paper`, which learns every chunk, it is what time allows.
SHARES = {"paper": 0.35, "offline": 0.018}
_ACTS_AS_BASE = ("base", "guided", "best-of")


def main(arguments: list[str] | None = None) -> int:
    """Train and evaluate the rows asked for, then write the table."""
    import torch

    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.cli.improve import learn, set_up
    from rise_agents.policies.loading import load_policy
    from rise_env.bundle import find_bundle, load_bundle

    args = _parsed(arguments)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    bundle = load_bundle(args.bundle or find_bundle("brick_sorting"))
    path = find_policy(args.policy, bundle=bundle)
    if path is None:
        raise SystemExit(f"--policy {args.policy}: there is no such policy")
    base = load_policy(path)
    rows = [] if args.table_only else args.rows
    if rows:
        data = record_data(args.out / "data", path, bundle)
    for row in rows:
        settings = ROWS[row]
        for seed in args.seeds if settings is not None else [0]:
            folder = args.out / f"{row}-{seed}"
            if settings is not None and not (folder / "done.json").exists():
                merged = {**SETTINGS, **settings, "seed": seed}
                agent = set_up("rise", _IMAGINATION, base, data, LABELS, bundle=bundle.path, starts=STARTS,
                               oracle=row == "true", log=folder / "tensorboard", settings=merged)  # fmt: skip
                agent.restore(folder)
                learn(agent, folder, round(args.chunks * SHARES.get(row, 1.0)), None)
                write_json(folder / "done.json", {"chunks": agent.num_chunks, "updates": agent.updates})
            if settings is not None or row in _ACTS_AS_BASE or (folder / "model").exists():
                _evaluate(row, folder, path, args)
    text = table(args.out)
    write_text(args.out / "table.md", text)
    print(text)
    return 0


def table(folder: Path) -> str:
    """Markdown table of all rows that have been evaluated below `folder`."""
    heading = ["row", "training seeds"]
    for name in ("acting with noise", "acting without"):
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
    found = [result for result in results if result is not None]
    if not found:
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
    half = 1.96 * float(gains.std(ddof=1)) / len(gains) ** 0.5
    mean = float(gains.mean())
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def _result(file: Path) -> EvaluationResult | None:
    return EvaluationResult.from_dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _evaluate(row: str, folder: Path, base: str, args: argparse.Namespace) -> None:
    from rise_env.provenance import provenance

    options: dict[str, Any] = {"bundle": args.bundle}
    if row == "guided":
        options["guidance"] = 2.0
    if row == "best-of":
        options["best_of"] = _PROPOSALS
    policy = base if row in _ACTS_AS_BASE else str(folder)
    for noise, name in _EVALUATIONS.items():
        if (folder / name).exists() or noise not in args.noise or (row == "best-of" and not noise):
            continue
        actor = resolve_actor(policy, **options, **({} if row == "best-of" else {"noise_scale": noise}))
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
    parser.add_argument("--out", type=Path, default=Path("out/ladder"), help="directory (default: %(default)s)")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="rows (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument("--chunks", type=int, default=44_000, help="imagined chunks per run (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=200, help="episodes per evaluation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=600_000, help="seed of the first one (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, nargs="+", choices=list(_EVALUATIONS), default=list(_EVALUATIONS),
        help="how policies act when they are evaluated: as trained, 1, and without noise, 0 (default: both)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--table-only", action="store_true", help="only write the table of what is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
