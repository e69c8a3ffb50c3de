"""Points of the Beta search that go on from the incumbent's weights: the search, the trainings, and what keeps them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from studies_for_tests import query, run_cli, run_ok, tiny_recipe, write_recipe
from test_search_programs import OPTIMUM, PHASE, SMALL_OPTIMUM, laboratory, whole

from autonat import specs
from autonat.execution.executor import InProcessExecutor
from autonat.execution.parcels import networks_needed as parcels_needed
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.tasks import EvaluationTask, TrainTask
from autonat.memo import Memo
from autonat.orchestrator import as_recorded, run_program
from autonat.search.alternation import alternate, start_of
from autonat.search.mask_ratio_search import search_mask_ratio
from autonat.search.program import Decision
from autonat.search_config import BetaSearch
from autonat.specs import EvaluationSpec, TrainSpec, fingerprint, networks_needed
from autonat.storage.store import Store
from models.checkpoint import load_network
from models.enat import ENATConfig
from models.mask_ratio import ArccosMaskRatio, BetaMaskRatio
from models.networks import build_network
from models.schedule import maskgit_cosine
from models.train import TrainingConfig, train

# Of trainings recorded before there was such a thing: they must be found again.
RECORDED = "5db117ceedd7c108204a19597a21a90d2a4877f5ae13b6f2f68f3d5f317c5c6c"
RECORDED_EVALUATION = "4eb5cccb7f8d8b7ce3a91ed656e3ec96009fef9d1556ea81d0f6d5c946939397"
OLD = TrainSpec("digits", ENATConfig(), TrainingConfig(), BetaMaskRatio(6.0, 3.0), 2)


class Biased(SimulatedLandscape):
    """A point that went on from other weights reads lower (or higher) than the same one trained from scratch."""

    def __init__(self, bias, **options):
        super().__init__(OPTIMUM, **options)
        self.bias = bias

    def _answer(self, spec):
        self.warm = isinstance(spec, EvaluationSpec) and spec.training.start_from is not None
        return super()._answer(spec)

    def true_distance(self, schedule, mask_ratio):
        return super().true_distance(schedule, mask_ratio) + (self.bias if self.warm else 0.0)


class Decisions:
    def __init__(self):
        self.found = []

    asked = answered = lambda *_: None

    def decided(self, decision: Decision):
        self.found.append(decision)


def searched(landscape, start=None, **changes):
    lab, pair = laboratory()
    if start is not None:
        pair = replace(pair, training=replace(pair.training, mask_ratio=start))
    settings = BetaSearch.model_validate({"max_trainings": 12, "images": 2000, "warm_start": {"steps": 3}, **changes})
    decisions = Decisions()
    verdict = run_program(search_mask_ratio(lab, PHASE, pair, settings), landscape, decisions)
    (decision,) = decisions.found
    return pair, verdict, decision.facts


def test_old_fingerprints_hold_and_a_parent_is_part_of_the_name(monkeypatch):
    from test_specs import FEATURES

    monkeypatch.setattr(specs, "NUMERICS_VERSION", 1)  # what they were recorded with
    assert fingerprint(OLD) == RECORDED
    assert fingerprint(EvaluationSpec(OLD, FEATURES, maskgit_cosine(4), 3, 200, 100)) == RECORDED_EVALUATION
    child = replace(OLD, start_from=replace(OLD, mask_ratio=ArccosMaskRatio()))
    other = replace(OLD, start_from=replace(OLD, seed=3))
    assert len({fingerprint(OLD), fingerprint(child), fingerprint(other)}) == 3
    assert networks_needed(child) == [child.start_from]
    assert networks_needed(OLD) == []
    assert parcels_needed(TrainTask(child)) == [fingerprint(child.start_from)]
    assert parcels_needed(TrainTask(OLD)) == parcels_needed(TrainTask(FEATURES)) == []
    measured = EvaluationSpec(child, FEATURES, maskgit_cosine(4), 3, 200, 100)
    assert parcels_needed(EvaluationTask(measured, 0)) == [fingerprint(child), fingerprint(FEATURES)]


# The search


@pytest.mark.parametrize("start", [None, BetaMaskRatio(6.0, 3.0)])
@pytest.mark.parametrize("bias", [-0.3, 0.0, 0.3])
def test_the_winner_is_adopted_from_scratch_and_the_bias_is_found(bias, start):
    landscape = Biased(bias, noise=0.3)
    pair, verdict, facts = searched(landscape, start)
    trainings = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    warm, scratch = trainings[:-1], trainings[-1]
    assert all(spec.start_from == pair.training and spec.training.steps == 3 for spec in warm)
    assert (scratch.start_from, scratch.training) == (None, pair.training.training)
    assert (verdict.pair.training, verdict.pair.mask_ratio) == (scratch, BetaMaskRatio(12.0, 3.0))
    assert len(trainings) <= 12
    seen = facts["warm_start"]
    assert seen["steps"] == 3
    assert seen["bias"] == pytest.approx(bias, abs=5 * seen["bias_standard_error"] + 1e-9)
    assert seen["warm_distance"] - seen["distance_from_scratch"] == pytest.approx(seen["bias"])
    assert facts["gain"] == pytest.approx(seen["warm_gain"] + bias, abs=0.05)
    assert facts["gain"] == verdict.gain > facts["gain_standard_error"] == verdict.gain_standard_error
    # The duel's seeds had no part in the line.
    line = {spec.seed for spec in landscape.fulfilled if isinstance(spec, EvaluationSpec) and spec.training in warm}
    assert len(line) == 1
    last = [spec for spec in landscape.fulfilled if isinstance(spec, EvaluationSpec)][-2:]
    assert {spec.training for spec in last} == {pair.training, scratch}
    assert line.isdisjoint(spec.seed for spec in last)


def test_the_incumbents_own_ratio_goes_on_too():
    """So that a line compares networks that were trained for as long."""
    landscape = Biased(-0.5, alpha=6.0, beta=3.0, noise=0.1)
    pair, verdict, facts = searched(landscape, BetaMaskRatio(6.0, 3.0))
    assert verdict.pair == pair  # further steps made all points better, and none better than the incumbent's own
    trainings = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    assert all(spec.start_from == pair.training for spec in trainings)
    assert BetaMaskRatio(6.0, 3.0) in {spec.mask_ratio for spec in trainings}
    assert (facts["gain"], "warm_start" in facts) == (0.0, False)


def test_a_gain_of_the_further_steps_alone_is_not_adopted():
    """Every Beta is worse than the incumbent, but for the warm start's bias: the duel from scratch catches it."""
    landscape = Biased(-3.0, noise=0.1)
    landscape.floor = 0.4
    flat = landscape.true_distance

    def true_distance(schedule, mask_ratio):
        landscape.warm = getattr(landscape, "warm", False)
        return flat(schedule, mask_ratio) + (2.0 if isinstance(mask_ratio, BetaMaskRatio) else 0.0)

    landscape.true_distance = true_distance
    pair, verdict, facts = searched(landscape)
    assert verdict.pair == pair
    assert facts["warm_start"]["warm_gain"] > 0 > facts["gain"]
    assert facts["mask_ratio"] == pair.mask_ratio


