"""Files of captions' contexts, `.npy` [N + 1, S, C] with the null context last: written in steps that survive a kill.

N captions, S tokens a caption, C numbers a token, B captions a batch.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models.captions import CONTEXT_TOKENS, TextEncoder
from models.files import FileError
from models.whole_files import whole_file

DTYPES = ("float32", "float16")


def encode_captions(
    captions: Sequence[str],
    encoder: TextEncoder,
    out: Path,
    *,
    dtype: str = "float32",
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Write the contexts [N + 1, S, C], the null context last, or go on with an unfinished file of the same job.

    The numbers lie in ``.OUT.unfinished`` until all are there; ``OUT.json`` says what they are of and how many rows are
    safe on disk. on_progress: called with finished and all rows, first with what an earlier run finished. Returns False
    where the file was complete already. Raises FileError for a file of another job, a context that is not finite (or
    too large for float16), and where another process writes to the same file.
    """
    if dtype not in DTYPES:
        raise ValueError(f"contexts are written as {' or '.join(DTYPES)}, not {dtype}")
    texts = [*captions, ""]
    job = {
        "captions": hashlib.sha256(json.dumps(captions).encode()).hexdigest(),
        "encoder": encoder.identity,
        "shape": [len(texts), CONTEXT_TOKENS, encoder.width],
        "dtype": dtype,
    }
    out = Path(out)
    unfinished, progress = out.with_name(f".{out.name}.unfinished"), out.with_name(f"{out.name}.json")
    with _only_writer(unfinished):
        done = _done_before(out, progress, job)
        if done == len(texts) and out.exists():
            return False
        if done == 0:
            _write_json(progress, {"job": job, "done": 0})  # before the file: another run's count is not for this one
            _allocate(unfinished, job)
        contexts_NSC = _open_map(unfinished, job)
        on_progress(done, len(texts))
        for start in range(done, len(texts), batch_size):
            with np.errstate(over="ignore"):
                batch_BSC = encoder.encode(texts[start : start + batch_size]).astype(dtype)
            if not np.isfinite(batch_BSC).all():
                raise FileError(
                    f"contexts of captions {start} to {start + len(batch_BSC) - 1} are not finite in {dtype}"
                )
            contexts_NSC[start : start + len(batch_BSC)] = batch_BSC
            contexts_NSC.flush()
            _write_json(progress, {"job": job, "done": start + len(batch_BSC)})
            on_progress(start + len(batch_BSC), len(texts))
        del contexts_NSC
        os.replace(unfinished, out)
    return True


def _done_before(out: Path, progress: Path, job: dict[str, Any]) -> int:
    """Rows that an earlier run of the same job finished."""
    try:
        found = json.loads(progress.read_text(encoding="utf-8"))
        known, done = dict(found["job"]), int(found["done"])
    except FileNotFoundError:
        known, done = None, 0
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileError(f"{progress} is not readable: {' '.join(str(error).split())}") from error
    if out.exists() and known is None:
        raise FileError(f"{out} is there already: choose another --out")
    different = [] if known is None else [key for key in job if known.get(key) != job[key]]
    if different:
        raise FileError(
            f"{out} holds contexts of another job (different: {', '.join(different)}): choose another --out"
        )
    # A file that was moved away or removed takes its rows along.
    is_whole = out.exists() and known is not None and done == job["shape"][0]
    return done if is_whole or out.with_name(f".{out.name}.unfinished").stat().st_size else 0


def _allocate(path: Path, job: dict[str, Any]) -> None:
    """A file of zeros that has its room on the disk: a write to a map that finds none kills the process."""
    shape, dtype = tuple(job["shape"]), np.dtype(job["dtype"])
    with open(path, "wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        os.posix_fallocate(handle.fileno(), handle.tell(), int(np.prod(shape)) * dtype.itemsize)


def _open_map(path: Path, job: dict[str, Any]) -> np.memmap:
    """The file's array, in memory only where it is looked at."""
    try:
        found = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is damaged: remove it to begin again; {' '.join(str(error).split())}") from error
    if found.shape != tuple(job["shape"]) or found.dtype != np.dtype(job["dtype"]):
        raise FileError(f"{path} is not what {path.name[1:]} needs: remove it to begin again")
    return found


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Raises FileError while another process writes the same file. Creates it where there is none."""
    with open(path, "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(f"another process is writing {path}") from error
        try:
            yield
        finally:
            if path.exists() and not path.stat().st_size:
                path.unlink()


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
