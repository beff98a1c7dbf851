"""FlowPolicy: what it is a function of, what it learns from, and what its files keep."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Context
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.acting import Actor
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import TaskSpec

NETWORK = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)
CONFIG = FlowPolicyConfig(network=NETWORK, lags=(2,), steps=3, storage="fp32")
COUNT = 4

Observe = Callable[..., dict[str, torch.Tensor]]


def make(spec: TaskSpec, config: FlowPolicyConfig = CONFIG, seed: int = 0) -> FlowPolicy:
    """A policy with random weights everywhere, a new one predicts no velocity at all; without dropout."""
    torch.manual_seed(seed)
    policy = FlowPolicy(spec, config)
    with torch.no_grad():
        policy.denoiser.write.weight.normal_(std=0.3)
    states, chunks = recorded(spec)
    policy.fit_normalisation(states, chunks)
    return policy.eval()


def recorded(spec: TaskSpec, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random states (N, D), and chunks (N, chunk, D) near them; rad and m."""
    generator = torch.Generator().manual_seed(1)
    low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
    states = low + torch.rand((count, spec.layout.dim), generator=generator) * (high - low)
    moves = 0.1 * (high - low) * torch.randn((count, spec.chunk, spec.layout.dim), generator=generator)
    return states, states[:, None] + moves


def noise_of(policy: FlowPolicy, count: int = COUNT, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *policy.noise_shape), generator=torch.Generator().manual_seed(seed))


def full(policy: FlowPolicy, level: int, count: int = COUNT) -> torch.Tensor:
    return torch.full((count,), level)


@pytest.fixture(scope="module")
def policy(spec: TaskSpec) -> FlowPolicy:
    return make(spec)


@pytest.fixture
def context(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> Context:
    with torch.no_grad():
        return policy.context(observe(spec, COUNT, policy.lags), [spec.prompt] * COUNT)


# ---------------------------------------------------------------------- acting


def test_a_chunk_is_a_function_of_context_level_and_noise(policy: FlowPolicy, context: Context) -> None:
    best, noise = full(policy, policy.codec.best_bin), noise_of(policy)
    torch.manual_seed(1)
    chunks = policy.sample(context, best, noise)
    torch.manual_seed(2)
    assert torch.equal(chunks, policy.sample(context, best, noise))
    assert chunks.shape == (COUNT, policy.spec.chunk, policy.spec.layout.dim)
    assert chunks.dtype == torch.float32
    for other in (
        policy.sample(context, best, noise_of(policy, seed=1)),
        policy.sample(context, full(policy, 0), noise),
        policy.sample(context[[1, 2, 3, 0]], best, noise),
        policy.sample(context, best, noise, steps=5),
    ):
        assert not torch.allclose(chunks, other, atol=1e-4)


def test_a_row_does_not_depend_on_the_others(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations, noise = observe(spec, COUNT, policy.lags), noise_of(policy)
    levels = torch.tensor([0, 3, policy.codec.best_bin, policy.codec.unconditional])
    with torch.no_grad():
        together = policy.sample(policy.context(observations, [spec.prompt] * COUNT), levels, noise)
        for row in range(COUNT):
            seen = {key: value[row : row + 1] for key, value in observations.items()}
            alone = policy.sample(policy.context(seen, [spec.prompt]), levels[row : row + 1], noise[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_guidance_of_one_is_plain_and_of_zero_says_nothing(policy: FlowPolicy, context: Context) -> None:
    best, none, noise = (
        full(policy, policy.codec.best_bin),
        full(policy, policy.codec.unconditional),
        noise_of(policy),
    )
    plain, silent = policy.sample(context, best, noise), policy.sample(context, none, noise)
    assert not torch.allclose(plain, silent, atol=1e-3)
    torch.testing.assert_close(policy.sample(context, best, noise, guidance=1.0), plain)
    torch.testing.assert_close(policy.sample(context, best, noise, guidance=1.0 + 1e-7), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(policy.sample(context, best, noise, guidance=0.0), silent, atol=1e-5, rtol=1e-5)


def test_guidance_extrapolates(policy: FlowPolicy, context: Context) -> None:
    best, none, noise = (
        full(policy, policy.codec.best_bin),
        full(policy, policy.codec.unconditional),
        noise_of(policy),
    )
    # In one step the chunk is linear in the velocity.
    plain, silent = policy.sample(context, best, noise, steps=1), policy.sample(context, none, noise, steps=1)
    strong = policy.sample(context, best, noise, guidance=2.5, steps=1)
    torch.testing.assert_close(strong, silent + 2.5 * (plain - silent), atol=1e-4, rtol=1e-4)


def test_more_steps_follow_the_same_velocity(policy: FlowPolicy, context: Context) -> None:
    best, noise = full(policy, policy.codec.best_bin), noise_of(policy)
    x = noise.flatten(1)
    for k in range(4):
        time = torch.full((COUNT,), 1 - k / 4)
        x = x - policy.denoiser(x, context.features, time, best) / 4
    torch.testing.assert_close(
        policy.sample(context, best, noise, steps=4), policy.denormalise(x, context.state), atol=1e-5, rtol=1e-5
    )


def test_one_step_of_a_policy_that_predicts_chunks_is_its_prediction(spec: TaskSpec, context: Context) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, prediction_type="sample"))
    best, noise = full(policy, policy.codec.best_bin), noise_of(policy)
    predicted = policy.denoiser(noise.flatten(1), context.features, torch.ones(COUNT), best)
    torch.testing.assert_close(
        policy.sample(context, best, noise, steps=1), policy.denormalise(predicted, context.state), atol=1e-5, rtol=1e-5
    )
    policy.denoiser.write.weight.data.zero_()  # whatever the noise and the steps, it ends at the same chunk
    ends = [policy.sample(context, best, noise_of(policy, seed=seed), steps=3 + seed) for seed in range(2)]
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-4)


def test_a_policy_that_predicts_the_right_chunk_has_no_loss(spec: TaskSpec, context: Context) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, prediction_type="sample"))
    policy.denoiser.write.weight.data.zero_()
    right = policy.denormalise(policy.denoiser.write.bias.expand(COUNT, -1), context.state)
    level = full(policy, 3)
    assert policy.loss(context, level, right, torch.Generator().manual_seed(0)).max() < 1e-6
    assert policy.loss(context, level, right + 0.1, torch.Generator().manual_seed(0)).min() > 1e-2


