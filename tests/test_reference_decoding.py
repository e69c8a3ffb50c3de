import pytest
import torch
import yaml
from reference import (
    ATOL_MUSE_TRACE,
    ATOL_TRACE,
    FOLDER,
    Recorded,
    arrays,
    assert_close,
    enat_config,
    enat_network,
    facts,
    uvit_network,
)

from models.sample import Canvas, FirstStepLogits, Knobs, advance, count_to_mask, guided_logits, sample
from models.schedule import GenerationSchedule, enat_linear, maskgit_cosine, muse_linear

pytestmark = pytest.mark.reference

TRACES = ["enat_trace", "uvit_trace", "uvit_text_trace"]
# The text network's recordings hold two loops: MUSE.generate here, AdaNAT's in test_reference_adanat.py.
RUNS = [
    (trace, run)
    for trace in TRACES
    for run, about in sorted(facts(trace).get("runs", {}).items())
    if "AdaNAT" not in about.get("loop", "")
]
ENAT_RUNS = [run for trace, run in RUNS if trace == "enat_trace"]
ATOL = {"enat_trace": ATOL_TRACE, "uvit_trace": ATOL_TRACE, "uvit_text_trace": ATOL_MUSE_TRACE}
DTYPES = [torch.float32, torch.float64]


def run_id(value):
    return "-".join(value) if isinstance(value, tuple) else str(value)


def autonat_schedule(strategy):
    return GenerationSchedule(
        mask_ratios=strategy["manual_ratios"],
        sampling_temperatures=strategy["manual_samp_temp"],
        choice_temperatures=strategy["manual_temp"],
        guidance_scales=strategy["manual_cfg"],
        rule="autonat",
    )


def schedule_of(trace, run):
    about = facts(trace)["runs"][run]
    if trace == "uvit_trace":
        return autonat_schedule(about["strategy"])
    if trace == "uvit_text_trace":
        return muse_linear(about["steps"], guidance_scale=about["scale"], temperature=about["gen_temp"])
    return enat_linear(
        about["steps"],
        guidance_scale=about["cfg_scale"],
        choice_temperature=about["mask_temp"],
        sampling_temperature=about["samp_temp"],
    )


class RecordedNoise:
    """The noise of an official run; its exponential draws are Gumbel noise after -log."""

    def __init__(self, trace, run):
        self.recorded = Recorded(trace, run)
        self.draws_at_random = facts(trace)["runs"][run]["mode"] != "argmax"
        self.complete = not self.draws_at_random or "cat_exp" in self.recorded or "gumbel_draw" in self.recorded

    def draw(self, step):
        if not self.draws_at_random:
            return None
        return self.recorded["gumbel_draw"][step] if "gumbel_draw" in self.recorded else self._from_exponential(step)

    def _from_exponential(self, step):
        return -self.recorded["cat_exp"][step].log()

    def choice(self, step):
        return self.recorded["gumbel_mask"][step] if "gumbel_mask" in self.recorded else None


def model_of(trace, run):
    """The name of the network that a run used, or None where there was none."""
    about = facts(trace)["runs"][run]
    if trace == "uvit_text_trace":
        return about.get("model", "uvit_text_tiny")
    return about["model"] if "model" in about else facts(trace)["model"]


def network_and_labels(trace, run, dtype):
    model, recorded = model_of(trace, run), Recorded(trace, run)
    if trace == "enat_trace":
        return enat_network(model, dtype), recorded["context"].reshape(-1)
    network, context = uvit_network(model, dtype), recorded["context"]
    if trace == "uvit_trace":
        return network, context.reshape(-1)
    null_SC = torch.from_numpy(arrays(trace)["null_context"])
    return network.with_contexts(context, null_SC), torch.arange(len(context))


