"""What the tests of exports share: a content to write, and decoding by whatever implementation a file brings."""

import importlib.util
import sys

import torch
from reference import Recorded, facts
from strategies import tiny_config

from autonat.export.content import Content
from models.schedule import enat_linear, muse_linear

PROVENANCE = {
    "study": "study",
    "date": "2026-01-02T03:04:05+00:00",
    "metric": "FD(digits-cnn:12345678)",
    "distance": {"value": 1.25, "standard_error": 0.1, "num_images": 1000},
    "baseline": {"value": 2.5, "standard_error": 0.2, "num_images": 1000},
    "protocol": {"seed": 3, "labels": "balanced", "hostile": 'it\'s "one" \\ \'\'\' over """ # @DATA@\n'},
    "fingerprints": {"training": "ab", "features": "cd", "evaluation": "ef"},
    "versions": {"autonat": "0.1.0"},
}


def content(schedule, num_tokens=64, codebook_size=17):
    network = tiny_config(num_tokens=num_tokens, codebook_size=codebook_size)
    return Content(schedule, network, {"kind": "beta", "alpha": 12.0, "beta": 3.0}, PROVENANCE)


def load_module(path, name):
    """Import a generated file of our own making (in tests alone)."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


TRACES = ("enat_trace", "uvit_trace", "uvit_text_trace")


def _is_ours(trace, run):
    # Of the text network's runs those of MUSE.generate: AdaNAT's values differ from image to image.
    return trace != "uvit_text_trace" or run.startswith("muse_")


RUNS = [(trace, run) for trace in TRACES for run in sorted(facts(trace).get("runs", {})) if _is_ours(trace, run)]


def strategy_of(run):
    return facts("uvit_trace")["runs"][run]["strategy"]


def schedule_of(trace, run):
    """The schedule of a recorded run, from the official scalars or lists."""
    from test_reference_decoding import autonat_schedule

    about = facts(trace)["runs"][run]
    if trace == "uvit_trace":
        return autonat_schedule(about["strategy"])
    if trace == "enat_trace":
        return enat_linear(
            about["steps"],
            guidance_scale=about["cfg_scale"],
            choice_temperature=about["mask_temp"],
            sampling_temperature=about["samp_temp"],
        )
    steps = len(Recorded(trace, run)["mask_len"])
    return muse_linear(steps, guidance_scale=about["scale"], temperature=about["gen_temp"])


def noise_of(trace, run, step):
    """(draw [B, L, K] or None, choice [B, L]) of a recorded run, standard Gumbel."""
    recorded = Recorded(trace, run)
    draw = None
    if "gumbel_draw" in recorded:
        draw = recorded["gumbel_draw"][step]
    elif "cat_exp" in recorded:
        draw = -recorded["cat_exp"][step].log()
    return draw, recorded["gumbel_mask"][step]


def logits_of(trace, run, step):
    """The guided logits that a recorded run drew from, or None where they were left out."""
    recorded = Recorded(trace, run)
    for key in ("logits_mixed", "stub_logits", "logp_mixed"):
        if key in recorded:
            return recorded[key][step]
    if "logits_cond" not in recorded:
        return None
    cond, uncond = recorded["logits_cond"][step], recorded["logits_uncond"][step]
    return cond + schedule_of(trace, run).guidance_scales[step] * (cond - uncond)


def is_complete(trace, run):
    """Whether a run's logits and noise are recorded, so that it can be replayed."""
    random = facts(trace)["runs"][run].get("mode") != "argmax"
    return logits_of(trace, run, 0) is not None and not (random and noise_of(trace, run, 0)[0] is None)


def replay(trace, run, advance):
    """Decode with recorded logits and noise; advance(step, tokens, masked, logits, draw, choice) returns the drawn
    tokens and what is masked again."""
    assert is_complete(trace, run)
    recorded, random = Recorded(trace, run), facts(trace)["runs"][run].get("mode") != "argmax"
    first = logits_of(trace, run, 0)
    codes = first.shape[-1]
    tokens = torch.full(first.shape[:2], codes)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    steps = schedule_of(trace, run).num_steps
    for step in range(steps):
        assert torch.equal(tokens.masked_fill(masked, codes), recorded["ids_in"][step]), f"step {step}"
        draw, choice = noise_of(trace, run, step)
        tokens, masked = advance(step, tokens, masked, logits_of(trace, run, step), draw if random else None, choice)
        assert torch.equal(tokens, recorded["sampled_ids"][step]), f"step {step}"
        if step < steps - 1:  # after the last step only what was drawn counts
            assert torch.equal(tokens.masked_fill(masked, codes), recorded["ids_out"][step]), f"step {step}"
    assert torch.equal(tokens, recorded["final_ids"])