def test_an_observation_without_its_past_names_the_argument(
    policy: FlowPolicy, spec: TaskSpec, observe: Observe
) -> None:
    with pytest.raises(ConfigError, match=r"image_head_lag2.*observation_lags=\[2\]"):
        policy.context(observe(spec, 1), [spec.prompt])


def test_images_of_another_size_are_an_error(
    policy: FlowPolicy, spec: TaskSpec, wide_spec: TaskSpec, observe: Observe
) -> None:
    with pytest.raises(ConfigError, match=r"image_head has shape \(48, 64, 3\), the policy expects \(36, 48, 3\)"):
        policy.context(observe(wide_spec, 1, policy.lags), [spec.prompt])


# ---------------------------------------------------------------------- normalisation


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 3.0))
def test_denormalising_undoes_normalising(policy: FlowPolicy, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn((3, policy.spec.layout.dim), generator=generator)
    chunks = scale * torch.randn((3, policy.spec.chunk, policy.spec.layout.dim), generator=generator)
    flat = policy.normalise(chunks, states)
    assert flat.shape == (3, policy.spec.chunk * policy.spec.layout.dim)
    torch.testing.assert_close(policy.denormalise(flat, states), chunks, atol=1e-4, rtol=1e-4)


def test_data_are_normal_after_normalising(policy: FlowPolicy, spec: TaskSpec) -> None:
    states, chunks = recorded(spec)
    flat = policy.normalise(chunks, states)
    torch.testing.assert_close(flat.mean(0), torch.zeros(flat.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(0), torch.ones(flat.shape[1]), atol=1e-3, rtol=0)


def test_angles_move_with_the_joint_state_and_openings_do_not(policy: FlowPolicy, context: Context) -> None:
    flat = noise_of(policy).flatten(1)
    moved = policy.denormalise(flat, context.state + 0.5) - policy.denormalise(flat, context.state)
    angle = torch.tensor([unit == "rad" for unit in policy.spec.layout.units])
    torch.testing.assert_close(moved, (0.5 * angle.float()).expand(moved.shape), atol=1e-5, rtol=0)


def test_a_joint_that_stood_still_is_not_blown_up(spec: TaskSpec) -> None:
    policy = FlowPolicy(spec, CONFIG)
    states = torch.zeros((5, spec.layout.dim))
    policy.fit_normalisation(states, torch.zeros((5, spec.chunk, spec.layout.dim)))
    off = policy.normalise(torch.full((1, spec.chunk, spec.layout.dim), 0.002), states[:1])
    assert float(off.abs().max()) <= 0.5


# ---------------------------------------------------------------------- learning


def test_the_loss_is_repeatable_and_one_per_chunk(policy: FlowPolicy, context: Context, spec: TaskSpec) -> None:
    chunks, levels = recorded(spec, COUNT)[1], full(policy, 3)
    first, again = (policy.loss(context, levels, chunks, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (COUNT,)
    assert torch.equal(first, again)
    assert not torch.equal(first, policy.loss(context, levels, chunks, torch.Generator().manual_seed(6)))


def test_the_loss_depends_on_the_level(spec: TaskSpec, context: Context) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, condition_dropout=0.0))
    chunks = recorded(spec, COUNT)[1]
    low, high = (
        policy.loss(context, full(policy, level), chunks, torch.Generator().manual_seed(5)) for level in (0, 9)
    )
    assert (low - high).abs().min() > 1e-5


@pytest.mark.parametrize("prediction_type", ["velocity", "sample"])
def test_levels_are_learned(spec: TaskSpec, context: Context, prediction_type: str) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, condition_dropout=0.0, prediction_type=prediction_type))
    chunks = {0: context.state[:, None] - 0.3, 9: context.state[:, None] + 0.3}
    chunks = {level: chunk.repeat(1, spec.chunk, 1) for level, chunk in chunks.items()}
    generator = torch.Generator().manual_seed(0)
    weights = policy.action_parameters()
    noise = noise_of(policy)

    def apart() -> float:
        with torch.no_grad():
            samples = [policy.sample(context, full(policy, level), noise) for level in (0, 9)]
        return float((samples[1] - samples[0])[..., :6].mean())

    before = apart()
    policy.train()
    for _ in range(80):
        losses = [policy.loss(context, full(policy, level), chunks[level], generator).mean() for level in (0, 9)]
        gradients = torch.autograd.grad(sum(losses), weights)  # torch.optim takes seconds to import
        with torch.no_grad():
            torch._foreach_add_(weights, [gradient.sign() for gradient in gradients], alpha=-5e-3)
    policy.eval()
    assert apart() - before > 0.2


