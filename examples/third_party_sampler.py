"""Tune a sampler that is not autonat's: run ``python examples/third_party_sampler.py`` (some seconds).

The first half stands for somebody else's code, in the manner of MaskGIT-PyTorch and Halton-MaskGIT: it counts what is
known instead of what is masked, multiplies logits by a scale instead of dividing by a temperature, and writes guidance
with (1 + w). Nothing in it knows autonat. The second half is all that it takes to have its schedule searched.
"""

import numpy as np
from sklearn.datasets import load_digits

from autonat import Descent, GenerationSchedule, StagedSearch, Tuned, WarmStart, maskgit_cosine, tune

# ---- Somebody else's code: 8x8 digits in 5 grey levels, a model made of counts, a sampler and a feature map.

PIXELS, LEVELS, CLASSES = 64, 5, 10
EVEN = 40  # added to every count: the model's classes are as vague as a network's that was trained briefly


def real_tokens():
    """Grey levels of real digits as tokens [M, 64], and their classes [M]."""
    digits = load_digits()
    return np.rint(digits.data / 4).astype(int), digits.target


def one_hot(tokens):
    """[N, 64] -> [N, 64 * 5]; a masked token (-1) is a row of zeros."""
    return (tokens[..., None] == np.arange(LEVELS)).reshape(len(tokens), -1).astype(np.float32)


class CountingModel:
    """log p(token | class) plus, for each known pixel near by, how much likelier it makes the token."""

    def __init__(self, tokens, classes):
        seen = one_hot(tokens)

        def log_share(rows):
            counts = seen[rows].sum(axis=0).reshape(PIXELS, LEVELS) + EVEN
            return np.log(counts / counts.sum(axis=1, keepdims=True))

        self.by_class = np.stack([log_share(classes == label) for label in range(CLASSES)])
        self.by_any = log_share(classes >= 0)
        share = np.exp(self.by_any).ravel()
        together = (seen.T @ seen + 3 * np.outer(share, share)) / (len(tokens) + 3)
        place = np.stack(np.divmod(np.arange(PIXELS), 8), axis=1)
        apart = ((place[:, None] - place[None]) ** 2).sum(axis=-1)
        near = np.where(apart > 0, 0.6 * np.exp(-apart / 2), 0.0)
        near = np.repeat(np.repeat(near, LEVELS, axis=0), LEVELS, axis=1)
        self.context = (near * np.log(together / np.outer(share, share))).astype(np.float32)

    def logits(self, tokens, labels):
        """(conditional, unconditional) [N, 64, 5]."""
        known = (one_hot(tokens) @ self.context).reshape(-1, PIXELS, LEVELS)
        return self.by_class[labels] + known, self.by_any + known


def paint(model, labels, tokens_known, sm_temp, w, r_temp, rng):
    """Tokens [N, 64]. Each step draws all pixels, then keeps the `tokens_known[step]` that it trusts most."""
    tokens = np.full((len(labels), PIXELS), -1)
    for step, keep in enumerate(tokens_known):
        # All of the step's noise, used or not: the next step's must not depend on this step's settings.
        draw, trust = rng.gumbel(size=(*tokens.shape, LEVELS)), rng.gumbel(size=tokens.shape)
        conditional, unconditional = model.logits(tokens, labels)
        logit = (1 + w[step]) * conditional - w[step] * unconditional
        drawn = np.where(tokens < 0, (logit * sm_temp[step] + draw).argmax(axis=-1), tokens)
        log_sum = np.log(np.exp(logit - logit.max(axis=-1, keepdims=True)).sum(axis=-1)) + logit.max(axis=-1)
        confidence = np.take_along_axis(logit, drawn[..., None], axis=-1)[..., 0] - log_sum + r_temp[step] * trust
        confidence[tokens >= 0] = np.inf
        rank = np.argsort(np.argsort(-confidence, axis=1), axis=1)
        tokens = np.where(rank < keep, drawn, -1)
    return tokens


FEATURE_MAP = np.random.default_rng(0).normal(size=(PIXELS, 32)) / 8


def features_of(tokens):
    """[N, 32]."""
    return np.maximum(0.0, (tokens - 2) @ FEATURE_MAP)


# ---- What it takes to tune it.


def sampler_of(model):
    """The function that autonat calls: a schedule in their words, the labels, and a seed that fixes all noise."""

    def sampler(schedule: GenerationSchedule, labels, seed, dither=None):
        offsets = dither or (0.0,) * schedule.num_steps
        masked = [int(PIXELS * ratio + offset) for ratio, offset in zip(schedule.mask_ratios, offsets, strict=False)]
        tokens = paint(
            model,
            labels,
            tokens_known=[PIXELS - count for count in [*masked, 0]],
            sm_temp=[1 / temperature for temperature in schedule.sampling_temperatures],
            w=schedule.guidance_scales,
            r_temp=[*schedule.choice_temperatures, 0.0],
            rng=np.random.default_rng(seed),
        )
        return features_of(tokens)

    return sampler


def main() -> Tuned:
    tokens, classes = real_tokens()
    tuned = tune(
        sampler_of(CountingModel(tokens, classes)),
        reference=features_of(tokens),
        start=maskgit_cosine(4),
        num_classes=CLASSES,
        search=StagedSearch(
            warm_start=WarmStart(trials=32, images=400),
            descent=Descent(iterations=8, images=800),
            confirmation_images=2000,
        ),
        held_out_images=5000,
    )
    print(f"MaskGIT's default  {tuned.baseline.value:.3f} +- {tuned.baseline.standard_error:.3f}")
    print(f"tuned              {tuned.distance:.3f} +- {tuned.standard_error:.3f}")
    print(f"images spent       {tuned.images_spent:,} by the search, 2 x {tuned.evaluation.num_images:,} to report")
    print(tuned.schedule)
    return tuned


if __name__ == "__main__":
    main()
