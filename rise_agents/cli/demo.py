"""The whole idea in one command: a policy gets better without touching the robot.

  rise demo
  rise demo --json out/demo.json --out out/demo

On two CPU cores, in at most a quarter of an hour:

1. the shipped base policy is evaluated in the MuJoCo work cell, which stands for the robot;
2. episodes of it and of operators are recorded there, and scored by the value model: the offline data;
3. RISE improves it inside the shipped world model, from the recorded states; the cell is not used;
4. the improved policy meets the same episodes in the cell;
5. one HTML report shows numbers with intervals, curves and films. Its path is printed last.

Safe to interrupt: what is finished is kept in `--out`, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rise_env.errors import ConfigError

__all__ = ["LABELS", "RECORDINGS", "SETTINGS", "STARTS", "add_arguments", "record_data", "run"]

_CELL, _IMAGINATION, _TASK = "RISE-BrickSorting-Cell-v0", "RISE-BrickSorting-v0", "brick_sorting"
#: The offline data: policy, episodes, and seed of the first; no episode that anything is evaluated on. The operators'
#: are the first of those that the base policy was trained on. Where a policy is held to its base it keeps its
#: precision, so most are its own; they are two sets, because two are recorded at a time.
RECORDINGS = (
    ("base", 280, 70_000),
    ("base", 140, 70_280),
    ("operator-confused", 140, 200_000),
)
LABELS = "demo"
#: Settings of RISE on top of its defaults: it starts where the base policy is imagined to gain little, and of eight
#: proposals per state those that are far ahead of the base's own are learned; elsewhere the policy is held to the base.
#: The encoders are trained along: what a policy has not been taught to look at, here the colour, its action expert
#: cannot learn from (lab notebook).
SETTINGS = {
    "group": 8, "keep": 4, "margin": 0.2, "anchor": 1.0, "mend": 0.15, "chunks_per_state": 1, "offline_ratio": 0.0,
    "epochs": 12, "batch": 96, "memory": 30, "rate": 5e-4, "cool": 0.3, "ema": 0.98, "scope": "all",
}  # fmt: skip
#: Recorded states to start from.
STARTS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="directory (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--episodes", type=int, default=200, help="episodes per evaluation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of evaluation and training (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=6.0, help="time to improve (default: %(default)s)")
    parser.add_argument("--policy", default="base", help="policy to improve (default: the bundle's)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="bundle in place of the shipped one")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="settings of RISE")


def run(args: argparse.Namespace) -> int:
    """Record, evaluate, improve, evaluate, report."""
    import rise_env  # noqa: F401  (registers the environments)
    from rise_agents.cli.improve import learn, parsed_settings, set_up
    from rise_agents.policies.loading import load_policy
    from rise_agents.policies.resolve import find_policy
    from rise_env.bundle import find_bundle, load_bundle
    from rise_env.files import write_json
    from rise_env.provenance import provenance

    clock = _Clock(args.out / "minutes.json")
    bundle = load_bundle(args.bundle or find_bundle(_TASK))
    path = find_policy(args.policy, bundle=bundle)
    if path is None:
        raise ConfigError(f"the bundle {bundle.path} holds no base policy: give --policy")
    settings = {**SETTINGS, **parsed_settings(args.overrides), "seed": args.seed}
    config = {"policy": path, "settings": settings, "episodes": args.episodes, "minutes": args.minutes}
    _same_run(args.out, config)
    base = load_policy(path)
    with clock.timed("evaluating the base"):
        before = _evaluate("base", base, args)
    with clock.timed("recording"):
        data = record_data(args.out / "data", path, bundle)
    run_folder = args.out / "rise"
    if not (run_folder / "done.json").exists():
        with clock.timed("improving"):
            agent = set_up("rise", _IMAGINATION, base, data, LABELS, bundle=bundle.path, starts=STARTS,
                           log=run_folder / "tensorboard", settings=settings)  # fmt: skip
            history = _History(run_folder / "history.json", agent.restore(run_folder))
            left = 60 * args.minutes - clock.spent("improving")
            agent.learn = history.watching(agent.learn)
            if left > 0:
                learn(agent, run_folder, 10**9, agent.seconds + left)
        write_json(run_folder / "done.json", {"chunks": agent.num_chunks, "updates": agent.updates})
    improved = load_policy(run_folder / "model")
    with clock.timed("evaluating the improved policy"):
        after = _evaluate("improved", improved, args)
    with clock.timed("filming"):
        report = _report(args, clock, base, improved, before, after, bundle, config)
    minutes = clock.total() / 60
    if args.json:
        write_json(
            args.json,
            {
                "base": before.to_dict(),
                "improved": after.to_dict(),
                "minutes": minutes,
                "report": str(report),
                "parts": clock.parts(),
                "provenance": provenance(config, args.seed),
            },
        )
    for name, result in (("base", before), ("improved", after)):
        low, high = result.success_interval
        print(f"{name:<9} {result.success_rate:6.1%}   95 % interval {low:.1%} to {high:.1%}   {result.failure_modes}")
    print(f"{minutes:.1f} minutes in all. Report:")
    print(report.resolve())
    return 0


def record_data(folder: Path, policy: str, bundle: Any) -> list[Path]:
    """Record (or go on recording) the offline data, two sets at a time, and label them with the bundle's value model.

    Args:
        folder: Below it, every set gets a directory of its own.
        policy: Path of the base policy.
        bundle: Whose value model labels them.

    Returns:
        The directories.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from rise_env.data import label_tags, open_dataset
    from rise_env.value.labelling import label_frames, write_labels

    folders = [folder / f"{name}-{seed}" for name, _, seed in RECORDINGS]
    missing = [(path, *recording, policy) for path, recording in zip(folders, RECORDINGS, strict=True)
               if not path.exists() or LABELS not in label_tags(path)]  # fmt: skip
    if missing:
        # Processes of their own: OpenGL and threads do not survive a fork.
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_record, missing))
    value = bundle.world_model().value
    for path, *_ in missing:
        dataset = open_dataset(path, bundle.spec)
        write_labels(dataset, LABELS, label_frames(value, dataset, bundle.spec.chunk))
    return folders


