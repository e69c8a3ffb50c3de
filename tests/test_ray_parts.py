"""The parts of the Ray executor that need no cluster."""

import json
import os
import signal
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies_for_tests import Calling, refuse, run_cli, run_ok, tiny_recipe, write_recipe

from autonat.errors import UserError
from autonat.execution.choice import ExecutorChoice, cores
from autonat.execution.executor import InProcessExecutor, ProcessExecutor
from autonat.execution.listener import Attempts, Listener, Place
from autonat.execution.parcels import network_made, networks_needed, packed, unpack
from autonat.execution.ray_cluster import DASHBOARD_VARIABLE, RaySettings, _room_of, connect
from autonat.execution.ray_executor import RayExecutor
from autonat.execution.ray_logs import KEPT_NOTES, LogNote, read_notes
from autonat.execution.ray_training import _Line, _listen
from autonat.execution.ray_worker import Answer, Greeting, RayWorker, Site
from autonat.execution.tasks import EvaluationTask, ReferenceTask, TrainTask
from autonat.search.alternation import start_of
from autonat.specs import fingerprint
from autonat.storage.artifacts import Artifacts, cache_folder
from autonat.storage.ownership import Owner

LAB, PAIR = start_of(tiny_recipe())


@pytest.mark.parametrize("gpus", [0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 8.0])
def test_gpus_that_ray_can_give(gpus):
    settings = RaySettings(gpus_per_worker=gpus)
    assert settings.gpus_per_training >= gpus
    assert settings.gpus_per_training == int(settings.gpus_per_training) < gpus + 1


@pytest.mark.parametrize("gpus", [-1.0, 1.5, float("nan"), float("inf")])
def test_gpus_that_ray_cannot_give(gpus):
    with pytest.raises(UserError, match="GPUs a worker"):
        RaySettings(gpus_per_worker=gpus)


@given(
    cpus=st.integers(0, 64), gpus=st.integers(0, 8), share=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0])
)
def test_room_of_a_node_is_what_fits_at_once_and_no_more(cpus, gpus, share):
    """Workers are placed one by one: whole GPUs together, parts on one GPU each."""
    free, placed = [1.0] * gpus, 0
    while placed < cpus:
        if share >= 1:
            whole = [number for number, left in enumerate(free) if left == 1.0][: int(share)]
            if len(whole) < share:
                break
            for number in whole:
                free[number] = 0.0
        elif share > 0:
            fitting = [number for number, left in enumerate(free) if left + 1e-9 >= share]
            if not fitting:
                break
            free[fitting[0]] -= share
        placed += 1
    assert _room_of({"CPU": cpus, "GPU": gpus, "memory": 1e9}, share) == placed


def test_room_of_a_node_without_resources():
    assert _room_of({"memory": 1e9}, 0.0) == 0
    assert _room_of({"CPU": 4.0}, 0.5) == 0


def test_choice_of_an_executor(tmp_path):
    assert isinstance(ExecutorChoice(workers=0).executor(str(tmp_path)), InProcessExecutor)
    assert isinstance(ExecutorChoice(workers=1).executor(str(tmp_path)), ProcessExecutor)
    # All processes of a machine share its first GPU, where one for each core would only be in the way.
    assert [ExecutorChoice().local_workers(device) for device in ("cpu", "cuda")] == [cores(), 1]
    assert ExecutorChoice(workers=3).local_workers("cuda") == 3
    ray = ExecutorChoice("ray").executor(str(tmp_path), "cuda")
    assert isinstance(ray, RayExecutor)
    assert ray._settings == RaySettings(None, 1.0)
    assert ray._num_workers == len(os.sched_getaffinity(0))
    whole_cluster = ExecutorChoice("ray", address="auto", gpus_per_worker=0.25).executor(str(tmp_path), "cuda")
    assert whole_cluster._settings == RaySettings("auto", 0.25)
    assert whole_cluster._num_workers is None


