"""The pages as Dash components: what stands where. What fills them comes by callbacks (``dashboards.app``)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from dash import dcc, html

from dashboards import texts
from dashboards.addresses import MANY_VIEWS, STUDY_VIEWS, address
from dashboards.figures import SPENT
from dashboards.outcome_figures import COSTS
from dashboards.plots import VIEWS, Choice, Plot

REFRESH_SECONDS = 2
SORTS = {
    "newest": "newest first",
    "name": "name",
    "state": "state",
    "tuned": "best distance",
    "images": "images spent",
    "time": "running time",
}
OVER = {"images": "images", "time": "clock time", "passes": "network passes"}
COST_NAMES = {"milliseconds": "milliseconds", "tflops": "TFLOPs", "num_steps": "steps T"}
assert set(OVER) == set(SPENT)
assert set(COST_NAMES) == set(COSTS)


def shell() -> html.Div:
    """What every page has: menu, place for the view, and the parts that keep it live."""
    return html.Div(
        [
            html.A("to the content", href="#page", className="skip"),
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="version"),
            dcc.Store(id="look"),
            dcc.Store(id="nothing"),
            dcc.Interval(id="clock", interval=1000 * REFRESH_SECONDS),
            html.Header(
                [
                    dcc.Link("autonat", href="/", className="brand"),
                    html.Nav(id="menu", **_aria("views")),
                    html.Button("dark / light", id="switch", className="quiet", type="button"),
                ]
            ),
            html.Main(id="page", tabIndex="-1"),
        ]
    )


def menu(view: str, study: str) -> list[Any]:
    """Links to the views; those of a study where one is open."""

    def link(label: str, target: str, here: bool) -> dcc.Link:
        return dcc.Link(label, href=target, className="here" if here else "")

    links: list[Any] = [link("Studies", "/", view == "")]
    links += [
        link(label, address(name, settings={"studies": study}), view == name) for name, label in MANY_VIEWS.items()
    ]
    if study:
        links.append(html.Span(study, className="open-study"))
        links += [link(label, address(name, study), view == name) for name, label in STUDY_VIEWS.items()]
    return links


def page(view: str, choice: Choice, names: Sequence[str], ends: Mapping[str, int]) -> list[Any]:
    """The content of a view. choice: ``addresses.completed``; ends: the last position of each slider, by its name."""
    if view == "":
        return [
            html.H1("Studies"),
            _controls(
                _labelled(
                    "search",
                    dcc.Input(
                        id=_id("control", "search"),
                        type="search",
                        value=choice.settings.get("search", ""),
                        placeholder="part of a name",
                    ),
                ),
                _labelled("sort by", _dropdown("sort", SORTS, choice.one_of("sort", SORTS))),
                dcc.Link("compare the selected", href="/compare", id="compare-link", className="action"),
            ),
            _panel("studies"),
        ]
    if view in MANY_VIEWS:
        picked = _dropdown("studies", {name: name for name in names}, list(choice.studies), multi=True)
        controls = [_labelled("studies", picked, wide=True)]
        if view == "cost":
            controls.append(_radio("cost", "over", COST_NAMES, choice.one_of("cost", COST_NAMES)))
        return [html.H1(MANY_VIEWS[view]), _controls(*controls), *_plots(view)]
    if choice.study not in names:
        known = ", ".join(names[:10]) or "none yet"
        return [html.H1("No such study"), html.P(f"There is no study {choice.study!r} here; there: {known}.")]
    head = [html.H1(choice.study), _panel("facts" if view == "study" else "state")]
    if view == "study":
        over = _controls(_radio("over", "distance over", OVER, choice.one_of("over", OVER)))
        distance = html.Div([_plot(VIEWS[view][1]), over], className="plots")
        return [*head, _plot(VIEWS[view][0]), distance, _panel("running"), _panel("decisions")]
    if view == "schedule":
        return [*head, _slider("iterate", "iterate of the descent", choice, ends), *_plots(view)]
    if view == "images":
        return [*head, _slider("pair", "round: what was settled by then", choice, ends), _panel("pictures")]
    if view == "tasks":
        return [*head, *_plots(view), _panel("troubles")]
    return [*head, *_plots(view)]


def _id(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "name": name}


def _aria(label: str) -> Any:
    return {"aria-label": label}


def _panel(name: str) -> html.Div:
    return html.Div(id=_id("panel", name), className=f"panel-{name}")


def _controls(*children: Any) -> html.Div:
    return html.Div(list(children), className="controls")


def _labelled(text: str, control: Any, *, wide: bool = False) -> html.Div:
    group: Any = {"role": "group", "aria-label": text}
    return html.Div(
        [html.Span(text, className="label"), control], className="control wide" if wide else "control", **group
    )


def _dropdown(name: str, labels: Mapping[str, str], value: Any, *, multi: bool = False) -> dcc.Dropdown:
    options = [{"label": label, "value": key} for key, label in labels.items()]
    return dcc.Dropdown(options=options, value=value, multi=multi, clearable=multi, id=_id("control", name))


def _radio(name: str, text: str, labels: Mapping[str, str], value: str) -> html.Div:
    options = [{"label": label, "value": key} for key, label in labels.items()]
    return _labelled(text, dcc.RadioItems(options=options, value=value, id=_id("control", name), inline=True))


def _slider(name: str, text: str, choice: Choice, ends: Mapping[str, int]) -> html.Div:
    place = choice.number(name) or 0
    end = ends.get(name, 0) or place  # what it points to may not be there yet
    slider = dcc.Slider(
        id=_id("slider", name),
        min=0,
        max=max(end, 1),
        step=1,
        value=place,
        marks=slider_marks(end),
        disabled=end == 0,
        updatemode="drag",
    )
    return _controls(_labelled(text, slider, wide=True))


def slider_marks(end: int) -> dict[int, str]:
    """A few round numbers up to `end`."""
    stride = max(1, -(-end // 8))
    return {place: str(place) for place in range(0, max(end, 1) + 1, stride)}


def _plots(view: str) -> list[Any]:
    return [_plot(plot) for plot in VIEWS[view]]


def _plot(plot: Plot) -> html.Section:
    def button(label: str, does: str, hint: str) -> html.Button:
        data: Any = {"data-plot": plot.name, "data-does": does, "aria-label": f"{plot.title}: {hint}"}
        return html.Button(label, type="button", className="quiet save", title=hint, **data)

    place: Any = {"data-name": plot.name}
    return html.Section(
        [
            html.H2(plot.title),
            html.P(plot.reading, className="soft"),
            html.Div(className="place", **place),  # what it holds is up to assets/dashboard.js
            html.Div(
                [
                    button("PNG", "png", "save as PNG"),
                    button("SVG", "svg", "save as SVG"),
                    html.A(
                        "CSV",
                        className="quiet save",
                        id=_id("csv", plot.name),
                        href="#",
                        title="save the data as CSV",
                        download=f"{plot.name}.csv",
                        **_aria(f"{plot.title}: save the data as CSV"),
                    ),
                    button("whole range", "reset", "show the whole range again"),
                ],
                className="tools",
            ),
        ],
        className="plot",
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str, *, left: int = 1) -> html.Div:
    """A table that scrolls sideways in itself; the first `left` columns are text."""

    def side(place: int) -> str:
        return "left" if place < left else ""

    return html.Div(
        html.Table(
            [
                html.Caption(html.Span(caption)),
                html.Thead(
                    html.Tr([html.Th(name, className=side(place), scope="col") for place, name in enumerate(columns)])
                ),
                html.Tbody(
                    [html.Tr([html.Td(cell, className=side(place)) for place, cell in enumerate(row)]) for row in rows]
                ),
            ]
        ),
        className="scroll",
        tabIndex="0",
    )


def studies_table(frame: pd.DataFrame, picked: Sequence[str]) -> Any:
    """The list of studies, with a box to pick each."""
    if frame.empty:
        return html.P("No study here yet. One is started with: autonat run RECIPE", className="note")
    rows = []
    for row in frame.itertuples():
        box = dcc.Checklist(
            options=[{"label": html.Span(f"select {row.name}", className="hidden"), "value": row.name}],
            value=[row.name] if row.name in picked else [],
            id=_id("pick", row.name),
        )
        ratio = row.tuned / row.baseline if pd.notna(row.tuned) and row.baseline else None
        rows.append(
            [
                box,
                dcc.Link(row.name, href=address("study", row.name)),
                state(row.state),
                f"({texts.estimate(row.settled, row.settled_standard_error)})"
                if pd.notna(row.settled)
                else texts.estimate(row.tuned, row.tuned_standard_error),
                texts.estimate(row.baseline, row.baseline_standard_error),
                texts.number(ratio, 2),
                texts.count(row.images_spent),
                texts.count(row.evaluations),
                texts.count(row.trainings),
                texts.duration(row.seconds),
                texts.duration(row.worker_seconds),
                row.metric if pd.notna(row.metric) else texts.MISSING,
            ]
        )
    columns = (
        "",
        "study",
        "state",
        "tuned",
        "baseline",
        "ratio",
        "images with held-out",
        "evaluations",
        "trainings",
        "time",
        "worker time",
        "metric",
    )
    told = "Held-out distances ± one standard error, lower is better. In parentheses: the search's own measure so far."
    return table(columns, rows, told, left=3)


def state(name: str) -> html.Span:
    return html.Span(name, className=f"state {name}")


def facts(row: pd.Series, summary: pd.DataFrame, metrics: pd.DataFrame, remarks: str | None = None) -> list[Any]:
    """The head of a study's page: its state, what it cost, and the held-out outcome (where `summary` has one) with its
    further metrics and its gap to what the search measured."""
    parts: list[Any] = [
        html.P(
            [
                state(row["state"]),
                f" {texts.count(row['images_spent'])} images with the held-out ones, "
                f"{texts.count(row['evaluations'])} evaluations, "
                f"{texts.count(row['trainings'])} trainings, {texts.duration(row['seconds'])}; last change "
                f"{texts.moment(row['updated_at'])}",
            ]
        )
    ]
    note = texts.STATES.get(row["state"], "")
    if note:
        parts.append(html.P(note, className=f"note {row['state']}"))
    if pd.notna(row["error"]):
        parts.append(html.Pre(str(row["error"])))
    if len(summary):
        names, cells, caption = texts.further(metrics)
        rows = [
            (
                each.what,
                texts.estimate(each.distance, each.standard_error),
                texts.count(each.num_images),
                texts.number(each.ratio, 2),
                *cells.get(each.what, [texts.MISSING] * len(names)),
            )
            for each in summary.itertuples()
        ]
        metric = row["metric"] if pd.notna(row["metric"]) else "distance"
        told = f"Held-out, ± one standard error, lower is better. {caption}"
        parts.append(table(("", metric, "images", "ratio", *names), rows, told))
    if remarks:
        parts.append(html.P(remarks))
    return parts


def decisions(frame: pd.DataFrame) -> list[Any]:
    """What the searches settled, in order."""
    rows = [
        (
            each.phase,
            each.round,
            each.mask_ratio,
            texts.estimate(each.distance, each.standard_error),
            texts.estimate(each.gain, each.gain_standard_error),
            texts.count(each.images_spent),
        )
        for each in frame.itertuples()
    ]
    if not rows:
        return []
    columns = ("phase", "round", "mask ratio", "distance", "gain", "images spent")
    return [html.H2("Decisions"), table(columns, rows, "A gain is the paired difference to what was there before.")]


def running(frame: pd.DataFrame) -> list[Any]:
    """What is at work now."""
    if frame.empty:
        return []
    rows = [
        (
            each.what,
            each.worker if pd.notna(each.worker) else texts.MISSING,
            texts.moment(each.since) if pd.notna(each.since) else texts.MISSING,
            f"{100 * each.done:.0f}%" if pd.notna(each.done) else texts.MISSING,
            texts.number(each.loss, 3),
        )
        for each in frame.itertuples()
    ]
    return [
        html.H2("At work now"),
        table(("task", "worker", "since", "done", "loss"), rows, "Trainings say how far they are.", left=2),
    ]


def troubles(frame: pd.DataFrame) -> list[Any]:
    """Tasks that failed or were tried again, and the counts of all."""
    if frame.empty:
        return [html.P("This database has recorded no tasks of this study.", className="note")]
    counts = frame["outcome"].value_counts()
    parts: list[Any] = [html.P(", ".join(f"{texts.count(number)} {name}" for name, number in counts.items()))]
    marked = frame[frame["error"].notna() | (frame["attempts"] > 1)].tail(50)
    if len(marked):
        rows = [
            (
                f"{each.kind} {each.label}",
                each.worker,
                each.outcome,
                texts.count(each.attempts),
                each.error if pd.notna(each.error) else texts.MISSING,
            )
            for each in marked.itertuples()
        ]
        parts += [
            html.H2("Failures and retries"),
            table(("task", "worker", "outcome", "attempt", "error"), rows, "The last 50.", left=3),
        ]
    return parts


def pictures(labels: Sequence[str], number: int, source: str) -> list[Any]:
    """The baseline's grid beside that of pair `number`, and below both, step by step."""
    if not labels:
        return [html.P("There is no trained network to paint with yet.", className="note")]
    number = min(number, len(labels) - 1)

    def picture(kind: str, place: int, what: str) -> html.Figure:
        image = html.Img(src=f"/picture/{kind}/{place}.png?{source}", alt=f"{what}, {labels[place]}")
        return html.Figure([image, html.Figcaption(labels[place])])

    shown = [0] if number == 0 else [0, number]
    return [
        html.H2("Samples"),
        html.P("A row a class. The same labels and the same noise in both.", className="soft"),
        html.Div([picture("grid", place, "samples") for place in shown], className="pictures"),
        html.H2("How an image is painted"),
        html.P(
            "A row a class: the first image of each after every decoding step. Orange: masked again, to be painted "
            "anew in the next step; what stays is kept for good.",
            className="soft",
        ),
        html.Div([picture("steps", place, "canvases after each step") for place in shown], className="pictures"),
    ]
