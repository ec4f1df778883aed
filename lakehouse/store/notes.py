"""Notes to an application: that something of one of its topics was decided elsewhere, or that it is to stop.

An application looks at them once per trigger for all of its topics, and at no ledger to which nobody has written. A
note on a ledger that is lost delays nothing for long: a ledger is read with the topic's next commit.
"""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lakehouse.config import Settings
from lakehouse.errors import in_one_line
from lakehouse.store.applications import application_folder

log = logging.getLogger(__name__)

_KEPT = timedelta(minutes=10)
"""Two runs of one application may live for a while, and each has to see a note."""
_STOP = "_stop"
"""No topic has such a name."""


@dataclass(frozen=True)
class StopRequest:
    """That a run is to stop, or to leave one topic; who asks it, and why."""

    topic: str | None
    by: str
    reason: str


@dataclass(frozen=True)
class Noted:
    """What has come since the last look: topics whose ledgers have news, and requests to stop."""

    topics: set[str] = field(default_factory=set)
    stops: tuple[StopRequest, ...] = ()


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

    def ask_to_stop(self, run: str, asked: StopRequest) -> None:
        """The same, of one run or of all runs of a launcher's job: another one is not asked."""
        content = json.dumps({"topic": asked.topic, "by": asked.by, "reason": asked.reason}).encode()
        self._storage.write(f"{_STOP}/{run}/{uuid.uuid4().hex[:12]}", content)

    def look(self, now: datetime, run: str = "", job: str = "") -> Noted:
        """What has come since the last call, of requests those to this run, or to the job that it is of.

        One request to the store, and one for each that is old or asks this run or job to stop.
        """
        listed = self._storage.listing("")
        fresh = {each.path for each in listed} - self._seen
        self._seen = {each.path for each in listed}
        self._storage.delete(each.path for each in listed if now - each.modified_at > _KEPT)
        names = tuple(f"{_STOP}/{name}/" for name in (run, job) if name)
        ours = sorted(path for path in fresh if path.startswith(names))
        stops = tuple(stop for path in ours if (stop := _stop_in(self._storage.read(path))) is not None)
        return Noted({path.partition("/")[0] for path in fresh} - {_STOP}, stops)


def _stop_in(content: bytes | None) -> StopRequest | None:
    """None for what cannot be read, or is gone by now."""
    try:
        values = json.loads(content or b"")
        return StopRequest(values["topic"], str(values["by"]), str(values["reason"]))
    except (ValueError, KeyError, TypeError):
        return None
