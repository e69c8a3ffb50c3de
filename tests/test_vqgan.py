"""The VQGAN's files and the tokenizer around it, beyond equality with the official numbers."""

import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import FOLDER
from safetensors.torch import save_file

from models.checkpoint import CheckpointError
from models.tokenizer import GreyLevelTokenizer, NetworkTokenizer, open_tokenizer
from models.vqgan import VQGAN, VQGANConfig
from models.vqgan_checkpoint import load_vqgan, save_vqgan

SMALL = VQGANConfig(codebook_size=16, code_width=8, channels=32, multipliers=(1, 2), blocks_per_level=1)


def made(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return VQGAN(config).eval().requires_grad_(False)


@given(
    st.integers(1, 40),
    st.sampled_from([3, 8]),
    st.sampled_from([32, 64]),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([1, 3]),
)
@settings(max_examples=20)
def test_sizes_are_told_from_the_tensors(codes, width, channels, multipliers, blocks, image_channels):
    config = VQGANConfig("vqgan", codes, width, channels, tuple(multipliers), blocks, image_channels)
    with torch.device("meta"):
        network = VQGAN(config)
    assert VQGANConfig.of(network.state_dict()) == config
    assert VQGANConfig(**config.to_dict()) == config


def test_shapes_follow_the_downsampling():
    network = made()
    codes = network.encode(torch.rand(2, 3, 8, 12))
    assert codes.shape == (2, 4, 6)
    assert network.decode(codes).shape == (2, 3, 8, 12)


def test_the_nearest_code_is_the_nearest():
    network = made()
    features = torch.randn(2, 8, 3, 5)
    codes = network.quantize.nearest(features)
    distance = (features.movedim(1, -1)[..., None, :] - network.quantize.embedding.weight).square().sum(-1)
    assert torch.equal(codes, distance.argmin(-1))
    vectors = network.look_up(torch.arange(16).view(1, 4, 4))
    assert network.quantize.nearest(vectors).flatten().tolist() == list(range(16))


def test_quantisation_passes_gradients_straight_through():
    network = VQGAN(SMALL)
    features = torch.randn(1, 8, 2, 2, requires_grad=True)
    quant, loss = network.quantisation_loss(features)
    (quant * torch.arange(32.0).view(1, 8, 2, 2)).sum().backward(retain_graph=True)
    assert torch.equal(features.grad, torch.arange(32.0).view(1, 8, 2, 2))
    assert network.quantize.embedding.weight.grad is None
    features.grad = None
    loss.backward()
    # The loss pulls both sides together, the codebook a quarter as strongly.
    pulled = network.quantize.embedding.weight.grad.sum(0)
    torch.testing.assert_close(pulled, -0.25 * features.grad.sum((0, 2, 3)))


@pytest.mark.parametrize(
    "changes",
    [{"codebook_size": 0}, {"multipliers": ()}, {"multipliers": (1, 0)}, {"channels": 48}, {"code_width": -1}],
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ValueError):
        VQGANConfig(**changes)


def test_wrong_images_and_codes_are_refused():
    network = made()
    for shape in ((1, 1, 8, 8), (1, 3, 7, 8), (3, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(ValueError, match="need images"):
            network.encode(torch.zeros(shape))
    for code in (-1, 16):
        with pytest.raises(ValueError, match=f"token {code} is outside the codebook of 16 codes"):
            network.decode(torch.full((1, 2, 2), code))
    with pytest.raises(ValueError, match="whole numbers"):
        network.decode(torch.zeros(1, 2, 2))


# Tokenizer


@given(st.integers(0, 7), st.integers(1, 200), st.integers(0, 99))
@settings(max_examples=15)
def test_chunks_change_nothing(count, pixels_at_once, seed):
    images = torch.randint(256, (count, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    network = made().double()
    whole, chunked = NetworkTokenizer(network, 4, 6), NetworkTokenizer(network, 4, 6, pixels_at_once=pixels_at_once)
    tokens = whole.encode(images)
    assert tokens.shape == (count, whole.grid[0] * whole.grid[1]) == (count, 6)
    assert tokens.dtype == torch.int64
    assert torch.equal(chunked.encode(images), tokens)
    assert torch.equal(chunked.decode(tokens), whole.decode(tokens))


def test_tokens_are_in_row_order_and_images_are_scaled_to_one():
    network = made()
    tokenizer = NetworkTokenizer(network, 8, 4)
    images = torch.randint(256, (2, 3, 8, 4), dtype=torch.uint8)
    assert torch.equal(tokenizer.encode(images).view(2, 4, 2), network.encode(images / 255))


def test_bytes_are_the_rounded_floats():
    torch.manual_seed(1)
    network = made()
    network.decoder.conv_out.weight.mul_(20)  # far beyond [0, 1], so that clamping is seen
    tokenizer = NetworkTokenizer(network, 8, 8)
    tokens = torch.randint(16, (3, 16))
    floats, raw = tokenizer.decode_float(tokens), network.decode(tokens.view(3, 4, 4))
    assert floats.dtype == torch.float32
    assert raw.min() < 0
    assert raw.max() > 1
    assert torch.equal(floats, raw.clamp(0, 1))
    images = tokenizer.decode(tokens)
    assert images.dtype == torch.uint8
    assert (images / 255 - floats).abs().max() <= 0.5 / 255 + 1e-6
    assert {0, 255} <= set(images.flatten().tolist())


def test_the_tokenizer_refuses_what_does_not_fit():
    tokenizer = NetworkTokenizer(made(), 8, 8)
    for images in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 10, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="need uint8 images"):
            tokenizer.encode(images)
    with pytest.raises(ValueError, match=r"need tokens \[B, 16\]"):
        tokenizer.decode(torch.zeros(1, 15, dtype=torch.int64))
    for decode in (tokenizer.decode, tokenizer.decode_float):
        with pytest.raises(ValueError, match="token 16 is outside"):
            decode(torch.full((1, 16), 16))
    with pytest.raises(ValueError, match="multiples of 2"):
        NetworkTokenizer(made(), 8, 9)


# Files


def test_files_of_all_kinds_give_the_same_network(tmp_path):
    network = made()
    weights = network.state_dict()
    extra = {"loss.discriminator.main.0.weight": torch.zeros(3), "loss.logvar": torch.zeros(())}
    torch.save(weights, tmp_path / "plain.ckpt")
    torch.save({"state_dict": weights | extra, "epoch": 3, "global_step": 7}, tmp_path / "lightning.ckpt")
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "parallel.pth")
    save_file(weights, tmp_path / "plain.safetensors")
    save_vqgan(tmp_path / "ours.safetensors", network)
    for path in sorted(tmp_path.iterdir()):
        loaded = load_vqgan(path)
        assert loaded.config == SMALL, path
        assert not loaded.training
        assert all(torch.equal(loaded.state_dict()[name], weights[name]) for name in weights), path
    assert load_vqgan(tmp_path / "plain.ckpt", SMALL).config == SMALL
    with pytest.raises(CheckpointError, match=r"plain\.ckpt .*expected"):
        load_vqgan(tmp_path / "plain.ckpt", VQGANConfig())


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_bad_files_give_one_line_that_names_them(tmp_path):
    weights, trace = made().state_dict(), tmp_path.with_name("executed")
    torch.save(weights, tmp_path / "good.ckpt")
    whole = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "folder.ckpt").mkdir()
    torch.save({"state_dict": weights, "callbacks": Hostile(trace)}, tmp_path / "hostile.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(Hostile(trace)))
    torch.save(weights | {"quant_conv.weight": torch.zeros(1)}, tmp_path / "compvis.ckpt")
    torch.save({name: weights[name] for name in list(weights)[:-3]}, tmp_path / "missing.ckpt")
    torch.save(weights | {"decoder.extra": torch.zeros(1)}, tmp_path / "unexpected.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"a": 1}, tmp_path / "numbers.ckpt")
    torch.save({"x": torch.zeros(2)}, tmp_path / "other.ckpt")
    (tmp_path / "bad.safetensors").write_bytes(b"1234")
    names = [*sorted(path.name for path in tmp_path.iterdir() if path.name != "good.ckpt"), "absent.ckpt"]
    assert len(names) == 14
    for name in names:
        with pytest.raises(CheckpointError) as caught:
            load_vqgan(tmp_path / name)
        assert name in str(caught.value), name
        assert "\n" not in str(caught.value), name
    assert not trace.exists()
    with pytest.raises(CheckpointError, match="CompVis"):
        load_vqgan(tmp_path / "compvis.ckpt")


def test_open_tokenizer():
    assert isinstance(open_tokenizer("digits"), GreyLevelTokenizer)
    assert open_tokenizer("digits", 5).grid == (5, 5)
    tokenizer = open_tokenizer(str(FOLDER / "vqgan_tiny.safetensors"), 32)
    factor = tokenizer.network.config.downsampling
    assert tokenizer.grid == (32 // factor, 32 // factor)
    with pytest.raises(CheckpointError, match="imagenet"):
        open_tokenizer("imagenet")
