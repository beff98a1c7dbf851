"""Diffusion and SmolVLA of LeRobot are taken over as they act, learn in imagination, and are steered."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rise_agents import make_agent
from rise_agents.cli.main import main
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.lerobot_base import LeRobotBase
from rise_agents.policies.lerobot_export import export_lerobot
from rise_agents.policies.lerobot_policy import LeRobotPolicy, WithAdvantage
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import LeRobotSource, resolve_actor, resolve_policy
from rise_agents.policies.steered import SteeredPolicy, SteeringConfig
from rise_env.errors import CheckpointError, ConfigError
from rise_env.testing import counting_envs, counting_spec, counting_starts, counting_world_model

pytestmark = pytest.mark.slow  # LeRobot takes many seconds to import

SPEC, COUNT = counting_spec(), 4
Case = tuple[str, Path, LeRobotPolicy]


@pytest.fixture(scope="module", params=["diffusion", "smolvla"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, save_tiny: Callable[..., Path]
) -> Case:
    """Type, checkpoint of LeRobot, and what it is here; not to be changed."""
    folder = save_tiny(tmp_path_factory.mktemp("saved"), SPEC, request.param)
    policy = resolve_policy(folder, spec=SPEC)
    assert isinstance(policy, LeRobotPolicy)
    return request.param, folder, policy


def imagination(count: int = COUNT) -> Any:
    model = counting_world_model(doubt=0.5)
    return counting_envs(count, starts=counting_starts(count=24), world_model=model, autoreset_mode="disabled")


@pytest.fixture(scope="module")
def observations() -> Mapping[str, Any]:
    found: Mapping[str, Any] = imagination().reset(seed=0)[0]
    return found


def awake(policy: LeRobotPolicy) -> LeRobotPolicy:
    """A copy whose bins say something, as after training."""
    twin, generator = copy.deepcopy(policy), torch.Generator().manual_seed(1)
    (layer,) = (module for module in twin.modules() if isinstance(module, WithAdvantage))
    with torch.no_grad():
        layer.advantage.weight.normal_(generator=generator)
    return twin


def drawn(policy: LeRobotPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    """Bins of the best advantage, and noise."""
    noise = torch.randn((COUNT, *policy.noise_shape), generator=torch.Generator().manual_seed(0))
    return torch.full((COUNT,), policy.codec.best_bin), noise


def their_batch(policy: LeRobotPolicy, observations: Mapping[str, Any]) -> dict[str, Any]:
    """Observations as LeRobot's pre-processing gives them to its policy."""
    pictures = {key: torch.from_numpy(observations[f"image_{name}"]) for name, key in SPEC.cameras.items()}
    batch = {key: value.permute(0, 3, 1, 2) / 255 for key, value in pictures.items()}
    state = torch.from_numpy(observations["state"])
    found: dict[str, Any] = policy.preprocessor({**batch, "observation.state": state, "task": [SPEC.prompt] * COUNT})
    if policy.lerobot_type == "diffusion":
        found["observation.state"] = found["observation.state"][:, None]
    return found


