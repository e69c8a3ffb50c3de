"""A study in Optuna's own tables, so that ``optuna-dashboard`` and ``optuna.visualization`` open it.

Derived from the journal and rebuilt at will: each evaluation is a finished trial whose parameters are the schedule's
values (``mask_ratios_0``, ...) and, for a Beta, alpha and beta; trials come in the journal's order, and those that are
there are kept, so that mirroring again adds the new ones alone.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from autonat.errors import UserError
from autonat.storage.store import Store
from autonat.storage.tables import journal, results
from models.schedule import FAMILIES

NUMBER, SOURCE = "journal number", "autonat study"
# Wide enough for every value; what was searched within lies in the recipe.
RANGES = {
    "mask_ratios": (0.0, 1.0),
    "sampling_temperatures": (0.0, 1000.0),
    "choice_temperatures": (0.0, 1000.0),
    "guidance_scales": (-1000.0, 1000.0),
    "alpha": (1e-6, 1e6),
    "beta": (1e-6, 1e6),
}


def mirror(store: Store, name: str, to: Path) -> tuple[int, int]:
    """Bring the mirror of study `name` in the SQLite file `to` up to date; returns (trials added, trials there now).

    Raises UserError for a study that is not there, and a file that is no Optuna storage or holds another study of that
    name.
    """
    row = store.study(name)
    # Optuna is slow to import, and only this needs its storage.
    import optuna
    from optuna.exceptions import OptunaError

    if to.exists() and "studies" in _tables(to) and "trials" not in _tables(to):
        raise UserError(f"{to} holds autonat's own studies: give the mirror another file with --to")
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Which study this is: a deleted one may have had its name.
    source = f"{name} {row.created_at}"
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{to}", study_name=name, direction="minimize", load_if_exists=True
        )
        known = study.user_attrs.get(SOURCE)
        there = len(study.trials)
        if known not in (None, source) or (known is None and there):
            raise UserError(f"{to} holds another study {name!r}: delete the file, or give another with --to")
        study.set_user_attr(SOURCE, source)
        study.set_user_attr("recipe", row.recipe)
        after = study.trials[-1].user_attrs[NUMBER] if there else -1
        trials = [_trial(optuna, entry) for entry in _evaluations(store, row.id, after)]
        if trials:
            study.set_user_attr("metric", trials[-1].user_attrs["metric"])
        study.add_trials(trials)
    except (OptunaError, sa.exc.SQLAlchemyError, KeyError) as error:
        raise UserError(f"cannot mirror into {to}: {' '.join(str(error).split())}") from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    return len(trials), there + len(trials)


def _tables(file: Path) -> set[str]:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(file)))
    try:
        return set(sa.inspect(engine).get_table_names())
    except sa.exc.SQLAlchemyError as error:
        raise UserError(f"{file} is not a database: give the mirror another file with --to") from error
    finally:
        engine.dispose()


def _evaluations(store: Store, study_id: int, after: int) -> list[Any]:
    with store.engine.connect() as connection:
        return list(
            connection.execute(
                sa.select(journal, results.c.spec, results.c.result, results.c.seconds)
                .join(results, results.c.fingerprint == journal.c.fingerprint)
                .where(
                    journal.c.study_id == study_id,
                    journal.c.number > after,
                    results.c.kind == "EvaluationSpec",
                )
                .order_by(journal.c.number)
            )
        )


def _trial(optuna: Any, entry: Any) -> Any:
    spec, result = json.loads(entry.spec), json.loads(entry.result)
    mask_ratio = spec["training"]["mask_ratio"]
    values = {f"{family}_{step}": value for family in FAMILIES for step, value in enumerate(spec["schedule"][family])}
    if mask_ratio["kind"] == "beta":
        values |= {"alpha": mask_ratio["alpha"], "beta": mask_ratio["beta"]}
    moment: datetime = entry.created_at
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE,
        value=result["value"],
        params=values,
        distributions={name: _range(optuna, name) for name in values},
        user_attrs={
            NUMBER: entry.number,
            "phase": entry.phase,
            "round": entry.round,
            "purpose": entry.purpose,
            "mask ratio": mask_ratio,
            "standard error": result["standard_error"],
            "images": result["num_images"],
            "metric": result["metric"],
            "fingerprint": entry.fingerprint,
            "worker seconds": entry.seconds,
        },
    )
    # Optuna's times are local and without a zone, and only draw its timeline; the record's own time is kept.
    trial.datetime_start = trial.datetime_complete = moment.replace(tzinfo=None)
    return trial


def _range(optuna: Any, name: str) -> Any:
    low, high = RANGES[name.rsplit("_", 1)[0] if name not in RANGES else name]
    return optuna.distributions.FloatDistribution(low, high)
