"""Pickled checkpoints (.pth, .ckpt) of strangers: tensors and plain containers are read, nothing is executed."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import CheckpointError


def unpickled(path: Path) -> Any:
    """What ``torch.save`` wrote, tensors on the CPU.

    Raises CheckpointError, in one line that names the file, for a pickle that asks for anything but tensors (read with
    ``weights_only=True``, so what it asks for does not happen), and for a file that is cut off or no checkpoint.
    """
    try:
        with open(path, "rb") as handle:
            is_pickle = handle.read(1) == b"\x80"
        with warnings.catch_warnings():  # about pickles that torch did not write
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked or (is_pickle and "Unsupported" in str(error)):
            what = asked.group(1) if asked else "objects that torch.save does not write"
            raise CheckpointError(
                f"{path} is refused: its pickle asks for {what}, and loading that could run code from the file; "
                "only files of tensors are read"
            ) from error
        raise CheckpointError(f"{path} is cut off, damaged or no PyTorch checkpoint") from error