@pytest.mark.parametrize(
    "options",
    [
        ("--address", "auto"),
        ("--gpus-per-worker", "1"),
        ("--executor", "ray", "--gpus-per-worker", "1.5"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, tmp_path):
    status, _, err = run_cli("run", write_recipe(tmp_path), "--db", tmp_path / "x.db", *options)
    assert (status, len(err.splitlines())) == (2, 1)
    assert err.startswith("error: ")


def site(folder, note="none"):
    return Site(str(folder), str(folder / note), Calling)


def test_a_worker_answers_whatever_happens(tmp_path):
    worker = RayWorker(site(tmp_path))
    done = worker.perform(os.getpid)
    assert (done.outcome, done.result) == ("done", os.getpid())
    assert done.peak_memory > 2**20
    refused = worker.perform(refuse)
    assert (refused.outcome, refused.error) == ("refused", "mend this")
    failed = worker.perform(lambda: 1 / 0)
    assert failed.outcome == "failed"
    assert failed.error.startswith("ZeroDivisionError: division by zero (")


def test_a_worker_knows_whether_it_shares_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "note").touch()
    assert RayWorker(site(tmp_path, "note")).greet().shares_folder
    assert not RayWorker(site(tmp_path)).greet().shares_folder
    assert RayWorker(Site("memory://weights", str(tmp_path / "none"), Calling)).greet().shares_folder
    place = RayWorker(site(tmp_path)).greet().place
    assert place.pid == os.getpid()


def test_weights_travel_where_the_folder_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "cache"))
    worker = RayWorker(site(tmp_path / "driver"))
    name = fingerprint(PAIR.training)

    class Trainer:
        def __init__(self, artifacts):
            self.artifacts = Artifacts(artifacts)

        def perform(self, task):
            path = self.artifacts.path(fingerprint(task.spec))
            path.write_bytes(b"weights" * 1000)
            return "trained", 1.0

    worker._site = Site(worker._site.artifacts, worker._site.note, Trainer)
    answer = worker.perform(TrainTask(PAIR.training))
    assert answer.outcome == "done", answer.error
    assert list(answer.made) == [name] == [network_made(TrainTask(PAIR.training))]
    here = Artifacts(tmp_path / "driver")
    unpack(here, name, answer.made[name])
    assert here.path(name).read_bytes() == b"weights" * 1000
    assert [path.name for path in here.folder.iterdir()] == [here.path(name).name]
    shared = RayWorker(Site(str(tmp_path / "driver"), str(tmp_path), Trainer))
    assert shared.perform(TrainTask(PAIR.training)).made == {}


def test_what_was_damaged_on_its_way_is_not_kept(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)))
    parcel = packed(source)
    parcel.content[7] ^= np.uint8(1)
    artifacts = Artifacts(tmp_path / "there")
    with pytest.raises(OSError, match="damaged"):
        unpack(artifacts, "name", parcel)
    assert list(artifacts.folder.iterdir()) == []


HERE = Greeting(Place("host", 1, ""), True, "")
DONE, FAILED = Answer("done"), Answer("failed", error="it broke")


def test_a_training_that_is_done_does_not_begin_again():
    line = _Line()
    assert line.began(0, HERE)
    line.ended(0, FAILED)
    assert line.began(0, HERE)
    line.ended(0, DONE)
    assert not line.began(0, HERE)
    assert line.began(1, HERE)
    line.stop()
    assert not line.began(2, HERE)
    kinds = [(kind, index) for kind, index, _ in line.news(0.0)]
    assert kinds == [("began", 0), ("ended", 0), ("began", 0), ("ended", 0), ("began", 1)]


def test_news_of_a_training_that_is_done_is_ignored(monkeypatch):
    """Its process died once it had told, and another began the same before that was heard."""
    import ray

    class Told:
        @staticmethod
        def remote(seconds):
            return [("began", 0, HERE), ("began", 1, HERE), *[("ended", 0, DONE)] * 2, *late, ("ended", 1, DONE)]

    class FakeLine:
        news = Told

    class Failures(Listener):
        def failed(self, index, error):
            raise AssertionError(f"training {index}: {error}")

    late = [("began", 0, HERE), ("ended", 0, FAILED), ("ended", 0, DONE)]
    monkeypatch.setattr(ray, "get", lambda content: content)
    monkeypatch.setattr(ray, "wait", lambda references, timeout: (references, []))
    task = TrainTask(PAIR.training)
    left, begun, found = {0: task, 1: task}, {}, []
    for index, _ in _listen(FakeLine, "run", left, begun, Failures(), Attempts(Failures())):
        del left[index], begun[index]
        found.append(index)
    assert (found, begun) == ([0, 1], {})


