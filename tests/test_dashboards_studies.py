"""Frames, figures and reports of synthetic studies in a real store."""

import base64
import json
import math
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from autonat.cli.tables import mask_ratio_label
from autonat.config import load_recipe
from autonat.errors import UserError
from autonat.importance import importance
from autonat.search.alternation import alternate
from autonat.search.program import Decision
from autonat.search_config import Descent, OfficialSearch, StagedSearch, WarmStart
from autonat.specs import (
    Changes,
    Differences,
    Evaluation,
    EvaluationSpec,
    Features,
    FeatureSpec,
    PopulationSpec,
    ProbeSpec,
    Trained,
    TrainSpec,
    fingerprint,
)
from autonat.storage.database import Database
from autonat.storage.store import Store, decision_json
from dashboards import (
    figures,
    frames,
    outcome_figures,
    outcome_frames,
    pages,
    progress_figures,
    progress_frames,
    texts,
)
from dashboards.report import render, write_report
from models.enat import ENATConfig
from models.features import ClassifierConfig
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio, FixedMaskRatio, TruncatedGaussianMaskRatio
from models.probes import Probe
from models.schedule import FAMILIES, components, maskgit_cosine
from models.train import TrainingConfig

STEPS = 3
METRIC = "FD(digits-cnn:0123abcd)"
FEATURES = FeatureSpec("digits", ClassifierConfig(), 1)
BASE = maskgit_cosine(STEPS)
TUNED = BASE.with_values([value / 2 for value in BASE.values()])
ARCCOS = TrainSpec(
    "digits", ENATConfig(num_tokens=64, width=16, heads=2), TrainingConfig(steps=10), ArccosMaskRatio(), 2
)
BETA = replace(ARCCOS, mask_ratio=BetaMaskRatio(6.0, 3.0))
WIDER = replace(ARCCOS, mask_ratio=BetaMaskRatio(3.0, 3.0))
RECIPE = {
    "name": "whole",
    "schedule": {"num_steps": STEPS, "preset": "maskgit-cosine", "rule": "enat", "values": None},
    "mask_ratio": {"kind": "arccos"},
}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Writer:
    """Writes a study as a driver does: results first, then the journal."""

    def __init__(self, store, name, recipe=None):
        self.store, self.number = store, 0
        self.id = store.claim(name, json.dumps(RECIPE if recipe is None else recipe))

    def asked(self, phase, round_, purpose, spec, result):
        self.store.record(spec, result, 1.0)
        self._write({"phase": phase, "round": round_, "purpose": purpose, "fingerprint": fingerprint(spec)})

    def decided(self, phase, round_, purpose, **facts):
        self._write({"phase": phase, "round": round_, "purpose": purpose, "decision": decision_json(facts)})

    def measured(self, phase, round_, purpose, value, training=ARCCOS, schedule=BASE, seed=0, images=200, error=0.1):
        spec = EvaluationSpec(training, FEATURES, schedule, seed, images, 100)
        self.asked(phase, round_, purpose, spec, Evaluation(value, error, images, METRIC, seed, (0.0, 0.0)))

    def probed(self, seed, value):
        probes = tuple(Probe(family, step, 0.5) for family, step in components(STEPS))
        spec = ProbeSpec(ARCCOS, FEATURES, BASE, probes, seed, 200, 100)
        blocks = tuple((0.0,) * len(probes) for _ in range(2))
        self.asked("schedule", 0, "gradient", spec, Differences(value, METRIC, 200, blocks))

    def _write(self, entry):
        self.store.write_journal(self.id, self.number, [entry])
        self.number += 1


def set_up(writer):
    writer.asked("set-up", 0, "training", FEATURES, Features(0.98, 0.2, 0.01, 1000))
    writer.asked("set-up", 0, "training", ARCCOS, Trained(3.0))


def gradient(writer, iteration, values, errors):
    writer.decided(
        "schedule", 0, "gradient", iteration=iteration, distance=2.0, schedule=BASE, gradient=values,
        gradient_standard_errors=errors,
    )  # fmt: skip


