"""Settings of the dynamics model: section `dynamics` of a preset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from rise_env.alignment import ALIGNMENTS
from rise_env.config import decode, load_config
from rise_env.errors import requirement
from rise_env.pretrained import STORAGES
from rise_env.training.config import LoopConfig

__all__ = [
    "AutoencoderConfig",
    "DynamicsConfig",
    "FlowConfig",
    "OfficialConfig",
    "TrainingConfig",
    "TransformerConfig",
    "VideoAutoencoderConfig",
    "load_dynamics_config",
]

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class AutoencoderConfig:
    """The per-frame image autoencoder.

    Attributes:
        channels: Width at each level, from the finest to that of the latents; each level halves the image.
        blocks: Residual blocks per level, in the encoder and in the decoder.
        latent_channels: Channels of the latents.
        fold: Side of the pixel squares that are folded into channels before the first level.
        noise: Standard deviation of the noise added to the latents in training, which keeps them smooth.
        latent_penalty: Weight of the mean squared latent, which keeps the noise from being outgrown.
        squares: Weight of the squared error, beside the absolute one; it is what small objects show up in.
        edges: Weight of the error in finite differences between neighbouring pixels.
        foreground: Extra weight of pixels that differ from the camera's mean image.
    """

    channels: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    latent_channels: int = 8
    fold: int = 2
    noise: float = 0.1
    latent_penalty: float = 1e-3
    squares: float = 1.0
    edges: float = 0.5
    foreground: float = 3.0

    def __post_init__(self) -> None:
        require = requirement("section 'dynamics.autoencoder'")
        require(self.channels, "channels is empty")
        require(len(self.blocks) == len(self.channels), "blocks and channels differ in length")
        require.at_least(1, self, "fold")

    @property
    def downsample(self) -> int:
        """Pixels per latent, along one side."""
        return self.fold * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class VideoAutoencoderConfig:
    """The video autoencoder of LTX (diffusers AutoencoderKLLTXVideo); the defaults are its published size.

    Attributes:
        latent_channels: Channels of the latents.
        channels: Width of the four levels.
        layers: Residual blocks per level and in the middle.
        weights: Directory or Hub id of pretrained weights, with sub-folder `vae`; empty for random ones.
        frames_at_once: Frames, of all environments and views, in one call; activations grow with it.
    """

    latent_channels: int = 128
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: tuple[int, ...] = (4, 3, 3, 3, 4)
    weights: str = ""
    frames_at_once: int = 200

    def __post_init__(self) -> None:
        requirement("section 'dynamics.video_autoencoder'").whole(1, self, "frames_at_once")


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer over latent tokens of all views.

    Attributes:
        width: Channels of a token.
        depth: Blocks.
        heads: Attention heads.
        mlp_ratio: Width of the feed-forward layer over that of a token.
        patch: Latent positions (high, wide) in one token.
        time_patch: Imagined latent frames in one token; 0 for all of them.
        context: Which history frames are read, as indices into the history (negative from its end); empty for all.
        history: "tokens": history frames are clean tokens of their own, at time 0; "channels": they are channels of the
            token at the same place, which is cheaper.
        cross_view_every: Blocks i with `i % n == 0` attend across the views; the others within a view.
        conditioning: "caption": actions reach the image through cross-attention alone, as in the official model;
            "tokens": each frame's action is added to that frame's tokens and to the modulation, and attended to by
            frame; "both".
        cross_attention_every: Blocks i with `i % n == 0` attend to the actions; 0 for none ("tokens" only).
        action_depth: Layers of the action encoder of the caption form.
        relative_actions: Whether an action is given relative to the current joint state as well.
        use_state: Whether the current joint state is an input.
        state_head: Whether the joint states at the imagined frames are predicted, as a residual to the command.
        value_head: Members of an ensemble that tells the value of every imagined frame from the transformer itself;
            0 for none. A picture that is the mean of two outcomes is neither of them; the head gives the mean of their
            values instead, and learning it makes the tokens keep what decides between them.
        text_buckets: Size of the hashed vocabulary of the instruction; 0 for a model that reads no text.
        modulation_rank: Inner width of each block's modulation, which saves parameters; 0 for a full matrix.
    """

    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp_ratio: float = 4.0
    patch: tuple[int, int] = (1, 1)
    time_patch: int = 0
    context: tuple[int, ...] = ()
    history: str = "channels"
    cross_view_every: int = 1
    conditioning: str = "tokens"
    cross_attention_every: int = 2
    action_depth: int = 2
    relative_actions: bool = True
    use_state: bool = True
    state_head: bool = True
    value_head: int = 0
    text_buckets: int = 0
    modulation_rank: int = 0

    def __post_init__(self) -> None:
        require = requirement("section 'dynamics.transformer'")
        require.one_of(("caption", "tokens", "both"), self, "conditioning")
        require.one_of(("tokens", "channels"), self, "history")
        require(self.width % (2 * self.heads) == 0, f"width {self.width} is not a multiple of 2 x heads ({self.heads})")
        require.at_least(1, self, "depth", "cross_view_every")
        require.at_least(0, self, "value_head")
        needs = self.conditioning == "tokens" or self.cross_attention_every >= 1
        require(needs, "the caption form needs cross_attention_every >= 1")


