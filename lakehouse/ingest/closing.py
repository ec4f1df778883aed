"""When an hour may close: the oldest open one, when every rule of `RULES` says so. Pure.

A new closing rule is one more value in `RULES`: pages and commands show the sentences that it gives.

**Safety.** An hour closes only when everything that was published by its end and lateness has been consumed
(`backlog`), when publishers' clocks are past it (`time`) and when what was consumed of it is no longer being written
(`quiet`). What comes later is skewed into the first open hour; nothing is ever dropped.

**Liveness.** Every hour closes in bounded time, whatever is published meanwhile, as long as the frontier goes on. Call
*delay* how long after its event time the newest event was published: 0 for a live topic, 13 years for a replay of 2013.
An hour closes at the latest with the first batch after the frontier has passed its end + lateness + delay, and then
after `LONGEST_QUIET_WAIT` quiet periods (5 minutes by default):

- what moves no watermark (rejected messages, repeated duplicates, publishers whose clocks stand still or are an hour
  ahead) holds nothing: while the newest event time stands still, the frontier carries it on, second by second. A clock
  that runs at less than a quarter of real time counts as one that stands still;
- late events hold nothing: only writes of what was published before the hour's end + lateness disturb its quiet. Once
  the backlog is consumed such writes can only be repeated deliveries, and these are waited for only so long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from lakehouse import hours
from lakehouse.durations import brief, duration_text
from lakehouse.hours import Hour
from lakehouse.progress import Frontier, IngestState, NewestEvent, OpenHour, watermark
from lakehouse.store.records import Condition
from lakehouse.topics import Topic

MAX_CLOSES_PER_BATCH = 100
"""Of one commit: a topic that is far behind closes its hours in several commits of a batch, not in one that is huge."""

SHORTEST_RANGE = 1_000
"""So many empty hours in a row (six weeks) close as one range: nobody waits for each of them."""

LONGEST_QUIET_WAIT = 5
"""Quiet periods. An hour that every other rule lets close waits no longer for quiet, within one run of ingest."""


class Awaits(Enum):
    """What makes a rule that is not met come true."""

    EVENTS = "newer events"
    FRONTIER = "the frontier"
    WRITES = "an end of writes"


@dataclass(frozen=True)
class Signals:
    """Everything that a decision looks at, measured at `now`.

    `quiet_awaited_since` is since when the oldest open hour has waited for quiet alone; None when it has not.
    """

    now: datetime
    open_hour: Hour | None
    hours: Mapping[Hour, OpenHour]
    max_event_time: datetime | None
    newest: NewestEvent | None
    frontier: Frontier
    requested_through: Hour | None = None
    quiet_awaited_since: datetime | None = None

    @classmethod
    def of(
        cls,
        state: IngestState,
        frontier: Frontier,
        now: datetime,
        requested_through: Hour | None = None,
        quiet_awaited_since: datetime | None = None,
    ) -> Signals:
        """From the state that bronze's log has and what the batch observed; times are UTC."""
        return cls(
            now,
            state.open_hour,
            state.hours,
            state.max_event_time,
            state.newest,
            frontier,
            requested_through,
            quiet_awaited_since,
        )


@dataclass(frozen=True)
class ClosedHour:
    """An hour that closes, or with `through` all hours up to that one, which are empty."""

    hour: Hour
    why: str
    rows: int
    conditions: tuple[Condition, ...]
    through: Hour | None = None
    newest_write: datetime | None = None


@dataclass(frozen=True)
class Held:
    """The oldest open hour, the conditions that it does not meet, and what each of these awaits."""

    hour: Hour
    rows: int
    reasons: tuple[Condition, ...]
    awaits: tuple[Awaits, ...]


@dataclass(frozen=True)
class Decision:
    """`open_hour` is the first one that stays open; `held` is None when it may close at once, too."""

    open_hour: Hour | None
    closed: tuple[ClosedHour, ...] = ()
    held: Held | None = None


def decide(signals: Signals, topic: Topic) -> Decision:
    """The hours that close now, oldest first and without holes, and why the next one does not.

    The last hour that there is never closes: no hour would be open after it.
    """
    hour = signals.open_hour
    closed: list[ClosedHour] = []
    while hour is not None and hour < hours.LAST_HOUR and len(closed) < MAX_CLOSES_PER_BATCH:
        answers = _answers(hour, signals, topic)
        why, rows = _why(hour, answers, signals), _rows(signals, hour)
        if why is None:
            return Decision(hour, tuple(closed), _hold(hour, rows, answers))
        through = None
        if not rows:
            following = _next_candidate(hour, signals, topic)
            if topic.empty_hours == "skip":
                hour = following
                continue
            if hours.ordinal_of(following) - hours.ordinal_of(hour) >= SHORTEST_RANGE:
                through = hours.after(following, -1)
        closed.append(ClosedHour(hour, why, rows, _conditions(answers), through, _newest_write(signals, hour)))
        hour = hours.after(through or hour)
    return Decision(hour, tuple(closed))


