"""Scores of generated images from their features: FID, Inception Score, KID, precision and recall, and their variety.

N generated and M real images, D features, C classes. Names and values are torch-fidelity's, but for the variety, which
is ours: given the same features, ``torch_fidelity.calculate_metrics`` reports the same keys with the same numbers. FID
needs statistics alone; the others look at single images, so they take features that are kept, see ``FeatureSample``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.frechet import Reference, Statistics

METRICS = ("fid", "isc", "kid", "kid_rbf", "prc", "variety")
# Those that compare single images with real ones.
WITH_REAL_IMAGES = frozenset(("kid", "kid_rbf", "prc"))
SHUFFLE_SEED = 2020


def inception_score(logits_NC: Tensor, splits: int = 10, seed: int = SHUFFLE_SEED) -> dict[str, float]:
    """exp of the mean KL divergence of p(class | image) from p(class), mean and deviation over `splits`.

    Salimans et al., 2016. logits: [N, C] without bias, shuffled first with `seed` as torch-fidelity shuffles them.
    Raises ValueError for fewer images than splits.
    """
    count = len(logits_NC)
    if not 1 <= splits <= count:
        raise ValueError(f"an Inception Score of {splits} splits needs as many images, got {count}")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count))
    scores = []
    for split in range(splits):
        part = logits_NC[order[split * count // splits : (split + 1) * count // splits]]
        log_p = part.to(torch.float64).log_softmax(dim=1)
        p = log_p.exp()
        divergences = (p * (log_p - p.mean(dim=0).log())).nan_to_num(nan=0.0).sum(dim=1)  # 0 log 0 = 0
        scores.append(float(divergences.mean().exp()))
    return {"inception_score_mean": float(np.mean(scores)), "inception_score_std": float(np.std(scores))}


def kernel_distance(
    generated_ND: Tensor, reference_MD: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = SHUFFLE_SEED
) -> dict[str, float]:
    """KID: unbiased squared MMD with the kernel (x'y / D + 1)^3, mean and deviation over random subsets.

    Binkowski et al., 2018, eq. 4. Values slightly below 0 are possible. float64, where torch-fidelity uses the
    features' own precision. Raises ValueError for fewer images than `subset_size`.
    """
    _check_kid(generated_ND, reference_MD, subset_size)
    generated, reference = generated_ND.to(torch.float64), reference_MD.to(torch.float64)
    generator, size, dimensions = np.random.RandomState(seed), subset_size, generated.shape[1]

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.T / dimensions + 1) ** 3

    distances = []
    for _ in range(subsets):
        x = generated[torch.from_numpy(generator.choice(len(generated), size, replace=False))]
        y = reference[torch.from_numpy(generator.choice(len(reference), size, replace=False))]
        within = sum(between.sum() - between.trace() for between in (kernel(x, x), kernel(y, y)))
        distances.append(float(within / (size * (size - 1)) - 2 * kernel(x, y).mean()))
    return {
        "kernel_inception_distance_mean": float(np.mean(distances)),
        "kernel_inception_distance_std": float(np.std(distances)),
    }


def kernel_distance_rbf(
    generated_ND: Tensor, reference_MD: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = SHUFFLE_SEED
) -> dict[str, float]:
    """KID with a Gaussian kernel of width 10, by torch-fidelity's own function (since 0.4).

    The kernel is that of CMMD (Jayasumana et al., 2024), here on whatever features are given. Raises ValueError for
    fewer images than `subset_size`, or where the installed torch-fidelity has no such kernel.
    """
    _check_kid(generated_ND, reference_MD, subset_size)
    import torch_fidelity
    from torch_fidelity.defaults import DEFAULTS
    from torch_fidelity.metric_kid import kid_features_to_metric

    if "kid_kernel" not in DEFAULTS:
        raise ValueError(f"torch-fidelity {torch_fidelity.__version__} has no kid_rbf; 0.4.0 has")
    values = kid_features_to_metric(
        generated_ND.to(torch.float64),  # in float32 its squared distances of large features lose every digit
        reference_MD.to(torch.float64),
        kid_kernel="rbf",
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=seed,
        verbose=False,
    )
    return {key.replace("kernel_inception_distance", "kernel_inception_distance_rbf"): values[key] for key in values}


def _check_kid(generated_ND: Tensor, reference_MD: Tensor, subset_size: int) -> None:
    _check_dimensions(generated_ND, reference_MD)
    fewest = min(len(generated_ND), len(reference_MD))
    if not 2 <= subset_size <= fewest:
        raise ValueError(f"KID in subsets of {subset_size} needs at least 2 and as many images, got {fewest}")


def precision_recall(
    generated_ND: Tensor, reference_MD: Tensor, neighbours: int = 3, rows: int = 2000
) -> dict[str, float]:
    """Shares of images inside the other sample's manifold, the union of balls out to the `neighbours`-th neighbour.

    Kynkaanniemi et al., 2019, eqs. 1 and 2. Precision: generated images among the real ones; recall: the other way.
    At most `rows` x max(N, M) distances are held at once. Raises ValueError for too few images.
    """
    _check_dimensions(generated_ND, reference_MD)
    fewest = min(len(generated_ND), len(reference_MD))
    if fewest <= neighbours:
        raise ValueError(f"precision and recall by {neighbours} neighbours need more images than that, got {fewest}")
    precision = _share_inside(generated_ND, reference_MD, neighbours, rows)
    recall = _share_inside(reference_MD, generated_ND, neighbours, rows)
    f_score = 2 * precision * recall / max(1e-5, precision + recall)
    return {"precision": precision, "recall": recall, "f_score": f_score}


def _share_inside(points: Tensor, manifold: Tensor, neighbours: int, rows: int) -> float:
    # The image itself is the nearest, hence one more.
    radii = torch.cat([torch.cdist(part, manifold).kthvalue(neighbours + 1).values for part in manifold.split(rows)])
    inside = sum(int((torch.cdist(part, manifold) <= radii).any(dim=1).sum()) for part in points.split(rows))
    return inside / len(points)


def within_class_influence(generated_ND: Tensor, labels_N: Tensor) -> Tensor:
    """Each image's part in the variance of the features within a class, summed over dimensions: float64 [N].

    n / (n - 1) times the squared distance to the mean of the n images of its class; nan where it is the only one. The
    mean over images is the variance, half the mean squared distance of two images of a class, and their spread gives
    its error. It tells whether a class is painted in many ways: a Frechet distance can fall while every class becomes
    one picture. Recall tells less of that, as single odd images make it large (docs/results.md).
    """
    rows_ND = generated_ND.to(torch.float64)
    found_N = torch.full((len(rows_ND),), torch.nan, dtype=torch.float64)
    for label in labels_N.unique():
        own = labels_N == label
        count = int(own.sum())
        if count > 1:
            gaps = rows_ND[own] - rows_ND[own].mean(dim=0)
            found_N[own] = count / (count - 1) * (gaps * gaps).sum(dim=1)
    return found_N


def within_class_variance(generated_ND: Tensor, labels_N: Tensor) -> float:
    """The mean of ``within_class_influence``. Raises ValueError where no class has two images."""
    variance = float(within_class_influence(generated_ND, labels_N).nanmean())
    if variance != variance:
        raise ValueError(f"a variance within classes needs two images of one; there are {len(labels_N)} classes")
    return variance


def frechet_distance(generated: Statistics, reference: Reference) -> dict[str, float]:
    """FID from statistics. Raises ValueError if the dimensions differ."""
    return {"frechet_inception_distance": reference.distance(generated.mean, generated.covariance)}


def report_metrics(
    names: Sequence[str],
    generated_ND: Tensor,
    reference_MD: Tensor | None = None,
    logits_NC: Tensor | None = None,
    labels_N: Tensor | None = None,
    *,
    generated_statistics: Statistics | None = None,
    reference: Reference | None = None,
    kid_subset_size: int = 1000,
) -> dict[str, float]:
    """The metrics of `names` (see METRICS), under torch-fidelity's keys.

    FID comes from `generated_statistics` and `reference` where they are given, of all images, and from the features
    otherwise. Raises ValueError for an unknown name and where a metric's input is missing.
    """
    check_names(names)
    report: dict[str, float] = {}
    for name in names:
        if name == "isc":
            report |= inception_score(_given(logits_NC, name, "logits"))
        elif name == "variety":
            report["within_class_variance"] = within_class_variance(generated_ND, _given(labels_N, name, "labels"))
        elif name == "fid":
            goal = reference or Reference.of(
                Statistics.of(_given(reference_MD, name, "reference features or statistics"))
            )
            report |= frechet_distance(generated_statistics or Statistics.of(generated_ND), goal)
        else:
            real = _given(reference_MD, name, "reference features, which statistics alone do not hold")
            if name == "prc":
                report |= precision_recall(generated_ND, real)
            else:
                by_kernel = kernel_distance if name == "kid" else kernel_distance_rbf
                report |= by_kernel(generated_ND, real, subset_size=kid_subset_size)
    return report


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError that names what is unknown and what there is."""
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        what = f"unknown metric {', '.join(map(repr, unknown))}" if unknown else "no metric is named"
        raise ValueError(f"{what}; there are {', '.join(METRICS)}")


def _given(tensor: Tensor | None, name: str, what: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"metric {name!r} needs {what}")
    return tensor


def _check_dimensions(generated_ND: Tensor, reference_MD: Tensor) -> None:
    if generated_ND.ndim != 2 or reference_MD.ndim != 2 or generated_ND.shape[1] != reference_MD.shape[1]:
        raise ValueError(
            f"features [N, D] and [M, D] are needed, got {tuple(generated_ND.shape)} and {tuple(reference_MD.shape)}"
        )


@dataclass(frozen=True)
class FeatureSample:
    """At most `capacity` images' rows of a stream of any length, a uniform sample without replacement.

    Every image has a random key that depends on `seed` and its number alone, and the images with the smallest keys are
    kept. So workers sample their own shares, merging is exact, and neither the cut into batches nor the order matters.
    Memory: `capacity` rows (10,000 x 2,048 float32 are 82 MB; all 50,000 x 1,008 logits, 202 MB). Rows lie in the
    order of their numbers, so a sample with room for all images holds them as they came.
    """

    capacity: int
    seed: int
    numbers: Tensor
    rows: Tensor

    @staticmethod
    def of(rows_BD: Tensor, first_number: int, capacity: int = 10_000, seed: int = SHUFFLE_SEED) -> "FeatureSample":
        """The sample of images `first_number`, `first_number` + 1, ..., in the order of the rows."""
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        numbers = torch.arange(first_number, first_number + len(rows_BD))
        return _smallest(capacity, seed, numbers, rows_BD)

    def merge(self, other: "FeatureSample") -> "FeatureSample":
        """The sample of both streams together. Raises ValueError where capacity, seed or images do not fit."""
        if (self.capacity, self.seed) != (other.capacity, other.seed):
            raise ValueError("samples of another capacity or seed do not merge")
        numbers = torch.cat((self.numbers, other.numbers))
        if len(numbers.unique()) < len(numbers):
            raise ValueError("samples that share images do not merge")
        return _smallest(self.capacity, self.seed, numbers, torch.cat((self.rows, other.rows)))


def _smallest(capacity: int, seed: int, numbers: Tensor, rows: Tensor) -> FeatureSample:
    keys = _keys(numbers.numpy(), seed)
    kept = torch.from_numpy(np.lexsort((numbers.numpy(), keys))[:capacity])
    kept = kept[numbers[kept].argsort()]
    return FeatureSample(capacity, seed, numbers[kept], rows[kept])


def _keys(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random uint64 for each number: SplitMix64 at a place that the seed decides (Steele, Lea & Flood, 2014)."""
    start = _mixed(np.array([seed % 2**64], dtype=np.uint64))
    return _mixed(start + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
