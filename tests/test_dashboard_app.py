"""The dashboard without a browser: addresses, access, callbacks, files, and that it changes nothing."""

import hashlib
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sqlalchemy.exc import OperationalError
from test_dashboards_studies import METRIC, Writer, whole_study

from autonat import pictures
from autonat.config import load_recipe
from autonat.errors import UserError
from autonat.storage.ownership import Owner
from autonat.storage.store import Store
from autonat.storage.tables import results, studies, tasks
from autonat.storage.task_rows import rows_of
from dashboards import (
    access,
    addresses,
    command,
    figures,
    frames,
    outcome_frames,
    progress_figures,
    progress_frames,
)
from dashboards import app as dashboard_app
from dashboards.app import Dashboard, make_app
from dashboards.background import Background
from dashboards.database import open_readonly
from dashboards.outcome_figures import COSTS, cost, differences
from dashboards.plots import PLOTS, VIEWS, Choice
from dashboards.published import AUTONAT_L_T8
from dashboards.reader import Reader


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("dashboard") / "autonat.db"
    store = Store.open(str(path))
    whole_study(store)
    Writer(store, "empty")
    failed = Writer(store, "failed", {"name": "failed"})
    store.release(failed.id, "failed", error="broke <script>alert('x')</script>")
    store.close()
    return path


@pytest.fixture(scope="module")
def app(file):
    return make_app(str(file))


@pytest.fixture(scope="module")
def reader(file):
    return Reader(open_readonly(str(file)), file.parent)


def ask(app, output, inputs, state=()):
    """What a callback answers, as the browser gets it."""
    outputs = [dict(zip(("id", "property"), each.split("."), strict=True)) for each in output.strip(".").split("...")]
    body = {"output": output, "outputs": outputs, "inputs": inputs, "state": list(state), "changedPropIds": []}
    answer = app.server.test_client().post("/_dash-update-component", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json["response"]


# Addresses

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name.strip("/") == name and name not in (".", ".."))


@given(view=st.sampled_from(sorted(addresses.STUDY_VIEWS)), study=NAMES)
def test_an_address_leads_back_to_its_view_and_study(view, study):
    path, _, _ = addresses.address(view, study).partition("?")
    assert re.fullmatch(r"[/!-~]+", path)
    assert addresses.view_of(path) == (view, study)


@given(st.text(max_size=60))
def test_any_path_and_query_is_understood(text):
    view, study = addresses.view_of(text)
    assert bool(study) == (view in addresses.STUDY_VIEWS)
    choice = addresses.choice_of(text, addresses.settings_of(text))
    assert choice.number("iterate") is None or choice.number("iterate") >= 0
    assert choice.one_of("over", figures.SPENT) in figures.SPENT


def test_settings_of_an_address():
    settings = addresses.settings_of("?studies=a,b,a&iterate=3&iterate=9&over=nonsense")
    choice = addresses.choice_of("/compare", settings)
    assert choice.studies == ("a", "b")
    assert choice.number("iterate") == 3
    assert choice.one_of("over", figures.SPENT) == "images"
    assert addresses.address("compare", settings={"studies": "a,b", "x": ""}) == "/compare?studies=a,b"


# Access


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True), ("0.0.0.0", False), ("", False),
     ("::", False), ("192.168.0.4", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host, expected):
    assert access.is_loopback(host) == expected


def test_an_address_for_all_is_told_by_names_that_others_can_use(monkeypatch):
    monkeypatch.setattr(access.socket, "gethostname", lambda: "host-of-mine")
    monkeypatch.setattr(access.socket, "getaddrinfo", lambda *_: [(2, 1, 6, "", ("192.0.2.7", 0))])
    for everywhere in ("0.0.0.0", "::", "[::]", ""):
        found = access.names_of(everywhere)
        assert found[0] == "host-of-mine"
        assert not {"0.0.0.0", "::", ""} & set(found)
    monkeypatch.setattr(access.socket, "getaddrinfo", lambda *_: [(2, 1, 6, "", ("127.0.1.1", 0))])
    assert "host-of-mine" not in access.names_of("0.0.0.0")  # the name leads others to themselves
    assert access.names_of("192.0.2.7") == ["192.0.2.7"]
    assert access.names_of("127.0.0.1") == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "token", "expected"),
    [
        ("127.0.0.1", None, ["http://127.0.0.1:8050/"]),
        ("127.0.0.1", "a b", ["http://127.0.0.1:8050/?token=a+b"]),
        ("0.0.0.0", "abc", ["http://mine:8050/?token=abc", "http://fe80::1:8050/?token=abc"]),
    ],
)
def test_what_is_printed_when_it_listens(monkeypatch, host, token, expected):
    monkeypatch.setattr(command, "serve", lambda db, host, port, token, started: started())
    monkeypatch.setattr(command, "names_of", lambda host: ["mine", "fe80::1"] if host == "0.0.0.0" else [host])
    console = Console(record=True, width=200)
    command.run("autonat.db", host, 8050, token, console)
    shown = re.findall(r"http://\S+", console.export_text())
    assert shown == [each.replace("fe80::1", "[fe80::1]") for each in expected]


