"""`autonat train-features`: a feature network for a metric where Inception is not wanted, trained as a classifier.

N images, S pixels a side.
"""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from models.resnet import ResNetConfig
    from models.resnet_training import LabelledImages, ResNetTraining


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose; None: as ``settings`` has it for the device. size: centre crop to so many pixels first."""

    name: str = "cifar10-resnet"
    device: str = "cpu"
    seed: int = 0
    size: int | None = None
    width: int | None = None
    blocks: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    precision: str | None = None
    threads: int = 0


def settings(options: Options, image_size: int, num_classes: int) -> "tuple[ResNetConfig, ResNetTraining]":
    """Sizes and training for a device: minutes on one core, or a larger network on a GPU."""
    from models.resnet import ResNetConfig
    from models.resnet_training import ResNetTraining

    network, training = ResNetConfig(), ResNetTraining()
    if options.device != "cpu":
        network = ResNetConfig(width=64, blocks=2, fine_stem=True)
        training = ResNetTraining(epochs=40, batch_size=512, learning_rate=0.4, precision="bfloat16")
    chosen = asdict(options)
    sizes: dict[str, Any] = {key: chosen[key] for key in ("width", "blocks") if chosen[key] is not None}
    keys = ("epochs", "batch_size", "learning_rate", "precision")
    changes: dict[str, Any] = {key: chosen[key] for key in keys if chosen[key] is not None}
    return replace(network, image_size=image_size, num_classes=num_classes, **sizes), replace(training, **changes)


def run(train: str, test: str, out: Path, options: Options, console: "Console") -> None:
    """Train, measure, write. Everything the user can mend is a UserError in one line."""
    import torch

    from autonat.image_progress import ImageProgress
    from models.feature_files import NAME_PATTERN, save_features
    from models.files import File
    from models.resnet_training import accuracy, train_resnet

    if not re.fullmatch(NAME_PATTERN, options.name):
        raise UserError(f"--name {options.name!r}: letters, digits, dots, dashes and underscores are meant, at most 64")
    if options.name.lower() in ("inception", "fid"):
        raise UserError(f"--name {options.name!r} is the name of another metric")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: weights are written as .safetensors")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {options.device}: this machine has no CUDA device")
    torch.set_num_threads(1)  # the number of threads decides the last bits
    try:
        training_set, test_set = (read_labelled(source, options, console) for source in (train, test))
        num_classes = int(training_set.labels.max()) + 1
        if int(test_set.labels.max()) >= num_classes or test_set.images.shape[1:] != training_set.images.shape[1:]:
            raise UserError(f"{test} has other classes or sizes than {train}")
        network_config, config = settings(options, training_set.images.shape[2], num_classes)
        steps = config.epochs * (len(training_set.labels) // config.batch_size)
        with ImageProgress(console, steps, what="steps") as progress:
            network = train_resnet(
                network_config,
                config,
                training_set,
                options.seed,
                device=options.device,
                on_progress=lambda reached: progress.reach(reached.step),
            )
        found = accuracy(network.to(options.device), test_set)
        network = network.cpu()
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch's word for a device that is not there
        raise UserError(str(error)) from error
    about = {
        "training": asdict(config),
        "seed": options.seed,
        "device": options.device,
        "train": _about(train, training_set),
        "test": _about(test, test_set),
    }
    save_features(out, network, options.name, found, about)
    sha256 = File(str(out)).looked_at().sha256
    console.print(
        f"{out}: {options.name}, {network_config.dimensions} features, test accuracy {100 * found:.2f}% of "
        f"{len(test_set.labels):,} images\nSHA-256 {sha256}",
        highlight=False,
        soft_wrap=True,
    )


def read_labelled(path: str, options: Options, console: "Console") -> "LabelledImages":
    """All images of a source in memory. Unreadable ones are named and left out. Raises UserError without classes."""
    from models.image_sources import images, open_source
    from models.resnet_training import LabelledImages

    source = open_source(path)
    if source.labels_N is None:
        raise UserError(f"{path} has no classes: a feature network is trained as a classifier")
    found = list(
        images(
            source,
            options.size,
            threads=options.threads,
            on_unreadable=lambda entry: console.print(f"left out: {entry.name}: {entry.reason}", highlight=False),
        )
    )
    sizes = {entry.image_CHW.shape for entry in found}
    if not found:
        raise UserError(f"{path} holds no readable images")
    if len(sizes) > 1 or next(iter(sizes))[1] != next(iter(sizes))[2]:
        raise UserError(f"{path} holds images of several sizes, or not square ones: choose one with --size")
    labels = np.array([entry.label for entry in found], dtype=np.int64)
    if labels.min() < 0:
        raise UserError(f"{path} has a negative class, {labels.min()}: not labelled?")
    return LabelledImages(np.stack([entry.image_CHW for entry in found]), labels)


def _about(path: str, data: "LabelledImages") -> dict[str, Any]:
    return {"source": Path(path).name, "images": len(data.labels), "sha256": data.sha256()}
