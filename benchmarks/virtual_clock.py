"""What a driver has to do for 4,096 workers: a study's blocks on a virtual clock, the driver's own time on a real one.

    python -m benchmarks.virtual_clock [--blocks 1000000] [--workers 4096] [--block-seconds 60] [--dimensions 64]

The memo, the ledger and the database are the real ones; workers only say when they would have been done. Printed: how
long the study would have taken, the driver's own time and its share, memory, and what the ledger grew to.
"""

import argparse
import heapq
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from autonat.config import load_recipe
from autonat.execution.executor import Done
from autonat.execution.listener import SILENT, Listener, Place
from autonat.execution.tasks import EvaluationTask
from autonat.memo import Memo
from autonat.search.alternation import start_of
from autonat.specs import Features, Trained
from autonat.storage.store import Store
from models.frechet import Reference, Statistics

PEAK_MEMORY = 1 << 30


class VirtualExecutor:
    """Workers of different speeds on a clock that jumps from one finished task to the next."""

    def __init__(self, workers: int, block_seconds: float, dimensions: int) -> None:
        chance = random.Random(0)
        self.now = 0.0
        self._seconds = [block_seconds * chance.uniform(0.8, 1.25) for _ in range(workers)]
        self._places = [Place(f"host{number // 8}", 1000 + number, f"ray-{number}") for number in range(workers)]
        generator = torch.Generator().manual_seed(0)
        features_BD = torch.randn(dimensions + 10, dimensions, generator=generator, dtype=torch.float64)
        self._statistics = Statistics.of(features_BD)
        self._reference = Reference(torch.zeros(dimensions).double(), torch.eye(dimensions).double())

    def run(self, tasks: Sequence[Any], listener: Listener = SILENT) -> Iterator[Done]:
        flights: list[tuple[float, int, int]] = []
        following = iter(enumerate(tasks))

        def begin(worker: int, now: float) -> None:
            index = next(following, (None, None))[0]
            if index is not None:
                listener.started(index, self._places[worker])
                heapq.heappush(flights, (now + self._seconds[worker], worker, index))

        for worker in range(min(len(tasks), len(self._places))):
            begin(worker, self.now)
        while flights:
            self.now, worker, index = heapq.heappop(flights)
            begin(worker, self.now)
            listener.finished(index, self._seconds[worker], PEAK_MEMORY)
            yield index, self._answer(tasks[index]), self._seconds[worker]

    def _answer(self, task: Any) -> Any:
        return self._statistics if isinstance(task, EvaluationTask) else self._reference

    def __enter__(self) -> "VirtualExecutor":
        return self

    def __exit__(self, *_: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4096)
    parser.add_argument("--block-seconds", type=float, default=60.0)
    parser.add_argument("--block-size", type=int, default=100)
    parser.add_argument("--images", type=int, default=50_000, help="of one evaluation")
    parser.add_argument("--at-once", type=int, default=64, help="evaluations in one batch")
    parser.add_argument("--dimensions", type=int, default=64, help="of the features: 2048 for Inception")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("quickstart", [f"block_size={arguments.block_size}"])
    blocks_each = arguments.images // arguments.block_size
    evaluations = max(1, arguments.blocks // blocks_each)
    with tempfile.TemporaryDirectory() as name:
        store = Store.open(str(Path(name) / "study.db"), Path(name) / "artifacts")
        study = store.claim(recipe.name, recipe.model_dump_json())
        lab, pair = start_of(recipe)
        store.record(lab.features, Features(1.0, 0.1, 0.1, 10), 0.0)
        store.record(pair.training, Trained(1.0), 0.0)
        executor = VirtualExecutor(arguments.workers, arguments.block_seconds, arguments.dimensions)
        memo = Memo(store, executor)
        memo.begin(study)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        for first in range(0, evaluations, arguments.at_once):
            seeds = range(first, min(evaluations, first + arguments.at_once))
            memo.fulfil([lab.evaluation(pair, arguments.images, seed) for seed in seeds])
        memo.tick()
        own = time.process_time() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        size = (Path(name) / "study.db").stat().st_size
        result: dict[str, Any] = {
            "blocks": evaluations * blocks_each,
            "workers": arguments.workers,
            "dimensions": arguments.dimensions,
            "study_seconds": round(executor.now),
            "driver_seconds": round(own, 1),
            "driver_share": round(own / executor.now, 4),
            "driver_milliseconds_a_block": round(1000 * own / (evaluations * blocks_each), 3),
            "memory_grown_megabytes": round(grown / 1024),
            "ledger_rows": sum(1 for _ in _rows(store)),
            "database_megabytes": round(size / 1e6),
        }
        store.close()
    print(json.dumps(result, indent=2))


def _rows(store: Store) -> Iterator[Any]:
    from autonat.storage.tables import tasks

    yield from store.database.rows(tasks.select())


if __name__ == "__main__":
    main()
