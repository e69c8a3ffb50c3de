"""TFLOPs of one image, for the dashboard: ``python -m autonat.count_costs`` reads a JSON list of [network, schedule]
pairs from standard input and writes a JSON list of numbers, null where a network is not one of this version's.

2 FLOPs a multiply-accumulate, counted as the sampler runs (``models.counts``), in units of 1e12.
"""

import json
import sys
from typing import Any


def tflops(network: dict[str, Any], schedule: dict[str, Any]) -> float | None:
    """TFLOPs of one image with a network's and a schedule's settings."""
    from pydantic import TypeAdapter, ValidationError

    from models.counts import image_counts
    from models.networks import NetworkConfig
    from models.schedule import GenerationSchedule

    try:
        config: Any = TypeAdapter(NetworkConfig).validate_python(network)
        counts = image_counts(config, TypeAdapter(GenerationSchedule).validate_python(schedule))
    except (ValidationError, ValueError):
        return None
    return 2 * sum(step.macs for step in counts) / 1e12


def main() -> None:
    json.dump([tflops(network, schedule) for network, schedule in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
