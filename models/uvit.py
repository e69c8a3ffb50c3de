"""U-ViT as a masked-token network: one transformer over all tokens with long skip connections (AutoNAT's backbone).

Bao et al., arXiv 2209.12152, with the tokens of AutoNAT (arXiv 2406.05478). Module and parameter names are those of
the official checkpoints, so their state dicts load as they are. ``models.uvit_text`` puts captions in place of classes.

Shapes: B images, L tokens, S context tokens in front of them (1 for a class), K codes, D width, N positions asked for.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.linear import Linear, linear
from models.positions import check_grid, sinusoidal_grid


def check_sizes(config: "UViTSizes", at_least_one: tuple[str, ...]) -> None:
    """Raises ValueError where the sizes of a U-ViT do not fit together."""
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.blocks % 2 == 0:
        raise ValueError(f"blocks must be odd (pairs joined by a skip, and a middle one), got {config.blocks}")
    if config.width % config.heads:
        raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
    if config.mlp_ratio <= 0:
        raise ValueError(f"mlp_ratio must be positive, got {config.mlp_ratio}")


@dataclass(frozen=True, slots=True)
class UViTConfig:
    """Sizes of a class-conditional U-ViT. Raises ValueError where they do not fit together.

    num_tokens: L; codebook_size: K; num_classes: C, the null class not counted; blocks: all of them, an odd number:
    half before and half after the middle one (the official `depth` is one less); mlp_ratio: hidden width of the
    feed-forward part in widths; qkv_bias: whether queries, keys and values have a bias; embedding_std,
    initial_positions: how the embeddings begin, as in ``models.enat.ENATConfig``.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_tokens: int = 256
    codebook_size: int = 1024
    num_classes: int = 1000
    width: int = 768
    heads: int = 8
    blocks: int = 25
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    kind: Literal["uvit"] = "uvit"
    embedding_std: float = 0.02
    initial_positions: Literal["normal", "sinusoidal"] = "normal"

    def __post_init__(self) -> None:
        check_sizes(self, ("num_tokens", "codebook_size", "num_classes", "width", "heads", "blocks"))
        if self.initial_positions not in ("normal", "sinusoidal"):
            raise ValueError(f"initial_positions must be 'normal' or 'sinusoidal', got {self.initial_positions!r}")
        if self.initial_positions == "sinusoidal":
            check_grid(self.num_tokens, self.width)

    def to_dict(self) -> dict:
        """Plain values; how it begins only where that is not the official way, so that files stay the same bits."""
        begins = {"embedding_std": 0.02, "initial_positions": "normal"}
        return {name: value for name, value in asdict(self).items() if begins.get(name, ...) != value}


