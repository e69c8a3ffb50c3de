"""How a recipe says its searches: of the schedule, and of the training mask ratio's Beta distribution."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from autonat.recipe_files import Strict
from models.schedule import FAMILIES

# What one unit of a step means for each family, in the coordinates of the descent.
SCALES = {"mask_ratios": 1.0, "sampling_temperatures": 0.5, "choice_temperatures": 1.5, "guidance_scales": 1.0}
# The published search steps in the values themselves.
OFFICIAL_DIFFERENCES = {name: 0.01 if name == "mask_ratios" else 0.1 for name in FAMILIES}
OFFICIAL_RATES = {name: 1e-3 if name == "mask_ratios" else 0.1 for name in FAMILIES}


def _of_every_family(values: dict[str, float]) -> dict[str, float]:
    if set(values) != set(FAMILIES) or min(values.values()) <= 0:
        raise ValueError(f"needs a positive value for each of {', '.join(FAMILIES)}")
    return values


ByFamily = Annotated[dict[str, float], AfterValidator(_of_every_family)]


class WarmStart(Strict):
    """A black-box search, as a rule over the smooth family. `batch` trials are asked for at a time, whatever the number
    of workers.

    sampler: Optuna's TPE, CMA-ES, Gaussian process, or random points. space: `family`, a few shape parameters, or
    `values`, all 4T - 2 of them. ratio_shape: the family's mask ratios.
    """

    sampler: Literal["tpe", "cmaes", "gp", "random"] = "tpe"
    space: Literal["family", "values"] = "family"
    ratio_shape: Literal["cosine_power", "beta_cdf"] = "cosine_power"
    trials: int = Field(40, ge=1)
    random_trials: int = Field(12, ge=1)
    batch: int = Field(4, ge=1)
    images: int = 500
    keep: int = Field(3, ge=1)


class Descent(Strict):
    """Finite-difference descent. `difference` and `learning_rate` are in units of each family's scale.

    estimator: `population`, every image under a perturbation of its own, or `probes`, value by value; sides: of probes,
    `central` differences, or `forward` ones, which take half the images and have an error of the order of `difference`.
    A gradient takes `images` at a time until the cosine of its angle to the truth is estimated at `confidence`,
    or `max_images` are spent (`images` unless given). check_every: so many iterations apart the walk is compared with
    where it was; what is confirmed worse is taken back and the rate halved. 0: never. widest: how many times
    `difference` may grow while gradients are lost in noise; wide ones tell of other schedules than the one at hand.
    """

    estimator: Literal["population", "probes"] = "population"
    sides: Literal["central", "forward"] = "central"
    iterations: int = Field(12, ge=1)
    images: int = 1000
    max_images: int | None = None
    confidence: float = Field(0.7, gt=0, lt=1)
    check_every: int = Field(0, ge=0)
    difference: float = Field(0.3, gt=0)
    widest: float = Field(1.0, ge=1)
    learning_rate: float = Field(0.15, gt=0)
    momentum: float = Field(0.8, ge=0, lt=1)
    second_momentum: float = Field(0.95, ge=0, lt=1)
    scales: ByFamily = Field(SCALES)

    @model_validator(mode="after")
    def _check(self) -> "Descent":
        if self.max_images is not None and self.max_images < self.images:
            raise ValueError(f"max_images {self.max_images} is less than images {self.images}")
        return self


class StagedSearch(Strict):
    """Warm start, then descent, each confirmed on fresh seeds; either may be left out with `null`.

    descents: how many at most, one after the other, each from the best so far. After one without a confirmed gain the
    next has half the learning rate and up to twice the images a gradient; after two in a row there is no further one.
    """

    method: Literal["staged"] = "staged"
    warm_start: WarmStart | None = WarmStart()
    descent: Descent | None = Descent()
    descents: int = Field(1, ge=1)
    confirmation_images: int = 2000

    @model_validator(mode="after")
    def _check(self) -> "StagedSearch":
        if self.warm_start is None and self.descent is None:
            raise ValueError("a staged search needs a warm start, a descent or both")
        return self


class BlackBoxSearch(Strict):
    """One of Optuna's optimisers alone, on all values (or the family), confirmed as ever."""

    method: Literal["tpe", "cmaes", "gp", "random"]
    space: Literal["family", "values"] = "values"
    trials: int = Field(200, ge=1)
    random_trials: int = Field(16, ge=1)
    batch: int = Field(4, ge=1)
    images: int = 500
    keep: int = Field(3, ge=1)
    confirmation_images: int = 2000


