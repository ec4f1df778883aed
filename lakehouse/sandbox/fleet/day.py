"""What 300 topics publish: the departures of a month as if they were of one day, dealt out by Zipf's law."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from lakehouse.sandbox import flights
from lakehouse.sandbox.flights import Message

HOURS = 3
"""Of publishing. Departures are reported on landing: the first of them are of flights that left hours before."""
_FIRST = datetime(2013, 1, 1, 12, tzinfo=UTC)
_TIMES = ("departed_at", "scheduled_at")
_LEAST = 2
"""Events of the smallest topics."""


def messages(names: Sequence[str], ends: datetime, days: int = 31, *, seed: int = 2013) -> list[Message]:
    """Ordered by `publish_at`, the last before `ends`; the topic at rank n of `names` has 1/n of what the first has.

    Each event is as late as it was in 2013. Copies of an event are of its topic; what must be rejected is of the
    first one, for which it is little. ValueError where there are too few events for the topics.
    """
    month = flights.messages(_FIRST, _FIRST + timedelta(days=days), seed=seed)
    taken = [each for each in month if each.topic == "flight_departed" and _day_time(each) < timedelta(hours=HOURS)]
    owners = _dealt(sorted({each.event_id for each in taken if each.event_id}), names, seed)
    moved = [_moved(each, owners.get(each.event_id or "", names[0]), ends) for each in taken]
    return sorted(moved, key=lambda each: each.publish_at)


def _day_time(message: Message) -> timedelta:
    return (message.publish_at - _FIRST) % timedelta(days=1)


def _dealt(ids: Sequence[str], names: Sequence[str], seed: int) -> Mapping[str, str]:
    """The topic of each event."""
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    shares = [max(_LEAST, int(len(ids) * weight / sum(weights))) for weight in weights]
    shares[0] += len(ids) - sum(shares)
    if shares[0] < _LEAST:
        raise ValueError(f"{len(ids)} events for {len(names)} topics")
    cards = [name for name, share in zip(names, shares, strict=True) for _ in range(share)]
    random.Random(seed).shuffle(cards)
    return dict(zip(ids, cards, strict=True))


def _moved(message: Message, topic: str, ends: datetime) -> Message:
    """To the day whose publishing ends then; a payload that is broken stays as it is."""
    published = ends - timedelta(hours=HOURS) + _day_time(message)
    payload = message.payload
    if message.event_id is not None:
        payload = _with_times(json.loads(payload), published - message.publish_at)
    return replace(message, topic=topic, publish_at=published, payload=payload)


def _with_times(values: dict[str, object], by: timedelta) -> bytes:
    for name in _TIMES:
        values[name] = (datetime.fromisoformat(str(values[name])) + by).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(values).encode()


def of_topics(messages: Iterable[Message]) -> dict[str, list[Message]]:
    """The messages of each topic, in their order."""
    found: dict[str, list[Message]] = {}
    for each in messages:
        found.setdefault(each.topic, []).append(each)
    return found
