"""Captions to contexts: against a direct call of transformers on a tiny CLIP of random weights."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from studies_for_tests import run_cli, run_ok

from models.captions import CONTEXT_TOKENS, ClipEncoder, read_captions
from models.context_files import encode_captions
from models.data import Captions, TokenData, with_conditions
from models.evaluate import Block, Generator
from models.files import File, FileError
from models.networks import build_network
from models.schedule import PRESETS
from models.uvit import TextUViTConfig

CAPTIONS = ["a red bicycle", "Two  dogs, one BALL!", "x", "a very long caption " * 12, 'the word "quoted" & café']


class Counting:
    """An encoder whose numbers say which text they are of; it may be made to fail."""

    width, identity = 3, "counting"

    def __init__(self, fail_after=None):
        self.encoded, self.fail_after = [], fail_after

    def encode(self, texts):
        if self.fail_after is not None and len(self.encoded) >= self.fail_after:
            raise KeyboardInterrupt
        self.encoded += texts
        return np.stack([np.full((CONTEXT_TOKENS, self.width), number_of(text), np.float32) for text in texts])


def number_of(text):
    return sum(map(ord, text)) % 1000


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A CLIP's folder: every byte a token, two layers of 16 numbers, the whole model with its images' half."""
    transformers = pytest.importorskip("transformers", reason="captions need the extra `text`")
    folder = tmp_path_factory.mktemp("clip")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(vocabulary) - 1
    text = {"vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end, "projection_dim": 8, **sizes}
    vision = {"image_size": 8, "patch_size": 4, "projection_dim": 8, **sizes}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    network = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    network.save_pretrained(folder)
    return folder


def directly(clip, texts):
    """The official pipeline in its own words."""
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip)
    tokenizer.pad_token_id = 0
    network = CLIPTextModelWithProjection.from_pretrained(clip).eval()
    encoded = tokenizer(texts, max_length=77, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        return encoded.input_ids, network(input_ids=encoded.input_ids).last_hidden_state.numpy()


def write_table(path, captions=CAPTIONS, column="caption"):
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table({"id": range(len(captions)), column: captions}), path)
        return path
    import csv

    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["id", column])
        writer.writerows(enumerate(captions))
    return path


@pytest.mark.parametrize("ending", ["tsv", "csv", "parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_command_line_equals_a_direct_call(clip, tmp_path, ending, dtype):
    table, out = write_table(tmp_path / f"captions.{ending}"), tmp_path / "contexts.npy"
    arguments = ("encode-captions", table, "--clip", clip, "--out", out, "--dtype", dtype, "--batch-size", 4)
    assert "5 captions and the null context" in run_ok(*arguments)
    tokens, expected = directly(clip, [*CAPTIONS, ""])
    found = np.load(out)
    assert (found.shape, found.dtype) == ((6, 77, 16), np.dtype(dtype))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 if dtype == "float32" else 4e-3)
    assert tokens[-1, 2:].unique().tolist() == [0]  # the null context: start, end, then zeros
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([table.name, "contexts.npy", "contexts.npy.json"])
    assert "complete already" in run_ok(*arguments)


def test_padding_with_the_end_token_would_be_another_encoding(clip):
    from transformers import CLIPTokenizer

    texts = ["a cat", ""]
    numbers = ClipEncoder(clip).tokens(texts)
    usual = CLIPTokenizer.from_pretrained(clip)(texts, padding="max_length", max_length=77, return_tensors="pt")
    assert not torch.equal(numbers, usual.input_ids)
    assert torch.equal(numbers, directly(clip, texts)[0])


def test_states_are_neither_projected_nor_normalised(clip):
    contexts = ClipEncoder(clip).encode(["a cat"])
    assert contexts.shape[-1] == 16
    assert np.linalg.norm(contexts, axis=-1).std() > 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 10))
def test_an_interrupted_job_goes_on_where_it_was(tmp_path_factory, count, batch_size, fail_after):
    captions, out = [f"caption {number}" for number in range(count)], tmp_path_factory.mktemp("job") / "out.npy"
    first = Counting(fail_after)
    try:
        encode_captions(captions, first, out, batch_size=batch_size)
    except KeyboardInterrupt:
        assert not out.exists()
        second, seen = Counting(), []
        assert encode_captions(captions, second, out, batch_size=3, on_progress=lambda *now: seen.append(now))
        assert first.encoded + second.encoded == [*captions, ""]
        assert seen[0] == (len(first.encoded), count + 1)
        assert seen[-1] == (count + 1, count + 1)
    expected = [number_of(text) for text in [*captions, ""]]
    assert np.load(out)[:, 0, 0].tolist() == expected
    assert not encode_captions(captions, Counting(), out)


