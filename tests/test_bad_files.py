"""Files that are not what a recipe or a command needs: one clear line on the command line, at once, no traceback."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from reference import FOLDER, facts
from studies_for_tests import run_cli

from models.enat import ENATConfig
from models.images import image_set
from models.networks import build_network
from models.official import save_official
from models.uvit import TextUViTConfig
from models.vqgan_checkpoint import load_vqgan

CODES = facts("vqgan_tiny")["config"]["n_embed"]
SIDE, CLASSES, FEATURES = 2, 4, 2048
ENAT = ENATConfig(SIDE**2, CODES, CLASSES, width=8, heads=1, encoder_blocks=1, decoder_blocks=1)
TEXT = TextUViTConfig(SIDE**2, CODES, CLASSES, width=8, heads=1, blocks=3, context_tokens=5, context_width=6)
TRAINING = {"steps": 2, "batch_size": 2, "warmup_steps": 1, "ratio_groups": 1, "reuse_probability": 0.0}


def save_network(path, config):
    save_official(path, build_network(config).initialise(torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Good files; Inception is never reached, so its file may be anything."""
    folder = tmp_path_factory.mktemp("originals")
    save_network(folder / "enat.pth", ENAT)
    save_network(folder / "text.pth", TEXT)
    shutil.copy(FOLDER / "vqgan_tiny.safetensors", folder / "vqgan.safetensors")
    np.savez(folder / "reference.npz", mu=np.zeros(FEATURES), sigma=np.eye(FEATURES))
    (folder / "inception.pth").write_bytes(b"no weights")
    random = np.random.Generator(np.random.Philox(key=1))
    labels = np.arange(12)[:, None] % CLASSES
    np.save(folder / "tokens.npy", np.hstack([labels, random.integers(0, CODES, (12, SIDE**2))]))
    np.save(folder / "contexts.npy", random.standard_normal((CLASSES + 1, 5, 6)).astype(np.float32))
    return folder


def recipe_of(folder, kind):
    """A study of a trained ENAT ("checkpoint"), of one to be trained ("training") or of a text network ("text")."""
    data = {"kind": "tokens", "name": "x", "tokenizer": str(folder / "vqgan.safetensors"), "num_classes": CLASSES}
    data |= {"grid": [SIDE, SIDE], "codebook_size": CODES}
    recipe = {
        "name": "bad",
        "data": data,
        "network": (TEXT if kind == "text" else ENAT).to_dict(),
        "phases": ["schedule"],
        "features": {
            "kind": "inception",
            "weights": str(folder / "inception.pth"),
            "reference": str(folder / "reference.npz"),
        },
        "schedule": {"num_steps": 2},
        "search": {
            "warm_start": {"trials": 1, "random_trials": 1, "batch": 1, "images": 8, "keep": 1},
            "descent": None,
            "confirmation_images": 8,
        },
        "block_size": 4,
        "held_out_images": 8,
    }
    if kind == "training":
        data["tokens"] = str(folder / "tokens.npy")
        return recipe | {"training": TRAINING}
    if kind == "text":
        data["captions"] = {"contexts": str(folder / "contexts.npy")}
    return recipe | {"checkpoint": str(folder / ("text.pth" if kind == "text" else "enat.pth"))}


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def put(path, array):
    path.unlink()
    np.save(path, array)


def change_entry(path, place, value):
    array = np.load(path)
    array[place] = value
    np.save(path, array)


