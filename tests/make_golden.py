"""Makes tests/golden from a folder with the full recordings: ``python tests/make_golden.py FOLDER [TARGET]``.

The copies are the same numbers bit for bit, only fewer: tests/golden/README.md says what is left out and why.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"

# Arrays that are left out, by file: regular expressions for their whole names.
LEFT_OUT = {
    "enat_tiny": (
        r"(c[012]/\d|c3/[01])/feat(_f64)?",
        r"(c1/[01]|c2/1|c3/0)/logits(_f64)?",
        r"(c0/1|c[123]/\d)/logits_noprev(_f64)?",
        r"grad/c\d/0/x_embedder.word_embeddings.weight_f64",
    ),
    "enat_trace": (
        r"noisy_T8/.*",
        r"det_T(8|12)/(logits_cond|logits_uncond|gumbel_mask)",
        r"det_.*/logp_mixed",
        r"noisy_T4/(logits_cond|logits_uncond)",
    ),
    "uvit_tiny": (
        r"c[345]/logits_f64",
        r"c[02345]/cfg_logits.*",
        r"grad/c2/token_emb.*",
    ),
    "uvit_tiny16": (r"c[^1]/.*", r"c1/cfg_logits.*"),
    "uvit_trace": (
        r"noisy_T8_released/.*|L256_det_T4/.*|L256_noisy_T8_released/.*",
        r".*/logp_mixed",
        r"(noisy_T4|clamp)/(logits_cond|logits_uncond)",
        r"(det_T4|noisy_T4)/logits_mixed",
        r".*det_T8_released/(logits_.*|gumbel_mask)",
    ),
    "uvit_text_tiny": (
        r"c[34]/.*",
        r"(c[025]|perm|last_token|ctx_.*)/(logits|feat)_f64",
        r"c[025]/(cfg_logits.*|feat)",
        r"grad/c2/.*|grad/c1/context_embed.weight_f64",
    ),
    "uvit_text_trace": (
        r"(heu_det_T6|heu_noisy_T6|heu_noisy_T12|muse_det_T6|muse_noisy_T12|ties)/.*",
        r".*/(logits_.*|logp_mixed)",
        r"(heu|custom|edge).*/(cut_off|mask_len)",
        r".*det.*/gumbel_.*",
    ),
    "vqgan_tiny": (
        r".*/quant",
        r".*/reconstruction(_f64)?",
        r"encode/encoder_out(_f64)?",
        r"encode_rect/(codes_flat|loss)",
    ),
    "frechet": (r"d2048.*",),
}
# What no test reads in any decoding run, or what repeats another array of it.
LEFT_OUT_OF_RUNS = (r".*/(sampled_logits|cat_sample_raw|ratio|n_masked_in|actions)",)

# The first images alone are kept: their number, by the prefix of the arrays.
IMAGES = {
    "enat_trace": {"noisy_T4": 2},
    "uvit_tiny16": {"c1": 1},
    "uvit_trace": {"noisy_T4": 2, "clamp": 2},
    "uvit_text_trace": {"custom_noisy_T6": 2, "muse_noisy_T6": 2},
    "vqgan_tiny": {"encode_rect": 1},
}
# Of a run's arrays these start with the images; the others with the steps, then the images where there are any.
IMAGES_FIRST = ("context", "final_ids")

# Entries of the JSON files that are left out, by their path; entries of runs that are left out go with their arrays.
LEFT_OUT_FACTS = (
    "errors",
    "state_dict_shapes",
    "heuristic_values_zero_action_heu1",
    r"d2048.*",
    r"runs/.*/(seed|f32_vs_f64|.*_margin_per_step|.*_same_tokens)",
)


def matches(patterns, name):
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def is_trace(name):
    return name.endswith("_trace")


def first_images(name, key, array):
    """An array with the images that its file keeps."""
    prefix, _, what = key.rpartition("/")
    count = IMAGES.get(name, {}).get(prefix)
    if count is None:
        return array
    if not is_trace(name) or what in IMAGES_FIRST:
        return array[:count]
    return array[:, :count] if array.ndim > 1 else array


def thin_arrays(name, arrays):
    """What is kept of a file's arrays: of two precisions the higher one, unless that is left out."""
    patterns = LEFT_OUT.get(name, ()) + (LEFT_OUT_OF_RUNS if is_trace(name) else ())
    kept = {key: first_images(name, key, array) for key, array in arrays.items() if not matches(patterns, key)}
    return {key: array for key, array in kept.items() if f"{key}_f64" not in kept}


def thin_facts(name, facts, path=""):
    """What is kept of a JSON file."""
    kept = {}
    for key, value in facts.items():
        here = f"{path}{key}"
        run = here.removeprefix("runs/")
        if matches(LEFT_OUT_FACTS, here) or (run != here and matches(LEFT_OUT.get(name, ()), f"{run}/")):
            continue
        if run != here and run in IMAGES.get(name, {}):
            value = facts_of_first_images(value, IMAGES[name][run])
        kept[key] = thin_facts(name, value, f"{here}/") if isinstance(value, dict) else value
    return kept


def facts_of_first_images(about, count):
    """A run's facts with the first `count` images; what is a list at every step has one value an image."""

    def cut(value):
        if isinstance(value, dict):
            return {key: cut(inner) for key, inner in value.items()}
        return [row[:count] if isinstance(row, list) else row for row in value] if isinstance(value, list) else value

    return {**cut(about), "batch": count}


def make(source, target):
    """Write the thinned copies of all recordings in `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        to = target / path.name
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                np.savez_compressed(to, **thin_arrays(path.stem, dict(archive)))
        elif path.suffix == ".json":
            kept = thin_facts(path.stem, json.loads(path.read_text()))
            to.write_text(json.dumps(kept, separators=(",", ":")) + "\n")
        elif path.suffix in (".safetensors", ".yaml") and path != to:
            shutil.copyfile(path, to)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else GOLDEN)
