"""RISE on a world model whose truth is known: chunks near the middle of the joint range make progress."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rise_agents import make_agent
from rise_agents.algorithms.reference_states import ReferenceStates
from rise_agents.algorithms.rise import RISE, RiseConfig
from rise_agents.policies.codec import AdvantageCodec
from rise_agents.policies.flow_network import NetworkConfig
from rise_agents.policies.flow_policy import FlowPolicy, FlowPolicyConfig
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.testing import counting_envs, counting_spec, counting_starts, counting_world_model

SPEC = counting_spec()
NETWORK = NetworkConfig(channels=(4, 8), embed=8, width=48, depth=1, condition=32)
CODEC = AdvantageCodec(scale=4.0)


def policy(seed: int = 0, **changes: Any) -> FlowPolicy:
    torch.manual_seed(seed)
    config = FlowPolicyConfig(network=NETWORK, lags=(2,), steps=3, noise_samples=1, storage="fp32", **changes)
    made = FlowPolicy(SPEC, config, CODEC)
    made.chunk_std.fill_(0.6)
    return made


def envs(count: int = 16, **kwargs: Any) -> Any:
    starts = kwargs.pop("starts", None) or counting_starts(count=24)
    return counting_envs(
        count, starts=starts, world_model=counting_world_model(doubt=0.5), observation_lags=[2],
        autoreset_mode="disabled", **kwargs,
    )  # fmt: skip


class Offline:
    """Recorded chunks: the middle of the joint range under the best level, its border under the worst."""

    def __init__(self, dataset_policy: FlowPolicy, size: int = 64) -> None:
        self.size, self.drawn = size, 0
        self._starts, self._policy = counting_starts(), dataset_policy

    def __len__(self) -> int:
        return self.size

    def batch(self, rows: np.ndarray, device: Any = "cpu") -> Any:
        from rise_agents.policies.data import Recorded
        from rise_env.spaces import image_key, lag_key

        self.drawn += len(rows)
        batch = self._starts.batch(rows % len(self._starts))
        observations = {}
        for lag, place in ((0, -1), (2, -2)):
            for view, camera in enumerate(SPEC.cameras):
                observations[lag_key(image_key(camera), lag)] = torch.from_numpy(batch.frames[:, place, view])
            observations[lag_key("state", lag)] = torch.from_numpy(batch.states[:, place])
        good = torch.from_numpy(rows % 2 == 0)
        low, high = torch.from_numpy(SPEC.layout.low), torch.from_numpy(SPEC.layout.high)
        chunks = torch.where(good[:, None], (low + high) / 2, high)[:, None].expand(-1, SPEC.chunk, -1)
        levels = torch.where(good, CODEC.best, 0)
        return Recorded(observations, chunks.contiguous(), levels, [SPEC.prompt] * len(rows))


def agent(base: FlowPolicy | None = None, **changes: Any) -> RISE:
    base = base or policy()
    settings = {"scope": "all", "batch": 64, "rate": 3e-3, "ema": 0.9, **changes}
    offline = Offline(base) if settings.get("offline_ratio", 0.6) else None
    return RISE(base, envs(), offline, RiseConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [{"relative": True}, {"keep": 1, "epochs": 32}])
def test_it_learns_what_pays(form: dict[str, Any]) -> None:
    learner = agent(**{"offline_ratio": 0.0, "group": 4, "epochs": 8, "warm_up": 5, **form})

    def imagined() -> float:  # of all proposals, those that are not learned as well
        envs, total = learner.envs, 0.0
        for seed in range(4):
            observation, _ = envs.reset(seed=1000 * seed)
            chunks = learner.predict(observation, deterministic=False)[0]
            total += float(envs.evaluate_candidates(chunks[:, None]).advantage.mean()) / 4
        return total

    torch.manual_seed(0)
    before = imagined()
    learner.learn(total_chunks=16 * 2 * 4 * 20)
    after = imagined()
    assert after > before + 0.03
    learner.envs.close()


def test_proposals_are_trained_under_the_advantage_that_was_measured() -> None:
    learner = agent()
    found = learner.imagine()
    np.testing.assert_array_equal(found.levels, CODEC.encode(found.advantages))
    assert len(set(found.levels.tolist())) > 1  # not all under the best level, which was asked for
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    which = np.arange(len(found))
    with torch.no_grad():
        learner.actor.denoiser.write.weight.normal_(generator=torch.Generator().manual_seed(1))
        right = learner._loss(found, which, rng, 0, generator.manual_seed(0))
        found.levels[:] = CODEC.best
        wrong = learner._loss(found, which, rng, 0, generator.manual_seed(0))
    assert right != wrong


def test_the_mix_is_drawn_sample_by_sample() -> None:
    learner = agent(epochs=8)
    learner._memory = [learner.imagine()]
    counts: list[int] = []
    inner = learner._loss

    def spy(imagined: Any, which: np.ndarray, rng: Any, offline: int, generator: Any) -> torch.Tensor:
        counts.append(offline)
        assert len(which) + offline == learner.config.batch
        return inner(imagined, which, rng, offline, generator)

    learner._loss = spy  # type: ignore[method-assign]
    learner.train()
    assert len(set(counts)) > 2
    assert min(counts) > 0
    assert max(counts) < learner.config.batch
    assert abs(np.mean(counts) / learner.config.batch - 0.6) < 0.1


def test_the_rollout_policy_is_an_average_of_the_actor() -> None:
    learner = agent(epochs=1, batch=10_000, ema=0.75)  # one update
    before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
    learner._memory = [learner.imagine()]
    learner.train()
    assert learner.updates == 1
    actor = dict(learner.actor.named_parameters())
    assert any((actor[name] != before[name]).any() for name in actor)
    for name, value in learner.policy.named_parameters():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * actor[name])


def test_the_encoders_rest_where_only_the_action_expert_learns() -> None:
    learner = agent(scope="action", offline_ratio=0.0)
    before = {name: value.clone() for name, value in learner.actor.state_dict().items()}
    learner.learn(64)
    for name, value in learner.actor.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("denoiser.")), name


def test_two_chunks_follow_a_recorded_state_and_ended_ones_are_left_out() -> None:
    learner = agent()
    found = learner.imagine()
    assert set(found.position.tolist()) == {0, 1}
    assert len(found) == 32
    assert learner.num_chunks == 32
    learner = RISE(policy(), envs(success_threshold=0.3), Offline(policy()), RiseConfig())  # type: ignore[arg-type]
    found = learner.imagine()
    first = int((found.position == 0).sum())
    assert first == 16
    assert first <= len(found) < 32
    assert learner.num_chunks == len(found)


def test_a_group_shares_its_state_and_may_hold_what_was_recorded() -> None:
    learner = agent(group=4, relative=True, recorded_member=True)
    found = learner.imagine()
    assert learner.num_chunks == len(found) == 16 * 4 * 2
    first = found.position == 0
    for part in (first, ~first):  # the second chunks of a group share a state too: the end of its best first one
        state = found.context.state[part]
        torch.testing.assert_close(state, state[::4].repeat_interleave(4, 0))
    ends = found.chunks[first].unflatten(0, (16, 4))[
        torch.arange(16), found.advantages[first].view(16, 4).argmax(1), -1
    ]
    torch.testing.assert_close(found.context.state[~first][::4], ends)
    assert found.proposed[first].tolist() == [False, True, True, True] * 16
    middle = torch.from_numpy((SPEC.layout.low + SPEC.layout.high) / 2)
    torch.testing.assert_close(found.chunks[first][::4], middle.expand(16, SPEC.chunk, -1))
    assert found.levels[first].float().mean() < CODEC.best  # relative: not all can be best


def test_only_the_best_of_a_group_are_kept() -> None:
    whole, kept = agent(group=4, chunks_per_state=1).imagine(), agent(group=4, keep=2, chunks_per_state=1).imagine()
    assert (len(whole), len(kept)) == (64, 32)
    assert set(kept.levels.tolist()) == {CODEC.best}
    best = whole.advantages.view(16, 4).sort(dim=1, descending=True).values[:, :2]
    torch.testing.assert_close(kept.advantages.view(16, 2).sort(dim=1, descending=True).values, best)
    shuffled = agent(group=4, keep=2, chunks_per_state=1, shuffled=True).imagine()
    assert len(shuffled) == 32
    assert shuffled.advantages.mean() < kept.advantages.mean()


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = agent()
    whole.learn(32 * 4)
    first = agent()
    first.learn(32 * 2)
    first.save(tmp_path)
    second = agent()
    assert second.restore(tmp_path)
    assert second.num_chunks == 64
    second.learn(32 * 4)
    for name, value in whole.policy.state_dict().items():
        torch.testing.assert_close(second.policy.state_dict()[name], value, rtol=0, atol=0)
    loaded = RISE.load(tmp_path, envs(), Offline(policy()), first.config)  # type: ignore[arg-type]
    observation, _ = loaded.envs.reset(seed=0)
    np.testing.assert_array_equal(loaded.predict(observation)[0], first.predict(observation)[0])
    (tmp_path / "rise_state.pt").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="damaged"):
        agent().restore(tmp_path)
    first.save(tmp_path)
    other = agent(epochs=7)
    with pytest.raises(CheckpointError, match="other settings"):
        other.restore(tmp_path)


def test_towards_the_end_the_rate_falls_to_zero_whatever_limits_the_run(tmp_path: Path) -> None:
    rates: list[float] = []

    def note(trained: RISE) -> bool:
        rates.append(trained.optimiser.param_groups[0]["lr"])
        return len(rates) != 6

    learner = agent(cool=0.5, warm_up=1, rate=1e-3)
    learner.learn(32 * 8, callback=note)  # stopped after six rounds of eight
    learner.save(tmp_path)
    again = agent(cool=0.5, warm_up=1, rate=1e-3)
    assert again.restore(tmp_path)
    again.learn(32 * 8, callback=note)
    assert rates == pytest.approx([1e-3] * 5 + [0.75e-3, 0.5e-3, 0.25e-3])
    again.seconds, rates[:] = 90.0, []
    again.learn(10**9, callback=note, seconds=100.0)  # 90 of them were spent before
    assert rates[0] == pytest.approx(0.2e-3)


def test_groups_without_a_difference_are_left_out() -> None:
    settings = {"group": 4, "keep": 1, "chunks_per_state": 1}
    learner = agent(**settings)
    found = learner.envs.evaluate_candidates  # the lead of every group, as the first round will meet it
    leads: list[np.ndarray] = []

    def noted(chunks: Any) -> Any:
        result = found(chunks)
        leads.append(result.advantage.max(axis=1) - result.advantage.mean(axis=1))
        return result

    learner.envs.evaluate_candidates = noted
    assert len(learner.imagine()) == len(leads[0])
    middle = float(np.median(leads[0]))
    assert len(agent(**settings, margin=middle).imagine()) == int((leads[0] >= middle).sum()) < len(leads[0])
    assert len(agent(**settings, margin=1e9).imagine()) >= 1  # the best of them, rather than nothing


ANCHORED = {"group": 4, "keep": 2, "chunks_per_state": 1, "offline_ratio": 0.0, "margin": 0.02, "anchor": 1.0}


def aside() -> FlowPolicy:
    """A policy that does not do the best that there is when it starts from the middle of the noise."""
    made = policy()
    made.chunk_mean.fill_(0.5)
    return made


def test_with_an_anchor_only_what_the_base_does_badly_is_changed() -> None:
    learner, met = agent(aside(), **ANCHORED, mend=-10.0), []
    evaluate, reset = learner.envs.evaluate_candidates, learner.envs.reset

    def noted_reset(**kwargs: Any) -> Any:
        met.append((kwargs["options"]["start_index"], *reset(**kwargs)))
        return met[-1][1:]

    def noted(chunks: np.ndarray) -> Any:
        result = evaluate(chunks)
        met[-1] = (*met[-1][:2], chunks, result.advantage)
        return result

    learner.envs.reset, learner.envs.evaluate_candidates = noted_reset, noted
    with pytest.raises(TrainingError, match="nothing is to be mended"):
        learner.survey()
    own = {row: float(gain) for rows, _, _, gains in met for row, gain in zip(rows, gains[:, 0], strict=True)}
    mend = float(np.median(list(own.values())))
    learner.config = dataclasses.replace(learner.config, mend=mend)
    learner._held = ReferenceStates(100)
    learner.survey()
    bad = {row for row, gain in own.items() if gain < mend}
    assert learner._bad is not None
    assert set(learner._bad.tolist()) == bad
    assert 0 < len(learner._held) == len(own) - len(bad)
    before, met[:] = learner.num_chunks, []
    found = learner.imagine()
    (rows, observations, chunks, gains), *_ = met
    assert learner.num_chunks == before + 64
    assert set(rows) <= bad
    np.testing.assert_array_equal(chunks[:, 0], agent(aside()).predict(observations)[0])  # the base's own
    ahead = gains - gains[:, :1] >= 0.02
    assert len(found) == np.minimum(ahead.sum(axis=1), 2).sum() > 0
    wanted = {chunk.tobytes() for chunk in chunks[ahead]}
    assert {chunk.tobytes() for chunk in found.chunks.numpy()} <= wanted
    assert set(found.levels.tolist()) == {CODEC.best}
    promising = dict(zip(rows, ahead.any(axis=1), strict=True))
    for row, promise in zip(learner._bad, learner._promise, strict=True):
        if row not in promising:
            assert promise == 1.0
        elif not promising[row]:
            assert promise == pytest.approx(0.01)


def test_what_is_held_goes_back_to_the_base(tmp_path: Path) -> None:
    probe = agent(aside(), **ANCHORED)
    rows = np.flatnonzero(probe.envs.starts.split == "train").tolist()
    observations, _ = probe.envs.reset(seed=0, options={"start_index": rows})
    gains = probe.envs.evaluate_candidates(probe.predict(observations)[0][:, None]).advantage
    learner = agent(aside(), **ANCHORED, mend=float(np.median(gains)), cool=0.3)
    with pytest.raises(TrainingError, match="rate would be zero"):
        learner.learn(10**6, seconds=1e-6)
    learner.learn(1)
    assert learner.base is not None
    learner.save(tmp_path)
    held, generator = learner._held.draw(np.random.default_rng(0), 64), torch.Generator().manual_seed(0)
    learner.actor.load_state_dict(learner.base.state_dict())
    learner.actor.eval()

    def apart() -> torch.Tensor:
        return learner._distillation_loss(held, generator).mean()

    assert float(apart().detach()) < 1e-9
    with torch.no_grad():
        learner.actor.denoiser.write.bias.add_(0.05)
    before = float(apart().detach())
    for _ in range(60):
        learner.optimiser.zero_grad()
        apart().backward()
        learner.optimiser.step()
    assert 0.0 < float(apart().detach()) < 0.2 * before
    loaded = RISE.load(tmp_path, envs(), None, learner.config)  # given the improved policy, it knows the base
    assert loaded.base is not None
    for mine, theirs in zip(loaded.base.parameters(), learner.base.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_shuffled_control_keeps_the_levels_and_loses_whose_they_are() -> None:
    plain, shuffled = agent().imagine(), agent(shuffled=True).imagine()
    torch.testing.assert_close(plain.chunks, shuffled.chunks)
    assert sorted(plain.levels.tolist()) == sorted(shuffled.levels.tolist())
    assert plain.levels.tolist() != shuffled.levels.tolist()


def test_histories_are_those_of_the_moment() -> None:
    """The second chunk's past comes from imagination, not from the recorded state (FIELD B)."""
    learner = agent(offline_ratio=0.0)
    seen: list[dict[str, Any]] = []
    inner = learner._context

    def spy(acting: Any, observations: Any) -> Any:
        seen.append({key: np.array(value) for key, value in observations.items()})
        return inner(acting, observations)

    learner._context = spy  # type: ignore[method-assign]
    learner.imagine()
    counter, before = (seen[1][key][:, 0, 0, 0].astype(int) for key in ("image_head", "image_head_lag2"))
    np.testing.assert_array_equal((counter - before) % 256, 2)
    start = seen[0]["image_head"][:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal((counter - start) % 256, SPEC.chunk)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"relative": True}, "group"),
        ({"group": 3, "keep": 3}, "keep 3"),
        ({"margin": 0.1}, "wants keep"),
        ({"anchor": 1.0}, "wants keep"),
        ({"group": 3, "keep": 1, "relative": True}, "leave out relative"),
        ({"chunks_per_state": 3}, "max_chunks=3"),
        ({"offline_ratio": 1.5}, r"\[0, 1\]"),
        ({"scope": "nothing"}, "scope"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        agent(**changes)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    without = counting_envs(2, autoreset_mode="disabled")
    with pytest.raises(ConfigError, match=r"observation_lags=\[2\]"):
        make_agent("rise", without, policy(), offline_ratio=0.0)
    with pytest.raises(ConfigError, match="disabled"):
        make_agent("rise", counting_envs(2, observation_lags=[2]), policy(), offline_ratio=0.0)
    with pytest.raises(ConfigError, match="unknown agent"):
        make_agent("rice", without, policy())


def test_proposals_are_not_guided_what_acts_is() -> None:
    """Guidance that is learned and guided anew, round by round, ruins a policy."""
    learner = agent(offline_ratio=0.0)
    assert learner.policy.guidance == 2.0
    asked: list[float] = []
    inner = learner.policy.sample

    def spy(*args: Any, guidance: float = 1.0, **kwargs: Any) -> torch.Tensor:
        asked.append(guidance)
        return inner(*args, guidance=guidance, **kwargs)

    learner.policy.sample = spy  # type: ignore[method-assign]
    learner.imagine()
    assert set(asked) == {1.0}
    asked.clear()
    observation, _ = learner.envs.reset(seed=0)
    learner.predict(observation)
    runner = learner.runner()
    runner.reset([0] * 16, np.ones(16, bool))
    runner.act(observation)
    assert asked == [2.0, 2.0]