def test_a_password_is_not_printed(monkeypatch):
    monkeypatch.setattr(command, "serve", lambda db, host, port, token, started: started())
    console = Console(record=True, width=200)
    command.run("postgresql+psycopg://me:secret@host/autonat", "127.0.0.1", 8050, None, console)
    assert "Dashboard of postgresql+psycopg://me:***@host/autonat" in console.export_text()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:secret@127.0.0.1:1/x",  # nobody listens there
        "nonsense://me:secret@host/x",
        "postgresql+psycopg://me:secret@host:port/x",  # no URL
    ],
)
def test_a_password_is_in_no_error(url):
    with pytest.raises(UserError) as caught:
        open_readonly(url)
    assert "secret" not in str(caught.value)


def test_another_name_for_this_machine_is_refused(app):
    client = app.server.test_client()
    assert client.get("/", headers={"Host": "evil.example:8050"}).status_code == 403
    for name in ("localhost:8050", "127.0.0.1:8050", "[::1]:8050"):
        assert client.get("/", headers={"Host": name}).status_code == 200


def test_a_token_is_asked_for_once(file):
    client = make_app(str(file), "secret-ä").server.test_client()
    for path in ("/", "/study/whole", "/_dash-layout", "/csv/distance.csv?study=whole", "/?token=wrong", "/?token="):
        answer = client.get(path)
        assert (answer.status_code, "token" in answer.text) == (401, True)
    assert client.post("/_dash-update-component", json={}).status_code == 401
    answer = client.get("/compare?studies=whole&token=secret-ä")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/compare?studies=whole")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    assert client.get("/study/whole").status_code == 200
    other = client.get("//evil.example/?token=secret-ä")
    assert not other.headers.get("Location", "/").startswith("//")


def test_nothing_but_reading(app, file):
    client = app.server.test_client()
    for method in ("put", "delete", "patch"):
        assert getattr(client, method)("/").status_code == 405
    for path in ("/csv/nothing.csv", "/picture/grid/0.png?study=../../etc", "/picture/..%2f0.png", "/assets/../app.py"):
        answer = client.get(path)
        assert answer.status_code == 404 or answer.text == client.get("/").text  # a page's address that is none
    engine = open_readonly(str(file))
    with pytest.raises(OperationalError, match="readonly"), engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM studies")


def test_looking_changes_no_byte(file, app):
    def digest():
        return hashlib.sha256(file.read_bytes()).hexdigest()

    before = digest()
    board = Dashboard(str(file))
    for name in ("studies", "facts", "state", "decisions", "running", "troubles"):
        board.panel(name, Choice("whole"), ())
    for plots in VIEWS.values():
        for plot in plots:
            plot.figure(board.reader, Choice("whole", ("whole",)))
    assert digest() == before


@pytest.mark.parametrize("content", [None, b"", b"no database at all\n" * 100])
def test_a_database_that_is_none(tmp_path, content):
    path = tmp_path / "file.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"no database at|not a database|holds no autonat studies"):
        open_readonly(str(path))
    with pytest.raises(UserError, match=r"cannot read database URL|cannot use database"):
        open_readonly("nonsense://x:y:z")


# Pages and callbacks