@pytest.mark.parametrize("most", range(2, 8))
@pytest.mark.parametrize("repeats", [0, 2])
def test_never_more_trainings_than_allowed(most, repeats):
    landscape = Biased(0.0, alpha=100.0, beta=0.1)
    searched(landscape, BetaMaskRatio(6.0, 3.0), max_trainings=most, repeats=repeats, images=40)
    trainings = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec)]
    assert len(trainings) == len(set(trainings)) <= most
    trained = {spec.start_from for spec in trainings} | set()
    for spec in landscape.fulfilled:
        trained |= {spec} if isinstance(spec, TrainSpec) else set()
        assert isinstance(spec, TrainSpec) or spec.training in trained


def test_a_whole_study_alternates_over_warm_points():
    landscape = SimulatedLandscape(SMALL_OPTIMUM)
    decisions = Decisions()
    summary = run_program(alternate(whole(beta__warm_start={"steps": 2})), landscape, decisions)
    assert summary["tuned"]["value"] < summary["tuned_schedule"]["value"]
    kept = [spec for spec in landscape.fulfilled if isinstance(spec, TrainSpec) and spec.start_from is None]
    # Whatever a study ends with was trained from scratch, and weights to go on from are the incumbents'.
    assert all(
        spec.start_from is None or (spec.start_from in kept and spec.start_from.start_from is None)
        for spec in landscape.fulfilled
        if isinstance(spec, TrainSpec)
    )
    held_out = landscape.fulfilled[-1]
    assert held_out.training in kept


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"beta__warm_start": {"steps": 8}}, "below training.steps"),
        ({"beta__warm_start": {"steps": 0}}, "beta.warm_start.steps"),
        ({"beta__warm_start": {"steps": 2, "more": 1}}, "unknown key"),
        ({"beta__warm_start": {"steps": 2}, "beta__max_trainings": 1}, "max_trainings"),
    ],
)
def test_recipes_that_cannot_be(changes, part, tmp_path):
    status, _, err = run_cli("run", write_recipe(tmp_path, **changes), "--db", tmp_path / "study.db")
    assert (status, len(err.splitlines())) == (2, 1)
    assert part in err


