"""Screenshots of every view of a database's studies: ``python docs/make_screenshots.py DATABASE STUDY [STUDY ...]``.

The first study is shown in its own views, all of them in the comparison. Needs Playwright and a Chromium.
"""

import io
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from werkzeug.serving import make_server

from dashboards.addresses import MANY_VIEWS, STUDY_VIEWS, address
from dashboards.app import make_app

FOLDER = Path(__file__).parent / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, TALLEST = 1100, 1800


def save(page: Page, name: str) -> None:
    """A picture of the whole page with few colours, which is a third of the size."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    few = picture.quantize(200, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}.png: {(FOLDER / f'{name}.png').stat().st_size / 1024:.0f} KB")


def main(database: str, studies: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    executable = next(path for path in map(shutil.which, BROWSERS) if path)
    server = make_server("127.0.0.1", 0, make_app(database).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    views = {"studies": "/"} | {view: address(view, studies[0]) for view in STUDY_VIEWS}
    views |= {view: address(view, settings={"studies": ",".join(studies)}) for view in MANY_VIEWS}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for name, path in views.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": 700})
            page.goto(f"http://127.0.0.1:{server.server_port}{path}")
            wanted = {"studies": "table", "images": ".pictures img"}.get(name, ".plot svg.main-svg .xtitle, .plot text")
            page.wait_for_selector(wanted, timeout=120_000)
            page.wait_for_timeout(2500)
            save(page, name)
            page.close()
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
        page.goto(f"http://127.0.0.1:{server.server_port}{address('study', studies[0])}")
        page.wait_for_selector(".plot .scatterlayer .point", timeout=60_000)
        page.wait_for_timeout(1500)
        save(page, "study-telephone-dark")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