@pytest.mark.parametrize("study", ["whole", "empty", "failed", "no such study"])
@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_plot_of_every_study(reader, view, study):
    """A plot shows what there is, and says so where there is nothing yet: `whole` lacks tasks alone, `empty` has its
    recipe, and the published numbers are always there."""
    drawn = set()
    for plot in VIEWS[view]:
        figure = plot.figure(reader, Choice(study, (study,), {"iterate": "1"}))
        assert figure.layout.height > 100
        assert json.loads(figure.to_json())["layout"]["template"]
        if figure.data:
            drawn.add(plot.name)
        else:
            assert "yet" in figure.layout.annotations[0].text
        for axis in figure.select_xaxes():
            assert axis.title.text or axis.visible is False or view == "schedule"
    names = {plot.name for plot in VIEWS[view]}
    there = {"whole": names - {"tasks"}, "empty": {"published", "densities", "schedules"}}.get(study, {"published"})
    assert drawn == names & there


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_the_figures_of_a_page_come_in_one_answer(app, view):
    path = addresses.address(view, "whole" if view in addresses.STUDY_VIEWS else "")
    answer = app.server.test_client().get("/figures", query_string={"path": path, "look": "dark narrow"})
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json
    assert list(told["figures"]) == [plot.name for plot in VIEWS[view]]
    for figure in told["figures"].values():
        assert figure["layout"]["template"]["layout"]["font"]["color"] == "#E6E6E6"


def test_figures_of_nonsense_are_empty(app):
    for path in ("", "/", "/x/y", "/study/no such study"):
        answer = app.server.test_client().get("/figures", query_string={"path": path, "iterate": "-1", "over": "x"})
        assert answer.status_code == 200
        assert set(answer.json["figures"]) in (set(), {"timeline", "distance"})


def test_zoom_stays_over_what_an_address_may_leave_open(app):
    client = app.server.test_client()

    def mark(**given):
        return client.get("/figures", query_string=given).json["figures"]["cost"]["layout"]["uirevision"]

    assert mark(path="/cost") == mark(path="/cost", cost="milliseconds", studies="failed")
    assert mark(path="/cost") != mark(path="/cost", cost="num_steps")


def test_a_narrow_page_gets_panels_below_each_other(reader):
    plot = PLOTS["gradients"]
    wide, narrow = (plot.figure(reader, Choice("whole", settings={"narrow": mark})) for mark in ("", "yes"))
    assert narrow.layout.height == 2 * wide.layout.height
    assert (len(wide.data), len(narrow.data)) == (2, 2)
    assert narrow.layout.xaxis.domain == narrow.layout.xaxis2.domain
    figure = PLOTS["distance"].figure(reader, Choice("whole"))
    before = figure.layout.height
    figures.with_room_for_legend(figure)
    assert figure.layout.height > before + 100


def test_plotly_is_compiled_while_it_loads():
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    changed = dashboard_app.read_at_once(script)
    assert len(changed) == len(script) + 2
    assert changed.count(": this, (() => {") == 1
    assert changed.endswith("})));") or changed.rstrip().endswith("})));")
    for other in ("", "var Plotly = 1;", "a: this, () => {b", "a: this, () => {b})); // and more"):
        assert dashboard_app.read_at_once(other) == other


@given(
    st.sampled_from(sorted(VIEWS)),
    st.lists(st.sampled_from(["a", "b", "c"]), unique=True),
    st.dictionaries(st.sampled_from(["iterate", "pair"]), st.integers(0, 9)),
    st.dictionaries(st.sampled_from(["iterate", "pair"]), st.integers(0, 20)),
)
def test_a_completed_choice_is_complete(view, names, ends, asked):
    choice = addresses.choice_of("/", {"studies": "b,zz", **{key: str(value) for key, value in asked.items()}})
    whole = addresses.completed(view, choice, names, ends)
    assert set(whole.studies) <= set(names)
    assert whole.studies or view != "cost" or not names
    for name, end in ends.items():
        assert whole.number(name) == (end if name not in asked else min(asked[name], end or asked[name]))
    assert addresses.completed(view, whole, names, ends) == whole


@pytest.mark.parametrize(
    "path", ["/", "/study/whole", "/schedule/empty", "/mask-ratio/failed", "/compare", "/cost", "/x/y"]
)
def test_pages(app, path):
    output = "..menu.children...page.children.."
    answer = ask(
        app,
        output,
        [{"id": "url", "property": "pathname", "value": path}],
        [{"id": "url", "property": "search", "value": ""}],
    )
    text = json.dumps(answer)
    assert "Studies" in text
    assert ("No such study" in text) is False


