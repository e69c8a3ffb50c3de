"""Starting from what an earlier study tuned: `schedule: {study: NAME}` in a recipe, or `--from-study NAME`."""

from collections.abc import Callable
from typing import Any

from autonat.errors import UserError
from autonat.storage.store import Store
from models.schedule import FAMILIES, GenerationSchedule, resampled

# The schedule that a study of this name tuned, for so many steps; for its own number where that is None.
FindSchedule = Callable[[str, int | None], GenerationSchedule]


def tuned_schedule(store: Store, study: str, num_steps: int | None = None) -> GenerationSchedule:
    """The schedule of a finished study's tuned pair; of a front's, the one with the nearest number of steps (the
    smaller of two), interpolated over t/T where it is not the one wanted. Raises UserError where there is none."""
    row = store.study(study)
    if row.summary is None:
        raise UserError(f"study {study!r} is {row.state} and has tuned no schedule yet: finish it first")
    own = _schedule(row.summary["schedule"])
    tuned = [own, *(_schedule(point["schedule"]) for point in row.summary.get("front", []))]
    wanted = own.num_steps if num_steps is None else num_steps
    nearest = min(tuned, key=lambda schedule: (abs(schedule.num_steps - wanted), schedule.num_steps))
    return nearest if nearest.num_steps == wanted else resampled(nearest, wanted)


def _schedule(data: dict[str, Any]) -> GenerationSchedule:
    return GenerationSchedule(**{family: tuple(data[family]) for family in FAMILIES}, rule=data["rule"])


def with_schedule_found(recipe: Any, find: FindSchedule | None) -> Any:
    """A recipe's plain data with `schedule.study` replaced by the values it stands for, so that it stands alone.

    They take the place of a preset or values; `num_steps` and `rule` are the study's unless the recipe says otherwise.
    find: None where no database is at hand. Raises UserError where the study has no schedule.
    """
    schedule = recipe.get("schedule") if isinstance(recipe, dict) else None
    if not isinstance(schedule, dict) or "study" not in schedule:
        return recipe
    if find is None:
        raise UserError("schedule.study needs the database with that study: `autonat run` and `autonat plan` have one")
    study, num_steps = schedule["study"], schedule.get("num_steps")
    if not isinstance(study, str):
        raise UserError(f"schedule.study must be a study's name, got {study!r}")
    if num_steps is not None and (not isinstance(num_steps, int) or num_steps < 1):
        raise UserError(f"schedule.num_steps must be a whole number from 1 on, got {num_steps!r}")
    found = find(study, num_steps)
    rest = {key: value for key, value in schedule.items() if key not in ("study", "preset", "values", "interpolate")}
    values = {family: list(getattr(found, family)) for family in FAMILIES}
    own = {"num_steps": found.num_steps, "rule": found.rule, "values": values}
    return {**recipe, "schedule": {**own, **rest}}
