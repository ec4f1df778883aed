"""Columns of values that Avro's binary encoding holds: numbers, bytes and texts as their logical types have them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.avro_types import Node
from lakehouse.decode.avro_messages import NANOS_PER_MICRO, UNITS_US, decimal
from lakehouse.decode.columns import is_in_calendar


def leaves(values: list[Any], node: Node, wanted: pa.DataType) -> pa.Array:
    """One column; ArrowException, OverflowError or ValueError where a value is not of the type."""
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
