"""Files that a result depends on. A file's contents name it, not its place: a moved file is the same file."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar


class FileError(ValueError):
    """A file that is missing or is not what was recorded; the message names it."""


@lru_cache(maxsize=256)
def _sha256(path: str, inode: int, size: int, modified: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class File:
    """A path and, once it was looked at, the SHA-256 of what lies there ('' before).

    Written in a recipe as the path alone. A folder's hash is over its files' names and sizes: hashing a million token
    files would take longer than the evaluation they are for.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    path: str
    sha256: str = ""

    def exists(self) -> bool:
        return Path(self.path).expanduser().exists()

    @property
    def place(self) -> Path:
        return Path(self.path).expanduser()

    def looked_at(self) -> "File":
        """The same file with its hash. Raises FileError where it is missing, or is not the one with the hash given."""
        try:
            if self.place.is_dir():
                lines = sorted(
                    f"{part.relative_to(self.place)} {part.stat().st_size}"
                    for part in self.place.rglob("*")
                    if part.is_file()
                )
                found = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            else:
                status = self.place.stat()
                found = _sha256(str(self.place), status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise FileError(f"cannot read {self.path}: {error.strerror or error}") from error
        if self.sha256 and self.sha256 != found:
            raise FileError(
                f"{self.path} is not the file it was: SHA-256 {found[:12]}..., expected {self.sha256[:12]}..."
            )
        return File(self.path, found)


def as_file(value: Any) -> Any:
    """A recipe's plain path as the fields of a File; anything else as it is."""
    return {"path": value} if isinstance(value, str) else value
