import pytest
import torch
from reference import (
    ATOL_GUIDED,
    ATOL_LOGITS,
    FOLDER,
    Recorded,
    assert_recorded,
    cases,
    check_gradients,
    facts,
    uvit_config,
    uvit_network,
)
from safetensors.torch import load_file

from models.networks import build_network
from models.sample import guided_logits
from models.train import masked_cross_entropy

pytestmark = pytest.mark.reference

NAMES = ["uvit_tiny", "uvit_tiny16"]
CASES = [(name, case) for name in NAMES for case in cases(name)]
GRADIENTS = [(name, case) for name in NAMES for case in sorted(facts(name).get("gradients", {}))]
DTYPES = [torch.float64, torch.float32]


def inputs(name, case):
    recorded = Recorded(name, case)
    ids_BL = recorded["ids"]
    return ids_BL, ids_BL == uvit_config(name).codebook_size, recorded["context"].reshape(-1)


@torch.no_grad()
def compare(name, case, dtype):
    network, recorded = uvit_network(name, dtype), Recorded(name, case)
    tokens_BL, masked_BL, labels_B = inputs(name, case)

    def logits(labels_B):
        return network.logits(network(tokens_BL, masked_BL, labels_B).features_BLD)

    conditional = logits(labels_B)
    unconditional = logits(torch.full_like(labels_B, network.null_class))
    compared = assert_recorded(conditional, recorded, "logits", ATOL_LOGITS)
    for key in [key for key in recorded if key.startswith("cfg_logits_scale")]:
        key = key.removesuffix("_f64")
        scale = float(key.removeprefix("cfg_logits_scale"))
        guided = guided_logits(conditional, unconditional, scale)
        compared += [what.rstrip("0123456789.") for what in assert_recorded(guided, recorded, key, ATOL_GUIDED)]
    return compared


@pytest.mark.parametrize("name", NAMES)
def test_official_state_dict_loads_strictly(name):
    network, weights = build_network(uvit_config(name)), load_file(FOLDER / f"{name}.safetensors")
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in weights.items()
    }
    network.load_state_dict(weights, strict=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == facts(name)["n_params"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_logits(name, case, dtype):
    if not compare(name, case, dtype):
        pytest.skip("nothing recorded")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_every_network_and_guided_logits_were_compared(dtype):
    compared = {
        name: {what for other, case in CASES if other == name for what in compare(name, case, dtype)} for name in NAMES
    }
    assert all("logits" in some for some in compared.values())
    assert set().union(*compared.values()) == {"logits", "cfg_logits_scale"}


def test_counts_that_differ_within_a_batch_all_masked_and_none_masked_were_compared():
    counts = [inputs(name, case)[1].sum(1) for name, case in CASES]
    shares = [inputs(name, case)[1].double().mean() for name, case in CASES]
    assert any(len(set(count.tolist())) > 1 for count in counts)
    assert 1.0 in shares
    assert 0.0 in shares


@pytest.mark.parametrize(("name", "case"), GRADIENTS)
def test_gradients(name, case):
    network = build_network(uvit_config(name)).double().eval()
    network.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    tokens_BL, masked_BL, labels_B = inputs(name, case)
    targets_BL = Recorded(name, case)["truth"].masked_fill(~masked_BL, -1)
    logits = network.logits(network(tokens_BL, masked_BL, labels_B).features_BLD)
    loss = masked_cross_entropy(logits, targets_BL, label_smoothing=0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(facts(name)["gradients"][case]["loss"], abs=1e-8)
    check_gradients(network, name, case)


def test_gradients_were_compared():
    assert GRADIENTS
    whole = [key for name, case in GRADIENTS for key in Recorded(name, f"grad/{case}")]
    assert any(key.startswith("token_emb.word_embeddings.weight") for key in whole)
    assert any(key.startswith("mlm_layer.bias") for key in whole)
