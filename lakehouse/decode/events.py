"""Delivered messages to events, Arrow to Arrow: pure, and exact about why a message is rejected.

`decode` is the one door. Another payload format is one more entry in `FORMATS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.decode import (
    avro_messages,
    avro_pages,
    compression,
    json_messages,
    json_pages,
    protobuf_messages,
    protobuf_pages,
    writers,
)
from lakehouse.decode.columns import Parsed, each_or_null, first_reason, projection, rows_or_null
from lakehouse.decode.one_by_one import WRONG_TYPE
from lakehouse.decode.undeclared import top_names
from lakehouse.decode.writers import Writer
from lakehouse.schemas import TIMESTAMP, decoded_schema
from lakehouse.topics import Topic

NO_EVENT_ID = "no event id"
NO_EVENT_TIME = "no event time"
FROM_THE_FUTURE = "from the future"
FROM_THE_PAST = "from the distant past"

_LONGEST_TOLERANCE = timedelta(days=3_660_000)
"""More than all years that a time can have: a longer tolerance, added to a time, would leave Arrow's 64 bits."""
_YEAR_ONE_US, _YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class Decoded:
    """What decoding adds to a page of messages, in their order, and the fields that nobody declared.

    `columns` has `decoded_schema`. A rejected message has a reason and no event; one that is misdated keeps both.
    `undeclared` counts, by dotted name, the messages in which such a field had a value; at most `undeclared.KEPT` names
    and the rest together, since names may be ids.
    """

    columns: pa.RecordBatch
    undeclared: Counter[str] = field(default_factory=Counter)


Schemas = Callable[[Mapping[str, int]], Mapping[str, str]]
"""From how many messages name each schema of a registry: the texts, as in `Topic.schemas`, of those that it has."""


def decode(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None = None) -> Decoded:
    """The events in a page of messages (columns `DELIVERED`); the same for any way of cutting messages into pages.

    `schemas` is of a topic with a registry; what it raises is raised here. Without it the topic has them already.
    """
    page = FORMATS[topic.format].page
    return _joined([_decode(part, topic, page, schemas) for part in compression.parts(messages, topic)], topic)


def decode_by_message(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None = None) -> Decoded:
    """What `decode` must equal, one message at a time: the reference of the fast path."""
    reference = FORMATS[topic.format].reference
    parts = compression.parts_by_message(messages, topic)
    return _joined([_decode(part, topic, reference, schemas) for part in parts], topic)


Parser = Callable[[pa.BinaryArray, pa.StructType, Topic, Writer | None], Parsed]
"""From payloads, the type that is wanted, the topic, for what else it says of its payloads, and how a registry says
that they were written."""


@dataclass(frozen=True)
class Format:
    """How payloads of one `Topic.format` are read: a page at a time, and the reference that goes message by message."""

    page: Parser
    reference: Parser


def _json(parser: Callable[[pa.BinaryArray, pa.StructType, bool], Parsed]) -> Parser:
    return lambda payloads, wanted, topic, writer: parser(payloads, wanted, topic.int64_as_text)


FORMATS = {
    "json": Format(_json(json_pages.page), _json(json_messages.by_message)),
    "avro": Format(avro_pages.page, avro_messages.by_message),
    "protobuf": Format(protobuf_pages.page, protobuf_messages.by_message),
}
"""By the names that `Topic.format` allows."""


def _joined(parts: list[Decoded], topic: Topic) -> Decoded:
    """The parts of one page, one after another."""
    if len(parts) == 1:
        return parts[0]
    columns = pa.Table.from_batches([part.columns for part in parts], schema=decoded_schema(topic)).combine_chunks()
    undeclared = sum((part.undeclared for part in parts), Counter())
    batches = columns.to_batches() or [pa.RecordBatch.from_pylist([], schema=columns.schema)]
    return Decoded(batches[0], top_names(undeclared))


