"""Pi05Policy on the smallest pi0.5: what is said reaches the model, and LeRobot's own code gives the same results."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Context
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.loading import load_policy
from rise_agents.policies.pi05 import Pi05Policy
from rise_agents.policies.pi05_config import Pi05PolicyConfig, Pi05Sizes
from rise_agents.policies.prompt import state_numbers
from rise_agents.policies.text_context import TextContext
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import TaskSpec
from tests.rise_agents.policies.prompts import parse_prompt

pytestmark = pytest.mark.slow  # LeRobot and transformers take many seconds to import

SIZES = Pi05Sizes(vocabulary=300)
CONFIG = Pi05PolicyConfig(sizes=SIZES, tokens=360, image_size=28, steps=3)
COUNT = 3

Observe = Callable[..., dict[str, torch.Tensor]]


def make(spec: TaskSpec, tokenizer: Any, config: Pi05PolicyConfig = CONFIG, seed: int = 0) -> Pi05Policy:
    """A policy whose every weight is random: a new action expert lets no attention through its gates."""
    torch.manual_seed(seed)
    policy = Pi05Policy(spec, config, tokenizer=tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=0.3 if weight.dim() > 1 else 0.1)
    policy.fit_normalisation(*recorded(spec))
    return policy.eval()


def recorded(spec: TaskSpec, count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Random states (N, D), and chunks (N, chunk, D) near them; rad and m."""
    generator = torch.Generator().manual_seed(1)
    low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
    states = low + torch.rand((count, spec.layout.dim), generator=generator) * (high - low)
    moves = 0.1 * (high - low) * torch.randn((count, spec.chunk, spec.layout.dim), generator=generator)
    return states, states[:, None] + moves


def noise_of(policy: Pi05Policy, count: int = COUNT, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *policy.noise_shape), generator=torch.Generator().manual_seed(seed))


def bins_of(*levels: int) -> torch.Tensor:
    return torch.tensor(levels)


BEST, WORST, NONE = bins_of(9, 9, 9), bins_of(0, 0, 0), bins_of(10, 10, 10)


@pytest.fixture(scope="module")
def policy(wide_spec: TaskSpec, tokenizer: Any) -> Pi05Policy:
    return make(wide_spec, tokenizer)


@pytest.fixture(scope="module")
def observations(wide_spec: TaskSpec, observe: Observe) -> dict[str, torch.Tensor]:
    return observe(wide_spec, COUNT)


@pytest.fixture(scope="module")
def context(policy: Pi05Policy, observations: dict[str, torch.Tensor]) -> TextContext:
    return policy.context(observations, ["Sort_the bricks", "close the\nbox", "Bälle, State: 5"])


def lerobot_batch(policy: Pi05Policy, context: TextContext, levels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What LeRobot's pipeline would hand to its policy."""
    ids, mask = policy.tokenise(context, levels)
    batch = {"observation.language.tokens": ids, "observation.language.attention_mask": mask}
    for view, camera in enumerate(policy.views):
        batch[policy.spec.cameras[camera]] = context.features[:, view].permute(0, 3, 1, 2).float() / 255
    return batch


# ---------------------------------------------------------------------- the prompt


def test_the_tokens_decoded_say_task_state_and_advantage(policy: Pi05Policy, context: TextContext) -> None:
    ids, mask = policy.tokenise(context, bins_of(9, 0, policy.codec.unconditional))
    assert ids.shape == mask.shape == (COUNT, CONFIG.tokens)
    normal = policy.normalise_state(context.state)
    texts, bins = ["Sort the bricks", "close the box", "Bälle, State: 5"], [10, 1, None]
    for row in range(COUNT):
        used = ids[row][mask[row]]
        assert used[0] == policy.tokenizer.bos_token_id
        assert (ids[row][~mask[row]] == policy.tokenizer.pad_token_id).all()
        found = parse_prompt(policy.tokenizer.decode(used[1:]))
        assert (found.text, found.bin) == (texts[row], bins[row])
        assert found.state == tuple(state_numbers(normal[row]).tolist())
        assert len(found.state) == 32


def test_two_tasks_stay_two_texts(policy: Pi05Policy, observations: dict[str, torch.Tensor]) -> None:
    context = policy.context(observations, ["one", "two", "one"])
    assert [parse_prompt(prompt).text for prompt in policy.prompts(context, BEST)] == ["one", "two", "one"]
    assert [parse_prompt(p).text for p in policy.prompts(context[bins_of(1, 2)], BEST[:2])] == ["two", "one"]


def test_a_prompt_too_long_is_an_error_and_is_not_cut(
    wide_spec: TaskSpec, tokenizer: Any, observations: dict[str, torch.Tensor]
) -> None:
    short = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, tokens=60))
    with pytest.raises(ConfigError, match=r"a prompt has \d+ tokens, policy.tokens is 60"):
        short.tokenise(short.context(observations, ["sort"] * COUNT), BEST)


