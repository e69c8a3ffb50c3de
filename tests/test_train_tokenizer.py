"""Training a tokenizer: bits, stops, what a training learns, and `autonat train-tokenizer` from the command line."""

import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_image_sources import encoded, write_parquet

import studies
from autonat.cli import main
from autonat.config import load_recipe
from autonat.errors import UserError
from autonat.tokenizer_config import FOLDER, load_tokenizer_recipe
from models.checkpoint import load_metadata, load_tensors, save_tensors
from models.data import sizes_of
from models.token_files import read_tokens
from models.tokenizer import GreyLevelTokenizer, load_tokenizer
from models.train_tokenizer import TokenizerTraining, reconstruct, train_tokenizer
from models.training_state import warm_cosine
from models.vq_autoencoder import AutoencoderConfig

SMALL = AutoencoderConfig(
    image_size=8, widths=(16, 32), encoder_blocks=(0, 1), decoder_blocks=(1, 0), codebook_size=16, code_width=4
)
GRID = replace(SMALL, quantizer="fsq", levels=(4, 4), code_width=2)
TRAINING = TokenizerTraining(steps=12, batch_size=8, warmup_steps=2, checkpoint_every_steps=5)


def drawn(count, seed=0, size=8):
    """Images of a few flat coloured patches: easy to learn, different from each other. uint8 [N, 3, S, S]."""
    generator = np.random.default_rng(seed)
    patches = generator.choice(np.array([20, 120, 230], dtype=np.uint8), (count, 3, size // 4, size // 4))
    return torch.from_numpy(patches.repeat(4, axis=2).repeat(4, axis=3))


IMAGES = drawn(40)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("config", [SMALL, GRID], ids=["vq", "fsq"])
def test_same_seed_same_bits(config):
    trained = weights(train_tokenizer(config, TRAINING, IMAGES, 3))
    torch.manual_seed(99)  # nothing comes from the global generator, and nothing is taken from it
    before = torch.get_rng_state()
    assert same(weights(train_tokenizer(config, TRAINING, IMAGES, 3)), trained)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(weights(train_tokenizer(config, TRAINING, IMAGES, 4)), trained)


class StopError(Exception):
    pass


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [SMALL, GRID], ids=["vq", "fsq"])
def test_a_stop_changes_no_bit(config, precision, tmp_path):
    whole = weights(train_tokenizer(config, TRAINING, IMAGES, 3, precision=precision))
    state, starts = tmp_path / "state", []

    def stop_at(last):
        def progress(step, error):
            if step == last:
                raise StopError

        return progress

    for last in (4, 7, 11):
        with pytest.raises(StopError):
            train_tokenizer(
                config,
                TRAINING,
                IMAGES,
                3,
                precision=precision,
                state_path=state,
                on_start=starts.append,
                progress=stop_at(last),
                progress_every=1,
            )
    resumed = train_tokenizer(
        config, TRAINING, IMAGES, 3, precision=precision, state_path=state, on_start=starts.append
    )
    assert starts == [0, 0, 5, 10]
    assert same(weights(resumed), whole)
    steps: list[int] = []
    again = train_tokenizer(
        config, TRAINING, IMAGES, 3, precision=precision, state_path=state, progress=lambda step, _: steps.append(step)
    )
    assert not steps, "the state after the last step is kept, for whoever has yet to save the weights"
    assert same(weights(again), whole)


def leave_state(path, seed=3, images=IMAGES):
    def progress(step, error):
        if step == 6:
            raise StopError

    with pytest.raises(StopError):
        train_tokenizer(SMALL, TRAINING, images, seed, state_path=path, progress=progress, progress_every=1)
    assert path.exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:500])


def without_step(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {"training": metadata["training"]})


@pytest.mark.parametrize(
    "make",
    [
        lambda path: leave_state(path, seed=4),
        lambda path: leave_state(path, images=drawn(40, seed=1)),
        lambda path: (leave_state(path), cut(path)),
        lambda path: (leave_state(path), without_step(path)),
        lambda path: path.write_bytes(b"nothing"),
    ],
    ids=["seed", "images", "cut", "no step", "garbage"],
)
def test_a_state_of_something_else_is_not_taken_up(make, tmp_path):
    starts = []
    make(tmp_path / "state")
    network = train_tokenizer(SMALL, TRAINING, IMAGES, 3, state_path=tmp_path / "state", on_start=starts.append)
    assert starts == [0]
    assert same(weights(network), weights(train_tokenizer(SMALL, TRAINING, IMAGES, 3)))


