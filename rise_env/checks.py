"""check_vector_env: a test of vector environments, which Gymnasium lacks (its `check_env` takes single ones only)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from gymnasium.vector import VectorEnv

from rise_env.envs.checker import CHECKS, Checker, SkippedError, sampler
from rise_env.envs.playback import VectorEnvCheckError
from rise_env.errors import ConfigError

__all__ = ["CHECKS", "CheckReport", "VectorEnvCheckError", "check_vector_env"]


@dataclass
class CheckReport:
    """What `check_vector_env` did.

    Attributes:
        passed: Names of the checks that passed.
        skipped: Names of the checks that did not run, with the reason.
    """

    passed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"passed: {', '.join(self.passed) or 'nothing'}"]
        return "\n".join([*lines, *(f"skipped: {name} ({reason})" for name, reason in self.skipped.items())])


def check_vector_env(
    envs: VectorEnv,
    make: Callable[..., VectorEnv] | None = None,
    *,
    act: Callable[[VectorEnv, Any], Any] | None = None,
    seed: int = 0,
    steps: int = 4,
    max_steps: int = 200,
    skip: Collection[str] = (),
) -> CheckReport:
    """Check that a vector environment follows Gymnasium's rules, and the rules that a fair comparison of agents needs.

    Environment i must behave as it would alone; seeds decide everything; what was returned stays as it was; infos are
    arrays with masks; every autoreset mode behaves as documented. `envs` is reset and stepped, but left open.

    Args:
        envs: Environment to check.
        make: Makes a like environment from the keywords `num_envs`, `autoreset_mode` (Gymnasium's value, e.g.
            "NextStep") and `render_mode`, of which only those that matter are given. Without it `envs.spec` is used;
            without either, the checks that need a second environment are skipped.
        act: Gives batched actions, from an environment and its last observation. By default they are sampled from the
            action space, which may never reach the end of an episode.
        seed: First seed to use.
        steps: Steps of the roll-outs that need no end of an episode.
        max_steps: Steps after which waiting for the end of an episode is given up.
        skip: Names in `CHECKS` not to run.

    Returns:
        Which checks passed, and which were skipped for what reason.

    Raises:
        VectorEnvCheckError: If a rule is broken; an AssertionError.
        ConfigError: If `skip` names an unknown check.

    Example:
        >>> import gymnasium
        >>> envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
        >>> report = check_vector_env(envs, skip=["reset_mask", "render"])  # Gymnasium's own empties our options
        >>> report.passed[-3:]
        ['alone', 'spec', 'close']
        >>> envs.close()
    """
    if unknown := set(skip) - set(CHECKS):
        raise ConfigError(f"skip names unknown checks {sorted(unknown)}. Known checks: {', '.join(CHECKS)}.")
    checker = Checker(envs, make, act or sampler(envs, seed), seed, steps, max_steps)
    report = CheckReport()
    try:
        for name in CHECKS:
            checker.rule = name
            try:
                if name in skip:
                    raise SkippedError("asked to")
                getattr(checker, name)()
            except SkippedError as reason:
                report.skipped[name] = str(reason)
            else:
                report.passed.append(name)
    finally:
        checker.close_others()
    return report