def whole_study(store, name="whole"):
    writer = Writer(store, name)
    set_up(writer)  # journal numbers 0 and 1
    writer.measured("schedule", 0, "warm start", 3.0)
    writer.measured("schedule", 0, "warm start", 2.5, schedule=TUNED)
    writer.measured("schedule", 0, "warm start", 3.0)  # asked for again: costs nothing
    writer.probed(7, 2.2)
    gradient(writer, 0, [1.0] + [0.0] * 9, [0.5] * 10)
    gradient(writer, 1, [-3.0] + [0.1] * 9, [0.0] + [0.2] * 9)
    writer.measured("schedule", 0, "confirmation of the descent", 2.8, seed=1, images=400)
    writer.measured("schedule", 0, "confirmation of the descent", 2.4, seed=1, images=400, schedule=TUNED)
    writer.decided(
        "schedule", 0, "schedule", schedule=TUNED, mask_ratio=ARCCOS.mask_ratio, distance=2.4, standard_error=0.1,
        spent_images=5200,
    )  # fmt: skip
    writer.asked("mask ratio", 1, "training", BETA, Trained(2.9))
    writer.measured("mask ratio", 1, "line", 2.6, seed=2, images=400, schedule=TUNED)
    writer.measured("mask ratio", 1, "line", 1.5, seed=2, images=400, schedule=TUNED, training=BETA)
    writer.measured("mask ratio", 1, "line", 1.75, seed=2, images=400, schedule=TUNED, training=WIDER)
    writer.decided(
        "mask ratio", 1, "mask ratio", mask_ratio=BETA.mask_ratio, schedule=TUNED, distance=1.5, gain=1.1,
        gain_standard_error=0.05, spent_images=6400,
        candidates=[
            {"mask_ratio": WIDER.mask_ratio, "distance": 1.75, "standard_error": 0.1},
            {"mask_ratio": BETA.mask_ratio, "distance": 1.5, "standard_error": 0.1},
        ],
    )  # fmt: skip
    for value, training, schedule in ((2.9, ARCCOS, BASE), (2.3, ARCCOS, TUNED), (1.4, BETA, TUNED)):
        writer.measured("held-out", 1, "report", value, training, schedule, seed=3, images=1000, error=0.05)
    estimate = {"standard_error": 0.0512, "num_images": 1000}
    summary = {
        "metric": METRIC,
        "baseline": {"value": 2.9, **estimate},
        "tuned_schedule": {"value": 2.3, **estimate},
        "tuned": {"value": 1.4, **estimate},
        "floor": {"value": 0.2, "standard_error": 0.01, "num_images": 1000},
        "test_accuracy": 0.98,
        "images_spent": 6400,
        "trainings": 2,
        "mask_ratio": asdict(BETA.mask_ratio),
        "baseline_mask_ratio": asdict(ARCCOS.mask_ratio),
        "schedule": asdict(TUNED),
        "baseline_schedule": asdict(BASE),
        "seconds": 12.0,
    }
    store.release(writer.id, "finished", summary=summary)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four studies: one finished, one running in its mask ratio search, one empty, one failed."""
    store = Store.open(str(tmp_path_factory.mktemp("studies") / "autonat.db"))
    whole_study(store)
    running = Writer(store, "running")
    set_up(running)
    running.measured("schedule", 0, "warm start", 3.0)
    running.measured("mask ratio", 1, "line", 2.0, seed=5, training=WIDER)
    running.measured("held-out", 1, "report", 2.9, images=1000, seed=3)
    Writer(store, "empty")
    failed = Writer(store, "failed", {"name": "failed", "note": "<b>&</b>"})
    store.release(failed.id, "failed", error="broke <script>alert('x')</script>")
    yield store
    store.close()


# Frames


def test_studies(store):
    frame = frames.studies_frame(store.engine)
    assert list(frame["name"]) == ["whole", "running", "empty", "failed"]
    assert list(frame["state"]) == ["finished", "running", "running", "failed"]
    assert list(frame["images_spent"]) == [2 * 200 + 200 * 12 + 5 * 400 + 3 * 1000, 200 + 200 + 1000, 0, 0]
    assert list(frame["evaluations"]) == [10, 3, 0, 0]
    assert list(frame["trainings"]) == [2, 1, 0, 0]
    whole = frame.iloc[0]
    assert (whole["metric"], whole["baseline"], whole["tuned"], whole["floor"]) == (METRIC, 2.9, 1.4, 0.2)
    assert np.isnan(frame["tuned"].iloc[1])
    assert frame["created_at"].dt.tz is not None
    assert abs((frame["created_at"].iloc[0] - pd.Timestamp(datetime.now(UTC))).total_seconds()) < 3600


def test_a_running_study_tells_what_it_has_settled(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "running")
    assert frames.studies_frame(store.engine)["settled"].isna().all()
    gradient(writer, 0, [1.0] * 10, [0.5] * 10)
    assert frames.studies_frame(store.engine)["settled"].isna().all()
    for distance in (2.4, 1.9):
        writer.decided("schedule", 0, "schedule", schedule=TUNED, distance=distance, standard_error=0.07)
    writer.decided("front T=2", 0, "schedule", schedule=maskgit_cosine(2), distance=3.0, standard_error=0.07)
    whole_study(store)
    frame = frames.studies_frame(store.engine).set_index("name")
    assert (frame.loc["running", "settled"], frame.loc["running", "settled_standard_error"]) == (1.9, 0.07)
    assert np.isnan(frame.loc["whole", "settled"])
    assert "(1.900 ± 0.070)" in str(pages.studies_table(frame.reset_index(), []))
    store.close()


def test_states_agree_with_the_store(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    for name in ("dead", "far", "left"):
        store.claim(name, "{}")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET owner_mark = 'another process' WHERE name = 'dead'")
        connection.exec_driver_sql("UPDATE studies SET owner_host = 'elsewhere' WHERE name = 'far'")
        connection.exec_driver_sql("UPDATE studies SET owner_pid = NULL WHERE name = 'left'")
    states = list(frames.studies_frame(store.engine)["state"])
    assert states == [row.state for row in store.studies()] == ["killed", "running", "killed"]
    store.close()


def test_a_driver_lives_by_the_clock_of_the_database(tmp_path, monkeypatch):
    store = Store.open(str(tmp_path / "autonat.db"))
    store.claim("far", "{}")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET owner_host = 'elsewhere'")

    def told():
        states = [frames.studies_frame(store.engine)["state"].iloc[0], progress_frames.states(store.engine)[0][1]]
        return {*states, store.study("far").state}

    assert told() == {"running"}
    # A host whose clock is behind the server's.
    monkeypatch.setattr(Database, "now", lambda *_: datetime.now(UTC) + timedelta(hours=2))
    assert told() == {"killed"}
    store.close()


def test_evaluations(store):
    frame = frames.evaluations_frame(store.engine, "whole")
    assert list(frame["number"]) == [2, 3, 4, 5, 8, 9, 12, 13, 14, 16, 17, 18]
    assert list(frame["images_spent"]) == [
        200, 400, 400, 2800, 3200, 3600, 4000, 4400, 4800, 5800, 6800, 7800,
    ]  # fmt: skip
    assert list(frame["value"]) == [3.0, 2.5, 3.0, 2.2, 2.8, 2.4, 2.6, 1.5, 1.75, 2.9, 2.3, 1.4]
    assert list(frame["kind"]) == ["evaluation"] * 3 + ["probe"] + ["evaluation"] * 8
    assert list(frame["standard_error"].isna()) == [kind == "probe" for kind in frame["kind"]]
    assert list(frame["is_confirmation"]) == [False] * 4 + [True] * 5 + [False] * 3
    assert list(frame["best_so_far"].dropna()) == [2.8, 2.4, 2.4, 1.5, 1.5]
    assert list(frame["role"].dropna()) == ["baseline", "tuned schedule", "tuned pair"]
    assert list(frame["mask_ratio"].iloc[-3:]) == ["arccos", "arccos", "Beta(6, 3)"]
    assert set(frame["metric"]) == {METRIC}


def test_evaluations_of_one_phase_count_all_images(store):
    whole = frames.evaluations_frame(store.engine, "whole")
    part = frames.evaluations_frame(store.engine, "whole", "held-out")
    expected = whole[whole["phase"] == "held-out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)


def test_best_so_far_does_not_mix_sample_counts(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "mixed")
    for seed, (images, value) in enumerate([(400, 2.0), (200, 1.0), (400, 3.0), (200, 0.5)]):
        writer.measured("schedule", 0, "confirmation", value, images=images, seed=seed)
    assert list(frames.evaluations_frame(store.engine, "mixed")["best_so_far"]) == [2.0, 1.0, 2.0, 0.5]
    store.close()


def front_study(store, name="front", *, finished=True):
    """A study tuned for three steps, then for two and four with the same network."""
    writer = Writer(store, name)
    set_up(writer)
    writer.measured("schedule", 0, "confirmation of the descent", 2.4, seed=1, images=400, schedule=TUNED)
    gradient(writer, 0, [1.0] + [0.0] * 9, [0.5] * 10)
    writer.decided("schedule", 0, "schedule", schedule=TUNED, distance=2.4, standard_error=0.1)
    others = {steps: maskgit_cosine(steps) for steps in (2, 4)}
    for steps, schedule in others.items():
        phase = f"front T={steps}"
        writer.measured(phase, 0, "confirmation of the descent", 2.0, seed=5, images=400, schedule=schedule)
        count = len(schedule.values())
        facts = {"gradient": [9.0] * count, "gradient_standard_errors": [0.1] * count, "schedule": schedule}
        writer.decided(phase, 0, "gradient", iteration=0, distance=2.0, **facts)
        writer.decided(phase, 0, "schedule", schedule=schedule, distance=2.0, standard_error=0.1)
    points = [(2.9, BASE), (2.3, TUNED), (1.4, TUNED), (3.3, others[2]), (1.2, others[4])]
    for index, (value, schedule) in enumerate(points):
        training = BETA if index > 1 else ARCCOS
        writer.measured("held-out", 0, "report", value, training, schedule, seed=3, images=1000, error=0.05)
    if finished:
        roles = ("baseline", "tuned_schedule", "tuned")
        told = [{"value": value, "standard_error": 0.05, "num_images": 1000} for value, _ in points]
        front = [{"num_steps": steps, **told[place]} for steps, place in ((2, 3), (3, 2), (4, 4))]
        schedules = {"schedule": asdict(TUNED), "baseline_schedule": asdict(BASE)}
        ratios = {"mask_ratio": asdict(BETA.mask_ratio), "baseline_mask_ratio": asdict(ARCCOS.mask_ratio)}
        summary = dict(zip(roles, told, strict=False)) | {"front": front, "metric": METRIC} | schedules | ratios
        store.release(writer.id, "finished", summary=summary)


@pytest.mark.parametrize("finished", [True, False])
def test_other_numbers_of_steps_are_told_apart(tmp_path, finished):
    store = Store.open(str(tmp_path / "autonat.db"))
    front_study(store, finished=finished)
    frame = frames.evaluations_frame(store.engine, "front")
    roles = ["baseline", "tuned schedule", "tuned pair", "tuned for T = 2", "tuned for T = 4"]
    assert list(frame["role"].dropna()) == roles
    assert list(frame[frame["is_confirmation"]]["value"]) == [2.4]  # those for other steps do not lower it
    summary = frames.summary_frame(store.engine, "front")
    assert list(summary["what"].iloc[:5]) == roles
    assert list(summary["distance"].iloc[:5]) == [2.9, 2.3, 1.4, 3.3, 1.2]
    weights = frames.importance_frame(store.engine, "front")
    assert len(weights) == 10
    assert weights["importance"].max() == pytest.approx(0.75)
    schedules = frames.schedules_frame(store.engine, "front")
    assert list(schedules["label"].unique()) == ["baseline", "found"]
    assert schedules["step"].max() == STEPS - 1
    heat = figures.gradients(frames.gradients_frame(store.engine, "front")).data[0]
    assert list(heat.y[:4]) == ["r(0)", "r(1)", "r(2)", "τ₁(0)"]
    outcomes = outcome_frames.outcomes_frame(store.engine, ["front"])
    assert dict(zip(outcomes["role"], outcomes["num_steps"], strict=True)) == dict(
        zip(roles, [3, 3, 3, 2, 4], strict=True)
    )
    line = outcome_figures.cost(outcomes, "num_steps").data[0]
    assert (list(line.x), list(line.y)) == ([2, 3, 4], [3.3, 1.4, 1.2])
    spent = figures.distance_over_images(frame)
    assert {"other numbers of steps", "tuned for T = 4"} <= {trace.name for trace in spent.data}
    store.close()


def test_one_best_line_stands_out(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "mixed")
    for seed, (images, value) in enumerate([(400, 2.0), (200, 1.0), (400, 3.0), (400, 1.5), (200, 0.5), (300, 2.5)]):
        writer.measured("schedule", 0, "confirmation", value, images=images, seed=seed)
    figure = figures.distance_over_images(frames.evaluations_frame(store.engine, "mixed"))
    lines = [trace for trace in figure.data if trace.name and trace.name.startswith("best") and trace.line.width]
    main, *others = lines
    assert main.name == "best so far (400 images each)"
    assert list(main.y) == [2.0, 1.5, 1.5]
    assert list(main.marker.size) == [8, 8, 0]  # the end of the line is no confirmation
    assert [list(trace.y) for trace in others] == [[2.5, 2.5], [1.0, 0.5, 0.5]]
    assert all(trace.line.width < main.line.width for trace in others)
    assert [trace.showlegend for trace in others] == [True, False]
    compared = figures.compare(frames.comparison_frame(store.engine, ["mixed"]))
    assert [list(trace.y) for trace in compared.data] == [[2.0, 1.5, 1.5]]
    store.close()


def further(kid):
    values = {"kernel_inception_distance_mean": kid, "kernel_inception_distance_std": 0.12, "precision": 0.5}
    return {"values": values, "sampled_images": 4000, "reference_images": 1297, "kid_subset_images": 1000}


def test_further_metrics_are_in_the_pages_and_the_report(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    whole_study(store)
    assert frames.further_metrics_frame(store.engine, "whole").empty
    (study,) = [row for row in store.studies() if row.name == "whole"]
    metrics = {"baseline": further(3.4), "tuned_schedule": further(1.5), "tuned": further(0.6)}
    with store.engine.begin() as connection:
        text = json.dumps(study.summary | {"metrics": metrics})
        connection.exec_driver_sql("UPDATE studies SET summary = ?", (text,))
    frame = frames.further_metrics_frame(store.engine, "whole")
    assert list(frame["name"]) == ["KID", "precision"] * 3
    assert list(frame["value"]) == [3.4, 0.5, 1.5, 0.5, 0.6, 0.5]
    assert list(frame["deviation"].iloc[:2].isna()) == [False, True]
    summary = frames.summary_frame(store.engine, "whole")
    row = frames.studies_frame(store.engine).iloc[0]
    shown = str(pages.facts(row, summary, frame))
    report = without_plotly(render(store, "whole", []))
    for text in ("0.60 ± 0.12", "0.500", "4,000 generated and 1,297 real images"):
        assert text in shown
        assert text in report
    assert "<th>KID</th><th>precision</th>" in report
    store.close()


def test_a_round_has_its_gain_in_the_timeline(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    for name, gain in (("better", 0.3), ("worse", 0.0)):
        writer = Writer(store, name)
        writer.measured("mask ratio", 1, "line", 2.6, seed=2)
        writer.measured("alternation", 1, "confirmation", 2.0, seed=8)
        account = {"phase": "alternation", "round": 1, "gain": gain, "gain_standard_error": 0.1}
        store.release(writer.id, "finished", summary={"phases": [account]})
    for name, told in (("better", "+0.3 ± 0.1"), ("worse", "nothing better")):
        frame = progress_frames.timeline_frame(store.engine, name)
        assert frame["decided"].notna().tolist() == [False, True]
        assert [each.text for each in progress_figures.timeline(frame).layout.annotations] == [told]
    store.close()


def test_passes_of_population_gradients_count(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "descent")
    values = tuple(TUNED.values())
    spec = PopulationSpec(ARCCOS, FEATURES, BASE, values, values, 4, 200, 100)
    writer.asked("schedule", 0, "gradient", spec, Changes(2.0, METRIC, 200, (0.0,) * 10, (0.1,) * 10))
    writer.measured("schedule", 0, "confirmation", 2.0)
    frame = frames.evaluations_frame(store.engine, "descent")
    assert list(frame["images_spent"]) == [spec.images + 200]
    assert list(frame["passes_spent"]) == [(spec.images + 200) * STEPS]  # no guidance: a pass a step
    store.close()


def test_a_search_that_changes_nothing_still_has_three_roles(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "same")
    for _ in range(3):
        writer.measured("held-out", 1, "report", 2.9)
    frame = frames.evaluations_frame(store.engine, "same")
    assert list(frame["role"]) == ["baseline", "tuned schedule", "tuned pair"]
    assert list(frame["images_spent"]) == [200, 200, 200]
    store.close()


def test_what_the_gap_was_measured_with_is_no_outcome(tmp_path):
    """The tuned pair once more, on as many images as the search had."""
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "gap")
    for distance, pair in ((2.9, {}), (2.3, {"schedule": TUNED}), (1.4, {"schedule": TUNED, "training": BETA})):
        writer.measured("held-out", 1, "report", distance, images=1000, seed=3, **pair)
    writer.measured("held-out", 1, "report", 1.6, images=400, seed=4, schedule=TUNED, training=BETA)
    frame = frames.evaluations_frame(store.engine, "gap")
    assert list(frame["role"].iloc[:3]) == ["baseline", "tuned schedule", "tuned pair"]
    assert frame["role"].isna().iloc[3]
    assert list(frames.summary_frame(store.engine, "gap")["distance"]) == [2.9, 2.3, 1.4]
    assert list(outcome_frames.outcomes_frame(store.engine, ["gap"])["distance"]) == [2.9, 2.3, 1.4]
    compared = figures.compare(frames.comparison_frame(store.engine, ["gap"]))
    assert [list(trace.y) for trace in compared.data] == [[2.9, 2.3, 1.4]]
    store.close()


def test_schedules(store):
    frame = frames.schedules_frame(store.engine, "whole")
    assert list(dict.fromkeys(frame["label"])) == ["baseline", "found"]
    for label, schedule in (("baseline", BASE), ("found", TUNED)):
        part = frame[frame["label"] == label]
        assert list(zip(part["family"], part["step"], strict=True)) == components(STEPS)
        assert list(part["value"]) == schedule.values()


def test_a_schedule_turned_down_later_is_not_the_found_one(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "back")
    third = BASE.with_values([value / 3 for value in BASE.values()])
    for round_, schedule in enumerate((TUNED, third)):
        writer.decided("schedule", round_, "schedule", schedule=schedule)
    assert list(frames.schedules_frame(store.engine, "back")["label"].unique()) == ["baseline", "round 0", "found"]
    store.release(writer.id, "finished", summary={"schedule": asdict(TUNED), "baseline_schedule": asdict(BASE)})
    frame = frames.schedules_frame(store.engine, "back")
    assert list(frame["label"].unique()) == ["baseline", "round 1", "found"]
    assert list(frame[frame["label"] == "found"]["value"]) == TUNED.values()
    store.close()


def test_mask_ratios(store):
    frame = frames.mask_ratio_frame(store.engine, "whole")
    assert list(frame["label"]) == ["arccos", "Beta(3, 3)", "Beta(6, 3)"]
    assert list(frame["round"]) == [0, 1, 1]
    assert list(frame["alpha"].iloc[1:]) == [3.0, 6.0]
    assert np.isnan(frame["alpha"].iloc[0])
    assert list(frame["distance"].iloc[1:]) == [1.75, 1.5]
    assert np.isnan(frame["distance"].iloc[0])
    assert list(frame["is_baseline"]) == [True, False, False]
    assert list(frame["is_chosen"]) == [False, False, True]
    assert frames.mask_ratio_from(json.loads(frame["parameters"].iloc[2])) == BETA.mask_ratio


def test_mask_ratios_of_an_undecided_round(store):
    frame = frames.mask_ratio_frame(store.engine, "running")
    assert list(frame["label"]) == ["arccos", "Beta(3, 3)"]
    assert list(frame["distance"].iloc[1:]) == [2.0]
    assert not frame["is_chosen"].any()


def test_gradients_and_importance(store):
    frame = frames.gradients_frame(store.engine, "whole")
    assert len(frame) == 20
    assert list(frame["iterate"].unique()) == [0, 1]
    assert list(frame["component"].iloc[:5]) == ["r(0)", "r(1)", "τ₁(0)", "τ₁(1)", "τ₁(2)"]
    assert list(frame["gradient"].iloc[[0, 10, 11]]) == [1.0, -3.0, 0.1]
    weights = frames.importance_frame(store.engine, "whole")
    # 1 (1 - 0.25) and 3; what lies below its own noise counts nothing and keeps the schedule's order.
    assert weights["importance"].iloc[0] == pytest.approx((0.75 + 3.0) / 2)
    assert list(weights["importance"].iloc[1:]) == [0.0] * 9
    assert list(zip(weights["family"], weights["step"], strict=True)) == components(STEPS)


def test_importance_is_what_the_command_line_says(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "both")
    gradient(writer, 0, [1.0, 0.0, -2.0] + [0.0] * 7, [0.5] * 10)
    # The published search has no standard errors: how much of this is noise nobody knows.
    writer.decided("schedule", 1, "gradient", iteration=0, distance=2.0, schedule=BASE, gradient=[9.0] * 10)
    frame = frames.importance_frame(store.engine, "both")
    said = importance(store.decisions(writer.id))
    assert list(zip(frame["family"], frame["step"], strict=True)) == [(each.family, each.step) for each in said]
    assert list(frame["importance"]) == [each.size for each in said]
    assert list(frame["importance"].iloc[:3]) == pytest.approx([2 - 0.25 / 2, 1 - 0.25, 0.0])
    store.close()


def test_importance_without_any_standard_error_says_so(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    Writer(store, "official").decided(
        "schedule", 0, "gradient", iteration=0, distance=2.0, schedule=BASE, gradient=[9.0] * 10
    )
    figure = figures.importance(frames.importance_frame(store.engine, "official"))
    assert figure.layout.annotations[0].text == "no gradients with standard errors recorded yet"
    store.close()


def test_decisions_and_summary(store):
    decisions = frames.decisions_frame(store.engine, "whole")
    assert list(decisions["purpose"]) == ["schedule", "mask ratio"]
    assert list(decisions["mask_ratio"]) == ["arccos", "Beta(6, 3)"]
    assert list(decisions["images_spent"]) == [5200, 6400]
    assert decisions["gain"].iloc[1] == 1.1
    assert np.isnan(decisions["gain"].iloc[0])
    summary = frames.summary_frame(store.engine, "whole").set_index("what")
    assert list(summary.index) == ["baseline", "tuned schedule", "tuned pair", "floor"]
    assert summary.loc["tuned pair", "ratio"] == pytest.approx(1.4 / 2.9)
    partial = frames.summary_frame(store.engine, "running").set_index("what")
    assert list(partial.index) == ["baseline", "floor"]
    assert partial.loc["floor", "distance"] == 0.2


PER_STUDY = {
    frames.evaluations_frame: frames.EVALUATION_COLUMNS,
    frames.schedules_frame: frames.SCHEDULE_COLUMNS,
    frames.mask_ratio_frame: frames.MASK_RATIO_COLUMNS,
    frames.gradients_frame: frames.GRADIENT_COLUMNS,
    frames.importance_frame: frames.IMPORTANCE_COLUMNS,
    frames.decisions_frame: frames.DECISION_COLUMNS,
    frames.summary_frame: frames.SUMMARY_COLUMNS,
}


@pytest.mark.parametrize("function", PER_STUDY, ids=lambda function: function.__name__)
@pytest.mark.parametrize("study", ["whole", "failed", "no such study"])
def test_columns_do_not_depend_on_what_is_there(store, function, study):
    frame = function(store.engine, study)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == PER_STUDY[function]
    assert frame.empty == (study != "whole")


def test_no_studies(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    frame = frames.studies_frame(store.engine)
    assert frame.empty
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == frames.STUDY_COLUMNS
    store.close()


@pytest.mark.parametrize(
    ("mask_ratio", "label"),
    [
        (ArccosMaskRatio(), "arccos"),
        (BetaMaskRatio(6, 3.5), "Beta(6, 3.5)"),
        (FixedMaskRatio(0.55), "fixed 0.55"),
        (TruncatedGaussianMaskRatio(), "Gaussian(0.55, 0.25) on [0.5, 1]"),
    ],
)
def test_a_mask_ratio_has_one_label(mask_ratio, label):
    recorded = json.loads(json.dumps(asdict(mask_ratio)))
    assert mask_ratio_label(recorded) == frames.mask_ratio_from(recorded).label == label


def test_unknown_mask_ratio_is_refused():
    with pytest.raises(ValueError, match="unknown mask ratio 'gamma'"):
        frames.mask_ratio_from({"kind": "gamma"})


# Figures


def named(figure, name):
    (trace,) = [trace for trace in figure.data if trace.name == name]
    return trace


def test_distance_figure(store):
    frame = frames.evaluations_frame(store.engine, "whole")
    figure = figures.distance_over_images(frame)
    assert list(named(figure, "warm start").x) == [200, 400, 400]
    assert list(named(figure, "gradient").y) == [2.2]
    assert list(named(figure, "confirmation").y) == [2.8, 2.4]
    assert list(named(figure, "mask ratio line").y) == [2.6, 1.5, 1.75]
    best = named(figure, "best so far (400 images each)")
    assert list(best.x) == [3200, 3600, 4400, 7800]  # where it steps, and to the end
    assert list(best.y) == [2.8, 2.4, 1.5, 1.5]
    assert list(named(figure, "baseline level").y) == [2.9, 2.9]
    pair = named(figure, "tuned pair")
    assert (list(pair.x), list(pair.y), list(pair.error_y.array)) == ([7800], [1.4], [0.05])
    assert figure.layout.yaxis.type == "log"
    assert METRIC in figure.layout.yaxis.title.text
    assert figures.distance_over_images(frame.assign(value=frame["value"] - 2)).layout.yaxis.type == "linear"


def test_compare_figure(store):
    frame = frames.comparison_frame(store.engine, ["running", "whole"])
    assert list(frame["study"].unique()) == ["running", "whole"]
    figure = figures.compare(frame)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["running", "whole"]
    assert [list(trace.y) for trace in figure.data if trace.name == "whole"][1] == [2.9, 2.3, 1.4]
    assert figure.layout.yaxis.dtick == "D1"
    far = pd.concat([frame, frame[frame["purpose"] == "warm start"].assign(value=90.0)])
    assert figures.compare(far).layout.yaxis.dtick == "D1"  # what is not drawn does not stretch the axis
    mixed = frame.assign(metric=frame["study"])
    assert "do not compare" in figures.compare(mixed).layout.yaxis.title.text
    assert frames.comparison_frame(store.engine, []).empty


def test_schedule_figure(store):
    figure = figures.schedules(frames.schedules_frame(store.engine, "whole"))
    assert len(figure.data) == 8
    found = [trace for trace in figure.data if trace.name == "found"]
    assert [list(trace.y) for trace in found] == [list(getattr(TUNED, family)) for family in FAMILIES]
    assert figure.layout.xaxis3.title.text == "decoding step t"


def test_density_figure(store):
    figure = figures.densities(frames.mask_ratio_frame(store.engine, "whole"))
    chosen = named(figure, "chosen: Beta(6, 3)")
    assert np.trapezoid(chosen.y, chosen.x) == pytest.approx(1, abs=1e-3)
    assert {trace.name for trace in figure.data} == {"baseline: arccos", "candidates", "chosen: Beta(6, 3)"}
    assert figure.layout.yaxis.range[1] < 5  # not stretched by the pole of arccos


def test_a_fixed_ratio_is_an_upright_line(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    Writer(store, "fixed", {**RECIPE, "mask_ratio": asdict(FixedMaskRatio(0.55))})
    figure = figures.densities(frames.mask_ratio_frame(store.engine, "fixed"))
    assert list(figure.data[0].x) == [0.55, 0.55]
    store.close()


def test_plane_figure(store):
    figure = figures.plane(frames.mask_ratio_frame(store.engine, "whole"))
    points = named(figure, "round 1")
    assert (list(points.x), list(points.y)) == ([3.0, 6.0], [3.0, 3.0])
    assert list(points.marker.color) == [1.75, 1.5]
    assert list(named(figure, "chosen").x) == [6.0]


def test_points_that_ended_early_are_crosses_in_the_plane(store):
    frame = frames.mask_ratio_frame(store.engine, "whole")
    ended = frame[frame["label"] == "Beta(6, 3)"].assign(alpha=24.0, ended_at_step=300.0, is_chosen=False)
    figure = figures.plane(pd.concat([frame, ended]))
    cross = named(figure, "left off")
    assert (list(cross.x), list(cross.y)) == ([24.0], [3.0])
    assert "training left off at step 300, distance 1.5 then" in cross.customdata[0]
    assert list(named(figure, "round 1").x) == [3.0, 6.0]
    assert 24.0 in figure.layout.xaxis.tickvals


def test_rounds_in_the_plane_have_symbols_of_their_own(store):
    frame = frames.mask_ratio_frame(store.engine, "whole")
    figure = figures.plane(pd.concat([frame, frame.assign(round=2)]))
    points = [trace for trace in figure.data if trace.text is not None]
    assert [trace.marker.symbol for trace in points] == ["circle", "square"]
    assert points[0].marker.size > points[1].marker.size
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["round 1", "round 2", "chosen"]


def test_gradient_figures(store):
    frame = frames.gradients_frame(store.engine, "whole")
    heat = figures.gradients(frame).data[0]
    assert heat.z.shape == (10, 2)
    assert list(heat.z[0]) == [1.0, -3.0]
    assert heat.customdata[0][0] == "1 ± 0.5"
    assert (heat.zmin, heat.zmax) == (-3.0, 3.0)
    bars = figures.importance(frames.importance_frame(store.engine, "whole")).data[0]
    assert bars.y[0] == "r(0)"
    assert bars.x[0] == pytest.approx(1.875)


def test_empty_frames_give_figures_that_say_so(store):
    engine, study = store.engine, "no such study"
    for figure in (
        figures.distance_over_images(frames.evaluations_frame(engine, study)),
        figures.compare(frames.comparison_frame(engine, [study])),
        figures.schedules(frames.schedules_frame(engine, study)),
        figures.densities(frames.mask_ratio_frame(engine, study)),
        figures.plane(frames.mask_ratio_frame(engine, study)),
        figures.gradients(frames.gradients_frame(engine, study)),
        figures.importance(frames.importance_frame(engine, study)),
    ):
        assert isinstance(figure, go.Figure)
        assert "recorded yet" in figure.layout.annotations[0].text


def test_names_stay_text_in_figures(store):
    frame = frames.comparison_frame(store.engine, ["whole"]).assign(study="<a href='x'>")
    assert figures.compare(frame).data[0].name == "&lt;a href='x'&gt;"


# Reports


def without_plotly(page):
    """The page less the library, which is text that nobody here wrote."""
    scripts = re.findall(r"<script[^>]*>.*?</script>", page, re.DOTALL)
    return page.replace(max(scripts, key=len, default=""), "")


def test_report_of_a_finished_study(store, tmp_path):
    path = tmp_path / "report.html"
    write_report(store, "whole", path, [("after <tuning>", PNG)])
    page = path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert page.count("Plotly.newPlot(") >= 6
    body = without_plotly(page)
    for text in ("2.900 ± 0.051", "1.400 ± 0.051", "0.200 ± 0.010", "0.483", METRIC, "7,800", "98.0%", "1.100 ± 0.050"):
        assert text in body
    assert base64.b64encode(PNG).decode() in body
    assert "after &lt;tuning&gt;" in body
    assert "<tuning>" not in body
    assert "&#34;preset&#34;: &#34;maskgit-cosine&#34;" in body
    assert f"{TUNED.guidance_scales[0]:.4f}" in body


@pytest.mark.parametrize("study", ["whole", "running", "empty", "failed"])
def test_report_loads_nothing_from_anywhere(store, study):
    page = render(store, study, [("grid", PNG)])
    body = without_plotly(page)
    assert not re.search(r"""(src|href|srcset|action)\s*=\s*["']?\s*(https?:)?//""", body, re.IGNORECASE)
    assert not re.search(r"""@import|url\(""", body)
    assert not re.search(r"<(link|iframe|object|embed|base)\b", body, re.IGNORECASE)
    assert not re.search(r"<script[^>]*\bsrc\b", page)
    assert "default-src 'none'" in page


