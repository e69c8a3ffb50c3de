"""What the sampler, the probes and the Frechet step save against doing them plainly, same results."""

import numpy as np
import torch
from scipy.linalg import sqrtm

from autonat.config import load_recipe
from benchmarks.paired import ratio, show
from models.checkpoint import build_network
from models.evaluate import Block, Generator, dithers
from models.frechet import Reference
from models.probes import Probe, probe_tokens
from models.sample import Canvas, GuidedNetwork, Knobs, advance, guided_logits, sample
from models.schedule import GenerationSchedule, autonat_initial, components, maskgit_cosine
from models.tokenizer import GreyLevelTokenizer


def plain_sample(generator: Generator, schedule: GenerationSchedule, block: Block) -> torch.Tensor:
    """Both branches at every step, no table for the first."""
    labels, noise, config = generator.labels(block), generator.noise(block), generator.network.config
    canvas = Canvas.empty(block.size, config.num_tokens, config.codebook_size)
    guided, reused = GuidedNetwork(generator.network, labels), None
    with torch.inference_mode():
        for step in range(schedule.num_steps):
            knobs = Knobs.at(schedule, step)
            seen = guided.predict(canvas, reused)
            logits = guided_logits(seen.conditional_BNK, seen.unconditional_BNK, knobs.guidance_scale)
            taken = advance(canvas, seen.positions_BN, logits, knobs, noise.draw(step), noise.choice(step))
            canvas, reused = taken.canvas, seen.reused
    return taken.sampled_BL


def main() -> None:
    torch.set_num_threads(1)
    network = build_network(load_recipe("digits").network).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():  # zero gates would make every pass trivial to predict
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.ndim)))
    generator = Generator(network.eval(), GreyLevelTokenizer())
    block = Block(0, 5, 100, 1)
    print("plain time / time, median of pairs (smallest to largest)")
    for name, schedule in (("MaskGIT cosine, no guidance", maskgit_cosine(4)), ("guided", autonat_initial(4, "enat"))):
        ours = generator.tokens(schedule, block)
        same = float((ours == plain_sample(generator, schedule, block)).double().mean())

        def plain(schedule: GenerationSchedule = schedule) -> object:
            return plain_sample(generator, schedule, block)

        def fast(schedule: GenerationSchedule = schedule) -> object:
            return generator.tokens(schedule, block)

        show(f"sampling, T=4, {name} (equal tokens: {same:.4f})", ratio(plain, fast))
    for num_steps in (4, 8):
        schedule = autonat_initial(num_steps, "enat")
        names = components(num_steps)
        probes = tuple(
            Probe(family, step, value * 0.9 + 0.01)
            for (family, step), value in zip(names, schedule.values(), strict=True)
        )
        altered = []
        for index, probe in enumerate(probes):
            values = schedule.values()
            values[index] = probe.value
            altered.append(schedule.with_values(values))

        def separately(altered: list[GenerationSchedule] = altered, num_steps: int = num_steps) -> None:
            for schedule in (autonat_initial(num_steps, "enat"), *altered):
                sample(
                    generator.network,
                    schedule,
                    generator.labels(block),
                    generator.noise(block),
                    first_logits=generator.first_logits,
                    dithers=dithers(num_steps, block),
                )

        def together(probes: tuple[Probe, ...] = probes, schedule: GenerationSchedule = schedule) -> None:
            with torch.inference_mode():
                probe_tokens(generator, schedule, probes, block)

        show(f"one forward-difference gradient, T={num_steps}: prefix reuse", ratio(separately, together, repeats=3))
    draws = np.random.default_rng(0)
    first, second = (draws.standard_normal((1024, 512)) @ draws.standard_normal((512, 512)) / 20 for _ in range(2))
    reference = Reference(torch.from_numpy(first.mean(0)), torch.from_numpy(np.cov(first.T)))
    mean, covariance = torch.from_numpy(second.mean(0)), torch.from_numpy(np.cov(second.T))

    def by_sqrtm() -> float:
        root = sqrtm(reference.covariance.numpy() @ covariance.numpy())
        gap = mean - reference.mean
        traces = torch.trace(covariance) + torch.trace(reference.covariance)
        return float(gap @ gap + traces - 2 * np.trace(root.real))

    error = abs(by_sqrtm() / reference.distance(mean, covariance) - 1)
    show(
        f"Frechet distance at 512 dimensions, SciPy's sqrtm (relative gap {error:.0e})",
        ratio(by_sqrtm, lambda: reference.distance(mean, covariance), repeats=3),
    )


if __name__ == "__main__":
    main()
