"""Figures of the frames: each function takes a frame of ``dashboards.frames`` and gives a Plotly figure.

Nothing is read or measured here. An empty frame gives an empty figure that says so. Colours are Okabe and Ito's, which
people with any colour vision tell apart; symbols, dashes and widths repeat what a colour says.
"""

import html
import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from autonat.phases import is_front
from dashboards.frames import BASELINE, FOUND, HELD_OUT, SYMBOLS, component_label, mask_ratio_from
from models.schedule import FAMILIES

BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#7F7F7F"

IMAGES = "generated images spent"
# What a distance can be drawn over: the frame's column and the axis title.
SPENT = {
    "images": ("images_spent", IMAGES),
    "time": ("hours", "clock time since the study began (hours)"),
    "passes": ("passes_spent", "network passes over one image"),
}
# More points than this are thinned: a page shows no more, and stays quick with ten thousand evaluations.
MOST_POINTS = 1000
STEP = "decoding step t"
FAMILY_TITLES = {
    "mask_ratios": "mask ratio r(t)",
    "sampling_temperatures": "sampling temp. τ₁(t)",
    "choice_temperatures": "choice temp. τ₂(t)",
    "guidance_scales": "guidance w(t)",
}
# What a search measures for: colour and symbol.
STAGES = {
    "warm start": (SKY, "circle"),
    "gradient": (GREEN, "triangle-up"),
    "confirmation": (PURPLE, "square"),
    "mask ratio line": (ORANGE, "cross"),
    "other numbers of steps": (GREY, "x"),
}
ROLES = {
    BASELINE: (GREY, "pentagon"),
    "tuned schedule": (VERMILLION, "diamond-open"),
    "tuned pair": (VERMILLION, "diamond"),
    HELD_OUT: (VERMILLION, "diamond-x"),
}
OTHER_ROLE = (VERMILLION, "star-diamond-open")  # tuned for other numbers of steps
STUDY_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
STUDY_DASHES = ("solid", "dash", "dot", "dashdot")
HEIGHT = 420


def template(*, dark: bool = False) -> go.layout.Template:
    """The plain look of all figures, on a light or a dark page."""
    text, grid = ("#E6E6E6", "#3A3F46") if dark else ("#222222", "#E3E5E8")
    axis = {
        "automargin": True,
        "gridcolor": grid,
        "linecolor": text,
        "showgrid": True,
        "showline": True,
        "ticks": "outside",
        "tickcolor": text,
        "title": {"standoff": 8},
        "zeroline": False,
    }
    clear = "rgba(0,0,0,0)"
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": text},
            "paper_bgcolor": clear,
            "plot_bgcolor": clear,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "margin": {"l": 12, "r": 12, "t": 24, "b": 12},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        }
    )


def new_figure(figure: go.Figure | None = None, height: int = HEIGHT) -> go.Figure:
    figure = go.Figure() if figure is None else figure
    # autosize: the width is the page's.
    return figure.update_layout(template=template(), height=height, autosize=True)


def with_room_for_legend(figure: go.Figure) -> None:
    """Higher by what the legend takes where two of its entries fill a line: the plot itself keeps its height."""
    shown = {trace.legendgroup or trace.name for trace in figure.data if trace.showlegend is not False and trace.name}
    if len(shown) > 2:
        figure.update_layout(height=figure.layout.height + 22 * len(shown), legend={"maxheight": 0.9})


def nothing(what: str) -> go.Figure:
    figure = new_figure(height=160)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    return figure.add_annotation(text=f"no {what} recorded yet", showarrow=False, **place)


def as_text(value: object) -> str:
    """Plotly reads a small HTML in its texts: names from a database must stay text."""
    return html.escape(str(value), quote=False)


def metric_of(frame: pd.DataFrame) -> str:
    names = frame["metric"].dropna().unique()
    return as_text(names[0]) if len(names) == 1 else "distance"


def distance_axis(figure: go.Figure, values: pd.Series, title: str) -> None:
    """Logarithmic, as one bad candidate may be thirty times the good ones; a distance of 0 has no place there."""
    logarithmic = bool((values > 0).all())
    figure.update_yaxes(title_text=title, type="log" if logarithmic else "linear")
    if logarithmic:
        narrow = values.max() / values.min() < 8
        figure.update_yaxes(dtick="D1" if narrow else "D2", tickformat="~g")


