"""Every plot by view: its frame, its figure and how to read it. The dashboard and the report show these alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from dashboards import figures, frames, outcome_figures, progress_figures, progress_frames
from dashboards.published import STRATEGIES, published_frame
from dashboards.reader import Reader
from models.schedule import FAMILIES


@dataclass(frozen=True)
class Choice:
    """What a person looks at: one study, or several to compare, and the page's settings by name."""

    study: str = ""
    studies: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str) -> int | None:
        """A setting that is a whole number; None where it is missing or is not one."""
        text = self.settings.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None

    def one_of(self, name: str, allowed: Mapping[str, object]) -> str:
        """A setting that names one of `allowed`; the first of them where it does not."""
        chosen = self.settings.get(name, "")
        return chosen if chosen in allowed else next(iter(allowed))


@dataclass(frozen=True)
class Plot:
    """A plot: `frame` is what it shows (and what its CSV file holds), `draw` makes the figure of it."""

    name: str
    title: str
    reading: str
    frame: Callable[[Reader, Choice], pd.DataFrame]
    draw: Callable[[pd.DataFrame, Reader, Choice], go.Figure]

    def figure(self, reader: Reader, choice: Choice) -> go.Figure:
        return self.draw(self.frame(reader, choice), reader, choice)


def _schedule(frame: pd.DataFrame, reader: Reader, choice: Choice) -> go.Figure:
    if "iterate" not in choice.settings:  # a report: all that was decided at once
        return figures.schedules(pd.concat([frame, _published_schedules(reader, choice)]) if len(frame) else frame)
    iterates = frames.iterates_frame(reader.engine, choice.study)
    return figures.schedule_at(frame, iterates, choice.number("iterate"), _published_schedules(reader, choice))


def _published_schedules(reader: Reader, choice: Choice) -> pd.DataFrame:
    """Published strategies for the study's number of steps, in the form of ``frames.schedules_frame``."""
    steps = frames.num_steps(reader.engine, choice.study)
    return frames.as_frame(
        [
            (label, family, step, value)
            for label, schedule in STRATEGIES.items()
            if schedule.num_steps == steps
            for family in FAMILIES
            for step, value in enumerate(getattr(schedule, family))
        ],
        frames.SCHEDULE_COLUMNS,
    )


def _betas(reader: Reader, choice: Choice) -> pd.DataFrame:
    frame = frames.mask_ratio_frame(reader.engine, choice.study)
    return frame[frame["alpha"].notna() & frame["distance"].notna()]


