"""Why an hour is open, held, closed or skipped, as data, with every number behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lakehouse import hours
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.ingest.closing import Signals, conditions_of
from lakehouse.operations.held import held_hours
from lakehouse.operations.snapshot import Batch, TopicSnapshot, is_open, waits_for
from lakehouse.progress import Frontier
from lakehouse.store.history import Entry
from lakehouse.store.records import (
    Closed,
    CloseRequested,
    Condition,
    FailedExpectation,
    Held,
    Invalid,
    Judged,
    Mirrored,
    MirrorFailed,
    Released,
    Sealed,
    StageFailed,
    State,
    Valid,
    Withdrawn,
)

_NOT_KNOWN = "it was not known at the last commit"


@dataclass(frozen=True)
class Request:
    """Somebody asked for a close of all hours through `through`."""

    through: Hour
    at: datetime
    by: str
    reason: str


@dataclass(frozen=True)
class Event:
    """One row of the ledger: in a sentence, and as it was written."""

    at: datetime
    state: str
    by: str
    text: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Explanation:
    """`state` is the ledger's, or `held`, or `skipped`; `conditions` are as of `measured_at`.

    `conditions` are empty for an hour that was skipped or of which no event has come to the topic.
    """

    topic: str
    hour: Hour
    state: str
    why: str
    waits_for: str | None
    measured_at: datetime | None
    conditions: tuple[Condition, ...]
    numbers: Mapping[str, Any]
    requests: tuple[Request, ...]
    story: tuple[Event, ...]


def explain_hour(snapshot: TopicSnapshot, hour: Hour, now: datetime) -> Explanation:
    """Why the hour is in its state, and what the ledger says of it, in the order in which it happened."""
    closed = snapshot.history.first(State.CLOSED, hour)
    unrecorded = _closed_in(snapshot.batch, hour)
    story = tuple(_events(snapshot, hour, closed))
    requests = tuple(_requests(snapshot, hour, closed))
    if closed is not None:
        state, measured_at = snapshot.history.state_of(hour), closed.at
        record = closed.of(Closed)
        why, conditions, numbers = _why_closed(closed.at, record), record.conditions, closed.details
    elif snapshot.batch is not None and unrecorded is not None:
        state, measured_at = "closed", snapshot.batch.committed_at
        record = Closed.from_json({**unrecorded, "bronze_version": snapshot.batch.version})
        why = f"{_why_closed(measured_at, record)} Ingest writes it to the ledger when it starts next."
        conditions, numbers = record.conditions, unrecorded
    elif not is_open(snapshot, hour):
        state, measured_at, conditions, numbers = "skipped", None, (), {"open_hour": snapshot.open_hour}
        why = (
            f"The topic's first open hour is {snapshot.open_hour}, and no close of this one is recorded: "
            "it lies before the topic's first hour, or held nothing and was skipped (`empty_hours: skip`)."
        )
    else:
        measured_at = _measured_at(snapshot)
        state, why, conditions = _why_open(snapshot, hour, requests, now)
        numbers = _numbers(snapshot.batch, hour)
    shown = {key: value for key, value in numbers.items() if key not in ("conditions", "hour")}
    waiting = waits_for(snapshot, hour) or ("seal" if unrecorded and not closed else None)
    return Explanation(snapshot.topic.name, hour, state, why, waiting, measured_at, conditions, shown, requests, story)


# --- open hours ----------------------------------------------------------------------------------------------------


def _why_open(
    snapshot: TopicSnapshot, hour: Hour, requests: tuple[Request, ...], now: datetime
) -> tuple[str, str, tuple[Condition, ...]]:
    """State, sentence and conditions of an hour that has not closed."""
    batch = snapshot.batch
    if batch is None or batch.state.open_hour is None:
        return "open", "No event has set the topic's first hour yet.", ()
    conditions = _conditions_now(batch, snapshot, hour, now)
    unmet = "; ".join(condition.text for condition in conditions if not condition.is_met)
    held = next((held for held in held_hours(snapshot, now) if held.hour == hour), None)
    state, why = "open", f"Open: {unmet}."
    if held is not None:
        state, why = "held", f"Held since {hours.instant_text(held.since)}: {unmet or '; '.join(held.reasons)}."
    if hour > batch.state.open_hour:
        why = f"Hours close oldest first, and {batch.state.open_hour} is still open."
    elif requests:
        why += f" {requests[-1].by} asked for its close ({requests[-1].reason}): it closes with the next batch."
    elif not unmet:
        why = f"{why if held else 'Open.'} By now every condition is met: it closes with the next batch."
    return state, why, conditions


def _conditions_now(batch: Batch, snapshot: TopicSnapshot, hour: Hour, now: datetime) -> tuple[Condition, ...]:
    """All rules for the hour, met or not: ingest's own, on what it recorded last."""
    frontier = _frontier(batch, snapshot.history.last(State.HELD))
    return conditions_of(hour, Signals.of(batch.state, frontier, now), snapshot.topic)


def _measured_at(snapshot: TopicSnapshot) -> datetime | None:
    held = snapshot.history.last(State.HELD)
    known = [snapshot.batch and snapshot.batch.committed_at, held and held.at]
    return max((at for at in known if at), default=None)


