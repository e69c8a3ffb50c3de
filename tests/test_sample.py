import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MODERATE, RULES, schedules, tiny_network

import models.sample
from models.evaluate import Block, Generator, dithers
from models.graphed import GraphedSampler
from models.noise import DeviceNoise, StreamNoise, noise_on
from models.probes import KNOB_OF_FAMILY, Probe, probe_tokens
from models.sample import (
    Canvas,
    FirstStepLogits,
    Knobs,
    advance,
    count_to_mask,
    guided_logits,
    sample,
    unconditional_steps,
)
from models.schedule import BOUNDS, components, maskgit_cosine

NETWORK = tiny_network()
CONFIG = NETWORK.config
BATCH = 4
LABELS_B = torch.arange(BATCH) % CONFIG.num_classes


def noise(seed=0, block=0):
    return StreamNoise(seed, block, (BATCH, CONFIG.num_tokens, CONFIG.codebook_size))


class CountingNetwork:
    """The tiny network, keeping the labels of every pass; both branches of guidance are one pass."""

    config, null_class, reuses_features = CONFIG, NETWORK.null_class, True
    logits, prepare = NETWORK.logits, NETWORK.prepare

    def __init__(self):
        self.passes = []

    def __call__(self, tokens_BL, masked_BL, labels_B, *rest):
        self.passes.append(labels_B.tolist())
        return NETWORK(tokens_BL, masked_BL, labels_B, *rest)

    @property
    def unconditional_passes(self):
        return self.passes.count(LABELS_B.tolist() + [self.null_class] * BATCH)

    @property
    def conditional_passes(self):
        return sum(labels[:BATCH] == LABELS_B.tolist() for labels in self.passes)


@given(schedules(MODERATE), st.integers(0, 3))
@settings(max_examples=60)
def test_every_token_is_painted_and_masks_only_shrink(schedule, seed):
    steps = []
    tokens_BL = sample(NETWORK, schedule, LABELS_B, noise(seed), observe=lambda step, taken: steps.append(taken))
    assert tokens_BL.shape == (BATCH, CONFIG.num_tokens)
    assert tokens_BL.dtype == torch.int64
    assert bool(((tokens_BL >= 0) & (tokens_BL < CONFIG.codebook_size)).all())
    masked_BL, before = torch.ones_like(tokens_BL, dtype=torch.bool), None
    for taken in steps:
        again_BL = taken.canvas.masked_BL
        assert not bool((again_BL & ~masked_BL).any())
        assert bool((taken.confidence_BL[~masked_BL] == math.inf).all())
        assert bool(taken.confidence_BL[masked_BL].isfinite().all())
        if before is not None:
            assert torch.equal(taken.sampled_BL[~masked_BL], before[~masked_BL])
        masked_BL, before = again_BL, taken.sampled_BL
    assert torch.equal(tokens_BL, before)


@given(st.integers(1, 10), st.sampled_from(RULES))
@settings(max_examples=20)
def test_masks_shrink_as_monotone_ratios_say(num_steps, rule):
    schedule, counts = maskgit_cosine(num_steps, rule), []
    sample(NETWORK, schedule, LABELS_B, noise(), observe=lambda _, taken: counts.append(taken.canvas.masked_BL.sum(1)))
    assert all(bool((count == count[0]).all()) for count in counts)
    expected, remaining = [], CONFIG.num_tokens
    for step in range(num_steps):
        wanted = math.floor(CONFIG.num_tokens * schedule.mask_ratio(step))
        remaining = max(1, min(remaining - 1, wanted)) if rule != "enat" else wanted
        expected.append(remaining)
    assert [int(count[0]) for count in counts] == expected


@given(schedules(MODERATE), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=30)
def test_same_seed_same_tokens(schedule, seed, block):
    first = sample(NETWORK, schedule, LABELS_B, noise(seed, block))
    sample(NETWORK, schedule, LABELS_B, noise(seed + 1, block))
    assert torch.equal(sample(NETWORK, schedule, LABELS_B, noise(seed, block)), first)


def test_other_seeds_and_blocks_give_other_tokens():
    schedule = replace(maskgit_cosine(4), sampling_temperatures=(5.0,) * 4)
    painted = [sample(NETWORK, schedule, LABELS_B, noise(seed, block)) for seed in (0, 1) for block in (0, 1)]
    assert all(not torch.equal(painted[i], painted[j]) for i in range(4) for j in range(i))


