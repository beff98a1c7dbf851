"""Bundles: all that an imagination environment needs, in one directory and without a network.

<bundle>/
    bundle.json      format version, task, defaults of the environment, where everything comes from, list of files
    starts/          start states (`rise_env.envs.starts`)
    world_model/     dynamics and value (`rise_env.world_model`)
    policy/          base policy; optional
    policies/NAME/   other policies to start from, "base:NAME"; optional
    critic/          a critic of outcomes, taught on episodes of one of the policies; optional
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_env.config import task_files, task_folder
from rise_env.envs.starts import StartStates
from rise_env.errors import CheckpointError, ConfigError, did_you_mean
from rise_env.files import atomic_directory, to_plain, write_json
from rise_env.hub import display_name
from rise_env.model_card import Card
from rise_env.pretrained import CONFIG, WEIGHTS, listed, local_directory, read_config
from rise_env.provenance import provenance
from rise_env.publishing import BUNDLE_FILES, Published, Upload, push
from rise_env.registry import TASKS
from rise_env.tasks import TaskSpec, load_task, name_of_task, task_from_section

if TYPE_CHECKING:
    from rise_env.world_model import CompositionalWorldModel

__all__ = ["BUILD_COMMAND", "MANIFEST", "Bundle", "bundle_directories", "extend_bundle", "find_bundle", "load_bundle",
           "save_bundle"]  # fmt: skip

#: How to make a bundle, for messages.
BUILD_COMMAND = "rise train bundle --task {task} --data DATASET --out {out}"

_VERSION = 1
_SHIPPED = Path(__file__).resolve().parent / "bundles"
MANIFEST = "bundle.json"
#: Files that every bundle has, and those of its policy, if it has one.
_LEAST = ("starts/starts.json", "world_model/config.json", "world_model/dynamics/config.json",
          "world_model/value/config.json")  # fmt: skip
_LEAST_OF_POLICY = (f"policy/{CONFIG}", f"policy/{WEIGHTS}")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; its parts are read when they are asked for.

    Attributes:
        path: Its directory.
        spec: Task.
        env: Keyword arguments that the environment takes from here unless they are given, e.g. `success_threshold`.
        provenance: Where it comes from.
    """

    path: Path
    spec: TaskSpec
    env: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it: its directory's name, or repository and commit where it is of the Hub."""
        return display_name(self.path)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Bundle:
        """The same as `load_bundle`."""
        return load_bundle(path)

    def push_to_hub(self, repo: str, *, private: bool = False, card: Card | None = None) -> Published:
        """Upload it all: start states, world model and base policy.

        Arguments and errors are as of `PretrainedMixin.push_to_hub`.
        """
        card = card or Card("bundle", to_plain(self.spec), self.provenance)
        return push(Upload.of(self.path), repo, card, private=private)

    def starts(self) -> StartStates:
        """Start states, memory-mapped."""
        return StartStates.load(self.path / "starts")

    def world_model(self, **kwargs: Any) -> CompositionalWorldModel:
        """World model; arguments as for `CompositionalWorldModel.from_pretrained`."""
        from rise_env.world_model import CompositionalWorldModel

        return CompositionalWorldModel.from_pretrained(self.path / "world_model", **kwargs)

    @property
    def policy(self) -> Path | None:
        """Directory of the base policy, or None."""
        path = self.path / "policy"
        return path if path.is_dir() else None

    @property
    def policies(self) -> dict[str, Path]:
        """Directories of the other policies to start from, by name."""
        return {path.name: path for path in sorted((self.path / "policies").glob("*")) if path.is_dir()}

    @property
    def critic(self) -> Path | None:
        """Directory of the critic of outcomes, or None."""
        path = self.path / "critic"
        return path if path.is_dir() else None


def bundle_directories() -> list[Path]:
    """Where bundles are looked for: `RISE_BUNDLES` if it is set, the package itself, then `bundles` where one works."""
    named = os.environ.get("RISE_BUNDLES")
    return [*([Path(named)] if named else []), _SHIPPED, Path("bundles")]


def find_bundle(task: str, preset: str | None = None) -> Path:
    """Directory of a task's bundle, `<task>` or `<task>-<preset>`; `task` is a name, or the folder of a task.

    Raises:
        ConfigError: If there is none; the message names the command that makes it.
    """
    name = name_of_task(task) + (f"-{preset}" if preset else "")
    # A stranger's task may be called like a shipped one.
    foreign = (task_folder(task) is not None or task.endswith((".yaml", ".yml"))) and not _is_shipped(task, name)
    for folder in bundle_directories():
        if (folder / name / MANIFEST).is_file() and not (foreign and folder == _SHIPPED):
            return folder / name
    looked = ", ".join(str(folder / name) for folder in bundle_directories())
    command = BUILD_COMMAND.format(task=task, out=f"bundles/{name}") + (f" --preset {preset}" if preset else "")
    hint = "" if "/" in task else did_you_mean(name_of_task(task), [one.name for one in TASKS])
    raise ConfigError(
        f"there is no bundle of task {task!r}{f', preset {preset!r}' if preset else ''} (looked at {looked}).{hint} "
        f"Build it with\n    {command}\nwhich is found from here, and elsewhere if RISE_BUNDLES is the directory that "
        "holds it; or pass --bundle (bundle=), or starts= and world_model=."
    )


