"""Commands beside studies: networks' costs, data, feature networks, tokenizers, captions."""

from pathlib import Path
from typing import Annotated

import typer

from autonat.cli.application import app
from autonat.cli.shared import DecodingThreadsOption, JsonOption, OverridesArgument, make_console

PANEL = "Networks and data"


@app.command(
    rich_help_panel=PANEL,
    epilog="Examples: autonat cost ENAT-L --steps 8    autonat cost nnet_ema.pth --schedule strategy.yaml --measure",
)
def cost(
    network: Annotated[str, typer.Argument(help="A preset (AutoNAT-S, ENAT-L, ...) or the path of a checkpoint.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Decoding steps of the published schedule; 8 unless said.")
    ] = None,
    schedule_file: Annotated[
        Path | None, typer.Option("--schedule", help="A schedule file, in any form that `autonat import` reads.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also time sampling, random weights if need be.")] = False,
    device: Annotated[str, typer.Option(help="Where to measure: cpu, cuda, cuda:1, ...")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Images a batch when measuring.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Timed batches; the median counts.")] = 5,
    heads: Annotated[int | None, typer.Option(min=1, help="Heads of an official checkpoint of no preset.")] = None,
    encoder_blocks: Annotated[int | None, typer.Option(min=0, help="Encoder blocks of such an ENAT.")] = None,
    context_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens a caption of such a text network.")] = None,
    json_file: JsonOption = None,
) -> None:
    """What a network costs an image: parameters, memory, operations step by step and, with --measure, time."""
    import json

    from autonat import cost_command
    from autonat.storage.files import write_atomically

    told = {"heads": heads, "encoder_blocks": encoder_blocks, "context_tokens": context_tokens}
    told = {name: value for name, value in told.items() if value is not None}
    subject = cost_command.find_subject(network, load=measure, told=told)
    counted = cost_command.cost_of(subject, cost_command.schedule_of(schedule_file, subject.config, steps))
    console = make_console()
    console.print("\n".join(cost_command.summary_lines(counted)), highlight=False)
    console.print(cost_command.step_table(counted))
    latency = cost_command.measure(counted, device, batch, runs) if measure else None
    if latency is not None:
        console.print(cost_command.latency_line(latency), highlight=False)
    if json_file is not None:
        write_atomically(json_file, (json.dumps(cost_command.as_json(counted, latency), indent=2) + "\n").encode())


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: autonat data cifar10 --train cifar10/train.parquet --test cifar10/test.parquet",
)
def data(
    name: Annotated[str, typer.Argument(help="The data set: cifar10.")] = "cifar10",
    train: Annotated[str | None, typer.Option(help="Check this file of training images.", show_default=False)] = None,
    test: Annotated[str | None, typer.Option(help="Check this file of test images.", show_default=False)] = None,
    archive: Annotated[
        Path | None, typer.Option(help="The official archive, to be unpacked into --to.", show_default=False)
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where prepared files go. Default: files/NAME.")] = None,
    device: Annotated[str, typer.Option(help="Commands for the study on cpu or cuda.")] = "cpu",
) -> None:
    """Say where to get a data set, check its files, and print the commands that prepare a study."""
    from autonat.data_command import run as show

    show(name, train, test, archive, to if to is not None else Path("files") / name, device, make_console())


@app.command(
    "train-features",
    rich_help_panel=PANEL,
    epilog="Example: autonat train-features --train train.parquet --test test.parquet --out features.safetensors",
)
def train_features(
    train: Annotated[str, typer.Option(help="Labelled images: a folder (one folder a class), .parquet, or .npz.")],
    test: Annotated[str, typer.Option(help="Labelled images for the test accuracy.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    name: Annotated[str, typer.Option(help="What the metric is called: FD(NAME).")] = "cifar10-resnet",
    device: Annotated[str, typer.Option(help="cpu: a small network; cuda: a large one.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes another network.")] = 0,
    size: Annotated[int | None, typer.Option(min=8, help="Centre crop to so many pixels first.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels; the features have 4 times as many.")] = None,
    blocks: Annotated[int | None, typer.Option(min=1, help="Residual blocks in each of three stages.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    threads: DecodingThreadsOption = 0,
) -> None:
    """Train a feature network on labelled images, for a metric of your own in place of FID."""
    from autonat.train_features_command import Options
    from autonat.train_features_command import run as train_network

    options = Options(name, device, seed, size, width, blocks, epochs, batch_size, learning_rate, precision, threads)
    train_network(train, test, out, options, make_console())


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: autonat statistics imagenet/train --weights inception.pth --size 256 --out train.npz",
)
def statistics(
    source: Annotated[str, typer.Argument(help="Images: a folder (one folder a class), .parquet, or .npz.")],
    out: Annotated[Path, typer.Option(help="The .npz (mu, sigma) or .safetensors file to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="The Inception weights file; its hash is verified first.", show_default=False)
    ] = None,
    features: Annotated[str, typer.Option(help="inception, or a file of `autonat train-features`.")] = "inception",
    test: Annotated[
        str | None, typer.Option(help="Other real images: their distance is the floor.", show_default=False)
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="Inception's, to 299 pixels: tensorflow1 or bilinear.", show_default="tensorflow1"),
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Centre crop to so many pixels first.")] = None,
    keep: Annotated[int, typer.Option(min=0, help="Images whose features are kept for KID, precision, recall.")] = 0,
    sha256: Annotated[str | None, typer.Option(help="Hash of other weights that you trust.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: DecodingThreadsOption = 0,
) -> None:
    """Compute a data source's reference statistics, what FID compares generated images with."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from autonat.statistics_command import run as compute

    console = make_console()
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("images", total=None)
        compute(
            source,
            weights,
            out,
            features=features,
            resize=resize,
            size=size,
            keep=keep,
            sha256=sha256,
            device=device,
            threads=threads,
            say=lambda line: console.print(line, highlight=False),
            test=test,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


@app.command(
    "train-tokenizer",
    rich_help_panel=PANEL,
    epilog="Example: autonat train-tokenizer cifar10_cpu --out tokenizer.safetensors",
)
def train_tokenizer(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe in studies/tokenizers/.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write; the same command goes on with it.")],
    overrides: OverridesArgument = None,
    features: Annotated[
        Path | None, typer.Option(help="A file of `autonat train-features`, for the reconstructions' distance.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="A PNG to write: test images, each beside its reconstruction.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads on a CPU. Other numbers, other last bits.")] = 1,
) -> None:
    """Train a tokenizer of small images from a recipe, and say how well it gives images back."""
    from autonat.tokenizer_config import load_tokenizer_recipe
    from autonat.train_tokenizer_command import Options
    from autonat.train_tokenizer_command import train_tokenizer as train

    train(load_tokenizer_recipe(recipe, overrides or ()), out, Options(features, pictures, threads), make_console())


@app.command(
    rich_help_panel=PANEL,
    epilog="Example: autonat tokenize imagenet/train --tokenizer vqgan_jax_strongaug.ckpt --out tokens",
)
def tokenize(
    source: Annotated[Path, typer.Argument(help="Images: a folder (one folder a class), .parquet, or .npz.")],
    tokenizer: Annotated[str, typer.Option(help="A file of `autonat train-tokenizer`, a VQGAN's, or digits.")],
    out: Annotated[Path, typer.Option(help="The folder to write; the same command goes on with an unfinished one.")],
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Centre crop to so many pixels. Default: the tokenizer's, a VQGAN's 256."),
    ] = None,
    flip: Annotated[bool, typer.Option(help="Also the copies flipped left to right, for training.")] = True,
    split: Annotated[str, typer.Option(help="Name of the file in the official layout.")] = "train",
    official: Annotated[bool, typer.Option(help="Write the official SPLIT.npy beside our smaller tokens.npy.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: DecodingThreadsOption = 0,
    label_column: Annotated[
        str | None, typer.Option(help="The Parquet column of classes. Default: label.", show_default=False)
    ] = None,
) -> None:
    """Turn images into token files for training. Unreadable images are named and skipped."""
    from autonat.tokenize_command import Options
    from autonat.tokenize_command import tokenize as write_tokens

    options = Options(tokenizer, size, flip, split if official else None, batch_size, device, threads, label_column)
    write_tokens(source, out, options, make_console())


@app.command(
    "encode-captions",
    rich_help_panel=PANEL,
    epilog="Example: autonat encode-captions val.tsv --clip CLIP-ViT-bigG-14 --out contexts.npy",
)
def encode_captions(
    table: Annotated[Path, typer.Argument(help="Captions: .tsv or .csv with a header, or .parquet.")],
    clip: Annotated[Path, typer.Option(help="A folder with CLIP's text encoder and tokenizer (transformers' layout).")],
    out: Annotated[Path, typer.Option(help="The .npy to write; the same command goes on with an unfinished one.")],
    column: Annotated[str, typer.Option(help="The column of captions.")] = "caption",
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Captions encoded at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Encode captions for a text-conditional network: one row a caption, the null context last."""
    from autonat.captions_command import run as encode

    encode(table, clip, out, make_console(), column=column, dtype=dtype, batch_size=batch_size, device=device)
