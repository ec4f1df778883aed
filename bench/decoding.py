"""Pages of messages of every kind that a topic may get, and how many messages a second one core decodes of each."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from bench import formats
from bench.pages import PAGE, payload
from lakehouse.decode.events import decode
from lakehouse.schemas import DELIVERED
from lakehouse.topics import Topic, topic_from

FIELDS = {
    "user": "string",
    "country": "string",
    "track": "string",
    "ms": "int",
    "score": "double",
    "shuffled": "boolean",
    "context": "string",
}
LEAST_SHARE = 200 / 586
"""Of the clean page's speed: 200,000 messages a second where the clean page has 586,000."""
PAGES_OF_A_KIND = 8
_ROUNDS = 4
_ROUND_SECONDS = 0.1
_PUBLISHED = datetime(2026, 1, 1, 6, tzinfo=UTC)

Event = dict[str, Any]


def _unchanged(number: int, event: Event) -> Event:
    return event


def _as_json(event: Event) -> bytes:
    return json.dumps(event).encode()


@dataclass(frozen=True)
class Kind:
    """How its messages differ from those of the clean page."""

    name: str
    change: Callable[[int, Event], Event] = _unchanged
    fields: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    written: Callable[[Event], bytes] = _as_json
    attributes: Callable[[int], dict[str, str]] = lambda number: {}

    def topic(self) -> Topic:
        located = {"event_id": "payload.event_id", "event_time": "payload.played_at"}
        values = {"subscription": "projects/bench/subscriptions/kinds", **located, "past_tolerance": "99999 days"}
        return topic_from("kinds", {**values, **self.options, "fields": {**FIELDS, **self.fields}})

    def pages(self, count: int = PAGES_OF_A_KIND) -> list[pa.RecordBatch]:
        return [self._page(range(first, first + PAGE)) for first in range(0, count * PAGE, PAGE)]

    def _page(self, numbers: range) -> pa.RecordBatch:
        known = {
            "message_id": [f"{number:016d}" for number in numbers],
            "publish_time": [_PUBLISHED] * len(numbers),
            "attributes": [list(self.attributes(number).items()) for number in numbers],
            "payload": [self.written(self.change(number, json.loads(payload(number)))) for number in numbers],
        }
        columns = [pa.array(known.get(each.name, [None] * len(numbers)), each.type) for each in DELIVERED]
        return pa.RecordBatch.from_arrays(columns, schema=DELIVERED)


def speeds(kind: Kind) -> tuple[float, float]:
    """Messages per core-second of the clean page and of this kind: the best of rounds in turn."""
    compared = [(each.topic(), each.pages()) for each in (KINDS[0], kind)]
    rounds = [[_round(topic, pages) for topic, pages in compared] for _ in range(_ROUNDS)]
    clean, found = (max(values) for values in zip(*rounds, strict=True))
    return clean, found


def _round(topic: Topic, pages: list[pa.RecordBatch]) -> float:
    messages, started = 0, time.process_time()
    while (used := time.process_time() - started) < _ROUND_SECONDS:
        for page in pages:
            decode(page, topic)
        messages += PAGE * len(pages)
    return messages / used


def _with(**made: Callable[[int], Any]) -> Callable[[int, Event], Event]:
    return lambda number, event: {**event, **{name: value(number) for name, value in made.items()}}


def _every(share: int, name: str, value: Any) -> Callable[[int, Event], Event]:
    return lambda number, event: event if number % share else {**event, name: value}


def _repeated(event: Event) -> bytes:
    return _as_json(event)[:-1] + b', "user": "again", "ms": 7}'


def _digits(number: int, most: int) -> str:
    return str((number + 1) * 982451653)[:most]


_TAGS = _with(tags=lambda number: {"source": "search", "page": str(number), "variant": "b"})
_TRACK = {"track": "struct<id: string, ms: int, artist: struct<id: string, at: timestamp>>", "seen": "array<int>"}
_NESTED = _with(
    track=lambda number: {"id": f"t{number}", "ms": number, "artist": {"id": "a", "at": "2026-01-01T05:00:00Z"}},
    seen=lambda number: [number, number + 1],
)
_OTHERS = _with(client=lambda number: "ios", build=lambda number: number, flags=lambda number: {"a": [1, 2]})


def _decimal(spark_type: str, value: Callable[[int], Any]) -> Kind:
    return Kind(f"{spark_type}", _with(price=value), {"price": spark_type})


FORMATS = [
    Kind(title, options=formats.options(name), written=formats.WRITTEN[name])
    for name, title in (("avro", "Avro"), ("protobuf", "Protobuf"))
]
"""The clean page's events, in other formats."""