def _is_shipped(task: str, name: str) -> bool:
    """Whether the task at a path has cameras and joints of the shipped one of that name."""
    if not (_SHIPPED / name / MANIFEST).is_file():
        return False
    own, theirs = load_task(task, next(iter(task_files(task)), "small")), load_bundle(_SHIPPED / name).spec
    return (list(own.cameras), own.layout.names) == (list(theirs.cameras), theirs.layout.names)


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle's manifest.

    Args:
        path: Directory, or repository on the Hugging Face Hub (`owner/name`, `owner/name@revision`), which is fetched.

    Raises:
        CheckpointError: If it is no bundle, or is damaged or incomplete.
    """
    path = local_directory(path, "bundle", BUNDLE_FILES, (MANIFEST,))
    content = read_config(path, "bundle", _VERSION, name=MANIFEST)
    try:
        bundle = Bundle(path, task_from_section(content["task"]), dict(content["env"]), dict(content["provenance"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error!r}. Copy or build the bundle again.") from error
    # Older manifests do not list the files.
    files = content.get("files", [*_LEAST, *(_LEAST_OF_POLICY if bundle.policy else ())])
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise CheckpointError(f"{path / MANIFEST} is damaged: files is {files!r:.80}, expected a list of names")
    if missing := [name for name in files if not (path / name).is_file()]:
        raise CheckpointError(f"bundle {path} is incomplete, missing: {listed(missing)}. Copy or build it again.")
    return bundle


def save_bundle(
    path: str | Path,
    starts: StartStates,
    world_model: CompositionalWorldModel,
    *,
    policy: str | Path | None = None,
    env: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    seed: int | None = None,
    compress: bool = True,
) -> Bundle:
    """Write a bundle in one step.

    Args:
        path: Directory to make or replace.
        starts: Start states.
        world_model: World model.
        policy: Policy checkpoint to copy, if any: directory or Hub id.
        env: Defaults of the environment's keyword arguments.
        about: More to keep with the provenance: data, commands, measurements.
        seed: Seed of the run that made it.
        compress: Store the start frames compressed.

    Raises:
        LayoutError: If the start states have other joints than the world model.
        ConfigError: If they do not fit it otherwise.
    """
    starts.check(world_model.spec)
    content = {
        "format_version": _VERSION,
        "task": to_plain(world_model.spec),
        "env": dict(env or {}),
        "provenance": {**provenance(to_plain(world_model.spec), seed), **(about or {})},
    }
    with atomic_directory(path, MANIFEST) as aside:
        starts.save(aside / "starts", compress=compress)
        world_model.save_pretrained(aside / "world_model")
        if policy is not None:
            shutil.copytree(local_directory(policy, "policy"), aside / "policy")
        content["files"] = _files(aside)
        write_json(aside / MANIFEST, content)
    return load_bundle(path)


def extend_bundle(
    path: str | Path,
    out: str | Path,
    *,
    policies: Mapping[str, str | Path] | None = None,
    critic: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Bundle:
    """Copy a bundle and put further parts into the copy, in one step; parts of the same name are replaced.

    Args:
        path: Bundle: a directory or Hub id; it is not changed, unless `out` is the same directory.
        out: Directory to make or replace.
        policies: Checkpoints of other policies to start from, by name: letters, digits, "-" and "_".
        critic: Checkpoint of a critic of outcomes.
        about: What to keep of the new parts, under "extended" in the provenance.

    Raises:
        ConfigError: If nothing is to be put in, or a name is malformed.
        CheckpointError: If the bundle or a part cannot be read.
    """
    parts = {f"policies/{name}": given for name, given in (policies or {}).items()}
    parts |= {"critic": critic} if critic is not None else {}
    if not parts:
        raise ConfigError("nothing to put into the bundle: give policies or a critic")
    for name in policies or {}:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
            raise ConfigError(f"a policy of a bundle cannot be called {name!r}: letters, digits, '-' and '_' alone")
    bundle = load_bundle(path)
    content = read_config(bundle.path, "bundle", _VERSION, name=MANIFEST)
    with atomic_directory(out, MANIFEST) as aside:
        shutil.copytree(bundle.path, aside, dirs_exist_ok=True)
        for place, given in parts.items():
            shutil.rmtree(aside / place, ignore_errors=True)
            shutil.copytree(local_directory(given, "policy"), aside / place)
        added = {**provenance({"parts": sorted(parts)}), **(about or {})}
        content["provenance"] = {**content["provenance"], "extended": added}
        content["files"] = _files(aside)
        write_json(aside / MANIFEST, content)
    return load_bundle(out)


def _files(folder: Path) -> list[str]:
    """What a bundle consists of beside its manifest."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
                  and file != folder / MANIFEST)  # fmt: skip