def test_levels_are_hidden_at_the_stated_rate(spec: TaskSpec, context: Context) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, condition_dropout=0.3, noise_samples=3))
    seen: list[torch.Tensor] = []
    policy.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[3]))
    many = context[torch.arange(COUNT).repeat(250)]
    chunks = recorded(spec, COUNT)[1].repeat(250, 1, 1)
    policy.loss(many, full(policy, 4, len(many)), chunks, torch.Generator().manual_seed(0))
    hidden = seen[0] == policy.codec.unconditional
    assert set(seen[0].tolist()) == {4, policy.codec.unconditional}
    assert len(hidden) == 3 * len(many)
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / len(hidden)) ** 0.5)


def test_only_the_denoiser_is_the_action_expert(policy: FlowPolicy) -> None:
    names = {name for name, weight in policy.named_parameters() if any(weight is w for w in policy.action_parameters())}
    assert names == {name for name, _ in policy.named_parameters() if name.startswith("denoiser.")}


def test_images_are_jittered_in_training_alone(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations, prompts = observe(spec, 2, policy.lags), [spec.prompt] * 2
    kept = copy.deepcopy(observations)
    with torch.no_grad():
        plain, again = (policy.context(observations, prompts).features for _ in range(2))
        one, same, other = (
            policy.context(observations, prompts, torch.Generator().manual_seed(seed)).features for seed in (1, 1, 2)
        )
    assert torch.equal(plain, again)
    assert torch.equal(one, same)
    assert not torch.allclose(one, plain)
    assert not torch.allclose(one, other)
    assert all(torch.equal(value, kept[key]) for key, value in observations.items())


def test_pictures_are_shifted_and_their_borders_repeated(
    policy: FlowPolicy, spec: TaskSpec, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "config", dataclasses.replace(CONFIG, jitter=0.0, shift=2))
    seen: list[torch.Tensor] = []
    for encoder in policy.encoders:
        monkeypatch.setattr(encoder, "forward", lambda images: seen.append(images) or torch.zeros((len(images), 8)))
    count, (height, width) = 12, spec.image_size
    observations = observe(spec, count, policy.lags)
    policy.context(observations, [spec.prompt] * count, torch.Generator().manual_seed(0))
    found: set[tuple[int, int]] = set()
    for view, camera in enumerate(spec.cameras):
        moments = [observations[f"image_{camera}{suffix}"] for suffix in ("", "_lag2")]
        original = torch.cat([moment.permute(0, 3, 1, 2).float() for moment in moments], dim=1) / 127.5 - 1
        bordered = torch.nn.functional.pad(original, (2, 2, 2, 2), mode="replicate")
        for row in range(count):
            fits = [
                (down, right)
                for down in range(5)
                for right in range(5)
                if torch.allclose(
                    bordered[row, :, down : down + height, right : right + width], seen[view][row], atol=1e-5
                )
            ]
            assert len(fits) == 1  # both moments by the same
            found |= set(fits)
    assert {down for down, _ in found} == {right for _, right in found} == set(range(5))


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(("storage", "tolerance"), [("fp32", 0.0), ("fp16", 5e-3)])
def test_a_saved_policy_acts_the_same(
    spec: TaskSpec, context: Context, tmp_path: Path, storage: str, tolerance: float
) -> None:
    policy = make(spec, dataclasses.replace(CONFIG, storage=storage))
    policy.codec = AdvantageCodec("percentile", num_bins=10).fit(np.linspace(-1, 1, 50))
    policy.save_pretrained(tmp_path / "policy")
    loaded = FlowPolicy.from_pretrained(tmp_path / "policy")
    assert (loaded.spec, loaded.config, loaded.codec) == (policy.spec, policy.config, policy.codec)
    assert not loaded.training
    for name, tensor in policy.state_dict().items():
        found = loaded.state_dict()[name]
        torch.testing.assert_close(found, tensor, atol=tolerance, rtol=tolerance)
        assert found.dtype == tensor.dtype
    noise, best = noise_of(policy), full(policy, policy.codec.best_bin)
    torch.testing.assert_close(
        loaded.sample(context, best, noise), policy.sample(context, best, noise), atol=10 * tolerance, rtol=0
    )
    assert {file.name for file in (tmp_path / "policy").iterdir()} == {"config.json", "model.safetensors"}


def test_checkpoints_of_version_1_are_understood(policy: FlowPolicy, context: Context, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "policy")
    config = tmp_path / "policy" / "config.json"
    content = json.loads(config.read_text())
    renamed = {"prediction_type": "predicts", "noise_scale": "noise", "noise_samples": "draws",
               "condition_dropout": "unsaid"}  # fmt: skip
    content["policy"] = {renamed.get(key, key): value for key, value in content["policy"].items()}
    content["policy"]["predicts"] = "chunk"
    content["advantage"]["levels"] = content["advantage"].pop("num_bins")
    config.write_text(json.dumps({**content, "format_version": 1}))
    loaded = FlowPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.config == dataclasses.replace(policy.config, prediction_type="sample")
    assert loaded.codec == policy.codec


@pytest.mark.parametrize("damage", ["cut", "kind", "shape", "json", "missing", "bins"])
def test_a_damaged_checkpoint_is_named(policy: FlowPolicy, tmp_path: Path, damage: str) -> None:
    policy.save_pretrained(tmp_path / "policy")
    config, weights = tmp_path / "policy" / "config.json", tmp_path / "policy" / "model.safetensors"
    content = json.loads(config.read_text())
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
        message = "cut short or damaged"
    elif damage == "kind":
        config.write_text(json.dumps({**content, "kind": "rise-value"}))
        message = "'rise-value', expected 'rise-flow-policy'"
    elif damage == "shape":
        content["policy"]["network"]["width"] = 24
        config.write_text(json.dumps(content))
        message = r"denoiser.read_chunk.weight has shape \(16, 112\), expected \(24, 112\)"
    elif damage == "json":
        config.write_text(config.read_text()[:-20])
        message = "damaged"
    elif damage == "missing":
        weights.unlink()
        message = "does not exist"
    else:
        content["advantage"]["num_bins"] = 1
        config.write_text(json.dumps(content))
        message = "num_bins is 1"
    with pytest.raises(CheckpointError, match=message):
        FlowPolicy.from_pretrained(tmp_path / "policy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"condition_dropout": 1.0}, "condition_dropout is 1.0"),
        ({"shift": -1}, "shift is -1"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"storage": "int4"}, "storage is 'int4'"),
    ],
)
def test_wrong_settings_are_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FlowPolicyConfig(**arguments)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- in an environment


