"""Configuration of the value model: the `value` section of a preset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from rise_env.config import decode, load_config
from rise_env.errors import requirement, unknown_name
from rise_env.pretrained import STORAGES
from rise_env.training.config import LoopConfig

__all__ = ["HEADS", "LabelConfig", "ModelConfig", "TDConfig", "TrainingConfig", "ValueConfig", "load_value_config"]

#: Heads that a value model may have. `progress`: [0, 1]. `td`: [-1, 1]. `success`: probability that the episode
#: succeeds. `distributional`: 201 bins over the normalised return in [-1, 0] (RECAP).
HEADS = ("progress", "td", "success", "distributional")
#: What `ValueModel.estimate` may return: one head, or a weighted mean of several.
OUTPUTS = (*HEADS, "blend")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a value model.

    Attributes:
        reads_latents: Read the dynamics' latents instead of pixels.
        channels: Width of each convolution; every one but `flat_convs` of the first halves the image.
        flat_convs: Leading convolutions with stride 1; 1 for latents, which are small already.
        embed: Features per view.
        hidden: Width of an ensemble member's trunk.
        depth: Layers of a member's trunk.
        members: Ensemble members M; 1 gives no spread.
        prior_scale: Weight of the fixed random network added to each member, which keeps members apart away from the
            data; 0 for none.
        text_vocabulary: Buckets of the hashed-word text encoder.
        text_embed: Width of the text embedding.
        backbone: Local directory or Hub id of a vision model of transformers (DINOv2, SigLIP, ...) in place of the
            convolutions; empty for none.
        backbone_size: Height and width that images are resized to for the backbone.
        freeze_backbone: Train only what comes after the backbone.
        heads: Heads to build, of `HEADS`.
        output: What `estimate` returns, of `OUTPUTS`.
        blend: Weights by head for `output: blend`; they need not sum to one.
        bins: Bins of the distributional head.
        storage: Matrices on disk in "fp32", "fp16" or "int8".
    """

    reads_latents: bool = False
    channels: tuple[int, ...] = (16, 32, 64, 96)
    flat_convs: int = 0
    embed: int = 128
    hidden: int = 128
    depth: int = 2
    members: int = 4
    prior_scale: float = 0.0
    text_vocabulary: int = 1024
    text_embed: int = 32
    backbone: str = ""
    backbone_size: tuple[int, int] = (224, 224)
    freeze_backbone: bool = False
    heads: tuple[str, ...] = ("progress", "td", "success")
    output: str = "progress"
    blend: dict[str, float] = field(default_factory=lambda: {"progress": 0.5, "success": 0.5})
    bins: int = 201
    storage: str = "fp32"

    def __post_init__(self) -> None:
        require = requirement("section 'value.model'")
        require(bool(self.channels) or bool(self.backbone), "channels is empty")
        require(0 <= self.flat_convs <= len(self.channels), "flat_convs is not in 0..len(channels)")
        require.at_least(1, self, "embed", "hidden", "depth", "members", "text_vocabulary", "text_embed")
        require(all(width >= 1 for width in self.channels), f"channels {self.channels} must be positive")
        require.at_least(2, self, "bins")
        require.one_of(STORAGES, self, "storage")
        require.at_least(0, self, "prior_scale")
        require(bool(self.heads), f"heads is empty; known heads: {', '.join(HEADS)}")
        require(len(set(self.heads)) == len(self.heads), f"heads {self.heads} repeat")
        for head in self.heads:
            require(head in HEADS, unknown_name("head", head, HEADS))
        require.one_of(OUTPUTS, self, "output")
        require(not (self.backbone and self.reads_latents), "a backbone reads pixels; set reads_latents: false")
        for head in self.output_weights:
            require(head in self.heads, f"output {self.output!r} reads head {head!r}, which heads lacks")
        require(sum(self.output_weights.values()) > 0, f"the weights of blend {self.blend} sum to nothing")

    @property
    def output_weights(self) -> dict[str, float]:
        """Weight of each head in the output, summing to one where the sum is positive."""
        if self.output != "blend":
            return {self.output: 1.0}
        total = sum(self.blend.values())
        return {head: weight / total if total > 0 else 0.0 for head, weight in self.blend.items()}


