"""Inception features as torch-fidelity computes them, from a weights file that is verified before anything reads it.

B images of H x W pixels, 2,048 features, 1,008 classes.
"""

import hashlib
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import CheckpointError

# One file under two names: pt_inception-2015-12-05-6726825d.pth (pytorch-fid) and
# weights-inception-2015-12-05-6726825d.pth (torch-fidelity), converted from TensorFlow's inception-2015-12-05.tgz.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

INPUT_SIZE = 299


@dataclass(frozen=True, slots=True)
class MetricProtocol:
    """What a number depends on besides the images: numbers of different protocols do not compare.

    images: ``uint8`` as saved PNGs hold them, or ``float`` in [0, 1], clamped and never rounded.
    resize: to 299 x 299, ``tensorflow1`` (torch-fidelity) or ``bilinear`` with ``align_corners=False`` and no
    antialiasing (pytorch-fid). label_balance: every class equally often, or labels drawn at random.
    """

    images: Literal["uint8", "float"] = "uint8"
    resize: Literal["tensorflow1", "bilinear"] = "tensorflow1"
    label_balance: Literal["balanced", "random"] = "balanced"
    num_images: int = 50_000

    def __post_init__(self) -> None:
        allowed = {
            "images": ("uint8", "float"),
            "resize": ("tensorflow1", "bilinear"),
            "label_balance": ("balanced", "random"),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {getattr(self, name)!r}")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")

    def label(self) -> str:
        """A short form for tables, for instance ``uint8, tensorflow1, balanced, 50,000 images``."""
        return f"{self.images}, {self.resize}, {self.label_balance}, {self.num_images:,} images"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


TORCH_FIDELITY = MetricProtocol()
# torch-fidelity as the text-to-image code of AdaNAT changed it: images never become uint8.
ADANAT = MetricProtocol(images="float", resize="bilinear", label_balance="random", num_images=30_000)


class InceptionFeatures:
    """The 2015 Inception network: pool features for FID, KID and precision/recall, logits for the Inception Score."""

    name = "inception"
    dimensions = 2048

    def __init__(
        self,
        weights: Path,
        protocol: MetricProtocol = TORCH_FIDELITY,
        *,
        expected_sha256: str = PUBLISHED_SHA256,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
    ) -> None:
        """Load `weights`, a state dict in torch-fidelity's layout.

        `expected_sha256` (at least its first 8 hexadecimal digits) is compared before the file is parsed. At most
        `batch_size` images go through the network at once. Raises CheckpointError where the file is not the one
        expected, or no such state dict.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.protocol, self.device, self.batch_size = protocol, torch.device(device), batch_size
        self.sha256, network = _load(Path(weights), expected_sha256)
        # Registration order is forward order; torch-fidelity's own forward takes uint8 and its own resize alone.
        *layers, classifier = network.children()
        self._trunk = nn.Sequential(*layers, nn.Flatten()).to(self.device)
        self._class_weights = classifier.weight.to(self.device)

    @property
    def images(self) -> str:
        """How images are wanted: ``uint8``, or ``float`` in [0, 1]."""
        return self.protocol.images

    def provenance(self) -> dict[str, Any]:
        """What a statistics file or a result says about these features."""
        protocol = self.protocol
        return {
            "features": self.name,
            "weights_sha256": self.sha256,
            "images": protocol.images,
            "resize": protocol.resize,
        }

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Pool features, float32 [B, 2048] on the CPU.

        images: [B, 3, H, W] of any size, uint8 or floating point in [0, 1], as the protocol says. Raises ValueError
        for another shape or type.
        """
        return self.features_and_logits(images_BCHW)[0]

    @torch.inference_mode()
    def features_and_logits(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pool features [B, 2048] and logits without bias [B, 1008] (``logits_unbiased``), float32 on the CPU."""
        features, logits = [], []
        for batch in images_BCHW.split(self.batch_size):
            pooled = self._trunk(resized(batch.to(self.device), self.protocol))
            features.append(pooled.cpu())
            logits.append(pooled.mm(self._class_weights.T).cpu())
        return torch.cat(features), torch.cat(logits)


def resized(images_BCHW: Tensor, protocol: MetricProtocol) -> Tensor:
    """Images as the network takes them: float32 [B, 3, 299, 299] in [-1, 1]. Raises ValueError for other images."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] != 3:
        raise ValueError(f"Inception needs images [B, 3, H, W], got {tuple(images_BCHW.shape)}")
    right_type = images_BCHW.dtype == torch.uint8 if protocol.images == "uint8" else images_BCHW.is_floating_point()
    if not right_type:
        raise ValueError(f"the protocol says {protocol.images} images, got {images_BCHW.dtype}")
    images = images_BCHW.to(torch.float32)
    if protocol.images == "float":
        images = images.clamp(0, 1)
    size = (INPUT_SIZE, INPUT_SIZE)
    if protocol.resize == "tensorflow1":
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        bytes_range = images if protocol.images == "uint8" else images * 255
        scaled = interpolate_bilinear_2d_like_tensorflow1x(bytes_range, size=size, align_corners=False)
        return (scaled - 128) / 128
    unit_range = images / 255 if protocol.images == "uint8" else images
    return 2 * F.interpolate(unit_range, size=size, mode="bilinear", align_corners=False) - 1


def _load(path: Path, expected_sha256: str) -> tuple[str, nn.Module]:
    """The file's SHA-256 and torch-fidelity's network with its weights, in evaluation mode."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the Inception weights {path}: {error.strerror or error}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    expected = expected_sha256.lower()
    if len(expected) < 8 or not sha256.startswith(expected):
        raise CheckpointError(
            f"{path} is not the expected Inception file: its SHA-256 is {sha256}, expected {expected}; "
            "give the hash of another file that you trust"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything
        reason = "it holds more than tensors" if "Weights only load" in str(error) else _first_line(error)
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} does not hold a state dict of tensors")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles whatever it is given; what it gets are bytes written here, from tensors alone.
    ours = io.BytesIO()
    torch.save(dict(state), ours)
    ours.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=ours)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold torch-fidelity's Inception: {_first_line(error)}") from error
    return sha256, network.eval()


def _first_line(error: Exception) -> str:
    """One line of torch's long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2])[:300]
