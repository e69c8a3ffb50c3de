"""Images as tokens in files: the official .npy of AutoNAT and ENAT, and a smaller form that training reads in place.

N images, L tokens an image, R = 1 + L numbers a row (class, then tokens), F = 2 with flipped copies, else 1.

Official (``extract_imagenet_feature.py`` of both repositories): one file ``train.npy``, int64 [F N, R]; after every 128
images the same 128 flipped left to right; nothing in the file says which rows are flipped, training takes all alike.
Ours: ``tokens.npy``, int16 (int32 where needed) [F N, R], all images, then all flipped copies in the same order;
``tokens.json`` beside it says how many and where they come from.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.files import FileError

COMPACT, FACTS = "tokens.npy", "tokens.json"
UNFINISHED = ".unfinished"  # where a folder in the making keeps its parts
OFFICIAL_BATCH = 128  # images between their flipped copies, in the official file
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class TokenTable:
    """Tokens [N, L] and classes [N] of images, and the tokens [N, L] of their flipped copies where those are apart.

    Whole numbers of any width; read from disk only where they are looked at, where the file allows it.
    """

    tokens_NL: np.ndarray
    labels_N: np.ndarray
    flipped_NL: np.ndarray | None = None


def read_tokens(
    path: Path, *, codebook_size: int | None = None, num_classes: int | None = None, split: str = "train"
) -> TokenTable:
    """Our folder, the official file or a folder that holds it as ``split``.npy, or a folder of one .npy an image.

    The last holds numbered files, each [R] or [2, R] with the flipped copy second. In the official file flipped copies
    are images like all others, so ``flipped_NL`` is None. Raises FileError in one line for a missing, truncated or
    unfinished file, for tokens outside the codebook and for labels outside the classes.
    """
    if not path.is_dir():
        beside = path.with_name(FACTS)
        table = _read_compact(path.parent) if path.name == COMPACT and beside.exists() else _split(path, _open(path))
    elif (path / FACTS).exists():
        table = _read_compact(path)
    elif (path / f"{split}.npy").exists():
        path = path / f"{split}.npy"
        table = _split(path, _open(path))
    elif (path / UNFINISHED).exists():
        raise FileError(f"{path} is unfinished: the same `autonat tokenize` command goes on with it")
    else:
        table = _read_single_images(path)
    _check(path, table, codebook_size, num_classes)
    return table


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``tokens.json`` says. Raises FileError where it is not readable."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if (
            not isinstance(facts, dict)
            or not isinstance(facts["images"], int)
            or not isinstance(facts["flipped"], bool)
        ):
            raise ValueError("no count of images")
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} is not readable: {error}") from error
    return facts


def write_tokens(
    folder: Path, blocks: Iterable[np.ndarray], facts: dict[str, Any], *, codebook_size: int, split: str | None
) -> None:
    """Write our form and, where ``split`` names it, the official file ``split``.npy into an existing folder.

    blocks: int [F, n, R] in order, n at most ``OFFICIAL_BATCH``; read several times: no generator. Files appear whole
    and the facts last: a folder that has them is complete.
    """
    count, copies, width, largest = 0, 1, 1, codebook_size
    for block in blocks:
        copies, images, width = block.shape
        count, largest = count + images, max(largest, int(block[0, :, 0].max(initial=0)))
    kind = np.int16 if largest <= np.iinfo(np.int16).max else np.int32
    if split is not None:
        rows = (rows for block in blocks for rows in block)
        _write_rows(folder / f"{split}.npy", np.dtype(np.int64), (copies * count, width), rows)
    rows = (block[copy] for copy in range(copies) for block in blocks)
    _write_rows(folder / COMPACT, np.dtype(kind), (copies * count, width), rows)
    facts = facts | {"images": count, "flipped": copies == 2, "codebook_size": codebook_size}
    temporary = folder / UNFINISHED / FACTS
    temporary.parent.mkdir(exist_ok=True)
    _write_whole(temporary, folder / FACTS, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
    with suppress(OSError):  # another's parts may lie there
        temporary.parent.rmdir()


def _write_rows(path: Path, dtype: np.dtype, shape: tuple[int, int], parts: Iterator[np.ndarray]) -> None:
    temporary = path.parent / UNFINISHED / path.name
    temporary.parent.mkdir(exist_ok=True)
    with open(temporary, "wb") as handle:
        np.lib.format.write_array_header_1_0(
            handle, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        )
        for part in parts:
            handle.write(np.ascontiguousarray(part, dtype=dtype).tobytes())
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _write_whole(temporary: Path, path: Path, content: bytes) -> None:
    with open(temporary, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _open(path: Path) -> np.ndarray:
    """Whole numbers from a .npy file, mapped into memory."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise FileError(f"{path} is not a whole .npy file of tokens: {' '.join(str(error).split())}") from error
    if not isinstance(rows, np.ndarray) or not np.issubdtype(rows.dtype, np.integer):
        raise FileError(f"{path} is not a .npy file of whole numbers")
    return rows


