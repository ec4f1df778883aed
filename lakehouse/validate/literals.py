"""Values as a suite writes them, for a column of a type: converted exactly or refused, and then SQL.

JSON has text, numbers, true and false. A number is taken for a column of integers or decimals if it is one of its
values; for a column of floats it is the nearest of them. Text is for strings, decimals (`"1.10"`), dates (ISO 8601) and
instants (ISO 8601; without a zone it is UTC, and a date is its midnight). Nothing else is converted: `"1"` is no
integer.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

_DECIMALS = Context(prec=100)
_EPOCH = date(1970, 1, 1)


class NotExpressibleInSql(ValueError):
    """The expectation cannot be put as a question about columns of these types; says why."""


def identifier(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def text_literal(value: str) -> str:
    if "\0" in value:
        raise NotExpressibleInSql(f"{value!r} holds a NUL character")
    return "'" + value.replace("'", "''") + "'"


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or is_float(kind) or pa.types.is_decimal(kind))


def is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float32(kind) or pa.types.is_float64(kind))


def is_ordered(kind: pa.DataType) -> bool:
    """Whether values can be smaller and larger: strings by code point, NaN above every number."""
    return bool(is_number(kind) or pa.types.is_string(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def is_single(kind: pa.DataType) -> bool:
    """Whether a suite can name a value of the type."""
    return is_ordered(kind) or bool(pa.types.is_boolean(kind))


def is_comparable(kind: pa.DataType) -> bool:
    """Whether two values can be the same. The entries of a map have no order: two of them have no one answer."""
    if pa.types.is_map(kind):
        return False
    if pa.types.is_list(kind):
        return is_comparable(kind.value_type)
    if pa.types.is_struct(kind):
        return all(is_comparable(member.type) for member in kind)
    return True


def exact(value: Any, kind: pa.DataType) -> Any:
    """The value of the column's type that `value` spells; NotExpressibleInSql when there is none."""
    if pa.types.is_boolean(kind):
        if isinstance(value, bool):
            return value
        raise _refusal(value, kind, "true or false")
    floor, is_exact = floor_of(value, kind)
    if not is_exact or floor is None:
        raise _refusal(value, kind, "one of its values")
    return floor


def unscaled(column: str, kind: pa.DataType, scale: int) -> str:
    """The SQL of a column's integer or decimal as a whole number of units of 10^-scale, however many digits it has."""
    zeros = "0" * (scale - (kind.scale if pa.types.is_decimal(kind) else 0))
    return f"(replace({identifier(column)}::varchar, '.', '') || '{zeros}')::bignum"


def digits_of(kind: pa.DataType) -> tuple[int, int]:
    """(before the point, behind it) of an integer or a decimal."""
    if pa.types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return len(str(2 ** (kind.bit_width - 1))), 0


def literal(value: Any, kind: pa.DataType) -> str:
    """What `exact` gives, in SQL."""
    return _sql(exact(value, kind), kind)


def set_literal(values: Any, kind: pa.DataType) -> str:
    if values is not None and not isinstance(values, list | tuple | set | frozenset):
        raise NotExpressibleInSql(f"{values!r} is no list of values")
    if not values:
        raise NotExpressibleInSql("an empty set has no answer")
    return f"({', '.join(literal(value, kind) for value in values)})"


def at_least(name: str, value: Any, kind: pa.DataType, is_strict: bool = False) -> str:
    """The SQL of `name >= value`, or `>`. A bound need not be a value of the column: an integer can be above 0.5."""
    floor, is_exact = floor_of(value, kind)
    if floor is None:
        return "true"
    return f"{name} {'>=' if is_exact and not is_strict else '>'} {_sql(floor, kind)}"


def at_most(name: str, value: Any, kind: pa.DataType, is_strict: bool = False) -> str:
    """The SQL of `name <= value`, or `<`."""
    floor, is_exact = floor_of(value, kind)
    if floor is None:
        return "false"
    return f"{name} {'<' if is_exact and is_strict else '<='} {_sql(floor, kind)}"