@torch.no_grad()
def test_it_acts_as_lerobot_does_until_bins_say_something(case: Case, observations: Mapping[str, Any]) -> None:
    kind, folder, policy = case
    best, noise = drawn(policy)
    theirs = LeRobotBase.from_pretrained(folder, SPEC).policy
    if kind == "diffusion":
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        theirs.diffusion.noise_scheduler = DDIMScheduler.from_config(theirs.diffusion.noise_scheduler.config)
    found = policy.postprocessor(theirs.predict_action_chunk(their_batch(policy, observations), noise=noise))
    context = policy.context_of(observations)
    chunks = policy.sample(context, best, noise)
    assert chunks.shape == (COUNT, SPEC.chunk, SPEC.layout.dim)
    torch.testing.assert_close(chunks, found[:, : SPEC.chunk], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(policy.sample(context, 0 * best, noise, guidance=2.0), chunks)
    twin = awake(policy)
    asked, none = twin.sample(context, best, noise), twin.sample(context, best + 1, noise)
    assert (asked - twin.sample(context, 0 * best, noise)).abs().max() > 0.01
    torch.testing.assert_close(twin.sample(context, best, noise, guidance=0.0), none)
    assert (twin.sample(context, best, noise, guidance=3.0) - asked).abs().max() > 0.01
    torch.testing.assert_close(twin.sample(context[1:2], best[:1], noise[1:2]), asked[1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(policy.denormalise(policy.normalise(chunks, context.state), context.state), chunks)


def test_the_loss_is_lerobots_where_the_chunk_is_known(
    case: Case, observations: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, folder, policy = case
    low, high = torch.from_numpy(SPEC.layout.low), torch.from_numpy(SPEC.layout.high)
    chunks = low + (high - low) * torch.rand((COUNT, SPEC.chunk, 3), generator=torch.Generator().manual_seed(3))
    context, (best, _) = policy.context_of(observations), drawn(policy)
    found = policy.loss(context, best, chunks, torch.Generator().manual_seed(5), 0.0)
    clean, generator = policy.normalise(chunks, context.state), torch.Generator().manual_seed(5)
    noise, time, _ = policy.training_draws(clean, best, generator, 0.0)
    theirs, batch = LeRobotBase.from_pretrained(folder, SPEC).policy, their_batch(policy, observations)
    filled = torch.zeros(clean.shape[:2], dtype=torch.bool)
    filled[:, SPEC.chunk :] = True
    batch |= {"action": clean[..., :3], "action_is_pad": filled}
    if kind == "smolvla":
        expected = theirs.forward(batch, noise=noise, time=time, reduction="none")[0]
        torch.testing.assert_close(found, expected)
    else:
        steps = torch.randint(20, (COUNT,), generator=generator)
        monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
        monkeypatch.setattr(torch, "randint", lambda *_, **__: steps)
        theirs.config.do_mask_loss_for_padding = True
        batch = {key: value[:, None] if "images" in key else value for key, value in batch.items()}
        torch.testing.assert_close(found.mean(), theirs.forward(batch)[0])
    # What is filled up is not learned, and the last action fills it.
    assert torch.equal(
        clean[:, SPEC.chunk :, :3], clean[:, SPEC.chunk - 1 : SPEC.chunk, :3].expand(-1, len(filled[0]) - 8, -1)
    )


def test_rise_trains_the_action_expert_and_what_is_saved_acts_the_same(
    case: Case, observations: Mapping[str, Any], tmp_path: Path
) -> None:
    _, _, policy = case
    algorithm = make_agent("rise", imagination(), policy, offline_ratio=0.0, batch_size=8, epochs=1, learning_rate=1e-2)
    before = {name: value.clone() for name, value in policy.named_parameters()}
    algorithm.learn(16)
    actor = algorithm.learner.actor
    learned = {id(weight) for weight in actor.action_parameters()}
    moved = {name for name, value in actor.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= {name for name, value in actor.named_parameters() if id(value) in learned}
    assert any(name.endswith("advantage.weight") for name in moved)
    algorithm.policy.save_pretrained(tmp_path / "model")
    loaded, (best, noise) = load_policy(tmp_path / "model"), drawn(policy)
    assert type(loaded) is type(policy)
    with torch.no_grad():
        pairs = [one.sample(one.context_of(observations), best, noise) for one in (loaded, algorithm.policy)]
    torch.testing.assert_close(*pairs, atol=0, rtol=0)
    assert json.loads((tmp_path / "model" / "lerobot" / "config.json").read_text())["pretrained_path"] is None


def test_dsrl_steers_its_noise(case: Case, observations: Mapping[str, Any]) -> None:
    _, _, policy = case
    algorithm = make_agent("dsrl", imagination(), policy, batch_size=8, warmup_chunks=8, updates_per_chunk=0.25,
                           buffer_size=32, network=(8, 8))  # fmt: skip
    algorithm.learn(24)
    assert algorithm.has_learned
    for name, weight in algorithm.policy.base.named_parameters():
        assert torch.equal(weight, policy.get_parameter(name)), name
    chunks = algorithm.predict(observations, deterministic=True)[0]
    with torch.no_grad():
        algorithm.policy.actor.mu.bias.fill_(5.0)
    assert abs(algorithm.predict(observations, deterministic=True)[0] - chunks).max() > 0.01


def test_ppo_needs_a_velocity(case: Case) -> None:
    kind, _, policy = case
    algorithm = make_agent("ppo", imagination(), policy, rollout_steps=2, batch_size=4)
    if kind == "diffusion":
        with pytest.raises(ConfigError, match="has no velocity: PPO needs a flow policy"):
            algorithm.learn(8)
    else:
        assert "train/policy_gradient_loss" in algorithm.learn(16).metrics


def test_what_is_exported_is_lerobots_and_gives_the_same_chunks(
    case: Case, observations: Mapping[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    kind, _, policy = case
    twin, out = awake(policy), tmp_path / "out"
    twin.save_pretrained(tmp_path / "run" / "model")
    command = ["export", "--lerobot", str(tmp_path / "run"), str(out)]
    assert main(command) == 0
    assert "4 actions per chunk" in capsys.readouterr().out
    theirs = get_policy_class(kind).from_pretrained(out, strict=True)
    assert theirs.config.type == kind == PreTrainedConfig.from_pretrained(out).type
    assert theirs.config.n_action_steps == SPEC.execute
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(out))
    best, noise = drawn(twin)
    with torch.no_grad():
        chunks = twin.sample(twin.context_of(observations), best, noise)
        assert (chunks - policy.sample(policy.context_of(observations), best, noise)).abs().max() > 0.01
    twin.preprocessor = before
    found = after(theirs.predict_action_chunk(their_batch(twin, observations), noise=noise))
    torch.testing.assert_close(found[:, : SPEC.execute], chunks[:, : SPEC.execute], atol=1e-5, rtol=1e-4)
    # lerobot-eval and lerobot-rollout ask for one action at a time.
    batch = their_batch(twin, observations)
    if kind == "diffusion":
        batch["observation.state"] = batch["observation.state"][:, 0]
    for step in range(2):
        action = after(theirs.select_action(dict(batch), noise=noise))
        torch.testing.assert_close(action, chunks[:, step], atol=1e-5, rtol=1e-4)
    LeRobotBase.from_pretrained(out, SPEC)
    assert {"config.json", "model.safetensors", "policy_preprocessor.json"} <= {file.name for file in out.iterdir()}
    assert main(command) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_what_lerobot_does_not_have_is_not_exported(case: Case, tmp_path: Path) -> None:
    _, folder, policy = case
    for given, message in (
        (SteeredPolicy(policy, SteeringConfig(features=4)), "takes none that DSRL has chosen"),
        (FlowPolicy(SPEC, FlowPolicyConfig(lags=(2,))), "LeRobot has no policy of kind 'rise-flow-policy'"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_lerobot(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="is a policy of LeRobot"):
        main(["--traceback", "export", "--lerobot", str(folder), str(tmp_path / "out")])


def test_it_acts_as_it_will_be_trained_where_that_is_asked_for(case: Case, observations: Mapping[str, Any]) -> None:
    kind, folder, policy = case
    source = resolve_actor(folder, noise_scale=0.0)
    assert isinstance(source, LeRobotSource)
    actor = source.load(SPEC)
    assert isinstance(actor, PolicyActor)
    actor.reset([0] * COUNT, torch.ones(COUNT, dtype=torch.bool).numpy())
    best, noise = drawn(policy)
    with torch.no_grad():
        expected = policy.within_limits(policy.sample(policy.context_of(observations), best, 0 * noise))
    torch.testing.assert_close(torch.from_numpy(actor.act(observations)), expected)
    with pytest.raises(CheckpointError, match=r"is a policy of LeRobot: `rise evaluate`, .*a policy of ours is needed"):
        load_policy(folder)
    if kind == "diffusion":
        with pytest.raises(ConfigError, match="steps is 21, expected 1 to 20"):
            policy.sample(policy.context_of(observations), best, noise, steps=21)
    with pytest.raises(ConfigError, match="keeps the statistics that it was trained with"):
        policy.fit_normalisation(torch.zeros(1, 3), torch.zeros(1, 8, 3))


def test_what_cannot_be_trained_is_named(case: Case, tmp_path: Path) -> None:
    _, folder, policy = case
    with pytest.raises(ConfigError, match=rf"predicts {policy.noise_shape[0]} steps, the task's chunk has 16"):
        resolve_policy(folder, spec=dataclasses.replace(SPEC, chunk=16))
    with pytest.raises(ConfigError, match=r"images\.wrist would be missing"):
        resolve_policy(folder, spec=dataclasses.replace(SPEC, cameras={"head": SPEC.cameras["head"]}))
    shutil.copytree(folder, tmp_path / "copy")
    steps = tmp_path / "copy" / "policy_postprocessor.json"
    content = json.loads(steps.read_text())
    content["steps"].append({"registry_name": "absolute_actions_processor", "config": {"enabled": False}})
    steps.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="has the steps AbsoluteActionsProcessorStep, through which"):
        resolve_policy(tmp_path / "copy", spec=SPEC)
    config = tmp_path / "copy" / "config.json"
    for changed, message in (
        ({"type": "act"}, r"'act', which does not start from noise.*diffusion, pi05, smolvla"),
        ({"n_obs_steps": 2}, r"n_obs_steps=2 moments.* every 2th: train it with --policy.n_obs_steps=1"),
    ):
        config.write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **changed}))
        with pytest.raises(ConfigError, match=message):
            resolve_policy(tmp_path / "copy", spec=SPEC)


def test_the_past_comes_first(
    observe: Callable[..., dict[str, torch.Tensor]], tmp_path: Path, save_tiny: Callable[..., Path]
) -> None:
    spec = dataclasses.replace(SPEC, stride=1, history=8)
    policy = resolve_policy(save_tiny(tmp_path, spec, "diffusion", n_obs_steps=2), spec=spec)
    assert (policy.lags, policy.noise_shape) == ((1,), (12, 3))
    seen = observe(spec, 2, (1,))
    context, (low, high) = policy.context_of(seen), map(torch.from_numpy, (spec.layout.low, spec.layout.high))
    moments = context.features.unflatten(1, (2, -1))[..., :3]
    for place, key in enumerate(("state_lag1", "state")):
        torch.testing.assert_close(moments[:, place], 2 * (seen[key] - low) / (high - low) - 1)
    chunks = low + (high - low) * torch.rand((2, spec.chunk, 3))
    clean = policy.normalise(chunks, context.state)
    torch.testing.assert_close(clean[:, :2], clean[:, 1:2].expand(-1, 2, -1))  # before the chunk: its first action
    torch.testing.assert_close(policy.denormalise(clean, context.state), chunks)
