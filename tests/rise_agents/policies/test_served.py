"""A served policy answers as it would in our environments, whichever way a client says what it sees."""

from __future__ import annotations

import dataclasses
from typing import Any

import av
import numpy as np
import pytest
import torch

from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_agents.policies.reading import ObservationReader, camera_aliases
from rise_agents.policies.served import PolicyService
from rise_env.data.video import resize
from rise_env.errors import ActionError, ConfigError
from rise_env.spaces import lag_key, observation_space
from rise_env.tasks import TaskSpec

PLAYING = {"prev_action_chunk": np.zeros((3, 14)), "inference_delay": 1, "execute_horizon": 2}
NETWORK = NetworkConfig(channels=(4, 8), embed=8, width=16, depth=1, condition=16)


def make(spec: TaskSpec, lags: tuple[int, ...] = (2,)) -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(spec, FlowPolicyConfig(network=NETWORK, lags=lags, steps=2))
    with torch.no_grad():
        policy.denoiser.write.weight.normal_(std=0.3)
        policy.chunk_std.fill_(0.1)
    return policy.eval()


@pytest.fixture(scope="module")
def policy(spec: TaskSpec) -> FlowPolicy:
    return make(spec)


@pytest.fixture(scope="module")
def plain(spec: TaskSpec) -> FlowPolicy:
    """A policy that reads the present alone."""
    return make(spec, ())


def observe(spec: TaskSpec, lags: tuple[int, ...] = (), seed: int = 0) -> dict[str, Any]:
    space = observation_space(spec, lags)
    space.seed(seed)
    found = {key: value.copy() for key, value in space.sample().items()}
    states = {key: value.clip(spec.layout.low, spec.layout.high) for key, value in found.items() if "state" in key}
    return {**found, **states}


def openpi(spec: TaskSpec, observation: dict[str, Any]) -> dict[str, Any]:
    """The same as RISE, kai0 and openpi's examples send it."""
    names = {camera: feature.rpartition(".")[2] for camera, feature in spec.cameras.items()}
    images = {name: observation[f"image_{camera}"].transpose(2, 0, 1) for camera, name in names.items()}
    return {"state": observation["state"].astype(np.float64), "images": images, "prompt": spec.prompt}


def test_answers_are_those_of_the_policy_in_an_environment(policy: FlowPolicy, spec: TaskSpec) -> None:
    runner, session = PolicyActor(policy), PolicyService(policy).open()
    runner.reset([7], np.array([True]))
    for turn in range(3):
        observation = observe(spec, (2,), turn)
        expected = runner.act({key: value[None] for key, value in observation.items()})[0]
        answer = session.infer({**observation, **({"reset": True, "seed": 7} if turn == 0 else {})})
        assert np.array_equal(answer["actions"], expected)
        assert answer["actions"].dtype == np.float32
        assert answer["state"] == observation["state"].tolist()
        assert [key for key, value in answer.items() if isinstance(value, np.ndarray)] == ["actions"]  # rows are steps
        assert answer["policy_timing"]["infer_ms"] > 0
        assert "lag_steps" not in answer


def test_both_layouts_mean_the_same(plain: FlowPolicy, spec: TaskSpec) -> None:
    service = PolicyService(plain)
    observation = observe(spec)
    ours = service.open().infer({**observation, "seed": 1})["actions"]
    assert np.array_equal(service.open().infer({**openpi(spec, observation), "seed": 1})["actions"], ours)
    by_camera = {"images": {name: observation[f"image_{name}"] for name in spec.cameras}, "state": observation["state"]}
    assert np.array_equal(service.open().infer({**by_camera, "seed": 1})["actions"], ours)
    by_feature = {"images": {feature: observation[f"image_{name}"] for name, feature in spec.cameras.items()}}
    by_feature["state"] = observation["state"].tolist()
    assert np.array_equal(service.open().infer({**by_feature, "seed": 1})["actions"], ours)


