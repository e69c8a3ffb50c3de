"""Frames for pages that stay open: what a journal has said once is not read twice."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from autonat.storage.tables import journal, studies
from dashboards import frames, outcome_frames, progress_frames
from dashboards.frames import Measured


class Reader:
    """A database as a dashboard reads it. Any number of threads may use one.

    counted: TFLOPs of one image from a network's and a schedule's JSON, or None where not known (yet).
    """

    def __init__(self, engine: sa.Engine, artifacts: Path, counted: outcome_frames.Counted = lambda *_: None) -> None:
        self.engine, self.artifacts, self.counted = engine, artifacts, counted
        self._lock = threading.Lock()
        # By id and creation: the id of a deleted study may be given again.
        self._measured: dict[tuple[int, str], list[Measured]] = {}
        self._studies: tuple[str, pd.DataFrame] | None = None
        self._evaluations: dict[str, tuple[tuple[int, str, str, int], pd.DataFrame]] = {}

    def version(self) -> str:
        """A text that changes whenever a page could look different; cheap enough to ask for every second or two."""
        states = progress_frames.states(self.engine)
        with self.engine.connect() as connection:
            last = connection.execute(
                sa.select(journal.c.study_id, sa.func.max(journal.c.number)).group_by(journal.c.study_id)
            ).all()
        return repr((states, [tuple(row) for row in last], progress_frames.ledger_version(self.engine)))

    def studies(self) -> pd.DataFrame:
        """``frames.studies_frame``, counted again only where something is new."""
        version = self.version()
        with self._lock:
            if self._studies is None or self._studies[0] != version:
                self._studies = (version, frames.studies_frame(self.engine))
            return self._studies[1]

    def warm(self) -> None:
        """Read the newest studies ahead, so that the first page is as quick as any."""
        self.studies()
        for name in self.names()[:3]:
            self.evaluations(name)

    def names(self) -> list[str]:
        """Studies, the newest first."""
        with self.engine.connect() as connection:
            return list(connection.scalars(sa.select(studies.c.name).order_by(studies.c.id.desc())))

    def evaluations(self, study: str) -> pd.DataFrame:
        """``frames.evaluations_frame``, reading the rows alone that came since the last time."""
        row = frames.find_study(self.engine, study)
        if row is None:
            return frames.evaluations_frame(self.engine, study)
        measured = self._read(row)
        mark = (row.id, str(row.created_at), row.summary or "", len(measured))
        with self._lock:
            if study not in self._evaluations or self._evaluations[study][0] != mark:
                self._evaluations[study] = (mark, frames.evaluations_frame(self.engine, study, measured=measured))
            return self._evaluations[study][1]

    def _read(self, row: Any) -> list[Measured]:
        """All requests of a study, of which only the new ones are fetched."""
        with self._lock:
            known = self._measured.setdefault((row.id, str(row.created_at)), [])
            known += frames.read_measured(self.engine, row.id, known[-1].number if known else -1)
            return list(known)

    def comparison(self, names: Sequence[str]) -> pd.DataFrame:
        """``frames.comparison_frame`` of what ``evaluations`` has read."""
        return frames.below_each_other({name: self.evaluations(name) for name in names})

    def outcomes(self, names: Sequence[str]) -> pd.DataFrame:
        """``outcome_frames.outcomes_frame`` with the costs that are counted by now."""
        return outcome_frames.outcomes_frame(self.engine, names, self.counted, self.evaluations)

    def differences(self, names: Sequence[str]) -> pd.DataFrame:
        """``outcome_frames.differences_frame`` of what ``evaluations`` has read."""
        return outcome_frames.differences_frame(self.engine, names, self.evaluations)

    def timeline(self, study: str) -> pd.DataFrame:
        """``progress_frames.timeline_frame`` of what has been read."""
        row = frames.find_study(self.engine, study)
        measured = [] if row is None else self._read(row)
        return progress_frames.timeline_frame(self.engine, study, measured)
