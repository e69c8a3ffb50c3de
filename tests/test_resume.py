"""A study that is killed at any moment ends in the same bits as one that never was."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from studies_for_tests import children, is_running, query, run_cli, run_ok, wait_for, write_recipe

from autonat.storage.artifacts import file_sha256
from autonat.storage.store import Store
from models.whole_files import ABANDONED_AFTER_SECONDS

KILLS = 9
RESULTS = "SELECT fingerprint, kind, spec, result, images, artifact_sha256 FROM results ORDER BY fingerprint"

# Imports once, then forks a process for each command line it reads: a command starts at once.
NURSERY = """
import json, os, sys
import autonat.cli, autonat.memo, autonat.orchestrator, autonat.progress, autonat.storage.store, autonat.config
import autonat.execution.worker, optuna, omegaconf, alembic.command, sklearn.datasets
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["autonat", *json.loads(line)]
        autonat.cli.main()
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def start(*arguments):
        """Start a command in a process of its own; returns its pid and a function that waits for its exit status."""
        process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        return int(process.stdout.readline()), lambda: int(process.stdout.readline())

    yield start
    process.stdin.close()
    process.wait()
    process.stdout.close()


def end_of(database):
    """Everything that a study leaves behind, but for times, once the next run after an hour has cleared away."""
    for torn in database.with_name(f"{database.stem}-artifacts").glob(".*.tmp"):
        an_hour_ago = time.time() - ABANDONED_AFTER_SECONDS - 1
        os.utime(torn, (an_hour_ago, an_hour_ago))
    Store.open(str(database)).close()
    store = Store.open(str(database), readonly=True)
    row = store.study("tiny")
    png = database.with_suffix(".png")
    run_ok("sample", "tiny", "--db", database, "--to", png, "--per-class", 2)
    schedule = database.with_suffix(".json")
    run_ok("export", "tiny", "--db", database, "--to", schedule)
    left = {
        "state": row.state,
        "error": row.error,
        "summary": row.summary,
        "results": query(database, RESULTS),
        "journal": query(
            database, "SELECT number, phase, round, purpose, fingerprint, decision FROM journal ORDER BY number"
        ),
        "checkpoints": {path.name: file_sha256(path) for path in sorted(store.artifacts.folder.iterdir())},
        "png": png.read_bytes(),
        "schedule": [line for line in schedule.read_text().splitlines() if '"date"' not in line],
    }
    store.close()
    return left


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    database = folder / "study.db"
    run_ok("run", write_recipe(folder), "--db", database, "--workers", 0)
    end = end_of(database)
    assert end["state"] == "finished"
    # Four networks (one of them the metric's) and nothing unfinished beside them.
    assert len(end["checkpoints"]) == 4
    assert all(name.count(".") == 1 for name in end["checkpoints"])
    return database, end


def watched_database(path):
    """A database, new or not, that notes every result that is recorded a second time."""
    Store.open(str(path)).close()
    query(path, "CREATE TABLE again (fingerprint)")
    query(path, "CREATE TRIGGER t AFTER UPDATE ON results BEGIN INSERT INTO again VALUES (old.fingerprint); END")
    return path


