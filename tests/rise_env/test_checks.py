"""check_vector_env passes what keeps the rules and names the rule that is broken."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.checks import CHECKS, CheckReport, VectorEnvCheckError, check_vector_env
from rise_env.errors import ConfigError, RiseError

NEXT, SAME, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
LENGTH = 3


class Walks(VectorEnv):
    """Random walks of LENGTH steps and more in later environments: all three modes, and one `defect` on request."""

    def __init__(
        self, num_envs: int = 2, autoreset_mode: Any = NEXT, render_mode: Any = None, defect: str = ""
    ) -> None:
        self.num_envs, self.mode, self.render_mode, self.defect = (
            num_envs,
            AutoresetMode(autoreset_mode),
            render_mode,
            defect,
        )
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1, "autoreset_mode": self.mode}
        self.single_observation_space = spaces.Dict(x=spaces.Box(-np.inf, np.inf, (2,), np.float32))
        self.single_action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = [np.random.default_rng() for _ in range(num_envs)]
        self.x = np.zeros((num_envs, 2), np.float32)
        self.t, self.over, self.calls = np.zeros(num_envs, int), np.zeros(num_envs, bool), 0
        self.buffer, self.shared_mask = np.zeros(num_envs), np.ones(num_envs, bool)
        self.limits = np.full(num_envs, LENGTH)
        self.is_closed = False

    def begin(self, mask: np.ndarray) -> None:
        for i in np.flatnonzero(mask):
            one = 0 if self.defect == "one generator" else i
            self.x[i] = self.generators[one].normal(size=2)
            self.t[i], self.over[i] = 0, False
            self.limits[i] = LENGTH + int(self.generators[one].integers(2))

    def observation(self) -> dict[str, np.ndarray]:
        x = self.x if self.defect == "alias" else self.x.copy()
        return {"x": x.astype(np.float64) if self.defect == "dtype" else x}

    def infos(self, mask: np.ndarray) -> dict[str, Any]:
        infos: dict[str, Any] = {"t": self.t.copy(), "_t": mask.copy(), "calls": {"n": self.t + 1, "_n": mask.copy()}}
        infos["_calls"] = mask.copy()
        changes: dict[str, Any] = {
            "no mask": {"loose": self.t.copy()},
            "list": {"names": ["a"] * self.num_envs, "_names": mask.copy()},
            "none": {"names": np.full(self.num_envs, None), "_names": mask.copy()},
            "int mask": {"t": self.t.copy(), "_t": mask.astype(int)},
            "short row": {"t": self.t[:1].copy(), "_t": mask.copy()},
            "aliased info": {"b": self.shared_mask, "_b": mask.copy()},
            "unseeded info": {"u": np.random.default_rng().random(self.num_envs), "_u": mask.copy()},
        }
        return infos | changes.get(self.defect, {})

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if self.defect == "ignores seed 0" and seed == 0:
            seed = None
        if self.defect == "int only" and isinstance(seed, list):
            raise TypeError("seed must be an int")
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seed, int):
            seeds = [seed + (0 if self.defect == "same seed for all" else i) for i in range(self.num_envs)]
        options = options if options is not None else {}
        if self.defect == "unknown option" and set(options) - {"reset_mask"}:
            raise KeyError("unknown option")
        mask = options.pop("reset_mask", None) if self.defect == "pops" else options.get("reset_mask")
        if self.defect == "adds an option":
            options["seen"] = True
        if mask is None:
            mask = np.ones(self.num_envs, bool)
        elif self.defect != "any mask" and (mask.shape != (self.num_envs,) or not mask.any()):
            raise ValueError("bad mask")
        elif self.defect == "any mask":
            mask = np.ones(self.num_envs, bool) & mask[: self.num_envs]
        touched = np.ones_like(mask) if self.defect == "resets all" else mask
        for i in np.flatnonzero(mask):
            if seeds[i] is not None and self.defect != "unseeded":
                self.generators[i] = np.random.default_rng(seeds[i])
        self.begin(touched)
        if self.defect == "moves neighbours":
            for i in np.flatnonzero(~mask):
                self.generators[i].random()
        return self.observation(), self.infos(mask)

    def step(self, actions: np.ndarray) -> Any:
        if self.mode == DISABLED and self.over.any() and self.defect != "steps the dead":
            raise RuntimeError("reset first")
        fresh = self.over & (self.mode == NEXT)
        for i in np.flatnonzero(~fresh):
            self.x[i] += actions[i] + self.generators[i].normal(size=2)
            if self.defect == "size matters":
                self.x[i] += self.num_envs * 0.01
            if self.defect == "coupled":
                self.x[i] += self.x.mean() * 0.01
        if self.defect == "changes actions":
            actions *= 0
        self.t += ~fresh
        rewards = np.where(fresh, float(self.defect == "pays at reset"), self.x.sum(1)).astype(np.float64)
        over = (self.t >= self.limits) & ~fresh
        infos = self.infos(np.ones(self.num_envs, bool))
        if self.mode == NEXT:
            self.begin(fresh)
            if self.defect == "acts at reset":
                self.x[fresh] += actions[fresh]
        if self.mode == SAME and over.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(over):
                final[i] = {"x": self.x[i].copy()}
            last, final_mask = self.infos(over), over.copy()
            if self.defect != "no reset":
                self.begin(over)
            if self.defect == "late final_obs":
                final[np.flatnonzero(over)[0]] = {"x": self.x[np.flatnonzero(over)[0]].copy()}
            infos = self.infos(np.ones(self.num_envs, bool))
            if self.defect == "wrong final mask":
                final_mask = ~final_mask
            infos |= {"final_obs": final, "_final_obs": final_mask, "final_info": last, "_final_info": over.copy()}
            if self.defect == "no final_info":
                del infos["final_info"], infos["_final_info"]
        self.over = over & (self.mode != SAME)
        terminated, truncated = over, np.zeros(self.num_envs, bool)
        if self.defect == "float ends":
            terminated = over.astype(float)
        if self.defect == "list rewards":
            rewards = rewards.tolist()
        if self.defect == "reward buffer":
            self.buffer[:] = rewards
            rewards = self.buffer
        if self.defect == "one array for both ends":
            truncated = terminated
        if self.defect == "four":
            return self.observation(), rewards, terminated, infos
        return self.observation(), rewards, terminated, truncated, infos

    def render(self) -> Any:
        frame = np.zeros((4, 5, 3), np.float32 if self.defect == "float pictures" else np.uint8)
        return frame if self.defect == "one picture" else (frame,) * self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        pass

    def close(self, **kwargs: Any) -> None:
        if self.is_closed and self.defect == "closes once":
            raise RuntimeError("closed already")
        self.is_closed = True


def check(defect: str = "", mode: AutoresetMode = NEXT, **arguments: Any) -> CheckReport:
    def make(**keywords: Any) -> Walks:
        return Walks(**{"num_envs": 2, "defect": defect, **keywords})

    return check_vector_env(make(autoreset_mode=mode), make, **arguments)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_good_environment_passes_everything_but_the_spec(mode: AutoresetMode) -> None:
    report = check(mode=mode)
    assert set(report.passed) == set(CHECKS) - {"spec"}
    assert report.skipped == {"spec": "the environment has no spec: make it with gymnasium.make_vec"}
    assert "skipped: spec" in str(report)


DEFECTS = {
    "dtype": "seeding", "four": "seeding", "no mask": "seeding", "list": "seeding", "none": "seeding",
    "int mask": "seeding", "short row": "seeding", "float ends": "seeding", "list rewards": "seeding",
    "int only": "seeding", "unseeded": "seeding", "ignores seed 0": "seeding",
    "same seed for all": "seeding", "unseeded info": "seeding",
    "one generator": "reset_mask", "unknown option": "options", "adds an option": "options", "alias": "seeding",
    "changes actions": "seeding", "reward buffer": "repeatable", "aliased info": "fresh_arrays",
    "one array for both ends": "fresh_arrays", "pays at reset": "next_step", "acts at reset": "next_step",
    "no reset": "same_step", "late final_obs": "same_step", "wrong final mask": "same_step",
    "no final_info": "same_step", "steps the dead": "disabled", "resets all": "reset_mask", "pops": "reset_mask",
    "moves neighbours": "reset_mask", "any mask": "reset_mask", "coupled": "reset_mask", "size matters": "alone",
    "one picture": "render",
    "float pictures": "render", "closes once": "close",
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_found_and_named(defect: str) -> None:
    with pytest.raises(VectorEnvCheckError) as caught:
        check(defect)
    text = str(caught.value)
    assert text.startswith(f"[{DEFECTS[defect]}]"), text
    for word in ("got ", "expected ", "https://"):
        assert word in text
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, RiseError)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("num_envs", 0),
        ("action_space", spaces.Box(-1, 1, (3, 2))),
        ("observation_space", spaces.Box(-1, 1, (2, 2))),
        ("metadata", {"render_modes": [], "render_fps": 1}),
        ("metadata", {"render_modes": [], "render_fps": 1, "autoreset_mode": "next_step"}),
        ("render_mode", "ansi"),
    ],
)
def test_attributes(attribute: str, value: Any) -> None:
    envs = Walks()
    setattr(envs, attribute, value)
    with pytest.raises(VectorEnvCheckError, match=rf"\[attributes\] {attribute}"):
        check_vector_env(envs)


def test_metadata_must_be_the_instances_own() -> None:
    common: dict[str, Any] = {}

    def make(**keywords: Any) -> Walks:
        envs = Walks(**keywords)
        common.update(envs.metadata)
        envs.metadata = common
        return envs

    with pytest.raises(VectorEnvCheckError, match=r"metadata: got changed by making another"):
        check_vector_env(make(num_envs=2), make)


def test_one_instance_alone_gets_what_can_be_checked_on_it() -> None:
    envs = Walks(autoreset_mode=SAME)
    report = check_vector_env(envs)
    assert {"attributes", "seeding", "repeatable", "options", "fresh_arrays", "same_step"} == set(report.passed)
    assert set(report.passed) | set(report.skipped) == set(CHECKS)
    assert all("make" in reason for reason in report.skipped.values())
    assert not envs.is_closed
    with pytest.raises(VectorEnvCheckError, match="final_obs"):
        check_vector_env(Walks(autoreset_mode=SAME, defect="wrong final mask"))


def test_no_end_within_the_limit_is_said() -> None:
    report = check(max_steps=1, steps=1)
    for mode in ("next_step", "same_step", "disabled"):
        assert "no episode ended within 1 steps" in report.skipped[mode]


def test_skip_and_act() -> None:
    asked = []

    def act(envs: VectorEnv, observation: dict) -> np.ndarray:
        asked.append(copy.deepcopy(observation))
        assert envs.observation_space.contains(observation)
        return np.zeros(envs.action_space.shape, np.float32)

    report = check("pops", act=act, skip=["reset_mask", "disabled", "same_step", "next_step"])
    assert asked
    assert report.skipped["reset_mask"] == "asked to"
    with pytest.raises(ConfigError, match="reset_maks"):
        check(skip=["reset_maks"])


def test_one_environment_has_no_neighbours() -> None:
    report = check_vector_env(Walks(num_envs=1), lambda **keywords: Walks(**{"num_envs": 1, **keywords}))
    assert report.skipped["reset_mask"] == "needs two environments"


def test_gymnasiums_own_vectorisation() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    report = check_vector_env(envs, skip=["render", "reset_mask"])
    assert set(report.passed) == set(CHECKS) - {"render", "reset_mask"}
    with pytest.raises(VectorEnvCheckError, match=r"\[reset_mask\] reset\(options\)"):  # it pops the mask
        check_vector_env(envs, skip=["render"])
    envs.close()
    keywords = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": SAME}}
    enum = gymnasium.make_vec("CartPole-v1", num_envs=2, **keywords)
    with pytest.raises(VectorEnvCheckError, match=r"\[spec\] spec.to_json\(\).*plain values"):
        check_vector_env(enum, skip=["render", "reset_mask"])
    enum.close()
    shared = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    with pytest.raises(VectorEnvCheckError, match=r"\[seeding\]"):  # one generator for all, and no lists of seeds
        check_vector_env(shared)
    shared.close()
