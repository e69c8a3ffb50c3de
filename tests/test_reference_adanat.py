"""AdaNAT's loop: every image has its own schedule. Image by image, its runs decode the same under the rule `enat`."""

from itertools import takewhile

import pytest
import torch
from reference import ATOL_TRACE, Recorded, arrays, assert_close, facts, uvit_network

from models.sample import Knobs, count_to_mask, sample
from models.schedule import GenerationSchedule

pytestmark = pytest.mark.reference

TRACE, MODEL = "uvit_text_trace", "uvit_text_tiny"
# `ties`, the run without a network, reveals every token that ties at the cut: no rule here does.
RUNS = [
    run
    for run, about in sorted(facts(TRACE).get("runs", {}).items())
    if "AdaNAT" in about["loop"] and about.get("model", MODEL) is not None
]
FAMILIES = {
    "mask_ratios": "mask_ratio",
    "sampling_temperatures": "samp_temp",
    "choice_temperatures": "annealed_temp",
    "guidance_scales": "cfg_scale",
}


class NoiseOfOne:
    """The noise of one image."""

    def __init__(self, run, row):
        self.recorded, self.row = Recorded(TRACE, run), slice(row, row + 1)
        self.draws_at_random = facts(TRACE)["runs"][run]["mode"] != "argmax"
        self.complete = not self.draws_at_random or "cat_exp" in self.recorded

    def draw(self, step):
        return -self.recorded["cat_exp"][step, self.row].log() if self.draws_at_random else None

    def choice(self, step):
        return self.recorded["gumbel_mask"][step, self.row] if self.draws_at_random else None


def schedule_of(run, row):
    recorded, num_steps = Recorded(TRACE, run), facts(TRACE)["runs"][run]["steps"]
    families = {}
    for family, key in FAMILIES.items():
        values = recorded[key][:, row].tolist()
        families[family] = values[: num_steps - 1] if family in ("mask_ratios", "choice_temperatures") else values
    # AdaNAT never masks more than L - 1 tokens again; as a ratio:
    length = recorded["ids_in"].shape[-1]
    families["mask_ratios"] = [min(ratio, (length - 1) / length) for ratio in families["mask_ratios"]]
    return GenerationSchedule(**families, rule="enat")


def decode(run, row, dtype):
    """Decode one image and compare it with the recording. Returns how many steps were compared, the last included."""
    recorded, schedule, noise = Recorded(TRACE, run), schedule_of(run, row), NoiseOfOne(run, row)
    if not noise.complete:
        return 0
    context, null_SC = recorded["context"][row : row + 1], torch.from_numpy(arrays(TRACE)["null_context"])
    network = uvit_network(MODEL, dtype).with_contexts(context, null_SC)
    seen = []

    def observe(step, taken):
        seen.append(step)
        assert torch.equal(taken.sampled_BL[0], recorded["sampled_ids"][step, row]), f"tokens at step {step}"
        if step == schedule.num_steps - 1:
            return  # there AdaNAT may mask tokens again and adds noise to their confidence; nothing comes of it
        again_L = taken.canvas.masked_BL[0]
        visible_L = taken.confidence_BL[0].isinf()
        assert torch.equal(again_L.sum(), recorded["n_masked_out"][step, row])
        assert torch.equal(again_L, recorded["masking"][step, row]), f"masks at step {step}"
        assert torch.equal(
            taken.canvas.tokens_BL[0].masked_fill(again_L, network.mask_token), recorded["ids_out"][step, row]
        )
        assert torch.equal(visible_L, recorded["confidence"][step, row].isinf())
        assert_close(taken.confidence_BL[0], recorded["confidence"][step, row], ATOL_TRACE, f"confidence at {step}")

    tokens_BL = sample(network, schedule, torch.tensor([0]), noise, observe=observe)
    assert torch.equal(tokens_BL[0], recorded["final_ids"][row])
    masked_out = recorded["n_masked_out"][:, row].tolist()
    assert len(seen) == min(schedule.num_steps, len(list(takewhile(bool, masked_out))) + 1)
    return len(seen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("run", RUNS)
def test_every_image_decodes_the_same(run, dtype):
    for row in range(facts(TRACE)["runs"][run]["batch"]):
        if not decode(run, row, dtype):
            pytest.skip("no noise recorded")


def test_runs_with_and_without_noise_and_with_own_counts_were_compared():
    decoded = [run for run in RUNS if decode(run, 0, torch.float32)]
    assert {facts(TRACE)["runs"][run]["mode"] for run in decoded} == {"argmax", "noisy"}
    counts = [row for run in decoded for row in facts(TRACE)["runs"][run]["n_masked_out"]]
    assert any(len(set(row)) > 1 for row in counts)


def test_official_counts_of_the_heuristic():
    """Its ratios cos(pi q / 2), q = (t + 1 - 0.001) / T, in float32, floored in float32."""
    expected = facts(TRACE)["mask_counts"]["adanat"]
    assert expected
    for key, counts in expected.items():
        length, num_steps = (int(part[1:]) for part in key.split("/"))
        progress = (torch.arange(1, num_steps + 1) - 1e-3) / num_steps
        ratios = torch.cos(torch.pi / 2 * progress).double().tolist()
        remaining, counted = length, []
        for ratio in ratios[:-1]:
            remaining = count_to_mask(Knobs(ratio, 1.0, 0.0, 0.0, "enat"), length, remaining)
            counted.append(remaining)
        assert [min(length - 1, count) for count in counted] == counts[:-1], key
        assert counts[-1] == 0
