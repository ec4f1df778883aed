"""Protobuf payloads to typed Arrow columns, a page at a time."""

from __future__ import annotations

from itertools import accumulate, chain, compress
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.decode.columns import Parsed, is_in_calendar
from lakehouse.decode.one_by_one import WrongTypeError, each_read
from lakehouse.decode.protobuf_messages import (
    LONGEST_DURATION_S,
    NANOS,
    NANOS_PER_MICRO,
    binary_form,
    by_message,
    enum_name,
    json_text,
    map_key,
    message_in,
    misfits_of,
)
from lakehouse.decode.protobuf_schemas import PAGE_TAG, Schema, schema_of
from lakehouse.decode.writers import Writer
from lakehouse.protobuf_types import Node
from lakehouse.topics import Topic

_FEW = 32
"""Messages that are read one by one rather than halved again to find the one that is odd."""
_MOST_HEADS = 10_000
"""Sizes of messages that are remembered."""


class _OddError(Exception):
    """At least one value of the page is not of its type."""


def page(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic, writer: Writer | None = None) -> Parsed:
    """What `by_message` gives. A page with values that are not of their types is halved until these are among a few."""
    if writer is None or not len(payloads):
        return _page(payloads, wanted, topic)
    as_binary = binary_form(topic, wanted, writer)
    bodies, refusals = each_read(payloads.to_pylist(), as_binary)
    read = _page(pa.array(bodies, pa.binary()), wanted, topic)
    return Parsed(read.values, pc.coalesce(pa.array(refusals, pa.string()), read.reasons))


def _page(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic) -> Parsed:
    if not len(payloads):
        return by_message(payloads, wanted, topic)
    schema = schema_of(topic)
    rows, reasons = _read(payloads.to_pylist(), schema, wanted)
    try:
        values = _column(rows, schema.node, wanted)
    except (_OddError, pa.ArrowException, OverflowError, ValueError):
        if len(payloads) <= _FEW:
            return by_message(payloads, wanted, topic)
        middle = len(payloads) // 2
        parts = [_page(part, wanted, topic) for part in (payloads[:middle], payloads[middle:])]
        values = pa.concat_arrays([part.values for part in parts])
        return Parsed(values, pa.concat_arrays([part.reasons for part in parts]))
    if not reasons:
        return Parsed(values, pa.nulls(len(values), pa.string()))
    return Parsed(values, pa.array(map(reasons.get, range(len(values))), pa.string()))


def _read(payloads: list[bytes | None], schema: Schema, wanted: pa.StructType) -> tuple[list[Any], dict[int, str]]:
    """A message of the class `Schema.plain` for each, and why some are rejected, by their places: theirs are empty."""
    plain = [payload or b"" for payload in payloads]
    joined = b"".join(chain.from_iterable(zip(map(_HEADS.__getitem__, map(len, plain)), plain, strict=True)))
    read = _together(joined, schema)
    if read is not None:
        read.DiscardUnknownFields()
        if read.ByteSize() == len(joined):
            return list(read.rows), {}
        rows = list(schema.page.FromString(joined).rows)
        reasons: dict[int, str] = {}
    else:
        rows, reasons = _each(payloads, schema)
    misfit = misfits_of(schema, wanted)
    for place, row in enumerate(rows):
        if (path := misfit(row)) is not None:
            rows[place], reasons[place] = schema.plain(), str(WrongTypeError(path))
    return rows, reasons


def _together(joined: bytes, schema: Schema) -> Any:
    """The messages of a page; None where one is none, or lacks what it must have."""
    from google.protobuf.message import DecodeError

    try:
        read = schema.page.FromString(joined)
    except DecodeError:
        return None
    return read if not schema.has_required or read.IsInitialized() else None


def _each(payloads: list[bytes | None], schema: Schema) -> tuple[list[Any], dict[int, str]]:
    read, reasons = each_read(payloads, lambda payload: message_in(payload, schema))
    rows = [schema.plain() if row is None else row for row in read]
    return rows, {place: reason for place, reason in enumerate(reasons) if reason is not None}


class _Heads(dict[int, bytes]):
    """What is before a message of so many bytes in a page."""

    def __missing__(self, size: int) -> bytes:
        head, left = bytearray(PAGE_TAG), size
        while left > 127:
            head.append(left & 127 | 128)
            left >>= 7
        made = bytes([*head, left])
        if len(self) < _MOST_HEADS:
            self[size] = made
        return made


_HEADS = _Heads()


def _column(messages: list[Any], node: Node, wanted: pa.StructType) -> pa.StructArray:
    """One struct for each; an error of several kinds where a value is not of its type."""
    columns = [_member(messages, node.by_name[each.name], each) for each in wanted]
    return pa.StructArray.from_arrays(columns, fields=list(wanted))


