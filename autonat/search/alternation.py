"""AutoNAT's alternation (section 4): the schedule with the network fixed, the training mask ratio with the schedule
fixed, and again. This is the whole study, from the first training to the held-out report."""

from dataclasses import asdict, replace
from typing import Any

from autonat.config import FeatureFileConfig, InceptionConfig, Recipe
from autonat.phases import front_phase
from autonat.search.accounts import Accounts
from autonat.search.confirm import confirm
from autonat.search.mask_ratio_search import search_mask_ratio
from autonat.search.program import Ask, Laboratory, Pair, Phase, Program
from autonat.search.schedule_search import tune_schedule
from autonat.search.variety import Variety, as_measured
from autonat.seed_gap import seed_gap
from autonat.specs import (
    CheckpointSpec,
    Evaluation,
    FeatureFileSpec,
    Features,
    FeatureSpec,
    GeneratorSpec,
    InceptionSpec,
    Metrics,
    MetricSpec,
    TrainSpec,
    derived_seed,
)
from models.mask_ratio import BetaMaskRatio
from models.schedule import resampled


def start_of(recipe: Recipe) -> tuple[Laboratory, Pair]:
    """What the alternation starts from: the recipe's mask ratio and schedule."""
    lab = Laboratory(
        _features(recipe), derived_seed(recipe.seed, "search"), recipe.block_size, recipe.budget_images, recipe.compute
    )
    baseline = Pair(_generator(recipe), recipe.schedule.build())
    if recipe.keep_variety is not None:
        reference = lab.evaluation(baseline, recipe.held_out_images, lab.seed_for("variety"))
        lab.variety = Variety(recipe.keep_variety, reference)
    return lab, baseline


def _features(recipe: Recipe) -> MetricSpec:
    if isinstance(recipe.features, InceptionConfig):
        files = recipe.features
        return InceptionSpec(files.weights, files.reference, files.images, recipe.compute)
    if isinstance(recipe.features, FeatureFileConfig):
        own = recipe.features
        # A plan may be made before there are any files.
        return FeatureFileSpec(own.found.name if own.found else "network", own.weights, own.reference, recipe.compute)
    assert isinstance(recipe.data, str)  # the recipe was checked
    return FeatureSpec(recipe.data, recipe.features, derived_seed(recipe.seed, "features"))


def _generator(recipe: Recipe) -> GeneratorSpec:
    if recipe.checkpoint is not None:
        return CheckpointSpec(recipe.data, recipe.network, recipe.checkpoint, recipe.mask_ratio)
    assert recipe.training is not None
    seed = derived_seed(recipe.seed, "training")
    return TrainSpec(recipe.data, recipe.network, recipe.training, recipe.mask_ratio, seed, recipe.compute)


def alternate(recipe: Recipe) -> Program[dict[str, Any]]:
    """Search schedule and mask ratio in turn until a round brings no confirmed gain; returns the summary.

    The summary's distances come from seeds that nothing before has seen.
    """
    lab, baseline = start_of(recipe)
    accounts = Accounts(lab)
    features: Features | None = None
    if isinstance(lab.features, FeatureSpec):
        known = _known_from_the_start(recipe, baseline)
        lab.trained.update(known)
        answer = yield Ask(Phase("set-up", 0, "training"), (lab.features, *known))
        assert answer is not None
        assert isinstance(answer[0], Features)
        features = answer[0]
    elif isinstance(baseline.training, TrainSpec):
        yield from lab.train(Phase("set-up", 0, "training"), _known_from_the_start(recipe, baseline))
    accounts.close(Phase("set-up", 0))

    best = baseline
    seen: Evaluation | None = None  # the last that the search saw of the best
    if "schedule" in recipe.phases:
        phase = Phase("schedule", 0)
        verdict = yield from tune_schedule(lab, phase, baseline, recipe.search)
        accounts.close(phase, verdict)
        best, seen = verdict.pair, verdict.evaluation
    tuned_schedule = best
    rounds = 0
    while "mask_ratio" in recipe.phases and rounds < recipe.rounds and lab.has_budget():
        rounds += 1
        phase = Phase("mask ratio", rounds)
        verdict = yield from search_mask_ratio(lab, phase, best, recipe.beta)
        accounts.close(phase, verdict)
        trained = verdict.pair
        if trained == best:
            break
        if "schedule" in recipe.phases and lab.has_budget():
            phase = Phase("schedule", rounds)
            later_search = recipe.later_search or recipe.search
            verdict = yield from tune_schedule(lab, phase, trained, later_search)
            accounts.close(phase, verdict)
            trained = verdict.pair
        phase = Phase("alternation", rounds, "confirmation")
        judged = yield from confirm(
            lab, phase, best, [trained], num_images=recipe.beta.images, address=("alternation", rounds)
        )
        accounts.close(phase, judged)
        seen = judged.evaluation
        if judged.pair == best:
            break
        best = judged.pair

    front = yield from _front(lab, best, recipe, accounts)
    searched_images = lab.spent_images
    pairs = [baseline, tuned_schedule, best]
    report = Phase("held-out", rounds, "report")
    evaluations, metrics = yield from _held_out(lab, report, pairs, [pair for pair, _ in front[1:]], recipe)
    gap = None
    if seen is not None:  # a distance of fewer images reads higher, so that it is compared with one of as many
        fresh = lab.evaluation(best, seen.num_images, lab.seed_for("held-out", "gap"))
        gap = seed_gap(as_measured(seen), (yield from lab.evaluate(report, [fresh]))[0])
    return {
        "metric": lab.features.metric,
        "baseline": _report(evaluations[0]),
        "tuned_schedule": _report(evaluations[1]),
        "tuned": _report(evaluations[2]),
        "search_time": gap,
        **_of_features(recipe, features),
        "images_spent": searched_images,
        "phases": accounts.as_data(),
        "rounds": rounds,
        "metrics": metrics,
        "keep_variety": recipe.keep_variety,
        "front_left_out": sorted(set(recipe.front) - {pair.schedule.num_steps for pair, _ in front}),
        "front": [
            {
                "num_steps": pair.schedule.num_steps,
                "schedule": asdict(pair.schedule),
                "images_spent": images,
                **_report(evaluation),
            }
            for (pair, images), evaluation in sorted(
                zip(front, evaluations[2:], strict=True), key=lambda point: point[0][0].schedule.num_steps
            )
        ],
        "baseline_mask_ratio": asdict(baseline.mask_ratio),
        "baseline_schedule": asdict(baseline.schedule),
        "first_schedule": asdict(tuned_schedule.schedule),
        "mask_ratio": asdict(best.mask_ratio),
        "schedule": asdict(best.schedule),
        # A point of a line may have been trained several times, and the best of its networks adopted.
        "training_seed": best.training.seed if isinstance(best.training, TrainSpec) else None,
    }