SLOW_JOB = """
import sys, time
from pathlib import Path
from test_captions import Counting
from models.context_files import encode_captions
class Slow(Counting):
    def encode(self, texts):
        time.sleep(0.02)
        return super().encode(texts)
encode_captions([f"caption {n}" for n in range(200)], Slow(), Path(sys.argv[1]), batch_size=1)
"""


def test_a_killed_process_loses_a_batch_at_most(tmp_path):
    out = tmp_path / "out.npy"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SLOW_JOB, str(out)], env=environment)
    progress = tmp_path / "out.npy.json"
    while not (progress.exists() and json.loads(progress.read_text())["done"] >= 3):
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(FileError, match="another process is writing"):
        encode_captions(["a"], Counting(), out)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    captions, counting = [f"caption {number}" for number in range(200)], Counting()
    texts, finished = [*captions, ""], json.loads(progress.read_text())["done"]
    assert 3 <= finished < len(texts)
    assert encode_captions(captions, counting, out)
    assert counting.encoded == texts[finished:]
    assert np.load(out)[:, 5, 1].tolist() == [number_of(text) for text in texts]


def test_another_job_is_not_mixed_in(tmp_path):
    out = tmp_path / "out.npy"
    encode_captions(["a", "b"], Counting(), out)
    for captions, dtype, what in ((["a", "c"], "float32", "captions"), (["a", "b"], "float16", "dtype")):
        with pytest.raises(FileError, match=f"another job .different: {what}"):
            encode_captions(captions, Counting(), out, dtype=dtype)
    other = tmp_path / "other.npy"
    np.save(other, np.zeros(3))
    with pytest.raises(FileError, match="is there already"):
        encode_captions(["a"], Counting(), other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.npy", "out.npy", "out.npy.json"]
    out.unlink()  # whose count of finished rows stays behind
    assert encode_captions(["a", "b"], Counting(), out)
    assert np.load(out)[:, 0, 0].tolist() == [97, 98, 0]


def test_numbers_that_are_none_are_refused(tmp_path):
    class Large(Counting):
        def encode(self, texts):
            return 1e5 + super().encode(texts)

    with pytest.raises(FileError, match="captions 0 to 1 are not finite in float16"):
        encode_captions(["a"], Large(), tmp_path / "out.npy", dtype="float16")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1), min_size=1))
def test_tables_give_the_captions_back(tmp_path_factory, captions):
    captions = [f"{caption}." for caption in captions]  # none is empty or ends in a line feed
    folder = tmp_path_factory.mktemp("tables")
    for ending in ("tsv", "csv", "parquet"):
        assert read_captions(write_table(folder / f"table.{ending}", captions, "text"), "text") == captions


class Codes:
    """A tokenizer by its codebook alone."""

    codebook_size = 11


