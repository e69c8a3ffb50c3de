"""How long the dashboard takes to show a study of 10,000 evaluations, and to follow it.

``python -m benchmarks.dashboard``. Figures and updates are the server's part, without and with what it has read before;
the page is what a person waits for in a real browser, a new one each time. The processor's own time stands beside the
clock's, as other work on the machine moves the latter alone.
"""

import json
import os
import queue
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.browser import executable
from benchmarks.huge_study import append_evaluations, write_huge_study
from dashboards import plots
from dashboards.app import make_app
from dashboards.database import artifact_folder, open_readonly
from dashboards.plots import VIEWS, Choice
from dashboards.reader import Reader

EVALUATIONS = 10_000


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "huge.db"
        store = write_huge_study(file, EVALUATIONS)
        study = store.study("huge").id
        engine = open_readonly(str(file))
        folder = artifact_folder(engine)
        choice = Choice("huge", ("huge",), {"iterate": "3"})

        def draw(reader: Reader, view: str) -> tuple[float, float]:
            with Stopwatch() as watch:
                size = sum(len(plot.figure(reader, choice).to_json()) for plot in VIEWS[view])
            assert size > 1000
            return watch.seconds

        for view in [view for view in VIEWS if VIEWS[view]]:
            _show(f"figures of {view!r}, first time", [draw(Reader(engine, folder), view) for _ in range(3)])
            reader = Reader(engine, folder)
            draw(reader, view)
            _show(f"figures of {view!r}, again", [draw(reader, view) for _ in range(5)])
        reader = Reader(engine, folder)
        plots.DISTANCE.figure(reader, choice)
        updates = []
        for turn in range(7):
            append_evaluations(store, study, EVALUATIONS + 10 * turn, 10)
            with Stopwatch() as watch:
                reader.version()
                for plot in VIEWS["study"]:
                    plot.figure(reader, choice).to_json()
            updates.append(watch.seconds)
        _show("update of 'study' after ten more evaluations (target 0.300 s)", updates)
        browser = executable()
        if browser is None:
            print("no Chromium here: the page itself is not timed")
            return
        _pages(str(file), browser)


# A page's own clock, with no debugger beside it: that costs V8 half as much again as the page.
WATCH = """<script>(() => {
  const look = () => {
    if (!document.querySelector(".plot .scatterlayer .point")) return setTimeout(look, 5);
    const drawn = performance.now();
    requestAnimationFrame(() => setTimeout(() => navigator.sendBeacon("/told", JSON.stringify(
      [performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0, drawn]))));
  };
  look();
})()</script>"""


def _pages(file: str, browser: str, path: str = "/study/huge") -> None:
    import flask
    from werkzeug.serving import make_server

    told: queue.Queue[list[float]] = queue.Queue()
    app = make_app(file)
    app.index_string = app.index_string.replace("{%metas%}", WATCH + "{%metas%}")

    @app.server.post("/told")
    def _told() -> str:
        told.put(json.loads(flask.request.get_data()))
        return ""

    @app.server.get("/start")  # the browser's own start is not the page's
    def _start() -> str:
        return f"<script>setTimeout(() => location = '{path}', 1500)</script>"

    server = make_server("127.0.0.1", 0, app.server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    painted, drawn = [], []
    for turn in range(8):
        with tempfile.TemporaryDirectory() as profile:
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
            command += [f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_port}/start"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                paint, point = told.get(timeout=60)
                processor = _renderer_seconds(process.pid)
            finally:
                process.terminate()
                process.wait()
        if turn:  # the first one reads the database for everybody after it
            painted.append((paint / 1000, 0.0))
            drawn.append((point / 1000, processor))
    server.shutdown()
    _show("page in a new browser: first paint (target 1.000 s)", painted)
    _show("page in a new browser: all of its 10,000 evaluations drawn", drawn)


def _renderer_seconds(process: int) -> float:
    """Processor time of the thread that draws a browser's page, from its start; 0 where /proc does not tell."""
    found = 0.0
    waiting = [str(process)]
    while waiting:
        each = waiting.pop()
        try:
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                waiting += children.read_text().split()
            if "--type=renderer" in Path(f"/proc/{each}/cmdline").read_text():
                fields = Path(f"/proc/{each}/task/{each}/stat").read_text().rpartition(")")[2].split()
                found = max(found, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            continue
    return found


class Stopwatch:
    """Seconds by the clock and of this process's processor time."""

    def __enter__(self) -> "Stopwatch":
        self._started = (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = (time.perf_counter() - self._started[0], time.process_time() - self._started[1])


def _show(what: str, seconds: list[tuple[float, float]]) -> None:
    clock, processor = zip(*seconds, strict=True)
    text = f"{what:66} {statistics.median(clock):6.3f} s ({min(clock):.3f} to {max(clock):.3f})"
    if any(processor):
        text += f", processor {statistics.median(processor):.3f} s"
    print(text, flush=True)


if __name__ == "__main__":
    main()