def test_an_instruction_too_long_is_an_error(policy: Pi05Policy, observations: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="has 600 bytes, at most 512"):
        policy.context(observations, ["sort", "x" * 600, "sort"])


# ---------------------------------------------------------------------- images


def test_images_get_bars_as_lerobot_makes_them(policy: Pi05Policy, context: TextContext) -> None:
    images, shown = policy.images(context)
    theirs, their_masks = policy.network._preprocess_images(lerobot_batch(policy, context, BEST))
    assert len(images) == len(theirs) == 3
    for mine, other, mask, other_mask in zip(images, theirs, shown, their_masks, strict=True):
        assert mine.shape == (COUNT, 3, 28, 28)
        assert torch.equal(mine, other)
        assert torch.equal(mask, other_mask)
        # 48 x 64 becomes 21 x 28: 3 rows of black above, 4 below.
        assert (mine[:, :, :3] == -1).all()
        assert (mine[:, :, 24:] == -1).all()
        assert (mine[:, :, 3:24] > -1).float().mean() > 0.99


def test_views_follow_the_model_not_the_task(
    wide_spec: TaskSpec, tokenizer: Any, observations: dict[str, torch.Tensor]
) -> None:
    order = ("right_wrist", "head", "left_wrist")
    policy = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, views=order, empty_views=1))
    context = policy.context(observations, ["sort"] * COUNT)
    for view, camera in enumerate(order):
        assert torch.equal(context.features[:, view], observations[f"image_{camera}"])
    images, shown = policy.images(context)
    assert [bool(mask.all()) for mask in shown] == [True, True, True, False]
    assert (images[3] == -1).all()
    assert torch.isfinite(policy.sample(context, BEST, noise_of(policy))).all()


