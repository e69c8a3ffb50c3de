"""`autonat data`: where to get images that are not part of the project, whether files hold them, and what is next."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class DataSet:
    """What is known of a public data set. counts: images of the training and of the test part."""

    title: str
    source: str
    obtain: tuple[str, ...]
    size: int
    classes: tuple[str, ...]
    counts: tuple[int, int]


KNOWN = {
    "cifar10": DataSet(
        title="CIFAR-10: 60,000 colour images of 32x32 pixels in 10 classes",
        source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
        obtain=(
            "The Hugging Face data set uoft-cs/cifar10: its plain_text/train-*.parquet and plain_text/test-*.parquet",
            "are read as they are: hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10",
            "The official archive, cifar-10-binary.tar.gz at https://www.cs.toronto.edu/~kriz/cifar.html, has the same",
            "images: autonat data cifar10 --archive cifar-10-binary.tar.gz writes train.npz and test.npz.",
            "Copies stored as JPEG are other images: distances to them do not compare with distances to these.",
        ),
        size=32,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        counts=(50_000, 10_000),
    )
}


def run(
    name: str, train: str | None, test: str | None, archive: Path | None, to: Path, device: str, console: "Console"
) -> None:
    """Say how to obtain a data set, check the files that are given, and say what prepares them for a study.

    archive: the official one, unpacked into `to` first. Raises UserError where a file is not what it should be.
    """
    if name not in KNOWN:
        raise UserError(f"unknown data set {name!r}: {', '.join(KNOWN)}")
    known = KNOWN[name]
    if archive is not None:
        from models.cifar_archive import ArchiveError, unpack

        if train is not None or test is not None:
            raise UserError("give either --archive or --train and --test")
        try:
            written = unpack(archive, to)
        except ArchiveError as error:
            raise UserError(f"--archive {error}") from error
        train, test = (str(path) for path in written)
    lines = []
    if train is None and test is None:
        lines += [known.title, f"  {known.source}", "", *known.obtain]
    for option, path, count in (("--train", train, known.counts[0]), ("--test", test, known.counts[1])):
        if path is not None:
            lines.append(checked(option, path, known, count))
    console.print("\n".join([*lines, "", *commands(name, train, test, to, device)]).strip(), soft_wrap=True)


def checked(option: str, path: str, known: DataSet, count: int) -> str:
    """One line on a file that holds what it should. Raises UserError for one that does not."""
    import numpy as np

    from models.image_sources import SourceError, images, open_source

    try:
        source = open_source(path)
        if len(source) != count:
            raise UserError(f"{option} {path} has {len(source):,} images, not {count:,}")
        if source.labels_N is None:
            raise UserError(f"{option} {path} has no labels")
        classes, each = np.unique(source.labels_N, return_counts=True)
        if classes.tolist() != list(range(len(known.classes))) or len(set(each)) > 1:
            raise UserError(f"{option} {path}: labels are not {len(known.classes)} classes of equal size")
        for entry in images(source):
            if entry.image_CHW.shape != (3, known.size, known.size):
                shape = "x".join(map(str, entry.image_CHW.shape[1:]))
                raise UserError(f"{option} {path}: {entry.name} is {shape}, not {known.size}x{known.size} pixels")
    except SourceError as error:
        raise UserError(f"{option}: {error}") from error
    return f"{path}: {count:,} images of {known.size}x{known.size} pixels, {len(each)} classes of {each[0]:,} each"


def commands(name: str, train: str | None, test: str | None, to: Path, device: str) -> list[str]:
    """What makes the files of the recipes studies/cifar10*.yaml, and runs them."""
    train, test = shlex.quote(train or "TRAIN"), shlex.quote(test or "TEST")
    recipe = name if device == "cuda" else f"{name}_cpu"
    tokenizer, features, tokens, statistics = (
        shlex.quote(str(to / part))
        for part in ("tokenizer.safetensors", "features.safetensors", "tokens", "statistics.npz")
    )
    on = " --device cuda" if device == "cuda" else ""
    places = ""
    if to != Path("files") / name:  # the recipe's own
        written = shlex.quote(str(to / "tokens" / "tokens.npy"))
        places = f" data.tokenizer={tokenizer} data.tokens={written}"
        places += f" features.weights={features} features.reference={statistics}"
    return [
        "What prepares a study, once:",
        f"  mkdir -p {shlex.quote(str(to))}",
        f"  autonat train-features --train {train} --test {test}{on} --out {features}",
        f"  autonat train-tokenizer {recipe} train={train} test={test} --features {features} --out {tokenizer}",
        f"  autonat tokenize {train} --tokenizer {tokenizer}{on} --out {tokens}",
        f"  autonat statistics {train} --features {features} --test {test} --keep 10000{on} --out {statistics}",
        "and then",
        f"  autonat run {recipe}{places}",
    ]
