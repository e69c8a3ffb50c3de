"""`autonat tokenize`: images to token files, in parts that survive a kill.

F copies (2 with the flipped one), n images, R = 1 + L numbers: a class and its tokens.

A folder in the making holds ``.unfinished``: the job, and one file for every ``PART_IMAGES`` entries of the source,
each written under another name and renamed. Running again goes on behind the last of them; when all are there the token
files are put together from them and the folder is complete.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autonat.errors import UserError
from models.whole_files import whole_file

if TYPE_CHECKING:
    from rich.console import Console

    from autonat.image_progress import ImageProgress
    from models.image_sources import ImageSource, SourceImage, Unreadable
    from models.tokenizer import Tokenizer

PART_IMAGES = 1024  # a whole number of the official file's batches
JOB = "job.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose. size: pixels a side, None for the tokenizer's own; split: the official file's name, if any.

    ``batch_size``, ``device`` and ``threads`` are about speed alone: a job may go on with others.
    """

    tokenizer: str
    size: int | None = None
    flip: bool = True
    split: str | None = "train"
    batch_size: int = 64
    device: str = "cpu"
    threads: int = 0
    label_column: str | None = None


def tokenize(source: Path, out: Path, options: Options, console: "Console") -> None:
    """Write ``source``'s tokens to the folder ``out``, or go on with it. UserError for what the user can mend."""
    from models.image_sources import open_source
    from models.tokenizer import open_tokenizer

    try:
        images = open_source(source, options.label_column)
        tokenizer = open_tokenizer(options.tokenizer, options.size, _device(options.device))
        _Tokenizing(images, tokenizer, out, options, console).run()
    except ValueError as error:
        raise UserError(str(error)) from error


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here: {reason}") from error
    return name


