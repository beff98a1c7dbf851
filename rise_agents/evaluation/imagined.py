"""What a policy reaches in imagination: the number that algorithms raise, measured the same way for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from rise_env.acting import Actor
from rise_env.data import Dataset, split_episodes
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.envs.starts import StartStates
from rise_env.tasks import TaskSpec
from rise_env.world_model import CompositionalWorldModel

__all__ = ["ImaginedReturns", "Played", "held_out_starts"]

_TOGETHER = 32


def held_out_starts(dataset: Dataset, spec: TaskSpec, states: int, seed: int = 0) -> StartStates:
    """Recorded states of the episodes that nothing is trained on."""
    held_out = {"heldout": split_episodes(dataset)["heldout"]}
    return starts_from_dataset(dataset, spec, states, seed, splits=held_out)


class Played(NamedTuple):
    """What came of every state.

    Attributes:
        returns: Sum of the advantages of the chunks from there, float64 (states,).
        values: Value at the state and after each chunk, float64 (states, chunks + 1); it stays where an episode ended.
    """

    returns: np.ndarray
    values: np.ndarray


class ImaginedReturns:
    """Imagines what a policy does at recorded states, the same ones under the same noise every time.

    Args:
        env_id: Id of an imagination environment.
        starts: Recorded states; all are used, whatever their split.
        world_model: Imagines and scores.
        chunks: Chunks in a row from each of them.
        lags: `observation_lags` of the policies.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        env_id: str,
        starts: StartStates,
        world_model: CompositionalWorldModel,
        chunks: int,
        lags: Any,
        seed: int = 0,
    ) -> None:
        self._count, self._chunks, self._seed, self._id = len(starts), chunks, seed, env_id
        self._kwargs: dict[str, Any] = {
            "world_model": world_model, "starts": starts, "split": None, "max_chunks": chunks,
            "observation_lags": sorted(lags), "autoreset_mode": "disabled",
        }  # fmt: skip
        self._env = self._make(min(_TOGETHER, len(starts)))

    def __call__(self, actor: Actor) -> np.ndarray:
        """Return of every state, float64 (states,): the sum of the advantages of the chunks from there."""
        return self.play(actor).returns

    def play(self, actor: Actor) -> Played:
        """Returns and values of every state."""
        env, found, values = self._env, np.zeros(self._count), np.zeros((self._count, self._chunks + 1))
        for first in range(0, self._count, env.num_envs):
            rows = np.minimum(np.arange(first, first + env.num_envs), self._count - 1)
            observations, infos = self._reset(env, actor, rows)
            over, total = np.zeros(len(rows), bool), np.zeros(len(rows))
            course = [infos["value"].astype(float)]
            for _ in range(self._chunks):
                chunks = actor.act(observations)
                if over.any():  # the ended ones must not be stepped on: begin anew there, and count it no more
                    env.reset(options={"reset_mask": over})
                observations, rewards, terminated, truncated, infos = env.step(chunks)
                total += np.where(over, 0.0, rewards)
                course.append(np.where(over, course[-1], infos["value"]))
                over |= terminated | truncated
                if over.all():
                    break
            course += [course[-1]] * (self._chunks + 1 - len(course))
            found[rows] = total  # the last rows repeat one state, which gives the same every time
            values[rows] = np.stack(course, axis=1)
        return Played(found, values)

    def films(self, actor: Actor, rows: Sequence[int]) -> list[np.ndarray]:
        """Pictures uint8 (T, H, W, 3) of what comes of some states, by their numbers: start and imagined frames."""
        env = self._make(len(rows), render_mode="rgb_array")
        observations, _ = self._reset(env, actor, np.asarray(rows))
        films = [[picture] for picture in env.render()]
        over = np.zeros(len(rows), bool)
        for _ in range(self._chunks):
            chunks = actor.act(observations)
            if over.any():
                env.reset(options={"reset_mask": over})
            observations, _, terminated, truncated, _ = env.step(chunks)
            for film, pictures, ended in zip(films, env.film(), over, strict=True):
                film.extend(pictures if not ended else ())
            over |= terminated | truncated
            if over.all():
                break
        env.close()
        return [np.stack(_same_size(film)) for film in films]

    def _make(self, count: int, **kwargs: Any) -> Any:
        return gymnasium.make_vec(self._id, num_envs=count, **self._kwargs, **kwargs).unwrapped

    def _reset(self, env: Any, actor: Actor, rows: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        seeds = (self._seed + rows).tolist()
        observations, infos = env.reset(seed=seeds, options={"start_index": rows.tolist()})
        actor.reset(seeds, np.ones(len(rows), bool))
        return observations, infos


def _same_size(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures with more lines of text below are higher: what is missing below the others becomes dark."""
    height = max(picture.shape[0] for picture in pictures)
    return [np.pad(one, ((0, height - one.shape[0]), (0, 0), (0, 0)), constant_values=24) for one in pictures]
