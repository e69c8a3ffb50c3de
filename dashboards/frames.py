"""The data of every plot and table, by SQL, as pandas frames.

Each function reads the database once and changes nothing; a study that has recorded nothing yet, or that does not
exist, gives an empty frame with the same columns and types. Distances are in the units of the study's metric (lower is
better), standard errors are one standard deviation of the estimate, steps t count from 0, images are generated images.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from autonat.importance import importance
from autonat.metric_columns import COLUMNS, variety_line
from autonat.phases import is_front
from autonat.seed_gap import gap_line
from autonat.storage.ownership import is_driven
from autonat.storage.tables import journal, results, studies
from dashboards.database import OpenDatabase
from models.mask_ratio import (
    AnyMaskRatio,
    ArccosMaskRatio,
    BetaMaskRatio,
    FixedMaskRatio,
    TruncatedGaussianMaskRatio,
)
from models.schedule import FAMILIES, PRESETS, GenerationSchedule, components

SYMBOLS: dict[str, str] = {
    "mask_ratios": "r",
    "sampling_temperatures": "τ₁",
    "choice_temperatures": "τ₂",
    "guidance_scales": "w",
}

HELD_OUT = "held-out"
BASELINE = "baseline"
FOUND = "found"
ROLES = (BASELINE, "tuned schedule", "tuned pair")
# The summary's names of what has a role.
SUMMARY_KEYS = {BASELINE: "baseline", "tuned schedule": "tuned_schedule", "tuned pair": "tuned"}

STUDY_COLUMNS = {
    "name": "str",
    "state": "str",
    "error": "str",
    "metric": "str",
    "baseline": "float64",
    "baseline_standard_error": "float64",
    "tuned": "float64",
    "tuned_standard_error": "float64",
    "floor": "float64",
    "settled": "float64",
    "settled_standard_error": "float64",
    "images_spent": "int64",
    "evaluations": "int64",
    "trainings": "int64",
    "worker_seconds": "float64",
    "seconds": "float64",
    "created_at": "datetime64[us, UTC]",
    "updated_at": "datetime64[us, UTC]",
}
EVALUATION_COLUMNS = {
    "number": "int64",
    "phase": "str",
    "round": "int64",
    "purpose": "str",
    "kind": "str",
    "images_spent": "int64",
    "hours": "float64",
    "passes_spent": "int64",
    "value": "float64",
    "standard_error": "float64",
    "num_images": "int64",
    "metric": "str",
    "mask_ratio": "str",
    "is_confirmation": "bool",
    "best_so_far": "float64",
    "best_standard_error": "float64",
    "role": "str",
}
SCHEDULE_COLUMNS = {"label": "str", "family": "str", "step": "int64", "value": "float64"}
MASK_RATIO_COLUMNS = {
    "round": "int64",
    "label": "str",
    "alpha": "float64",
    "beta": "float64",
    "distance": "float64",
    "standard_error": "float64",
    "is_baseline": "bool",
    "is_chosen": "bool",
    "ended_at_step": "float64",
    "parameters": "str",
}
GRADIENT_COLUMNS = {
    "iterate": "int64",
    "phase": "str",
    "round": "int64",
    "iteration": "int64",
    "family": "str",
    "step": "int64",
    "component": "str",
    "gradient": "float64",
    "standard_error": "float64",
}
ITERATE_COLUMNS = {
    "iterate": "int64",
    "round": "int64",
    "iteration": "int64",
    "phase": "str",
    "mask_ratio": "str",
    "distance": "float64",
    "family": "str",
    "step": "int64",
    "value": "float64",
}
IMPORTANCE_COLUMNS = {"component": "str", "family": "str", "step": "int64", "importance": "float64"}
DECISION_COLUMNS = {
    "number": "int64",
    "phase": "str",
    "round": "int64",
    "purpose": "str",
    "mask_ratio": "str",
    "distance": "float64",
    "standard_error": "float64",
    "gain": "float64",
    "gain_standard_error": "float64",
    "images_spent": "int64",
}
SUMMARY_COLUMNS = {
    "what": "str",
    "distance": "float64",
    "standard_error": "float64",
    "num_images": "int64",
    "ratio": "float64",
}

FURTHER_COLUMNS = {
    "what": "str",
    "name": "str",
    "value": "float64",
    "deviation": "float64",
    "sampled_images": "int64",
    "reference_images": "int64",
}

# What is read of a study, so that databases of every version can be looked at.
STUDY = tuple(
    studies.c[name]
    for name in (
        "id", "name", "state", "error", "summary", "seconds", "created_at", "updated_at",
        "owner_host", "owner_pid", "owner_mark", "heartbeat_at",
    )
)  # fmt: skip

_MASK_RATIOS: dict[str, type[AnyMaskRatio]] = {
    "beta": BetaMaskRatio,
    "arccos": ArccosMaskRatio,
    "fixed": FixedMaskRatio,
    "truncated_gaussian": TruncatedGaussianMaskRatio,
}


def mask_ratio_from(parameters: Mapping[str, Any]) -> AnyMaskRatio:
    """The distribution p(r) of its recorded parameters. Raises ValueError for an unknown kind."""
    kind = parameters.get("kind")
    if kind not in _MASK_RATIOS:
        raise ValueError(f"unknown mask ratio {kind!r}, expected one of {', '.join(_MASK_RATIOS)}")
    return _MASK_RATIOS[kind](**parameters)


def component_label(family: str, step: int) -> str:
    """One value of a schedule in the papers' symbols: τ₁(2)."""
    return f"{SYMBOLS[family]}({step})"


