"""The population gradient: every image under a perturbation of its own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MODERATE, schedules, tiny_network

from models.evaluate import Block, Generator, dithers
from models.population import parts_of, perturbed_block, perturbed_tokens, ratio_columns, regress, signs_of
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


def parts_of_all(num_steps, num_blocks, size, seed):
    return [part for index in range(num_blocks) for part in parts_of(num_steps, Block(index, num_blocks, size, seed))]


@given(st.integers(1, 16), st.integers(2, 12), st.sampled_from([20, 24, 100]), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_signs(num_steps, num_blocks, size, seed):
    """Shapes, balance, and mask ratios that can be told apart, also where there are more of them than blocks."""
    names, parts = components(num_steps), parts_of_all(num_steps, num_blocks, size, seed)
    assert [part.index for part in parts] == list(range(len(parts)))
    assert {(part.num_blocks, part.seed) for part in parts} == {(len(parts), seed)}
    assert sum(part.size for part in parts) == num_blocks * size // 2
    all_signs = [signs_of(num_steps, part) for part in parts]
    for part, signs in zip(parts, all_signs, strict=True):
        assert signs.shape == (part.size, len(names))
        assert set(signs.unique().tolist()) <= {-1.0, 1.0}
    ratios = ratio_columns(num_steps)
    assert all(bool((signs[:, ratios] == signs[0, ratios]).all()) for signs in all_signs)
    design = torch.stack([signs[0, ratios] for signs in all_signs])
    assert bool((design.sum(0).abs() <= len(parts) % 2).all())
    if num_blocks * size // 2 >= 2 * num_steps:
        assert len(parts) >= 2 * num_steps
        assert int(torch.linalg.matrix_rank(design)) == num_steps - 1
    assert len(parts) == num_blocks or num_blocks < 2 * num_steps  # batches are no smaller than they must be


@pytest.mark.parametrize(("num_steps", "num_blocks"), [(4, 10), (8, 10), (8, 4), (16, 10)])
def test_intervals_hold_where_the_images_of_a_part_have_something_in_common(num_steps, num_blocks):
    """As their dithered mask counts: pairs are no independent witnesses of a mask ratio then."""
    random, ratios = np.random.default_rng(1), np.array(ratio_columns(num_steps))
    truth = random.standard_normal(len(ratios))
    found = []
    for seed in range(200):
        parts = []
        for part in parts_of_all(num_steps, num_blocks, 100, seed):
            signs = signs_of(num_steps, part)
            noise = random.standard_normal(len(signs)) + 0.3 * random.standard_normal()
            parts.append((signs, torch.from_numpy(signs.numpy() @ truth + noise)))
        found.append(regress(parts, ratio_columns(num_steps)))
    changes, errors = (np.array(each) for each in zip(*found, strict=True))
    inside = np.abs(changes - truth) < 1.96 * errors
    assert 0.85 < inside[:, ratios].mean() < 0.98  # a few parts: fewer degrees of freedom than the 1.96 is for
    assert 0.93 < inside[:, ~ratios].mean() < 0.97
    real, reported = changes.std(0), np.sqrt((errors**2).mean(0))
    assert np.sqrt((real[ratios] ** 2).mean() / (reported[ratios] ** 2).mean()) < 1.12


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
    with pytest.raises(ValueError, match="2 parts with one sign each cannot tell 2 values apart"):
        regress([(torch.ones(5, 2), torch.ones(5))] * 2, [True, True])


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
