"""When an hour that a target refused is tried again: by the ledger's rows, so that a restart changes nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

from lakehouse.hours import Hour
from lakehouse.store.history import History

FIRST_PAUSE = timedelta(minutes=1)
"""After the first failure; twice as long after each further one."""

LONGEST_PAUSE = timedelta(hours=6)


def next_try(history: History, hour: Hour, target: str) -> datetime | None:
    """None for an hour that has not failed there since it was sealed, and may be tried at once."""
    failures = history.mirror_failures(hour, target)
    if not failures:
        return None
    times: int = 2 ** min(len(failures) - 1, 20)
    return failures[-1].at + min(FIRST_PAUSE * times, LONGEST_PAUSE)