def role_mark(role: object) -> tuple[str, str]:
    """Colour and symbol of a held-out point."""
    return ROLES.get(str(role), OTHER_ROLE)


def _errors(frame: pd.DataFrame) -> list[str]:
    return [f" ± {error:.3g}" if np.isfinite(error) else "" for error in frame["standard_error"]]


def _evaluation_hover(frame: pd.DataFrame) -> list[str]:
    return [
        f"{as_text(row.phase)}, round {row.round}: {as_text(row.purpose)}<br>{row.value:.4g}{error} "
        f"({row.num_images:,} images)<br>{as_text(row.mask_ratio)}<br>{row.images_spent:,} images spent"
        for row, error in zip(frame.itertuples(), _errors(frame), strict=True)
    ]


def _stage(purpose: str) -> str:
    """Few entries for the legend, as it shares the figure's height on a narrow page; the hover has the purpose."""
    if purpose.startswith("confirmation"):
        return "confirmation"
    return "mask ratio line" if purpose == "line" else purpose


def _stages(search: pd.DataFrame) -> pd.Series:
    stages = search["purpose"].map(_stage)
    return stages.mask(search["phase"].map(is_front).astype(bool), "other numbers of steps")


def thinned(part: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most about `most` rows: every k-th, and the lowest value of each k rows, so that no good one is lost."""
    if len(part) <= most:
        return part
    stride = -(-2 * len(part) // most)
    groups = np.arange(len(part)) // stride
    lowest = part["value"].reset_index(drop=True).groupby(groups).idxmin().to_numpy()
    return part.iloc[np.union1d(np.arange(0, len(part), stride), lowest)]


def distance_over_images(evaluations: pd.DataFrame, over: str = "images") -> go.Figure:
    """Distance (log scale) over what was spent, from ``evaluations_frame``; over: a key of SPENT.

    Traces: one a search stage (faint), "best so far" (a step line through the confirmations on most images
    each, with a band of one standard error and a mark at each of them that is the best until then;
    thin and pale the same of other sample counts, which do not compare), the held-out points with one standard error,
    and the baseline's held-out distance as a dashed line. Of many points a part is drawn, the best among them.
    """
    if evaluations.empty:
        return nothing("distances")
    column, title = SPENT[over]
    figure = new_figure(height=460)
    held_out = evaluations["phase"] == HELD_OUT
    search = evaluations[~held_out]
    # A legend's entry says how many points it stands for, as some are left out.
    most = MOST_POINTS / max(1, len(search))
    for stage, whole in search.groupby(_stages(search), sort=False):
        part = thinned(whole, max(50, round(most * len(whole))))
        colour, symbol = STAGES.get(str(stage), (GREY, "x"))
        figure.add_scatter(
            x=part[column],
            y=part["value"],
            mode="markers",
            name=as_text(stage) if len(part) == len(whole) else f"{as_text(stage)} ({len(part):,} of {len(whole):,})",
            marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.5},
            text=_evaluation_hover(part),
            hovertemplate="%{text}<extra></extra>",
        )
    end = evaluations[column].max()
    for rank, whole in enumerate(best_lines(search)):
        # A step line needs the points where it steps alone.
        part = whole[whole["best_so_far"] != whole["best_so_far"].shift()]
        x = [*part[column], end]
        best = np.array([*part["best_so_far"], part["best_so_far"].iloc[-1]])
        images = f"{whole['num_images'].iloc[0]:,} images each"
        if rank:
            figure.add_scatter(
                x=x,
                y=best,
                mode="lines",
                line={"color": SKY, "width": 1, "shape": "hv"},
                opacity=0.6,
                name="best with other sample counts",
                legendgroup="best with other sample counts",
                showlegend=rank == 1,
                hovertemplate=f"best so far %{{y:.4g}} ({images})<extra></extra>",
            )
            continue
        errors = np.array([*part["best_standard_error"], part["best_standard_error"].iloc[-1]])
        name = f"best so far ({images})"
        _band(figure, x, best, errors, name)
        figure.add_scatter(
            x=x,
            y=best,
            mode="lines+markers",
            line={"color": BLUE, "width": 3, "shape": "hv"},
            marker={"color": BLUE, "symbol": "square", "size": [8] * len(part) + [0]},
            name=name,
            legendgroup=name,
            text=[*_evaluation_hover(part), f"best so far {best[-1]:.4g}"],
            hovertemplate="%{text}<extra></extra>",
        )
    for role, part in evaluations[held_out].groupby("role", sort=False):
        colour, symbol = role_mark(role)
        if role == BASELINE:
            level = part["value"].iloc[-1]
            figure.add_scatter(
                x=[0, end],
                y=[level, level],
                mode="lines",
                line={"color": colour, "width": 1.5, "dash": "dash"},
                name="baseline level",
                legendgroup=BASELINE,
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=part[column],
            y=part["value"],
            error_y={"type": "data", "array": part["standard_error"], "thickness": 2, "width": 5},
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
            name=as_text(role),
            legendgroup=as_text(role),
            text=_evaluation_hover(part),
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_xaxes(title_text=title, rangemode="tozero")
    distance_axis(figure, evaluations["value"], metric_of(evaluations))
    return figure


def best_lines(search: pd.DataFrame) -> list[pd.DataFrame]:
    """The confirmations by metric and sample count, those on most images first: that is the line to look at. In the
    others luck counts for more, and a distance depends on its sample count, so that none of them compare."""
    groups = search[search["is_confirmation"]].groupby(["metric", "num_images"], sort=False)
    return sorted((group for _, group in groups), key=lambda group: -group["num_images"].iloc[0])


def _band(figure: go.Figure, x: list[float], middle: np.ndarray, errors: np.ndarray, group: str) -> None:
    """One standard error around a step line; the lower edge stays above 0, as the axis may be logarithmic."""
    if not np.isfinite(errors).all():
        return
    edges = (np.maximum(middle - errors, middle / 100), middle + errors)
    for edge, fill in zip(edges, (None, "tonexty"), strict=True):
        figure.add_scatter(
            x=x,
            y=edge,
            mode="lines",
            line={"width": 0, "shape": "hv"},
            fill=fill,
            fillcolor="rgba(0, 114, 178, 0.18)",
            name="± one standard error",
            legendgroup=group,
            showlegend=False,
            hoverinfo="skip",
        )


def compare(evaluations: pd.DataFrame) -> go.Figure:
    """Several studies over images spent, from ``comparison_frame``: best so far and, with error bars, held-out points.

    Studies with other metrics do not compare: the axis then says so.
    """
    if evaluations.empty:
        return nothing("distances")
    figure = new_figure(height=460)
    shown = []  # what the axis has to suit
    for index, (study, part) in enumerate(evaluations.groupby("study", sort=False)):
        colour = STUDY_COLOURS[index % len(STUDY_COLOURS)]
        dash = STUDY_DASHES[index // len(STUDY_COLOURS) % len(STUDY_DASHES)]
        held_out = part[(part["phase"] == HELD_OUT) & part["role"].notna()]
        named = False
        for whole in best_lines(part)[:1]:
            images = f"{whole['num_images'].iloc[0]:,} images each"
            shown.append(whole["best_so_far"])
            group = whole[whole["best_so_far"] != whole["best_so_far"].shift()]
            figure.add_scatter(
                x=[*group["images_spent"], part["images_spent"].max()],
                y=[*group["best_so_far"], group["best_so_far"].iloc[-1]],
                mode="lines",
                line={"color": colour, "width": 2, "shape": "hv", "dash": dash},
                name=as_text(study),
                legendgroup=as_text(study),
                showlegend=not named,
                hovertemplate=f"{as_text(study)}: best so far %{{y:.4g}} ({images})<extra></extra>",
            )
            named = True
        if len(held_out):
            shown.append(held_out["value"])
            figure.add_scatter(
                x=held_out["images_spent"],
                y=held_out["value"],
                error_y={"type": "data", "array": held_out["standard_error"], "thickness": 2, "width": 5},
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": [role_mark(role)[1] for role in held_out["role"]]},
                name=as_text(study),
                legendgroup=as_text(study),
                showlegend=not named,
                text=[f"{as_text(study)}<br>{text}" for text in _evaluation_hover(held_out)],
                hovertemplate="%{text}<extra></extra>",
            )
    several = evaluations["metric"].nunique() > 1
    figure.update_xaxes(title_text=IMAGES, rangemode="tozero")
    distance_axis(
        figure,
        pd.concat(shown) if shown else evaluations["value"],
        "distance, metrics that do not compare" if several else metric_of(evaluations),
    )
    return figure


def schedules(frame: pd.DataFrame) -> go.Figure:
    """The schedule before and after in four panels, one a family, from ``schedules_frame``."""
    if frame.empty:
        return nothing("schedule")
    titles = [FAMILY_TITLES[family] for family in FAMILIES]
    figure = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.2, horizontal_spacing=0.13)
    new_figure(figure, height=520)
    figure.update_annotations(font_size=13)
    for label, part in frame.groupby("label", sort=False):
        if label == BASELINE:
            line, marker = {"color": GREY, "dash": "dash", "width": 2}, {"symbol": "circle-open", "size": 8}
        elif label == FOUND:
            line, marker = {"color": VERMILLION, "width": 3}, {"symbol": "circle", "size": 8}
        elif "published" in str(label):
            line, marker = {"color": PURPLE, "dash": "dot", "width": 2}, {"symbol": "diamond-open", "size": 7}
        elif str(label).startswith("iterate"):
            line, marker = {"color": BLUE, "width": 2.5}, {"symbol": "square", "size": 8}
        else:
            line, marker = {"color": SKY, "width": 1.5}, {"symbol": "square", "size": 6}
        for index, family in enumerate(FAMILIES):
            values = part[part["family"] == family]
            figure.add_scatter(
                x=values["step"],
                y=values["value"],
                mode="lines+markers",
                line=line,
                marker=marker,
                name=as_text(label),
                legendgroup=as_text(label),
                showlegend=index == 0,
                hovertemplate=f"{as_text(label)}: {SYMBOLS[family]}(%{{x}}) = %{{y:.4g}}<extra></extra>",
                row=index // 2 + 1,
                col=index % 2 + 1,
            )
    last = int(frame["step"].max())
    # All panels span all steps: where a family ends one step earlier, that is seen.
    figure.update_xaxes(range=[-0.3, last + 0.3], tickmode="linear", tick0=0, dtick=max(1, -(-(last + 1) // 8)))
    figure.update_xaxes(title_text=STEP, row=2)
    figure.update_layout(legend={"y": 1.1})
    return figure


def schedule_at(frame: pd.DataFrame, iterates: pd.DataFrame, iterate: int | None, others: pd.DataFrame) -> go.Figure:
    """As ``schedules``, with one iterate of the descents, from ``iterates_frame``, in place of the rounds.

    others: schedules published elsewhere, in the form of ``schedules_frame``.
    """
    parts = [frame[frame["label"] == BASELINE]]
    if iterate is not None:
        here = iterates[iterates["iterate"] == iterate]
        label = f"iterate {iterate}"
        if here["phase"].map(is_front).any():
            label += f" ({here['phase'].iloc[0]})"
        parts.append(here.assign(label=label)[list(frame.columns)])
    parts += [others, frame[frame["label"] == FOUND]]
    return schedules(pd.concat([part for part in parts if len(part)] or [frame.iloc[:0]], ignore_index=True))


def densities(frame: pd.DataFrame) -> go.Figure:
    """Densities p(r) of the training mask ratio, from ``mask_ratio_frame``: baseline, candidates, what was chosen.

    A fixed ratio has no density and is drawn as an upright line.
    """
    if frame.empty:
        return nothing("mask ratio")
    figure = new_figure()
    ratio = np.linspace(0, 1, 403)[1:-1]  # the ends may be infinite
    inner = (ratio > 0.02) & (ratio < 0.98)
    # What matters most is drawn last, above the others; each distribution once.
    ranked = frame.assign(rank=frame["is_baseline"] * 1 + frame["is_chosen"] * 2)
    ranked = ranked.sort_values("rank", kind="stable").drop_duplicates("parameters", keep="last")
    curves = [(row, mask_ratio_from(json.loads(row.parameters))) for row in ranked.itertuples()]
    top = max([float(curve.density(ratio)[inner].max()) for _, curve in curves if curve.kind != "fixed"], default=1.0)
    named = False
    for row, curve in curves:
        name, legend, line = "candidates", not named, {"color": SKY, "width": 1}
        if row.is_chosen:
            name, legend, line = f"chosen: {row.label}", True, {"color": VERMILLION, "width": 3}
        elif row.is_baseline:
            name, legend, line = f"baseline: {row.label}", True, {"color": GREY, "width": 2, "dash": "dash"}
        else:
            named = True
        if curve.kind == "fixed":
            x, y = np.array([curve.ratio, curve.ratio]), np.array([0.0, 1.1 * top])
        else:
            x, y = ratio, curve.density(ratio)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line=line,
            name=as_text(name),
            legendgroup="candidates" if name == "candidates" else as_text(name),
            showlegend=legend,
            hovertemplate=f"{as_text(row.label)}<br>p(%{{x:.2f}}) = %{{y:.3g}}<extra></extra>",
        )
    figure.update_xaxes(title_text="mask ratio r (share of tokens)", range=[0, 1])
    figure.update_yaxes(title_text="density p(r)", range=[0, 1.1 * top])
    return figure


def plane(frame: pd.DataFrame) -> go.Figure:
    """The (alpha, beta) plane of the Beta candidates, both logarithmic, coloured by distance; from
    ``mask_ratio_frame``. The chosen one is ringed; rounds have symbols of their own. Points whose training was left off
    are crosses: their distances do not compare."""
    measured = frame[frame["alpha"].notna() & frame["distance"].notna()]
    if measured.empty:
        return nothing("Beta candidates")
    points, ended = measured[measured["ended_at_step"].isna()], measured[measured["ended_at_step"].notna()]
    figure = new_figure()
    if len(ended):
        figure.add_scatter(
            x=ended["alpha"],
            y=ended["beta"],
            mode="markers",
            marker={"color": GREY, "size": 11, "symbol": "x-thin-open", "line": {"width": 2}},
            customdata=[
                f"{as_text(row.label)}, round {row.round}<br>training left off at step {row.ended_at_step:,.0f}, "
                f"distance {row.distance:.4g} then"
                for row in ended.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
            name="left off",
        )
    symbols = ("circle", "square", "diamond", "triangle-up")
    places = ("top center", "bottom center", "middle right", "middle left")
    for index, (round_, part) in enumerate(points.groupby("round", sort=False)):
        if len(part) > 1:  # the path of the line search
            figure.add_scatter(
                x=part["alpha"],
                y=part["beta"],
                mode="lines",
                line={"color": GREY, "width": 1, "dash": "dot"},
                name=f"path of round {round_}",
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=part["alpha"],
            y=part["beta"],
            mode="markers+text",
            text=[f"{value:.3g}" for value in part["distance"]],
            textposition=places[index % len(places)],
            cliponaxis=False,
            marker={
                "color": part["distance"],
                "coloraxis": "coloraxis",
                # A later round may measure the same point again: both are seen.
                "size": max(8, 20 - 6 * index),
                "symbol": symbols[index % len(symbols)],
                "line": {"width": 1, "color": GREY},
            },
            customdata=[
                f"{as_text(row.label)}, round {row.round}<br>distance {row.distance:.4g}{error}"
                for row, error in zip(part.itertuples(), _errors(part), strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            name=f"round {round_}",
            showlegend=False,
        )
        if points["round"].nunique() > 1:
            # The legend cannot show a scale's colours and would be black: it gets markers of its own.
            marker = {"color": GREY, "size": 10, "symbol": symbols[index % len(symbols)]}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=f"round {round_}")
    chosen = points[points["is_chosen"]].drop_duplicates("label")
    if len(chosen):
        figure.add_scatter(
            x=chosen["alpha"],
            y=chosen["beta"],
            mode="markers",
            marker={"size": 27, "symbol": "circle-open", "color": VERMILLION, "line": {"width": 3}},
            name="chosen",
            showlegend=True,
            hoverinfo="skip",
        )
    for axis, column in (("xaxis", "alpha"), ("yaxis", "beta")):
        low, high = np.log10(measured[column].min()) - 0.2, np.log10(measured[column].max()) + 0.2
        values = sorted(measured[column].unique())
        figure.update_layout(
            {
                axis: {
                    "type": "log",
                    "title": {"text": f"{column} (log scale)"},
                    "range": [low, high],
                    "tickvals": values,
                    "ticktext": [f"{value:g}" for value in values],
                }
            }
        )
    return figure.update_layout(
        coloraxis={"colorscale": "Cividis", "colorbar": {"title": {"text": "distance"}, "thickness": 12}}
    )


def gradients(frame: pd.DataFrame, iterate: int | None = None, *, narrow: bool = False) -> go.Figure:
    """Heat maps over components and iterates, from ``gradients_frame``: the gradient, and beside it (on a narrow page
    below it) how many of its own standard errors it is away from 0, where there are any. `iterate` is framed."""
    if frame.empty:
        return nothing("gradients")
    last = frame.groupby("family")["step"].max()
    order = [component_label(family, step) for family in FAMILIES if family in last for step in range(last[family] + 1)]
    iterates = sorted(frame["iterate"].unique())

    def table(column: str) -> pd.DataFrame:
        return frame.pivot(index="component", columns="iterate", values=column).reindex(index=order, columns=iterates)

    values, errors = table("gradient"), table("standard_error")
    known = bool((errors.to_numpy() > 0).any())
    shape = (1, 1) if not known else (2, 1) if narrow else (1, 2)
    figure = make_subplots(
        *shape,
        shared_yaxes=not narrow,
        horizontal_spacing=0.16,
        vertical_spacing=0.12,
        subplot_titles=["gradient", "gradient / standard error"] if known else None,
    )
    new_figure(figure, height=shape[0] * max(320, 20 * len(order) + 130))
    hover = [
        [
            f"{value:.3g} ± {error:.3g}" if np.isfinite(error) else f"{value:.3g}"
            for value, error in zip(*lines, strict=True)
        ]
        for lines in zip(values.to_numpy(), errors.to_numpy(), strict=True)
    ]
    ratio = (values / errors.where(errors > 0)).to_numpy()
    panels = [(values.to_numpy(), "")] + ([(ratio, "SE")] if known else [])
    for index, (shown, unit) in enumerate(panels):
        row, column = index // shape[1] + 1, index % shape[1] + 1
        beside = {"x": 1.0 if column == shape[1] else 0.42, "xanchor": "left"}
        if shape[0] > 1:
            beside |= {"len": 0.46, "y": 0.78 - 0.56 * index}
        finite = np.abs(shown[np.isfinite(shown)])
        largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        if unit:
            largest = min(largest, 5.0)  # beyond five standard errors more is not more certain
        figure.add_heatmap(
            x=iterates,
            y=order,
            z=shown,
            customdata=hover,
            hovertemplate="%{y}, iterate %{x}<br>gradient %{customdata}<extra></extra>",
            colorscale="RdBu_r",
            zmin=-largest,
            zmax=largest,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": unit}, "thickness": 10, **beside},
            row=row,
            col=column,
        )
    if iterate is not None:
        figure.add_vrect(
            x0=iterate - 0.5, x1=iterate + 0.5, line={"color": VERMILLION, "width": 2}, row="all", col="all"
        )
    figure.update_xaxes(title_text="iterate of the descent", tickmode="linear", showgrid=False)
    if len(iterates) > 8:
        figure.update_xaxes(tickmode="auto")
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, dtick=1)
    figure.update_yaxes(title_text="schedule value", col=1)
    return figure


def importance(frame: pd.DataFrame) -> go.Figure:
    """Bars of the mean shrunk |gradient|, the most important value on top, from ``importance_frame``."""
    if frame.empty:
        return nothing("gradients with standard errors")
    figure = new_figure(height=max(260, 20 * len(frame) + 80))
    figure.add_bar(
        x=frame["importance"],
        y=frame["component"],
        orientation="h",
        marker_color=BLUE,
        hovertemplate="%{y}: %{x:.3g}<extra></extra>",
    )
    figure.update_xaxes(title_text="mean |gradient|, less its noise<br>(distance per coordinate unit)")
    figure.update_yaxes(title_text="schedule value", autorange="reversed", type="category", showgrid=False, dtick=1)
    return figure
