import re
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import facts
from strategies import MODERATE, schedules, tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.counts import (
    activation_bytes,
    decoder_macs,
    image_counts,
    masked_counts,
    num_parameters,
    official_pass_macs,
    pass_macs,
    preparation_macs,
    table_holds_classes,
)
from models.enat import ENATConfig
from models.networks import build_network
from models.noise import StreamNoise
from models.presets import preset
from models.sample import FirstStepLogits, sample
from models.schedule import autonat_initial, enat_linear, maskgit_cosine, muse_initial
from models.uvit import TextUViTConfig, UViTConfig
from models.vqgan import VQGAN, VQGANConfig

TINY_UVIT = UViTConfig(num_tokens=16, codebook_size=7, num_classes=3, width=16, heads=2, blocks=3, mlp_ratio=3.0)
TINY_TEXT = TextUViTConfig(
    num_tokens=16, codebook_size=7, width=16, heads=2, blocks=5, context_tokens=3, context_width=5, qkv_bias=True
)
TINY = {
    "enat": tiny_config(),
    "enat-full": tiny_config(decoder_attention="full", mlp_ratio=2.0, decoder_blocks=2),
    "enat-cross": tiny_config(decoder_attention="cross", encoder_blocks=1),
    "enat-no-encoder": tiny_config(encoder_blocks=0),
    "uvit": TINY_UVIT,
    "uvit_text": TINY_TEXT,
}


