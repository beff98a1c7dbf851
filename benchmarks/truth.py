"""How far imagination can be believed: seven questions, answered by the work cell or by recordings; a page and JSON.

  rise bench truth --states 64 --page out/truth --json out/truth.json
  rise bench truth --page out/truth --json out/truth.json --policies base runs/a runs/b --improved runs/b
  rise bench truth --bundle bundles/mine --data data/mine --page out/mine --json out/mine.json

The questions are the headings of the evaluation ladder of arXiv 2606.15032: counterfactual action fidelity (with a
probe for ignored actions), closed-loop validity, reward and value prediction, policy ranking, optimisation lift,
exploitability, uncertainty calibration. States are drawn afresh from --seed: take one that nobody has used. With
--data, held-out recordings take the place of the cell; what they cannot tell is said to need one.

Fewer than six policies are filled up to eight by what everybody has: the base in several moods, operators, the expert,
random actions. --improved names policies whose gain over the first trained one is measured in both worlds.

LPIPS and FVD need networks whose weights are named, and are reported as not run without them; nothing is downloaded.
`--lpips` takes torchvision's AlexNet or VGG-16 (https://download.pytorch.org/models/alexnet-owt-7be5be79.pth or
vgg16-397923af.pth) or the state dict of an lpips.LPIPS, and needs `pip install 'rise-robotics[metrics]'`. `--fvd` takes
i3d_torchscript.pt, the I3D of Kinetics-400; TorchScript runs code, so name only a file that you trust.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import bundle_of, world_model_of
from benchmarks.truth_chunks import calibration, chunks_of, fidelity, value_prediction
from benchmarks.truth_films import chunk_films, course_films, flattering_films
from benchmarks.truth_ladder import Heading, needs
from benchmarks.truth_metrics import imagine, measure
from benchmarks.truth_page import write_truth_page
from benchmarks.truth_pictures import write_pictures
from benchmarks.truth_policies import Contender, contenders
from benchmarks.truth_recordings import measure_recordings
from benchmarks.truth_rollouts import act_in_cell, imagine_course, propose, repeat_in_cell, script_in_cell
from benchmarks.truth_set import TruthSet, collect_truth
from benchmarks.truth_states import FreshStates
from benchmarks.truth_worlds import Both, Chain, closed_loop, exploitability, lift, policy_ranking, table_of
from rise_agents.pipelines.judge_sources import kept_aside
from rise_agents.policies.actor import PolicyActor
from rise_agents.progress import bar, say
from rise_agents.reporting.media import Film
from rise_env.bundle import Bundle
from rise_env.data import open_dataset
from rise_env.envs.vector import SUCCESS_THRESHOLD
from rise_env.errors import ConfigError
from rise_env.metrics.perceptual import Lpips, VideoFeatures
from rise_env.provenance import provenance
from rise_env.registry import TASKS
from rise_env.tasks import TaskSpec, cell_id
from rise_env.world_model import CompositionalWorldModel, resolve_device
from rise_robot.cell.config import load_cell

__all__ = ["add_arguments", "run"]

#: Chunks in a row, and proposals per state; and both, and states, where it is to be quick.
_CHUNKS, _PROPOSALS = 4, 8
_QUICK_CHUNKS, _QUICK_PROPOSALS, _QUICK_STATES = 2, 3, 2
_LADDER = (
    "A world model imagines what the cameras of a robot would see if it acted in some way, and how far its task would "
    "get. Policies are "
    "improved in such imaginations, so everything depends on how far they are true. This page asks seven questions, "
    "each harder than the ones before: an imagination that ignores actions cannot rank policies."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--states", type=int, default=64, help="start states (default: %(default)s)")
    parser.add_argument("--page", type=Path, metavar="DIR", help="write report.html and its films here")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=[],
        metavar="POLICY",
        help="policies to rank: base, a run, a checkpoint, a scripted one",
    )
    parser.add_argument(
        "--improved", nargs="+", default=[], metavar="RUN", help="policies whose gain is measured in both worlds"
    )
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="DIR", help="LeRobot datasets to measure on, instead of the cell"
    )
    parser.add_argument(
        "--truth-set", type=Path, metavar="NPZ", help="keep the ground truth of single chunks here for reuse"
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures and a video, true above imagined")
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="weights for LPIPS (see above)")
    parser.add_argument(
        "--fvd", type=Path, metavar="FILE", help="I3D for FVD: TorchScript, which runs code (see above)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    # First what can be wrong with a file: the rest takes minutes.
    device = resolve_device(args.device)
    lpips = Lpips.load(args.lpips, device) if args.lpips else None
    video = VideoFeatures.load(args.fvd, device) if args.fvd else None
    bundle, model = bundle_of(args), world_model_of(args)
    if args.data:
        result, films = _on_recordings(args, bundle, model)
    else:
        result, films = _in_the_cell(args, bundle, model, device, lpips, video)
    if args.page:
        origin = provenance({key: str(value) for key, value in vars(args).items()}, args.seed)
        path = write_truth_page(args.page / "report.html", result, films, origin, [shlex.join(["rise", *sys.argv[1:]])])
        say(f"page: {path}")
    return result


# ---------------------------------------------------------------------- in the cell


def _in_the_cell(
    args: argparse.Namespace,
    bundle: Bundle,
    model: CompositionalWorldModel,
    device: torch.device,
    lpips: Lpips | None,
    video: VideoFeatures | None,
) -> tuple[dict[str, Any], dict[str, list[Film]]]:
    name = model.spec.name
    try:
        cell_id(name if name in TASKS else args.task)  # without one there is no truth to compare with
    except ConfigError as error:
        raise ConfigError(
            f"{error} Or give recordings with --data: they answer four of the seven questions."
        ) from error
    spec, config = load_cell(name, args.preset or "small")
    found = TruthSet.load(args.truth_set) if args.truth_set and args.truth_set.exists() else None
    if found is not None:
        say(f"{args.truth_set}: {len(found.seeds)} states")
    count, seed = (_few(args.states, args), args.seed) if found is None else (len(found.seeds), int(found.seeds[0]))
    with bar(count, "drawing states", "states") as progress:
        fresh = FreshStates(spec, config, count, seed, progress.update)
    ranked = contenders(args.policies, args.improved, bundle, fresh.cell.task.scripted_policies, device)
    if found is None:
        with bar(count, "running chunks in the cell", "states") as progress:
            found = collect_truth(fresh, progress.update)
        if args.truth_set:
            found.save(args.truth_set)
    with bar(count, "imagining", "states") as progress:
        imagined = imagine(model, found, spec.prompt, on_state=progress.update)
    fps = max(1, spec.fps // spec.stride)
    if args.pictures:
        for path in write_pictures(args.pictures, found, imagined, fps):
            say(f"picture: {path}")
    with bar(count if video else 0, "reading clips", "states", disable=video is None) as progress:
        result = measure(found, imagined, list(spec.cameras), lpips, video, progress.update)
    for metric, reason in result["not_run"].items():
        say(f"{metric}: not run: {reason}")

    chunks, folder = chunks_of(found, imagined, list(spec.cameras)), args.page / "films" if args.page else None
    films: dict[str, list[Film]] = {}
    if folder:
        films["counterfactual_action_fidelity"] = chunk_films(folder, found, imagined, fps)
    threshold = float(bundle.env.get("success_threshold", SUCCESS_THRESHOLD))
    length = _QUICK_CHUNKS if args.quick else _CHUNKS
    policies = _act(model, fresh, ranked, length, threshold)
    base = next((one for one in ranked if one.policy is not None and one.name not in args.improved), None)
    by_policy = _of_base(args, model, fresh, base, policies, folder, fps, films)
    ladder = [
        fidelity(chunks, found.actions.shape[1]),
        by_policy["closed_loop_validity"],
        value_prediction(chunks, found, imagined),
        policy_ranking(policies),
        by_policy["optimisation_lift"],
        by_policy["exploitability"],
        calibration(chunks),
    ]
    seconds = length * spec.chunk / spec.fps
    about = [
        _LADDER,
        f"The truth is the work cell (MuJoCo), which stands for the robot; no real robot was used. {count} states were "
        "drawn afresh from seed "
        f"{seed}: in episodes {seed} to {seed + count - 1} a scripted policy was stopped at a random moment. From "
        "there chunks of "
        f"{spec.chunk / spec.fps:.1f} s were carried out in the cell and imagined, {length} in a row ({seconds:.1f} s) "
        "where policies act. "
        f"With another --seed the states are others. Intervals are 95 % and over states, unless they say otherwise.",
        f"Whole chunks are carried out in both worlds, as imagination does it; rise evaluate runs {spec.execute} of "
        f"{spec.chunk} control steps and asks again. Success in imagination is a value of {threshold:g}.",
    ]
    return {
        **result,
        "reward_source": model.reward_source,
        "task": spec.name,
        "about": about,
        "ladder": [one.plain() for one in ladder],
        "policies": table_of(policies),
    }, films


def _act(
    model: CompositionalWorldModel, fresh: FreshStates, ranked: Sequence[Contender], chunks: int, threshold: float
) -> dict[str, Both]:
    """Every policy in both worlds."""
    found = {}
    with bar(2 * len(ranked) * len(fresh) * chunks, "policies act in both worlds", "chunks") as progress:
        for one in ranked:
            if one.actor is None:
                assert one.script is not None
                true = script_in_cell(fresh, one.script, chunks, progress.update)
            else:
                true = act_in_cell(fresh, one.actor(), chunks, progress.update)
            guess = imagine_course(
                model,
                lambda rows: fresh.history(model.device, rows),
                true.actions if one.actor is None else one.actor(),
                fresh.seeds,
                chunks,
                threshold,
                looks=one.policy is not None,
                on_chunk=progress.update,
            )
            found[one.name] = Both(one.about, one.policy is not None, guess, true)
    return found


def _of_base(
    args: argparse.Namespace,
    model: CompositionalWorldModel,
    fresh: FreshStates,
    base: Contender | None,
    policies: dict[str, Both],
    folder: Path | None,
    fps: int,
    films: dict[str, list[Film]],
) -> dict[str, Heading]:
    """What is measured of the first trained policy, and of what improves on it."""
    keys = ("closed_loop_validity", "optimisation_lift", "exploitability")
    if base is None or base.policy is None:
        return {
            key: needs("trained policy", key, "there is no trained policy to begin with: name one with --policies")
            for key in keys
        }
    course = policies[base.name].imagined
    with bar(len(fresh), "what was done in imagination, in the cell", "states") as progress:
        true = repeat_in_cell(fresh, course.actions, range(len(fresh)), every_frame=False)
        progress.update(len(fresh))
    assert course.ends is not None and true.ends is not None
    spec, history = fresh.spec, fresh.history(model.device)
    chain = Chain(
        list(spec.cameras),
        np.arange(len(fresh)),
        "states",
        spec.chunk / spec.fps,
        history.frames[:, -1].cpu().numpy(),
        course.ends,
        true.ends,
        course.level,
        true.level,
        "true progress",
        policies[base.name].true.level,
    )
    count = _QUICK_PROPOSALS if args.quick else _PROPOSALS
    with bar(len(fresh) * count, f"proposals of {base.name}", "chunks") as progress:
        proposals = propose(model, fresh, PolicyActor(base.policy, noise_scale=1.0), count, progress.update)
    improved = {name: policies[name] for name in args.improved if name != base.name}
    if folder:
        films["closed_loop_validity"] = course_films(folder, model, fresh, base.name, course, true.level[:, -1], fps)
        films["exploitability"] = flattering_films(folder, model, fresh, proposals, fps)
    found = (
        closed_loop(chain),
        lift(proposals, policies[base.name], improved),
        exploitability(proposals, policies[base.name], improved),
    )
    return dict(zip(keys, found, strict=True))


# ---------------------------------------------------------------------- on recordings


def _on_recordings(
    args: argparse.Namespace, bundle: Bundle, model: CompositionalWorldModel
) -> tuple[dict[str, Any], dict[str, list[Film]]]:
    spec: TaskSpec = model.spec
    dataset = open_dataset(args.data, spec)
    episodes, unseen, words = kept_aside(bundle, args.data, dataset)
    count, folder = _few(args.states, args), args.page / "films" if args.page else None
    with bar(count, "imagining recorded chunks", "moments") as progress:
        found = measure_recordings(
            model,
            dataset,
            episodes,
            states=count,
            chunks=_QUICK_CHUNKS if args.quick else _CHUNKS,
            seed=args.seed,
            folder=folder,
            on_state=progress.update,
        )
    about = [
        _LADDER,
        f"The truth is recordings of a real robot or simulation: {len(episodes)} of {dataset.num_episodes} episodes of "
        f"{dataset.name}, "
        f"{words}. {found.windows} moments were drawn from seed {args.seed}. Intervals are 95 % and over episodes, of "
        "which moments are "
        "parts. Nothing was carried out: what other actions would have brought is not known, so three of the seven "
        "questions need a cell.",
    ]
    return {
        "task": spec.name,
        "states": found.windows,
        "unseen": unseen,
        "episodes": episodes.tolist(),
        "reward_source": model.reward_source,
        "about": about,
        "ladder": [one.plain() for one in found.ladder],
        "policies": [],
    }, found.films


def _few(states: int, args: argparse.Namespace) -> int:
    return min(states, _QUICK_STATES) if args.quick else states