# The trainings


CONFIG = TrainingConfig(
    steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=1, ratio_groups=1, checkpoint_every_steps=1
)
NETWORK = ENATConfig(
    num_tokens=16, codebook_size=5, num_classes=2, width=8, heads=1, encoder_blocks=1, decoder_blocks=1
)


def tokens():
    random = torch.Generator().manual_seed(0)
    return torch.randint(5, (8, 16), generator=random), torch.randint(2, (8,), generator=random)


def test_a_training_begins_with_the_given_weights():
    start = build_network(NETWORK).initialise(torch.Generator().manual_seed(7)).state_dict()
    still = replace(CONFIG, steps=1, learning_rate=1e-30, weight_decay=0.0)
    average, _ = train(NETWORK, still, ArccosMaskRatio(), *tokens(), 0, start_from=start)
    assert all(torch.allclose(value, start[name], atol=1e-20) for name, value in average.state_dict().items())
    fresh, _ = train(NETWORK, still, ArccosMaskRatio(), *tokens(), 0)
    assert not all(torch.allclose(value, start[name]) for name, value in fresh.state_dict().items())


def test_a_warm_training_that_was_cut_off_ends_in_the_same_bits(tmp_path):
    start = build_network(NETWORK).initialise(torch.Generator().manual_seed(7)).state_dict()
    expected, loss = train(NETWORK, CONFIG, ArccosMaskRatio(), *tokens(), 0, start_from=start)

    def stop(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(
            NETWORK, CONFIG, ArccosMaskRatio(), *tokens(), 0,
            start_from=start, state_path=state, progress=stop, progress_every=1,
        )  # fmt: skip
    assert state.exists()
    again, loss_again = train(NETWORK, CONFIG, ArccosMaskRatio(), *tokens(), 0, start_from=start, state_path=state)
    assert loss == loss_again
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in again.state_dict().items())


def test_weights_of_another_shape_are_refused():
    start = build_network(replace(NETWORK, width=4)).initialise(torch.Generator().manual_seed(7)).state_dict()
    with pytest.raises(ValueError, match="do not fit"):
        train(NETWORK, CONFIG, ArccosMaskRatio(), *tokens(), 0, start_from=start)


@pytest.fixture
def memo(tmp_path):
    store = Store.open(str(tmp_path / "study.db"))
    with InProcessExecutor(store.artifacts.address) as executor:
        yield Memo(store, executor)
    store.close()


def family(steps=4):
    parent = start_of(tiny_recipe())[1].training
    parent = replace(parent, training=replace(parent.training, steps=steps))
    child = replace(parent, mask_ratio=BetaMaskRatio(6.0, 3.0), start_from=parent)
    return parent, replace(child, training=replace(child.training, steps=2))


@pytest.mark.parametrize("order", [1, -1])
def test_a_parent_is_trained_first_whatever_is_asked_for(memo, order):
    parent, child = family()
    asked = [parent, child, replace(child, start_from=child)][::order]
    results = memo.fulfil(asked)
    assert memo.computed == {"TrainSpec": 3}
    assert [memo.store.result(spec)[0] for spec in asked] == results


def test_a_lost_parent_is_trained_again_for_a_lost_child(memo):
    parent, child = family()
    (first,) = memo.fulfil([child])
    paths = [memo.store.artifacts.path(fingerprint(spec)) for spec in (parent, child)]
    bits = [path.read_bytes() for path in paths]
    said = []
    again = Memo(memo.store, memo.executor, said.append)
    paths[0].unlink()
    assert again.fulfil([child]) == [first]
    assert again.computed == {}  # the child is there
    for path in paths:
        path.unlink(missing_ok=True)
    assert Memo(memo.store, memo.executor, said.append).fulfil([child]) == [first]
    assert [path.read_bytes() for path in paths] == bits
    assert len(said) == 2
    network = load_network(paths[1])
    assert network.config.width == 8


