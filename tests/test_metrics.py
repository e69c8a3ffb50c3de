"""IS, KID and precision/recall equal torch-fidelity's own functions; samples of features merge exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from models.frechet import Reference, Statistics, accumulate, pieces
from models.metrics import (
    METRICS,
    FeatureSample,
    check_names,
    inception_score,
    kernel_distance,
    precision_recall,
    report_metrics,
)


def draws(count, dimensions, seed, shift=0.0):
    """Positive, skewed and correlated, as pooled activations are; float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=torch.Generator().manual_seed(9)) / dimensions**0.5
    return (torch.randn(count, dimensions, generator=generator) @ mixing + shift).relu()


@pytest.mark.parametrize("count", [10, 103, 500])
def test_inception_score_equals_torch_fidelity(count):
    logits = 3 * torch.randn(count, 30, generator=torch.Generator().manual_seed(count))
    theirs = isc_features_to_metric(logits)
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-6)
    assert theirs["inception_score_mean"] > 1.1 or count == 10


def test_inception_score_of_certain_and_of_equal_images():
    assert inception_score(1e4 * torch.eye(20), splits=1)["inception_score_mean"] == pytest.approx(20)
    assert inception_score(torch.ones(40, 7))["inception_score_mean"] == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kid_equals_torch_fidelity(dtype):
    generated, real = draws(150, 64, 1, 0.2).to(dtype), draws(130, 64, 2).to(dtype)
    theirs = kid_features_to_metric(generated, real, kid_subsets=20, kid_subset_size=100, verbose=False)
    ours = kernel_distance(generated, real, subsets=20, subset_size=100)
    assert ours == pytest.approx(theirs, abs=1e-6 if dtype == torch.float32 else 1e-12)
    assert ours["kernel_inception_distance_mean"] > 0.01
    same = kernel_distance(draws(150, 64, 3), real, subsets=20, subset_size=100)["kernel_inception_distance_mean"]
    assert abs(same) < 0.1 * ours["kernel_inception_distance_mean"]


@pytest.mark.parametrize(("num_generated", "num_real"), [(150, 130), (5, 300), (120, 4)])
def test_precision_and_recall_equal_torch_fidelity(num_generated, num_real):
    generated, real = draws(num_generated, 4, 1, 0.3), draws(num_real, 4, 2)
    ours = precision_recall(generated, real)
    for save_cpu_ram in (True, False):
        theirs = prc_features_to_metric(generated, real, save_cpu_ram=save_cpu_ram, verbose=False)
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert 0 < ours["precision"] <= 1
    assert precision_recall(generated, real, rows=37) == pytest.approx(ours, abs=1e-12)


def test_precision_is_of_the_generated():
    """A narrow sample inside a wide one is precise, and recalls little."""
    wide, narrow = draws(300, 3, 1) * 3, draws(300, 3, 1) * 0.5
    inside = precision_recall(narrow, wide)
    assert inside["precision"] > inside["recall"]
    assert precision_recall(wide, narrow)["recall"] == inside["precision"]
    assert precision_recall(wide, wide) == {"precision": 1.0, "recall": 1.0, "f_score": 1.0}


def test_report_has_torch_fidelitys_keys_and_numbers():
    generated, real, logits = draws(90, 16, 1, 0.2), draws(80, 16, 2), draws(90, 12, 3)
    theirs = [name for name in METRICS if name != "variety"]
    report = report_metrics(theirs, generated, real, logits, kid_subset_size=50)
    own = {"kid_subset_size": 50, "verbose": False}
    expected = isc_features_to_metric(logits) | kid_features_to_metric(generated, real, **own)
    expected |= prc_features_to_metric(generated, real, verbose=False)
    rbf = kid_features_to_metric(generated.double(), real.double(), kid_kernel="rbf", **own)
    expected |= {key.replace("distance", "distance_rbf"): value for key, value in rbf.items()}
    fid = Reference.of(Statistics.of(real))
    statistics = Statistics.of(generated)
    expected["frechet_inception_distance"] = fid.distance(statistics.mean, statistics.covariance)
    assert report == pytest.approx(expected, abs=1e-6)
    assert report_metrics(["fid"], generated, generated_statistics=statistics, reference=fid) == pytest.approx(
        {"frechet_inception_distance": report["frechet_inception_distance"]}
    )


