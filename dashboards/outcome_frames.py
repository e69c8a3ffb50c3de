"""What came out: held-out distances by cost, and differences between studies with confidence intervals.

As in ``dashboards.frames``: one read, nothing changed, an empty frame of the same columns where nothing is there.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from autonat.storage.tables import journal, results
from dashboards.frames import HELD_OUT, as_frame, evaluations_frame, find_study

OUTCOME_COLUMNS = {
    "study": "str",
    "role": "str",
    "mask_ratio": "str",
    "num_steps": "int64",
    "distance": "float64",
    "standard_error": "float64",
    "num_images": "int64",
    "metric": "str",
    "milliseconds": "float64",
    "tflops": "float64",
    "network": "str",
    "schedule": "str",
}
DIFFERENCE_COLUMNS = {
    "first": "str",
    "second": "str",
    "difference": "float64",
    "standard_error": "float64",
    "low": "float64",
    "high": "float64",
    "is_paired": "bool",
    "num_images": "int64",
}

Counted = Callable[[str, str], float | None]
# A study's evaluations, where they have been read already.
Told = Callable[[str], pd.DataFrame]


def _held_out(
    engine: sa.Engine, study: str, told: Told | None
) -> list[tuple[str, str, Any, dict[str, Any], dict[str, Any]]]:
    """(role, mask ratio's label, row, spec, result) of each held-out evaluation, the last of every role."""
    row = find_study(engine, study)
    if row is None:
        return []
    measured = told(study) if told else evaluations_frame(engine, study, HELD_OUT)
    outcomes = measured[(measured["phase"] == HELD_OUT) & measured["role"].notna()]
    roles = outcomes.drop_duplicates("role", keep="last").set_index("number")
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(journal.c.number, results.c.spec, results.c.result, results.c.seconds, results.c.images)
            .join(results, results.c.fingerprint == journal.c.fingerprint)
            .where(journal.c.study_id == row.id, journal.c.phase == HELD_OUT, results.c.kind == "EvaluationSpec")
            .order_by(journal.c.number)
        ).all()
    return [
        (
            str(roles.loc[entry.number, "role"]),
            str(roles.loc[entry.number, "mask_ratio"]),
            entry,
            json.loads(entry.spec),
            json.loads(entry.result),
        )
        for entry in rows
        if entry.number in roles.index
    ]


def outcomes_frame(
    engine: sa.Engine, names: Sequence[str], counted: Counted = lambda *_: None, told: Told | None = None
) -> pd.DataFrame:
    """Held-out distances with what one image costs, of several studies.

    counted: TFLOPs of one image from a network's and a schedule's JSON, or None where it is not known.

    Columns: study, role, mask_ratio, num_steps (T), distance, standard_error, num_images, metric; milliseconds of one
    worker for one image (measured: sampling, decoding and features); tflops of one image (counted), network and
    schedule (JSON).
    """
    found = []
    for name in names:
        for role, label, entry, spec, result in _held_out(engine, name, told):
            network = json.dumps(spec["training"]["network"], sort_keys=True)
            schedule = json.dumps(spec["schedule"], sort_keys=True)
            found.append(
                {
                    "study": name,
                    "role": role,
                    "mask_ratio": label,
                    "num_steps": len(spec["schedule"]["sampling_temperatures"]),
                    "distance": result["value"],
                    "standard_error": result["standard_error"],
                    "num_images": result["num_images"],
                    "metric": result["metric"],
                    "milliseconds": 1000 * entry.seconds / entry.images if entry.images else None,
                    "tflops": counted(network, schedule),
                    "network": network,
                    "schedule": schedule,
                }
            )
    return as_frame(found, OUTCOME_COLUMNS)


def differences_frame(engine: sa.Engine, names: Sequence[str], told: Told | None = None) -> pd.DataFrame:
    """Differences of held-out distances, second minus first: within each study to its baseline, and between the tuned
    pairs of every two studies. Distances with other metrics do not compare and are left out.

    Columns: first and second ("study: role"), difference, its standard_error, low and high (95% confidence, Student's
    t over blocks), is_paired (same seed, samples and blocks: the noise they share cancels), num_images.
    """
    found = []
    tuned: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in names:
        measured = {role: result for role, _, _, _, result in _held_out(engine, name, told)}
        start = measured.get("baseline")
        for role, result in measured.items():
            if start is not None and role != "baseline" and result["metric"] == start["metric"]:
                found.append(_difference(f"{name}: baseline", start, f"{name}: {role}", result))
        if "tuned pair" in measured:
            tuned[name] = (f"{name}: tuned pair", measured["tuned pair"])
    for (first, one), (second, other) in combinations(tuned.values(), 2):
        if one["metric"] == other["metric"]:
            found.append(_difference(first, one, second, other))
    return as_frame(found, DIFFERENCE_COLUMNS)


def _difference(first: str, one: Mapping[str, Any], second: str, other: Mapping[str, Any]) -> dict[str, Any]:
    from scipy.special import stdtrit

    shares, others = np.array(one.get("shares", ())), np.array(other.get("shares", ()))
    same = ("seed", "num_images", "metric")
    is_paired = len(shares) == len(others) > 1 and all(one[key] == other[key] for key in same)
    if is_paired:
        error = float((others - shares).std(ddof=1) / math.sqrt(len(shares)))
        freedom = len(shares) - 1
    else:
        error = math.hypot(one["standard_error"], other["standard_error"])
        freedom = max(1, min(len(shares), len(others)) - 1)  # the smaller one: never too narrow
    difference = other["value"] - one["value"]
    half = float(stdtrit(freedom, 0.975)) * error
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "standard_error": error,
        "low": difference - half,
        "high": difference + half,
        "is_paired": is_paired,
        "num_images": min(one["num_images"], other["num_images"]),
    }