def as_frame(rows: Sequence[Mapping[str, Any] | tuple[Any, ...]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a frame whose columns have these types whatever is in them, also without a row."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    for name, kind in columns.items():
        # A string column of missing values alone would come out as objects or floats.
        frame[name] = pd.to_datetime(frame[name], utc=True).astype(kind) if "UTC" in kind else frame[name].astype(kind)
    return frame


def tuned_for(num_steps: int) -> str:
    """The role of what such a phase found."""
    return f"tuned for T = {num_steps}"


def find_study(engine: sa.Engine, study: str) -> Any:
    """A study's row with what ``STUDY`` names and its recipe, or None."""
    with engine.connect() as connection:
        return connection.execute(sa.select(*STUDY, studies.c.recipe).where(studies.c.name == study)).first()


def _decisions(engine: sa.Engine, study: str) -> list[tuple[Any, dict[str, Any]]]:
    """Journal rows that carry a decision, in order, with its facts."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(journal.c.number, journal.c.phase, journal.c.round, journal.c.purpose, journal.c.decision)
            .join(studies, studies.c.id == journal.c.study_id)
            .where(studies.c.name == study, journal.c.decision.is_not(None))
            .order_by(journal.c.number)
        ).all()
    return [(row, json.loads(row.decision)) for row in rows]


def summary_of(row: Any) -> dict[str, Any]:
    """What a study ended with; empty while it has not."""
    return json.loads(row.summary) if row is not None and row.summary else {}


def _recipe(row: Any) -> dict[str, Any]:
    """The recipe where it is a JSON object, otherwise nothing: a plot's baseline is all that would be missing."""
    try:
        recipe = json.loads(row.recipe) if row is not None else {}
    except json.JSONDecodeError:
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _baseline_schedule(row: Any) -> dict[str, Any] | None:
    """The schedule the study starts from: the summary's, before that what the recipe says."""
    known = summary_of(row).get("baseline_schedule")
    if known:
        return dict(known)
    start = _recipe(row).get("schedule")
    if not isinstance(start, dict):
        return None
    try:
        rule = start.get("rule", "enat")
        if start.get("values"):
            schedule = GenerationSchedule(**start["values"], rule=rule)
        else:
            schedule = PRESETS[start.get("preset", "maskgit-cosine")](start["num_steps"], rule)
    except (KeyError, TypeError, ValueError):  # a recipe of another version; see _recipe
        return None
    return {family: list(getattr(schedule, family)) for family in FAMILIES} | {"rule": schedule.rule}


def _baseline_mask_ratio(row: Any) -> dict[str, Any] | None:
    known = summary_of(row).get("baseline_mask_ratio") or _recipe(row).get("mask_ratio")
    return dict(known) if isinstance(known, dict) else None


def _same_values(schedule: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    return other is not None and all(list(schedule[family]) == list(other[family]) for family in FAMILIES)


def studies_frame(engine: sa.Engine) -> pd.DataFrame:
    """All studies, oldest first.

    Columns: name; state (created, running, killed, interrupted, failed, finished); error; metric; baseline, tuned and
    floor with standard errors (held-out distances, missing while unfinished); settled (as the search measured what it
    last decided on, missing before and once there is a summary) with its standard error; images_spent (every result
    counted once); evaluations and whole trainings recorded; worker_seconds (the work of all its results) and seconds of
    running time; created_at and updated_at (UTC).
    """
    asked = (
        sa.select(journal.c.study_id, journal.c.fingerprint).where(journal.c.fingerprint.is_not(None)).distinct()
    ).subquery()
    # Trainings as far as a rung are parts of others; a spec is JSON with sorted keys, and this is the last.
    is_part = results.c.spec.contains('"until_step":') & ~results.c.spec.endswith('"until_step":null}')
    whole_training = (results.c.kind == "TrainSpec") & ~is_part
    counts = (
        sa.select(
            asked.c.study_id,
            sa.func.sum(results.c.images).label("images_spent"),
            sa.func.sum(results.c.seconds).label("worker_seconds"),
            sa.func.sum(sa.case((results.c.kind == "EvaluationSpec", 1), else_=0)).label("evaluations"),
            sa.func.sum(sa.case((whole_training, 1), else_=0)).label("trainings"),
        )
        .join(results, results.c.fingerprint == asked.c.fingerprint)
        .group_by(asked.c.study_id)
    ).subquery()
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(*STUDY, counts.c.images_spent, counts.c.worker_seconds, counts.c.evaluations, counts.c.trainings)
            .join(counts, counts.c.study_id == studies.c.id, isouter=True)
            .order_by(studies.c.id)
        ).all()
        # The last decision of each study that has no summary yet.
        last = (
            sa.select(journal.c.study_id, sa.func.max(journal.c.number).label("number"))
            .join(studies, studies.c.id == journal.c.study_id)
            .where(
                studies.c.summary.is_(None),
                journal.c.decision.is_not(None),
                journal.c.purpose.in_(("schedule", "mask ratio")),
                journal.c.phase.not_like("front%"),  # see `is_front`
            )
            .group_by(journal.c.study_id)
        ).subquery()
        decided = connection.execute(
            sa.select(journal.c.study_id, journal.c.decision).join(
                last, (last.c.study_id == journal.c.study_id) & (last.c.number == journal.c.number)
            )
        ).all()
        now = OpenDatabase(engine).now(connection)
    settled = {each.study_id: json.loads(each.decision) for each in decided}
    found = []
    for row in rows:
        summary = summary_of(row)

        def of(name: str, key: str = "value", summary: dict[str, Any] = summary) -> float | None:
            return (summary.get(name) or {}).get(key)

        found.append(
            {
                "name": row.name,
                "state": study_state(row, now),
                "error": row.error,
                "metric": summary.get("metric"),
                "baseline": of("baseline"),
                "baseline_standard_error": of("baseline", "standard_error"),
                "tuned": of("tuned"),
                "tuned_standard_error": of("tuned", "standard_error"),
                "floor": of("floor"),
                "settled": settled.get(row.id, {}).get("distance"),
                "settled_standard_error": settled.get(row.id, {}).get("standard_error"),
                # PostgreSQL sums integers to decimals.
                "images_spent": int(row.images_spent or 0),
                "evaluations": int(row.evaluations or 0),
                "trainings": int(row.trainings or 0),
                "worker_seconds": row.worker_seconds or 0.0,
                "seconds": row.seconds,
                "created_at": row.created_at,
                "updated_at": row.updated_at,
            }
        )
    return as_frame(found, STUDY_COLUMNS)


def study_state(row: Any, now: datetime) -> str:
    """As the store tells it: "running" without a living driver means killed. `now`: the database's clock."""
    return "killed" if row.state == "running" and not is_driven(row, now) else str(row.state)


@dataclass(frozen=True, slots=True)
class Measured:
    """A journal row that asked for something, and what of its result a plot needs. A row never changes, so whoever
    follows a running study reads only the later ones."""

    number: int
    phase: str
    round: int
    purpose: str
    asked_at: datetime
    fingerprint: str
    kind: str
    images: int
    seconds: float
    passes: int  # network passes over one image, summed over the images; 0 for a training
    value: float | None = None
    standard_error: float | None = None
    num_images: int = 0
    metric: str = ""
    mask_ratio: str = ""
    schedule: dict[str, Any] | None = None  # of a held-out row alone


def read_measured(engine: sa.Engine, study_id: int, after: int = -1) -> list[Measured]:
    """The requests of a study whose journal number is above `after`, in order."""
    measures = results.c.kind.in_(("EvaluationSpec", "ProbeSpec"))
    samples = results.c.kind.in_(("PopulationSpec", "MetricsSpec"))
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(
                journal.c.number,
                journal.c.phase,
                journal.c.round,
                journal.c.purpose,
                journal.c.created_at,
                journal.c.fingerprint,
                results.c.kind,
                results.c.images,
                results.c.seconds,
                # The texts are long: only those that are read come over.
                sa.case((measures | samples, results.c.spec)).label("spec"),
                sa.case((measures, results.c.result)).label("result"),
            )
            .join(results, results.c.fingerprint == journal.c.fingerprint)
            .where(journal.c.study_id == study_id, journal.c.number > after)
            .order_by(journal.c.number)
        ).all()
    return [_measured(row) for row in rows]


def _measured(row: Any) -> Measured:
    where = (row.number, row.phase, row.round, row.purpose, row.created_at, row.fingerprint, row.kind)
    if row.spec is None:
        return Measured(*where, row.images, row.seconds, 0)
    spec = json.loads(row.spec)
    spent = (row.images, row.seconds, row.images * _passes(spec["schedule"]))
    if row.result is None:
        return Measured(*where, *spent)
    result = json.loads(row.result)
    return Measured(
        *where,
        *spent,
        result["value"],
        result.get("standard_error"),
        result["num_images"],
        result["metric"],
        mask_ratio_from(spec["training"]["mask_ratio"]).label,
        spec["schedule"] if row.phase == HELD_OUT else None,
    )


def _passes(schedule: Mapping[str, Any]) -> int:
    """Network passes over one image: one a step, and one more where guidance is on."""
    scales = schedule["guidance_scales"]
    return len(scales) + sum(scale != 0 for scale in scales)


def evaluations_frame(
    engine: sa.Engine, study: str, phase: str | None = None, measured: Sequence[Measured] | None = None
) -> pd.DataFrame:
    """Every distance the study asked for, in order; with `phase` those of that phase alone.

    measured: the study's requests, where they have been read already (``read_measured``).

    Columns: number (in the journal), phase, round, purpose; kind ("evaluation", or "probe": the base of a gradient,
    with dithered mask counts and no standard error); images_spent (up to and with this row, every result counted
    once); hours (of clock time since the study was created, pauses too); passes_spent (network passes over one image,
    guided steps twice, as a plain sampler runs them); value, standard_error, num_images, metric; mask_ratio (label of
    the network's training distribution); is_confirmation (a search measurement for the study's own number of steps on
    a seed none of the candidates was chosen with); best_so_far (lowest such value up to here with the same metric and
    sample count, missing in other rows) with best_standard_error; role (held-out rows alone: "baseline", "tuned
    schedule", "tuned pair", "tuned for T = N" with another number of steps, or "held-out" where that cannot be told;
    missing where it is no outcome).
    """
    row = find_study(engine, study)
    if row is None:
        return as_frame([], EVALUATION_COLUMNS)
    if measured is None:
        measured = read_measured(engine, row.id)
    schedule, mask_ratio = _baseline_schedule(row), _baseline_mask_ratio(row)
    baseline_label = mask_ratio_from(mask_ratio).label if mask_ratio else None
    found: list[tuple[Any, ...]] = []
    counted: set[str] = set()
    taken: set[str] = set()  # a search that changes nothing reports the same pair as baseline and as outcome
    best: dict[tuple[str, int], tuple[float, float | None]] = {}
    images = passes = 0
    for entry in measured:
        if entry.fingerprint not in counted:
            counted.add(entry.fingerprint)
            images += entry.images
            passes += entry.passes
        if entry.value is None or phase not in (None, entry.phase):
            continue
        held_out = entry.phase == HELD_OUT
        # A line of the mask ratio search has a seed of its own as well: the schedule was tuned with others.
        confirms = (
            not held_out
            and not is_front(entry.phase)
            and entry.kind == "EvaluationSpec"
            and (entry.purpose == "line" or entry.purpose.startswith("confirmation"))
        )
        role = None
        if held_out and schedule and _steps_of(entry.schedule) not in (0, _steps_of(schedule)):
            role = tuned_for(_steps_of(entry.schedule))
        elif held_out:
            is_start = entry.mask_ratio == baseline_label and _same_values(entry.schedule or {}, schedule)
            first = 0 if is_start else 1 if entry.mask_ratio == baseline_label else 2
            free = [each for each in ROLES[first:] if each not in taken]
            if not (baseline_label and schedule):
                role = HELD_OUT
            elif free:  # else it is the tuned pair once more, for the gap to what the search saw: no outcome
                role = free[0]
                taken.add(role)
        group = (entry.metric, entry.num_images)
        if confirms:
            best[group] = min(
                best.get(group, (float("inf"), None)), (entry.value, entry.standard_error), key=lambda each: each[0]
            )
        found.append(
            (
                entry.number,
                entry.phase,
                entry.round,
                entry.purpose,
                "evaluation" if entry.kind == "EvaluationSpec" else "probe",
                images,
                _hours(row.created_at, entry.asked_at),
                passes,
                entry.value,
                entry.standard_error,
                entry.num_images,
                entry.metric,
                entry.mask_ratio,
                confirms,
                *(best[group] if confirms else (None, None)),
                role,
            )
        )
    return as_frame(found, EVALUATION_COLUMNS)


def _steps_of(schedule: Mapping[str, Any] | None) -> int:
    """T; 0 where there is none."""
    return len(schedule["sampling_temperatures"]) if schedule else 0


def _hours(start: datetime, end: datetime) -> float:
    if (start.tzinfo is None) != (end.tzinfo is None):  # SQLite hands its times back without a zone
        start, end = start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)
    return (end - start).total_seconds() / 3600


