"""Every hour closes in bounded time, whatever is published meanwhile: the promise of `lakehouse.ingest.closing`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta

import pytest

from lakehouse import hours
from lakehouse.crash.liveness import Liveness
from lakehouse.ingest import batch, closing
from lakehouse.ingest.batch import Observed, plan
from lakehouse.progress import Frontier, IngestState
from tests.trickles import AFTER_IT, COMING, FIRST, START, TOPIC, UNTIL_DUE, fact, observed

TRIGGER = timedelta(seconds=20)

KINDS = {
    "late events": lambda chance, now: now - timedelta(minutes=chance.uniform(61, 600)),
    "one moment repeated": lambda chance, now: START + timedelta(minutes=30),
    "a clock that stands still, nearly": lambda chance, now: START + (now - START) / 50,
    "rejected": lambda chance, now: None,
    "on time and late": lambda chance, now: now - timedelta(minutes=chance.choice([0, 1, 90, 300])),
}


@pytest.mark.slow
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


# --- whatever comes in a few triggers, in every order --------------------------------------------------------------


def too_long_open(coming: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every way in which the hour `05` stays open for longer than promised, and what is wrong there."""
    first = plan(IngestState(open_hour="2026-11-23T05"), 1, [fact(1, FIRST, FIRST)], [], observed(FIRST), TOPIC).state
    waiting = [((), first, FIRST, None, Liveness(TOPIC))]
    seen = set()
    while waiting:
        way, state, before, awaited, liveness = waiting.pop()
        if len(way) == len(UNTIL_DUE + AFTER_IT):
            continue
        now = before + (UNTIL_DUE + AFTER_IT)[len(way)]
        for kind in coming:
            came = COMING[kind](now)
            facts = [fact(len(way) + 2, *came, now)] if came else []
            made = plan(state, len(way) + 2, facts, [], observed(now, awaited), TOPIC)
            watched = liveness.copy()
            if wrong := watched.batch_done("run", made.state, now, now):
                yield (*way, kind), wrong
            elif made.state.open_hour == state.open_hour:
                waits = (made.held.hour, awaited[1] if awaited else now) if made.awaits_quiet_alone else None
                held = made.state.hours[made.state.open_hour].last_write
                world = len(way), held, made.state.max_event_time, made.state.newest, waits, str(watched.since)
                if world not in seen:  # what else a state holds decides nothing
                    seen.add(world)
                    waiting.append(((*way, kind), made.state, now, waits, watched))


def test_no_order_of_what_may_come_keeps_an_hour_open_for_longer_than_promised() -> None:
    """Seven kinds of what may come at each of 19 triggers; a way ends where the hour closes."""
    assert list(too_long_open(tuple(COMING))) == []


def test_without_a_bound_on_waiting_for_quiet_a_repeated_message_holds_its_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closing, "LONGEST_QUIET_WAIT", 10**6)
    ways = [way for way, _ in too_long_open(("repeated", "nothing"))]
    assert ways
    assert all("repeated" in way[-2:] for way in ways)


def test_without_any_bound_late_events_hold_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of release 0.1.0: each write of the last minute counted."""
    monkeypatch.setattr(closing, "LONGEST_QUIET_WAIT", 10**6)
    monkeypatch.setattr(batch, "counts_for_quiet", lambda published, bucket, topic: True)
    assert list(too_long_open(("late",)))


def test_without_a_clock_that_is_carried_on_rejected_messages_hold_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """They move no watermark, and once a newer event has come the topic is not idle."""
    monkeypatch.setattr(closing, "carried_watermark", lambda signals, topic: None)
    assert list(too_long_open(("a little late", "rejected")))