# Whole studies


WARM = {"beta__warm_start": {"steps": 3}, "beta__max_trainings": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    out = run_ok("run", write_recipe(folder, **WARM), "--db", folder / "study.db", "--workers", 0)
    return folder, out


def test_a_study_says_what_its_warm_points_were_worth(finished):
    folder, _ = finished
    rows = query(folder / "study.db", "SELECT decision FROM journal WHERE purpose = 'mask ratio'")
    assert len(rows) == 1
    assert "warm_start" in rows[0][0] or '"gain": 0.0' in rows[0][0]
    shown = run_ok("show", "tiny", "--db", folder / "study.db")
    assert "What each phase gained" in shown


def test_every_result_can_be_had_again(finished):
    folder, _ = finished
    out = run_ok("verify", "tiny", "--db", folder / "study.db", "--fraction", 1, "--workers", 0)
    assert ", 0 differ" in out
    assert "could not" not in out


def test_what_a_warm_network_began_with_is_no_garbage(finished):
    folder, _ = finished
    before = query(folder / "study.db", "SELECT fingerprint FROM results ORDER BY 1")
    run_ok("gc", "--yes", "--db", folder / "study.db")
    assert query(folder / "study.db", "SELECT fingerprint FROM results ORDER BY 1") == before


@pytest.mark.slow
def test_processes_reach_the_same_bits(finished, tmp_path):
    folder, _ = finished
    run_ok("run", write_recipe(tmp_path, **WARM), "--db", tmp_path / "study.db", "--workers", 1)
    wanted = "SELECT fingerprint, kind, result, artifact_sha256 FROM results ORDER BY 1"
    assert query(tmp_path / "study.db", wanted) == query(folder / "study.db", wanted)


def test_a_recipe_without_later_keys_is_the_same_study(tmp_path):
    """A study that an earlier version began goes on, although its recorded recipe lacks keys of today."""
    store = Store.open(str(tmp_path / "study.db"))
    recipe = tiny_recipe()
    old = json.loads(recipe.model_dump_json())
    del old["beta"]["warm_start"]
    text = json.dumps(old)
    store.claim(recipe.name, text)
    assert as_recorded(recipe, store) == text
    assert as_recorded(tiny_recipe(seed=1), store) == tiny_recipe(seed=1).model_dump_json()
    assert as_recorded(tiny_recipe(name="other"), store) == tiny_recipe(name="other").model_dump_json()
    store.close()


# On a cluster


@pytest.mark.cluster
def test_weights_travel_to_trainings_on_hosts_that_share_no_folder(memo, tmp_path, monkeypatch):
    """The driver's folder has a name that means nothing in another process, so the parent has to be sent."""
    from ray_clusters import Nodes

    from autonat.execution.ray_cluster import RaySettings
    from autonat.execution.ray_executor import RayExecutor

    parent, child = family()
    expected = memo.fulfil([parent, child])
    bits = memo.store.artifacts.path(fingerprint(child)).read_bytes()
    (tmp_path / "here").mkdir()
    store = Store.open(str(tmp_path / "ray.db"), tmp_path / "here")
    store.record(parent, expected[0], 0.0, memo.store.result(parent)[1])
    name = fingerprint(parent)
    store.artifacts.path(name).write_bytes(memo.store.artifacts.path(name).read_bytes())
    cluster = Nodes(1)
    handle = os.open(tmp_path / "here", os.O_RDONLY)
    try:
        monkeypatch.setenv("AUTONAT_CACHE", str(tmp_path / "driver-cache"))
        executor = RayExecutor(f"/proc/self/fd/{handle}", 1, RaySettings(cluster.address))
        monkeypatch.setattr(Path, "resolve", lambda self, strict=False: self)
        with executor:
            again = Memo(store, executor)
            assert again.fulfil([child]) == expected[1:]
            assert again.computed == {"TrainSpec": 1}
        assert store.artifacts.path(fingerprint(child)).read_bytes() == bits
    finally:
        os.close(handle)
        cluster.close()
        store.close()
