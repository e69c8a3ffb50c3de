"""What a finished study began with and ended at, to be measured or exported again."""

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autonat.config import Recipe
from autonat.errors import UserError
from autonat.recipe_files import describe
from autonat.search.alternation import start_of
from autonat.search.program import Laboratory, Pair
from autonat.specs import TrainSpec
from autonat.storage.store import StudyRow
from models.mask_ratio import AnyMaskRatio
from models.schedule import GenerationSchedule


def recipe_of(row: StudyRow) -> Recipe:
    """The recipe that a study was run with. Raises UserError for one that this version no longer accepts."""
    try:
        return Recipe.model_validate_json(row.recipe)
    except ValidationError as error:
        raise UserError(f"study {row.name!r}: this version does not accept its recipe: {describe(error)}") from error


def study_pairs(row: StudyRow, summary: dict[str, Any]) -> tuple[Laboratory, Pair, Pair]:
    """The study's laboratory, its baseline and its tuned pair."""
    lab, baseline = start_of(recipe_of(row))
    mask_ratio: Any = TypeAdapter(AnyMaskRatio).validate_python(summary["mask_ratio"])
    tuned = replace(baseline.training, mask_ratio=mask_ratio)
    if isinstance(tuned, TrainSpec) and summary.get("training_seed") is not None:  # which earlier versions did not note
        tuned = replace(tuned, seed=summary["training_seed"])
    return lab, baseline, Pair(tuned, schedule_of(summary["schedule"]))


def schedule_of(data: dict[str, Any]) -> GenerationSchedule:
    """A schedule of a summary, where tuples are lists."""
    return TypeAdapter(GenerationSchedule).validate_python(data)
