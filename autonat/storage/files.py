"""Files that are whole or absent."""

import os
from pathlib import Path

from autonat.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush, rename. Raises UserError with one line where that is not possible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
