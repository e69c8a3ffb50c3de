"""Position embeddings that begin as waves along rows and columns, and the networks that begin with them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.enat import ENATConfig
from models.networks import build_network
from models.positions import check_grid, sinusoidal_grid
from models.uvit import UViTConfig

SIDES, QUARTERS = st.integers(1, 16), st.integers(1, 12)
SIZES = {"num_tokens": 16, "codebook_size": 7, "num_classes": 3, "width": 8, "heads": 2}
CONFIGS = {
    "enat": ENATConfig(**SIZES, encoder_blocks=1, decoder_blocks=1),
    "uvit": UViTConfig(**SIZES, blocks=3),
}
EMBEDDINGS = {"enat": "x_embedder", "uvit": "token_emb"}


def grid_of(side, quarter):
    """[row, column, D]"""
    return sinusoidal_grid(side * side, 4 * quarter).reshape(side, side, 4 * quarter)


@given(SIDES, QUARTERS)
def test_one_half_tells_the_row_and_the_other_the_column(side, quarter):
    rows, columns = grid_of(side, quarter).chunk(2, dim=-1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    assert torch.equal(rows, columns.transpose(0, 1))


@given(SIDES, QUARTERS)
def test_each_half_holds_sines_and_cosines_of_waves_of_four_cells_and_more(side, quarter):
    sines, cosines = grid_of(side, quarter)[:, 0, : 2 * quarter].double().chunk(2, dim=1)
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones_like(sines))
    cells = torch.arange(side, dtype=torch.float64)
    torch.testing.assert_close(sines[:, 0], torch.sin(cells * torch.pi / 2), rtol=0, atol=1e-5)
    if side > 1:  # at the second cell an angle is its frequency; each wave is longer than the one before
        frequencies = torch.atan2(sines[1], cosines[1])
        ratios = frequencies[1:] / frequencies[:-1]
        torch.testing.assert_close(ratios, torch.full_like(ratios, side ** (-1 / quarter)), rtol=1e-5, atol=0)


@given(st.integers(2, 16), st.integers(4, 12))
def test_no_two_positions_are_alike_and_the_nearest_are_the_neighbours(side, quarter):
    positions = grid_of(side, quarter).reshape(side * side, -1).double()
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    gaps, distances = torch.cdist(places, places), torch.cdist(positions, positions)
    assert distances[gaps > 0].min() > 0.1
    assert distances[gaps == 1].max() < distances[gaps > 1].min()


def begun(kind, initial_positions, embedding_std=0.2):
    """The parameters of a network that has just begun, by name."""
    config = CONFIGS[kind]
    config = type(config)(
        **{**config.to_dict(), "embedding_std": embedding_std, "initial_positions": initial_positions}
    )
    network = build_network(config).initialise(torch.Generator().manual_seed(0))
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("embedding_std", [0.02, 0.2])
def test_a_network_begins_with_the_grid_and_is_otherwise_the_same(kind, embedding_std):
    """Sines and cosines have a root mean square of 0.71, so 1.5 times the grid is as large as what it replaces."""
    normal, sinusoidal = (begun(kind, how, embedding_std) for how in ("normal", "sinusoidal"))
    name = f"{EMBEDDINGS[kind]}.position_embeddings.weight"
    torch.testing.assert_close(sinusoidal[name], 1.5 * embedding_std * sinusoidal_grid(16, 8), rtol=1e-6, atol=0)
    for parameters in (normal, sinusoidal):
        assert float(parameters[name].square().mean().sqrt()) == pytest.approx(embedding_std, rel=0.2)
    assert {other for other in normal if not torch.equal(normal[other], sinusoidal[other])} == {name}


@pytest.mark.parametrize(("num_tokens", "width"), [(15, 8), (8, 8), (16, 6), (16, 10)])
@pytest.mark.parametrize("config", [ENATConfig, UViTConfig])
def test_the_grid_needs_a_square_and_four_parts(config, num_tokens, width):
    sizes = {**SIZES, "num_tokens": num_tokens, "width": width}
    for make in (lambda: check_grid(num_tokens, width), lambda: config(**sizes, initial_positions="sinusoidal")):
        with pytest.raises(ValueError, match="need a square grid and a width that is a multiple of 4"):
            make()
    assert config(**sizes).initial_positions == "normal"  # which takes any sizes


@pytest.mark.parametrize("config", [ENATConfig, UViTConfig])
def test_other_words_are_refused(config):
    with pytest.raises(ValueError, match="initial_positions must be 'normal' or 'sinusoidal', got 'random'"):
        config(**SIZES, initial_positions="random")
