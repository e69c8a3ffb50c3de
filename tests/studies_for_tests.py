"""A study small enough to run in seconds, and ways to run and inspect it. Imports at the top stay light."""

import contextlib
import io
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "digits",
    "network": {
        "num_tokens": 64,
        "codebook_size": 17,
        "num_classes": 10,
        "width": 8,
        "heads": 1,
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "embedding_std": 0.2,
    },
    "training": {
        "steps": 8,
        "batch_size": 8,
        "learning_rate": 4e-3,
        "warmup_steps": 2,
        "decay": "cosine",
        "ema_decay": 0.9,
        "ratio_groups": 1,
        "checkpoint_every_steps": 1,
    },
    "features": {"steps": 10, "batch_size": 16, "dimensions": 16},
    "schedule": {"num_steps": 3, "preset": "maskgit-cosine"},
    "mask_ratio": {"kind": "arccos"},
    "search": {
        "method": "staged",
        "warm_start": {"trials": 4, "random_trials": 2, "batch": 2, "images": 40, "keep": 2},
        "descent": {"estimator": "probes", "iterations": 1, "images": 40},
        "confirmation_images": 40,
    },
    "beta": {
        "start_alpha": 6,
        "start_beta": 3,
        "max_trainings": 2,
        "images": 40,
        "retune": {"trials": 2, "random_trials": 2, "batch": 2, "images": 40, "keep": 1},
    },
    # The other kind of gradient, so that a study has both.
    "later_search": {
        "method": "staged",
        "warm_start": None,
        "descent": {"estimator": "population", "iterations": 1, "images": 80},
        "confirmation_images": 40,
    },
    "block_size": 20,
    "held_out_images": 40,
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny recipe with changes, written key__subkey=value."""
    data = yaml.safe_load(yaml.safe_dump(TINY))
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = data
        for parent in parents:
            target = target[parent]
        target[last] = value
    return data


def tiny_recipe(**changes: Any) -> Any:
    from autonat.config import Recipe

    return Recipe.model_validate(tiny(**changes))


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny(**changes)))
    return path


def dotted(data: dict[str, Any], prefix: str = "") -> list[str]:
    """A recipe as overrides of the command line."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict):
            lines += dotted(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={'null' if value is None else value}")
    return lines


def run_cli(*arguments: object) -> tuple[int, str, str]:
    """The command line in this process: (exit status, stdout, stderr)."""
    from autonat.cli import main

    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with (
        mock.patch.object(sys, "argv", ["autonat", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            status = stop.code
    return (status or 0), out.getvalue(), err.getvalue()


def run_ok(*arguments: object) -> str:
    status, out, err = run_cli(*arguments)
    assert (status, err) == (0, ""), err
    return out


def query(database: Path, statement: str, *parameters: Any) -> list[Any]:
    """Rows of a statement on an SQLite file; a changing statement is committed."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


def own_by(
    database: Path, study: str, pid: int, host: str | None = None, mark: str | None = None, beat: str = ""
) -> None:
    """Make a process the driver of a study."""
    import socket

    from autonat.storage.ownership import mark_of

    query(
        database,
        "UPDATE studies SET state='running', owner_host=?, owner_pid=?, owner_mark=?, heartbeat_at=? WHERE name=?",
        host or socket.gethostname(),
        pid,
        mark_of(pid) if mark is None else mark,
        beat or None,
        study,
    )


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any, what: str, seconds: float = 120) -> Any:
    """Poll until a condition holds; the limit only keeps a broken run from hanging."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.002)
    raise AssertionError(f"gave up waiting for {what}")


class Calling:
    """A worker whose tasks are functions."""

    def __init__(self, artifacts: str) -> None:
        self.artifacts = artifacts

    def perform(self, task: Any) -> tuple[Any, float]:
        return task(), 0.0


def nap(seconds: float) -> int:
    """The process that slept."""
    time.sleep(seconds)
    return os.getpid()


class Idle:
    """A worker that does nothing, at once."""

    def __init__(self, artifacts: str) -> None:
        self.artifacts = artifacts

    def perform(self, task: Any) -> tuple[Any, float]:
        return None, 0.25


def die_once(marker: str) -> str:
    """Kills its process at the first call, after a moment in which the answer of the task before has left it."""
    if not os.path.exists(marker):
        Path(marker).touch()
        time.sleep(0.2)
        os._exit(1)
    return "survived"


def die() -> None:
    os._exit(1)


def fail_times(marker: str, times: int) -> tuple[int, str]:
    """Fails so often; then says which process it is in."""
    path = Path(marker)
    seen = path.read_text().split() if path.exists() else []
    path.write_text(" ".join([*seen, str(os.getpid())]))
    if len(seen) < times:
        raise RuntimeError(f"failure\n{len(seen) + 1}")
    return os.getpid(), path.read_text()


def refuse() -> None:
    from autonat.errors import UserError

    raise UserError("mend this")
