"""Files that are too large for the database, named by fingerprint."""

import hashlib
from pathlib import Path

SUFFIX = ".safetensors"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Artifacts:
    """A folder of files named by fingerprint. Writers use a temporary name and rename, so a file is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}{SUFFIX}"

    def state_path(self, fingerprint: str) -> Path:
        """Where an unfinished training keeps its state."""
        return self.folder / f"{fingerprint}.state{SUFFIX}"

    def progress_path(self, fingerprint: str) -> Path:
        """Where a running training says how far it is (JSON)."""
        return self.folder / f"{fingerprint}.progress.json"

    def remove(self, fingerprint: str) -> None:
        for path in (self.path(fingerprint), self.state_path(fingerprint), self.progress_path(fingerprint)):
            path.unlink(missing_ok=True)
