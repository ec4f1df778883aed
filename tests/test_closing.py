"""When an hour may close: each condition alone, all together, and what may never happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.ingest import closing
from lakehouse.ingest.closing import (
    LONGEST_QUIET_WAIT,
    MAX_CLOSES_PER_BATCH,
    RULES,
    SHORTEST_RANGE,
    Answer,
    Awaits,
    Decision,
    Rule,
    Signals,
    awaits_frontier,
    decide,
)
from lakehouse.progress import Frontier, NewestEvent, OpenHour, watermark
from lakehouse.topics import Topic, topic_from

FIVE = "2026-11-23T05"
SIX = "2026-11-23T06"
SEVEN = "2026-11-23T07"
EIGHT = "2026-11-23T08"
NINE = "2026-11-23T09"
LATENESS = timedelta(hours=1)
PLAYS = {
    "subscription": "projects/test/subscriptions/plays",
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"n": "bigint"},
    "lateness": "1 hour",
    "quiet_period": "1 minute",
}

TopicWith = Callable[..., Topic]


def at(text: str) -> datetime:
    """`08:30` on the day of these tests."""
    return datetime.fromisoformat(f"2026-11-23T{text}:00+00:00")


def known(text: str) -> Frontier:
    return Frontier(at(text), at(text), "the subscription was drained")


def event(event_time: str, published: str) -> NewestEvent:
    return NewestEvent(at(event_time), at(published))


UNKNOWN = Frontier(None, None, "no sample")

READY = Signals(
    now=at("09:00"),
    open_hour=FIVE,
    hours={FIVE: OpenHour(10, at("07:30"))},
    max_event_time=at("07:00"),
    newest=NewestEvent(at("07:00"), at("07:05")),
    frontier=known("07:00"),
)
"""Hour 05 may close: each of its conditions holds, just so."""


@pytest.fixture
def topic(topic_with: TopicWith) -> Topic:
    return topic_with(quiet_period="1 minute")


def closed(decision: Decision) -> list[Hour]:
    return [hour.hour for hour in decision.closed]


def unmet(decision: Decision) -> list[str]:
    assert decision.held is not None
    return [reason.condition for reason in decision.held.reasons]


def test_the_oldest_hour_closes_when_time_backlog_and_quiet_all_allow_it(topic: Topic) -> None:
    decision = decide(READY, topic)
    assert closed(decision) == [FIVE]
    assert decision.open_hour == SIX
    assert decision.closed[0].why == "watermark"
    assert decision.closed[0].rows == 10
    assert [condition.condition for condition in decision.closed[0].conditions] == ["time", "backlog", "quiet"]


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"max_event_time": at("07:00") - timedelta(microseconds=1)}, "time"),
        ({"frontier": known("06:59")}, "backlog"),
        ({"frontier": UNKNOWN}, "backlog"),
        ({"hours": {FIVE: OpenHour(10, at("09:00") - timedelta(seconds=59))}}, "quiet"),
    ],
)
def test_each_condition_alone_holds_the_hour(topic: Topic, change: dict[str, object], condition: str) -> None:
    """Each of the three guards against another kind of late event."""
    decision = decide(replace(READY, **change), topic)  # type: ignore[arg-type]
    assert decision == Decision(FIVE, (), decision.held)
    assert unmet(decision) == [condition]
    assert decision.held is not None
    assert decision.held.hour == FIVE
    assert decision.held.rows == 10


@pytest.mark.parametrize(
    ("change", "awaits"),
    [
        ({}, True),
        ({"now": at("06:59")}, False),
        ({"frontier": known("07:00"), "newest": event("07:00", "08:30")}, False),
        ({"max_event_time": at("06:30"), "newest": event("06:30", "06:59")}, True),
        ({"max_event_time": at("06:30"), "newest": event("06:30", "08:59")}, False),
        ({"max_event_time": None, "newest": None}, True),
        ({"hours": {FIVE: OpenHour(10, at("09:00"))}}, True),
        ({"open_hour": None}, False),
    ],
    ids=["due", "not due", "met", "idle", "waits for events", "empty", "written to", "no hour"],
)
def test_an_hour_awaits_the_frontier_when_nothing_else_would_keep_it_for_long(
    topic: Topic, change: dict[str, object], awaits: bool
) -> None:
    """By the watermark, or because nothing came since; what waits for newer events waits for no frontier."""
    signals = replace(READY, frontier=UNKNOWN, **change) if "frontier" not in change else replace(READY, **change)  # type: ignore[arg-type]
    assert awaits_frontier(decide(signals, topic), signals, topic) is awaits


def test_all_unmet_conditions_are_reported(topic: Topic) -> None:
    """An operator who fixes one must see that another is left."""
    busy = {FIVE: OpenHour(10, at("09:00"))}
    decision = decide(replace(READY, max_event_time=None, frontier=UNKNOWN, hours=busy), topic)
    assert unmet(decision) == ["time", "backlog", "quiet"]


def test_a_held_hour_says_what_was_measured_and_what_is_missing(topic: Topic) -> None:
    decision = decide(replace(READY, max_event_time=at("06:58"), frontier=known("06:45")), topic)
    assert decision.held is not None
    time, backlog = decision.held.reasons
    assert (time.required, time.measured) == ("2026-11-23T06:00:00+00:00", "2026-11-23T05:58:00+00:00")
    assert "2 min" in time.text
    assert (backlog.required, backlog.measured) == ("2026-11-23T07:00:00+00:00", "2026-11-23T06:45:00+00:00")
    assert "the frontier is 15 min before 2026-11-23T07:00:00Z" in backlog.text


def test_an_old_sample_is_reported_as_what_it_is(topic: Topic) -> None:
    stale = Frontier(None, at("08:00"), "the newest sample is 60 minutes old, older than 5 minutes")
    decision = decide(replace(READY, frontier=stale), topic)
    assert decision.held is not None
    assert "60 minutes old" in decision.held.reasons[0].text
    assert decision.held.reasons[0].measured is None


def test_hours_close_oldest_first_without_holes(topic: Topic) -> None:
    """An hour that could close waits behind one that cannot."""
    busy = {FIVE: OpenHour(1, at("07:00")), SIX: OpenHour(1, at("09:00")), SEVEN: OpenHour(1, at("07:00"))}
    late = replace(READY, hours=busy, max_event_time=at("11:00"), frontier=known("11:00"))
    decision = decide(late, topic)
    assert closed(decision) == [FIVE]
    assert decision.open_hour == SIX
    assert unmet(decision) == ["quiet"]


def test_several_hours_close_in_one_batch(topic: Topic) -> None:
    later = replace(READY, max_event_time=at("09:30"), frontier=known("09:30"))
    assert closed(decide(later, topic)) == [FIVE, SIX, SEVEN]


def test_a_topic_without_an_open_hour_closes_nothing(topic: Topic) -> None:
    """`first_hour: earliest` before the first event."""
    assert decide(replace(READY, open_hour=None, hours={}), topic) == Decision(None)


# --- idle ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def idle() -> Signals:
    """Nothing was published after 06:59:59, and everything until 07:00 is here; the watermark stands at 05:10."""
    return replace(READY, max_event_time=at("06:10"), newest=event("06:10", "06:59"), frontier=known("07:00"))


def test_an_idle_topic_closes_hours_that_its_watermark_never_reaches(topic: Topic, idle: Signals) -> None:
    decision = decide(idle, topic)
    assert closed(decision) == [FIVE]
    assert decision.closed[0].why == "idle"
    assert "the topic is idle" in decision.closed[0].conditions[0].text


def test_a_topic_is_not_idle_when_something_was_published_since(topic: Topic, idle: Signals) -> None:
    """Whoever publishes after the hour's end and lateness may still publish events of that hour."""
    decision = decide(replace(idle, newest=event("06:10", "07:00")), topic)
    assert unmet(decision) == ["time"]


