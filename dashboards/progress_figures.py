"""Figures of ``dashboards.progress_frames``: phases over time, tasks by worker, throughput."""

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION, as_text, new_figure, nothing

PHASES = {
    "set-up": (GREY, ""),
    "schedule": (BLUE, ""),
    "mask ratio": (ORANGE, "/"),
    "alternation": (PURPLE, "x"),
    "held-out": (VERMILLION, "."),
}
TASK_KINDS = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)
TASK_PATTERNS = ("", "/", ".", "x", "-", "|")
MOST_TASKS = 3000


def timeline(frame: pd.DataFrame) -> go.Figure:
    """The alternation as bars over clock time, from ``timeline_frame``: a line for each phase and round, a bar for each
    purpose; what a phase decided stands behind it with its gain."""
    if frame.empty:
        return nothing("phases")
    lines = list(dict.fromkeys(_line(row) for row in frame.itertuples()))
    figure = new_figure(height=130 + 38 * len(lines))
    for phase, part in frame.groupby("phase", sort=False):
        colour, pattern = PHASES.get(str(phase), (SKY, "-"))
        figure.add_bar(
            base=part["start"],
            x=(part["end"] - part["start"]).dt.total_seconds() * 1000,
            y=[_line(row) for row in part.itertuples()],
            orientation="h",
            marker={"color": colour, "pattern": {"shape": pattern}, "line": {"width": 1, "color": "white"}},
            name=as_text(phase),
            showlegend=False,
            customdata=[_told(row) for row in part.itertuples()],
            hovertemplate="%{customdata}<extra></extra>",
        )
    settled = frame[frame["decided"].notna()]
    figure.add_scatter(
        x=settled["end"],
        y=[_line(row) for row in settled.itertuples()],
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": VERMILLION},
        name="decided",
        showlegend=False,
        customdata=[_told(row) for row in settled.itertuples()],
        hovertemplate="%{customdata}<extra></extra>",
    )
    middle = frame["start"].min() + (frame["end"].max() - frame["start"].min()) / 2
    for row in settled.itertuples():
        late = row.end > middle  # a text to the right of it could leave the plot
        figure.add_annotation(
            x=row.end,
            y=_line(row),
            text=_gain(row),
            xanchor="right" if late else "left",
            xshift=-9 if late else 9,
            showarrow=False,
            # Readable on a bar, on a light page and on a dark one.
            bgcolor="rgba(255, 255, 255, 0.9)",
            font={"color": "#222222", "size": 12},
            borderpad=2,
        )
    figure.update_xaxes(title_text="clock time (UTC)", type="date", nticks=6)
    figure.update_yaxes(title_text="phase, round", categoryorder="array", categoryarray=lines[::-1], showgrid=False)
    return figure.update_layout(barmode="overlay")


def _line(row: object) -> str:
    return as_text(f"{row.phase}, {row.round}")  # type: ignore[attr-defined]


def _gain(row: object) -> str:
    if pd.isna(row.gain):  # type: ignore[attr-defined]
        return "decided"
    if row.gain == 0:  # type: ignore[attr-defined]
        return "nothing better"
    return f"{row.gain:+.3g} ± {row.gain_standard_error:.2g}"  # type: ignore[attr-defined]


def _told(row: object) -> str:
    seconds = (row.end - row.start).total_seconds()  # type: ignore[attr-defined]
    text = f"{row.phase}, round {row.round}: {row.purpose}"  # type: ignore[attr-defined]
    if not pd.isna(row.decided):  # type: ignore[attr-defined]
        return f"{as_text(text)}<br>{as_text(row.decided)}, gain {_gain(row)}"  # type: ignore[attr-defined]
    counts = f"{row.requests:,} requests, {row.images:,} images"  # type: ignore[attr-defined]
    return f"{as_text(text)}<br>{seconds:,.1f} s, {counts}"


def tasks(frame: pd.DataFrame) -> go.Figure:
    """Gantt chart of the tasks by worker, from ``tasks_frame``: colour and pattern tell the kind, a red cross a failed
    one, a star one that was tried again. Of many the last are drawn."""
    begun = frame[frame["start"].notna()]
    if begun.empty:
        return nothing("tasks")
    left_out = max(0, len(begun) - MOST_TASKS)
    begun = begun.iloc[left_out:]
    now = pd.Timestamp.now(tz="UTC")
    end = begun["end"].fillna(now)
    figure = new_figure(height=150 + 30 * begun["worker"].nunique())
    for index, (kind, part) in enumerate(begun.groupby("kind", sort=False)):
        figure.add_bar(
            base=part["start"],
            x=(end[part.index] - part["start"]).dt.total_seconds() * 1000,
            y=[as_text(worker) for worker in part["worker"]],
            orientation="h",
            marker={
                "color": TASK_KINDS[index % len(TASK_KINDS)],
                "pattern": {"shape": TASK_PATTERNS[index % len(TASK_PATTERNS)]},
                # Edges would hide what is narrow.
                "line": {"width": 0.5 if len(begun) < 60 else 0, "color": "white"},
            },
            name=as_text(kind),
            customdata=[_task(row) for row in part.itertuples()],
            hovertemplate="%{customdata}<extra></extra>",
        )
    for name, marked, symbol, colour in (
        ("failed", begun[begun["error"].notna()], "x", VERMILLION),
        ("tried again", begun[begun["attempts"] > 1], "star", ORANGE),
    ):
        if len(marked):
            figure.add_scatter(
                x=end[marked.index],
                y=[as_text(worker) for worker in marked["worker"]],
                mode="markers",
                marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 1, "color": "white"}},
                name=name,
                customdata=[_task(row) for row in marked.itertuples()],
                hovertemplate="%{customdata}<extra></extra>",
            )
    figure.update_xaxes(
        title_text="clock time (UTC)" + (f", last {MOST_TASKS:,} tasks" if left_out else ""), type="date"
    )
    figure.update_yaxes(title_text="worker", type="category", showgrid=False)
    return figure.update_layout(barmode="overlay")


def _task(row: object) -> str:
    text = f"{row.kind} {row.label}: {row.outcome}, attempt {row.attempts}"  # type: ignore[attr-defined]
    if not pd.isna(row.seconds):  # type: ignore[attr-defined]
        text += f", {row.seconds:.2f} s"  # type: ignore[attr-defined]
    if not pd.isna(row.peak_memory_mb):  # type: ignore[attr-defined]
        text += f", {row.peak_memory_mb:,.0f} MB"  # type: ignore[attr-defined]
    if not pd.isna(row.error):  # type: ignore[attr-defined]
        text += f"<br>{str(row.error)[:200]}"  # type: ignore[attr-defined]
    return as_text(text).replace("&lt;br&gt;", "<br>")


def throughput(frame: pd.DataFrame) -> go.Figure:
    """Images a second over clock time, from ``throughput_frame``."""
    if frame.empty:
        return nothing("images")
    figure = new_figure(height=260)
    figure.add_scatter(
        x=frame["time"],
        y=frame["images_per_second"],
        mode="lines",
        line={"color": BLUE, "shape": "hvh"},
        fill="tozeroy",
        hovertemplate="%{y:,.0f} images/s<extra></extra>",
    )
    figure.update_xaxes(title_text="clock time (UTC)", type="date")
    return figure.update_yaxes(title_text="images per second", rangemode="tozero")
