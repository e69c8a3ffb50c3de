"""`autonat statistics`: the reference statistics of a data source, for FID, FD and the other metrics.

B images a batch, 3 colours, H x W pixels; N images, D features.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from autonat.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from models.image_sources import ImageSource, Unreadable
    from models.statistics_files import StoredStatistics

PIECE_ROWS = 1024
INCEPTION = "inception"


class Network(Protocol):
    """A feature network with a file of its own: Inception, or one of `autonat train-features`."""

    batch_size: int

    @property
    def dimensions(self) -> int: ...

    def features(self, images_BCHW: "Tensor") -> "Tensor": ...

    def provenance(self) -> dict[str, Any]: ...


def compute_statistics(
    source: "ImageSource",
    features: Network,
    *,
    size: int | None = None,
    keep: int = 0,
    threads: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_unreadable: Callable[["Unreadable"], None] = lambda entry: None,
) -> "StoredStatistics":
    """Mean and covariance of a source's features, and a sample of `keep` images' features.

    size: centre crop to so many pixels first; None leaves images as they are. Images are read one after the other and
    at most about a thousand are in memory as features. Raises UserError where fewer than two images can be read.
    """
    from models.frechet import Statistics, pieces
    from models.metrics import FeatureSample
    from models.statistics_files import StoredStatistics

    found = feature_batches(source, features, size, threads, on_progress, on_unreadable)
    statistics: Statistics | None = None
    sample: FeatureSample | None = None
    for piece in pieces(found, PIECE_ROWS):
        if keep:
            part = FeatureSample.of(piece, statistics.count if statistics else 0, keep)
            sample = sample.merge(part) if sample else part
        own = Statistics.of(piece)
        statistics = statistics.merge(own) if statistics else own
    if statistics is None or statistics.count < 2:
        raise UserError(f"{source.path} holds fewer than two readable images: no statistics can be taken")
    provenance = {
        **features.provenance(),
        "source": source.path.name,
        "source_identity": source.identity(),
        "size": size,
        "left_out": len(source) - statistics.count,
    }
    return StoredStatistics.of(statistics, provenance, sample.rows if sample else None)


def with_floor(stored: "StoredStatistics", test_ND: "Tensor", source: "ImageSource") -> "StoredStatistics":
    """The statistics with the floor in their provenance: the distance of real test images to them, with its standard
    error. A small sample reads high. Raises UserError for fewer than 40 images, two in each of 20 parts."""
    from models.frechet import distance_of_features

    if len(test_ND) < 40:
        raise UserError(f"--test {source.path} holds {len(test_ND)} readable images: a floor needs at least 40")
    value, error = distance_of_features(stored.reference(), test_ND)
    floor = {"value": value, "standard_error": error, "num_images": len(test_ND)}
    about = {"floor": floor, "floor_source": source.path.name, "floor_source_identity": source.identity()}
    return replace(stored, provenance={**stored.provenance, **about})


def feature_batches(
    source: "ImageSource",
    features: Network,
    size: int | None = None,
    threads: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_unreadable: Callable[["Unreadable"], None] = lambda entry: None,
) -> "Iterator[Tensor]":
    """Features [B, D] of a source's images in order."""
    from models.image_sources import images

    found = (entry.image_CHW for entry in images(source, size, threads=threads, on_unreadable=on_unreadable))
    done = 0
    for batch_BCHW in batches(found, features.batch_size):
        yield features.features(batch_BCHW)
        done += len(batch_BCHW)
        on_progress(done, len(source))


def batches(images_CHW: Iterator[np.ndarray], batch_size: int) -> "Iterator[Tensor]":
    """Neighbours of one size together, uint8 [B, 3, H, W], at most `batch_size` of them."""
    import torch

    waiting: list[np.ndarray] = []
    for image in images_CHW:
        if waiting and (len(waiting) == batch_size or image.shape != waiting[0].shape):
            yield torch.from_numpy(np.stack(waiting))
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.from_numpy(np.stack(waiting))


def network_of(features: str, weights: Path | None, resize: str | None, sha256: str | None, device: str) -> Network:
    """The feature network that the options say. Raises UserError where they do not go together."""
    if features != INCEPTION:
        from models.feature_files import NetworkFeatures

        if not Path(features).is_file():
            raise UserError(f"unknown features {features!r}, expected {INCEPTION} or `autonat train-features`' file")
        if weights is not None or resize is not None or sha256 is not None:
            raise UserError("--weights, --resize and --sha256 are for Inception: leave them out")
        return NetworkFeatures(Path(features), device=device)
    from models.inception import PUBLISHED_SHA256, InceptionFeatures, MetricProtocol

    if weights is None:
        raise UserError("--weights: Inception's weights file is needed (or other --features)")
    protocol = MetricProtocol(resize=resize or "tensorflow1")  # type: ignore[arg-type]  # checked by the class itself
    return InceptionFeatures(weights, protocol, expected_sha256=sha256 or PUBLISHED_SHA256, device=device)


def run(
    source: str,
    weights: Path | None,
    out: Path,
    *,
    features: str,
    resize: str | None,
    size: int | None,
    keep: int,
    sha256: str | None,
    device: str,
    threads: int,
    say: Callable[[str], None],
    test: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compute and write. test: real images for the floor. Everything the user can mend is a UserError in one line."""
    import torch

    from models.image_sources import open_source
    from models.statistics_files import WRITTEN, write_statistics

    def leave_out(entry: "Unreadable") -> None:
        say(f"left out: {entry.name}: {entry.reason}")

    if out.suffix not in WRITTEN:
        raise UserError(f"--out {out}: statistics are written as {' or '.join(WRITTEN)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    try:
        network = network_of(features, weights, resize, sha256, device)
        opened = open_source(source)
        tested = open_source(test) if test is not None else None
        stored = compute_statistics(
            opened, network, size=size, keep=keep, threads=threads, on_progress=on_progress, on_unreadable=leave_out
        )
        if tested is not None:
            parts = list(feature_batches(tested, network, size, threads, on_progress, leave_out))
            stored = with_floor(stored, torch.cat(parts) if parts else torch.empty(0, network.dimensions), tested)
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch's word for a device that is not there
        raise UserError(str(error)) from error
    write_statistics(out, stored)
    kept = len(stored.features) if stored.features is not None else 0
    resized = f", {stored.provenance['resize']} resize" if "resize" in stored.provenance else ""
    say(f"{out}: {stored.count:,} images, {network.dimensions} features{resized}; features kept of {kept:,}")
    floor = stored.provenance.get("floor")
    if floor is not None:
        say(
            f"floor, the distance of {floor['num_images']:,} real images of {stored.provenance['floor_source']}: "
            f"{floor['value']:.3f} +- {floor['standard_error']:.3f} (a small sample reads high)"
        )
