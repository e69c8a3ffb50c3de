"""How long the dashboard takes to show a study of 10,000 evaluations, and to follow it.

``python -m benchmarks.dashboard``. Figures and updates are the server's part, without and with what it has read before;
the page is what a person waits for in a real browser, a new one each time. The processor's own time stands beside the
clock's, as other work on the machine moves the latter alone.
"""

import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.huge_study import append_evaluations, write_huge_study
from dashboards import plots
from dashboards.app import make_app
from dashboards.database import artifact_folder, open_readonly
from dashboards.plots import VIEWS, Choice
from dashboards.reader import Reader

EVALUATIONS = 10_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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
        browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
        if browser is None:
            print("no Chromium here: the page itself is not timed")
            return
        _pages(str(file), browser)


def _pages(file: str, executable: str) -> None:
    from playwright.sync_api import sync_playwright
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, make_app(file).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/study/huge"
    painted, drawn = [], []
    with sync_playwright() as playwright:
        for turn in range(6):
            browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto("about:blank")
            page.goto(address, wait_until="commit")
            page.wait_for_selector(".plot .scatterlayer .point", state="attached", timeout=60_000)
            now, paint = page.evaluate(
                "[performance.now(), performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0]"
            )
            if turn:  # the first one reads the database for everybody after it
                painted.append((paint / 1000, 0.0))
                drawn.append((now / 1000, 0.0))
            browser.close()
    server.shutdown()
    _show("page in a new browser: first paint (target 1.000 s)", painted)
    _show("page in a new browser: all of its 10,000 evaluations drawn", drawn)


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
