"""Feature networks for the Frechet distance where Inception does not fit: FD(digits-cnn), never called FID.

B images, D features.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.images import ImageSet
from models.random_streams import stream
from models.train import batch_indices


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """How the classifier behind the features is trained: Adam with a cosine learning rate."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    dimensions: int = 64
    kind: Literal["classifier"] = "classifier"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "dimensions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


class DigitClassifier(nn.Module):
    """A small convolutional classifier of 8x8 grey images; its penultimate activations are the features."""

    name = "digits-cnn"
    images = "uint8"

    def __init__(self, dimensions: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(48 * 16, dimensions)
        self.head = nn.Linear(dimensions, num_classes)
        # Brings the real images' covariance to trace D, so that distances have a readable size.
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 1 or 3, 8, 8] to float32 [B, D], where the network is. Of three channels (torch-fidelity's form)
        the first is read."""
        grey = images[:, :1].to(self.scale.device, torch.float32) / 255
        return F.relu(self.hidden(self.convolutions(grey).flatten(1))) * self.scale

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images) / self.scale)


def train_classifier(config: ClassifierConfig, data: ImageSet, seed: int) -> tuple[DigitClassifier, float]:
    """Train on the training part; returns the classifier (evaluation mode) and its test accuracy."""
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    network = DigitClassifier(config.dimensions, data.num_classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                parameter.zero_()
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(config.steps):
        index = torch.from_numpy(batch_indices(len(labels), config.batch_size, step, seed))
        # One pixel of random shift makes the features depend on shape rather than place.
        shift = stream(seed, "shift", step).integers(-1, 2, size=2).tolist()
        loss = F.cross_entropy(network(images[index].roll(shift, dims=(2, 3))), labels[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        spread = network.features(images).double().var(dim=0).sum()
        network.scale.copy_((config.dimensions / spread).sqrt())
        predicted = network(torch.from_numpy(data.test_images)).argmax(1)
        accuracy = (predicted == torch.from_numpy(data.test_labels)).double().mean()
    return network, float(accuracy)


def save_classifier(path: Path, network: DigitClassifier, accuracy: float) -> None:
    dimensions, num_classes = network.hidden.out_features, network.head.out_features
    save_tensors(
        path,
        network.state_dict(),
        {"classifier": network.name, "dimensions": dimensions, "num_classes": num_classes, "test_accuracy": accuracy},
    )


def load_classifier(path: Path) -> DigitClassifier:
    """The classifier of a file, in evaluation mode. Raises CheckpointError where it is not one."""
    tensors, metadata = load_tensors(path)
    try:
        network = DigitClassifier(metadata["dimensions"], metadata["num_classes"])
        network.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a feature network of this project: {error}") from error
    return network.eval()


def register_with_torch_fidelity() -> str:
    """Make the features known to torch-fidelity, so that its FID, KID and precision/recall run on them.

    Returns the extractor's name; give it and the classifier's file as `feature_extractor` and
    `feature_extractor_weights_path` to ``torch_fidelity.calculate_metrics``.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import register_feature_extractor

    class DigitsExtractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any) -> None:
            super().__init__(name, features_list)
            self.classifier = load_classifier(Path(feature_extractor_weights_path))

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("penultimate",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "penultimate"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            # float64, as torch-fidelity takes means and covariances in the features' own precision.
            return (self.classifier.features(images).double(),)

    try:
        register_feature_extractor(DigitClassifier.name, DigitsExtractor)
    except Exception as error:  # torch-fidelity raises a plain Exception for a name it knows
        if "already registered" not in str(error):
            raise
    return DigitClassifier.name
