"""Images from folders, Parquet files and .npz archives."""

import io
import warnings
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.image_crop import UnreadableImageError, decode_image, prepare, prepare_pixels
from models.image_sources import SourceError, images, open_source


def pixels(seed, height=6, width=6):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array, kind="PNG"):
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind)
    return content.getvalue()


def write_parquet(path, cells, labels=None, image="image", **more):
    columns = {image: pa.array(cells, type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns["label"] = pa.array(labels, type=pa.int64())
    columns |= {name: pa.array(values) for name, values in more.items()}
    pq.write_table(pa.table(columns), path, row_group_size=3)


def write_folder(path, count=7, classes=3):
    for number in range(count):
        folder = path / f"class {number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.png").write_bytes(encoded(pixels(number)))


def write_source(kind, folder, count=7):
    """The same images in any form; folders sort by class."""
    if kind == "folder":
        write_folder(folder / "images", count)
        return folder / "images"
    labels = [number % 3 for number in range(count)]
    if kind == "npz":
        np.savez_compressed(folder / "images.npz", images=np.stack([pixels(n) for n in range(count)]), labels=labels)
        return folder / "images.npz"
    cells = [{"bytes": encoded(pixels(number)), "path": f"{number}.png"} for number in range(count)]
    if kind == "parquet":
        write_parquet(folder / "images.parquet", cells, labels)
        return folder / "images.parquet"
    (folder / "parts").mkdir()
    write_parquet(folder / "parts" / "b.parquet", cells[4:], labels[4:])
    write_parquet(folder / "parts" / "a.parquet", cells[:4], labels[:4])
    return folder / "parts"


KINDS = ["folder", "npz", "parquet", "parquet parts"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_images_in_its_order(kind, tmp_path):
    source = open_source(write_source(kind, tmp_path))
    found = list(images(source))
    order = [0, 3, 6, 1, 4, 2, 5] if kind == "folder" else list(range(7))
    assert len(source) == len(found) == 7
    assert [image.place for image in found] == list(range(7))
    assert [image.label for image in found] == source.labels_N.tolist() == [number % 3 for number in order]
    assert len({image.name for image in found}) == 7
    for image, number in zip(found, order, strict=True):
        assert image.image_CHW.dtype == np.uint8
        assert np.array_equal(image.image_CHW, pixels(number).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_any_stretch_and_any_number_of_threads(kind, tmp_path):
    source = open_source(write_source(kind, tmp_path))
    whole = list(images(source, 4))
    for start, stop, threads in [(0, 7, 3), (2, 5, 0), (3, 4, 1), (5, None, 2), (7, 7, 0), (4, 99, 0)]:
        part = list(images(source, 4, start=start, stop=stop, threads=threads))
        assert [image[:2] for image in part] == [image[:2] for image in whole[start:stop]]
        for image, expected in zip(part, whole[start:stop], strict=True):
            assert np.array_equal(image.image_CHW, expected.image_CHW)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_follows_the_contents(kind, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    one, same, other = (
        open_source(write_source(kind, tmp_path / name, count)).identity()
        for name, count in (("a", 7), ("b", 7), ("c", 8))
    )
    assert one == same != other


def test_unreadable_entries_are_named_and_skipped(tmp_path):
    write_folder(tmp_path, count=6, classes=2)
    (tmp_path / "class 0" / "001-text.jpg").write_text("this is no image")
    whole = encoded(pixels(1, 64, 64), "JPEG")
    (tmp_path / "class 1" / "002-cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "class 1" / "999-empty.png").write_bytes(b"")
    (tmp_path / "class 1" / "notes.txt").write_text("not counted")
    (tmp_path / "class 1" / ".hidden.png").write_text("not counted")
    source = open_source(tmp_path)
    for threads in (0, 2):
        bad = []
        found = list(images(source, threads=threads, on_unreadable=bad.append))
        assert (len(source), len(found)) == (9, 6)
        assert [(entry.name.split("/")[-1], entry.reason) for entry in bad] == [
            ("001-text.jpg", "not an image"),
            ("002-cut.jpg", bad[1].reason),
            ("999-empty.png", "empty file"),
        ]
        assert "truncated" in bad[1].reason
        assert sorted([entry.place for entry in bad] + [image.place for image in found]) == list(range(9))
        assert [image.label for image in found] == [0, 0, 0, 1, 1, 1]
    with pytest.raises(SourceError, match=r"001-text\.jpg.*not an image"):
        list(images(source))


def test_unreadable_rows_are_named_and_skipped(tmp_path):
    good = {"bytes": encoded(pixels(0)), "path": "good.png"}
    cells = [good, {"bytes": None, "path": "none.png"}, None, {"bytes": b"text", "path": None}, good]
    write_parquet(tmp_path / "x.parquet", cells, [0, 1, 2, 3, 4])
    bad = []
    found = list(images(open_source(tmp_path / "x.parquet"), on_unreadable=bad.append))
    assert [image.label for image in found] == [0, 4]
    assert [entry.name for entry in bad] == ["x.parquet, row 1 (none.png)", "x.parquet, row 2", "x.parquet, row 3"]


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_arbitrary_bytes_are_unreadable_and_nothing_else(content):
    with pytest.raises(UnreadableImageError):
        decode_image(content, 4, False)


@given(st.integers(0, 2000), st.integers(0, 255))
@settings(max_examples=60)
def test_a_damaged_image_is_read_or_unreadable(place, value):
    content = bytearray(encoded(pixels(5, 16, 16)))
    content[place % len(content)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode_image(bytes(content), 8, False).shape == (3, 8, 8)
        except UnreadableImageError:
            pass


# The crop


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 24), st.booleans())
@settings(max_examples=60)
def test_the_crop_has_its_size(height, width, size, grey):
    image = prepare_pixels(pixels(0, height, width).transpose(2, 0, 1), size, grey)
    assert image.shape == (1 if grey else 3, size, size)
    assert image.dtype == np.uint8


def test_an_image_of_the_right_size_is_not_touched():
    array = pixels(3, 8, 8)
    assert np.array_equal(decode_image(encoded(array), 8, False), array.transpose(2, 0, 1))
    assert np.array_equal(np.asarray(prepare(Image.fromarray(array), None)), array)


def test_large_images_are_halved_by_averages_first():
    """At twice the size and a multiple, ADM's crop is a mean over boxes and no bicubic interpolation."""
    array = pixels(4, 32, 48)
    means = array[:, 8:40].reshape(8, 4, 8, 4, 3).mean((1, 3))
    cropped = np.asarray(prepare(Image.fromarray(array), 8)).astype(float)
    assert np.abs(cropped - means).max() <= 2  # rows and columns of two halvings, each rounded by half at most
    bicubic = np.asarray(Image.fromarray(array).resize((12, 8), Image.Resampling.BICUBIC))[:, 2:10].astype(float)
    assert np.abs(bicubic - means).max() > 5


def test_the_crop_is_the_middle():
    array = np.zeros((8, 20, 3), np.uint8)
    array[:, 6:14] = 255
    assert (decode_image(encoded(array), 8, False) == 255).all()
    assert (decode_image(encoded(array.transpose(1, 0, 2)), 8, False) == 255).all()


def test_modes_become_colour_or_grey():
    array = pixels(2)
    assert decode_image(encoded(array), None, True).shape == (1, 6, 6)
    assert decode_image(encoded(array[..., 0]), None, False).shape == (3, 6, 6)
    transparent = np.concatenate([array, np.zeros((6, 6, 1), np.uint8)], axis=2)
    assert np.array_equal(decode_image(encoded(transparent), None, False), array.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 3, 5, 6), (4, 5, 6), (4, 5, 6, 1), (4, 1, 5, 6)])
def test_axes_of_an_npz(shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", array)
    source = open_source(tmp_path / "x.npz")
    assert source.labels_N is None
    expected = array[..., None] if array.ndim == 3 else array
    expected = expected.transpose(0, 3, 1, 2) if expected.shape[3] in (1, 3) else expected
    found = list(images(source))
    assert {image.label for image in found} == {0}
    for image, values in zip(found, expected, strict=True):
        assert np.array_equal(image.image_CHW, np.broadcast_to(values, (3, 5, 6)))


def test_a_flat_folder_is_one_class_and_columns_have_usual_names(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(encoded(pixels(0)))
    assert open_source(tmp_path / "flat").labels_N.tolist() == [0]
    cells = [{"bytes": encoded(pixels(0)), "path": None}] * 2
    write_parquet(tmp_path / "img.parquet", cells, image="img", fine_label=[5, 6], coarse_label=[1, 2])
    assert open_source(tmp_path / "img.parquet").labels_N.tolist() == [5, 6]
    assert open_source(tmp_path / "img.parquet", "coarse_label").labels_N.tolist() == [1, 2]
    write_parquet(tmp_path / "none.parquet", cells, image="picture")
    assert open_source(tmp_path / "none.parquet").labels_N is None


def bad_sources(folder):
    cells = [{"bytes": encoded(pixels(0)), "path": None}] * 4
    write_parquet(folder / "good.parquet", cells, [0, 1, 2, 3])
    whole = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"label": [1, 2]}), folder / "no-images.parquet")
    write_parquet(folder / "empty.parquet", [], [])
    write_parquet(folder / "null-label.parquet", cells, [0, None, 1, 2])
    write_parquet(folder / "text-label.parquet", cells, label=["a", "b", "c", "d"])
    np.savez(folder / "good.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(folder / "names.npz", other=np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(folder / "floats.npz", images=np.zeros((2, 4, 4, 3)))
    np.savez(folder / "channels.npz", images=np.zeros((2, 4, 4, 5), np.uint8))
    np.savez(folder / "labels.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.zeros(3, int))
    np.savez(folder / "objects.npz", images=np.array([{}, {}], dtype=object))
    (folder / "nothing").mkdir()
    (folder / "mixed" / "class").mkdir(parents=True)
    for name in ("a.png", "class/b.png"):
        (folder / "mixed" / name).write_bytes(encoded(pixels(0)))
    (folder / "file.tar").write_bytes(b"")


# What is said of each, beside its name.
BAD = {
    "cut.parquet": "is not a whole Parquet file",
    "text.parquet": "is not a whole Parquet file",
    "no-images.parquet": "has 0 image columns, need one struct with bytes (columns: label)",
    "empty.parquet": "holds no rows",
    "null-label.parquet": "column 'label' must hold a whole number in every row",
    "text-label.parquet": "column 'label' must hold a whole number in every row, it is string",
    "cut.npz": "is not a whole .npz of plain arrays",
    "names.npz": "has no array images or arr_0 (arrays: other)",
    "floats.npz": "images is float64 (2, 4, 4, 3), need uint8",
    "channels.npz": "images is (2, 4, 4, 5), need one or three channels",
    "labels.npz": "holds 2 images but labels int64 (3,)",
    "objects.npz": "images is object (2,), need uint8",
    "nothing": "holds no images",
    "mixed": "holds images beside its folders of classes, for instance a.png",
    "file.tar": "is neither a folder of images, a .parquet file nor an .npz",
    "absent": "does not exist",
}


@pytest.fixture(scope="module")
def bad_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    bad_sources(folder)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_give_one_line_that_names_them(name, bad_folder):
    with pytest.raises(SourceError) as caught:
        open_source(bad_folder / name)
    assert str(caught.value).startswith(f"{bad_folder / name}")
    assert BAD[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(bad_folder):
    with pytest.raises(SourceError, match=r"no column 'fine' \(columns: image, label\)"):
        open_source(bad_folder / "good.parquet", "fine")


def test_damage_inside_an_archive_is_found_while_reading(tmp_path):
    path = write_source("npz", tmp_path)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("images.npy")
    content = bytearray(path.read_bytes())
    middle = member.header_offset + 60 + member.compress_size // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"images\.npz"):
        list(images(open_source(path)))