def test_a_page_of_an_unknown_study_says_so(app):
    answer = ask(
        app,
        "..menu.children...page.children..",
        [{"id": "url", "property": "pathname", "value": "/study/none"}],
        [{"id": "url", "property": "search", "value": ""}],
    )
    assert "No such study" in json.dumps(answer)


def test_the_version_changes_with_the_journal_alone(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "growing")
    reader = Reader(open_readonly(str(tmp_path / "autonat.db")), tmp_path)
    first = reader.version()
    assert reader.version() == first
    writer.measured("schedule", 0, "confirmation", 3.0)
    assert reader.version() != first
    store.close()


def test_rows_are_read_once_and_frames_are_the_same(tmp_path, monkeypatch):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "growing")
    reader = Reader(open_readonly(str(tmp_path / "autonat.db")), tmp_path)
    seen = []
    read = frames.read_measured
    monkeypatch.setattr(frames, "read_measured", lambda *given: seen.append(read(*given)) or seen[-1])
    for number in range(4):
        writer.measured("schedule", 0, "confirmation", 3.0 - number, seed=number)
        pd.testing.assert_frame_equal(
            reader.evaluations("growing"),
            frames.evaluations_frame(store.engine, "growing", measured=read(store.engine, writer.id)),
        )
    assert [len(rows) for rows in seen] == [1, 1, 1, 1]
    store.release(writer.id, "finished", summary={})
    store.delete("growing")
    Writer(store, "growing")
    assert reader.evaluations("growing").empty  # another study of that name, even under the same id
    store.close()


def test_the_list_is_searched_and_sorted(file):
    board = Dashboard(str(file))

    def shown(**settings):
        text = json.dumps(
            board.panel("studies", Choice(settings=settings), ["whole"]).to_plotly_json(),
            default=lambda part: part.to_plotly_json(),
        )
        return re.findall(r'"href": "/study/(\w+)"', text), text

    assert shown()[0] == ["failed", "empty", "whole"]
    assert shown(sort="name")[0] == ["empty", "failed", "whole"]
    assert shown(sort="tuned")[0][0] == "whole"
    assert shown(sort="images")[0][0] == "whole"
    assert shown(search="MPT")[0] == ["empty"]
    assert shown(search="(")[0] == []
    assert '"value": ["whole"]' in shown()[1]  # what was picked stays picked


def test_csv_is_the_frame(app, reader):
    client = app.server.test_client()
    for plot in PLOTS.values():
        answer = client.get(f"/csv/{plot.name}.csv?study=whole&studies=whole")
        assert answer.mimetype == "text/csv"
        frame = plot.frame(reader, Choice("whole", ("whole",)))
        table = pd.read_csv(io.StringIO(answer.text))
        assert list(table.columns) == list(frame.columns)
        assert len(table) == len(frame)
    values = pd.read_csv(io.StringIO(client.get("/csv/distance.csv?study=whole").text))["value"]
    assert list(values) == list(reader.evaluations("whole")["value"])


def test_pictures_come_from_the_background(app, file, monkeypatch):
    board = Dashboard(str(file))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pairs.json", json.dumps(["baseline: arccos", "schedule, round 0: arccos"]))
    answers = [None, "checkpoint x is missing", buffer.getvalue()]
    texts = []
    for answer in answers:
        monkeypatch.setattr(board.background, "output", lambda *_, answer=answer, **__: answer)
        texts.append(str(board.panel("pictures", Choice("whole"), ())))
    assert "painting" in texts[0]
    assert "checkpoint x is missing" in texts[1]
    assert "/picture/grid/0.png?study=whole" in texts[2]
    assert "/picture/steps/1.png?study=whole" in texts[2]
    assert board.ends("images", "whole") == {"pair": 1}


def test_pictures_are_of_the_study_that_is_there_now(tmp_path, monkeypatch):
    file = tmp_path / "autonat.db"
    store = Store.open(str(file))
    board = Dashboard(str(file))
    asked = []
    monkeypatch.setattr(board.background, "output", lambda *given, **named: asked.append((given, named)))

    def key():
        board.pictures("again")
        return asked[-1][0][0]

    first = Writer(store, "again")
    keys = [key()]
    assert key() == keys[0]
    store.release(first.id, "failed")
    keys.append(key())
    store.delete("again")
    second = Writer(store, "again")
    assert second.id == first.id  # SQLite gives it again
    keys.append(key())
    store.release(second.id, "failed")
    keys.append(key())
    assert len(set(keys)) == 4
    assert board.pictures("none") == "there is no study 'none'"
    # The address, which may hold a password, is in no command.
    assert asked[-1][0][1:] == (("autonat.pictures", "again"),)
    assert asked[-1][1] == {"variables": {"AUTONAT_DB": f"sqlite:///{file}"}}
    store.close()