@dataclass(frozen=True)
class LabelConfig:
    """What frames are labelled with.

    Attributes:
        outcome: "recorded": the dataset's explicit `episode_success`. "success": every episode is a success; to be said
            of demonstrations that carry no such column.
        progress: "time": t / T up to the outcome frame T, on successful episodes alone (the paper's label).
            "dense": the dataset's own `progress` column on every frame of every episode. That is ground truth which
            a simulator records and a robot does not: better within a state, but not the published recipe.
        fill_dips: Dips of dense progress that last at most so many control steps are filled, such as that between the
            release of an object and its landing.
        success_progress: Recorded progress from which on an episode's success is certain.
        failure_cost: RECAP's C_fail, in control steps.
        length_percentile: Returns are divided by this percentile of a task's episode lengths. 100 flattens the value.
    """

    outcome: str = "recorded"
    progress: str = "time"
    fill_dips: int = 4
    success_progress: float = 1.0
    failure_cost: float = 300.0
    length_percentile: float = 75.0

    def __post_init__(self) -> None:
        require = requirement("section 'value.labels'")
        require.one_of(("recorded", "success"), self, "outcome")
        require.one_of(("time", "dense"), self, "progress")
        require.at_least(0, self, "fill_dips", "failure_cost")
        require.within("(0, 1]", self, "success_progress")
        require.within("(0, 100]", self, "length_percentile")


@dataclass(frozen=True)
class TDConfig:
    """Temporal-difference targets; rewards are paid at the outcome frame and are zero elsewhere.

    Attributes:
        gamma: Discount per control step.
        success: Reward of success.
        failure: Reward of failure.
        n_step: Steps before the target bootstraps.
        tau: Part of the weights that the target network takes over per update.
        clamp: Targets are clamped to [-clamp, clamp].
    """

    gamma: float = 0.995
    success: float = 1.0
    failure: float = -1.0
    n_step: int = 1
    tau: float = 0.01
    clamp: float = 1.0

    def __post_init__(self) -> None:
        require = requirement("section 'value.td'")
        require.within("(0, 1]", self, "gamma", "tau", "clamp")
        require.at_least(1, self, "n_step")
        require(self.failure < self.success, f"failure {self.failure} is not below success {self.success}")


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """How a value model is trained, on top of `LoopConfig`.

    The held-out episodes are drawn by `rise_env.data.split_episodes` with seed 0, as the dynamics model and the
    environment split them.

    Attributes:
        progress_steps: Updates of the first phase: every head but `td`.
        td_steps: Updates of the second phase: every head.
        bootstrap: Part of the episodes that each ensemble member sees; 1 for all.
        weights: Weight of each head's loss.
        brightness: Largest relative change of brightness and contrast.
        blur: Probability that a frame is blurred, as imagined frames are.
        shift: Largest shift of an image, in pixels.
        latent_noise: Standard deviation of the noise on latents, relative to theirs.
        imagined_ratio: Part of each batch that is imagined, where imagined frames are given.
        eval_frames: At most this many held-out frames are evaluated.
    """

    section: ClassVar[str] = "value.training"

    lr_floor: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    ema_decay: float = 0.0
    held_out: float = 0.1
    progress_steps: int = 1500
    td_steps: int = 1500
    bootstrap: float = 0.8
    weights: dict[str, float] = field(default_factory=dict)
    brightness: float = 0.2
    blur: float = 0.3
    shift: int = 1
    latent_noise: float = 0.1
    imagined_ratio: float = 0.3
    eval_frames: int = 20_000

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement(f"section '{self.section}'")
        require.at_least(0, self, "progress_steps", "td_steps", "shift", "latent_noise")
        require(self.progress_steps + self.td_steps, "progress_steps and td_steps are both 0")
        require.within("[0, 1]", self, "blur", "imagined_ratio")
        require.within("[0, 1)", self, "brightness")
        require.within("(0, 1]", self, "bootstrap")
        require.at_least(1, self, "eval_frames")
        for head, weight in self.weights.items():
            require(head in HEADS, unknown_name("head of weights:", head, HEADS))
            require(weight >= 0, f"weights.{head} is {weight}, expected at least 0")


@dataclass(frozen=True)
class ValueConfig:
    """The `value` section of a preset."""

    model: ModelConfig = field(default_factory=ModelConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    td: TDConfig = field(default_factory=TDConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def with_steps(self, steps: int) -> ValueConfig:
        """The same with so many updates in all, in the proportion of the phases.

        Raises:
            ConfigError: If that is less than one.
        """
        requirement("value model")(steps >= 1, f"{steps} updates, expected at least 1")
        training = self.training
        first = round(steps * training.progress_steps / (training.progress_steps + training.td_steps))
        return replace(self, training=replace(training, progress_steps=first, td_steps=steps - first))


def load_value_config(task: str = "brick_sorting", preset: str = "small", overrides: Iterable[str] = ()) -> ValueConfig:
    """Settings of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("value", {})
    return decode(ValueConfig, section, f"section 'value' of {task}/{preset}")