def test_a_topic_is_not_idle_before_the_frontier_says_so(topic: Topic, idle: Signals) -> None:
    """Reading nothing is not the same as nothing being there."""
    decision = decide(replace(idle, frontier=known("06:59")), topic)
    assert unmet(decision) == ["time", "backlog"]


def test_a_topic_that_never_had_a_message_is_idle(topic: Topic) -> None:
    silent = Signals(at("09:00"), FIVE, {}, None, None, known("08:10"))
    decision = decide(silent, topic)
    assert closed(decision) == [FIVE, SIX]
    assert [hour.why for hour in decision.closed] == ["idle", "idle"]
    assert decision.open_hour == SEVEN


def test_the_watermark_is_reported_before_idleness_when_both_hold(topic: Topic, idle: Signals) -> None:
    decision = decide(replace(idle, max_event_time=at("07:00")), topic)
    assert decision.closed[0].why == "watermark"


# --- quiet ---------------------------------------------------------------------------------------------------------


def test_an_hour_is_quiet_once_the_quiet_period_is_over(topic: Topic) -> None:
    written = {FIVE: OpenHour(10, at("08:59"))}
    assert closed(decide(replace(READY, hours=written), topic)) == [FIVE]


def test_quiet_is_waited_for_only_so_long(topic: Topic) -> None:
    """A message that is delivered again and again is written again and again."""
    busy = replace(READY, hours={FIVE: OpenHour(10, at("09:00"))})
    bound = LONGEST_QUIET_WAIT * topic.quiet_period
    waits = replace(busy, quiet_awaited_since=at("09:00") - bound + timedelta(seconds=1))
    assert unmet(decide(waits, topic)) == ["quiet"]
    decision = decide(replace(busy, quiet_awaited_since=at("09:00") - bound), topic)
    assert closed(decision) == [FIVE]