@pytest.mark.parametrize("config", [SMALL, GRID], ids=["vq", "fsq"])
def test_training_learns(config, tmp_path):
    from models.tokenizer import NetworkTokenizer

    training = TokenizerTraining(steps=150, batch_size=16, warmup_steps=10, learning_rate=3e-3)
    tokenizer = NetworkTokenizer(train_tokenizer(config, training, IMAGES, 0), 8, 8)
    unseen = drawn(60, seed=5)
    result = reconstruct(tokenizer, unseen)
    variance = float((unseen.double() / 255).var())
    assert result.squared_error < 0.6 * variance  # 16 codes for 27 colours cannot do better than about half
    assert result.codes_used > 0.9


def test_every_code_is_used_where_one_would_do():
    """Without revival most codes of a training like this stay unused."""
    from models.tokenizer import NetworkTokenizer

    config = replace(SMALL, codebook_size=64)
    training = TokenizerTraining(steps=60, batch_size=16, warmup_steps=5, codebook_decay=0.9, dead_below=0.2)
    network = train_tokenizer(config, training, drawn(64), 0)
    assert network.quantizer.counts_K.min() > 0
    assert network.quantizer.codebook_KD.isfinite().all()
    assert reconstruct(NetworkTokenizer(network, 8, 8), drawn(64)).codes_used > 0.2


def test_flips_are_seen():
    """With images whose bright side is always left, only a training with flips paints the right side bright as well."""
    left = torch.zeros(32, 3, 8, 8, dtype=torch.uint8)
    left[..., :4] = 255
    training = replace(TRAINING, steps=60, learning_rate=3e-3)
    errors = {}
    for flips in (True, False):
        network = train_tokenizer(SMALL, replace(training, flips=flips), left, 0)
        mirrored = left.flip(-1).float() / 255
        errors[flips] = float((network.decode(network.encode(mirrored)) - mirrored).square().mean())
    assert errors[True] < 0.5 * errors[False]


@given(st.integers(1, 300), st.integers(0, 50), st.floats(1e-6, 1))
@settings(max_examples=50, deadline=None)
def test_the_rate_rises_and_falls(steps, warmup, rate):
    rates = [warm_cosine(rate, step, warmup, steps) for step in range(steps)]
    assert 0 < max(rates) <= rate * (1 + 1e-12)
    assert all(later >= earlier for earlier, later in pairwise(rates[:warmup]))
    assert all(later <= earlier for earlier, later in pairwise(rates[warmup:]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number"),
        ({"commitment": -1.0}, "commitment must not be negative"),
        ({"codebook_decay": 1.0}, "codebook_decay must lie in"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TRAINING, **changes)


@pytest.mark.parametrize("images", [IMAGES.float(), IMAGES[:, :1], IMAGES[..., :4], IMAGES[:0]])
def test_images_that_do_not_fit(images):
    with pytest.raises(ValueError, match="images"):
        train_tokenizer(SMALL, TRAINING, images, 0)


def test_figures_of_a_reconstruction():
    """A table of grey levels loses nothing at its 17 levels; its codes' use is known."""
    tokens = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 16]])
    tokenizer = GreyLevelTokenizer(2, 2)
    images = tokenizer.decode(tokens)
    result = reconstruct(tokenizer, images, batch_size=1)
    assert (result.num_images, result.squared_error, result.psnr) == (2, 0.0, float("inf"))
    assert result.codes_used == 3 / 17
    shares = np.array([4, 3, 1]) / 8
    assert np.isclose(result.perplexity, np.exp(-(shares * np.log(shares)).sum()))
    images[0, 0, 0, 0] = 4  # a quarter of a level off: painted as 0
    result = reconstruct(tokenizer, images)
    assert np.isclose(result.squared_error, (4 / 255) ** 2 / 8)
    assert np.isclose(result.psnr, 10 * np.log10(8 * (255 / 4) ** 2))
    with pytest.raises(ValueError, match="no images"):
        reconstruct(tokenizer, images[:0])


