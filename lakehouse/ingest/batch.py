"""A batch: what the facts of an epoch make of the topic's state, which hours close, and what the commit says. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, repeat
from typing import Any

from lakehouse.errors import SourceError
from lakehouse.hours import Hour
from lakehouse.ingest.buckets import bucket_of
from lakehouse.ingest.closing import (
    Awaits,
    ClosedHour,
    Decision,
    Held,
    Signals,
    awaits_frontier,
    counts_for_quiet,
    decide,
)
from lakehouse.ingest.facts import Fact, data_file, segments_of
from lakehouse.progress import Frontier, IngestState, NewestEvent, OpenHour, watermark
from lakehouse.store.delta import DataFile
from lakehouse.store.records import Closed
from lakehouse.topics import Topic


@dataclass(frozen=True)
class Batch:
    """The result of a batch. `is_finished`: nothing is left to pull, nor an hour that would soon close by itself.

    `blocked` is the error that keeps the topic from ever being finished while nobody acts. `frontier` is None where it
    was not known.
    """

    epoch: int
    version: int | None
    rows: int
    closed: tuple[ClosedHour, ...]
    is_finished: bool
    blocked: SourceError | None = None
    frontier: datetime | None = None


@dataclass(frozen=True)
class Request:
    """Somebody asked for the close of all hours through `through`."""

    through: Hour
    by: str
    reason: str


@dataclass(frozen=True)
class Observed:
    """What is known beside the facts at `now`. `quiet_awaited`: the hour that waits for quiet alone, and since when."""

    now: datetime
    frontier: Frontier
    request: Request | None = None
    quiet_awaited: tuple[Hour, datetime] | None = None


@dataclass(frozen=True)
class BatchPlan:
    """What one commit is to do: decided on one state of the log, without a look at anything else.

    `state` is the one after the commit. `rejected` counts what was rejected since the last close, this batch included.
    """

    epoch: int
    new: tuple[Fact, ...]
    adopted: tuple[Fact, ...]
    files: tuple[DataFile, ...]
    state: IngestState
    signals: Signals
    decision: Decision
    request: Request | None
    rejected: int
    is_change: bool

    @property
    def held(self) -> Held | None:
        return self.decision.held

    @property
    def rows(self) -> int:
        return sum(fact["rows"] for fact in self.new)

    def awaits_frontier(self, topic: Topic) -> bool:
        return awaits_frontier(self.decision, self.signals, topic)

    @property
    def awaits_events(self) -> bool:
        """Whether nothing but newer events, or much time, lets the next hour close."""
        return self.state.open_hour is None or (self.held is not None and Awaits.EVENTS in self.held.awaits)

    @property
    def awaits_quiet_alone(self) -> bool:
        return self.held is not None and set(self.held.awaits) == {Awaits.WRITES}


def plan(
    state: IngestState,
    epoch: int,
    facts: Sequence[Fact],
    adopted: Sequence[Fact],
    observed: Observed,
    topic: Topic,
    *,
    slots: int | None = None,
) -> BatchPlan:
    """The plan for `facts`, which the log does not have, and those of adopted segments, on the state of the log.

    Deterministic in its arguments. `slots` is how many the epoch had, where it had any.
    """
    new = (*facts, *adopted)
    before = _with_first_hour(state, new)
    after = _with_rows(before, new, observed.now, topic, slots)
    request = observed.request
    awaited = observed.quiet_awaited
    since = awaited[1] if awaited and awaited[0] == after.open_hour else None
    signals = Signals.of(after, observed.frontier, observed.now, request.through if request else None, since)
    decision = decide(signals, topic)
    closed = _with_closes(replace(after, epoch=max(epoch, state.epoch)), decision)
    return BatchPlan(
        epoch,
        new,
        tuple(adopted),
        tuple(data_file(fact, before.open_hour) for fact in new),
        closed,
        signals,
        decision,
        request,
        after.rejected,
        bool(new) or decision.open_hour != state.open_hour,
    )


def metadata_of(plan: BatchPlan, topic: Topic, *, release: str, run: str, unacknowledged: int = 0) -> dict[str, Any]:
    """What the plan's commit says of itself, beside the state: the audit trail, and what the ledger is derived from.

    `unacknowledged` counts messages of the epoch whose acknowledgement failed: they come again. `closed` holds for each
    hour the keys of `Closed` but for the commit's own version, and `hour`.
    """
    counts = [json.loads(fact["counts"]) for fact in plan.new if fact["counts"]]
    mark, frontier = watermark(plan.state.max_event_time, topic), plan.signals.frontier.at
    # What was rejected belongs to no hour: it is counted with the first that closes after it.
    closed = zip(plan.decision.closed, chain([plan.rejected], repeat(0)), strict=False)
    return {
        "watermark": mark.isoformat() if mark else None,
        "frontier": frontier.isoformat() if frontier else None,
        "at": plan.signals.now.isoformat(),
        "release": release,
        "run": run,
        "epochs": sorted({fact["epoch"] for fact in plan.new}),
        "segments": sorted(segments_of(plan.new)),
        "adopted": sorted(segments_of(plan.adopted)),
        "rows": plan.rows,
        "rejected": sum(fact["rejected"] for fact in plan.new),
        "reasons": _sums(count["reasons"] for count in counts),
        "undeclared": _sums(count["undeclared"] for count in counts),
        "unacknowledged": unacknowledged,
        "closed": [_close(plan, hour, rejected, mark, release) for hour, rejected in closed],
    }


_NOT_COMMITTED = -1


def _close(plan: BatchPlan, hour: ClosedHour, rejected: int, mark: datetime | None, release: str) -> dict[str, Any]:
    request = plan.request if hour.why == "request" else None
    closed = Closed(
        bronze_version=_NOT_COMMITTED,
        why=hour.why,
        through=hour.through,
        rows=hour.rows,
        rejected=rejected,
        conditions=hour.conditions,
        watermark=mark,
        frontier=plan.signals.frontier.at,
        newest_write=hour.newest_write,
        epoch=plan.state.epoch,
        release=release,
        requested_by=request.by if request else None,
        request_reason=request.reason if request else None,
    )
    details = {"hour": hour.hour, **closed.as_json()}
    del details["bronze_version"]
    return details


def _with_first_hour(state: IngestState, new: Iterable[Fact]) -> IngestState:
    """`first_hour: earliest` is the hour of the first batch's earliest event."""
    if state.open_hour is None and (event_hours := [fact["event_hour"] for fact in new if fact["event_hour"]]):
        return replace(state, open_hour=min(event_hours))
    return state


