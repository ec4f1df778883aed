"""Whether a topic's hours arrived in time: computed from what is absent, so that it is seen when nothing runs, too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse import hours
from lakehouse.durations import seconds_since
from lakehouse.hours import Hour
from lakehouse.operations.status import TopicStatus


@dataclass(frozen=True)
class Overdue:
    """The oldest hour that should be everywhere it goes and is not; `since` is when its time was over.

    `hours` counts those from it to the newest whose time is over.
    """

    hour: Hour
    since: datetime
    seconds: float
    hours: int


def overdue(
    status: TopicStatus, within: timedelta, now: datetime, *, skips_empty_hours: bool = False
) -> Overdue | None:
    """None while nothing is late, and for a topic that has never had an hour.

    Where empty hours are skipped, as for a replay of old events, an open hour is not late: nothing may ever come.
    """
    newest_due = hours.hour_of(now - within - hours.ONE_HOUR)
    missing = _oldest_missing(status, skips_empty_hours=skips_empty_hours)
    if missing is None or missing > newest_due:
        return None
    since = hours.instant_after(hours.end_of(missing), within)
    count = hours.ordinal_of(newest_due) - hours.ordinal_of(missing) + 1
    return Overdue(missing, since, seconds_since(since, now), count)


def _oldest_missing(status: TopicStatus, *, skips_empty_hours: bool) -> Hour | None:
    """The oldest hour that has closed and is not everywhere, else the one that is open."""
    if status.waiting_hour is not None:
        return status.waiting_hour
    return None if skips_empty_hours else status.open_hour
