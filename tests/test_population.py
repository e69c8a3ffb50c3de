"""The population gradient: every image under a perturbation of its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MODERATE, schedules, tiny_network

from models.evaluate import Block, Generator, dithers
from models.population import perturbed_block, perturbed_tokens, regress, signs_of
from models.sample import sample
from models.schedule import GenerationSchedule, components

NETWORK = tiny_network()


class Codes:
    """A tokenizer whose images are the codes."""

    codebook_size = NETWORK.config.codebook_size
    grid = (4, 4)

    def decode(self, tokens_BL):
        return tokens_BL


class Histogram:
    """Features: how often each code occurs in an image."""

    images = "uint8"

    def features(self, tokens_BL):
        return torch.nn.functional.one_hot(tokens_BL, Codes.codebook_size).float().mean(dim=1)


GENERATOR = Generator(NETWORK, Codes())
BLOCK = Block(1, 4, 6, seed=5)


@given(schedules(MODERATE, max_steps=4), st.booleans())
@settings(max_examples=25, deadline=None)
def test_images_equal_those_of_the_schedule_with_their_values(schedule, up):
    """All images moved the same way: a plain run of the schedule at that end, with the same labels and noise."""
    values = np.array(schedule.values())
    lows, highs = tuple(values * 0.5), tuple(values * 0.75 + 0.1 * (values >= 0))
    signs = torch.full((BLOCK.size, len(values)), 1.0 if up else -1.0)
    painted = perturbed_tokens(GENERATOR, schedule, lows, highs, signs, BLOCK)
    # Values pass through float32 on their way to the images.
    ends = [float(np.float32(value)) for value in (highs if up else lows)]
    plain = sample(
        NETWORK,
        schedule.with_values(ends),
        GENERATOR.labels(BLOCK),
        GENERATOR.noise(BLOCK),
        first_logits=GENERATOR.first_logits,
        dithers=dithers(schedule.num_steps, BLOCK),
    )
    assert torch.equal(painted, plain)


def test_images_of_one_batch_have_values_of_their_own():
    schedule = GenerationSchedule((0.5,), (1.0, 1.0), (1.0,), (0.0, 0.0))
    lows, highs = (0.5, 0.2, 0.2, 0.0, 0.0, 0.0), (0.5, 5.0, 5.0, 9.0, 3.0, 3.0)
    mixed = torch.ones(BLOCK.size, 6)
    mixed[::2] = -1.0
    both = [
        perturbed_tokens(GENERATOR, schedule, lows, highs, sign * torch.ones(BLOCK.size, 6), BLOCK) for sign in (1, -1)
    ]
    painted = perturbed_tokens(GENERATOR, schedule, lows, highs, mixed, BLOCK)
    assert torch.equal(painted[::2], both[1][::2])
    assert torch.equal(painted[1::2], both[0][1::2])
    assert not torch.equal(both[0], both[1])


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_signs(num_steps, num_blocks, seed):
    names = components(num_steps)
    blocks = [signs_of(num_steps, Block(index, num_blocks, 20, seed)) for index in range(num_blocks)]
    for signs in blocks:
        assert signs.shape == (10, len(names))
        assert set(signs.unique().tolist()) <= {-1.0, 1.0}
    for column, (family, _) in enumerate(names):
        if family == "mask_ratios":
            firsts = [float(signs[0, column]) for signs in blocks]
            assert all(bool((signs[:, column] == signs[0, column]).all()) for signs in blocks)
            assert abs(sum(firsts)) <= 1 if num_blocks % 2 else sum(firsts) == 0


def test_pairs_are_mirrored_and_share_label_and_noise():
    schedule = GenerationSchedule((0.5,), (1.0, 1.0), (1.0,), (0.5, 0.5))
    values = tuple(schedule.values())
    still = perturbed_block(GENERATOR, Histogram(), schedule, values, values, Block(0, 2, 12, 3))
    assert torch.equal(still.forward_HD, still.backward_HD)
    lows, highs = (0.1, 0.1, 0.1, 0.0, 0.0, 0.0), (0.9, 9.0, 9.0, 9.0, 5.0, 5.0)
    apart = perturbed_block(GENERATOR, Histogram(), schedule, lows, highs, Block(0, 2, 12, 3))
    assert not torch.equal(apart.forward_HD, apart.backward_HD)


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_regression_recovers_what_made_the_differences(seed, values):
    random = torch.Generator().manual_seed(seed)
    truth = torch.randn(values, generator=random, dtype=torch.float64)
    blocks = []
    for _ in range(3):
        signs = torch.randint(2, (20, values), generator=random).double() * 2 - 1
        blocks.append((signs, signs @ truth))
    changes, errors = regress(blocks)
    assert changes == pytest.approx(truth.tolist(), abs=1e-9)
    assert errors == pytest.approx([0.0] * values, abs=1e-7)


def test_intervals_of_the_regression_cover_the_truth():
    """Noise whose spread depends on the signs, which plain least squares would get wrong."""
    random = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    inside = 0
    for _ in range(400):
        signs = torch.randint(2, (60, 3), generator=random).double() * 2 - 1
        spread = 1.0 + 0.9 * signs[:, 0] * signs[:, 1]
        noise = torch.randn(60, generator=random, dtype=torch.float64) * spread
        changes, errors = regress([(signs, signs @ truth + noise)])
        inside += sum(abs(a - b) < 1.96 * e for a, b, e in zip(changes, truth.tolist(), errors, strict=True))
    assert 0.90 < inside / 1200 < 0.98


def test_too_few_pairs():
    with pytest.raises(ValueError, match="3 pairs of images cannot tell 3 values apart"):
        regress([(torch.ones(3, 3), torch.ones(3))])


def test_a_generator_in_bfloat16_paints_codes_and_keeps_float32_logits():
    schedule = GenerationSchedule((0.6, 0.3), (1.0, 0.9, 0.8), (1.0, 0.5), (0.0, 0.5, 1.0))
    half = Generator(NETWORK, Codes(), "bfloat16")
    tokens = half.tokens(schedule, BLOCK)
    assert tokens.shape == (BLOCK.size, NETWORK.config.num_tokens)
    assert int(tokens.max()) < NETWORK.config.codebook_size
    assert torch.equal(tokens, Generator(NETWORK, Codes(), "bfloat16").tokens(schedule, BLOCK))
    logits, whole = (generator.first_logits.of(GENERATOR.labels(BLOCK)) for generator in (half, GENERATOR))
    assert logits.dtype == torch.float32
    assert 0 < float((logits - whole).abs().max()) < 0.1 * float(whole.abs().max())