def test_writes_to_other_hours_do_not_disturb(topic: Topic) -> None:
    written = {FIVE: OpenHour(10, at("08:00")), SIX: OpenHour(3, at("09:00"))}
    assert closed(decide(replace(READY, hours=written), topic)) == [FIVE]


# --- empty hours ---------------------------------------------------------------------------------------------------


def test_an_hour_without_events_closes_too(topic: Topic) -> None:
    """Whoever waits for hour 06 must learn that it is complete, and empty."""
    later = replace(READY, max_event_time=at("09:00"), frontier=known("09:00"), hours={SEVEN: OpenHour(2, at("08:00"))})
    decision = decide(later, topic)
    assert [(hour.hour, hour.rows) for hour in decision.closed] == [(FIVE, 0), (SIX, 0), (SEVEN, 2)]


def test_empty_hours_are_skipped_where_the_topic_says_so(topic_with: TopicWith) -> None:
    later = replace(READY, max_event_time=at("10:00"), frontier=known("10:00"), hours={SEVEN: OpenHour(2, at("08:00"))})
    decision = decide(later, topic_with(empty_hours="skip"))
    assert closed(decision) == [SEVEN]
    assert decision.open_hour == NINE


def test_years_of_empty_hours_are_skipped_in_one_step(topic_with: TopicWith) -> None:
    """A replay of 2013 and then today's events: 113,000 hours lie between them."""
    replayed = replace(
        READY, open_hour="2013-12-31T23", max_event_time=at("07:00"), hours={FIVE: OpenHour(1, at("07:00"))}
    )
    decision = decide(replayed, topic_with(empty_hours="skip"))
    assert closed(decision) == [FIVE]
    assert decision.open_hour == SIX


def test_no_hour_is_skipped_while_messages_of_it_may_wait(topic_with: TopicWith) -> None:
    """The watermark runs ahead of what has been consumed when one message is stuck: it may belong to hour 06."""
    stuck = replace(
        READY, hours={}, max_event_time=at("20:00"), newest=event("20:00", "20:00"), frontier=known("07:10")
    )
    decision = decide(stuck, topic_with(empty_hours="skip"))
    assert decision.open_hour == SIX
    assert unmet(decision) == ["backlog"]


def test_no_hour_is_skipped_before_its_time(topic_with: TopicWith) -> None:
    early = replace(
        READY, hours={}, max_event_time=at("07:30"), newest=event("07:30", "08:30"), frontier=known("08:40")
    )
    decision = decide(early, topic_with(empty_hours="skip"))
    assert decision.open_hour == SIX
    assert unmet(decision) == ["time"]


def test_an_idle_topic_skips_what_the_frontier_has_passed(topic_with: TopicWith) -> None:
    silent = Signals(at("09:00"), "2001-01-01T00", {}, None, None, known("08:10"))
    decision = decide(silent, topic_with(empty_hours="skip"))
    assert (closed(decision), decision.open_hour) == ([], SEVEN)


# --- many at once --------------------------------------------------------------------------------------------------


