"""The public checkpoint's architecture, at a tiny size key by key, at its own size by count."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dynamics_world import TINY_OFFICIAL as TINY

from rise_env.dynamics.config import OfficialConfig
from rise_env.dynamics.official import OfficialNetwork, OfficialTransformer, load_official
from rise_env.dynamics.official_layers import rotary_table
from rise_env.errors import CheckpointError

V, T, F, K = 3, 2, 4, TINY.action_tokens


def expected_shapes(c: OfficialConfig) -> dict[str, tuple[int, ...]]:
    """Table C1 of the checkpoint, from its formulae."""
    w, a, inner = c.width, c.action_width, c.action_heads * c.action_head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "scale_shift_table": (2, w),
        "view_embed": (c.views, w),
        "act_vit_in.cls_token": (a,),
    }

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (width,)
        if bias:
            shapes[f"{name}.bias"] = (width,)

    linear("proj_in", w, c.latent_channels)
    linear("proj_out", c.latent_channels, w)
    linear("time_embed.emb.timestep_embedder.linear_1", w, 256)
    linear("time_embed.emb.timestep_embedder.linear_2", w, w)
    linear("time_embed.linear", 6 * w, w)
    linear("view_ada.1", 6 * w, w)
    linear("caption_projection.linear_1", w, c.caption_dim)
    linear("caption_projection.linear_2", w, w)
    linear("act_in", c.caption_dim, c.act_in_dim)
    for i in range(c.layers):
        block = f"transformer_blocks.{i}"
        shapes[f"{block}.scale_shift_table"] = (6, w)
        for attention in ("attn1", "attn2"):
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(f"{block}.{attention}.{name}", w, w)
            for name in ("norm_q", "norm_k"):
                norm(f"{block}.{attention}.{name}", w, bias=False)
        linear(f"{block}.ff.net.0.proj", 4 * w, w)
        linear(f"{block}.ff.net.2", w, 4 * w)
    norm("act_vit_in.to_patch_embedding.0", c.action_dim)
    linear("act_vit_in.to_patch_embedding.1", a, c.action_dim)
    norm("act_vit_in.to_patch_embedding.2", a)
    for j in range(c.action_layers):
        layer = f"act_vit_in.transformer.layers.{j}"
        norm(f"{layer}.0.norm", a)
        linear(f"{layer}.0.to_qkv", 3 * inner, a, bias=False)
        linear(f"{layer}.0.to_out.0", a, inner)
        norm(f"{layer}.1.net.0", a)
        linear(f"{layer}.1.net.1", c.action_mlp, a)
        linear(f"{layer}.1.net.4", a, c.action_mlp)
    norm("act_vit_in.mlp_head.0", a)
    linear("act_vit_in.mlp_head.1", c.caption_dim, a)
    return shapes


def shapes_of(network: OfficialNetwork) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def network(awake: bool = True) -> OfficialNetwork:
    torch.manual_seed(0)
    made = OfficialNetwork(TINY).eval()
    if awake:
        torch.nn.init.normal_(made.act_vit_in.mlp_head[1].weight, std=0.5)
    return made


def inputs(views: int = V) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, views, F, TINY.latent_channels, 2, 3, generator=g),
        torch.tensor([300.0, 700.0]),
        torch.randn(2, K, TINY.action_dim, generator=g),
        torch.randn(TINY.caption_tokens, TINY.caption_dim, generator=g),
    )


@torch.no_grad()
def run(model: OfficialNetwork, latents: torch.Tensor, time: torch.Tensor, *rest: Any) -> torch.Tensor:
    return model(latents, time, T, *rest)


def test_every_key_and_shape_at_a_tiny_size() -> None:
    assert shapes_of(network()) == expected_shapes(TINY)


def test_every_key_shape_and_the_count_at_full_size() -> None:
    with torch.device("meta"):
        full = OfficialNetwork(OfficialConfig())
    assert shapes_of(full) == expected_shapes(OfficialConfig())
    assert len(full.state_dict()) == 797
    assert sum(tensor.numel() for tensor in full.state_dict().values()) == 1_990_672_572


def test_output_is_the_future_of_every_view() -> None:
    latents, *rest = inputs()
    assert run(network(), latents, *rest).shape == (2, V, F - T, TINY.latent_channels, 2, 3)


def test_one_to_three_cameras() -> None:
    for views in (1, 2, 3):
        assert run(network(), *inputs(views)).shape[1] == views


def test_caption_beyond_the_actions_never_matters() -> None:
    latents, time, actions, caption = inputs()
    first = run(network(), latents, time, actions, caption)
    changed = caption.clone()
    changed[K + 1 :] += 10.0
    torch.testing.assert_close(run(network(), latents, time, actions, changed), first)
    changed[K] += 1.0
    assert not torch.allclose(run(network(), latents, time, actions, changed), first)


def test_what_the_steps_of_a_chunk_share_changes_nothing() -> None:
    latents, time, actions, caption = inputs()
    model = network()
    with torch.no_grad():
        shared = model.condition(actions, caption, F, *latents.shape[-2:])
    given = run(model, latents, time, actions, caption, shared)
    assert torch.equal(given, run(model, latents, time, actions, caption))
    assert torch.equal(given, run(model, latents, time, -actions, -caption, shared))  # those are not read again
    assert not torch.equal(given, run(model, latents, time, -actions, caption))


def test_actions_have_no_effect_before_training_and_one_after() -> None:
    latents, time, actions, caption = inputs()
    for awake in (False, True):
        same = torch.allclose(
            run(network(awake), latents, time, actions, caption), run(network(awake), latents, time, -actions, caption)
        )
        assert same is not awake


@torch.no_grad()
def test_history_is_at_time_zero_whatever_the_time() -> None:
    model = network()
    seen: list[torch.Tensor] = []
    model.transformer_blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    latents, time, *rest = inputs()
    run(model, latents, time, *rest)
    run(model, latents, time + 100, *rest)
    torch.testing.assert_close(seen[0][:, :, 0], seen[1][:, :, 0])
    assert not torch.allclose(seen[0][:, :, 1], seen[1][:, :, 1])


def test_views_meet_only_in_every_third_block() -> None:
    joined: list[bool] = []
    model = network()
    for block in model.transformer_blocks:
        block.register_forward_pre_hook(lambda module, args: joined.append(args[5]))
    run(model, *inputs())
    assert joined == [True, False, False, True]
    latents, *rest = inputs()
    other = latents.clone()
    other[:, 2] += 1.0
    assert not torch.allclose(run(model, latents, *rest)[:, 0], run(model, other, *rest)[:, 0])
    for block in model.transformer_blocks:  # none of them joined: nothing passes between views
        block.register_forward_pre_hook(lambda module, args: (*args[:5], False))
    torch.testing.assert_close(run(model, latents, *rest)[:, 0], run(model, other, *rest)[:, 0])


def test_views_are_told_apart_by_their_order() -> None:
    latents, *rest = inputs()
    straight, swapped = run(network(), latents, *rest), run(network(), latents.flip(1), *rest)
    assert not torch.allclose(straight.flip(1), swapped, atol=1e-4)
    same = network()
    with torch.no_grad():
        same.view_embed.copy_(same.view_embed[:1].expand_as(same.view_embed))
    torch.testing.assert_close(
        run(same, latents, *rest).flip(1), run(same, latents.flip(1), *rest), rtol=1e-3, atol=1e-4
    )


def test_rotary_frequencies() -> None:
    width, frames, height, wide = 2048, 8, 6, 8
    cosine, sine = rotary_table(width, frames, height, wide, 30.0)
    assert cosine.shape == sine.shape == (frames * height * wide, width)
    assert cosine.dtype == torch.float32
    assert bool((cosine[:, :2] == 1).all())
    assert bool((sine[:, :2] == 0).all())  # 2048 = 2 + 6 x 341: two channels do not turn
    token, m = (5 * height + 2) * wide + 7, 123
    positions = (5 * (8 / 30) / 20, 32 * 2 / 2048, 32 * 7 / 2048)
    rate = math.pi / 2 * 10000 ** (m / 340)
    for axis, position in enumerate(positions):
        channel = 2 + 6 * m + 2 * axis
        angle = rate * (2 * position - 1)
        for pair in (channel, channel + 1):
            assert float(cosine[token, pair]) == pytest.approx(math.cos(angle), abs=2e-4)
            assert float(sine[token, pair]) == pytest.approx(math.sin(angle), abs=2e-4)


def test_rotary_table_is_that_of_diffusers() -> None:
    from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed

    reference = LTXVideoRotaryPosEmbed(32)(torch.zeros(1, 1), 4, 2, 3, (8 / 30, 32, 32))
    ours = rotary_table(32, 4, 2, 3, 30.0)
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_single_view_without_actions_is_the_ltx_of_diffusers() -> None:
    """Same weights, same numbers as the published base model, whose blocks the checkpoint was grown from."""
    from diffusers import LTXVideoTransformer3DModel

    model = network(awake=False)
    model.view_embed.zero_()
    model.view_ada[1].weight.zero_()
    model.view_ada[1].bias.zero_()
    reference = LTXVideoTransformer3DModel(
        in_channels=TINY.latent_channels, out_channels=TINY.latent_channels, num_attention_heads=TINY.heads,
        attention_head_dim=TINY.head_dim, cross_attention_dim=TINY.width, num_layers=TINY.layers,
        caption_channels=TINY.caption_dim,
    ).eval()  # fmt: skip
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("view_", "act_"))}
    reference.load_state_dict(own)
    latents, time, actions, caption = inputs(views=1)
    tokens = latents[:, 0].permute(0, 1, 3, 4, 2).flatten(1, 3)
    times = time[:, None].repeat(1, tokens.shape[1])
    times[:, : T * 6] = 0
    mask = torch.zeros(2, TINY.caption_tokens)
    mask[:, : K + 1] = 1
    theirs = reference(
        tokens, caption.expand(2, -1, -1), times, mask, F, 2, 3, rope_interpolation_scale=(8 / 30, 32, 32)
    ).sample
    ours = run(model, latents, time, actions, caption)
    theirs = theirs.unflatten(1, (F, 2, 3)).permute(0, 1, 4, 2, 3)[:, T:]
    torch.testing.assert_close(ours[:, 0], theirs, rtol=1e-3, atol=1e-4)


def test_weights_are_loaded_strictly() -> None:
    model, weights = OfficialTransformer(TINY, T), network().state_dict()
    caption = torch.randn(TINY.caption_tokens, TINY.caption_dim)
    load_official(model, weights, caption=caption)
    assert torch.equal(model.network.proj_in.weight, weights["proj_in.weight"])
    assert torch.equal(model.caption, caption[: K + 1])
    broken = {name: tensor for name, tensor in weights.items() if name != "proj_in.bias"}
    broken["extra"] = torch.zeros(1)
    broken["proj_out.bias"] = torch.zeros(99)
    with pytest.raises(CheckpointError, match=r"missing proj_in\.bias; proj_out\.bias has shape \(99,\).*unexpected"):
        load_official(model, broken, caption)
    with pytest.raises(CheckpointError, match="caption embedding has shape"):
        load_official(model, weights, caption=torch.zeros(2, 2))


def test_genie_envisioner_weights_keep_the_silent_action_encoder() -> None:
    model, weights = OfficialTransformer(TINY, T), network().state_dict()
    base = {name: tensor for name, tensor in weights.items() if not name.startswith("act_")}
    base["action_proj_in.weight"] = torch.zeros(3, 3)
    caption = torch.ones(TINY.caption_tokens, TINY.caption_dim)
    with pytest.raises(CheckpointError, match="without_actions=True"):
        load_official(model, {name: one for name, one in base.items() if not name.startswith("action_")}, caption)
    load_official(model, base, caption, without_actions=True)
    assert not bool(model.network.act_vit_in.mlp_head[1].weight.any())