def logits_at(recorded, schedule, step, dtype, atol=ATOL_TRACE):
    """The guided logits that the official run drew from, or None where they are not recorded."""
    scale = schedule.guidance_scales[step]
    guided = None
    if "logits_cond" in recorded and "logits_uncond" in recorded:
        guided = guided_logits(
            recorded["logits_cond"][step].to(dtype), recorded["logits_uncond"][step].to(dtype), scale
        )
    for key in ("logits_mixed", "stub_logits"):
        if key in recorded:
            mixed = recorded[key][step].to(dtype)
            if guided is not None:
                assert_close(guided, mixed, atol, f"{key} at step {step}")
            guided = mixed if guided is None else guided
    if "logp_mixed" in recorded:
        log_probabilities = recorded["logp_mixed"][step].to(dtype)
        if guided is not None:
            assert_close(guided.log_softmax(-1), log_probabilities, atol, f"logp_mixed at step {step}")
        guided = log_probabilities if guided is None else guided
    return guided


def check_step(taken, recorded, step, mask_token, atol=ATOL_TRACE):
    """Everything that is recorded of a step's outcome. Returns what was compared."""
    again_BL = taken.canvas.masked_BL
    outcome = {
        "sampled_ids": taken.sampled_BL,
        "new_masking": again_BL,
        "masking": again_BL,
        "ids_out": taken.canvas.tokens_BL.masked_fill(again_BL, mask_token),
    }
    compared = [key for key in outcome if key in recorded]
    for key in compared:
        assert torch.equal(outcome[key], recorded[key][step]), f"{key} at step {step}"
    if "n_masked_out" in recorded:
        counts_B = again_BL.sum(1)
        assert torch.equal(counts_B, recorded["n_masked_out"][step].expand_as(counts_B)), f"counts at step {step}"
        compared.append("n_masked_out")
    if "confidence" in recorded:
        assert_close(taken.confidence_BL, recorded["confidence"][step], atol, f"confidence at step {step}")
        compared.append("confidence")
    if taken.canvas.num_masked is not None:
        assert (again_BL.sum(1) == taken.canvas.num_masked).all()
    else:
        assert again_BL.sum(1).unique().numel() > 1
    return compared


def replay(trace, run, dtype, positions):
    """Decode with the recorded logits and noise in place of a network. Returns what was compared."""
    recorded, schedule, noise = Recorded(trace, run), schedule_of(trace, run), RecordedNoise(trace, run)
    atol = ATOL[trace]
    if not noise.complete or logits_at(recorded, schedule, 0, dtype, atol) is None:
        return []
    codes = logits_at(recorded, schedule, 0, dtype, atol).shape[-1]
    canvas = Canvas.empty(*recorded["final_ids"].shape, codes)
    compared = []
    for step in range(schedule.num_steps):
        masked_BL = canvas.masked_BL
        if "ids_in" in recorded:
            assert torch.equal(canvas.tokens_BL.masked_fill(masked_BL, codes), recorded["ids_in"][step])
        logits_BLK = logits_at(recorded, schedule, step, dtype, atol)
        positions_BN = torch.arange(masked_BL.shape[1]).expand(masked_BL.shape)
        if positions == "masked" and canvas.num_masked is not None:
            positions_BN = torch.stack([row.nonzero()[:, 0] for row in masked_BL])
            logits_BLK = logits_BLK.gather(1, positions_BN[..., None].expand(-1, -1, codes))
        taken = advance(
            canvas, positions_BN, logits_BLK, Knobs.at(schedule, step), noise.draw(step), noise.choice(step)
        )
        compared += check_step(taken, recorded, step, codes, atol)
        if "cut_off" in recorded:
            # As an observation of the count: the n-th smallest confidence, also where it is infinite.
            count = count_to_mask(Knobs.at(schedule, step), masked_BL.shape[1], int(masked_BL[0].sum()))
            cut_B1 = taken.confidence_BL.sort(1).values[:, count - 1 : count]
            assert_close(cut_B1, recorded["cut_off"][step], atol, f"cut-off at step {step}")
            compared.append("cut_off")
        canvas = taken.canvas
    if "final_ids" in recorded:
        assert torch.equal(taken.sampled_BL, recorded["final_ids"])
        compared.append("final_ids")
    return compared


