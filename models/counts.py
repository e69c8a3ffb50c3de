"""Operations and memory of one image, from sizes alone.

A multiply-accumulate (MAC) is one product and one sum in a matrix product, a convolution or an attention; norms,
softmax, embeddings and elementwise work are not counted, as in the papers. ``torch.utils.flop_counter`` counts 2 FLOPs
a MAC for the same operations; papers often print MACs as FLOPs, so say which you mean.

Two protocols:

* ``sampler``: what ``models.sample.sample`` runs. Logits at masked positions only and no logit of [MASK]; the
  unconditional branch only where it is needed; nothing after the image is finished; the first step out of a table
  (``first_step_logits``) where one is used, so that it costs an image nothing.
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
    first_from_table: bool = False,
) -> list[StepCount]:
    """What every step of one image costs; one entry a step that is run.

    reuse: whether ENAT carries features over (without, every visible token is encoded again at every step);
    first_from_table: whether the first step is read from ``first_step_logits`` (sampler only).
    """
    reuses = config.kind == "enat" and reuse
    needs_unconditional = unconditional_steps(schedule, reuses)
    counts = masked_counts(schedule, config.num_tokens)
    steps: list[StepCount] = []
    knew_context = [False, False]
    for step, num_masked in enumerate(counts):
        before = counts[step - 1] if step else config.num_tokens
        num_reused = config.num_tokens - before if reuses else 0
        if protocol == "official":
            passes = [True, True]
            macs = 2 * pass_macs(config, num_masked, num_reused, official=True)
        else:
            if not num_masked:
                break
            passes = [False, False] if first_from_table and not step else [True, needs_unconditional[step]]
            one = pass_macs(config, num_masked, num_reused)
            embedding = context_macs(config)
            macs = sum(one - embedding * known for run, known in zip(passes, knew_context, strict=True) if run)
            knew_context = passes  # the embedded captions are handed on with the features
        steps.append(StepCount(num_masked, before - num_masked, sum(passes), macs))
    return steps


def pass_macs(config: NetworkConfig, num_masked: int, num_reused: int = 0, *, official: bool = False) -> int:
    """MACs of one network pass on one image: features of all positions, then logits.

    num_reused: P, visible tokens whose features come from the step before (ENAT). official: logits of all L positions
    over K + 1 words; otherwise of the M masked ones over K codes.
    """
    positions, words = (config.num_tokens, config.codebook_size + 1) if official else (num_masked, config.codebook_size)
    logits = positions * (config.width**2 + config.width * words)
    if config.kind == "enat":
        return _enat_features(config, num_masked, num_reused, always_decodes=official) + logits
    context = 1 if config.kind == "uvit" else config.context_tokens
    if official:  # the official output layer also runs on the rows of the context, and drops them afterwards
        logits = (config.num_tokens + context) * (config.width**2 + config.width * words)
    return _uvit_features(config, context) + logits


def context_macs(config: NetworkConfig) -> int:
    """MACs of embedding a caption (S C D); nothing for a class, which is a row of a table."""
    return config.context_tokens * config.context_width * config.width if config.kind == "uvit_text" else 0


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


def _enat_features(config: Any, num_masked: int, num_reused: int, *, always_decodes: bool) -> int:
    """Encoder on new tokens, projection of reused ones, decoder on masked tokens (arXiv 2411.06959, section 4).

    always_decodes: the official decoder projects its context also where no token is masked.
    """
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    num_visible = config.num_tokens - num_masked
    num_new = num_visible - num_reused
    modulation = 8 * width**2  # adaLN, once a block and image
    macs = 8 * num_reused * width**2  # the hidden width of the reuse projection is 4 D whatever mlp_ratio is
    if num_new:
        macs += config.encoder_blocks * (_block(num_new, num_reused, num_reused + num_new, width, hidden) + modulation)
    if num_masked or always_decodes:
        decoder = _block(num_masked, num_visible, num_visible + num_masked, width, hidden)
        macs += config.decoder_blocks * (decoder + modulation)
    return macs


def _uvit_features(config: Any, context: int) -> int:
    """All blocks on image and context tokens, and the linear layers that join the two halves."""
    length, width = config.num_tokens + context, config.width
    block = _block(length, 0, length, width, int(width * config.mlp_ratio))
    return config.blocks * block + config.blocks // 2 * 2 * length * width**2 + context_macs(config)


def activation_bytes(config: NetworkConfig, bytes_per_value: int = 4) -> int:
    """An estimate of the memory that sampling one image takes beside the weights, one branch at a time.

    The largest of two moments: inside the MLP of a block over all tokens, where its input, the normed input and the
    hidden layer before and after its activation are alive beside the embedded tokens, the features of both branches
    and (U-ViT) the outputs that the second half will join; and when tokens are drawn, where six tensors [L, K] are
    (two branches, guided, tempered, noise, log-probabilities). Libraries' own workspaces are not counted.
    """
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    length = config.num_tokens
    rows = 4  # embedded tokens, what goes on to the next step, and the block's input and its norm
    if config.kind != "enat":
        length += 1 if config.kind == "uvit" else config.context_tokens
        rows += config.blocks // 2
    in_block = length * (rows * width + 2 * hidden)
    drawing = 6 * config.num_tokens * config.codebook_size + 2 * length * width
    return bytes_per_value * max(in_block, drawing)
