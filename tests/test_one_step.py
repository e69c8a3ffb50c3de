"""Real images finished in one pass: what stays, what is drawn, and from which logits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import tiny_network

from models.evaluate import Block, Generator
from models.frechet import Statistics
from models.images import digits
from models.masking import mask_from_uniform
from models.one_step import images_of_block, masked_count, one_step_block, one_step_tokens
from models.random_streams import stream
from models.tokenizer import GreyLevelTokenizer

BLOCK = Block(index=1, num_blocks=3, size=12, seed=5)


@pytest.fixture(scope="module")
def generator():
    network = tiny_network(num_tokens=64, codebook_size=17, num_classes=10)
    return Generator(network.eval(), GreyLevelTokenizer())


@pytest.fixture(scope="module")
def real():
    images = digits()
    return GreyLevelTokenizer().encode(torch.from_numpy(images.train_images)), torch.from_numpy(images.train_labels)


@given(st.floats(0, 1, exclude_max=True), st.integers(2, 300))
def test_counts(ratio, num_tokens):
    count = masked_count(ratio, num_tokens)
    assert count == 0 if ratio == 0 else 1 <= count <= num_tokens - 1
    assert abs(count - ratio * num_tokens) <= 1


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 5))
def test_every_image_is_taken_equally_often(num_images, size, num_blocks):
    blocks = [images_of_block(num_images, Block(index, num_blocks, size, 3)) for index in range(num_blocks)]
    counts = np.bincount(np.concatenate(blocks), minlength=num_images)
    assert counts.max() - counts.min() <= 1


def test_nothing_masked_is_the_real_image(generator, real):
    tokens_BL, labels_B = real[0][:12], real[1][:12]
    assert torch.equal(one_step_tokens(generator, tokens_BL, labels_B, 0.0, 1.0, BLOCK), tokens_BL)


def masks_and_logits(generator, tokens_BL, labels_B, ratio):
    """What BLOCK masks, and the network alone on a canvas where only masks tell what is seen."""
    uniform_BL = torch.from_numpy(stream(BLOCK.seed, "one-step masks", BLOCK.index).random(tuple(tokens_BL.shape)))
    masked_BL = mask_from_uniform(uniform_BL, torch.full((len(tokens_BL),), masked_count(ratio, tokens_BL.shape[1])))
    with torch.inference_mode():
        network = generator.network
        return masked_BL, network.logits(network(tokens_BL, masked_BL, labels_B).features_BLD)


@pytest.mark.parametrize("ratio", [0.2, 0.8])
def test_masked_tokens_are_the_likeliest_under_noise(generator, real, ratio):
    """Once more with the network alone."""
    tokens_BL, labels_B = real[0][:12], real[1][:12]
    drawn_BL = one_step_tokens(generator, tokens_BL, labels_B, ratio, 1.0, BLOCK)
    others_BL = one_step_tokens(generator, (tokens_BL + 1) % 17, labels_B, ratio, 1.0, BLOCK)
    # Where tokens are visible they are handed through, so both runs differ by one exactly there (or by chance).
    assert int((drawn_BL != tokens_BL).sum(1).max()) <= masked_count(ratio, 64)
    masked_BL, logits_BLK = masks_and_logits(generator, tokens_BL, labels_B, ratio)
    expected_BL = (logits_BLK + generator.noise(BLOCK).draw(0)).argmax(-1)
    assert torch.equal(drawn_BL, torch.where(masked_BL, expected_BL, tokens_BL))
    assert torch.equal(others_BL[~masked_BL], (tokens_BL[~masked_BL] + 1) % 17)
    assert not torch.equal(drawn_BL, tokens_BL)


def test_at_temperature_zero_masked_tokens_are_the_likeliest(generator, real):
    """Without any noise; the noise counts at other temperatures."""
    tokens_BL, labels_B = real[0][:12], real[1][:12]
    masked_BL, logits_BLK = masks_and_logits(generator, tokens_BL, labels_B, 0.5)
    likeliest_BL = torch.where(masked_BL, logits_BLK.argmax(-1), tokens_BL)
    assert torch.equal(one_step_tokens(generator, tokens_BL, labels_B, 0.5, 0.0, BLOCK), likeliest_BL)
    assert not torch.equal(one_step_tokens(generator, tokens_BL, labels_B, 0.5, 5.0, BLOCK), likeliest_BL)


def test_a_block_has_its_images_statistics(generator, real, classifier):
    features, _ = classifier
    found = one_step_block(generator, features, lambda: real, 0.0, 1.0, BLOCK)
    chosen = images_of_block(len(real[0]), BLOCK)
    with torch.inference_mode():
        expected = Statistics.of(features.features(torch.from_numpy(digits().train_images[chosen])))
    assert found.count == 12
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.scatter, expected.scatter)
