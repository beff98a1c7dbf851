"""The checks of `rise_env.checks.check_vector_env`, one method each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from gymnasium.vector.vector_env import AutoresetMode

from rise_env.envs.playback import Act, Inspector, Run, arrays_of, difference, join_actions, timelines

__all__ = ["CHECKS", "Checker", "SkippedError", "sampler"]

#: Names of all checks, in the order in which they run.
CHECKS = ("attributes", "seeding", "repeatable", "options", "fresh_arrays", "next_step", "same_step", "disabled",
          "reset_mask", "alone", "spec", "render", "close")  # fmt: skip


class SkippedError(Exception):
    """A check cannot run; the message gives the reason."""


def sampler(envs: VectorEnv, seed: int) -> Act:
    """Samples of the action space; the space's own generator is not used."""
    space = copy.deepcopy(envs.action_space)
    space.seed(seed)
    return lambda envs, observation: space.sample()


class Checker(Inspector):
    """The checks, one method each; a check that cannot run raises `SkippedError`."""

    def __init__(
        self, envs: VectorEnv, make: Callable[..., VectorEnv] | None, act: Act, seed: int, steps: int, max_steps: int
    ) -> None:
        super().__init__(act)
        self._envs, self._make, self._seed, self._steps, self._max_steps = envs, make, seed, steps, max_steps
        self._others: dict[tuple[int, AutoresetMode], VectorEnv] = {}
        self._reference: Run | None = None

    # ------------------------------------------------------------------ checks

    def attributes(self) -> None:
        """Everything an agent reads before the first reset."""
        envs = self._envs
        self.require(isinstance(envs.num_envs, int) and envs.num_envs > 0, "num_envs", envs.num_envs, "a positive int")
        for name in ("observation_space", "action_space"):
            batched, wanted = getattr(envs, name), batch_space(getattr(envs, f"single_{name}"), envs.num_envs)
            self.require(batched == wanted, name, batched, wanted, f"Use batch_space(single_{name}, num_envs).")
        for key in ("render_modes", "render_fps", "autoreset_mode"):
            self.require(key in envs.metadata, "metadata", sorted(envs.metadata), f"the key {key!r}")
        mode, modes = envs.metadata["autoreset_mode"], envs.metadata["render_modes"]
        self.require(isinstance(mode, AutoresetMode), "metadata['autoreset_mode']", repr(mode), "an AutoresetMode")
        self.require(envs.render_mode in (None, *modes), "render_mode", repr(envs.render_mode), f"None or in {modes}")

    def seeding(self) -> None:
        """An int seed s stands for [s, s + 1, ...]; every seed counts, 0 too."""
        envs, seed, count = self._envs, self._seed, self._envs.num_envs
        first = self.play(envs, seed, 1).moments[:1]
        cure = "Seed every generator of the environment; 0 is a seed as well."
        self.compare(first, [self.reset(envs, seed=seed)], f"reset(seed={seed}) twice", cure)
        listed = self.reset(envs, seed=[seed + i for i in range(count)])
        self.compare(first, [listed], f"reset(seed={seed}) against a list", "Environment i gets seed + i.")
        zero = self.play(envs, 0, 1).moments[0]
        self.compare([zero], [self.reset(envs, seed=0)], "reset(seed=0) twice", "Test `seed is not None`.")
        other = self.reset(envs, seed=count)
        differs = difference(zero.observation, other.observation)
        self.require(differs, f"reset(seed=0) and reset(seed={count})", "the same observation", "different ones")

    def repeatable(self) -> None:
        """The same seed and actions give the same bytes."""
        ours = self.play(self._envs, self._seed, self._steps)
        theirs = self.play(self._envs, self._seed, self._steps, ours.actions)
        self.compare(ours.moments, theirs.moments, "same seed and actions again", "Nothing but the seed may decide.")

    def options(self) -> None:
        """Unknown options are ignored and not changed."""
        options = {"rise_unknown_key": [1, 2]}
        passed = copy.deepcopy(options)
        self.reset(self._envs, seed=self._seed, options=passed)
        self.require(passed == options, "reset(options)", passed, f"{options} as before", "Copy it before a change.")

    def fresh_arrays(self) -> None:
        """No two arrays share memory, within a call and from call to call."""
        former: list[tuple[str, np.ndarray]] = []
        for number, moment in enumerate(self.play(self._envs, self._seed, self._steps).moments):
            ours = list(arrays_of(moment))
            for i, (path, array) in enumerate(ours):
                for other, that in [*ours[:i], *former]:
                    shared = np.may_share_memory(array, that) and np.shares_memory(array, that)
                    where = f"what call {number} returned{path}"
                    self.require(not shared, where, f"memory shared with{other}", "its own", "Return copies.")
            former = ours

    def next_step(self) -> None:
        """The step after an end ignores the action, pays nothing and begins the next episode."""
        run, envs, end = self._autoreset_run(AutoresetMode.NEXT_STEP)
        over, moment = run.moments[end].over, run.moments[end + 1]
        self.require(not moment.rewards[over].any(), "rewards after an end", moment.rewards, "0: that step is a reset")
        self.require(not moment.over[over].any(), "ends after an end", moment.over, "False: that step is a reset")
        taken, others = run.actions[end], sampler(envs, self._seed + 1)(envs, None)
        pairs = zip(iterate(envs.action_space, taken), iterate(envs.action_space, others), strict=True)
        changed = join_actions(envs, [theirs if o else ours for (ours, theirs), o in zip(pairs, over, strict=True)])
        again = self.play(envs, self._seed, end + 1, [*run.actions[:end], changed])
        self.compare(run.moments, again.moments, "another action at the autoreset", "Ignore the action then.")
        self._against_reference(run, lambda line, last: line[last + 1]["observation"])

    def same_step(self) -> None:
        """The step of an end returns the next episode's first observation, and the last one in the infos."""
        run, envs, _ = self._autoreset_run(AutoresetMode.SAME_STEP)
        for moment in run.moments[1:]:
            over, infos = moment.over, moment.infos
            for key in ("final_obs", "final_info"):
                mask = infos.get(f"_{key}", np.zeros_like(over))
                self.require((mask == over).all(), f"infos['_{key}']", mask, f"{over}, where episodes ended")
            if over.any():
                final = infos["final_obs"]
                fits = isinstance(final, np.ndarray) and final.dtype == object and final.shape == over.shape
                self.require(fits, "infos['final_obs']", type(final), f"an object array of shape {over.shape}")
                held = isinstance(infos["final_info"], dict)
                self.require(held, "infos['final_info']", "no dict", "a dict of arrays")
                for i in np.flatnonzero(over):
                    inside = envs.single_observation_space.contains(final[i])
                    self.require(inside, f"infos['final_obs'][{i}]", type(final[i]), "a single observation")
        self._against_reference(run, lambda line, last: line[last]["observation"])

    def disabled(self) -> None:
        """Nothing is reset unasked: stepping what has ended is an error."""
        run, envs, end = self._autoreset_run(AutoresetMode.DISABLED)
        self.play(envs, self._seed, end, run.actions)
        step = functools.partial(envs.step, run.actions[end])
        self._require_error(step, "step() after an end", "Name the environments to reset.")
        self.reset(envs, seed=self._seed)

    def reset_mask(self) -> None:
        """A partial reset leaves the other environments bit-identical, at once and later."""
        count, seed = self._envs.num_envs, self._seed
        if count < 2:
            raise SkippedError("needs two environments")
        envs = self._of_mode(AutoresetMode.DISABLED)
        mask = np.arange(count) == 0
        options = {"reset_mask": mask.copy(), "rise_unknown_key": 1}
        arguments = {"seed": [seed + i for i in range(count)], "options": options}
        calm = self.play(envs, seed, self._steps)
        stirred = self.play(envs, seed, self._steps, calm.actions, disturb=(self._steps // 2, arguments))
        kept = options.keys() == {"reset_mask", "rise_unknown_key"} and (options["reset_mask"] == mask).all()
        self.require(kept, "reset(options)", options, "the caller's dict as it was", "Copy it before a change.")
        lines = zip(timelines(envs, calm), timelines(envs, stirred), strict=True)
        for i, (ours, theirs) in list(enumerate(lines))[1:]:
            what = f"environment {i}, with and without a reset of environment 0"
            self.compare(ours, theirs, what, "Reset only that.")
        rows = [list(iterate(envs.observation_space, moment.observation)) for moment in stirred.moments]
        before, after = rows[stirred.disturbed - 1], rows[stirred.disturbed]
        self.compare(before[1:], after[1:], "observations of those not reset", "Return their last ones again.")
        self.compare(rows[0][:1], after[:1], "first observation, after reset() and partial reset", "Use its seed.")
        for bad in (np.zeros(count, bool), np.ones(count + 1, bool)):
            cure = f"Take bool of shape ({count},) with at least one True."
            self._require_error(functools.partial(envs.reset, options={"reset_mask": bad}), f"reset_mask {bad}", cure)

    def alone(self) -> None:
        """Environment i of a batch is what it is alone."""
        envs, seed = self._envs, self._seed
        run = self.play(envs, seed, self._steps)
        lines, single = timelines(envs, run), self._other(1, envs.metadata["autoreset_mode"])
        for i in {0, envs.num_envs - 1}:
            replay = [join_actions(envs, [list(iterate(envs.action_space, taken))[i]]) for taken in run.actions]
            theirs = timelines(single, self.play(single, seed + i, self._steps, replay))[0]
            cure = "Give every environment a generator of its own, and nothing in common that a step changes."
            self.compare(lines[i], theirs, f"environment {i} against num_envs=1 and seed {seed + i}", cure)

    def spec(self) -> None:
        """The spec makes the same environment again, through JSON too."""
        spec = self._envs.spec
        if spec is None:
            raise SkippedError("the environment has no spec: make it with gymnasium.make_vec")
        cure = "Take plain values as keyword arguments (names instead of enum members)."
        try:
            text = spec.to_json()
        except (TypeError, ValueError) as error:
            self.require(False, "spec.to_json()", repr(error), "JSON", cure)
        start = self.reset(self._envs, seed=self._seed)
        for source in (spec, EnvSpec.from_json(text)):
            made = gymnasium.make_vec(source)
            try:
                same = made.num_envs == self._envs.num_envs and made.metadata == self._envs.metadata
                self.require(same, "gymnasium.make_vec(spec)", made.metadata, self._envs.metadata, cure)
                self.compare([start], [self.reset(made, seed=self._seed)], "reset() of make_vec(spec)", cure)
            finally:
                made.close()

    def render(self) -> None:
        """One picture per environment."""
        envs, own = self._envs, self._envs.render_mode == "rgb_array"
        if not own:
            if "rgb_array" not in envs.metadata["render_modes"]:
                raise SkippedError("metadata['render_modes'] has no 'rgb_array'")
            envs = self._new(num_envs=envs.num_envs, render_mode="rgb_array")
        try:
            self.reset(envs, seed=self._seed)
            frames = self.attempt(envs.render, "render()")
            size = len(frames) if isinstance(frames, tuple | list | np.ndarray) else type(frames)
            self.require(size == envs.num_envs, "render()", size, f"{envs.num_envs} pictures")
            for frame in frames or ():
                fits = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)
                self.require(fits, "render()", getattr(frame, "shape", type(frame)), "uint8 pictures (H, W, 3)")
        finally:
            if not own:
                envs.close()

    def close(self) -> None:
        """Closing twice does no harm."""
        envs = self._new(num_envs=1)
        envs.close()
        self.attempt(envs.close, "a second close()")

    # ------------------------------------------------------------------ more environments

    def _new(self, **kwargs: Any) -> VectorEnv:
        if self._make is not None:
            return self._make(**kwargs)
        if self._envs.spec is None:
            raise SkippedError("needs make=, or an environment from gymnasium.make_vec")
        try:
            return gymnasium.make_vec(_changed_spec(self._envs.spec, {"num_envs": self._envs.num_envs, **kwargs}))
        except TypeError as error:
            raise SkippedError(f"the spec's entry point does not take {sorted(kwargs)}: {error}") from error

    def _other(self, num_envs: int, mode: AutoresetMode) -> VectorEnv:
        key, own = (num_envs, mode), self._envs.metadata["autoreset_mode"]
        if key not in self._others:
            self._others[key] = made = self._new(num_envs=num_envs, autoreset_mode=mode.value)
            got, kept = made.metadata["autoreset_mode"], self._envs.metadata["autoreset_mode"] == own
            self.require(got == mode, "metadata['autoreset_mode'] of another environment", got, mode)
            self.require(kept, "metadata", "changed by making another environment", "its own", "Copy the class's.")
        return self._others[key]

    def _of_mode(self, mode: AutoresetMode) -> VectorEnv:
        own = self._envs.metadata["autoreset_mode"] == mode
        return self._envs if own else self._other(self._envs.num_envs, mode)

    def close_others(self) -> None:
        """Close the environments that were made for the checks."""
        for envs in self._others.values():
            envs.close()

    # ------------------------------------------------------------------ ends of episodes

    def _autoreset_run(self, mode: AutoresetMode) -> tuple[Run, VectorEnv, int]:
        """A roll-out in a mode past the first end of an episode, the environment, and the index of that end."""
        envs, reference = self._of_mode(mode), self._in_mode_disabled()
        if reference is not None:
            run = self.play(envs, self._seed, len(reference.actions), reference.actions)
        else:
            run = self._past_ends(envs, np.any)
        end = run.first_end()
        if end is None:
            raise SkippedError(f"no episode ended within {self._max_steps} steps: give act= or a larger max_steps=")
        return run, envs, end

    def _in_mode_disabled(self) -> Run | None:
        """The roll-out that those in other modes are compared with, if this mode can be had."""
        if self._reference is None:
            try:
                envs = self._of_mode(AutoresetMode.DISABLED)
            except SkippedError:
                return None
            self._reference = self._past_ends(envs, np.all)
        return self._reference

    def _past_ends(self, envs: VectorEnv, enough: Callable[[np.ndarray], Any]) -> Run:
        """A roll-out until any or all environments have ended, and one step more."""
        steps = 0

        def stop(ended: np.ndarray) -> bool:
            nonlocal steps
            steps += bool(enough(ended))
            return steps > 1

        return self.play(envs, self._seed, self._max_steps + 1, until=stop)

    def _against_reference(self, run: Run, begun: Callable[[list[dict[str, Any]], int], Any]) -> None:
        """Up to its first end each environment does what it does in mode "disabled"; then it begins anew alike."""
        if (reference := self._in_mode_disabled()) is None:
            return
        lines = zip(timelines(self._envs, run), timelines(self._envs, reference), strict=True)
        for i, (line, plain) in enumerate(lines):
            last = next((k for k, row in enumerate(plain[:-1]) if row["over"]), None)
            if last is None or last + 1 >= len(line):
                continue
            row, what = line[last], f"environment {i} against autoreset mode 'disabled'"
            if "final_obs" in row["infos"]:
                row = {**row, "observation": row["infos"]["final_obs"], "infos": row["infos"].get("final_info", {})}
            self.compare([*line[:last], row], plain[: last + 1], what)
            self.compare([begun(line, last)], [plain[last + 1]["observation"]], f"{what}: its next episode")

    def _require_error(self, function: Callable[[], Any], where: str, cure: str) -> None:
        try:
            function()
        except Exception:  # noqa: BLE001  (which error it is, is the environment's choice)
            return
        self.require(False, where, "no error", "an error", cure)


def _changed_spec(spec: EnvSpec, changes: dict[str, Any]) -> EnvSpec:
    """A spec with other arguments; Gymnasium's own vectorisation takes the autoreset mode elsewhere."""
    spec, changes = copy.deepcopy(spec), dict(changes)
    if spec.kwargs.get("vectorization_mode") in ("sync", "async") and "autoreset_mode" in changes:
        mode = {"autoreset_mode": changes.pop("autoreset_mode")}
        changes["vector_kwargs"] = {**spec.kwargs.get("vector_kwargs", {}), **mode}
    spec.kwargs.update(changes)
    return spec
