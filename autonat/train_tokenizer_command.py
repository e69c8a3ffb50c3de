"""`autonat train-tokenizer`: an autoencoder of small images trained from a recipe, and how well it does.

N images, C channels, H x W pixels.
"""

import io
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autonat.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from autonat.tokenizer_config import TokenizerRecipe
    from models.files import File
    from models.train_tokenizer import Reconstruction

PICTURES = (8, 8)  # rows and columns of pairs: an image, its reconstruction


@dataclass(frozen=True, slots=True)
class Options:
    """What does not change the trained file. features: a feature network's file, to measure the distance of
    reconstructions with. pictures: a PNG of test images beside their reconstructions."""

    features: Path | None = None
    pictures: Path | None = None
    threads: int = 1


def train_tokenizer(recipe: "TokenizerRecipe", out: Path, options: Options, console: "Console") -> None:
    """Train, or go on with a training that was interrupted; write ``out``; say how well it does.

    A file that this recipe made is only measured again. UserError in one line for what the user can mend.
    """
    import torch

    torch.set_num_threads(options.threads)
    _require_places(out, options)
    try:
        _run(recipe, out, options, console)
    except ValueError as error:  # of sources, checkpoints and sizes that do not fit
        raise UserError(str(error)) from error


def _require_places(out: Path, options: Options) -> None:
    """Raises UserError before minutes are spent on what cannot be written."""
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a tokenizer is written as .safetensors")
    for path in (out, options.pictures):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}")
    if options.features is not None and not options.features.is_file():
        raise UserError(f"--features {options.features}: no such file")


def _run(recipe: "TokenizerRecipe", out: Path, options: Options, console: "Console") -> None:
    import torch

    from autonat.execution.worker import device_of
    from autonat.storage.artifacts import file_sha256
    from models.checkpoint import load_metadata, save_tensors
    from models.tokenizer import load_tokenizer
    from models.train_tokenizer import reconstruct

    device, job = device_of(recipe.compute), recipe.job()
    done = load_metadata(out).get("tokenizer", {}) if out.exists() else None
    if done is not None and done.get("job") != job:
        raise UserError(f"{out} holds something else than this recipe makes: choose another --out")
    test_NCHW = _read(recipe.test, recipe, console)
    started = time.monotonic()
    if done is None:
        train_NCHW = _read(recipe.train, recipe, console).to(device)
        started = time.monotonic()
        state = out.with_name(f".{out.name}.training")
        network = _train(recipe, train_NCHW, state, console)
        facts = {"job": job, "torch": torch.__version__, "train_images": len(train_NCHW)}
        save_tensors(out, network.state_dict(), {"network": network.config.to_dict(), "tokenizer": facts})
        state.unlink(missing_ok=True)
    trained = time.monotonic()
    tokenizer = load_tokenizer(out, device=device)
    pairs: list[Tensor] = []
    result = reconstruct(tokenizer, test_NCHW, pairs.append)
    for line in _report(result, tokenizer.codebook_size):
        _say(console, line)
    painted_NCHW = torch.cat(pairs)
    if options.features is not None:
        _say(console, _distance(options.features, test_NCHW, painted_NCHW, device))
    if options.pictures is not None:
        _write_pictures(options.pictures, test_NCHW, painted_NCHW)
        _say(console, f"{options.pictures}: test images, each beside its reconstruction")
    spent = "as it was" if done is not None else f"trained in {trained - started:.0f} s"
    _say(console, f"{out}: {spent}, SHA-256 {file_sha256(out)}")


def _read(file: "File", recipe: "TokenizerRecipe", console: "Console") -> "Tensor":
    """A source's readable images, uint8 [N, C, H, W]."""
    import torch

    from models.image_sources import images, open_source

    network = recipe.network
    found = images(
        open_source(file.place),
        network.image_size,
        grey=network.image_channels == 1,
        on_unreadable=lambda entry: _say(console, f"left out: {entry.name}: {entry.reason}"),
    )
    read = [entry.image_CHW for entry in found]
    if not read:
        raise UserError(f"{file.path} holds no readable images")
    return torch.from_numpy(np.stack(read))


def _train(recipe: "TokenizerRecipe", train_NCHW: "Tensor", state: Path, console: "Console") -> Any:
    from autonat.image_progress import ImageProgress
    from models.train_tokenizer import train_tokenizer as train

    training = recipe.training
    every = max(1, training.steps // 10)
    with ExitStack() as stack:
        bar: ImageProgress

        def begin(step: int) -> None:
            nonlocal bar
            if step:
                _say(console, f"going on after {step:,} of {training.steps:,} steps")
            counted = ImageProgress(console, training.steps * training.batch_size, step * training.batch_size)
            bar = stack.enter_context(counted)

        def reach(step: int, squared_error: float) -> None:
            bar.reach(step * training.batch_size)
            if step % every == 0:
                bar.say(f"step {step:,} of {training.steps:,}: squared error {squared_error:.5f}")

        return train(
            recipe.network,
            training,
            train_NCHW,
            recipe.seed,
            state_path=state,
            precision=recipe.compute.precision,
            compiled=recipe.compiled,
            on_start=begin,
            progress=reach,
            progress_every=max(1, math.gcd(every, 20)),
        )


def _report(result: "Reconstruction", codebook_size: int) -> list[str]:
    return [
        f"reconstruction of {result.num_images:,} test images: squared error {result.squared_error:.5f}, "
        f"PSNR {result.psnr:.2f} dB",
        f"codes used {100 * result.codes_used:.1f}% of {codebook_size:,}, perplexity {result.perplexity:.0f}",
    ]


def _distance(file: Path, test_NCHW: "Tensor", painted_NCHW: "Tensor", device: Any) -> str:
    """The distance of reconstructions to the test images: what no generator on these tokens can be expected to beat."""
    from models.feature_files import NetworkFeatures
    from models.frechet import Reference, accumulate

    features = NetworkFeatures(file, device=device)
    real, painted = (
        accumulate(features.features(part) for part in images_NCHW.split(500))
        for images_NCHW in (test_NCHW, painted_NCHW)
    )
    distance = Reference.of(real).distance(painted.mean, painted.covariance)
    return f"FD({features.name}) of reconstructions to the {real.count:,} test images: {distance:.3f}"


def _write_pictures(path: Path, test_NCHW: "Tensor", painted_NCHW: "Tensor") -> None:
    from PIL import Image

    from autonat.storage.files import write_atomically

    rows, columns = PICTURES
    pairs_NCHW = np.concatenate([test_NCHW.numpy(), painted_NCHW.cpu().numpy()], axis=-1)[: rows * columns]
    blank = np.full((rows * columns - len(pairs_NCHW), *pairs_NCHW.shape[1:]), 255, dtype=np.uint8)
    cells = np.concatenate([pairs_NCHW, blank]).reshape(rows, columns, *pairs_NCHW.shape[1:])
    # Rows of cells, pixels' rows, columns of cells, pixels' columns, channels.
    canvas = cells.transpose(0, 3, 1, 4, 2).reshape(rows * cells.shape[3], columns * cells.shape[4], -1)
    picture = Image.fromarray(canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas)
    content = io.BytesIO()
    picture.resize((3 * picture.width, 3 * picture.height), Image.Resampling.NEAREST).save(content, format="PNG")
    write_atomically(path, content.getvalue())


def _say(console: "Console", line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
