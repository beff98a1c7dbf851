"""The whole idea, end to end: evaluate, record, improve in imagination, evaluate again, report.

Every stage leaves its result in the output folder and is skipped where it is there already. Budgets are numbers of
episodes and imagined chunks: a slow or busy machine takes longer and gets the same policy.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from rise_agents.evaluation.evaluate import evaluate
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.pipelines.config import DemoConfig
from rise_agents.pipelines.improve import Ingredients, check_same_run, improve
from rise_agents.pipelines.recording import label, record
from rise_agents.policies.actor import PolicyActor
from rise_agents.policies.base import Policy
from rise_agents.policies.loading import load_policy
from rise_agents.policies.resolve import find_policy
from rise_agents.progress import episode_bar, say
from rise_agents.training.presets import AgentPreset, load_agent_preset
from rise_env.bundle import Bundle, find_bundle, load_bundle
from rise_env.errors import CheckpointError, ConfigError
from rise_env.files import exclusive, read_json, to_plain, write_json
from rise_env.provenance import content_fingerprint, provenance
from rise_env.registry import ALGORITHMS, TASKS
from rise_env.threads import single_threaded

__all__ = ["LABELS", "Demo", "DemoResult"]

#: Tag of the labels of the offline data.
LABELS = "demo"
#: What the improvement came to, written when it has.
_DONE = "done.json"
_EVALUATED = "Delete it: the same command evaluates once more."


class _Described(TypedDict, total=False):
    """What an improvement says of itself, as far as it matters here."""

    agent: dict[str, Any] | None


@dataclass(frozen=True)
class DemoResult:
    """What came of it.

    Attributes:
        base: The policy before.
        improved: And after.
        minutes: Wall-clock time, interruptions left out.
        parts: The same by stage, s.
        report: HTML page.
        described: Settings.
    """

    base: EvaluationResult
    improved: EvaluationResult
    minutes: float
    parts: dict[str, float]
    report: Path
    described: dict[str, Any]

    def to_dict(self, seed: int) -> dict[str, Any]:
        """For JSON."""
        results = {"base": self.base.to_dict(), "improved": self.improved.to_dict(), "minutes": self.minutes}
        more = {"report": str(self.report), "parts": self.parts, "provenance": provenance(self.described, seed)}
        return {**results, **more}


@dataclass
class Demo:
    """A demo in a folder.

    Args:
        config: What is done with the task.
        task: Task.
        preset: Preset of the work cell, and of the bundle where it has to be trained.
        out: Folder.
        seed: Seed of evaluation and training.
        policy: Policy to improve: "base", a run folder, a checkpoint or a Hub id; that of `config` when None.
        bundle: Bundle in place of the shipped one.
        chunks: Imagined chunks, in place of the agent's.
        settings: Settings of the algorithm on top of the agent's.
        command: What was typed, for "run it again" in the report.
    """

    config: DemoConfig
    task: str
    preset: str
    out: Path
    seed: int = 0
    policy: str | None = None
    bundle: Path | None = None
    chunks: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = "rise demo"

    def run(self) -> DemoResult:
        """Go through all stages, from where an interruption left them.

        Raises:
            CheckpointError: If the folder holds a demo with other settings.
            ConfigError: If something does not fit.
        """
        clock = Clock(self.out / "seconds.json")
        agent, name = self.agent(), self.policy or self.config.policy
        if name.partition(":")[0] != "base":
            find_policy(name)  # a wrong path is told now
        with exclusive(self.out), single_threaded():
            bundle = self._bundle(clock)
            path = find_policy(name, bundle=bundle)
            if path is None:
                raise ConfigError(f"policy {name!r}: give 'base', a run folder, a checkpoint or a Hub id")
            described = {
                "task": self.task, "policy": path, "agent": to_plain(agent), "episodes": self.config.episodes,
                "recordings": to_plain(self.config.recordings), "seed": self.seed, "preset": self.preset,
                "bundle": bundle.name, "bundle_content": content_fingerprint(bundle.path),
            }  # fmt: skip
            # Another number of episodes is evaluated once more; see check_improvement for the agent.
            check_same_run(
                self.out, {key: value for key, value in described.items() if key not in ("agent", "episodes")}
            )
            self.check_improvement(agent)
            write_json(self.out / "config.json", described)
            base = load_policy(path)
            with clock.timed("evaluating the base policy"):
                before = self._evaluate("base", base)
            with clock.timed("recording"):
                data = record(self.out / "data", self.config.recordings, self.task, self.preset, path)
            labels = LABELS if ALGORITHMS.load(agent.algorithm).reads_labels(agent.settings()) else None
            if labels:
                with clock.timed("labelling"):
                    label(data, labels, bundle.world_model().value, bundle.spec)
            with clock.timed("improving"):
                self._improve(agent, base, bundle, data, labels)
            improved = load_policy(self.out / "rise" / "model")
            with clock.timed("evaluating the improved policy"):
                after = self._evaluate("improved", improved)
            with clock.timed("filming"):
                from rise_agents.pipelines.demo_report import write_demo_report

                report = write_demo_report(self, agent, (base, before), (improved, after), bundle, clock, described)
        return DemoResult(before, after, sum(clock.seconds.values()) / 60, clock.seconds, report, described)

    @property
    def cell_id(self) -> str:
        """Id of the task's work cell."""
        registration = TASKS.load(self.task)
        if registration.cell is None:
            raise ConfigError(f"task {self.task!r} has no work cell: the demo has nowhere to show what was gained")
        return f"RISE-{registration.title}-Cell-v0"

    def agent(self) -> AgentPreset:
        """Algorithm, settings and budget."""
        preset = load_agent_preset(self.config.agent, self.task)
        return preset.replace({**self.settings, "seed": self.seed}, chunks=self.chunks)

    def _bundle(self, clock: Clock) -> Bundle:
        """The bundle given, the shipped one, or one that is trained first."""
        if self.bundle is not None:
            return load_bundle(self.bundle)
        own = self.out / "bundle"
        if (own / "bundle.json").is_file():
            return load_bundle(own)
        try:
            return load_bundle(find_bundle(self.task))
        except ConfigError:
            say(f"task {self.task!r} has no bundle yet: recording, then training world model and base policy")
        from rise_agents.pipelines.bundle import train_bundle_with_policy

        with clock.timed("training a bundle"):
            data = record(self.out / "bundle-data", self.config.bundle_recordings, self.task, self.preset)
            return train_bundle_with_policy(self.task, self.preset, data, own, self.out / "bundle-runs")

    def _evaluate(self, name: str, policy: Policy) -> EvaluationResult:
        """Evaluate a policy in the cell, or read what is there already of so many episodes."""
        file = self.out / f"{name}.json"
        if file.exists():
            try:
                found = EvaluationResult.from_dict(read_json(file, dict[str, Any], cure=_EVALUATED))
                if found.episodes == self.config.episodes:
                    return found
            except ConfigError as error:
                raise CheckpointError(f"{file} is damaged: {error}. {_EVALUATED}") from error
        with episode_bar(self.config.episodes, f"{name} policy in the cell") as on_episode:
            actor, kwargs = PolicyActor(policy), {"preset": self.preset}
            result = evaluate(
                self.cell_id, actor, self.config.episodes, self.seed, env_kwargs=kwargs, on_episode=on_episode
            )
        write_json(file, result.to_dict())
        return result

    def check_improvement(self, agent: AgentPreset) -> None:
        """Let the improvement in the folder go on with a larger budget; what was recorded serves any.

        Raises:
            CheckpointError: If it is one with other settings, or with a larger budget.
        """
        folder, result = self.out / "rise", self.out / "improved.json"
        if not (folder / "config.json").exists():
            return
        # Runs of older builds do not say all of it.
        found = read_json(folder / "config.json", _Described).get("agent") or {}
        wanted = to_plain(agent)
        before, now = ([one.pop(name, None) or 0 for name in ("chunks", "real_steps")] for one in (found, wanted))
        if found != wanted or now < before:
            raise CheckpointError(
                f"{folder} holds an improvement with other settings or a larger budget. Give another folder (--out), "
                f"or remove {folder} and {result} to start from the recordings once more"
            )
        if now > before:
            result.unlink(missing_ok=True)
            (folder / _DONE).unlink(missing_ok=True)

    def _improve(self, agent: AgentPreset, base: Policy, bundle: Bundle, data: list[Path], labels: str | None) -> None:
        folder = self.out / "rise"
        if (folder / _DONE).exists():
            return
        env_id = f"RISE-{TASKS.load(self.task).title}-v0"
        # The cell says in the end what it was worth.
        ingredients = Ingredients(bundle, env_id, data, labels, despite_ranking=True)
        trained = improve(agent, base, ingredients, folder, note=say)
        done = {"chunks": trained.num_timesteps, "rounds": trained.rounds, "imagines": trained.imagines}
        write_json(folder / _DONE, done)


class Clock:
    """Wall-clock time of stages, kept on disk so that interruptions do not count.

    Attributes:
        seconds: By stage.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, float] = read_json(file, dict[str, float], {}, "Delete it: only times are lost.")

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the time of a stage."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - started
            write_json(self._file, self.seconds)
