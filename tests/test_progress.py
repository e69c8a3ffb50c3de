"""What a person reads while a study works."""

import json
import time

from rich.console import Console
from studies_for_tests import tiny_recipe

import autonat.progress
from autonat.execution.tasks import EvaluationTask, PopulationTask, TrainTask
from autonat.progress import ProgressReporter, _Ticker
from autonat.search.alternation import start_of
from autonat.specs import PopulationSpec, fingerprint
from autonat.storage.artifacts import Artifacts

LAB, PAIR = start_of(tiny_recipe())


def reporter(folder, text):
    with open(text, "w", encoding="utf-8") as file:
        return ProgressReporter(Console(file=file, width=200), Artifacts(folder))


def test_every_block_counts(tmp_path):
    spec = LAB.evaluation(PAIR, 80, 1)
    ends = tuple(PAIR.schedule.values())
    gradient = PopulationSpec(PAIR.training, LAB.features, PAIR.schedule, ends, ends, 1, 80, 20)
    ticker = _Ticker(
        reporter(tmp_path, tmp_path / "out"),
        [
            *(EvaluationTask(spec, block) for block in range(2)),
            *(PopulationTask(gradient, block) for block in range(4)),
        ],
    )
    assert "(6 blocks)" in ticker._label()


def test_the_time_left_is_of_this_run(tmp_path, monkeypatch):
    """A training that goes on at 60% and makes 4% in some seconds has ten times as long to go."""
    monkeypatch.setattr(autonat.progress, "SPEAK_SECONDS", 0.0)
    said: list[str] = []
    shown = reporter(tmp_path, tmp_path / "out")
    monkeypatch.setattr(shown, "say", said.append)
    path = shown.artifacts.progress_path(fingerprint(PAIR.training))

    def write(step):
        path.write_text(json.dumps({"step": step, "steps": 100, "loss": 1.0}))

    write(60)
    began = time.monotonic()
    with _Ticker(shown, [TrainTask(PAIR.training)]):
        while not said:
            time.sleep(0.05)
        assert "60%" in said[-1]
        assert "left" not in said[-1]  # nothing is known of the speed yet
        write(64)
        while "64%" not in said[-1]:
            time.sleep(0.05)
    seconds = float(said[-1].split("about ")[1].split()[0])
    assert 0.3 * 9 <= seconds <= 9 * (time.monotonic() - began) + 1
