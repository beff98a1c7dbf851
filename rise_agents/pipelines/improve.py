"""Improve a policy in imagination: from recordings and a bundle to a run folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch

from rise_agents import make_agent
from rise_agents.algorithms.base import Algorithm
from rise_agents.algorithms.best_of_n import history_lags
from rise_agents.algorithms.learner import FlowMatchingAlgorithm
from rise_agents.evaluation.audit import audit, audit_oracle, make_oracle
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.data import ChunkSource, RecordedChunks, StartChunks, advantage_bins_of, measured_advantages
from rise_agents.training.cluster.offline import elsewhere
from rise_agents.training.cluster.placement import ClusterConfig
from rise_agents.training.cluster.proposers import SlicedProposer
from rise_agents.training.presets import AgentPreset
from rise_agents.training.runner import Budget, Film, Probe, Runner
from rise_env.bundle import Bundle
from rise_env.data import Dataset, open_dataset, read_advantages, split_episodes
from rise_env.dynamics.settings import from_environment
from rise_env.envs.start_dataset import starts_from_dataset
from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, ConfigError, TrainingError
from rise_env.files import exclusive, read_json, to_plain, write_json
from rise_env.provenance import content_fingerprint, provenance
from rise_env.registry import ALGORITHMS, TASKS, no_cell
from rise_env.threads import single_threaded
from rise_env.training.held_out import rank_episodes
from rise_env.value.labelling import ranking_problem_of

if TYPE_CHECKING:
    from rise_agents.training.cluster.engine import Cluster
    from rise_agents.training.cluster.learners import Learners

__all__ = ["Ingredients", "check_same_run", "improve"]

#: Audits: seed of states and noise, candidates per state.
_AUDIT_SEED, _AUDIT_CANDIDATES = 970_000, 4
_FILMED = 4


@dataclass(frozen=True)
class Ingredients:
    """What a policy is improved with.

    Attributes:
        bundle: Its world model imagines.
        env_id: Id of the imagination environment.
        data: Recorded datasets to start from and to mix in; the bundle's start states when empty.
        labels: Tag of the advantages of `data`.
        oracle: Let the work cell take the place of imagination: an upper bound, not a method.
        behaviour_policies: With `oracle`: what leads to its start states, scripted policies or functions that make an
            Actor, drawn at random; the policy itself when empty.
        opening: How `data` are opened: `state_key`, `action_key`, `trust_layout` and `skip_bad_episodes` of
            `open_dataset`.
        despite_ranking: Go on although the value does not rank recorded episodes, with a warning.
    """

    bundle: Bundle
    env_id: str
    data: Sequence[Path] = ()
    labels: str | None = None
    oracle: bool = False
    behaviour_policies: Sequence[Any] = ()
    opening: Mapping[str, Any] = field(default_factory=dict)
    despite_ranking: bool = False

    def open_data(self) -> Dataset:
        """The recorded datasets, joined."""
        return open_dataset(list(self.data), self.bundle.spec, **self.opening)


@single_threaded()
def improve(
    agent: AgentPreset,
    policy: Policy,
    ingredients: Ingredients,
    out: str | Path,
    *,
    minutes: float | None = None,
    cluster: ClusterConfig | None = None,
    audit_states: int = 0,
    progress_bar: bool = True,
    note: Callable[[str], None] = lambda text: None,
    on_round: Callable[[Algorithm[Any]], None] = lambda algorithm: None,
) -> Algorithm[Any]:
    """Improve a policy in imagination (in the work cell with an agent that needs it), or go on with an interrupted run.

    Args:
        agent: Algorithm, settings and budget.
        policy: Base policy.
        ingredients: What it is improved with.
        out: Run folder.
        minutes: Stop after so much time although chunks are left; see `Budget`.
        cluster: Where to imagine and to propose, through Ray; in this process when None.
        audit_states: Compare imagination and the oracle at so many states before, now and then, and after; 0 for none.
        progress_bar: Show one.
        note: Told what a user may want to know.
        on_round: Called after every round; it must not change the algorithm.

    Returns:
        The algorithm, with `policy`.

    Raises:
        ConfigError: If something does not fit, or another process works in the folder.
        CheckpointError: If the folder holds a run with other settings, of another base policy or from other states.
        TrainingError: If the value that it would learn from does not rank recorded episodes, before anything is
            trained; `Ingredients.despite_ranking` makes it a warning.
    """
    needs_cell = ALGORITHMS.load(agent.algorithm).needs_cell
    if (needs_cell or ingredients.oracle or audit_states) and ingredients.bundle.spec.name not in TASKS:
        raise ConfigError(no_cell(ingredients.bundle.spec.name))
    if needs_cell and (ingredients.oracle or audit_states):
        raise ConfigError(f"{agent.algorithm} acts in the work cell itself: leave oracle and audit out")
    if cluster is not None:
        _check_cluster(agent, cluster, ingredients)
        agent = dataclasses.replace(agent, env={"max_batch": cluster.envs_per_shard, **agent.env})
    out, budget = Path(out), Budget(agent.chunks, minutes, agent.real_steps)
    described = {"agent": to_plain(agent), "env": ingredients.env_id, "bundle": ingredients.bundle.name,
                 "bundle_content": content_fingerprint(ingredients.bundle.path), "labels": ingredients.labels,
                 "data": [path.name for path in ingredients.data], "oracle": ingredients.oracle,
                 "base_policy": _fingerprint(policy.state_dict()), "imagine": from_environment()}  # fmt: skip
    check_same_run(out, described, more_chunks=True)
    doubts: list[str] = []

    def doubt(problem: str) -> None:
        """Stop because a value does not rank recorded episodes, or go on all the same, as the user wants it."""
        if not ingredients.despite_ranking:
            raise TrainingError(
                f"{problem}. Nothing was trained. To go on all the same: --despite-ranking (the report will say so)"
            )
        doubts.append(problem)
        note(f"WARNING: {problem}")

    with contextlib.nullcontext() if cluster is None else _connect(cluster, note) as engine:
        if engine is not None and engine.device != str(policy.device):
            policy = copy.deepcopy(policy).to(engine.device)
        env, offline, film_env = _surroundings(agent, policy, ingredients, note, doubt, engine)
        if isinstance(offline, RecordedChunks):
            columns = {"state": offline.dataset.state, "action": offline.dataset.action, "bins": offline.advantage_bins}
            described["recordings"] = _fingerprint(columns)
            check_same_run(out, described, more_chunks=True)
        if isinstance(getattr(env, "starts", None), StartStates):
            columns = {name: getattr(env.starts, name) for name in ("frames", "states", "episode_index", "frame_index")}
            described["start_states"] = _fingerprint(columns)
            check_same_run(out, described, more_chunks=True)
        algorithm = make_agent(
            agent.algorithm, env, policy, offline=offline, **_with_critic_of(ingredients.bundle, agent.config)
        )
        if (rows := agent.env.get("max_batch")) and isinstance(algorithm, FlowMatchingAlgorithm):
            remote = None if engine is None else engine.proposer(policy, rows)
            algorithm.proposer = remote or SlicedProposer(rows)
        probes: list[Probe] = [] if film_env is None else [Film(film_env)]
        if audit_states:
            probes.append(_Audit(policy, ingredients, audit_states, out / "audit.json", note))

        learners: Learners | None = None

        def on_start(done: int) -> None:
            nonlocal learners
            whole = budget.real_steps if algorithm.needs_cell else budget.chunks
            if (
                whole is None or done < whole or not (out / "config.json").exists()
            ):  # a finished run keeps what it says of itself
                about = {"despite_ranking": doubts, "provenance": provenance(described, algorithm.config.seed)}
                write_json(out / "config.json", {**described, **about})
            if done:
                note(f"going on after {done} {algorithm.phase().unit}")
            if engine is not None and isinstance(algorithm, FlowMatchingAlgorithm) and done < budget.chunks:
                again = elsewhere(offline, ingredients.data, ingredients.opening)
                learners = engine.learners(algorithm, agent.config, again, budget.chunks)

        def after_round(algorithm: Algorithm[Any]) -> None:
            if learners is not None:
                learners.renew()
            on_round(algorithm)

        with contextlib.closing(env), exclusive(out):
            check_same_run(out, described, more_chunks=True)  # nobody writes there any more
            Runner(algorithm, out, budget, probes=probes, progress_bar=progress_bar, on_start=on_start,
                   on_round=after_round).run()  # fmt: skip
    if budget.minutes is None and not algorithm.has_learned:
        budgets = f"{algorithm.spent:,} {algorithm.phase().unit} were used up by: {algorithm.phase().name}"
        raise TrainingError(f"nothing was learned, {budgets}. Run the same command with a larger budget to go on")
    return algorithm


def _with_critic_of(bundle: Bundle, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which "bundle" for a critic of outcomes is where the bundle's lies."""
    outcome = settings.get("outcome")
    if not isinstance(outcome, Mapping) or outcome.get("model") != "bundle":
        return dict(settings)
    if bundle.critic is None:
        raise ConfigError(
            f"outcome.model=bundle: the bundle {bundle.path} has no critic of outcomes. Put that of a run into it (`"
            "rise extend`), name a run's `critic/`, or leave outcome.model out to teach one"
        )
    return {**settings, "outcome": {**outcome, "model": str(bundle.critic)}}


