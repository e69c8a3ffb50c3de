import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad

from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio, FixedMaskRatio, TruncatedGaussianMaskRatio

moderate_betas = st.builds(BetaMaskRatio, st.floats(0.5, 40), st.floats(0.5, 40))
gaussians = st.tuples(st.floats(0, 0.8), st.floats(0.2, 1)).flatmap(
    lambda ends: st.builds(
        TruncatedGaussianMaskRatio,
        mean=st.floats(0, 1),
        standard_deviation=st.floats(0.1, 2),
        low=st.just(ends[0]),
        high=st.just(min(1.0, ends[0] + ends[1])),
    )
)
continuous = moderate_betas | gaussians | st.just(ArccosMaskRatio()) | st.just(TruncatedGaussianMaskRatio())
all_ratios = (
    continuous
    | st.builds(BetaMaskRatio, st.floats(0.05, 1000), st.floats(0.05, 1000))
    | st.builds(FixedMaskRatio, st.floats(0, 1, exclude_min=True))
)
uniforms = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20)


@given(all_ratios, uniforms)
def test_from_uniform_is_monotone_and_within_the_unit_interval(distribution, uniform):
    ratios = distribution.from_uniform(np.sort(np.array(uniform)))
    assert ratios.shape == (len(uniform),)
    assert ratios.dtype == np.float64
    assert ((ratios >= 0) & (ratios <= 1)).all()
    assert (np.diff(ratios) >= 0).all()


@given(continuous, st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_from_uniform_agrees_with_the_density(distribution, first, second):
    low, high = sorted((first, second))
    assume(high - low > 0.01)
    ends = distribution.from_uniform(np.array([low, high]))
    probability, _ = quad(lambda ratio: float(distribution.density(np.array(ratio))), *ends, limit=200)
    assert probability == pytest.approx(high - low, abs=1e-6)


@given(st.floats(0, 1, exclude_min=True), uniforms)
def test_fixed_is_always_its_ratio(ratio, uniform):
    distribution = FixedMaskRatio(ratio)
    assert (distribution.from_uniform(np.array(uniform)) == ratio).all()
    assert np.isnan(distribution.density(np.array(uniform))).all()


@given(st.floats(0.5, 30), st.floats(0.5, 30))
def test_beta_mirrors(alpha, beta):
    """1 - r of Beta(alpha, beta) is Beta(beta, alpha)."""
    uniform = np.linspace(0.05, 0.95, 7)
    mirrored = 1 - BetaMaskRatio(beta, alpha).from_uniform(1 - uniform)
    np.testing.assert_allclose(BetaMaskRatio(alpha, beta).from_uniform(uniform), mirrored, atol=1e-9)


def test_arccos_is_the_cosine_of_a_uniform():
    uniform = np.linspace(0, 1, 9)
    assert sorted(ArccosMaskRatio().from_uniform(uniform)) == pytest.approx(sorted(np.cos(np.pi / 2 * uniform)))


bad = st.sampled_from([0.0, -1.0, math.nan, math.inf])


@given(bad, st.floats(0.1, 10), st.booleans())
def test_beta_refuses_what_is_not_positive(value, other, first):
    with pytest.raises(ValueError, match="alpha" if first else "beta"):
        BetaMaskRatio(value, other) if first else BetaMaskRatio(other, value)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.0001, math.nan])
def test_fixed_refuses_other_ratios(ratio):
    with pytest.raises(ValueError, match="fixed"):
        FixedMaskRatio(ratio)


@pytest.mark.parametrize(
    "changes", [{"standard_deviation": 0.0}, {"low": -0.1}, {"high": 1.1}, {"low": 0.8, "high": 0.8}, {"low": math.nan}]
)
def test_truncated_gaussian_refuses_other_values(changes):
    with pytest.raises(ValueError, match=r"positive|low"):
        TruncatedGaussianMaskRatio(**changes)


def test_labels_and_kinds_tell_distributions_apart():
    distributions = [
        BetaMaskRatio(12, 3),
        BetaMaskRatio(3, 12),
        ArccosMaskRatio(),
        FixedMaskRatio(0.5),
        TruncatedGaussianMaskRatio(),
        TruncatedGaussianMaskRatio(mean=0.6),
    ]
    assert len({distribution.label for distribution in distributions}) == len(distributions)
    assert len({distribution.kind for distribution in distributions}) == 4
    assert len(set(distributions)) == len(distributions)
