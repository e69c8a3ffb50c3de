"""The machine's own Chromium, for what has to be looked at as a browser shows it."""

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """Its path, or None where there is none."""
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def picture(html: str, width: int, height: int) -> bytes:
    """A PNG of a page that needs nothing else."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_content(html)
        page.wait_for_selector("svg.main-svg")
        page.wait_for_timeout(500)
        found = page.screenshot()
        browser.close()
    return found
