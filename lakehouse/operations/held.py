"""Hours that should have closed and have not, and what keeps them open."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from lakehouse import hours
from lakehouse.durations import seconds_since
from lakehouse.hours import Hour
from lakehouse.operations.snapshot import TopicSnapshot, is_open
from lakehouse.store import records
from lakehouse.store.history import Entry
from lakehouse.store.records import State

STUCK_AFTER = timedelta(minutes=15)
"""How long an hour that is due may wait for the frontier: samples of a backlog lag by a minute or two."""


@dataclass(frozen=True)
class Held:
    """An hour that should have closed by the clock, and why it has not, as ingest recorded it."""

    hour: Hour
    since: datetime
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Stuck:
    """The open hour that the frontier keeps from closing, and so every later one: since when, and why.

    `reason` is as ingest logged it at `reported_at`; `since` is when it began, or when the hour was due if that was
    later.
    """

    hour: Hour
    since: datetime
    seconds: float
    reason: str
    reported_at: datetime


def held_hours(snapshot: TopicSnapshot, now: datetime) -> list[Held]:
    """Hours whose end and lateness have passed and that are still open, oldest first, each with its newest reasons.

    Ingest also records why it keeps an hour open whose time has not come: such an hour is not held.
    """
    newest = {entry.hour: entry for entry in snapshot.history.sound_entries if entry.state == State.HELD and entry.hour}
    return [
        Held(hour, entry.at, tuple(reason.text for reason in entry.of(records.Held).reasons))
        for hour, entry in sorted(newest.items())
        if now >= hours.instant_after(hours.end_of(hour), snapshot.topic.lateness) and is_open(snapshot, hour)
    ]


def stuck(snapshot: TopicSnapshot, now: datetime) -> Stuck | None:
    """What the frontier has kept from closing for longer than `STUCK_AFTER`, as far as ingest has recorded it.

    Ingest adds a row whenever the oldest open hour changes, or what is known of the backlog.
    """
    hour = snapshot.open_hour
    rows = [entry for entry in snapshot.history.sound_entries if entry.state == State.HELD and entry.hour == hour]
    if hour is None or not rows or not is_open(snapshot, hour) or (reason := _backlog_of(rows[-1])) is None:
        return None
    begun, problem = rows[-1], rows[-1].of(records.Held).problem
    for entry in reversed(rows):
        if _backlog_of(entry) is None or entry.of(records.Held).problem != problem:
            break
        begun = entry
    since = max(begun.at, hours.instant_after(hours.end_of(hour), snapshot.topic.lateness))
    if now - since < STUCK_AFTER:
        return None
    return Stuck(hour, since, seconds_since(since, now), reason, rows[-1].at)


def _backlog_of(held: Entry) -> str | None:
    """What a held row says of the backlog; None when it was consumed."""
    return held.of(records.Held).waits_for_frontier
