"""Films of the demo: episodes that changed, episodes that fail and why, the same chunk in the cell and imagined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

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
from rise_agents.reporting.value_curves import remaining, value_curve
from rise_env.spaces import image_key
from rise_env.world_model import CompositionalWorldModel

if TYPE_CHECKING:
    from rise_agents.pipelines.demo import Demo

__all__ = ["EpisodeFilms", "imagined_films"]

#: Most episodes that are filmed for one film.
_FILM_TRIES = 8
#: Failures of the improved policy whose value curves are looked at, and how many ways to fail are filmed.
_JUDGED, _WAYS = 6, 2
#: Value from which a failed episode ends like a success.
_LIKE_SUCCESS = 0.8
_READ_VALUE = (
    "From 0, nothing done, to 1, done; it should rise as the task advances and fall when something goes wrong. The "
    "value model sees the cameras alone, and pays the rewards in imagination."
)


class _Shown(NamedTuple):
    """An episode of both policies: outcomes, film side by side, values at every moment."""

    outcomes: tuple[Episode, Episode]
    film: np.ndarray
    fps: int
    values: tuple[list[tuple[float, float]], list[tuple[float, float]]]


@dataclass
class EpisodeFilms:
    """Films of single episodes, side by side, and their value curves.

    Policies were evaluated in batches and are filmed alone, where sums are rounded otherwise: once in a while a contact
    decides otherwise too, and the next episode is filmed.
    """

    demo: Demo
    base: tuple[Policy, EvaluationResult]
    improved: tuple[Policy, EvaluationResult]
    model: CompositionalWorldModel
    meanings: Mapping[str, str]
    films: list[Film] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _known: dict[tuple[int, int], list[tuple[float, float]]] = field(default_factory=dict)

    def changed(self) -> None:
        """Up to two episodes that were won, and one that was lost."""
        pairs = list(zip(self.base[1].details, self.improved[1].details, strict=True))
        with bar(3, "filming", "episodes") as progress:
            for wanted, count in (((False, True), 2), ((True, False), 1)):
                seeds = [old.seed for old, new in pairs if (old.success, new.success) == wanted][:_FILM_TRIES]
                found = 0
                for seed in seeds:
                    shown = self._run(seed)
                    if tuple(one.success for one in shown.outcomes) != wanted:
                        continue
                    if not self.films and wanted == (False, True):
                        write_gif(self.demo.out / "before-after.gif", shown.film[::2], shown.fps / 2, 720)
                    self._show(seed, shown)
                    progress.update()
                    found += 1
                    if found == count:
                        break

    def failed(self) -> None:
        """The most frequent ways to fail, and the failure that the value model takes for a success most of all."""
        result = self.improved[1]
        by_mode: dict[str, list[int]] = {mode: [] for mode in result.failure_modes}
        for episode in result.details:
            if not episode.success and episode.seed not in self._seen:
                by_mode[episode.failure_mode].append(episode.seed)
        # Of every mode in turn, the most frequent first.
        turns = [seeds[turn] for turn in range(_JUDGED) for seeds in by_mode.values() if turn < len(seeds)][:_JUDGED]
        judged: dict[int, float] = {}
        with bar(len(turns), "failures", "episodes") as progress:
            for seed in turns:
                judged[seed] = self._values(1, seed)[-1][1]
                progress.update()
        fooled = sorted((seed for seed in turns if judged[seed] > _LIKE_SUCCESS), key=lambda seed: -judged[seed])
        for seeds in [*list(by_mode.values())[:_WAYS], fooled]:
            for seed in [one for one in seeds if one in judged and one not in self._seen]:
                shown = self._run(seed)
                if not shown.outcomes[1].success:
                    self._show(seed, shown)
                    break

    def _run(self, seed: int) -> _Shown:
        (first, left, fps), (second, right, _) = (
            shot
            for policy, _ in (self.base, self.improved)
            for shot in film_episodes(self.demo.cell_id, PolicyActor(policy), [seed], self._kwargs)
        )
        labels = f"before: {outcome(first)}", f"after: {outcome(second)}"
        film = side_by_side(left, right, labels)
        return _Shown((first, second), film, fps, (self._values(0, seed), self._values(1, seed)))

    def _values(self, which: int, seed: int) -> list[tuple[float, float]]:
        if (which, seed) not in self._known:
            policy = (self.base, self.improved)[which][0]
            found = value_curve(self.demo.cell_id, PolicyActor(policy), self.model, seed, self._kwargs)
            self._known[which, seed] = found
        return self._known[which, seed]

    @property
    def _kwargs(self) -> dict[str, Any]:
        return {"preset": self.demo.preset}

    def _show(self, seed: int, shown: _Shown) -> None:
        self._seen.add(seed)
        labels = [f"{when}: {outcome(one)}" for when, one in zip(("before", "after"), shown.outcomes, strict=True)]
        said = []
        for when, one, values in zip(("Before", "After"), shown.outcomes, shown.values, strict=True):
            if one.success:
                continue
            mode = one.failure_mode
            said.append(f"{when}: {self.meanings.get(mode, mode)}.")
            if values[-1][1] > _LIKE_SUCCESS:
                said.append(
                    f"The value model says {values[-1][1]:.2f} at the end: it takes this failure for a success, so "
                    "nothing is learned against it in imagination."
                )
        path = write_video(self.demo.out / "films" / f"episode-{seed}.mp4", shown.film, shown.fps)
        self.films.append(Film(f"Episode {seed}, {', '.join(labels)}", path, " ".join(said)))
        lines = dict(zip(labels[::-1], shown.values[::-1], strict=True))
        self.curves.append(Curve(f"Value in episode {seed}", "seconds", "value", lines, " ".join([_READ_VALUE, *said])))


def imagined_films(demo: Demo, policy: Policy, model: CompositionalWorldModel) -> list[Film]:
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
    reading = (
        "The nearer the lower row is to the upper one, the better the imagination: look at the grippers and at what "
        "they hold. All of a chunk is imagined from its first moment; the value is of the imagined pictures."
    )
    return [Film("The same chunks in the cell (above) and in imagination (below)", path, reading)]
