"""Image data sets, as uint8 arrays in memory."""

from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class ImageSet:
    """Images [N, C, H, W] uint8 and labels [N] int64, split into a training and a test part."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int


DIGITS_LEVELS = 17  # scikit-learn's digits have grey values 0 to 16


def grey_to_uint8(levels: np.ndarray) -> np.ndarray:
    """Grey levels 0..16 to 0..255, rounded; one to one."""
    return np.rint(np.asarray(levels, dtype=np.float64) * (255 / (DIGITS_LEVELS - 1))).astype(np.uint8)


@cache
def digits() -> ImageSet:
    """scikit-learn's 1,797 real 8x8 digits (UCI optical recognition of handwritten digits), shipped with the package.

    A fixed permutation puts 1,297 into the training part and 500 into the test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = grey_to_uint8(bunch.images)[:, None]
    labels = bunch.target.astype(np.int64)
    order = np.argsort(np.random.Generator(np.random.Philox(key=1797)).random(len(labels)), kind="stable")
    train, test = order[:1297], order[1297:]
    return ImageSet("digits", images[train], labels[train], images[test], labels[test], num_classes=10)


def image_set(name: str) -> ImageSet:
    """A data set by name. Raises ValueError for an unknown one."""
    if name == "digits":
        return digits()
    raise ValueError(f"unknown data set {name!r}, expected 'digits'")
