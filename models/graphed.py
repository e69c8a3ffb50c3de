"""A whole run of the sampler as one CUDA graph.

A run at small widths is thousands of short kernels, and starting them takes longer than they do. Under the rule `enat`
every count is known beforehand, so nothing waits for the device and the run can be recorded once and played for every
block of the same size. (The other rules look at the device for ties.)
"""

from typing import Any

import torch
from torch import Tensor

from models.noise import Noise
from models.sample import FirstStepLogits, sample
from models.schedule import GenerationSchedule


class _KeptNoise:
    """Noise in buffers, so that every playback reads what was put there."""

    def __init__(self, num_steps: int, shape_BLK: tuple[int, int, int], device: torch.device) -> None:
        self.draws = [torch.zeros(shape_BLK, device=device) for _ in range(num_steps)]
        self.choices = [torch.zeros(shape_BLK[:2], device=device) for _ in range(num_steps)]

    def draw(self, step: int) -> Tensor:
        return self.draws[step]

    def choice(self, step: int) -> Tensor:
        return self.choices[step]

    def fill(self, noise: Noise) -> None:
        for kept, drawn in ((self.draws, noise.draw), (self.choices, noise.choice)):
            for step, buffer in enumerate(kept):
                values = drawn(step)
                if values is None:
                    buffer.zero_()
                else:
                    buffer.copy_(values)


class _KeptFirstLogits(FirstStepLogits):
    """The first step's logits of one batch, in buffers."""

    def __init__(self, first_logits: FirstStepLogits, labels_B: Tensor) -> None:
        self.source = first_logits
        rows_BLK = first_logits.of(labels_B)
        self.rows_BLK = None if rows_BLK is None else rows_BLK.clone()

    def unconditional(self) -> Tensor:
        return self.source.unconditional()

    def of(self, labels_B: Tensor) -> Tensor | None:
        return self.rows_BLK

    def fill(self, labels_B: Tensor) -> None:
        rows_BLK = self.source.of(labels_B)
        if self.rows_BLK is not None and rows_BLK is not None:
            self.rows_BLK.copy_(rows_BLK)


class GraphedSampler:
    """``sample`` for one schedule and batch size; the same tokens. On a device other than CUDA it records nothing."""

    def __init__(
        self,
        network: Any,
        schedule: GenerationSchedule,
        batch: int,
        *,
        first_logits: FirstStepLogits | None = None,
        dithers: tuple[float, ...] | None = None,
    ) -> None:
        """network: class-conditional, in evaluation mode; must keep its weights. Raises ValueError for a rule whose
        counts depend on the tokens."""
        if schedule.rule != "enat":
            raise ValueError(f"a graph needs counts that are known beforehand, which rule {schedule.rule!r} has not")
        config, device = network.config, next(network.parameters()).device
        self.network, self.schedule, self.dithers = network, schedule, dithers
        self.labels_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.noise = _KeptNoise(schedule.num_steps, (batch, config.num_tokens, config.codebook_size), device)
        self.first_logits = None if first_logits is None else _KeptFirstLogits(first_logits, self.labels_B)
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._record()

    def _run(self) -> Tensor:
        return sample(
            self.network,
            self.schedule,
            self.labels_B,
            self.noise,
            first_logits=self.first_logits,
            dithers=self.dithers,
        )

    def _record(self) -> None:
        if self.first_logits is not None:
            self.first_logits.unconditional()  # computed before recording
        # Autocast keeps its copies of the weights for as long as its context lasts, which is not as long as the graph.
        precisely = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), precisely:
            for _ in range(3):  # libraries set up what they allocate at first use
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph), precisely:
            self._tokens_BL = self._run()

    def __call__(self, labels_B: Tensor, noise: Noise) -> Tensor:
        """Paint B images: codes int64 [B, L]. Arguments as in ``models.sample.sample``."""
        self.labels_B.copy_(labels_B)
        self.noise.fill(noise)
        if self.first_logits is not None:
            self.first_logits.fill(labels_B)
        if self.graph is None:
            return self._run()
        self.graph.replay()
        return self._tokens_BL.clone()