@dataclass(frozen=True)
class OfficialConfig:
    """Sizes of the official transformer; the defaults are the released ones.

    Attributes:
        layers: Blocks.
        heads: Attention heads.
        head_dim: Channels of a head; the width is heads x head_dim.
        latent_channels: Channels of the latents.
        caption_dim: Width of the text encoder's tokens.
        caption_tokens: Length of the caption.
        views: Most views.
        cross_view_every: Blocks i with `i % n == 0` attend across the views.
        action_dim: Width of an action token after zero-padding.
        action_tokens: Actions per chunk (imagined frames).
        action_width: Width of the action encoder.
        action_layers: Its layers.
        action_heads: Its heads.
        action_head_dim: Channels of one of its heads.
        action_mlp: Width of its feed-forward layer.
        action_dropout: Its dropout.
        act_in_dim: Input width of a layer that the checkpoint holds and the model never uses.
        frame_rate: Frame rate that the rotary positions assume, whatever the real one.
    """

    layers: int = 28
    heads: int = 32
    head_dim: int = 64
    latent_channels: int = 128
    caption_dim: int = 4096
    caption_tokens: int = 128
    views: int = 3
    cross_view_every: int = 3
    action_dim: int = 30
    action_tokens: int = 25
    action_width: int = 1024
    action_layers: int = 6
    action_heads: int = 8
    action_head_dim: int = 64
    action_mlp: int = 2048
    action_dropout: float = 0.1
    act_in_dim: int = 16
    frame_rate: float = 30.0

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class FlowConfig:
    """Flow matching and sampling. x_sigma = (1 - sigma) x0 + sigma noise.

    Attributes:
        target: "velocity": the model predicts noise - x0; "x0_residual": the clean latents, as a difference to the
            current frame.
        sigma_mean: sigma = 1 - sigmoid(n) with n normal of this mean ...
        sigma_std: ... and this standard deviation.
        pure_noise: Share of samples that are trained at sigma = 1.
        context_noise: The history is noised with r sigma, r uniform in [0, context_noise].
        foreground: Extra weight of latents by how far they lie from those of the current frame.
        foreground_scale: Distance (in standard deviations of the latents) at which that weight is full.
        state_weight: Weight of the error of the predicted joint states.
        value_weight: Weight of the error of the predicted values.
        steps: Denoising steps in imagination: noise levels from 1 to 1/steps, equally far apart.
        sigmas: Noise levels of the denoising steps in place of `steps`: from 1, falling, above 0, such as
            (1, 0.9375, 0.8333, 0.625). The last step ends at 0, which is not listed.
        disagreement: Whether every chunk is imagined twice from two noises, for `Prediction.uncertainty`.
        precision: Of imagination: "fp32", "bf16" or "auto" (bf16 where the device computes it fast).
    """

    target: str = "x0_residual"
    sigma_mean: float = 0.2
    sigma_std: float = 1.0
    pure_noise: float = 0.3
    context_noise: float = 0.2
    foreground: float = 0.0
    foreground_scale: float = 1.0
    state_weight: float = 0.1
    value_weight: float = 1.0
    steps: int = 1
    sigmas: tuple[float, ...] = ()
    disagreement: bool = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        require = requirement("section 'dynamics.flow'")
        require.one_of(("velocity", "x0_residual"), self, "target")
        require.one_of(PRECISIONS, self, "precision")
        require.at_least(1, self, "steps")
        require.within("[0, 1]", self, "pure_noise")
        levels = (*self.sigmas, 0.0)
        falling = all(high > low for high, low in itertools.pairwise(levels))
        require(
            not self.sigmas or (levels[0] == 1.0 and falling),
            f"sigmas is {list(self.sigmas)}, expected noise levels that begin with 1 (imagination starts from noise), "
            "fall strictly and stay above 0, such as [1, 0.9375, 0.8333, 0.625]; leave 0 out, [] takes `steps`",
        )

    @property
    def denoising_steps(self) -> int:
        """How often the transformer is evaluated for a chunk."""
        return len(self.sigmas) or self.steps


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """How the dynamics model is trained, on top of `LoopConfig`.

    Attributes:
        steps: Updates of the transformer, unless the command line says otherwise.
        precision: "fp32", "bf16" or "auto" (bf16 where the device computes it fast).
        batching: "shuffled"; "task_centric": few scenes, many samples of each per batch; or "focused": part of every
            batch from windows that begin where the value label lies in `focus`, such as before a grasp, and within
            the first `focus_frames`.
        focus: Value labels, lowest and highest, of windows in focus.
        focus_frames: Windows in focus begin within so many first frames of an episode, where a policy decides what it
            will do; 0 for anywhere.
        focus_share: Part of a focused batch that is drawn from them.
        scenes: Scenes per task-centric batch.
        scene: What a scene is: "episode", or "dataset" (of several that are given), as in the release's pretraining.
        color_jitter: How far brightness, contrast, saturation and hue of training samples are changed at most, as in
            torchvision's ColorJitter; one draw per sample, for all its frames and cameras. Frames are then encoded
            anew in every batch.
        posterior: Latents to train on: the "mode" of what the video autoencoder gives, or a "sample" of it.
        gradient_checkpointing: Compute the blocks of the official transformer again in the backward pass instead of
            keeping their activations; slower, and the result is the same.
        autoencoder_share: Share of a time budget that the autoencoder gets.
        autoencoder_steps: Updates of the autoencoder.
        autoencoder_batch_size: Images per update.
        autoencoder_learning_rate: Its peak learning rate.
        evaluate_seconds: Time between two evaluations.
    """

    section: ClassVar[str] = "dynamics.training"
    RENAMED: ClassVar[Mapping[str, str]] = {
        **LoopConfig.RENAMED,
        "autoencoder_batch": "autoencoder_batch_size",
        "autoencoder_rate": "autoencoder_learning_rate",
    }

    steps: int = 8000
    precision: str = "auto"
    batching: str = "shuffled"
    focus: tuple[float, float] = (0.0, 1.0)
    focus_frames: int = 0
    focus_share: float = 0.75
    scenes: int = 8
    scene: str = "episode"
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    posterior: str = "mode"
    gradient_checkpointing: bool = False
    autoencoder_share: float = 0.25
    autoencoder_steps: int = 4000
    autoencoder_batch_size: int = 64
    autoencoder_learning_rate: float = 1e-3
    evaluate_seconds: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require = requirement(f"section '{self.section}'")
        require.one_of(PRECISIONS, self, "precision")
        require.one_of(("shuffled", "task_centric", "focused"), self, "batching")
        require.within("[0, 1]", self, "focus_share")
        require.at_least(0, self, "focus_frames")
        require(0 <= self.focus[0] < self.focus[1] <= 1, f"focus is {self.focus}, expected low < high in [0, 1]")
        require.one_of(("episode", "dataset"), self, "scene")
        require.one_of(("mode", "sample"), self, "posterior")
        fair = all(0 <= part <= most for part, most in zip(self.color_jitter, (1.0, 1.0, 1.0, 0.5), strict=True))
        require(fair, f"color_jitter is {self.color_jitter}, expected [0, 1] three times and a hue in [0, 0.5]")


