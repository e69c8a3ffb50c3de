"""The first stage of a schedule search: Optuna's TPE over the family of smooth schedules."""

from autonat.config import WarmStart
from autonat.search.family import CENTRE, PARAMETERS, schedule_of
from autonat.search.program import Laboratory, Pair, Phase, Program


def warm_start(
    lab: Laboratory, phase: Phase, start: Pair, settings: WarmStart, seed_address: tuple[int | str, ...]
) -> Program[list[Pair]]:
    """The best few schedules of the family for the network of `start`, best first.

    Every trial has the same seed (common random numbers): values compare well and are a little optimistic, which the
    confirmation that follows puts right. Trials are asked for in batches of fixed size, so that the outcome does not
    depend on the number of workers.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=lab.seed_for(*seed_address, "sampler") % 2**32,
        multivariate=True,
        constant_liar=True,
        n_startup_trials=settings.random_trials,
    )
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(CENTRE)
    seed = lab.seed_for(*seed_address, "warm start")
    found: list[tuple[float, int, Pair]] = []
    while len(found) < settings.trials and lab.has_budget():
        batch = [study.ask() for _ in range(min(settings.batch, settings.trials - len(found)))]
        pairs = []
        for trial in batch:
            values = {name: trial.suggest_float(name, low, high) for name, (low, high) in PARAMETERS.items()}
            schedule = schedule_of(values, start.schedule.num_steps, start.schedule.rule)
            pairs.append(Pair(start.training, schedule))
        evaluations = yield from lab.evaluate(
            phase.at("warm start"), [lab.evaluation(pair, settings.images, seed) for pair in pairs]
        )
        for trial, pair, evaluation in zip(batch, pairs, evaluations, strict=True):
            study.tell(trial, evaluation.value)
            found.append((evaluation.value, len(found), pair))
    return [pair for _, _, pair in sorted(found, key=lambda entry: entry[:2])[: settings.keep]]
