"""`autonat tokenize` from the command line, with the small official VQGAN and real kills."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from reference import FOLDER
from rich.console import Console
from test_image_sources import encoded, pixels, write_folder, write_parquet, write_source

from autonat import tokenize_command
from autonat.cli import main
from autonat.errors import UserError
from autonat.image_progress import ImageProgress
from autonat.tokenize_command import Options, tokenize
from models.image_sources import images, open_source
from models.images import digits
from models.token_files import read_facts, read_tokens
from models.tokenizer import open_tokenizer

VQGAN = str(FOLDER / "vqgan_tiny.safetensors")
SIZE = 8


def quiet():
    return Console(file=io.StringIO(), width=200)


def command(*arguments):
    return [sys.executable, "-m", "autonat", "tokenize", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_parts(monkeypatch):
    """Parts and the official file's batches of four images, so that a few images make many."""
    monkeypatch.setattr(tokenize_command, "PART_IMAGES", 4)
    monkeypatch.setattr("models.token_files.OFFICIAL_BATCH", 2)


@pytest.mark.parametrize("kind", ["folder", "npz", "parquet"])
def test_tokens_are_the_tokenizers(kind, tmp_path, small_parts):
    path = write_source(kind, tmp_path, 11)
    tokenize(path, tmp_path / "out", Options(VQGAN, SIZE, batch_size=3, threads=2), quiet())
    source, tokenizer = open_source(path), open_tokenizer(VQGAN, SIZE)
    pictures = torch.from_numpy(np.stack([image.image_CHW for image in images(source, SIZE)]))
    table = read_tokens(tmp_path / "out", codebook_size=tokenizer.codebook_size, num_classes=3)
    assert np.array_equal(table.tokens_NL, tokenizer.encode(pictures))
    assert np.array_equal(table.flipped_NL, tokenizer.encode(pictures.flip(-1)))
    assert np.array_equal(table.labels_N, source.labels_N)
    assert not np.array_equal(table.tokens_NL, table.flipped_NL)
    official = np.load(tmp_path / "out" / "train.npy")
    pairs = [np.arange(start, min(start + 2, 11)) for start in range(0, 11, 2)]
    expected = np.concatenate([part[pair] for pair in pairs for part in (table.tokens_NL, table.flipped_NL)])
    assert np.array_equal(official[:, 1:], expected)
    facts = read_facts(tmp_path / "out")
    assert (facts["images"], facts["num_classes"], facts["skipped"]) == (11, 3, [])
    assert sorted(contents(tmp_path / "out")) == ["tokens.json", "tokens.npy", "train.npy"]