def progress_of(database):
    """(recorded results, states of unfinished trainings): changes with every step forward."""
    folder = database.with_name(f"{database.stem}-artifacts")
    states = set()
    for path in folder.glob("*.state.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            states.add((path.name, path.stat().st_ino, path.stat().st_mtime_ns))
    return query(database, "SELECT count(*) FROM results")[0][0], frozenset(states)


def rows_of(database):
    return dict(query(database, "SELECT fingerprint, created_at || result FROM results"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_at_many_moments(uninterrupted, nursery, tmp_path, seed):
    chance = random.Random(seed)
    database = watched_database(tmp_path / "study.db")
    command = ("run", write_recipe(tmp_path), "--db", database, "--workers", 0)
    kills, in_training, between_results = 0, 0, 0
    before: dict[str, str] = {}
    while True:
        pid, wait = nursery(*command)
        last, steps = progress_of(database), 0
        wanted = chance.choice([1, 2, 3, 5]) if kills < KILLS else None
        while is_running(pid):
            if wanted is None:
                break
            time.sleep(0.003)
            now = progress_of(database)
            # The first kills all come while a network trains, which a busy machine would see too seldom by chance.
            steps += now != last and (kills >= 3 or now[1] != frozenset())
            last = now
            if steps >= wanted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
        status = wait()
        after = rows_of(database)
        assert {name: after[name] for name in before} == before
        before = after
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert Store.open(str(database), readonly=True).study("tiny").state == "killed"
        assert query(database, "SELECT count(*) FROM tasks WHERE state = 'running'")[0][0] <= 1
        kills += 1
        if progress_of(database)[1]:
            in_training += 1
        else:
            between_results += 1
    # What was in flight at each kill is lost, and nothing else; no task is left running.
    states = dict(query(database, "SELECT state, count(*) FROM tasks GROUP BY 1"))
    assert set(states) <= {"done", "lost"}
    assert states.get("lost", 0) <= kills
    assert kills >= 8
    assert in_training >= 2
    assert between_results >= 2
    assert query(database, "SELECT * FROM again") == []
    end = end_of(database)
    for key, value in uninterrupted[1].items():
        assert end[key] == value, key


@pytest.mark.slow
def test_driver_with_workers_killed_while_training_and_while_evaluating(uninterrupted, nursery, tmp_path):
    """The real command in a real shell's place; its workers die with it."""
    database = watched_database(tmp_path / "study.db")
    command = ["run", str(write_recipe(tmp_path)), "--db", str(database)]
    moments = [
        lambda: progress_of(database)[1],
        lambda: query(database, "SELECT 1 FROM results WHERE kind = 'EvaluationSpec'"),
    ]
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-m", "autonat", *command, "--workers", "1"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(moment, "the moment to kill")
            offspring = children(process.pid)
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
        assert offspring
        wait_for(lambda pids=offspring: not any(map(is_running, pids)), "the workers to go")
        assert Store.open(str(database), readonly=True).study("tiny").state == "killed"
    before = rows_of(database)
    _, wait = nursery(*command, "--workers", 0)
    assert wait() == 0
    after = rows_of(database)
    assert {name: after[name] for name in before} == before
    assert query(database, "SELECT * FROM again") == []
    end = end_of(database)
    for key, value in uninterrupted[1].items():
        assert end[key] == value, key


@pytest.mark.slow
def test_workers_killed_while_they_work(uninterrupted, tmp_path):
    """The study goes on by itself; the ledger names every worker that died, and nothing stays running."""
    database = watched_database(tmp_path / "study.db")
    command = ["run", str(write_recipe(tmp_path)), "--db", str(database), "--workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "autonat", *command], stdout=subprocess.DEVNULL)
    moments = [
        ("a training", "SELECT pid FROM tasks WHERE kind = 'training' AND state = 'running'"),
        ("a measurement", "SELECT pid FROM tasks WHERE kind = 'evaluation' ORDER BY id DESC"),
        ("a gradient", "SELECT pid FROM tasks WHERE kind IN ('base', 'probes', 'population') ORDER BY id DESC"),
    ]
    killed = []
    try:
        for what, statement in moments:
            rows = wait_for(lambda statement=statement: query(database, statement), what)
            alive = [pid for (pid,) in rows if is_running(pid)] or children(process.pid)
            for pid in alive[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
    finally:
        assert process.wait() == 0
    assert len(killed) == len(moments)
    assert query(database, "SELECT * FROM again") == []
    assert query(database, "SELECT count(*) FROM tasks WHERE state NOT IN ('done', 'failed')") == [(0,)]
    failed = query(database, "SELECT pid, attempt, error FROM tasks WHERE state = 'failed'")
    assert failed
    assert all(pid in killed and "killed" in error for pid, _, error in failed)
    done = query(database, "SELECT sum(images) FROM tasks WHERE state = 'done'")
    assert done == query(database, "SELECT sum(images) FROM results")
    assert end_of(database) == uninterrupted[1]


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_interrupted_from_the_keyboard_and_terminated(uninterrupted, tmp_path, number, status, word):
    database = watched_database(tmp_path / "study.db")
    command = ["run", str(write_recipe(tmp_path)), "--db", str(database), "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "autonat", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: query(database, "SELECT 1 FROM results WHERE kind = 'TrainSpec'"), "a training to end")
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == status
    assert len(err.splitlines()) == 1, err
    assert err.startswith(f"{word}: ")
    assert query(database, "SELECT state, error, owner_pid FROM studies") == [("interrupted", None, None)]
    run_ok(*command)
    assert query(database, "SELECT * FROM again") == []
    assert end_of(database) == uninterrupted[1]


def copy_of(database, folder):
    """A copy of a finished study, taken back to before its last evaluations."""
    query(database, "PRAGMA wal_checkpoint(TRUNCATE)")
    copy = folder / database.name
    shutil.copy(database, copy)
    shutil.copytree(database.with_name("study-artifacts"), folder / "study-artifacts")
    late = "SELECT fingerprint FROM journal WHERE phase = 'held-out' AND fingerprint IS NOT NULL"
    names = [name for (name,) in query(copy, late)]
    assert names
    query(copy, "DELETE FROM journal WHERE phase = 'held-out'")
    for name in names:
        query(copy, "DELETE FROM results WHERE fingerprint = ?", name)
    query(copy, "UPDATE studies SET state = 'interrupted', summary = NULL")
    return copy


@pytest.mark.parametrize("kind", ["TrainSpec", "FeatureSpec"])
@pytest.mark.parametrize("damage", ["flipped", "short", "missing"])
def test_damaged_checkpoint_is_made_again(uninterrupted, tmp_path, kind, damage):
    database = copy_of(uninterrupted[0], tmp_path)
    names = query(
        database,
        "SELECT r.fingerprint FROM results r JOIN journal j USING (fingerprint) WHERE kind = ? ORDER BY j.number",
        kind,
    )
    path = tmp_path / "study-artifacts" / f"{names[0][0]}.safetensors"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    if kind == "TrainSpec":
        status, _, err = run_cli("sample", "tiny", "--db", database, "--to", tmp_path / "x.png")
        assert (status, len(err.splitlines())) == (2, 1)
    watched_database(database)
    out = run_ok("run", write_recipe(tmp_path), "--db", database, "--workers", 0)
    assert query(database, "SELECT * FROM again") == names[:1]
    said = [line for line in out.splitlines() if "training it again" in line]
    assert len(said) == 1
    assert path.name in said[0]
    assert path.read_bytes() == whole
    assert end_of(database) == uninterrupted[1]


def test_running_a_finished_study_again_computes_nothing(uninterrupted, tmp_path, monkeypatch):
    from autonat.execution.worker import Worker

    database = copy_of(uninterrupted[0], tmp_path)
    run_ok("run", write_recipe(tmp_path), "--db", database, "--workers", 0)

    def perform(self, task):
        raise AssertionError(f"{task} is computed again")

    monkeypatch.setattr(Worker, "perform", perform)
    run_ok("run", write_recipe(tmp_path), "--db", database, "--workers", 0)
    assert end_of(database) == uninterrupted[1]
