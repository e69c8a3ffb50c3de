"""Where Ray's logs of a run are, noted beside the artifacts: one small file a driver. Needs no Ray."""

import hashlib
import json
from pathlib import Path
from typing import Any

from autonat.storage.files import write_atomically
from autonat.storage.ownership import Owner

# So many notes of drivers are kept, the newest.
KEPT_NOTES = 50


def _folder(artifacts: Path) -> Path:
    return artifacts / "ray-logs"


class LogNote:
    """This driver's note. It is written before any worker starts, so a worker that can see it sees the driver's folder.

    artifacts: the artifact folder on the driver's host.
    """

    def __init__(self, artifacts: Path) -> None:
        self._driver = Owner.this_process().label
        name = hashlib.sha256(self._driver.encode()).hexdigest()[:16]
        self.path = _folder(artifacts) / f"{name}.json"
        self._folders: dict[str, list[str]] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for old in sorted(self.path.parent.glob("*.json"), key=_age)[:-KEPT_NOTES]:
            old.unlink(missing_ok=True)
        self._write()

    def add(self, host: str, folder: str) -> None:
        """Logs are in this folder of a host."""
        folders = self._folders.setdefault(host, [])
        if folder and folder not in folders:
            folders.append(folder)
            self._write()

    def _write(self) -> None:
        write_atomically(self.path, json.dumps({"driver": self._driver, "folders": self._folders}).encode())


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another driver removed it
        return 0.0


def read_notes(artifacts: Path, drivers: set[str]) -> list[tuple[str, str, list[str]]]:
    """(driver, host, log folders) of some drivers, by their labels in the ledger; the oldest driver first."""
    found = []
    for path in sorted(_folder(artifacts).glob("*.json"), key=_age):
        try:
            note: Any = json.loads(path.read_text())
            if note["driver"] in drivers:
                found += [(note["driver"], host, list(folders)) for host, folders in sorted(note["folders"].items())]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # removed meanwhile, or not such a note
    return found
