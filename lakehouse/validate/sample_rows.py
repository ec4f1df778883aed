"""A few rows of every declared type, with missing values and extremes: what a suite is checked on before any hour."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

ROWS = 6


def sample_rows(schema: pa.Schema) -> pa.Table:
    """ROWS rows; in the first every column but `event_id` is missing, in the last two the values are the same."""
    rows: list[dict[str, Any]] = []
    for number in range(ROWS):
        place = min(number, ROWS - 2)
        row = {field.name: _value(field.type, place) if number else None for field in schema}
        rows.append(row | ({"event_id": f"e{place}"} if "event_id" in schema.names else {}))
    return pa.Table.from_pylist(rows, schema)


def _value(kind: pa.DataType, place: int) -> Any:
    """The smallest, the largest, and ordinary ones."""
    if pa.types.is_struct(kind):
        return {member.name: _value(member.type, place) for member in kind}
    if pa.types.is_map(kind):
        return [("key", _value(kind.item_type, place))]
    if pa.types.is_list(kind):
        return [_value(kind.value_type, place), None][: place % 3]
    if pa.types.is_integer(kind):
        return (0, -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1, 1, 2)[place]
    if pa.types.is_decimal(kind):
        largest = Decimal(10 ** max(kind.precision - 3, 1) - 1).scaleb(-kind.scale)
        return (Decimal(0), -largest, largest, Decimal(1).scaleb(-kind.scale), Decimal(0))[place]
    values: tuple[Any, ...] = ("", "a", "größe\n", "1", "ordinary")
    if pa.types.is_floating(kind):
        values = (0.0, -1.5, 2.5, 1.0, 2.0)
    elif pa.types.is_boolean(kind):
        values = (True, False, True, False, True)
    elif pa.types.is_date(kind):
        values = (date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31), date(2026, 11, 23), date(2026, 11, 24))
    elif pa.types.is_timestamp(kind):
        days = ((1970, 1, 1), (1, 1, 2), (9999, 12, 30), (2026, 11, 23, 5), (2026, 11, 23, 5, 30))
        values = tuple(datetime(*day, tzinfo=UTC) for day in days)  # type: ignore[misc]
    elif pa.types.is_binary(kind):
        values = (b"", b"a", b"\xff", b"1", b"2")
    return values[place]
