"""How far a topic has come: what its newest bronze commit says, and what is known of its backlog. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakehouse.hours import Hour
from lakehouse.topics import Topic


@dataclass(frozen=True)
class OpenHour:
    """What an open bucket holds so far."""

    rows: int
    last_write: datetime


@dataclass(frozen=True)
class IngestState:
    """Where ingest stands after a commit. `hours` are the open buckets that hold rows.

    `rejected` counts the messages since the last close that have no place in any hour.
    """

    epoch: int = 0
    open_hour: Hour | None = None
    max_event_time: datetime | None = None
    max_publish_time: datetime | None = None
    hours: Mapping[Hour, OpenHour] = field(default_factory=dict)
    slots: int = 0
    rejected: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "open_hour": self.open_hour,
            "max_event_time": _iso(self.max_event_time),
            "max_publish_time": _iso(self.max_publish_time),
            "hours": {
                hour: {"rows": held.rows, "last_write": held.last_write.isoformat()}
                for hour, held in sorted(self.hours.items())
            },
            "slots": self.slots,
            "rejected": self.rejected,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IngestState:
        return cls(
            values["epoch"],
            values["open_hour"],
            _instant(values["max_event_time"]),
            _instant(values["max_publish_time"]),
            {
                hour: OpenHour(held["rows"], datetime.fromisoformat(held["last_write"]))
                for hour, held in values["hours"].items()
            },
            values["slots"],
            values["rejected"],
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
    return max_event_time - topic.lateness if max_event_time else None


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