@pytest.mark.parametrize("positions", ["all", "masked"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", RUNS, ids=run_id)
def test_every_step_from_recorded_logits(which, dtype, positions):
    if not replay(*which, dtype, positions):
        pytest.skip("no logits recorded")


def decode(trace, run, dtype, cached_first_step=False):
    """Decode with the network and the recorded noise. Returns what was compared."""
    recorded, schedule, noise = Recorded(trace, run), schedule_of(trace, run), RecordedNoise(trace, run)
    if not noise.complete or model_of(trace, run) is None:
        return []
    network, labels_B = network_and_labels(trace, run, dtype)
    compared, seen = [], []

    def observe(step, taken):
        compared.extend(check_step(taken, recorded, step, network.mask_token, ATOL[trace]))
        seen.append(step)

    first_logits = FirstStepLogits(network) if cached_first_step else None
    tokens_BL = sample(network, schedule, labels_B, noise, first_logits=first_logits, observe=observe)
    assert torch.equal(tokens_BL, recorded["final_ids"])
    counts = [row if isinstance(row, int) else max(row) for row in facts(trace)["runs"][run]["n_masked_out"]]
    assert seen == list(range(counts.index(0) + 1 if 0 in counts else schedule.num_steps))
    return [*compared, "final_ids"]


@pytest.mark.parametrize("cached_first_step", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", RUNS, ids=run_id)
def test_end_to_end(which, dtype, cached_first_step):
    if not decode(*which, dtype, cached_first_step):
        pytest.skip("no network or no noise recorded")


@pytest.mark.parametrize("trace", TRACES)
def test_steps_of_all_codes_were_compared(trace):
    runs = [run for name, run in RUNS if name == trace]
    compared = [what for run in runs for what in decode(trace, run, torch.float32)]
    compared += [what for run in runs for what in replay(trace, run, torch.float32, "all")]
    new_mask = "new_masking" if trace == "enat_trace" else "masking"
    assert {"sampled_ids", "confidence", "ids_out", "final_ids", new_mask} <= set(compared)


@pytest.mark.parametrize("trace", TRACES)
def test_runs_with_and_without_draw_noise_were_compared(trace):
    """Decoding at random and by argmax, each in at least one run that holds all it needs."""
    decoded = [run for name, run in RUNS if name == trace and decode(trace, run, torch.float32)]
    assert {RecordedNoise(trace, run).draws_at_random for run in decoded} == {False, True}


def test_recorded_logits_were_replayed():
    """Without a network, so that an error of the rule is told from one of the network."""
    replayed = {trace for trace, run in RUNS if replay(trace, run, torch.float32, "masked")}
    assert {"enat_trace", "uvit_trace"} <= replayed


@pytest.mark.parametrize("which", RUNS, ids=run_id)
def test_schedule_values_and_counts(which):
    trace, run = which
    recorded, schedule, about = Recorded(trace, run), schedule_of(trace, run), facts(trace)["runs"][run]
    steps = range(schedule.num_steps)
    expected = {
        "mask_ratio": [schedule.mask_ratio(step) for step in steps],
        "annealed_temp": [schedule.choice_temperature(step) for step in steps],
        "cfg_scale": list(schedule.guidance_scales),
        "samp_temp": list(schedule.sampling_temperatures),
        "annealed_samp_temp": list(schedule.sampling_temperatures),
    }
    compared = [key for key in expected if key in recorded]
    assert compared
    for key in compared:
        assert_close(torch.tensor(expected[key], dtype=torch.float64), recorded[key], 1e-12, key)

    length = recorded["ids_in"].shape[-1]
    before = [row[0] if isinstance(row, list) else row for row in about["n_masked_in"]]
    counts = [count_to_mask(Knobs.at(schedule, step), length, before[step]) for step in steps]
    if "mask_len" in about:
        assert counts == about["mask_len"]
    else:
        assert counts == about["n_masked_out"]


def test_clamp_and_ties_occur():
    """Without these the recordings would not tell the autonat rule from a plain top-n."""
    clamped = tied = overfull = False
    for trace, run in RUNS:
        if trace != "uvit_trace" or not replay(trace, run, torch.float32, "all"):
            continue
        recorded, schedule, about = Recorded(trace, run), schedule_of(trace, run), facts(trace)["runs"][run]
        length = recorded["ids_in"].shape[-1]
        for step in range(schedule.num_steps - 1):
            clamped |= int(length * schedule.mask_ratio(step)) != about["mask_len"][step]
            after = torch.tensor(about["n_masked_out"][step])
            tied |= bool((after > about["mask_len"][step]).any())
            overfull |= bool((after == length).any())
    assert clamped
    assert tied
    assert overfull


@pytest.mark.parametrize("cached_first_step", [False, True])
def test_first_step_logits_agree_with_the_recorded_ones(cached_first_step):
    """The empty canvas of every run, by class: what ``FirstStepLogits`` keeps."""
    gaps = []
    for run in ENAT_RUNS:
        recorded = Recorded("enat_trace", run)
        model = facts("enat_trace")["runs"][run].get("model") or facts("enat_trace")["model"]
        network, config = enat_network(model, torch.float32), enat_config(model)
        labels_B = recorded["context"].reshape(-1)
        null_B = torch.full_like(labels_B, network.null_class)
        for key, classes_B in (("logits_cond", labels_B), ("logits_uncond", null_B)):
            if key not in recorded:
                continue
            if cached_first_step:
                table = FirstStepLogits(network)
                logits = (
                    table.of(classes_B)
                    if key == "logits_cond"
                    else table.unconditional().expand(len(classes_B), -1, -1)
                )
            else:
                canvas = Canvas.empty(len(classes_B), config.num_tokens, config.codebook_size)
                with torch.no_grad():
                    logits = network.logits(network(canvas.tokens_BL, canvas.masked_BL, classes_B).features_BLD)
            gaps.append(float((logits - recorded[key][0]).abs().max()))
    assert gaps
    assert max(gaps) < 1e-4


def test_official_counts_for_all_lengths_and_steps():
    expected = facts("enat_schedule")["counts"]
    assert expected
    counts = {}
    for key in expected:
        length, num_steps = (int(part[1:]) for part in key.split("/"))
        cosine = maskgit_cosine(num_steps)
        linear = enat_linear(num_steps, guidance_scale=1.0, choice_temperature=1.0, sampling_temperature=1.0)
        assert cosine.mask_ratios == linear.mask_ratios
        counts[key], remaining = [], length
        for step in range(num_steps):
            remaining = count_to_mask(Knobs.at(cosine, step), length, remaining)
            counts[key].append(remaining)
    assert counts == expected


def test_official_strategies_are_valid_schedules():
    strategies = yaml.safe_load((FOLDER / "uvit_strategies.yaml").read_text())
    assert strategies
    for strategy in strategies.values():
        schedule = autonat_schedule(strategy)
        assert schedule.values() == [
            *strategy["manual_ratios"],
            *strategy["manual_samp_temp"],
            *strategy["manual_temp"],
            *strategy["manual_cfg"],
        ]


def test_official_counts_of_muse():
    expected = facts("uvit_text_trace")["mask_counts"]["muse"]
    assert expected
    counts = {}
    for key in expected:
        length, num_steps = (int(part[1:]) for part in key.split("/"))
        schedule = muse_linear(num_steps, guidance_scale=1.0, temperature=1.0)
        counts[key], remaining = [], length
        for step in range(num_steps):
            remaining = count_to_mask(Knobs.at(schedule, step), length, remaining)
            counts[key].append(remaining)
    assert counts == expected
