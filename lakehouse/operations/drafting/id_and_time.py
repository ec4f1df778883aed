"""Where the id and the time of an event may be, by what sample messages hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from lakehouse.decode.columns import INSTANT, each_or_null
from lakehouse.operations.drafting.inference import are_like
from lakehouse.schemas import TIMESTAMP
from lakehouse.topics import DELIVERY_COLUMNS

_ID_NAMES = ("event_id", "eventid", "id", "uuid", "guid", "message_id", "messageid")
_ID_ENDINGS = ("_id", "id", "uuid", "guid", "key")
_TIME_NAMES = ("event_time", "eventtime", "occurred_at", "happened_at", "event_timestamp", "timestamp", "time", "ts")
_TIME_PARTS = ("time", "_at", "timestamp", "date", "when", "_ts", "ts")
_OTHER_TIMES = (
    "scheduled",
    "expire",
    "update",
    "receive",
    "create",
    "ingest",
    "due",
    "plan",
    "valid",
    "birth",
    "until",
)
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
_MOSTLY = 0.5
FUTURE, PAST = timedelta(minutes=10), timedelta(days=7300)
"""A topic's tolerances where its file says nothing: a time beyond them would reject its event."""


@dataclass(frozen=True)
class Message:
    """One sample: its payload, decoded, its attributes, and when it was published (UTC)."""

    document: Mapping[str, Any]
    attributes: Mapping[str, str]
    published: datetime


@dataclass(frozen=True)
class EventTime:
    """Where an event's time may be: `location` and `unit` as a topic's `event_time` and `event_time_unit`."""

    location: str
    unit: str


def ids(messages: Sequence[Message], spare: int = 0) -> list[str]:
    """Locations that hold another id in each event, the likeliest first; all but `spare` messages have them.

    Well-named ones may repeat, as events do that are published twice; others must differ wherever payloads do.
    """
    found = []
    for location, values in _everywhere(messages, spare):
        if not _are_ids(location, [value for value in values if value is not None]):
            continue
        documents = {json.dumps(each.document, sort_keys=True) for each in _with(values, messages)}
        is_known = location.rpartition(".")[2].lower() in _ID_NAMES
        share = len(set(values) - {None}) / len(documents)
        if share == 1 or (is_known and share > _MOSTLY and len(documents) > 1):
            rank = id_rank(location)
            found.append((len(_ID_NAMES) + 1 if rank is None else rank, location.count("."), location))
    return [location for *_, location in sorted(found)]


def times(messages: Sequence[Message], topic: str, spare: int = 0) -> list[EventTime]:
    """Locations that hold a time which rejects no event, in all but `spare` messages; the likeliest first."""
    found: list[tuple[tuple[float, ...], EventTime]] = []
    for location, values in _everywhere(messages, spare):
        for unit, read in _readings(location, values):
            pairs = zip(read, messages, strict=True)
            near = [time for time, each in pairs if time and -PAST <= time - each.published <= FUTURE]
            if near and len(messages) - len(near) <= spare:
                newest = sum(time.timestamp() for time in near) / len(near)
                found.append(((*_rank(location, topic), -newest), EventTime(location, unit)))
    return [each for _, each in sorted(found, key=lambda ranked: ranked[0])]


def id_rank(location: str) -> int | None:
    """How likely it is the event's id by its name alone, 0 the most; None where it is not called one."""
    name = location.rpartition(".")[2].lower()
    if name in _ID_NAMES:
        return _ID_NAMES.index(name)
    return len(_ID_NAMES) if is_called_an_id(location) else None


def time_rank(location: str, topic: str) -> tuple[tuple[int, ...], bool]:
    """How likely it is the event's time by its name alone, the least the most, and whether it is called a time."""
    return _rank(location, topic), _sounds_like_a_time(location)


def is_called_an_id(location: str) -> bool:
    name = location.rpartition(".")[2].lower()
    return name in _ID_NAMES or name.endswith(_ID_ENDINGS)


