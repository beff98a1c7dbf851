"""Checkpoints as directories: `config.json` and, where there are weights, `model.safetensors`. Nothing is unpickled.

`PretrainedMixin` gives a torch module `save_pretrained` and `from_pretrained`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rise_env.errors import CheckpointError, ConfigError
from rise_env.files import atomic_directory, to_plain, write_json
from rise_env.hub import MODEL_FILES, download, hub_id
from rise_env.model_card import Card
from rise_env.publishing import Published, push_saved
from rise_env.registry import Registry, load_object

if TYPE_CHECKING:
    import torch

    _Module = torch.nn.Module
else:  # torch is imported when a model is
    _Module = object

__all__ = [
    "CONFIG",
    "STORAGES",
    "WEIGHTS",
    "PretrainedMixin",
    "Upgrades",
    "flaws",
    "listed",
    "load_class",
    "load_registered",
    "load_tensors",
    "local_directory",
    "misfits",
    "not_finite",
    "read_config",
    "read_weights",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: How matrices may be written.
STORAGES = ("fp32", "fp16", "int8")
_CURE = "Copy the checkpoint again, or make it again."
#: What a model may be made of while it is loaded, beyond its weights; these numbers take 2 GiB.
_SPARE_NUMBERS, _MOST_TENSORS = 2**29, 50_000
#: Ends the name of the scales of a matrix of whole numbers.
_SCALE = ".int8_scale"
_OURS = re.compile(r"rise_env(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*")

type Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]


class PretrainedMixin(_Module):
    """`save_pretrained` and `from_pretrained` of a torch module; put it before `nn.Module` among the bases.

    A class says what `config.json` holds by `get_config` and `from_config`; the weights are its state dict.

    Attributes:
        kind: What `config.json` calls it, e.g. "rise-value"; loading asks for the same word.
        title: What messages call it.
        format_version: Version of what `get_config` returns.
        upgrades: For each older version, a function from its configuration to the next version's.
        full_precision: Beginnings of the names of weights that are kept in full precision whatever `storage` says.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Scale(PretrainedMixin, nn.Module):
        ...     kind = "scale"
        ...
        ...     def __init__(self, size: int) -> None:
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.ones(size))
        ...
        ...     def get_config(self):
        ...         return {"size": len(self.factor)}
        ...
        ...     @classmethod
        ...     def from_config(cls, config, folder, device):
        ...         return cls(config["size"])
    """

    kind: ClassVar[str]
    title: ClassVar[str] = "model"
    format_version: ClassVar[int] = 1
    upgrades: ClassVar[Upgrades] = {}
    full_precision: ClassVar[tuple[str, ...]] = ()

    @property
    def storage(self) -> str:
        """How matrices are written, one of `STORAGES`; computing is in full precision whatever it is.

        "fp16" halves the file, "int8" quarters it: whole numbers in [-127, 127], with a scale per row.
        """
        return "fp32"

    def get_config(self) -> dict[str, Any]:
        """What `config.json` holds beside kind and version; see `rise_env.files.to_plain` for what may be in it."""
        raise NotImplementedError(f"{type(self).__name__} has no get_config")

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path, device: str | torch.device) -> Self:
        """A model as `get_config` describes it, its weights still to come; `folder` has what `save_files` wrote.

        Raises:
            ConfigError, KeyError, TypeError: If the configuration is wrong; the caller says of which checkpoint.
        """
        raise NotImplementedError(f"{cls.__name__} has no from_config")

    def save_files(self, folder: Path) -> None:
        """Write what belongs to the checkpoint beside configuration and weights; nothing here."""

    def save_pretrained(self, path: str | Path) -> None:
        """Make or replace a directory of `config.json`, `model.safetensors` and what `save_files` adds, in one step.

        Raises:
            FileExistsError: If the directory holds something else.
        """
        from safetensors.torch import save_file

        tensors = self.state_dict()
        for name, tensor in list(tensors.items()):
            if tensor.is_floating_point() and tensor.dim() >= 2 and not name.startswith(self.full_precision):
                tensors |= _packed(name, tensor, self.storage)
        with atomic_directory(path, CONFIG) as aside:
            self.save_files(aside)
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, aside / WEIGHTS)
            header = {"kind": self.kind, "format_version": self.format_version}
            write_json(aside / CONFIG, {**header, **self.get_config()})
            shutil.copymode(aside / CONFIG, aside / WEIGHTS)  # safetensors 0.8 lets nobody else read what it writes

    def push_to_hub(self, repo: str, *, private: bool = False, card: Card | None = None) -> Published:
        """Upload to the Hugging Face Hub, as `save_pretrained` writes it.

        Args:
            repo: Id, `owner/name`; it is made where it is missing.
            private: Whether others may not see it.
            card: What its README.md says; only what the configuration says when None. `rise push` tells where it comes
                from and what was measured as well.

        Raises:
            ConfigError: If the repository holds something else.
            CheckpointError: If the Hub is not reached, or refuses.
        """
        card = card or Card(self.title, to_plain(getattr(self, "spec", None)) or {})
        return push_saved(self.save_pretrained, repo, card, private=private)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Load a directory, or a repository on the Hugging Face Hub, that `save_pretrained` wrote, in evaluation mode.

        A repository is `owner/name`, or `owner/name@revision` with a branch, tag or commit.

        Raises:
            CheckpointError: If something is missing, damaged, of another kind or version, or does not fit; weights are
                compared name by name.
        """
        # Of a repository the configuration comes first: nobody waits for the weights of something else.
        config = read_config(local_directory(path, cls.title, ()), cls.kind, cls.format_version, cls.upgrades)
        folder = local_directory(path, cls.title)
        try:
            with _bounded(folder):
                model = cls.from_config(config, folder, device)
        except (CheckpointError, ImportError):  # a missing library is no damage
            raise
        except Exception as error:  # layers of a wrong size fail in many ways
            raise CheckpointError(f"{folder / CONFIG} is damaged: {shorten(str(error), 300)}. {_CURE}") from error
        model.load_state_dict(read_weights(folder, model.state_dict()))
        return model.to(device).eval()


