"""Trainings that are left off at rungs: who is, and that whoever is not ends as if there had been none."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from studies_for_tests import query, run_ok, tiny_recipe, wait_for, write_recipe
from test_search_programs import OPTIMUM, PHASE, laboratory
from test_train import CONFIG, MASK_RATIO, NETWORK, data, same_weights

import models.train
import models.training_state
from autonat.execution.parcels import networks_needed
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.tasks import TrainTask
from autonat.orchestrator import run_program
from autonat.search.alternation import alternate
from autonat.search.mask_ratio_search import search_mask_ratio
from autonat.search.program import Ask, Decision
from autonat.search.rungs import Rungs
from autonat.search_config import BetaSearch
from autonat.specs import (
    Evaluation,
    EvaluationSpec,
    TrainSpec,
    canonical_json,
    fingerprint,
    fingerprint_of_whole,
    paired_difference,
)
from autonat.storage.artifacts import file_sha256
from autonat.storage.store import Store
from models.checkpoint import load_tensors
from models.enat import ENATConfig
from models.mask_ratio import BetaMaskRatio
from models.train import TrainingConfig, train

# Trainings


@pytest.fixture(scope="module")
def uninterrupted():
    return train(NETWORK, SHORT, MASK_RATIO, *data(), 1)


SHORT = replace(CONFIG, steps=20, checkpoint_every_steps=4)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=2).map(sorted))
def test_training_from_rung_to_rung_ends_in_the_same_bits(tmp_path_factory, uninterrupted, rungs):
    state = tmp_path_factory.mktemp("rungs") / "state.safetensors"
    for rung in rungs:
        network, loss = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=rung, state_path=state)
        alone, alone_loss = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=rung)
        assert same_weights(network, alone)
        assert loss == alone_loss
        assert load_tensors(state)[1]["step"] == rung
    network, loss = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, state_path=state)
    assert same_weights(network, uninterrupted[0])
    assert loss == uninterrupted[1]
    assert load_tensors(state)[1]["step"] == SHORT.steps


def test_a_part_is_another_network_than_the_whole(uninterrupted):
    part, loss = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=15)
    assert not same_weights(part, uninterrupted[0])
    assert loss != uninterrupted[1]
    for wrong in (0, 21):
        with pytest.raises(ValueError, match="until_step must lie in 1 to 20"):
            train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=wrong)


def test_an_earlier_part_made_again_leaves_the_later_state_alone(tmp_path):
    state = tmp_path / "state.safetensors"
    first, _ = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=9, state_path=state)
    train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=15, state_path=state)
    later = state.read_bytes()
    again, _ = train(NETWORK, SHORT, MASK_RATIO, *data(), 1, until_step=9, state_path=state)
    assert same_weights(first, again)
    assert state.read_bytes() == later


def test_checkpoints_are_written_by_the_clock_too(tmp_path, monkeypatch, uninterrupted):
    clock, written = iter(range(0, 10_000, 45)), []
    monkeypatch.setattr(models.train.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(
        models.training_state, "save_tensors", lambda path, tensors, about: written.append(about["step"])
    )
    config = replace(SHORT, checkpoint_every_steps=1000, checkpoint_every_minutes=3.0)
    network, _ = train(NETWORK, config, MASK_RATIO, *data(), 1, state_path=tmp_path / "state.safetensors")
    assert same_weights(network, uninterrupted[0])
    assert len(written) >= 3
    assert all(3 <= later - earlier <= 5 for earlier, later in itertools.pairwise(written))
    with pytest.raises(ValueError, match="checkpoint_every_minutes must be positive"):
        replace(SHORT, checkpoint_every_minutes=0.0)


# Names


SPEC = TrainSpec("digits", ENATConfig(), TrainingConfig(), BetaMaskRatio(6.0, 3.0), 2)


def test_parts_have_names_of_their_own_and_know_the_whole():
    part = replace(SPEC, until_step=100)
    assert len({fingerprint(spec) for spec in (SPEC, part, replace(SPEC, until_step=101))}) == 3
    assert (part.whole, part.steps, SPEC.steps) == (SPEC, 100, SPEC.training.steps)
    assert fingerprint_of_whole(canonical_json(asdict(part))) == fingerprint(SPEC)
    assert fingerprint_of_whole(canonical_json(asdict(SPEC))) is None
    assert networks_needed(TrainTask(part)) == []  # the state is a convenience, not an input
    for wrong in (0, SPEC.training.steps):
        with pytest.raises(ValueError, match="until_step"):
            replace(SPEC, until_step=wrong)


@settings(max_examples=10)
@given(st.floats(1e-3, 1e3))
def test_how_often_a_checkpoint_is_written_is_no_part_of_the_name(minutes):
    training = replace(SPEC.training, checkpoint_every_minutes=minutes)
    assert fingerprint(replace(SPEC, training=training)) == fingerprint(SPEC)


def test_the_number_of_devices_is_part_of_the_name():
    assert fingerprint(replace(SPEC, training=replace(SPEC.training, devices=2))) != fingerprint(SPEC)


# Decisions


def evaluation(shares):
    return Evaluation(sum(shares) / len(shares), 0.1, 80, "FD", 1, tuple(shares))


def climb(worth, line, steps, new):
    """Whom the rungs leave; worth: by rung and point."""
    lab, pair = laboratory()
    rungs = Rungs(lab, PHASE, steps, 80, 1)
    pairs = [replace(pair, training=replace(pair.training, mask_ratio=point)) for point in new]

    class Answers:
        def fulfil(self, requests):
            return [
                worth[spec.training.until_step][spec.training.mask_ratio] if isinstance(spec, EvaluationSpec) else None
                for spec in requests
            ]

    return [pair.mask_ratio for pair in run_program(rungs.climb(pairs, line), Answers())], rungs


POINTS = [BetaMaskRatio(float(alpha), 3.0) for alpha in range(1, 6)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), min_size=1, max_size=5),
    st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), min_size=5, max_size=5),
    st.permutations(POINTS),
    st.permutations(POINTS),
)
def test_half_of_a_line_goes_on_and_who_is_close_to_it(first, second, one_order, other_order):
    """And the same points go on, and end at the same rungs, in whatever order the line has them or they are asked for;
    of points that are equally far off the first of the line counts as better."""
    line = POINTS[: len(first)]
    worth = {
        rung: {point: evaluation(found) for point, found in zip(line, values, strict=False)}
        for rung, values in ((2, first), (4, second))
    }
    left, rungs = climb(worth, line, (2, 4), line)
    survivors = line
    for rung in (2, 4):
        in_order = sorted(survivors, key=lambda point, rung=rung: worth[rung][point].value)
        better_half = in_order[: (len(in_order) + 1) // 2]
        gone = [point for point in survivors if point in rungs.ended and rungs.ended[point].step == rung]
        for point in survivors:
            change, error = paired_difference(worth[rung][point], worth[rung][better_half[-1]])
            assert (point in gone) == (change > error)
        assert not set(gone) & set(better_half)
        survivors = [point for point in survivors if point not in gone]
    assert left == survivors
    if all(len({found.value for found in worth[rung].values()}) == len(line) for rung in (2, 4)):
        in_one_order = [point for point in one_order if point in line]
        in_other_order = [point for point in other_order if point in line]
        again, other_rungs = climb(worth, in_one_order, (2, 4), in_other_order)
        assert set(again) == set(left)
        assert other_rungs.ended == rungs.ended


def test_a_lengthened_line_is_compared_with_all_of_its_points():
    worth = {2: {point: evaluation([float(number)] * 4) for number, point in enumerate(POINTS)}}
    left, rungs = climb(worth, POINTS[:3], (2,), POINTS[:3])
    assert left == POINTS[:2]
    _lab, pair = laboratory()
    further = replace(pair, training=replace(pair.training, mask_ratio=POINTS[4]))
    program = rungs.climb([further], [POINTS[4], *POINTS[:3]])
    ask = next(program)
    assert ask == Ask(PHASE.at("training to step 2"), (replace(further.training, until_step=2),))
    program.send([None])
    with pytest.raises(StopIteration) as end:
        program.send([worth[2][POINTS[4]]])
    assert end.value.value == []
    assert set(rungs.ended) == {POINTS[2], POINTS[4]}


def searched(rungs, landscape, **options):
    lab, pair = laboratory(7)
    settings_ = BetaSearch(
        start_alpha=1.0, start_beta=3.0, factors=(0.5, 2.0), max_trainings=14, images=400, rungs=rungs, **options
    )
    decisions = []

    class Watch:
        asked = answered = lambda *_: None

        def decided(self, decision: Decision):
            decisions.append(decision)

    verdict = run_program(search_mask_ratio(lab, PHASE, pair, settings_), landscape, Watch())
    steps = {}
    for spec in landscape.fulfilled:
        if isinstance(spec, TrainSpec):
            steps[spec.whole] = max(spec.steps, steps.get(spec.whole, 0))
    return verdict, decisions[-1].facts["candidates"], steps, lab


def test_the_search_ends_where_it_would_have_with_less_training():
    plain, candidates, steps, _lab = searched((), SimulatedLandscape(OPTIMUM))
    assert not any("ended_at_step" in point for point in candidates)
    halved, points, fewer, lab_of_halved = searched((0.25, 0.5), SimulatedLandscape(OPTIMUM))
    assert halved.pair == plain.pair
    assert sum(fewer.values()) < sum(steps.values())
    ended = [point for point in points if "ended_at_step" in point]
    assert {point["ended_at_step"] for point in ended} <= {2, 4}
    assert ended
    assert halved.pair.mask_ratio not in [point["mask_ratio"] for point in ended]
    # A point that ended has cost a training all the same.
    assert len(points) == len(fewer) == len(lab_of_halved.trained)
    wholly = {spec.mask_ratio for spec in fewer if fewer[spec] == 8}
    assert wholly.isdisjoint(point["mask_ratio"] for point in ended)


class EarlyBird(SimulatedLandscape):
    """A point that looks best of all at the rungs, and is ended by nobody; another that is ended would have won."""

    def true_distance(self, schedule, mask_ratio):
        distance = super().true_distance(schedule, mask_ratio)
        late = isinstance(mask_ratio, BetaMaskRatio) and mask_ratio.alpha == 0.5
        return distance + (5.0 if self.early else -5.0) if late else distance

    def _answer(self, spec):
        self.early = isinstance(spec, EvaluationSpec) and getattr(spec.training, "until_step", None) is not None
        return super()._answer(spec)


def test_who_ended_never_wins_however_good_the_rest_would_have_been():
    late = BetaMaskRatio(0.5, 3.0)
    assert searched((), EarlyBird(OPTIMUM))[0].pair.mask_ratio == late
    verdict, points, _, _ = searched((0.25,), EarlyBird(OPTIMUM))
    assert late in [point["mask_ratio"] for point in points if "ended_at_step" in point]
    assert verdict.pair.mask_ratio != late


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ([0.5, 0.25], "ascend"),
        ([0.01], "ascend"),
        ([8], "ascend"),
        ([2.5], "whole numbers of steps"),
        ([-1], "ascend"),
    ],
)
def test_rungs_lie_within_the_training(rungs, message):
    with pytest.raises(ValidationError, match=message):
        tiny_recipe(beta__rungs=rungs)
    assert BetaSearch(rungs=(0.25, 0.5)).rung_steps(1000) == (250, 500)
    assert BetaSearch(rungs=(100, 0.5)).rung_steps(1000) == (100, 500)


# Studies

RUNGS = {
    "phases": ["mask_ratio"],
    "training__steps": 12,
    "beta__max_trainings": 4,
    "beta__retune": None,
    "beta__rungs": [0.25, 0.5],
}


def end_of(database):
    store = Store.open(str(database), readonly=True)
    row = store.study("tiny")
    left = {
        "summary": row.summary,
        "results": query(database, "SELECT fingerprint, result, artifact_sha256 FROM results ORDER BY fingerprint"),
        "journal": query(
            database, "SELECT number, phase, round, purpose, fingerprint, decision FROM journal ORDER BY number"
        ),
        "files": {path.name: file_sha256(path) for path in sorted(store.artifacts.folder.iterdir()) if path.is_file()},
    }
    assert row.state == "finished"
    store.close()
    return left


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rungs")
    output = run_ok("run", write_recipe(folder, **RUNGS), "--db", folder / "study.db", "--workers", 0)
    return folder / "study.db", end_of(folder / "study.db"), output


def test_a_study_records_who_ended_and_keeps_their_states(finished):
    database, end, output = finished
    (decision,) = [json.loads(row[5]) for row in end["journal"] if row[3] == "mask ratio"]
    ended = [point for point in decision["candidates"] if "ended_at_step" in point]
    assert ended
    assert output.count("training left off at step") == len(ended)
    assert run_ok("show", "tiny", "--db", database).count("training left off at step") == len(ended)
    states = [name for name in end["files"] if ".state." in name]
    assert len(states) == len(ended)
    assert end["summary"]["trainings"] == 1 + len(decision["candidates"])


def test_the_dashboards_tell_parts_from_wholes(finished):
    from dashboards.frames import mask_ratio_frame, studies_frame

    store = Store.open(str(finished[0]), readonly=True)
    points = mask_ratio_frame(store.engine, "tiny")
    (study,) = studies_frame(store.engine).itertuples()
    ended = points["ended_at_step"].notna().sum()
    assert ended >= 1
    assert study.trainings == finished[1]["summary"]["trainings"] - ended
    store.close()


@pytest.mark.slow
def test_worker_processes_come_to_the_same_decisions(finished, tmp_path):
    run_ok("run", write_recipe(tmp_path, **RUNGS), "--db", tmp_path / "study.db", "--workers", 2)
    assert end_of(tmp_path / "study.db") == finished[1]


@pytest.mark.slow
def test_a_driver_killed_between_rungs_goes_on(finished, tmp_path):
    database = tmp_path / "study.db"
    command = ["run", str(write_recipe(tmp_path, **RUNGS)), "--db", str(database)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "autonat", *command, "--workers", "0"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    at_a_rung = "SELECT 1 FROM results WHERE kind = 'TrainSpec' AND spec LIKE '%\"until_step\":3%'"
    try:
        wait_for(lambda: database.exists() and _found(database, at_a_rung), "the first rung")
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert Store.open(str(database), readonly=True).study("tiny").state == "killed"
    run_ok(*command, "--workers", 0)
    assert end_of(database) == finished[1]


def _found(database, statement):
    try:
        return query(database, statement)
    except Exception:
        return []


def test_deleting_a_study_removes_the_states_of_who_ended(finished, tmp_path):
    query(finished[0], "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(finished[0], tmp_path / "study.db")
    folder = shutil.copytree(finished[0].parent / "study-artifacts", tmp_path / "study-artifacts")
    assert [path for path in folder.iterdir() if ".state." in path.name]
    run_ok("delete", "tiny", "--yes", "--db", tmp_path / "study.db")
    assert list(folder.iterdir()) == []


def test_the_accounts_count_a_training_once():
    landscape = SimulatedLandscape(OPTIMUM)
    summary = run_program(alternate(tiny_recipe(**RUNGS)), landscape)
    trained = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    assert sum(row["trainings"] for row in summary["phases"]) == len({spec.whole for spec in trained}) < len(trained)
