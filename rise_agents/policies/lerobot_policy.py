"""What LeRobot's generative policies have in common when they are trained here, conditioned on an advantage.

LeRobot's network stays LeRobot's: one of its layers gets a companion that adds an embedding of the advantage bin to
what the layer puts out (`WithAdvantage`). The embeddings start at zero, so that a policy acts as it did until it has
learned; and for any one bin they are part of the layer's bias, so that `save_lerobot` writes a plain policy of LeRobot.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rise_agents.policies.base import Policy
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.lerobot_loading import Loaded, check_features, load_lerobot, task_cameras
from rise_env.errors import ConfigError, requirement
from rise_env.tasks import TaskSpec

__all__ = ["LeRobotPolicy", "LeRobotPolicyConfig", "WithAdvantage", "guided"]

_FILES = "lerobot"  # folder inside a checkpoint: LeRobot's configuration and pre- and post-processing
_STILL = 1e-6  # range of a joint below which it stood still in the data
#: Steps of processing that a chunk may go through: what is more would have to be undone in training.
_BEFORE = {
    "RenameObservationsProcessorStep", "AddBatchDimensionProcessorStep", "DeviceProcessorStep",
    "NormalizerProcessorStep", "NewLineTaskProcessorStep", "TokenizerProcessorStep",
}  # fmt: skip
_AFTER = {"UnnormalizerProcessorStep", "DeviceProcessorStep"}


@dataclass(frozen=True)
class LeRobotPolicyConfig:
    """Settings of a `LeRobotPolicy`, besides LeRobot's own.

    Attributes:
        cameras: Camera of the task to image feature of LeRobot's policy.
        steps: Denoising steps when acting.
        noise_samples: Noises and times drawn per chunk in training.
        condition_dropout: Part of the training samples whose advantage bin is left out, for classifier-free guidance.
    """

    cameras: dict[str, str] = field(default_factory=dict)
    steps: int = 10
    noise_samples: int = 1
    condition_dropout: float = 0.1

    def __post_init__(self) -> None:
        require = requirement("section 'policy'")
        require.at_least(1, self, "steps", "noise_samples")
        require.within("[0, 1)", self, "condition_dropout")


class WithAdvantage(nn.Module):
    """A layer of LeRobot's that adds an embedding of the advantage bin to what it puts out.

    It takes the bin as one more entry at the end of its input (B, ..., F + 1).

    Args:
        layer: The layer, or a sequence of which the last is linear.
        num_bins: Number of bins, that of no advantage included.
        flat: Whether the layer takes its input without the axis F, of which there is then one.
    """

    def __init__(self, layer: nn.Module, num_bins: int, flat: bool = False) -> None:
        super().__init__()
        self.layer, self.flat = layer, flat
        last = _last(layer)
        self.advantage = nn.Embedding(num_bins, last.out_features, device=last.weight.device, dtype=last.weight.dtype)
        nn.init.zeros_(self.advantage.weight)

    def forward(self, packed: torch.Tensor) -> torch.Tensor:
        """The layer's output for an input and the bins packed behind it."""
        values = packed[..., 0] if self.flat else packed[..., :-1]
        found: torch.Tensor = self.layer(values) + self.advantage(packed[..., -1].round().long())
        return found

    @staticmethod
    def pack(values: torch.Tensor, advantage_bins: torch.Tensor) -> torch.Tensor:
        """Inputs (B, ..., F) and bins (B,) as (B, ..., F + 1)."""
        bins = advantage_bins.to(values).view(-1, *[1] * (values.dim() - 1)).expand(*values.shape[:-1], 1)
        return torch.cat([values, bins], dim=-1)

    def folded(self, advantage_bin: int) -> nn.Module:
        """A layer of LeRobot's own kind that always puts out what this one does for a bin."""
        layer = copy.deepcopy(self.layer)
        with torch.no_grad():
            _last(layer).bias.add_(self.advantage.weight[advantage_bin])
        return layer


