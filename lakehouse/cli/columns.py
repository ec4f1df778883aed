"""The columns of each command's table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from rich.text import Text

from lakehouse.cli.output import NOTHING, Column, age_text, instant_text, number_text, share_text
from lakehouse.durations import duration_text
from lakehouse.errors import LakeError
from lakehouse.operations.hour_status import HourStatus
from lakehouse.operations.status import TopicStatus
from lakehouse.operations.topic_life import TopicLife
from lakehouse.progress import RECENT_COMMITS
from lakehouse.store.history import Entry
from lakehouse.store.records import Mirrored, MirrorFailed, Withdrawn

_SIGNS = {
    "ok": ("✓", "green"),
    "not started": ("·", "dim"),
    "invalid": ("!", "bold yellow"),
    "behind": ("!", "bold yellow"),
    "rejecting": ("!", "bold yellow"),
    "silent": ("!", "bold yellow"),
    "stuck": ("!", "bold yellow"),
}
_BROKEN = ("✕", "bold red")
_MONTHS_SECONDS = 180 * 86_400


def _status_sign(row: TopicStatus) -> Text:
    return Text(*_SIGNS.get(row.state, _BROKEN))


def cause_of(row: TopicStatus) -> Text:
    """Why the topic is what it is, in a few words."""
    words = row.state
    if row.state == "error":
        words = f"error: {row.error}"
    elif row.state == "failing" and row.life and row.life.is_failing:
        words = _parked(row.life)
    elif row.state == "failing" and row.failure:
        words = f"failing for {age_text(row.failure.seconds)}: {row.failure.error}"
    elif row.state == "failing" and row.stage_failures:
        failed = row.stage_failures[0]
        words = f"{failed.stage} of {failed.hour} fails: {failed.error}"
    elif row.state == "damaged" and row.damage.files:
        count = row.damage.count
        files = "1 file" if count == 1 else f"{count:,} files"
        words = f"{files} missing or damaged, see `lakehouse status {row.topic}`: {row.damage.files[0].path}"
    elif row.state == "failing" and row.life and row.life.maintain_error:
        words = f"maintain fails: {row.life.maintain_error}"
    elif row.state == "not running" and row.not_running_since:
        words = f"not running since {_day_and_time(row.not_running_since, row)}"
    elif row.state == "stuck" and row.stuck:
        words = f"stuck at {row.stuck.hour} for {age_text(row.stuck.seconds)}: {row.stuck.reason}"
    elif row.state == "ok" and row.life and row.life.last_trigger:
        words = f"ok, last trigger {age_text(row.life.last_trigger_age_seconds)} ago"
    elif row.state == "ok" and row.life and row.life.state == "starting":
        words = "ok, its application starts"
    elif row.state == "silent" and row.life:
        has_hung = row.life.hangs_for_seconds is not None
        what, age = (
            ("batch", row.life.hangs_for_seconds) if has_hung else ("sign of life", row.life.written_age_seconds)
        )
        words = f"no {what} for {age_text(age)}"
    elif row.state == "silent" and row.last_sign:
        words = f"no sign since {_day_and_time(row.last_sign, row)}"
    elif row.state == "rejecting":
        words = f"{share_text(row.rejected_share)} of messages rejected"
    elif row.state == "behind":
        words = f"{row.waiting_hour} waits for {row.waits_for}"
    elif row.state == "invalid":
        first, *others = row.invalid_hours
        words = f"{first} is invalid" + (f", and {len(others)} more" if others else "")
    return Text(words, _SIGNS.get(row.state, _BROKEN)[1])


def _day_and_time(instant: datetime, row: TopicStatus) -> str:
    """Of what is months ago the year instead of the time."""
    is_old = (row.last_sign_age_seconds or 0) > _MONTHS_SECONDS
    return f"{instant:%-d %b %Y}" if is_old else f"{instant:%-d %b %H:%M}"


def _short_cause_of(row: TopicStatus) -> Text:
    """Without the path of the topic's own file: the line begins with the topic, and may be cut."""
    cause = cause_of(row)
    return Text(re.sub(rf"^error: \S*/{re.escape(row.topic)}\.yaml: ", "error: ", cause.plain), cause.style)


