"""The card of what is shared on the Hugging Face Hub (`README.md`): what it is, how to load it, what was measured.

Nothing is claimed that was not measured: every figure comes with the command, seed and machine that it is from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rise_env.hub import HubId

__all__ = ["Card", "Evaluation", "numbers"]

_LIBRARY = "rise-robotics"
#: What a training of dynamics tells of itself, not of what was held out.
_PROGRESS = {"step", "seconds", "loss", "gradient_norm", "learning_rate", "groups"}
_BUNDLE = """\
```python
import gymnasium as gym
import rise_env

envs = gym.make_vec("RISE-Imagination-v0", num_envs=8, bundle="{id}")  # imagination starts from recorded states
```

```bash
rise improve --bundle {id} --out runs/improved    # its base policy, where it holds one
```"""
_POLICY = """\
```bash
rise evaluate --policy {id} --episodes 100
```

```python
from rise_agents.policies.loading import load_policy

policy = load_policy("{id}")
```"""
_WORLD_MODEL = """\
```python
from rise_env.world_model import CompositionalWorldModel

model = CompositionalWorldModel.from_pretrained("{id}")
```"""
_STARTS = """\
```python
from rise_env.envs.starts import StartStates

starts = StartStates.load("{id}")  # starts= of an imagination environment
```"""
_PART = """\
```python
from rise_env.pretrained import load_registered
from rise_env.registry import DYNAMICS, POLICIES, VALUES

model = load_registered("{id}", DYNAMICS, POLICIES, VALUES)
```"""
_USE = {"bundle": _BUNDLE, "policy": _POLICY, "world model": _WORLD_MODEL, "start states": _STARTS}
_WHAT = {
    "bundle": "A bundle: a learned world model (dynamics and value), recorded start states and, where there is one, a "
    "base policy; all that an imagination environment needs.",
    "policy": "A policy: camera images and joint state to a chunk of joint targets, conditioned on the advantage.",
    "world model": "A world model: dynamics that imagine what the cameras will see, and a value model that scores it.",
    "dynamics model": "A dynamics model: it imagines what the cameras will see while a chunk of actions is executed.",
    "value model": "A value model: it scores camera images by the progress of the task.",
    "start states": "Recorded states, with their history, from which imagined episodes start.",
}


@dataclass(frozen=True)
class Evaluation:
    """Success as `rise evaluate` measured it.

    Attributes:
        env: Environment id.
        episodes: Number of episodes.
        seed: Seed of the first one.
        rate: Share of successes.
        interval: 95 % Wilson interval.
        failures: Failed episodes by mode.
        provenance: Where it comes from (`rise_env.provenance`).
    """

    env: str
    episodes: int
    seed: int
    rate: float
    interval: tuple[float, float]
    failures: Mapping[str, int]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """What is known of something that is shared.

    Attributes:
        what: "bundle", "policy", "world model", ...
        task: Section `task` of its configuration; empty where it has none.
        provenance: Where it comes from (`rise_env.provenance`); empty where nobody wrote that down. `held_out` in it
            holds, part by part, what was measured on held-out data, and `ranking_problem` what is wrong with values.
        evaluations: Success where it was measured.
        figures: Tables of further measured numbers, by title.
        datasets: Hub ids of the data it was trained on, as far as told.
        license: Its licence as the Hub names it, e.g. "apache-2.0"; None where nobody said.
    """

    what: str
    task: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    datasets: Sequence[str] = ()
    license: str | None = None

    def text(self, hub: HubId) -> str:
        """The file, with the Hub's metadata in front."""
        from huggingface_hub import ModelCard, ModelCardData

        tags = ["robotics", "rise", "world-model", "gymnasium", self.what.replace(" ", "-")]
        task = self.task.get("name")
        data = ModelCardData(
            library_name=_LIBRARY, pipeline_tag="robotics", license=self.license, datasets=list(self.datasets) or None,
            tags=[*tags, *([task.replace("_", "-")] if task else [])], model_name=hub.repo.partition("/")[2],
            eval_results=[_result(one) for one in self.evaluations] or None,
        )  # fmt: skip
        sections = {
            "Use": f"{_USE.get(self.what, _PART).format(id=hub)}\n\nPin a commit or tag by `{hub.repo}@REVISION`.",
            "Task": _table(self._task_rows()),
            "Measured": self._measured(),
            "Where it comes from": _origin(self.provenance),
        }
        parts = [f"# {hub.repo.partition('/')[2]}", _WHAT.get(self.what, f"A {self.what}.")]
        parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
        return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))

    def _task_rows(self) -> dict[str, str]:
        task = self.task
        if not task:
            return {}
        joints = task["layout"]["names"]
        height, width = task["image_size"]
        return {
            "name": f"`{task['name']}`",
            "instruction": task["prompt"],
            "cameras": f"{', '.join(task['cameras'])}; {width} x {height} pixels",
            "joints": f"{len(joints)}: {', '.join(joints)}",
            "actions": f"chunks of {task['chunk']} at {task['fps']} Hz, a frame imagined every {task['stride']}",
        }

    def _measured(self) -> str:
        parts = []
        if self.evaluations:
            rows = ["| environment | episodes | success | 95 % interval (Wilson) | failures |", "| --- " * 5 + "|"]
            for one in self.evaluations:
                failures = ", ".join(f"{mode} {count}" for mode, count in one.failures.items()) or "none"
                low, high = one.interval
                seeds = f"{one.episodes}, seeds {one.seed} to {one.seed + one.episodes - 1}"
                rows.append(f"| `{one.env}` | {seeds} | {one.rate:.1%} | {low:.1%} to {high:.1%} | {failures} |")
            parts += ["\n".join(rows), *[_made_by(one.provenance) for one in self.evaluations]]
        told: Mapping[str, Any] = self.provenance.get("held_out") or {}
        held_out = {_held_out(part, told): numbers(one) for part, one in told.items() if isinstance(one, Mapping)}
        for title, table in {**held_out, **self.figures}.items():
            if table:
                parts.append(f"{title}:\n\n{_table({f'`{name}`': f'{value:.4g}' for name, value in table.items()})}")
        if problem := self.provenance.get("ranking_problem"):
            parts.append(f"**Known problem**: in its recordings {problem}.")
        parts += [f"**Known problem**: {problem}." for problem in _problems(told.get("dynamics") or {})]
        return "\n\n".join(parts) or "No measurement came with this upload: nothing is claimed of its quality."


