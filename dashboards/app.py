"""The dashboard: pages, callbacks and files on one Flask server. It reads; it changes nothing."""

import io
import json
import logging
import socket
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import flask
import plotly
import sqlalchemy as sa
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, html, no_update
from dash.exceptions import PreventUpdate
from plotly.offline import get_plotlyjs
from sqlalchemy.exc import SQLAlchemyError

from dashboards import access, frames, pages, progress_frames
from dashboards.addresses import choice_of, completed, settings_of, view_of
from dashboards.background import Background
from dashboards.database import artifact_folder, open_readonly
from dashboards.figures import SPENT, template, with_room_for_legend
from dashboards.outcome_figures import COSTS
from dashboards.plots import PLOTS, VIEWS, Choice
from dashboards.reader import Reader

# The largest script by far: asked for first, run when the page's own scripts have begun.
PLOTLY = f'<script id="plotly" defer src="/plotly.js?v={plotly.__version__}"></script>'
ASSETS = Path(__file__).parent / "assets"


class Dashboard:
    """Everything the callbacks share: what is read, and what is worked out beside."""

    def __init__(self, url: str) -> None:
        self.url = url if "://" in url else f"sqlite:///{url}"
        self.engine: sa.Engine = open_readonly(url)
        self.background = Background()
        self.reader = Reader(self.engine, artifact_folder(self.engine), self.counted)
        self._wanted: dict[tuple[str, str], float | None] = {}
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Do ahead what the first page would wait for: read the newest studies, and load Plotly's schema."""
        with suppress(SQLAlchemyError):
            self.reader.warm()
        PLOTS["distance"].figure(self.reader, Choice()).to_json()

    def version(self) -> str:
        return f"{self.reader.version()} {self.background.finished}"

    def counted(self, network: str, schedule: str) -> float | None:
        """TFLOPs of one image; None until they are counted, which the first call sets off."""
        key = ("tflops", network, schedule)
        found = self.background.output(key, ("autonat.count_costs",), f"[[{network}, {schedule}]]")
        return json.loads(found)[0] if isinstance(found, bytes) else None

    def pictures(self, study: str) -> zipfile.ZipFile | str | None:
        """The pictures of a study as of its last decision; one line on what went wrong; or None while they are made."""
        row = frames.find_study(self.engine, study)
        if row is None:
            return f"there is no study {study!r}"
        decided = frames.decisions_frame(self.engine, study)
        mark = str(decided["number"].max()) if len(decided) else ""
        # A study that was deleted and begun again has the same name, decides as often, and may be given the same id.
        key = ("pictures", study, mark, str(row.id), str(row.created_at), str(row.updated_at))
        found = self.background.output(key, ("autonat.pictures", study), variables={"AUTONAT_DB": self.url})
        return zipfile.ZipFile(io.BytesIO(found)) if isinstance(found, bytes) else found

    def ends(self, view: str, study: str) -> dict[str, int]:
        """The last position of each slider of a view."""
        if view == "schedule":
            gradients = frames.gradients_frame(self.engine, study)
            return {"iterate": 0 if gradients.empty else int(gradients["iterate"].max())}
        if view == "images":
            found = self.pictures(study)
            if isinstance(found, zipfile.ZipFile):
                return {"pair": len(json.loads(found.read("pairs.json"))) - 1}
        return {}

    def figures(self, path: str, settings: Mapping[str, str], look: str) -> str:
        """The figures of a page by name, and the version of what they show, as JSON. look: the words "dark", "touch"
        and "narrow", as far as they are true of the page."""
        version = self.version()  # the one before: what is recorded meanwhile is drawn again rather than missed
        view, study = view_of(path)
        settings = {**settings, "narrow": "yes" if "narrow" in look else ""}
        choice = completed(view, choice_of(path, settings), self.reader.names(), self.ends(view, study))
        drawn = []
        for plot in VIEWS.get(view, ()):
            figure = plot.figure(self.reader, choice).update_layout(
                template=template(dark="dark" in look),
                dragmode=False if "touch" in look else "zoom",
                # As long as this text stays, zoom and hidden traces stay.
                uirevision=f"{path} {choice.one_of('over', SPENT)} {choice.one_of('cost', COSTS)} {choice.studies}",
            )
            if "narrow" in look:
                with_room_for_legend(figure)
            drawn.append(f"{json.dumps(plot.name)}: {figure.to_json()}")
        return f'{{"version": {json.dumps(version)}, "figures": {{{", ".join(drawn)}}}}}'

    def panel(self, name: str, choice: Choice, picked: Sequence[str]) -> Any:
        """What stands in a panel."""
        if name == "studies":
            return pages.studies_table(_sorted(self.reader.studies(), choice), picked)
        if name in ("facts", "state"):
            rows = self.reader.studies()
            rows = rows[rows["name"] == choice.study]
            if rows.empty:
                return []
            measured = self.reader.evaluations(choice.study)
            summary = frames.summary_frame(self.engine, choice.study, measured)
            metrics = frames.further_metrics_frame(self.engine, choice.study)
            if name == "state":
                return pages.facts(rows.iloc[0], summary.iloc[:0], metrics)
            return pages.facts(rows.iloc[0], summary, metrics, frames.remarks(self.engine, choice.study))
        if name == "decisions":
            return pages.decisions(frames.decisions_frame(self.engine, choice.study))
        tasks = progress_frames.tasks_frame(self.engine, choice.study)
        if name == "running":
            return pages.running(progress_frames.running_frame(tasks, self.reader.artifacts))
        if name == "troubles":
            return pages.troubles(tasks)
        return self._pictures_panel(choice)

    def _pictures_panel(self, choice: Choice) -> Any:
        found = self.pictures(choice.study)
        if found is None:
            return [html.P("The networks are painting; this takes a few seconds.", className="note")]
        if isinstance(found, str):
            return [html.P(found, className="note failed")]
        labels = json.loads(found.read("pairs.json"))
        number = choice.number("pair")
        return pages.pictures(labels, len(labels) - 1 if number is None else number, urlencode({"study": choice.study}))


