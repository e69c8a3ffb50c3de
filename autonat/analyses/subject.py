"""The study that an analysis looks at: its data, training, mask ratio, tuned schedule and metric."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autonat.analyses.equal_operations import schedule_for
from autonat.analyses.estimates import Measured
from autonat.errors import UserError
from autonat.search.program import Laboratory, Pair, Phase, Program
from autonat.specs import GeneratorSpec, TrainSpec, derived_seed
from models.networks import NetworkConfig
from models.schedule import GenerationSchedule
from models.train import TrainingConfig


@dataclass(frozen=True)
class Subject:
    """tuned: the study's tuned pair; study_seed: the recipe's; seeds: of the trainings, 0 being the study's own;
    artifacts: the address of the folder where weights are."""

    name: str
    lab: Laboratory
    tuned: Pair
    study_seed: int
    seeds: tuple[int, ...]
    num_images: int
    artifacts: str

    @property
    def network(self) -> NetworkConfig:
        return self.tuned.training.network

    @property
    def is_trained(self) -> bool:
        """Whether the study trained its network, so that others can be trained alike."""
        return isinstance(self.tuned.training, TrainSpec)

    @property
    def training(self) -> TrainSpec:
        """How the study trained its network. Raises UserError where that was a file."""
        if not isinstance(self.tuned.training, TrainSpec):
            raise UserError(f"study {self.name!r} was given a checkpoint: there is no training to repeat")
        return self.tuned.training

    @property
    def image_seed(self) -> int:
        """Of labels and noise: one for all networks, and none that the search has seen."""
        return self.lab.seed_for("analyses")

    def trained(self, network: NetworkConfig, seed: int) -> TrainSpec:
        """A network trained as the study's, from random weights. Seed 0 of the study's network is the study's own.

        Raises UserError where the study's network was a file.
        """
        own = self.training
        training = own.training
        reuses = network.kind == "enat" and network.reuse
        if not reuses:
            training = replace(training, reuse_probability=0.0)
        elif not training.reuse_probability:
            training = replace(training, reuse_probability=TrainingConfig().reuse_probability)
        random = own.seed if seed == 0 else derived_seed(self.study_seed, "training", seed)
        return replace(own, network=network, training=training, seed=random, start_from=None)

    def generators(self, network: NetworkConfig) -> list[GeneratorSpec]:
        """One for each training seed; a checkpoint's network alone where nothing is trained."""
        if not self.is_trained and network == self.network:
            return [self.tuned.training]
        return [self.trained(network, seed) for seed in self.seeds]

    def schedule(self, network: NetworkConfig) -> GenerationSchedule:
        """The tuned schedule, under a rule that the network can follow."""
        return schedule_for(network, self.tuned.schedule)

    def train(self, networks: Mapping[str, NetworkConfig]) -> Program[None]:
        """All networks, side by side."""
        specs = [spec for network in networks.values() for spec in self.generators(network)]
        yield from self.lab.train(Phase("analysis", 0, "training"), [s for s in specs if isinstance(s, TrainSpec)])

    def measure(self, networks: Mapping[str, NetworkConfig]) -> Program[dict[str, Measured]]:
        """Train networks and measure each under the tuned schedule."""
        yield from self.train(networks)
        pairs = [
            (name, Pair(generator, self.schedule(network)))
            for name, network in networks.items()
            for generator in self.generators(network)
        ]
        specs = [self.lab.evaluation(pair, self.num_images, self.image_seed) for _, pair in pairs]
        results = yield from self.lab.evaluate(Phase("analysis", 0, "distances"), specs)
        return {
            name: Measured.of([result for (owner, _), result in zip(pairs, results, strict=True) if owner == name])
            for name in networks
        }

    def facts(self, num_images: int | None) -> dict[str, Any]:
        """What every number of an analysis was measured with."""
        return {
            "study": self.name,
            "metric": self.lab.features.metric,
            "mask_ratio": self.tuned.mask_ratio.label,
            "num_steps": self.tuned.schedule.num_steps,
            "training_seeds": list(self.seeds) if self.is_trained else [],
            "num_images": num_images or self.num_images,
        }
