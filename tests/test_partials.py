"""Evaluations in wide features: blocks wait on disk, survive a kill, and give what memory gives up to rounding."""

import pytest
import torch
from studies_for_tests import tiny_recipe

import models.evaluate
from autonat.execution.executor import InProcessExecutor
from autonat.memo import Memo
from autonat.partials import Partials
from autonat.search.alternation import start_of
from autonat.specs import fingerprint
from autonat.storage.artifacts import Artifacts
from autonat.storage.store import Store


class Interrupted(InProcessExecutor):
    """Breaks off after so many evaluation blocks."""

    def __init__(self, artifacts, blocks):
        super().__init__(artifacts)
        self.left, self.done = blocks, 0

    def run(self, tasks, *others):
        for finished in super().run(tasks, *others):
            if type(tasks[finished[0]]).__name__ == "EvaluationTask":
                if not self.left:
                    raise KeyboardInterrupt
                self.left, self.done = self.left - 1, self.done + 1
            yield finished


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(models.evaluate, "WIDE_FEATURES", 1)


def spec():
    lab, pair = start_of(tiny_recipe())
    return lab.evaluation(pair, 80, 5)


def result(folder, blocks=99):
    folder.mkdir(exist_ok=True)
    store = Store.open(str(folder / "results.db"), folder / "artifacts")
    executor = Interrupted(str(folder / "artifacts"), blocks)
    try:
        (found,) = Memo(store, executor).fulfil([spec()])
    finally:
        store.close()
    return found, executor


def test_equals_what_memory_gives_and_nothing_is_left(tmp_path, wide, monkeypatch):
    on_disk, _ = result(tmp_path / "disk")
    assert not list((tmp_path / "disk" / "artifacts" / "partials").iterdir())
    monkeypatch.setattr(models.evaluate, "WIDE_FEATURES", 10**9)
    in_memory, _ = result(tmp_path / "memory")
    assert not (tmp_path / "memory" / "artifacts" / "partials").exists()
    # 80 images leave directions without extent, and a square root turns their rounding of 1e-16 into 1e-8.
    assert on_disk.value == pytest.approx(in_memory.value, rel=1e-8)
    assert on_disk.shares == pytest.approx(in_memory.shares, rel=1e-8)


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_that_were_finished_are_not_computed_again(tmp_path, wide, blocks):
    whole, first = result(tmp_path / "whole")
    assert first.done == 4
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path / "cut", blocks)
    assert Partials(Artifacts(tmp_path / "cut" / "artifacts")).known(fingerprint(spec())) == set(range(blocks))
    again, second = result(tmp_path / "cut")
    assert second.done == 4 - blocks
    assert again == whole


def test_an_evaluation_cut_off_before_its_record_and_a_damaged_block(tmp_path, wide):
    whole, _ = result(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        result(tmp_path / "cut", 3)
    partials = Partials(Artifacts(tmp_path / "cut" / "artifacts"))
    name = fingerprint(spec())
    damaged, empty = (tmp_path / "cut" / "artifacts" / "partials" / name / f"{block}.npy" for block in (1, 2))
    damaged.write_bytes(damaged.read_bytes()[:50])
    empty.write_bytes(b"")  # as a power cut may leave it
    assert partials.known(name) == {0}
    again, executor = result(tmp_path / "cut")
    assert (again, executor.done) == (whole, 3)


def test_another_driver_that_is_faster_leaves_its_result(tmp_path, wide):
    """Two studies of one database may measure the same at once; who records it first removes the blocks of both."""
    folder = tmp_path / "both"
    folder.mkdir()
    whole, _ = result(tmp_path / "whole")

    class Overtaken(InProcessExecutor):
        def run(self, tasks, *others):
            for number, finished in enumerate(super().run(tasks, *others)):
                if len(tasks) == 4 and number == 2:
                    assert result(folder)[0] == whole
                yield finished

    store = Store.open(str(folder / "results.db"), folder / "artifacts")
    (found,) = Memo(store, Overtaken(str(folder / "artifacts"))).fulfil([spec()])
    assert found == whole
    assert not list((folder / "artifacts" / "partials").iterdir())
    store.close()


def test_all_blocks_there_but_no_record(tmp_path):
    partials = Partials(Artifacts(tmp_path))
    rows = [torch.randn(3, 2) for _ in range(2)]
    for block in (1, 0):
        partials.keep("name", block, rows[block])
    assert partials.known("name") == {0, 1}
    assert all(torch.equal(a, b) for a, b in zip(partials.blocks("name", 2), rows, strict=True))
    partials.forget("name")
    assert partials.known("name") == set()
