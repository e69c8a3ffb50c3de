import re

import numpy as np
import pytest
import torch
from reference import Recorded, arrays, assert_close, facts, largest_cdf_gap
from scipy import stats

from models.mask_ratio import BetaMaskRatio
from models.masking import draw_masked_counts, extra_masked_count, mask_from_uniform, mask_further, masked_counts
from models.random_streams import stream
from models.train import masked_cross_entropy

pytestmark = pytest.mark.reference

KEEPS_ONE_VISIBLE = {"enat_masks": True, "improvednat_masks": False}
FILES = sorted(KEEPS_ONE_VISIBLE)
DRAWS = 20_000


def beta_cases(name):
    """(distribution, prefix of its arrays) of every Beta in a file."""
    matches = [re.fullmatch(r"(beta([\d.]+)_([\d.]+))_pmf_exact", key) for key in arrays(name)]
    return [(BetaMaskRatio(float(match[2]), float(match[3])), match[1]) for match in matches if match]


BETAS = [(name, distribution, prefix) for name in FILES for distribution, prefix in beta_cases(name)]
INJECTED = [name for name in FILES if "inject/ratio" in arrays(name)]
LOSSES = [
    (name, float(match[1]))
    for name in FILES
    for match in (re.fullmatch(r"loss/value_smoothing([\d.]+)_f64", key) for key in arrays(name))
    if match
]
REUSE = [name for name in FILES if "reuse/prev_n_masked_pmf_exact" in arrays(name)]


def test_recordings_were_found():
    assert {name for name, _, _ in BETAS} == set(FILES)
    assert set(INJECTED) == set(FILES)
    assert {smoothing > 0 for _, smoothing in LOSSES} == {False, True}
    assert REUSE


class EvenlySpread:
    """In place of a generator: the midpoints of equal cells, so that a histogram is the distribution itself."""

    def random(self, size):
        return (np.arange(size) + 0.5) / size


@pytest.mark.parametrize(("name", "distribution", "prefix"), BETAS)
def test_masked_counts_follow_the_official_distribution(name, distribution, prefix):
    pmf = arrays(name)[f"{prefix}_pmf_exact"]
    length, keep_one_visible = len(pmf) - 1, KEEPS_ONE_VISIBLE[name]

    def histogram(draws, generator):
        counts = draw_masked_counts(distribution, draws, length, generator, keep_one_visible=keep_one_visible)
        return np.bincount(counts, minlength=length + 1)

    assert largest_cdf_gap(histogram(DRAWS, stream(0, name, prefix)), pmf) < 1.63 / np.sqrt(DRAWS)
    assert largest_cdf_gap(histogram(100_000, EvenlySpread()), pmf) < 2e-5
    recorded = arrays(name).get(f"{prefix}_hist")
    if recorded is not None:
        assert largest_cdf_gap(recorded, pmf) < 1.63 / np.sqrt(recorded.sum())


def test_the_two_counting_rules_differ_where_everything_would_be_masked():
    ratios = np.array([0.0, 0.999, 1.0])
    assert masked_counts(ratios, 16, keep_one_visible=True).tolist() == [1, 15, 15]
    assert masked_counts(ratios, 16, keep_one_visible=False).tolist() == [1, 16, 16]


def uniformity(position_counts, ratio_variance_sum):
    """p-value of a chi-squared test that every position is masked equally often."""
    length = len(position_counts)
    spread = ((position_counts - position_counts.mean()) ** 2).sum() * (length - 1) / length
    return stats.chi2.sf(spread / ratio_variance_sum, length - 1)