KINDS = [
    Kind("clean"),
    Kind("trailing newline", written=lambda event: _as_json(event) + b"\n"),
    Kind("spread over lines", written=lambda event: json.dumps(event, indent=2).encode()),
    Kind("times without zone", _with(played_at=lambda number: "2026-01-01T05:00:00")),
    Kind("times of nine digits", _with(played_at=lambda number: "2026-01-01T05:00:00.123456789Z")),
    Kind("times with an offset", _with(played_at=lambda number: "2026-01-01T07:00:00.123+02:00")),
    Kind("a map", _TAGS, {"tags": "map<string, string>"}),
    Kind("a map, undeclared fields", lambda n, event: _OTHERS(n, _TAGS(n, event)), {"tags": "map<string, string>"}),
    Kind("a map, a decimal", lambda n, event: {**_TAGS(n, event), "price": n % 999 / 4},
         {"tags": "map<string, string>", "price": "decimal(10,2)"}),
    Kind("a struct, an array", _NESTED, _TRACK),
    Kind("undeclared fields", _OTHERS),
    Kind("undeclared fields, a decimal", lambda n, event: {**_OTHERS(n, event), "price": n % 999 / 4},
         {"price": "decimal(10,2)"}),
    Kind("undeclared fields named by ids", lambda number, event: {**event, f"id{number}": 1}),
    Kind("wrong type in 1 %", _every(100, "ms", "7")),
    Kind("wrong type in 10 %", _every(10, "ms", "7")),
    Kind("wrong type in all", _every(1, "ms", "7")),
    Kind("wrong type in a struct, 10 %", lambda n, event: _every(10, "track", {"id": 7})(n, _NESTED(n, event)), _TRACK),
    Kind("wrong type in an array, 10 %", lambda n, event: _every(10, "seen", [1, "x"])(n, _NESTED(n, event)), _TRACK),
    Kind("wrong type in a map, 10 %", lambda n, event: _every(10, "tags", {"a": 1})(n, _TAGS(n, event)),
         {"tags": "map<string, string>"}),
    Kind("integer out of range in 10 %", _every(10, "ms", 2**40)),
    Kind("text that is no date in 10 %", lambda n, event: {**event, "day": "2026-01-01" if n % 10 else "01/01/2026"},
         {"day": "date"}),
    Kind("not JSON in 1 %", lambda n, event: event if n % 100 else {"cut": "HERE"},
         written=lambda event: b'{"event_id": "x"' if "cut" in event else _as_json(event)),
    Kind("not JSON in all", written=lambda event: _as_json(event)[:-2] + b"}"),
    _decimal("decimal(5,2)", lambda number: number % 999 / 4),
    _decimal("decimal(18,6)", lambda number: f"{_digits(number, 12)}.{_digits(number, 6)}"),
    _decimal("decimal(38,18)", lambda number: f"{_digits(number, 12)}.{_digits(number, 18)}"),
    _decimal("decimal(38,38)", lambda number: f"0.{_digits(number, 38)}"),
    _decimal("decimal(38,0)", lambda number: int(_digits(number, 38))),
    Kind("decimal too fine in 10 %", lambda n, event: {**event, "price": 1.25 if n % 10 else 1.255},
         {"price": "decimal(5,2)"}),
    Kind("decimal with a large exponent in 10 %", lambda n, event: {**event, "price": 125 if n % 10 else 1e22},
         {"price": "decimal(38,2)"}),
    Kind("time in nanoseconds", _with(played_at=lambda number: 1_767_243_600_000_000_000 + number),
         options={"event_time_unit": "ns"}),
    Kind("time in seconds", _with(played_at=lambda number: 1_767_243_600.25 + number),
         options={"event_time_unit": "s"}),
    Kind("int64_as_text", _with(plays=lambda number: str(number << 40)), {"plays": "bigint"}, {"int64_as_text": True}),
    Kind("int64_as_text, text and number", _with(plays=lambda n: n if n % 2 else str(n)), {"plays": "bigint"},
         {"int64_as_text": True}),
    Kind("base64", _with(raw=lambda number: "aGVsbG8sIHdvcmxk"), {"raw": "binary"}),
    Kind("gzip", written=lambda event: gzip.compress(_as_json(event), 1)),
    Kind("attributes only", written=lambda event: b"",
         attributes=lambda n: {"id": f"e{n}", "at": "2026-01-01T05:00:00Z"},
         options={"event_id": "attributes.id", "event_time": "attributes.at"}),
    Kind("repeated names", written=_repeated),
    Kind("escaped text", _with(user=lambda number: f'Bj\u00f6rk "{number}" \\ \U0001f600\n')),
    Kind("text of UTF-8", _with(user=lambda number: f"Björk {number} 😀"),
         written=lambda event: json.dumps(event, ensure_ascii=False).encode()),
    Kind("minus zero in 10 %", _every(10, "score", 0), written=lambda event: _as_json(event).replace(
        b'"score": 0,', b'"score": -0,')),
]  # fmt: skip
