"""The residual network behind FD(cifar10-resnet): its form, its training and the file that it is kept in."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.feature_files import NetworkFeatures, load_features, save_features
from models.random_streams import stream
from models.resnet import Convolution, ResNet, ResNetConfig, folded, initialise
from models.resnet_training import (
    LabelledImages,
    ResNetTraining,
    accuracy,
    epoch_views,
    learning_rate_at,
    train_resnet,
)

SIZE = 8
TINY = ResNetConfig(width=4, num_classes=3, image_size=SIZE)
SHORT = ResNetTraining(epochs=4, batch_size=16, learning_rate=0.1, crop_padding=1)


def labelled(count, seed=0, classes=3):
    """Noise whose brighter colour is the class: a linear classifier would do."""
    draw = stream(seed, "test images")
    labels = np.arange(count) % classes
    images = draw.integers(0, 180, (count, 3, SIZE, SIZE), dtype=np.uint8)
    images[np.arange(count), labels] += 75
    return LabelledImages(images, labels.astype(np.int64))


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return train_resnet(TINY, SHORT, labelled(96), 0)


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "features.safetensors"
    save_features(path, trained, "colours", 0.5, {"seed": 0})
    return path


@settings(max_examples=15, deadline=None)
@given(
    st.builds(
        ResNetConfig,
        width=st.integers(1, 6),
        blocks=st.integers(1, 2),
        fine_stem=st.booleans(),
        num_classes=st.integers(2, 5),
        image_size=st.sampled_from([8, 16, 24]),
    ),
    st.integers(1, 4),
)
def test_sizes_and_folding(config, count):
    """Folded, the network is the one in evaluation mode, and has no normalisation left."""
    network = initialise(ResNet(config, folded=False), torch.Generator().manual_seed(1))
    images = torch.randint(0, 256, (count, 3, config.image_size, config.image_size), dtype=torch.uint8)
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not the first ones
            network.train()(torch.randn(4, 3, config.image_size, config.image_size) * 2 + 1)
        expected = network.eval().features(images)
        small = folded(network)
        found = small.features(images)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in small.modules())
    assert any(isinstance(part, Convolution) for part in small.modules())
    assert found.shape == (count, config.dimensions) == (count, 4 * config.width)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max() + 1))


def test_a_fine_stem_sees_every_pixel_at_full_resolution():
    for fine, side in ((False, SIZE // 2), (True, SIZE)):
        network = ResNet(replace(TINY, fine_stem=fine))
        assert network.stem(torch.zeros(1, 3, SIZE, SIZE)).shape[2:] == (side, side)


def test_training_learns_and_scales_to_trace_d(trained):
    assert accuracy(trained, labelled(60, seed=9)) > 0.9
    features = trained.features(torch.from_numpy(labelled(96).images)).double()
    assert float(features.var(dim=0).sum().detach()) == pytest.approx(TINY.dimensions, rel=1e-4)
    assert 0 < float(trained.pixel_mean.min()) < 255


def test_the_same_seed_gives_the_same_bits():
    data = labelled(40)
    first, again, other = (train_resnet(TINY, replace(SHORT, epochs=1), data, seed) for seed in (3, 3, 4))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.stem.convolution.weight, other.stem.convolution.weight)


def test_bfloat16_learns_too():
    network = train_resnet(TINY, replace(SHORT, precision="bfloat16"), labelled(96), 0)
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())
    assert accuracy(network, labelled(60, seed=9)) > 0.9


@given(st.integers(1, 200), st.floats(0, 0.9))
def test_one_cycle_of_the_learning_rate(steps, rising):
    config = ResNetTraining(learning_rate=0.3, rising_share=rising)
    rates = [learning_rate_at(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if steps >= 40:
        assert max(rates) > 0.27
        assert rates[-1] < 0.08


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 14), st.integers(0, 3))
def test_views_show_every_image_once_an_epoch(count, size, padding, epoch):
    order, rows, columns = epoch_views(5, epoch, count, size, padding)
    assert sorted(order) == list(range(count))
    for places in (rows, columns):
        assert places.shape == (count, size)
        assert places.min() >= 0
        assert places.max() < size
        assert np.abs(np.diff(places, axis=1)).max(initial=0) <= 1
    if padding == 0:
        assert (rows == np.arange(size)).all()
        assert all(tuple(row) in (tuple(range(size)), tuple(reversed(range(size)))) for row in columns)


def test_views_differ_by_epoch_and_flip_about_half():
    _, rows, columns = epoch_views(5, 0, 400, 8, 2)
    assert not np.array_equal(rows, epoch_views(5, 1, 400, 8, 2)[1])
    falling = (columns[:, 0] > columns[:, -1]).mean()
    assert 0.4 < falling < 0.6
    assert {tuple(row) for row in rows} >= {(2, 1, 0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5, 6, 7)}


def test_a_file_gives_the_network_back(saved, trained):
    file = load_features(saved)
    assert (file.name, file.test_accuracy, file.about, len(file.sha256)) == ("colours", 0.5, {"seed": 0}, 64)
    images = torch.from_numpy(labelled(10, seed=2).images)
    torch.testing.assert_close(NetworkFeatures(saved).features(images), trained.features(images).detach())


def test_features_do_not_depend_on_their_neighbours(saved):
    """Blocks in any order and of any images, the same bits; batches of other sizes, the same to rounding."""
    features = NetworkFeatures(saved)
    assert (features.name, features.dimensions, features.images) == ("colours", 16, "uint8")
    blocks = torch.from_numpy(labelled(30, seed=3).images).split(10)
    forward = [features.features(block) for block in blocks]
    backward = [features.features(block) for block in reversed(blocks)][::-1]
    assert all(torch.equal(one, two) for one, two in zip(forward, backward, strict=True))
    small = NetworkFeatures(saved, batch_size=7).features(torch.cat(blocks))
    torch.testing.assert_close(small, torch.cat(forward), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, SIZE + 8, SIZE + 8, dtype=torch.uint8),
        torch.zeros(2, 1, SIZE, SIZE, dtype=torch.uint8),
        torch.zeros(2, 3, SIZE, SIZE),
    ],
)
def test_other_images_are_refused(saved, images):
    with pytest.raises(CheckpointError, match="measures 8 x 8 colour images as uint8"):
        NetworkFeatures(saved).features(images)


def spoil(path, change):
    tensors, metadata = load_tensors(path)
    change(tensors, metadata)
    save_tensors(path, tensors, metadata)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, metadata: metadata.pop("resnet"), "does not hold a feature network"),
        (lambda tensors, metadata: metadata["resnet"].update(width=8), "damaged feature network"),
        (lambda tensors, metadata: metadata["resnet"].update(depth=8), "damaged feature network"),
        (lambda tensors, metadata: metadata.update(test_accuracy="good"), "damaged feature network"),
        (lambda tensors, metadata: tensors.pop("scale"), "damaged feature network"),
        (lambda tensors, metadata: tensors["scale"].fill_(math.nan), "not finite"),
    ],
)
def test_a_file_that_is_none(saved, change, words):
    spoil(saved, change)
    with pytest.raises(CheckpointError, match=words) as raised:
        load_features(saved)
    assert str(saved) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_or_truncated_file(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_features(tmp_path / "none.safetensors")
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_features(saved)


def test_the_data_s_hash_is_of_pixels_and_classes():
    data = labelled(6)
    other = LabelledImages(data.images, data.labels[::-1].copy())
    assert data.sha256() == LabelledImages(data.images.copy(), data.labels.astype(np.int32)).sha256()
    assert len({data.sha256(), other.sha256(), LabelledImages(data.images + 1, data.labels).sha256()}) == 3
    json.dumps(data.sha256())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ResNetConfig, {"width": 0}),
        (ResNetConfig, {"blocks": 0}),
        (ResNetConfig, {"num_classes": 1}),
        (ResNetConfig, {"image_size": 30}),
        (ResNetTraining, {"epochs": 0}),
        (ResNetTraining, {"batch_size": 1}),
        (ResNetTraining, {"learning_rate": 0.0}),
        (ResNetTraining, {"learning_rate": math.nan}),
        (ResNetTraining, {"weight_decay": -1.0}),
        (ResNetTraining, {"momentum": 1.0}),
        (ResNetTraining, {"label_smoothing": 1.0}),
        (ResNetTraining, {"rising_share": -0.1}),
        (ResNetTraining, {"crop_padding": -1}),
        (ResNetTraining, {"precision": "float16"}),
    ],
)
def test_impossible_settings_are_refused(kind, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        kind(**changes)


def test_what_cannot_be_trained_is_said():
    with pytest.raises(ValueError, match="fewer than one batch"):
        train_resnet(TINY, SHORT, labelled(10), 0)
    with pytest.raises(ValueError, match="learning rate is too high"):
        train_resnet(TINY, replace(SHORT, learning_rate=1e30), labelled(96), 0)
