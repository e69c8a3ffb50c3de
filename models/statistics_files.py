"""Reference statistics on disk: the published ``.npz`` files, torch-fidelity's cache, and our own format.

D features; mean [D] and covariance [D, D], float64 in memory whatever the file holds. Nothing in a file is executed.
"""

import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import CheckpointError, load_tensors, save_tensors
from models.frechet import Reference, Statistics
from models.whole_files import whole_file

# float32 files are symmetric to rounding only; a transposed or mixed-up matrix is far off this.
SYMMETRY_TOLERANCE = 1e-5

WRITTEN = (".npz", ".safetensors")


class StatisticsError(ValueError):
    """A statistics file that cannot be used; the message names the file."""


@dataclass(frozen=True)
class StoredStatistics:
    """Mean [D] and covariance [D, D] of a file; the rest where it says so.

    count: number of images. features: a sample of single images' features, float32 [M, D], which KID and
    precision/recall need (``models.metrics.FeatureSample``).
    """

    mean: Tensor
    covariance: Tensor
    count: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    features: Tensor | None = None

    @staticmethod
    def of(statistics: Statistics, provenance: dict[str, Any], features: Tensor | None = None) -> "StoredStatistics":
        return StoredStatistics(statistics.mean, statistics.covariance, statistics.count, provenance, features)

    def reference(self) -> Reference:
        """What samples are compared with; factorises the covariance, about 0.3 s at 2,048 features."""
        return Reference(self.mean, self.covariance)

    def check_made_with(self, path: Path, name: str, weights_sha256: str) -> None:
        """Raises StatisticsError unless the file says that it was made with this feature network."""
        provenance = self.provenance if isinstance(self.provenance, dict) else {}
        made_with = provenance.get("features"), provenance.get("weights_sha256")
        if made_with != (name, weights_sha256):
            found = f"with {made_with[0]}:{str(made_with[1])[:8]}" if made_with[0] else "with unknown features"
            raise StatisticsError(
                f"{path} was made {found}, not with {name}:{weights_sha256[:8]}: `autonat statistics` makes another"
            )


