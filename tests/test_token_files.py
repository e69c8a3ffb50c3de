"""Token files: both layouts there and back, and what is wrong with a file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.files import FileError
from models.token_files import OFFICIAL_BATCH, read_tokens, write_tokens


def rows_of(seed, copies, count, tokens, codes=20, classes=5):
    """[F, N, 1 + L], the class alike in all copies."""
    generator = np.random.default_rng(seed)
    rows_FNR = generator.integers(0, codes, (copies, count, 1 + tokens))
    rows_FNR[:, :, 0] = generator.integers(0, classes, count)
    return rows_FNR


def blocks_of(rows_FNR):
    return [rows_FNR[:, start : start + OFFICIAL_BATCH] for start in range(0, rows_FNR.shape[1], OFFICIAL_BATCH)]


@given(st.integers(0, 99), st.integers(1, 2), st.integers(1, 300), st.integers(1, 6), st.sampled_from([20, 40_000]))
@settings(max_examples=25)
def test_both_layouts_hold_the_same(tmp_path_factory, seed, copies, count, tokens, codes):
    folder = tmp_path_factory.mktemp("tokens")
    rows_FNR = rows_of(seed, copies, count, tokens, codes)
    write_tokens(folder, blocks_of(rows_FNR), {"source": "x"}, codebook_size=codes, split="train")
    assert sorted(path.name for path in folder.iterdir()) == ["tokens.json", "tokens.npy", "train.npy"]

    table = read_tokens(folder, codebook_size=codes, num_classes=5)
    assert np.array_equal(table.tokens_NL, rows_FNR[0, :, 1:])
    assert np.array_equal(table.labels_N, rows_FNR[0, :, 0])
    assert (table.flipped_NL is None) == (copies == 1)
    assert table.flipped_NL is None or np.array_equal(table.flipped_NL, rows_FNR[1, :, 1:])
    assert table.tokens_NL.dtype == (np.int16 if codes == 20 else np.int32)
    assert isinstance(table.tokens_NL.base, np.memmap)
    again = read_tokens(folder / "tokens.npy")
    assert (again.flipped_NL is None) == (copies == 1)

    # The official file: after every 128 images their copies; it is read without saying which are which.
    official = np.load(folder / "train.npy", allow_pickle=False)
    assert official.dtype == np.int64
    expected = np.concatenate([copy for block in blocks_of(rows_FNR) for copy in block])
    assert np.array_equal(official, expected)
    plain = read_tokens(folder / "train.npy", codebook_size=codes, num_classes=5)
    assert np.array_equal(plain.tokens_NL, expected[:, 1:])
    assert np.array_equal(plain.labels_N, expected[:, 0])
    assert plain.flipped_NL is None


def test_a_folder_of_the_official_file(tmp_path):
    np.save(tmp_path / "train.npy", rows_of(0, 1, 9, 4)[0])
    np.save(tmp_path / "val.npy", rows_of(1, 1, 3, 4)[0])
    assert len(read_tokens(tmp_path).labels_N) == 9
    assert len(read_tokens(tmp_path, split="val").labels_N) == 3


@pytest.mark.parametrize("copies", [1, 2])
def test_a_folder_of_one_file_an_image(tmp_path, copies):
    rows_FNR = rows_of(0, copies, 12, 4)
    for number in range(12):
        image = rows_FNR[:, number]
        np.save(tmp_path / f"{number}.npy", image[0] if copies == 1 else image)
    table = read_tokens(tmp_path)  # in the order of numbers, 2 before 10
    assert np.array_equal(table.tokens_NL, rows_FNR[0, :, 1:])
    assert np.array_equal(table.labels_N, rows_FNR[0, :, 0])
    assert (table.flipped_NL is None) == (copies == 1)
    np.save(tmp_path / "5.npy", np.zeros(9, int))
    with pytest.raises(FileError, match=r"5\.npy has shape"):
        read_tokens(tmp_path)


@pytest.mark.parametrize("form", ["compact", "official"])
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 3, 2), 20, "image 3: token 20 is outside the codebook of 20 codes"),
        ((0, 3, 2), -1, "image 3: token -1 is outside the codebook of 20 codes"),
        ((0, 7, 0), 5, "image 7: label 5 is outside the 5 classes"),
        ((0, 7, 0), -1, "image 7: label -1 is outside the 5 classes"),
    ],
)
def test_numbers_outside_are_refused(tmp_path, form, place, value, message):
    rows_FNR = rows_of(0, 1, 9, 4)
    rows_FNR[place] = value
    write_tokens(tmp_path, blocks_of(rows_FNR), {}, codebook_size=20, split="train")
    path = tmp_path if form == "compact" else tmp_path / "train.npy"
    with pytest.raises(FileError) as caught:
        read_tokens(path, codebook_size=20, num_classes=5)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_wrong_flipped_copy_is_refused(tmp_path):
    rows_FNR = rows_of(0, 2, 9, 4)
    rows_FNR[1, 2, 4] = 20
    write_tokens(tmp_path, blocks_of(rows_FNR), {}, codebook_size=20, split=None)
    assert not (tmp_path / "train.npy").exists()
    read_tokens(tmp_path)
    with pytest.raises(FileError, match="image 2: token 20"):
        read_tokens(tmp_path, codebook_size=20)


def damaged(folder, what):
    """A path that cannot be read and what names it."""
    rows_FNR = rows_of(0, 2, 9, 4)
    write_tokens(folder, blocks_of(rows_FNR), {}, codebook_size=20, split="train")
    compact, official, facts = folder / "tokens.npy", folder / "train.npy", folder / "tokens.json"
    if what == "truncated official":
        official.write_bytes(official.read_bytes()[:-8])
        return official, "train.npy"
    if what == "header alone":
        official.write_bytes(official.read_bytes()[:40])
        return official, "train.npy"
    if what == "truncated compact":
        compact.write_bytes(compact.read_bytes()[:-8])
        return folder, "tokens.npy"
    if what == "fewer rows":
        np.save(compact, np.load(compact)[:-1])
        return folder, "tokens.npy has 17 rows, tokens.json says 18"
    if what == "facts":
        facts.write_text("{")
        return folder, "tokens.json"
    if what == "other facts":
        facts.write_text(json.dumps({"images": "9", "flipped": True}))
        return folder, "tokens.json"
    if what == "text":
        official.write_text("0 1 2 3")
        return official, "train.npy"
    if what == "empty":
        official.write_bytes(b"")
        return official, "train.npy"
    if what == "objects":
        np.save(official, np.array([{}], dtype=object))
        return official, "train.npy"
    if what == "floats":
        np.save(official, rows_FNR[0].astype(float))
        return official, "train.npy is not a .npy file of whole numbers"
    if what == "flat":
        np.save(official, rows_FNR[0, 0])
        return official, "train.npy has shape (5,)"
    if what == "archive":
        np.savez(folder / "x.npz", rows_FNR[0])
        return folder / "x.npz", "x.npz"
    if what == "unfinished":
        (folder / "new" / ".unfinished").mkdir(parents=True)
        return folder / "new", "unfinished"
    (folder / "empty").mkdir()
    return (folder / "empty", "empty") if what == "empty folder" else (folder / "absent", "absent")


@pytest.mark.parametrize(
    "what",
    [
        "truncated official",
        "header alone",
        "truncated compact",
        "fewer rows",
        "facts",
        "other facts",
        "text",
        "empty",
        "objects",
        "floats",
        "flat",
        "archive",
        "unfinished",
        "empty folder",
        "absent",
    ],
)
def test_bad_files_give_one_line_that_names_them(tmp_path, what):
    path, message = damaged(tmp_path, what)
    with pytest.raises(FileError) as caught:
        read_tokens(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