@dataclass(frozen=True)
class DynamicsConfig:
    """Everything about a dynamics model.

    Attributes:
        autoencoder_kind: "image" (per frame, `autoencoder`) or "video" (LTX, `video_autoencoder`).
        transformer_kind: "rise" (`transformer`) or "official" (`official`).
        alignment: Which actions belong to an imagined frame, one of `rise_env.alignment.ALIGNMENTS`.
        storage: Matrices on disk in "fp32", "fp16" or "int8"; computing is in full precision.
        details: What the autoencoder loses of the frame that imagination starts from is carried over to where nothing
            changes: fully at no change, by 1/e at a change of so many grey levels. 0 for none. Image autoencoders only.
        compile: Whether imagination uses torch.compile, with CUDA graphs on a GPU: faster after a warm-up of a minute
            or so, and the same to rounding. Where compiling fails, imagination does without and warns.
        compile_backend: Backend of torch.compile.
        autoencoder: See `AutoencoderConfig`.
        video_autoencoder: See `VideoAutoencoderConfig`.
        transformer: See `TransformerConfig`.
        official: See `OfficialConfig`.
        flow: See `FlowConfig`.
        training: See `TrainingConfig`.
    """

    autoencoder_kind: str = "image"
    transformer_kind: str = "rise"
    alignment: str = "interval"
    storage: str = "fp32"
    details: float = 0.0
    compile: bool = False
    compile_backend: str = "inductor"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    video_autoencoder: VideoAutoencoderConfig = field(default_factory=VideoAutoencoderConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    official: OfficialConfig = field(default_factory=OfficialConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require = requirement("section 'dynamics'")
        require.one_of(("image", "video"), self, "autoencoder_kind")
        require.one_of(("rise", "official"), self, "transformer_kind")
        require.one_of(ALIGNMENTS, self, "alignment")
        require.one_of(STORAGES, self, "storage")
        require.at_least(0, self, "details")
        require.boolean(self, "compile")
        require(not self.details or self.autoencoder_kind == "image", "details needs an image autoencoder")
        training, video = self.training, self.autoencoder_kind == "video"
        require(video or training.posterior == "mode", "training.posterior: sample needs the video autoencoder")
        official = self.transformer_kind == "official"
        require(
            official or not training.gradient_checkpointing, "gradient_checkpointing needs the official transformer"
        )

    @property
    def predicts_values(self) -> bool:
        """Whether predictions come with the values of their frames."""
        return self.transformer_kind == "rise" and self.transformer.value_head > 0


def load_dynamics_config(
    task: str = "brick_sorting", preset: str = "small", overrides: Iterable[str] = ()
) -> DynamicsConfig:
    """Settings of a preset.

    Raises:
        ConfigError: If something in the configuration is wrong.
    """
    section = load_config(task, preset, overrides).get("dynamics", {})
    return decode(DynamicsConfig, section, f"section 'dynamics' of {task}/{preset}")
