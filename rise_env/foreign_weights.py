"""Weights of other programs, in the forms they come in, with names as our models have them. Only tensors are made."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rise_env.distributed_checkpoint import is_distributed, load_distributed
from rise_env.errors import CheckpointError
from rise_env.files import atomic_path, refuse_existing
from rise_env.pretrained import listed, load_registered, load_tensors, misfits, not_finite
from rise_env.registry import DYNAMICS, POLICIES, VALUES

__all__ = ["convert_weights", "load_weights", "names_of", "refill"]

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_FORMS = (
    "a .safetensors, .pt or .pth file, an index of shards (.safetensors.index.json), or a directory with one of these "
    "or with a torch.distributed.checkpoint (.metadata)"
)
#: What data-parallel training, torch.compile and activation checkpointing put into names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: Where trainers keep what is not the model.
_OPTIMISERS = {"optim", "optimizer", "optimizers"}


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a file or directory, under the names they have there; nested mappings become dotted names.

    Args:
        path: A safetensors file; an index of sharded safetensors; a file of `torch.save`, read with weights_only=True;
            a directory of `torch.distributed.checkpoint`, of any number of processes; or a directory with one of them.

    Raises:
        CheckpointError: If it is missing, damaged, of another form, or holds NaN or infinities.
    """
    path = _file(Path(path))
    if path.is_dir():
        tensors = load_distributed(path)
    elif path.name.endswith(".index.json"):
        tensors = _load_shards(path)
    else:
        tensors = load_tensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    if problems := not_finite(tensors):
        raise CheckpointError(f"{path} is damaged: {listed(sorted(problems), 3)}")
    return tensors