@contextlib.contextmanager
def _bounded(folder: Path) -> Iterator[None]:
    """Refuse to make many more numbers than a checkpoint has: a damaged size must not fill the memory.

    Raises:
        CheckpointError: As soon as that is asked for.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    makers = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace}
    # A byte of a file is at most a number; some more are made on the way, such as positions.
    numbers = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) + _SPARE_NUMBERS
    tensors = _MOST_TENSORS

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal numbers, tensors
            # Some libraries lay a model out without memory first, at its published size.
            if func in makers and torch.device((kwargs or {}).get("device") or "cpu").type != "meta":
                numbers -= _asked_for(func.__name__, args, kwargs or {})
                tensors -= 1
                if min(numbers, tensors) < 0:
                    raise CheckpointError(
                        f"{folder / CONFIG} is damaged: it describes far more than there are weights for. {_CURE}"
                    )
            return func(*args, **(kwargs or {}))

    with Counting():
        yield


def _asked_for(maker: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Numbers that a function of torch would make. (It says so itself on the meta device, but loads sympy for that.)"""
    if maker == "arange":
        given = [*args, *(kwargs[name] for name in ("start", "end", "step")[len(args) :] if name in kwargs)]
        start, end, step = (0, given[0], 1) if len(given) == 1 else (*given, 1)[:3]
        return max(0, math.ceil((end - start) / step))
    if maker == "linspace":
        return int(kwargs["steps"] if "steps" in kwargs else args[2])
    size = kwargs["size"] if "size" in kwargs else args[0] if args and isinstance(args[0], Sequence) else args
    return math.prod(int(one) for one in size)


def read_config(
    path: str | Path, kind: str, version: int = 1, upgrades: Upgrades | None = None, name: str = CONFIG
) -> dict[str, Any]:
    """Configuration of a checkpoint directory, brought up to the present version.

    Args:
        path: Checkpoint directory.
        kind: What it should be.
        version: Format version that the caller understands.
        upgrades: As `PretrainedMixin.upgrades`.
        name: File that holds it. Files of another name than `config.json` need not repeat their kind.

    Raises:
        CheckpointError: If it is missing, damaged, of another kind or of a version that nobody can read.
    """
    file = Path(path) / name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no checkpoint of kind {kind!r}: there is no {name}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged, it cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or config.get("kind", kind if name != CONFIG else None) != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"{file} is of kind {found!r}, expected {kind!r}")
    current = config.get("format_version")
    while isinstance(current, int) and current < version and current in (upgrades or {}):
        assert upgrades is not None
        config, current = {**upgrades[current](config), "format_version": current + 1}, current + 1
    if current != version:
        cure = "Update rise-robotics." if isinstance(current, int) and current > version else "Make it again."
        raise CheckpointError(f"{file} has format version {current!r}, this program reads {version}. {cure}")
    return config


def read_weights(
    path: str | Path, expected: Mapping[str, torch.Tensor], name: str = WEIGHTS
) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint directory, which must fit the model's state dict: see `misfits`.

    Raises:
        CheckpointError: If the file `name` is missing, cut short or damaged, or does not fit.
    """
    file = Path(path) / name
    tensors = _unpacked(load_tensors(file))
    if problems := misfits(tensors, expected):
        raise CheckpointError(f"{file} does not fit its configuration: {listed(problems)}. {_CURE}")
    return tensors


def _packed(name: str, matrix: torch.Tensor, storage: str) -> dict[str, torch.Tensor]:
    """A matrix as it is written, by name."""
    if storage != "int8":
        return {name: matrix.half() if storage == "fp16" else matrix}
    rows = matrix.flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12) / 127
    return {name: (rows / scale[:, None]).round().char().view_as(matrix), name + _SCALE: scale}


def _unpacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they were before `_packed`, by name; what does not belong together stays, for `misfits` to name."""
    found = dict(tensors)
    for name in tensors:
        scale = tensors.get(name + _SCALE)
        if scale is not None and str(tensors[name].dtype) == "torch.int8" and scale.shape == tensors[name].shape[:1]:
            found[name] = (tensors[name].flatten(1).float() * scale[:, None]).view_as(tensors[name])
            del found[name + _SCALE]
    return found


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file.

    Raises:
        CheckpointError: If it is missing, cut short or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist. {_CURE}") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is cut short or damaged: {error}. Copy it again.") from error


