"""Count the successes of a policy of your own in the work cell, and compare it on the same episodes."""

from collections.abc import Mapping, Sequence

import numpy as np

from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.paired import PairedChange, paired_change
from rise_agents.policies.resolve import resolve_actor


class MyPolicy:
    """Whatever has `lags`, `reset` and `act` is an actor. This one holds still: put yours in its place."""

    lags = ()  # past observations that it reads, in control steps

    def reset(self, seeds: Sequence[int], mask: np.ndarray) -> None:
        """New episodes start in the environments of `mask`."""

    def act(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.repeat(observations["state"][:, None], 16, axis=1)  # (N, chunk, D), rad and m


def main(episodes: int = 100, num_envs: int = 16) -> PairedChange:
    env_id = "RISE-BrickSorting-Cell-v0"
    mine = evaluate(env_id, MyPolicy(), episodes, seed=0, num_envs=num_envs)
    base = evaluate(env_id, resolve_actor("base", task="brick_sorting"), episodes, seed=0, num_envs=num_envs)
    for name, result in (("mine", mine), ("base", base)):
        low, high = result.success_interval
        print(f"{name}: {result.success_rate:.1%} (95 % interval {low:.1%} to {high:.1%}), {result.failure_modes}")
    change = paired_change(base, mine)
    low, high = change.interval
    print(f"mine against base: {change.gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})")
    return change


if __name__ == "__main__":
    main()
