"""`autonat stop` ends a study cleanly, `autonat verify` tells whether results can be had again, `show` the ledger."""

import json
import shutil
import subprocess
import sys

import pytest
from studies_for_tests import query, run_cli, run_ok, tiny_recipe, wait_for, write_recipe

from autonat.specs import Trained
from autonat.verify import Verdict, _compared, sample_size, spec_from_json


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    database = folder / "study.db"
    # Another number of steps, tuned by the other kind of gradient.
    run_ok("run", write_recipe(folder, front=[2]), "--db", database, "--workers", 0)
    return database


MEASURED = (("EvaluationSpec", "value"), ("ProbeSpec", "value"), ("PopulationSpec", "value"))


def count_of(database):
    return query(database, "SELECT count(*) FROM results")[0][0]


def test_a_sample_is_the_same_again(finished):
    out = run_ok("verify", "tiny", "--db", finished, "--count", 3, "--seed", 1, "--workers", 0)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["same"] * 3
    assert f"3 of {count_of(finished)} results computed again, 0 differ" in lines[-1]
    assert run_ok("verify", "tiny", "--db", finished, "--count", 3, "--seed", 1, "--workers", 0) == out
    other = run_ok("verify", "tiny", "--db", finished, "--count", 3, "--seed", 2, "--workers", 0)
    assert other.splitlines()[:-1] != lines[:-1]


