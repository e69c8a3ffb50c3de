"""A short `make chaos`: a study ends in the same bits whatever dies under it."""

import pytest
from chaos import Chaos, undisturbed
from ray_clusters import Nodes


@pytest.mark.cluster
def test_a_study_survives_workers_nodes_and_drivers(postgres, tmp_path):
    expected = undisturbed(tmp_path / "undisturbed")
    nodes = Nodes(3)
    try:
        tally = Chaos(tmp_path, nodes, postgres, seed=1, kinds=("worker", "node", "driver")).run(5, expected)
    finally:
        nodes.close()
    print("\n".join(tally.lines()))
    assert tally.faults.total() >= 5
    assert tally.errors == []
    assert (tally.results_repeated, tally.stuck, tally.differences) == (0, 0, 0)