def test_an_absent_view_changes_nothing_whatever_is_in_it(
    wide_spec: TaskSpec, tokenizer: Any, observations: dict[str, torch.Tensor]
) -> None:
    policy = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, empty_views=1))
    context, noise = policy.context(observations, ["sort"] * COUNT), noise_of(policy)
    expected = policy.sample(context, BEST, noise)
    images, shown = policy.images(context)
    model, tokens = policy.network.model, policy.tokenise(context, BEST)
    images[3] = torch.rand_like(images[3])
    again = model.sample_actions(images, shown, *tokens, noise=noise, num_steps=CONFIG.steps)
    torch.testing.assert_close(policy.denormalise(again, context.state), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cameras", [("head",), ("a", "b", "c", "d")])
def test_other_numbers_of_cameras_work(
    spec: TaskSpec, tokenizer: Any, observe: Observe, cameras: tuple[str, ...]
) -> None:
    spec = dataclasses.replace(spec, cameras={name: f"observation.images.{name}" for name in cameras})
    policy = make(spec, tokenizer)
    context = policy.context(observe(spec, 2), ["sort"] * 2)
    assert policy.sample(context, BEST[:2], noise_of(policy, 2)).shape == (2, spec.chunk, spec.layout.dim)


def test_images_are_jittered_in_training_alone(policy: Pi05Policy, observations: dict[str, torch.Tensor]) -> None:
    kept, prompts = copy.deepcopy(observations), ["sort"] * COUNT
    plain = policy.context(observations, prompts).features
    one, same, other = (
        policy.context(observations, prompts, torch.Generator().manual_seed(seed)).features for seed in (1, 1, 2)
    )
    assert torch.equal(plain[:, 0], observations["image_head"])
    assert torch.equal(one, same)
    assert not torch.equal(one, plain)
    assert not torch.equal(one, other)
    assert float((one.float() - plain.float()).abs().max()) <= 127.5 * 0.2 + 1
    assert all(torch.equal(value, kept[key]) for key, value in observations.items())


def test_images_that_are_no_bytes_are_an_error(policy: Pi05Policy, observations: dict[str, torch.Tensor]) -> None:
    floats = {key: value.float() / 255 for key, value in observations.items()}
    with pytest.raises(ConfigError, match=r"images are torch.float32, the policy expects uint8"):
        policy.context(floats, ["sort"] * COUNT)


# ---------------------------------------------------------------------- acting


def test_a_chunk_is_a_function_of_context_level_and_noise(policy: Pi05Policy, context: TextContext) -> None:
    noise = noise_of(policy)
    torch.manual_seed(1)
    chunks = policy.sample(context, BEST, noise)
    torch.manual_seed(2)
    assert torch.equal(chunks, policy.sample(context, BEST, noise))
    assert chunks.shape == (COUNT, policy.spec.chunk, policy.spec.layout.dim)
    for other in (
        policy.sample(context, BEST, noise_of(policy, seed=1)),
        policy.sample(context, WORST, noise),
        policy.sample(context, NONE, noise),
        policy.sample(dataclasses.replace(context, features=context.features.flip(1)), BEST, noise),
        policy.sample(dataclasses.replace(context, text=context.text.flip(0)), BEST, noise),
        policy.sample(context, BEST, noise, steps=5),
    ):
        assert not torch.allclose(chunks, other, atol=1e-5)


def test_a_row_does_not_depend_on_the_others(policy: Pi05Policy, context: TextContext) -> None:
    levels, noise = bins_of(0, 9, 10), noise_of(policy)
    together = policy.sample(context, levels, noise, guidance=1.5)
    for row in range(COUNT):
        part = slice(row, row + 1)
        alone = policy.sample(context[part], levels[part], noise[part], guidance=1.5)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


def test_lerobots_own_sampling_gives_the_same_chunks(policy: Pi05Policy, context: TextContext) -> None:
    noise = noise_of(policy)
    batch = lerobot_batch(policy, context, BEST)
    theirs = policy.network.predict_action_chunk(batch, noise=noise, num_steps=4)
    assert torch.equal(policy.sample(context, BEST, noise, steps=4), policy.denormalise(theirs, context.state))


def test_guidance_of_one_is_plain_and_of_zero_says_nothing(policy: Pi05Policy, context: TextContext) -> None:
    noise = noise_of(policy)
    plain, silent = policy.sample(context, BEST, noise), policy.sample(context, NONE, noise)
    # Just off 1, the chunks come from two prompts, with code of our own.
    guided = policy.sample(context, BEST, noise, guidance=1.0 + 1e-7)
    torch.testing.assert_close(guided, plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(policy.sample(context, BEST, noise, guidance=0.0), silent, atol=1e-4, rtol=1e-4)
    assert (plain - silent).abs().max() > 1e-3


def test_guidance_extrapolates(policy: Pi05Policy, context: TextContext) -> None:
    noise = noise_of(policy)
    # In one step the chunk is linear in the velocity.
    plain, silent = (policy.sample(context, levels, noise, steps=1) for levels in (BEST, NONE))
    strong = policy.sample(context, BEST, noise, guidance=2.5, steps=1)
    torch.testing.assert_close(strong, silent + 2.5 * (plain - silent), atol=1e-3, rtol=1e-3)


def test_acting_leaves_modes_and_inputs_as_they_were(wide_spec: TaskSpec, tokenizer: Any, context: TextContext) -> None:
    policy = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, recompute=True, expert_only=False))
    expected = policy.sample(context, BEST, noise_of(policy))
    policy.train()
    policy.network.model.action_in_proj.eval()
    modes, kept, noise = [part.training for part in policy.modules()], copy.deepcopy(context), noise_of(policy)
    torch.testing.assert_close(policy.sample(context, BEST, noise), expected, atol=1e-5, rtol=1e-5)
    policy.sample(context, BEST, noise, guidance=2.0)
    assert [part.training for part in policy.modules()] == modes
    assert torch.equal(noise, noise_of(policy))
    for field in dataclasses.fields(context):
        assert torch.equal(getattr(context, field.name), getattr(kept, field.name))


def test_a_runner_makes_the_same_episode_alone_and_in_company(
    policy: Pi05Policy, observations: dict[str, torch.Tensor]
) -> None:
    arrays = {key: value.numpy() for key, value in observations.items()}

    def run(rows: list[int], seeds: list[int]) -> np.ndarray:
        runner = PolicyActor(policy)
        runner.reset(seeds, np.ones(len(seeds), bool))
        return runner.act({key: value[rows] for key, value in arrays.items()})

    together = run([0, 1, 2], [4, 0, 6])
    np.testing.assert_allclose(run([1], [0])[0], together[1], atol=1e-4)
    assert (together <= policy.spec.layout.high).all()


# ---------------------------------------------------------------------- learning


