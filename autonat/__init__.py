"""Which candidate next, run where, recorded how: search, orchestration and storage of autonat's studies.

The names of ``__all__`` are the Python interface (docs/api.md). They are imported when they are first used, so that the
command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autonat.api import Measured, Tuned, tune
    from autonat.errors import UserError
    from autonat.search_config import BlackBoxSearch, Descent, OfficialSearch, SPSASearch, StagedSearch, WarmStart
    from models.schedule import GenerationSchedule, autonat_initial, linear, maskgit_cosine, muse_initial, resampled

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("Measured", "Tuned", "tune"), "autonat.api"),
    **dict.fromkeys(
        ("BlackBoxSearch", "Descent", "OfficialSearch", "SPSASearch", "StagedSearch", "WarmStart"),
        "autonat.search_config",
    ),
    "UserError": "autonat.errors",
    **dict.fromkeys(
        ("GenerationSchedule", "autonat_initial", "linear", "maskgit_cosine", "muse_initial", "resampled"),
        "models.schedule",
    ),
}

__all__ = [
    "BlackBoxSearch",
    "Descent",
    "GenerationSchedule",
    "Measured",
    "OfficialSearch",
    "SPSASearch",
    "StagedSearch",
    "Tuned",
    "UserError",
    "WarmStart",
    "autonat_initial",
    "linear",
    "maskgit_cosine",
    "muse_initial",
    "resampled",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
