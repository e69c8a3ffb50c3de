"""Real images finished in a single pass, over the share of tokens that is masked."""

from autonat.analyses.decoder_attention import decoder_networks
from autonat.analyses.equal_operations import as_uvit, fitted, operations
from autonat.analyses.estimates import Measured, mean_of, verdict
from autonat.analyses.findings import Findings, Series
from autonat.analyses.subject import Subject
from autonat.errors import UserError
from autonat.search.program import Ask, Phase, Program
from autonat.specs import Evaluation, GeneratorSpec, OneStepSpec
from models.data import TokenData
from models.networks import NetworkConfig

RATIOS = (0.2, 0.4, 0.6, 0.8)
CLAIM = "ENAT's paper chose self_cross over full and cross (here: mean over the mask ratios)"


def _networks(subject: Subject) -> dict[str, NetworkConfig]:
    """ENAT's decoder attentions and a U-ViT of equal operations; of a checkpoint the network alone."""
    if not subject.is_trained:
        return {"the checkpoint": subject.network}
    schedule = subject.tuned.schedule
    uvit = fitted(as_uvit(subject.network), schedule, operations(subject.network, schedule))
    return {**decoder_networks(subject), "U-ViT NAT": uvit}


def program(subject: Subject) -> Program[Findings]:
    """Train the networks alike; the same images, masks and noise for all."""
    data = subject.tuned.training.data
    if isinstance(data, TokenData) and data.tokens is None:
        raise UserError(f"study {subject.name!r} has no data.tokens, and one-step starts from real images' tokens")
    networks = _networks(subject)
    yield from subject.train(networks)
    wanted = [
        (name, ratio, generator)
        for name, network in networks.items()
        for ratio in RATIOS
        for generator in subject.generators(network)
    ]
    specs = [_spec(subject, generator, ratio) for _, ratio, generator in wanted]
    real = _spec(subject, wanted[0][2], 0.0)  # no network is asked
    answer = yield Ask(Phase("analysis", 0, "one step"), (real, *specs))
    assert answer is not None
    floor, *evaluations = [result for result in answer if isinstance(result, Evaluation)]
    found: dict[tuple[str, float], list[Evaluation]] = {}
    for (name, ratio, _), evaluation in zip(wanted, evaluations, strict=True):
        found.setdefault((name, ratio), []).append(evaluation)
    measured = {key: Measured.of(results) for key, results in found.items()}
    rows = [{"network": "real tokens", "ratio": "0", "distance": Measured.of([floor])}]
    rows += [{"network": name, "ratio": f"{ratio:g}", "distance": value} for (name, ratio), value in measured.items()]
    return Findings(
        title="One pass from real tokens",
        reading=(
            "Of each real image a share of the tokens, uniformly placed, is masked and drawn anew in one pass at "
            "temperature 1 without guidance; the rest stays real. The images are those that networks are trained on, "
            "and the first row is what the tokenizer makes of them."
        ),
        columns=(("network", "network"), ("ratio", "mask ratio"), ("distance", "distance")),
        rows=tuple(rows),
        verdict=_verdict(measured) if subject.is_trained else "One network alone: there is no ordering to look at.",
        axes=("mask ratio", "distance"),
        series=tuple(Series(name, RATIOS, tuple(measured[name, ratio] for ratio in RATIOS)) for name in networks),
    )


def _spec(subject: Subject, generator: GeneratorSpec, ratio: float) -> OneStepSpec:
    lab = subject.lab
    return OneStepSpec(
        training=generator,
        features=lab.features,
        mask_ratio=ratio,
        seed=subject.image_seed,
        num_images=subject.num_images,
        block_size=lab.block_size,
        compute=lab.compute,
    )


def _verdict(measured: dict[tuple[str, float], Measured]) -> str:
    means = {name: mean_of([measured[name, ratio] for ratio in RATIOS]) for name in ("self_cross", "full", "cross")}
    return verdict(
        CLAIM,
        [(f"{name} - self_cross", means[name] - means["self_cross"]) for name in ("full", "cross")],
    )