@dataclass(frozen=True, slots=True)
class TextUViTConfig:
    """Sizes of a text-conditional U-ViT (MUSE-Pytorch's CC3M network by default). Raises ValueError as UViTConfig.

    context_tokens, context_width: S tokens of C numbers each that the text encoder gives for a caption (77 of 1280 for
    CLIP bigG); num_classes: how many captions are attached (``models.uvit_text.TextUViT.with_contexts``), no weight
    depends on it. The others as in UViTConfig.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_tokens: int = 256
    codebook_size: int = 1024
    num_classes: int = 0
    width: int = 1152
    heads: int = 16
    blocks: int = 29
    context_tokens: int = 77
    context_width: int = 1280
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    kind: Literal["uvit_text"] = "uvit_text"

    def __post_init__(self) -> None:
        sizes = ("num_tokens", "codebook_size", "width", "heads", "blocks", "context_tokens", "context_width")
        check_sizes(self, sizes)
        if self.num_classes < 0:
            raise ValueError(f"num_classes must not be negative, got {self.num_classes}")

    def to_dict(self) -> dict:
        return asdict(self)


UViTSizes = UViTConfig | TextUViTConfig


@dataclass(frozen=True)
class UViTState:
    """What one step returns: features [B, L, D] before the last LayerNorm. Nothing of it serves the next step."""

    features_BLD: Tensor


class _Embeddings(nn.Module):
    """LN(word + position), eps 1e-6."""

    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, words_BL: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(words_BL) + self.position_embeddings.weight)


class _Attention(nn.Module):
    def __init__(self, config: UViTSizes) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.proj = Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: UViTSizes) -> None:
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = Linear(config.width, hidden)
        self.fc2 = Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """A pre-norm block; those of the second half first join the output of their partner in the first half."""

    def __init__(self, config: UViTSizes, *, joins: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-5)
        self.attn = _Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = _MLP(config)
        if joins:
            self.skip_linear = Linear(2 * config.width, config.width)

    def forward(self, x: Tensor, partner: Tensor | None = None) -> Tensor:
        if partner is not None:
            x = self.skip_linear(torch.cat([x, partner], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _OutputLayer(nn.Module):
    """Logits against the word embedding, which gets no gradient through this side."""

    def __init__(self, config: UViTSizes) -> None:
        super().__init__()
        self.fc = Linear(config.width, config.width)
        self.ln = nn.LayerNorm(config.width, eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(1, 1, config.codebook_size + 1))

    def forward(self, x: Tensor, word_embeddings: Tensor) -> Tensor:
        codes = word_embeddings.detach()[:-1]  # [MASK] is never predicted
        return linear(self.ln(F.gelu(self.fc(x))), codes, self.bias[0, 0, :-1])


class UViTTrunk(nn.Module):
    """All that class- and text-conditional U-ViTs share: everything but the context."""

    reuses_features = False
    needs_one_count = False

    def __init__(self, config: UViTSizes) -> None:
        super().__init__()
        self.token_emb = _Embeddings(config.codebook_size + 1, config.num_tokens, config.width)
        half = config.blocks // 2
        self.in_blocks = nn.ModuleList(_Block(config) for _ in range(half))
        self.mid_block = _Block(config)
        self.out_blocks = nn.ModuleList(_Block(config, joins=True) for _ in range(half))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.mlm_layer = _OutputLayer(config)

    def features(
        self, tokens_BL: Tensor, masked_BL: Tensor, context_BSD: Tensor, dropout_BLD: Tensor | None = None
    ) -> UViTState:
        """Features at the L image tokens, given the embedded context that stands in front of them.

        dropout_BLD: factors on the embedded image tokens, 0 or 1 / (1 - p): the only dropout of the official training
        (p = 0.1). It is an argument, so that a training can draw it from its own streams.
        """
        x_BLD = self.token_emb(tokens_BL.masked_fill(masked_BL, self.token_emb.word_embeddings.num_embeddings - 1))
        if dropout_BLD is not None:
            x_BLD = x_BLD * dropout_BLD
        x = torch.cat([context_BSD, x_BLD], dim=1)
        partners = []
        for block in self.in_blocks:
            x = block(x)
            partners.append(x)
        x = self.mid_block(x)
        for block in self.out_blocks:
            x = block(x, partners.pop())
        return UViTState(x[:, context_BSD.shape[1] :])

    def logits(self, features_BND: Tensor) -> Tensor:
        """Predictions [B, N, K] from features at any N positions."""
        return self.mlm_layer(self.norm(features_BND), self.token_emb.word_embeddings.weight)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for name, parameter in sorted(self.named_parameters()):
            if parameter.ndim == 1 or name == "mlm_layer.bias":
                is_norm_gain = name.endswith(("LayerNorm.weight", "norm.weight", "norm1.weight", "norm2.weight"))
                parameter.fill_(1.0 if is_norm_gain or name.endswith("ln.weight") else 0.0)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, generator=generator)


class UViT(UViTTrunk):
    """The class-conditional network: the class is one token in front of the image's. The counts of masked tokens may
    differ within a batch. ``forward`` gives features, ``logits`` turns features into predictions over the codebook."""

    def __init__(self, config: UViTConfig) -> None:
        super().__init__(config)
        self.config = config
        self.context_embed = _Embeddings(config.num_classes + 1, 1, config.width)

    @property
    def mask_token(self) -> int:
        return self.config.codebook_size

    @property
    def null_class(self) -> int:
        return self.config.num_classes

    def initialise(self, generator: torch.Generator) -> "UViT":
        """Random weights from the generator: truncated normal 0.02, zero biases. Returns self."""
        self._initialise(generator)
        config = self.config
        with torch.no_grad():  # the embeddings are normalised at once, so their size is how slowly they turn
            for embeddings in (self.token_emb, self.context_embed):
                for parameter in (embeddings.word_embeddings.weight, embeddings.position_embeddings.weight):
                    parameter.mul_(config.embedding_std / 0.02)
            if config.initial_positions == "sinusoidal":
                grid_LD = 1.5 * config.embedding_std * sinusoidal_grid(config.num_tokens, config.width)
                self.token_emb.position_embeddings.weight.copy_(grid_LD)
        return self

    def prepare(self, labels_B: Tensor) -> Tensor:
        """What depends on the class alone, and so needs to be computed once for all steps: its token [B, 1, D]."""
        return self.context_embed(labels_B[:, None])

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
        """Features of every position at one step.

        tokens_BL: int64 codes (what stands at masked positions does not matter); masked_BL: bool; labels_B: int64
        classes, ``null_class`` for the unconditional branch; prepared: ``prepare(labels_B)``, where the caller keeps
        it; dropout_BLD: see ``features``. `reused` and `num_masked` are there for the common interface and change
        nothing.
        """
        context_BSD = self.prepare(labels_B) if prepared is None else prepared
        return self.features(tokens_BL, masked_BL, context_BSD, dropout_BLD)
