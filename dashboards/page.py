"""The report's page as a Jinja template, in Python so that it is installed wherever the package is."""

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{# Whatever gets into this page, it talks to nobody. #}
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ study.name }} · autonat</title>
<style>
:root { --page: #ffffff; --text: #222222; --soft: #5a6068; --line: #d9dce0; --panel: #f5f6f8; --accent: #0072b2;
        --bad: #b03a00; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16191d; --text: #e6e6e6; --soft: #a4abb3; --line: #3a3f46; --panel: #1f2328; --accent: #56b4e9;
          --bad: #ff9a66; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 62rem; background: var(--page); color: var(--text);
       font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.state { display: inline-block; padding: 0 .6em; border: 1px solid currentColor; border-radius: 1em;
         font-size: .875rem; color: var(--accent); }
.state.failed, .state.killed, .state.interrupted { color: var(--bad); }
.note { padding: .6rem .8rem; background: var(--panel); border-left: 4px solid var(--accent); max-width: none; }
.note.failed, .note.killed, .note.interrupted { border-color: var(--bad); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem 1.2rem;
           margin: 1rem 0; }
dl.facts dt { color: var(--soft); font-size: .8125rem; }
dl.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dl.facts div:first-child { grid-column: span 2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .35rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .8125rem; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.left, th.left { text-align: left; }
tr.outcome td { font-weight: 600; }
pre { overflow-x: auto; padding: .8rem; background: var(--panel); font-size: .8125rem; line-height: 1.4;
      white-space: pre-wrap; }
figure { margin: 1rem 0; }
figure img { width: 100%; max-width: 34rem; image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .875rem; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--accent); }
.figure { margin: .6rem 0; min-width: 0; }
@media (max-width: 30rem) {
  th, td { padding: .3rem .35rem; }
  td:first-child { white-space: normal; }
  table, th { font-size: .8125rem; }
}
@media print { body { max-width: none; } }
</style>
{% if has_figures %}
<script>{{ plotly_js }}</script>
{% endif %}
</head>
<body>
<header>
<h1>{{ study.name }}</h1>
<p><span class="state {{ study.state }}">{{ study.state }}</span>
<span class="soft">a study of autonat: generation schedule and training mask ratio, tuned together</span></p>
{% if state_note %}
<p class="note {{ study.state }}">{{ state_note }}</p>
{% endif %}
{% if study.error %}
<pre>{{ study.error }}</pre>
{% endif %}
<dl class="facts">
<div><dt>metric (lower is better)</dt><dd>{{ metric or "nothing measured yet" }}</dd></div>
<div><dt>images generated</dt><dd>{{ images_spent | count }}</dd></div>
<div><dt>evaluations</dt><dd>{{ num_evaluations | count }}</dd></div>
<div><dt>networks trained</dt><dd>{{ trainings | count }}</dd></div>
<div><dt>running time</dt><dd>{{ study.seconds | duration }}</dd></div>
{% if test_accuracy is not none %}
<div><dt>feature network's test accuracy</dt><dd>{{ "%.1f" | format(100 * test_accuracy) }}%</dd></div>
{% endif %}
</dl>
</header>
<main>
<section>
<h2>Outcome</h2>
{% if summary %}
<p class="soft">Distance ± one standard error, on seeds the search never saw. The floor is the distance of real test
images to real training images. The ratio is to the baseline.{% if not study.summary %} Not complete yet.{% endif %}</p>
<div class="scroll"><table>
<thead><tr><th>what</th><th>distance</th><th>images</th><th>ratio</th>
{% for name in further_names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in summary %}
<tr{% if row.what == "tuned pair" %} class="outcome"{% endif %}>
<td>{{ row.what }}</td><td>{{ row.distance | estimate(row.standard_error) }}</td>
<td>{{ row.num_images | count }}</td><td>{{ row.ratio | number }}</td>
{% for cell in further_cells.get(row.what, [missing] * further_names | length) %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if further_caption %}
<p class="soft">{{ further_caption }}</p>
{% endif %}
{% if remarks %}
<p class="soft">{{ remarks }}</p>
{% endif %}
{% else %}
<p>Nothing has been measured on held-out seeds yet.</p>
{% endif %}
</section>
<section>
<h2>The schedule {{ "found" if study.state == "finished" else "found so far" }}</h2>
{% if schedule %}
<div class="scroll"><table>
<thead><tr><th>step t</th>{% for title in schedule.titles %}<th>{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for step, values in schedule.rows %}
<tr><td>{{ step }}</td>{% for value in values %}<td>{{ value | number(4) }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>No schedule has been decided on yet.</p>
{% endif %}
</section>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% if section.figure %}
<p class="soft">{{ section.reading }}</p>
<div class="figure">{{ section.figure }}</div>
{% else %}
<p>Nothing recorded{{ " yet" if study.state != "finished" }}.</p>
{% endif %}
</section>
{% endfor %}
{% if decisions %}
<section>
<h2>Decisions</h2>
<p class="soft">What the searches settled, in order. A gain is the paired difference to the incumbent on one seed.</p>
<div class="scroll"><table>
<thead><tr><th class="left">round</th><th class="left">decided</th><th class="left">mask ratio</th><th>distance</th>
<th>gain</th><th>images spent</th></tr></thead>
<tbody>
{% for row in decisions %}
<tr><td>{{ row.round }}</td><td class="left">{{ row.purpose }}</td><td class="left">{{ row.mask_ratio }}</td>
<td>{{ row.distance | estimate(row.standard_error) }}</td><td>{{ row.gain | estimate(row.gain_standard_error) }}</td>
<td>{{ row.images_spent | count }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
{% endif %}
{% if grids %}
<section>
<h2>Samples</h2>
{% for caption, png in grids %}
<figure><img src="data:image/png;base64,{{ png }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</section>
{% endif %}
<section>
<h2>Provenance</h2>
<p>Study created {{ study.created_at | moment }}, last changed {{ study.updated_at | moment }}; report written
{{ written_at | moment }}. Versions of the installation that wrote this report:</p>
<p class="soft">{{ python }}{% for package, version in versions %}, {{ package }} {{ version }}{% endfor %}.</p>
<details><summary>Recipe</summary><pre>{{ recipe }}</pre></details>
</section>
</main>
{% if has_figures %}
<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>
<script>
(() => {
  const templates = {light: {{ light }}, dark: {{ dark }}};
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.querySelectorAll(".js-plotly-plot").forEach(
    plot => Plotly.relayout(plot, {template: dark.matches ? templates.dark : templates.light}));
  dark.addEventListener("change", paint);
  if (dark.matches) paint();
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    // A finger that drags means to scroll the page.
    if (matchMedia("(pointer: coarse)").matches) Plotly.relayout(plot, {dragmode: false});
    // On a narrow screen a legend has many lines, which are not the plot's to give.
    const shown = plot.data.filter(trace => trace.showlegend !== false && trace.name);
    const entries = new Set(shown.map(trace => trace.legendgroup ?? trace.name)).size;
    if (entries > 2 && matchMedia("(max-width: 34rem)").matches) {
      const height = plot.layout.height + 22 * entries;
      plot.style.height = plot.parentElement.style.height = height + "px";
      Plotly.relayout(plot, {height, "legend.maxheight": 0.9});
    }
  }
})();
</script>
{% endif %}
</body>
</html>
"""