def conditions_of(hour: Hour, signals: Signals, topic: Topic) -> tuple[Condition, ...]:
    """Every rule's answer for the hour, met or not."""
    return _conditions(_answers(hour, signals, topic))


def awaits_frontier(decision: Decision, signals: Signals, topic: Topic) -> bool:
    """Whether the frontier holds the hour, and it would not have to wait for events if that came up to now."""
    held = decision.held
    if held is None or Awaits.FRONTIER not in held.awaits:
        return False
    reached = replace(signals, frontier=Frontier(signals.now, signals.now, ""))
    unmet = [rule.awaits for rule, answer in _answers(held.hour, reached, topic) if not answer.is_met]
    return Awaits.EVENTS not in unmet and Awaits.FRONTIER not in unmet


def counts_for_quiet(published: datetime | None, bucket: Hour, topic: Topic) -> bool:
    """Whether a write of messages, the oldest of them published then, disturbs the hour's quiet."""
    return published is None or published < _due(bucket, topic)


def _hold(hour: Hour, rows: int, answers: _Answers) -> Held:
    unmet = [(rule, answer) for rule, answer in answers if not answer.is_met]
    return Held(hour, rows, _conditions(unmet), tuple(rule.awaits for rule, _ in unmet))


def _why(hour: Hour, answers: _Answers, signals: Signals) -> str | None:
    if signals.requested_through is not None and hour <= signals.requested_through:
        return "request"
    if not all(answer.is_met for _, answer in answers):
        return None
    return next(answer.why for _, answer in answers if answer.why)


def _rows(signals: Signals, hour: Hour) -> int:
    return signals.hours[hour].rows if hour in signals.hours else 0


def _newest_write(signals: Signals, hour: Hour) -> datetime | None:
    return signals.hours[hour].last_write if hour in signals.hours else None