def _record(job: tuple[Path, str, int, int, str]) -> None:
    """Record one set, in a process of its own."""
    import torch

    from rise_agents.cli.progress import bar
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.policies.loading import load_policy
    from rise_robot.cell.collect import CollectedEpisode, collect
    from rise_robot.cell.config import load_cell

    folder, name, episodes, seed, path = job
    torch.set_num_threads(1)
    spec, config = load_cell(_TASK, "small")
    actor = PolicyActor(load_policy(path)) if name == "base" else None
    with bar(episodes, f"recording {name}", "episodes") as progress:

        def on_episode(saved: int, _: CollectedEpisode | None) -> None:
            progress.update(saved - progress.n)

        collect(spec, config, name, episodes, seed, folder, actor=actor, on_episode=on_episode)


def _evaluate(name: str, policy: Any, args: argparse.Namespace) -> Any:
    """Evaluate a policy in the cell, or read what is there already."""
    from rise_agents.cli.progress import bar
    from rise_agents.evaluation.evaluate import evaluate
    from rise_agents.evaluation.results import Episode, EvaluationResult
    from rise_agents.policies.actor import PolicyActor
    from rise_env.files import write_json

    file = args.out / f"{name}.json"
    if file.exists():
        return EvaluationResult.from_dict(json.loads(file.read_text(encoding="utf-8")))
    successes = 0
    with bar(args.episodes, f"{name} in the cell", "episodes") as progress:

        def on_episode(episode: Episode) -> None:
            nonlocal successes
            successes += episode.success
            progress.set_postfix(success=f"{successes / (progress.n + 1):.0%}", refresh=False)
            progress.update()

        result = evaluate(
            _CELL, PolicyActor(policy), args.episodes, args.seed, on_episode=on_episode,
        )  # fmt: skip
    write_json(file, result.to_dict())
    return result


def _report(
    args: argparse.Namespace, clock: _Clock, base: Any, improved: Any, before: Any, after: Any, bundle: Any, config: Any
) -> Path:
    """Films and the HTML page."""
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.reporting.compositions import side_by_side, write_gif
    from rise_agents.reporting.filming import film_episodes, outcome, write_video
    from rise_agents.reporting.line_chart import Curve
    from rise_agents.reporting.media import Film
    from rise_agents.reporting.report import write_report
    from rise_agents.reporting.success_table import Row, one_sentence
    from rise_agents.reporting.value_curves import value_curve
    from rise_env.provenance import provenance

    won = [b.seed for b, a in zip(before.details, after.details, strict=True) if a.success and not b.success]
    lost = [b.seed for b, a in zip(before.details, after.details, strict=True) if b.success and not a.success]
    films, curves = [], []
    model = bundle.world_model()
    for seed in [*won[:2], *lost[:1]]:
        pair = []
        for policy in (base, improved):
            (found,) = film_episodes(_CELL, PolicyActor(policy), [seed])
            pair.append(found)
        (first, left, fps), (second, right, _) = pair
        labels = f"base: {outcome(first)}", f"after RISE: {outcome(second)}"
        joined = side_by_side(left, right, labels)
        path = write_video(args.out / "films" / f"episode-{seed}.mp4", joined, fps)
        films.append(Film(f"Episode {seed}, {labels[0]} and {labels[1]}", path))
        lines = {label: value_curve(_CELL, PolicyActor(policy), model, seed)
                 for label, policy in zip(labels[::-1], (improved, base), strict=True)}  # fmt: skip
        curves.append(Curve(f"Value in episode {seed}", "seconds", "value", lines))
        if seed == (won or [None])[0]:
            write_gif(args.out / "before-after.gif", joined[::2], fps / 2, 720)
    films.append(_imagined(args, improved, model))
    history = _History(args.out / "rise" / "history.json", True).rows
    names = {"proposed": "after RISE, proposals", "own": "base, its own chunk"}
    if not config["settings"]["anchor"]:
        names = {"advantage": "first chunk", "advantage_second": "second chunk"}
    learning = [
        Curve("Imagined advantage at the states that are worked on", "imagined chunks", "mean advantage",
              {label: [(row["chunks"], row[name]) for row in history] for name, label in names.items()}),
        Curve("Flow-matching loss", "imagined chunks", "loss", {"RISE": [(r["chunks"], r["loss"]) for r in history]}),
    ]  # fmt: skip
    rows = [
        Row("base", before, "the shipped policy"),
        Row("RISE", after, f"{json.loads((args.out / 'rise' / 'done.json').read_text())['chunks']} imagined chunks"),
    ]
    minutes = max(clock.spent("improving") / 60, 1e-3)
    return write_report(
        args.out / "report.html",
        title="RISE: improved in imagination, checked in the cell",
        summary=one_sentence(rows[0], rows[1], minutes),
        rows=rows,
        curves=[*(learning if history else []), *curves],
        films=films,
        provenance=provenance(config, args.seed),
        commands=["rise demo --json out/demo.json"],
    )


