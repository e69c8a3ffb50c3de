"""`autonat train-features`, `autonat statistics --features`, and whole studies measured with such a network.

Everything is the real thing but small: 8x8 colour images, a tokenizer of 2x2 codes with random weights.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from studies_for_tests import query, run_cli, run_ok, tiny_recipe

from autonat.config import Recipe, load_recipe
from autonat.execution.worker import Worker
from autonat.search.alternation import start_of
from autonat.specs import FeatureFileSpec, fingerprint
from models.evaluate import Block
from models.feature_files import NetworkFeatures, load_features
from models.frechet import Reference, Statistics, accumulate
from models.metrics import FeatureSample, report_metrics
from models.random_streams import stream
from models.statistics_files import read_statistics, write_statistics
from models.vq_autoencoder import AutoencoderConfig, VQAutoencoder, save_vq_autoencoder

SIZE, CLASSES, CODES, SIDE = 8, 3, 16, 2
COUNTS = {"train": 96, "test": 48}
BLOCK = 24


def write_images(path, count, seed=0, classes=CLASSES):
    draw = stream(seed, path.stem)
    labels = np.arange(count) % classes
    images = draw.integers(0, 180, (count, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(count), ..., labels % 3] += 75
    np.savez(path, images=images, labels=labels)
    return path


def train_features(folder, out, *options):
    return run_ok(
        "train-features", "--train", folder / "train.npz", "--test", folder / "test.npz", "--out", out,
        "--width", 4, "--epochs", 3, "--batch-size", 16, *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The files that the printed commands make, and what two of them printed."""
    folder = tmp_path_factory.mktemp("prepared")
    for part, count in COUNTS.items():
        write_images(folder / f"{part}.npz", count)
    said = train_features(folder, folder / "features.safetensors")
    torch.manual_seed(0)
    config = AutoencoderConfig(image_size=SIZE, patch=2, widths=(16, 16), codebook_size=CODES, code_width=4)
    save_vq_autoencoder(folder / "tokenizer.safetensors", VQAutoencoder(config))
    run_ok(
        "tokenize", folder / "train.npz", "--tokenizer", folder / "tokenizer.safetensors", "--out", folder / "tokens"
    )
    said += run_ok(
        "statistics", folder / "train.npz", "--features", folder / "features.safetensors",
        "--test", folder / "test.npz", "--keep", 40, "--out", folder / "statistics.npz",
    )  # fmt: skip
    return folder, said


@pytest.fixture
def files(prepared, tmp_path):
    for name in ("features.safetensors", "tokenizer.safetensors", "statistics.npz", "train.npz", "test.npz"):
        shutil.copy(prepared[0] / name, tmp_path / name)
    shutil.copytree(prepared[0] / "tokens", tmp_path / "tokens")
    return tmp_path


def recipe_of(folder, **changes):
    sizes = {"num_tokens": SIDE**2, "codebook_size": CODES, "num_classes": CLASSES}
    search = {"trials": 2, "random_trials": 2, "batch": 2, "images": 2 * BLOCK, "keep": 1}
    return {
        "name": "colours",
        "data": {
            "kind": "tokens",
            "name": "colours",
            "tokenizer": str(folder / "tokenizer.safetensors"),
            "tokens": str(folder / "tokens"),
            "num_classes": CLASSES,
            "grid": [SIDE, SIDE],
            "codebook_size": CODES,
        },
        "network": {**sizes, "width": 8, "heads": 1, "encoder_blocks": 1, "decoder_blocks": 1},
        "training": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "ratio_groups": 1, "checkpoint_every_steps": 2},
        "features": {
            "kind": "network",
            "weights": str(folder / "features.safetensors"),
            "reference": str(folder / "statistics.npz"),
        },
        "schedule": {"num_steps": 2},
        "search": {
            "warm_start": search,
            "descent": {"estimator": "population", "iterations": 1, "images": 2 * BLOCK},
            "confirmation_images": 2 * BLOCK,
        },
        "later_search": {
            "warm_start": None,
            "descent": {"estimator": "probes", "iterations": 1, "images": 2 * BLOCK},
            "confirmation_images": 2 * BLOCK,
        },
        "beta": {"max_trainings": 2, "images": 2 * BLOCK, "retune": None},
        "metrics": ["kid", "kid_rbf", "prc"],
        "block_size": BLOCK,
        "held_out_images": 2 * BLOCK,
    } | changes