def test_the_painter_takes_its_database_from_the_environment(file, monkeypatch, capsys):
    monkeypatch.setenv("AUTONAT_DB", str(file))
    monkeypatch.setattr(sys, "argv", ["autonat.pictures", "none"])
    with pytest.raises(SystemExit):
        pictures.main()
    assert "there: whole, empty, failed" in capsys.readouterr().err


def ended(background, *given, **named):
    """What a background process came to."""
    end = time.monotonic() + 30
    while (found := background.output(*given, **named)) is None and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_a_background_process_reads_its_environment_and_input(tmp_path, monkeypatch):
    (tmp_path / "shown.py").write_text("import os, sys; print(os.environ['ADDRESS'], sys.argv[1:], sys.stdin.read())")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = ended(Background(), ("key",), ("shown", "study"), "given", variables={"ADDRESS": "me:secret@host"})
    assert found == b"me:secret@host ['study'] given\n"


def test_a_failure_is_kept_for_a_minute_at_most(monkeypatch):
    answers = iter([(1, b"", b"missing"), (0, b"painted", b"")])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), *next(answers)))
    background = Background()
    assert ended(background, ("key",), ("module",)) == "missing"
    assert background.output(("key",), ("module",)) == "missing"
    finished = background.finished
    monkeypatch.setattr("dashboards.background.FAILURE_SECONDS", -1.0)
    assert ended(background, ("key",), ("module",)) == b"painted"
    assert background.output(("key",), ("module",)) == b"painted"
    assert background.finished > finished  # so that a page that waits hears of it


# Frames and figures of this module's own


def test_timeline(reader):
    frame = reader.timeline("whole")
    assert list(zip(frame["phase"], frame["purpose"], strict=True))[:3] == [
        ("set-up", "training"), ("schedule", "warm start"), ("schedule", "gradient"),
    ]  # fmt: skip
    assert frame["images"].sum() == reader.evaluations("whole")["images_spent"].iloc[-1]
    assert (frame["start"].iloc[1:].reset_index(drop=True) == frame["end"].iloc[:-1].reset_index(drop=True)).all()
    decided = frame[frame["decided"].notna()]
    assert list(decided["decided"]) == ["arccos", "Beta(6, 3)"]
    figure = progress_figures.timeline(frame)
    assert "+1.1 ± 0.05" in [each.text for each in figure.layout.annotations]


