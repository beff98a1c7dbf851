"""Settings of a pi0.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rise_agents.policies.prompt import STATE_WIDTH
from rise_env.errors import requirement

__all__ = ["Pi05PolicyConfig", "Pi05Sizes"]


@dataclass(frozen=True)
class Pi05Sizes:
    """Sizes of a pi0.5 smaller than the published one; the defaults suit tests.

    There are 8 attention heads, a number that LeRobot's code fixes.

    Attributes:
        vocabulary: Token ids, those of the tokenizer at least.
        width: Channels of the language model.
        depth: Its layers, and those of the action expert, which attends to it layer by layer.
        inner: Width of its feed-forward layers.
        head: Channels per attention head; even.
        expert_width: Channels of the action expert; even.
        expert_inner: Width of its feed-forward layers.
        vision_width: Channels of the image encoder.
        vision_depth: Its layers.
        vision_heads: Its attention heads.
        vision_inner: Width of its feed-forward layers.
        patch: Pixels along the side of an image token.
    """

    vocabulary: int = 512
    width: int = 16
    depth: int = 1
    inner: int = 32
    head: int = 8
    expert_width: int = 16
    expert_inner: int = 32
    vision_width: int = 16
    vision_depth: int = 1
    vision_heads: int = 2
    vision_inner: int = 32
    patch: int = 14

    def __post_init__(self) -> None:
        require, width, heads = requirement("policy.sizes"), self.vision_width, self.vision_heads
        require.at_least(1, self, *vars(self))
        for name in ("head", "expert_width"):
            require(getattr(self, name) % 2 == 0, f"{name} is {getattr(self, name)}, expected an even number")
        require(width % heads == 0, f"vision_width {width} is not a multiple of vision_heads {heads}")


@dataclass(frozen=True)
class Pi05PolicyConfig:
    """Settings of a `Pi05Policy`.

    Attributes:
        sizes: None for the published sizes (4.1 billion weights).
        tokenizer: Hub id or directory; PaliGemma's is gated on the Hub.
        tokens: Length that prompts are padded to; a longer one is an error.
        image_size: Side of the square that images are resized to, with black bars.
        views: Cameras in the model's order; the task's order when empty. Published weights expect the outer camera,
            then the left wrist, then the right wrist.
        empty_views: Views that the model expects beyond them; they are masked.
        max_dim: Width of the model's actions; the task's are padded.
        state_width: Numbers in the prompt's state segment (`prompt.state_numbers`): RISE's release has 32, openpi and
            LeRobot as many as there are joints (None).
        relative: Whether angles are predicted relative to the present joint state; lengths never are.
        steps: Integration steps when acting.
        condition_dropout: Part of the training samples whose advantage is left out, for classifier-free guidance.
        jitter: Largest relative change of brightness and contrast in training.
        expert_only: Whether only the action expert learns, as in RISE's release; the rest then gets no gradients.
        precision: "float32" or "bfloat16" transformers; image encoder, norms and projections stay in float32.
        recompute: Whether activations are computed again in the backward pass to save memory.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"unsaid": "condition_dropout"}

    sizes: Pi05Sizes | None = None
    tokenizer: str = "google/paligemma-3b-pt-224"
    tokens: int = 200
    image_size: int = 224
    views: tuple[str, ...] = ()
    empty_views: int = 0
    max_dim: int = 32
    state_width: int | None = STATE_WIDTH
    relative: bool = True
    steps: int = 10
    condition_dropout: float = 0.1
    jitter: float = 0.1
    expert_only: bool = True
    precision: str = "float32"
    recompute: bool = False

    def __post_init__(self) -> None:
        require = requirement("section 'policy'")
        require.at_least(1, self, "tokens", "max_dim", "steps")
        require.at_least(0, self, "empty_views")
        require.within("[0, 1)", self, "condition_dropout", "jitter")
        require.one_of(("float32", "bfloat16"), self, "precision")
        patch = 14 if self.sizes is None else self.sizes.patch
        whole = self.image_size >= patch and self.image_size % patch == 0
        require(whole, f"image_size {self.image_size} is not a multiple of the patch size {patch}")