def run(policy: FlowPolicy, observations: dict[str, torch.Tensor], seeds: list[int], chunks: int = 2) -> np.ndarray:
    runner: Actor = PolicyActor(policy)
    runner.reset(seeds, np.ones(len(seeds), bool))
    arrays = {key: value.numpy() for key, value in observations.items()}
    return np.stack([runner.act(arrays) for _ in range(chunks)], axis=1)


def test_an_episode_does_not_depend_on_what_runs_beside_it(
    policy: FlowPolicy, spec: TaskSpec, observe: Observe
) -> None:
    observations = observe(spec, 3, policy.lags)
    together = run(policy, observations, [5, 0, 7])
    assert not np.allclose(together[:, 0], together[:, 1], atol=1e-3)  # the second chunk has noise of its own
    for row, seed in enumerate([5, 0, 7]):
        alone = run(policy, {key: value[row : row + 1] for key, value in observations.items()}, [seed])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_a_new_episode_leaves_the_others_as_they_are(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations = {key: value.numpy() for key, value in observe(spec, 2, policy.lags).items()}
    expected = run(policy, observe(spec, 2, policy.lags), [5, 6], chunks=3)
    runner = PolicyActor(policy)
    runner.reset([5, 6], np.ones(2, bool))
    runner.act(observations)
    runner.reset([5, 6], np.array([False, True]))  # the second one begins anew, with its old seed
    np.testing.assert_allclose(runner.act(observations)[0], expected[0, 1], atol=1e-6)
    np.testing.assert_allclose(runner.act(observations)[1], expected[1, 1], atol=1e-6)


def test_the_same_seed_makes_the_same_chunks_and_another_others(
    policy: FlowPolicy, spec: TaskSpec, observe: Observe
) -> None:
    observations = observe(spec, 1, policy.lags)
    np.testing.assert_array_equal(run(policy, observations, [0]), run(policy, observations, [0]))
    assert not np.allclose(run(policy, observations, [0]), run(policy, observations, [1]), atol=1e-3)


def test_chunks_stay_within_the_joint_limits(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations = observe(spec, 3, policy.lags)
    observations["state"] = torch.from_numpy(spec.layout.high).repeat(3, 1)
    chunks = run(policy, observations, [1, 2, 3])
    assert (chunks <= spec.layout.high).all()
    assert (chunks >= spec.layout.low).all()
    assert (chunks == spec.layout.high).any()


def test_without_noise_nothing_is_drawn(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations = {key: value.numpy() for key, value in observe(spec, COUNT, policy.lags).items()}
    drawn, still = [], []
    for seed in (1, 2):
        for runner, found in ((PolicyActor(policy), drawn), (PolicyActor(policy, noise_scale=0.0), still)):
            runner.reset([seed] * COUNT, np.ones(COUNT, bool))
            found.append(runner.act(observations))
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(still[0], still[1])


def test_a_policy_acts_with_the_noise_of_its_settings(
    policy: FlowPolicy, spec: TaskSpec, observe: Observe, tmp_path: Path
) -> None:
    still = FlowPolicy(spec, dataclasses.replace(policy.config, noise_scale=0.0), policy.codec)
    still.load_state_dict(policy.state_dict())
    still.save_pretrained(tmp_path)
    still = FlowPolicy.from_pretrained(tmp_path)
    observations = {key: value.numpy() for key, value in observe(spec, COUNT, policy.lags).items()}

    def act(noise: float | None = None) -> np.ndarray:
        runner = PolicyActor(still, noise_scale=noise)
        runner.reset([4] * COUNT, np.ones(COUNT, bool))
        return runner.act(observations)

    np.testing.assert_array_equal(act(), act(noise=0.0))
    assert (act() != act(noise=1.0)).any()
    with pytest.raises(ConfigError, match="noise_scale is 2"):
        dataclasses.replace(policy.config, noise_scale=2.0)


def test_the_actor_asks_for_the_bin_it_is_told(policy: FlowPolicy, spec: TaskSpec, observe: Observe) -> None:
    observations = {key: value.numpy() for key, value in observe(spec, 1, policy.lags).items()}

    def first(**arguments: object) -> np.ndarray:
        runner = PolicyActor(policy, **arguments)  # type: ignore[arg-type]
        runner.reset([3], np.ones(1, bool))
        return runner.act(observations)

    np.testing.assert_array_equal(first(), first(advantage_bin=policy.codec.best_bin))
    assert not np.allclose(first(), first(advantage_bin=0), atol=1e-4)
    assert not np.allclose(first(), first(guidance=3.0), atol=1e-4)