def _member(messages: list[Any], node: Node, field: pa.Field) -> pa.Array:
    values = list(map(attrgetter(node.attribute), messages))
    if node.kind == "list" and node.item:
        items = _values(list(chain.from_iterable(values)), node.item, field.type.value_type)
        return pa.ListArray.from_arrays(_offsets(values), items, type=field.type)
    if node.kind == "map" and node.item:
        return _map(values, node.item, field.type)
    if not node.is_absent_null or _are_all_there(values, node):
        return _values(values, node, field.type)
    name = node.attribute
    is_there = [message.HasField(name) for message in messages]
    if node.default is not None:
        default = node.default
        values = [value if there else default for value, there in zip(values, is_there, strict=True)]
        return _values(values, node, field.type)
    there = np.array(is_there, bool)
    written = _values(list(compress(values, is_there)), node, field.type)
    return written if there.all() else written.take(pa.array(np.cumsum(there) - 1, mask=~there))


def _are_all_there(values: list[Any], node: Node) -> bool:
    """Whether it can be said without asking each message: what was not written is zero, empty or false."""
    if node.kind in ("timestamp", "duration"):
        return all(map(attrgetter("f1"), values))
    return node.kind in ("scalar", "enum") and all(values)


def _offsets(values: list[Any]) -> pa.Array:
    return pa.array(list(accumulate(map(len, values), initial=0)), pa.int32())


def _map(values: list[Any], item: Node, wanted: pa.MapType) -> pa.MapArray:
    """Of a key that is there twice, the last value counts."""
    maps = [{entry.f1: entry.f2 for entry in entries} for entries in values]
    keys = _texts([map_key(key) for key in chain.from_iterable(maps)])
    items = _values([each for entries in maps for each in entries.values()], item, wanted.item_type)
    return pa.MapArray.from_arrays(_offsets(maps), keys, items, type=wanted)


def _values(values: list[Any], node: Node, wanted: pa.DataType) -> pa.Array:
    """One value for each, none of them null."""
    if node.kind == "message":
        return _column(values, node, wanted)
    if node.kind == "wrapper" and node.item:
        return _values(list(map(attrgetter("f1"), values)), node.item, wanted)
    if node.kind == "enum":
        return _enums(values, node)
    if node.kind == "timestamp":
        return _instants(values, wanted)
    if node.kind == "duration":
        return _durations(values)
    if node.kind == "json":
        return pa.array([json_text(value.SerializeToString(), node.full_name) for value in values], wanted)
    if pa.types.is_string(wanted):
        return _texts(values)
    if node.spark_type == "decimal(20,0)":
        return pa.array(values, pa.uint64()).cast(wanted)
    if node.spark_type == "int":
        return pa.array(values, pa.int32()).cast(wanted)
    return pa.array(values, wanted)


def _texts(values: list[Any]) -> pa.StringArray:
    texts = pa.array(values, pa.binary() if values and isinstance(values[0], bytes) else pa.string()).view(pa.string())
    texts.validate(full=True)
    return texts


def _enums(numbers: list[int], node: Node) -> pa.StringArray:
    names = {number: enum_name(number, node) for number in set(numbers)}
    return pa.array([names[number] for number in numbers], pa.string())


def _instants(values: list[Any], wanted: pa.DataType) -> pa.TimestampArray:
    seconds, nanos = _parts(values)
    if (_is_beyond(seconds, LONGEST_DURATION_S) | (nanos < 0) | (nanos >= NANOS)).any():
        raise _OddError
    instants = pa.array(seconds * 1_000_000 + nanos // NANOS_PER_MICRO).cast(wanted)
    if pc.all(is_in_calendar(instants)).as_py() is False:
        raise _OddError
    return instants


def _durations(values: list[Any]) -> pa.Int64Array:
    seconds, nanos = _parts(values)
    has_two_signs = np.sign(seconds) * np.sign(nanos) < 0
    if (_is_beyond(seconds, LONGEST_DURATION_S) | _is_beyond(nanos, NANOS - 1) | has_two_signs).any():
        raise _OddError
    return pa.array(seconds * 1_000_000 + np.sign(nanos) * (np.abs(nanos) // NANOS_PER_MICRO))


def _is_beyond(numbers: np.ndarray, bound: int) -> np.ndarray:
    """Of either sign."""
    return (numbers < -bound) | (numbers > bound)


def _parts(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and nanoseconds."""
    seconds = np.fromiter(map(attrgetter("f1"), values), np.int64, len(values))
    return seconds, np.fromiter(map(attrgetter("f2"), values), np.int64, len(values))
