"""Checkpoints of `torch.distributed.checkpoint`, read in one process whatever number wrote them.

Their `.metadata` is a pickle. It is read by an unpickler that knows the few classes such a file consists of, and makes
nothing else; entries that are no tensors, which torch would unpickle freely, are not read at all.
"""

from __future__ import annotations

import pathlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from rise_env.errors import CheckpointError

__all__ = ["is_distributed", "load_distributed"]

_METADATA = ".metadata"
#: Bytes of tensors that a byte of the files may stand for: they may be compressed.
_MOST = 16
_KNOWN: dict[tuple[str, str], Any] = {
    **{
        (metadata.__name__, name): getattr(metadata, name)
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("collections", "OrderedDict"): dict,
    **{
        (module, name): pathlib.PurePosixPath
        for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")
    },
}  # fmt: skip


def is_distributed(path: Path) -> bool:
    """Whether a directory is a distributed checkpoint."""
    return (path / _METADATA).is_file()


def load_distributed(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, whole, on the CPU, under their dotted names.

    Raises:
        CheckpointError: If a file is missing or damaged, or the metadata holds something else than metadata.
    """
    try:
        reader = _Reader(path)
        described = reader.read_metadata()
        stored = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        tensors: dict[str, Any] = {}
        for name, entry in described.state_dict_metadata.items():
            if isinstance(entry, metadata.TensorStorageMetadata):
                dtype = entry.properties.dtype
                stored -= torch.empty(entry.size, dtype=dtype, device="meta").nbytes // _MOST
                if stored < 0:
                    raise ValueError("it describes more than there is in the files")
                # NaN, so that what no file fills does not pass for a weight.
                tensors[name] = torch.full(entry.size, float("nan") if dtype.is_floating_point else 0, dtype=dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as it is to be
            load(tensors, storage_reader=reader, no_dist=True)
    except (Exception, CheckpointException) as error:
        # torch wraps what happens in a rank into an error of its own kind; a damaged pickle fails in many ways.
        causes = getattr(error, "failures", {})
        cause = str(next(iter(causes.values()))[0] if causes else error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} is no distributed checkpoint, or damaged: {cause[0]:.200}") from error
    return tensors


class _Reader(filesystem.FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        with (Path(self.path) / _METADATA).open("rb") as file:
            described = _Unpickler(file).load()
        if not isinstance(described, metadata.Metadata):
            raise ValueError(f"{_METADATA} holds a {type(described).__name__}")
        for info in (described.storage_data or {}).values():
            if Path(info.relative_path).name != info.relative_path:
                raise ValueError(f"{info.relative_path} lies in another directory")
            if not (Path(self.path) / info.relative_path).is_file():
                raise ValueError(f"{info.relative_path} is missing")
        described.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return described


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{_METADATA} asks for {module}.{name}, which is never made") from None