def painter_of(contexts, path, tokens=4):
    """A generator of a small text network with the contexts of a file."""
    network = build_network(
        TextUViTConfig(tokens, Codes.codebook_size, 0, 8, 1, 3, contexts.shape[1], contexts.shape[2])
    ).initialise(torch.Generator().manual_seed(0))
    np.save(path, contexts)
    data = TokenData("x", File("none"), len(contexts) - 1, (2, 2), Codes.codebook_size, None, Captions(File(str(path))))
    return Generator(with_conditions(network.eval(), data), Codes())


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 23), st.integers(1, 8), st.integers(0, 2**32))
def test_twice_as_many_images_as_captions_use_each_caption_twice(tmp_path_factory, count, parts, seed):
    """Whatever the blocks: captions are stratified like classes."""
    contexts = np.zeros((count + 1, 2, 3), np.float32)
    generator = painter_of(contexts, tmp_path_factory.getbasetemp() / "contexts.npy")
    size = max(size for size in range(1, 2 * count + 1) if 2 * count % size == 0 and size <= 2 * count / parts)
    blocks = [Block(index, 2 * count // size, size, seed) for index in range(2 * count // size)]
    labels = torch.cat([generator.labels(block) for block in blocks])
    assert torch.equal(labels.bincount(minlength=count), torch.full((count,), 2))


def test_a_network_reads_what_the_encoder_wrote(clip, tmp_path):
    """Label i is row i, and the class after the last is the empty string."""
    out = tmp_path / "contexts.npy"
    encode_captions(CAPTIONS, ClipEncoder(clip), out)
    generator = painter_of(np.load(out), tmp_path / "copy.npy")
    assert generator.network.config.num_classes == generator.network.null_class == len(CAPTIONS)
    found = generator.network.contexts(torch.tensor([3, len(CAPTIONS), 0]))
    expected = directly(clip, [CAPTIONS[3], "", CAPTIONS[0]])[1]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6)
    tokens = generator.tokens(PRESETS["muse-initial"](2, "muse"), Block(0, 1, 10, 0))
    assert (tuple(tokens.shape), int(tokens.min()) >= 0, int(tokens.max()) < 11) == ((10, 4), True, True)


def bad_table(what, folder):
    table = folder / "captions.tsv"
    content = {
        "no column": b"id\ttext\n1\ta\n",
        "empty": b"",
        "no rows": b"caption\n",
        "a caption is empty": b"caption\tid\na\t1\n\t2\n",
        "a row is short": b"id\tcaption\n1\ta\n2\n",
        "no text": b"caption\n\xff\xfe\n",
    }
    table.write_bytes(content.get(what, b"caption\na cat\n"))
    if what == "another ending":
        return table.rename(folder / "captions.json")
    if what == "missing":
        return folder / "none.tsv"
    if what == "cut short":
        whole = write_table(folder / "table.parquet").read_bytes()
        (folder / "table.parquet").write_bytes(whole[: len(whole) // 2])
        return folder / "table.parquet"
    return write_table(folder / "numbers.parquet", [1, 2]) if what == "numbers" else table


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no column", "captions.tsv has no column 'caption' (columns: id, text)"),
        ("empty", "has no column 'caption' (columns: none)"),
        ("no rows", "captions.tsv holds no captions"),
        ("a caption is empty", "captions.tsv, row 1: the caption is empty"),
        ("a row is short", "captions.tsv, row 1 has 1 fields, the header 2"),
        ("no text", "captions.tsv is not a readable table"),
        ("another ending", "captions.json: captions come as .tsv, .csv or .parquet"),
        ("missing", "No such file or directory"),
        ("cut short", "table.parquet is not a whole Parquet file"),
        ("numbers", "column 'caption' must hold texts, it is int64"),
    ],
)
def test_a_bad_table_gives_one_line(what, words, tmp_path):
    assert_refused(words, bad_table(what, tmp_path), tmp_path, tmp_path)


def assert_refused(words, table, clip, folder, *more):
    status, _, err = run_cli("encode-captions", table, "--clip", clip, "--out", folder / "contexts.npy", *more)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (folder / "contexts.npy").exists()


def test_a_folder_that_is_no_clip_gives_one_line(clip, tmp_path):
    from safetensors.torch import load_file, save_file

    table = write_table(tmp_path / "captions.tsv")
    assert_refused("no such folder", table, tmp_path / "none", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused("does not hold a CLIP text encoder", table, empty, tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in clip.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(weights).items() if "layers.1.mlp" not in name}
    save_file(kept, weights, {"format": "pt"})
    assert_refused("4 in all", table, broken, tmp_path)
    whole = (clip / "model.safetensors").read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert_refused("does not hold a CLIP text encoder", table, broken, tmp_path)
    weights.write_bytes(whole)
    (broken / "vocab.json").unlink()
    (broken / "merges.txt").unlink()
    assert_refused("tokens, its network 514", table, broken, tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_clips_folder_is_not_run(clip, tmp_path):
    evil, made = tmp_path / "evil", tmp_path / "made"
    evil.mkdir()
    for path in clip.iterdir():
        if path.suffix != ".safetensors":
            (evil / path.name).write_bytes(path.read_bytes())
    (evil / "pytorch_model.bin").write_bytes(
        pickle.dumps({"text_model.final_layer_norm.weight": Evil(made)}, protocol=2)
    )
    assert_refused("does not hold a CLIP text encoder", write_table(tmp_path / "captions.tsv"), evil, tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--dtype", "int8"), "--dtype int8"),
        (("--device", "nowhere"), "nowhere"),
        (("--out", "contexts.npz"), "need a .npy file"),
    ],
)
def test_bad_options_give_one_line(clip, tmp_path, more, words):
    assert_refused(words, write_table(tmp_path / "captions.tsv"), clip, tmp_path, *more)


def test_without_transformers_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_refused("pip install 'autonat[text]'", write_table(tmp_path / "captions.tsv"), tmp_path, tmp_path)
