"""The Frechet distance at 2,048 dimensions with a cached reference, beside torch-fidelity's and SciPy's sqrtm.

One thread each, float64, the same pair of Gaussians: a spectrum over four decades, as Inception features have it, and
full rank, so that all ways agree.
"""

import os
import time

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import scipy
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_statistics_to_metric

from benchmarks.paired import ratio, show
from models.frechet import Reference

DIMENSIONS = 2048


def gaussian(seed: int) -> dict[str, np.ndarray]:
    """Mean and covariance of correlated features, in torch-fidelity's form."""
    draws = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(draws.standard_normal((DIMENSIONS, DIMENSIONS)))
    variances = np.logspace(0, -4, DIMENSIONS)
    sigma = (vectors * variances) @ vectors.T
    return {"mu": draws.normal(0.4, 0.05, DIMENSIONS), "sigma": (sigma + sigma.T) / 2}


def by_sqrtm(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    root = sqrtm(first["sigma"] @ second["sigma"])
    gap = first["mu"] - second["mu"]
    return float(gap @ gap + np.trace(first["sigma"]) + np.trace(second["sigma"]) - 2 * np.trace(root.real))


def main() -> None:
    torch.set_num_threads(1)
    generated, real = gaussian(1), gaussian(2)
    mean, covariance = (torch.from_numpy(generated[key]) for key in ("mu", "sigma"))
    started = time.perf_counter()
    reference = Reference(torch.from_numpy(real["mu"]), torch.from_numpy(real["sigma"]))
    print(f"factor of the reference, once: {time.perf_counter() - started:.2f} s")

    def ours() -> float:
        return reference.distance(mean, covariance)

    def fidelity() -> float:
        return fid_statistics_to_metric(generated, real, verbose=False)["frechet_inception_distance"]

    gap = abs(fidelity() / ours() - 1)
    show(f"Frechet at {DIMENSIONS}, torch-fidelity's (relative gap {gap:.0e})", ratio(fidelity, ours, repeats=3))
    ours()
    started = time.perf_counter()
    value = ours()
    own_seconds = time.perf_counter() - started
    started = time.perf_counter()
    by_root = by_sqrtm(generated, real)
    seconds = time.perf_counter() - started
    gap = abs(by_root / value - 1)
    print(
        f"Frechet at {DIMENSIONS}, sqrtm of SciPy {scipy.__version__} (relative gap {gap:.0e}), once: "
        f"{seconds:.1f} s / {own_seconds:.2f} s = {seconds / own_seconds:.0f}x"
    )


if __name__ == "__main__":
    main()