def no_times(messages: Sequence[Message]) -> Iterator[tuple[str, Any]]:
    """(location, a value) of what every message has, and what people may take for a time."""
    for location, values in _everywhere(messages, spare=0):
        looks_like_one = isinstance(values[0], str) and re.match(r"\d{4}-\d\d-\d\d", values[0])
        if looks_like_one or (_sounds_like_a_time(location) and isinstance(values[0], (str, int, float))):
            yield location, values[0]


def _with(values: Sequence[Any], messages: Sequence[Message]) -> Iterator[Message]:
    return (each for value, each in zip(values, messages, strict=True) if value is not None)


def _everywhere(messages: Sequence[Message], spare: int) -> Iterator[tuple[str, list[Any]]]:
    """Locations that hold a value in all but `spare` messages, and the values, None where there is none."""
    yield from _below("payload", [each.document for each in messages], spare)
    for name in dict.fromkeys(name for each in messages for name in each.attributes):
        values = [each.attributes.get(name) or None for each in messages]
        if values.count(None) <= spare:
            yield f"attributes.{name}", values


def _below(where: str, objects: Sequence[Mapping[str, Any]], spare: int) -> Iterator[tuple[str, list[Any]]]:
    for name in dict.fromkeys(name for each in objects for name in each):
        values: list[Any] = [each.get(name) for each in objects]
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or sum(value is None for value in values) > spare:
            continue
        if sum(isinstance(value, dict) for value in values) >= len(values) - spare:
            yield from _below(f"{where}.{name}", [value if isinstance(value, dict) else {} for value in values], spare)
        else:
            yield f"{where}.{name}", values


def _are_ids(location: str, values: Sequence[Any]) -> bool:
    """Texts that are no times, or integers, where they can be declared: an undeclared id is read as text."""
    if not values:
        return False
    if all(isinstance(value, str) for value in values):
        return all(values) and not are_like(values, INSTANT, TIMESTAMP)
    is_declared = location.split(".")[1].lower() not in DELIVERY_COLUMNS
    return is_declared and all(type(value) is int and abs(value) < 2**63 for value in values)


def _readings(location: str, values: Sequence[Any]) -> Iterator[tuple[str, list[datetime | None]]]:
    """Units in which the values may be times, and the times, None where a value is none."""
    kind = Counter(type(value) for value in values if value is not None).most_common(1)[0][0]
    if kind is str:
        texts = [value if isinstance(value, str) and re.fullmatch(INSTANT, value) else None for value in values]
        with suppress(pa.ArrowInvalid, UnicodeError):
            yield "iso8601", each_or_null(pa.array(texts, pa.string()), TIMESTAMP).to_pylist()
    if not _sounds_like_a_time(location):
        return
    numbers = [_number(location, value) for value in values]
    for unit, scale in _UNITS.items():
        yield unit, [_time(number, unit, scale) for number in numbers]


def _time(number: float | None, unit: str, scale: int) -> datetime | None:
    is_one = number is not None and (unit == "s" or isinstance(number, int))
    if number is None or not is_one or not _YEAR_2000 <= number / scale < 4 * _YEAR_2000:
        return None
    return datetime.fromtimestamp(number / scale, UTC)


def _number(location: str, value: Any) -> float | None:
    if location.startswith("attributes."):
        return int(value) if value is not None and re.fullmatch(r"[0-9]{9,19}", value) else None
    return value if type(value) in (int, float) else None


def _rank(location: str, topic: str) -> tuple[int, ...]:
    """By name: what is called the event's time, what has the topic's verb in it, then the others."""
    name = location.rpartition(".")[2].lower()
    verbs = [part for part in topic.split("_") if len(part) > 3 and part in name]
    is_other = any(part in name for part in _OTHER_TIMES)
    known = _TIME_NAMES.index(name) if name in _TIME_NAMES else len(_TIME_NAMES)
    return (known, is_other, not verbs, not _sounds_like_a_time(location), location.count("."))


def _sounds_like_a_time(location: str) -> bool:
    spoken = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", location.rpartition(".")[2]).lower()
    return any(part in spoken for part in _TIME_PARTS)