def test_the_loss_is_lerobots(policy: Pi05Policy, context: TextContext, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = recorded(policy.spec, COUNT)[1]
    silent = dataclasses.replace(policy.config, condition_dropout=0.0)
    monkeypatch.setattr(policy, "config", silent)
    mine = policy.loss(context, BEST, chunks, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((COUNT, *policy.noise_shape), generator=generator)
    time = torch.rand(COUNT, generator=generator) ** (2 / 3) * 0.999 + 0.001
    model = policy.network.model
    monkeypatch.setattr(model, "sample_noise", lambda shape, device: noise)
    monkeypatch.setattr(model, "sample_time", lambda count, device: time)
    batch = {**lerobot_batch(policy, context, BEST), "action": policy.normalise(chunks, context.state)}
    theirs, _ = policy.network.forward(batch, reduction="none")
    torch.testing.assert_close(mine, theirs)
    assert mine.shape == (COUNT,)


def test_times_are_drawn_as_published(policy: Pi05Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def spy(images: Any, shown: Any, ids: Any, mask: Any, clean: torch.Tensor, noise: Any, time: Any) -> torch.Tensor:
        seen.extend([noise, time])
        return torch.zeros_like(clean)

    monkeypatch.setattr(policy.network.model, "forward", spy)
    count = 3000
    context = TextContext(
        torch.zeros((count, 3, 48, 64, 3), dtype=torch.uint8)[:, :, :28, :28],
        torch.zeros((count, policy.spec.layout.dim)),
        torch.full((count, 512), ord("a"), dtype=torch.uint8) * (torch.arange(512) < 3).to(torch.uint8),
    )
    chunks = torch.zeros((count, policy.spec.chunk, policy.spec.layout.dim))
    policy.loss(context, torch.full((count,), 4), chunks, torch.Generator().manual_seed(0))
    noise, time = seen
    published = torch.distributions.Beta(1.5, 1.0).sample((count,)) * 0.999 + 0.001
    shares = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(time.quantile(shares), published.quantile(shares), atol=0.03, rtol=0)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)


def test_the_advantage_changes_the_loss(policy: Pi05Policy, context: TextContext) -> None:
    chunks = recorded(policy.spec, COUNT)[1]
    good, bad, again = (
        policy.loss(context, levels, chunks, torch.Generator().manual_seed(11)).detach()
        for levels in (BEST, WORST, BEST)
    )
    assert torch.equal(good, again)
    assert (good - bad).abs().min() > 1e-6


def test_advantages_are_left_out_at_the_stated_rate(
    policy: Pi05Policy, context: TextContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(_: Any, levels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(levels)
        raise InterruptedError

    monkeypatch.setattr(policy, "tokenise", spy)
    monkeypatch.setattr(policy, "images", lambda _: ([], []))
    monkeypatch.setattr(policy, "config", dataclasses.replace(policy.config, condition_dropout=0.3))
    count = 3000
    many = context[torch.arange(COUNT).repeat(count // COUNT)]
    with pytest.raises(InterruptedError):
        policy.loss(many, torch.full((count,), 4), torch.zeros((count, 8, 14)), torch.Generator().manual_seed(0))
    assert set(seen[0].tolist()) == {4, policy.codec.unconditional}
    assert float((seen[0] == policy.codec.unconditional).float().mean()) == pytest.approx(0.3, abs=0.035)


@pytest.mark.parametrize("expert_only", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_reach_what_shall_learn(
    wide_spec: TaskSpec, tokenizer: Any, context: TextContext, expert_only: bool, recompute: bool
) -> None:
    policy = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, expert_only=expert_only, recompute=recompute))
    policy.train()
    chunks = recorded(wide_spec, COUNT)[1]
    policy.loss(context, BEST, chunks, torch.Generator().manual_seed(0)).mean().backward()
    expert = {id(weight) for weight in policy.action_parameters()}
    assert len(expert) > 10
    for name, weight in policy.named_parameters():
        if id(weight) in expert:
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
        elif expert_only:
            assert weight.grad is None, name
    vision = policy.network.model.paligemma_with_expert.paligemma.model.vision_tower
    assert (next(vision.parameters()).grad is None) == expert_only


def test_the_loss_falls(wide_spec: TaskSpec, tokenizer: Any, context: TextContext) -> None:
    policy = make(wide_spec, tokenizer)
    frozen = {name: weight.clone() for name, weight in policy.named_parameters() if not weight.requires_grad}
    chunks = context.state[:, None].expand(-1, wide_spec.chunk, -1) + 0.5
    optimiser = torch.optim.Adam(policy.action_parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = policy.loss(context, BEST, chunks, torch.Generator().manual_seed(0)).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert len(frozen) > 10
    assert all(torch.equal(weight, frozen[n]) for n, weight in policy.named_parameters() if n in frozen)


def test_bfloat16_runs_close_to_float32(wide_spec: TaskSpec, tokenizer: Any, context: TextContext) -> None:
    full = make(wide_spec, tokenizer)
    half = make(wide_spec, tokenizer, dataclasses.replace(CONFIG, precision="bfloat16"))
    half.load_state_dict(full.state_dict())
    assert half.network.model.paligemma_with_expert.gemma_expert.model.layers[0].mlp.up_proj.weight.dtype == (
        torch.bfloat16
    )
    chunks, noise = recorded(wide_spec, COUNT)[1], noise_of(full)
    mine, theirs = (p.loss(context, BEST, chunks, torch.Generator().manual_seed(0)).detach() for p in (half, full))
    torch.testing.assert_close(mine, theirs, rtol=0.1, atol=0.1)
    guided = half.sample(context, BEST, noise, guidance=1.5)
    assert guided.dtype == torch.float32
    assert torch.isfinite(guided).all()


def test_a_context_without_its_text_is_an_error(policy: Pi05Policy, context: TextContext) -> None:
    bare = Context(context.features, context.state)
    with pytest.raises(ConfigError, match="a bare Context, which says no task"):
        policy.sample(bare, BEST, noise_of(policy))
    with pytest.raises(ConfigError, match="a bare Context, which says no task"):
        policy.loss(bare, BEST, recorded(policy.spec, COUNT)[1], torch.Generator())


# ---------------------------------------------------------------------- normalisation


def test_denormalising_undoes_normalising(policy: Pi05Policy) -> None:
    states, chunks = recorded(policy.spec)
    flat = policy.normalise(chunks, states)
    assert flat.shape == (50, policy.spec.chunk, 32)
    assert (flat[..., 14:] == 0).all()
    torch.testing.assert_close(policy.denormalise(flat, states), chunks, atol=1e-4, rtol=1e-4)


def test_percentiles_become_one(policy: Pi05Policy) -> None:
    states, chunks = recorded(policy.spec)
    normal, flat = policy.normalise_state(states), policy.normalise(chunks, states)[..., :14].flatten(0, 1)
    for values in (normal, flat):
        low, high = values.quantile(torch.tensor([0.01, 0.99]), dim=0)
        torch.testing.assert_close(low, -torch.ones(14), atol=1e-3, rtol=0)
        torch.testing.assert_close(high, torch.ones(14), atol=1e-3, rtol=0)


def test_angles_move_with_the_joint_state_and_openings_do_not(policy: Pi05Policy, context: TextContext) -> None:
    flat = noise_of(policy)
    moved = policy.denormalise(flat, context.state + 0.5) - policy.denormalise(flat, context.state)
    angle = torch.tensor([unit == "rad" for unit in policy.spec.layout.units])
    torch.testing.assert_close(moved, (0.5 * angle.float()).expand(moved.shape), atol=1e-5, rtol=0)


# ---------------------------------------------------------------------- our files


@pytest.fixture
def saved(policy: Pi05Policy, tmp_path: Path) -> Path:
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_saved_policy_acts_the_same(policy: Pi05Policy, context: TextContext, saved: Path) -> None:
    loaded = load_policy(saved)
    assert isinstance(loaded, Pi05Policy)
    assert (loaded.spec, loaded.config, loaded.codec) == (policy.spec, policy.config, policy.codec)
    assert not loaded.training
    noise = noise_of(policy)
    assert torch.equal(loaded.sample(context, BEST, noise), policy.sample(context, BEST, noise))
    assert {file.suffix for file in saved.rglob("*") if file.is_file()} == {".json", ".safetensors"}
    loaded.save_pretrained(saved)  # over what is there
    assert load_policy(saved).config == policy.config


@pytest.mark.parametrize("damage", ["cut", "kind", "shape", "setting", "tokenizer", "no tokenizer"])
def test_a_damaged_checkpoint_is_named(saved: Path, damage: str) -> None:
    config, weights = saved / "config.json", saved / "model.safetensors"
    content = json.loads(config.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
        message = "cut short or damaged"
    elif damage == "kind":
        config.write_text(json.dumps({**content, "kind": "rise-flow-policy"}))
        message = "'rise-flow-policy', expected 'rise-pi05-policy'"
    elif damage == "shape":
        content["policy"]["sizes"]["expert_width"] = 24
        config.write_text(json.dumps(content))
        message = "does not fit its configuration.*action_in_proj.weight has shape"
    elif damage == "setting":
        content["policy"]["guidance"] = 2.0
        config.write_text(json.dumps(content))
        message = "unknown key 'guidance'"
    elif damage == "tokenizer":
        (saved / "tokenizer" / "tokenizer.json").write_text("{")
        message = "no tokenizer at"
    else:
        for file in (saved / "tokenizer").iterdir():
            file.unlink()
        message = "no tokenizer at"
    with pytest.raises(CheckpointError, match=message):
        Pi05Policy.from_pretrained(saved)


def test_a_copy_is_a_policy_of_its_own(policy: Pi05Policy, context: TextContext) -> None:
    noise = noise_of(policy)
    twin, expected = copy.deepcopy(policy), policy.sample(context, BEST, noise)
    with torch.no_grad():
        for weight in twin.action_parameters():
            weight.add_(0.1)
    assert torch.equal(policy.sample(context, BEST, noise), expected)
    assert not torch.allclose(twin.sample(context, BEST, noise), expected, atol=1e-3)


# ---------------------------------------------------------------------- published weights


@pytest.fixture
def published(policy: Pi05Policy, tmp_path: Path) -> Path:
    """The policy's weights as LeRobot writes a checkpoint."""
    from lerobot.policies.pi05.processor_pi05 import make_default_policy_processor_steps
    from lerobot.processor.factory import make_policy_processor_pipelines

    folder = tmp_path / "lerobot"
    network = copy.deepcopy(policy.network)
    network.config.use_relative_actions = True
    network.config.action_feature_names = [name.replace("_opening", "_gripper") for name in policy.spec.layout.names]
    network.save_pretrained(folder)
    ranges = {"observation.state": ("state_low", "state_high"), "action": ("chunk_low", "chunk_high")}
    statistics = {
        key: dict(zip(("q01", "q99"), (getattr(policy, name) for name in names), strict=True))
        for key, names in ranges.items()
    }
    steps = make_default_policy_processor_steps(network.config, statistics)
    pipelines = make_policy_processor_pipelines(
        input_steps=[steps.rename_observations, steps.normalize], output_steps=[steps.unnormalize]
    )
    for pipeline in pipelines:
        pipeline.save_pretrained(folder)
    return folder


def from_lerobot(path: Path, spec: TaskSpec, tokenizer: Any, **arguments: Any) -> Pi05Policy:
    return Pi05Policy.from_lerobot(path, spec, tokenizer=tokenizer, sizes=SIZES, state_width=32, **arguments)


def test_published_weights_act_as_before(
    policy: Pi05Policy, context: TextContext, published: Path, wide_spec: TaskSpec, tokenizer: Any
) -> None:
    loaded = from_lerobot(published, wide_spec, tokenizer)
    assert (loaded.config.tokens, loaded.config.steps, loaded.config.image_size) == (360, 3, 28)
    angle = torch.tensor([float(unit == "rad") for unit in wide_spec.layout.units])
    assert torch.equal(loaded.relative, angle)  # LeRobot's rule is by name: everything but grippers
    noise = noise_of(policy)
    torch.testing.assert_close(
        loaded.sample(context, BEST, noise), policy.sample(context, BEST, noise), atol=1e-5, rtol=1e-5
    )
    assert not loaded.training


def test_what_is_exported_gives_the_same_chunks_in_lerobot(
    policy: Pi05Policy, observations: dict[str, torch.Tensor], tokenizer: Any, tmp_path: Path
) -> None:
    from rise_agents.policies.lerobot_export import export_lerobot
    from rise_agents.policies.pi05_processor import load_processors

    tokenizer.save_pretrained(tmp_path / "words")
    twin, out = copy.copy(policy), tmp_path / "out"
    twin.config = dataclasses.replace(policy.config, tokenizer=str(tmp_path / "words"))
    export_lerobot(twin, out)
    (step,) = (s for s in json.loads((out / "policy_preprocessor.json").read_text())["steps"] if "class" in s)
    assert step["class"] == "rise_agents.policies.pi05_processor.AdvantagePromptProcessorStep"
    loaded = from_lerobot(out, policy.spec, tokenizer)
    theirs = loaded.network.config
    assert (theirs.type, theirs.use_relative_actions) == ("pi05", True)
    assert json.loads((out / "config.json").read_text())["n_action_steps"] == policy.spec.execute
    before, after = load_processors(theirs, str(out))
    pictures = {policy.spec.cameras[name]: observations[f"image_{name}"] for name in policy.views}
    batch = {key: value.permute(0, 3, 1, 2) / 255 for key, value in pictures.items()}
    texts, noise = ["sort the bricks"] * COUNT, noise_of(policy)
    seen = before({**batch, "observation.state": observations["state"], "task": texts})
    found = after(loaded.network.predict_action_chunk(seen, noise=noise))
    expected = policy.sample(policy.context(observations, texts), BEST, noise)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_older_names_and_a_tied_embedding_find_their_place(
    policy: Pi05Policy, context: TextContext, published: Path, wide_spec: TaskSpec, tokenizer: Any
) -> None:
    from safetensors.torch import load_file, save_file

    file = published / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}
    embedding = tensors.pop("paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight")
    tensors["paligemma_with_expert.paligemma.lm_head.weight"] = embedding
    del tensors["paligemma_with_expert.gemma_expert.lm_head.weight"]
    for part in ("in.weight", "in.bias", "out.weight", "out.bias"):
        tensors[f"action_time_mlp_{part}"] = tensors.pop(f"time_mlp_{part}")
    save_file(tensors, file)
    loaded, noise = from_lerobot(published, wide_spec, tokenizer), noise_of(policy)
    torch.testing.assert_close(
        loaded.sample(context, BEST, noise), policy.sample(context, BEST, noise), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "cut", "absent", "type", "config"])
def test_published_weights_that_do_not_fit_are_an_error(
    published: Path, wide_spec: TaskSpec, tokenizer: Any, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    file, config = published / "model.safetensors", published / "config.json"
    tensors, content = load_file(file), json.loads(config.read_text())
    if damage == "missing":
        del tensors["model.action_in_proj.bias"]
        message = "missing model.action_in_proj.bias"
    elif damage == "extra":
        tensors["model.state_proj.weight"] = torch.zeros(2)
        message = "unexpected model.state_proj.weight"
    elif damage == "shape":
        tensors["model.action_in_proj.bias"] = torch.zeros(2)
        message = r"model.action_in_proj.bias has shape \(2,\), expected \(16,\)"
    elif damage == "cut":
        message = "cut short or damaged"
    elif damage == "absent":
        message = "model.safetensors does not exist"
    elif damage == "type":
        config.write_text(json.dumps({**content, "type": "act"}))
        message = "says type 'act'"
    else:
        config.write_text(json.dumps({**content, "chunk_size": "long"}))
        message = "config.json is damaged"
    save_file(tensors, file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    if damage == "absent":
        file.unlink()
    with pytest.raises(CheckpointError, match=message):
        from_lerobot(published, wide_spec, tokenizer)


def test_statistics_are_never_made_up(published: Path, wide_spec: TaskSpec, tokenizer: Any, policy: Pi05Policy) -> None:
    for file in published.glob("policy_preprocessor*.safetensors"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"no statistics q01 and q99 of 'observation.state'.*Pass data="):
        from_lerobot(published, wide_spec, tokenizer)
    data = recorded(wide_spec)
    loaded = from_lerobot(published, wide_spec, tokenizer, data=data)
    torch.testing.assert_close(loaded.state_low, policy.state_low)


def test_cameras_of_a_checkpoint_are_named(
    published: Path, wide_spec: TaskSpec, tokenizer: Any, context: TextContext, policy: Pi05Policy
) -> None:
    config = json.loads((published / "config.json").read_text())
    features = config["input_features"]
    for new, old in (("base_0_rgb", "top_head"), ("left_wrist_0_rgb", "hand_left"), ("spare", "hand_right")):
        features[f"observation.images.{new}"] = features.pop(f"observation.images.{old}")
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"no image feature observation.images.top_head.*base_0_rgb"):
        from_lerobot(published, wide_spec, tokenizer)
    two = dataclasses.replace(wide_spec, cameras={name: wide_spec.cameras[name] for name in ("left_wrist", "head")})
    names = {"left_wrist": "observation.images.left_wrist_0_rgb", "head": "observation.images.base_0_rgb"}
    loaded = from_lerobot(published, two, tokenizer, cameras=names)
    assert loaded.views == ("head", "left_wrist")
    assert loaded.config.empty_views == 1
    with pytest.raises(ConfigError, match="are not those of the task"):
        from_lerobot(published, wide_spec, tokenizer, cameras=names)


# ---------------------------------------------------------------------- settings and imports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"image_size": 30}, "image_size 30 is not a multiple of the patch size 14"),
        ({"condition_dropout": 1.0}, "condition_dropout is 1.0"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"empty_views": -1}, "empty_views is -1"),
    ],
)
def test_wrong_settings_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pi05PolicyConfig(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": 7}, "head is 7, expected an even number"),
        ({"depth": 0}, "depth is 0"),
        ({"vision_heads": 3}, "vision_width 16 is not a multiple of vision_heads 3"),
    ],
)
def test_wrong_sizes_are_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pi05Sizes(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_dim": 13}, "the task has 14 joints, the policy's max_dim is 13"),
        ({"views": ("head", "left_wrist")}, "are not the cameras"),
        ({"sizes": Pi05Sizes(vocabulary=100)}, "tokenizer has 260 ids, policy.sizes.vocabulary is 100"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_errors(
    wide_spec: TaskSpec, tokenizer: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pi05Policy(wide_spec, dataclasses.replace(CONFIG, **changes), tokenizer=tokenizer)


def test_a_tokenizer_without_a_beginning_is_an_error(wide_spec: TaskSpec, tokenizer: Any) -> None:
    from tokenizers import processors

    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(ConfigError, match="no beginning-of-sequence token"):
        Pi05Policy(wide_spec, CONFIG, tokenizer=bare)


def test_a_gated_tokenizer_says_what_to_do(wide_spec: TaskSpec, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hf auth login"):
        Pi05Policy(wide_spec, dataclasses.replace(CONFIG, tokenizer=str(tmp_path / "nothing")))


def test_the_codec_decides_on_the_bins(wide_spec: TaskSpec, tokenizer: Any, context: TextContext) -> None:
    torch.manual_seed(0)
    policy = Pi05Policy(wide_spec, CONFIG, AdvantageCodec(num_bins=5), tokenizer)
    prompts = policy.prompts(context, bins_of(0, 4, 5))
    assert [parse_prompt(prompt).bin for prompt in prompts] == [1, 5, None]
    with pytest.raises(ConfigError, match="bin 6 does not exist"):
        policy.prompts(context, bins_of(0, 4, 6))


def test_the_published_sizes_are_built_when_none_are_given(spec: TaskSpec, tokenizer: Any) -> None:
    policy = Pi05Policy(spec, tokenizer=tokenizer, device="meta")  # no memory
    assert sum(weight.numel() for weight in policy.parameters()) == 4_143_404_816
    expert = sum(weight.numel() for weight in policy.action_parameters())
    assert 0.4e9 < expert < 0.45e9
    assert policy.noise_shape == (spec.chunk, 32)


def test_importing_policies_takes_no_lerobot() -> None:
    heavy = ("lerobot", "transformers", "diffusers", "datasets")
    modules = "rise_agents.policies.base, rise_agents.policies.pi05, rise_agents.policies.lerobot_base"
    code = f"import sys, {modules}; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_behaviour_cloning_trains_it(tokenizer: Any, tmp_path: Path) -> None:
    from rise_agents.algorithms.bc import BehaviourCloning, train_policy
    from rise_agents.policies.config import CloningConfig, PolicyConfig
    from rise_env.data import open_dataset
    from rise_env.training.loop import Budget
    from rise_robot.cell.collect import collect
    from rise_robot.cell.config import load_cell

    spec, cell = load_cell("brick_sorting", "tiny")
    collect(spec, cell, "expert", 2, 0, tmp_path / "data")
    dataset = open_dataset(tmp_path / "data", spec)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = PolicyConfig(
        "pi05",
        dataclasses.replace(CONFIG, tokenizer=str(tmp_path / "tokenizer"), steps=1),
        training=CloningConfig(batch_size=4, held_out=0.5, learning_rate=1e-2, warmup_steps=1),
    )
    bins = np.arange(dataset.num_frames) % 10
    run = BehaviourCloning(dataset, bins, config, tmp_path / "run", Budget(steps=2), tensorboard=False)
    trained = train_policy(run)
    assert isinstance(trained, Pi05Policy)
    assert trained.spec == dataset.spec
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert np.isfinite([metrics["loss_held_out"], metrics["sample_error"]]).all()
    torch.manual_seed(config.training.seed)
    untrained = Pi05Policy(spec, config.model, tokenizer=tokenizer)
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.action_parameters(), untrained.action_parameters(), strict=True)
    ]
    assert any(moved)
    assert load_policy(tmp_path / "run" / "model").config == trained.config
