import pytest
import torch
from reference import (
    ATOL_LOGITS,
    Recorded,
    arrays,
    assert_close,
    enat_config,
    enat_network,
    enat_weights,
    facts,
)

from models.enat import ENAT
from models.train import masked_cross_entropy

pytestmark = pytest.mark.reference

CHAINS = sorted(facts("enat_tiny").get("chains", {}))
GRADIENTS = sorted(facts("enat_tiny").get("gradients", {}))
DTYPES = [torch.float64, torch.float32]


def steps_of(chain):
    return range(len(facts("enat_tiny")["chains"][chain]))


def inputs(chain, step):
    recorded = Recorded("enat_tiny", f"{chain}/{step}")
    return recorded["ids"], recorded["masking"], Recorded("enat_tiny", chain)["context"].reshape(-1)


def compare(actual, recorded, key, dtype):
    """Compare with the recording of the same precision, or else the float64 one. Returns what was compared."""
    candidates = [f"{key}_f64"] if dtype == torch.float64 else [key, f"{key}_f64"]
    found = [name for name in candidates if name in recorded]
    if not found:
        return []
    assert_close(actual, recorded[found[0]], ATOL_LOGITS[dtype], key)
    return [key]


@torch.no_grad()
def compare_chain(chain, dtype):
    network = enat_network("enat_tiny", dtype)
    compared, state = [], None
    for step, count in zip(steps_of(chain), facts("enat_tiny")["chains"][chain], strict=True):
        tokens_BL, masked_BL, labels_B = inputs(chain, step)
        recorded = Recorded("enat_tiny", f"{chain}/{step}")
        state = network(tokens_BL, masked_BL, labels_B, state)
        assert state.num_visible == tokens_BL.shape[1] - count
        compared += compare(network.logits(state.features_BLD), recorded, "logits", dtype)
        compared += compare(state.features_BLD, recorded, "feat", dtype)
        alone = network(tokens_BL, masked_BL, labels_B)
        compared += compare(network.logits(alone.features_BLD), recorded, "logits_noprev", dtype)
    return compared


def test_official_state_dict_loads_strictly():
    network = ENAT(enat_config())
    weights = enat_weights()
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    network.load_state_dict(weights, strict=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == facts("enat_tiny")["n_params"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chain", CHAINS)
def test_chain_with_reuse(chain, dtype):
    if not compare_chain(chain, dtype):
        pytest.skip("nothing recorded")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_features_and_first_passes_were_compared(dtype):
    compared = [what for chain in CHAINS for what in compare_chain(chain, dtype)]
    assert set(compared) == {"logits", "feat", "logits_noprev"}


def test_reuse_changes_the_recorded_logits():
    """Otherwise the chains would not tell a network that ignores its features from one that reuses them."""
    gaps = []
    for chain in CHAINS:
        for step in steps_of(chain):
            recorded = Recorded("enat_tiny", f"{chain}/{step}")
            if "logits_f64" in recorded and "logits_noprev_f64" in recorded:
                gaps.append(float((recorded["logits_f64"] - recorded["logits_noprev_f64"]).abs().max()))
    assert max(gaps) > 100 * ATOL_LOGITS[torch.float32]


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients(case):
    chain, last = case.split("/")
    network = ENAT(enat_config()).double().eval()
    network.load_state_dict(enat_weights())
    state = None
    with torch.no_grad():
        for step in range(int(last)):
            state = network(*inputs(chain, step), state)
    tokens_BL, masked_BL, labels_B = inputs(chain, int(last))
    targets_BL = Recorded("enat_tiny", chain)["truth"].masked_fill(~masked_BL, -1)
    features_BLD = network(tokens_BL, masked_BL, labels_B, state).features_BLD
    loss = masked_cross_entropy(network.logits(features_BLD), targets_BL, label_smoothing=0.1)
    loss.backward()

    expected = facts("enat_tiny")["gradients"][case]
    assert float(loss.detach()) == pytest.approx(expected["loss"], abs=1e-8)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = {name: None if value is None else float(value.norm()) for name, value in gradients.items()}
    assert norms.keys() == expected["grad_norm"].keys()
    assert {name for name, norm in norms.items() if norm is None} == {
        name for name, norm in expected["grad_norm"].items() if norm is None
    }
    measured = {name: norm for name, norm in norms.items() if norm is not None}
    assert measured == pytest.approx({name: expected["grad_norm"][name] for name in measured}, rel=1e-8, abs=1e-8)

    prefix = f"grad/{case}/"
    for key, value in arrays("enat_tiny").items():
        if key.startswith(prefix) and not key.startswith(prefix + "loss"):
            name = key.removeprefix(prefix).removesuffix("_f64")
            assert_close(gradients[name], torch.from_numpy(value), 1e-8, name)


def test_gradients_were_compared():
    """Norms without and with gradient, with and without features to reuse, and whole gradients."""
    norms = [norm for case in GRADIENTS for norm in facts("enat_tiny")["gradients"][case]["grad_norm"].values()]
    assert None in norms
    assert any(norm for norm in norms)
    whole = [key for key in arrays("enat_tiny") if key.startswith("grad/")]
    assert any(key.endswith("word_embeddings.weight_f64") for key in whole)
    assert any(key.endswith("mlm_layer.bias_f64") for key in whole)