def _sorted(frame: Any, choice: Choice) -> Any:
    """Studies that match the search, in the order asked for; what has no value comes last."""
    part = choice.settings.get("search", "").strip().lower()
    if part:
        frame = frame[frame["name"].str.lower().str.contains(part, regex=False)]
    order = choice.one_of("sort", pages.SORTS)
    if order == "newest":
        return frame.iloc[::-1]
    column = {"images": "images_spent", "time": "seconds"}.get(order, order)
    return frame.sort_values(column, ascending=order not in ("images", "time"), kind="stable", na_position="last")


def _settings(inputs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """The values of a page's controls and sliders by name, as texts; a list becomes its parts with commas."""
    found: dict[str, str] = {}
    for each in [entry for group in inputs for entry in group]:
        value = each.get("value")
        if value is None:
            continue
        found[each["id"]["name"]] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def make_app(url: str, token: str | None = None) -> Dash:
    """The dashboard of a database. token: what it asks for; None where only this machine can ask.

    Raises UserError for a database that cannot be read.
    """
    board = Dashboard(url)
    threading.Thread(target=board.warm, daemon=True).start()
    app = Dash(
        "autonat",
        assets_folder=str(ASSETS),
        title="autonat",
        update_title="",
        suppress_callback_exceptions=True,
        serve_locally=True,
    )
    app.layout = pages.shell
    app.index_string = app.index_string.replace("{%css%}", PLOTLY + "{%css%}")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    access.guard(app.server, token)
    _files(app.server, board)
    _callbacks(app, board)
    _clientside(app)
    return app


def _files(server: flask.Flask, board: Dashboard) -> None:
    @server.get("/plotly.js")
    def _plotly() -> flask.Response:
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}  # its address has its version
        return flask.Response(read_at_once(get_plotlyjs()), mimetype="text/javascript", headers=kept)

    @server.get("/figures")
    def _figures() -> flask.Response:
        settings = dict(flask.request.args.items())
        path, look = settings.pop("path", "/"), settings.pop("look", "")
        return flask.Response(
            board.figures(path, settings, look), mimetype="application/json", headers={"Cache-Control": "no-store"}
        )

    @server.get("/csv/<name>.csv")
    def _csv(name: str) -> flask.Response:
        if name not in PLOTS:
            flask.abort(404)
        settings = dict(flask.request.args.items())
        choice = choice_of("/study/" + settings.pop("study", ""), settings)
        text = PLOTS[name].frame(board.reader, choice).to_csv(index=False)
        return flask.Response(text, mimetype="text/csv; charset=utf-8")

    @server.get("/picture/<kind>/<int:number>.png")
    def _picture(kind: str, number: int) -> flask.Response:
        found = board.pictures(flask.request.args.get("study", ""))
        if not isinstance(found, zipfile.ZipFile) or f"{kind}-{number}.png" not in found.namelist():
            flask.abort(404)
        return flask.Response(found.read(f"{kind}-{number}.png"), mimetype="image/png")


