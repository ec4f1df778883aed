"""The columns of each command's table."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.text import Text

from lakehouse.cli.output import NOTHING, Column, age_text, instant_text, number_text
from lakehouse.durations import written
from lakehouse.operations import status as fleet


def _status_state(row: fleet.TopicStatus) -> Text:
    styles = {"ok": "green", "stuck": "bold yellow", "failing": "bold red", "error": "bold red", "not started": "dim"}
    told = row.state
    if row.error:
        told = f"error: {row.error}"
    elif row.failure:
        told = f"failing for {age_text(row.failure.seconds)}: {row.failure.error}"
    elif row.stuck:
        told = f"stuck at {row.stuck.hour} for {age_text(row.stuck.seconds)}: {row.stuck.reason}"
    return Text(told, styles[row.state])


def _status_slots(row: fleet.TopicStatus) -> str:
    return NOTHING if row.slots is None else f"{row.slots} of {row.slots_min} to {row.slots_max}"


def _status_held(row: fleet.TopicStatus) -> str:
    if not row.held:
        return NOTHING
    first, *others = row.held
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.hour}: {'; '.join(first.reasons)}{more}"


def _status_waiting(row: fleet.TopicStatus) -> str:
    return f"{row.waiting_hour}: {row.waits_for}" if row.waiting_hour else NOTHING


def _status_due(row: fleet.TopicStatus) -> str:
    counts = {"seal": row.due.seal, "validate": row.due.validate, **row.due.mirrors}
    return NOTHING if row.state != "ok" else ", ".join(f"{stage} {count}" for stage, count in counts.items())


def _instant_and_age(instant: datetime | None, age_seconds: float | None) -> str:
    return f"{instant_text(instant)} ({age_text(age_seconds)})" if instant else NOTHING


def _cell_verdict(cell: Any) -> Text:
    text = f"{cell.verdict}, repaired" if cell.repaired else cell.verdict
    return Text(text, "green" if cell.is_right else "bold red")


def _bar(share: float) -> str:
    """Whole and half blocks, at least a thin one for what is not nothing."""
    halves = round(share * _BAR_WIDTH * 2)
    return "█" * (halves // 2) + "▌" * (halves % 2) or ("▏" if share else "")


def caught(row: Any, hours: int) -> str:
    return f"{row.caught[hours]:.1%}"


STATUS = (
    Column("topic", lambda row: row.topic),
    Column("state", _status_state),
    Column("open hour", lambda row: row.open_hour or NOTHING),
    Column("oldest not through", _status_waiting),
    Column("newest sealed", lambda row: row.newest_sealed_hour or NOTHING),
    Column("held", _status_held),
    Column("watermark", lambda row: instant_text(row.watermark)),
    Column("frontier (age)", lambda row: _instant_and_age(row.frontier, row.frontier_age_seconds)),
    Column("last commit", lambda row: age_text(row.last_commit_age_seconds), is_number=True),
    Column("batch rows", lambda row: number_text(row.last_batch_rows), is_number=True),
    Column("slots", _status_slots, is_number=True),
    Column("release", lambda row: row.release or NOTHING),
    Column("invalid", lambda row: ", ".join(row.invalid_hours) or NOTHING),
    Column("due", _status_due),
)

HOUR = (
    Column("hour", lambda row: row.hour),
    Column("state", lambda row: row.state),
    Column("waits for", lambda row: row.waits_for or NOTHING),
    Column("rows", lambda row: number_text(row.rows), is_number=True),
    Column("deliveries", lambda row: number_text(row.deliveries), is_number=True),
    Column("duplicates", lambda row: number_text(row.duplicates), is_number=True),
    Column("late duplicates", lambda row: number_text(row.late_duplicates), is_number=True),
    Column("skewed", lambda row: number_text(row.skewed), is_number=True),
    Column("revision", lambda row: number_text(row.revision or None), is_number=True),
    Column("verdict", lambda row: row.verdict or NOTHING),
    Column("mirrored", lambda row: ", ".join(row.mirrored) or NOTHING),
    Column("closed at", lambda row: instant_text(row.closed_at)),
    Column("end to closed", lambda row: age_text(row.closed_after_seconds), is_number=True),
    Column("to sealed", lambda row: age_text(row.sealed_after_seconds), is_number=True),
    Column("to mirrored", lambda row: age_text(row.mirrored_after_seconds), is_number=True),
)

CELL = (
    Column("topic", lambda cell: cell.topic),
    Column("hour", lambda cell: cell.hour),
    Column("store", lambda cell: cell.store),
    Column("verdict", _cell_verdict),
    Column("rows", lambda cell: number_text(cell.rows), is_number=True),
    Column("expected", lambda cell: number_text(cell.expected_rows), is_number=True),
    Column("checksum", lambda cell: cell.id_checksum or NOTHING, is_number=True),
    Column("expected", lambda cell: cell.expected_id_checksum, is_number=True),
    Column("where", lambda cell: cell.error or cell.where),
)

CHECK = (
    Column("topic", lambda row: row[0]),
    Column("ok", lambda row: Text("no", "bold red") if row[1] else Text("yes", "green")),
    Column("complaint", lambda row: row[1] or NOTHING),
)

CONDITION = (
    Column("condition", lambda row: row.condition),
    Column("met", lambda row: Text("yes", "green") if row.is_met else Text("no", "bold red")),
    Column("required", lambda row: row.required),
    Column("measured", lambda row: row.measured or NOTHING),
    Column("", lambda row: row.text),
)

STORY = (
    Column("at", lambda row: instant_text(row.at)),
    Column("what", lambda row: row.state),
    Column("by", lambda row: row.by),
    Column("", lambda row: row.text),
)

FINDING = (
    Column("hour", lambda row: row.hour or NOTHING),
    Column("what", lambda row: Text(row.kind, "bold red")),
    Column("where", lambda row: row.subject),
    Column("found", lambda row: row.found),
    Column("expected", lambda row: row.expected),
)

EXPLAINED = (
    Column("what", lambda row: row.what),
    Column("event", lambda row: row.event_id or NOTHING),
    Column("message", lambda row: row.message_id or NOTHING),
    Column("published", lambda row: instant_text(row.publish_time)),
    Column("", lambda row: row.where),
)

DELIVERED = (
    Column("published", lambda row: instant_text(row.publish_time)),
    Column("message", lambda row: row.message_id),
    Column("epoch", lambda row: str(row.epoch), is_number=True),
    Column("segment", lambda row: row.segment),
    Column("version", lambda row: str(row.batch.get("bronze_version", NOTHING)), is_number=True),
    Column("release", lambda row: str(row.batch.get("release", NOTHING))),
    Column("run", lambda row: str(row.batch.get("run", NOTHING))),
    Column("became", lambda row: row.outcome),
)

LEDGER = (
    Column("at", lambda row: instant_text(row.at)),
    Column("hour", lambda row: row.hour or NOTHING),
    Column("what", lambda row: " ".join(filter(None, (row.state, row.details.get("target"))))),
    Column("by", lambda row: row.by),
)

REMOVAL = (
    Column("topic", lambda row: row.topic),
    Column("what", lambda row: row.kind),
    Column("hour", lambda row: row.hour or NOTHING),
    Column("path", lambda row: row.path),
    Column("bytes", lambda row: number_text(row.size_bytes), is_number=True),
    Column("why", lambda row: row.why),
)

ERASED = (
    Column("hour", lambda row: row.hour),
    Column("revision", lambda row: str(row.revision), is_number=True),
    Column("erased", lambda row: number_text(row.erased), is_number=True),
    Column("rows", lambda row: number_text(row.rows), is_number=True),
)

_BAR_WIDTH = 40

CHOICE = (
    Column("lateness", lambda row: written(row.lateness)),
    Column("hours' delay", lambda row: age_text(row.delay.total_seconds()), is_number=True),
    Column("skewed", lambda row: f"{row.skewed_share:.3%}", is_number=True),
    Column("", lambda row: _bar(row.skewed_share)),
)
"""And a column for each horizon: the duplicates that it would leave out."""
