"""Labelled images in Parquet files with Hugging Face's image columns. Read a batch of rows at a time.

N rows.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.image_crop import UnreadableImageError, decode_image
from models.image_sources import Reader, SourceError, digest


class ParquetImages:
    """Hugging Face's layout: a column of structs with the file's ``bytes`` (and ``path``), and a column of labels.

    The image column is ``image``, ``img`` or the only such struct; the labels are ``label``, ``labels``, ``fine_label``
    or the named column. Several files are one after the other, in the order of their names.
    """

    labels_N: np.ndarray | None

    def __init__(self, path: Path, files: list[Path], label_column: str | None = None) -> None:
        self.path, self._files = path, files
        tables = [_parquet(file) for file in files]
        self._image_column, column = self._columns(files[0], tables[0], label_column)
        self._rows = [table.metadata.num_rows for table in tables]
        labels = (
            [self._labels(file, table, column) for file, table in zip(files, tables, strict=True)] if column else []
        )
        self.labels_N = np.concatenate(labels) if labels else None
        for table in tables:
            table.close()
        if not sum(self._rows):
            raise SourceError(f"{path} holds no rows")

    def __len__(self) -> int:
        return sum(self._rows)

    def identity(self) -> dict[str, Any]:
        labels = b"" if self.labels_N is None else self.labels_N.tobytes()
        return {"files": [[file.name, file.stat().st_size] for file in self._files], "labels": digest(labels)}

    def entries(self, start: int, stop: int) -> Iterator[tuple[str, Reader]]:
        first = 0
        for file, rows in zip(self._files, self._rows, strict=True):
            if first < stop and first + rows > start:
                yield from self._file_entries(file, max(start - first, 0), min(stop - first, rows))
            first += rows

    def _file_entries(self, file: Path, start: int, stop: int) -> Iterator[tuple[str, Reader]]:
        row = 0
        with _parquet(file) as table:
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if row >= stop:
                    return
                if row + rows <= start:
                    row += rows
                    continue
                for cell in self._cells(file, table, group):
                    if start <= row < stop:
                        yield self._name(file, row, cell), partial(_decode_cell, cell)
                    row += 1

    def _cells(self, file: Path, table: Any, group: int) -> Iterator[Any]:
        import pyarrow as pa

        try:
            for batch in table.iter_batches(batch_size=256, row_groups=[group], columns=[self._image_column]):
                yield from (cell.as_py() for cell in batch.column(0))
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file} is damaged: {' '.join(str(error).split())}") from error

    def _name(self, file: Path, row: int, cell: Any) -> str:
        path = cell.get("path") if isinstance(cell, dict) else None
        return f"{file.name}, row {row}" + (f" ({path})" if path else "")

    def _columns(self, file: Path, table: Any, label_column: str | None) -> tuple[str, str | None]:
        import pyarrow.types as types

        schema = table.schema_arrow
        structs = [
            field.name
            for field in schema
            if types.is_struct(field.type) and "bytes" in {part.name for part in field.type}
        ]
        names = ", ".join(schema.names)
        image_column = next((name for name in ("image", "img") if name in structs), None)
        if image_column is None:
            if len(structs) != 1:
                raise SourceError(
                    f"{file} has {len(structs)} image columns, need one struct with bytes (columns: {names})"
                )
            image_column = structs[0]
        if label_column is not None and label_column not in schema.names:
            raise SourceError(f"{file} has no column {label_column!r} (columns: {names})")
        usual = (name for name in ("label", "labels", "fine_label") if name in schema.names)
        return image_column, label_column or next(usual, None)

    def _labels(self, file: Path, table: Any, column: str) -> np.ndarray:
        import pyarrow as pa

        try:
            found = table.read(columns=[column]).column(0)
            if found.null_count or not pa.types.is_integer(found.type):
                raise SourceError(
                    f"{file}: column {column!r} must hold a whole number in every row, it is {found.type}"
                )
            return found.to_numpy().astype(np.int64)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise SourceError(f"{file}: column {column!r} cannot be read: {' '.join(str(error).split())}") from error


def _parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"{file} is not a whole Parquet file: {reason}") from error


def _decode_cell(cell: Any, size: int | None, grey: bool) -> np.ndarray:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise UnreadableImageError("no bytes in this row")
    return decode_image(content, size, grey)
