"""How well workers are kept busy: sleeping tasks on 1 to 64 Ray workers, and the driver's own time for a task.

    python -m benchmarks.scaling [--workers 1 2 4 8 16 64] [--seconds 4] [--milliseconds 50]

Workers take one CPU each by Ray's count, of which there are as many as asked for: a sleeping task uses none. Efficiency
is the time that tasks would have taken if they followed each other without a gap, over the time that they took.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autonat.execution.executor import ProcessExecutor
from autonat.execution.ray_executor import RayExecutor


def driver_seconds() -> float:
    """Processor time of this process, all threads."""
    return time.process_time()


def measure(executor: Any, workers: int, milliseconds: float, seconds: float) -> tuple[float, float]:
    """(efficiency, the driver's processor milliseconds a task), once all workers are there."""
    task = functools.partial(time.sleep, milliseconds / 1000)
    tasks = [task] * max(workers, round(workers * seconds * 1000 / milliseconds))
    with executor:
        list(executor.run([functools.partial(time.sleep, 0.5)] * (4 * workers)))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes, about")
    parser.add_argument("--milliseconds", type=float, default=50.0, help="a task's length")
    arguments = parser.parse_args()
    tests = str(Path(__file__).parents[1] / "tests")
    sys.path.insert(0, tests)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))
    from studies_for_tests import Calling

    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int], Any]] = {
            "processes": lambda workers: ProcessExecutor(folder, workers, Calling),
            "Ray": lambda workers: RayExecutor(folder, workers, make_worker=Calling),
        }
        for name, make in ways.items():
            print(f"{name}: {overhead(make(1), 1000):.2f} ms around a task that does nothing, one worker", flush=True)
        print(f"\n{'':10} {'workers':>7} {'efficiency':>10} {'driver, ms a task':>18}")
        for name, make in ways.items():
            for workers in arguments.workers:
                efficiency, own = measure(make(workers), workers, arguments.milliseconds, arguments.seconds)
                print(f"{name:10} {workers:7} {efficiency:10.1%} {own:18.2f}", flush=True)


if __name__ == "__main__":
    main()
