"""Why an hour is open, held, closed or passed over, as data, with every number behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lakehouse.hours import Hour
from lakehouse.ingest.closing import Condition, Signals, decide
from lakehouse.operations.status import Batch, TopicSnapshot, held_hours, is_open, waits_for
from lakehouse.progress import Frontier
from lakehouse.store.ledger import Entry

_UNKNOWN = "the backlog is unknown: "
"""What the rule puts before the frontier's own words."""
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
    """One row of the ledger: in a sentence, and as it stands."""

    at: datetime
    state: str
    by: str
    text: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Explanation:
    """`state` is the ledger's, or `held`, or `passed over`; `conditions` are as of `measured_at`.

    `conditions` are empty for an hour that was passed over or of which no event has come to the topic.
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


def explain_hour(standing: TopicSnapshot, hour: Hour, now: datetime) -> Explanation:
    """Why the hour stands where it does, and what the ledger says of it, in the order in which it happened."""
    closed = standing.history.first("closed", hour)
    unrecorded = _closed_in(standing.batch, hour)
    story = tuple(_events(standing, hour, closed))
    requests = tuple(_requests(standing, hour, closed))
    if closed is not None:
        state, measured_at = standing.history.state_of(hour), closed.at
        why, conditions, numbers = _why_closed(closed.at, closed.details), _recorded(closed.details), closed.details
    elif standing.batch is not None and unrecorded is not None:
        state, measured_at = "closed", standing.batch.committed_at
        why = f"{_why_closed(measured_at, unrecorded)} Ingest writes it to the ledger when it starts next."
        conditions, numbers = _recorded(unrecorded), unrecorded
    elif not is_open(standing, hour):
        state, measured_at, conditions, numbers = "passed over", None, (), {"open_hour": standing.open_hour}
        why = (
            f"The topic's first open hour is {standing.open_hour}, and no close of this one is recorded: "
            "it lies before the topic's first hour, or held nothing and was passed over (`empty_hours: skip`)."
        )
    else:
        measured_at = _measured_at(standing)
        state, why, conditions = _why_open(standing, hour, requests, now)
        numbers = _numbers(standing.batch, hour)
    shown = {key: value for key, value in numbers.items() if key not in ("conditions", "hour")}
    waiting = waits_for(standing, hour) or ("seal" if unrecorded and not closed else None)
    return Explanation(standing.topic.name, hour, state, why, waiting, measured_at, conditions, shown, requests, story)


# --- open hours ----------------------------------------------------------------------------------------------------


def _why_open(
    standing: TopicSnapshot, hour: Hour, requests: tuple[Request, ...], now: datetime
) -> tuple[str, str, tuple[Condition, ...]]:
    """State, sentence and conditions of an hour that has not closed."""
    batch = standing.batch
    if batch is None or batch.state.open_hour is None:
        return "open", "No event has set the topic's first hour yet.", ()
    conditions = _conditions_now(batch, standing, hour, now)
    unmet = "; ".join(condition.text for condition in conditions if not condition.is_met)
    held = next((held for held in held_hours(standing, now) if held.hour == hour), None)
    state, why = "open", f"Open: {unmet}."
    if held is not None:
        state, why = "held", f"Held since {_second(held.since)}: {unmet or '; '.join(held.reasons)}."
    if hour > batch.state.open_hour:
        why = f"Hours close oldest first, and {batch.state.open_hour} is still open."
    elif requests:
        why += f" {requests[-1].by} asked for its close ({requests[-1].reason}): it closes with the next batch."
    elif not unmet:
        why = f"{why if held else 'Open.'} By now every condition is met: it closes with the next batch."
    return state, why, conditions


def _conditions_now(batch: Batch, standing: TopicSnapshot, hour: Hour, now: datetime) -> tuple[Condition, ...]:
    """All three for the hour, met or not: ingest's own rule on what it recorded last.

    A close on request states them all, so the rule is asked as if there were one.
    """
    signals = Signals(
        now,
        hour,
        batch.state.hours,
        batch.state.max_event_time,
        batch.state.max_publish_time,
        _frontier(batch, standing.history.last("held")),
        requested_through=hour,
    )
    decision = decide(signals, standing.topic.model_copy(update={"empty_hours": "close"}))
    return decision.closed[0].conditions


def _measured_at(standing: TopicSnapshot) -> datetime | None:
    held = standing.history.last("held")
    known = [standing.batch and standing.batch.committed_at, held and held.at]
    return max((at for at in known if at), default=None)


def _frontier(batch: Batch, held: Entry | None) -> Frontier:
    """The newer of the commit's and the held row's; why nobody knew it stands in the held row alone.

    A batch without rows commits nothing, but it does record a changed reason.
    """
    if held is None:
        return Frontier(batch.instant("frontier"), None, _NOT_KNOWN)
    reasons = [row for row in held.details["reasons"] if row["condition"] == "backlog" and row["measured"] is None]
    cause = str(reasons[0]["text"]).removeprefix(_UNKNOWN) if reasons else _NOT_KNOWN
    if held.at < batch.committed_at:
        return Frontier(batch.instant("frontier"), None, cause)
    text = held.details.get("frontier")
    return Frontier(datetime.fromisoformat(text) if text else None, None, cause)


def _numbers(batch: Batch | None, hour: Hour) -> dict[str, Any]:
    if batch is None:
        return {}
    held = batch.state.hours.get(hour)
    return {
        "open_hour": batch.state.open_hour,
        "rows": held.rows if held else 0,
        "newest_write": held.last_write.isoformat() if held else None,
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
    return next((details for details in closed if details.get("hour") == hour), None)


def _why_closed(at: datetime, details: Mapping[str, Any]) -> str:
    because = {
        "watermark": "the watermark passed its end, the backlog was consumed and its files were no longer new",
        "idle": "the topic was idle: everything published by its end and lateness was consumed, and nothing came since",
        "request": f"{details.get('requested_by')} asked for it: {details.get('request_reason')}",
    }
    why = str(details.get("why"))
    return f"Closed at {_second(at)} because {because.get(why, why)}."


def _recorded(details: Mapping[str, Any]) -> tuple[Condition, ...]:
    """As written at the close. All held unless the row says otherwise, save for a close that somebody asked for."""
    all_held = details.get("why") != "request"
    return tuple(
        Condition(
            str(row["condition"]),
            bool(row.get("is_met", all_held)),
            str(row["required"]),
            row.get("measured"),
            str(row["text"]),
        )
        for row in details.get("conditions") or ()
    )


def _requests(standing: TopicSnapshot, hour: Hour, closed: Entry | None) -> list[Request]:
    """Requests that reach the hour and came before it closed, oldest first."""
    return [
        Request(entry.hour, entry.at, str(entry.details.get("by", entry.by)), str(entry.details.get("reason")))
        for entry in standing.history.entries
        if _is_request_for(entry, hour, closed) and entry.hour is not None
    ]


def _is_request_for(entry: Entry, hour: Hour, closed: Entry | None) -> bool:
    is_request = entry.state == "close_requested" and entry.hour is not None and entry.hour >= hour
    return is_request and (closed is None or entry.at < closed.at)


# --- the story -----------------------------------------------------------------------------------------------------


def _events(standing: TopicSnapshot, hour: Hour, closed: Entry | None) -> list[Event]:
    return [
        Event(entry.at, entry.state, entry.by, _sentence(entry), entry.details)
        for entry in standing.history.entries
        if entry.hour == hour or _is_request_for(entry, hour, closed)
    ]


def _sentence(entry: Entry) -> str:
    tell = _SENTENCES.get(entry.state)
    return tell(entry.details) if tell else ""


def _held(details: Mapping[str, Any]) -> str:
    return "; ".join(str(reason["text"]) for reason in details.get("reasons") or ())


def _closed(details: Mapping[str, Any]) -> str:
    where = f"bronze version {details.get('bronze_version')}, epoch {details.get('epoch')}"
    return f"by {details.get('why')}: {_count(details, 'rows')} rows, {where}, release {details.get('release')}"


def _sealed(details: Mapping[str, Any]) -> str:
    names = {"duplicates": "duplicates", "late_duplicates": "late duplicates", "skewed": "skewed"}
    counts = ", ".join(f"{_count(details, key)} {name}" for key, name in names.items())
    return (
        f"revision {details.get('revision', 1)}: {_count(details, 'rows')} rows of {_count(details, 'deliveries')} "
        f"deliveries ({counts}), {_files(details)}, silver version {details.get('silver_version')}, "
        f"bronze version {details.get('bronze_version')}, id checksum {details.get('id_checksum')}, "
        f"release {details.get('release')}{_taken(details)}"
    )


def _valid(details: Mapping[str, Any]) -> str:
    warnings = [f"warning {_expectation(row)}" for row in details.get("warnings") or ()]
    return "; ".join([f"{_count(details, 'rows')} rows{_taken(details)}", *warnings, *_report(details)])


def _invalid(details: Mapping[str, Any]) -> str:
    failed = [f"failed {_expectation(row)}" for row in details.get("failed") or ()]
    warnings = [f"warning {_expectation(row)}" for row in details.get("warnings") or ()]
    return "; ".join([*failed, *warnings, *_report(details)])


def _expectation(row: Mapping[str, Any]) -> str:
    column = f" on {row['column']}" if row.get("column") else ""
    unexpected = f", {_count(row, 'unexpected')} unexpected" if row.get("unexpected") is not None else ""
    observed = f", observed {row['observed']}" if row.get("observed") is not None else ""
    return f"{row.get('expectation')}{column}{unexpected}{observed}"


def _report(details: Mapping[str, Any]) -> list[str]:
    return [f"report {details['report']}"] if details.get("report") else []


def _person(details: Mapping[str, Any]) -> str:
    return f"by {details.get('by')}: {details.get('reason')}"


def _mirrored(details: Mapping[str, Any]) -> str:
    return (
        f"{details.get('target')}: {_count(details, 'rows')} rows counted at {details.get('where')}, "
        f"id checksum {details.get('id_checksum')}{_taken(details)}"
    )


_SENTENCES = {
    "held": _held,
    "closed": _closed,
    "sealed": _sealed,
    "valid": _valid,
    "invalid": _invalid,
    "released": _person,
    "close_requested": _person,
    "mirrored": _mirrored,
}


def _count(details: Mapping[str, Any], key: str) -> str:
    value = details.get(key)
    return f"{value:,}" if isinstance(value, int) else "?" if value is None else str(value)


def _files(details: Mapping[str, Any]) -> str:
    files = details.get("files")
    number = len(files) if isinstance(files, list) else files
    return f"{number} file{'' if number == 1 else 's'}"


def _taken(details: Mapping[str, Any]) -> str:
    seconds = details.get("seconds")
    return f", {seconds:.1f} s" if isinstance(seconds, (int, float)) else ""


def _second(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
