"""Avro payloads to typed Arrow columns, a page at a time."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse.avro_types import Node
from lakehouse.decode.avro_columns import Columns, OddPageError
from lakehouse.decode.avro_leaves import leaves
from lakehouse.decode.avro_messages import (
    SINGLE_OBJECT,
    by_message,
    datums_of,
    schemas_of,
)
from lakehouse.decode.avro_resolution import Resolution, resolution
from lakehouse.decode.columns import Parsed
from lakehouse.decode.one_by_one import each_read
from lakehouse.decode.writers import Writer
from lakehouse.topics import Topic


def page(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic, writer: Writer | None = None) -> Parsed:
    """What `by_message` gives: data of the last schema a field at a time, other messages one by one."""
    schemas = schemas_of(tuple(topic.schemas.values()))
    resolved = _resolution(topic, wanted, writer)
    if not len(payloads) or schemas.record.why_not or resolved is None:
        return _by_records(payloads, wanted, topic, writer)
    columns = Columns(payloads)
    starts = columns.starts
    if writer is None:
        is_framed = columns.begins_with(SINGLE_OBJECT)
        is_ours = columns.begins_with(SINGLE_OBJECT + schemas.fingerprint)
        columns.is_odd |= is_framed & ~is_ours
        starts = starts + np.where(is_ours, len(SINGLE_OBJECT + schemas.fingerprint), 0)
    try:
        values = resolved.values(columns.record(resolved.record, resolved.read, starts), wanted)
    except (OddPageError, pa.ArrowException, OverflowError, ValueError):
        return _by_records(payloads, wanted, topic, writer)
    odd = np.flatnonzero(columns.is_odd)
    if not len(odd):
        return Parsed(values, pa.nulls(len(values), pa.string()))
    others = _by_records(payloads.take(pa.array(odd)), wanted, topic, writer)
    order = np.arange(len(values))
    order[odd] = len(values) + np.arange(len(odd))
    reasons = pa.concat_arrays([pa.nulls(len(values), pa.string()), others.reasons])
    return Parsed(pa.concat_arrays([values, others.values]).take(pa.array(order)), reasons.take(pa.array(order)))


def _resolution(topic: Topic, wanted: pa.StructType, writer: Writer | None) -> Resolution | None:
    """How data are read a field at a time: of the last schema where nothing says otherwise; None for one by one."""
    last = list(topic.schemas.values())[-1]
    if writer is not None and writer.is_json:
        return None
    return resolution(writer.schema or last if writer else last, last, wanted)


def _by_records(payloads: pa.BinaryArray, wanted: pa.StructType, topic: Topic, writer: Writer | None) -> Parsed:
    """Read one by one, and typed a column at a time where all values are of their types."""
    records, reasons = each_read(payloads.to_pylist(), datums_of(topic, wanted, writer))
    try:
        values = _column(records, schemas_of(tuple(topic.schemas.values())).record, wanted)
    except (pa.ArrowException, OverflowError):
        return by_message(payloads, wanted, topic, writer)
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
    return leaves(values, node, wanted)


def _nulls(values: list[Any]) -> pa.BooleanArray | None:
    return pa.array([value is None for value in values]) if None in values else None