@given(st.permutations([0, 1, 2]), schedules(MODERATE, max_steps=4))
@settings(max_examples=15)
def test_a_block_does_not_depend_on_the_others(order, schedule):
    generator = Generator(NETWORK, SimpleNamespace(codebook_size=CONFIG.codebook_size))
    alone = generator.tokens(schedule, Block(index=1, num_blocks=9, size=BATCH, seed=5))
    together = {index: generator.tokens(schedule, Block(index, 3, BATCH, seed=5)) for index in order}
    assert torch.equal(together[1], alone)


def test_labels_are_balanced_over_blocks():
    generator = Generator(NETWORK, SimpleNamespace(codebook_size=CONFIG.codebook_size))
    labels = torch.cat([generator.labels(Block(index, 3, BATCH, seed=0)) for index in range(3)])
    assert labels.bincount().tolist() == [4, 4, 4]


def test_a_tokenizer_with_another_codebook_is_refused():
    with pytest.raises(ValueError, match="codes"):
        Generator(NETWORK, SimpleNamespace(codebook_size=CONFIG.codebook_size + 1))


@given(schedules(MODERATE, rules=("enat",), no_guidance_at_some_steps=True), st.booleans())
@settings(max_examples=40)
def test_unconditional_branch_runs_only_where_it_matters(schedule, cached_first_step):
    first_logits = FirstStepLogits(NETWORK) if cached_first_step else None
    network, steps = CountingNetwork(), []
    tokens_BL = sample(
        network, schedule, LABELS_B, noise(), first_logits=first_logits, observe=lambda _, taken: steps.append(taken)
    )
    scales, expected, conditional = schedule.guidance_scales, 0, 0
    empty = True
    for step, taken in enumerate(steps):
        if not (empty and cached_first_step):
            conditional += 1
            expected += scales[step] != 0 or (step > 0 and any(scales[step + 1 :]))
        empty = taken.canvas.num_masked == CONFIG.num_tokens
    assert network.conditional_passes == conditional
    assert network.unconditional_passes == expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.sample, "unconditional_steps", lambda schedule, reuses: [True] * schedule.num_steps)
        thorough = CountingNetwork()
        assert torch.equal(sample(thorough, schedule, LABELS_B, noise(), first_logits=first_logits), tokens_BL)
        assert thorough.unconditional_passes == thorough.conditional_passes == conditional


@pytest.mark.parametrize(
    ("scales", "with_reuse", "without_reuse"),
    [
        ((0.0, 0.0, 0.0), [False, False, False], [False, False, False]),
        ((0.0, 0.0, 1.0), [False, True, True], [False, False, True]),
        ((1.0, 0.0, 0.0), [True, False, False], [True, False, False]),
        ((0.5, 0.0, 0.5), [True, True, True], [True, False, True]),
        ((0.0, -0.5, 0.0), [False, True, False], [False, True, False]),
    ],
)
def test_unconditional_steps(scales, with_reuse, without_reuse):
    schedule = replace(maskgit_cosine(len(scales)), guidance_scales=scales)
    assert unconditional_steps(schedule, reuses_features=True) == with_reuse
    assert unconditional_steps(schedule, reuses_features=False) == without_reuse


@given(schedules(MODERATE), st.booleans())
@settings(max_examples=20)
def test_cached_first_step_gives_the_same_tokens(schedule, dithered):
    offsets = (0.3,) * schedule.num_steps if dithered else None
    cached = sample(NETWORK, schedule, LABELS_B, noise(), first_logits=FirstStepLogits(NETWORK), dithers=offsets)
    assert torch.equal(cached, sample(NETWORK, schedule, LABELS_B, noise(), dithers=offsets))


def test_guidance_changes_tokens():
    """So that the tests above, which compare runs with guidance, can tell its branches apart."""
    plain = replace(maskgit_cosine(4), sampling_temperatures=(0.0,) * 4)
    guided = replace(plain, guidance_scales=(0.0, 0.0, 6.0, 6.0))
    assert not torch.equal(sample(NETWORK, plain, LABELS_B, noise()), sample(NETWORK, guided, LABELS_B, noise()))


@given(st.floats(-1, 10), st.integers(0, 5))
def test_guided_logits(scale, seed):
    conditional, unconditional = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed))
    guided = guided_logits(conditional, unconditional, scale)
    torch.testing.assert_close(guided, (1 + scale) * conditional - scale * unconditional, rtol=1e-4, atol=1e-5)
    assert torch.equal(guided_logits(conditional, None, scale), conditional)
    assert torch.equal(guided_logits(conditional, unconditional, 0.0), conditional)