def test_report_of_unfinished_studies(store):
    running, empty = render(store, "running", []), render(store, "empty", [])
    for text in ("still running", "Not complete yet", "2.900 ± 0.050"):
        assert text in running
    assert "Nothing has been measured on held-out seeds yet." in empty
    assert "No schedule has been decided on yet." not in render(store, "whole", [])


def test_every_state_has_its_note():
    assert set(texts.STATES) == {"created", "running", "stopped", "killed", "interrupted", "failed", "finished"}
    assert all(text for state, text in texts.STATES.items() if state != "finished")


def test_report_escapes_an_error_and_a_recipe(store):
    page = render(store, "failed", [])
    assert "This study failed" in page
    assert "broke &lt;script&gt;alert" in page
    assert "<script>alert" not in page
    assert "<b>&</b>" not in page
    assert "Plotly.newPlot" not in page
    assert len(page) < 50_000


def test_report_of_an_unknown_study(store, tmp_path):
    with pytest.raises(UserError, match="no study 'other'"):
        write_report(store, "other", tmp_path / "report.html", [])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_report(store, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(UserError, match="no space"):
        write_report(store, "empty", path, [])
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "old")]


# With the real searches


def bowl(spec):
    """Made-up results: the nearer a schedule's values are to 1 and Beta's mean to 0.7, the lower the distance."""
    match spec:
        case FeatureSpec():
            return Features(0.97, 0.2, 0.01, 360)
        case TrainSpec():
            return Trained(2.0)
    away = math.fsum((value - 1) ** 2 for value in spec.schedule.values())
    if isinstance(spec, ProbeSpec):
        at = dict(zip(components(spec.schedule.num_steps), spec.schedule.values(), strict=True))
        change = tuple((p.value - 1) ** 2 - (at[p.family, p.step] - 1) ** 2 for p in spec.probes)
        return Differences(away + 1, METRIC, spec.num_images, tuple(change for _ in range(spec.num_blocks)))
    if isinstance(spec, PopulationSpec):
        changes = tuple((high - 1) ** 2 - (low - 1) ** 2 for low, high in zip(spec.lows, spec.highs, strict=True))
        return Changes(away + 1, METRIC, spec.num_images, changes, (0.01,) * len(changes))
    ratio = spec.training.mask_ratio
    away += 3.0 if not isinstance(ratio, BetaMaskRatio) else abs(ratio.alpha / (ratio.alpha + ratio.beta) - 0.7)
    return Evaluation(away + 1, 0.01, spec.num_images, METRIC, spec.seed, (away,) * spec.num_blocks)


