"""What would become of messages: typed, rejected with a reason, in which hour. Without a server and without a lake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lakehouse.decode.events import decode
from lakehouse.decode.undeclared import top_names
from lakehouse.hours import Hour, end_of, hour_of, instant_after
from lakehouse.landing.registries.writers import schemas_of
from lakehouse.operations.drafting.samples import Samples
from lakehouse.topics import Topic

_PAGE = 1_000


@dataclass(frozen=True)
class TriedMessage:
    """`number` counts from 1. A duplicate names the message that it repeats.

    `is_late` says that it was published after its hour's end and lateness, so that it may find the hour closed and go
    to the first open one; None where nobody knows when it was published. `event` holds the declared fields.
    """

    number: int
    outcome: Literal["event", "duplicate", "rejected"]
    hour: Hour | None = None
    event_id: str | None = None
    event_time: datetime | None = None
    reason: str | None = None
    repeats: int | None = None
    is_late: bool | None = None
    event: dict[str, Any] | None = None


@dataclass(frozen=True)
class Trial:
    """What a topic makes of samples. `events`, `duplicates` and `rejected` add up to all messages; some are `late`.

    `hours` gives the events of each event hour, `reasons` the numbers of the messages rejected for each, both sorted by
    key; `undeclared` how often the commonest fields occur that the topic does not declare. `source` is where the
    samples came from, in words.
    """

    topic: str
    source: str
    events: int
    duplicates: int
    rejected: int
    late: int
    hours: dict[Hour, int]
    reasons: dict[str, list[int]]
    undeclared: dict[str, int]
    messages: tuple[TriedMessage, ...]


def trial(topic: Topic, samples: Samples) -> Trial:
    """All samples through the topic's decoder, in their order; `hours` counts events, `reasons` lists messages."""
    undeclared: Counter[str] = Counter()
    messages = tuple(_tried_messages(topic, samples, undeclared))
    outcomes = Counter(each.outcome for each in messages)
    reasons: dict[str, list[int]] = {}
    for each in messages:
        if each.reason is not None:
            reasons.setdefault(each.reason, []).append(each.number)
    hours = Counter(each.hour for each in messages if each.outcome == "event" and each.hour)
    late = sum(bool(each.is_late) for each in messages)
    return Trial(
        topic.name,
        samples.source,
        outcomes["event"],
        outcomes["duplicate"],
        outcomes["rejected"],
        late,
        dict(sorted(hours.items())),
        dict(sorted(reasons.items())),
        dict(top_names(undeclared)),
        messages,
    )


def _tried_messages(topic: Topic, samples: Samples, undeclared: Counter[str]) -> Iterator[TriedMessage]:
    first: dict[tuple[Any, ...], int] = {}
    number = 0
    for start in range(0, len(samples.messages), _PAGE):
        page = samples.messages.slice(start, _PAGE)
        decoded = decode(page, topic, schemas_of(topic))
        undeclared.update(decoded.undeclared)
        published = page.column("publish_time").to_pylist()
        for row, publish_time in zip(decoded.columns.to_pylist(), published, strict=True):
            number += 1
            event_id, event_time, reason = row["event_id"], row["event_time"], row["reject_reason"]
            if reason is not None:
                yield TriedMessage(number, "rejected", None, event_id, event_time, reason, event=row["event"])
                continue
            identity = tuple(row[column] for column in topic.identity)
            repeats = first.setdefault(identity, number)
            hour = hour_of(event_time)
            is_late = publish_time > instant_after(end_of(hour), topic.lateness) if samples.are_timed else None
            outcome: Literal["event", "duplicate"] = "event" if repeats == number else "duplicate"
            again = None if repeats == number else repeats
            yield TriedMessage(number, outcome, hour, event_id, event_time, None, again, is_late, row["event"])
