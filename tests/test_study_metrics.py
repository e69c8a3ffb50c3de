"""Further metrics of the held-out images: torch-fidelity's own numbers, the same bits whatever the way there."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inception_file import write_random_inception
from studies_for_tests import TINY, query, run_cli, run_ok, tiny, tiny_recipe, write_recipe
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

import models.evaluate
from autonat.config import Recipe
from autonat.errors import UserError
from autonat.execution.executor import InProcessExecutor
from autonat.execution.simulated import SimulatedLandscape
from autonat.execution.tasks import EvaluationTask, MetricsTask
from autonat.execution.worker import Worker
from autonat.memo import Memo
from autonat.metric_columns import variety_line
from autonat.orchestrator import run_program
from autonat.plan import plan
from autonat.search.alternation import alternate, start_of
from autonat.specs import Metrics, MetricsSpec, fingerprint, result_from_dict
from autonat.storage.store import Store
from autonat.verify import spec_from_json
from models.evaluate import Block
from models.images import image_set
from models.inception import InceptionFeatures
from models.metric_blocks import metric_block, sampled_numbers
from models.metrics import FeatureSample
from models.statistics_files import StoredStatistics, write_statistics

NAMES = ("kid", "kid_rbf", "prc")


def metrics_spec(**changes):
    lab, pair = start_of(tiny_recipe())
    settings = {"seed": 3, "num_images": 60, "block_size": 20, "names": NAMES} | changes
    return MetricsSpec(pair.training, lab.features, pair.schedule, **settings)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A store with one result, and the spec."""
    store = Store.open(str(tmp_path_factory.mktemp("metrics") / "store.db"))
    spec = metrics_spec()
    (result,) = Memo(store, InProcessExecutor(store.artifacts.address)).fulfil([spec])
    return store, spec, result


def features_of(store, spec):
    """All images' features, by the feature network itself."""
    worker = Worker(store.artifacts.address)
    generator, network = worker.generator(spec.training), worker.features(spec.features)
    blocks = [Block(index, spec.num_blocks, spec.block_size, spec.seed) for index in range(spec.num_blocks)]
    with torch.inference_mode():
        generated = torch.cat([network.features(generator.images(spec.schedule, block)) for block in blocks])
        return generated, network.features(torch.from_numpy(image_set("digits").train_images))


def test_values_are_torch_fidelitys_on_the_same_features(measured):
    store, spec, result = measured
    generated, real = features_of(store, spec)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kid = kid_features_to_metric(generated.double(), real.double(), kid_subset_size=60, verbose=False)
        rbf = kid_features_to_metric(
            generated.double(), real.double(), kid_kernel="rbf", kid_subset_size=60, verbose=False
        )
        prc = prc_features_to_metric(generated, real, verbose=False)
    rbf = {key.replace("distance", "distance_rbf"): value for key, value in rbf.items()}
    assert result.values == pytest.approx(kid | rbf | prc, rel=1e-7)  # its shares are float32
    assert (result.num_images, result.sampled_images, result.kid_subset_images) == (60, 60, 60)
    assert result.reference_images == len(real) > 1000
    assert result.metric == spec.features.metric


