"""The official codes' recorded runs follow from exported files, by every implementation that a file brings."""

import numpy as np
import pytest
import torch
import yaml
from export_contents import RUNS, content, is_complete, load_module, replay, schedule_of, strategy_of
from reference import FOLDER, Recorded, facts

from autonat.export.enat import falling, mask_counts
from autonat.export.formats import FORMATS, export, read_schedule
from models.sample import Canvas, Knobs, advance

pytestmark = pytest.mark.reference
EXACT = ("improvednat", "enat", "diffusers", "python", "json")
COMPLETE = [run for run in RUNS if is_complete(*run)]
ids = "-".join


def ours(schedule):
    """Decoding by this project's sampler."""

    def step_of(step, tokens, masked, logits, draw, choice):
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        counts = masked.sum(1)
        canvas = Canvas(tokens, masked, int(counts[0]) if (counts == counts[0]).all() else None)
        taken = advance(canvas, positions, logits, Knobs.at(schedule, step), draw, choice)
        return taken.sampled_BL, taken.canvas.masked_BL

    return step_of


def exported(run, name, folder):
    schedule = schedule_of(*run)
    length = Recorded(*run)["ids_in"].shape[-1]
    path = folder / ("schedule.py" if name == "python" else "schedule")
    export(content(schedule, length), name, path)
    return schedule, path


@pytest.mark.parametrize("run", RUNS, ids=ids)
@pytest.mark.parametrize("name", EXACT)
def test_recorded_runs_follow_from_the_file(tmp_path, run, name):
    schedule, path = exported(run, name, tmp_path)
    found, imported = read_schedule(path)
    assert found == name
    assert imported.schedule == (falling(schedule) if name == "enat" else schedule)
    # A ratio rises in `ties`; its running minimum masks as many tokens only where no ties add to the count.
    if run in COMPLETE and (name, run[1]) != ("enat", "ties"):
        replay(*run, ours(imported.schedule))


@pytest.mark.parametrize("run", COMPLETE, ids=ids)
def test_recorded_runs_follow_from_the_table_of_counts(tmp_path, run):
    """But where ties at the cut change the counts: those are known only while decoding."""
    schedule, path = exported(run, "halton", tmp_path)
    recorded = Recorded(*run)
    key = "mask_len" if "mask_len" in recorded else "n_masked_out"
    if recorded[key].flatten().tolist() != mask_counts(schedule, recorded["ids_in"].shape[-1]):
        assert (recorded["n_masked_out"].flatten(1)[:, 0] != recorded[key].flatten()).any()
        pytest.skip("ties at the cut")
    replay(*run, ours(read_schedule(path)[1].schedule))


@pytest.mark.parametrize("run", COMPLETE, ids=ids)
def test_recorded_runs_follow_from_the_python_module(tmp_path, run):
    _, path = exported(run, "python", tmp_path)
    module = load_module(path, "exported_schedule")

    def step_of(step, tokens, masked, logits, draw, choice):
        arrays = [None if value is None else value.numpy() for value in (tokens, masked, logits, draw, choice)]
        sampled, again, _ = module.advance(step, *arrays)
        return torch.from_numpy(sampled), torch.from_numpy(again)

    replay(*run, step_of)


def test_runs_of_both_codes_are_replayed():
    """Of muse there are complete recordings in the full set alone; test_exports.py compares that rule with our own."""
    assert {"enat", "autonat"} <= {schedule_of(*run).rule for run in COMPLETE}


def test_the_official_strategies_themselves(tmp_path):
    """Files as they are published, without a comment of ours."""
    strategies = yaml.safe_load((FOLDER / "uvit_strategies.yaml").read_text())
    runs = [run for trace, run in RUNS if trace == "uvit_trace"]
    strategies |= {run: strategy_of(run) for run in runs}
    for name, strategy in strategies.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(strategy))
        found, imported = read_schedule(path)
        assert found == "improvednat"
        assert imported.schedule.rule == "autonat"
        assert "names no decoding rule" in imported.notes[0]
        if name in runs:
            assert imported.schedule == schedule_of("uvit_trace", name)
            if is_complete("uvit_trace", name):
                replay("uvit_trace", name, ours(imported.schedule))
        again = tmp_path / f"{name}-again.yaml"
        export(content(imported.schedule), "improvednat", again)
        assert yaml.safe_load(again.read_text()) == strategy
        assert read_schedule(again)[1].schedule == imported.schedule


@pytest.mark.parametrize("run", [run for trace, run in RUNS if trace == "enat_trace"])
def test_the_enat_table_is_the_official_loop(tmp_path, run):
    """Column by column what the official loop recorded of its own variables, and its scalars."""
    _, path = exported(("enat_trace", run), "enat", tmp_path)
    data, recorded = yaml.safe_load(path.read_text()), Recorded("enat_trace", run)
    about = facts("enat_trace")["runs"][run]
    for column in ("annealed_temp", "annealed_samp_temp", "cfg_scale"):
        np.testing.assert_allclose(data["table"][column], recorded[column].numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(data["table"]["mask_ratio"], recorded["mask_ratio"].numpy(), rtol=0, atol=1e-12)
    if about["steps"] > 1:
        for scalar in ("cfg_scale", "mask_temp", "samp_temp"):
            assert data[scalar] == pytest.approx(about[scalar], abs=1e-12)
    for family in data["residual"].values():
        assert family["largest"] <= 1e-12


def test_every_form_was_replayed():
    assert set(EXACT) | {"halton", "checkpoint"} == set(FORMATS)
