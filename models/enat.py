"""ENAT: a masked-token network that computes visible and masked tokens apart (arXiv 2411.06959, section 4).

Visible tokens are encoded on their own; [MASK] tokens are decoded against visible and masked ones together; features
of tokens that were visible at the step before are carried over through a small projection instead of being encoded
again. Module and parameter names are those of the official checkpoints, so their state dicts load as they are.

Shapes: B images, L tokens, K codes, D width; at one step P tokens were visible at the step before, V became visible
since, M are masked, P + V + M = L, the same counts in the whole batch.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.linear import Linear, linear, linear_gelu
from models.positions import check_grid, sinusoidal_grid

DecoderAttention = Literal["self_cross", "full", "cross"]


@dataclass(frozen=True, slots=True)
class ENATConfig:
    """Sizes of an ENAT. Raises ValueError where they do not fit together.

    embedding_std: standard deviation of the initial word, class and position embeddings. The word embedding is
    also the output weight but gets no gradient there, so a narrow network learns faster with a larger one.
    initial_positions: `normal` as the official code, or `sinusoidal`: learned all the same, but neighbours on the
    square grid begin alike, so that a short training finds out to look at them (without it the digits' network
    spends its first thousand steps on what a position and a class say alone).
    decoder_attention: who attends to whom in the decoder ([M] masked, [V] visible tokens; the paper's ablation):
      `self_cross` [M]&[V] -> [M], the paper's choice.
      `full` [M]&[V] -> [M]&[V], as MAE: the decoder updates visible tokens too. What is handed on at visible positions
      stays the encoder's output all the same: the reuse projection is made for it, and what the decoder adds has seen
      [MASK] tokens that the next step may no longer have.
      `cross` [V] -> [M], as CrossMAE: masked tokens do not see each other. Where no token is visible there is nothing
      else to attend to, and they do.
      The weights have the same names and shapes in all three: keys and values of visible tokens come from projection
      A, those of masked ones from B.
    reuse: whether features of tokens that were visible at the step before are carried over. Without, every visible
      token is encoded again at every step, which is the paper's first change alone; the weights are the same, the
      projection idle.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_tokens: int = 256
    codebook_size: int = 1024
    num_classes: int = 1000
    width: int = 1024
    heads: int = 16
    encoder_blocks: int = 22
    decoder_blocks: int = 2
    mlp_ratio: float = 4.0
    embedding_std: float = 0.02
    initial_positions: Literal["normal", "sinusoidal"] = "normal"
    decoder_attention: DecoderAttention = "self_cross"
    kind: Literal["enat"] = "enat"
    reuse: bool = True

    def __post_init__(self) -> None:
        for name in ("num_tokens", "codebook_size", "num_classes", "width", "heads", "decoder_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.encoder_blocks < 0:
            raise ValueError(f"encoder_blocks must not be negative, got {self.encoder_blocks}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.initial_positions not in ("normal", "sinusoidal"):
            raise ValueError(f"initial_positions must be 'normal' or 'sinusoidal', got {self.initial_positions!r}")
        if self.decoder_attention not in get_args(DecoderAttention):
            raise ValueError(
                f"decoder_attention must be one of {', '.join(get_args(DecoderAttention))}, "
                f"got {self.decoder_attention!r}"
            )
        if self.initial_positions == "sinusoidal":
            check_grid(self.num_tokens, self.width)

    def to_dict(self) -> dict:
        """Plain values; `reuse` where it is off alone, so that files are the same bits as before there was a choice."""
        return {name: value for name, value in asdict(self).items() if name != "reuse" or not value}


@dataclass(frozen=True)
class Reused:
    """What one step hands to the next: features [B, L, D] and which positions [B, L] were visible then (P in each row).

    Only the features of visible positions are ever read.
    """

    features_BLD: Tensor
    visible_BL: Tensor
    num_visible: int

    def rows(self, count: int) -> "Reused":
        """Of the first `count` images alone."""
        return Reused(self.features_BLD[:count], self.visible_BL[:count], self.num_visible)


class _Embeddings(nn.Module):
    """LN(word + position), eps 1e-6; word K is [MASK]."""

    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.codebook_size + 1, config.width)
        self.position_embeddings = nn.Embedding(config.num_tokens, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(tokens_BL) + self.position_embeddings.weight)


class _ClassEmbedding(nn.Module):
    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.width)

    def forward(self, labels_B: Tensor) -> Tensor:
        return self.embedding_table(labels_B)


class _MLP(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))


