"""Operations and memory of one image, from sizes alone.

A multiply-accumulate (MAC) is one product and one sum in a matrix product, a convolution or an attention; norms,
softmax, embeddings and elementwise work are not counted, as in the papers. ``torch.utils.flop_counter`` counts 2 FLOPs
a MAC for the same operations; papers often print MACs as FLOPs, so say which you mean.

Two protocols:

* ``sampler``: what ``models.sample.sample`` runs. Logits at masked positions only and no logit of [MASK]; the
  unconditional branch only where it is needed; what depends on the label alone once an image; nothing after the image
  is finished. The first step costs an image nothing where it is read from a table (``FirstStepLogits``).
* ``official``: what the papers' code runs and the recordings in `counts.json` count. Both branches at every step, also
  at guidance 0; logits of all positions, [MASK] among them; all T steps, also where nothing is masked any more.

Symbols: L tokens, K codes, D width, H hidden width of the MLP, S context tokens of C numbers; P tokens were visible at
the step before, V became visible since, M are masked, P + V + M = L.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from models.networks import NetworkConfig, build_network
from models.sample import Knobs, count_to_mask, unconditional_steps
from models.schedule import GenerationSchedule
from models.vqgan import VQGANConfig

Protocol = Literal["sampler", "official"]

TABLE_LIMIT_BYTES = 2**30  # the default of ``FirstStepLogits``


@dataclass(frozen=True, slots=True)
class StepCount:
    """One decoding step of one image: masked tokens that it starts with, tokens that became visible since the step
    before, network passes (0: read from a table; 2: both guidance branches), and the MACs of these passes."""

    num_masked: int
    num_new: int
    passes: int
    macs: int


def num_parameters(config: NetworkConfig) -> int:
    """Parameters of a network, counted on the meta device: nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())


def masked_counts(schedule: GenerationSchedule, num_tokens: int) -> list[int]:
    """How many tokens are masked when each of the T steps starts, by the schedule's rule; ties of confidence aside.

    Where the rule masks nothing again before the last step, zeros follow: the image is finished there.
    """
    counts = [num_tokens]
    for step in range(schedule.num_steps - 1):
        counts.append(count_to_mask(Knobs.at(schedule, step), num_tokens, counts[-1]) if counts[-1] else 0)
    return counts


def image_counts(
    config: NetworkConfig,
    schedule: GenerationSchedule,
    protocol: Protocol = "sampler",
    *,
    reuse: bool = True,
    first_logits: bool = False,
) -> list[StepCount]:
    """What every step of one image costs; one entry a step that is run.

    reuse: False counts an ENAT that carries features over as one that does not (`ENATConfig.reuse`); first_logits:
    whether the sampler reads its first step from ``FirstStepLogits``, which is not counted.
    """
    reuses = config.kind == "enat" and config.reuse and reuse
    needs_unconditional = unconditional_steps(schedule, reuses)
    counts = masked_counts(schedule, config.num_tokens)
    steps: list[StepCount] = []
    prepared: set[int] = set()
    for step, num_masked in enumerate(counts):
        before = counts[step - 1] if step else config.num_tokens
        num_reused = config.num_tokens - before if reuses else 0
        if protocol == "official":
            passes = 2
            macs = 2 * official_pass_macs(config, num_masked, num_reused)
        else:
            if not num_masked:
                break
            passes = 2 if needs_unconditional[step] else 1
            if first_logits and not step:
                passes = 0 if table_holds_classes(config) else 1
            macs = passes * pass_macs(config, num_masked, num_reused)
            # The sampler prepares its labels once for steps with one branch and once for steps with both.
            macs += passes * preparation_macs(config) if passes not in prepared else 0
            prepared.add(passes)
        steps.append(StepCount(num_masked, before - num_masked, passes, macs))
    return steps


def table_holds_classes(config: NetworkConfig, bytes_per_value: int = 4) -> bool:
    """Whether ``FirstStepLogits`` keeps a row for each class; without a number of classes (captions), no."""
    num_bytes = config.num_classes * config.num_tokens * config.codebook_size * bytes_per_value
    return 0 < num_bytes <= TABLE_LIMIT_BYTES


def pass_macs(config: NetworkConfig, num_masked: int, num_reused: int = 0) -> int:
    """MACs of one network pass on one image after its preparation: features of all L positions, logits of the masked
    ones. num_reused: P, visible tokens whose features come from the step before (ENAT)."""
    logits = num_masked * (config.width**2 + config.width * config.codebook_size)
    features = _enat_features(config, num_masked, num_reused) if config.kind == "enat" else _uvit_features(config)
    return features + logits


def preparation_macs(config: NetworkConfig) -> int:
    """MACs of what depends on the label alone: ENAT's modulation of every block, the embedding of a caption (a class of
    U-ViT is a row of a table)."""
    if config.kind == "enat":
        return (config.encoder_blocks + config.decoder_blocks) * 8 * config.width**2
    return config.context_tokens * config.context_width * config.width if config.kind == "uvit_text" else 0


