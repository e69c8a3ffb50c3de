"""What is taken away from a study, what comes back from a file, and what every format has to offer."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autonat.specs import NUMERICS_VERSION, EvaluationSpec, fingerprint
from models.networks import NetworkConfig
from models.schedule import GenerationSchedule


@dataclass(frozen=True)
class Content:
    """A tuned schedule with what a file for others needs beside it.

    network: its configuration; training_mask_ratio: p(r), as plain data; provenance: see ``provenance_of``; weights:
    the trained network's file, for formats that carry it.
    """

    schedule: GenerationSchedule
    network: NetworkConfig
    training_mask_ratio: dict[str, Any]
    provenance: dict[str, Any]
    weights: Path | None = None

    @property
    def num_tokens(self) -> int:
        """L."""
        return self.network.num_tokens

    @property
    def mask_token(self) -> int:
        """The number of [MASK], behind the K codes."""
        return self.network.codebook_size


@dataclass(frozen=True)
class Imported:
    """A file read back. `notes`: what the format does not express or what was assumed, a line each."""

    schedule: GenerationSchedule
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One form of export.

    outputs: the files that a path stands for. write: writes them and returns what the format does not express.
    recognises: whether a path holds this form, from its content. read: back to a schedule; the number of steps is
    given where the caller knows it, and needed only where the file does not say. Both raise UserError. ours: whether
    an export wrote a file that is already there, asked of outputs that the path does not name itself.
    """

    name: str
    summary: str
    outputs: Callable[[Path], list[Path]]
    write: Callable[[Content, Path], list[str]]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, int | None], Imported]
    ours: Callable[[Path], bool] = lambda file: False


def one_file(path: Path) -> list[Path]:
    """The outputs of a format that is a single file."""
    return [path]


def provenance_of(study: str, date: str, summary: dict[str, Any], tuned: EvaluationSpec) -> dict[str, Any]:
    """Where a schedule comes from and how good it was measured to be; `tuned` is what the summary's distance is of.

    The date is the study's, so that exporting twice gives the same bytes.
    """
    return {
        "study": study,
        "date": date,
        "metric": summary["metric"],
        "distance": summary["tuned"],
        "baseline": summary["baseline"],
        "protocol": {
            "seeds": "held out: used for nothing else",
            "seed": tuned.seed,
            "labels": tuned.labels,
            "block_size": tuned.block_size,
            "compute": asdict(tuned.compute),
            "uncertainty": "one standard error over blocks",
        },
        "training_mask_ratio": summary["mask_ratio"],
        "fingerprints": {
            "training": fingerprint(tuned.training),
            "features": fingerprint(tuned.features),
            "evaluation": fingerprint(tuned),
        },
        "versions": {"numerics": NUMERICS_VERSION, **{name: _version(name) for name in ("autonat", "torch", "numpy")}},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def schedule_data(schedule: GenerationSchedule) -> dict[str, Any]:
    """The four families and the rule as plain data, tuples as lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(schedule).items()}
