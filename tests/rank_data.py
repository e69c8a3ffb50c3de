"""Training data for ranks' processes, which import no more than they need."""

import os
import signal
from pathlib import Path

import torch

from models.files import FileError

LENGTH, CODES, CLASSES = 16, 7, 3


def codes():
    generator = torch.Generator().manual_seed(8)
    labels_N = torch.randint(CLASSES, (20,), generator=generator)
    return torch.randint(CODES, (20, LENGTH), generator=generator), labels_N


def codes_in_float64():
    """Float64 leaves the order of additions some 1e-16, which Adam does not blow up to anything in so few steps."""
    torch.set_default_dtype(torch.float64)
    return codes()


def fails_once(folder, how):
    """Data for whoever comes first; the other one fails."""
    try:
        os.close(os.open(os.path.join(folder, "first"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "error":
            raise RuntimeError("no\nmemory") from None
        raise FileError("the tokens are gone") from None
    return codes()