def write_recipe(folder, **changes):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(folder, **changes)))
    return path


def test_what_the_commands_say_and_write(prepared):
    folder, said = prepared
    file = load_features(folder / "features.safetensors")
    assert file.name == "cifar10-resnet"
    assert file.sha256 in said
    assert f"test accuracy {100 * file.test_accuracy:.2f}% of 48 images" in said
    assert file.test_accuracy > 0.5
    about = file.about
    assert (about["training"]["epochs"], about["training"]["batch_size"], about["seed"]) == (3, 16, 0)
    assert [about[part]["images"] for part in ("train", "test")] == [96, 48]
    assert len({about[part]["sha256"] for part in ("train", "test")}) == 2

    stored = read_statistics(folder / "statistics.npz", file.network.config.dimensions)
    assert (stored.count, len(stored.features)) == (96, 40)
    features = NetworkFeatures(folder / "features.safetensors")
    rows = {
        part: features.features(torch.from_numpy(np.load(folder / f"{part}.npz")["images"]).permute(0, 3, 1, 2))
        for part in COUNTS
    }
    expected = Statistics.of(rows["train"])
    torch.testing.assert_close(stored.mean, expected.mean)
    torch.testing.assert_close(stored.covariance, expected.covariance)
    test = Statistics.of(rows["test"])
    floor = stored.provenance["floor"]
    assert floor["value"] == pytest.approx(Reference.of(expected).distance(test.mean, test.covariance))
    assert floor["num_images"] == 48
    # Of the mean over images of their shares in the distance, from twenty parts of them.
    shares = Reference.of(expected).influence(test).of_features(rows["test"])
    means = np.array([part.mean() for part in np.array_split(shares.numpy(), 20)])
    assert floor["standard_error"] == pytest.approx(means.std(ddof=1) / 20**0.5, rel=1e-6)
    assert f"{floor['value']:.3f} +- {floor['standard_error']:.3f}" in said
    assert stored.provenance["weights_sha256"] == file.sha256


def test_the_same_command_writes_the_same_file(prepared, tmp_path):
    folder, _ = prepared
    for name, options in (("again", ()), ("other", ("--seed", 1)), ("named", ("--name", "colours"))):
        train_features(folder, tmp_path / f"{name}.safetensors", *options)
    bits = {name: (tmp_path / f"{name}.safetensors").read_bytes() for name in ("again", "other", "named")}
    assert bits["again"] == (folder / "features.safetensors").read_bytes()
    assert len(set(bits.values())) == 3
    assert load_features(tmp_path / "named.safetensors").name == "colours"


@pytest.fixture(scope="module")
def studied(prepared):
    """A whole study in this process."""
    folder, _ = prepared
    out = run_ok("run", write_recipe(folder), "--db", folder / "autonat.db", "--workers", 0)
    return folder, out


def summary_of(database, name="colours"):
    return json.loads(query(database, "SELECT summary FROM studies WHERE name=?", name)[0][0])


def test_a_whole_study(studied):
    folder, out = studied
    sha256 = load_features(folder / "features.safetensors").sha256
    metric = f"FD(cifar10-resnet:{sha256[:8]}, reference:"
    assert f"Study colours: {metric}" in out
    assert "FID" not in out
    assert "real test images" in out
    summary = summary_of(folder / "autonat.db")
    assert summary["metric"].startswith(metric)
    assert summary["floor"]["num_images"] == 48
    assert summary["test_accuracy"] == load_features(folder / "features.safetensors").test_accuracy
    assert summary["rounds"] == 1
    assert set(summary["metrics"]) == {"baseline", "tuned_schedule", "tuned"}