def test_a_topic_far_behind_closes_so_many_hours_per_commit_and_no_more(topic: Topic) -> None:
    first = hours.after(FIVE, -SHORTEST_RANGE + 1)
    decision = decide(replace(READY, open_hour=first, hours={FIVE: OpenHour(1, at("07:00"))}), topic)
    assert len(decision.closed) == MAX_CLOSES_PER_BATCH
    assert decision.open_hour == hours.after(first, MAX_CLOSES_PER_BATCH)
    assert decision.held is None


@pytest.mark.parametrize("first", ["1970-01-01T00", "0001-01-01T00", hours.after(FIVE, -SHORTEST_RANGE)])
def test_thousands_of_empty_hours_close_as_one_range(topic: Topic, first: Hour) -> None:
    """One event of 1970 meant 498,431 rows in the ledger, a hundred at a time."""
    decision = decide(replace(READY, open_hour=first, hours={FIVE: OpenHour(1, at("07:00"))}), topic)
    assert [(each.hour, each.through, each.rows) for each in decision.closed] == [
        (first, hours.after(FIVE, -1), 0),
        (FIVE, None, 1),
    ]
    assert decision.open_hour == SIX


def test_a_request_for_years_of_empty_hours_is_one_range(topic: Topic) -> None:
    far = replace(READY, open_hour="2013-01-01T00", hours={}, frontier=UNKNOWN, requested_through=FIVE)
    decision = decide(far, topic)
    assert [(each.hour, each.through, each.why) for each in decision.closed] == [("2013-01-01T00", FIVE, "request")]
    assert decision.open_hour == SIX


@pytest.mark.parametrize("empty_hours", ["close", "skip"])
def test_a_new_rule_is_asked_for_every_hour(
    topic_with: TopicWith, monkeypatch: pytest.MonkeyPatch, empty_hours: str
) -> None:
    """Also for hours that are empty, which the other rules let pass by the thousand."""
    first, held_by_it = hours.after(FIVE, -3 * SHORTEST_RANGE), hours.after(FIVE, -3 * SHORTEST_RANGE + 7)

    def holds(hour: Hour, signals: Signals, topic: Topic) -> Answer:
        return Answer(hour != held_by_it, "", None, "a holiday")

    monkeypatch.setattr(closing, "RULES", (*RULES, Rule("holiday", holds, "it is no holiday", Awaits.EVENTS)))
    decision = decide(replace(READY, open_hour=first, hours={}), topic_with(empty_hours=empty_hours))
    assert decision.open_hour == held_by_it
    assert decision.held is not None
    assert [reason.text for reason in decision.held.reasons] == ["a holiday"]


@pytest.mark.parametrize("empty_hours", ["close", "skip"])
def test_the_last_hour_that_there_is_never_closes(topic_with: TopicWith, empty_hours: str) -> None:
    end = "9999-12-31T22"
    far = replace(READY, open_hour=end, hours={}, frontier=UNKNOWN, requested_through=hours.LAST_HOUR)
    assert decide(far, topic_with(empty_hours=empty_hours)).open_hour == hours.LAST_HOUR


# --- requests ------------------------------------------------------------------------------------------------------


def test_a_request_closes_through_its_hour_whatever_holds_it(topic: Topic) -> None:
    """An operator may know more than the signals: a source that has died sends no watermark."""
    held = replace(READY, max_event_time=None, frontier=UNKNOWN, hours={FIVE: OpenHour(10, at("09:00"))})
    decision = decide(replace(held, requested_through=SIX), topic)
    assert closed(decision) == [FIVE, SIX]
    assert {hour.why for hour in decision.closed} == {"request"}
    assert decision.open_hour == SEVEN
    assert not any(condition.is_met for condition in decision.closed[0].conditions)
    assert [condition.condition for condition in decision.closed[0].conditions] == [rule.name for rule in RULES]


def test_a_request_of_the_past_changes_nothing(topic: Topic) -> None:
    held = replace(READY, frontier=UNKNOWN, requested_through="2026-11-23T04")
    assert decide(held, topic) == decide(replace(held, requested_through=None), topic)


def test_a_request_skips_empty_hours_too(topic_with: TopicWith) -> None:
    far = replace(READY, open_hour="2013-01-01T00", hours={}, frontier=UNKNOWN, requested_through=FIVE)
    decision = decide(far, topic_with(empty_hours="skip"))
    assert (closed(decision), decision.open_hour) == ([], SIX)