@pytest.mark.parametrize("method", ["staged", "official"])
def test_what_the_searches_record_can_be_shown(tmp_path, method):
    searches = {
        "staged": StagedSearch(
            warm_start=WarmStart(trials=4), descent=Descent(iterations=2, images=200), confirmation_images=400
        ),
        "official": OfficialSearch(iterations=2, images=200),
    }
    recipe = load_recipe("quickstart", ["beta.images=400", "held_out_images=400"])
    recipe = recipe.model_copy(update={"search": searches[method], "later_search": None})
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, recipe.name, json.loads(recipe.model_dump_json()))
    program, results = alternate(recipe), None
    try:
        while True:
            event = program.send(results)
            where = (event.phase.name, event.phase.round, event.phase.purpose)
            if isinstance(event, Decision):
                writer.decided(*where, **event.facts)
                results = None
            else:
                results = [bowl(spec) for spec in event.requests]
                for spec, result in zip(event.requests, results, strict=True):
                    writer.asked(*where, spec, result)
    except StopIteration as stop:
        summary = stop.value
    measured = frames.evaluations_frame(store.engine, recipe.name)
    before = frames.summary_frame(store.engine, recipe.name)
    store.release(writer.id, "finished", summary=summary)
    after = frames.summary_frame(store.engine, recipe.name)
    pd.testing.assert_frame_equal(before, after)  # what is told while running is what the summary says
    assert list(measured["role"].dropna()) == ["baseline", "tuned schedule", "tuned pair"]
    assert measured["is_confirmation"].any()
    schedules = frames.schedules_frame(store.engine, recipe.name)
    assert list(schedules[schedules["label"] == "baseline"]["value"]) == recipe.schedule.build().values()
    assert frames.mask_ratio_frame(store.engine, recipe.name)["is_chosen"].any()
    gradients = frames.gradients_frame(store.engine, recipe.name)
    assert gradients["standard_error"].isna().all() == (method == "official")
    assert not frames.decisions_frame(store.engine, recipe.name).empty
    assert render(store, recipe.name, []).count("Plotly.newPlot(") >= 6
    store.close()