def _parked(life: TopicLife) -> str:
    """How its application fails at the topic, how often in a row, and when it tries again."""
    what = "parked" if life.state == "parked" else "fails at its start"
    times = f", {life.failures} times" if life.failures > 1 else ""
    then = f", next try in {age_text(life.next_try_in_seconds)}" if life.next_try_in_seconds is not None else ""
    return f"{what}{times}{then}: {life.error}"


def _run_of(life: TopicLife | None) -> str:
    if life is None:
        return NOTHING
    end = f", ended {instant_text(life.ended_at)}: {life.why_ended}" if life.ended_at else ""
    also = f"; run {life.other_run} has the same name" if life.other_run else ""
    return f"{life.application} (run {life.run} on {life.host}, configuration {life.configuration}{end}{also})"


def _last_trigger(life: TopicLife | None) -> str:
    return _instant_and_age(life.last_trigger, life.last_trigger_age_seconds) if life else NOTHING


def rejected_text(rejected: int | None, share: float | None) -> str:
    return f"{rejected:,} ({share_text(share)})" if rejected and share is not None else number_text(rejected)


def _status_slots(row: TopicStatus) -> str:
    return NOTHING if row.slots is None else f"{row.slots} of {row.slots_min} to {row.slots_max}"


def _status_held(row: TopicStatus) -> str:
    if not row.held:
        return NOTHING
    first, *others = row.held
    more = f" (and {len(others)} more)" if others else ""
    return f"{first.hour}: {'; '.join(first.reasons)}{more}"


def _status_waiting(row: TopicStatus) -> str:
    return f"{row.waiting_hour}: {row.waits_for}" if row.waiting_hour else NOTHING


def _status_due(row: TopicStatus) -> str:
    counts = {"seal": row.due.seal, "validate": row.due.validate, **row.due.mirrors}
    return (
        NOTHING
        if row.state in ("error", "not started")
        else ", ".join(f"{stage} {count}" for stage, count in counts.items())
    )


def _status_unacknowledged(row: TopicStatus) -> str:
    if not row.unacknowledged:
        return number_text(row.unacknowledged)
    of = f"in the newest {RECENT_COMMITS} commits"
    return f"{row.unacknowledged:,} messages {of}: refused by Pub/Sub for good; they come again, as duplicates"


def _instant_and_age(instant: datetime | None, age_seconds: float | None) -> str:
    return f"{instant_text(instant)} ({age_text(age_seconds)})" if instant else NOTHING


def _cell_verdict(cell: Any) -> Text:
    text = f"{cell.verdict}, repaired" if cell.repaired else cell.verdict
    return Text(text, "green" if cell.is_right else "bold red")


def _tried_outcome(row: Any) -> Text:
    return Text(row.outcome, {"event": "green", "rejected": "bold red"}.get(row.outcome, ""))


def _tried_reason(row: Any) -> str:
    if row.repeats:
        return f"repeats message {row.repeats}"
    return row.reason or ("after its hour's end and lateness" if row.is_late else NOTHING)


