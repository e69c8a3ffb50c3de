"""From an official checkpoint, a VQGAN, Inception and reference statistics to FID, through a whole study; the number
equals torch-fidelity's own on the saved images. Everything is the real thing, but small and with random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from inception_file import write_random_inception
from PIL import Image
from reference import FOLDER, enat_config, enat_weights, facts
from studies_for_tests import run_cli, run_ok

from autonat.config import Recipe, load_recipe
from autonat.execution.worker import Worker
from autonat.search.alternation import start_of
from autonat.specs import EvaluationSpec
from models.evaluate import Block

IMAGES = 20
BLOCK = 10


def write_images(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03d}.png")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Files as a user would have fetched them, and a recipe that names them."""
    folder = tmp_path_factory.mktemp("workshop")
    config, tokenizer = enat_config(), facts("vqgan_tiny")
    assert config.codebook_size == tokenizer["config"]["n_embed"]
    official = folder / "enat.ckpt"
    official.mkdir()
    torch.save({f"module.{name}": value for name, value in enat_weights().items()}, official / "nnet_ema.pth")
    shutil.copy(FOLDER / "vqgan_tiny.safetensors", folder / "vqgan.safetensors")
    sha256 = write_random_inception(folder / "inception.pth")
    random = np.random.Generator(np.random.Philox(key=7))
    for label in ("a", "b"):
        coarse = random.integers(0, 256, (IMAGES // 2, 3, 2, 2), dtype=np.uint8)
        write_images(folder / "real" / label, coarse.repeat(4, axis=2).repeat(4, axis=3))
    run_ok(
        "statistics", folder / "real", "--weights", folder / "inception.pth", "--sha256", sha256,
        "--out", folder / "real.npz",
    )  # fmt: skip
    side = int(config.num_tokens**0.5)
    recipe = {
        "name": "files",
        "data": {
            "kind": "tokens",
            "name": "made-up",
            "tokenizer": str(folder / "vqgan.safetensors"),
            "num_classes": config.num_classes,
            "grid": [side, side],
            "codebook_size": config.codebook_size,
        },
        "network": config.to_dict(),
        "checkpoint": str(official),
        "phases": ["schedule"],
        "features": {
            "kind": "inception", "weights": str(folder / "inception.pth"), "reference": str(folder / "real.npz")
        },
        "schedule": {"num_steps": 2},
        "search": {
            "warm_start": {"trials": 1, "random_trials": 1, "batch": 1, "images": IMAGES, "keep": 1},
            "descent": None,
            "confirmation_images": IMAGES,
        },
        "block_size": BLOCK,
        "held_out_images": IMAGES,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.mark.slow
def test_fid_of_a_study_is_torch_fidelitys_on_the_saved_images(workshop, monkeypatch):
    import torch_fidelity

    database = workshop / "autonat.db"
    run_ok("run", workshop / "recipe.yaml", "--db", database, "--workers", 0)
    best = json.loads(run_ok("best", "files", "--db", database))
    recipe = load_recipe(str(workshop / "recipe.yaml")).with_files_looked_at()
    lab, baseline = start_of(recipe)

    # The held-out baseline, painted again and saved as PNGs.
    seed = lab.seed_for("held-out")
    generator = Worker(str(workshop / "autonat-artifacts")).generator(baseline.training)
    images = [
        generator.images(baseline.schedule, Block(index, IMAGES // BLOCK, BLOCK, seed))
        for index in range(IMAGES // BLOCK)
    ]
    write_images(workshop / "generated", torch.cat(images).numpy())

    measured = torch_fidelity.calculate_metrics(
        input1=str(workshop / "generated"),
        input2=str(workshop / "real"),
        samples_find_deep=True,
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor_weights_path=str(workshop / "inception.pth"),
    )["frechet_inception_distance"]
    assert best["baseline"]["value"] == pytest.approx(measured, rel=1e-3, abs=1e-3)
    assert best["baseline"]["num_images"] == IMAGES
    assert best["metric"].startswith("FID(inception:")


def test_a_moved_file_is_the_same_file_and_a_changed_one_is_not(workshop, tmp_path):
    def spec(path):
        recipe = load_recipe(str(workshop / "recipe.yaml"), [f"features.reference={path}"]).with_files_looked_at()
        lab, baseline = start_of(recipe)
        evaluation: EvaluationSpec = lab.evaluation(baseline, IMAGES, 1)
        from autonat.specs import fingerprint

        return fingerprint(evaluation)

    moved, changed = tmp_path / "moved.npz", tmp_path / "changed.npz"
    shutil.copy(workshop / "real.npz", moved)
    changed.write_bytes((workshop / "real.npz").read_bytes() + b" ")
    assert spec(workshop / "real.npz") == spec(moved) != spec(changed)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("checkpoint=nowhere.pth", "checkpoint: cannot read nowhere.pth"),
        ("features.weights=nowhere.pth", "features.weights: cannot read nowhere.pth"),
        ("data.num_classes=11", "network.num_classes"),
        ("data.grid=[4,5]", "network.num_tokens"),
        ("phases=[schedule,mask_ratio]", "phases: [schedule]"),
        ("training={steps: 3}", "leave out `training`"),
        ("checkpoint=null", "give either `training` or the `checkpoint`"),
        ("features.kind=classifier", "data in files is measured with features.kind inception or network"),
        ("data.captions={contexts: a.npy}", "uvit_text"),
        ("compute.device=tpu", "compute.device"),
    ],
)
def test_recipes_that_do_not_go_together(workshop, tmp_path, change, complaint):
    status, out, err = run_cli("run", workshop / "recipe.yaml", change, "--db", tmp_path / "autonat.db", "--workers", 0)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the recipe asks for")
def test_a_device_that_is_not_there(workshop, tmp_path):
    status, _, err = run_cli(
        "run", workshop / "recipe.yaml", "compute.device=cuda", "--db", tmp_path / "autonat.db", "--workers", 0
    )
    assert (status, err.count("\n")) == (2, 1)
    assert "no CUDA device" in err


def test_recipe_files_survive_the_database(workshop):
    recipe = load_recipe(str(workshop / "recipe.yaml")).with_files_looked_at()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert all(len(file.sha256) == 64 for file in recipe.files().values())
