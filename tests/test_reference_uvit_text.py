import pytest
import torch
from reference import (
    ATOL_GUIDED,
    ATOL_LOGITS,
    FOLDER,
    Recorded,
    arrays,
    assert_recorded,
    cases,
    check_gradients,
    facts,
    uvit_config,
    uvit_network,
)
from safetensors.torch import load_file

from models.mask_ratio import ArccosMaskRatio
from models.masking import mask_from_uniform, masked_counts
from models.networks import build_network
from models.sample import guided_logits
from models.train import masked_cross_entropy

pytestmark = pytest.mark.reference

NAME = "uvit_text_tiny"
CASES = [case for case in cases(NAME) if "context" in Recorded(NAME, case)]
GRADIENTS = sorted(facts(NAME).get("gradients", {}))
DTYPES = [torch.float64, torch.float32]


def inputs(case, dtype):
    recorded = Recorded(NAME, case)
    ids_BL = recorded["ids"]
    return ids_BL, ids_BL == uvit_config(NAME).codebook_size, recorded["context"].to(dtype)


def dropout_factors(recorded, dtype):
    return recorded["keep"].to(dtype) / 0.9 if "keep" in recorded else None


@torch.no_grad()
def compare(case, dtype):
    network, recorded = uvit_network(NAME, dtype), Recorded(NAME, case)
    tokens_BL, masked_BL, context_BSC = inputs(case, dtype)
    state = network.read(tokens_BL, masked_BL, context_BSC, dropout_BLD=dropout_factors(recorded, dtype))
    logits = network.logits(state.features_BLD)
    # The official code drops a fixed number of rows in front, whatever the number of context tokens: image tokens
    # where there are too few, and returns context tokens where there are too many.
    extra = context_BSC.shape[1] - network.config.context_tokens
    compared = []
    if extra > 0:
        for key in ("logits", "logits_f64"):
            if key in recorded and (dtype == torch.float64) == key.endswith("_f64"):
                gap = (logits - recorded[key][:, extra:]).abs().max()
                assert float(gap) < ATOL_LOGITS[dtype]
                compared.append("logits")
        return compared
    compared += assert_recorded(logits[:, -extra:], recorded, "logits", ATOL_LOGITS)
    compared += assert_recorded(network.norm(state.features_BLD), recorded, "feat", ATOL_LOGITS)
    null_BSC = torch.from_numpy(arrays(NAME)["null_context"]).to(dtype).expand(len(tokens_BL), -1, -1)
    for key in [key for key in recorded if key.startswith("cfg_logits_scale")]:
        key = key.removesuffix("_f64")
        scale = float(key.removeprefix("cfg_logits_scale"))
        unconditional = network.logits(network.read(tokens_BL, masked_BL, null_BSC).features_BLD)
        guided = guided_logits(logits, unconditional, scale)
        compared += [what.rstrip("0123456789.") for what in assert_recorded(guided, recorded, key, ATOL_GUIDED)]
    return compared


def test_official_state_dict_loads_strictly():
    network, weights = build_network(uvit_config(NAME)), load_file(FOLDER / f"{NAME}.safetensors")
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in weights.items()
    }
    network.load_state_dict(weights, strict=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == facts(NAME)["n_params"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_features(case, dtype):
    if not compare(case, dtype):
        pytest.skip("nothing recorded in this precision")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_kinds_were_compared(dtype):
    compared = {case: compare(case, dtype) for case in CASES}
    assert {what for some in compared.values() for what in some} == {"logits", "feat", "cfg_logits_scale"}
    assert any("keep" in Recorded(NAME, case) and compared[case] for case in CASES)
    if dtype == torch.float32:
        sizes = {Recorded(NAME, case)["context"].shape[1] for case in CASES if compared[case]}
        assert min(sizes) < uvit_config(NAME).context_tokens < max(sizes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_caption_table_gives_the_same(case, dtype):
    """Captions by number, in another order than they are asked for, and the null context behind them."""
    tokens_BL, masked_BL, context_BSC = inputs(case, dtype)
    network, null_SC = uvit_network(NAME, dtype), torch.from_numpy(arrays(NAME)["null_context"])
    if context_BSC.shape[1:] != null_SC.shape:
        with pytest.raises(ValueError, match="tokens"):
            network.with_contexts(context_BSC, null_SC)
        return
    attached = network.with_contexts(context_BSC.flip(0).float().numpy(), null_SC)
    last_is_null = bool((context_BSC[-1] == null_SC).all())
    labels_B = torch.arange(len(context_BSC)).flip(0)
    if last_is_null:
        labels_B[-1] = attached.null_class
    with torch.no_grad():
        expected = network.read(tokens_BL, masked_BL, context_BSC).features_BLD
        assert torch.equal(attached(tokens_BL, masked_BL, labels_B).features_BLD, expected)


@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients(case):
    network = build_network(uvit_config(NAME)).double().eval()
    network.load_state_dict(load_file(FOLDER / f"{NAME}.safetensors"))
    tokens_BL, masked_BL, context_BSC = inputs(case, torch.float64)
    context_BSC.requires_grad_(True)
    targets_BL = Recorded(NAME, case)["truth"].masked_fill(~masked_BL, -1)
    logits = network.logits(network.read(tokens_BL, masked_BL, context_BSC).features_BLD)
    loss = masked_cross_entropy(logits, targets_BL, label_smoothing=0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(facts(NAME)["gradients"][case]["loss"], abs=1e-8)
    check_gradients(network, NAME, case, {"context": context_BSC.grad})


def test_gradients_were_compared():
    whole = {key.removesuffix("_f64") for case in GRADIENTS for key in Recorded(NAME, f"grad/{case}")}
    assert {"context", "context_embed.bias", "token_emb.word_embeddings.weight", "mlm_layer.bias"} <= whole


def test_training_masks():
    """MUSE draws arccos mask ratios, the count clamped below at 1 alone."""
    recorded = Recorded(NAME, "mask")
    x0_BL, mask_token = recorded["x0"], uvit_config(NAME).codebook_size
    ratios = ArccosMaskRatio().from_uniform(1 - recorded["time"].double().numpy())  # cos(pi t / 2) there
    counts = torch.from_numpy(masked_counts(ratios, x0_BL.shape[1], keep_one_visible=False))
    assert torch.equal(counts, recorded["n_masked"])
    masked_BL = mask_from_uniform(recorded["uniform"], counts)
    assert torch.equal(x0_BL.masked_fill(masked_BL, mask_token), recorded["masked_ids"])
    assert torch.equal(x0_BL.masked_fill(~masked_BL, -1), recorded["labels"])
