"""p(r): the distribution of the mask ratio in training. One frozen value a distribution, told apart by `kind`."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from scipy import special  # scipy.stats would take a second and a half to import in every worker


class MaskRatio(Protocol):
    """A distribution of mask ratios on [0, 1]."""

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        """Mask ratios in float64 by the inverse distribution function, from uniforms of the same shape."""

    def density(self, ratio: np.ndarray) -> np.ndarray:
        """p(r) at each ratio; infinite or not a number where the distribution has no density."""

    @property
    def label(self) -> str: ...


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, slots=True)
class BetaMaskRatio:
    """Beta(alpha, beta), the family that AutoNAT searches. Raises ValueError unless both are positive."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    alpha: float
    beta: float
    kind: Literal["beta"] = "beta"

    def __post_init__(self) -> None:
        _positive("alpha", self.alpha)
        _positive("beta", self.beta)

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return special.betaincinv(self.alpha, self.beta, np.asarray(uniform, dtype=np.float64))

    def density(self, ratio: np.ndarray) -> np.ndarray:
        ratio = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_density = (
                special.xlogy(self.alpha - 1, ratio)
                + special.xlog1py(self.beta - 1, -ratio)
                - special.betaln(self.alpha, self.beta)
            )
        return np.where((ratio < 0) | (ratio > 1), 0.0, np.exp(log_density))

    @property
    def label(self) -> str:
        return f"Beta({self.alpha:g}, {self.beta:g})"


@dataclass(frozen=True, slots=True)
class ArccosMaskRatio:
    """MaskGIT's: r = cos(pi u / 2) with u uniform, density (2/pi) / sqrt(1 - r^2)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["arccos"] = "arccos"

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return np.cos(np.pi / 2 * (1 - np.asarray(uniform, dtype=np.float64)))

    def density(self, ratio: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 2 / np.pi / np.sqrt(1 - np.asarray(ratio, dtype=np.float64) ** 2)

    @property
    def label(self) -> str:
        return "arccos"


@dataclass(frozen=True, slots=True)
class FixedMaskRatio:
    """Always the same ratio, for comparison."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    ratio: float
    kind: Literal["fixed"] = "fixed"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"a fixed mask ratio must lie in (0, 1], got {self.ratio}")

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return np.full(np.shape(uniform), self.ratio, dtype=np.float64)

    def density(self, ratio: np.ndarray) -> np.ndarray:
        return np.full(np.shape(ratio), np.nan)

    @property
    def label(self) -> str:
        return f"fixed {self.ratio:g}"


@dataclass(frozen=True, slots=True)
class TruncatedGaussianMaskRatio:
    """MAGE's (arXiv 2211.09117): a Gaussian cut to [low, high]; its defaults are the paper's."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    mean: float = 0.55
    standard_deviation: float = 0.25
    low: float = 0.5
    high: float = 1.0
    kind: Literal["truncated_gaussian"] = "truncated_gaussian"

    def __post_init__(self) -> None:
        _positive("standard_deviation", self.standard_deviation)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"need 0 <= low < high <= 1, got low {self.low} and high {self.high}")

    def _normal_below(self, ratio: float) -> float:
        """The uncut Gaussian's probability of less than a ratio."""
        return float(special.ndtr((ratio - self.mean) / self.standard_deviation))

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        low, high = self._normal_below(self.low), self._normal_below(self.high)
        uniform = np.asarray(uniform, dtype=np.float64)
        ratio = self.mean + self.standard_deviation * special.ndtri(low + uniform * (high - low))
        return np.clip(ratio, self.low, self.high)

    def density(self, ratio: np.ndarray) -> np.ndarray:
        ratio = np.asarray(ratio, dtype=np.float64)
        z = (ratio - self.mean) / self.standard_deviation
        share = self._normal_below(self.high) - self._normal_below(self.low)
        inside = np.exp(-(z**2) / 2) / (math.sqrt(2 * math.pi) * self.standard_deviation * share)
        return np.where((ratio < self.low) | (ratio > self.high), 0.0, inside)

    @property
    def label(self) -> str:
        return f"Gaussian({self.mean:g}, {self.standard_deviation:g}) on [{self.low:g}, {self.high:g}]"


AnyMaskRatio = BetaMaskRatio | ArccosMaskRatio | FixedMaskRatio | TruncatedGaussianMaskRatio
