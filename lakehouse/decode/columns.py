"""Columns of parsed events, shared by all payload formats: how each type is spelled and made from its text."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

_YEAR_ONE, _YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000
"""Microseconds since 1970. As Arrow's scalars, they would import pandas wherever this module is."""
_DAY_ONE = -719_162
_FRACTION_BEYOND_MICROSECONDS = r"(\.\d{6})\d+"


@dataclass(frozen=True)
class Parsed:
    """`values` has the type that was asked for; where `reasons` has one, the value is null."""

    values: pa.StructArray
    reasons: pa.StringArray
    undeclared: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=1024)
def spelled_type(wanted: pa.DataType) -> pa.DataType:
    """How a value of the type is read first: what JSON writes as text is text, all floating point is double."""
    if pa.types.is_struct(wanted):
        return pa.struct([(member.name, spelled_type(member.type)) for member in wanted])
    if pa.types.is_list(wanted):
        return pa.list_(pa.field("element", spelled_type(wanted.value_type)))
    if pa.types.is_map(wanted):
        return pa.map_(pa.string(), spelled_type(wanted.item_type))
    if pa.types.is_timestamp(wanted) or pa.types.is_date(wanted) or pa.types.is_binary(wanted):
        return pa.string()
    return pa.float64() if pa.types.is_floating(wanted) else wanted


def has_map(wanted: pa.DataType) -> bool:
    return any(pa.types.is_map(part) for part in _parts_of(wanted))


def has_decimal(wanted: pa.DataType) -> bool:
    return any(pa.types.is_decimal(part) for part in _parts_of(wanted))


def _parts_of(wanted: pa.DataType) -> Iterator[pa.DataType]:
    yield wanted
    for index in range(wanted.num_fields):
        yield from _parts_of(wanted.field(index).type)


def projected(array: pa.StructArray, wanted: pa.StructType) -> pa.StructArray:
    """The members of `wanted`, in its order, of an array that has at least those with the same leaf types."""
    return typed(array, wanted)


def typed(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`array` as `wanted`, undeclared members left out. ArrowInvalid for a text that is no such value."""
    if array.type == wanted:
        return array
    if pa.types.is_struct(wanted):
        columns = dict(zip((member.name for member in array.type), _members(array), strict=True))
        members = [typed(columns[member.name], member.type) for member in wanted]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=_nulls(array))
    if pa.types.is_list(wanted):
        values = typed(array.values, wanted.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=_nulls(array))
    if pa.types.is_map(wanted):
        items = typed(array.items, wanted.item_type)
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, type=wanted, mask=_nulls(array))
    if pa.types.is_binary(wanted):
        return pa.array([_unbase64(text) for text in array.to_pylist()], wanted)
    if pa.types.is_timestamp(wanted):
        return _timestamps(array)
    return _dates(array) if pa.types.is_date(wanted) else array.cast(wanted)


def _nulls(array: pa.Array) -> pa.BooleanArray | None:
    return array.is_null() if array.null_count else None


def _unbase64(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except ValueError as odd:
        raise pa.ArrowInvalid(f"base64, not {text!r}") from odd


def _timestamps(texts: pa.StringArray) -> pa.TimestampArray:
    """ISO 8601 with a zone, to the microsecond; ArrowInvalid otherwise. Finer fractions are cut off."""
    instant = pa.timestamp("us", "UTC")
    try:
        instants = texts.cast(instant)
    except pa.ArrowInvalid:
        instants = pc.replace_substring_regex(texts, _FRACTION_BEYOND_MICROSECONDS, r"\1").cast(instant)
    micros = instants.cast(pa.int64())
    if pc.any(pc.or_(pc.less(micros, _YEAR_ONE), pc.greater_equal(micros, _YEAR_10000))).as_py():
        raise pa.ArrowInvalid("a time outside the years 1 to 9999, which Spark cannot hold")
    return instants


def _dates(texts: pa.StringArray) -> pa.Date32Array:
    days = texts.cast(pa.date32())
    if pc.any(pc.less(days.cast(pa.int32()), _DAY_ONE)).as_py():
        raise pa.ArrowInvalid("a date before the year 1, which Spark cannot hold")
    return days


def lenient_timestamps(texts: pa.StringArray) -> pa.TimestampArray:
    """Instants, null where a text is none."""
    return each_or_null(texts, pa.timestamp("us", "UTC"))


def each_or_null(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """Each text as `wanted`, null where it is no such value."""
    try:
        return typed(texts, wanted)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, wanted)
    half = len(texts) // 2
    return pa.concat_arrays([each_or_null(texts[:half], wanted), each_or_null(texts[half:], wanted)])


def is_sound(array: pa.Array) -> bool:
    """Whether no number is NaN, infinite or wider than its decimal type, all of which Arrow reads."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.is_finite(array)).as_py() is not False
    if pa.types.is_struct(array.type):
        return all(is_sound(member) for member in _members(array))
    if pa.types.is_decimal(array.type):
        array.validate(full=True)
    return is_sound(array.values) if pa.types.is_list(array.type) else True


def _members(array: pa.StructArray) -> list[pa.Array]:
    """The columns of a struct, null where the struct is: Arrow leaves empty values there."""
    columns: list[pa.Array] = array.flatten()
    return columns