def counted(function):
    """FLOPs by PyTorch's own counter. Attention as two products: not every version counts every fused kernel."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def network_of(config, captions=2):
    # Without gradients: PyTorch's counter hooks into those, and under inference_mode there are none.
    network = build_network(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.3, generator=generator)
    if config.kind == "uvit_text":
        contexts_MSC = torch.randn(captions, config.context_tokens, config.context_width)
        network = network.with_contexts(contexts_MSC, torch.zeros_like(contexts_MSC[0]))
    return network


def painted(network, schedule, batch=2, first_logits=None, seed=0):
    config = network.config
    noise = StreamNoise(seed, 0, (batch, config.num_tokens, config.codebook_size))
    masked = []
    sample(
        network,
        schedule,
        torch.arange(batch) % config.num_classes,
        noise,
        first_logits=first_logits,
        observe=lambda step, taken: masked.append(taken.canvas.num_masked),
    )
    return masked


def enat_schedule(num_steps):
    return enat_linear(num_steps, guidance_scale=2.5, choice_temperature=1.5, sampling_temperature=6.0)


# What the official codes count.


def enat_entries():
    return [name for name, entry in facts("counts").items() if "hidden_size" in _config(entry)]


def uvit_entries():
    named = {**facts("counts"), **facts("uvit_text_counts")}
    return [name for name, entry in named.items() if "embed_dim" in _config(entry) and "depth" in _config(entry)]


def vqgan_entries():
    return [name for name, entry in facts("counts").items() if "ch_mult" in _config(entry)]


def _config(entry):
    return entry.get("config", {}) if isinstance(entry, dict) else {}


def enat_of(config):
    encoder_blocks, decoder_blocks = config["enc_dec"]
    return ENATConfig(
        num_tokens=config["input_size"] ** 2,
        codebook_size=config["codebook_size"],
        num_classes=config["num_classes"],
        width=config["hidden_size"],
        heads=config["num_heads"],
        encoder_blocks=encoder_blocks,
        decoder_blocks=decoder_blocks,
    )


def uvit_of(config):
    shared = {
        "num_tokens": config["img_size"] ** 2,
        "codebook_size": config["codebook_size"],
        "width": config["embed_dim"],
        "heads": config["num_heads"],
        "blocks": config["depth"] + 1,
        "mlp_ratio": config["mlp_ratio"],
        "qkv_bias": config["qkv_bias"],
    }
    if "clip_dim" in config:
        return TextUViTConfig(context_tokens=config["num_clip_token"], context_width=config["clip_dim"], **shared)
    return UViTConfig(num_classes=config["num_classes"] - 1, **shared)


@pytest.mark.reference
@pytest.mark.parametrize("name", enat_entries())
def test_enat_as_recorded(name):
    entry = facts("counts")[name]
    config = enat_of(entry["config"])
    assert num_parameters(config) == entry["parameters"]
    compared = 0
    for key, value in entry.items():
        if found := re.fullmatch(r"analytic_macs_per_step_T(\d+)", key):
            steps = image_counts(config, enat_schedule(int(found[1])), "official")
            assert [step.macs for step in steps] == [2 * macs for macs in value]
        elif found := re.fullmatch(r"flop_counter_per_step_T(\d+)_real_run", key):
            steps = image_counts(config, enat_schedule(int(found[1])), "official")
            assert [step.macs for step in steps] == value  # two branches of macs; one branch of two FLOPs a MAC
        elif found := re.fullmatch(r"masked_at_each_step_T(\d+)", key):
            assert masked_counts(enat_schedule(int(found[1])), config.num_tokens) == value
        elif found := re.fullmatch(r"gmacs_T(\d+)_with_cfg(_without_reuse)?", key):
            steps = image_counts(config, enat_schedule(int(found[1])), "official", reuse=not found[2])
            assert sum(step.macs for step in steps) == round(1e9 * value)
        elif key == "gmacs_by_T_with_cfg":
            for num_steps, gmacs in value.items():
                steps = image_counts(config, enat_schedule(int(num_steps)), "official")
                assert sum(step.macs for step in steps) == round(1e9 * gmacs)
        else:
            continue
        compared += 1
    assert compared >= 4


@pytest.mark.reference
@pytest.mark.parametrize("name", uvit_entries())
def test_uvit_as_recorded(name):
    entry = {**facts("counts"), **facts("uvit_text_counts")}[name]
    config = uvit_of(entry["config"])
    assert num_parameters(config) == entry["parameters"]
    assert official_pass_macs(config, config.num_tokens) == entry["analytic_macs_one_forward"]
    assert 2 * official_pass_macs(config, 1) == entry["flop_counter_one_forward"]
    for key, value in entry.items():
        if found := re.fullmatch(r"gmacs_T(\d+)_with_cfg", key):
            steps = image_counts(config, autonat_initial(int(found[1])), "official")
            assert sum(step.macs for step in steps) == round(1e9 * value)
        elif key == "gmacs_MUSE_with_cfg":
            for num_steps, gmacs in value.items():
                steps = image_counts(config, muse_initial(int(num_steps)), "official")
                assert sum(step.macs for step in steps) == round(1e9 * gmacs)
        elif key == "gmacs_AdaNAT_loop":  # one more conditional pass at the end
            for num_steps, gmacs in value.items():
                assert (2 * int(num_steps) + 1) * official_pass_macs(config, 1) == round(1e9 * gmacs)


@pytest.mark.reference
@pytest.mark.parametrize("name", vqgan_entries())
def test_vqgan_decoder_as_recorded(name):
    entry, found = facts("counts")[name], 0
    config = entry["config"]
    sizes = VQGANConfig(
        codebook_size=config["n_embed"],
        code_width=config["embed_dim"],
        channels=config["ch"],
        multipliers=tuple(config["ch_mult"]),
        blocks_per_level=config["num_res_blocks"],
        image_channels=config["in_channels"],
    )
    for key, value in entry.items():
        if match := re.fullmatch(r"flop_counter_decode_(\d+)", key):
            assert 2 * decoder_macs(sizes, int(match[1]), int(match[1])) == value
            found += 1
    assert found


@pytest.mark.reference
def test_every_kind_was_compared():
    assert enat_entries()
    assert {"uvit", "uvit_text"} == {
        uvit_of({**facts("counts"), **facts("uvit_text_counts")}[name]["config"]).kind for name in uvit_entries()
    }
    assert vqgan_entries()


# What the sampler really runs.


@pytest.mark.parametrize("name", TINY)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_sampler_equals_the_flop_counter(name, data):
    rules = ("enat", "autonat", "muse")
    schedule = data.draw(schedules(bounds=MODERATE, max_steps=4, rules=rules, no_guidance_at_some_steps=True))
    network, batch = network_of(TINY[name]), 2
    masked = []
    flops = counted(lambda: masked.extend(painted(network, schedule, batch)))
    steps = image_counts(TINY[name], schedule)
    assert flops == 2 * batch * sum(step.macs for step in steps)
    assert masked[:-1] == [step.num_masked for step in steps[1:]]


@pytest.mark.parametrize("name", TINY)
def test_the_first_step_comes_from_a_table(name):
    """Without a table row for captions, the conditional pass of the first step is run all the same."""
    schedule = autonat_initial(3)
    network = network_of(TINY[name])
    limit = 0 if name == "uvit_text" else 2**30
    table = FirstStepLogits(network, limit_bytes=limit)
    painted(network, schedule, first_logits=table)  # fills it
    flops = counted(lambda: painted(network, schedule, first_logits=table))
    steps = image_counts(TINY[name], schedule, first_logits=True)
    assert [step.passes for step in steps] == [1 if name == "uvit_text" else 0, 2, 2]
    assert flops == 2 * 2 * sum(step.macs for step in steps)


def test_tables_that_are_too_large_are_not_kept():
    assert table_holds_classes(preset("ENAT-L"))
    assert not table_holds_classes(preset("ENAT-L-512"))
    assert not table_holds_classes(preset("MUSE-CC3M"))


@pytest.mark.parametrize("name", ["AutoNAT-S", "AutoNAT-L", "ENAT-L", "ENAT-L-512", "ENAT-XL"])
def test_full_size_on_the_meta_device(name):
    config = preset(name)
    with torch.device("meta"):
        network = build_network(config).eval()
        tokens_BL = torch.zeros(1, config.num_tokens, dtype=torch.int64)
        masked_BL = torch.zeros(1, config.num_tokens, dtype=torch.bool)
        labels_B = torch.zeros(1, dtype=torch.int64)
    first, second = config.num_tokens * 3 // 4, config.num_tokens // 3

    def two_steps():
        with torch.no_grad():
            prepared = network.prepare(labels_B)
            state = network(tokens_BL, masked_BL, labels_B, None, first, prepared)
            network.logits(state.features_BLD[:, :first])
            state = network(tokens_BL, masked_BL, labels_B, state, second, prepared)
            network.logits(state.features_BLD[:, :second])

    expected = pass_macs(config, first) + pass_macs(config, second, config.num_tokens - first)
    assert counted(two_steps) == 2 * (expected + preparation_macs(config))


@pytest.mark.parametrize(
    "config",
    [
        VQGANConfig("vqgan", 16, 8, 32, (1, 2), 1),
        VQGANConfig("vqgan", 16, 24, 32, (1, 1, 2), 2, 1),
        VQGANConfig("vqgan", 16, 8, 32, (1,), 2),
    ],
)
def test_vqgan_decoder_equals_the_flop_counter(config):
    with torch.device("meta"):
        decoder = VQGAN(config).decoder
        codes = torch.zeros(1, config.code_width, 3, 5)
    side = config.downsampling
    assert counted(lambda: decoder(codes)) == 2 * decoder_macs(config, 3 * side, 5 * side)


def test_guidance_and_reuse_save_what_they_should():
    config = preset("ENAT-L")
    guided, alone = enat_schedule(8), maskgit_cosine(8)
    total = {
        "official": sum(step.macs for step in image_counts(config, guided, "official")),
        "guided": sum(step.macs for step in image_counts(config, guided)),
        "alone": sum(step.macs for step in image_counts(config, alone)),
        "without reuse": sum(step.macs for step in image_counts(config, guided, reuse=False)),
    }
    assert 2 * total["alone"] < total["official"]
    assert total["alone"] < total["guided"] < total["official"] < total["without reuse"]
    assert [step.passes for step in image_counts(config, alone)] == [1] * 8


@given(schedule=schedules(bounds=MODERATE, rules=("enat", "autonat", "muse")), num_tokens=st.integers(1, 64))
def test_masked_counts_fall_and_keep_their_number(schedule, num_tokens):
    counts = masked_counts(schedule, num_tokens)
    assert len(counts) == schedule.num_steps
    assert counts[0] == num_tokens
    assert all(later <= earlier for earlier, later in pairwise(counts))
    steps = image_counts(tiny_config(num_tokens=num_tokens), schedule)
    assert sum(step.num_new for step in steps) + steps[-1].num_masked == num_tokens


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that were alive at once among those made inside."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self._known = 0, 0, set()

    def _forget(self, key, num_bytes):
        self._known.discard(key)
        self.alive -= num_bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._known and storage.nbytes():
                    self._known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return result


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(num_tokens=64, width=64, codebook_size=16, num_classes=2),
        tiny_config(num_tokens=64, width=16, codebook_size=256, num_classes=2),
        UViTConfig(num_tokens=64, codebook_size=64, num_classes=2, width=64, heads=2, blocks=13),
    ],
)
def test_activations_are_estimated_within_a_factor_of_two(config):
    """Of a sampling run with one branch a step."""
    network = network_of(config)
    batch = 4
    with PeakMemory() as memory:
        painted(network, maskgit_cosine(3), batch)
    assert memory.peak / 2 <= batch * activation_bytes(config) <= 2 * memory.peak
