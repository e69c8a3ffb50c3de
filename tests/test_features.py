import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from models.checkpoint import CheckpointError, save_tensors
from models.evaluate import real_distance, reference_of
from models.features import (
    ClassifierConfig,
    load_classifier,
    register_with_torch_fidelity,
    save_classifier,
    train_classifier,
)
from models.frechet import Reference, Statistics
from models.images import digits


@pytest.fixture(scope="module")
def classifier_path(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "classifier.safetensors"
    save_classifier(path, *classifier)
    return path


class Images(Dataset):
    """uint8 [3, 8, 8], as torch-fidelity wants them."""

    def __init__(self, images):
        self.images = torch.from_numpy(images).expand(-1, 3, -1, -1)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_classifier_tells_digits_apart(classifier):
    network, accuracy = classifier
    assert accuracy > 0.85
    with torch.no_grad():
        predicted = network(torch.from_numpy(digits().test_images)).argmax(1).numpy()
    assert (predicted == digits().test_labels).mean() == pytest.approx(accuracy)
    assert not network.training


def test_training_depends_on_the_seed_alone():
    config = ClassifierConfig(steps=2, batch_size=8, dimensions=4)
    torch.manual_seed(0)
    first, _ = train_classifier(config, digits(), seed=0)
    torch.manual_seed(1)
    second, _ = train_classifier(config, digits(), seed=0)
    third, _ = train_classifier(config, digits(), seed=1)
    assert torch.equal(first.hidden.weight, second.hidden.weight)
    assert not torch.equal(first.hidden.weight, third.hidden.weight)


@torch.no_grad()
def test_features_of_real_images_have_a_covariance_of_trace_d(classifier):
    features = classifier[0].features(torch.from_numpy(digits().train_images))
    assert features.dtype == torch.float32
    assert float(Statistics.of(features).covariance.trace()) == pytest.approx(features.shape[1], rel=1e-4)


@torch.no_grad()
def test_the_first_of_three_channels_is_read(classifier):
    images = torch.from_numpy(digits().test_images[:5])
    other = torch.cat([images, images.flip(0), 255 - images], dim=1)
    assert torch.equal(classifier[0].features(other), classifier[0].features(images))


@torch.no_grad()
def test_saved_classifier_has_the_same_features(classifier, classifier_path):
    images = torch.from_numpy(digits().test_images[:20])
    loaded = load_classifier(classifier_path)
    assert torch.equal(loaded.features(images), classifier[0].features(images))
    assert not loaded.training


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_tensors(path, {"weight": torch.zeros(2)}, {"network": {}})
    with pytest.raises(CheckpointError, match="other"):
        load_classifier(path)


@torch.no_grad()
def test_floor_is_small_against_noise(classifier):
    network, data = classifier[0], digits()
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, data.test_images.shape, dtype=np.uint8))
    statistics = Statistics.of(network.features(noise))
    far = reference_of(network, data).distance(statistics.mean, statistics.covariance)
    floor, standard_error = real_distance(network, data)
    assert 0 < floor < far / 10
    assert 0 < standard_error < floor


def altered_digits():
    """Generated images, so to speak: the training digits with some pixels replaced."""
    images = digits().train_images[:400].copy()
    generator = np.random.default_rng(0)
    replaced = generator.random(images.shape) < 0.3
    images[replaced] = generator.integers(0, 256, replaced.sum())
    return images


@torch.no_grad()
def test_torch_fidelity_agrees(classifier_path):
    from torch_fidelity import calculate_metrics

    generated, real = altered_digits(), digits().test_images
    metrics = calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=5,
        kid_subset_size=200,
        feature_extractor=register_with_torch_fidelity(),
        feature_extractor_weights_path=str(classifier_path),
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    network = load_classifier(classifier_path)
    first, second = (Statistics.of(network.features(torch.from_numpy(images))) for images in (generated, real))
    ours = Reference.of(second).distance(first.mean, first.covariance)
    assert ours > 1
    assert metrics["frechet_inception_distance"] == pytest.approx(ours, rel=1e-6)
    assert metrics["kernel_inception_distance_mean"] > 0
    assert 0 < metrics["precision"] < 1
    assert 0 < metrics["recall"] < 1


def test_registering_twice_is_harmless():
    assert register_with_torch_fidelity() == register_with_torch_fidelity() == "digits-cnn"


@pytest.mark.parametrize("name", ["steps", "batch_size", "dimensions"])
def test_bad_values_are_refused(name):
    with pytest.raises(ValueError, match=name):
        ClassifierConfig(**{name: 0})