def test_the_images_are_those_of_the_evaluation(measured):
    store, spec, _ = measured
    lab, pair = start_of(tiny_recipe())
    (evaluation,) = Memo(store, InProcessExecutor(store.artifacts.address)).fulfil([lab.evaluation(pair, 60, 3)])
    generated, real = (part.double().numpy() for part in features_of(store, spec))
    both = [{"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)} for rows in (generated, real)]
    expected = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
    assert evaluation.value == pytest.approx(expected, rel=1e-6)


class Backwards(InProcessExecutor):
    """The last task first."""

    def run(self, tasks, listener):
        for index, result, seconds in super().run(tasks[::-1], listener):
            yield len(tasks) - 1 - index, result, seconds


@pytest.mark.parametrize("wide", [False, True])
def test_asked_for_at_once_the_images_are_painted_once(measured, tmp_path, monkeypatch, wide):
    """The bits are those of asking one after the other; wide features wait on disk."""
    store, spec, alone = measured
    if wide:
        monkeypatch.setattr(models.evaluate, "WIDE_FEATURES", 1)
        store = Store.open(str(tmp_path / "alone.db"))
    (distance,) = Memo(store, InProcessExecutor(store.artifacts.address)).fulfil([spec.evaluation])
    together, painted = Store.open(str(tmp_path / "together.db")), []
    perform = Worker.perform

    def counted(self, task):
        painted.extend([task.block] if isinstance(task, EvaluationTask | MetricsTask) else [])
        return perform(self, task)

    monkeypatch.setattr(Worker, "perform", counted)
    memo, other = Memo(together, InProcessExecutor(together.artifacts.address)), replace(spec, names=("kid",))
    assert memo.fulfil([spec.evaluation, spec]) == [distance, alone]
    assert painted == list(range(spec.num_blocks))
    assert memo.computed["EvaluationSpec"] == memo.computed["MetricsSpec"] == 1
    assert not list(together.artifacts.folder.rglob("*.npy"))
    rows = query(
        tmp_path / "together.db",
        "SELECT kind, images, seconds > 0 FROM results WHERE kind IN ('EvaluationSpec', 'MetricsSpec') ORDER BY 1",
    )
    assert rows == [("EvaluationSpec", spec.num_images, 1), ("MetricsSpec", 0, 0)]
    # Two metrics of one evaluation, whose blocks end in any order.
    twice = Store.open(str(tmp_path / "twice.db"))
    memo = Memo(twice, Backwards(twice.artifacts.address))
    assert memo.fulfil([spec.evaluation, spec, other])[:2] == [distance, alone]
    assert memo.computed["EvaluationSpec"] == 1


@pytest.mark.parametrize("names", [("kid", "variety"), ("variety",)])
def test_wide_blocks_that_were_painted_before_a_kill_are_not_painted_again(tmp_path, monkeypatch, names):
    monkeypatch.setattr(models.evaluate, "WIDE_FEATURES", 1)
    spec, painted = metrics_spec(names=names, num_images=100), []
    whole = Store.open(str(tmp_path / "whole.db"))
    expected = Memo(whole, InProcessExecutor(whole.artifacts.address)).fulfil([spec.evaluation, spec])
    perform = Worker.perform

    def interrupted(self, task):
        if isinstance(task, MetricsTask):
            if len(painted) == 3:
                raise KeyboardInterrupt
            painted.append(task.block)
        return perform(self, task)

    store = Store.open(str(tmp_path / "killed.db"))
    memo = Memo(store, InProcessExecutor(store.artifacts.address))
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "perform", interrupted)
        with pytest.raises(KeyboardInterrupt):
            memo.fulfil([spec.evaluation, spec])
    later = []

    def counted(self, task):
        later.extend([task.block] if isinstance(task, MetricsTask) else [])
        return perform(self, task)

    monkeypatch.setattr(Worker, "perform", counted)
    found = Memo(store, InProcessExecutor(store.artifacts.address)).fulfil([spec.evaluation, spec])
    assert (painted, later) == ([0, 1, 2], [3, 4])
    assert found == expected


def test_other_images_and_other_metrics_are_other_results():
    specs = [metrics_spec(), metrics_spec(seed=4), metrics_spec(names=("kid",)), metrics_spec(num_images=80)]
    assert len({fingerprint(spec) for spec in specs}) == len(specs)


def test_a_result_and_its_spec_come_back_from_the_store(measured):
    store, spec, result = measured
    ((text, kind, stored),) = query(
        store.artifacts.folder.parent / "store.db",
        "SELECT spec, kind, result FROM results WHERE fingerprint=?",
        fingerprint(spec),
    )
    assert spec_from_json(kind, text) == spec
    assert result_from_dict(kind, json.loads(stored)) == result
    assert isinstance(result, Metrics)


SMALL = {
    "phases": ["schedule"],
    "held_out_images": 80,
    "search__descent": None,
    "search__warm_start": {"trials": 2, "random_trials": 2, "batch": 2, "images": 40, "keep": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished study with metrics."""
    folder = tmp_path_factory.mktemp("study")
    write_recipe(folder, metrics=list(NAMES), **SMALL)
    run_ok("run", folder / "recipe.yaml", "--db", folder / "whole.db", "--workers", 0)
    return folder


def summary_of(database):
    return json.loads(query(database, "SELECT summary FROM studies")[0][0])


def test_a_study_reports_them(folder):
    metrics = summary_of(folder / "whole.db")["metrics"]
    assert metrics.keys() == {"baseline", "tuned_schedule", "tuned"}
    assert all(entry["num_images"] == 80 for entry in metrics.values())
    for entry in metrics.values():
        assert {"kernel_inception_distance_mean", "precision", "recall"} <= entry["values"].keys()
    shown = " ".join(run_ok("show", "tiny", "--db", folder / "whole.db").split())  # the caption is folded
    precision = metrics["baseline"]["values"]["precision"]
    for words in ("KID, Gaussian", "recall", f"{precision:.3f}", "80 generated and 1,297 real", "KID in subsets of 80"):
        assert words in shown
    assert "metrics" in shown  # among the tasks


def test_the_same_bits_after_a_resume(folder, monkeypatch):
    """The held-out report is interrupted after some blocks of its metrics."""
    database, performed = folder / "resumed.db", []
    perform = Worker.perform

    def interrupted(self, task):
        if isinstance(task, MetricsTask):
            performed.append(task)
            if len(performed) == 3:
                raise KeyboardInterrupt
        return perform(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "perform", interrupted)
        status, _, err = run_cli("run", folder / "recipe.yaml", "--db", database, "--workers", 0)
        assert (status, "interrupted" in err) == (130, True)
    run_ok("run", folder / "recipe.yaml", "--db", database, "--workers", 0)
    assert summary_of(database) == summary_of(folder / "whole.db")
    found = run_ok("verify", "tiny", "--db", database, "--fraction", 1, "--workers", 0)
    assert "MetricsSpec" in found


def test_without_metrics_nothing_is_added(folder):
    write_recipe(folder, name="plain", **SMALL)
    run_ok("run", folder / "recipe.yaml", "--db", folder / "whole.db", "--workers", 0)
    write_recipe(folder, metrics=list(NAMES), **SMALL)
    shown = run_ok("show", "plain", "--db", folder / "whole.db")
    assert "KID" not in shown
    assert "Further metrics" not in shown


def test_a_simulated_study_counts_them_beside_the_search():
    """Those of three pairs, of which some may be one; the search's own images stay as they are."""
    plain, asked = (SimulatedLandscape(tiny_recipe().schedule.build()) for _ in range(2))
    without = run_program(alternate(tiny_recipe(phases=["schedule"])), plain)
    with_them = run_program(alternate(tiny_recipe(phases=["schedule"], metrics=["kid"])), asked)
    assert without["metrics"] is None
    assert with_them["metrics"]["tuned"]["values"].keys() == {"kid"}
    assert with_them["images_spent"] == without["images_spent"]
    assert asked.asked == plain.asked  # the held-out images serve both
    more = plan(tiny_recipe(phases=["schedule"], metrics=["kid"]), 1)
    less = plan(tiny_recipe(phases=["schedule"]), 1)
    assert (more.evaluations, more.images, more.forward_passes) == (less.evaluations, less.images, less.forward_passes)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 120))
def test_the_sample_is_the_one_that_a_stream_would_leave(count, capacity):
    rows = torch.arange(count)[:, None]
    whole = FeatureSample.of(rows, 0, capacity)
    assert torch.equal(sampled_numbers(count, capacity), whole.numbers)
    assert torch.equal(whole.rows[:, 0], whole.numbers)
    assert len(whole.numbers) == min(count, capacity)


def test_blocks_keep_only_what_the_sample_holds():
    """Blocks' rows, put together in order, are the rows of the sample of all images."""

    class Numbered:
        tokenizer = None

        def tokens(self, schedule, block):
            return block.index * block.size + torch.arange(block.size)[:, None]

        def decode(self, tokens, images):
            return tokens

    class Same:
        name, images = "same", "uint8"

        def features(self, images):
            return images.float()

    blocks = [metric_block(Numbered(), Same(), None, Block(index, 5, 4, 0), ["kid"], 7) for index in range(5)]
    rows = torch.cat([block.features_BD for block in blocks])[:, 0].long()
    assert torch.equal(rows, FeatureSample.of(torch.empty(20, 0), 0, 7).numbers)
    assert [block.logits_BC for block in blocks] == [None] * 5


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ("[isc]", "isc needs Inception"),
        ("[fid]", "fid needs Inception"),
        ("[kid, kid]", "metrics names one twice"),
        ("[fad]", "metrics.0"),
        ("kid", "metrics"),
    ],
)
def test_metrics_that_cannot_be(tmp_path, metrics, words):
    status, _, err = run_cli("plan", "digits", f"metrics={metrics}")
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