def _frontier(batch: Batch, newest: Entry | None) -> Frontier:
    """The newer of the commit's and the held row's; why nobody knew it is in the held row alone.

    A batch without rows commits nothing, but it does record a changed reason.
    """
    if newest is None:
        return Frontier(batch.instant("frontier"), None, _NOT_KNOWN)
    held = newest.of(Held)
    cause = held.frontier_text or held.problem or _NOT_KNOWN
    known = batch.instant("frontier") if newest.at < batch.committed_at else held.frontier
    return Frontier(known, None, cause)


def _numbers(batch: Batch | None, hour: Hour) -> dict[str, Any]:
    if batch is None:
        return {}
    held = batch.state.hours.get(hour)
    return {
        "open_hour": batch.state.open_hour,
        "rows": held.rows if held else 0,
        "newest_write": held.last_write.isoformat() if held and held.last_write else None,
        "watermark": batch.metadata.get("watermark"),
        "frontier": batch.metadata.get("frontier"),
        "epoch": batch.state.epoch,
        "bronze_version": batch.version,
        "release": batch.metadata.get("release"),
    }


# --- closed hours --------------------------------------------------------------------------------------------------


def _closed_in(batch: Batch | None, hour: Hour) -> Mapping[str, Any] | None:
    """The close as the log has it: a crash can come between the log and the ledger."""
    closed = batch.metadata.get("closed") or [] if batch else []
    return next((each for each in closed if each["hour"] <= hour <= (each.get("through") or each["hour"])), None)


def _why_closed(at: datetime, closed: Closed) -> str:
    return f"Closed at {hours.instant_text(at)} because {closed.because}."


def _requests(snapshot: TopicSnapshot, hour: Hour, closed: Entry | None) -> list[Request]:
    """Requests that reach the hour and came before it closed, oldest first."""
    return [
        Request(entry.hour, entry.at, asked.by or entry.by, asked.reason)
        for entry in snapshot.history.sound_entries
        if _is_request_for(entry, hour, closed) and entry.hour and (asked := entry.of(CloseRequested))
    ]


def _is_request_for(entry: Entry, hour: Hour, closed: Entry | None) -> bool:
    is_request = entry.state == State.CLOSE_REQUESTED and entry.hour is not None and entry.hour >= hour
    return is_request and (closed is None or entry.at < closed.at)


# --- the story -----------------------------------------------------------------------------------------------------


def _events(snapshot: TopicSnapshot, hour: Hour, closed: Entry | None) -> list[Event]:
    return [
        Event(entry.at, entry.state, entry.by, _sentence(entry), entry.details)
        for entry in snapshot.history.sound_entries
        if entry.hour == hour or _is_request_for(entry, hour, closed)
    ]


def _sentence(entry: Entry) -> str:
    """What the row says; nothing for a state that needs no words."""
    try:
        record = entry.record
    except LakeError as broken:
        return f"cannot be read: {broken.found}"
    match record:
        case Held():
            return "; ".join(reason.text for reason in record.reasons)
        case Closed():
            where = f"bronze version {record.bronze_version}, epoch {record.epoch}"
            return f"by {record.why}: {record.rows:,} rows, {where}, release {record.release}"
        case Sealed():
            return _seal_text(record)
        case Valid():
            warnings = [f"warning {_expectation(row)}" for row in record.warnings]
            rows = f"{_count(record.rows)} rows{_duration(record.seconds)}"
            return "; ".join([rows, *warnings, *_report(record)])
        case Invalid():
            failed = [f"failed {_expectation(row)}" for row in record.failed]
            warnings = [f"warning {_expectation(row)}" for row in record.warnings]
            return "; ".join([*failed, *warnings, *_report(record)])
        case MirrorFailed():
            return f"{record.target}: {record.error}"
        case Withdrawn():
            return f"{record.target}: revision {record.revision} is invalid, {record.where} is removed"
        case StageFailed():
            return f"{record.stage}: {record.error}"
        case Released() | CloseRequested():
            return f"by {record.by}: {record.reason}"
        case Mirrored():
            counted = f"{_count(record.rows)} rows counted at {record.where}"
            return f"{record.target}: {counted}, id checksum {record.id_checksum}{_duration(record.seconds)}"
        case _:
            return ""


def _seal_text(sealed: Sealed) -> str:
    files = f"{_count(sealed.files)} file{'' if sealed.files == 1 else 's'}"
    return (
        f"revision {sealed.revision}: {sealed.rows:,} rows of {sealed.deliveries:,} deliveries ({sealed.duplicates:,} "
        f"duplicates, {sealed.late_duplicates:,} late duplicates, {sealed.skewed:,} skewed), {files}, "
        f"silver version {sealed.silver_version}, bronze version {sealed.bronze_version}, "
        f"id checksum {sealed.id_checksum}, release {sealed.release}{_duration(sealed.seconds)}"
    )


def _expectation(row: FailedExpectation) -> str:
    column = f" on {row.column}" if row.column else ""
    unexpected = f", {row.unexpected:,} unexpected" if row.unexpected is not None else ""
    observed = f", observed {row.observed}" if row.observed is not None else ""
    return f"{row.expectation}{column}{unexpected}{observed}"


def _report(judged: Judged) -> list[str]:
    return [f"report {judged.report}"] if judged.report else []


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else f", {seconds:.1f} s"