def floor_of(value: Any, kind: pa.DataType) -> tuple[Any, bool]:
    """(largest value of the type that is not above `value`, whether it is equal); (None, False) below all of them."""
    is_numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    is_finite = is_numeric and (isinstance(value, int) or math.isfinite(value))
    if pa.types.is_string(kind) and isinstance(value, str):
        return value, True
    if pa.types.is_decimal(kind) and (is_numeric or isinstance(value, str)):
        return _floor_decimal(value, kind)
    if pa.types.is_integer(kind) and is_finite:
        low, high = -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1
        whole = min(math.floor(value), high)
        return (whole, whole == value) if whole >= low else (None, False)
    if is_float(kind) and is_finite:
        with np.errstate(over="ignore"), suppress(OverflowError):
            nearest = float(np.float32(value)) if pa.types.is_float32(kind) else float(value)
            if math.isfinite(nearest):
                return nearest, True
    if pa.types.is_date(kind) and isinstance(value, str | date):
        instant = _instant(value, kind)
        return instant.date(), instant == datetime.combine(instant.date(), datetime.min.time(), UTC)
    if pa.types.is_timestamp(kind) and isinstance(value, str | date):
        return _instant(value, kind), True
    raise _refusal(value, kind, _spelling(kind))


def _floor_decimal(value: Any, kind: pa.DataType) -> tuple[Any, bool]:
    try:
        number = Decimal(value if isinstance(value, str) else repr(value) if isinstance(value, float) else value)
        if not number.is_finite():
            raise _refusal(value, kind, _spelling(kind))
        step = Decimal(1).scaleb(-kind.scale)
        floor = number.quantize(step, ROUND_FLOOR, _DECIMALS)
    except InvalidOperation:
        raise _refusal(value, kind, _spelling(kind)) from None
    largest = Decimal(10**kind.precision - 1).scaleb(-kind.scale, _DECIMALS)
    if floor < -largest:
        return None, False
    return min(floor, largest), floor == number and floor <= largest


def _instant(value: str | date, kind: pa.DataType) -> datetime:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise _refusal(value, kind, _spelling(kind)) from None
        fraction = value.rpartition(".")[2] if "." in value else ""
        digits = fraction[: next((at for at, sign in enumerate(fraction) if not sign.isdigit()), len(fraction))]
        if len(digits.rstrip("0")) > 6:
            raise _refusal(value, kind, "microseconds at most")
    else:
        moment = value if isinstance(value, datetime) else datetime.combine(value, datetime.min.time())
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise _refusal(value, kind, "one from year 1 to 9999 in UTC") from None


def _sql(value: Any, kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "true" if value else "false"
    if pa.types.is_string(kind):
        return text_literal(value)
    if pa.types.is_decimal(kind):
        return f"'{value:f}'::decimal({kind.precision}, {kind.scale})"
    if pa.types.is_timestamp(kind):
        microseconds = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return f"make_timestamptz({microseconds})"
    if pa.types.is_date(kind):
        return f"('1970-01-01'::date + {(value - _EPOCH).days})"
    return f"'{value!r}'::{_SQL_TYPES[str(kind)]}"


_SQL_TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "integer", "int64": "bigint", "float": "real",
              "double": "double"}  # fmt: skip
_NAMES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "bool": "boolean",
          "date32[day]": "date"}  # fmt: skip


def type_name(kind: pa.DataType) -> str:
    """As conf/topics spells it."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    return "timestamp" if pa.types.is_timestamp(kind) else _NAMES.get(str(kind), str(kind))


def _spelling(kind: pa.DataType) -> str:
    if pa.types.is_date(kind):
        return 'a date such as "2026-11-23"'
    if pa.types.is_timestamp(kind):
        return 'an instant such as "2026-11-23T05:00:00+00:00"'
    if pa.types.is_decimal(kind):
        return 'a number, or one as text such as "1.10"'
    return "a number" if is_number(kind) else "text" if pa.types.is_string(kind) else "a type with an order"


def _refusal(value: Any, kind: pa.DataType, expected: str) -> NotExpressibleInSql:
    return NotExpressibleInSql(f"{value!r} is no {type_name(kind)} (expected {expected})")