def _problems(dynamics: Mapping[str, Any]) -> Iterator[str]:
    """What `rise_env.training.held_out` found that forbids to believe in imagination."""
    match dynamics.get("reaction"):
        case {"ignored": True}:
            yield "what is imagined hardly depends on the actions: nothing can be learned there"
    match dynamics.get("psnr"):
        case {"gain": {"low": float(low)}} if low <= 0:
            yield "it is not known to be nearer to what was recorded than a copy of the last picture"


def _held_out(part: str, told: Mapping[str, Any]) -> str:
    """Title of what was measured of a part on recordings that were kept aside."""
    if "of" not in told:
        return f"Measured of the {part} on held-out data"
    known = "which it may have been trained on" if part in told.get("given", ()) else "held out from its training"
    return f"Measured of the {part} on {len(told['episodes'])} of {told['of']} recorded episodes, {known}"


def numbers(content: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All measured numbers in nested entries, by their path."""
    found: dict[str, float] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and not (name in _PROGRESS or name.startswith("least_"))
        ):
            found[f"{prefix}{name}"] = value
    return found


def _result(one: Evaluation) -> Any:
    from huggingface_hub import EvalResult

    low, high = one.interval
    return EvalResult(
        task_type="robotics", task_name="Robotics", dataset_type=one.env, dataset_name=one.env,
        metric_type="success_rate", metric_name="success rate", metric_value=round(one.rate, 4),
        metric_args={"episodes": one.episodes, "first_seed": one.seed,
                     "wilson_95": [round(low, 4), round(high, 4)]},
    )  # fmt: skip


def _made_by(provenance: Mapping[str, Any]) -> str:
    """Command, code and machine in one line."""
    facts = _facts(provenance)
    return "Measured by " + "; ".join(f"{name} {value}" for name, value in facts.items()) + "." if facts else ""


def _origin(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return "No record of its training came with this upload."
    facts = _facts(provenance)
    if data := provenance.get("data"):
        facts["recordings"] = ", ".join(f"`{name}`" for name in ([data] if isinstance(data, str) else data))
    if versions := {name: version for name, version in (provenance.get("packages") or {}).items() if version}:
        facts["packages"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return _table(facts)


def _facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Command, seed, time, git revision and hardware, as far as they are recorded."""
    facts = {}
    if command := provenance.get("command"):
        facts["command"] = f"`{' '.join(command)}`"
    if provenance.get("seed") is not None:
        facts["seed"] = str(provenance["seed"])
    if time := provenance.get("time"):
        facts["time"] = str(time)
    if git := provenance.get("git"):
        facts["git revision"] = f"`{git['revision']}`" + (" with changes" if git.get("modified") else "")
    if machine := provenance.get("hardware"):
        gpus = ", ".join(gpu["name"] for gpu in machine.get("gpus") or ()) or "no GPU"
        facts["hardware"] = f"{machine['cpu']}, {machine['cpu_count']} cores, {machine['memory_gib']} GiB, {gpus}"
    return facts


def _table(rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    escaped = (f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items())
    return "\n".join(["| | |", "| --- | --- |", *escaped])
