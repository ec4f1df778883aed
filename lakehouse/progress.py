"""How far a topic has come: what its newest bronze commit says, and what is known of its backlog. Values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.topics import Topic

SLOWEST_CLOCK = 0.25
"""Publishers' clock runs when the newest event time gains at least this much on the publish time, second by second.

What gains less (a device that repeats one moment and a millisecond) is taken for a clock that stands still.
"""

RECENT_COMMITS = 20
"""Commits of bronze in which what went wrong is counted."""


@dataclass(frozen=True)
class OpenHour:
    """What an open bucket holds so far. `last_write` is None when nothing was written that is of its own time.

    Of its own time is what was published before the hour's end and lateness: what comes later belongs to no hour that
    is due, whichever it is delivered in.
    """

    rows: int
    last_write: datetime | None


@dataclass(frozen=True)
class NewestEvent:
    """By event time, and when it was published, no earlier than it was: the two are of one batch's files."""

    event_time: datetime
    publish_time: datetime

    def followed_by(self, event_time: datetime, publish_time: datetime) -> NewestEvent:
        """The newer of two, if the publishers' clock has run between them (see `SLOWEST_CLOCK`)."""
        gained, took = event_time - self.event_time, publish_time - self.publish_time
        is_newer = event_time > self.event_time and gained >= took * SLOWEST_CLOCK
        return NewestEvent(event_time, publish_time) if is_newer else self


_AGAIN = "#"
"""In the id of a log that has no id but its name: before the number of times that it was created again."""


def log_name(log: str) -> str:
    """The log's id, but for how often it was created again where only that tells."""
    return log.partition(_AGAIN)[0]


def next_log(former: str, log: str) -> str:
    """The id of a log that is not the former one: where they have the same name, one more."""
    if log_name(former) != log:
        return log
    return f"{log}{_AGAIN}{int(former.partition(_AGAIN)[2] or 0) + 1}"


@dataclass(frozen=True)
class Range:
    """What was read of a partition: from `start` up to `end`, not included; `head` is where its log ended before."""

    partition: int
    start: int
    end: int
    head: int


@dataclass(frozen=True)
class LogRead:
    """What a slot has read of a source that is a log. `log` is the id of that very log; heads are as of `sampled_at`.

    `partitions` is how many it had then, other slots' included.
    """

    log: str
    sampled_at: datetime
    partitions: int
    ranges: tuple[Range, ...]

    def up_to(self, ends: Mapping[int, int]) -> LogRead:
        """The same ranges with these ends, by partition."""
        return replace(self, ranges=tuple(replace(each, end=ends[each.partition]) for each in self.ranges))

    def as_text(self) -> str:
        ranges = [[each.partition, each.start, each.end, each.head] for each in self.ranges]
        at = self.sampled_at.isoformat()
        return json.dumps({"log": self.log, "at": at, "partitions": self.partitions, "ranges": ranges})

    @classmethod
    def from_text(cls, text: str) -> LogRead:
        values = json.loads(text)
        ranges = tuple(Range(*each) for each in values["ranges"])
        return cls(values["log"], datetime.fromisoformat(values["at"]), values["partitions"], ranges)


@dataclass(frozen=True)
class Positions:
    """Up to where bronze has a source that is a log: the next offset of each partition.

    `log` is the log's id, `source` the address by which the topic's file named it.
    """

    log: str
    offsets: Mapping[int, int]
    source: str = ""

    def follows(self, read: LogRead) -> bool:
        """Whether the ranges begin where these positions are; a partition that came later is at its begin."""
        return read.log == self.log and all(self.offsets.get(each.partition, 0) == each.start for each in read.ranges)

    def is_past(self, read: LogRead) -> bool:
        """Whether the ranges, or one of them, can never be taken any more."""
        return read.log != self.log or any(self.offsets.get(each.partition, 0) > each.start for each in read.ranges)

    def after(self, read: LogRead) -> Positions:
        ends = {each.partition: each.end for each in read.ranges}
        return replace(self, offsets=dict(sorted({**self.offsets, **ends}.items())))

    def as_json(self) -> dict[str, Any]:
        offsets = {str(number): at for number, at in sorted(self.offsets.items())}
        return {"log": self.log, "offsets": offsets, "source": self.source}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Positions:
        offsets = {int(number): at for number, at in values["offsets"].items()}
        return cls(values["log"], offsets, values.get("source", ""))


