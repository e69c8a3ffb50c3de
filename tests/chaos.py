"""Faults dealt to a study on imitated nodes, and what they came to."""

import contextlib
import errno
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from databases import Server, ask
from endings import differences, ending, recorded, repeated_tasks
from ray_clusters import Nodes, kill
from studies_for_tests import run_ok, write_recipe

# A tiny study that lasts long enough to be disturbed: some 400 blocks and four trainings of many steps.
SLOWER = {
    "training__steps": 300,
    "training__batch_size": 32,
    "training__checkpoint_every_steps": 10,
    "search__warm_start__trials": 6,
    "search__warm_start__images": 200,
    "search__descent__iterations": 2,
    "search__descent__images": 200,
    "search__confirmation_images": 200,
    "beta__images": 200,
    "beta__retune__images": 200,
    "held_out_images": 400,
}
KINDS = ("worker", "node", "driver", "database", "disk")
PROGRESS = (
    "SELECT (SELECT count(*) FROM results), count(*), coalesce(sum(images), 0), coalesce(sum(attempt), 0) FROM tasks"
)


@dataclass
class Tally:
    """What became of it all."""

    faults: Counter[str] = field(default_factory=Counter)
    studies: int = 0
    drivers: int = 0
    tasks_repeated: int = 0
    results_repeated: int = 0
    stuck: int = 0
    differences: int = 0
    nodes_lost: int = 0
    errors: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        return [
            f"faults                {self.faults.total()} ({kinds})",
            f"studies               {self.studies}, by {self.drivers} drivers one after another",
            f"tasks repeated        {self.tasks_repeated} (they were in flight, or of a measurement that was)",
            f"results repeated      {self.results_repeated}",
            f"stuck RUNNING entries {self.stuck}",
            f"differences           {self.differences}",
            *([f"nodes lost unasked    {self.nodes_lost} (the machine was too busy)"] if self.nodes_lost else []),
        ]


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "16m") -> Iterator[Path | None]:
    """A file system of its own, or None where this system lets us have none."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def undisturbed(folder: Path) -> dict[tuple[str, str], str]:
    """The study in one process on SQLite, from which nothing may differ."""
    folder.mkdir()
    database, artifacts = f"sqlite:///{folder / 'study.db'}", folder / "artifacts"
    run_ok("run", write_recipe(folder, **SLOWER), "--db", database, "--workers", 0, "--artifacts", artifacts)
    return ending(database, artifacts)


class Chaos:
    """Studies on `nodes` and `server` in `folder`, disturbed until so many faults are dealt."""

    def __init__(self, folder: Path, nodes: Nodes, server: Server, seed: int, kinds: tuple[str, ...]) -> None:
        self._folder, self._nodes, self._server = folder, nodes, server
        self._chance = random.Random(seed)
        self._kinds = kinds
        self._deck: list[str] = []
        self.tally = Tally()

    def run(self, faults: int, expected: dict[tuple[str, str], str]) -> Tally:
        while self.tally.faults.total() < faults:
            self._study(faults, expected)
        return self.tally

    def _study(self, faults: int, expected: dict[tuple[str, str], str]) -> None:
        """One study from its start to its end."""
        number = self.tally.studies
        self.tally.studies += 1
        home = self._folder / f"study{number}"
        home.mkdir()
        with small_disk(home / "artifacts") as disk:
            artifacts = home / "artifacts"
            kinds = [kind for kind in self._kinds if kind != "disk" or disk is not None]
            url = self._server.new_database()
            command = [
                *(sys.executable, "-m", "autonat", "run", str(write_recipe(home, **SLOWER)), "--db", url),
                *("--executor", "ray", "--address", self._nodes.address, "--artifacts", str(artifacts)),
            ]
            driver = self._start(command, home)
            before: dict[str, str] = {}
            try:
                while True:
                    self.tally.nodes_lost += self._nodes.replace_lost()
                    more = self.tally.faults.total() < faults
                    self._progress(driver, url, self._chance.randint(1, 4) if more else None)
                    if driver.poll() is None and more:
                        self._strike(self._next(kinds), driver, artifacts)
                    if driver.poll() is None:
                        continue
                    after = recorded(url)
                    self.tally.results_repeated += sum(after[name] != before[name] for name in before)
                    before = after
                    if driver.returncode == 0:
                        break
                    driver = self._start(command, home)
            finally:
                driver.kill()
                driver.wait()
            self.tally.tasks_repeated += repeated_tasks(url)
            self.tally.stuck += ask(url, "SELECT count(*) FROM tasks WHERE state = 'running'")[0][0]
            different = differences(ending(url, artifacts), expected)
            self.tally.differences += len(different)
            self.tally.errors += [f"differs: {kind} {name}" for kind, name in different]

    def _next(self, kinds: list[str]) -> str:
        """Every kind once in a random order, and again."""
        if not self._deck:
            self._deck = self._chance.sample(kinds, len(kinds))
        return self._deck.pop()

    def _start(self, command: list[str], home: Path) -> "subprocess.Popen[bytes]":
        self.tally.drivers += 1
        with open(home / "driver.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _progress(self, driver: "subprocess.Popen[bytes]", url: str, steps: int | None) -> None:
        """Wait until the study went on so many times, or, without a number, until its driver ends."""
        last: Any = None
        end = time.monotonic() + (600 if steps is None else 60)
        while driver.poll() is None and time.monotonic() < end:
            with contextlib.suppress(Exception):  # no tables yet
                now = ask(url, PROGRESS)
                if now != last and last is not None and steps is not None:
                    steps -= 1
                    if steps == 0:
                        return
                last = now
            time.sleep(0.05)
        assert steps is not None or driver.poll() is not None, "the study does not end"

    def _strike(self, kind: str, driver: "subprocess.Popen[bytes]", artifacts: Path) -> None:
        """One fault."""
        if kind == "worker":
            pids = self._nodes.workers()
            if not pids or not kill(self._chance.choice(pids)):
                return
        elif kind == "node":
            self._nodes.kill(self._chance.randrange(len(self._nodes.nodes)))
            self._nodes.nodes.append(self._nodes.add())
        elif kind == "driver":
            driver.kill()
            driver.wait()
        elif kind == "database":
            self._server.stop("immediate")
            time.sleep(self._chance.random())
            self._server.start()
        else:
            with _filled(artifacts):
                time.sleep(3.0)
        self.tally.faults[kind] += 1


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """A file system without room."""
    path = folder / "filler"
    try:
        with open(path, "wb", buffering=0) as handle:
            size = 1 << 20
            while size:
                try:
                    handle.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        yield
    finally:
        os.unlink(path)
