"""Rungs and trainings on several devices, on Ray: the same bits as in one process."""

import pytest
from ray_clusters import Nodes
from studies_for_tests import run_cli, run_ok, write_recipe
from test_rungs import RUNGS, end_of

pytestmark = pytest.mark.cluster

ONE_LINE = {**RUNGS, "beta__max_trainings": 3, "beta__rungs": [0.5]}
TWO_DEVICES = {
    **RUNGS,
    "beta__max_trainings": 1,
    "beta__rungs": [],
    "training__ratio_groups": 2,
    "training__devices": 2,
}


@pytest.fixture(scope="module")
def nodes():
    cluster = Nodes(1)
    yield cluster
    cluster.close()


def test_rungs_on_ray(nodes, tmp_path):
    """Trials of later rungs go on from the states of earlier ones."""
    ends = []
    for name, options in (("alone", ["--workers", 0]), ("ray", ["--executor", "ray", "--address", nodes.address])):
        folder = tmp_path / name
        folder.mkdir()
        run_ok("run", write_recipe(folder, **ONE_LINE), "--db", folder / "study.db", *options)
        ends.append(end_of(folder / "study.db"))
    assert ends[0] == ends[1]


def test_a_training_takes_a_node_with_so_many_devices(nodes, tmp_path):
    on_ray = ["--executor", "ray", "--address", nodes.address]
    status, _, err = run_cli("run", write_recipe(tmp_path, **TWO_DEVICES), "--db", tmp_path / "none.db", *on_ray)
    assert status == 2
    assert err.endswith("training.devices is 2, but no node of the Ray cluster has 2 CPUs\n")
    nodes.add(num_cpus=2)
    ends = []
    for name, options in (("alone", ["--workers", 0]), ("ray", on_ray)):
        folder = tmp_path / name
        folder.mkdir()
        run_ok("run", write_recipe(folder, **TWO_DEVICES), "--db", folder / "study.db", *options)
        ends.append(end_of(folder / "study.db"))
    assert ends[0] == ends[1]