def official_pass_macs(config: NetworkConfig, num_masked: int, num_reused: int = 0) -> int:
    """MACs of one pass of the official code: modulation and captions computed at every step, but only in blocks that
    run; logits of every row, also U-ViT's context rows, over K + 1 words."""
    per_row = config.width**2 + config.width * (config.codebook_size + 1)
    if config.kind != "enat":
        return _uvit_features(config) + preparation_macs(config) + _uvit_length(config) * per_row
    features = _enat_features(config, num_masked, num_reused)
    idle = num_masked + num_reused == config.num_tokens
    running = config.decoder_blocks + (0 if idle else config.encoder_blocks)
    if not num_masked:  # the official decoder projects its context also where nothing is masked
        features += config.decoder_blocks * 2 * config.num_tokens * config.width**2
    return features + running * 8 * config.width**2 + config.num_tokens * per_row


def decoder_macs(config: VQGANConfig, height: int, width: int) -> int:
    """MACs of painting one image of height x width pixels from its codes with a VQGAN."""
    pixels = height * width // config.downsampling**2
    entering, macs = config.widths[-1], 0
    macs += pixels * 9 * config.code_width * entering  # 3x3 convolutions have 9 C_in C_out MACs a pixel
    macs += 2 * pixels * _residual_macs(entering, entering)
    for level, leaving in reversed(list(enumerate(config.widths))):
        macs += pixels * _residual_macs(entering, leaving)
        macs += (config.blocks_per_level - 1) * pixels * _residual_macs(leaving, leaving)
        if level:
            pixels *= 4
            macs += pixels * 9 * leaving**2
        entering = leaving
    return macs + pixels * 9 * entering * config.image_channels


def _residual_macs(width_in: int, width_out: int) -> int:
    """Of one pixel: two 3x3 convolutions, and a 1x1 on the result where the width changes."""
    return 9 * width_out * (width_in + width_out) + (width_out**2 if width_in != width_out else 0)


def _block(own: int, context: int, keys: int, width: int, hidden: int) -> int:
    """A transformer block on `own` tokens: their query, key, value, output and MLP; key and value of `context` other
    tokens; attention from the own tokens to `keys` tokens."""
    return own * (4 * width**2 + 2 * width * hidden) + 2 * context * width**2 + 2 * own * keys * width


def _enat_features(config: Any, num_masked: int, num_reused: int) -> int:
    """Encoder on new tokens, projection of reused ones, decoder on masked tokens (arXiv 2411.06959, section 4)."""
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    num_visible = config.num_tokens - num_masked
    num_new = num_visible - num_reused
    macs = 8 * num_reused * width**2  # the hidden width of the reuse projection is 4 D whatever mlp_ratio is
    if num_new:
        macs += config.encoder_blocks * _block(num_new, num_reused, num_visible, width, hidden)
    if not num_masked:
        return macs
    decoder = _block(num_masked, num_visible, config.num_tokens, width, hidden)
    if config.decoder_attention == "full":
        decoder = _block(config.num_tokens, 0, config.num_tokens, width, hidden)
    elif config.decoder_attention == "cross" and num_visible:  # no keys and values of masked tokens
        decoder = _block(num_masked, num_visible, num_visible, width, hidden) - 2 * num_masked * width**2
    return macs + config.decoder_blocks * decoder


def _uvit_features(config: Any) -> int:
    """All blocks on image and context tokens, and the linear layers that join the two halves."""
    length, width = _uvit_length(config), config.width
    block = _block(length, 0, length, width, int(width * config.mlp_ratio))
    return config.blocks * block + config.blocks // 2 * 2 * length * width**2


def _uvit_length(config: Any) -> int:
    return config.num_tokens + (1 if config.kind == "uvit" else config.context_tokens)


def activation_bytes(config: NetworkConfig, bytes_per_value: int = 4) -> int:
    """An estimate of the memory that sampling one image takes beside the weights, one branch at a time.

    The largest of two moments: inside the MLP of a block over all tokens, where its input, the normed input and the
    hidden layer before and after its activation are alive beside the embedded tokens, the features of both branches
    and (U-ViT) the outputs that the second half will join; and when tokens are drawn, where six tensors [L, K] are
    (two branches, guided, tempered, noise, log-probabilities). Libraries' own workspaces are not counted.
    """
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    length = config.num_tokens if config.kind == "enat" else _uvit_length(config)
    rows = 4  # embedded tokens, what goes on to the next step, and the block's input and its norm
    if config.kind != "enat":
        rows += config.blocks // 2
    in_block = length * (rows * width + 2 * hidden)
    drawing = 6 * config.num_tokens * config.codebook_size + 2 * length * width
    return bytes_per_value * max(in_block, drawing)
