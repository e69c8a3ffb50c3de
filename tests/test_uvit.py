from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import load_network, save_network
from models.networks import build_network, network_config
from models.noise import StreamNoise
from models.sample import FirstStepLogits, sample
from models.schedule import maskgit_cosine, muse_initial
from models.uvit import TextUViTConfig, UViTConfig

SIZES = {"num_tokens": 16, "codebook_size": 7, "width": 16, "heads": 2, "blocks": 3}
CLASSES = UViTConfig(**SIZES, num_classes=3)
TEXT = TextUViTConfig(**SIZES, context_tokens=4, context_width=6)
BATCH, CAPTIONS = 3, 5


def random_network(config, seed=0):
    network = build_network(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return network


def contexts(seed=0):
    return np.random.default_rng(seed).standard_normal((CAPTIONS, 4, 6)).astype(np.float32)


NULL_SC = contexts(1)[0]
NETWORKS = {
    "uvit": random_network(CLASSES),
    "uvit_text": random_network(TEXT).with_contexts(contexts(), NULL_SC),
}
LABELS_B = torch.arange(BATCH)
both = pytest.mark.parametrize("kind", NETWORKS)


def random_canvas(seed):
    """Tokens and masks whose counts differ."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BL = torch.randint(7, (BATCH, 16), generator=generator)
    return tokens_BL, torch.rand(BATCH, 16, generator=generator) < torch.rand(BATCH, 1, generator=generator)


@torch.no_grad()
def features(network, tokens_BL, masked_BL, labels_B=LABELS_B):
    return network(tokens_BL, masked_BL, labels_B).features_BLD


@both
@given(st.integers(0, 99))
@settings(max_examples=20)
def test_images_of_a_batch_do_not_mix(kind, seed):
    tokens_BL, masked_BL = random_canvas(seed)
    together = features(NETWORKS[kind], tokens_BL, masked_BL)
    for row in range(BATCH):
        part = slice(row, row + 1)
        alone = features(NETWORKS[kind], tokens_BL[part], masked_BL[part], LABELS_B[part])
        torch.testing.assert_close(alone, together[part], rtol=1e-4, atol=1e-5)


@both
@given(st.integers(0, 99))
@settings(max_examples=20)
def test_what_stands_at_masked_positions_is_never_read(kind, seed):
    tokens_BL, masked_BL = random_canvas(seed)
    hidden_BL = tokens_BL.masked_fill(masked_BL, NETWORKS[kind].mask_token)
    expected = features(NETWORKS[kind], tokens_BL, masked_BL)
    assert torch.equal(features(NETWORKS[kind], hidden_BL, masked_BL), expected)


@both
def test_labels_positions_and_tokens_matter(kind):
    network, (tokens_BL, masked_BL) = NETWORKS[kind], random_canvas(1)
    expected = features(network, tokens_BL, masked_BL)
    null_B = torch.full_like(LABELS_B, network.null_class)
    for other in (
        features(network, tokens_BL, masked_BL, LABELS_B.roll(1)),
        features(network, tokens_BL, masked_BL, null_B),
        features(network, (tokens_BL + 1) % 7, masked_BL),
        features(network, tokens_BL.roll(1, 1), masked_BL.roll(1, 1)).roll(-1, 1),
    ):
        assert not torch.allclose(other, expected, atol=1e-3)


@both
@given(st.integers(0, 99))
@settings(max_examples=10)
def test_what_was_prepared_changes_nothing(kind, seed):
    network, (tokens_BL, masked_BL) = NETWORKS[kind], random_canvas(seed)
    with torch.no_grad():
        prepared = network(tokens_BL, masked_BL, LABELS_B, None, None, network.prepare(LABELS_B))
    assert torch.equal(prepared.features_BLD, features(network, tokens_BL, masked_BL))


@both
def test_dropout_factors_act_on_image_tokens(kind):
    network, (tokens_BL, masked_BL) = NETWORKS[kind], random_canvas(2)
    expected, ones = features(network, tokens_BL, masked_BL), torch.ones(BATCH, 16, 16)
    with torch.no_grad():
        kept = network(tokens_BL, masked_BL, LABELS_B, dropout_BLD=ones).features_BLD
        dropped = network(tokens_BL, masked_BL, LABELS_B, dropout_BLD=ones * 0).features_BLD
        other = network((tokens_BL + 1) % 7, masked_BL, LABELS_B, dropout_BLD=ones * 0).features_BLD
    assert torch.equal(kept, expected)
    assert torch.equal(dropped, other)
    assert not torch.allclose(dropped, expected, atol=1e-3)


@both
@pytest.mark.parametrize("schedule", [replace(maskgit_cosine(4), guidance_scales=(0.5,) * 4), muse_initial(4)], ids=str)
def test_sampling_with_a_table_paints_the_same_as_without(kind, schedule):
    network, noise = NETWORKS[kind], StreamNoise(0, 0, (BATCH, 16, 7))
    tokens_BL = sample(network, schedule, LABELS_B, noise)
    for limit in (0, 2**30):  # the unconditional logits alone, and all classes'
        table = FirstStepLogits(network, limit_bytes=limit)
        assert (table.of(LABELS_B) is None) == (limit == 0)
        assert torch.equal(sample(network, schedule, LABELS_B, noise, first_logits=table), tokens_BL)


def test_only_the_rows_of_a_batch_are_read(tmp_path):
    class Spy(np.memmap):
        read: list = []  # noqa: RUF012

        def __getitem__(self, rows):
            Spy.read.append(np.atleast_1d(rows).tolist())
            return super().__getitem__(rows)

    path = tmp_path / "contexts.npy"
    np.save(path, contexts())
    attached = random_network(TEXT).with_contexts(np.load(path, mmap_mode="r").view(Spy), NULL_SC)
    labels_B = torch.tensor([4, attached.null_class, 2])
    read = attached.contexts(labels_B)
    assert Spy.read == [[4, 2]]
    torch.testing.assert_close(read, torch.from_numpy(np.stack([contexts()[4], NULL_SC, contexts()[2]])))


def test_captions_must_be_attached_and_fit():
    network = random_network(TEXT)
    with pytest.raises(ValueError, match="no captions"):
        network(*random_canvas(0), LABELS_B)
    with pytest.raises(ValueError, match="4 tokens of 6 numbers"):
        network.with_contexts(contexts()[:, :3], NULL_SC)
    with pytest.raises(ValueError, match="null context"):
        network.with_contexts(contexts(), NULL_SC[:, :5])
    with pytest.raises(ValueError, match="at least one"):
        network.with_contexts(contexts()[:0], NULL_SC)
    attached = network.with_contexts(contexts(), NULL_SC)
    assert (network.config.num_classes, attached.config.num_classes, attached.null_class) == (0, CAPTIONS, CAPTIONS)
    assert next(attached.parameters()) is next(network.parameters())


@pytest.mark.parametrize("config", [CLASSES, TEXT], ids=lambda config: config.kind)
def test_saved_network_is_the_same_network(config, tmp_path):
    network, path = random_network(config), tmp_path / "network.safetensors"
    save_network(path, network)
    loaded = load_network(path)
    assert type(loaded) is type(network)
    assert loaded.config == config == network_config(config.to_dict())
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("config", [CLASSES, TEXT], ids=lambda config: config.kind)
def test_initialisation_depends_on_the_seed_alone(config):
    states = [build_network(config).initialise(torch.Generator().manual_seed(seed)).state_dict() for seed in (4, 4, 5)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize(
    "changes", [{"blocks": 4}, {"blocks": 0}, {"heads": 3}, {"width": 0}, {"num_tokens": 0}, {"mlp_ratio": 0.0}]
)
@pytest.mark.parametrize("config", [CLASSES, TEXT], ids=lambda config: config.kind)
def test_sizes_that_do_not_fit_are_refused(config, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(config, **changes)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="enat, uvit, uvit_text"):
        network_config({"kind": "unet"})