def test_digits_from_an_archive(tmp_path):
    data = digits()
    np.savez(tmp_path / "digits.npz", images=data.test_images[:, 0], labels=data.test_labels)
    done = run(
        tmp_path / "digits.npz", "--tokenizer", "digits", "--out", tmp_path / "out", "--no-flip", "--no-official"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "500 images of 10 classes as 8x8 tokens\n" in done.stdout
    table = read_tokens(tmp_path / "out", codebook_size=17, num_classes=10)
    assert table.flipped_NL is None
    decoded = open_tokenizer("digits").decode(torch.from_numpy(table.tokens_NL.astype(np.int64)))
    assert np.array_equal(decoded, data.test_images)
    assert np.array_equal(table.labels_N, data.test_labels)
    said = io.StringIO()
    tokenize(tmp_path / "digits.npz", tmp_path / "out", Options("digits", flip=False), Console(file=said, width=200))
    assert said.getvalue() == f"{tmp_path / 'out'} is complete already\n"


def test_unreadable_images_are_named_and_the_rest_goes_on(tmp_path, small_parts):
    write_folder(tmp_path / "good", 12, 1)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    # Damaged in place: one image, and all four of the last part.
    bad = sorted((tmp_path / "bad" / "class 0").iterdir())
    for file in [bad[1], *bad[8:]]:
        file.write_text("no image")
    tokenize(tmp_path / "good", tmp_path / "a", Options(VQGAN, SIZE), quiet())
    with open(tmp_path / "log", "w+") as log:
        tokenize(tmp_path / "bad", tmp_path / "b", Options(VQGAN, SIZE), Console(file=log, width=200))
        log.seek(0)
        lines = log.read().splitlines()
    assert [line for line in lines if line.startswith("skipped")] == [
        f"skipped class 0/{file.name}: not an image" for file in [bad[1], *bad[8:]]
    ]
    assert lines[-1].endswith("each with its flipped copy; 5 unreadable entries skipped")
    whole, rest = read_tokens(tmp_path / "a"), read_tokens(tmp_path / "b")
    kept = [0, 2, 3, 4, 5, 6, 7]
    assert np.array_equal(rest.tokens_NL, whole.tokens_NL[kept])
    assert np.array_equal(rest.flipped_NL, whole.flipped_NL[kept])
    assert read_facts(tmp_path / "b")["skipped"][0] == [f"class 0/{bad[1].name}", "not an image"]


SLOW = """
import sys, time
from autonat import cli, tokenize_command
from models import token_files
tokenize_command.PART_IMAGES, token_files.OFFICIAL_BATCH = 4, 2
write = tokenize_command._write
def slowly(path, content):
    write(path, content)
    print("wrote", path.name, flush=True)
    time.sleep(0.05)
tokenize_command._write = slowly
sys.argv = ["autonat", "tokenize", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("after", ["job.json", "part-000000.npz", "part-000003.npz"])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(after, tmp_path, small_parts):
    write_folder(tmp_path / "images", 26, 2)
    (tmp_path / "images" / "class 0" / "003-bad.png").write_text("no image")
    options = Options(VQGAN, SIZE)
    tokenize(tmp_path / "images", tmp_path / "whole", options, quiet())

    arguments = [tmp_path / "images", "--tokenizer", VQGAN, "--size", SIZE, "--out", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.split()[-1] == after:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not (tmp_path / "out" / "tokens.json").exists()
    unfinished = tmp_path / "out" / ".unfinished"
    finished = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("part-*.npz")}
    (unfinished / ".part-000009.npz.tmp").write_bytes(b"half a file")

    encoded_images = []
    with pytest.MonkeyPatch.context() as patch:
        rows = tokenize_command._Tokenizing._rows
        patch.setattr(
            tokenize_command._Tokenizing, "_rows", lambda self, batch: encoded_images.extend(batch) or rows(self, batch)
        )
        tokenize(tmp_path / "images", tmp_path / "out", options, quiet())
    assert min(image.place for image in encoded_images) == 4 * len(finished)
    assert (len(finished) > 0) == (after != "job.json")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_while_files_are_put_together(crash_at, tmp_path, small_parts, monkeypatch):
    write_folder(tmp_path / "images", 9)
    options = Options(VQGAN, SIZE)
    tokenize(tmp_path / "images", tmp_path / "whole", options, quiet())
    replace, calls = os.replace, []

    def crash(*arguments):
        if str(arguments[1]).endswith(("train.npy", "tokens.npy", "tokens.json")):
            calls.append(arguments)
            if len(calls) == crash_at:
                raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        try:
            tokenize(tmp_path / "images", tmp_path / "out", options, quiet())
        except KeyboardInterrupt:
            assert not (tmp_path / "out" / "tokens.json").exists()
    assert len(calls) == (crash_at if 0 < crash_at <= 3 else 3)
    tokenize(tmp_path / "images", tmp_path / "out", options, quiet())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_damaged_part_is_made_again(tmp_path, small_parts, monkeypatch):
    write_folder(tmp_path / "images", 9)
    tokenize(tmp_path / "images", tmp_path / "whole", Options(VQGAN, SIZE), quiet())
    with monkeypatch.context() as patch:
        patch.setattr(tokenize_command._Tokenizing, "_put_together", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())
    part = tmp_path / "out" / ".unfinished" / "part-000001.npz"
    part.write_bytes(part.read_bytes()[:-30])
    tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_job_is_not_mixed_in(tmp_path):
    write_folder(tmp_path / "images", 5)
    tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())
    before = contents(tmp_path / "out")
    for options, what in [
        (Options(VQGAN, 2 * SIZE), "grid, size"),
        (Options(VQGAN, SIZE, flip=False), "flip"),
        (Options("digits", SIZE), "tokenizer"),
    ]:
        with pytest.raises(UserError, match=f"another job.*{what}"):
            tokenize(tmp_path / "images", tmp_path / "out", options, quiet())
    (tmp_path / "images" / "class 0" / "new.png").write_bytes(encoded(pixels(9)))
    with pytest.raises(UserError, match="source"):
        tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())
    assert contents(tmp_path / "out") == before


def test_two_processes_do_not_write_one_folder(tmp_path):
    write_folder(tmp_path / "images", 5)
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    with (
        tokenize_command._only_process(tmp_path / "out" / ".unfinished"),
        pytest.raises(UserError, match="another process"),
    ):
        tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing source", "absent does not exist"),
        ("missing tokenizer", "absent.ckpt"),
        ("size", "multiples of"),
        ("device", "--device nonsense"),
        ("all unreadable", "none of its 2 entries is a readable image"),
        ("no labels", "has no labels"),
        ("negative label", "label -1 is not a class"),
        ("truncated parquet", "cut.parquet is not a whole Parquet file"),
        ("column", "no column 'fine'"),
    ],
)
def test_bad_input_gives_one_line(what, message, tmp_path):
    source, options = tmp_path / "images", Options(VQGAN, SIZE)
    write_folder(source, 2)
    cells = [{"bytes": encoded(pixels(0)), "path": None}] * 2
    if what == "missing source":
        source = tmp_path / "absent"
    elif what == "missing tokenizer":
        options = Options(str(tmp_path / "absent.ckpt"), SIZE)
    elif what == "size":
        options = Options(VQGAN, 7)
    elif what == "device":
        options = Options(VQGAN, SIZE, device="nonsense")
    elif what == "all unreadable":
        for file in source.rglob("*.png"):
            file.write_text("no image")
    else:
        source = tmp_path / "x.parquet"
        write_parquet(source, cells, {"no labels": None, "negative label": [0, -1]}.get(what, [0, 1]))
        if what == "column":
            options = Options(VQGAN, SIZE, label_column="fine")
        if what == "truncated parquet":
            (tmp_path / "cut.parquet").write_bytes(source.read_bytes()[:-9])
            source = tmp_path / "cut.parquet"
    with pytest.raises(UserError) as caught:
        tokenize(source, tmp_path / "out", options, quiet())
    assert message in str(caught.value)


def test_the_command_line_tells_one_line(tmp_path, monkeypatch, capsys):
    arguments = command(tmp_path / "absent", "--tokenizer", "digits", "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["autonat", *arguments[3:]])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", f"error: {tmp_path / 'absent'} does not exist\n")


def test_progress_says_how_much_is_left(monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with open(tmp_path / "log", "w+") as log:
        progress = ImageProgress(Console(file=log, width=200), total=1000, done=500)
        for seconds, done in ((10, 550), (20, 600), (25, 700), (40, 999)):
            now[0] = 100.0 + seconds
            progress.reach(done)
        log.seek(0)
        assert log.read().splitlines() == [
            "600 of 1,000 images, 5.0 a second, about 80 s left",
            "999 of 1,000 images, 12.5 a second, about 0 s left",
        ]


def test_facts_are_plain_json(tmp_path):
    write_folder(tmp_path / "images", 2)
    tokenize(tmp_path / "images", tmp_path / "out", Options(VQGAN, SIZE), quiet())
    facts = json.loads((tmp_path / "out" / "tokens.json").read_text())
    assert facts["codebook_size"] == open_tokenizer(VQGAN, SIZE).codebook_size
    assert set(facts) == {"codebook_size", "flipped", "images", "job", "num_classes", "skipped", "source"}
