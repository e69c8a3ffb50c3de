"""Files that are too large for the database, named by fingerprint: in a folder, or at an fsspec URL with a local cache.

A folder may be shared by many hosts (NFS, Lustre); a URL is anything that fsspec knows (``s3://bucket/prefix`` where
s3fs is installed). All reading and writing happens on local files: of a remote store, in a cache folder of this host.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from autonat.errors import UserError
from models.whole_files import remove_abandoned, temporary_beside

SUFFIX = ".safetensors"
# Beside a remote file: its SHA-256, so that a host that downloads it can tell a damaged copy.
HASH_SUFFIX = ".sha256"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cache_folder(location: str) -> Path:
    """Where this host keeps copies of a remote store."""
    base = os.environ.get("AUTONAT_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "autonat"
    )
    return Path(base) / hashlib.sha256(location.encode()).hexdigest()[:16]


class Artifacts:
    """See the module's docstring. Writers use a temporary name and rename, so a file is whole or absent.

    location: a path, or a URL. folder: where the files lie on this host. Raises UserError where fsspec does not know
    the URL or lacks what it needs for it.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        for local in ("file://", "local://"):
            self.location = self.location.removeprefix(local)
        self._remote: Any = None
        self._published: dict[Path, int] = {}
        if "://" not in self.location:
            self.folder = Path(self.location)
            return
        import fsspec

        try:
            self._remote, self._prefix = fsspec.core.url_to_fs(self.location)
        except (ImportError, ValueError) as error:
            raise UserError(f"cannot use artifacts at {self.location}: {' '.join(str(error).split())}") from error
        self.folder = cache_folder(self.location)

    @property
    def is_remote(self) -> bool:
        return self._remote is not None

    @property
    def address(self) -> str:
        """What another process opens the same artifacts with."""
        return self.location if self.is_remote else str(self.folder.resolve())

    def create(self) -> None:
        """Make the folder; in one that is there, clear away what killed writers left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.folder)
        if self.is_remote:
            self._remote.makedirs(self._prefix, exist_ok=True)

    def path(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}{SUFFIX}"

    def state_path(self, fingerprint: str) -> Path:
        """Where an unfinished training keeps its state."""
        return self.folder / f"{fingerprint}.state{SUFFIX}"

    def progress_path(self, fingerprint: str) -> Path:
        """Where a running training says how far it is (JSON). Stays on the training's host."""
        return self.folder / f"{fingerprint}.progress.json"

    def partials_path(self, fingerprint: str) -> Path:
        """The folder of an unfinished evaluation's blocks. Stays on the driver's host."""
        return self.folder / "partials" / fingerprint

    def publish(self, path: Path) -> None:
        """Copy a finished local file to the remote store, its hash last. A folder needs nothing."""
        if not self.is_remote:
            return
        name = f"{self._prefix}/{path.name}"
        # To a name of its own and then moved, where the store can move: a reader never sees half a file.
        temporary = f"{self._prefix}/{temporary_beside(path).name}"
        self._remote.put_file(str(path), temporary)
        self._remote.mv(temporary, name)
        self._remote.pipe_file(name + HASH_SUFFIX, file_sha256(path).encode())

    def publish_changed(self, path: Path) -> None:
        """Publish a file that is written again and again, where it has been since the last call."""
        if self.is_remote and path.exists() and self._published.get(path) != path.stat().st_mtime_ns:
            self._published[path] = path.stat().st_mtime_ns
            self.publish(path)

    def fetch(self, path: Path) -> bool:
        """Have a local copy of a file; of a remote one only where it is not there yet. Returns whether there is one.

        A download whose hash is not the one beside it is not kept.
        """
        if path.exists() or not self.is_remote:
            return path.exists()
        name = f"{self._prefix}/{path.name}"
        temporary = temporary_beside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._remote.get_file(name, str(temporary))
            if self._remote.cat_file(name + HASH_SUFFIX).decode() == file_sha256(temporary):
                os.replace(temporary, path)
        except FileNotFoundError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        return path.exists()

    def fetched(self, fingerprint: str) -> Path:
        """The artifact's path, with a local copy there if there is an artifact."""
        path = self.path(fingerprint)
        self.fetch(path)
        return path

    def flaw(self, fingerprint: str, sha256: str) -> str | None:
        """What is wrong with an artifact that should have this hash: "is missing", "is damaged", or None.

        A damaged copy in the cache is replaced once before the remote file is called damaged.
        """
        path = self.path(fingerprint)
        if self.is_remote and path.exists() and file_sha256(path) != sha256:
            path.unlink()
        if not self.fetch(path):
            on_remote = self.is_remote and self._remote.exists(f"{self._prefix}/{path.name}")
            return "is damaged" if on_remote else "is missing"
        return None if file_sha256(path) == sha256 else "is damaged"

    def remove(self, fingerprint: str) -> None:
        """Remove an artifact and whatever its making left behind, blocks of an evaluation among it."""
        for path in (self.path(fingerprint), self.state_path(fingerprint), self.progress_path(fingerprint)):
            self.discard(path)
        shutil.rmtree(self.partials_path(fingerprint), ignore_errors=True)

    def discard(self, path: Path) -> None:
        """Remove one file, here and in the remote store."""
        path.unlink(missing_ok=True)
        if self.is_remote:
            for name in (f"{self._prefix}/{path.name}", f"{self._prefix}/{path.name}{HASH_SUFFIX}"):
                if self._remote.exists(name):
                    self._remote.rm_file(name)
