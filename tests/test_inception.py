"""Inception features equal torch-fidelity's, and nothing reads a file before its hash fits."""

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from inception_file import random_inception, write_random_inception

from models.checkpoint import CheckpointError
from models.inception import ADANAT, PUBLISHED_SHA256, TORCH_FIDELITY, InceptionFeatures, MetricProtocol, resized


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    return path, write_random_inception(path)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 3, 5, 5, generator=generator)
    return (F.interpolate(coarse, size=(24, 40), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def test_features_equal_torch_fidelity(weights, images):
    path, sha256 = weights
    ours = InceptionFeatures(path, expected_sha256=sha256, batch_size=3)
    features, logits = ours.features_and_logits(images)
    theirs = dict(zip(("2048", "logits_unbiased"), random_inception()(images), strict=True))
    assert features.shape == (len(images), ours.dimensions)
    scale = float(theirs["2048"].std())
    assert scale > 0.01
    torch.testing.assert_close(features, theirs["2048"], rtol=1e-4, atol=1e-4 * scale)
    spread = float(theirs["logits_unbiased"].std())
    torch.testing.assert_close(logits, theirs["logits_unbiased"], rtol=1e-4, atol=1e-4 * spread)
    assert torch.equal(features[:3], ours.features(images[:3]))
    assert ours.provenance() == {
        "features": "inception", "weights_sha256": sha256, "images": "uint8", "resize": "tensorflow1"
    }  # fmt: skip


def test_float_images_keep_what_rounding_loses(weights, images):
    path, sha256 = weights
    ours = InceptionFeatures(path, ADANAT, expected_sha256=sha256[:8])
    exact = images[:1].float() / 255
    moved = (exact + 0.3 / 255).clamp(0, 1)  # less than half a grey level
    first, second = ours.features(torch.cat((exact, moved)))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(ours.features(exact + 10.0), ours.features(torch.ones_like(exact)))


def test_float_images_are_resized_as_adanat_does(images):
    unit = images.float() / 255
    expected = 2 * F.interpolate(unit, (299, 299), mode="bilinear", align_corners=False, antialias=False) - 1
    assert torch.equal(resized(unit, ADANAT), expected)
    assert torch.equal(resized(images, MetricProtocol(resize="bilinear")), expected)
    assert not torch.allclose(resized(images, TORCH_FIDELITY), expected, atol=1e-2)


@given(st.integers(0, 255), st.sampled_from(["uint8", "float"]), st.sampled_from(["tensorflow1", "bilinear"]))
def test_resizing_keeps_a_flat_image_flat(grey, kind, resize):
    image = torch.full((1, 3, 7, 9), grey, dtype=torch.uint8)
    protocol = MetricProtocol(images=kind, resize=resize)
    result = resized(image if kind == "uint8" else image / 255, protocol)
    assert result.shape == (1, 3, 299, 299)
    expected = (grey - 128) / 128 if resize == "tensorflow1" else 2 * grey / 255 - 1
    torch.testing.assert_close(result, torch.full_like(result, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "protocol", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TORCH_FIDELITY, r"\[B, 3, H, W\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), TORCH_FIDELITY, r"\[B, 3, H, W\]"),
        (torch.zeros(1, 3, 8, 8), TORCH_FIDELITY, "uint8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ADANAT, "float"),
    ],
)
def test_other_images_are_refused(image, protocol, message):
    with pytest.raises(ValueError, match=message):
        resized(image, protocol)


@pytest.mark.parametrize("field", ["images", "resize", "label_balance", "num_images"])
def test_an_unknown_protocol_is_refused(field):
    with pytest.raises(ValueError, match=field):
        replace(TORCH_FIDELITY, **{field: 1 if field == "num_images" else "other"})


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file was executed')",))


def test_other_files_are_refused_in_one_line(weights, tmp_path):
    path, sha256 = weights
    bomb, wrong, broken = tmp_path / "bomb.pth", tmp_path / "wrong.pth", tmp_path / "broken.pth"
    torch.save({"fc.weight": Bomb()}, bomb)
    torch.save({"fc.weight": torch.zeros(3)}, wrong)
    broken.write_bytes(path.read_bytes()[:1000])
    for file, expected, message in (
        (path, PUBLISHED_SHA256, "not the expected"),
        (path, sha256[:-1] + ("0" if sha256[-1] != "0" else "1"), "not the expected"),
        (path, "", "not the expected"),
        (bomb, sha256, "not the expected"),
        (bomb, None, "more than tensors"),
        (wrong, None, "does not hold torch-fidelity's Inception"),
        (broken, None, "cannot be read"),
        (tmp_path / "absent.pth", sha256, "No such file"),
    ):
        if expected is None:
            expected = hashlib.sha256(file.read_bytes()).hexdigest()
        with pytest.raises(CheckpointError, match=message) as caught:
            InceptionFeatures(file, expected_sha256=expected)
        assert file.name in str(caught.value)
        assert "\n" not in str(caught.value)