def _bar(share: float) -> str:
    """Whole and half blocks, at least a thin one for what is not nothing."""
    halves = round(share * _BAR_WIDTH * 2)
    return "█" * (halves // 2) + "▌" * (halves % 2) or ("▏" if share else "")


def _caught(row: Any, hours: int) -> str:
    return f"{row.caught[hours]:.1%}"


STATUS = (
    Column("", _status_sign),
    Column("topic", lambda row: row.topic, least=18, is_name=True),
    Column("open hour", lambda row: row.open_hour or NOTHING),
    Column("behind", lambda row: age_text(row.behind_seconds), is_number=True),
    Column("state", _short_cause_of, least=16),
    Column("oldest unfinished", _status_waiting, rank=3),
    Column("newest sealed", lambda row: row.newest_sealed_hour or NOTHING, rank=5),
    Column("held", _status_held, rank=4),
    Column("watermark", lambda row: instant_text(row.watermark), rank=6),
    Column("frontier (age)", lambda row: _instant_and_age(row.frontier, row.frontier_age_seconds), rank=7),
    Column("last commit", lambda row: age_text(row.last_commit_age_seconds), is_number=True, rank=2),
    Column("batch rows", lambda row: number_text(row.last_batch_rows), is_number=True, rank=9),
    Column("rejected", lambda row: rejected_text(row.rejected, row.rejected_share), is_number=True, rank=1),
    Column("slots", _status_slots, is_number=True, rank=8),
    Column("release", lambda row: row.release or NOTHING, rank=10),
    Column("invalid", lambda row: ", ".join(row.invalid_hours) or NOTHING, rank=11),
    Column("due", _status_due, rank=12),
)


def status_fields(row: TopicStatus) -> list[tuple[str, str | Text]]:
    """All that is known of a topic, a label and a value for each line."""
    return [
        ("state", cause_of(row)),
        ("open hour", row.open_hour or NOTHING),
        ("held", "; ".join(f"{held.hour}: {', '.join(held.reasons)}" for held in row.held) or NOTHING),
        ("oldest unfinished", _status_waiting(row)),
        *(
            (f"{each.stage} fails", f"{each.hour}, since {instant_text(each.since)}: {each.error}")
            for each in row.stage_failures
        ),
        *(("damaged", f"{each.path}: {each.found}, expected {each.expected}") for each in row.damage.files),
        *(
            [("more of it", f"`lakehouse verify {row.topic}`, and `lakehouse audit {row.topic} HOUR` for deliveries")]
            if row.damage.count
            else []
        ),
        ("newest sealed", row.newest_sealed_hour or NOTHING),
        ("newest delivered", _delivered(row)),
        ("invalid", ", ".join(row.invalid_hours) or NOTHING),
        ("due", _status_due(row)),
        ("rejected", rejected_text(row.rejected, row.rejected_share)),
        ("unacknowledged", _status_unacknowledged(row)),
        ("watermark", instant_text(row.watermark)),
        ("frontier", _instant_and_age(row.frontier, row.frontier_age_seconds)),
        ("application", _run_of(row.life)),
        ("last trigger", _last_trigger(row.life)),
        ("maintained", instant_text(row.life.maintained_at) if row.life else NOTHING),
        *([("maintain fails", row.life.maintain_error)] if row.life and row.life.maintain_error else []),
        ("last commit", _instant_and_age(row.last_commit, row.last_commit_age_seconds)),
        ("last sign of life", _instant_and_age(row.last_sign, row.last_sign_age_seconds)),
        ("rows of last batch", number_text(row.last_batch_rows)),
        ("slots", _status_slots(row)),
        ("release", row.release or NOTHING),
    ]


def _delivered(row: TopicStatus) -> str:
    return f"{row.delivered_hour} (it ended {age_text(row.behind_seconds)} ago)" if row.delivered_hour else NOTHING


def _hour_rejected(row: HourStatus) -> str:
    if row.rejected is None:
        return NOTHING
    return rejected_text(row.rejected, row.rejected / max(1, row.rejected + (row.deliveries or 0)))


def _ledger_what(row: Entry) -> str:
    """The state, and the target where the row is about one; a broken row is its state alone."""
    try:
        record = row.record
    except LakeError:
        return row.state
    return f"{row.state} {record.target}" if isinstance(record, (Mirrored, MirrorFailed, Withdrawn)) else row.state


HOUR = (
    Column("hour", lambda row: row.hour if row.through is None else f"{row.hour} to {row.through}"),
    Column("state", lambda row: row.state),
    Column("waits for", lambda row: row.waits_for or NOTHING, least=9),
    Column("rows", lambda row: number_text(row.rows), is_number=True),
    Column("deliveries", lambda row: number_text(row.deliveries), is_number=True, rank=4),
    Column("duplicates", lambda row: number_text(row.duplicates), is_number=True, rank=3),
    Column("late duplicates", lambda row: number_text(row.late_duplicates), is_number=True, rank=7),
    Column("skewed", lambda row: number_text(row.skewed), is_number=True, rank=1),
    Column("rejected", _hour_rejected, is_number=True, rank=2),
    Column("revision", lambda row: number_text(row.revision or None), is_number=True, rank=8),
    Column("verdict", lambda row: row.verdict or NOTHING, rank=6),
    Column("mirrored", lambda row: ", ".join(row.mirrored) or NOTHING, rank=9),
    Column("closed at", lambda row: instant_text(row.closed_at), rank=12),
    Column("end to closed", lambda row: age_text(row.closed_after_seconds), is_number=True, rank=10),
    Column("to sealed", lambda row: age_text(row.sealed_after_seconds), is_number=True, rank=11),
    Column("to mirrored", lambda row: age_text(row.mirrored_after_seconds), is_number=True, rank=5),
)

CELL = (
    Column("topic", lambda cell: cell.topic, least=12),
    Column("hour", lambda cell: cell.hour),
    Column("store", lambda cell: cell.store, least=8),
    Column("verdict", _cell_verdict),
    Column("rows", lambda cell: number_text(cell.rows), is_number=True),
    Column("expected", lambda cell: number_text(cell.expected_rows), is_number=True),
    Column("checksum", lambda cell: cell.id_checksum or NOTHING, is_number=True, rank=2),
    Column("expected checksum", lambda cell: cell.expected_id_checksum, is_number=True, rank=3),
    Column("where", lambda cell: cell.error or cell.where, rank=1),
)

CHECK = (
    Column("topic", lambda row: row[0]),
    Column("ok", lambda row: Text("no", "bold red") if row[1] else Text("yes", "green")),
    Column("complaint", lambda row: row[1] or NOTHING),
)

TRIED = (
    Column("message", lambda row: str(row.number), is_number=True),
    Column("what", _tried_outcome),
    Column("hour", lambda row: row.hour or NOTHING),
    Column("event", lambda row: row.event_id or NOTHING, least=12),
    Column("time", lambda row: instant_text(row.event_time), rank=1),
    Column("why", _tried_reason, least=12),
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
    Column("event", lambda row: row.event_id or NOTHING, least=16, is_name=True),
    Column("message", lambda row: row.message_id or NOTHING, rank=2),
    Column("published", lambda row: instant_text(row.publish_time), rank=1),
    Column("why", lambda row: row.where),
)

LEDGER = (
    Column("at", lambda row: instant_text(row.at)),
    Column("hour", lambda row: row.hour or NOTHING),
    Column("what", _ledger_what),
    Column("by", lambda row: row.by, least=12),
)

REPLAY = (
    Column("reason", lambda row: row[0]),
    Column("rejected", lambda row: number_text(row[1]), is_number=True),
    Column("now events", lambda row: number_text(row[2]), is_number=True),
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

OPEN_ITEM = (
    Column("store", lambda row: row.store),
    Column("hour", lambda row: row.hour or NOTHING),
    Column("found", lambda row: row.found),
)

_BAR_WIDTH = 40

_CHOICE = (
    Column("lateness", lambda row: duration_text(row.lateness)),
    Column("hours' delay", lambda row: age_text(row.delay.total_seconds()), is_number=True),
    Column("skewed", lambda row: f"{row.skewed_share:.3%}", is_number=True),
    Column("bar", lambda row: _bar(row.skewed_share), rank=100),
)


def choice(horizons: Iterable[int]) -> tuple[Column, ...]:
    """Of a possible lateness, and for each horizon, in hours, the duplicates that it would leave out."""
    caught = [
        Column(f"≤ {hours} h", partial(_caught, hours=hours), is_number=True, rank=rank)
        for rank, hours in enumerate(horizons, 1)
    ]
    return (*_CHOICE, *caught)
