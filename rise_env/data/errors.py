"""The error of datasets."""

from __future__ import annotations

from rise_env.errors import RiseError

__all__ = ["DatasetError"]


class DatasetError(RiseError, ValueError):
    """A dataset is missing, damaged, contradicts itself or lacks what was asked of it."""