def _with_rows(state: IngestState, new: Sequence[Fact], now: datetime, topic: Topic, slots: int | None) -> IngestState:
    held = dict(state.hours)
    for fact in new:
        bucket = bucket_of(fact["event_hour"], state.open_hour)
        if bucket is not None:
            before = held.get(bucket, OpenHour(0, None))
            # An executor's clock may be ahead: nothing was written later than now.
            written = (
                min(fact["written_at"], now) if counts_for_quiet(fact["min_publish_time"], bucket, topic) else None
            )
            held[bucket] = OpenHour(before.rows + fact["rows"], _latest([before.last_write, written]))
    return replace(
        state,
        hours=held,
        max_event_time=_latest([state.max_event_time, *(fact["max_event_time"] for fact in new)]),
        max_publish_time=_latest([state.max_publish_time, *(fact["max_publish_time"] for fact in new)]),
        newest=_newest(state.newest, new),
        slots=slots or state.slots,
        rejected=state.rejected + sum(fact["rejected"] for fact in new),
    )


def _newest(newest: NewestEvent | None, new: Iterable[Fact]) -> NewestEvent | None:
    """Files in the order of their newest events; a file says of two messages only when its last one was published."""
    events = sorted((fact["max_event_time"], fact["max_publish_time"]) for fact in new if fact["max_event_time"])
    for event_time, publish_time in events:
        newest = newest.followed_by(event_time, publish_time) if newest else NewestEvent(event_time, publish_time)
    return newest


def _with_closes(state: IngestState, decision: Decision) -> IngestState:
    open_hour = decision.open_hour
    still_open = {hour: held for hour, held in state.hours.items() if open_hour is None or hour >= open_hour}
    rejected = 0 if decision.closed else state.rejected
    return replace(state, open_hour=open_hour, hours=still_open, rejected=rejected)


def _latest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((instant for instant in instants if instant is not None), default=None)


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
