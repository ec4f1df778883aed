"""Notes to an application: that something of one of its topics was decided elsewhere, and its ledger says what.

An application looks at them once per trigger for all of its topics, and at no ledger to which nobody has written. A
note that is lost delays nothing for long: a ledger is read with the topic's next commit.
"""

from __future__ import annotations

import logging
import uuid
from datetime import datetime, timedelta

from lakehouse.config import Settings
from lakehouse.errors import in_one_line
from lakehouse.store.applications import application_folder

log = logging.getLogger(__name__)

_KEPT = timedelta(minutes=10)
"""Two runs of one application may live for a while, and each has to see a note."""


def leave_note(settings: Settings, application: str | None, topic: str) -> None:
    """To the application of that name, if it has one. A store that refuses is logged, and no error."""
    if not application:
        return
    try:
        Notes(settings.model_copy(update={"application": application})).leave(topic)
    except Exception as refused:  # what the note is about is in the ledger
        log.warning("note: application=%s topic=%s error=%s", application, topic, in_one_line(refused))


class Notes:
    """The notes to the application that the settings are of."""

    def __init__(self, settings: Settings) -> None:
        self._storage = application_folder(settings).below("notes").files()
        self._seen: set[str] = set()

    def leave(self, topic: str) -> None:
        """One request; OSError or Google's own errors when the store refuses."""
        self._storage.write(f"{topic}/{uuid.uuid4().hex[:12]}", b"")

    def topics(self, now: datetime) -> set[str]:
        """Those of which a note has come since the last call; one request, and one for each note that is old."""
        listed = self._storage.listing("")
        fresh = {each.path for each in listed} - self._seen
        self._seen = {each.path for each in listed}
        self._storage.delete(each.path for each in listed if now - each.modified_at > _KEPT)
        return {path.partition("/")[0] for path in fresh}
