"""A block's changes under probes: equal to the plain sum, every distinct image decoded once."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import probes
from models.evaluate import Block


class Painter:
    """Tokens are their own images; remembers what was decoded."""

    def __init__(self):
        self.decoded = []

    def precisely(self):
        return nullcontext()

    def decode(self, tokens_BL, images):
        assert len(tokens_BL) <= 5
        self.decoded += [tuple(row) for row in tokens_BL.tolist()]
        return tokens_BL


FEATURES = SimpleNamespace(images=None, features=lambda tokens_BL: tokens_BL.double())
INFLUENCE = SimpleNamespace(of_features=lambda features_BD: (features_BD * torch.tensor([1.0, 10.0]).double()).sum(1))

# Few codes, so that images often coincide.
batch = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=5, max_size=5).map(torch.tensor)


@given(batch, st.lists(batch | st.none(), min_size=0, max_size=6))
def test_changes_are_the_plain_ones_and_no_image_is_looked_at_twice(base_BL, found):
    probed = [base_BL if tokens_BL is None else tokens_BL for tokens_BL in found]
    painter = Painter()
    with mock.patch.object(probes, "probe_tokens", return_value=(base_BL, probed)):
        changes = probes.probe_block(painter, FEATURES, INFLUENCE, None, (), Block(0, 1, 5, 0))

    def score(tokens_BL):
        return INFLUENCE.of_features(FEATURES.features(tokens_BL))

    expected = [float((score(tokens_BL) - score(base_BL)).mean()) for tokens_BL in probed]
    assert changes == pytest.approx(expected, abs=1e-12)
    moved = painter.decoded[len(base_BL) :]  # the base's own come first
    assert len(moved) == len(set(moved))
    wanted = {
        tuple(row)
        for tokens_BL in probed
        for row, before in zip(tokens_BL.tolist(), base_BL.tolist(), strict=True)
        if row != before
    }
    assert set(moved) == wanted
