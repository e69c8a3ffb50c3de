"""Feature networks kept in files: what a metric such as FD(cifar10-resnet) is measured with.

B images of S x S pixels, D features.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.files import File, FileError
from models.resnet import ResNet, ResNetConfig

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """A file's network and what it says of itself.

    name: of the features, without "FD". test_accuracy: of the classifier on images that it was not trained on.
    about: how it was trained and on what. sha256: of the file.
    """

    network: ResNet
    name: str
    test_accuracy: float
    about: dict[str, Any]
    sha256: str


def save_features(path: Path, network: ResNet, name: str, test_accuracy: float, about: dict[str, Any]) -> None:
    """Write a folded network with its name, whole or not at all. about: plain JSON, kept as it is."""
    metadata = {
        "features": name,
        "resnet": asdict(network.config),
        "test_accuracy": test_accuracy,
        "about": about,
    }
    save_tensors(path, network.state_dict(), metadata)


def load_features(path: Path) -> FeatureFile:
    """Raises CheckpointError in one line where a file is missing, damaged or holds something else."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file of a feature network")
    tensors, metadata = load_tensors(path)
    if "resnet" not in metadata or "features" not in metadata:
        raise CheckpointError(f"{path} does not hold a feature network: `autonat train-features` makes one")
    try:
        network = ResNet(ResNetConfig(**metadata["resnet"]))
        network.load_state_dict(tensors)
        name, accuracy = str(metadata["features"]), float(metadata["test_accuracy"])
        sha256 = File(str(path)).looked_at().sha256
    except (KeyError, TypeError, ValueError, RuntimeError, FileError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} holds a damaged feature network: {reason}") from error
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CheckpointError(f"{path} holds a damaged feature network: values that are not finite")
    return FeatureFile(network.eval(), name, accuracy, metadata.get("about", {}), sha256)


class NetworkFeatures:
    """A file's feature network at work (``models.evaluate.FeatureNetwork``): images are wanted as uint8."""

    images = "uint8"

    def __init__(self, path: Path, *, device: torch.device | str = "cpu", batch_size: int = 256) -> None:
        """At most `batch_size` images go through the network at once. Raises CheckpointError for another file."""
        self.file = load_features(path)
        self.path, self.device, self.batch_size = Path(path), torch.device(device), batch_size
        self._network = self.file.network.to(memory_format=torch.channels_last).to(self.device)

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def dimensions(self) -> int:
        return self.file.network.config.dimensions

    def provenance(self) -> dict[str, Any]:
        """What a statistics file says of these features."""
        return {
            "features": self.name,
            "weights_sha256": self.file.sha256,
            "images": self.images,
            "test_accuracy": self.file.test_accuracy,
        }

    @torch.inference_mode()
    def features(self, images_BCHW: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] to float32 [B, D] on the CPU. Raises CheckpointError for other images."""
        size = self.file.network.config.image_size
        if images_BCHW.shape[1:] != (3, size, size) or images_BCHW.dtype != torch.uint8:
            raise CheckpointError(
                f"{self.path} measures {size} x {size} colour images as uint8, got {images_BCHW.dtype} "
                f"{tuple(images_BCHW.shape)}"
            )
        batches = images_BCHW.to(self.device).split(self.batch_size)
        return torch.cat([self._network.features(batch) for batch in batches]).cpu()
