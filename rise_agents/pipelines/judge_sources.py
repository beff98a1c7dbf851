"""What an improved policy can be judged by: held-out recordings, or what a bundle keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rise_agents.evaluation.imagined import held_out_starts
from rise_agents.pipelines.improve import Ingredients
from rise_agents.policies.base import Policy
from rise_agents.policies.data import ChunkSource, RecordedChunks, StartChunks
from rise_env.bundle import Bundle
from rise_env.data import Dataset, split_episodes
from rise_env.envs.starts import StartStates
from rise_env.errors import DatasetError
from rise_env.training.held_out import HeldOut, evaluate_world_model
from rise_env.world_model import CompositionalWorldModel

__all__ = ["Chunks", "Sources", "find_sources", "kept_aside"]

#: Recorded chunks that proposals are compared with; held-out start states of successes that are enough for that.
_RECORDED, _ENOUGH = 64, 8


_NONE = np.zeros(0, np.int64)


class Chunks(NamedTuple):
    """Recorded chunks that proposals are compared with.

    Attributes:
        chunks: Recorded chunks; None where there are none.
        rows: Those to compare with.
        episodes: Episode of each.
        source: Which these are, or what is missing, in words.
    """

    chunks: ChunkSource | None
    rows: np.ndarray
    episodes: np.ndarray
    source: str


@dataclass(frozen=True)
class Sources:
    """What there is to judge by, with where it comes from in words.

    Attributes:
        held_out: Figures of the world model on held-out recordings, and samples; None without any.
        held_out_source: Where they come from, or what is missing.
        unseen: Whether nothing says that the world model was trained on them.
        starts: States to imagine from.
        starts_source: Which these are.
        recorded: Recorded chunks.
    """

    held_out: HeldOut | None
    held_out_source: str
    unseen: bool
    starts: StartStates
    starts_source: str
    recorded: Chunks


def find_sources(
    ingredients: Ingredients, model: CompositionalWorldModel, policy: Policy, states: int, seed: int
) -> Sources:
    """What there is to judge by: of the recordings, or of the bundle where none were given.

    Args:
        ingredients: What was improved with.
        model: Its world model.
        policy: Says which past observations are read.
        states: Most states to imagine from.
        seed: Seed of draws and noise.
    """
    if ingredients.data:
        return _of_recordings(ingredients, model, policy, states, seed)
    return _of_bundle(ingredients, policy, states)


def _of_recordings(
    ingredients: Ingredients, model: CompositionalWorldModel, policy: Policy, states: int, seed: int
) -> Sources:
    dataset, spec = ingredients.open_data(), ingredients.bundle.spec
    kept, unseen, words = kept_aside(ingredients.bundle, ingredients.data, dataset)
    held_out = evaluate_world_model(model, dataset, kept, seed=seed)
    won, lost = (held_out.figures[name] for name in ("successes", "failures"))
    source = (
        f"{len(kept)} of {dataset.num_episodes} episodes of the recordings ({won} succeeded, {lost} failed, "
        f"{len(kept) - won - lost} of unknown outcome), {words}."
    )
    starts = held_out_starts(dataset, spec, states, seed)
    episodes = split_episodes(dataset)["heldout"]
    which = f"{len(starts)} states of {len(episodes)} held-out episodes of the recordings"
    starts_source = f"{which}, which this run did not learn from."
    return Sources(held_out, source, unseen, starts, starts_source, _recorded(dataset, policy, episodes))


def _recorded(dataset: Dataset, policy: Policy, episodes: np.ndarray) -> Chunks:
    """Chunks of held-out successes; of all held-out episodes where no outcome is known."""
    outcomes = {i: dataset.episodes[i].success for i in episodes.tolist()}
    chosen, which = [i for i, outcome in outcomes.items() if outcome], "held-out successes"
    if not chosen:
        chosen = [i for i, outcome in outcomes.items() if outcome is None]
        which = "held-out episodes of unknown outcome"
    if not chosen:
        return Chunks(
            None, _NONE, _NONE, "There are failures alone among the held-out episodes: nothing to compare with."
        )
    try:
        chunks = RecordedChunks(dataset, policy.lags, np.zeros(dataset.num_frames, np.int64), chosen)
    except DatasetError as error:
        return Chunks(None, _NONE, _NONE, f"No chunk fits into the {which}: {error}")
    rows = _spread(len(chunks))
    return Chunks(chunks, rows, chunks.windows.batch(rows).episode, f"{len(rows)} moments of {len(chosen)} {which}")


def kept_aside(bundle: Bundle, data: Sequence[str | Path], dataset: Dataset) -> tuple[np.ndarray, bool, str]:
    """Episodes that a world model was not trained on as far as can be known, whether that is far, and in words.

    Args:
        bundle: Whose world model it is.
        data: Where the recordings lie.
        dataset: The recordings.
    """
    about = bundle.provenance
    names, made_of = [Path(path).name for path in data], about.get("data") or []
    noted = (about.get("held_out") or {}).get("episodes")
    if noted and names == made_of and max(noted) < dataset.num_episodes:
        return np.array(noted, np.int64), True, "which the trainings of the world model kept aside"
    kept = split_episodes(dataset)["heldout"]
    if set(names) & set(made_of):
        return (
            kept,
            False,
            "some of which the world model may know: its bundle does not say what its trainings kept aside",
        )
    if made_of:
        return kept, True, "of recordings whose names its bundle does not list among those that it is made from"
    return kept, False, "of which nobody says whether the world model was trained on them"


def _of_bundle(ingredients: Ingredients, policy: Policy, states: int) -> Sources:
    bundle, figures = ingredients.bundle, ingredients.bundle.provenance.get("held_out")
    if figures:
        given = "".join(f" Its {part} was trained elsewhere, perhaps on them." for part in figures["given"])
        source = (
            f"Measured when the bundle {bundle.name} was made, on {len(figures['episodes'])} of {figures['of']} "
            f"episodes, which its trainings kept aside.{given} With --data and --labels this page has films of them."
        )
    else:
        source = (
            f"Not measured: no recordings were given, and the bundle {bundle.name} keeps single start states "
            "without what followed them, and no figures of its training. Give --data and --labels."
        )
    every = bundle.starts()
    first = np.argsort(every.split != "heldout", kind="stable")[:states]
    starts = _rows_of(every, np.sort(first))
    kept = int((starts.split == "heldout").sum())
    words = f"{len(starts)} start states of the bundle, {kept} of them held out; from the others this run learned."
    held_out = HeldOut(dict(figures), []) if figures else None
    unseen = not figures or not figures["given"]
    return Sources(held_out, source, unseen, starts, words, _of_starts(every, bundle, policy))


def _of_starts(starts: StartStates, bundle: Bundle, policy: Policy) -> Chunks:
    """Chunks at start states of successes, held-out ones where there are enough; of all where no outcome is known."""
    if starts.actions is None:
        return Chunks(None, _NONE, _NONE, "The start states of the bundle do not say what was done there: give --data.")
    won = np.flatnonzero(starts.success == 1)
    aside = won[starts.split[won] == "heldout"]
    chosen, which = (aside, "held-out start states of successes") if len(aside) >= _ENOUGH else (
        won, "start states of successes")  # fmt: skip
    if not len(won):
        chosen, which = np.flatnonzero(starts.success < 0), "start states of unknown outcome"
    if not len(chosen):
        return Chunks(None, _NONE, _NONE, "The bundle has start states of failures alone: nothing to compare with.")
    rows = chosen[_spread(len(chosen))]
    source = StartChunks(starts, bundle.spec, policy.lags, np.zeros(len(starts), np.int64), None)
    return Chunks(source, rows, starts.episode_index[rows], f"{len(rows)} {which} in the bundle")


def _rows_of(starts: StartStates, rows: np.ndarray) -> StartStates:
    """Some start states, in memory."""
    columns = ("frames", "states", "episode_index", "frame_index", "prompt_index", "split", "success", "group")
    chosen: dict[str, Any] = {name: np.ascontiguousarray(getattr(starts, name)[rows]) for name in columns}
    actions = None if starts.actions is None else np.ascontiguousarray(starts.actions[rows])
    return StartStates(prompts=starts.prompts, actions=actions, about=starts.about, **chosen)


def _spread(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _RECORDED)).round().astype(np.int64))