class _Tokenizing:
    def __init__(
        self, source: "ImageSource", tokenizer: "Tokenizer", out: Path, options: Options, console: "Console"
    ) -> None:
        from models.token_files import UNFINISHED

        if source.labels_N is None:
            raise UserError(
                f"{source.path} has no labels, which token files begin with (--label-column names a column)"
            )
        if source.labels_N.min() < 0:
            raise UserError(f"{source.path}: label {source.labels_N.min()} is not a class")
        self._source, self._tokenizer, self._out, self._options = source, tokenizer, out, options
        self._console = console
        self._folder = out / UNFINISHED
        self._num_parts = -(-len(source) // PART_IMAGES)
        self._grey = options.tokenizer == "digits"
        rows, columns = tokenizer.grid
        self._size = tokenizer.size[0]  # of square images
        self._job = {
            "source": source.identity(),
            "entries": len(source),
            "tokenizer": options.tokenizer if self._grey else _file_sha256(Path(options.tokenizer)),
            "grid": [rows, columns],
            "size": self._size,
            "flip": options.flip,
        }

    def run(self) -> None:
        from autonat.image_progress import ImageProgress
        from models.token_files import COMPACT, FACTS, read_facts

        self._out.mkdir(parents=True, exist_ok=True)
        if (self._out / FACTS).exists():
            self._require_same_job(read_facts(self._out).get("job"))
            self._console.print(f"{self._out} is complete already", highlight=False, markup=False, soft_wrap=True)
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        if (self._out / COMPACT).exists() and not self._folder.exists():
            raise UserError(f"{self._out / COMPACT} is there without its {FACTS}: choose another --out")
        self._folder.mkdir(exist_ok=True)
        with _only_process(self._folder):
            self._take_up_job()
            first = next((part for part in range(self._num_parts) if not self._is_whole(part)), self._num_parts)
            done = min(first * PART_IMAGES, len(self._source))
            with ImageProgress(self._console, len(self._source), done) as progress:
                if first:
                    progress.say(f"going on after {done:,} of {len(self._source):,} images")
                self._encode_parts(first, progress)
            self._put_together()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take_up_job(self) -> None:
        path = self._folder / JOB
        if path.exists():
            self._require_same_job(_json(path))
        else:
            _write(path, json.dumps(self._job, sort_keys=True).encode())

    def _require_same_job(self, found: Any) -> None:
        """Raises UserError where the folder was begun with other choices."""
        other = found if isinstance(found, dict) else {}
        different = [key for key in self._job if other.get(key) != json.loads(json.dumps(self._job[key]))]
        if different:
            raise UserError(
                f"{self._out} holds tokens of another job (different: {', '.join(different)}): choose another --out"
            )

    # Parts

    def _encode_parts(self, first: int, progress: "ImageProgress") -> None:
        from models.image_sources import images

        unreadable: dict[int, list[Unreadable]] = {}

        def skip(entry: "Unreadable") -> None:
            progress.say(f"skipped {entry.name}: {entry.reason}")
            unreadable.setdefault(entry.place // PART_IMAGES, []).append(entry)

        found = images(
            self._source,
            self._size,
            start=first * PART_IMAGES,
            grey=self._grey,
            threads=self._options.threads,
            on_unreadable=skip,
        )
        for part, batches in _by_part(found, first, self._num_parts, self._options.batch_size):
            rows, places = [], []
            for batch in batches:
                rows.append(self._rows(batch))
                places += [image.place for image in batch]
                progress.reach(places[-1] + 1)
            self._write_part(part, rows, places, unreadable.pop(part, []))
            progress.reach(min((part + 1) * PART_IMAGES, len(self._source)))

    def _rows(self, batch: Sequence["SourceImage"]) -> np.ndarray:
        """Labels and tokens, int32 [F, n, R]."""
        import torch

        images = torch.from_numpy(np.stack([image.image_CHW for image in batch]))
        copies = [images, images.flip(-1)] if self._options.flip else [images]
        labels_n1 = np.array([[image.label] for image in batch])
        tokens = [self._tokenizer.encode(copy).cpu().numpy() for copy in copies]
        return np.stack([np.concatenate([labels_n1, tokens_nL], axis=1) for tokens_nL in tokens]).astype(np.int32)

    def _write_part(self, part: int, rows: list[np.ndarray], places: list[int], skipped: list["Unreadable"]) -> None:
        import io

        grid = self._tokenizer.grid
        empty = np.zeros((2 if self._options.flip else 1, 0, 1 + grid[0] * grid[1]), np.int32)
        content = io.BytesIO()
        np.savez(
            content,
            rows=np.concatenate([empty, *rows], axis=1),
            places=np.array(places, np.int64),
            skipped=np.array([json.dumps([entry.name, entry.reason]) for entry in skipped], dtype=np.str_),
        )
        _write(self._part_path(part), content.getvalue())

    def _part_path(self, part: int) -> Path:
        return self._folder / f"part-{part:06}.npz"

    def _is_whole(self, part: int) -> bool:
        import zipfile

        try:
            rows, places, skipped = self._part(part)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False
        expected = min(PART_IMAGES, len(self._source) - part * PART_IMAGES)
        return rows.shape[1] == len(places) == expected - len(skipped)

    def _part(self, part: int) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        with np.load(self._part_path(part), allow_pickle=False) as arrays:
            return arrays["rows"], arrays["places"], [json.loads(text) for text in arrays["skipped"]]

    def _put_together(self) -> None:
        from models.token_files import write_tokens

        skipped = [entry for part in range(self._num_parts) for entry in self._part(part)[2]]
        if len(skipped) == len(self._source):
            raise UserError(f"{self._source.path}: none of its {len(skipped):,} entries is a readable image")
        assert self._source.labels_N is not None
        facts = {
            "job": self._job,
            "source": self._source.path.name,
            "num_classes": int(self._source.labels_N.max()) + 1,
            "skipped": skipped,
        }
        blocks = _Blocks(self)
        write_tokens(self._out, blocks, facts, codebook_size=self._tokenizer.codebook_size, split=self._options.split)
        rows, columns = self._tokenizer.grid
        copies = ", each with its flipped copy" if self._options.flip else ""
        told = f"; {len(skipped):,} unreadable entries skipped" if skipped else ""
        self._console.print(
            f"{self._out}: {len(self._source) - len(skipped):,} images of {facts['num_classes']:,} classes as "
            f"{rows}x{columns} tokens{copies}{told}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


class _Blocks:
    """The parts cut where the official file puts flipped copies, again and again; one part is in memory."""

    def __init__(self, job: _Tokenizing) -> None:
        self._job = job

    def __iter__(self) -> Iterator[np.ndarray]:
        from models.token_files import OFFICIAL_BATCH

        for part in range(self._job._num_parts):
            rows_FnR, places_n, _ = self._job._part(part)
            # By the place in the source, so that an unreadable entry moves nothing but itself.
            cuts = np.searchsorted(places_n, part * PART_IMAGES + np.arange(0, PART_IMAGES + 1, OFFICIAL_BATCH))
            yield from (rows_FnR[:, low:high] for low, high in pairwise(cuts) if high > low)


def _by_part(
    found: Iterator["SourceImage"], first: int, last: int, batch_size: int
) -> Iterator[tuple[int, Iterator[list["SourceImage"]]]]:
    """Every part's images in batches; a part may have none. A part's batches must be used up before the next part."""
    waiting = next(found, None)

    def batches(part: int) -> Iterator[list["SourceImage"]]:
        nonlocal waiting
        batch: list[SourceImage] = []
        while waiting is not None and waiting.place // PART_IMAGES == part:
            batch.append(waiting)
            waiting = next(found, None)
            if len(batch) == batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    for part in range(first, last):
        yield part, batches(part)


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Raises UserError while another process writes to the same folder."""
    with open(folder / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing tokens to {folder.parent}") from error
        yield


def _file_sha256(path: Path) -> str:
    from autonat.storage.artifacts import file_sha256

    return file_sha256(path)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
