"""A local instance of Ray: who can reach it, and that it leaves signals alone."""

import ipaddress
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from databases import ask
from studies_for_tests import Calling, is_running, wait_for, write_recipe

from autonat.execution.ray_executor import RayExecutor

pytestmark = pytest.mark.slow


def descendants(pid):
    """Processes that a process started, and those that they started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def listening(pids):
    """The addresses on which processes accept connections."""
    sockets = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(handle))
            except OSError:
                continue  # closed meanwhile
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].split(":")[0])
                octets = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                address = ipaddress.ip_address(octets)
                found.append(getattr(address, "ipv4_mapped", None) or address)
    return found


def test_it_listens_on_loopback_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import the class
    with RayExecutor(str(tmp_path), 1, make_worker=Calling) as executor:
        ((_, worker, _),) = executor.run([os.getpid])
        pids = descendants(os.getpid())
        assert worker in pids
        addresses = listening({os.getpid(), *pids})
    # The driver, Ray's own servers (gcs_server, raylet with two, the agent of run-time environments) and the worker.
    assert len(addresses) >= 6
    assert [address for address in addresses if not address.is_loopback] == []


def test_sigterm_interrupts_a_study_on_ray(tmp_path):
    """Ray's own handler would end it as failed, with status 15; its C++ half would print a stack."""
    database = f"sqlite:///{tmp_path / 'study.db'}"
    command = ["run", str(write_recipe(tmp_path, features__steps=100_000)), "--db", database, "--workers", "1"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "autonat", *command, "--executor", "ray"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: (tmp_path / "study.db").exists() and running(database), "the first task")
        pids = descendants(driver.pid)
        driver.send_signal(signal.SIGTERM)
        _, err = driver.communicate(timeout=100)
    finally:
        driver.kill()
    assert err.splitlines() == ["terminated: what was finished is kept; the same command goes on from there"]
    assert driver.returncode == 143
    assert ask(database, "SELECT state, error, owner_pid FROM studies") == [("interrupted", None, None)]
    assert ask(database, "SELECT state FROM tasks") == [("lost",)]
    assert pids
    wait_for(lambda: not any(map(is_running, pids)), "its Ray to go")


def running(database):
    import sqlalchemy

    try:
        return ask(database, "SELECT 1 FROM tasks WHERE state = 'running'")
    except sqlalchemy.exc.OperationalError:  # no tables yet
        return []
