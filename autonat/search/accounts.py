"""What each phase of a study gained, and what it cost."""

from dataclasses import asdict, dataclass, field
from typing import Any

from autonat.search.confirm import Verdict
from autonat.search.program import Laboratory, Phase


@dataclass(frozen=True, slots=True)
class PhaseAccount:
    """One phase of one round. gain: in distance over what the phase began with, on images that it was not chosen by
    where the phase has such; images and trainings: asked for during the phase, recorded before or not."""

    phase: str
    round: int
    gain: float
    gain_standard_error: float
    images: int
    trainings: int


@dataclass
class Accounts:
    """The phases so far; what a laboratory spent since the last one goes to the next."""

    lab: Laboratory
    rows: list[PhaseAccount] = field(default_factory=list)
    _images: int = 0
    _trainings: int = 0

    def close(self, phase: Phase, verdict: Verdict | None = None) -> None:
        """A phase is over. Without a verdict it gained nothing, as a preparation does."""
        images, trainings = self.lab.spent_images, len(self.lab.trained)
        gain, error = (0.0, 0.0) if verdict is None else (verdict.gain, verdict.gain_standard_error)
        spent = (images - self._images, trainings - self._trainings)
        self.rows.append(PhaseAccount(phase.name, phase.round, gain, error, *spent))
        self._images, self._trainings = images, trainings

    def as_data(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]