def _check_cluster(agent: AgentPreset, cluster: ClusterConfig, ingredients: Ingredients) -> None:
    kind = ALGORITHMS.load(agent.algorithm)
    if kind.needs_cell or ingredients.oracle:
        raise ConfigError("a cluster imagines and proposes; the work cell runs on this machine: leave --cluster out")
    if "rollout" in cluster.places(1 << 16) and not issubclass(kind, FlowMatchingAlgorithm):
        raise ConfigError(f"{agent.algorithm} proposes chunks in the learner: place env alone (no rollout)")
    if len(cluster.places(1 << 16).get("actor", [0])) > 1 and not issubclass(kind, FlowMatchingAlgorithm):
        raise ConfigError(f"{agent.algorithm} makes its updates in one process: write actor: 0")


def _connect(cluster: ClusterConfig, note: Callable[[str], None]) -> Cluster:
    try:
        from rise_agents.training.cluster.engine import Cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("--cluster needs Ray: pip install 'rise-robotics[ray]' on every machine") from error
    return Cluster(cluster, note)


def check_same_run(folder: Path, described: Mapping[str, Any], more_chunks: bool = False) -> None:
    """Refuse to go on with a run of something else.

    Args:
        folder: Run folder, with the `config.json` of the run if there is one.
        described: What is to be done; what older runs do not say of themselves is not compared.
        more_chunks: Whether another number of chunks or control steps is fine.

    Raises:
        CheckpointError: If the folder holds another run.
    """
    file = folder / "config.json"
    found = read_json(file, dict[str, Any], {})
    plain = to_plain(described)
    if isinstance(found.get("agent"), dict) and isinstance(plain.get("agent"), dict):
        found["agent"] = {**plain["agent"], **found["agent"]}
    for one in (found, plain) if more_chunks else ():
        if isinstance(one.get("agent"), dict):
            one["agent"].pop("chunks", None)
            one["agent"].pop("real_steps", None)
    if changed := [name for name, value in plain.items() if found.get(name, value) != value]:
        raise CheckpointError(
            f"{folder} holds a run with other settings ({', '.join(changed)}): give another folder, or remove it"
        )