# The command line

RECIPE = """
name: small
train: {folder}/train.parquet
test: {folder}/test.parquet
network: {{image_size: 8, widths: [16, 32], encoder_blocks: [0, 1], decoder_blocks: [1, 0], codebook_size: 16,
  code_width: 4}}
training: {{steps: 12, batch_size: 8, warmup_steps: 2, checkpoint_every_steps: 5}}
"""


def write_images(path, images):
    cells = [{"bytes": encoded(image.permute(1, 2, 0).numpy()), "path": None} for image in images]
    write_parquet(path, cells, [number % 2 for number in range(len(cells))])


@pytest.fixture
def recipe(tmp_path):
    write_images(tmp_path / "train.parquet", IMAGES)
    write_images(tmp_path / "test.parquet", drawn(12, seed=7))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def run(monkeypatch, capsys, *arguments):
    """Exit status and what was printed."""
    monkeypatch.setattr(sys, "argv", ["autonat", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_from_recipe_to_tokens(recipe, tmp_path, monkeypatch, capsys):
    out, pictures = tmp_path / "tokenizer.safetensors", tmp_path / "pairs.png"
    status, printed, _ = run(monkeypatch, capsys, "train-tokenizer", recipe, "--out", out, "--pictures", pictures)
    assert status == 0
    assert "reconstruction of 12 test images" in printed
    assert all(word in printed for word in ("codes used", "PSNR", "SHA-256"))
    assert pictures.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    about = load_metadata(out)["tokenizer"]
    assert about["train_images"] == len(IMAGES)
    assert about["job"]["training"]["steps"] == 12

    expected = train_tokenizer(SMALL, TRAINING, IMAGES, 0)
    assert same(weights(load_tokenizer(out).network), weights(expected))

    status, printed, _ = run(
        monkeypatch, capsys, "tokenize", tmp_path / "train.parquet", "--tokenizer", out, "--out", tmp_path / "tokens"
    )
    assert status == 0
    assert "40 images of 2 classes as 2x2 tokens, each with its flipped copy" in printed
    table = read_tokens(tmp_path / "tokens", codebook_size=16, num_classes=2)
    assert np.array_equal(table.tokens_NL, load_tokenizer(out).encode(IMAGES).numpy())
    assert np.array_equal(table.flipped_NL, load_tokenizer(out).encode(IMAGES.flip(-1)).numpy())


def test_the_same_file_again(recipe, tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for out in (first, second):
        assert run(monkeypatch, capsys, "train-tokenizer", recipe, "--out", out)[0] == 0
    assert first.read_bytes() == second.read_bytes()
    status, printed, _ = run(monkeypatch, capsys, "train-tokenizer", recipe, "--out", first)
    assert (status, first.read_bytes()) == (0, second.read_bytes())
    assert "as it was" in printed
    status, _, error = run(monkeypatch, capsys, "train-tokenizer", recipe, "seed=1", "--out", first)
    assert (status, error.count("\n")) == (2, 1)
    assert "holds something else than this recipe makes" in error
    assert first.read_bytes() == second.read_bytes()


def test_distance_by_a_feature_network(recipe, tmp_path, monkeypatch, capsys):
    class Mean:
        """Mean colours: a stand-in for a trained network, with the protocol of one."""

        name = "colours"

        def __init__(self, path, *, device):
            assert path == tmp_path / "features.safetensors"

        def features(self, images):
            return images.float().mean((2, 3))

    monkeypatch.setattr("models.feature_files.NetworkFeatures", Mean)
    (tmp_path / "features.safetensors").touch()
    out = tmp_path / "tokenizer.safetensors"
    status, printed, _ = run(
        monkeypatch, capsys, "train-tokenizer", recipe, "--out", out, "--features", tmp_path / "features.safetensors"
    )
    assert status == 0
    line = next(line for line in printed.splitlines() if line.startswith("FD("))
    assert line.startswith("FD(colours) of reconstructions to the 12 test images: ")
    assert float(line.split(": ")[1]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "{folder}/x.bin"], "a tokenizer is written as .safetensors"),
        (["--out", "{folder}/no/x.safetensors"], "there is no folder"),
        (["--out", "{folder}/train.parquet.safetensors", "--features", "{folder}/no"], "no such file"),
        (["--out", "{folder}/x.safetensors", "--pictures", "{folder}/no/x.png"], "there is no folder"),
        (["--out", "{folder}/x.safetensors", "--features", "{folder}/recipe.yaml"], "recipe.yaml"),
        (["--out", "{folder}/x.safetensors", "train={folder}/no.parquet"], "train: cannot read"),
        (["--out", "{folder}/x.safetensors", "test={folder}/recipe.yaml"], "neither a folder of images"),
        (["--out", "{folder}/x.safetensors", "network.codebook_size=1"], "codebook_size must be at least 2"),
        (["--out", "{folder}/x.safetensors", "network.image_size=9"], "not a multiple of 4"),
        (["--out", "{folder}/x.safetensors", "training.steps=0"], "steps must be at least 1"),
        (["--out", "{folder}/x.safetensors", "training.learning_rate=.nan"], "learning_rate"),
        (["--out", "{folder}/x.safetensors", "training.speed=1"], "unknown key"),
        (["--out", "{folder}/x.safetensors", "network.quantizer=rotation"], "quantizer"),
        (["--out", "{folder}/x.safetensors", "what=1"], "unknown key"),
        (["--out", "{folder}/x.safetensors", "oops"], "cannot read override"),
        (["--out", "{folder}/x.safetensors", "name=a b"], "name"),
    ],
)
def test_bad_input_gets_one_line(arguments, message, recipe, tmp_path, monkeypatch, capsys):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    status, _, error = run(monkeypatch, capsys, "train-tokenizer", recipe, *arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


def test_a_device_that_is_not_there(recipe, tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    status, _, error = run(
        monkeypatch, capsys, "train-tokenizer", recipe, "compute.device=cuda", "--out", tmp_path / "x.safetensors"
    )
    assert (status, error.count("\n")) == (2, 1)
    assert "no CUDA device" in error


def test_a_file_that_is_no_tokenizer_is_not_overwritten(recipe, tmp_path, monkeypatch, capsys):
    out = tmp_path / "tokenizer.safetensors"
    out.write_bytes(b"mine")
    assert run(monkeypatch, capsys, "train-tokenizer", recipe, "--out", out)[0] == 2
    assert out.read_bytes() == b"mine"


BUILT_IN = sorted(path.stem for path in (Path(studies.__path__[0]) / FOLDER).glob("*.yaml"))


def test_there_are_recipes():
    assert BUILT_IN == ["cifar10", "cifar10_cpu"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_load(name):
    recipe = load_tokenizer_recipe(name)
    assert recipe.name.replace("-", "_") == name
    side = recipe.network.image_size // recipe.network.downsampling
    sizes = sizes_of(load_recipe(name).data)  # of the study that is run on its tokens
    assert (sizes.grid, sizes.codebook_size) == ((side, side), recipe.network.codebook_size)
    with pytest.raises(UserError, match="train: cannot read files/cifar10"):
        recipe.job()


def test_an_unknown_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="one of cifar10, cifar10_cpu"):
        load_tokenizer_recipe("digits")


@pytest.mark.slow
def test_a_kill_changes_no_bit(recipe, tmp_path):
    """The real command, killed after its first state."""
    whole, resumed = tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"

    def command(out):
        return [sys.executable, "-m", "autonat", "train-tokenizer", recipe, "training.steps=60", "--out", out]

    subprocess.run(command(whole), check=True, capture_output=True)
    state = resumed.with_name(f".{resumed.name}.training")
    process = subprocess.Popen(command(resumed), stdout=subprocess.DEVNULL)
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert state.exists()
    assert not resumed.exists()
    done = subprocess.run(command(resumed), check=True, capture_output=True, text=True)
    assert "going on after" in done.stdout
    assert resumed.read_bytes() == whole.read_bytes()
