"""The golden copies: small, and what tests/make_golden.py keeps of a folder of recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_golden import GOLDEN, make, thin_arrays, thin_facts

DATA = Path(__file__).parent / "data"


def contents(folder):
    """Everything in a folder of recordings, in a form that compares."""
    found: dict = {}
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found |= {
                    (path.name, key): (value.dtype, value.shape, value.tobytes()) for key, value in archive.items()
                }
        elif path.suffix == ".json":
            found[path.name] = json.loads(path.read_text())
        elif path.suffix != ".md":
            found[path.name] = path.read_bytes()
    return found


def test_all_test_data_stay_below_8_megabytes():
    sizes = [path.stat().st_size for folder in (GOLDEN, DATA) for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 8_000_000


def test_thinning_the_copies_again_changes_nothing(tmp_path):
    """So the copies hold nothing that the script would leave out."""
    make(GOLDEN, tmp_path)
    assert contents(tmp_path) == contents(GOLDEN)


@pytest.mark.parametrize("name", ["uvit_text_trace", "enat_trace"])
def test_kept_images_come_first_and_their_facts_with_them(name):
    run = {"uvit_text_trace": "custom_noisy_T6", "enat_trace": "noisy_T4"}[name]
    steps, images = 3, 5
    arrays = {
        f"{run}/final_ids": np.arange(images),
        f"{run}/cfg_scale": np.arange(steps),
        f"{run}/ids_out": np.arange(steps * images).reshape(steps, images),
        "whole/ids_out": np.ones((steps, images)),
    }
    kept = thin_arrays(name, arrays)
    assert kept[f"{run}/final_ids"].tolist() == [0, 1]
    assert kept[f"{run}/cfg_scale"].tolist() == [0, 1, 2]
    assert kept[f"{run}/ids_out"].tolist() == [[0, 1], [5, 6], [10, 11]]
    assert kept["whole/ids_out"].shape == (steps, images)
    about = {"batch": images, "seed": 3, "n_masked_out": [[4] * images, [0] * images], "mask_len": [4, 0]}
    assert thin_facts(name, {"runs": {run: about}}) == {
        "runs": {run: {"batch": 2, "n_masked_out": [[4, 4], [0, 0]], "mask_len": [4, 0]}}
    }


def test_of_two_precisions_the_higher_is_kept():
    one, two = np.ones(1, np.float32), np.ones(1)
    assert set(thin_arrays("other", {"a": one, "a_f64": two, "b": one})) == {"a_f64", "b"}
    assert set(thin_arrays("uvit_tiny", {"c3/logits": one, "c3/logits_f64": two})) == {"c3/logits"}
