import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.images import DIGITS_LEVELS, digits, grey_to_uint8, image_set
from models.tokenizer import GreyLevelTokenizer, open_tokenizer


def test_digits_are_split_without_overlap():
    data = digits()
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert (len(data.train_images), len(data.test_images)) == (1297, 500)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(data.num_classes))
    assert min(np.bincount(data.test_labels)) > 30

    from sklearn.datasets import load_digits

    bunch = load_digits()
    originals = zip(grey_to_uint8(bunch.images), bunch.target, strict=True)
    assert sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)) == sorted(
        (image.tobytes(), int(label)) for image, label in originals
    )


def test_grey_levels_are_told_apart():
    grey = grey_to_uint8(np.arange(DIGITS_LEVELS))
    assert (grey[0], grey[-1]) == (0, 255)
    assert (np.diff(grey.astype(int)) > 0).all()


def test_tokenizer_round_trip_on_all_digits():
    data, tokenizer = digits(), open_tokenizer("digits")
    images = torch.from_numpy(np.concatenate([data.train_images, data.test_images]))
    tokens_BL = tokenizer.encode(images)
    height, width = tokenizer.grid
    assert tokens_BL.shape == (len(images), height * width)
    assert tokens_BL.dtype == torch.int64
    assert set(tokens_BL.unique().tolist()) == set(range(tokenizer.codebook_size))
    decoded = tokenizer.decode(tokens_BL)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, images)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_tokenizer_round_trip_on_codes(height, width, seed):
    tokenizer = GreyLevelTokenizer(height, width)
    shape = (3, height * width)
    tokens_BL = torch.randint(tokenizer.codebook_size, shape, generator=torch.Generator().manual_seed(seed))
    images = tokenizer.decode(tokens_BL)
    assert images.shape == (3, 1, height, width)
    assert torch.equal(tokenizer.encode(images), tokens_BL)


def test_tokens_are_in_row_order():
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[0, 0, 2, 3] = 255
    assert GreyLevelTokenizer().encode(image)[0].nonzero().tolist() == [[2 * 8 + 3]]


def test_unknown_data_sets_are_refused():
    assert image_set("digits") is digits()
    with pytest.raises(ValueError, match="imagenet"):
        image_set("imagenet")
    with pytest.raises(ValueError, match="imagenet"):
        open_tokenizer("imagenet")
