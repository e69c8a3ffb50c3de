"""`autonat statistics`: the reference statistics of a data source, for FID and the other metrics.

B images a batch, 3 colours, H x W pixels.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autonat.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from models.image_sources import ImageSource, Unreadable
    from models.inception import InceptionFeatures
    from models.statistics_files import StoredStatistics

PIECE_ROWS = 1024


def compute_statistics(
    source: "ImageSource",
    features: "InceptionFeatures",
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
    from models.image_sources import images
    from models.metrics import FeatureSample
    from models.statistics_files import StoredStatistics

    def feature_batches() -> "Iterator[Tensor]":
        found = (entry.image_CHW for entry in images(source, size, threads=threads, on_unreadable=on_unreadable))
        done = 0
        for batch_BCHW in batches(found, features.batch_size):
            yield features.features(batch_BCHW)
            done += len(batch_BCHW)
            on_progress(done, len(source))

    statistics: Statistics | None = None
    sample: FeatureSample | None = None
    for piece in pieces(feature_batches(), PIECE_ROWS):
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


def run(
    source: str,
    weights: Path,
    out: Path,
    *,
    features: str,
    resize: str,
    size: int | None,
    keep: int,
    sha256: str | None,
    device: str,
    threads: int,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compute and write. Everything the user can mend is a UserError in one line."""
    from models.image_sources import open_source
    from models.inception import PUBLISHED_SHA256, InceptionFeatures, MetricProtocol
    from models.statistics_files import WRITTEN, write_statistics

    if features != InceptionFeatures.name:
        raise UserError(f"unknown features {features!r}, expected {InceptionFeatures.name}")
    if out.suffix not in WRITTEN:
        raise UserError(f"--out {out}: statistics are written as {' or '.join(WRITTEN)}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    try:
        protocol = MetricProtocol(resize=resize)  # type: ignore[arg-type]  # checked by the class itself
        opened = open_source(source)
        network = InceptionFeatures(weights, protocol, expected_sha256=sha256 or PUBLISHED_SHA256, device=device)
        stored = compute_statistics(
            opened,
            network,
            size=size,
            keep=keep,
            threads=threads,
            on_progress=on_progress,
            on_unreadable=lambda entry: say(f"left out: {entry.name}: {entry.reason}"),
        )
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch's word for a device that is not there
        raise UserError(str(error)) from error
    write_statistics(out, stored)
    kept = len(stored.features) if stored.features is not None else 0
    say(f"{out}: {stored.count:,} images, {network.dimensions} features, {resize} resize; features kept of {kept:,}")