def _split(path: Path, rows: np.ndarray) -> TokenTable:
    if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows):
        raise FileError(
            f"{path} has shape {rows.shape}, need [images, 1 + tokens]: a class, then its tokens, in each row"
        )
    return TokenTable(rows[:, 1:], rows[:, 0])


def _read_compact(folder: Path) -> TokenTable:
    facts, path = read_facts(folder), folder / COMPACT
    rows = _open(path)
    table, count = _split(path, rows), facts["images"]
    expected = count * (2 if facts["flipped"] else 1)
    if len(rows) != expected:
        raise FileError(f"{path} has {len(rows)} rows, {FACTS} says {expected}")
    if not facts["flipped"]:
        return table
    return TokenTable(table.tokens_NL[:count], table.labels_N[:count], table.tokens_NL[count:])


def _read_single_images(folder: Path) -> TokenTable:
    numbered = {int(match[1]): file for file in folder.iterdir() if (match := re.fullmatch(r"(\d+)\.npy", file.name))}
    if not numbered:
        raise FileError(f"{folder} holds no tokens: neither {FACTS} nor train.npy nor one numbered .npy an image")
    files = [numbered[number] for number in sorted(numbered)]
    images = [np.atleast_2d(np.asarray(_open(file))) for file in files]
    shape = images[0].shape
    for file, image in zip(files, images, strict=True):
        if image.shape != shape or image.ndim != 2 or shape[0] > 2 or shape[1] < 2:
            raise FileError(f"{file} has shape {image.shape}, need [1 + tokens] or [2, 1 + tokens], all files alike")
        if image[0, 0] != image[-1, 0]:
            raise FileError(f"{file} has class {image[0, 0]} for the image and {image[-1, 0]} for its flipped copy")
    rows_FNR = np.stack(images, axis=1)
    return TokenTable(rows_FNR[0, :, 1:], rows_FNR[0, :, 0], rows_FNR[1, :, 1:] if shape[0] == 2 else None)


def _check(path: Path, table: TokenTable, codebook_size: int | None, num_classes: int | None) -> None:
    tables = [table.tokens_NL] + ([] if table.flipped_NL is None else [table.flipped_NL])
    for values, limit, what in [
        (table.labels_N[:, None], num_classes, "label {} is outside the {} classes"),
        *((tokens, codebook_size, "token {} is outside the codebook of {} codes") for tokens in tables),
    ]:
        for start in range(0, len(values), ROWS_AT_ONCE):
            part = np.asarray(values[start : start + ROWS_AT_ONCE])
            if part.min() >= 0 and (limit is None or part.max() < limit):
                continue
            row, column = np.argwhere((part < 0) | (part >= (np.inf if limit is None else limit)))[0]
            told = what.format(part[row, column], "known" if limit is None else f"{limit:,}")
            raise FileError(f"{path}, image {start + row}: {told}")
