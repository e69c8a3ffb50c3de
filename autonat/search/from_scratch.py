"""Whether what a search saw of a shortened training holds for a whole one."""

from dataclasses import dataclass, replace
from typing import Any

from autonat.search.confirm import Verdict, duel, race
from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.specs import Evaluation, TrainSpec, paired_difference


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained network under the best schedule known for it."""

    evaluation: Evaluation
    pair: Pair


def adopt_from_scratch(
    lab: Laboratory, phase: Phase, incumbent: Pair, winner: Judged, base: Evaluation, training: TrainSpec
) -> Program[tuple[Verdict, dict[str, Any]]]:
    """Train a winner from random weights and let it meet the incumbent on fresh seeds.

    winner: with the network that went on from the incumbent's; base: the incumbent's evaluation on the same images;
    training: the winner's, whole. Its network alone can be adopted, under the winner's schedule or the incumbent's,
    and is where it is better by more than one standard error. Also returns what the shorter training made believe:
    its gain over the incumbent, and its bias, warm - from scratch in distance, both in pairs on the winner's images.
    """
    address = (phase.name, phase.round, "from scratch")
    yield from lab.train(phase.at("training"), [training])
    pair = replace(winner.pair, training=training)
    seen = winner.evaluation
    (again,) = yield from lab.judge(
        phase.at("bias of the warm start"), [lab.evaluation(pair, seen.num_images, seen.seed)]
    )
    bias, bias_error = paired_difference(seen, again)
    warm_change, warm_error = paired_difference(seen, base)

    candidates = [pair] if pair.schedule == incumbent.schedule else [pair, replace(pair, schedule=incumbent.schedule)]
    where = phase.at("confirmation from scratch")
    challenger = yield from race(lab, where, candidates, lab.whole_blocks(seen.num_images // 2), address)
    change, error, before, after = yield from duel(lab, where, incumbent, challenger, seen.num_images, address)
    kept = change < -error
    verdict = Verdict(challenger if kept else incumbent, after if kept else before, 0.0 - change, error)
    return verdict, {
        "warm_distance": seen.value,
        "distance_from_scratch": again.value,
        "bias": bias,
        "bias_standard_error": bias_error,
        "warm_gain": 0.0 - warm_change,
        "warm_gain_standard_error": warm_error,
    }