def test_metadata_and_example_say_what_is_needed(policy: FlowPolicy, spec: TaskSpec) -> None:
    service = PolicyService(policy, advantage="worst")
    about = service.metadata
    assert about["cameras"] == spec.cameras
    assert about["action_shape"] == list(service.open().infer(service.example())["actions"].shape)
    assert about["lags"] == [2]
    assert (about["advantage"], about["advantage_bins"]) == (0, 10)
    with pytest.raises(ConfigError, match="advantage 'good'"):
        PolicyService(policy, "good")
    with pytest.raises(ConfigError, match="bars is 'none'"):
        PolicyService(policy, bars="none")


# ---------------------------------------------------------------------- the past


def test_the_past_is_remembered_for_a_client_that_sends_the_present(policy: FlowPolicy, spec: TaskSpec) -> None:
    frames = [observe(spec, (), seed) for seed in range(4)]

    def expected(now: int, then: int) -> np.ndarray:
        past = {lag_key(key, 2): value for key, value in frames[then].items()}
        return PolicyService(policy).open().infer({**frames[now], **past, "seed": 3})["actions"]

    session = PolicyService(policy).open()
    for step, (then, steps) in enumerate([(0, 0), (0, 1), (0, 2), (1, 2)]):
        answer = session.infer({**frames[step], "step": step, "seed": 3})
        assert answer["lag_steps"] == [steps]
        assert np.array_equal(answer["actions"], expected(step, then))
    answer = session.infer({**frames[0], "step": 0, "reset": True, "seed": 3})  # and nothing of before
    assert np.array_equal(answer["actions"], expected(0, 0))


def test_time_is_told_in_steps_in_seconds_or_by_the_clock(policy: FlowPolicy, spec: TaskSpec) -> None:
    now = 100.0
    service = PolicyService(policy, clock=lambda: now)
    by_step, by_time, by_clock = service.open(), service.open(), service.open()
    for steps in (0, 1, 2, 4, 8, 8, 30):
        now = 100.0 + steps / spec.fps
        frame = observe(spec, (), steps)
        found = [
            by_step.infer({**frame, "step": np.int64(5 + steps), "seed": 1}),
            by_time.infer({**frame, "timestamp": 1e6 + steps / spec.fps, "seed": 1}),
            by_clock.infer({**frame, "seed": 1}),
        ]
        assert len({answer["lag_steps"][0] for answer in found}) == 1
        assert all(np.array_equal(answer["actions"], found[0]["actions"]) for answer in found)


def test_clients_do_not_share_their_past(policy: FlowPolicy, spec: TaskSpec) -> None:
    service = PolicyService(policy)
    one, other = service.open(), service.open()
    first, second = observe(spec, (), 1), observe(spec, (), 2)
    one.infer({**first, "step": 0, "seed": 1})
    alone = service.open().infer({**second, "step": 2, "seed": 1})
    assert np.array_equal(other.infer({**second, "step": 2, "seed": 1})["actions"], alone["actions"])
    assert not np.array_equal(one.infer({**second, "step": 2, "seed": 1})["actions"], alone["actions"])


@pytest.mark.parametrize(
    ("first", "then", "text"),
    [
        ({"step": 5}, {"step": 4}, "went back by 1 control steps.*'reset': true"),
        ({"step": 5}, {"timestamp": 9.0}, "timed by 'step' and now by 'timestamp'"),
        ({"step": 5}, {}, "timed by 'step' and now by 'arrival'"),
        ({"step": 5, "timestamp": 1.0}, {}, "both"),
        ({"step": float("nan")}, {}, "'step' is nan"),
        ({"timestamp": "now"}, {}, "'timestamp' is 'now'"),
        ({"step": True}, {}, "'step' is True"),
    ],
)
def test_wrong_times_are_said(
    policy: FlowPolicy, spec: TaskSpec, first: dict[str, Any], then: dict[str, Any], text: str
) -> None:
    session, frame = PolicyService(policy).open(), observe(spec)
    with pytest.raises(ConfigError, match=text):
        _ = [session.infer({**frame, **extra}) for extra in (first, then)]


