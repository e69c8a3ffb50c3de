"""p(r): the distribution of the mask ratio in training. One frozen value a distribution, told apart by `kind`."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from scipy import stats


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
        return stats.beta.ppf(np.asarray(uniform, dtype=np.float64), self.alpha, self.beta)

    def density(self, ratio: np.ndarray) -> np.ndarray:
        return stats.beta.pdf(ratio, self.alpha, self.beta)

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

    def _distribution(self):
        low = (self.low - self.mean) / self.standard_deviation
        high = (self.high - self.mean) / self.standard_deviation
        return stats.truncnorm(low, high, loc=self.mean, scale=self.standard_deviation)

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        return self._distribution().ppf(np.asarray(uniform, dtype=np.float64))

    def density(self, ratio: np.ndarray) -> np.ndarray:
        return self._distribution().pdf(ratio)

    @property
    def label(self) -> str:
        return f"Gaussian({self.mean:g}, {self.standard_deviation:g}) on [{self.low:g}, {self.high:g}]"


AnyMaskRatio = BetaMaskRatio | ArccosMaskRatio | FixedMaskRatio | TruncatedGaussianMaskRatio
