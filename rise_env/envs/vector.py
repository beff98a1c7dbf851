"""Many imagined environments at once: `gym.make_vec("RISE-BrickSorting-v0", num_envs=...)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.advantage import ADVANTAGE_MODES, chunk_advantage, penalized
from rise_env.envs.arguments import autoreset_mode as parse_mode
from rise_env.envs.arguments import checked_actions, mask_of, option_of, options_of, seeds_of
from rise_env.envs.batch import (
    CandidateScores,
    Continuation,
    ImaginationBatch,
    observation_of,
    require_finite,
    rows_of,
    start_observations,
)
from rise_env.envs.drawing import picture
from rise_env.envs.infos import EpisodeInfos
from rise_env.envs.sources import PathLike, resolve
from rise_env.envs.starts import FILTERS, SPLITS, StartStates
from rise_env.errors import ConfigError, RiseError, check_known, requirement
from rise_env.spaces import action_space, check_lags, observation_space
from rise_env.world_model import CompositionalWorldModel, Imagined

__all__ = ["OUTPUTS", "SUCCESS_THRESHOLD", "ImaginationVectorEnv"]

OUTPUTS = ("numpy", "torch")

#: Progress that counts as success unless a caller or a bundle says otherwise.
SUCCESS_THRESHOLD = 0.95
#: Used where neither the caller nor the bundle gives a value.
_DEFAULTS = {"success_threshold": SUCCESS_THRESHOLD, "uncertainty_limit": None}
#: Methods whose result holds one entry per environment.
_PER_ENV = ("render", "film")


class ImaginationVectorEnv(VectorEnv[dict[str, Any], Any, Any]):
    """Imagination: a learned world model predicts what the cameras will see, and a value model scores it.

    `num_envs` environments are one batch of the models.

    **Observation**: Dict of `image_<camera>` uint8 (H, W, 3) and `state` float32 (D,), rad and m, and on request the
    same of a little while ago (`observation_lags`).
    **Action**: Box (chunk, D) float32: a chunk of absolute joint targets, rad and m, all of which is imagined. Targets
    beyond the joint limits are clamped and counted in `infos["clamped"]`. A wrong shape or a value that is not finite
    is an error, and nothing is imagined.
    **Reward**: the chunk's advantage, mean_k V(o_{t+k}) - V(o_t) over its imagined frames, raw.
    **Observation after a chunk**: its last imagined frame; `state` is what the dynamics model predicts for it, or the
    last commanded (clamped) target.
    **End**: `terminated` when progress at a chunk's end reaches `success_threshold`; else `truncated` after
    `max_chunks`, or where the uncertainty is above `uncertainty_limit`.
    **Start**: a recorded state, drawn by the environment's own generator.
    **Info**: arrays with `_key` masks: `value` (of the present frame), `progress` (the same, within [0, 1]),
    `advantage`, `uncertainty`, `is_success`, `clamped` (components), `imagined_chunks`, `episode_index` and
    `frame_index` (of the recorded start), `state_source` ("dataset" or "imagined"), `reward_backend`, `task`.

    Environment i behaves as it would alone, bit for bit as far as the models do: results of batched matrix products
    depend on the batch size in their last bits. `max_batch=1` takes that away as well, and is slower.

    Args:
        num_envs: Number of environments.
        task: Task whose bundle to use (`rise_env.bundle.find_bundle`).
        preset: Variant of that bundle.
        bundle: Bundle: a directory, or a repository on the Hugging Face Hub, "owner/name" or "owner/name@revision".
        dataset: LeRobot dataset (or several) whose states to start from, instead of the bundle's.
        starts: Directory or Hub id of start states, or `StartStates`, instead of the bundle's.
        world_model: Directory or Hub id of a world model, or a `CompositionalWorldModel`, instead of the bundle's.
        max_chunks: Chunks imagined from a recorded state before truncation.
        success_threshold: Progress that counts as success; None takes the bundle's, or 0.95.
        advantage: "mean", "last" or "tail"; see `rise_env.envs.advantage`.
        uncertainty: Source of the uncertainty; see `rise_env.world_model.UNCERTAINTIES`.
        uncertainty_limit: Truncate above it; None takes the bundle's, or never does.
        uncertainty_penalty: Subtracted from the reward per unit of uncertainty; `infos["advantage"]` stays raw.
        split: Start states to use: "train", "heldout" or None for all.
        observation_lags: Further observations of the past, so many control steps ago; see
            `rise_env.spaces.observation_space`.
        group_size: So many consecutive environments share a start state. They stay together only if they are reset
            together, as in autoreset mode "disabled".
        max_batch: Environments per call of the models; None for all.
        imagine: How the dynamics model imagines, where it should not as its checkpoint says, e.g.
            `{"flow.sigmas": [1, 0.9375, 0.8333, 0.625]}`; see `rise_env.dynamics.settings.SETTINGS`.
        device: "auto", "cpu", "cuda", ...; a `CompositionalWorldModel` stays where it is.
        output: "numpy", or "torch" for tensors on the device; then only a few numbers per environment are copied to
            the host. Infos are NumPy arrays in any case.
        autoreset_mode: "next_step", "same_step" or "disabled" (https://farama.org/Vector-Autoreset-Mode).
        render_mode: None or "rgb_array".

    Raises:
        ConfigError: If an argument is wrong, or something to load is missing.
        CheckpointError: If something to load is damaged.
        LayoutError: If start states and world model have different joints.

    Example:
        >>> from rise_env.testing import counting_starts, counting_world_model
        >>> envs = ImaginationVectorEnv(2, starts=counting_starts(), world_model=counting_world_model())
        >>> observation, infos = envs.reset(seed=0)
        >>> observation["image_head"].shape, infos["state_source"].tolist()
        ((2, 36, 40, 3), ['dataset', 'dataset'])
        >>> envs.step(envs.action_space.sample())[4]["state_source"].tolist()
        ['imagined', 'imagined']
        >>> envs.close()
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | None = None,
        preset: str | None = None,
        bundle: PathLike | None = None,
        dataset: str | Path | Sequence[str | Path] | None = None,
        starts: PathLike | StartStates | None = None,
        world_model: PathLike | CompositionalWorldModel | None = None,
        max_chunks: int = 2,
        success_threshold: float | None = None,
        advantage: str = "mean",
        uncertainty: str | None = None,
        uncertainty_limit: float | None = None,
        uncertainty_penalty: float = 0.0,
        split: str | None = "train",
        observation_lags: Sequence[int] = (),
        group_size: int = 1,
        max_batch: int | None = None,
        imagine: Mapping[str, Any] | None = None,
        device: str = "auto",
        output: str = "numpy",
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
    ) -> None:
        require = requirement("imagination environment")
        require.whole(1, num_envs=num_envs, max_chunks=max_chunks, group_size=group_size, max_batch=max_batch)
        require.within("[-inf, inf]", success_threshold=success_threshold, uncertainty_limit=uncertainty_limit)
        require.within("[0, inf)", uncertainty_penalty=uncertainty_penalty)
        require.one_of(("rgb_array",), render_mode=render_mode)
        check_known("output", output, OUTPUTS)
        check_known("advantage mode", advantage, ADVANTAGE_MODES)
        self.autoreset_mode = parse_mode(autoreset_mode)
        self.starts, self.world_model, defaults = resolve(
            task=task, preset=preset, bundle=bundle, dataset=dataset, starts=starts, world_model=world_model,
            uncertainty=uncertainty, max_batch=max_batch, imagine=imagine, device=device,
        )  # fmt: skip
        self.task = self.world_model.spec
        self.starts.rows(split)  # an empty split is an error now, not at the first reset
        given = {"success_threshold": success_threshold, "uncertainty_limit": uncertainty_limit}
        chosen = {**_DEFAULTS, **defaults, **{key: value for key, value in given.items() if value is not None}}
        self.num_envs, self.render_mode, self.output = num_envs, render_mode, output
        self.max_chunks, self.advantage_mode, self.split = max_chunks, advantage, split
        self.group_size, self.uncertainty_penalty = group_size, uncertainty_penalty
        self.success_threshold: float = chosen["success_threshold"]
        self.uncertainty_limit: float | None = chosen["uncertainty_limit"]
        self.single_observation_space: gymnasium.spaces.Dict = observation_space(self.task, observation_lags)
        #: Control steps that each part of the observation lies in the past, the present first.
        self.lags = (0, *check_lags(self.task, observation_lags))
        self.single_action_space = action_space(self.task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        fps = max(1, round(self.task.fps / self.task.chunk))
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": fps, "autoreset_mode": self.autoreset_mode}
        #: Control steps that one action stands for.
        self.actions_per_step = self.task.chunk

        self._batch = ImaginationBatch(self.world_model, self.starts, num_envs, self.lags)
        self._device = self.world_model.device
        self._imagined: tuple[np.ndarray, Imagined] | None = None
        self._done = np.zeros(num_envs, bool)
        source = self.world_model.dynamics if self.world_model.reward_source == "dynamics" else self.world_model.value
        self._episodes = EpisodeInfos(num_envs, type(source).__name__)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start episodes from recorded states.

        Args:
            seed: One seed per environment, or an int s that gives environment i the seed s + i. None goes on with the
                generators as they are.
            options: `reset_mask`, bool (num_envs,) with at least one True: reset these only. `episode_index`,
                `frame_index`, `group`, `start_index` (row of the start states): one number, or one (or None) per
                environment; an environment that is given one of these may start in any split. `split` and `group_size`:
                for this reset, as in the constructor. Other keys are ignored and the dict is not changed.

        Raises:
            ConfigError: If seeds or options do not fit, or no start state matches; nothing is reset then.
        """
        options = options_of(options)
        seeds, mask = seeds_of(seed, self.num_envs), mask_of(options.get("reset_mask"), self.num_envs)
        self._start(np.flatnonzero(mask), options, seeds)
        self._imagined = None
        return self._observe(), self._episodes.infos(mask)

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """Imagine a chunk in every environment.

        Args:
            actions: (num_envs, chunk, D) absolute joint targets, rad and m; an array or a tensor.

        Raises:
            ActionError: If the actions have the wrong shape or are not finite; nothing is imagined.
            RiseError: Before the first reset; in autoreset mode "disabled", if an episode has ended and was not reset;
                or if the world model gives values that are not finite.
        """
        self._batch.session()
        if self.autoreset_mode == AutoresetMode.DISABLED and self._done.any():
            raise RiseError(
                f"the episodes of environments {np.flatnonzero(self._done).tolist()} have ended: reset them first with "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        beginning = self._done.copy()  # these were left over for this step by mode "next_step"
        running = ~beginning
        chunks, clamped = checked_actions(actions, running, self.task.chunk, self.task.layout, self._device)
        rewards = torch.zeros(self.num_envs, device=self._device)
        terminated = truncated = np.zeros(self.num_envs, bool)
        self._imagined = None
        if running.any():
            terminated, truncated = self._advance(np.flatnonzero(running), chunks, clamped, rewards)
        if beginning.any():
            self._start(np.flatnonzero(beginning), {}, None)
        over = terminated | truncated
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and over.any():
            final = {"final_obs": rows_of(self._observe(), over), "_final_obs": over.copy()}
            final |= {"final_info": self._episodes.infos(over, over), "_final_info": over.copy()}
            self._start(np.flatnonzero(over), {}, None)
        else:
            self._done = over
        stepped = running & ~over if final else running
        infos = self._episodes.infos(np.ones(self.num_envs, bool), stepped) | final
        if self.output == "torch":
            over_tensors = torch.as_tensor(np.stack([terminated, truncated]), device=self._device)
            return self._observe(), rewards, over_tensors[0].clone(), over_tensors[1].clone(), infos
        return self._observe(), rewards.cpu().numpy(), terminated.copy(), truncated.copy(), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One uint8 (H, W, 3) picture per environment: the views, with value and advantage below."""
        if self.render_mode is None:
            return None
        self._batch.session()
        frames, episodes = self._batch.frames[:, 0].cpu().numpy(), self._episodes
        texts = [episodes.texts(i, self.max_chunks) for i in range(self.num_envs)]
        return tuple(picture(frames[i], texts[i], float(episodes.progress[i])) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """End the imaginations."""
        self._batch.close()
        self._imagined = None

    def film(self) -> tuple[list[np.ndarray], ...]:
        """Pictures of every frame that the last step imagined, per environment; none where it began an episode.

        Raises:
            RiseError: If `render_mode` is not "rgb_array".
        """
        if self.render_mode is None:
            raise RiseError('film() needs render_mode="rgb_array": only then the last chunk is kept')
        films: list[list[np.ndarray]] = [[] for _ in range(self.num_envs)]
        if self._imagined is not None:
            rows, imagined = self._imagined
            values = imagined.values.cpu().numpy()
            frames = imagined.frames(range(values.shape[1])).cpu().numpy()
            for place, i in enumerate(rows):
                for k, value in enumerate(values[place], 1):
                    texts = [f"value {value:.3f}", f"frame {k}/{len(values[place])}"]
                    films[i].append(picture(frames[place, k - 1], texts, float(value)))
        return tuple(films)

    def evaluate_candidates(
        self, actions: Any, continuation: Continuation | None = None, lookahead: int = 0
    ) -> CandidateScores:
        """Advantages of several chunks from every environment's present state; the environments stay where they are.

        No picture is decoded where the reward source needs none. All chunks of an environment are imagined from the
        same noise, that of its next step, so that only the actions differ.

        Args:
            actions: (num_envs, G, chunk, D) absolute joint targets, rad and m; an array or a tensor.
            continuation: Who goes on after each of them, `lookahead` chunks further: the advantage is that of the last
                chunk then, still against the value now, and the uncertainty the largest. Needed where a mistake shows
                later than within a chunk.
            lookahead: Chunks to go on for.

        Raises:
            ActionError: If the actions have the wrong shape or are not finite.
            ConfigError: If there is a lookahead and nobody who goes on.
            RiseError: Before the first reset, or if the world model gives values that are not finite.
        """
        return self._batch.evaluate_candidates(actions, self.advantage_mode, continuation, lookahead)

    def start_observations(self, rows: np.ndarray) -> dict[str, Any]:
        """What `reset` would show at start states, by their numbers, int64 (n,); nothing is started."""
        return start_observations(self.starts, rows, self.task, self.lags, self.output == "torch")

    def recorded_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """What was done in the recorded states that the environments are in: chunks float32 (num_envs, chunk, D).

        The mask bool (num_envs,) beside them is False, and the chunk NaN, where the present state is an imagined one
        or nothing was recorded.
        """
        self._batch.session()
        mask = self._episodes.imagined_chunks == 0
        chunks = np.full((self.num_envs, self.task.chunk, self.task.layout.dim), np.nan, np.float32)
        if self.starts.actions is None:
            return chunks, np.zeros_like(mask)
        chunks[mask] = self.starts.actions[self._batch.start_rows[mask]]
        return chunks, mask

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method, or read an attribute; one result per environment.

        `render` and `film` give each environment its own; anything else belongs to the batch, and is repeated.
        """
        attribute: Any = getattr(self, name)
        result = attribute(*args, **kwargs) if callable(attribute) else attribute
        return tuple(result) if name in _PER_ENV and result is not None else (result,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute, which all environments share.

        Raises:
            ConfigError: If `values` is a list or tuple that does not hold `num_envs` equal values.
        """
        if isinstance(values, list | tuple):
            if len(values) != self.num_envs or any(value != values[0] for value in values):
                raise ConfigError(f"{name} is shared by all {self.num_envs} environments: give one value, not {values}")
            values = values[0]
        setattr(self, name, values)

    def _start(self, rows: np.ndarray, options: dict[str, Any], seeds: list[int | None] | None) -> None:
        """Begin episodes in some environments."""
        if not self._batch.started and len(rows) < self.num_envs:
            raise ConfigError("reset_mask leaves environments out, but the first reset must be of all")
        pairs = [(None if seeds is None else seeds[i], self._batch.generators[i]) for i in rows]
        generators = [old if seed is None else seeding.np_random(seed)[0] for seed, old in pairs]
        filters = {key: option_of(key, options.get(key), rows, self.num_envs) for key in FILTERS}
        free = [all(value is None for value in wanted) for wanted in zip(*filters.values(), strict=True)]
        split = options["split"] if "split" in options else [self.split if one else None for one in free]
        if not isinstance(split, str | list | None):
            raise ConfigError(f"reset: option split is {split!r:.80}, expected one of {', '.join(SPLITS)}, or None")
        group_size = self.group_size if options.get("group_size") is None else options["group_size"]
        chosen = self.starts.sample(generators, positions=rows, split=split, group_size=group_size, **filters)
        batch, values = self._batch.start(rows, chosen, generators)
        self._episodes.begin(rows, batch, values)
        self._done[rows] = False

    def _advance(
        self, rows: np.ndarray, chunks: torch.Tensor, clamped: np.ndarray, rewards: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Imagine one chunk in some environments; fills in their rewards and tells which episodes ended."""
        index = torch.from_numpy(rows).to(self._device)
        chunks = chunks if len(rows) == self.num_envs else chunks[index]
        session, imagined = self._batch.imagine(rows, chunks)
        advantage = chunk_advantage(imagined.values, session.value, self.advantage_mode)
        reward = penalized(advantage, imagined.uncertainty, self.uncertainty_penalty)
        table = torch.stack([imagined.values[:, -1], advantage, imagined.uncertainty, reward]).float()
        value, plain_advantage, uncertainty, _ = numbers = table.cpu().numpy()
        require_finite(numbers.sum(0), rows)
        rewards[index] = table[3]
        self._batch.advance(rows, chunks, imagined)
        self._imagined = (rows, imagined) if self.render_mode else None

        step = {"advantage": plain_advantage, "uncertainty": uncertainty, "clamped": clamped[rows]}
        self._episodes.advance(rows, self.success_threshold, value, **step)
        success, spent = self._episodes.is_success[rows], self._episodes.imagined_chunks[rows] >= self.max_chunks
        if self.uncertainty_limit is not None:
            spent |= uncertainty > self.uncertainty_limit
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        terminated[rows], truncated[rows] = success, spent & ~success
        return terminated, truncated

    def _observe(self) -> dict[str, Any]:
        frames, states, cameras = self._batch.frames, self._batch.states, list(self.task.cameras)
        return observation_of(frames, states, cameras, self.lags, self.output == "torch")
