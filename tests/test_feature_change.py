"""Which features are compared with which, and that they are the network's own."""

import math

import pytest
import torch
from strategies import tiny_network

from models.counts import masked_counts
from models.enat import DecoderAttention
from models.evaluate import Block, Generator
from models.feature_change import LayerOutput, compare, feature_changes, layer_outputs, layers_of
from models.networks import build_network
from models.sample import Canvas
from models.schedule import maskgit_cosine
from models.tokenizer import GreyLevelTokenizer
from models.uvit import UViTConfig

SIZES = {"num_tokens": 64, "codebook_size": 17, "num_classes": 10}


def uvit():
    config = UViTConfig(**SIZES, width=16, heads=2, blocks=5)
    return build_network(config).initialise(torch.Generator().manual_seed(1)).eval()


def enat(**changes):
    return tiny_network(**{**SIZES, "encoder_blocks": 2, "decoder_blocks": 2, **changes}).eval()


def canvas_of(num_masked, batch=3):
    generator = torch.Generator().manual_seed(2)
    tokens_BL = torch.randint(17, (batch, 64), generator=generator)
    order_BL = torch.rand(batch, 64, generator=generator).argsort(1)
    return Canvas(tokens_BL, order_BL < num_masked, num_masked)


@pytest.mark.parametrize("attention", DecoderAttention.__args__)
def test_enats_layers_end_in_its_features(attention):
    network, canvas, labels_B = enat(decoder_attention=attention), canvas_of(40), torch.tensor([1, 5, 10])
    with torch.inference_mode():
        outputs = layer_outputs(network, canvas, labels_B)
        features_BLD = network(canvas.tokens_BL, canvas.masked_BL, labels_B).features_BLD
    assert list(outputs) == ["encoder 1", "encoder 2", "decoder 1", "decoder 2"]
    assert torch.equal(outputs["encoder 1"].present_BL, ~canvas.masked_BL)
    visible = ~canvas.masked_BL
    assert torch.equal(outputs["encoder 2"].features_BLD[visible], features_BLD[visible])
    assert torch.equal(outputs["decoder 2"].features_BLD[canvas.masked_BL], features_BLD[canvas.masked_BL])
    everywhere = attention == "full"
    assert torch.equal(outputs["decoder 1"].present_BL, torch.ones_like(visible) if everywhere else canvas.masked_BL)


def test_uvits_layers_end_in_its_features():
    network, canvas, labels_B = uvit(), canvas_of(40), torch.tensor([1, 5, 10])
    with torch.inference_mode():
        outputs = layer_outputs(network, canvas, labels_B)
        features_BLD = network(canvas.tokens_BL, canvas.masked_BL, labels_B).features_BLD
    assert list(outputs) == [f"block {number}" for number in range(1, 6)]
    assert torch.equal(outputs["block 5"].features_BLD, features_BLD)
    assert all(output.present_BL.all() for output in outputs.values())
    assert not any(module._forward_hooks for _, module in layers_of(network))


def test_what_changes_by_how_much():
    before_BLD = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]])
    after_BLD = torch.tensor([[[0.0, 1.0], [0.0, 3.0], [3.0, 4.0]]])
    present = torch.ones(1, 3, dtype=torch.bool)
    groups = {
        "visible": torch.tensor([[True, True, False]]),
        "new": torch.tensor([[False, False, True]]),
        "masked": torch.zeros_like(present),
    }
    found = compare(4, "layer", LayerOutput(before_BLD, present), LayerOutput(after_BLD, present), groups)
    assert [(change.step, change.layer, change.group, change.num_tokens) for change in found] == [
        (4, "layer", "visible", 2),
        (4, "layer", "new", 1),
    ]
    visible, new = found
    assert visible.relative == pytest.approx((math.sqrt(2) / 1 + 1 / 2) / 2)
    assert visible.cosine == pytest.approx((0 + 1) / 2)
    assert (new.relative, new.cosine) == pytest.approx((0, 1))
    absent = LayerOutput(before_BLD, ~groups["visible"])
    assert [change.group for change in compare(4, "layer", absent, absent, groups)] == ["new"]


@pytest.mark.parametrize("network", [uvit(), enat(), enat(reuse=False)], ids=["uvit", "reuse", "plain"])
def test_groups_are_as_large_as_the_schedule_says(network):
    schedule = maskgit_cosine(4, "enat")
    generator, block = Generator(network, GreyLevelTokenizer()), Block(0, 2, 6, 9)
    changes = feature_changes(generator, schedule, block)
    counts = masked_counts(schedule, 64)
    kind = network.config.kind
    layers = [name for name, _ in layers_of(network)]
    for change in changes:
        before, after = counts[change.step - 1], counts[change.step]
        expected = {"visible": 64 - before, "new": before - after, "masked": after}
        assert change.num_tokens == 6 * expected[change.group]
        assert 0 < change.relative < 100
        assert -1 <= change.cosine <= 1.0001
    seen = {(change.step, change.layer, change.group) for change in changes}
    assert len(seen) == len(changes)
    if kind == "uvit":
        groups = [(1, "new"), (1, "masked"), (2, "visible"), (2, "new"), (2, "masked"), (3, "visible"), (3, "new")]
        groups.append((3, "masked"))
        assert seen == {(step, layer, group) for step, group in groups for layer in layers}
    else:
        encoder = {(step, layer, "visible") for step in (2, 3) for layer in layers[:2]}
        assert seen == encoder | {(step, layer, "masked") for step in (1, 2, 3) for layer in layers[2:]}
    assert changes == feature_changes(generator, schedule, block)


def test_a_canvas_compared_with_itself_does_not_change():
    network, canvas, labels_B = enat(), canvas_of(20), torch.tensor([0, 1, 2])
    with torch.inference_mode():
        outputs = layer_outputs(network, canvas, labels_B)
    groups = {"visible": ~canvas.masked_BL, "masked": canvas.masked_BL}
    changes = [c for name, output in outputs.items() for c in compare(1, name, output, output, groups)]
    assert len(changes) == 4
    assert all(change.relative == 0 and change.cosine == pytest.approx(1) for change in changes)