def misfits(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> list[str]:
    """What differs between weights and a model's state dict, sorted: names, shapes and kinds of numbers (real,
    complex, whole, true or false), and what is not finite.
    """
    problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        given, wanted = tensors[name], expected[name]
        if given.shape != wanted.shape:
            problems.append(f"{name} has shape {tuple(given.shape)}, expected {tuple(wanted.shape)}")
        elif _numbers(given) != _numbers(wanted):
            problems.append(f"{name} holds {given.dtype} numbers, expected {wanted.dtype}")
    return sorted(problems + not_finite(tensors))


def flaws(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """What is wrong with weights or statistics in themselves: other numbers than real ones, NaN or infinity."""
    kinds = [f"{name} holds {one.dtype} numbers" for name, one in tensors.items() if _numbers(one) != "real"]
    return sorted(kinds + not_finite(tensors))


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Which weights hold NaN or infinities."""
    # float8 has no isfinite of its own.
    finite = {name: (one.float() if _numbers(one) == "real" else one).isfinite().all() for name, one in tensors.items()}
    return [f"{name} is not finite (NaN or infinity)" for name, yes in finite.items() if not yes]


def listed(problems: Sequence[str], most: int = 10) -> str:
    """The first problems as one text, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def _numbers(tensor: torch.Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else "truth" if str(tensor.dtype) == "torch.bool" else "whole"


def load_class(name: Any, registry: Registry) -> Any:
    """Class that a checkpoint names: a registered name, or "module:Class" of `rise_env` (as older checkpoints have it).

    Code of another package runs only if that package has registered its class, under whatever name.

    Raises:
        CheckpointError: If it is not registered, or cannot be imported.
    """
    known = {**{one.name: one.name for one in registry}, **{one.path: one.name for one in registry}}
    try:
        if name in known:
            return registry.load(known[name])
        if isinstance(name, str) and _OURS.fullmatch(name):
            found = load_object(name, f"{registry.kind} of the checkpoint")
            if isinstance(found, type):
                return found
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    target = name if isinstance(name, str) and ":" in name else "package.module:Class"
    call = registry.how_to_register(str(name).rpartition(":")[2].lower(), target)
    raise CheckpointError(
        f"the checkpoint needs the {registry.kind} {name!r}, which is not registered. {registry.unknown(str(name))} "
        "Install the package that brings it, which registers it in its plug-in (entry point group 'rise.plugins'): "
        f"{call}. You may also call that before loading."
    )


def load_registered(path: str | Path, *registries: Registry, **kwargs: Any) -> Any:
    """Load a checkpoint of any registered class, found by the `kind` in its `config.json`.

    Args:
        path: Directory, or repository on the Hugging Face Hub (`owner/name`, `owner/name@revision`).
        *registries: Where the class may be registered.
        **kwargs: Passed to the class's `from_pretrained`, e.g. `device`.

    Raises:
        CheckpointError: If it is missing, damaged, or of a kind that no registered class has.
    """
    what = " or ".join(registry.kind for registry in registries)
    folder = local_directory(path, what, ())  # what it is, before weights are fetched
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is no {what}: {CONFIG} is missing or damaged ({error!r})") from error
    known: dict[str, Any] = {}
    for registry in registries:
        for name in registry.names():
            try:
                known[name] = getattr(registry.load(name), "kind", None)
            except ConfigError as error:  # a class of a plug-in that cannot be imported stops only its own checkpoints
                known[name] = str(error)
                continue
            if known[name] == kind:
                return registry.load(name).from_pretrained(local_directory(path, what), **kwargs)
    raise CheckpointError(
        f"{folder} is of kind {kind!r}, and no registered {what} is. Known: "
        f"{', '.join(f'{name} ({kind!r})' for name, kind in known.items())}. Install the package that brings it, "
        f"or register its class: {registries[0].how_to_register('its_name', 'package.module:Class')}"
    )


def local_directory(
    path: str | Path, what: str, patterns: Sequence[str] = MODEL_FILES, markers: Sequence[str] = (CONFIG,)
) -> Path:
    """A directory on this machine: `path` itself, or a download of the Hugging Face Hub repository of that name.

    Args:
        path: Directory, or `owner/name` or `owner/name@revision`.
        what: What messages call it.
        patterns: Files to fetch of a repository.
        markers: Files of which a repository must hold one; they are looked at before anything large is fetched.

    Raises:
        CheckpointError: If there is neither; the message says `what` was looked for.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or (hub := hub_id(path)) is None:
        raise CheckpointError(f"no {what} at {path}: there is no such directory, and it is no Hub id (owner/name)")
    return download(hub, what, patterns, markers)
