"""What every network of this project can do, and building one from its configuration.

Shapes: B images, L tokens, N positions asked for, K codes, D width.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.enat import ENAT, ENATConfig
from models.uvit import TextUViTConfig, UViT, UViTConfig
from models.uvit_text import TextUViT

NetworkConfig = ENATConfig | UViTConfig | TextUViTConfig

# By the configuration's `kind`, which is what a file says of its network.
CONFIG_KINDS: dict[str, type[ENATConfig] | type[UViTConfig] | type[TextUViTConfig]] = {
    "enat": ENATConfig,
    "uvit": UViTConfig,
    "uvit_text": TextUViTConfig,
}


class State(Protocol):
    """What a pass returns: features of all positions, and whatever the next step takes over."""

    @property
    def features_BLD(self) -> Tensor:
        """[B, L, D], to be handed to ``logits``."""


class Network(Protocol):
    """A masked-token network.

    `config` has num_tokens, codebook_size, num_classes and kind. `reuses_features`: whether a pass needs what the pass
    of the step before returned (ENAT), so that no step of a guidance branch may be left out. `needs_one_count`: whether
    every image of a batch must have the same number of masked tokens (ENAT, with reuse or without).
    """

    needs_one_count: bool

    @property
    def reuses_features(self) -> bool: ...

    @property
    def config(self) -> Any: ...

    @property
    def mask_token(self) -> int:
        """The code that stands for a masked token: K."""

    @property
    def null_class(self) -> int:
        """The label of the unconditional branch: num_classes."""

    def prepare(self, labels_B: Tensor) -> Any:
        """What depends on the labels alone, for `prepared` below."""

    def __call__(
        self,
        tokens_BL: Tensor,
        masked_BL: Tensor,
        labels_B: Tensor,
        reused: Any = None,
        num_masked: int | None = None,
        prepared: Any = None,
    ) -> State:
        """Features at one step.

        What stands in tokens_BL at masked positions is never read; reused: what the step before returned for the same
        images and labels; num_masked: the count of every row, where the caller knows it; prepared: ``prepare`` of the
        same labels and weights, where the caller keeps it from step to step.
        """

    def logits(self, features_BND: Tensor) -> Tensor:
        """[B, N, K] from features at any N positions."""

    def initialise(self, generator: torch.Generator) -> Any:
        """Random weights from the generator alone. Returns the network."""


def network_config(values: dict[str, Any]) -> NetworkConfig:
    """The configuration of ``config.to_dict()``. Raises ValueError for an unknown kind, TypeError for unknown sizes."""
    kind = values.get("kind", "enat")
    if kind not in CONFIG_KINDS:
        raise ValueError(f"unknown kind of network {kind!r}, expected one of {', '.join(CONFIG_KINDS)}")
    return CONFIG_KINDS[kind](**values)


def build_network(config: NetworkConfig) -> Any:
    """An uninitialised network of a configuration."""
    network: nn.Module
    if isinstance(config, UViTConfig):
        network = UViT(config)
    elif isinstance(config, TextUViTConfig):
        network = TextUViT(config)
    else:
        network = ENAT(config)
    return network
