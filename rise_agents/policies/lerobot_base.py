"""LeRobotBase: any LeRobot policy that predicts action chunks, as a frozen base to evaluate and to compare with."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from rise_agents.policies.base import observation_tensors, stack_views
from rise_agents.policies.lerobot_loading import check_features, image_batch, load_lerobot, task_cameras
from rise_env.errors import ActionError, ConfigError, requirement
from rise_env.tasks import TaskSpec

__all__ = ["LeRobotBase"]

_DETERMINISTIC = ("act",)  # types that draw no random numbers when they act
_CUT = ("diffusion", "multi_task_dit")  # types that give n_action_steps away of the steps that they predict


class LeRobotBase:
    """A LeRobot policy in our environments: a `rise_env.acting.Actor`.

    The random numbers of an episode depend on its seed alone. LeRobot draws them from torch's global generator, so a
    policy that draws any is asked for one environment at a time.

    Args:
        policy: LeRobot's PreTrainedPolicy, with `predict_action_chunk`.
        preprocessor: Its pre-processing; what it returns goes into the policy.
        postprocessor: Its post-processing of actions.
        spec: Task.
        cameras: Camera of the task to image feature of the policy; the task's own dataset keys when None.
        history: For a policy that reads n > 1 observations, where the past ones come from: "lags" (the environment
            must be made with observation_lags 1 to n - 1) or "repeat" (the present one again, as LeRobot does at the
            start of an episode; nothing then seems to move).
        batched: Whether all environments go through the policy at once; None decides by the policy's type.
        any_image_size: Take images of another size than the policy was trained with; for policies that resize.

    Raises:
        ConfigError: If the policy's features do not fit the task.
    """

    def __init__(
        self,
        policy: Any,
        preprocessor: Any,
        postprocessor: Any,
        spec: TaskSpec,
        *,
        cameras: Mapping[str, str] | None = None,
        history: str = "lags",
        batched: bool | None = None,
        any_image_size: bool = False,
    ) -> None:
        self.policy, self.spec = policy.eval().requires_grad_(False), spec
        self.preprocessor, self.postprocessor = preprocessor, postprocessor
        self.cameras = task_cameras(spec, cameras)
        requirement("LeRobotBase").one_of(("lags", "repeat"), history=history)
        past = int(getattr(policy.config, "n_obs_steps", 1)) - 1
        self.lags = tuple(range(1, past + 1)) if history == "lags" else ()
        self._repeats = past - len(self.lags)
        self.batched = policy.config.type in _DETERMINISTIC if batched is None else batched
        check_features(policy.config, spec, self.cameras, any_image_size)
        if policy.config.type in _CUT:
            policy.config.n_action_steps = policy.config.horizon - past
        self._seeds: list[int] = []
        self._chunks: list[int] = []

    @classmethod
    def from_pretrained(
        cls, path: str | Path, spec: TaskSpec, *, device: str | torch.device = "cpu", **arguments: Any
    ) -> Self:
        """Load a checkpoint of LeRobot: policy, pre-processing and post-processing.

        A pre-processing that puts the advantage into the prompt (`advantage_prompt`) asks for the best.

        Args:
            path: Directory, or id of a repository on the Hugging Face Hub.
            spec: Task.
            device: Where to put the weights.
            **arguments: Further arguments of `LeRobotBase`.

        Raises:
            CheckpointError: If something is missing or damaged, wants code of a stranger, or was not loaded.
            ConfigError: If the policy's features do not fit the task.
        """
        from rise_agents.policies.pi05_processor import AdvantagePromptProcessorStep

        loaded = load_lerobot(path, device)
        for step in loaded.preprocessor.steps:
            if isinstance(step, AdvantagePromptProcessorStep) and step.absent == "error":
                step.absent = "best"
        return cls(loaded.policy, loaded.preprocessor, loaded.postprocessor, spec, **arguments)

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """Seed the episodes that start."""
        if len(self._seeds) != len(seeds):
            self._seeds, self._chunks = [0] * len(seeds), [0] * len(seeds)
        for i in np.flatnonzero(mask):
            self._seeds[i], self._chunks[i] = int(seeds[i]), 0

    def fresh(self) -> Self:
        """The same policy, without the memory of any episode; weights are shared."""
        twin = copy.copy(self)
        twin._seeds, twin._chunks = [], []
        return twin

    def act(self, observations: Mapping[str, Any], prompts: Sequence[str] | None = None) -> np.ndarray:
        """Action chunks float32 (N, chunk, D), rad and m, within the joint limits; `prompts` are the task's when None.

        Raises:
            ConfigError: If the observation lacks something, or the policy's chunks are shorter than the task's.
            ActionError: If the policy's actions are not finite.
        """
        tensors = observation_tensors(observations)
        frames, states = stack_views(tensors, self.spec, self.lags)
        count = len(states)
        if len(self._seeds) != count:
            raise ConfigError(f"reset was called for {len(self._seeds)} environments, the observation has {count}")
        parts = [slice(0, count)] if self.batched else [slice(i, i + 1) for i in range(count)]
        said = [self.spec.prompt] * count if prompts is None else list(prompts)
        chunks = [self._predict(frames[part], states[part], said[part], part.start) for part in parts]
        self._chunks = [chunk + 1 for chunk in self._chunks]
        found = torch.cat(chunks).float().cpu().numpy()
        if found.shape[1] < self.spec.chunk:
            raise ConfigError(
                f"the policy predicts {found.shape[1]} steps, the task's chunk has {self.spec.chunk}: train it with "
                "longer chunks, or make the task's shorter (task.chunk, or a preset)"
            )
        if not np.isfinite(found).all():
            raise ActionError("the policy's actions are not finite (NaN or infinity)")
        return np.clip(found[:, : self.spec.chunk], self.spec.layout.low, self.spec.layout.high)

    @torch.no_grad()
    def _predict(self, frames: torch.Tensor, states: torch.Tensor, prompts: Sequence[str], row: int) -> torch.Tensor:
        """Actions (B, T, D) of a batch; `row` is the environment that its random numbers belong to."""
        self.policy.reset()  # nothing of the chunk or the environment before
        with _seeded(self._seeds[row], self._chunks[row], next(self.policy.parameters()).device):
            # The oldest first; the pre-processing remembers the last state, from which relative actions count.
            order = reversed(range(frames.shape[1]))
            moments = [self.preprocessor(self._batch(frames[:, k], states[:, k], prompts)) for k in order]
            batch = self._fill_queues([*moments, *moments[-1:] * self._repeats])
            return self.postprocessor(self.policy.predict_action_chunk(batch))

    def _batch(self, frames: torch.Tensor, states: torch.Tensor, prompts: Sequence[str]) -> dict[str, Any]:
        """A batch of LeRobot: images float32 (B, 3, H, W) in [0, 1], state and task."""
        from lerobot.utils.constants import OBS_STATE

        return {OBS_STATE: states, "task": list(prompts), **image_batch(frames, self.spec, self.cameras)}

    def _fill_queues(self, moments: list[dict[str, Any]]) -> dict[str, Any]:
        """Fill the observation queues, if the policy has any; the batch for `predict_action_chunk`."""
        from lerobot.policies.utils import populate_queues
        from lerobot.utils.constants import ACTION, OBS_IMAGES

        queues = getattr(self.policy, "_queues", None) or {}
        if not any(key != ACTION for key in queues):
            return moments[-1]
        batch: dict[str, Any] = {}
        for moment in moments:
            batch = {key: value for key, value in moment.items() if key != ACTION}
            if OBS_IMAGES in queues:
                images = [batch[key] for key in self.policy.config.image_features]
                batch[OBS_IMAGES] = torch.stack(images, dim=-4)
            populate_queues(queues, batch)
        return batch


@contextlib.contextmanager
def _seeded(seed: int, chunk: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for a while, and give them back as they were."""
    devices = [device] if device.type == "cuda" else []
    mixed = np.random.SeedSequence([seed, chunk]).generate_state(1, np.uint64)[0]
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(mixed) >> 1)
        yield
