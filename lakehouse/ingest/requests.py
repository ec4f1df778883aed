"""What people ask of an application: one look per trigger for all of its topics."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial

from lakehouse.config import Settings
from lakehouse.crews import Crew
from lakehouse.errors import in_one_line
from lakehouse.store.notes import Noted, Notes
from lakehouse.store.retired_jobs import own_job

log = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=1)


class Requests:
    """Looks at an application's notes, one at a time, in a thread: a store that hangs holds up no batch for long."""

    def __init__(self, settings: Settings, run: str, size: int) -> None:
        self._notes = Notes(settings) if settings.application else None
        self._run, self._job = run, own_job()
        self._looks: Crew[str, Noted] = Crew(size, "notes")

    def look(self, now: datetime) -> Noted:
        """What somebody has left since the last look, as far as the store says it in time."""
        if self._notes is None:
            return Noted()
        if "look" not in self._looks.busy:
            self._looks.begin("look", partial(_noted, self._notes, now, self._run, self._job))
        return dict(self._looks.results(PATIENCE.total_seconds())).get("look", Noted())


def _noted(notes: Notes, at: datetime, run: str, job: str) -> Noted:
    try:
        return notes.look(at, run, job)
    except Exception as refused:  # a ledger is read with the topic's next commit, too
        log.warning("ingest: notes=unread error=%s", in_one_line(refused))
        return Noted()
