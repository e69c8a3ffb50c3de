"""A study as one HTML file that needs nothing else: figures, tables and images are inside, the network is not used."""

import base64
import contextlib
import json
import math
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import jinja2
import pandas as pd
import plotly.graph_objects as go
import sqlalchemy as sa
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards import figures, frames
from dashboards.page import TEMPLATE

PACKAGES = ("autonat", "torch", "numpy", "scipy", "scikit-learn", "optuna", "ray", "sqlalchemy", "plotly")

MISSING = "\N{EN DASH}"

STATES = {
    "created": "This study has not started yet.",
    "running": "This study is still running: what follows is what it has recorded so far.",
    "killed": "The process that drove this study is gone before it finished: what follows is what it had recorded. "
    "Running it again continues it.",
    "interrupted": "This study was interrupted: what follows is what it had recorded. Running it again continues it.",
    "failed": "This study failed: what follows is what it had recorded before.",
    "finished": "",
}


class StudyLike(Protocol):
    """What a report reads of ``autonat.storage.store.StudyRow``."""

    name: str
    recipe: str
    state: str
    error: str | None
    summary: dict[str, Any] | None
    seconds: float
    created_at: datetime
    updated_at: datetime


class StoreLike(Protocol):
    """What a report reads of ``autonat.storage.store.Store``, which cannot be imported here: it brings torch along."""

    engine: sa.Engine

    def study(self, name: str) -> Any: ...


def write_report(store: StoreLike, name: str, path: Path, grids: list[tuple[str, bytes]]) -> None:
    """Write the report of study `name` to `path`, whole or not at all.

    grids: (caption, PNG) of sample images, may be empty. Works in any state of a study. Raises UserError for a name
    that is not there and OSError where the file cannot be written.
    """
    text = render(store, name, grids)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def render(store: StoreLike, name: str, grids: list[tuple[str, bytes]]) -> str:
    """The report as HTML."""
    study: StudyLike = store.study(name)
    engine = store.engine
    evaluations = frames.evaluations_frame(engine, name)
    row = frames.studies_frame(engine).set_index("name").loc[name]
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(count=_count, estimate=_estimate, duration=_duration, moment=_moment, number=_number)
    sections = _sections(engine, name, evaluations)
    return environment.from_string(TEMPLATE).render(
        study=study,
        state_note=STATES.get(study.state, ""),
        metric=_metric(study, evaluations),
        images_spent=int(row["images_spent"]),
        num_evaluations=int(row["evaluations"]),
        trainings=int(row["trainings"]),
        test_accuracy=(study.summary or {}).get("test_accuracy"),
        summary=_records(frames.summary_frame(engine, name)),
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


def _sections(engine: sa.Engine, name: str, evaluations: pd.DataFrame) -> list[dict[str, Any]]:
    """Each figure with its title and how to read it; `figure` is None where there is nothing to draw."""
    mask_ratios = frames.mask_ratio_frame(engine, name)
    betas = mask_ratios[mask_ratios["alpha"].notna() & mask_ratios["distance"].notna()]
    parts: list[tuple[str, str, str, pd.DataFrame, Callable[[pd.DataFrame], go.Figure]]] = [
        (
            "distance",
            "Distance over images spent",
            "Each faint point is one measurement that the search made, on seeds it may have fitted itself to; the line "
            "is the lowest confirmed distance so far; diamonds with bars (one standard error) are measured on seeds "
            "the search never saw, and they alone are the outcome. Lower is better.",
            evaluations,
            figures.distance_over_images,
        ),
        (
            "schedules",
            "The schedule before and after",
            "One panel for each family of values, from the first decoding step to the last; grey and dashed is where "
            "the search began, the thick line is what it found. Ratios and choice temperatures end a step earlier: "
            "nothing is masked again after the last.",
            frames.schedules_frame(engine, name),
            figures.schedules,
        ),
        (
            "densities",
            "The mask ratio in training",
            "How often a network was trained with each share of its tokens masked: the baseline's distribution, those "
            "that were tried, and the one that was chosen.",
            mask_ratios,
            figures.densities,
        ),
        (
            "plane",
            "The Beta candidates",
            "Each point is a network trained with Beta(alpha, beta); its number and colour are the distance under the "
            "schedule of that round, and the ring is the choice. Points compare within a round.",
            betas,
            figures.plane,
        ),
        (
            "gradients",
            "The gradient on the way",
            "Red: raising this value made images worse (the distance grows); blue: better. Pale cells are near 0; "
            "hover for the standard error.",
            frames.gradients_frame(engine, name),
            figures.gradients,
        ),
        (
            "importance",
            "What the distance hangs on",
            "The mean size of each component of the gradient after its own noise is taken off: the longer the bar, the "
            "more this value of the schedule mattered on the way.",
            frames.importance_frame(engine, name),
            figures.importance,
        ),
    ]
    return [
        {
            "id": key,
            "title": title,
            "reading": reading,
            "figure": None if frame.empty else _embedded(draw(frame), f"figure-{key}"),
        }
        for key, title, reading, frame, draw in parts
    ]


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


def _metric(study: StudyLike, evaluations: pd.DataFrame) -> str | None:
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


def _count(value: Any) -> str:
    return MISSING if value is None else f"{int(value):,}"


def _number(value: Any, digits: int = 3) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _estimate(value: Any, error: Any = None) -> str:
    """A value with its standard error, both to two digits of the error: 0.617 ± 0.019."""
    if value is None:
        return MISSING
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.3f}"
    decimals = min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _moment(moment: datetime) -> str:
    """In UTC; SQLite hands its times back without a zone."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"