TIMELINE = Plot(
    "timeline",
    "The alternation",
    "A line for each phase and round, a bar for each thing it did. Diamonds are decisions, with their gain: how far "
    "the distance fell below what was there before, measured in pairs (± one standard error).",
    lambda reader, choice: reader.timeline(choice.study),
    lambda frame, reader, choice: progress_figures.timeline(frame),
)
DISTANCE = Plot(
    "distance",
    "Distance over what was spent",
    "Each faint point is one measurement of the search, on seeds it may have fitted itself to; the thick line "
    "is the lowest confirmed distance so far, its squares the confirmations that lowered it, its band one standard "
    "error (pale lines: confirmations on other numbers of images, which do not compare); symbols with bars are "
    "from seeds the search never saw, and they alone are the outcome. Lower is better.",
    lambda reader, choice: reader.evaluations(choice.study),
    lambda frame, reader, choice: figures.distance_over_images(frame, choice.one_of("over", figures.SPENT)),
)
SCHEDULE = Plot(
    "schedules",
    "The schedule before and after",
    "One panel for each family of values, from the first decoding step to the last; grey and dashed is where "
    "the search began, the thick line is what it found. Ratios and choice temperatures end a step earlier: "
    "nothing is masked again after the last.",
    lambda reader, choice: frames.schedules_frame(reader.engine, choice.study),
    _schedule,
)
GRADIENTS = Plot(
    "gradients",
    "The gradient on the way",
    "Red: raising this value made images worse (the distance grows); blue: better. Beside it the same in units of its "
    "own standard error: pale there means noise, whatever its size.",
    lambda reader, choice: frames.gradients_frame(reader.engine, choice.study),
    lambda frame, reader, choice: figures.gradients(
        frame, choice.number("iterate"), narrow=bool(choice.settings.get("narrow"))
    ),
)
IMPORTANCE = Plot(
    "importance",
    "What the distance hangs on",
    "The mean size of each component of the gradient after its own noise is taken off: the longer the bar, the "
    "more this value of the schedule mattered on the way.",
    lambda reader, choice: frames.importance_frame(reader.engine, choice.study),
    lambda frame, reader, choice: figures.importance(frame),
)
DENSITIES = Plot(
    "densities",
    "The mask ratio in training",
    "How often a network was trained with each share of its tokens masked: the baseline's distribution, those "
    "that were tried, and the one that was chosen.",
    lambda reader, choice: frames.mask_ratio_frame(reader.engine, choice.study),
    lambda frame, reader, choice: figures.densities(frame),
)
PLANE = Plot(
    "plane",
    "The Beta candidates",
    "Each point is a network trained with Beta(alpha, beta); its number and colour are the distance under the "
    "schedule of that round, the dotted path is the order of the line search, and the ring is the choice. Points "
    "compare within a round.",
    _betas,
    lambda frame, reader, choice: figures.plane(frame),
)
COST = Plot(
    "cost",
    "Distance against the cost of an image",
    "Held-out distances (± one standard error). A colour is a study; a pentagon is its baseline, an open diamond the "
    "tuned schedule, a full one the tuned pair, a star the pair tuned for another T (joined by a full line). "
    "Milliseconds are those of sampling, decoding and features in the study's blocks, wherever they were measured; "
    "operations are counted. Further left is cheaper, further down is better.",
    lambda reader, choice: reader.outcomes(choice.studies or (choice.study,)),
    lambda frame, reader, choice: outcome_figures.cost(frame, choice.one_of("cost", outcome_figures.COSTS)),
)
PUBLISHED = Plot(
    "published",
    "What the papers published",
    "FID with Inception features on ImageNet-256, as printed in the AutoNAT and ENAT papers. Another metric and other "
    "data than the studies above, and nothing that was measured here.",
    lambda reader, choice: published_frame(),
    lambda frame, reader, choice: outcome_figures.published(frame),
)
COMPARISON = Plot(
    "comparison",
    "Best distance over images spent",
    "A line is a study's lowest confirmed distance so far; symbols with bars (one standard error) are its held-out "
    "distances: a pentagon the baseline, an open diamond the tuned schedule, a full one the tuned pair, a star the "
    "pair tuned for another T.",
    lambda reader, choice: reader.comparison(choice.studies),
    lambda frame, reader, choice: figures.compare(frame),
)
DIFFERENCES = Plot(
    "differences",
    "Differences of held-out distances",
    "With 95% confidence intervals. Paired: both were measured with the same labels and noise, so that what they share "
    "cancels. Below 0 the first-named is better.",
    lambda reader, choice: reader.differences(choice.studies or (choice.study,)),
    lambda frame, reader, choice: outcome_figures.differences(frame),
)
TASKS = Plot(
    "tasks",
    "Tasks by worker",
    "Each bar is one task: a training, or blocks of images. Crosses failed, stars were tried again.",
    lambda reader, choice: progress_frames.tasks_frame(reader.engine, choice.study),
    lambda frame, reader, choice: progress_figures.tasks(frame),
)
THROUGHPUT = Plot(
    "throughput",
    "Images per second",
    "Images of the results recorded in each stretch of time; trainings make none.",
    lambda reader, choice: progress_frames.throughput_frame(reader.engine, choice.study),
    lambda frame, reader, choice: progress_figures.throughput(frame),
)

VIEWS: dict[str, tuple[Plot, ...]] = {
    "study": (TIMELINE, DISTANCE),
    "schedule": (SCHEDULE, GRADIENTS, IMPORTANCE),
    "mask-ratio": (DENSITIES, PLANE),
    "images": (),
    "cost": (COST, PUBLISHED),
    "compare": (COMPARISON, DIFFERENCES),
    "tasks": (TASKS, THROUGHPUT),
}
PLOTS = {plot.name: plot for plots in VIEWS.values() for plot in plots}
# In a report, of one study: the comparison is not there.
REPORTED = (
    DISTANCE, SCHEDULE, DENSITIES, PLANE, GRADIENTS, IMPORTANCE, DIFFERENCES, COST, TIMELINE, TASKS, THROUGHPUT
)  # fmt: skip