def inception_recipe(folder, names, keep):
    """A recipe of files, of which only the reference is looked into."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(30, InceptionFeatures.dimensions, generator=generator)
    covariance = torch.eye(InceptionFeatures.dimensions, dtype=torch.float64)
    stored = StoredStatistics(rows.double().mean(0), covariance, 30, {}, rows if keep else None)
    reference = folder / "reference.safetensors"
    write_statistics(reference, stored)
    for name in ("vqgan", "checkpoint", "weights"):
        (folder / name).write_bytes(b"content")
    data = {"kind": "tokens", "name": "x", "tokenizer": str(folder / "vqgan"), "num_classes": 10, "grid": [8, 8]}
    features = {"kind": "inception", "weights": str(folder / "weights"), "reference": str(reference)}
    recipe = tiny(phases=["schedule"], metrics=names, features=features, checkpoint=str(folder / "checkpoint"))
    recipe["data"] = data | {"codebook_size": TINY["network"]["codebook_size"]}
    del recipe["training"]
    return Recipe.model_validate(recipe)


def test_a_reference_without_single_images_is_refused_before_the_search(tmp_path):
    recipe = inception_recipe(tmp_path, ["isc", "kid", "prc"], keep=False)
    with pytest.raises(UserError, match=r"reference.safetensors has no single images' features, which kid, prc need"):
        recipe.with_files_looked_at()
    for names, keep in ((["fid", "isc"], False), (["kid"], True)):
        inception_recipe(tmp_path, names, keep).with_files_looked_at()


@pytest.mark.slow
def test_inception_gives_logits_and_features(tmp_path):
    """One block through the real network (of random weights): the same rows as without logits."""
    sha256 = write_random_inception(tmp_path / "inception.pth")
    features = InceptionFeatures(tmp_path / "inception.pth", expected_sha256=sha256)

    class Painter:
        def tokens(self, schedule, block):
            return torch.zeros(2, 1)

        def decode(self, tokens, images):
            return torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)

    block = Block(0, 1, 2, 0)
    found = metric_block(Painter(), features, None, block, ["isc", "kid"])
    plain = metric_block(Painter(), features, None, block, ["kid"])
    assert torch.equal(found.features_BD, plain.features_BD)
    assert tuple(found.logits_BC.shape) == (2, 1008)


def with_variety(baseline, tuned):
    """A summary's metrics, where both pairs have a variety."""
    values = {"baseline": baseline, "tuned": tuned}
    return {"metrics": {pair: {"values": {"within_class_variance": value}} for pair, value in values.items()}}


