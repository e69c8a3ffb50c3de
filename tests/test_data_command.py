"""`autonat data`: what it says, what it checks, and the official archive of CIFAR-10."""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from studies_for_tests import run_cli, run_ok

from autonat import data_command
from models.cifar_archive import PARTS, RECORD_BYTES, ArchiveError, unpack
from models.image_sources import images, open_source

EACH = 20  # records in each of the archive's files, in place of 10,000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    known = replace(data_command.KNOWN["cifar10"], counts=(5 * EACH, EACH))
    monkeypatch.setitem(data_command.KNOWN, "cifar10", known)


def records(seed, count=EACH):
    content = np.random.default_rng(seed).integers(0, 256, (count, RECORD_BYTES), dtype=np.uint8)
    content[:, 0] = np.arange(count) % 10
    return content


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def official():
    names = [*PARTS["train"], *PARTS["test"]]
    return {"readme.html": b"<html>", **{name: records(place).tobytes() for place, name in enumerate(names)}}


def write_npz(path, **changes):
    arrays = {"images": np.zeros((EACH, 32, 32, 3), np.uint8), "labels": np.arange(EACH) % 10} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_without_files_it_says_where_they_are():
    out = run_ok("data")
    for words in ("uoft-cs/cifar10", "cifar-10-binary.tar.gz", "cs.toronto.edu/~kriz/cifar.html", "JPEG"):
        assert words in out
    commands = [line.split()[1] for line in out.splitlines() if line.startswith("  autonat ")]
    assert sorted(commands[:4]) == ["statistics", "tokenize", "train-features", "train-tokenizer"]
    assert commands[4:] == ["run"]
    assert "  autonat run cifar10_cpu\n" in out
    on_gpu = run_ok("data", "cifar10", "--device", "cuda")
    assert "autonat run cifar10\n" in on_gpu
    assert on_gpu.count("--device cuda") == 3


def test_the_commands_exist_with_these_options():
    """Every printed command is one of the command line's, and takes the options that it is printed with."""
    for line in run_ok("data", "--to", "a folder").splitlines():
        if line.startswith("  autonat "):
            _, command, *arguments = line.split()
            told = run_ok(command, "--help")
            assert all(argument in told for argument in arguments if argument.startswith("--"))
            assert "'a folder" in line


def test_the_recipe_s_files_are_where_the_commands_put_them():
    from autonat.config import load_recipe

    out = run_ok("data")
    for name in ("cifar10", "cifar10_cpu"):
        for file in load_recipe(name).files().values():
            assert file.path.removesuffix("/tokens.npy") in out


def test_an_archive_becomes_files_that_everything_reads(tmp_path):
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", official())
    out = run_ok("data", "cifar10", "--archive", archive, "--to", tmp_path / "to")
    assert f"{tmp_path}/to/train.npz: {5 * EACH} images of 32x32 pixels, 10 classes of {EACH // 2} each" in out
    assert f"--train {tmp_path}/to/train.npz --test {tmp_path}/to/test.npz" in out
    found = list(images(open_source(tmp_path / "to" / "train.npz")))
    expected = np.concatenate([records(place) for place in range(5)])
    assert [entry.label for entry in found] == expected[:, 0].tolist()
    assert np.array_equal(np.stack([entry.image_CHW for entry in found]).reshape(len(found), -1), expected[:, 1:])
    test = [entry.image_CHW.ravel() for entry in images(open_source(tmp_path / "to" / "test.npz"))]
    assert np.array_equal(test, records(5)[:, 1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"test_batch.bin": None}, "has no test_batch.bin"),
        ({"data_batch_2.bin": b"\0" * (RECORD_BYTES + 1)}, "not whole records"),
        ({"data_batch_2.bin": b""}, "not whole records"),
        ({"data_batch_3.bin": b"\x0a" * RECORD_BYTES}, "has class 10"),
    ],
)
def test_another_archive_is_refused(tmp_path, change, words):
    files = {name: content for name, content in (official() | change).items() if content is not None}
    archive = write_archive(tmp_path / "other.tar.gz", files)
    with pytest.raises(ArchiveError, match=words):
        unpack(archive, tmp_path / "to")
    status, _, err = run_cli("data", "--archive", archive, "--to", tmp_path / "to")
    assert (status, err.count("\n")) == (2, 1)
    assert not (tmp_path / "to").exists()


def test_what_is_no_archive(tmp_path):
    cut = write_archive(tmp_path / "cut.tar.gz", official())
    cut.write_bytes(cut.read_bytes()[:5000])
    for path, words in ((tmp_path / "none", "no such file"), (cut, "not a whole archive")):
        with pytest.raises(ArchiveError, match=words):
            unpack(path, tmp_path / "to")


def test_files_are_checked(tmp_path):
    assert f"{EACH} images" in run_ok("data", "--test", write_npz(tmp_path / "test.npz"))
    cases = {
        "not 100": {},  # as training images
        "not 32x32": {"images": np.zeros((EACH, 16, 16, 3), np.uint8)},
        "has no labels": {"labels": None},
        "classes of equal size": {"labels": np.zeros(EACH, np.int64)},
    }
    for words, changes in cases.items():
        option = "--test" if changes else "--train"
        status, _, err = run_cli("data", option, write_npz(tmp_path / "bad.npz", **changes))
        assert status == 2
        assert err.count("\n") == 1
        assert words in err, err
        assert "bad.npz" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mnist"], "unknown data set 'mnist'"),
        (["--train", "none.parquet"], "none.parquet does not exist"),
        (["--train", "a", "--archive", "b"], "either --archive or --train and --test"),
    ],
)
def test_wrong_usage_gets_one_line(arguments, words):
    status, _, err = run_cli("data", *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert words in err