class _Attention(nn.Module):
    """Keys and values from a context (projection A) and from a block's own tokens (B), each None where left out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width)
        self.kv = nn.ModuleDict({"A": Linear(width, 2 * width), "B": Linear(width, 2 * width)})
        self.proj = Linear(width, width)

    def _split(self, x: Tensor, parts: int) -> list[Tensor]:
        batch, length, _ = x.shape
        return list(x.reshape(batch, length, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0))

    def forward(self, queries: Tensor, context: Tensor | None, own: Tensor | None) -> Tensor:
        (query,) = self._split(self.q(queries), 1)
        projected = [self.kv[name](x) for name, x in (("A", context), ("B", own)) if x is not None]
        key, value = self._split(torch.cat(projected, dim=1) if len(projected) == 2 else projected[0], 2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def _modulate(x: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    return x * (1 + scale_BD[:, None]) + shift_BD[:, None]


Modulation = tuple[Tensor, ...]


class _Block(nn.Module):
    """One adaLN-Zero block. Encoder and decoder blocks are the same; what differs is whose tokens are the context."""

    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm1_ = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = _Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = _MLP(width, config.mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(width, 8 * width))

    def modulation(self, condition_BD: Tensor) -> Modulation:
        """Shifts, scales and gates [B, D] of every part; they depend on the class alone."""
        return self.adaLN_modulation(condition_BD).chunk(8, dim=1)

    def forward(
        self,
        own: Tensor,
        context: Tensor | None,
        modulation: Modulation,
        attention: DecoderAttention = "self_cross",
    ) -> Tensor:
        """The updated own tokens; under `full` the updated context in front of them."""
        shift_own, scale_own, shift_context, scale_context, gate_attention, shift_mlp, scale_mlp, gate_mlp = modulation
        queries = normed = _modulate(self.norm1(own), shift_own, scale_own)
        normed_context = None
        if context is not None:
            normed_context = _modulate(self.norm1_(context), shift_context, scale_context)
            if attention == "full":
                queries = torch.cat([_modulate(self.norm1(context), shift_own, scale_own), normed], dim=1)
                own = torch.cat([context, own], dim=1)
        sees_own = attention != "cross" or context is None
        attended = self.attn(queries, normed_context, normed if sees_own else None)
        own = own + gate_attention[:, None] * attended
        return own + gate_mlp[:, None] * self.mlp(_modulate(self.norm2(own), shift_mlp, scale_mlp))


class _ReuseProjection(nn.Module):
    """f of the paper: x + MLP(LN(x)), applied again at every later step."""

    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = _MLP(config.width, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class _OutputLayer(nn.Module):
    """Logits against the word embedding, which gets no gradient through this side."""

    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.ln = nn.LayerNorm(config.width, eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(1, 1, config.codebook_size + 1))

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        codes = word_embeddings.detach()[:-1]  # [MASK] is never predicted
        return linear(self.ln(F.gelu(self.fc(x))), codes, self.bias[0, 0, :-1])


def _gather(x_BLD: Tensor, positions_BN: Tensor) -> Tensor:
    return x_BLD.gather(1, positions_BN[..., None].expand(-1, -1, x_BLD.shape[-1]))


class ENAT(nn.Module):
    """The network. ``forward`` gives features, ``logits`` turns features into predictions over the codebook."""

    needs_one_count = True

    def __init__(self, config: ENATConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = _Embeddings(config)
        self.y_embedder = _ClassEmbedding(config)
        # In the official state dict, yet never used.
        self.prev_embedder = _MLP(config.width, 4.0)
        self.prev_proj = _ReuseProjection(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.encoder_blocks + config.decoder_blocks))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlm_layer = _OutputLayer(config)
        for parameter in self.prev_embedder.parameters():
            parameter.requires_grad_(False)

    @property
    def reuses_features(self) -> bool:
        return self.config.reuse

    @property
    def mask_token(self) -> int:
        return self.config.codebook_size

    @property
    def null_class(self) -> int:
        return self.config.num_classes

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> "ENAT":
        """Random weights from the generator: Xavier-uniform linears, zero biases, adaLN-Zero gates. Returns self."""
        for name, parameter in sorted(self.named_parameters()):
            if parameter.ndim == 1 or name.endswith("mlm_layer.bias"):
                is_norm_gain = name.endswith(("LayerNorm.weight", "norm.weight", "ln.weight"))
                parameter.fill_(1.0 if is_norm_gain else 0.0)
            elif name.startswith(("x_embedder", "y_embedder")):
                parameter.normal_(0.0, self.config.embedding_std, generator=generator)
            elif "adaLN_modulation" in name:
                parameter.zero_()
            else:
                nn.init.xavier_uniform_(parameter, generator=generator)
        if self.config.initial_positions == "sinusoidal":
            self.x_embedder.position_embeddings.weight.copy_(
                1.5 * self.config.embedding_std * sinusoidal_grid(self.config.num_tokens, self.config.width)
            )
        return self

    def prepare(self, labels_B: Tensor) -> list[Modulation]:
        """What depends on the class alone, and so needs to be computed once for all steps of an image."""
        condition_BD = self.y_embedder(labels_B)
        return [cast(_Block, block).modulation(condition_BD) for block in self.blocks]

    def forward(
        self,
        tokens_BL: Tensor,
        masked_BL: Tensor,
        labels_B: Tensor,
        reused: Reused | None = None,
        num_masked: int | None = None,
        prepared: list[Modulation] | None = None,
    ) -> Reused:
        """Features of every position at one step.

        tokens_BL: int64 codes (what stands at masked positions does not matter); masked_BL: bool, M True in each row;
        labels_B: int64 classes, ``null_class`` for the unconditional branch; reused: what the step before returned,
        whose visible positions must still be visible; num_masked: M, where the caller knows it (spares a
        synchronisation); prepared: ``prepare(labels_B)`` of this network, where the caller keeps it. Returns features
        [B, L, D] before the last LayerNorm, to hand to ``logits`` and to the next step. Raises ValueError where the
        counts differ within the batch.
        """
        length = tokens_BL.shape[1]
        if num_masked is None:
            num_masked = int(masked_BL[0].sum())
            if not bool((masked_BL.sum(1) == num_masked).all()):
                raise ValueError("ENAT needs the same number of masked tokens in every image of a batch")
        num_reused = reused.num_visible if reused is not None else 0
        num_new = length - num_masked - num_reused
        if num_new < 0:
            raise ValueError("a token that was visible at the step before is masked now")

        # Positions in the order: visible before, newly visible, masked; each part in position order.
        part_BL = masked_BL.long() * 2
        if reused is not None:
            part_BL = part_BL + (~masked_BL & ~reused.visible_BL).long()
        else:
            part_BL = part_BL + (~masked_BL).long()
        order_BL = torch.argsort(part_BL, dim=1, stable=True)
        reused_BP, new_BV, masked_BM = order_BL.split([num_reused, num_new, num_masked], dim=1)

        tokens_BL = tokens_BL.masked_fill(masked_BL, self.mask_token)
        embedded_BLD = self.x_embedder(tokens_BL)
        if prepared is None:
            prepared = self.prepare(labels_B)
        blocks = list(zip(self.blocks, prepared, strict=True))
        encoder, decoder = blocks[: self.config.encoder_blocks], blocks[self.config.encoder_blocks :]

        visible: list[Tensor] = []
        if reused is not None:  # also with P = 0: the projection then has a gradient, of zero
            visible.append(self.prev_proj(_gather(reused.features_BLD, reused_BP)))
        if num_new:
            context = visible[0] if num_reused else None
            encoded_BVD = _gather(embedded_BLD, new_BV)
            for block, modulation in encoder:
                encoded_BVD = block(encoded_BVD, context, modulation)
            visible.append(encoded_BVD)
        decoded_BMD = _gather(embedded_BLD, masked_BM)
        if num_masked:
            context = torch.cat(visible, dim=1) if num_reused + num_new else None
            for block, modulation in decoder:
                decoded_BMD = block(decoded_BMD, context, modulation, self.config.decoder_attention)
                if self.config.decoder_attention == "full" and context is not None:
                    context, decoded_BMD = decoded_BMD.split([num_reused + num_new, num_masked], dim=1)

        ordered_BLD = torch.cat([*visible, decoded_BMD], dim=1)
        positions_BL = torch.arange(length, device=order_BL.device).expand_as(order_BL)
        inverse_BL = torch.empty_like(order_BL).scatter_(1, order_BL, positions_BL)
        return Reused(_gather(ordered_BLD, inverse_BL), ~masked_BL, length - num_masked)

    def logits(self, features_BND: Tensor) -> Tensor:
        """Predictions [B, N, K] from features at any N positions."""
        return self.mlm_layer(self.norm(features_BND), self.x_embedder.word_embeddings.weight)
