"""What may come to a topic at each trigger while its oldest hour is due, as facts of what was pulled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lakehouse import hours
from lakehouse.ingest.batch import Observed
from lakehouse.ingest.facts import Fact
from lakehouse.progress import Frontier
from lakehouse.topics import topic_from

START = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
TOPIC = topic_from(
    "plays",
    {
        "subscription": "projects/test/subscriptions/plays",
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": {"n": "bigint"},
    },
)


def fact(epoch: int, published: datetime, event_time: datetime | None, written_at: datetime | None = None) -> Fact:
    return {
        "epoch": epoch,
        "slot": 0,
        "path": f"x/{epoch:012d}-0000-{event_time}.parquet",
        "event_hour": hours.hour_of(event_time) if event_time else None,
        "rows": 1,
        "size_bytes": 1,
        "rejected": 0 if event_time else 1,
        "min_event_time": event_time,
        "max_event_time": event_time,
        "min_publish_time": published,
        "max_publish_time": published,
        "written_at": written_at or published,
        "dry_at": published,
        "counts": None,
    }


FIRST = START + timedelta(minutes=30)
COMING = {
    "nothing": lambda now: None,
    "on time": lambda now: (now, now),
    "a little late": lambda now: (now, now - timedelta(minutes=2)),
    "late": lambda now: (now, now - timedelta(hours=2, minutes=30)),
    "rejected": lambda now: (now, None),
    "repeated": lambda now: (FIRST, FIRST),
    "a clock that stands still": lambda now: (now, FIRST),
}
"""What is published when, and the event's time."""
UNTIL_DUE = [timedelta(minutes=30)] * 3
AFTER_IT = [TOPIC.quiet_period / 2] * 16
"""From 05:30 to 07:00, when the hour `05` is due; then twice in each quiet period for as long as any bound may take."""


def observed(now: datetime, awaited: tuple[str, datetime] | None = None) -> Observed:
    return Observed(now, Frontier(now, now, "drained"), quiet_awaited=awaited)