# A study's kind, what happens to its files, and words of the message. The file's own name is always among them.
CASES = {
    "checkpoint of another size": (
        "checkpoint",
        lambda folder: save_network(folder / "enat.pth", ENATConfig(**{**ENAT.to_dict(), "width": 16, "kind": "enat"})),
        ("enat.pth is of another size than the network asked for",),
    ),
    "checkpoint of another kind": (
        "checkpoint", lambda folder: shutil.copy(folder / "text.pth", folder / "enat.pth"), ("enat.pth",),
    ),
    "checkpoint cut short": ("checkpoint", lambda folder: cut(folder / "enat.pth"), ("enat.pth",)),
    "statistics of other dimensions": (
        "checkpoint",
        lambda folder: np.savez(folder / "reference.npz", mu=np.zeros(5), sigma=np.eye(5)),
        ("reference.npz has 5 features, the feature network 2048",),
    ),
    "statistics cut short": (
        "checkpoint", lambda folder: cut(folder / "reference.npz"), ("reference.npz is not a readable .npz file",),
    ),
    "tokenizer cut short": ("checkpoint", lambda folder: cut(folder / "vqgan.safetensors"), ("vqgan.safetensors",)),
    "Inception that is none": ("checkpoint", lambda folder: None, ("inception.pth cannot be read as weights",)),
    "tokens outside the codebook": (
        "training",
        lambda folder: change_entry(folder / "tokens.npy", (7, 2), CODES),
        ("tokens.npy, image 7", f"token {CODES} is outside the codebook of {CODES} codes"),
    ),
    "labels outside the classes": (
        "training",
        lambda folder: change_entry(folder / "tokens.npy", (3, 0), CLASSES),
        ("tokens.npy, image 3", f"label {CLASSES} is outside the {CLASSES} classes"),
    ),
    "tokens of another grid": (
        "training",
        lambda folder: put(folder / "tokens.npy", np.zeros((3, 1 + SIDE**2 + 5), int)),
        (f"tokens.npy has {SIDE**2 + 5} tokens an image, data.grid says {SIDE**2}",),
    ),
    "tokens cut short": ("training", lambda folder: cut(folder / "tokens.npy"), ("tokens.npy is not a whole .npy",)),
    "another number of captions": (
        "text",
        lambda folder: put(folder / "contexts.npy", np.zeros((CLASSES, 5, 6), np.float32)),
        ("contexts.npy has shape (4, 5, 6)", "4 captions and the null context need [5, tokens, width]"),
    ),
    "contexts of another width": (
        "text",
        lambda folder: put(folder / "contexts.npy", np.zeros((CLASSES + 1, 5, 7), np.float32)),
        ("contexts.npy does not fit the network", "5 tokens of 6 numbers, got (5, 7)"),
    ),
    "contexts of whole numbers": (
        "text",
        lambda folder: put(folder / "contexts.npy", np.zeros((CLASSES + 1, 5, 6), int)),
        ("contexts.npy holds int64",),
    ),
    "contexts cut short": (
        "text", lambda folder: cut(folder / "contexts.npy"), ("contexts.npy is not a readable .npy file",),
    ),
}  # fmt: skip


def assert_one_line(words, *arguments):
    status, _, err = run_cli(*arguments)
    assert status == 2, err
    for word in words:
        assert word in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "3 times" not in err  # what nobody but the user can mend is not tried again


@pytest.mark.parametrize("case", CASES)
def test_a_study_of_a_bad_file(case, originals, tmp_path):
    kind, spoil, words = CASES[case]
    folder = shutil.copytree(originals, tmp_path / "files")
    spoil(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(folder, kind)))
    assert_one_line(words, "run", folder / "recipe.yaml", "--db", tmp_path / "autonat.db", "--workers", 0)


def test_a_worker_process_says_it_in_one_line_too(originals, tmp_path):
    folder = shutil.copytree(originals, tmp_path / "files")
    change_entry(folder / "tokens.npy", (7, 2), -1)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(folder, "training")))
    words = ("tokens.npy, image 7", "token -1 is outside")
    assert_one_line(words, "run", folder / "recipe.yaml", "--db", tmp_path / "autonat.db", "--workers", 1)


def test_another_codebook_than_the_recipes(originals, tmp_path):
    recipe = recipe_of(originals, "checkpoint")
    recipe["data"]["codebook_size"] = recipe["network"]["codebook_size"] = CODES + 1
    recipe["checkpoint"] = str(tmp_path / "enat.pth")
    save_network(tmp_path / "enat.pth", ENATConfig(**{**recipe["network"], "kind": "enat"}))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = (f"vqgan.safetensors has {CODES} codes, data.codebook_size says {CODES + 1}",)
    assert_one_line(words, "run", tmp_path / "recipe.yaml", "--db", tmp_path / "autonat.db", "--workers", 0)


def no_images(folder):
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "notes.png").write_text("not an image")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a" / "whole.jpg")
    cut(folder / "a" / "whole.jpg")
    return folder


def test_images_that_are_none(tmp_path):
    """Each is named and left out; where nothing is left, that is the error."""
    images, side = no_images(tmp_path / "images"), load_vqgan(FOLDER / "vqgan_tiny.safetensors").config.downsampling
    arguments = ("--tokenizer", FOLDER / "vqgan_tiny.safetensors", "--out", tmp_path / "tokens", "--size", 2 * side)
    status, out, err = run_cli("tokenize", images, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert "none of its 2 entries is a readable image" in err
    assert "skipped a/notes.png" in out
    assert "skipped a/whole.jpg" in out
    shutil.rmtree(tmp_path / "tokens")
    digits = image_set("digits").train_images[0, 0]
    Image.fromarray(np.kron(digits, np.ones((2, 2), np.uint8))).save(images / "a" / "real.png")
    status, out, err = run_cli("tokenize", images, *arguments)
    assert (status, err) == (0, "")
    assert "2 unreadable entries skipped" in out