def comparison_frame(engine: sa.Engine, names: Sequence[str]) -> pd.DataFrame:
    """The evaluations of several studies below each other, in the order of `names`, with a first column `study`."""
    return below_each_other({name: evaluations_frame(engine, name) for name in names})


def below_each_other(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Evaluations by study as one frame with a first column `study`."""
    named = []
    for name, part in parts.items():
        part = part.copy(deep=False)
        part.insert(0, "study", pd.Series([name] * len(part), index=part.index, dtype="str"))
        named.append(part)
    return pd.concat(named, ignore_index=True) if named else as_frame([], {"study": "str", **EVALUATION_COLUMNS})


def schedules_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """The baseline's schedule and each that was decided on, in order, in long form.

    Columns: label ("baseline", "round N", and last "found": the summary's schedule, while unfinished the last one that
    was decided on), family, step, value. A round's schedule that the alternation turned down stays a round's.
    """
    row = find_study(engine, study)
    decided = [
        (f"round {entry.round}", facts["schedule"])
        for entry, facts in _decisions(engine, study)
        if entry.purpose == "schedule" and not is_front(entry.phase)
    ]
    final = summary_of(row).get("schedule") or (decided[-1][1] if decided else None)
    if final:
        decided = [(label, schedule) for label, schedule in decided if not _same_values(schedule, final)]
        decided.append((FOUND, final))
    baseline = _baseline_schedule(row)
    labelled = ([(BASELINE, baseline)] if baseline else []) + decided
    seen: dict[str, int] = {}
    found = []
    for label, schedule in labelled:
        seen[label] = seen.get(label, 0) + 1
        unique = label if seen[label] == 1 else f"{label} ({seen[label]})"
        found += [
            {"label": unique, "family": family, "step": step, "value": value}
            for family in FAMILIES
            for step, value in enumerate(schedule[family])
        ]
    return as_frame(found, SCHEDULE_COLUMNS)


def mask_ratio_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """The training mask ratio's distributions: the baseline first, then the candidates in the order they were measured.

    Columns: round (0 for the baseline), label, alpha and beta (missing unless it is a Beta), distance and
    standard_error (missing for the baseline's own row), is_baseline, is_chosen (what the study has settled on, last),
    ended_at_step (training steps after which a point was left off at a rung, where it was: its distance is of then),
    parameters (JSON). Distances compare within a round: one seed and one schedule. A round that is still being
    searched shows what has been measured so far.
    """
    row = find_study(engine, study)
    found: list[dict[str, Any]] = []
    chosen: dict[str, Any] | None = None

    def text_of(parameters: dict[str, Any]) -> str:
        # 6 and 6.0 are one distribution.
        plain = {key: value if isinstance(value, str) else float(value) for key, value in parameters.items()}
        return json.dumps(plain, sort_keys=True)

    def add(
        round_: int,
        parameters: dict[str, Any],
        distance: float | None,
        error: float | None,
        ended_at_step: int | None = None,
    ) -> None:
        found.append(
            {
                "round": round_,
                "label": mask_ratio_from(parameters).label,
                "alpha": parameters.get("alpha"),
                "beta": parameters.get("beta"),
                "distance": distance,
                "standard_error": error,
                "is_baseline": distance is None,
                "is_chosen": False,
                "ended_at_step": ended_at_step,
                "parameters": text_of(parameters),
            }
        )

    baseline = _baseline_mask_ratio(row)
    if baseline:
        add(0, baseline, None, None)
    decided_rounds = set()
    for entry, facts in _decisions(engine, study):
        if entry.purpose == "mask ratio":
            decided_rounds.add(entry.round)
            chosen = facts["mask_ratio"]
            for candidate in facts["candidates"]:
                measured = (candidate["distance"], candidate["standard_error"], candidate.get("ended_at_step"))
                add(entry.round, candidate["mask_ratio"], *measured)
    for round_, parameters, distance, error in _measured_lines(engine, row):
        if round_ not in decided_rounds:
            add(round_, parameters, distance, error)
    chosen = summary_of(row).get("mask_ratio") or chosen
    if chosen:
        for candidate in found:
            candidate["is_chosen"] = candidate["parameters"] == text_of(chosen)
    return as_frame(found, MASK_RATIO_COLUMNS)


def _measured_lines(engine: sa.Engine, row: Any) -> list[tuple[int, dict[str, Any], float, float]]:
    """(round, parameters, distance, standard error) of the mask ratio search's measurements."""
    if row is None:
        return []
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(journal.c.round, results.c.spec, results.c.result)
            .join(results, results.c.fingerprint == journal.c.fingerprint)
            .where(
                journal.c.study_id == row.id,
                journal.c.phase == "mask ratio",
                journal.c.purpose == "line",
                results.c.kind == "EvaluationSpec",
            )
            .order_by(journal.c.number)
        ).all()
    return [
        (entry.round, json.loads(entry.spec)["training"]["mask_ratio"], result["value"], result["standard_error"])
        for entry in rows
        for result in [json.loads(entry.result)]
    ]


def gradients_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """Every gradient of a descent, one row a component.

    Columns: iterate (counted over the whole study from 0), phase, round, iteration (within its descent), family, step,
    component (label), gradient (change of the distance per unit of the searched coordinate) and standard_error
    (missing for the published search, which has none).
    """
    found = []
    iterate = 0
    for entry, facts in _decisions(engine, study):
        if entry.purpose != "gradient":
            continue
        gradient = facts["gradient"]
        errors = facts.get("gradient_standard_errors") or [None] * len(gradient)
        places = components(len(facts["schedule"]["sampling_temperatures"]))
        found += [
            {
                "iterate": iterate,
                "phase": entry.phase,
                "round": entry.round,
                "iteration": facts["iteration"],
                "family": family,
                "step": step,
                "component": component_label(family, step),
                "gradient": value,
                "standard_error": error,
            }
            for (family, step), value, error in zip(places, gradient, errors, strict=True)
        ]
        iterate += 1
    return as_frame(found, GRADIENT_COLUMNS)


def importance_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """How much the distance hangs on each value of the schedule, the most important first.

    Columns: component (label), family, step, importance: the mean over iterates of |gradient| max(0, 1 - SE²/g²), as
    the descent shrinks it, so that noise alone counts nothing. Gradients without standard errors and those for other
    numbers of steps do not count (``autonat.importance``, as `autonat show` tells it).
    """
    weights = importance({"phase": entry.phase, **facts} for entry, facts in _decisions(engine, study))
    return as_frame(
        [(component_label(each.family, each.step), each.family, each.step, each.size) for each in weights],
        IMPORTANCE_COLUMNS,
    )


def decisions_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """What the searches settled, gradients left out.

    Columns: number, phase, round, purpose, mask_ratio (label), distance, standard_error (missing for a mask ratio),
    gain with its standard_error (paired difference to the incumbent, mask ratios alone), images_spent (as the search
    counts its budget: everything asked for).
    """
    found = [
        {
            "number": entry.number,
            "phase": entry.phase,
            "round": entry.round,
            "purpose": entry.purpose,
            "mask_ratio": mask_ratio_from(facts["mask_ratio"]).label,
            "distance": facts["distance"],
            "standard_error": facts.get("standard_error"),
            "gain": facts.get("gain"),
            "gain_standard_error": facts.get("gain_standard_error"),
            "images_spent": facts["spent_images"],
        }
        for entry, facts in _decisions(engine, study)
        if entry.purpose in ("schedule", "mask ratio")
    ]
    return as_frame(found, DECISION_COLUMNS)


def remarks(engine: sa.Engine, study: str) -> str | None:
    """What is to be said of a study's outcome, as far as it has a summary: held-out against search-time distance, and
    whether variety was lost."""
    summary = summary_of(find_study(engine, study))
    lines = [line for line in (gap_line(summary), variety_line(summary)) if line is not None]
    return " ".join(lines).replace("+-", "±") or None


def summary_frame(engine: sa.Engine, study: str, evaluations: pd.DataFrame | None = None) -> pd.DataFrame:
    """The held-out outcome: as summarised, or, while unfinished, what of it has been measured.

    evaluations: the study's ``evaluations_frame``, where it has been read already.

    Columns: what ("baseline", "tuned schedule", "tuned pair", "tuned for T = N" with other numbers of steps, "floor":
    real test images against real training images), distance, standard_error, num_images, ratio (to the baseline's).
    """
    row = find_study(engine, study)
    summary = summary_of(row)
    known: dict[str, dict[str, Any]] = {}
    if summary:
        known = {what: summary[key] for what, key in SUMMARY_KEYS.items() if summary.get(key)}
        own = _steps_of(summary.get("schedule"))
        others = [point for point in summary.get("front") or () if point["num_steps"] != own]
        known |= {tuned_for(point["num_steps"]): point for point in others}
        if summary.get("floor"):
            known["floor"] = summary["floor"]
    elif row is not None:
        if evaluations is None:
            evaluations = evaluations_frame(engine, study, HELD_OUT)
        others = sorted(set(evaluations["role"].dropna()) - {*ROLES, HELD_OUT}, key=lambda role: int(role.split()[-1]))
        for what in (*ROLES, *others):
            of_role = evaluations[evaluations["role"] == what]
            if len(of_role):
                known[what] = of_role.iloc[-1][["value", "standard_error", "num_images"]].to_dict()
        with engine.connect() as connection:
            features = connection.execute(
                sa.select(results.c.result)
                .join(journal, journal.c.fingerprint == results.c.fingerprint)
                .where(journal.c.study_id == row.id, results.c.kind == "FeatureSpec")
                .order_by(journal.c.number)
            ).scalar()
        features_recipe = _recipe(row).get("features")
        from_file = features_recipe.get("found") if isinstance(features_recipe, dict) else None
        if from_file and from_file.get("floor"):  # a feature network that was trained before the study
            known["floor"] = from_file["floor"]
        if features:
            facts = json.loads(features)
            known["floor"] = {
                "value": facts["floor"],
                "standard_error": facts["floor_standard_error"],
                "num_images": facts["floor_images"],
            }
    baseline = known.get(BASELINE, {}).get("value")
    return as_frame(
        [
            {
                "what": what,
                "distance": entry["value"],
                "standard_error": entry.get("standard_error"),
                "num_images": entry["num_images"],
                "ratio": entry["value"] / baseline if baseline else None,
            }
            for what, entry in known.items()
        ],
        SUMMARY_COLUMNS,
    )


def further_metrics_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """What the recipe's `metrics` say of the held-out images, from the summary.

    Columns: what (a role), name ("KID", "precision", ...), value, deviation (over subsets or splits, missing where
    there are none), sampled_images and reference_images (generated and real ones whose features were compared).
    """
    metrics = summary_of(find_study(engine, study)).get("metrics") or {}
    found = []
    for what, pair in SUMMARY_KEYS.items():
        entry = metrics.get(pair) or {}
        values = entry.get("values", {})
        for name, key, deviates, _ in COLUMNS:
            value = values.get(f"{key}_mean" if deviates else key)
            if value is not None:
                images = (entry["sampled_images"], entry["reference_images"])
                found.append((what, name, value, values.get(f"{key}_std"), *images))
    return as_frame(found, FURTHER_COLUMNS)


def iterates_frame(engine: sa.Engine, study: str) -> pd.DataFrame:
    """The schedule at every gradient of the study's descents, in long form.

    Columns: iterate (as in ``gradients_frame``), round, iteration, phase, mask_ratio (label), distance (of the base,
    on the gradient's own noise), family, step, value.
    """
    found: list[tuple[Any, ...]] = []
    iterate = 0
    for entry, facts in _decisions(engine, study):
        if entry.purpose != "gradient":
            continue
        label = mask_ratio_from(facts["mask_ratio"]).label if "mask_ratio" in facts else None
        where = (iterate, entry.round, facts["iteration"], entry.phase, label, facts.get("distance"))
        found += [
            (*where, family, step, value) for family in FAMILIES for step, value in enumerate(facts["schedule"][family])
        ]
        iterate += 1
    return as_frame(found, ITERATE_COLUMNS)


def num_steps(engine: sa.Engine, study: str) -> int | None:
    """T of a study's schedule, None where it is not known."""
    schedule = _baseline_schedule(find_study(engine, study))
    return _steps_of(schedule) or None