@given(
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 300).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length))),
)
def test_count_to_mask(ratio, dither, sizes):
    length, num_masked = sizes
    wanted = math.floor(length * ratio + dither)
    knobs = Knobs(ratio, 1.0, 0.0, 0.0, "enat", dither)
    assert count_to_mask(knobs, length, num_masked) == min(wanted, num_masked)
    count = count_to_mask(replace(knobs, rule="autonat"), length, num_masked)
    assert 1 <= count <= max(1, num_masked - 1)
    assert count == wanted or wanted < 1 or wanted >= num_masked


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_dithers_are_stratified_over_the_blocks(num_blocks, num_steps, seed):
    offsets = [dithers(num_steps, Block(index, num_blocks, 1, seed)) for index in range(num_blocks)]
    strata = [(index + 0.5) / num_blocks for index in range(num_blocks)]
    for step in range(num_steps):
        assert sorted(row[step] for row in offsets) == pytest.approx(strata)


@given(st.floats(0, 1), st.integers(2, 64))
def test_dithered_counts_have_the_mean_that_the_ratio_says(ratio, length):
    num_blocks = 64
    offsets = [dithers(1, Block(index, num_blocks, 1, seed=0))[0] for index in range(num_blocks)]
    counts = [count_to_mask(Knobs(ratio, 1.0, 0.0, 0.0, "enat", offset), length, length) for offset in offsets]
    assert sum(counts) / num_blocks == pytest.approx(length * ratio, abs=0.5 / num_blocks + 1e-9)


def test_the_last_step_is_not_dithered():
    schedule = maskgit_cosine(3)
    assert [Knobs.at(schedule, step, 0.9).dither for step in range(3)] == [0.9, 0.9, 0.0]


@given(schedules(MODERATE, max_steps=5, no_guidance_at_some_steps=True), st.integers(0, 2), st.data())
@settings(max_examples=15)
def test_probes_equal_sampling_the_altered_schedule(schedule, index, data):
    generator = Generator(NETWORK, SimpleNamespace(codebook_size=CONFIG.codebook_size))
    block = Block(index, 3, BATCH, seed=11)
    values = [
        data.draw(st.sampled_from(BOUNDS[family] if family == "mask_ratios" else (0.0,)) | st.floats(*MODERATE[family]))
        for family, _ in components(schedule.num_steps)
    ]
    probes = tuple(
        Probe(family, step, value) for (family, step), value in zip(components(schedule.num_steps), values, strict=True)
    )
    base_BL, probed = probe_tokens(generator, schedule, probes, block)
    assert torch.equal(base_BL, generator.tokens(schedule, block, dithered=True))
    assert len(probed) == len(probes)
    for position, (probe, tokens_BL) in enumerate(zip(probes, probed, strict=True)):
        changed = schedule.values()
        changed[position] = probe.value
        expected = generator.tokens(schedule.with_values(changed), block, dithered=True)
        assert torch.equal(tokens_BL, expected), probe


def test_probes_of_every_family_change_tokens():
    generator = Generator(NETWORK, SimpleNamespace(codebook_size=CONFIG.codebook_size))
    schedule = replace(maskgit_cosine(4), guidance_scales=(0.5,) * 4)
    extreme = {"mask_ratios": 0.0, "sampling_temperatures": 9.0, "choice_temperatures": 90.0, "guidance_scales": 9.0}
    probes = tuple(Probe(family, 1, extreme[family]) for family in KNOB_OF_FAMILY)
    base_BL, probed = probe_tokens(generator, schedule, probes, Block(0, 1, BATCH, seed=0))
    assert all(not torch.equal(tokens_BL, base_BL) for tokens_BL in probed)


def test_probes_of_an_unknown_family_are_refused():
    with pytest.raises(ValueError, match="family"):
        Probe("temperatures", 0, 1.0)


@pytest.mark.parametrize(("rule", "floor"), [("enat", 1e-3), ("autonat", 1e-4)])
def test_temperature_zero_draws_at_the_floor(rule, floor):
    """The second code is likelier by a logit of 5 floors: noise below 5 does not change the draw, noise above does."""
    logits = torch.tensor([0.0, 5 * floor]).expand(1, 2, 2)
    draw_noise = torch.tensor([[[4.9, 0.0], [5.1, 0.0]]])
    canvas = Canvas.empty(1, 2, 2)
    taken = advance(canvas, torch.tensor([[0, 1]]), logits, Knobs(0.5, 0.0, 0.0, 0.0, rule), draw_noise, None)
    assert taken.sampled_BL.tolist() == [[1, 0]]


