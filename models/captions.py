"""Captions as a text encoder sees them: what a text-conditional network reads in place of classes.

N captions, S = 77 tokens a caption, C numbers a token. As MUSE-Pytorch and AdaNAT have it: CLIP's tokenizer padded with
token 0, no attention mask, the last layer's states after the final layer norm, neither projected nor normalised. The
null context is the encoding of the empty string.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from models.files import File, FileError

CONTEXT_TOKENS = 77
PAD_TOKEN = 0  # the tokenizers' own is the end token, which would change every state after a caption's end
SEPARATORS = {".tsv": "\t", ".csv": ","}


class TextEncoder(Protocol):
    """Whatever turns texts into contexts [B, S, C]; `identity` names what the numbers depend on."""

    width: int
    identity: str

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


def read_captions(table: Path, column: str = "caption") -> list[str]:
    """The texts of a TSV, CSV (both with a header, UTF-8) or Parquet table's column, in the order of its rows.

    Raises FileError in one line for another kind of file, a damaged one, a missing column, no rows, and a row whose
    caption is empty: that would be the null context.
    """
    table = Path(table)
    try:
        if table.suffix in SEPARATORS:
            captions = _read_text_table(table, column, SEPARATORS[table.suffix])
        elif table.suffix == ".parquet":
            captions = _read_parquet(table, column)
        else:
            raise FileError(f"{table}: captions come as .tsv, .csv or .parquet")
    except OSError as error:
        raise FileError(f"cannot read {table}: {error.strerror or error}") from error
    if not captions:
        raise FileError(f"{table} holds no captions")
    empty = next((row for row, caption in enumerate(captions) if not caption.strip()), None)
    if empty is not None:
        raise FileError(f"{table}, row {empty}: the caption is empty")
    return captions


def _read_text_table(table: Path, column: str, separator: str) -> list[str]:
    captions = []
    try:
        with open(table, newline="", encoding="utf-8-sig") as handle:
            rows = csv.reader(handle, delimiter=separator)
            header = next(rows, [])
            place = _place_of(table, column, header)
            for number, row in enumerate(row for row in rows if row):
                if len(row) != len(header):
                    raise FileError(f"{table}, row {number} has {len(row)} fields, the header {len(header)}")
                captions.append(row[place])
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{table} is not a readable table: {error}") from error
    return captions


def _read_parquet(table: Path, column: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(table) as file:
            _place_of(table, column, file.schema_arrow.names)
            found = file.read(columns=[column]).column(0)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{table} is not a whole Parquet file: {' '.join(str(error).split())}") from error
    if not (pa.types.is_string(found.type) or pa.types.is_large_string(found.type)):
        raise FileError(f"{table}: column {column!r} must hold texts, it is {found.type}")
    return [text or "" for text in found.to_pylist()]


def _place_of(table: Path, column: str, columns: Sequence[str]) -> int:
    if column not in columns:
        raise FileError(f"{table} has no column {column!r} (columns: {', '.join(columns) or 'none'})")
    return list(columns).index(column)


class ClipEncoder:
    """CLIP's text encoder from a local folder in Hugging Face's layout, run in float32; nothing is fetched."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Raises FileError where `transformers` is missing, or the folder does not hold a CLIP and its tokenizer."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FileError(f"{folder}: no such folder of a CLIP")
        try:
            from transformers import CLIPTextModel, CLIPTokenizer
        except ImportError as error:
            raise FileError("captions are encoded by transformers: pip install 'autonat[text]'") from error
        loaded: Any
        with _quiet_loading():
            try:
                tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                loaded = CLIPTextModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            except Exception as error:  # transformers raises whatever its readers do
                raise FileError(f"{folder} does not hold a CLIP text encoder: {_line(error)}") from error
        network, told = loaded
        # What is not in the file would be random numbers; what else a whole CLIP holds is of no use here.
        missing = sorted(told["missing_keys"])
        if missing:
            raise FileError(
                f"{folder} does not hold a CLIP text encoder: it has no {missing[0]}, {len(missing)} in all"
            )
        if network.config.max_position_embeddings < CONTEXT_TOKENS:
            raise FileError(
                f"{folder} reads {network.config.max_position_embeddings} tokens, captions need {CONTEXT_TOKENS}"
            )
        # Without its files transformers makes a tokenizer that knows no words.
        if len(tokenizer) != network.config.vocab_size:
            raise FileError(
                f"{folder}: its tokenizer has {len(tokenizer)} tokens, its network {network.config.vocab_size}"
            )
        tokenizer.pad_token_id = PAD_TOKEN
        self._tokenizer, self._network = tokenizer, network.float().eval().to(device)
        self.width: int = network.config.hidden_size
        self.identity = File(str(folder)).looked_at().sha256

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Token numbers int64 [B, S]: start, the text's, end, then 0; a longer text is cut."""
        encoded = self._tokenizer(list(texts), padding="max_length", truncation=True, max_length=CONTEXT_TOKENS)
        return torch.tensor(encoded.input_ids)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Contexts float32 [B, S, C]."""
        tokens_BS = self.tokens(texts).to(self._network.device)
        return self._network(input_ids=tokens_BS).last_hidden_state.cpu().numpy()


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without transformers' bars and its report on keys, which this module reads for itself."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