@dataclass(frozen=True)
class ReadFrom:
    """Where a slot of a log begins: for each partition its position, and up to where it is known that nothing follows.

    `since` is when the newest message was published that bronze has. `stride` is how many offsets of a partition each
    slot has, where more slots than one read it: the first from its position, the next from the end of that range.
    """

    log: str
    offsets: Mapping[int, tuple[int, int]]
    since: datetime | None = None
    stride: int | None = None

    def as_json(self) -> dict[str, Any]:
        offsets = [[n, *at] for n, at in self.offsets.items()]
        return {"log": self.log, "offsets": offsets, "since": _iso(self.since), "stride": self.stride}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReadFrom:
        offsets = {n: (at, then) for n, at, then in values["offsets"]}
        return cls(values["log"], offsets, _instant(values["since"]), values.get("stride"))


@dataclass(frozen=True)
class IngestState:
    """What ingest knows after a commit. `hours` are the open buckets that hold rows. `positions` are of a source that
    is a log, None of a queue.

    `newest` is the event at which the publishers' clock last ran; `rejected` counts the messages since the last close
    that have no place in any hour. `closed_in` is the version of the newest commit that closed hours, 0 where none has;
    None where an older release did not say.

    `unacknowledged` counts messages whose acknowledgement was refused for good, by the version of their commit, of the
    `RECENT_COMMITS` newest; None where an older release did not say.
    """

    epoch: int = 0
    open_hour: Hour | None = None
    max_event_time: datetime | None = None
    max_publish_time: datetime | None = None
    hours: Mapping[Hour, OpenHour] = field(default_factory=dict)
    slots: int = 0
    rejected: int = 0
    newest: NewestEvent | None = None
    closed_in: int | None = 0
    positions: Positions | None = None
    unacknowledged: Mapping[int, int] | None = field(default_factory=dict)

    def committed_as(self, version: int, *, has_closes: bool, unacknowledged: int) -> IngestState:
        """The same once a commit has that version, which says this of itself."""
        refused = {**(self.unacknowledged or {}), version: unacknowledged}
        recent = {key: count for key, count in refused.items() if count and key > version - RECENT_COMMITS}
        return replace(self, closed_in=version if has_closes else self.closed_in, unacknowledged=recent)

    def as_json(self) -> dict[str, Any]:
        positions = {"positions": self.positions.as_json()} if self.positions else {}
        return {
            **positions,
            "epoch": self.epoch,
            "open_hour": self.open_hour,
            "max_event_time": _iso(self.max_event_time),
            "max_publish_time": _iso(self.max_publish_time),
            "hours": {
                hour: {"rows": held.rows, "last_write": _iso(held.last_write)}
                for hour, held in sorted(self.hours.items())
            },
            "slots": self.slots,
            "rejected": self.rejected,
            "closed_in": self.closed_in,
            "unacknowledged": self.unacknowledged and {str(key): count for key, count in self.unacknowledged.items()},
            "newest": self.newest
            and {
                "event_time": self.newest.event_time.isoformat(),
                "publish_time": self.newest.publish_time.isoformat(),
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IngestState:
        """What `as_json` gave, of this release or an older one."""
        return cls(
            values["epoch"],
            values["open_hour"],
            _instant(values["max_event_time"]),
            _instant(values["max_publish_time"]),
            {hour: OpenHour(held["rows"], _instant(held["last_write"])) for hour, held in values["hours"].items()},
            values["slots"],
            values["rejected"],
            _newest(values),
            values.get("closed_in"),
            Positions.from_json(values["positions"]) if values.get("positions") else None,
            _by_version(values.get("unacknowledged")),
        )


@dataclass(frozen=True)
class Frontier:
    """The publish time before which everything published has been consumed. `at` is None when nobody knows.

    `problem` is then in a few words why; unlike `text` it is the same as long as the cause is.
    """

    at: datetime | None
    sampled_at: datetime | None
    text: str
    problem: str | None = None


def watermark(max_event_time: datetime | None, topic: Topic) -> datetime | None:
    """The event time before which no more input is expected; None before the first event."""
    return hours.instant_after(max_event_time, -topic.lateness) if max_event_time else None


def _newest(values: Mapping[str, Any]) -> NewestEvent | None:
    """Of a state that an older release wrote, as late as it can have been."""
    before = {"event_time": values["max_event_time"], "publish_time": values["max_publish_time"]}
    newest = values.get("newest", before) or {"event_time": None, "publish_time": None}
    event_time, publish_time = _instant(newest["event_time"]), _instant(newest["publish_time"])
    return NewestEvent(event_time, publish_time) if event_time and publish_time else None


def _by_version(counts: Mapping[str, int] | None) -> dict[int, int] | None:
    return None if counts is None else {int(version): count for version, count in counts.items()}


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