def test_its_numbers_are_those_of_the_images(studied):
    """The held-out baseline painted again, its features taken at once: the same distance, KID and precision."""
    folder, _ = studied
    recipe = load_recipe(str(folder / "recipe.yaml")).with_files_looked_at()
    lab, baseline = start_of(recipe)
    generator = Worker(str(folder / "autonat-artifacts")).generator(baseline.training)
    seed = lab.seed_for("held-out")
    blocks = [generator.images(baseline.schedule, Block(index, 2, BLOCK, seed)) for index in range(2)]
    features = NetworkFeatures(folder / "features.safetensors")
    rows = torch.cat([features.features(block) for block in blocks])
    stored = read_statistics(folder / "statistics.npz")
    sample = accumulate(rows.split(BLOCK))
    summary = summary_of(folder / "autonat.db")
    value = stored.reference().distance(sample.mean, sample.covariance)
    assert summary["baseline"]["value"] == pytest.approx(value, rel=1e-9)
    in_order = FeatureSample.of(rows, 0, 10_000).rows
    expected = report_metrics(("kid", "kid_rbf", "prc"), in_order, stored.features, kid_subset_size=40)
    assert summary["metrics"]["baseline"]["values"] == pytest.approx(expected)


def test_other_commands_know_it(studied, tmp_path):
    folder, _ = studied
    database = folder / "autonat.db"
    assert "FD(cifar10-resnet:" in run_ok(
        "evaluate", "colours", "--images", 2 * BLOCK, "--db", database, "--workers", 0
    )
    assert "0 differ" in run_ok("verify", "colours", "--db", database, "--workers", 0, "--count", 8)
    run_ok("report", "colours", "--db", database, "--to", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "FD(cifar10-resnet" in page
    assert "FID(" not in page
    plan = run_ok("plan", folder / "recipe.yaml", "--workers", 1)
    assert f"file  features.weights: {folder}/features.safetensors" in plan


@pytest.mark.slow
def test_worker_processes_give_the_same_bits(studied, tmp_path):
    folder, _ = studied
    run_ok("run", folder / "recipe.yaml", "--db", tmp_path / "other.db", "--workers", 2)
    ours, theirs = (
        query(database, "SELECT fingerprint, result FROM results ORDER BY fingerprint")
        for database in (folder / "autonat.db", tmp_path / "other.db")
    )
    assert set(theirs) <= set(ours)
    assert len(theirs) > 10


def test_a_moved_file_is_the_same_and_a_changed_one_is_not(files, tmp_path_factory):
    def features(folder):
        lab, _ = start_of(Recipe.model_validate(recipe_of(folder)).with_files_looked_at())
        assert isinstance(lab.features, FeatureFileSpec)
        return lab.features

    first = features(files)
    moved = tmp_path_factory.mktemp("moved") / "there"
    shutil.copytree(files, moved)
    assert fingerprint(features(moved)) == fingerprint(first)
    train_features(moved, moved / "features.safetensors", "--seed", 1)
    run_ok(
        "statistics", moved / "train.npz", "--features", moved / "features.safetensors", "--keep", 40,
        "--out", moved / "statistics.npz",
    )  # fmt: skip
    changed = features(moved)
    assert fingerprint(changed) != fingerprint(first)
    assert changed.metric != first.metric


def another_network(folder):
    train_features(folder, folder / "features.safetensors", "--seed", 5)


def without_provenance(folder):
    stored = read_statistics(folder / "statistics.npz")
    np.savez(folder / "statistics.npz", mu=stored.mean.numpy(), sigma=stored.covariance.numpy())


def wrong_floor(folder):
    stored = read_statistics(folder / "statistics.npz")
    stored.provenance["floor"] = {"value": "low"}
    write_statistics(folder / "statistics.npz", stored)


@pytest.mark.parametrize(
    ("change", "changes", "words"),
    [
        (another_network, {}, "was made with cifar10-resnet:"),
        (without_provenance, {}, "was made with unknown features, not with cifar10-resnet:"),
        (wrong_floor, {}, "features.reference: "),
        (lambda folder: (folder / "features.safetensors").unlink(), {}, "cannot read"),
        (lambda folder: (folder / "statistics.npz").write_bytes(b"PK"), {}, "statistics.npz is not a readable .npz"),
        (
            lambda folder: shutil.copy(folder / "tokenizer.safetensors", folder / "features.safetensors"),
            {},
            "does not hold a feature network",
        ),
        (
            lambda folder: np.savez(folder / "statistics.npz", mu=np.zeros(5), sigma=np.eye(5)),
            {},
            "has 5 features, the feature network 16",
        ),
        (
            lambda folder: run_ok(
                "statistics", folder / "train.npz", "--features", folder / "features.safetensors",
                "--out", folder / "statistics.npz",
            ),
            {},
            "has no single images' features, which kid, kid_rbf, prc need",
        ),
        (lambda folder: None, {"metrics": ["isc"]}, "isc needs Inception"),
        (lambda folder: None, {"features": {"kind": "classifier"}}, "features.kind inception or network"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_together(files, change, changes, words):
    change(files)
    status, _, err = run_cli("run", write_recipe(files, **changes), "--db", files / "a.db", "--workers", 0)
    assert status == 2
    assert err.count("\n") == 1, err
    assert words in err


def test_the_digits_are_not_measured_with_a_file():
    features = {"kind": "network", "weights": "w", "reference": "r"}
    with pytest.raises(ValueError, match="the digits with a classifier"):
        tiny_recipe(features=features)


def test_a_tokenizer_of_another_image_size_is_said(files):
    config = AutoencoderConfig(image_size=16, patch=4, widths=(16, 16), codebook_size=CODES, code_width=4)
    save_vq_autoencoder(files / "tokenizer.safetensors", VQAutoencoder(config))
    status, _, err = run_cli("run", write_recipe(files), "--db", files / "a.db", "--workers", 0)
    assert status == 2
    assert err.count("\n") == 1
    assert "measures 8 x 8 colour images" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--out": "features.pth"}, "weights are written as .safetensors"),
        ({"--out": "nowhere/f.safetensors"}, "there is no folder"),
        ({"--name": "a b"}, "letters, digits"),
        ({"--name": "inception"}, "the name of another metric"),
        ({"--epochs": 0}, "epochs"),
        ({"--precision": "float8"}, "precision must be float32 or bfloat16"),
        ({"--learning-rate": -1}, "learning_rate must be positive"),
        ({"--batch-size": 97}, "fewer than one batch"),
        ({"--train": "none.npz"}, "none.npz does not exist"),
        ({"--test": "more.npz"}, "has other classes or sizes"),
        ({"--train": "nolabels.npz"}, "has no classes"),
        ({"--size": 12}, "image_size must be a multiple of 8"),
    ],
)
def test_wrong_usage_of_train_features(files, monkeypatch, change, words):
    monkeypatch.chdir(files)
    write_images(files / "more.npz", 48, classes=CLASSES + 1)
    np.savez(files / "nolabels.npz", images=np.load(files / "train.npz")["images"])
    options = {"--train": "train.npz", "--test": "test.npz", "--out": "new.safetensors", "--width": 4} | change
    status, _, err = run_cli("train-features", *(part for pair in options.items() for part in pair))
    assert status == 2
    assert err.count("\n") == 1, err
    assert words in err
    assert not (files / "new.safetensors").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_said(files):
    for command in (
        ("train-features", "--train", files / "train.npz", "--test", files / "test.npz"),
        ("statistics", files / "train.npz", "--features", files / "features.safetensors"),
    ):
        status, _, err = run_cli(*command, "--device", "cuda", "--out", files / "new.safetensors")
        assert status == 2
        assert err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--features", "none"], "unknown features 'none'"),
        (["--features", "features.safetensors", "--resize", "bilinear"], "are for Inception"),
        (["--features", "features.safetensors", "--weights", "w"], "are for Inception"),
        (["--features", "statistics.npz"], "statistics.npz"),
        ([], "--weights: Inception's weights file is needed"),
        (["--features", "features.safetensors", "--test", "few.npz"], "a floor needs at least 40"),
        (["--features", "features.safetensors", "--size", "16"], "measures 8 x 8 colour images"),
    ],
)
def test_wrong_usage_of_statistics(files, monkeypatch, options, words):
    monkeypatch.chdir(files)
    write_images(files / "few.npz", 39)
    status, _, err = run_cli("statistics", "train.npz", "--out", "new.npz", *options)
    assert status == 2
    assert err.count("\n") == 1, err
    assert words in err
    assert not (files / "new.npz").exists()


def test_pages_know_the_floor_before_the_study_is_finished(studied, tmp_path):
    from dashboards.database import open_readonly
    from dashboards.frames import summary_frame

    folder, _ = studied
    database = tmp_path / "unfinished.db"
    query(folder / "autonat.db", "VACUUM INTO ?", str(database))
    query(database, "UPDATE studies SET summary=NULL, state='running'")
    frame = summary_frame(open_readonly(str(database)), "colours").set_index("what")
    assert frame.loc["floor", "distance"] == summary_of(folder / "autonat.db")["floor"]["value"]
