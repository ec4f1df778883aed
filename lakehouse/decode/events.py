"""Delivered messages to events, Arrow to Arrow: pure, and exact about why a message is rejected.

`decode` is the one door. Another payload format is one more function from a page to `Parsed` in `_PARSERS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.decode import json_messages, json_pages
from lakehouse.decode.columns import Parsed, each_or_null, lenient_timestamps, projected
from lakehouse.schemas import TIMESTAMP, decoded_schema
from lakehouse.topics import Topic

NO_EVENT_ID = "no event id"
NO_EVENT_TIME = "no event time"
FROM_THE_FUTURE = "from the future"

_YEAR_ONE_US, _YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class Decoded:
    """What decoding adds to a page of messages, in their order, and the fields that nobody declared.

    `columns` has `decoded_schema`. A rejected message has a reason and no event; one from the future keeps both.
    `undeclared` counts, by dotted name, the messages in which such a field had a value.
    """

    columns: pa.RecordBatch
    undeclared: Counter[str] = field(default_factory=Counter)


def decode(messages: pa.RecordBatch, topic: Topic) -> Decoded:
    """The events in a page of messages (columns `DELIVERED`); the same for any way of cutting messages into pages."""
    return _decoded(messages, topic, _PARSERS[topic.format])


def decode_by_message(messages: pa.RecordBatch, topic: Topic) -> Decoded:
    """What `decode` must equal, one message at a time: the reference of the fast path."""
    return _decoded(messages, topic, _REFERENCES[topic.format])


Parser = Callable[[pa.Array, pa.StructType], Parsed]
_PARSERS: dict[str, Parser] = {"json": json_pages.page}
_REFERENCES: dict[str, Parser] = {"json": json_messages.by_message}


def _decoded(messages: pa.RecordBatch, topic: Topic, parser: Parser) -> Decoded:
    parsed = parser(messages.column("payload"), _wanted_type(topic))
    publish_time = messages.column("publish_time")
    event_id = pc.cast(_located(topic.event_id, messages, parsed.values), pa.string())
    event_time, misread = _times(_located(topic.event_time, messages, parsed.values), topic.event_time_unit)
    latest = pc.add(publish_time, pa.scalar(topic.future_tolerance, pa.duration("us")))
    reasons = _first_reason(
        [
            (pc.is_valid(parsed.reasons), parsed.reasons),
            (misread, pa.scalar(f"wrong type: {_field_name(topic.event_time)}")),
            (pc.fill_null(pc.equal(event_id, ""), True), pa.scalar(NO_EVENT_ID)),
            (pc.is_null(event_time), pa.scalar(NO_EVENT_TIME)),
            (pc.greater(event_time, latest), pa.scalar(FROM_THE_FUTURE)),
        ]
    )
    keeps_event = pc.or_(pc.is_null(reasons), pc.fill_null(pc.equal(reasons, FROM_THE_FUTURE), False))
    event = projected(parsed.values, topic.event_type)
    schema = decoded_schema(topic)
    if pc.all(keeps_event, min_count=0).as_py():
        columns = [event_id, event_time, event, reasons]
    else:
        columns = [*(_only(keeps_event, column) for column in (event_id, event_time, event)), reasons]
    return Decoded(pa.RecordBatch.from_arrays(columns, schema=schema), parsed.undeclared)


def _first_reason(claims: list[tuple[pa.BooleanArray, pa.Array | pa.Scalar]]) -> pa.StringArray:
    conditions, reasons = zip(*claims, strict=True)
    filled = [pc.fill_null(condition, False) for condition in conditions]
    if not any(pc.any(condition).as_py() for condition in filled):
        return pa.nulls(len(filled[0]), pa.string())
    return pc.case_when(pc.make_struct(*filled), *reasons)


def _only(mask: pa.BooleanArray, column: pa.Array) -> pa.Array:
    """`column` where the mask holds, null elsewhere; structs too, which `if_else` does not take."""
    rows = pc.if_else(mask, pa.array(np.arange(len(column))), pa.scalar(None, pa.int64()))
    return column.take(rows)


def _located(location: str, messages: pa.RecordBatch, values: pa.StructArray) -> pa.Array:
    where, _, rest = location.partition(".")
    if where == "payload":
        return pc.struct_field(values, rest.split("."))
    if where == "attributes":
        return pc.map_lookup(messages.column("attributes"), query_key=rest, occurrence="first")
    return messages.column(location)


def _times(values: pa.Array, unit: str) -> tuple[pa.TimestampArray, pa.BooleanArray]:
    """Instants, and where a value stands that is none; seconds may have fractions, milli- and microseconds not."""
    if pa.types.is_temporal(values.type):
        instants = values.cast(pa.timestamp("us")).cast(TIMESTAMP)
    elif unit == "iso8601":
        instants = lenient_timestamps(values)
    else:
        instants = _from_numbers(values, unit)
    return instants, pc.and_(pc.is_valid(values), pc.is_null(instants))


def _from_numbers(values: pa.Array, unit: str) -> pa.TimestampArray:
    if pa.types.is_string(values.type):
        values = _numbers(values, pa.float64() if unit == "s" else pa.int64())
    values = values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.float64())
    scale = _UNIT_US[unit]
    known = _within(values, _YEAR_ONE_US // scale, _YEAR_10000_US // scale)
    micros = pc.round(pc.multiply(known, pa.scalar(scale, known.type)))
    known_micros = _within(micros.cast(pa.int64()), _YEAR_ONE_US, _YEAR_10000_US)
    return known_micros.cast(pa.timestamp("us")).cast(TIMESTAMP)


def _within(values: pa.Array, least: int, bound: int) -> pa.Array:
    is_within = pc.and_(pc.greater_equal(values, least), pc.less(values, bound))
    return pc.if_else(is_within, values, pa.scalar(None, values.type))


def _numbers(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    is_number = pc.match_substring_regex(texts, _NUMBER)
    return each_or_null(pc.if_else(is_number, texts, pa.scalar(None, pa.string())), wanted)


def _field_name(location: str) -> str:
    return location.partition(".")[2] or location


def _wanted_type(topic: Topic) -> pa.StructType:
    """The declared fields and, where they are not among them, the event's id and time."""
    wanted = topic.event_type
    time_type = {"iso8601": pa.string(), "s": pa.float64()}.get(topic.event_time_unit, pa.int64())
    for location, leaf in ((topic.event_id, pa.string()), (topic.event_time, time_type)):
        where, _, path = location.partition(".")
        if where == "payload":
            wanted = _with_path(wanted, path.split("."), leaf)
    return wanted


def _with_path(struct: pa.StructType, path: list[str], leaf: pa.DataType) -> pa.StructType:
    name, *rest = path
    members = {member.name: member.type for member in struct}
    inner = members.get(name, pa.struct([]))
    members[name] = _with_path(inner, rest, leaf) if rest else members.get(name, leaf)
    return pa.struct(list(members.items()))
