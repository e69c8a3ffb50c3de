"""The text-conditional U-ViT (MUSE-Pytorch's network, pretrained on CC3M; AutoNAT tunes its schedule, section 5).

Captions come as the hidden states of a text encoder, computed beforehand. Every one of the S tokens goes through one
linear layer and stands in front of the image tokens: no norm, no position, no mask, padding attended like any other.

Shapes: as in ``models.uvit``; C numbers a context token, M captions.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from models.linear import Linear
from models.uvit import TextUViTConfig, UViTState, UViTTrunk


class TextUViT(UViTTrunk):
    """The network. Classes are captions: numbers into the table that ``with_contexts`` attaches."""

    contexts_MSC: np.ndarray | Tensor | None = None
    null_SC: Tensor | None = None

    def __init__(self, config: TextUViTConfig) -> None:
        super().__init__(config)
        self.config = config
        self.context_embed = Linear(config.context_width, config.width)

    @property
    def mask_token(self) -> int:
        return self.config.codebook_size

    @property
    def null_class(self) -> int:
        """The number after the last caption's: the null context."""
        return self.config.num_classes

    def initialise(self, generator: torch.Generator) -> "TextUViT":
        """Random weights from the generator: truncated normal 0.02, zero biases. Returns self."""
        self._initialise(generator)
        return self

    def with_contexts(self, contexts_MSC: np.ndarray | Tensor, null_SC: np.ndarray | Tensor) -> "TextUViT":
        """The same network (same parameters, shared) with M captions to paint.

        contexts_MSC: the text encoder's hidden states, any floating type; a memory-mapped array is read only at the
        rows that a batch needs. null_SC: the null context, which is the encoding of the empty string, not zeros.
        Raises ValueError for shapes that the network does not take: the official code takes any number of tokens and
        then drops image tokens or returns context tokens.
        """
        expected = (self.config.context_tokens, self.config.context_width)
        for what, shape in (("contexts", tuple(contexts_MSC.shape)[1:]), ("the null context", tuple(null_SC.shape))):
            if shape != expected:
                raise ValueError(f"{what} must be {expected[0]} tokens of {expected[1]} numbers, got {shape}")
        if not len(contexts_MSC):
            raise ValueError("there must be at least one caption")
        attached = copy.copy(self)
        attached.config = replace(self.config, num_classes=len(contexts_MSC))
        attached.contexts_MSC = contexts_MSC
        attached.null_SC = torch.as_tensor(null_SC)
        return attached

    def contexts(self, labels_B: Tensor) -> Tensor:
        """The captions' contexts [B, S, C], the null context where the label is ``null_class``."""
        if self.contexts_MSC is None or self.null_SC is None:
            raise ValueError("no captions are attached to this network: see TextUViT.with_contexts")
        like, numbers_B = self.context_embed.weight, labels_B.cpu()
        null_SC = self.null_SC.to(like.device, like.dtype)
        known_B = numbers_B != self.null_class
        contexts_BSC = null_SC.expand(len(labels_B), -1, -1).clone()
        if bool(known_B.any()):
            rows = self.contexts_MSC[numbers_B[known_B].numpy()]  # of a memory-mapped array: reads these rows alone
            contexts_BSC[known_B.to(like.device)] = torch.as_tensor(rows).to(like.device, like.dtype)
        return contexts_BSC

    def prepare(self, labels_B: Tensor) -> Tensor:
        """What depends on the caption alone, and so needs to be read and embedded once for all steps: [B, S, D]."""
        return self.context_embed(self.contexts(labels_B))

    def forward(
        self,
        tokens_BL: Tensor,
        masked_BL: Tensor,
        labels_B: Tensor,
        reused: UViTState | None = None,
        num_masked: int | None = None,
        prepared: Tensor | None = None,
        *,
        dropout_BLD: Tensor | None = None,
    ) -> UViTState:
        """Features of every position at one step; arguments as in ``models.uvit.UViT.forward``."""
        context_BSD = self.prepare(labels_B) if prepared is None else prepared
        return self.features(tokens_BL, masked_BL, context_BSD, dropout_BLD)

    def read(
        self, tokens_BL: Tensor, masked_BL: Tensor, context_BSC: Tensor, *, dropout_BLD: Tensor | None = None
    ) -> UViTState:
        """The same from contexts [B, S, C] themselves; any number S of tokens."""
        return self.features(tokens_BL, masked_BL, self.context_embed(context_BSC), dropout_BLD)
