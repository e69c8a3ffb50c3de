"""A study as one HTML file that needs nothing else: figures, tables and images are inside, the network is not used."""

import base64
import json
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autonat.storage.files import write_atomically
from autonat.storage.store import Store, StudyRow
from dashboards import figures, frames, texts
from dashboards.database import artifact_folder
from dashboards.page import TEMPLATE
from dashboards.plots import COST, PUBLISHED, REPORTED, Choice
from dashboards.reader import Reader

PACKAGES = ("autonat", "torch", "numpy", "scipy", "scikit-learn", "optuna", "ray", "sqlalchemy", "plotly")


def write_report(store: Store, name: str, path: Path, grids: list[tuple[str, bytes]]) -> None:
    """Write the report of study `name` to `path`, whole or not at all.

    grids: (caption, PNG) of sample images, may be empty. Works in any state of a study. Raises UserError for a name
    that is not there and where the file cannot be written.
    """
    text = render(store, name, grids)
    write_atomically(Path(path), text.encode())


def render(store: Store, name: str, grids: list[tuple[str, bytes]]) -> str:
    """The report as HTML."""
    study = store.study(name)
    engine = store.engine
    evaluations = frames.evaluations_frame(engine, name)
    row = frames.studies_frame(engine).set_index("name").loc[name]
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        count=texts.count,
        estimate=texts.estimate,
        duration=texts.duration,
        moment=texts.moment,
        number=texts.number,
    )
    sections = _sections(Reader(engine, artifact_folder(engine)), name)
    further_names, further_cells, further_caption = texts.further(frames.further_metrics_frame(engine, name))
    return environment.from_string(TEMPLATE).render(
        study=study,
        state_note=texts.STATES.get(study.state, ""),
        metric=_metric(study, evaluations),
        images_spent=int(row["images_spent"]),
        num_evaluations=int(row["evaluations"]),
        trainings=int(row["trainings"]),
        test_accuracy=(study.summary or {}).get("test_accuracy"),
        summary=_records(frames.summary_frame(engine, name)),
        further_names=further_names,
        further_cells=further_cells,
        further_caption=further_caption,
        missing=texts.MISSING,
        remarks=frames.remarks(engine, name),
        schedule=_schedule_table(frames.schedules_frame(engine, name)),
        decisions=_records(frames.decisions_frame(engine, name)),
        sections=sections,
        has_figures=any(section["figure"] for section in sections),
        grids=[(caption, base64.b64encode(png).decode()) for caption, png in grids],
        recipe=_pretty(study.recipe),
        versions=_versions(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        written_at=datetime.now(UTC),
        plotly_js=Markup(get_plotlyjs()),
        light=_script_json(figures.template().to_plotly_json()),
        dark=_script_json(figures.template(dark=True).to_plotly_json()),
    )


def _sections(reader: Reader, name: str) -> list[dict[str, Any]]:
    """Each figure with its title and how to read it; `figure` is None where there is nothing to draw."""
    # One file for every screen: panels that do not fit beside each other on a narrow one stand below each other.
    choice, found = Choice(name, settings={"narrow": "yes"}), []
    for plot in REPORTED:
        frame = plot.frame(reader, choice)
        figure = None if frame.empty else _embedded(plot.draw(frame, reader, choice), f"figure-{plot.name}")
        found.append({"id": plot.name, "title": plot.title, "reading": plot.reading, "figure": figure})
        # Published numbers stand beside measured ones or not at all.
        if plot is COST and figure is not None:
            published = PUBLISHED.figure(reader, choice)
            found.append(
                {
                    "id": PUBLISHED.name,
                    "title": PUBLISHED.title,
                    "reading": PUBLISHED.reading,
                    "figure": _embedded(published, f"figure-{PUBLISHED.name}"),
                }
            )
    return found


def _embedded(figure: go.Figure, name: str) -> Markup:
    return Markup(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=name,
            default_width="100%",
            default_height=f"{figure.layout.height}px",
            # Its buttons would lie on the legend; dragging zooms and a double click goes back without them.
            config={"responsive": True, "displayModeBar": False},
        )
    )


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, with None for what is missing."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in frame.to_dict("records")
    ]


def _schedule_table(frame: pd.DataFrame) -> dict[str, Any] | None:
    """The found schedule by step, or None: columns in the order of the families, None where a family has ended."""
    found = frame[frame["label"] == frames.FOUND]
    if found.empty:
        return None
    table = found.pivot(index="step", columns="family", values="value").reindex(columns=list(figures.FAMILY_TITLES))
    return {
        "titles": list(figures.FAMILY_TITLES.values()),
        "rows": [
            (step, [None if pd.isna(value) else value for value in values])
            for step, values in zip(table.index, table.to_numpy(), strict=True)
        ],
    }


def _metric(study: StudyRow, evaluations: pd.DataFrame) -> str | None:
    known = (study.summary or {}).get("metric")
    if known:
        return str(known)
    return None if evaluations.empty else str(evaluations["metric"].iloc[0])


def _pretty(recipe: str) -> str:
    try:
        return json.dumps(json.loads(recipe), indent=2, ensure_ascii=False)
    except json.JSONDecodeError:
        return recipe


def _versions() -> list[tuple[str, str]]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def _script_json(value: Any) -> Markup:
    """JSON that cannot end the script it stands in."""
    text = json.dumps(value).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(text)