@pytest.mark.parametrize(("name", "distribution", "prefix"), BETAS)
def test_masked_positions_are_uniform(name, distribution, prefix):
    length = len(arrays(name)[f"{prefix}_pmf_exact"]) - 1
    generator = stream(1, name, prefix)
    counts = draw_masked_counts(distribution, DRAWS // 4, length, generator, keep_one_visible=KEEPS_ONE_VISIBLE[name])
    uniform_BL = torch.from_numpy(generator.random((len(counts), length)))
    masked_BL = mask_from_uniform(uniform_BL, torch.from_numpy(counts))
    assert torch.equal(masked_BL.sum(1), torch.from_numpy(counts))
    variance = (counts / length * (1 - counts / length)).sum()
    assert uniformity(masked_BL.sum(0).numpy().astype(float), variance) > 1e-3

    pmf, recorded = arrays(name)[f"{prefix}_pmf_exact"], arrays(name).get(f"{prefix}_position_counts")
    if recorded is not None:
        ratios = np.arange(length + 1) / length
        draws = recorded.sum() / (pmf @ ratios) / length
        assert uniformity(recorded.astype(float), draws * (pmf @ (ratios * (1 - ratios)))) > 1e-3


def test_a_mask_that_prefers_positions_is_noticed():
    counts = np.full(5000, 8)
    uniform_BL = torch.from_numpy(stream(2).random((len(counts), 16)))
    uniform_BL[:, 0] *= 0.9
    masked_BL = mask_from_uniform(uniform_BL, torch.from_numpy(counts))
    assert uniformity(masked_BL.sum(0).numpy().astype(float), 5000 * 0.25) < 1e-3


@pytest.mark.parametrize("name", REUSE)
def test_further_masked_counts_follow_the_official_distribution(name):
    pmf = arrays(name)["reuse/prev_n_masked_pmf_exact"]
    length, (distribution, _) = len(pmf) - 1, beta_cases(name)[0]
    generator = stream(3, name)
    counts = draw_masked_counts(distribution, DRAWS, length, generator, keep_one_visible=KEEPS_ONE_VISIBLE[name])
    visible = length - counts
    extra = np.array(
        [
            extra_masked_count(int(number), float(uniform))
            for number, uniform in zip(visible, generator.random(DRAWS), strict=True)
        ]
    )
    gap = largest_cdf_gap(np.bincount(counts + extra, minlength=length + 1), pmf)
    assert gap < 1.63 / np.sqrt(DRAWS)

    recorded = arrays(name).get("reuse/extra_fraction_hist21")
    if recorded is not None:
        cells = len(recorded) - 1
        fractions = np.bincount(np.rint(cells * extra / visible).astype(int), minlength=cells + 1)
        assert largest_cdf_gap(fractions, recorded / recorded.sum()) < 1.63 * np.sqrt(1 / DRAWS + 1 / recorded.sum())


def test_further_masks_are_supersets_and_uniform():
    generator = stream(4)
    masked_BL = mask_from_uniform(torch.from_numpy(generator.random((8000, 16))), torch.full((8000,), 6))
    further_BL = mask_further(masked_BL, torch.from_numpy(generator.random((8000, 16))), 4)
    assert bool((further_BL | ~masked_BL).all())
    assert (further_BL.sum(1) == 10).all()
    added = (further_BL & ~masked_BL).sum(0).numpy().astype(float)
    assert uniformity(added, 8000 * 4 / 16 * 12 / 16) > 1e-3


@pytest.mark.parametrize("name", INJECTED)
def test_injected_noise_gives_the_official_masks(name):
    recorded = Recorded(name, "inject")
    length = recorded["x0"].shape[1]
    counts = masked_counts(recorded["ratio"].numpy(), length, keep_one_visible=KEEPS_ONE_VISIBLE[name])
    assert counts.tolist() == recorded["n_masked"].reshape(-1).tolist()
    masked_BL = mask_from_uniform(recorded["uniform"], torch.from_numpy(counts))
    assert torch.equal(masked_BL, recorded["labels"] != -1)
    assert torch.equal(torch.where(masked_BL, recorded["x0"], -1), recorded["labels"])
    (mask_token,) = recorded["masked_ids"][masked_BL].unique().tolist()
    assert torch.equal(recorded["x0"].masked_fill(masked_BL, mask_token), recorded["masked_ids"])


@pytest.mark.parametrize(("name", "smoothing"), LOSSES)
def test_loss_value_and_gradient(name, smoothing):
    recorded = Recorded(name, "loss")
    logits = recorded["logits"].double().requires_grad_()
    loss = masked_cross_entropy(logits, recorded["labels"], smoothing)
    loss.backward()
    assert_close(loss.detach(), recorded[f"value_smoothing{smoothing}_f64"], 1e-12, "loss")
    if f"grad_smoothing{smoothing}_f64" in recorded:
        assert_close(logits.grad, recorded[f"grad_smoothing{smoothing}_f64"], 1e-12, "gradient")
    if f"value_smoothing{smoothing}" in recorded:
        single = masked_cross_entropy(recorded["logits"], recorded["labels"], smoothing)
        assert_close(single, recorded[f"value_smoothing{smoothing}"], 1e-5, "float32 loss")
    stated = facts(name).get(f"loss_smoothing{smoothing}")
    if stated is not None:
        assert float(loss.detach()) == pytest.approx(stated, abs=1e-5)


def test_loss_gradients_were_recorded():
    assert any(f"loss/grad_smoothing{smoothing}_f64" in arrays(name) for name, smoothing in LOSSES)
