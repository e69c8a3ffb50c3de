"""The dashboard's real pages in a real browser."""

import re
import shutil
import threading

import pytest
from test_dashboards_studies import ARCCOS, BETA, TUNED, Writer, gradient, whole_study
from werkzeug.serving import make_server

from autonat.storage.optuna_mirror import mirror
from autonat.storage.store import Store
from dashboards.app import make_app
from dashboards.report import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next((path for path in map(shutil.which, BROWSERS) if path), None)
pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=f"none of {', '.join(BROWSERS)} is installed")
PATIENCE = 20_000  # milliseconds; a machine may be busy
POINTS = ".js-plotly-plot .scatterlayer .point"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """(store, writer of a study that goes on, its pages' address)."""
    path = tmp_path_factory.mktemp("browser") / "autonat.db"
    store = Store.open(str(path))
    whole_study(store)
    growing = Writer(store, "growing")
    growing.measured("schedule", 0, "warm start", 3.0)
    growing.measured("schedule", 0, "confirmation of the warm start", 2.5, schedule=TUNED, seed=1)
    gradient(growing, 0, [1.0] + [0.0] * 9, [0.5] * 10)
    Writer(store, "empty")
    failed = Writer(store, "failed")
    store.release(failed.id, "failed", error="broke <b>here</b>")
    server = make_server("127.0.0.1", 0, make_app(str(path)).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield store, growing, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    store.close()


@pytest.fixture
def page(browser, studies):
    """An empty tab. Whatever a page writes to the console is an error of the test."""
    context = browser.new_context(base_url=studies[2], viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("response", lambda answer: said.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    yield page
    context.close()
    assert said == []


def layout(page, plot, path):
    return page.evaluate(
        "([name, path]) => path.split('.').reduce((part, key) => part?.[key], "
        'document.querySelector(`.place[data-name="${name}"] .js-plotly-plot`)._fullLayout)',
        [plot, path],
    )


def drawn(page, plot):
    """The points of a plot, by trace."""
    return page.evaluate(
        'name => Object.fromEntries(document.querySelector(`.place[data-name="${name}"] .js-plotly-plot`)'
        "._fullData.map(trace => [trace.name, trace.x.length]))",
        plot,
    )


def test_select_two_studies_and_compare_them(page):
    page.goto("/")
    page.get_by_role("checkbox", name="select whole").check()
    page.get_by_role("checkbox", name="select growing").check()
    page.get_by_placeholder("part of a name").fill("o")
    page.wait_for_function("!document.body.innerText.includes('empty')")
    page.get_by_role("link", name="compare the selected").click()
    page.wait_for_selector(POINTS)
    assert re.search(r"/compare\?studies=(whole,growing|growing,whole)$", page.url)
    assert {"whole", "growing"} <= set(drawn(page, "comparison"))
    other = page.context.new_page()  # a shared address shows the same
    other.goto(page.url)
    other.wait_for_selector(POINTS)
    assert drawn(other, "comparison") == drawn(page, "comparison")


def test_new_points_come_by_themselves_and_the_zoom_stays(page, studies):
    _, writer, _ = studies
    page.goto("/study/growing")
    page.wait_for_selector(POINTS)
    before = drawn(page, "distance")["warm start"]
    page.evaluate("window.sameDocument = true")
    box = page.locator('.place[data-name="distance"] .nsewdrag').first.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1]._fullLayout.xaxis.autorange === false")
    zoomed = layout(page, "distance", "xaxis.range")
    writer.measured("schedule", 0, "warm start", 2.9, seed=77)
    page.wait_for_function(
        "before => [...document.querySelectorAll('.js-plotly-plot')].some("
        "plot => plot._fullData.some(trace => trace.name === 'warm start' && trace.x.length === before + 1))",
        arg=before,
    )
    assert layout(page, "distance", "xaxis.range") == zoomed
    assert page.evaluate("window.sameDocument")
    page.get_by_role("button", name="Distance over what was spent: show the whole range again").click()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1]._fullLayout.xaxis.autorange === true")


def test_a_hidden_trace_stays_hidden_when_others_come(page, studies):
    _, writer, _ = studies
    page.goto("/study/growing")
    page.wait_for_selector(POINTS)

    def shown(name):
        traces = "document.querySelectorAll('.js-plotly-plot')[1]._fullData"
        return page.evaluate(f"{traces}.filter(trace => trace.name === '{name}').map(trace => trace.visible)")

    entry = page.locator('.place[data-name="distance"] .legend .traces', has_text="confirmation").first
    entry.locator(".legendtoggle").click()
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot')[1]._fullData.some(trace => trace.visible === 'legendonly')"
    )
    writer.measured("schedule", 0, "another purpose", 2.8, seed=78)  # its trace comes before the others
    writer.measured("schedule", 0, "warm start", 2.8, seed=79)
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot')[1]._fullData.some(trace => trace.name === 'another purpose')"
    )
    assert shown("confirmation") == ["legendonly"]
    assert shown("warm start") == [True]


def test_slide_over_the_iterates(page):
    page.goto("/schedule/whole")
    page.wait_for_selector(POINTS)
    assert "iterate 1" in drawn(page, "schedules")
    slider = page.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.js-plotly-plot').data.some(trace => trace.name === 'iterate 0')")
    assert "iterate=0" in page.url
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(POINTS)
    assert "iterate 0" in drawn(other, "schedules")