def test_every_kind_is_compared_to_the_last_bit(finished, tmp_path):
    """One bit of each recorded result is changed, and each is found by name; the whole study stays as it was."""
    query(finished, "PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "study.db"
    shutil.copy(finished, copy)
    shutil.copytree(finished.with_name("study-artifacts"), tmp_path / "study-artifacts")
    changed = set()
    for kind, key in (*MEASURED, ("TrainSpec", "loss")):
        name, text = query(copy, "SELECT fingerprint, result FROM results WHERE kind = ? ORDER BY 1 LIMIT 1", kind)[0]
        result = json.loads(text)
        result[key] = result[key] * (1 + 2**-52)
        query(copy, "UPDATE results SET result = ? WHERE fingerprint = ?", json.dumps(result, sort_keys=True), name)
        changed.add(f"{kind} {name[:12]}")
    before = query(copy, "SELECT * FROM results ORDER BY 1")
    status, out, err = run_cli("verify", "tiny", "--db", copy, "--fraction", 1, "--workers", 0)
    assert (status, err) == (1, "")
    found = {" ".join(line.split()[1:3]).rstrip(":") for line in out.splitlines() if line.startswith("DIFFERS")}
    assert found == changed
    assert f"{len(before)} of {len(before)} results computed again, {len(changed)} differ" in out
    assert query(copy, "SELECT * FROM results ORDER BY 1") == before


def test_the_same_loss_with_other_weights_is_another_result():
    """What is recorded of a network is its loss and its weights' hash; where both differ the loss is shown."""
    old = (Trained(1.5), "a" * 64)
    assert _compared("TrainSpec", "name", old, (Trained(1.5), "a" * 64)) == Verdict("TrainSpec", "name", True)
    other = _compared("TrainSpec", "name", old, (Trained(1.5), "b" * 64))
    assert other == Verdict("TrainSpec", "name", False, "the weights differ")
    both = _compared("TrainSpec", "name", old, (Trained(1.25), "b" * 64))
    assert (both.same, both.note) == (False, 'recorded {"loss": 1.5}, now {"loss": 1.25}')


def test_what_cannot_be_computed_again_is_said(finished, tmp_path):
    query(finished, "PRAGMA wal_checkpoint(TRUNCATE)")
    copy = tmp_path / "study.db"
    shutil.copy(finished, copy)
    status, out, _ = run_cli("verify", "tiny", "--db", copy, "--fraction", 1, "--workers", 0)
    assert status == 0
    measured = query(copy, "SELECT count(*) FROM results WHERE kind NOT IN ('TrainSpec', 'FeatureSpec')")[0][0]
    assert f"{measured} could not be computed" in out
    assert "which is missing" in out
    query(copy, "UPDATE results SET spec = '{}'")
    status, out, err = run_cli("verify", "tiny", "--db", copy, "--count", 1)
    assert "another version" in out
    assert (status, err) == (2, "error: nothing was verified\n")


def test_verify_refuses_in_one_line(finished):
    for options in (["--count", 1, "--fraction", 0.5], ["nowhere"]):
        name = [] if "nowhere" in options else ["tiny"]
        status, _, err = run_cli("verify", *name, *options, "--db", finished)
        assert (status, len(err.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("total", "count", "fraction", "size"),
    [
        (10, None, None, 5),
        (3, None, None, 3),
        (10, 7, None, 7),
        (10, 70, None, 10),
        (10, None, 0.0, 1),
        (9, None, 1, 9),
    ],
)
def test_sample_sizes(total, count, fraction, size):
    assert sample_size(total, count, fraction) == size


def test_specs_come_back_from_the_database(finished):
    from autonat.specs import fingerprint

    rows = query(finished, "SELECT fingerprint, kind, spec FROM results")
    assert {kind for _, kind, _ in rows} == {"FeatureSpec", "TrainSpec", *dict(MEASURED)}
    assert all(fingerprint(spec_from_json(kind, text)) == name for name, kind, text in rows)
    with pytest.raises(ValueError, match="another version"):
        spec_from_json("NoSpec", "{}")


def test_show_prints_the_ledger(finished):
    short, long = run_ok("show", "tiny", "--db", finished), run_ok("show", "tiny", "--db", finished, "--tasks")
    for kind in ("features", "training", "reference", "evaluation", "base", "probes", "population"):
        assert kind in short
        assert f"{kind} " in long
    assert "Task ledger" in long.removeprefix(short)
    images = query(finished, "SELECT sum(images) FROM tasks")
    assert images == query(finished, "SELECT sum(images) FROM results")
    assert query(finished, "SELECT count(*) FROM tasks WHERE state <> 'done' OR peak_memory IS NULL") == [(0,)]


def test_stop_needs_a_running_study(finished):
    status, _, err = run_cli("stop", "tiny", "--db", finished)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "finished" in err


@pytest.mark.slow
def test_a_stopped_study_goes_on_to_the_same_end(finished, tmp_path):
    database = tmp_path / "study.db"
    recipe = write_recipe(tmp_path, training__steps=120, training__checkpoint_every_steps=40)
    command = ["run", recipe, "--db", database, "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "autonat", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for(lambda: database.exists() and query_or_none(database), "a training to begin")
        assert "ends after its tasks in flight" in run_ok("stop", "tiny", "--db", database, "--wait")
    finally:
        _, err = process.communicate()
    assert process.returncode == 0
    assert err.startswith("stopped: ")
    assert query(database, "SELECT state, stop_requested, owner_pid FROM studies") == [("stopped", 0, None)]
    # What was in flight was finished: nothing is lost, and no state of a training lies about.
    assert query(database, "SELECT count(*) FROM tasks WHERE state <> 'done'") == [(0,)]
    assert list(tmp_path.glob("study-artifacts/*.state*")) == []
    assert 0 < query(database, "SELECT count(*) FROM results")[0][0] < 20
    run_ok(*command)
    assert query(database, "SELECT sum(images) FROM tasks") == query(database, "SELECT sum(images) FROM results")
    other = tmp_path / "other.db"
    run_ok("run", recipe, "--db", other, "--workers", 0)
    same = "SELECT fingerprint, result, artifact_sha256 FROM results ORDER BY 1"
    assert query(database, same) == query(other, same)


def query_or_none(database):
    import sqlite3

    try:
        return query(database, "SELECT 1 FROM tasks WHERE kind = 'training'")
    except sqlite3.OperationalError:
        return None


def test_a_stop_that_comes_between_two_requests(tmp_path):
    """No task is in flight, so the study ends at once; what a simulated landscape answers is no task."""
    from autonat.errors import StudyStopped
    from autonat.execution.simulated import SimulatedLandscape
    from autonat.orchestrator import run_study
    from autonat.storage.store import Store

    recipe = tiny_recipe()
    store = Store.open(str(tmp_path / "study.db"))

    class Slow(SimulatedLandscape):
        def fulfil(self, requests):
            results = super().fulfil(requests)
            for spec, result in zip(requests, results, strict=True):
                store.record(spec, result, 0.0)
            store.request_stop("tiny")
            wait_for(self.stopping, "the heartbeat")
            return results

        def begin(self, study_id, stopping):
            self.stopping = stopping

    with pytest.raises(StudyStopped):
        run_study(recipe, store, Slow(recipe.schedule.build()))
    assert store.study("tiny").state == "stopped"
    store.close()
