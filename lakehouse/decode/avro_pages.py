"""Avro payloads to typed Arrow columns, a page at a time."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.avro_types import Node
from lakehouse.decode.avro_messages import (
    NANOS_PER_MICRO,
    UNITS_US,
    UndecodableError,
    by_message,
    datum,
    decimal,
    schemas_of,
)
from lakehouse.decode.columns import Parsed, is_in_calendar
from lakehouse.topics import Topic


def page(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic) -> Parsed:
    """What `by_message` gives: read one by one, and typed a column at a time where all values are of their types."""
    schemas = schemas_of(tuple(topic.schemas.values()))
    records: list[Any] = []
    reasons: list[str | None] = []
    for payload in payloads.to_pylist():
        record = reason = None
        try:
            record = datum(payload, schemas)
        except UndecodableError as undecodable:
            reason = str(undecodable)
        records.append(record)
        reasons.append(reason)
    try:
        values = _column(records, schemas.record, wanted)
    except (pa.ArrowException, OverflowError):
        return by_message(payloads, wanted, topic)
    return Parsed(values, pa.array(reasons, pa.string()))


def _column(values: list[Any], node: Node, wanted: pa.DataType) -> pa.Array:
    """ArrowException or OverflowError where a value is not of its type."""
    if node.kind == "record":
        nothing: dict[str, Any] = {}
        objects = [nothing if value is None else value for value in values]
        columns = [
            _column([each.get(member.name) for each in objects], node.member(member.name), member.type)
            for member in wanted
        ]
        return pa.StructArray.from_arrays(columns, fields=list(wanted), mask=_nulls(values))
    if node.kind in ("array", "map") and node.item:
        offsets = pa.array(list(accumulate((len(value or ()) for value in values), initial=0)), pa.int32())
        some = list(filter(None, values))
        if node.kind == "array":
            items = _column(list(chain.from_iterable(some)), node.item, wanted.value_type)
            return pa.ListArray.from_arrays(offsets, items, type=wanted, mask=_nulls(values))
        names = pa.array(list(chain.from_iterable(some)), pa.string())
        items = _column(list(chain.from_iterable(each.values() for each in some)), node.item, wanted.item_type)
        return pa.MapArray.from_arrays(offsets, names, items, type=wanted, mask=_nulls(values))
    return _leaves(values, node, wanted)


def _leaves(values: list[Any], node: Node, wanted: pa.DataType) -> pa.Array:
    if node.logical == "timestamp-nanos":
        return _instants([None if value is None else value // NANOS_PER_MICRO for value in values], 1, wanted)
    if node.logical in UNITS_US:
        return _instants(values, UNITS_US[node.logical], wanted)
    if node.logical == "date":
        return _in_calendar(pa.array(values, pa.int32()).cast(wanted))
    if node.logical == "uuid":
        return pa.array([None if value is None else str(UUID(bytes=value)) for value in values], wanted)
    if node.logical == "decimal":
        return pa.array([None if value is None else decimal(value, node) for value in values], wanted)
    if node.kind == "int":
        return pa.array(values, pa.int32()).cast(wanted)
    if pa.types.is_floating(wanted):
        return pa.array([None if value is None else float(value) for value in values], wanted)
    return pa.array(values, wanted)


def _instants(values: list[Any], unit_us: int, wanted: pa.DataType) -> pa.Array:
    micros = pc.multiply_checked(pa.array(values, pa.int64()), pa.scalar(unit_us, pa.int64()))
    return _in_calendar(micros.cast(wanted))


def _in_calendar(values: pa.Array) -> pa.Array:
    if pc.all(is_in_calendar(values)).as_py() is False:
        raise pa.ArrowInvalid("a time beyond the years 1 to 9999")
    return values


def _nulls(values: list[Any]) -> pa.BooleanArray | None:
    return pa.array([value is None for value in values]) if None in values else None