def test_differences_are_paired_where_they_can_be(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    whole_study(store, "one")
    frame = outcome_frames.differences_frame(store.engine, ["one"])
    assert list(frame["difference"]) == pytest.approx([2.3 - 2.9, 1.4 - 2.9])
    assert frame["is_paired"].all()
    assert (frame["standard_error"] == 0).all()  # the shares of this study are all alike
    rng = np.random.default_rng(0)
    shares, others = rng.normal(size=50), rng.normal(size=50)
    one = {"value": 2.0, "standard_error": 0.3, "num_images": 50, "metric": METRIC, "seed": 1, "shares": shares}
    other = one | {"value": 1.0, "shares": others, "standard_error": 0.4}
    paired = outcome_frames._difference("a", one, "b", other)
    gaps = others - shares
    assert paired["standard_error"] == pytest.approx(gaps.std(ddof=1) / 50**0.5)
    assert paired["high"] - paired["low"] == pytest.approx(2 * 2.009575 * paired["standard_error"], rel=1e-6)
    apart = outcome_frames._difference("a", one, "b", other | {"seed": 2})
    assert (apart["is_paired"], apart["standard_error"]) == (False, pytest.approx(0.5))
    assert len(differences(frame).data) == 1
    store.close()


def test_costs(reader):
    frame = reader.outcomes(["whole"])
    assert list(frame["role"]) == ["baseline", "tuned schedule", "tuned pair"]
    assert list(frame["milliseconds"]) == [1.0, 1.0, 1.0]  # a second for a thousand images
    assert list(frame["num_steps"]) == [3, 3, 3]
    for over in ("milliseconds", "num_steps"):
        assert list(cost(frame, over).data[-1].y) == [2.9, 2.3, 1.4]
    counted = cost(frame.assign(tflops=[3.2e-5, 6e-5, 6e-5]), "tflops")
    assert list(counted.data[-1].x) == pytest.approx([32, 60, 60])
    assert "MFLOPs per image" in counted.layout.xaxis.title.text
    assert "32 MFLOPs" in counted.data[-1].customdata[0]
    assert frame["tflops"].isna().all()
    assert set(COSTS) == {"milliseconds", "tflops", "num_steps"}


def add_tasks(store, writer, *rows):
    """Rows of the ledger by what is not common to them; this process is the driver."""
    now = datetime.now(UTC)
    common = {
        "study_id": writer.id, "kind": "evaluation", "fingerprint": "0123456789", "host": "h", "pid": 1, "worker": "w0",
        "driver": Owner.this_process().label, "submitted_at": now, "started_at": now, "finished_at": None,
        "seconds": 1.5, "images": 100, "blocks": None, "attempt": 1, "state": "running", "error": None,
        "peak_memory": None,
    }  # fmt: skip
    with store.engine.begin() as connection:
        connection.execute(sa.insert(tasks), [common | row for row in rows])


def test_tasks_and_what_is_at_work(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    writer = Writer(store, "busy")
    now = datetime.now(UTC)
    add_tasks(
        store,
        writer,
        {"id": 1, "state": "done", "finished_at": now, "blocks": "0-3", "peak_memory": 2**21},
        {"id": 2, "worker": "w1", "attempt": 2, "state": "failed", "finished_at": now, "error": "<b>lost</b>"},
        {"id": 3, "worker": "w1"},
    )
    frame = progress_frames.tasks_frame(store.engine, "busy")
    assert list(frame["outcome"]) == ["done", "failed", "running"]
    assert list(frame["label"]) == ["01234567, blocks 0-3", "01234567", "01234567"]
    assert frame["peak_memory_mb"].iloc[0] == 2.0
    figure = progress_figures.tasks(frame)
    assert [trace.name for trace in figure.data] == ["evaluation", "failed", "tried again"]
    assert "&lt;b&gt;lost" in figure.data[1].customdata[0]
    assert list(progress_frames.running_frame(frame, tmp_path)["what"]) == ["evaluation 01234567"]
    board = Dashboard(str(tmp_path / "autonat.db"))
    assert "lost" in str(board.panel("troubles", Choice("busy"), ()))
    version = board.version()
    with store.engine.begin() as connection:
        connection.execute(sa.update(tasks).where(tasks.c.id == 3).values(finished_at=now))
    add_tasks(store, writer, {"id": 4})
    assert board.version() != version
    store.close()


def test_a_training_at_work_is_one_row_on_its_own_study(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    add_tasks(
        store,
        Writer(store, "mine"),
        {"id": 1, "kind": "training", "fingerprint": "a" * 64},
        {"id": 2, "kind": "training", "fingerprint": "b" * 64},
        {"id": 3, "kind": "training", "fingerprint": "c" * 64, "state": "done"},
    )
    add_tasks(store, Writer(store, "other"), {"id": 4, "kind": "training", "fingerprint": "d" * 64})
    for letter in "acd":  # c's and those of nobody's task are of trainings that were killed
        (tmp_path / f"{letter * 64}.progress.json").write_text(json.dumps({"step": 30, "steps": 120, "loss": 1.5}))
    (tmp_path / f"{'b' * 64}.progress.json").write_text("{")
    (tmp_path / f"{'e' * 64}.progress.json").write_text(json.dumps({"step": 1, "steps": 2, "loss": 1.5}))
    mine, other = (
        progress_frames.running_frame(progress_frames.tasks_frame(store.engine, study), tmp_path)
        for study in ("mine", "other")
    )
    assert list(mine["what"]) == ["training aaaaaaaa", "training bbbbbbbb"]
    assert (mine["done"].iloc[0], mine["loss"].iloc[0], mine["worker"].iloc[0]) == (0.25, 1.5, "h w0")
    assert mine["done"].isna().iloc[1]
    assert list(other["what"]) == ["training dddddddd"]
    store.close()


def test_what_a_killed_driver_left_is_lost_as_the_command_line_tells_it(database_url, tmp_path):
    store = Store.open(database_url, tmp_path / "artifacts")
    writer = Writer(store, "killed")
    here = Owner.this_process()
    dead = replace(here, mark=f"0@{here.mark.partition('@')[2]}")  # the process number belongs to another one now
    began = datetime.now(UTC) - timedelta(hours=2)
    beat = began + timedelta(hours=1)
    with store.engine.begin() as connection:
        connection.execute(sa.update(studies).values(owner_mark=dead.mark, heartbeat_at=beat))
    elsewhere = replace(dead, host="elsewhere")
    add_tasks(
        store,
        writer,
        {"id": 1, "driver": dead.label, "started_at": began, "kind": "training"},
        {"id": 2, "driver": elsewhere.label, "started_at": began},
        {"id": 3, "driver": dead.label, "started_at": began, "state": "done", "finished_at": beat},
        {"id": 4, "driver": here.label},  # `autonat evaluate` in a process that lives
    )
    (tmp_path / "0123456789.progress.json").write_text(json.dumps({"step": 30, "steps": 120, "loss": 1.5}))
    frame = progress_frames.tasks_frame(open_readonly(database_url), "killed")
    assert list(frame["outcome"]) == [row.state for row in rows_of(store.database, writer.id)]
    assert list(frame["outcome"]) == ["lost", "lost", "done", "running"]
    # So that their bars do not grow: to the driver's last beat, and where that is not known not at all.
    assert list(frame["end"].iloc[:2]) == [pd.Timestamp(beat), pd.Timestamp(began)]
    assert frame["end"].isna().iloc[3]
    assert list(progress_frames.running_frame(frame, tmp_path)["what"]) == ["evaluation 01234567"]
    assert progress_frames.states(store.engine)[0][1] == "killed"
    store.close()


def test_images_per_second_are_of_this_study_alone(tmp_path):
    store = Store.open(str(tmp_path / "autonat.db"))
    earlier = Writer(store, "earlier")
    for seed in range(3):
        earlier.measured("schedule", 0, "confirmation", 3.0, seed=seed)
    long_ago = datetime.now(UTC) - timedelta(days=3)
    with store.engine.begin() as connection:
        connection.execute(sa.update(studies).values(created_at=long_ago))
        connection.execute(sa.update(results).values(created_at=long_ago + timedelta(hours=1)))
    later = Writer(store, "later")
    for seed in range(6):  # the first three are looked up
        later.measured("schedule", 0, "confirmation", 3.0, seed=seed)
    frame = progress_frames.throughput_frame(store.engine, "later")
    assert frame["time"].min() > pd.Timestamp(long_ago + timedelta(days=2))
    width = (frame["time"].iloc[1] - frame["time"].iloc[0]).total_seconds()
    assert frame["images_per_second"].sum() * width == pytest.approx(3 * 200, rel=0.01)
    store.close()


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=400), st.integers(2, 60))
def test_thinning_keeps_the_best(values, most):
    frame = pd.DataFrame({"value": values})
    kept = figures.thinned(frame, most)
    assert len(kept) <= most + 2
    assert kept["value"].min() == frame["value"].min()
    assert kept.index.is_monotonic_increasing
    assert len(kept) == len(frame) or len(frame) > most


def test_published_numbers_are_labelled(reader):
    assert AUTONAT_L_T8.num_steps == 8
    # The same strategy as the recipe's, and as the recording of the official file.
    recipe = load_recipe("imagenet256_autonat_l")
    golden = Path(__file__).parent / "golden" / "uvit_strategies.yaml"
    recorded = yaml.safe_load(golden.read_text())["released_T8"]
    assert recipe.schedule.build() == AUTONAT_L_T8
    assert list(AUTONAT_L_T8.guidance_scales) == recorded["manual_cfg"]
    assert list(AUTONAT_L_T8.mask_ratios) == recorded["manual_ratios"]
    assert list(AUTONAT_L_T8.choice_temperatures) == recorded["manual_temp"]
    assert list(AUTONAT_L_T8.sampling_temperatures) == recorded["manual_samp_temp"]
    figure = PLOTS["published"].figure(reader, Choice())
    assert all("published" in trace.name for trace in figure.data)
    assert "published" in figure.layout.yaxis.title.text
