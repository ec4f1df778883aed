"""Every hour closes in bounded time, whatever is published meanwhile: the promise of `lakehouse.ingest.closing`."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from lakehouse import hours
from lakehouse.ingest.batch import Observed, plan
from lakehouse.ingest.facts import Fact
from lakehouse.progress import Frontier, IngestState
from lakehouse.topics import topic_from

START = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
TRIGGER = timedelta(seconds=20)
TOPIC = topic_from(
    "plays",
    {
        "subscription": "projects/test/subscriptions/plays",
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": {"n": "bigint"},
    },
)


def fact(epoch: int, published: datetime, event_time: datetime | None) -> Fact:
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
        "written_at": published,
        "dry_at": published,
        "counts": None,
    }


KINDS = {
    "late events": lambda chance, now: now - timedelta(minutes=chance.uniform(61, 600)),
    "one moment repeated": lambda chance, now: START + timedelta(minutes=30),
    "a clock that stands still, nearly": lambda chance, now: START + (now - START) / 50,
    "rejected": lambda chance, now: None,
    "on time and late": lambda chance, now: now - timedelta(minutes=chance.choice([0, 1, 90, 300])),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_a_steady_trickle_holds_no_hour(kind: str, seed: int) -> None:
    """With a message at each trigger. All hours were held for ever; now each closes within the stated bound."""
    chance = random.Random(f"{kind} {seed}")
    state, closed_at, awaited = IngestState(open_hour=hours.hour_of(START)), {}, None
    now = START
    delay = timedelta(0)
    state = plan(state, 0, [fact(0, now, now)], [], Observed(now, Frontier(None, None, "")), TOPIC).state
    for epoch in range(1, 12 * 180):
        now += TRIGGER
        observed = Observed(now, Frontier(now, now, "drained"), quiet_awaited=awaited)
        made = plan(state, epoch, [fact(epoch, now, KINDS[kind](chance, now))], [], observed, TOPIC)
        closed_at |= {each.hour: now for each in made.decision.closed}
        state = made.state
        assert state.newest is not None
        delay = max(delay, state.newest.publish_time - state.newest.event_time)
        if not made.awaits_quiet_alone or made.held is None:
            awaited = None
        elif awaited is None or awaited[0] != made.held.hour:
            awaited = made.held.hour, now
    due = {hour: hours.end_of(hour) + TOPIC.lateness for hour in hours.hours_between("2026-11-23T05", "2026-11-23T14")}
    assert {hour for hour in due if hour not in closed_at} == set()
    assert max(closed_at[hour] - due[hour] for hour in due) <= delay + timedelta(minutes=6)
