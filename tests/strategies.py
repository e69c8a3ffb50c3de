"""Hypothesis strategies and small networks that several test files share."""

import torch
from hypothesis import strategies as st

from models.enat import ENAT, ENATConfig
from models.schedule import BOUNDS, FAMILIES, GenerationSchedule, family_length

RULES = ("enat", "autonat", "muse")
MODERATE = {
    "mask_ratios": (0.0, 1.0),
    "sampling_temperatures": (0.0, 3.0),
    "choice_temperatures": (0.0, 6.0),
    "guidance_scales": (-1.0, 4.0),
}


def schedules(bounds=BOUNDS, max_steps=6, rules=RULES, no_guidance_at_some_steps=False):
    def values(family, num_steps):
        low, high = bounds[family]
        value = st.floats(low, high, allow_subnormal=False)
        if family == "guidance_scales" and no_guidance_at_some_steps:
            value = st.just(0.0) | value
        length = family_length(family, num_steps)
        return st.lists(value, min_size=length, max_size=length).map(tuple)

    def of_length(num_steps):
        families = {family: values(family, num_steps) for family in FAMILIES}
        return st.builds(GenerationSchedule, **families, rule=st.sampled_from(rules))

    return st.integers(1, max_steps).flatmap(of_length)


def tiny_config(**changes):
    sizes = {
        "num_tokens": 16,
        "codebook_size": 7,
        "num_classes": 3,
        "width": 16,
        "heads": 2,
        "encoder_blocks": 2,
        "decoder_blocks": 1,
    }
    return ENATConfig(**{**sizes, **changes})


def tiny_network(seed=0, **changes):
    """A network with every parameter random: as initialised, its gates are shut and no block does anything."""
    network = ENAT(tiny_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return network