def read_statistics(path: Path, dimensions: int | None = None) -> StoredStatistics:
    """Read a file by its ending: ``.npz`` (mu and sigma), ``.pt`` (torch-fidelity's cache), ``.safetensors`` (ours).

    Raises StatisticsError in one line for a file that is missing, truncated or of another kind, without its keys, of
    other `dimensions`, with values that are not finite, or with a covariance that is none.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], StoredStatistics]] = {
        ".npz": _read_npz,
        ".pt": _read_fidelity_cache,
        ".safetensors": _read_own,
    }
    if path.suffix not in readers:
        raise StatisticsError(f"{path}: statistics come as {', '.join(readers)}")
    if not path.is_file():
        raise StatisticsError(f"{path}: no such statistics file")
    stored = readers[path.suffix](path)
    _check(path, stored, dimensions)
    return stored


def write_statistics(path: Path, stored: StoredStatistics) -> None:
    """Write whole or not at all: ``.npz`` as published (mu, sigma, and our count and provenance beside them) or ours.

    Raises StatisticsError for another ending.
    """
    path = Path(path)
    about = {"count": stored.count, "provenance": stored.provenance}
    kept = {} if stored.features is None else {"features": stored.features}
    if path.suffix == ".safetensors":
        save_tensors(path, {"mu": stored.mean, "sigma": stored.covariance, **kept}, {"statistics": about})
    elif path.suffix == ".npz":
        arrays: dict[str, Any] = {"mu": stored.mean.numpy(), "sigma": stored.covariance.numpy()}
        arrays |= {key: tensor.numpy() for key, tensor in kept.items()}
        arrays["autonat"] = np.array(json.dumps(about, sort_keys=True))
        with whole_file(path) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, **arrays)
    else:
        raise StatisticsError(f"{path}: statistics are written as .npz or .safetensors")


def _read_npz(path: Path) -> StoredStatistics:
    if not zipfile.is_zipfile(path):
        raise StatisticsError(f"{path} is not a readable .npz file: it is cut short, or of another kind")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("mu", "sigma") if key not in archive]
            if missing:
                raise StatisticsError(f"{path} has no {' and '.join(missing)}, only {', '.join(archive.files)}")
            about = json.loads(str(archive["autonat"])) if "autonat" in archive else {}
            mean, covariance = archive["mu"], archive["sigma"]
            features = archive.get("features")
    except StatisticsError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise StatisticsError(f"{path} is not a readable .npz file: {_line(error)}") from error
    return _stored(path, mean, covariance, about, features)


def _read_fidelity_cache(path: Path) -> StoredStatistics:
    """torch-fidelity saves a dict of arrays mu and sigma as NAME-EXTRACTOR-stat-fid-LAYER.pt."""
    try:
        with torch.serialization.safe_globals(_array_parts()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything
        reason = "it holds more than arrays of numbers" if "Weights only load" in str(error) else _line(error)
        raise StatisticsError(f"{path} is not a readable torch-fidelity cache file: {reason}") from error
    if isinstance(content, Tensor):
        raise StatisticsError(
            f"{path} holds features {tuple(content.shape)}; its statistics are in ...-stat-fid-....pt"
        )
    missing = [key for key in ("mu", "sigma") if not isinstance(content, dict) or key not in content]
    if missing:
        raise StatisticsError(f"{path} is not torch-fidelity's statistics cache: it has no {' and '.join(missing)}")
    return _stored(path, content["mu"], content["sigma"], {})


def _array_parts() -> list[Any]:
    """What a pickled NumPy array of numbers is made of; nothing among it runs code."""
    reconstruct = np.zeros(1).__reduce__()[0]
    types = {type(np.dtype(kind)) for kind in (np.float32, np.float64)}
    # NumPy 1 wrote the same function under another module's name.
    old_name: Any = (reconstruct, "numpy.core.multiarray._reconstruct")
    return [reconstruct, old_name, np.ndarray, np.dtype, *types]


def _read_own(path: Path) -> StoredStatistics:
    try:
        tensors, metadata = load_tensors(path)
    except CheckpointError as error:
        raise StatisticsError(_line(error)) from error
    if "statistics" not in metadata or not {"mu", "sigma"} <= tensors.keys():
        raise StatisticsError(f"{path} does not hold statistics of this project")
    return _stored(path, tensors["mu"], tensors["sigma"], metadata["statistics"], tensors.get("features"))


def _stored(path: Path, mean: Any, covariance: Any, about: Any, features: Any = None) -> StoredStatistics:
    try:
        parts = [torch.as_tensor(part).to(torch.float64) for part in (mean, covariance)]
        kept = None if features is None else torch.as_tensor(features).to(torch.float32)
        count, provenance = about.get("count"), about.get("provenance", {})
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise StatisticsError(f"{path} does not hold numbers: {_line(error)}") from error
    return StoredStatistics(parts[0], parts[1], count, provenance, kept)


def _check(path: Path, stored: StoredStatistics, dimensions: int | None) -> None:
    mean, covariance = stored.mean, stored.covariance
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise StatisticsError(
            f"{path}: mu [D] and sigma [D, D] are needed, got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    if dimensions is not None and len(mean) != dimensions:
        raise StatisticsError(f"{path} has {len(mean)} features, the feature network {dimensions}")
    features = stored.features
    if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
        raise StatisticsError(f"{path}: its features {tuple(features.shape)} do not go with {len(mean)} dimensions")
    if not all(part.isfinite().all() for part in (mean, covariance, features) if part is not None):
        raise StatisticsError(f"{path} holds values that are not finite")
    largest = float(covariance.diagonal().abs().max())
    if float((covariance - covariance.T).abs().max()) > SYMMETRY_TOLERANCE * largest:
        raise StatisticsError(f"{path}: sigma is not symmetric")
    if float(covariance.diagonal().min()) < -SYMMETRY_TOLERANCE * largest:
        raise StatisticsError(f"{path}: sigma has negative variances")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
