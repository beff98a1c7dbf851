"""What a folder holds, whether it loads, and what was measured of it: all that goes to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rise_agents.algorithms.outcomes import OutcomeCritic
from rise_agents.evaluation.results import EvaluationResult
from rise_agents.policies.lerobot_files import find_lerobot
from rise_agents.policies.loading import load_policy
from rise_env.bundle import Bundle, load_bundle
from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, ConfigError
from rise_env.files import read_json, to_plain
from rise_env.licenses import check_license
from rise_env.model_card import Card, Evaluation, numbers
from rise_env.pretrained import CONFIG, load_registered
from rise_env.provenance import content_fingerprint
from rise_env.publishing import kind_of
from rise_env.registry import DYNAMICS, POLICIES, VALUES
from rise_env.world_model import CompositionalWorldModel

__all__ = ["describe", "folder_to_push"]

#: Of a provenance; older trainings write them beside the settings.
_ORIGIN = ("time", "command", "git", "packages", "hardware", "config_hash", "seed")
_AUDITED = "Imagined against true advantage of the policy's own proposals in the work cell (last audit of the run)"


def folder_to_push(folder: str | Path) -> Path:
    """The folder itself, or the `model` of a run folder.

    Raises:
        ConfigError: If it is a policy of LeRobot, or no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give a bundle, a world model, a checkpoint or a run folder")
    if (folder / "model" / CONFIG).is_file():
        return folder / "model"
    if (lerobot := find_lerobot(folder)) is not None:
        raise ConfigError(
            f"{lerobot} is a policy of LeRobot: upload it as LeRobot does, `hf upload OWNER/NAME {lerobot}`"
        )
    return folder


def describe(
    folder: Path, results: Sequence[str | Path] = (), datasets: Sequence[str] = (), license: str | None = None
) -> Card:
    """Load what is in a folder and collect what is known of it.

    Args:
        folder: As of `folder_to_push`.
        results: JSON files of `rise evaluate` that measured its policy.
        datasets: Hub ids of the data it was trained on.
        license: Its licence as the Hub names it.

    Raises:
        CheckpointError: If something is missing or damaged.
        ConfigError: If a result is of other weights, or is no result, or the Hub knows no such licence.
    """
    if license is not None:
        check_license(license)
    what, loaded = _load(folder)
    policy, provenance = folder, _provenance(folder.parent, what) if folder.name == "model" else {}
    figures = {**_audit(folder.parent), **_judged(folder.parent)} if provenance and what == "policy" else {}
    if isinstance(loaded, Bundle):
        policy, provenance = loaded.policy or folder, loaded.provenance
    if results and what not in ("policy", "bundle"):
        raise ConfigError(f"a {what} is not evaluated by `rise evaluate`: leave --results out")
    measured = [_evaluation(Path(file), policy) for file in results]
    task = to_plain(getattr(loaded, "spec", None)) or {}
    return Card(what, task, provenance, measured, figures, datasets, license)


def _load(folder: Path) -> tuple[str, object]:
    """What a folder holds, in words, and loaded: nobody else shall find out that it is damaged."""
    _, kind = kind_of(folder)
    if kind == "bundle":
        bundle = load_bundle(folder)
        bundle.starts().check(bundle.spec)
        bundle.world_model()
        for policy in ([bundle.policy] if bundle.policy is not None else []) + list(bundle.policies.values()):
            load_policy(policy)
        if bundle.critic is not None:
            OutcomeCritic.from_pretrained(bundle.critic)
        return kind, bundle
    if kind == "start states":
        return kind, StartStates.load(folder)
    if kind == "rise-world-model":
        return "world model", CompositionalWorldModel.from_pretrained(folder)
    model = load_registered(folder, POLICIES, DYNAMICS, VALUES)
    return model.title, model


def _provenance(run: Path, what: str) -> dict[str, Any]:
    """Where a run folder says its model comes from, and what it measured on held-out data; nothing if it is silent."""
    content = read_json(run / CONFIG, dict[str, Any], {})
    found = content.get("provenance", content)
    told = {name: found[name] for name in _ORIGIN if name in found}
    if "time" not in told or "packages" not in told:
        return {}
    if isinstance(content.get("data"), list):  # trainings of parts keep fingerprints there
        told["data"] = content["data"]
    metrics = read_json(run / "metrics.json", dict[str, Any], {}) if what != "policy" else {}
    held_out = (metrics.get("held_out") or {}) if what == "value model" else metrics
    return {**told, "held_out": {what: held_out}, "ranking_problem": held_out.get("ranking_problem")}


def _audit(run: Path) -> dict[str, Mapping[str, float]]:
    rows = read_json(run / "audit.json", list[dict[str, Any]], [])
    return {_AUDITED: numbers(rows[-1])} if rows else {}


def _judged(run: Path) -> dict[str, Mapping[str, float]]:
    """What `rise improve` found last, if the run has not gone on since."""
    found = read_json(run / "judgement.json", dict[str, Any], {})
    if not found or found["run"]["metrics"] != read_json(run / "metrics.json", dict[str, Any], {}):
        return {}
    seen, change = found["imagination"], found["imagination"]["change"]
    title = f"Return in imagination, from {seen['states']} recorded states: what its world model thinks of it"
    return {
        title: {
            "before": seen["before"], "after": seen["after"], "change": change["mean"],
            "change, lower end of the 95 % interval": change["low"],
            "change, upper end of the 95 % interval": change["high"],
        }
    }  # fmt: skip


def _evaluation(file: Path, policy: Path) -> Evaluation:
    content = read_json(file, dict[str, Any], cure="Give what `rise evaluate --json FILE` wrote.")
    try:
        result = EvaluationResult.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}. Give what `rise evaluate --json FILE` wrote.") from None
    told, ours = content.get("policy_content"), content_fingerprint(policy)
    if told != ours:
        which = "does not say which weights it measured" if told is None else f"measured weights {told}"
        raise ConfigError(
            f"{file} {which}; {policy} has {ours}. A card tells only what its own policy reached: "
            f"rise evaluate --policy {policy} --json FILE"
        )
    origin = content.get("provenance") or {}
    if not isinstance(content.get("env"), str) or not isinstance(origin.get("seed"), int):
        raise CheckpointError(f"{file} lacks its environment or seed: evaluate again")
    return Evaluation(
        content["env"], result.episodes, origin["seed"], result.success_rate, result.success_interval,
        result.failure_modes, origin,
    )  # fmt: skip
