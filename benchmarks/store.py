"""What the store and the ledger cost: the driver's own time for a block, and queries beside many recorded results.

    python -m benchmarks.store [--results 100000] [--postgres URL]

Workers that do nothing stand in for networks, so all the time that is measured is the driver's. PostgreSQL: an empty
database's URL; without one a server is started from the system's binaries, with its usual settings.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autonat.config import Recipe, load_recipe
from autonat.execution.executor import InProcessExecutor
from autonat.execution.listener import Place
from autonat.execution.task_ledger import Ledger
from autonat.execution.tasks import EvaluationTask, ProbeTask
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.specs import Evaluation, Features, Trained, canonical_json, fingerprint
from autonat.storage.store import Store
from autonat.storage.tables import journal, results, tasks
from autonat.storage.task_rows import rows_of, summarize
from models.frechet import Reference, Statistics

BLOCKS = 20
DIMENSIONS = 64


class Instant:
    """A worker whose blocks cost nothing."""

    def __init__(self, artifacts: str) -> None:
        features = torch.from_numpy(np.random.default_rng(0).standard_normal((200, DIMENSIONS)))
        self._statistics = Statistics.of(features)
        self._reference = Reference(torch.zeros(DIMENSIONS).double(), torch.eye(DIMENSIONS).double())

    def perform(self, task: Any) -> tuple[Any, float]:
        if isinstance(task, EvaluationTask):
            return self._statistics, 0.0
        return ([0.0] if isinstance(task, ProbeTask) else self._reference), 0.0


def filled(store: Store, recipe: Recipe, first: int, last: int) -> None:
    """Record results as a study would, `first` up to `last`, in large transactions."""
    lab, pair = start_of(recipe)
    study = store.study(recipe.name).id
    template = lab.evaluation(pair, BLOCKS * recipe.block_size, 0)
    spec = canonical_json(asdict(template))
    result = json.dumps(asdict(Evaluation(1.0, 0.1, template.num_images, "FD", 1, tuple(range(BLOCKS)))))
    ledger = Ledger(store.database, study)
    batch = ledger.batch([EvaluationTask(template, 0)])
    batch.started(0, Place("host", 1, "w"))
    batch.finished(0, 1.0, 2**30)
    (row,) = ledger.take()
    now = datetime.now(UTC)
    common = {"kind": "EvaluationSpec", "spec": spec, "result": result, "images": 1000, "seconds": 1.0}
    asked = {"study_id": study, "phase": "p", "round": 0, "purpose": "x", "created_at": now}

    def write(connection: Any, numbers: range) -> None:
        names = [f"{number:064x}" for number in numbers]
        new = [{**common, "fingerprint": name, "created_at": now} for name in names]
        connection.execute(results.insert(), new)
        entries = [{**asked, "number": i, "fingerprint": name} for i, name in zip(numbers, names, strict=True)]
        connection.execute(journal.insert(), entries)
        shares = [
            {**row, "id": 2 * i + worker, "fingerprint": name, "pid": worker}
            for i, name in zip(numbers, names, strict=True)
            for worker in (0, 1)
        ]
        connection.execute(tasks.insert(), shares)

    for start in range(first, last, 5000):
        numbers = range(start, min(last, start + 5000))
        store.database.run(lambda connection, numbers=numbers: write(connection, numbers))


def per_block(store: Store, recipe: Recipe, seed: int, repeats: int) -> tuple[float, float]:
    """Milliseconds of the driver's time for a block: of everything, and of what the store and ledger add."""
    lab, pair = start_of(recipe)
    study = store.study(recipe.name).id
    memo = Memo(store, InProcessExecutor("", Instant))
    bare = Memo(store, InProcessExecutor("", Instant))
    memo.begin(study)
    times: dict[str, list[float]] = {"with": [], "without": []}
    for repeat in range(repeats):
        for name, one in (("with", memo), ("without", bare)):
            spec = lab.evaluation(pair, BLOCKS * recipe.block_size, 10**6 * seed + 2 * repeat + (name == "with"))
            began = time.perf_counter()
            if name == "with":
                one.fulfil([spec])
            else:
                for _ in one._perform([EvaluationTask(spec, block) for block in range(BLOCKS)]):
                    pass
            times[name].append(1000 * (time.perf_counter() - began) / BLOCKS)
    whole = statistics.median(times["with"])
    return whole, whole - statistics.median(times["without"])


def timed(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(name: str, url: str, folder: Path, sizes: list[int], repeats: int) -> None:
    """Print one line a size."""
    recipe = load_recipe("quickstart")
    store = Store.open(url, folder / "artifacts")
    study = store.claim(recipe.name, recipe.model_dump_json())
    lab, pair = start_of(recipe)
    store.record(lab.features, Features(1.0, 0.1, 0.1, 10), 0.0)  # no artifact to check
    store.record(pair.training, Trained(1.0), 0.0)
    before, found = 0, fingerprint(lab.features)
    for size in sizes:
        filled(store, recipe, before, size)
        before = size
        whole, added = per_block(store, recipe, size + 1, repeats)
        print(
            f"{name:10} {size:>8,} results | block {whole:6.3f} ms, of it store and ledger {added:6.3f} ms"
            f" | look-up {timed(lambda: store.results([found])):7.2f} ms"
            f" | ledger summary {timed(lambda: summarize(store.database, study)):8.2f} ms"
            f" | last 100 tasks {timed(lambda: rows_of(store.database, study, 100)):7.2f} ms"
            f" | heartbeat {timed(lambda: store.heartbeat(study, 0.0)):6.2f} ms"
            f" | claim {timed(lambda: store.claim(recipe.name, recipe.model_dump_json())):7.2f} ms",
            flush=True,
        )
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=100_000, help="recorded results in the largest database")
    parser.add_argument("--repeats", type=int, default=20, help="measurements a figure; the median is printed")
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = sorted({0, arguments.results // 10, arguments.results})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("SQLite", f"sqlite:///{folder / 'bench.db'}", folder, sizes, arguments.repeats)
        if arguments.postgres:
            measure("PostgreSQL", arguments.postgres, folder, sizes, arguments.repeats)
            return
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from databases import start_server, stop_server

        try:
            server = start_server(())
        except (OSError, ImportError) as error:
            print(f"PostgreSQL: not measured ({error})")
            return
        try:
            measure("PostgreSQL", server.new_database(), folder, sizes, arguments.repeats)
        finally:
            stop_server(server)


if __name__ == "__main__":
    main()
