"""AdvantageCodec: from measured advantages to what a policy is conditioned on, and back to which of them to ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rise_env.config import rename_keys
from rise_env.errors import ConfigError, requirement

__all__ = ["FORMS", "AdvantageCodec"]

FORMS = ("bins", "binary", "percentile")
_DECIMALS = 6  # 0.2 in float32 times 5 is not 1: edges are compared rounded


@dataclass(frozen=True)
class AdvantageCodec:
    """Advantages as one of n numbered bins, 0 the worst; bin n means "unconditional": nothing is said.

    Three published ways to make bins:
    "bins": n uniform bins over [-1, 1] (RISE, arXiv 2602.11075; n = 10), after scaling and clipping;
    "binary": whether the advantage is above a threshold (RECAP, arXiv 2511.14759), n = 2, whose threshold is a
    percentile of the data's advantages (`fit`);
    "percentile": n bins with equally many of the data's advantages in each (`fit`).

    Attributes:
        form: One of `FORMS`.
        num_bins: Number of bins n.
        scale: Advantages are multiplied by this before binning ("bins" only); RISE's release uses 5 for labels.
        positive_fraction: Part of the data above the threshold ("binary").
        edges: Upper edges of bins 0 to n - 2, rising; given by the form, or found by `fit`.

    Example:
        >>> codec = AdvantageCodec()
        >>> codec.encode(np.array([-2.0, -0.05, 0.0, 0.05, 1.0])).tolist(), codec.best_bin
        ([0, 3, 5, 6, 9], 9)
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"levels": "num_bins"}

    form: str = "bins"
    num_bins: int = 10
    scale: float = 5.0
    positive_fraction: float = 0.3
    edges: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require = requirement("advantage codec")
        require.one_of(FORMS, self, "form")
        require.at_least(2, self, "num_bins")
        require.positive(self, "scale")
        require.within("(0, 1)", self, "positive_fraction")
        require(self.form != "binary" or self.num_bins == 2, f"form 'binary' has 2 bins, not {self.num_bins}")
        if self.form == "bins":
            uniform = tuple(float(edge) for edge in np.linspace(-1, 1, self.num_bins + 1)[1:-1])
            object.__setattr__(self, "edges", uniform)
        require(len(self.edges) in (0, self.num_bins - 1), f"{len(self.edges)} edges for {self.num_bins} bins")
        require(list(self.edges) == sorted(self.edges), f"edges {self.edges} do not rise")

    @property
    def best_bin(self) -> int:
        """The bin to ask for."""
        return self.num_bins - 1

    @property
    def unconditional(self) -> int:
        """The bin that says nothing: the unconditional branch of classifier-free guidance."""
        return self.num_bins

    def fit(self, advantages: Any) -> AdvantageCodec:
        """This codec with the edges that data decide on; "bins" are fixed and stay.

        Args:
            advantages: float (N,), measured advantages of recorded chunks.

        Raises:
            ConfigError: If there are none, or they are not finite.
        """
        if self.form == "bins":
            return self
        values = np.asarray(advantages, np.float64).ravel()
        if not len(values) or not np.isfinite(values).all():
            raise ConfigError(f"advantage codec: cannot be fitted to {len(values)} advantages, or they are not finite")
        shares = [1 - self.positive_fraction] if self.form == "binary" else np.arange(1, self.num_bins) / self.num_bins
        return dataclasses.replace(self, edges=tuple(float(edge) for edge in np.quantile(values, shares)))

    def encode(self, advantages: Any) -> np.ndarray:
        """Bins int64, of the shape of `advantages`, which are raw (value units).

        Raises:
            ConfigError: If the codec still needs `fit`, or an advantage is not finite.
        """
        if not self.edges:
            raise ConfigError(f"advantage codec {self.form!r} has no edges yet: call fit(advantages of the data)")
        values = np.asarray(advantages, np.float64)
        if not np.isfinite(values).all():
            raise ConfigError("advantages are not finite (NaN or infinity)")
        if self.form == "bins":
            values = np.clip(values * self.scale, -1.0, 1.0)
        return np.digitize(values.round(_DECIMALS), np.round(self.edges, _DECIMALS)).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> AdvantageCodec:
        """From `to_dict`."""
        return cls(**rename_keys(cls, {**content, "edges": tuple(content.get("edges", ()))}))
