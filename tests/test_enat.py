import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tiny_config, tiny_network

from models.checkpoint import CheckpointError, load_network, load_weights, save_network
from models.enat import ENAT, ENATConfig, Reused

NETWORK = tiny_network()
LENGTH, CODES = NETWORK.config.num_tokens, NETWORK.config.codebook_size
BATCH = 3
LABELS_B = torch.arange(BATCH)


def nested_masks(seed, counts):
    """Masks [B, L] with the given falling counts, each within the one before."""
    rank_BL = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return [rank_BL < count for count in counts]


def random_tokens(seed):
    return torch.randint(CODES, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


falling_counts = st.lists(st.integers(0, LENGTH), min_size=2, max_size=3).map(lambda counts: sorted(counts)[::-1])


@torch.no_grad()
def features(tokens_BL, masks, labels_B=LABELS_B):
    state = None
    for masked_BL in masks:
        state = NETWORK(tokens_BL, masked_BL, labels_B, state)
    return state


@given(st.integers(0, 99), falling_counts)
@settings(max_examples=40)
def test_images_of_a_batch_do_not_mix(seed, counts):
    tokens_BL, masks = random_tokens(seed), nested_masks(seed, counts)
    together = features(tokens_BL, masks).features_BLD
    for row in range(BATCH):
        part = slice(row, row + 1)
        alone = features(tokens_BL[part], [masked_BL[part] for masked_BL in masks], LABELS_B[part])
        torch.testing.assert_close(alone.features_BLD, together[part], rtol=1e-4, atol=1e-5)


@given(st.integers(0, 99), falling_counts)
@settings(max_examples=40)
def test_what_stands_at_masked_positions_is_never_read(seed, counts):
    tokens_BL, masks = random_tokens(seed), nested_masks(seed, counts)
    state = features(tokens_BL, masks)
    hidden_BL = tokens_BL.masked_fill(masks[-1], NETWORK.mask_token)
    assert torch.equal(features(hidden_BL, masks).features_BLD, state.features_BLD)


@given(st.integers(0, 99), falling_counts)
@settings(max_examples=40)
def test_only_features_of_visible_positions_are_reused(seed, counts):
    tokens_BL, masks = random_tokens(seed), nested_masks(seed, counts)
    earlier = features(tokens_BL, masks[:-1])
    spoiled_BLD = earlier.features_BLD.masked_fill(masks[-2][..., None], float("nan"))
    with torch.no_grad():
        expected = NETWORK(tokens_BL, masks[-1], LABELS_B, earlier)
        again = NETWORK(tokens_BL, masks[-1], LABELS_B, Reused(spoiled_BLD, earlier.visible_BL, earlier.num_visible))
    assert torch.equal(again.features_BLD, expected.features_BLD)
    assert torch.equal(again.visible_BL, ~masks[-1])
    assert again.num_visible == LENGTH - counts[-1]


def test_reuse_positions_and_labels_matter():
    tokens_BL, masks = random_tokens(1), nested_masks(1, [10, 5])
    state = features(tokens_BL, masks).features_BLD
    assert not torch.allclose(state, features(tokens_BL, masks[1:]).features_BLD, atol=1e-3)
    assert not torch.allclose(state, features(tokens_BL, masks, LABELS_B.roll(1)).features_BLD, atol=1e-3)
    null_B = torch.full_like(LABELS_B, NETWORK.null_class)
    assert not torch.allclose(state, features(tokens_BL, masks, null_B).features_BLD, atol=1e-3)
    shifted = features(tokens_BL.roll(1, 1), [masked_BL.roll(1, 1) for masked_BL in masks]).features_BLD.roll(-1, 1)
    assert not torch.allclose(state, shifted, atol=1e-3)


@given(st.integers(0, 99), st.integers(0, LENGTH))
@settings(max_examples=20)
def test_a_stated_count_changes_nothing(seed, count):
    tokens_BL, (masked_BL,) = random_tokens(seed), nested_masks(seed, [count])
    with torch.no_grad():
        stated = NETWORK(tokens_BL, masked_BL, LABELS_B, None, count)
        counted = NETWORK(tokens_BL, masked_BL, LABELS_B)
    assert torch.equal(stated.features_BLD, counted.features_BLD)


@given(st.integers(0, 99), st.lists(st.integers(0, LENGTH), min_size=BATCH, max_size=BATCH))
def test_unequal_counts_are_refused(seed, counts):
    rank_BL = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    masked_BL = rank_BL < torch.tensor(counts)[:, None]
    if len(set(counts)) == 1:
        assert NETWORK(random_tokens(seed), masked_BL, LABELS_B).num_visible == LENGTH - counts[0]
        return
    with pytest.raises(ValueError, match="same number"):
        NETWORK(random_tokens(seed), masked_BL, LABELS_B)


def test_masking_a_visible_token_again_is_refused():
    tokens_BL, masks = random_tokens(0), nested_masks(0, [9, 4])
    with pytest.raises(ValueError, match="visible at the step before"):
        NETWORK(tokens_BL, masks[0], LABELS_B, features(tokens_BL, masks[1:]))


def test_logits_at_some_positions_are_those_of_all():
    state = features(random_tokens(2), nested_masks(2, [7]))
    with torch.no_grad():
        every = NETWORK.logits(state.features_BLD)
        some = NETWORK.logits(state.features_BLD[:, 3:9])
    assert every.shape == (BATCH, LENGTH, CODES)
    torch.testing.assert_close(some, every[:, 3:9], rtol=1e-5, atol=1e-6)


def test_initialisation_depends_on_the_seed_alone():
    torch.manual_seed(0)
    first = ENAT(tiny_config()).initialise(torch.Generator().manual_seed(4)).state_dict()
    torch.manual_seed(1)
    second = ENAT(tiny_config()).initialise(torch.Generator().manual_seed(4)).state_dict()
    third = ENAT(tiny_config()).initialise(torch.Generator().manual_seed(5)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


def test_freshly_initialised_blocks_pass_their_input_on():
    network = ENAT(tiny_config(embedding_std=0.7)).initialise(torch.Generator().manual_seed(0))
    assert float(network.x_embedder.word_embeddings.weight.detach().std()) == pytest.approx(0.7, rel=0.2)
    tokens_BL, (masked_BL,) = random_tokens(0), nested_masks(0, [6])
    with torch.no_grad():
        embedded_BLD = network.x_embedder(tokens_BL.masked_fill(masked_BL, network.mask_token))
        torch.testing.assert_close(network(tokens_BL, masked_BL, LABELS_B).features_BLD, embedded_BLD)


VARIANTS = {name: tiny_network(decoder_attention=name) for name in ("self_cross", "full", "cross")}


def influence(network, count, *, of_masked):
    """Gradient norm of the features at one masked position with respect to the embeddings of all others, which are
    masked or visible: [B, L], zero where nothing is attended to."""
    tokens_BL, (masked_BL,) = random_tokens(3), nested_masks(3, [count])
    rows = torch.arange(BATCH)
    probe_B = masked_BL.long().argmax(1) if of_masked else (~masked_BL).long().argmax(1)
    embedded = []
    handle = network.x_embedder.register_forward_hook(
        lambda module, inputs, output: embedded.append(output.detach().requires_grad_(True)) or embedded[0]
    )
    try:
        features_BLD = network(tokens_BL, masked_BL, LABELS_B).features_BLD
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(features_BLD[rows, probe_B].sum(), embedded[0])
    reached_BL = gradient.norm(dim=-1) > 1e-7
    reached_BL[rows, probe_B] = False
    return reached_BL, masked_BL.index_put((rows, probe_B), torch.tensor(False)), ~masked_BL


@pytest.mark.parametrize("name", VARIANTS)
def test_masked_tokens_attend_to_what_the_variant_says(name):
    reached_BL, other_masked_BL, visible_BL = influence(VARIANTS[name], 7, of_masked=True)
    assert bool(reached_BL[visible_BL].all())
    assert bool(reached_BL[other_masked_BL].all()) == (name != "cross")
    assert bool(reached_BL[other_masked_BL].any()) == (name != "cross")


@pytest.mark.parametrize("name", VARIANTS)
def test_features_handed_on_at_visible_positions_have_seen_no_masked_token(name):
    reached_BL, _, visible_BL = influence(VARIANTS[name], 7, of_masked=False)
    assert not bool(reached_BL[~visible_BL].any())
    assert bool(reached_BL.any())


@pytest.mark.parametrize("name", VARIANTS)
def test_an_empty_canvas_attends_to_itself(name):
    reached_BL, other_masked_BL, _ = influence(VARIANTS[name], LENGTH, of_masked=True)
    assert torch.equal(reached_BL, other_masked_BL | (reached_BL & ~other_masked_BL))
    assert bool(reached_BL[other_masked_BL].sum() == BATCH * (LENGTH - 1))


def test_full_attention_updates_visible_tokens_between_decoder_blocks():
    """With one decoder block masked tokens see the encoder's output in both variants; with two they see what the first
    block made of the visible tokens."""
    tokens_BL, (masked_BL,) = random_tokens(5), nested_masks(5, [6])
    for blocks, differ in ((1, False), (2, True)):
        found = []
        for name in ("self_cross", "full"):
            network = tiny_network(decoder_attention=name, decoder_blocks=blocks)
            with torch.no_grad():
                found.append(network(tokens_BL, masked_BL, LABELS_B).features_BLD)
        assert torch.allclose(found[0][~masked_BL], found[1][~masked_BL], atol=1e-5)
        assert torch.allclose(*found, atol=1e-4) != differ


@pytest.mark.parametrize("name", VARIANTS)
def test_what_was_prepared_changes_nothing(name):
    network, tokens_BL, (masked_BL,) = VARIANTS[name], random_tokens(6), nested_masks(6, [9])
    with torch.no_grad():
        prepared = network(tokens_BL, masked_BL, LABELS_B, None, None, network.prepare(LABELS_B)).features_BLD
        assert torch.equal(prepared, network(tokens_BL, masked_BL, LABELS_B).features_BLD)


@given(st.integers(0, 99), falling_counts, st.integers(1, BATCH))
@settings(max_examples=10)
def test_rows_of_a_state_serve_as_the_state_of_those_images(seed, counts, rows):
    tokens_BL, masks = random_tokens(seed), nested_masks(seed, counts)
    earlier = features(tokens_BL, masks[:-1])
    with torch.no_grad():
        every = NETWORK(tokens_BL, masks[-1], LABELS_B, earlier).features_BLD
        some = NETWORK(tokens_BL[:rows], masks[-1][:rows], LABELS_B[:rows], earlier.rows(rows)).features_BLD
    torch.testing.assert_close(some, every[:rows], rtol=1e-4, atol=1e-5)


def test_an_unknown_decoder_attention_is_refused():
    with pytest.raises(ValueError, match="self_cross, full, cross"):
        tiny_config(decoder_attention="none")


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 15},
        {"num_tokens": 0},
        {"codebook_size": 0},
        {"num_classes": 0},
        {"heads": 0},
        {"decoder_blocks": 0},
        {"encoder_blocks": -1},
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tiny_config(**changes)


def test_configuration_round_trip():
    config = tiny_config(mlp_ratio=2.0)
    assert ENATConfig(**config.to_dict()) == config


def test_saved_network_is_the_same_network(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(path, NETWORK)
    loaded = load_network(path)
    assert loaded.config == NETWORK.config
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in NETWORK.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "network.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"network\.safetensors"):
        load_network(path)


def test_cut_off_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(path, NETWORK)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(ENAT(tiny_config(width=32)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load_network(path)