def test_muse_trusts_the_guided_logit_itself():
    """Two positions: the likelier code by probability has the lower logit, so the rules keep different tokens."""
    logits = torch.tensor([[[1.0, -9.0], [5.0, 5.0]]])
    canvas, positions = Canvas.empty(1, 2, 2), torch.tensor([[0, 1]])
    taken = {
        rule: advance(canvas, positions, logits, Knobs(0.5, 0.0, 0.0, 0.0, rule), None, None)
        for rule in ("autonat", "muse")
    }
    assert taken["muse"].confidence_BL.tolist() == [[1.0, 5.0]]
    assert taken["autonat"].canvas.masked_BL.tolist() == [[False, True]]
    assert taken["muse"].canvas.masked_BL.tolist() == [[True, False]]


@given(st.floats(0, 20), st.integers(0, 99))
def test_muse_adds_noise_to_the_logits(temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, noise_BLK = torch.randn(2, 3, 4, 5, generator=generator)
    knobs = Knobs(0.5, temperature, 0.0, 0.0, "muse")
    taken = advance(Canvas.empty(3, 4, 5), torch.arange(4).expand(3, -1), logits, knobs, noise_BLK, None)
    assert torch.equal(taken.sampled_BL, (logits + temperature * noise_BLK).argmax(-1))


@given(st.integers(0, 60), st.permutations(range(3)))
@settings(max_examples=10)
def test_the_first_steps_table_does_not_depend_on_the_order_of_asking(seed, order):
    network = tiny_network(seed, num_classes=40)
    asked = [torch.tensor([3, 17]), torch.tensor([39, 3]), torch.tensor([20])]
    expected = FirstStepLogits(network).of(torch.arange(40))
    table = FirstStepLogits(network)
    for index in order:
        assert torch.equal(table.of(asked[index]), expected[asked[index]])


@given(schedules(MODERATE, rules=("enat",), max_steps=4), st.booleans(), st.integers(0, 9))
@settings(max_examples=15)
def test_a_recorded_run_paints_the_same(schedule, with_table, seed):
    """On the CPU nothing is recorded; what is tested is that labels, noise and table reach the run."""
    table = FirstStepLogits(NETWORK) if with_table else None
    recorded = GraphedSampler(NETWORK, schedule, BATCH, first_logits=table)
    for labels_B, block in ((LABELS_B, seed), (LABELS_B.flip(0), seed + 1)):
        expected = sample(NETWORK, schedule, labels_B, noise(0, block), first_logits=table)
        assert torch.equal(recorded(labels_B, noise(0, block)), expected)


def test_rules_that_look_at_the_tokens_are_not_recorded():
    with pytest.raises(ValueError, match="known beforehand"):
        GraphedSampler(NETWORK, maskgit_cosine(3, "muse"), BATCH)


def test_half_precision_logits_are_guided_in_float32():
    half = tiny_network().bfloat16()
    for table in (None, FirstStepLogits(half)):
        dtypes = set()

        def observe(_, taken, dtypes=dtypes):
            dtypes.add(taken.confidence_BL.dtype)

        sample(half, maskgit_cosine(3), LABELS_B, noise(), first_logits=table, observe=observe)
        assert dtypes == {torch.float32}


# Noise on a device


def test_device_noise_has_an_address_and_is_standard_gumbel():
    noise = DeviceNoise(5, 2, (8, 16, 40), "cpu")
    assert torch.equal(noise.draw(1), DeviceNoise(5, 2, (8, 16, 40), "cpu").draw(1))
    assert noise.choice(1).shape == (8, 16)
    others = [DeviceNoise(6, 2, (8, 16, 40), "cpu"), DeviceNoise(5, 3, (8, 16, 40), "cpu")]
    assert not any(torch.equal(noise.draw(1), other.draw(1)) for other in others)
    assert not torch.equal(noise.draw(1), noise.draw(2))
    drawn = noise.draw(0).double()
    assert bool(drawn.isfinite().all())
    # Mean and variance of a standard Gumbel are Euler's constant and pi^2 / 6; 5,120 numbers.
    assert abs(float(drawn.mean()) - 0.5772) < 5 * 1.2825 / 5120**0.5
    assert abs(float(drawn.var()) - 1.6449) < 0.25


def test_every_device_has_its_noise():
    assert noise_on("cpu", 1, 2, (3, 4, 5)) == StreamNoise(1, 2, (3, 4, 5))
    assert noise_on("cuda", 1, 2, (3, 4, 5)) == DeviceNoise(1, 2, (3, 4, 5), "cuda")