def _decode(part: compression.Part, topic: Topic, parser: Parser, schemas: Schemas | None) -> Decoded:
    messages, refusals = part
    if schemas is not None:
        topic = topic.with_writers(schemas(writers.schema_ids(messages, topic)))
    parsed = _parsed(messages, topic, parser)
    publish_time = messages.column("publish_time")
    event_id = pc.cast(_values_at(topic.event_id, messages, parsed.values), pa.string())
    event_time, misread = _times(_values_at(topic.event_time, messages, parsed.values), topic.event_time_unit)
    latest = pc.add(publish_time, pa.scalar(min(topic.future_tolerance, _LONGEST_TOLERANCE), pa.duration("us")))
    longest = pa.scalar(min(topic.past_tolerance, _LONGEST_TOLERANCE), pa.duration("us"))
    age = pc.subtract(publish_time, event_time)
    reasons = first_reason(
        [
            *([] if refusals is None else [(pc.is_valid(refusals), refusals)]),
            (pc.is_valid(parsed.reasons), parsed.reasons),
            (misread, pa.scalar(f"{WRONG_TYPE}: {_field_name(topic.event_time)}")),
            (pc.fill_null(pc.equal(event_id, ""), True), pa.scalar(NO_EVENT_ID)),
            (pc.is_null(event_time), pa.scalar(NO_EVENT_TIME)),
            (pc.greater(event_time, latest), pa.scalar(FROM_THE_FUTURE)),
            (pc.greater(age, longest), pa.scalar(FROM_THE_PAST)),
        ]
    )
    is_misdated = pc.is_in(reasons, value_set=pa.array([FROM_THE_FUTURE, FROM_THE_PAST]))
    keeps_event = pc.or_(pc.is_null(reasons), is_misdated)
    event = projection(parsed.values, topic.event_type)
    schema = decoded_schema(topic)
    if pc.all(keeps_event, min_count=0).as_py():
        columns = [event_id, event_time, event, reasons]
    else:
        columns = [*(rows_or_null(column, keeps_event) for column in (event_id, event_time, event)), reasons]
    return Decoded(pa.RecordBatch.from_arrays(columns, schema=schema), top_names(parsed.undeclared))


def _parsed(messages: pa.RecordBatch, topic: Topic, parser: Parser) -> Parsed:
    wanted = _wanted_type(topic)
    if topic.registry is None:
        return parser(_payloads(messages, topic), wanted, topic, None)
    return writers.parsed(messages, topic, wanted, lambda bodies, writer: parser(bodies, wanted, topic, writer))


def _payloads(messages: pa.RecordBatch, topic: Topic) -> pa.BinaryArray:
    """The payloads; where id and time are outside them, one without data is an event without fields."""
    payloads = messages.column("payload")
    if topic.format != "json" or "payload" in (topic.event_id.partition(".")[0], topic.event_time.partition(".")[0]):
        return payloads
    filled = pc.fill_null(payloads, b"")
    return pc.if_else(pc.equal(pc.binary_length(filled), 0), pa.scalar(b"{}", pa.binary()), filled)


def _values_at(location: str, messages: pa.RecordBatch, values: pa.StructArray) -> pa.Array:
    where, _, rest = location.partition(".")
    if where == "payload":
        return pc.struct_field(values, rest.split("."))
    if where == "attributes":
        return pc.map_lookup(messages.column("attributes"), query_key=rest, occurrence="first")
    return messages.column(location)


def _times(values: pa.Array, unit: str) -> tuple[pa.TimestampArray, pa.BooleanArray]:
    """Instants, and where a value is that is none; seconds may have fractions, the smaller units not."""
    if pa.types.is_temporal(values.type):
        instants = values.cast(pa.timestamp("us")).cast(TIMESTAMP)
    elif unit == "iso8601":
        instants = each_or_null(values, TIMESTAMP)
    else:
        instants = _from_numbers(values, unit)
    return instants, pc.and_(pc.is_valid(values), pc.is_null(instants))


def _from_numbers(values: pa.Array, unit: str) -> pa.TimestampArray:
    if pa.types.is_string(values.type):
        values = _numbers(values, pa.float64() if unit == "s" else pa.int64())
    values = values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.float64())
    if unit == "ns":
        return _from_numbers(_microseconds(values), "us")
    scale = _UNIT_US[unit]
    known = _within(values, _YEAR_ONE_US // scale, _YEAR_10000_US // scale)
    micros = pc.round(pc.multiply(known, pa.scalar(scale, known.type)))
    known_micros = _within(micros.cast(pa.int64()), _YEAR_ONE_US, _YEAR_10000_US)
    return known_micros.cast(pa.timestamp("us")).cast(TIMESTAMP)


def _microseconds(nanoseconds: pa.Array) -> pa.Array:
    """Cut off to the earlier microsecond, as finer fractions of ISO times are."""
    if not pa.types.is_integer(nanoseconds.type):
        return pc.floor(pc.divide(nanoseconds, 1000.0))
    whole = pc.divide(nanoseconds, 1000)
    is_rounded_up = pc.less(nanoseconds, pc.multiply(whole, 1000))
    return pc.subtract(whole, is_rounded_up.cast(pa.int64()))


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
            wanted = _with_path(wanted, path.split("."), topic.type_by_schema(location) or leaf)
    return wanted


def _with_path(struct: pa.StructType, path: list[str], leaf: pa.DataType) -> pa.StructType:
    name, *rest = path
    members = {member.name: member.type for member in struct}
    inner = members.get(name, pa.struct([]))
    members[name] = _with_path(inner, rest, leaf) if rest else members.get(name, leaf)
    return pa.struct(list(members.items()))
