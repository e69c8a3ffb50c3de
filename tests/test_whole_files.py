"""Files that are whole or absent, and the cleaning up after writers that were killed."""

import os
import time

import pytest

from autonat.storage.artifacts import Artifacts
from models.whole_files import ABANDONED_AFTER_SECONDS, temporary_beside, whole_file


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_only_once_it_is_whole(tmp_path):
    path = tmp_path / "a.json"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a.json"]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_opening_artifacts_clears_away_what_killed_writers_left(tmp_path):
    kept = tmp_path / "f.safetensors"
    torn, being_written = temporary_beside(kept), temporary_beside(kept)
    for path in (kept, torn, being_written):
        path.write_bytes(b"bytes")
    for path in (kept, torn):
        then = time.time() - ABANDONED_AFTER_SECONDS - 60
        os.utime(path, (then, then))
    Artifacts(tmp_path).create()
    assert names(tmp_path) == sorted([kept.name, being_written.name])
