"""Whole studies on Ray, by the command line: the same bits as in one process, trainings that go on, stops, quiet."""

import contextlib
import os
import subprocess
import sys

import pytest
import sqlalchemy
from databases import ask
from endings import differences, ending, recorded
from ray_clusters import Nodes, kill
from studies_for_tests import is_running, run_cli, run_ok, wait_for, write_recipe

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def nodes():
    cluster = Nodes(2)
    yield cluster
    cluster.close()


def run(folder, *options, url=None, **changes):
    """A tiny study by the command line in this process: what it leaves behind, and what it says."""
    url = url or f"sqlite:///{folder / 'study.db'}"
    out = run_ok("run", write_recipe(folder, **changes), "--db", url, "--artifacts", folder / "artifacts", *options)
    assert ask(url, "SELECT count(*) FROM tasks WHERE state <> 'done'") == [(0,)]
    return ending(url, folder / "artifacts"), out


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    return run(tmp_path_factory.mktemp("in-process"), "--workers", 0)


def said(out):
    """Lines of a run without their times, and without what is only said of a slow one."""
    lines = [line.split("] ", 1)[-1] for line in out.splitlines()]
    return [line for line in lines if " s." not in line and "s left" not in line and not line.endswith("%")]


def test_same_bits_and_the_same_words(in_process, nodes, tmp_path):
    end, out = run(tmp_path, "--executor", "ray", "--address", nodes.address)
    assert differences(end, in_process[0]) == []
    assert said(out) == said(in_process[1])
    logs = run_ok("show", "tiny", "--logs", "--db", tmp_path / "study.db")
    folder = logs.split(": ")[-1].strip()
    assert os.path.isdir(folder), logs
    assert any(name.startswith("worker-") for name in os.listdir(folder))


def test_same_bits_on_postgresql(in_process, nodes, postgres, tmp_path):
    end, _ = run(tmp_path, "--executor", "ray", "--address", nodes.address, url=postgres.new_database())
    assert differences(end, in_process[0]) == []


def test_a_local_instance_is_quiet_and_ends(in_process, tmp_path):
    command = ["run", str(write_recipe(tmp_path)), "--db", str(tmp_path / "study.db"), "--executor", "ray"]
    done = subprocess.run(
        [sys.executable, "-m", "autonat", *command, "--workers", "1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said(done.stdout) == said(in_process[1])
    assert differences(ending(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "study-artifacts"), in_process[0]) == []


LONG = {"training__steps": 2000, "training__checkpoint_every_steps": 5}


def started(folder, nodes, **changes):
    command = ["run", str(write_recipe(folder, **changes)), "--db", str(folder / "study.db"), "--executor", "ray"]
    return subprocess.Popen(
        [sys.executable, "-m", "autonat", *command, "--address", nodes.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trainings(database, which):
    """(pid, fingerprint) of trainings in the ledger."""
    with contextlib.suppress(sqlalchemy.exc.OperationalError):  # no tables yet
        return ask(database, f"SELECT pid, fingerprint FROM tasks WHERE kind = 'training' AND {which} ORDER BY id")
    return []


def test_a_killed_training_goes_on_from_its_state(nodes, tmp_path):
    """Another worker takes it up, and the steps that were done are not done again."""
    driver, database = started(tmp_path, nodes, **LONG), f"sqlite:///{tmp_path / 'study.db'}"
    try:
        pid, name = wait_for(lambda: trainings(database, "state = 'running'"), "a training")[0]
        state = tmp_path / "study-artifacts" / f"{name}.state.safetensors"
        wait_for(state.exists, "its first state")
        assert kill(pid)
        ((again, same),) = wait_for(lambda: trainings(database, "attempt = 2"), "the next attempt")
        assert is_running(again)
        assert (again != pid, same == name) == (True, True)
        run_ok("stop", "tiny", "--db", tmp_path / "study.db")
        _, err = driver.communicate(timeout=100)
    finally:
        driver.kill()
    assert err.splitlines() == ["stopped: what was finished is kept; the same command goes on from there"]
    rows = ask(database, f"SELECT state, attempt, error FROM tasks WHERE fingerprint = '{name}' ORDER BY id")
    assert [row[:2] for row in rows] == [("failed", 1), ("done", 2)]
    assert "died" in rows[0][2]
    assert ask(database, "SELECT state FROM studies") == [("stopped",)]


def test_a_file_that_is_wrong_is_one_line(nodes, tmp_path):
    """A worker's complaint reaches the user as in one process, and is not tried again."""
    status, out, err = run_cli(
        *("run", write_recipe(tmp_path, training__learning_rate=1e30), "--db", tmp_path / "study.db"),
        *("--executor", "ray", "--address", nodes.address, "compute.device=cuda", "--gpus-per-worker", 0),
    )
    assert (status, len(err.splitlines())) == (2, 1), (out, err)
    assert "no CUDA device" in err
    assert recorded(f"sqlite:///{tmp_path / 'study.db'}").keys()
    rows = ask(f"sqlite:///{tmp_path / 'study.db'}", "SELECT attempt, state FROM tasks WHERE kind = 'training'")
    assert (1, "failed") in rows
    assert set(rows) <= {(1, "failed"), (1, "lost")}  # lost: the other training of the line, where it had begun
