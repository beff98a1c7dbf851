"""How far imagination agrees with the oracle environment about a policy's own chunks.

`rise bench truth` compares chunks that differ a lot (an expert's, random ones). What improves a policy is the order of
*its own* proposals from one state, which differ little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch

from rise_agents.algorithms.best_of_n import Proposer, act_anew, history_lags, imagined_advantages
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_env.acting import Actor
from rise_env.errors import ConfigError
from rise_env.metrics import area_under_roc, rank_correlation, within_group_correlation
from rise_env.registry import TASKS
from rise_env.tasks import TaskSpec
from rise_env.world_model import CompositionalWorldModel

__all__ = ["audit", "audit_oracle", "audit_policy", "make_oracle"]

_LEAST_SPREAD, _TOGETHER = 0.02, 8  # of true advantage, for an order; states at once


def make_oracle(task: str, **kwargs: Any) -> Any:
    """The oracle vector environment of a task."""
    return gymnasium.make_vec(f"RISE-{TASKS.load(task).title}-Oracle-v0", **kwargs).unwrapped


def audit(
    actor: Actor,
    world_model: CompositionalWorldModel,
    oracle_env: Any,
    *,
    rounds: int,
    num_candidates: int,
    seed: int,
    event: float | None = None,
    between: tuple[float, float] = (0.0, 1.0),
    continuation: PolicyActor | None = None,
    lookahead: int = 0,
) -> dict[str, Any]:
    """Run an actor's proposals in the oracle environment and in imagination.

    Args:
        actor: Proposes; it must draw noise, so that several proposals from one state differ. A `Proposer` of
            `num_candidates` proposes for whole states.
        world_model: Imagines.
        oracle_env: Oracle vector environment with the `observation_lags` of the actor and `history_lags(spec)`.
        rounds: Batches of `oracle_env.num_envs` chunks.
        num_candidates: Proposals per state.
        seed: Seed of states and noise.
        event: True progress at a chunk's end from which something has happened, such as a grasp.
        between: States of which true progress count.
        continuation: Who goes on after each proposal, in the cell and in imagination, `lookahead` chunks further, the
            last of which counts; its lags must be the actor's.
        lookahead: Chunks to go on for.

    Returns:
        Rank correlation of imagined advantage and true progress, overall and within a state; how much true advantage is
        gained by taking the proposal that is imagined best, and by taking the truly best one, over a random one, and
        over the first, which of a `Proposer` of several ways is the policy's own; with an event how often it comes, and
        the AUROC of the imagined advantage for it.

    Raises:
        ConfigError: If no state is counted.
    """
    imagined, true, happened, count = [], [], [], oracle_env.num_envs
    for number in range(rounds):
        seeds = [seed + number * count + i for i in range(count)]
        observations, infos = oracle_env.reset(seed=seeds, options={"group_size": num_candidates})
        first = np.arange(count) % num_candidates == 0
        if isinstance(actor, Proposer):
            actor.reset(seeds[::num_candidates], np.ones(count // num_candidates, bool))
            chunks = actor.propose({key: value[first] for key, value in observations.items()}).flatten(0, 1).numpy()
        else:
            actor.reset(seeds, np.ones(count, bool))
            chunks = actor.act(observations)
        before = infos["progress"]
        owner = torch.arange(count)
        scores = imagined_advantages(
            world_model, observations, torch.from_numpy(chunks), owner,
            batch_size=64, continuation=continuation, lookahead=lookahead,
        )  # fmt: skip
        further = None
        if continuation is not None and lookahead:
            go_on = partial(act_anew, continuation)
            further = oracle_env.evaluate_candidates(chunks[:, None], go_on, lookahead).advantage[:, 0]
        _, rewards, _, _, infos = oracle_env.step(chunks)
        rewards = rewards if further is None else further
        counted = (before >= between[0]) & (before <= between[1])
        imagined.append(scores.cpu().numpy()[counted])
        true.append(rewards[counted])
        happened.append(infos["progress"][counted] >= (event or 0.0))
    if not sum(map(len, true)):
        raise ConfigError(f"no state with a progress in [{between[0]:g}, {between[1]:g}] was reached: take more states")
    guess, truth = (np.concatenate(parts).reshape(-1, num_candidates) for parts in (imagined, true))
    group, mean = np.repeat(np.arange(len(truth)), num_candidates), truth.mean(axis=1)
    within, ordered = within_group_correlation(guess.ravel(), truth.ravel(), group, _LEAST_SPREAD)
    chosen = truth[np.arange(len(truth)), guess.argmax(axis=1)]
    found: dict[str, Any] = {}
    if event is not None:
        come = np.concatenate(happened)
        found = {
            "event": event,
            "event_rate": float(come.mean()),
            "event_rate_of_first": float(come[::num_candidates].mean()),
            "event_auroc": area_under_roc(guess.ravel(), come),
        }
    return {
        **found,
        "states": len(truth),
        "num_candidates": num_candidates,
        "overall": rank_correlation(guess.ravel(), truth.ravel()),
        "within_state": within,
        "states_with_an_order": ordered,
        "advantage_mean": float(truth.mean()),
        "gain_of_imagined_best": float((chosen - mean).mean()),
        "gain_of_true_best": float((truth.max(axis=1) - mean).mean()),
        "gain_of_imagined_best_over_first": float((chosen - truth[:, 0]).mean()),
        "gain_of_true_best_over_first": float((truth.max(axis=1) - truth[:, 0]).mean()),
        "bias": float((guess - truth).mean()),
    }


def audit_oracle(
    policy: Policy, spec: TaskSpec, states: int, num_candidates: int, preset: str = "small"
) -> tuple[Any, int]:
    """Oracle environment for an `audit` at states that a policy gets to itself, and the rounds for so many of them."""
    together, lags = min(states, _TOGETHER), sorted({*policy.lags, *history_lags(spec)})
    envs = make_oracle(
        spec.name, num_envs=together * num_candidates, preset=preset, behaviour_policies=[PolicyActor(policy)],
        observation_lags=lags, max_chunks=1,
    )  # fmt: skip
    return envs, -(-states // together)


def audit_policy(
    policy: Policy,
    world_model: CompositionalWorldModel,
    *,
    states: int,
    num_candidates: int,
    seed: int,
    preset: str = "small",
    advantage_bin: int | None = None,
    proposals: Sequence[str] = ("policy",),
    event: float | None = None,
    between: tuple[float, float] = (0.0, 1.0),
    lookahead: int = 0,
) -> dict[str, Any]:
    """`audit` of what a policy proposes for an advantage bin (the best when None), at states it gets to itself.

    The `proposals` are some of `rise_agents.algorithms.proposals.PROPOSALS`; for a `lookahead` the policy itself goes
    on, without noise.
    """
    envs, rounds = audit_oracle(policy, world_model.spec, states, num_candidates, preset)
    actor: Actor = PolicyActor(policy, advantage_bin, noise_scale=1.0)
    if set(proposals) != {"policy"}:
        actor = Proposer(policy, num_candidates, advantage_bin, proposals=proposals)
    try:
        return audit(
            actor, world_model, envs,
            rounds=rounds, num_candidates=num_candidates, seed=seed, event=event, between=between,
            continuation=PolicyActor(policy, noise_scale=0.0) if lookahead else None, lookahead=lookahead,
        )  # fmt: skip
    finally:
        envs.close()