@pytest.mark.parametrize(("baseline", "tuned", "is_said"), [(10.0, 8.8, True), (10.0, 8.95, False), (0.0, 0.0, False)])
def test_lost_variety_is_said(baseline, tuned, is_said):
    said = variety_line(with_variety(baseline, tuned))
    assert (said is not None) == is_said
    if is_said:
        assert said.startswith("Variety within classes fell from 10 to 8.8: ")


@pytest.mark.parametrize(
    "summary", [None, {}, {"metrics": None}, {"metrics": {"tuned": {"values": {"precision": 1.0}}}}]
)
def test_without_its_metric_nothing_is_said_of_variety(summary):
    assert variety_line(summary) is None


def test_lost_variety_is_said_wherever_a_summary_is_seen(folder, tmp_path):
    database, report = folder / "whole.db", tmp_path / "lost.html"
    whole = summary_of(database)
    lost = json.loads(json.dumps(whole))
    lost["metrics"]["baseline"]["values"]["within_class_variance"] = 0.5
    lost["metrics"]["tuned"]["values"]["within_class_variance"] = 0.125
    try:
        query(database, "UPDATE studies SET summary = ? WHERE name = 'tiny'", json.dumps(lost))
        run_ok("report", "tiny", "--db", database, "--to", report)
        seen = (run_ok("show", "tiny", "--db", database), report.read_text(encoding="utf-8"))
    finally:
        query(database, "UPDATE studies SET summary = ? WHERE name = 'tiny'", json.dumps(whole))
    assert all("Variety within classes fell from 0.5 to 0.125" in " ".join(text.split()) for text in seen)