def _held_out(
    lab: Laboratory, phase: Phase, pairs: list[Pair], front: list[Pair], recipe: Recipe
) -> Program[tuple[list[Evaluation], dict[str, Any] | None]]:
    """The distances of `pairs` and `front` on the held-out images, and what the recipe's `metrics` say of the images of
    `pairs`, by the summary's names for them; None without any."""
    seed = lab.seed_for("held-out")
    names = tuple(name for name in recipe.metrics if name != "fid")
    if recipe.keep_variety is not None and "variety" not in names:
        names += ("variety",)
    evaluations = [lab.evaluation(pair, recipe.held_out_images, seed) for pair in [*pairs, *front]]
    metrics = [evaluation.metrics(names) for evaluation in evaluations[: len(pairs)]] if names else []
    results = yield Ask(phase, (*evaluations, *metrics))  # at once, so that the images are painted once
    assert results is not None
    distances = [result for result in results if isinstance(result, Evaluation)]
    found = [asdict(result) for result in results if isinstance(result, Metrics)]
    summary_names = ("baseline", "tuned_schedule", "tuned")
    return distances, dict(zip(summary_names, found, strict=True)) if names else None


def _front(lab: Laboratory, best: Pair, recipe: Recipe, accounts: Accounts) -> Program[list[tuple[Pair, int]]]:
    """The best pair's network tuned for other numbers of steps, each from the nearest one that is tuned already, and
    the images that were spent on the way to each; the best pair itself first. Once the images have run out there are no
    more."""
    tuned = {best.schedule.num_steps: (best, lab.spent_images)}
    for num_steps in sorted(set(recipe.front), key=lambda steps: (abs(steps - best.schedule.num_steps), steps)):
        if not lab.has_budget():  # what is only interpolated is not tuned
            break
        neighbour, on_the_way = tuned[min(tuned, key=lambda steps: (abs(steps - num_steps), steps))]
        start = Pair(best.training, resampled(neighbour.schedule, num_steps))
        phase, before = Phase(front_phase(num_steps), 0), lab.spent_images
        verdict = yield from tune_schedule(lab, phase, start, recipe.later_search or recipe.search)
        accounts.close(phase, verdict)
        tuned[num_steps] = (verdict.pair, on_the_way + lab.spent_images - before)
    return list(tuned.values())


def _report(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "value": evaluation.value,
        "standard_error": evaluation.standard_error,
        "num_images": evaluation.num_images,
    }


def _of_features(recipe: Recipe, trained: Features | None) -> dict[str, Any]:
    """How good the metric's own network is, as far as it is known: the floor, and the classifier's test accuracy."""
    if isinstance(recipe.features, FeatureFileConfig) and recipe.features.found is not None:
        found = recipe.features.found
        floor_found = None if found.floor is None else found.floor.model_dump()
        return {"floor": floor_found, "test_accuracy": found.test_accuracy}
    if trained is None:
        return {"floor": None, "test_accuracy": None}
    floor = {
        "value": trained.floor,
        "standard_error": trained.floor_standard_error,
        "num_images": trained.floor_images,
    }
    return {"floor": floor, "test_accuracy": trained.test_accuracy}


def _known_from_the_start(recipe: Recipe, baseline: Pair) -> list[TrainSpec]:
    """Trainings that are certain to be needed, so that they can run side by side: the baseline's, and the centre of
    the first line where the baseline's mask ratio is not a Beta and points neither go on from the incumbent nor end at
    rungs."""
    if not isinstance(baseline.training, TrainSpec):
        return []
    trainings = [baseline.training]
    starts_a_line = "mask_ratio" in recipe.phases and recipe.beta.warm_start is None and not recipe.beta.rungs
    if starts_a_line and not isinstance(baseline.mask_ratio, BetaMaskRatio):
        centre = BetaMaskRatio(recipe.beta.start_alpha, recipe.beta.start_beta)
        trainings.append(replace(baseline.training, mask_ratio=centre))
    return trainings
