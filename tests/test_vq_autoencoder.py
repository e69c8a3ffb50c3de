"""The autoencoder and its two quantisers, and the files that tokenizers are opened from."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import FOLDER

from models.checkpoint import CheckpointError, save_network, save_tensors
from models.data import TokenData, tokenizer_of
from models.enat import ENATConfig
from models.files import File, FileError
from models.networks import build_network
from models.quantizers import FiniteScalarQuantizer, VectorQuantizer
from models.tokenizer import load_tokenizer, load_tokenizer_network, open_tokenizer
from models.vq_autoencoder import AutoencoderConfig, VQAutoencoder, load_vq_autoencoder, save_vq_autoencoder
from models.vqgan import VQGAN

SMALL = AutoencoderConfig(image_size=8, widths=(16, 32), encoder_blocks=(0, 1), decoder_blocks=(1, 0), codebook_size=12)
GRID = AutoencoderConfig(**(SMALL.to_dict() | {"quantizer": "fsq", "levels": (4, 3), "code_width": 2}))


def made(config=SMALL, seed=0):
    torch.manual_seed(seed)
    network = VQAutoencoder(config)
    if config.quantizer == "vq":
        network.quantizer.codebook_KD.normal_()
    return network.eval()


def codebook(codes, counts=None):
    quantizer = VectorQuantizer(*codes.shape)
    quantizer.codebook_KD.copy_(codes)
    quantizer.counts_K.copy_(torch.ones(len(codes)) if counts is None else counts)
    quantizer.sums_KD.copy_(quantizer.codebook_KD * quantizer.counts_K[:, None])
    return quantizer


# Vector quantisation


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 20), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_a_vector_becomes_the_nearest_code(seed, num_vectors, num_codes, width):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(num_vectors, width, generator=generator)
    quantizer = codebook(torch.randn(num_codes, width, generator=generator))
    chosen = quantizer.nearest(vectors)
    distances = torch.cdist(vectors, quantizer.codebook_KD)
    assert torch.allclose(distances.gather(1, chosen[:, None])[:, 0], distances.amin(1), atol=1e-4)
    assert torch.equal(quantizer.nearest(quantizer.look_up(chosen)), chosen)


def test_the_lowest_number_among_equal_codes():
    assert codebook(torch.tensor([[3.0], [1.0], [1.0]])).nearest(torch.tensor([[1.0], [0.9]])).tolist() == [1, 1]


def test_the_gradient_passes_straight_through_and_the_codebook_gets_none():
    quantizer = codebook(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    vectors = torch.tensor([[0.2, 0.1], [0.8, 0.7]], requires_grad=True)
    codes, commitment = quantizer(vectors)
    assert torch.allclose(codes.detach(), quantizer.codebook_KD)
    upstream = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    (codes * upstream).sum().backward(retain_graph=True)
    assert torch.equal(vectors.grad, upstream)
    vectors.grad = None
    commitment.backward()
    assert torch.allclose(vectors.grad, 2 * (vectors.detach() - quantizer.codebook_KD) / vectors.numel())
    assert not list(quantizer.parameters())


def test_the_codebook_moves_by_its_formula():
    """van den Oord et al. (2017), appendix A.1, equations 6 to 8, written out for each code."""
    counts, decay = torch.tensor([2.0, 5.0, 1.0]), 0.9
    codes = torch.tensor([[0.0, 0.0], [2.0, 2.0], [-9.0, 0.0]])
    quantizer = codebook(codes, counts)
    vectors = torch.tensor([[0.1, 0.3], [1.5, 2.5], [-0.2, 0.4], [0.0, -0.1]])
    nearest = [0, 1, 0, 0]
    quantizer.follow(vectors, decay)
    for code in range(3):
        own = [vector for vector, chosen in zip(vectors, nearest, strict=True) if chosen == code]
        count = decay * counts[code] + (1 - decay) * len(own)
        total = decay * counts[code] * codes[code] + (1 - decay) * sum(own, torch.zeros(2))
        assert torch.allclose(quantizer.counts_K[code], count)
        assert torch.allclose(quantizer.codebook_KD[code], total / count, atol=1e-6)


def test_dead_codes_are_revived_where_vectors_are():
    vectors = torch.arange(8.0)[:, None] + 100
    # An even share is 8 / 4 = 2 vectors a code, a tenth of that 0.2.
    quantizer = codebook(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([2.0, 0.1, 0.3, 0.0]))
    quantizer.revive(vectors, torch.tensor([3, 5, 1, 7, 0, 2, 4, 6]), 0.1)
    assert quantizer.codebook_KD[:, 0].tolist() == [1.0, 105.0, 3.0, 107.0]
    assert torch.allclose(quantizer.counts_K, torch.tensor([2.0, 2.0, 0.3, 2.0]))
    before = quantizer.codebook_KD.clone()
    quantizer.follow(vectors[:0], 0.5)
    assert torch.allclose(quantizer.codebook_KD, before)  # a revived code stays where it was put


def test_the_first_batch_places_a_new_codebook():
    vectors = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    quantizer = VectorQuantizer(10, 3)
    quantizer.revive(vectors, torch.randperm(30, generator=torch.Generator().manual_seed(1)), 0.0)
    assert all((vectors == code).all(1).any() for code in quantizer.codebook_KD)
    assert len(quantizer.codebook_KD.unique(dim=0)) == 10


def test_more_codes_than_vectors():
    vectors = torch.randn(3, 2)
    quantizer = VectorQuantizer(8, 2)
    quantizer.revive(vectors, torch.tensor([2, 0, 1]), 0.1)
    assert all((vectors == code).all(1).any() for code in quantizer.codebook_KD)


# Finite scalar quantisation

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=4)


@given(LEVELS)
@settings(max_examples=25, deadline=None)
def test_every_code_of_a_grid_comes_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(math.prod(levels))
    points = quantizer.look_up(codes)
    assert len(points.unique(dim=0)) == quantizer.codebook_size == len(codes)
    assert points.abs().max() == 1
    # The encoder's side squashes: undo that to meet the grid's points again.
    half = 0.5 * torch.tensor(levels) - 1e-3
    vectors = torch.atanh(points * 0.5 * (torch.tensor(levels) - 1) / half)
    assert torch.equal(quantizer.nearest(vectors), codes)
    assert torch.allclose(quantizer(vectors)[0], points, atol=1e-5)


@given(LEVELS, st.floats(-1e6, 1e6))
@settings(max_examples=50, deadline=None)
def test_any_number_has_a_level(levels, number):
    quantizer = FiniteScalarQuantizer(levels)
    code = int(quantizer.nearest(torch.full((1, len(levels)), number)))
    assert 0 <= code < quantizer.codebook_size


def test_the_grids_gradient_is_that_of_squashing():
    quantizer = FiniteScalarQuantizer([8, 5])
    vectors = torch.tensor([[0.3, -0.7], [2.0, 0.0]], requires_grad=True)
    points, loss = quantizer(vectors)
    points.sum().backward()
    slope = (0.5 * torch.tensor([8, 5]) - 1e-3) / (0.5 * (torch.tensor([8, 5]) - 1))
    assert torch.allclose(vectors.grad, (1 - torch.tanh(vectors.detach()) ** 2) * slope)
    assert float(loss) == 0


# The network


@pytest.mark.parametrize("config", [SMALL, GRID], ids=["vq", "fsq"])
def test_shapes_and_places(config):
    network, images = made(config), torch.rand(3, 3, 8, 12)
    codes = network.encode(images)
    assert codes.shape == (3, 2, 3)
    assert codes.dtype == torch.int64
    assert set(codes.flatten().tolist()) <= set(range(config.codebook_size))
    assert network.decode(codes).shape == images.shape
    # A place's vector is that of its row and column.
    vectors = network.features(images).view(3, 2, 3, -1)
    assert torch.equal(network.quantizer.nearest(vectors[1, 0]), codes[1, 0])
    assert torch.allclose(network.decode(codes)[2:], network.decode(codes[2:]), atol=1e-6)


def test_a_code_paints_at_its_own_place():
    network = made()
    codes = torch.zeros(1, 8, 8, dtype=torch.int64)
    changed = codes.clone()
    changed[0, 6, 1] = 5
    difference = (network.decode(changed) - network.decode(codes))[0].abs().amax(0)
    assert difference[24:28, 4:8].mean() > 2 * difference.mean()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 6, 8), (1, 3, 0, 8)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="need images"):
        made().encode(torch.zeros(shape))


@pytest.mark.parametrize("codes", [torch.full((1, 2, 2), 12), torch.full((1, 2, 2), -1), torch.zeros(1, 2, 2)])
def test_what_is_no_code(codes):
    with pytest.raises(ValueError, match="codes"):
        made().decode(codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (20, 32)}, "widths must be multiples of 16"),
        ({"widths": ()}, "widths must be multiples of 16"),
        ({"encoder_blocks": (1,)}, "encoder_blocks needs one number"),
        ({"decoder_blocks": (1, -1)}, "decoder_blocks needs one number"),
        ({"image_size": 10}, "not a multiple of 4"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"codebook_size": 1}, "codebook_size must be at least 2"),
        ({"levels": (3, 4)}, "levels belong to quantizer fsq"),
        ({"quantizer": "fsq"}, "needs levels"),
        ({"quantizer": "fsq", "levels": (1, 12)}, "needs levels of at least 2"),
        ({"quantizer": "fsq", "levels": (5, 3)}, "are 15 codes of width 2"),
        ({"quantizer": "other"}, "must be 'vq' or 'fsq'"),
    ],
)
def test_bad_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderConfig(**(SMALL.to_dict() | changes))


# Files


@pytest.mark.parametrize("config", [SMALL, GRID], ids=["vq", "fsq"])
def test_files_come_back(config, tmp_path):
    network, path = made(config), tmp_path / "tokenizer.safetensors"
    save_vq_autoencoder(path, network)
    loaded = load_vq_autoencoder(path)
    images = torch.rand(2, 3, 8, 8)
    assert loaded.config == config
    assert torch.equal(loaded.encode(images), network.encode(images))
    assert torch.allclose(loaded.decode(loaded.encode(images)), network.decode(network.encode(images)), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_file_says_which_network_it_holds(tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    save_vq_autoencoder(path, made())
    assert isinstance(load_tokenizer_network(path), VQAutoencoder)
    assert isinstance(load_tokenizer_network(FOLDER / "vqgan_tiny.safetensors"), VQGAN)
    tokenizer = open_tokenizer(str(path))
    assert (tokenizer.size, tokenizer.grid, tokenizer.codebook_size) == ((8, 8), (2, 2), 12)
    assert load_tokenizer(path, 16).grid == (4, 4)
    with pytest.raises(ValueError, match="multiples of 4"):
        load_tokenizer(path, 10)


def test_images_as_bytes(tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    save_vq_autoencoder(path, made())
    tokenizer = load_tokenizer(path)
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (5, 4)
    painted, exact = tokenizer.decode(tokens), tokenizer.decode_float(tokens)
    assert painted.dtype == torch.uint8
    assert painted.shape == images.shape
    assert torch.equal(painted, (exact * 255 + 0.5).to(torch.uint8))


def test_the_data_of_a_recipe(tmp_path):
    path = tmp_path / "tokenizer.safetensors"
    save_vq_autoencoder(path, made())
    data = TokenData("small", File(str(path)), num_classes=2, grid=(2, 2), codebook_size=12)
    assert tokenizer_of(data).decode(torch.zeros(1, 4, dtype=torch.int64)).shape == (1, 3, 8, 8)
    with pytest.raises(FileError, match="has 12 codes"):
        tokenizer_of(TokenData("small", File(str(path)), num_classes=2, grid=(2, 2), codebook_size=512))


def broken(tmp_path, change):
    """A file of ours with other metadata or tensors."""
    network = made()
    tensors, metadata = network.state_dict(), {"network": network.config.to_dict()}
    change(tensors, metadata)
    save_tensors(tmp_path / "broken.safetensors", tensors, metadata)
    return tmp_path / "broken.safetensors"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: tensors.pop("quantizer.codebook_KD"),
        lambda tensors, metadata: tensors.update({"quantizer.codebook_KD": torch.zeros(3, 4)}),
        lambda tensors, metadata: metadata["network"].update(widths=[48, 32]),
        lambda tensors, metadata: metadata["network"].update(widths="many"),
        lambda tensors, metadata: metadata["network"].update(widths=[16.5, 32]),
        lambda tensors, metadata: metadata["network"].update(image_size=None),
        lambda tensors, metadata: metadata["network"].update(what=1),
        lambda tensors, metadata: metadata["network"].update(kind="enat"),
        lambda tensors, metadata: metadata.update(network=[1]),
        lambda tensors, metadata: metadata.pop("network"),
    ],
)
def test_broken_files(change, tmp_path):
    path = broken(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_hold_something_else(tmp_path):
    config = ENATConfig(num_tokens=4, codebook_size=12, num_classes=2, width=32, heads=2)
    path = tmp_path / "network.safetensors"
    save_network(path, build_network(config).initialise(torch.Generator().manual_seed(0)))
    with pytest.raises(CheckpointError, match="holds no tokenizer but a network of kind enat"):
        load_tokenizer(path)
    save_tensors(path, {"weights": torch.zeros(1)}, {"features": "small"})
    with pytest.raises(CheckpointError, match=r"holds no tokenizer$"):
        load_tokenizer(path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:100])
    header = json.dumps({"__metadata__": {"autonat": "[1]"}}).encode()
    (tmp_path / "list.safetensors").write_bytes(np.uint64(len(header)).tobytes() + header)
    for name in ("cut", "list", "absent"):
        with pytest.raises(CheckpointError, match=name):
            load_tokenizer(tmp_path / f"{name}.safetensors")