def read_at_once(script: str) -> str:
    """Plotly's script with its one great function in parentheses: browsers take that for "called at once" and compile
    it while they load, beside the page's own work, instead of skipping over it first. Any other script stays as it is.
    """
    before, opening, body = script.partition(": this, () => {")
    body, closing, after = body.rpartition("}));")
    if not opening or not closing or after.strip():
        return script
    return f"{before}: this, (() => {{{body}}})));"


def _callbacks(app: Dash, board: Dashboard) -> None:
    controls = Input({"type": "control", "name": ALL}, "value")
    sliders = Input({"type": "slider", "name": ALL}, "value")
    where = State("url", "pathname")

    @app.callback(
        Output("menu", "children"), Output("page", "children"), Input("url", "pathname"), State("url", "search")
    )
    def _page(path: str | None, search: str | None) -> Any:
        view, study = view_of(path or "/")
        names, ends = board.reader.names(), board.ends(view, study)
        choice = completed(view, choice_of(path or "/", settings_of(search or "")), names, ends)
        return pages.menu(view, study), pages.page(view, choice, names, ends)

    @app.callback(Output("version", "data"), Input("clock", "n_intervals"), State("version", "data"))
    def _version(_: int | None, known: str | None) -> Any:
        version = board.version()
        return no_update if version == known else version

    @app.callback(
        Output({"type": "panel", "name": ALL}, "children"),
        controls,
        sliders,
        Input("version", "data"),
        State({"type": "pick", "name": ALL}, "value"),
        where,
    )
    def _panels(_c: Any, _s: Any, version: str | None, picks: Sequence[Sequence[str]], path: str) -> Any:
        if version is None:
            raise PreventUpdate
        choice = choice_of(path, _settings(ctx.inputs_list[:2]))
        picked = [name for each in picks for name in each or ()]
        return [board.panel(output["id"]["name"], choice, picked) for output in ctx.outputs_list]

    @app.callback(
        Output({"type": "slider", "name": ALL}, "max"),
        Output({"type": "slider", "name": ALL}, "marks"),
        Output({"type": "slider", "name": ALL}, "disabled"),
        Output({"type": "slider", "name": ALL}, "value"),
        Input("version", "data"),
        State({"type": "slider", "name": ALL}, "value"),
        State({"type": "slider", "name": ALL}, "disabled"),
        where,
    )
    def _sliders(_: Any, values: Sequence[int], disabled: Sequence[bool], path: str) -> Any:
        view, study = view_of(path)
        ends = board.ends(view, study)
        names = [output["id"]["name"] for output in ctx.outputs_list[0]]
        last = [ends.get(name, 0) for name in names]
        # One that had nowhere to go starts at its end; any other stays where a person put it.
        places = [end if was else no_update for end, was in zip(last, disabled, strict=True)]
        return (
            [max(end, 1) for end in last],
            [pages.slider_marks(end) for end in last],
            [end == 0 for end in last],
            places,
        )


def _clientside(app: Dash) -> None:
    """What needs no server: see assets/dashboard.js."""
    controls = (Input({"type": "control", "name": ALL}, "value"), Input({"type": "slider", "name": ALL}, "value"))

    def function(name: str) -> ClientsideFunction:
        return ClientsideFunction("autonat", name)

    app.clientside_callback(function("look"), Output("look", "data"), Input("switch", "n_clicks"))
    app.clientside_callback(function("share"), Output("nothing", "data"), *controls)
    app.clientside_callback(
        function("draw"),
        Output({"type": "csv", "name": ALL}, "href"),
        *controls,
        Input("version", "data"),
        Input("look", "data"),
    )
    app.clientside_callback(
        function("compare"), Output("compare-link", "href"), Input({"type": "pick", "name": ALL}, "value")
    )


def serve(url: str, host: str, port: int, token: str | None, started: Callable[[], None] = lambda: None) -> None:
    """Serve the dashboard until interrupted; `started` is called when it listens.

    Raises UserError for a database that cannot be read, OSError where the address cannot be had.
    """
    from werkzeug.serving import make_server

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The address comes first: the app starts threads, which must not be at work when a refusal ends the process.
    with socket.create_server((host.strip("[]"), port), family=family) as listening:
        app = make_app(url, token)
        server = make_server(host, port, app.server, threaded=True, fd=listening.fileno())
        started()
        server.serve_forever()
