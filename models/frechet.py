"""The Frechet distance between Gaussians, from mergeable statistics, with its derivative.

D features. Everything is float64: float32 is off by 1e-4 to 1e-3, which drowns finite differences. torch does the
linear algebra, so one setting (``torch.set_num_threads``) decides the threads and with them the bits.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Count, mean [D] and scatter [D, D] (sum of centred outer products) of feature vectors, float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features_BD: Tensor) -> "Statistics":
        features = features_BD.to(torch.float64)
        mean = features.mean(dim=0)
        centred = features - mean
        return Statistics(len(features), mean, centred.T @ centred)

    @cached_property
    def covariance(self) -> Tensor:
        """Unbiased (N - 1), as NumPy, torch-fidelity and the official codes have it."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)

    def merge(self, other: "Statistics") -> "Statistics":
        """Statistics of both samples together (Chan, Golub & LeVeque, 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        scatter = self.scatter + other.scatter  # the one new D x D matrix: 32 MB at 2,048 features
        scatter.addr_(shift, shift, alpha=self.count * other.count / count)
        return Statistics(count, mean, scatter)


def merge_all(parts: Iterable[Statistics]) -> Statistics:
    """Merge in the given order: the order decides the last bits, so keep it fixed."""
    iterator = iter(parts)
    merged = next(iterator, None)
    if merged is None:
        raise ValueError("no images to take statistics of")
    for part in iterator:
        merged = merged.merge(part)
    return merged


def accumulate(batches: Iterable[Tensor], rows: int = 1024) -> Statistics:
    """Statistics of a stream of feature batches [B, D]; never more than `rows` and one batch of them in memory.

    The stream is cut again into pieces of `rows`, so the result does not depend on how it was batched, and the
    D x D matrices are touched once a piece. Raises ValueError for an empty stream.
    """
    return merge_all(Statistics.of(piece) for piece in pieces(batches, rows))


def pieces(batches: Iterable[Tensor], rows: int = 1024) -> Iterator[Tensor]:
    """A stream of batches [B, D] in pieces of `rows`, whatever the batches' sizes; the last piece may be smaller."""
    waiting: list[Tensor] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= rows:
            *whole, rest = torch.cat(waiting).split(rows)
            yield from whole
            waiting = [rest]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


def _factor(covariance: Tensor) -> Tensor:
    """Lower triangular L with L L' = covariance; singular ones are allowed."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()
    return torch.linalg.qr(root.T, mode="r").R.T.contiguous()  # root = R' Q', and Q drops out of root root'


def _congruence(factor: Tensor, covariance: Tensor, block: int = 256) -> Tensor:
    """The lower triangle of L' S L for a lower triangular L and a symmetric S; what is above is not to be read.

    Column block j from row j on needs the trailing parts of L and S alone, which is a third of the work of two
    full products. SciPy's ``dsygst`` does the same, with threads of its own.
    """
    product = torch.zeros_like(covariance)
    for start in range(0, len(covariance), block):
        columns = slice(start, start + block)
        product[start:, columns] = factor[start:, start:].T @ (covariance[start:, start:] @ factor[start:, columns])
    return product


class Reference:
    """What samples are compared with: mean [D] and covariance [D, D], float64, with its factor kept."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        mean, covariance = mean.to(torch.float64), covariance.to(torch.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"a reference needs a mean [D] and a covariance [D, D], got {tuple(mean.shape)} and "
                f"{tuple(covariance.shape)}"
            )
        self.mean, self.covariance = mean, covariance
        self._factor = _factor(covariance)
        self._trace = torch.trace(covariance)

    @staticmethod
    def of(statistics: Statistics) -> "Reference":
        return Reference(statistics.mean, statistics.covariance)

    def _check(self, mean: Tensor) -> None:
        if mean.shape != self.mean.shape:
            raise ValueError(f"features of {len(mean)} dimensions against a reference of {len(self.mean)}")

    def distance(self, mean: Tensor, covariance: Tensor) -> float:
        """Frechet distance |mu - mu_r|^2 + tr(S + S_r - 2 (S_r S)^(1/2)) (Heusel et al., 2017, eq. 6).

        mean: [D], covariance: [D, D], float64. The eigenvalues of S_r S are those of the symmetric L' S L, which
        costs one ``eigvalsh`` of its lower triangle. Identical inputs give 0 within 1e-12, also below. Raises
        ValueError if D differs.
        """
        self._check(mean)
        eigenvalues = torch.linalg.eigvalsh(_congruence(self._factor, covariance))
        root_trace = eigenvalues.clamp(min=0).sqrt().sum()
        gap = mean - self.mean
        return float(gap @ gap + torch.trace(covariance) + self._trace - 2 * root_trace)

    def influence(self, statistics: Statistics, relative_cut: float = 1e-8) -> "Influence":
        """The derivative of the distance at `statistics`.

        d/d mu = 2 (mu - mu_r) and d/d S = I - L (L' S L)^(-1/2) L'. Directions whose eigenvalue is below
        `relative_cut` of the largest are left out: there the square root has no derivative (fewer images than
        dimensions, or features that never fire), or one that holds for no move of a size one would make.
        """
        self._check(statistics.mean)
        values, vectors = torch.linalg.eigh(_congruence(self._factor, statistics.covariance))
        kept = values > relative_cut * values.max()
        inverse_root = torch.where(kept, values.clamp(min=torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
        basis = self._factor @ vectors
        by_covariance = torch.eye(len(values), dtype=torch.float64) - (basis * inverse_root) @ basis.T
        return Influence(statistics.mean, 2 * (statistics.mean - self.mean), by_covariance)


def distance_of_features(reference: Reference, features_ND: Tensor, parts: int = 20) -> tuple[float, float]:
    """The distance of single images' features to a reference, and its standard error over `parts` of them."""
    statistics = Statistics.of(features_ND)
    influence = reference.influence(statistics)
    shares = [float(influence.of_features(part).mean()) for part in features_ND.tensor_split(parts)]
    return reference.distance(statistics.mean, statistics.covariance), standard_error(shares)


@dataclass(frozen=True)
class Influence:
    """The first-order share of one image in a Frechet distance.

    psi(x) = 2 (mu - mu_r)' x + (x - mu)' G (x - mu). Its mean over a sample moves as the distance does, so a
    difference of distances is a mean over images and has a standard error.
    """

    mean: Tensor
    by_mean: Tensor
    by_covariance: Tensor

    def of_features(self, features_BD: Tensor) -> Tensor:
        """psi of each image, float64 [B]."""
        features = features_BD.to(torch.float64)
        centred = features - self.mean
        return features @ self.by_mean + ((centred @ self.by_covariance) * centred).sum(dim=1)

    def of_statistics(self, statistics: Statistics) -> float:
        """Mean of psi over a sample, from its statistics alone."""
        shift = statistics.mean - self.mean
        spread = (statistics.scatter * self.by_covariance).sum() / statistics.count
        return float(statistics.mean @ self.by_mean + spread + shift @ self.by_covariance @ shift)


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values; not a number for fewer than two."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