def _fingerprint(arrays: Mapping[str, Any]) -> str:
    """Hash of names, shapes and some thousand numbers of every array or tensor: cheap, whatever their size."""
    found = hashlib.blake2b(digest_size=8)
    for name, value in arrays.items():
        some = value.reshape(-1)[:: max(1, math.prod(value.shape) // 1000)]
        numbers = some.float().cpu().numpy() if isinstance(some, torch.Tensor) else np.asarray(some, np.float32)
        found.update(f"{name} {tuple(value.shape)}".encode() + numbers.tobytes())
    return found.hexdigest()


def _surroundings(
    agent: AgentPreset,
    policy: Policy,
    ingredients: Ingredients,
    note: Callable[[str], None],
    doubt: Callable[[str], None],
    engine: Cluster | None = None,
) -> tuple[Any, ChunkSource | None, Any]:
    """Environment to learn in, recorded chunks to mix in, and environment for films; None where there is none."""
    if str(gymnasium.spec(ingredients.env_id).vector_entry_point).startswith("rise_robot."):
        raise ConfigError(f"{ingredients.env_id} is no imagination; --oracle lets the work cell take its place")
    bundle, lags = ingredients.bundle, list(policy.lags)
    kind = ALGORITHMS.load(agent.algorithm)
    in_cell = kind.needs_cell
    imagines = bool(kind.imagines or not (ingredients.data or in_cell)) and not ingredients.oracle
    if imagines and (problem := bundle.provenance.get("ranking_problem")):
        doubt(f"in the recordings that {bundle.name} is made from {problem}")
    kwargs: dict[str, Any] = {"bundle": str(bundle.path), "observation_lags": lags, "autoreset_mode": "disabled"}
    offline: ChunkSource
    if ingredients.data:
        labelled = kind.reads_labels(agent.settings())
        if labelled and ingredients.labels is None:
            raise ConfigError("recorded data need the tag that `rise label` gave their advantages (--labels)")
        dataset = ingredients.open_data()
        note(f"{dataset.num_episodes} episodes, {dataset.num_frames} frames")
        split = split_episodes(dataset)
        bins, values = np.full(dataset.num_frames, policy.codec.unconditional), None
        if labelled and ingredients.labels is not None:
            bins, _ = advantage_bins_of(*measured_advantages(dataset, ingredients.labels), policy.codec)
            values = read_advantages(dataset, ingredients.labels)["value_current"]
            if problem := ranking_problem_of(dataset, values):
                doubt(f"by the labels {ingredients.labels!r} {problem}")
        offline = RecordedChunks(dataset, policy.lags, bins, split["train"], values)
        if in_cell:
            return _cell(agent, bundle, lags), offline, None
        if ingredients.oracle:
            leading = ingredients.behaviour_policies or (PolicyActor(policy),)
            pool = {"pool": agent.oracle_episodes, "start_frames": agent.start_frames, "num_envs": agent.num_envs}
            oracle = make_oracle(bundle.spec.name, observation_lags=lags, behaviour_policies=leading, **pool)
            return oracle, offline, None
        kwargs["starts"] = starts_from_dataset(
            dataset, bundle.spec, agent.start_states, seed=0, frames=agent.start_frames
        )
    elif in_cell:
        return _cell(agent, bundle, lags), None, None
    elif ingredients.oracle:
        raise ConfigError("the oracle has no recordings of its own: give --data and --labels")
    kwargs_of_env = {**kwargs, **agent.env}
    env: Any = gymnasium.make_vec(ingredients.env_id, num_envs=agent.num_envs, **kwargs_of_env).unwrapped
    if ingredients.data and imagines:
        ranking = rank_episodes(env.world_model, dataset, split["heldout"])
        if problem := ranking.problem:
            doubt(f"on held-out episodes of the recordings {problem}")
    if engine is not None:
        env = engine.environments(env, ingredients.env_id, kwargs_of_env, bundle.path)
    if not ingredients.data:
        advantages = _imagined_advantages(env)
        bins, _ = advantage_bins_of(advantages, np.zeros(len(advantages), bool), policy.codec)
        offline = StartChunks(env.starts, bundle.spec, policy.lags, bins)
        note(f"no data given: {len(offline)} start states of {bundle.name}, scored by imagination")
    shared = {"starts": env.starts, "world_model": env.world_model, "render_mode": "rgb_array"}
    film_env = gymnasium.make_vec(ingredients.env_id, num_envs=_FILMED, **{**kwargs, **shared})
    return env, offline, film_env


def _cell(agent: AgentPreset, bundle: Bundle, lags: list[int]) -> Any:
    """The work cell of a bundle's task, with the world model for algorithms that imagine as well."""
    env_id, imagines = TASKS.load(bundle.spec.name).env_id("-Cell"), ALGORITHMS.load(agent.algorithm).imagines
    seen = sorted({*lags, *history_lags(bundle.spec)}) if imagines else lags
    made = gymnasium.make_vec(env_id, num_envs=agent.num_envs, observation_lags=seen, autoreset_mode="disabled")
    cell: Any = made.unwrapped
    cell.world_model = bundle.world_model() if imagines else None
    return cell


def _imagined_advantages(env: Any) -> np.ndarray:
    """Advantages, as imagined, of the chunks that were recorded at all start states of an environment, (M,)."""
    count, found = len(env.starts), []
    for first in range(0, count, env.num_envs):
        rows = [min(first + i, count - 1) for i in range(env.num_envs)]
        env.reset(seed=0, options={"start_index": rows})
        chunks, _ = env.recorded_actions()
        found.append(env.step(chunks)[1])
    return np.concatenate(found)[:count]


class _Audit:
    """Compares imagination with the oracle at states that the base policy gets to; keeps a table and TensorBoard."""

    def __init__(
        self, base: Policy, ingredients: Ingredients, states: int, file: Path, note: Callable[[str], None]
    ) -> None:
        if ingredients.oracle:
            raise ConfigError("an audit compares imagination with the oracle: it makes no sense with the oracle alone")
        self._file, self._note, spec = file, note, ingredients.bundle.spec
        self._oracle, self._rounds = audit_oracle(copy.deepcopy(base), spec, states, _AUDIT_CANDIDATES)
        self._rows = read_json(file, list[dict[str, Any]], [])  # of a run that goes on

    def __call__(self, algorithm: Algorithm[Any]) -> None:
        proposals = PolicyActor(algorithm.policy, guidance=1.0, noise_scale=1.0)
        found = audit(
            proposals, algorithm.env.world_model, self._oracle,
            rounds=self._rounds, num_candidates=_AUDIT_CANDIDATES, seed=_AUDIT_SEED,
        )  # fmt: skip
        self._rows.append({"chunks": algorithm.num_timesteps, **found})
        write_json(self._file, self._rows)
        for name, value in found.items():
            algorithm.logger.record(f"audit/{name}", value)
        algorithm.logger.dump(algorithm.num_timesteps)
        self._note(
            f"audit of {found['states']} states: imagined and true advantage correlate at {found['overall']:.2f}, "
            f"{found['within_state']:.2f} within a state; true advantage {found['advantage_mean']:+.3f}"
        )