@pytest.mark.parametrize(
    ("names", "given_inputs", "message"),
    [
        (["fid", "clip_score"], {}, r"unknown metric 'clip_score'; there are fid, isc"),
        ([], {}, "no metric"),
        (["isc"], {"logits_NC": None}, "'isc' needs logits"),
        (["fid"], {"reference_MD": None}, "'fid' needs reference"),
        (["prc"], {"reference_MD": None}, "'prc' needs reference features"),
        (["kid"], {"kid_subset_size": 1000}, "subsets of 1000"),
        (["kid_rbf"], {"kid_subset_size": 1}, "subsets of 1 "),
        (["kid"], {"reference_MD": draws(20, 5, 1), "kid_subset_size": 10}, r"\[N, D\]"),
        (["prc"], {"reference_MD": draws(3, 4, 1)}, "more images"),
        (["isc"], {"logits_NC": draws(9, 4, 1)}, "10 splits"),
        (["fid"], {"reference_MD": draws(20, 5, 1)}, "dimensions"),
    ],
)
def test_bad_requests_are_refused(names, given_inputs, message):
    inputs = {"reference_MD": draws(20, 4, 1), "logits_NC": draws(20, 6, 1), "kid_subset_size": 10} | given_inputs
    with pytest.raises(ValueError, match=message):
        report_metrics(names, draws(20, 4, 2), **inputs)


def test_known_names_pass():
    check_names(METRICS)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 2**70), st.randoms())
def test_samples_merge_to_the_same_whatever_the_pieces_and_their_order(sizes, capacity, seed, random):
    total = sum(sizes)
    rows = torch.arange(float(total))[:, None]
    whole = FeatureSample.of(rows, 0, capacity, seed)
    parts, first = [], 0
    for size in sizes:
        parts.append(FeatureSample.of(rows[first : first + size], first, capacity, seed))
        first += size
    random.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert len(whole.rows) == min(capacity, total)
    assert torch.equal(merged.rows, whole.rows)
    assert torch.equal(merged.numbers, whole.numbers)
    assert torch.equal(whole.rows[:, 0], whole.numbers.float())


def test_every_image_is_sampled_equally_often():
    total, capacity, seeds = 40, 10, 2000
    counts = torch.zeros(total)
    together = torch.zeros(total)
    for seed in range(seeds):
        numbers = FeatureSample.of(torch.zeros(total, 1), 0, capacity, seed).numbers
        counts[numbers] += 1
        if 0 in numbers:
            together[numbers] += 1
    spread = (seeds * 0.25 * 0.75) ** 0.5
    assert float((counts - seeds / 4).abs().max()) < 4.5 * spread
    pairs = together[1:] - seeds * (10 / 40) * (9 / 39)
    assert float(pairs.abs().max()) < 4.5 * (seeds * 0.0577 * 0.9423) ** 0.5


def test_samples_that_do_not_fit_are_refused():
    sample = FeatureSample.of(torch.zeros(5, 1), 0, 3)
    for other, message in (
        (FeatureSample.of(torch.zeros(5, 1), 5, 4), "capacity"),
        (FeatureSample.of(torch.zeros(5, 1), 5, 3, seed=1), "seed"),
        (FeatureSample.of(torch.zeros(5, 1), 0, 3), "share images"),
    ):
        with pytest.raises(ValueError, match=message):
            sample.merge(other)
    with pytest.raises(ValueError, match="capacity"):
        FeatureSample.of(torch.zeros(5, 1), 0, 0)


@given(st.lists(st.integers(0, 30), max_size=10), st.integers(1, 25))
def test_pieces_do_not_depend_on_the_batches(sizes, rows):
    stream = torch.arange(float(sum(sizes)))[:, None]
    cut = list(pieces(stream.split(sizes) if sizes else (), rows))
    assert [len(piece) for piece in cut] == [len(piece) for piece in stream.split(rows) if len(piece)]
    assert torch.equal(torch.cat([*cut, stream[:0]]), stream)


def test_accumulated_statistics_equal_one_go():
    features = draws(100, 6, 1)
    for sizes in ((100,), (1, 49, 50), (33, 33, 34)):
        found = accumulate(features.split(sizes), rows=32)
        assert found.count == 100
        assert torch.equal(found.scatter, accumulate([features], rows=32).scatter)
        torch.testing.assert_close(found.covariance, features.double().T.cov(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="no images"):
        accumulate([])
