"""Files that are whole or absent, whoever is killed and however many hosts share the folder."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# No writer pauses this long in the middle of a file; older ones were killed.
ABANDONED_AFTER_SECONDS = 3600.0


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that no other writer has: process numbers repeat from host to host."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file's name to write to; without an exception it is flushed to disk and becomes `path`."""
    temporary = temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in `folder` that writers killed over an hour ago left behind."""
    for temporary in folder.glob(".*.tmp"):
        # Another process may be clearing away the same files.
        with suppress(FileNotFoundError):
            if time.time() - temporary.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                temporary.unlink()
