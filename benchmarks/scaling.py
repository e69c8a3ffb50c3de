"""How well workers are kept busy: sleeping tasks on 1 to 64 Ray workers, and the driver's own time for a task.

    python -m benchmarks.scaling [--workers 1 2 4 8 16 64] [--seconds 4] [--milliseconds 50] [--blocks 400]
        [--executors processes Ray]

Workers take one CPU each by Ray's count, of which there are as many as asked for: a sleeping task uses none. Efficiency
is the time that tasks would have taken if they followed each other without a gap, over the time that they took. Then
blocks of real evaluations on one worker and on two, one thread each.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autonat.config import load_recipe
from autonat.execution.executor import InProcessExecutor, ProcessExecutor
from autonat.execution.ray_executor import RayExecutor
from autonat.execution.tasks import EvaluationTask, Task, TrainTask
from autonat.search.alternation import start_of
from autonat.specs import FeatureSpec, TrainSpec


def driver_seconds() -> float:
    """Processor time of this process, all threads."""
    return time.process_time()


def wait_for(executor: Any, workers: int, nap: Callable[[float], int], patience: float = 600.0) -> None:
    """Until so many workers have done something. Ray's begin one after the other, while the first already work."""
    seen: set[int] = set()
    began = time.monotonic()
    while len(seen) < workers:
        seen |= {process for _, process, _ in executor.run([functools.partial(nap, 0.5)] * workers)}
        if time.monotonic() - began > patience:
            raise SystemExit(f"only {len(seen)} of {workers} workers have come in {patience:g} s")


def measure(
    executor: Any, workers: int, nap: Callable[[float], int], milliseconds: float, seconds: float
) -> tuple[float, float]:
    """(efficiency, the driver's processor milliseconds a task), once all workers are there."""
    task = functools.partial(nap, milliseconds / 1000)
    tasks = [task] * max(workers, round(workers * seconds * 1000 / milliseconds))
    with executor:
        wait_for(executor, workers, nap)
        began, own = time.perf_counter(), driver_seconds()
        for _ in executor.run(tasks):
            pass
        took, own = time.perf_counter() - began, driver_seconds() - own
    return len(tasks) * milliseconds / 1000 / workers / took, 1000 * own / len(tasks)


def overhead(executor: Any, tasks: int) -> float:
    """Milliseconds a task that does nothing, on one worker: all that is not the task's own."""
    with executor:
        list(executor.run([functools.partial(int)] * 10))
        began = time.perf_counter()
        for _ in executor.run([functools.partial(int)] * tasks):
            pass
        return 1000 * (time.perf_counter() - began) / tasks


def evaluated(executor: Any, workers: int, tasks: Sequence[Task]) -> float:
    """Seconds for blocks of real evaluations, once all workers are there and have loaded what they need."""
    with executor:
        while len(executor.places) < workers:
            list(executor.run(tasks[:20]))
        list(executor.run(tasks[:20]))
        began = time.perf_counter()
        list(executor.run(tasks))
        return time.perf_counter() - began


def evaluation_blocks(folder: str, count: int) -> list[Task]:
    """Blocks of 100 digits by a network that is trained for a moment: how long one takes does not depend on it."""
    recipe = load_recipe("quickstart", ["training.steps=20", "training.warmup_steps=5", "features.steps=20"])
    lab, start = start_of(recipe)
    assert isinstance(start.training, TrainSpec)
    assert isinstance(lab.features, FeatureSpec)
    with InProcessExecutor(folder) as executor:
        list(executor.run([TrainTask(start.training), TrainTask(lab.features)]))
    spec = lab.evaluation(start, 100 * count, 0)
    return [EvaluationTask(spec, block) for block in range(spec.num_blocks)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes, about")
    parser.add_argument("--milliseconds", type=float, default=50.0, help="a task's length")
    parser.add_argument("--executors", nargs="+", default=["processes", "Ray"], choices=["processes", "Ray"])
    parser.add_argument("--blocks", type=int, default=400, help="blocks of real evaluations; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    tests = str(Path(__file__).parents[1] / "tests")
    sys.path.insert(0, tests)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))
    from studies_for_tests import Calling, nap

    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int], Any]] = {
            "processes": lambda workers: ProcessExecutor(folder, workers, Calling),
            "Ray": lambda workers: RayExecutor(folder, workers, make_worker=Calling),
        }
        ways = {name: ways[name] for name in arguments.executors}
        for name, make in ways.items():
            print(f"{name}: {overhead(make(1), 1000):.2f} ms around a task that does nothing, one worker", flush=True)
        print(f"\n{'':10} {'workers':>7} {'efficiency':>10} {'driver, ms a task':>18}")
        for name, make in ways.items():
            for workers in arguments.workers:
                efficiency, own = measure(make(workers), workers, nap, arguments.milliseconds, arguments.seconds)
                print(f"{name:10} {workers:7} {efficiency:10.1%} {own:18.2f}", flush=True)
        if not arguments.blocks:
            return
        print()
        tasks = evaluation_blocks(folder, arguments.blocks)
        for name in arguments.executors:
            real = {"processes": ProcessExecutor, "Ray": RayExecutor}[name]
            # In turn, so that a machine that is slower for a while is so for both.
            seconds = [
                [evaluated(real(folder, workers), workers, tasks) for workers in (1, 2)]
                for _ in range(arguments.repeats)
            ]
            ratios = [alone / both for alone, both in seconds]
            print(
                f"{name}: {arguments.blocks} blocks of real evaluations, 2 workers "
                f"{statistics.median(ratios):.2f} times as fast as one ({min(ratios):.2f} to {max(ratios):.2f}); "
                + ", ".join(f"{alone:.1f} and {both:.1f} s" for alone, both in seconds),
                flush=True,
            )


if __name__ == "__main__":
    main()