class SPSASearch(Strict):
    """Simultaneous perturbation stochastic approximation, two evaluations a step; units as in Descent."""

    method: Literal["spsa"] = "spsa"
    iterations: int = Field(100, ge=1)
    images: int = 500
    difference: float = Field(0.3, gt=0)
    learning_rate: float = Field(0.5, gt=0)
    scales: ByFamily = Field(SCALES)
    confirmation_images: int = 2000


class OfficialSearch(Strict):
    """AutoNAT's published settings."""

    method: Literal["official"] = "official"
    iterations: int = Field(20, ge=1)
    images: int = 1000
    momentum: float = Field(0.5, ge=0, lt=1)
    difference: ByFamily = Field(OFFICIAL_DIFFERENCES)
    learning_rate: ByFamily = Field(OFFICIAL_RATES)


AnySearch = StagedSearch | BlackBoxSearch | SPSASearch | OfficialSearch


class WarmTraining(Strict):
    """A training that goes on from the incumbent's weights, for fewer steps."""

    steps: int = Field(ge=1)


class BetaSearch(Strict):
    """Greedy line search over Beta(alpha, beta); `start_*` is its centre where the incumbent is not a Beta.

    retune: a short search of the smooth family for each new network, beside the incumbent's schedule: a schedule tuned
    for one network misranks others. `null` judges every point under the incumbent's schedule alone.
    repeats: where the best of a line and its centre are within one standard error of each other, both are trained again
    with another seed and judged by the mean, up to so many times; a training's own luck is not in the error.
    warm_start: train the points from the incumbent's weights; the best of them is trained from scratch, as one of
    `max_trainings`, before it can be adopted.
    rungs: training steps, or shares of them, at which points that fall behind their line are left off.
    """

    start_alpha: float = Field(6.0, gt=0)
    start_beta: float = Field(3.0, gt=0)
    factors: tuple[float, float] = (0.5, 2.0)
    max_trainings: int = Field(6, ge=1)
    images: int = 2000
    retune: WarmStart | None = None
    repeats: int = Field(0, ge=0)
    warm_start: WarmTraining | None = None
    rungs: tuple[float, ...] = ()

    def rung_steps(self, total: int) -> tuple[int, ...]:
        """The rungs of trainings with so many steps. Raises ValueError unless they ascend between 1 and the last."""
        steps = tuple(round(rung * total) if rung < 1 else int(rung) for rung in self.rungs)
        if any(rung >= 1 and rung != int(rung) for rung in self.rungs):
            raise ValueError(f"beta.rungs must be shares below 1 or whole numbers of steps, got {self.rungs}")
        if list(steps) != sorted(set(steps)) or any(not 1 <= step < total for step in steps):
            raise ValueError(f"beta.rungs must ascend between step 1 and {total - 1}, got steps {steps}")
        return steps

    @model_validator(mode="after")
    def _check(self) -> "BetaSearch":
        if self.warm_start is not None and self.max_trainings < 2:
            raise ValueError("max_trainings must be at least 2 with a warm_start: one is the winner's from scratch")
        if not 0 < self.factors[0] < 1 < self.factors[1]:
            raise ValueError(f"factors must be one below and one above 1, got {self.factors}")
        return self