def test_what_the_distance_is_drawn_over(page):
    page.goto("/study/whole?over=passes")
    page.wait_for_selector(POINTS)
    assert layout(page, "distance", "xaxis.title.text") == "network passes over one image"
    page.get_by_role("radio", name="clock time").check()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1].layout.xaxis.title.text.includes('hours')")
    assert "over=time" in page.url


@pytest.mark.parametrize("kind", ["PNG", "SVG", "CSV"])
def test_a_plot_is_saved(page, kind):
    page.goto("/mask-ratio/whole")
    page.wait_for_selector(POINTS)
    role = "link" if kind == "CSV" else "button"
    with page.expect_download() as download:
        page.get_by_role(role, name=re.compile(f"The Beta candidates: save .*{kind}")).click()
    content = download.value.path().read_bytes()
    start = {"PNG": b"\x89PNG", "SVG": b"<svg", "CSV": b"round,label,alpha"}[kind]
    assert content.startswith(start)
    assert download.value.suggested_filename.endswith(f".{kind.lower()}")


@pytest.mark.parametrize("study", ["whole", "empty", "failed"])
def test_every_view_fits_a_telephone(page, study):
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"/study/{study}")
    for view in ("Study", "Schedule", "Mask ratio", "Tasks"):
        page.get_by_role("navigation").get_by_role("link", name=view, exact=True).click()
        page.wait_for_function(
            "document.querySelectorAll('.plot').length > 0 && "
            "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('svg.main-svg'))"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if study == "failed":
        page.get_by_role("link", name="Study", exact=True).click()
        page.get_by_text("broke <b>here</b>").wait_for()


def test_dark_and_light(page):
    page.emulate_media(color_scheme="dark")
    page.goto("/study/whole")
    page.wait_for_selector(POINTS)
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(230, 230, 230)"
    assert layout(page, "distance", "font.color") == "#E6E6E6"
    page.get_by_role("button", name="dark / light").click()
    page.wait_for_function("document.querySelector('.js-plotly-plot')._fullLayout.font.color === '#222222'")
    page.reload()  # the choice is remembered
    page.wait_for_selector(POINTS)
    assert layout(page, "distance", "font.color") == "#222222"


def test_everything_is_reached_by_the_keyboard(page):
    page.goto("/schedule/whole")
    page.wait_for_selector(POINTS)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText")
        )
    for name in ("to the content", "Compare", "Mask ratio", "dark / light", "What the distance hangs on: save as SVG"):
        assert name in reached, reached


@pytest.mark.parametrize(("width", "columns"), [(3840, 2), (1200, 1)])
def test_a_huge_screen_has_plots_side_by_side(page, width, columns):
    page.set_viewport_size({"width": width, "height": 1200})
    page.goto("/schedule/whole")
    page.wait_for_selector(POINTS)
    page.wait_for_function("[...document.querySelectorAll('.place')].every(place => place.querySelector('.main-svg'))")
    lefts = {round(plot.bounding_box()["x"]) for plot in page.locator(".plot").all()}
    assert len(lefts) == columns
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_narrower_window_draws_again(page):
    page.goto("/schedule/whole")
    page.wait_for_selector(POINTS)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 3")
    assert layout(page, "gradients", "xaxis2.domain") != layout(page, "gradients", "xaxis.domain")
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function(
        "String(document.querySelectorAll('.js-plotly-plot')[1]._fullLayout.xaxis.domain) === "
        "String(document.querySelectorAll('.js-plotly-plot')[1]._fullLayout.xaxis2.domain)"
    )
    assert layout(page, "gradients", "width") <= 360


def test_a_report_fits_a_telephone(page, studies, tmp_path):
    (tmp_path / "report.html").write_text(render(studies[0], "whole", []), encoding="utf-8")
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 10")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    sizes = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].map(plot => [plot._fullLayout.height, "
        "Math.round(plot.closest('.figure').getBoundingClientRect().height)])"
    )
    assert sizes == [[height, height] for height, _ in sizes]  # none lies on what comes after it


def test_optuna_dashboard_opens_the_mirrored_study(browser, studies, tmp_path):
    pytest.importorskip("optuna_dashboard")
    from optuna.storages import RDBStorage
    from optuna_dashboard import wsgi

    added, there = mirror(studies[0], "whole", tmp_path / "optuna.db")
    assert added == there > 0
    server = make_server("127.0.0.1", 0, wsgi(RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"http://127.0.0.1:{server.server_port}/dashboard/")
    page.get_by_text("whole").first.click()
    page.wait_for_selector(".js-plotly-plot .point")
    page.goto(page.url.split("?")[0].rstrip("/") + "/trials")
    page.get_by_text(f"{there} Trials").wait_for()
    page.get_by_text(f"Trial {there - 1}", exact=True).first.wait_for()
    page.close()
    server.shutdown()


def test_a_mask_ratio_search_is_shown_while_it_runs(page, studies):
    _, writer, _ = studies
    page.goto("/mask-ratio/growing")
    page.get_by_text("no Beta candidates recorded yet").wait_for()
    writer.measured("mask ratio", 1, "line", 2.4, seed=9, training=ARCCOS)
    writer.measured("mask ratio", 1, "line", 1.9, seed=9, training=BETA)
    page.wait_for_selector(POINTS)