def _next_candidate(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    """Past all empty hours that nothing holds, in one step: an old replay can be followed by years of them."""
    limits = [hours.after(hour), _first_held_if_empty(hour, signals, topic)]
    if signals.requested_through is not None:
        limits.append(hours.after(signals.requested_through))
    next_filled = min((filled for filled in signals.hours if filled > hour), default=None)
    furthest = max(limits)
    return min(furthest, next_filled) if next_filled else furthest


def _first_held_if_empty(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    """The first hour that a rule would hold if it were empty, as far as one look can say."""
    return min(rule.first_held(hour, signals, topic) for rule in RULES)


# --- the rules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a rule found for an hour: what it asks, what was measured, both in a sentence.

    `why` is what a close is called that this rule decides, where it is this rule that does.
    """

    is_met: bool
    required: str
    measured: str | None
    text: str
    why: str | None = None


def _next(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    return hours.after(hour)


@dataclass(frozen=True)
class Rule:
    """One closing rule: its name, its test, a sentence for people, and what is awaited while it is not met.

    `first_held` serves speed alone: of the empty hours after one that closes, the first that the rule may hold. Those
    before it close, or are skipped, without being tested one by one. Left out, each is.
    """

    name: str
    test: Callable[[Hour, Signals, Topic], Answer]
    sentence: str
    awaits: Awaits
    first_held: Callable[[Hour, Signals, Topic], Hour] = _next


_Answers = Iterable[tuple[Rule, Answer]]


def _answers(hour: Hour, signals: Signals, topic: Topic) -> list[tuple[Rule, Answer]]:
    return [(rule, rule.test(hour, signals, topic)) for rule in RULES]


def _conditions(answers: _Answers) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            condition=rule.name,
            is_met=answer.is_met,
            required=answer.required,
            measured=answer.measured,
            text=answer.text,
        )
        for rule, answer in answers
    )


def _time(hour: Hour, signals: Signals, topic: Topic) -> Answer:
    end, due = hours.end_of(hour), _due(hour, topic)
    mark, carried = watermark(signals.max_event_time, topic), carried_watermark(signals, topic)
    if mark is not None and mark >= end:
        text = f"the watermark has passed the hour's end by {_span(mark - end)}"
        return Answer(True, end.isoformat(), mark.isoformat(), text, "watermark")
    if _is_idle(hour, signals, topic):
        since = signals.newest.publish_time.isoformat() if signals.newest else "ever"
        text = f"the topic is idle: everything published by {hours.instant_text(due)} is here, no newer event since"
        return Answer(True, f"no newer event since {due.isoformat()}", since, text, "idle")
    if carried is not None and carried >= end and signals.newest is not None:
        text = (
            f"no newer event was published since {hours.instant_text(signals.newest.publish_time)}: "
            f"with the time since then the watermark has passed the hour's end by {_span(carried - end)}"
        )
        return Answer(True, end.isoformat(), carried.isoformat(), text, "idle")
    if mark is None:
        return Answer(False, end.isoformat(), None, "no event has come yet, so there is no watermark")
    text = f"the watermark is {_span(end - mark)} before the hour's end: newer events must come first"
    return Answer(False, end.isoformat(), mark.isoformat(), text)


def _is_idle(hour: Hour, signals: Signals, topic: Topic) -> bool:
    """Everything published until the hour's end + lateness was consumed, and no newer event was published after it."""
    due, frontier = _due(hour, topic), signals.frontier.at
    none_since = signals.newest is None or signals.newest.publish_time < due
    return frontier is not None and frontier >= due and none_since


def carried_watermark(signals: Signals, topic: Topic) -> datetime | None:
    """The watermark as if the newest event's clock had run on until the frontier; None without either of them.

    A clock that is ahead of the broker's is carried on from the broker's.
    """
    newest, frontier = signals.newest, signals.frontier.at
    if newest is None or frontier is None or frontier <= newest.publish_time:
        return None
    carried = min(newest.event_time, newest.publish_time) + (frontier - newest.publish_time)
    return hours.instant_after(carried, -topic.lateness)


def _first_without_time(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    if _is_idle(hour, signals, topic):
        return _first_with_backlog(hour, signals, topic)
    marks = (watermark(signals.max_event_time, topic), carried_watermark(signals, topic))
    return max((hours.hour_of(mark) for mark in marks if mark), default=hour)


def _first_with_backlog(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    frontier = signals.frontier.at
    return hour if frontier is None else hours.hour_of(hours.instant_after(frontier, -topic.lateness))


def _never(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    """Nothing is written to an empty hour."""
    return hours.LAST_HOUR


def _backlog(hour: Hour, signals: Signals, topic: Topic) -> Answer:
    due, frontier = _due(hour, topic), signals.frontier
    if frontier.at is None:
        return Answer(False, due.isoformat(), None, f"the backlog is unknown: {frontier.text}")
    is_met, measured = frontier.at >= due, frontier.at.isoformat()
    if is_met:
        text = f"everything published until {_span(frontier.at - due)} after the hour's end and lateness was consumed"
    else:
        text = (
            "messages published before the hour's end and lateness may still wait: "
            f"the frontier is {_span(due - frontier.at)} before {hours.instant_text(due)}"
        )
    return Answer(is_met, due.isoformat(), measured, text)


def _quiet(hour: Hour, signals: Signals, topic: Topic) -> Answer:
    newest, required = _newest_write(signals, hour), f"no write for {duration_text(topic.quiet_period)}"
    if newest is None:
        return Answer(True, required, None, "nothing of its own time was written to the hour")
    quiet, since = signals.now - newest, signals.quiet_awaited_since
    if hour == signals.open_hour and since is not None:
        waited = signals.now - since
        if waited >= LONGEST_QUIET_WAIT * topic.quiet_period:
            text = f"the newest file of the hour was written {_span(quiet)} ago; waited for quiet for {_span(waited)}"
            return Answer(True, required, newest.isoformat(), text)
    text = f"the newest file of the hour was written {_span(quiet)} ago"
    return Answer(quiet >= topic.quiet_period, required, newest.isoformat(), text)


RULES: tuple[Rule, ...] = (
    Rule(
        "time",
        _time,
        "its time has passed: by the watermark, or because no newer event was published",
        Awaits.EVENTS,
        _first_without_time,
    ),
    Rule(
        "backlog",
        _backlog,
        "everything that was published by its end + `lateness` is consumed",
        Awaits.FRONTIER,
        _first_with_backlog,
    ),
    Rule(
        "quiet",
        _quiet,
        "nothing of its own time was written to it within `quiet_period`, or it has waited for this long enough",
        Awaits.WRITES,
        _never,
    ),
)
"""Every rule that an hour must meet to close by itself."""


def _due(hour: Hour, topic: Topic) -> datetime:
    return hours.instant_after(hours.end_of(hour), topic.lateness)


def _span(duration: timedelta) -> str:
    return brief(duration / timedelta(seconds=1))
