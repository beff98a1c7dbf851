"""Finding: something about a dataset that its owner should know before a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rise_env.data.check.catalogue import CATALOGUE, SEVERITIES
from rise_env.errors import requirement

__all__ = ["Finding", "listed", "worst_first"]


@dataclass(frozen=True)
class Finding:
    """What was found, of a kind in `CATALOGUE`.

    Attributes:
        code: Its kind.
        message: What was found, with values and places.
        severity: "error": a training fails or learns nonsense; "warning": it learns less than it could; "note". That of
            the kind when "".
        subjects: Cameras or joints that it is about.
        episodes: Numbers of the episodes in which it was found; empty where it is about all.
        rows: Frames that show it: rows of the joint values that were read.
    """

    code: str
    message: str
    severity: str = ""
    subjects: tuple[str, ...] = ()
    episodes: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require = requirement("finding")
        require.one_of(CATALOGUE, code=self.code)
        object.__setattr__(self, "severity", self.severity or CATALOGUE[self.code].severities[0])
        require.one_of(CATALOGUE[self.code].severities, severity=self.severity)

    def plain(self) -> dict[str, Any]:
        """JSON-ready, with what it spoils and what mends it."""
        kind = CATALOGUE[self.code]
        return {
            "code": self.code,
            "severity": self.severity,
            "room": kind.room,
            "message": self.message,
            "spoils": kind.spoils,
            "mends": kind.mends,
            "subjects": list(self.subjects),
            "episodes": list(self.episodes),
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; within them in the order of the catalogue."""
    codes = list(CATALOGUE)
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), codes.index(one.code)))


def listed(values: Sequence[Any], most: int = 6) -> str:
    """The first few values, and how many there are.

    Example:
        >>> listed([1, 2, 3], 2)
        '1, 2, ... (3 in all)'
    """
    text = ", ".join(map(str, values[:most]))
    return f"{text}, ... ({len(values)} in all)" if len(values) > most else text
