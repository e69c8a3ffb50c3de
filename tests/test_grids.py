"""The picture of samples side by side, in the images' own colours."""

import numpy as np
import torch

from autonat.grids import GAP, _arrange


def test_images_keep_their_colours_and_go_to_the_row_of_their_class():
    images = torch.randint(0, 255, (6, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    picture = _arrange(images, rows=2)
    assert picture.shape == (2 * 4 + GAP, 3 * 5 + 2 * GAP, 3)
    for index, image in enumerate(images):
        top, left = (index % 2) * (4 + GAP), (index // 2) * (5 + GAP)
        assert np.array_equal(picture[top : top + 4, left : left + 5], image.permute(1, 2, 0))
    assert (picture[4 : 4 + GAP] == 255).all()


def test_grey_images_have_one_channel():
    assert _arrange(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), rows=2).shape == (2 * 3 + GAP, 3, 1)