# ---------------------------------------------------------------------- optional keys


def test_advantage_noise_and_seed_are_what_they_say(
    plain: FlowPolicy, spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = PolicyService(plain).open()
    frame = observe(spec)
    ask = lambda **extra: session.infer({**frame, **extra})["actions"]  # noqa: E731
    best = ask(seed=1)
    assert np.array_equal(best, ask(seed=1, advantage="best"))
    assert np.array_equal(best, ask(seed=1, advantage=9))
    assert np.array_equal(best, ask(seed=np.int64(1), advantage=np.int64(9)))
    assert not np.array_equal(best, ask(seed=1, advantage="worst"))
    assert np.array_equal(ask(seed=1, advantage=0), ask(seed=1, advantage="worst"))
    assert not np.array_equal(ask(seed=1, advantage="none"), best)
    noise = np.random.default_rng(0).standard_normal(plain.noise_shape)
    assert np.array_equal(ask(noise=noise), ask(noise=noise.astype(np.float32)))
    generator = torch.Generator().manual_seed(1)
    assert np.array_equal(ask(noise=plain.draw_noise([generator])[0].numpy()), best)
    assert not np.array_equal(ask(), ask())
    monkeypatch.setattr(plain, "noise_scale", 0.0)  # a policy that acts without noise, unless it is given some
    assert np.array_equal(ask(), ask())
    assert np.array_equal(ask(noise=plain.draw_noise([generator.manual_seed(1)])[0].numpy()), best)


def test_chunks_tie_in_with_what_is_being_played(plain: FlowPolicy, spec: TaskSpec) -> None:
    service, frame = PolicyService(plain), observe(spec)
    assert service.metadata["real_time_chunking"] is True
    rest = np.tile(0.5 * (spec.layout.low + spec.layout.high), (5, 1)).astype(np.float64)
    told = {"prev_action_chunk": rest, "inference_delay": 2, "execute_horizon": np.int64(4)}
    answer = service.open().infer({**frame, **told, "seed": 7})
    runner = PolicyActor(plain)
    runner.reset([7], np.array([True]))
    expected = runner.act_rtc({key: value[None] for key, value in frame.items()}, rest[None], 2, 4)[0]
    assert np.array_equal(answer["actions"], expected)
    assert "unread_keys" not in answer


def test_unread_keys_are_named(plain: FlowPolicy, spec: TaskSpec) -> None:
    session = PolicyService(plain).open()
    frame = openpi(spec, observe(spec))
    assert "unread_keys" not in session.infer(frame)
    frame["images"]["overview"] = np.zeros((8, 8, 3), np.uint8)
    assert session.infer({**frame, "advantge": "best"})["unread_keys"] == ["advantge", "images/overview"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"state": None}, r"'state' is a NoneType, expected 14 floats in rad and m: left_joint1"),
        ({"state": np.zeros(13, np.float32)}, r"'state' has shape \(13,\), expected 14"),
        ({"state": np.zeros(14, np.int64)}, r"'state' is an array of int64"),
        ({"state": np.full(14, np.nan)}, r"'state' is not finite .* at: left_joint1"),
        ({"state": np.full(14, 1e300)}, r"'state' is not finite"),
        ({"state": [1.0, "a"]}, r"'state' is a list"),
        (
            {"image_head": np.zeros((36, 48, 3), np.float32)},
            r"'image_head' is an array of float32 .* a uint8 RGB",
        ),
        ({"image_head": np.zeros((36, 48), np.uint8)}, r"'image_head' has shape \(36, 48\), expected .* 36 x 48"),
        ({"image_head": np.zeros((36, 48, 4), np.uint8)}, r"'image_head' has shape \(36, 48, 4\)"),
        ({"image_head": np.zeros((3, 4, 3), np.uint8)}, r"sides must be of 8 to"),
        ({"image_head": b"jpeg"}, r"'image_head' is a bytes"),
        ({"images": [1]}, r"'images' is a list"),
        ({"images": {"top_head": np.zeros((36, 48, 3), np.uint8)}}, r"camera 'head' came twice: as 'image_head' and"),
        ({"advantage": 1.0}, r"'advantage' is 1\.0, expected the name of a bin .* from 0 to 9"),
        ({"advantage": 10}, r"advantage '10'"),
        ({"advantage": "good"}, r"advantage 'good'"),
        ({"advantage": True}, r"'advantage' is True"),
        ({"noise": np.zeros(3)}, r"'noise' is float64 \(3,\), expected .* \(8, 14\)"),
        ({"noise": np.full((8, 14), np.inf)}, r"'noise' is not finite"),
        ({"noise": [1.0]}, r"'noise' is list"),
        ({"prev_action_chunk": np.zeros((3, 14))}, r"'prev_action_chunk' came without 'inference_delay'"),
        (
            {**PLAYING, "prev_action_chunk": np.zeros(14)},
            r"'prev_action_chunk' is float64 \(14,\), .* \(R, 14\)",
        ),
        ({**PLAYING, "prev_action_chunk": np.zeros((0, 14))}, r"has 0 rows, expected 1 to 8"),
        ({**PLAYING, "prev_action_chunk": np.full((1, 14), np.nan)}, r"has 1 rows, expected 1 to 8, all finite"),
        ({**PLAYING, "inference_delay": 1.5}, r"'inference_delay' is 1\.5"),
        ({**PLAYING, "execute_horizon": -1}, r"'execute_horizon' is -1"),
        ({"prompt": 3}, r"'prompt' is 3"),
        ({"prompt": " "}, r"'prompt' is ' '"),
        ({"seed": -1}, r"'seed' is -1"),
        ({"seed": 0.5}, r"'seed' is 0\.5"),
        ({"reset": "yes"}, r"'reset' is 'yes'"),
        ({"state_lag2": np.zeros(14, np.float32)}, r"'state_lag2' came, but 'image_head_lag2' did not"),
    ],
)
def test_wrong_observations_are_said(policy: FlowPolicy, spec: TaskSpec, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PolicyService(policy).open().infer({**observe(spec), **change})


def test_missing_parts_are_said(policy: FlowPolicy, spec: TaskSpec) -> None:
    frame = observe(spec)
    session = PolicyService(policy).open()
    for camera, name in (("head", "top_head"), ("left_wrist", "hand_left")):
        less = {key: value for key, value in frame.items() if key != f"image_{camera}"}
        with pytest.raises(ConfigError, match=rf"no image of camera '{camera}'; .*'image_{camera}'.*'{name}'.*It has "):
            session.infer(less)
    with pytest.raises(ConfigError, match="no 'state'"):
        session.infer({key: value for key, value in frame.items() if key != "state"})
    twice = openpi(spec, frame)
    twice["images"]["head"] = twice["images"]["top_head"]
    with pytest.raises(ConfigError, match="came twice: as 'images/top_head' and 'images/head'"):
        session.infer(twice)


def test_actions_that_are_not_finite_are_never_sent(spec: TaskSpec) -> None:
    broken = make(spec, ())
    with torch.no_grad():
        broken.denoiser.write.weight.fill_(float("nan"))
    with pytest.raises(ActionError, match="not finite"):
        PolicyService(broken).open().infer(observe(spec))


# ---------------------------------------------------------------------- images


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth bright picture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [120 + 60 * np.sin(rng.uniform(2, 6) * x + rng.uniform(2, 6) * y) for _ in range(3)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def padded(image: np.ndarray, side: int) -> np.ndarray:
    """As openpi's resize_with_pad: undistorted, with black bars."""
    from PIL import Image

    ratio = max(image.shape[1] / side, image.shape[0] / side)
    height, width = int(image.shape[0] / ratio), int(image.shape[1] / ratio)
    square = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    square[top : top + height, left : left + width] = np.asarray(small)
    return square


def read(spec: TaskSpec, image: np.ndarray, bars: str = "auto", reader: ObservationReader | None = None) -> np.ndarray:
    reader = reader or ObservationReader(spec, (), bars)
    frame = observe(spec)
    return reader.read({**frame, "image_head": image}).present["image_head"]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_images_of_the_same_proportions_are_resized_as_training_data_are(spec: TaskSpec) -> None:
    large = picture(480, 640)
    expected = resize(av.VideoFrame.from_ndarray(large, format="rgb24"), spec.image_size)
    assert np.array_equal(read(spec, large), expected)
    assert np.array_equal(read(spec, large.transpose(2, 0, 1)), expected)
    exact = picture(*spec.image_size)
    assert np.array_equal(read(spec, exact), exact)


def test_bars_of_the_client_are_cut_off(spec: TaskSpec) -> None:
    large = picture(480, 640)
    letterboxed = padded(large, 224)
    assert distance(read(spec, letterboxed), read(spec, large)) < 3
    reader = ObservationReader(spec, ())
    read(spec, letterboxed, reader=reader)
    assert reader.bars == "cut"
    with pytest.raises(ConfigError, match=r"no black bars to cut off.*--bars add"):
        read(spec, picture(224, 224), reader=reader)
    wide = dataclasses.replace(spec, image_size=(48, 36))  # an upright picture has bars left and right
    assert distance(read(wide, padded(picture(640, 480), 224)), read(wide, picture(640, 480))) < 3


def test_pictures_without_bars_get_some(spec: TaskSpec) -> None:
    reader = ObservationReader(spec, ())
    square = picture(224, 224)
    found = read(spec, square, reader=reader)
    assert reader.bars == "add"
    assert found.shape == (36, 48, 3)
    assert not found[:, :6].any()
    assert not found[:, -6:].any()
    assert distance(found[:, 6:-6], read(dataclasses.replace(spec, image_size=(36, 36)), square)) < 1
    again = read(spec, padded(picture(480, 640), 224), reader=reader)  # from now on all are treated alike
    assert not again[:, :6].any()
    assert np.array_equal(read(spec, square, "add"), found)


def test_a_black_picture_decides_nothing(spec: TaskSpec) -> None:
    reader = ObservationReader(spec, ())
    assert not read(spec, np.zeros((224, 224, 3), np.uint8), reader=reader).any()
    assert reader.bars == "auto"
    read(spec, picture(224, 224), reader=reader)
    assert reader.bars == "add"


@pytest.mark.parametrize(
    ("factor", "joint", "message"),
    [
        (180 / np.pi, slice(0, 6), "degrees would fit"),
        (1e3 * 180 / np.pi, slice(0, 6), "limits"),
        (12.5, 6, "is 0.875 m, its limits"),
    ],
)
def test_states_in_other_units_are_refused(
    plain: FlowPolicy, spec: TaskSpec, factor: float, joint: Any, message: str
) -> None:
    session, observation = PolicyService(plain).open(), observe(spec)
    observation["state"] = spec.layout.high.copy()
    session.infer(observation)
    observation["state"][joint] *= factor
    with pytest.raises(ConfigError, match=f"'state': .*{message}"):
        session.infer(observation)


def test_a_state_a_little_outside_is_a_warning(
    plain: FlowPolicy, spec: TaskSpec, caplog: pytest.LogCaptureFixture
) -> None:
    session, observation = PolicyService(plain).open(), observe(spec)
    observation["state"] = spec.layout.high + 0.3 * (spec.layout.high - spec.layout.low)
    for _ in range(2):
        session.infer(observation)
    assert sum("outside the joint limits" in record.message for record in caplog.records) == 1


def test_names_that_mean_two_cameras_are_refused(spec: TaskSpec) -> None:
    assert camera_aliases(spec)["top_head"] == "head"
    twisted = dataclasses.replace(spec, cameras={"a": "observation.images.b", "b": "observation.images.a"})
    with pytest.raises(ConfigError, match="means both"):
        camera_aliases(twisted)