def names_of(
    tensors: Mapping[str, torch.Tensor], expected: Collection[str] | None = None, prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """Weights of one model under its own names, without what wrappers and containers put before them.

    `module.` (data-parallel training), `_orig_mod.` (torch.compile) and the like are dropped wherever they are. What
    stands before all names of the model, such as `fsdp_checkpoint.model.`, is found by comparing with `expected`; what
    does not stand behind it, such as the optimiser's state, is left out.

    Args:
        tensors: Weights as `load_weights` gives them.
        expected: Names that the model has; when omitted, only wrappers and a given `prefix` are dropped.
        prefix: What stands before the model's names, where a checkpoint holds several models.

    Raises:
        CheckpointError: If two sets of weights fit equally well, or there is nothing behind `prefix`.
    """
    plain = {_bare(name): name for name in tensors}
    if len(plain) < len(tensors):
        raise CheckpointError("two weights have one name once 'module.' and the like are dropped: save one model alone")
    wanted = {_bare(name): name for name in expected or ()}
    if prefix is None:
        prefix = _common(plain, wanted)
    start = f"{prefix.rstrip('.')}." if prefix else ""
    chosen = {name.removeprefix(start): tensors[plain[name]] for name in plain if name.startswith(start)}
    if not chosen:
        some = ", ".join(sorted({name.rpartition(".")[0] for name in plain})[:5])
        raise CheckpointError(f"no weight has the prefix {prefix!r}; there are {some}, ...")
    return {wanted.get(name, name): tensor for name, tensor in chosen.items()}


def convert_weights(source: str | Path, out: str | Path, prefix: str | None = None) -> dict[str, torch.Tensor]:
    """Write weights of any form as one safetensors file, in one step.

    Of a trainer's checkpoint, the model is taken: where there are states of an optimiser, and all else stands behind
    one prefix that ends with `model`.

    Args:
        source: See `load_weights`.
        out: File to make; must not exist.
        prefix: See `names_of`; found as above when omitted.

    Returns:
        What was written.
    """
    refuse_existing(out)
    found = load_weights(source)
    given = names_of(found, prefix=_model_of_trainer(found) if prefix is None else prefix)
    tensors = {
        name: one.clone(memory_format=torch.contiguous_format) for name, one in given.items()
    }  # none shares memory
    with atomic_path(out) as aside:
        save_file(tensors, aside)
    return tensors


def refill(
    model: str | Path, source: str | Path, out: str | Path, prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """Write a copy of a policy, value or dynamics model of ours that has other weights, which must fit name by name.

    Args:
        model: Directory of the model that gives configuration, tokenizer, statistics and the like.
        source: See `load_weights`.
        out: Directory to make; must not exist.
        prefix: See `names_of`.

    Returns:
        The weights.

    Raises:
        CheckpointError: If there is no such model, or the weights do not fit; see `rise_env.pretrained.misfits`.
    """
    refuse_existing(out)
    made = load_registered(model, VALUES, DYNAMICS, POLICIES)
    expected = made.state_dict()
    tensors = names_of(load_weights(source), expected, prefix)
    if problems := misfits(tensors, expected):
        raise CheckpointError(f"{source} does not fit {model}: {listed(problems)}")
    made.load_state_dict(tensors)
    made.save_pretrained(out)
    return tensors


def _model_of_trainer(names: Collection[str]) -> str:
    bare = [_bare(name) for name in names]
    rest = [name for name in bare if not _OPTIMISERS.intersection(name.split("."))]
    parts = rest[0].split(".") if 0 < len(rest) < len(bare) else []
    prefix = ".".join(parts[: parts.index("model") + 1]) if "model" in parts else ""
    return prefix if all(name.startswith(f"{prefix}.") for name in rest) else ""


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _common(names: Collection[str], wanted: Collection[str]) -> str:
    """What stands before most of the wanted names; nothing where none is there."""
    fits: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for i in range(len(parts)):
            fits[".".join(parts[:i])] += ".".join(parts[i:]) in wanted
    (best, count), *others = fits.most_common(2) if fits else [("", 0)]
    if others and count and others[0][1] == count:
        first, second = sorted((best, others[0][0]))
        raise CheckpointError(
            f"there are two sets of weights, {first or '(no prefix)'!r} and {second!r}: choose one with --prefix"
        )
    return best if count else ""


def _file(path: Path) -> Path:
    """The file that a path stands for, or the directory of a distributed checkpoint.

    Raises:
        CheckpointError: If there is none, or several.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give {_FORMS}")
    if path.is_dir() and not is_distributed(path):
        patterns = (["*.safetensors.index.json"], ["*.safetensors"], [f"*{suffix}" for suffix in _TORCH])
        found = next(filter(None, (sorted(p for one in group for p in path.glob(one)) for group in patterns)), [])
        if len(found) != 1:
            what = f"{len(found)} files of weights ({', '.join(p.name for p in found[:4])})" if found else "no weights"
            raise CheckpointError(f"{path} holds {what}: give {_FORMS}")
        return found[0]
    if path.suffix == ".distcp":
        raise CheckpointError(f"{path.name} is a part of a distributed checkpoint: give its directory, {path.parent}")
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise CheckpointError(f"{path.name} is one of several shards: give their index, or the directory {path.parent}")
    if not path.is_dir() and path.suffix not in (*_TORCH, ".safetensors") and not path.name.endswith(".index.json"):
        raise CheckpointError(f"{path} is of no known form: give {_FORMS}")
    return path


def _load_shards(index: Path) -> dict[str, torch.Tensor]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        if any(Path(file).name != file for file in files):
            raise ValueError("shards lie in another directory")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error!r}") from error
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        shard = load_tensors(index.parent / file)
        if missing := [name for name, where in names.items() if where == file and name not in shard]:
            raise CheckpointError(f"{index.parent / file} lacks {listed(missing, 3)}, which {index.name} says is there")
        tensors |= shard
    return tensors


def _load_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and plain values; objects of other programs are never "
            "made. Save the state_dict alone"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is cut short or damaged: {str(error).splitlines()[0]:.200}") from error
    return dict(_flat(content, ""))


def _flat(content: Any, before: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, torch.Tensor):
            yield f"{before}{key}", value
        else:
            yield from _flat(value, f"{before}{key}.")
