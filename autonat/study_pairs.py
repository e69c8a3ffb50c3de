"""What a finished study began with and ended at, to be measured or exported again."""

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from autonat.config import Recipe
from autonat.search.alternation import start_of
from autonat.search.program import Laboratory, Pair
from autonat.storage.store import StudyRow
from models.mask_ratio import AnyMaskRatio
from models.schedule import GenerationSchedule


def study_pairs(row: StudyRow, summary: dict[str, Any]) -> tuple[Laboratory, Pair, Pair]:
    """The study's laboratory, its baseline and its tuned pair."""
    lab, baseline = start_of(Recipe.model_validate_json(row.recipe))
    mask_ratio: Any = TypeAdapter(AnyMaskRatio).validate_python(summary["mask_ratio"])
    tuned = replace(baseline.training, mask_ratio=mask_ratio)
    return lab, baseline, Pair(tuned, schedule_of(summary["schedule"]))


def schedule_of(data: dict[str, Any]) -> GenerationSchedule:
    """A schedule of a summary, where tuples are lists."""
    return TypeAdapter(GenerationSchedule).validate_python(data)
