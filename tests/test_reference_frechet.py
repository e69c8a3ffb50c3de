from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as arrays_of
from reference import Recorded, arrays, facts

from models.frechet import Reference, Statistics, _congruence, merge_all

pytestmark = pytest.mark.reference

PAIRS = sorted({key.split("/")[0] for key in arrays("frechet")})
OFFICIAL = ("fid_improvednat_calc_fid", "fid_torch_fidelity", "fid_eigh")


@cache
def gaussians(pair):
    """((mean, covariance), (mean, covariance)), float64."""
    recorded = Recorded("frechet", pair)

    def covariance(number):
        if f"sigma{number}" in recorded:
            return recorded[f"sigma{number}"].double()
        factor = recorded[f"U{number}"].double()
        return factor @ factor.T + torch.diag(recorded[f"diag{number}"].double())

    return tuple((recorded[f"mu{number}"].double(), covariance(number)) for number in (1, 2))


def official_distances(pair):
    recorded = Recorded("frechet", pair)
    distances = [float(recorded[key]) for key in OFFICIAL if key in recorded]
    stated = facts("frechet").get(pair, {})
    return distances + [stated[key.removeprefix("fid_")] for key in OFFICIAL if key.removeprefix("fid_") in stated]


def spread(pair):
    """How far the official codes lie from each other."""
    distances = official_distances(pair)
    return max(distances) - min(distances)


def tolerance(pair):
    """What rounding explains, and where covariances are nearly singular ten times what the official codes differ by:
    each of them takes the square root in its own way."""
    return 1e-9 + 10 * spread(pair)


REGULAR = [pair for pair in PAIRS if spread(pair) < 1e-8 and len(gaussians(pair)[0][0]) <= 256]


@pytest.mark.parametrize("pair", PAIRS)
def test_distance(pair):
    first, second = gaussians(pair)
    expected = official_distances(pair)
    assert expected
    assert Reference(*second).distance(*first) == pytest.approx(expected[0], rel=0, abs=tolerance(pair))


def test_pairs_were_found():
    distances = [official_distances(pair)[0] for pair in PAIRS]
    assert any(abs(value) < 1e-8 for value in distances)
    assert any(value > 1 for value in distances)
    assert len({len(gaussians(pair)[0][0]) for pair in PAIRS}) > 1


@pytest.mark.parametrize("pair", REGULAR)
def test_distance_is_symmetric(pair):
    first, second = gaussians(pair)
    assert Reference(*first).distance(*second) == pytest.approx(Reference(*second).distance(*first), abs=1e-8)


def features_like(pair, number, count):
    """Draws from one of a pair's Gaussians, in float32 as a feature network gives them."""
    mean, covariance = gaussians(pair)[number]
    values, vectors = torch.linalg.eigh(covariance)
    normal = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    return (mean + normal * values.clamp(min=0).sqrt() @ vectors.T).float()


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if len(gaussians(pair)[0][0]) <= 256])
@pytest.mark.parametrize("sizes", [(40, 40, 40), (1, 100, 2, 17), (300,)], ids=str)
def test_merged_pieces_equal_one_go(pair, sizes):
    features = features_like(pair, 0, sum(sizes))
    whole = Statistics.of(features)
    merged = merge_all(Statistics.of(piece) for piece in features.split(sizes))
    assert merged.count == sum(sizes)
    torch.testing.assert_close(merged.mean, features.double().mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, features.double().T.cov(), rtol=1e-11, atol=1e-11)
    reference = Reference(*gaussians(pair)[1])
    distances = [reference.distance(part.mean, part.covariance) for part in (merged, whole)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-7)


@pytest.mark.parametrize("pair", REGULAR)
@pytest.mark.parametrize("relative_cut", [0.0, 1e-8])
def test_influence_is_the_derivative_of_the_distance(pair, relative_cut):
    """Covariances move along S^(1/2) M S^(1/2), so that they stay positive; a cut may drop its share, no more."""
    (mean, covariance), second = gaussians(pair)
    reference, count, step = Reference(*second), 1000, 1e-4
    influence = reference.influence(Statistics(count, mean, covariance * (count - 1)), relative_cut)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()
    largest = float(torch.linalg.eigvals(covariance @ second[1]).real.max())
    dropped = len(mean) * (relative_cut * largest) ** 0.5
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        by_mean = torch.randn(len(mean), generator=generator, dtype=torch.float64)
        noise = torch.randn(covariance.shape, generator=generator, dtype=torch.float64) / len(mean) ** 0.5
        by_covariance = root @ (noise + noise.T) @ root.T
        for along_mean, along_covariance in ((by_mean, 0 * by_covariance), (0 * by_mean, by_covariance)):
            slope = (
                reference.distance(mean + step * along_mean, covariance + step * along_covariance)
                - reference.distance(mean - step * along_mean, covariance - step * along_covariance)
            ) / (2 * step)
            derivative = influence.by_mean @ along_mean + (influence.by_covariance * along_covariance).sum()
            assert float(derivative) == pytest.approx(slope, rel=1e-5, abs=1e-5 + dropped)


@pytest.mark.parametrize("pair", [pair for pair in REGULAR if official_distances(pair)[0] > 0.1])
def test_mean_influence_predicts_a_small_change_of_the_distance(pair):
    """Moving a few images moves the distance as the mean of psi does."""
    count, moved_images = 4000, 8
    features = features_like(pair, 0, count)
    reference, before = Reference(*gaussians(pair)[1]), Statistics.of(features)
    influence = reference.influence(before)
    altered = features.clone()
    altered[:moved_images] += 0.5 * features.std(0)
    after = Statistics.of(altered)
    predicted = float(influence.of_features(altered).mean() - influence.of_features(features).mean())
    from_statistics = influence.of_statistics(after) - influence.of_statistics(before)
    assert from_statistics == pytest.approx(predicted, rel=1e-8, abs=1e-9)
    moved = reference.distance(after.mean, after.covariance) - reference.distance(before.mean, before.covariance)
    scale = float(influence.of_features(features).std()) * moved_images / count
    assert moved == pytest.approx(predicted, rel=0, abs=0.05 * scale)


def test_regular_pairs_were_found():
    assert len(REGULAR) > 1


@st.composite
def whole_matrices(draw):
    """A lower triangular and a symmetric matrix of one size; their products are exact, as all numbers are whole."""
    size = draw(st.integers(1, 12))
    square = arrays_of(np.float64, (size, size), elements=st.integers(-9, 9))
    factor, other = torch.from_numpy(draw(square)).tril(), torch.from_numpy(draw(square))
    return factor, other + other.T


@given(whole_matrices(), st.integers(1, 5))
def test_a_congruence_in_blocks_is_the_whole_product(matrices, block):
    """In its lower triangle, which is all that is read of it."""
    factor, covariance = matrices
    found = _congruence(factor, covariance, block)
    assert torch.equal(found.tril(), (factor.T @ covariance @ factor).tril())


@pytest.mark.parametrize("pair", REGULAR[:1])
def test_other_dimensions_are_refused(pair):
    (mean, covariance), second = gaussians(pair)
    reference = Reference(*second)
    with pytest.raises(ValueError, match="dimensions"):
        reference.distance(mean[:-1], covariance[:-1, :-1])
    with pytest.raises(ValueError, match="dimensions"):
        reference.influence(Statistics(10, mean[:-1], covariance[:-1, :-1]))
    with pytest.raises(ValueError, match="mean"):
        Reference(mean, covariance[:-1])
    with pytest.raises(ValueError, match="at least 2"):
        _ = Statistics.of(mean[None]).covariance