# --- what may never happen -----------------------------------------------------------------------------------------

MINUTES = st.integers(0, 24 * 60 - 1).map(lambda minutes: at("00:00") + timedelta(minutes=minutes))
DAY = st.integers(0, 23).map(lambda hour: hours.after("2026-11-23T00", hour))


def frontiers() -> st.SearchStrategy[Frontier]:
    return st.one_of(st.just(UNKNOWN), MINUTES.map(lambda instant: Frontier(instant, instant, "sampled")))


@st.composite
def signals(draw: st.DrawFn) -> Signals:
    open_hour = draw(DAY)
    filled = draw(st.dictionaries(DAY, st.builds(OpenHour, st.integers(1, 9), st.none() | MINUTES), max_size=5))
    return Signals(
        now=at("23:59"),
        open_hour=open_hour,
        hours={hour: held for hour, held in filled.items() if hour >= open_hour},
        max_event_time=draw(st.none() | MINUTES),
        newest=draw(st.none() | st.builds(NewestEvent, MINUTES, MINUTES)),
        frontier=draw(frontiers()),
        requested_through=draw(st.none() | DAY),
    )


TOPICS = [topic_from("plays", {**PLAYS, "empty_hours": empty_hours}) for empty_hours in ("close", "skip")]


def may_close(hour: Hour, given: Signals, topic: Topic) -> bool:
    """docs/architecture.md, "Closing", said once more and in another way."""
    if given.requested_through and hour <= given.requested_through:
        return True
    due = hours.end_of(hour) + topic.lateness
    frontier, mark = given.frontier.at, watermark(given.max_event_time, topic)
    if frontier is None or frontier < due:
        return False
    is_past = mark is not None and mark >= hours.end_of(hour)
    newest = given.newest
    is_idle = newest is None or newest.publish_time < due
    if newest is not None and frontier > newest.publish_time:
        delay = max(newest.publish_time - newest.event_time, timedelta(0))
        is_idle = is_idle or frontier >= due + delay
    written = given.hours[hour].last_write if hour in given.hours else None
    is_quiet = written is None or given.now - written >= topic.quiet_period
    return (is_past or is_idle) and is_quiet


@given(signals(), st.sampled_from(TOPICS))
def test_exactly_the_hours_that_may_close_are_left_behind(given: Signals, topic: Topic) -> None:
    """Closed or skipped, no hour goes before its time, and none that may go is kept: so there are no holes."""
    decision = decide(given, topic)
    assert given.open_hour is not None
    assert decision.open_hour is not None
    expected = given.open_hour
    while may_close(expected, given, topic):
        expected = hours.after(expected)
    assert decision.open_hour == expected
    assert closed(decision) == [
        hour
        for hour in hours.hours_between(given.open_hour, expected)
        if topic.empty_hours == "close" or hour in given.hours
    ]
    assert (decision.held is None) == (not unmet(decision))


@given(signals(), st.sampled_from(TOPICS))
def test_a_second_look_closes_nothing_more(given: Signals, topic: Topic) -> None:
    """What a repeated batch would do: it must find everything done."""
    decision = decide(given, topic)
    again = replace(given, open_hour=decision.open_hour)
    assert closed(decide(again, topic)) == []
    assert decide(again, topic).open_hour == decision.open_hour


@given(signals(), st.integers(0, 300), st.sampled_from(TOPICS))
def test_more_progress_never_closes_less(given: Signals, minutes: int, topic: Topic) -> None:
    """Watermark and frontier moving on can only move the first open hour on."""
    later = replace(
        given,
        max_event_time=given.max_event_time and given.max_event_time + timedelta(minutes=minutes),
        frontier=replace(given.frontier, at=given.frontier.at and given.frontier.at + timedelta(minutes=minutes)),
    )
    before, after = decide(given, topic).open_hour, decide(later, topic).open_hour
    assert before is not None
    assert after is not None
    assert before <= after


def test_the_watermark_trails_the_newest_event_by_the_lateness(topic: Topic) -> None:
    assert watermark(datetime(2026, 11, 23, 7, tzinfo=UTC), topic) == datetime(2026, 11, 23, 6, tzinfo=UTC)
    assert watermark(None, topic) is None
