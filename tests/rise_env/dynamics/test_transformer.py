from __future__ import annotations

from typing import Any

import pytest
import torch

from rise_env.dynamics.config import TransformerConfig
from rise_env.dynamics.transformer import LatentTransformer, sinusoid
from rise_env.errors import ConfigError

V, T, F, K, A, D = 2, 3, 4, 4, 5, 2
SHAPE = (3, 4, 6)


def build(**changes: Any) -> LatentTransformer:
    torch.manual_seed(0)
    settings = {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "patch": (2, 3), **changes}
    model = LatentTransformer(
        TransformerConfig(**settings),
        views=V, latent_shape=SHAPE, history=T, future=F, frames=K, action_dim=A, joints=D,
    )  # fmt: skip
    return model.eval()


def awaken(model: LatentTransformer) -> LatentTransformer:
    """Give random values to what starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def inputs(batch: int = 2) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return [
        torch.randn(batch, V, F, *SHAPE, generator=g),
        torch.randn(batch, V, T, *SHAPE, generator=g),
        torch.rand(batch, generator=g),
        torch.randn(batch, K, A, generator=g),
        torch.randn(batch, D, generator=g),
        torch.zeros(batch, 0, dtype=torch.int64),
    ]


@pytest.mark.parametrize("history", ["channels", "tokens"])
@pytest.mark.parametrize("conditioning", ["caption", "tokens", "both"])
@pytest.mark.parametrize("time_patch", [0, 2, 1])
@torch.no_grad()
def test_forms(history: str, conditioning: str, time_patch: int) -> None:
    model = build(history=history, conditioning=conditioning, time_patch=time_patch)
    given = inputs()
    output, states, _ = model(*given)
    assert output.shape == given[0].shape
    assert output.dtype == torch.float32
    assert states is not None
    assert states.shape == (2, K, D)
    assert not bool(output.any())  # the head starts at zero
    awaken(model)
    output = model(*given).latents
    for changed in range(5):
        other = [tensor.clone() for tensor in given]
        other[changed] += 0.5
        assert not torch.allclose(model(*other)[0], output), f"input {changed} has no effect"


@torch.no_grad()
def test_patches_are_put_back_where_they_came_from() -> None:
    for time_patch in (0, 1, 2):
        model = build(time_patch=time_patch)
        future = inputs()[0]
        patches = model._patches(future, model.time_patch)
        torch.testing.assert_close(model._frames(patches.flatten(2, 3)), future)


@torch.no_grad()
def test_views_meet_only_in_the_blocks_that_join_them() -> None:
    given = inputs()
    other = [tensor.clone() for tensor in given]
    other[0][:, 1] += 1.0
    other[1][:, 1] += 1.0
    apart = awaken(build(cross_view_every=2, depth=2, state_head=False))
    for block in apart.blocks:
        block.across_views = False
    torch.testing.assert_close(apart(*given)[0][:, 0], apart(*other)[0][:, 0])
    together = awaken(build(cross_view_every=2, depth=2, state_head=False))
    assert [block.across_views for block in together.blocks] == [True, False]
    assert not torch.allclose(together(*given)[0][:, 0], together(*other)[0][:, 0])


@torch.no_grad()
def test_only_the_chosen_history_is_read() -> None:
    model = awaken(build(context=(0, -1)))
    given = inputs()
    other = [tensor.clone() for tensor in given]
    other[1][:, :, 1] += 5.0
    torch.testing.assert_close(model(*given)[0], model(*other)[0])
    other[1][:, :, 0] += 1.0
    assert not torch.allclose(model(*given)[0], model(*other)[0])


@torch.no_grad()
def test_history_tokens_are_at_time_zero() -> None:
    model = awaken(build(history="tokens", depth=1))
    seen: list[torch.Tensor] = []
    model.blocks[0].modulation.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    given = inputs()
    model(*given)
    given[2] = torch.rand(2)
    model(*given)
    torch.testing.assert_close(seen[0][:, 0], seen[1][:, 0])
    assert not torch.allclose(seen[0][:, 1], seen[1][:, 1])


@torch.no_grad()
def test_an_environment_does_not_see_its_neighbours() -> None:
    model = awaken(build(conditioning="both"))
    given = inputs(3)
    together = model(*given)[0]
    alone = model(*[tensor[1:2] for tensor in given])[0]
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_text_is_read_where_that_is_wanted() -> None:
    model = awaken(build(text_buckets=50))
    given = inputs()
    given[5] = torch.tensor([[3, 7, 0], [4, 0, 0]])
    first = model(*given)[0]
    given[5] = torch.tensor([[3, 8, 0], [4, 0, 0]])
    second = model(*given)[0]
    assert not torch.allclose(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"patch \(3, 3\) does not divide"):
        build(patch=(3, 3))
    with pytest.raises(ConfigError, match="time_patch 3"):
        build(time_patch=3)
    with pytest.raises(ConfigError, match="multiple of 2 x heads"):
        TransformerConfig(width=10, heads=4)
    with pytest.raises(ConfigError, match="expected one of caption, tokens, both"):
        TransformerConfig(conditioning="text")


def test_sinusoid_starts_with_cosines() -> None:
    assert sinusoid(torch.zeros(1), 6).tolist() == [[1, 1, 1, 0, 0, 0]]
