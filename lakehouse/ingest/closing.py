"""When an hour may close: the oldest open one, when time, backlog and quiet all say so. Pure.

A new closing rule is one more condition in `_conditions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lakehouse import hours
from lakehouse.durations import written
from lakehouse.hours import Hour
from lakehouse.progress import Frontier, OpenHour, watermark
from lakehouse.topics import Topic

MAX_CLOSES_PER_BATCH = 100
"""A topic that is years behind closes its hours in many small commits, not in one that never ends."""


@dataclass(frozen=True)
class Signals:
    """Everything that a decision looks at, measured at `now`."""

    now: datetime
    open_hour: Hour | None
    hours: Mapping[Hour, OpenHour]
    max_event_time: datetime | None
    max_publish_time: datetime | None
    frontier: Frontier
    requested_through: Hour | None = None


@dataclass(frozen=True)
class Condition:
    """One of the three, for one hour: what it asks, what was measured, in figures and in a sentence."""

    condition: str
    is_met: bool
    required: str
    measured: str | None
    text: str


@dataclass(frozen=True)
class ClosedHour:
    hour: Hour
    why: str
    rows: int
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Held:
    """The oldest open hour and the conditions that it does not meet."""

    hour: Hour
    rows: int
    reasons: tuple[Condition, ...]


@dataclass(frozen=True)
class Decision:
    open_hour: Hour | None
    closed: tuple[ClosedHour, ...] = ()
    held: Held | None = None
    passed_over: int = field(default=0, compare=False)


def decide(signals: Signals, topic: Topic) -> Decision:
    """The hours that close now, oldest first and without holes, and why the next one does not."""
    hour = signals.open_hour
    closed: list[ClosedHour] = []
    passed_over = 0
    while hour is not None and len(closed) < MAX_CLOSES_PER_BATCH:
        conditions = tuple(_conditions(hour, signals, topic))
        why = _why(hour, conditions, signals)
        if why is None:
            unmet = tuple(condition for condition in conditions if not condition.is_met)
            return Decision(hour, tuple(closed), Held(hour, _rows(signals, hour), unmet), passed_over)
        if not _rows(signals, hour) and topic.empty_hours == "skip":
            following = _next_hour_worth_a_look(hour, signals, topic)
            passed_over += hours.ordinal_of(following) - hours.ordinal_of(hour)
            hour = following
        else:
            closed.append(ClosedHour(hour, why, _rows(signals, hour), conditions))
            hour = hours.after(hour)
    return Decision(hour, tuple(closed), None, passed_over)


def awaits_frontier(decision: Decision, signals: Signals, topic: Topic) -> bool:
    """Whether the hour is due, and would close, by the watermark or as idle, if the frontier came up to that."""
    held = decision.held
    if held is None or signals.now < _due(held.hour, topic):
        return False
    unmet = {reason.condition for reason in held.reasons}
    nothing_since = signals.max_publish_time is None or signals.max_publish_time < _due(held.hour, topic)
    return _BACKLOG in unmet and (_TIME not in unmet or nothing_since)


def _why(hour: Hour, conditions: tuple[Condition, ...], signals: Signals) -> str | None:
    if signals.requested_through is not None and hour <= signals.requested_through:
        return "request"
    if not all(condition.is_met for condition in conditions):
        return None
    return "idle" if conditions[0].condition == _IDLE else "watermark"


def _rows(signals: Signals, hour: Hour) -> int:
    return signals.hours[hour].rows if hour in signals.hours else 0


def _next_hour_worth_a_look(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    """Past all empty hours that nothing holds, in one step: an old replay can be followed by years of them."""
    limits = [hours.after(hour), _first_that_may_not(hour, signals, topic)]
    if signals.requested_through is not None:
        limits.append(hours.after(signals.requested_through))
    next_filled = min((filled for filled in signals.hours if filled > hour), default=None)
    furthest = max(limits)
    return min(furthest, next_filled) if next_filled else furthest


def _first_that_may_not(hour: Hour, signals: Signals, topic: Topic) -> Hour:
    """The first hour that its time or the backlog would hold if it were empty, as far as one look can tell."""
    mark, frontier = watermark(signals.max_event_time, topic), signals.frontier.at
    if frontier is None:
        return hour
    consumed = hours.hour_of(frontier - topic.lateness)
    if _is_idle(hour, signals, topic):
        return consumed
    return min(consumed, hours.hour_of(mark)) if mark else hour


# --- the conditions ------------------------------------------------------------------------------------------------

_TIME, _IDLE, _BACKLOG, _QUIET = "time", "idle", "backlog", "quiet"


def _conditions(hour: Hour, signals: Signals, topic: Topic) -> Iterator[Condition]:
    yield _time(hour, signals, topic)
    yield _backlog(hour, signals, topic)
    yield _quiet(hour, signals, topic)


def _time(hour: Hour, signals: Signals, topic: Topic) -> Condition:
    end = hours.end_of(hour)
    mark = watermark(signals.max_event_time, topic)
    passed = mark is not None and mark >= end
    if not passed and _is_idle(hour, signals, topic):
        since = signals.max_publish_time.isoformat() if signals.max_publish_time else "ever"
        text = (
            f"the topic is idle: everything published by {_due(hour, topic):%Y-%m-%d %H:%M:%S} is here, nothing since"
        )
        return Condition(_IDLE, True, f"no message since {_due(hour, topic).isoformat()}", since, text)
    text = (
        f"the watermark has passed the hour's end by {_span(mark - end)}"
        if passed and mark
        else f"the watermark trails the hour's end by {_span(end - mark)}: newer events must come first"
        if mark
        else "no event has come yet, so there is no watermark"
    )
    return Condition(_TIME, passed, end.isoformat(), mark.isoformat() if mark else None, text)


def _is_idle(hour: Hour, signals: Signals, topic: Topic) -> bool:
    """Everything published until the hour's end + lateness was consumed, and nothing was published after that."""
    due, frontier = _due(hour, topic), signals.frontier.at
    nothing_since = signals.max_publish_time is None or signals.max_publish_time < due
    return frontier is not None and frontier >= due and nothing_since


def _backlog(hour: Hour, signals: Signals, topic: Topic) -> Condition:
    due, frontier = _due(hour, topic), signals.frontier
    is_met = frontier.at is not None and frontier.at >= due
    if frontier.at is None:
        text = f"the backlog is unknown: {frontier.text}"
    elif is_met:
        text = f"everything published until {_span(frontier.at - due)} after the hour's end and lateness was consumed"
    else:
        text = f"messages published before the hour's end and lateness may still wait: {_span(due - frontier.at)} to go"
    return Condition(_BACKLOG, is_met, due.isoformat(), frontier.at.isoformat() if frontier.at else None, text)


def _quiet(hour: Hour, signals: Signals, topic: Topic) -> Condition:
    newest = signals.hours[hour].last_write if hour in signals.hours else None
    required = f"no write for {written(topic.quiet_period)}"
    if newest is None:
        return Condition(_QUIET, True, required, None, "nothing was written to the hour")
    quiet = signals.now - newest
    text = f"the newest file of the hour was written {_span(quiet)} ago"
    return Condition(_QUIET, quiet >= topic.quiet_period, required, newest.isoformat(), text)


def _due(hour: Hour, topic: Topic) -> datetime:
    return hours.end_of(hour) + topic.lateness


def _span(duration: timedelta) -> str:
    """`1:02:03` or `3 days, 1:02:03`, whole seconds."""
    return str(timedelta(seconds=int(duration.total_seconds())))
