"""Files that are whole or absent."""

from pathlib import Path

from autonat.errors import UserError
from models.whole_files import whole_file


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush, rename. Raises UserError with one line where that is not possible."""
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
