"""Figures of ``dashboards.outcome_frames``: distance against cost, and differences with confidence intervals."""

import pandas as pd
import plotly.graph_objects as go

from dashboards.figures import (
    GREY,
    PURPLE,
    STUDY_COLOURS,
    VERMILLION,
    as_text,
    distance_axis,
    metric_of,
    new_figure,
    nothing,
    role_mark,
)
from dashboards.frames import HELD_OUT
from dashboards.frames import ROLES as SEARCHED

# What an image's cost can be told in, with the axis title.
COSTS = {
    "milliseconds": "milliseconds per image,<br>measured on one worker",
    "tflops": "TFLOPs per image, counted<br>(2 x multiply-accumulates)",
    "num_steps": "decoding steps T",
}
# A small network's operations are no number of TFLOPs that anybody can read.
UNITS = ((1.0, "TFLOPs"), (1e-3, "GFLOPs"), (1e-6, "MFLOPs"))


def operations(tflops: float) -> str:
    """TFLOPs in the unit that suits them: 61.5 MFLOPs."""
    size, unit = next(((size, unit) for size, unit in UNITS if tflops >= size), UNITS[-1])
    return f"{tflops / size:.3g} {unit}"


def cost(frame: pd.DataFrame, over: str = "milliseconds") -> go.Figure:
    """Held-out distances of the studies against what one image costs, from ``outcomes_frame``; over: a key of COSTS.

    Colour: study; symbol: role, as everywhere. Dotted: a study's points in the order of the search. A full line: its
    pair tuned for several numbers of steps.
    """
    if frame.empty:
        return nothing("held-out distances")
    shown = frame[frame[over].notna()]
    if shown.empty:
        return nothing("costs of this kind")
    figure = new_figure(height=440)
    scale, title = 1.0, COSTS[over]
    if over == "tflops":
        scale, unit = next(((size, unit) for size, unit in UNITS if shown[over].max() >= size), UNITS[-1])
        title = title.replace("TFLOPs", unit)
    for index, (study, part) in enumerate(shown.groupby("study", sort=False)):
        colour = STUDY_COLOURS[index % len(STUDY_COLOURS)]
        of_search = part["role"].isin([*SEARCHED, HELD_OUT])
        front = part[~of_search | (part["role"] == SEARCHED[-1])].sort_values("num_steps")
        if len(front) > 1:
            figure.add_scatter(
                x=front[over] / scale,
                y=front["distance"],
                mode="lines",
                line={"color": colour, "width": 1.5},
                name=as_text(study),
                legendgroup=as_text(study),
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=part[of_search][over] / scale,
            y=part[of_search]["distance"],
            mode="lines",
            line={"color": colour, "width": 1, "dash": "dot"},
            name=as_text(study),
            legendgroup=as_text(study),
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=part[over] / scale,
            y=part["distance"],
            error_y={"type": "data", "array": part["standard_error"], "thickness": 2, "width": 5},
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": [role_mark(role)[1] for role in part["role"]]},
            name=as_text(study),
            legendgroup=as_text(study),
            customdata=[
                f"{as_text(row.study)}: {row.role}<br>T = {row.num_steps}, {as_text(row.mask_ratio)}<br>"
                f"{row.distance:.4g} ± {row.standard_error:.2g} ({row.num_images:,} images)<br>"
                + f"{row.milliseconds:.3g} ms"
                + (f", {operations(row.tflops)}" if pd.notna(row.tflops) else "")
                for row in part.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(title_text=title, rangemode="tozero")
    if over == "num_steps":
        figure.update_xaxes(tickmode="linear", dtick=1 if shown[over].max() < 20 else None)
    several = shown["metric"].nunique() > 1
    distance_axis(figure, shown["distance"], "distance, metrics that do not compare" if several else metric_of(shown))
    return figure


def published(frame: pd.DataFrame) -> go.Figure:
    """FID that the papers published, over T, from ``published_frame``. Another metric and other data than the studies':
    nothing here was measured by this project."""
    figure = new_figure(height=360)
    for index, (model, part) in enumerate(frame.groupby("model", sort=False)):
        texts = [
            f"{row.fid:.2f}" + (f" ({row.tflops:g} TFLOPs)" if pd.notna(row.tflops) else "")
            for row in part.itertuples()
        ]
        figure.add_scatter(
            x=part["steps"],
            y=part["fid"],
            mode="lines+markers+text",
            text=texts,
            textposition=["middle right" if row.steps < 6 else "middle left" for row in part.itertuples()],
            line={"color": STUDY_COLOURS[index % len(STUDY_COLOURS)], "dash": "dot", "width": 1},
            marker={"symbol": "star-open", "size": 12, "line": {"width": 2}},
            name=as_text(f"{model} (published)"),
            customdata=[f"{as_text(row.source)}<br>{as_text(row.data)}" for row in part.itertuples()],
            hovertemplate="%{customdata}<br>FID %{y:.2f}<extra></extra>",
            cliponaxis=False,
        )
    figure.update_xaxes(title_text="decoding steps T", tickmode="array", tickvals=sorted(frame["steps"].unique()))
    figure.update_xaxes(range=[frame["steps"].min() - 1, frame["steps"].max() + 1])
    return figure.update_yaxes(title_text="FID-50k on ImageNet-256 (published)")


def differences(frame: pd.DataFrame) -> go.Figure:
    """Differences of held-out distances with 95% intervals, from ``differences_frame``. Left of 0 the second is
    better. Paired ones are filled diamonds, unpaired ones open circles."""
    if frame.empty:
        return nothing("differences of held-out distances")
    figure = new_figure(height=150 + 46 * len(frame))
    # A line break keeps room for the plot on a narrow page.
    names = [f"{as_text(row.second)}<br>minus {as_text(row.first)}" for row in frame.itertuples()]
    for paired, colour, symbol in ((True, VERMILLION, "diamond"), (False, PURPLE, "circle-open")):
        rows = [index for index, value in enumerate(frame["is_paired"]) if value == paired]
        if not rows:
            continue
        part = frame.iloc[rows]
        figure.add_scatter(
            x=part["difference"],
            y=[names[index] for index in rows],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": part["high"] - part["difference"],
                "arrayminus": part["difference"] - part["low"],
                "thickness": 2,
                "width": 6,
            },
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
            name="paired noise" if paired else "not paired",
            customdata=[
                f"{row.difference:.4g} ± {row.standard_error:.2g}<br>95%: {row.low:.4g} to {row.high:.4g}"
                for row in part.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "dash": "dash"})
    figure.update_xaxes(title_text="difference,<br>below 0: better")
    return figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False, type="category")