def _last(layer: nn.Module) -> nn.Linear:
    found = layer[-1] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(found, nn.Linear)
    return found


class LeRobotPolicy(Policy):
    """A policy of LeRobot that starts from noise, trained here on chunks and their advantages.

    It keeps the normalisation that it was trained with. Where its chunks are longer than the task's, those learned are
    filled up with copies of their first and last actions, as LeRobot does at the ends of an episode, and what was
    filled up does not count.

    Args:
        spec: Task.
        config: Settings.
        codec: Meaning of the advantage bins.
        loaded: LeRobot's policy with its processing; taken over, not copied.

    Attributes:
        lerobot_type: LeRobot's name of what this class trains.
        network: LeRobot's policy.
        first: Where the task's chunk begins among the steps that the network denoises.

    Raises:
        ConfigError: If they do not fit each other.
    """

    format_version = 1
    upgrades: ClassVar = {}
    Config = LeRobotPolicyConfig
    lerobot_type: ClassVar[str]
    first: int = 0
    offset: torch.Tensor
    scale: torch.Tensor

    def __init__(self, spec: TaskSpec, config: LeRobotPolicyConfig, codec: AdvantageCodec, loaded: Loaded) -> None:
        super().__init__()
        self.spec, self.config, self.codec = spec, config, codec
        self.network: Any = loaded.policy.eval()
        self.network.config.pretrained_path = None  # not to be written: a path of this machine
        self.preprocessor, self.postprocessor = loaded.preprocessor, loaded.postprocessor
        if (found := self.network.config.type) != self.lerobot_type:
            raise ConfigError(f"the policy is of LeRobot's type {found!r}, expected {self.lerobot_type!r}")
        if self.network.config.compile_model:
            raise ConfigError("the policy is compiled: set compile_model to false in its config.json")
        check_features(self.network.config, spec, task_cameras(spec, config.cameras))
        for pipeline, known in ((self.preprocessor, _BEFORE), (self.postprocessor, _AFTER)):
            if unknown := [name for step in pipeline.steps if (name := type(step).__name__) not in known]:
                raise ConfigError(
                    f"the policy's processing has the steps {', '.join(unknown)}, through which chunks cannot be "
                    f"learned here; known are {', '.join(sorted(known))}. It can be evaluated and served as it is."
                )
        if (length := self._length - self.first) < spec.chunk:
            raise ConfigError(f"the policy predicts {length} steps, the task's chunk has {spec.chunk}")
        # Every normalisation of LeRobot is a scale and an offset per joint.
        with torch.no_grad():
            zero, one = (self.postprocessor(torch.full((1, spec.layout.dim), value))[0] for value in (0.0, 1.0))
        self.register_buffer("offset", zero.to(self.device))
        self.register_buffer("scale", (one - zero).to(self.device))

    @property
    @abstractmethod
    def _length(self) -> int:
        """Steps that the network denoises."""

    @property
    @abstractmethod
    def _width(self) -> int:
        """Numbers per step that the network denoises; the task's joints are the first."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the initial noise of one chunk; the network denoises what is filled up as well."""
        return (self._length, self._width)

    def fit_normalisation(self, states: torch.Tensor, chunks: torch.Tensor) -> None:
        """Not possible: the weights were trained with LeRobot's statistics.

        Raises:
            ConfigError: Always.
        """
        del states, chunks
        raise ConfigError("a policy of LeRobot keeps the statistics that it was trained with; train it anew there")

    def normalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Chunks (B, chunk, D) in rad and m to what the network denoises, (B, *noise_shape).

        A joint that stood still in LeRobot's data says nothing: it is 0.
        """
        del state
        still = self.scale.abs() < _STILL
        scaled = torch.where(still, 0.0, (chunks - self.offset) / torch.where(still, 1.0, self.scale))
        after = self._length - self.first - scaled.shape[1]
        filled = [scaled[:, :1].expand(-1, self.first, -1), scaled, scaled[:, -1:].expand(-1, after, -1)]
        return nn.functional.pad(torch.cat(filled, dim=1), (0, self._width - scaled.shape[-1]))

    def denormalise(self, chunks: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Inverse of `normalise`."""
        del state
        return chunks.reshape(-1, *self.noise_shape)[self._known] * self.scale + self.offset

    @property
    def _known(self) -> tuple[slice, slice, slice]:
        """Where the task's chunk lies in what the network denoises."""
        return slice(None), slice(self.first, self.first + self.spec.chunk), slice(self.spec.layout.dim)

    def _mean_square(self, error: torch.Tensor) -> torch.Tensor:
        """Mean square of each chunk, (B,), over its draws, (draws x B, *noise_shape), where the chunk is known."""
        squares = error[self._known].square().mean(dim=(1, 2))
        return squares.unflatten(0, (self.config.noise_samples, -1)).mean(dim=0)

    # ------------------------------------------------------------------ files

    @classmethod
    def from_lerobot(
        cls,
        path: str | Path,
        spec: TaskSpec,
        *,
        codec: AdvantageCodec | None = None,
        cameras: Mapping[str, str] | None = None,
        device: str | torch.device = "cpu",
        **settings: Any,
    ) -> Self:
        """Take over a checkpoint of LeRobot.

        Args:
            path: Directory, or id of a repository on the Hugging Face Hub.
            spec: Task.
            codec: Meaning of the advantage bins.
            cameras: Camera of the task to image feature of the checkpoint; the task's own dataset keys when None.
            device: Where to put the weights.
            **settings: Further settings of `LeRobotPolicyConfig`; they outweigh what the checkpoint says.

        Raises:
            CheckpointError: If something is missing, damaged or does not fit.
            ConfigError: If it does not fit the task.
        """
        loaded = load_lerobot(path, device)
        said = {"cameras": task_cameras(spec, cameras), **cls._settings_of(loaded.policy.config), **settings}
        return cls(spec, cls.Config(**said), codec or AdvantageCodec(), loaded).to(device).eval()

    @classmethod
    def _settings_of(cls, config: Any) -> dict[str, Any]:
        """What LeRobot's configuration says of ours."""
        del config
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """A policy as `get_config` describes it, with LeRobot's part of the checkpoint."""
        return cls(*cls.parts_of(config), load_lerobot(folder / _FILES, device, weights=False))

    def save_files(self, folder: Path) -> None:
        """Write LeRobot's configuration and processing."""
        self._save_processing(folder / _FILES, self.network.config)

    def save_lerobot(self, folder: Path) -> None:
        """Write a plain policy of LeRobot, which knows no advantage but the best (see `Policy.save_lerobot`)."""
        twin = copy.deepcopy(self.network)
        self._fold(twin, self.codec.best_bin)
        twin.config.n_action_steps = self.spec.execute
        self._save_processing(folder, twin)

    def _save_processing(self, folder: Path, *parts: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in (*parts, self.preprocessor, self.postprocessor):
            part.save_pretrained(folder)

    @abstractmethod
    def _fold(self, network: Any, advantage_bin: int) -> None:
        """Make a network of LeRobot's a plain one that acts as for a bin."""

    def _bins_of(self, advantage_bins: torch.Tensor, guidance: float) -> Sequence[torch.Tensor]:
        """Bins to ask for: with guidance those of no advantage as well."""
        none = torch.full_like(advantage_bins, self.codec.unconditional)
        return [advantage_bins] if guidance == 1.0 else [advantage_bins, none]


def guided(found: Sequence[torch.Tensor], guidance: float) -> torch.Tensor:
    """Classifier-free guidance of predictions with and, where it is not 1, without advantage."""
    return found[0] if len(found) == 1 else found[1] + guidance * (found[0] - found[1])
