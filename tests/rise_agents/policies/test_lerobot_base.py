"""LeRobotBase: saved LeRobot policies act in our environments, and only those that were really loaded and fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rise_agents.policies.lerobot_base import LeRobotBase
from rise_agents.policies.lerobot_loading import check_features
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import LeRobotSource, resolve_actor
from rise_agents.policies.served_lerobot import LeRobotService
from rise_env.acting import Actor, needed_by
from rise_env.errors import CheckpointError, ConfigError
from rise_env.tasks import TaskSpec, load_task

pytestmark = pytest.mark.slow  # LeRobot takes many seconds to import

Observe = Callable[..., dict[str, torch.Tensor]]
SEEDS = [5, 0, 7]


@pytest.fixture(scope="module")
def spec() -> TaskSpec:
    """Two cameras; stride 1, so that the step before can be observed."""
    whole = load_task("brick_sorting", "tiny")
    cameras = {name: whole.cameras[name] for name in ("head", "left_wrist")}
    return dataclasses.replace(whole, cameras=cameras, image_size=(48, 64), stride=1)


DIFFUSION = {
    "horizon": 16, "n_action_steps": 4, "down_dims": (8, 16), "kernel_size": 3, "n_groups": 4,
    "diffusion_step_embed_dim": 8, "num_train_timesteps": 4, "num_inference_steps": 2, "crop_ratio": 1.0,
    "spatial_softmax_num_keypoints": 4, "pretrained_backbone_weights": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def act(spec: TaskSpec, tmp_path_factory: pytest.TempPathFactory, save_act: Callable[..., Path]) -> Path:
    return save_act(tmp_path_factory.mktemp("act"), spec)


@pytest.fixture(scope="module")
def diffusion(spec: TaskSpec, tmp_path_factory: pytest.TempPathFactory, save_lerobot: Callable[..., Path]) -> Path:
    return save_lerobot(tmp_path_factory.mktemp("diffusion"), spec, "diffusion", n_obs_steps=2, **DIFFUSION)


def arrays(observations: dict[str, torch.Tensor], rows: Any = slice(None)) -> dict[str, np.ndarray]:
    return {key: value[rows].numpy() for key, value in observations.items()}


def run(policy: Actor, observations: dict[str, np.ndarray], seeds: list[int], chunks: int = 2) -> np.ndarray:
    policy.reset(seeds, np.ones(len(seeds), bool))
    return np.stack([policy.act(observations) for _ in range(chunks)], axis=1)


def test_a_loaded_act_predicts_what_lerobot_predicts(act: Path, spec: TaskSpec, observe: Observe) -> None:
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.factory import make_pre_post_processors

    observations = observe(spec, 3)
    chunks = run(LeRobotBase.from_pretrained(act, spec), arrays(observations), SEEDS)
    theirs = ACTPolicy.from_pretrained(act)
    pre, post = make_pre_post_processors(theirs.config, pretrained_path=str(act))
    images = {key: observations[f"image_{name}"].permute(0, 3, 1, 2) / 255 for name, key in spec.cameras.items()}
    batch = pre({**images, "observation.state": observations["state"], "task": [spec.prompt] * 3})
    expected = post(theirs.predict_action_chunk(batch))[:, : spec.chunk]
    assert chunks.shape == (3, 2, spec.chunk, spec.layout.dim)
    assert chunks.dtype == np.float32
    np.testing.assert_allclose(chunks[:, 0], np.clip(expected.numpy(), spec.layout.low, spec.layout.high), atol=1e-5)
    np.testing.assert_array_equal(chunks[:, 0], chunks[:, 1])  # it draws nothing
    assert (chunks > spec.layout.low).mean() > 0.5


@pytest.mark.parametrize("history", ["lags", "repeat"])
def test_random_numbers_depend_on_the_episodes_seed_alone(
    diffusion: Path, spec: TaskSpec, observe: Observe, history: str
) -> None:
    policy = LeRobotBase.from_pretrained(diffusion, spec, history=history)
    assert policy.lags == ((1,) if history == "lags" else ())
    observations = observe(spec, 3, (1,))
    global_state = torch.get_rng_state()
    together = run(policy, arrays(observations), SEEDS)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(9)
    np.testing.assert_array_equal(run(policy, arrays(observations), SEEDS), together)
    for row, seed in enumerate(SEEDS):
        alone = run(policy, arrays(observations, slice(row, row + 1)), [seed])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    assert np.abs(together[:, 0] - together[:, 1]).max() > 1e-4
    other = run(policy, arrays(observations, slice(0, 1)), [6])
    assert np.abs(other[0] - together[0]).max() > 1e-4


def test_a_new_episode_leaves_the_others_as_they_are(diffusion: Path, spec: TaskSpec, observe: Observe) -> None:
    policy = LeRobotBase.from_pretrained(diffusion, spec)
    observations = arrays(observe(spec, 2, (1,)))
    expected = run(policy, observations, [5, 6])
    policy.reset([5, 6], np.ones(2, bool))
    policy.act(observations)
    policy.reset([5, 6], np.array([False, True]))
    mixed = policy.act(observations)
    np.testing.assert_array_equal(mixed[0], expected[0, 1])
    np.testing.assert_array_equal(mixed[1], expected[1, 0])


def test_the_past_is_read_where_the_policy_wants_it(diffusion: Path, spec: TaskSpec, observe: Observe) -> None:
    policy = LeRobotBase.from_pretrained(diffusion, spec)
    observations = observe(spec, 1, (1,))
    expected = run(policy, arrays(observations), [5], 1)
    moved = {**observations, "state_lag1": observations["state_lag1"] + 0.3}
    assert np.abs(run(policy, arrays(moved), [5], 1) - expected).max() > 1e-5
    queues = policy.policy._queues["observation.state"]
    assert len(queues) == 2
    low, high = torch.from_numpy(spec.layout.low), torch.from_numpy(spec.layout.high)
    for place, key in ((0, "state_lag1"), (1, "state")):
        values = 2 * (moved[key] - low) / (high - low) - 1
        torch.testing.assert_close(queues[place], values, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"observation_lags=\[1\]"):
        policy.act(arrays(observe(spec, 1)))


def test_no_other_weights_are_downloaded(act: Path, spec: TaskSpec, observe: Observe, tmp_path: Path) -> None:
    shutil.copytree(act, tmp_path / "copy")
    content = json.loads((act / "config.json").read_text())
    content["pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"
    (tmp_path / "copy" / "config.json").write_text(json.dumps(content))
    observations = arrays(observe(spec, 1))
    expected, found = (
        run(LeRobotBase.from_pretrained(path, spec), observations, [1]) for path in (act, tmp_path / "copy")
    )
    np.testing.assert_array_equal(found, expected)


def test_only_loaded_weights_pass(act: Path, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.policies.act.modeling_act import ACTPolicy

    # As LeRobot's pi0 and pi0.5 do where a file does not fit: a warning, and random weights.
    monkeypatch.setattr(
        ACTPolicy, "from_pretrained", classmethod(lambda cls, path, *, config, strict: cls(config).eval())
    )
    with pytest.raises(CheckpointError, match=r"model\S+ was not loaded by LeRobot"):
        LeRobotBase.from_pretrained(act, spec)


NAN, WEIGHT = float("nan"), "model.action_head.bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(WEIGHT), WEIGHT),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra"),
        (lambda tensors: tensors[WEIGHT].fill_(NAN), f"{WEIGHT} is not finite"),
        (lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT] * 1j}), f"{WEIGHT} holds torch.complex64"),
        (lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].int()}), f"{WEIGHT} holds torch.int32"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_weights_must_fit(
    act: Path, spec: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool, damage: Any, message: str
) -> None:
    from lerobot.policies.act.modeling_act import ACTPolicy

    folder = tmp_path / "copy"
    shutil.copytree(act, folder)
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    if not strict:  # as some of LeRobot's loaders are, whatever they are asked for
        theirs = ACTPolicy.from_pretrained
        load = classmethod(lambda cls, path, *, config, strict: theirs(path, config=config))
        monkeypatch.setattr(ACTPolicy, "from_pretrained", load)
    with pytest.raises(CheckpointError, match=message):
        LeRobotBase.from_pretrained(folder, spec)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("preprocessor", lambda tensors: tensors.pop("observation.state.mean"), "missing observation.state.mean"),
        ("preprocessor", lambda tensors: tensors["observation.state.std"].fill_(NAN), "state.std is not finite"),
        ("postprocessor", lambda tensors: [tensors.pop(f"action.{n}") for n in ("mean", "std")], "missing action.mean"),
        ("postprocessor", lambda tensors: tensors.update({"action.mean": tensors["action.mean"] * 1j}), "complex64"),
    ],
)
def test_statistics_must_be_there(
    act: Path, spec: TaskSpec, tmp_path: Path, file: str, damage: Any, message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(act, folder)
    (state,) = folder.glob(f"policy_{file}*.safetensors")
    tensors = load_file(state)
    damage(tensors)
    save_file(tensors, state)
    with pytest.raises(CheckpointError, match=f"statistics for normalising: {message}|{message}"):
        LeRobotBase.from_pretrained(folder, spec)


@pytest.mark.parametrize("damage", ["cut", "missing weight", "no processor", "stranger", "no config", "config"])
def test_a_damaged_checkpoint_is_named(act: Path, spec: TaskSpec, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(act, folder)
    weights, config, steps = (folder / n for n in ("model.safetensors", "config.json", "policy_preprocessor.json"))
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
        message = "cannot be loaded"
    elif damage == "missing weight":
        tensors = load_file(weights)
        tensors.pop("model.action_head.bias")
        save_file(tensors, weights)
        message = "action_head.bias"
    elif damage == "no processor":
        steps.unlink()
        message = "has no policy_preprocessor.json"
    elif damage == "stranger":
        content = json.loads(steps.read_text())
        content["steps"].insert(0, {"class": "antigravity.Step", "config": {}})
        steps.write_text(json.dumps(content))
        message = "wants to import 'antigravity.Step'"
    elif damage == "no config":
        config.unlink()
        message = "cannot be loaded"
    else:
        config.write_text("{}")
        message = "cannot be loaded.*'type'"
    with pytest.raises(CheckpointError, match=message):
        LeRobotBase.from_pretrained(folder, spec)


def test_a_policy_of_another_task_is_an_error(act: Path, spec: TaskSpec) -> None:
    with pytest.raises(ConfigError, match=r"shape \(3, 48, 64\), the task's images are \(3, 32, 32\)"):
        LeRobotBase.from_pretrained(act, dataclasses.replace(spec, image_size=(32, 32)))
    with pytest.raises(ConfigError, match=r"observation.images.hand_left would be missing"):
        LeRobotBase.from_pretrained(act, dataclasses.replace(spec, cameras={"head": "observation.images.top_head"}))
    with pytest.raises(ConfigError, match="are not those of the task"):
        LeRobotBase.from_pretrained(act, spec, cameras={"head": "observation.images.top_head"})
    layout = spec.layout
    names = ("names", "units", "lower", "upper")
    half = dataclasses.replace(layout, **{name: getattr(layout, name)[:7] for name in names})
    with pytest.raises(ConfigError, match=r"state has shape \(14,\).* 7 joints"):
        LeRobotBase.from_pretrained(act, dataclasses.replace(spec, layout=half))
    with pytest.raises(ConfigError, match=r"observation\.environment_state, which no task gives"):
        check_features(SimpleNamespace(image_features={}, env_state_feature="there"), spec, spec.cameras)
    with pytest.raises(ConfigError, match="history is 'guess'"):
        LeRobotBase.from_pretrained(act, spec, history="guess")


def test_cameras_go_by_their_names(act: Path, spec: TaskSpec, observe: Observe) -> None:
    observations = observe(spec, 1)
    renamed = dataclasses.replace(spec, cameras={"left_wrist": "x", "head": "y"})
    names = {"left_wrist": "observation.images.hand_left", "head": "observation.images.top_head"}
    np.testing.assert_array_equal(
        run(LeRobotBase.from_pretrained(act, renamed, cameras=names), arrays(observations), [1]),
        run(LeRobotBase.from_pretrained(act, spec), arrays(observations), [1]),
    )


def test_a_chunk_too_short_and_a_forgotten_reset_are_errors(act: Path, spec: TaskSpec, observe: Observe) -> None:
    policy = LeRobotBase.from_pretrained(act, dataclasses.replace(spec, chunk=12))
    with pytest.raises(ConfigError, match="reset was called for 0 environments, the observation has 1"):
        policy.act(arrays(observe(spec, 1)))
    with pytest.raises(ConfigError, match="predicts 10 steps, the task's chunk has 12"):
        run(policy, arrays(observe(spec, 1)), [1])


def test_a_run_of_lerobot_train_is_found_and_served(
    act: Path, diffusion: Path, spec: TaskSpec, observe: Observe, tmp_path: Path
) -> None:
    last = tmp_path / "run" / "checkpoints" / "000010" / "pretrained_model"
    shutil.copytree(diffusion, last)
    (tmp_path / "run" / "checkpoints" / "last").symlink_to("000010")
    for name in ("run", "run/checkpoints/000010", "run/checkpoints/000010/pretrained_model"):
        source = resolve_actor(str(tmp_path / name))
        assert isinstance(source, LeRobotSource)
        assert needed_by(source) == {"observation_lags": [1]}
    with pytest.raises(ConfigError, match="of LeRobot: it takes no guidance, best_of"):
        resolve_actor(act, guidance=2.0, best_of=3)
    with pytest.raises(CheckpointError, match="is a policy of LeRobot: `rise evaluate`"):
        load_policy(tmp_path / "run")
    policy = source.load(spec)
    service = LeRobotService(policy)
    assert service.metadata["policy"] == "lerobot diffusion"
    session = service.open()
    observations = arrays(observe(spec, 1, (1,)))
    row = {key: value[0] for key, value in observations.items()}
    first = session.infer({**row, "reset": True, "seed": 5})["actions"]
    session.infer({**row, "prompt": "something else"})
    np.testing.assert_array_equal(first, run(policy, observations, [5], 1)[0, 0])
    np.testing.assert_array_equal(session.infer({**row, "reset": True, "seed": 5})["actions"], first)
    present = {key: value for key, value in row.items() if "lag" not in key}
    assert session.infer({**present, "reset": True, "seed": 5, "noise": 1})["unread_keys"] == ["noise"]
    assert np.isfinite(service.open().infer(service.example())["actions"]).all()
    with pytest.raises(ConfigError, match="'seed' is -1"):
        session.infer({**row, "seed": -1})


def test_the_base_is_frozen(act: Path, spec: TaskSpec) -> None:
    policy = LeRobotBase.from_pretrained(act, spec).policy
    assert not policy.training
    assert not any(weight.requires_grad for weight in policy.parameters())
