"""Searches that see a distance and no gradient: Optuna's samplers over a space of schedules."""

from typing import Any

from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.search.spaces import Space, family_space, full_space
from autonat.search_config import WarmStart


def black_box(
    lab: Laboratory, phase: Phase, start: Pair, settings: WarmStart, address: tuple[int | str, ...]
) -> Program[list[Pair]]:
    """The best few schedules found for the network of `start`, best first.

    Every trial has the same seed (common random numbers): values compare well and are a little optimistic, which the
    confirmation that follows puts right. Trials are asked for in batches of fixed size, so that the outcome does not
    depend on the number of workers.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = _space(start, settings, far=lab.variety is not None)
    study = optuna.create_study(sampler=_sampler(settings, lab.seed_for(*address, "sampler") % 2**32))
    study.enqueue_trial(space.start)
    seed = lab.seed_for(*address, "warm start")
    found: list[tuple[float, int, Pair]] = []
    while len(found) < settings.trials and lab.has_budget():
        batch = [study.ask() for _ in range(min(settings.batch, settings.trials - len(found)))]
        pairs = []
        for trial in batch:
            point = {name: trial.suggest_float(name, low, high) for name, (low, high) in space.parameters.items()}
            pairs.append(Pair(start.training, space.schedule(point)))
        evaluations = yield from lab.judge(
            phase.at("warm start"), [lab.evaluation(pair, settings.images, seed) for pair in pairs]
        )
        for trial, pair, evaluation in zip(batch, pairs, evaluations, strict=True):
            study.tell(trial, evaluation.value)
            found.append((evaluation.value, len(found), pair))
    return [pair for _, _, pair in sorted(found, key=lambda entry: entry[:2])[: settings.keep]]


def _space(start: Pair, settings: WarmStart, *, far: bool) -> Space:
    if settings.space == "family":
        return family_space(start.schedule, settings.ratio_shape, far=far)
    return full_space(start.schedule, far=far)


def _sampler(settings: WarmStart, seed: int) -> Any:
    """Optuna's sampler; all begin with `random_trials` random points."""
    import warnings

    import optuna

    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if settings.sampler == "tpe":
            return samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=settings.random_trials
            )
        if settings.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=settings.random_trials, deterministic_objective=False)
        if settings.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=settings.random_trials)
        return samplers.RandomSampler(seed=seed)
