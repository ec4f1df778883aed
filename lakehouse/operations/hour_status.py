"""The state of each of a topic's hours, as data: counts, verdict, targets and delays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lakehouse import hours
from lakehouse.durations import seconds_since
from lakehouse.hours import Hour
from lakehouse.operations.held import held_hours
from lakehouse.operations.snapshot import TopicSnapshot, is_open, waits_for
from lakehouse.progress import OpenHour
from lakehouse.store import records
from lakehouse.store.history import Entry
from lakehouse.store.records import State


@dataclass(frozen=True)
class HourStatus:
    """One hour's row: counts and verdict are those of its newest revision; delays count from the hour's end.

    `deliveries` is what bronze holds; `rows` is known once the hour is sealed. `rejected` counts the messages of no
    hour that came between the close before and this one. `mirrored_after_seconds` is that of the last target, once all
    of the topic's targets have the hour. With `through` the row is a range of empty hours that closed together.
    """

    hour: Hour
    state: str
    waits_for: str | None
    rows: int | None
    deliveries: int | None
    duplicates: int | None
    late_duplicates: int | None
    skewed: int | None
    rejected: int | None
    revision: int
    verdict: str | None
    mirrored: tuple[str, ...]
    closed_at: datetime | None
    closed_after_seconds: float | None
    sealed_after_seconds: float | None
    mirrored_after_seconds: float | None
    through: Hour | None = None


def hour_statuses(snapshot: TopicSnapshot, last: int, now: datetime) -> list[HourStatus]:
    """The `last` newest hours that closed or hold rows, oldest first; a range of empty hours is one row."""
    held = {held.hour for held in held_hours(snapshot, now)}
    known = sorted({*snapshot.history.hours(), *snapshot.history.ranges(), *_open_hours(snapshot), *held})
    return [_hour_status(snapshot, hour, hour in held) for hour in known[-last:]]


def _hour_status(snapshot: TopicSnapshot, hour: Hour, is_held: bool) -> HourStatus:
    history = snapshot.history
    current = history.current(hour)
    closed, seal = history.first(State.CLOSED, hour), next(iter(current), None)
    sealed = seal.of(records.Sealed) if seal else None
    verdicts = [entry.state for entry in current if entry.state in records.VERDICTS]
    is_everywhere = seal is not None and waits_for(snapshot, hour) is None
    mirrors = [entry for entry in current if entry.state == State.MIRRORED]
    return HourStatus(
        hour,
        "held" if is_held else history.state_of(hour),
        waits_for(snapshot, hour),
        rows=sealed.rows if sealed else None,
        deliveries=sealed.deliveries if sealed else _deliveries(snapshot, hour, closed),
        duplicates=sealed.duplicates if sealed else None,
        late_duplicates=sealed.late_duplicates if sealed else None,
        skewed=sealed.skewed if sealed else None,
        rejected=closed.of(records.Closed).rejected if closed else None,
        revision=history.revision(hour),
        verdict=verdicts[-1] if verdicts else None,
        mirrored=tuple(sorted(history.targets_done(hour))),
        closed_at=closed.at if closed else None,
        closed_after_seconds=_delay(hour, closed),
        sealed_after_seconds=_delay(hour, seal),
        mirrored_after_seconds=_delay(hour, mirrors[-1]) if mirrors and is_everywhere else None,
        through=history.ranges().get(hour),
    )


def _open_hours(snapshot: TopicSnapshot) -> dict[Hour, OpenHour]:
    held: Mapping[Hour, OpenHour] = snapshot.batch.state.hours if snapshot.batch else {}
    return {hour: what for hour, what in held.items() if is_open(snapshot, hour)}


def _deliveries(snapshot: TopicSnapshot, hour: Hour, closed: Entry | None) -> int | None:
    if closed is not None:
        return closed.of(records.Closed).rows
    held = _open_hours(snapshot).get(hour)
    return held.rows if held else None


def _delay(hour: Hour, entry: Entry | None) -> float | None:
    return seconds_since(hours.end_of(hour), entry.at) if entry else None
