"""What a new user stumbles over first: wrong usage, places that cannot be written, a port in use, a killed driver."""

import socket
import subprocess
import sys

import pytest
from studies_for_tests import run_cli, run_ok, write_recipe

from autonat import __version__
from autonat.storage.store import Store


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate", "autonat --help"]),
        (["show"], ["missing argument 'study'", "autonat show --help"]),
        (["show", "tiny", "more"], ["more", "autonat show --help"]),
        (["run", "digits", "--workers", "-1"], ["--workers", "autonat run --help"]),
        (["show", "tiny", "--last", "x"], ["--last", "integer"]),
        (["list", "--nope"], ["--nope"]),
    ],
)
def test_wrong_usage_gets_one_line(arguments, words):
    status, out, err = run_cli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_no_command_at_all_gets_the_help():
    status, out, err = run_cli()
    assert (status, err) == (2, "")
    assert "quickstart" in out


def test_version():
    assert run_ok("--version") == f"autonat {__version__}\n"


def test_a_missing_device_is_said_before_the_study_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = write_recipe(tmp_path)
    database = tmp_path / "autonat.db"
    status, _, err = run_cli("run", recipe, "compute.device=cuda", "--db", database, "--workers", 0)
    assert (status, err.count("\n")) == (2, 1)
    assert "CUDA" in err
    assert not database.exists()


def test_a_taken_port_gets_one_line(tmp_path):
    database = tmp_path / "autonat.db"
    Store.open(str(database))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "autonat", "dashboard", "--db", database, "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: cannot listen on 127.0.0.1 port {port}: give another with --port or --host\n"


def test_a_worker_whose_driver_is_gone_ends_without_a_word():
    # A driver that is killed with an answer unread resets the connection, instead of closing it.
    program = """
import os
from multiprocessing import Pipe
from autonat.execution.executor import _serve
driver, worker = Pipe()
worker.send("unread")
driver.close()
_serve(worker, lambda artifacts: None, "", os.getppid())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
