"""An analysis as one HTML file that needs nothing else, and its plot as a small PNG."""

import base64
import io
import math
from typing import TYPE_CHECKING, Any

from autonat.analyses.findings import Findings, Series, cells, headings
from autonat.analyses.published import Published

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Plotly's figure and the drawn PNG use the same colours: Okabe and Ito's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ findings.title }} · autonat</title>
<style>
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 62rem; color: #222; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
p { max-width: 46rem; }
.soft { color: #5a6068; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dce0; text-align: right; white-space: nowrap; }
th { color: #5a6068; font-size: .8125rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
img { max-width: 100%; image-rendering: pixelated; background: #fff; }
</style>
{% if figure %}<script>{{ plotly_js }}</script>{% endif %}
</head>
<body>
<h1>{{ findings.title }}</h1>
<p class="soft">{{ protocol }}</p>
<p>{{ findings.reading }}</p>
<p><strong>{{ findings.verdict }}</strong></p>
{{ figure }}
<div class="scroll"><table>
<thead><tr>{% for text in headings %}<th>{{ text }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for caption, png in pictures %}
<p class="soft">{{ caption }}</p>
<img alt="{{ caption }}" src="data:image/png;base64,{{ png }}">
{% endfor %}
<h2>Published</h2>
<p class="soft">Other data and another metric (FID on ImageNet): not measured here, and only orderings compare.</p>
<ul>{% for line in published.lines %}<li>{{ line }}</li>{% endfor %}</ul>
<p class="soft">{{ published.source }}</p>
</body>
</html>
"""


def as_html(findings: Findings, published: Published, protocol: str) -> str:
    """The page: what was measured and how, the plot, the table, the pictures, and what the papers say."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    drawn = ""
    if findings.series:
        drawn = figure(findings).to_html(full_html=False, include_plotlyjs=False, div_id="figure", default_width="100%")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        findings=findings,
        protocol=protocol,
        published=published,
        headings=headings(findings),
        rows=[cells(findings, row) for row in findings.rows],
        pictures=[(caption, base64.b64encode(png).decode()) for caption, png in findings.pictures],
        figure=Markup(drawn),
        plotly_js=Markup(get_plotlyjs() if drawn else ""),
    )


def figure(findings: Findings) -> "go.Figure":
    """The plot: both standard errors together as bars."""
    import html

    import plotly.graph_objects as go

    drawn = go.Figure()
    for number, series in enumerate(findings.series):
        drawn.add_scatter(
            x=list(series.x),
            y=[point.mean for point in series.y],
            error_y={"type": "data", "array": [point.error for point in series.y], "thickness": 1.5, "width": 5},
            mode="lines+markers" if _is_line(series) else "markers",
            line={"color": COLOURS[number % len(COLOURS)], "dash": "solid" if number < len(COLOURS) else "dot"},
            marker={"size": 9},
            name=html.escape(series.name, quote=False),
        )
    x_title, y_title = (html.escape(title, quote=False) for title in findings.axes)
    drawn.update_layout(template="simple_white", height=460, showlegend=len(findings.series) > 1)
    return drawn.update_xaxes(title_text=x_title).update_yaxes(title_text=y_title, rangemode="tozero")


def _is_line(series: Series) -> bool:
    return len(series.x) > 1 and not isinstance(series.x[0], str)


# The PNG, in pixels.
WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 20, 56
LEGEND_LINE = 16


def as_png(findings: Findings) -> bytes:
    """The plot as a PNG for a document; an analysis that is a picture gives that instead."""
    if findings.pictures:
        return findings.pictures[0][1]
    from PIL import Image, ImageDraw

    legend = LEGEND_LINE * len(findings.series) if len(findings.series) > 1 else 0
    canvas = Image.new("RGB", (WIDTH, HEIGHT + legend), "white")
    pen = ImageDraw.Draw(canvas)
    names = [str(x) for series in findings.series for x in series.x if isinstance(x, str)]
    places = {name: float(number) for number, name in enumerate(dict.fromkeys(names))}

    def at(x: Any) -> float:
        return places[x] if isinstance(x, str) else float(x)

    xs = [at(x) for series in findings.series for x in series.x]
    tops = [point.mean + point.error for series in findings.series for point in series.y]
    bottoms = [point.mean - point.error for series in findings.series for point in series.y]
    margin = 0.5 if places else 0.06 * (max(xs) - min(xs)) or 0.5
    x_low, x_high = min(xs) - margin, max(xs) + margin
    y_low, y_high = min(0.0, *bottoms), 1.05 * max(0.0, *tops) or 1.0

    def right(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    for tick in _ticks(y_low, y_high):
        pen.line((LEFT, down(tick), WIDTH - RIGHT, down(tick)), fill="#E3E5E8")
        pen.text((LEFT - 8, down(tick)), f"{tick:g}", fill="#222222", anchor="rm")
    pen.line((LEFT, TOP, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), fill="#222222")
    labels = [(places[name], name) for name in places] or [(tick, f"{tick:g}") for tick in _ticks(x_low, x_high)]
    for x, text in labels:
        pen.text((right(x), HEIGHT - BOTTOM + 6), text, fill="#222222", anchor="mt")
    pen.text((WIDTH / 2, HEIGHT - 12), findings.axes[0], fill="#222222", anchor="mb")
    pen.text((LEFT + 6, 4), findings.axes[1], fill="#222222", anchor="lt")
    for number, series in enumerate(findings.series):
        colour = COLOURS[number % len(COLOURS)]
        points = [(right(at(x)), down(point.mean)) for x, point in zip(series.x, series.y, strict=True)]
        if _is_line(series):
            pen.line([value for place in points for value in place], fill=colour, width=2)
        for (x, y), point in zip(points, series.y, strict=True):
            pen.line((x, down(point.mean - point.error), x, down(point.mean + point.error)), fill=colour, width=2)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        if legend:
            place = HEIGHT + LEGEND_LINE * number
            pen.rectangle((LEFT, place + 2, LEFT + 10, place + 12), fill=colour)
            pen.text((LEFT + 16, place + 7), series.name, fill="#222222", anchor="lm")
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers in a range."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