def test_networks_of_tasks():
    both = [fingerprint(PAIR.training), fingerprint(LAB.features)]
    assert networks_needed(EvaluationTask(LAB.evaluation(PAIR, 40, 1), 0)) == both
    assert networks_needed(ReferenceTask(LAB.features)) == both[1:]
    assert networks_needed(TrainTask(PAIR.training)) == []
    assert networks_needed(os.getpid) == []


def test_notes_of_logs(tmp_path):
    mine = Owner.this_process().label
    note = LogNote(tmp_path)
    assert note.path.exists()  # before any worker starts
    assert read_notes(tmp_path, {mine}) == []
    for host, folder in [("a", "/tmp/ray/1"), ("b", "/tmp/ray/1"), ("a", "/tmp/ray/1"), ("a", "/tmp/ray/2"), ("c", "")]:
        note.add(host, folder)
    wanted = [(mine, "a", ["/tmp/ray/1", "/tmp/ray/2"]), (mine, "b", ["/tmp/ray/1"])]
    assert [entry for entry in read_notes(tmp_path, {mine}) if entry[2]] == wanted
    assert read_notes(tmp_path, {"another"}) == []
    (note.path.parent / "x.json").write_text("[1")
    (note.path.parent / "y.json").write_text('{"driver": 3}')
    (note.path.parent / "z.json").write_text(json.dumps({"driver": mine, "folders": 7}))
    assert [entry for entry in read_notes(tmp_path, {mine}) if entry[2]] == wanted
    for number in range(KEPT_NOTES + 5):
        (note.path.parent / f"{number}.json").write_text("{}")
    LogNote(tmp_path)
    assert len(list(note.path.parent.iterdir())) <= KEPT_NOTES + 1


def test_a_study_without_ray_has_no_logs_of_it(tmp_path):
    from autonat.storage.store import Store

    database = tmp_path / "study.db"
    store = Store.open(str(database))
    store.claim("s", "{}")
    store.close()
    assert "No run of s used Ray" in run_ok("show", "s", "--logs", "--db", database)


def test_the_cache_of_a_driver_folder_is_not_that_of_a_url():
    assert cache_folder("ray /x") != cache_folder("/x")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "host:port", "ray://", "a:b:c", ""]
)
def test_a_cluster_that_is_not_there_is_one_line(address, tmp_path):
    with pytest.raises(UserError, match="cannot use the Ray cluster at") as caught:
        list(RayExecutor(str(tmp_path), 1, RaySettings(address)).run([os.getpid]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError, Exception])
def test_a_local_instance_that_does_not_start_is_one_line(error, monkeypatch):
    import ray

    def init(**_):
        raise error("not\nnow")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=r"^Ray does not start on this machine: not now$"):
        connect(RaySettings(), 1)


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_sigterm_is_left_as_it_is_while_ray_starts_and_afterwards(address, monkeypatch):
    import ray
    import ray._private.ray_constants as ray_constants
    import ray._private.utils as ray_utils

    def ours(*_):
        pass

    def theirs(*_):
        pass

    def init(**_):
        ray_utils.set_sigterm_handler(theirs)
        during.append(signal.getsignal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, theirs)  # as Ray's C++ half does, unseen by Python

    during = []
    parts = [(ray_utils, "set_sigterm_handler"), (ray_constants, "ENABLE_RAY_CLUSTER")]
    before = [getattr(*part) for part in parts]
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("autonat.execution.ray_cluster._answering", lambda address: address)
    handler = signal.signal(signal.SIGTERM, ours)
    try:
        connect(RaySettings(address), 1)
        assert [*during, signal.getsignal(signal.SIGTERM)] == [ours, ours]
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert [getattr(*part) for part in parts] == before


def test_several_clusters_on_a_host_are_told_apart_by_the_user(monkeypatch):
    """Ray itself takes the latest, which may be another study's local instance."""
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"127.0.0.1:1001", "127.0.0.1:1002"})
    with pytest.raises(UserError, match=r"several, 127\.0\.0\.1:1001, 127\.0\.0\.1:1002: give one, or set RAY_ADDRESS"):
        connect(RaySettings("auto"), 1)


@pytest.mark.skipif(find_spec("aiohttp_cors") is not None, reason="Ray's dashboard is installed")
def test_a_dashboard_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setenv(DASHBOARD_VARIABLE, "1")
    with pytest.raises(UserError, match=r"ray\[default\]"):
        connect(RaySettings(), 1)