def _imagined(args: argparse.Namespace, policy: Any, model: Any) -> Any:
    """A film of a chunk of the improved policy: what the cameras saw, and what had been imagined."""
    import gymnasium
    import numpy as np
    import torch

    from rise_agents.algorithms.best_of_n import history_lags, observed_history
    from rise_agents.policies.actor import PolicyActor
    from rise_agents.reporting.compositions import imagined_film
    from rise_agents.reporting.filming import write_video
    from rise_agents.reporting.media import Film
    from rise_agents.reporting.value_curves import remaining
    from rise_env.spaces import image_key

    spec = model.spec
    env: Any = gymnasium.make_vec(
        _CELL, num_envs=1, autoreset_mode="disabled", execute=spec.stride, observation_lags=list(history_lags(spec))
    )
    clips = []
    actor = PolicyActor(policy)
    for seed in range(args.seed, args.seed + 4):
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
        clips.append(imagined_film(np.stack(real), frames, f"episode {seed}: the policy's chunk", None, values))
    env.close()
    path = write_video(args.out / "films" / "imagined.mp4", np.concatenate(clips), max(1, spec.fps // spec.stride))
    return Film("The same chunks in the cell (above) and in imagination (below)", path)


def _same_run(out: Path, config: dict[str, Any]) -> None:
    """Keep what a run was started with; refuse to go on with something else."""
    from rise_env.files import to_plain, write_json

    file = out / "config.json"
    if file.exists() and (found := json.loads(file.read_text(encoding="utf-8"))) != to_plain(config):
        raise ConfigError(f"{out} holds a demo with other settings: {found}. Remove it, or give another folder (--out)")
    write_json(file, config)


class _Clock:
    """Wall-clock seconds by part, kept on disk so that interruptions do not count."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._spent: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def timed(self, part: str) -> Any:
        """Context manager that counts the time of a part."""
        import contextlib

        from rise_env.files import write_json

        @contextlib.contextmanager
        def measure() -> Any:
            started = time.monotonic()
            try:
                yield
            finally:
                self._spent[part] = self._spent.get(part, 0.0) + time.monotonic() - started
                write_json(self._file, self._spent)

        return measure()

    def spent(self, part: str) -> float:
        """Seconds of a part."""
        return self._spent.get(part, 0.0)

    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self._spent.values())

    def parts(self) -> dict[str, float]:
        """Seconds by part."""
        return dict(self._spent)


class _History:
    """Figures of every few rounds, kept on disk for the curves of the report."""

    _EVERY = 10

    def __init__(self, file: Path, go_on: bool) -> None:
        self._file = file
        self.rows: list[dict[str, float]] = []
        if go_on and file.exists():
            self.rows = json.loads(file.read_text(encoding="utf-8"))

    def watching(self, learn: Any) -> Any:
        """`learn` of an agent, with a callback that notes its figures."""

        def watched(total: int, callback: Any = None, **kwargs: Any) -> Any:
            def note(agent: Any) -> Any:
                if agent.rounds % self._EVERY == 1:
                    self._note(agent)
                return None if callback is None else callback(agent)

            return learn(total, callback=note, **kwargs)

        return watched

    def _note(self, agent: Any) -> None:
        from rise_env.files import write_json

        names = ("proposed", "own", "advantage", "advantage_second", "loss", "best_share")
        self.rows = [row for row in self.rows if row["chunks"] < agent.num_chunks]
        self.rows.append({"chunks": agent.num_chunks, **{name: agent.figures.get(name, 0.0) for name in names}})
        write_json(self._file, self.rows)
