"""Columns of parsed events, shared by all payload formats: how each type is spelled and made from its text."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_YEAR_ONE, _YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000
"""Microseconds since 1970. As Arrow's scalars, they would import pandas wherever this module is."""
_DAY_ONE, _DAY_US = -719_162, 86_400_000_000
_FRACTION_BEYOND_MICROSECONDS = r"(\.\d{6})\d+"

_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
DATE = (
    rf"([0-9]{{4}}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)|{_LEAP}-02-29)"
)
"""A day of the calendar, years 0000 to 9999. Patterns here mean the same to Python's `re` and to Arrow (RE2)."""
INSTANT = (
    rf"{DATE}[Tt ]([01][0-9]|2[0-3])(:[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)"
)
"""RFC 3339, and what of ISO 8601 Arrow reads: a space for T, no seconds or minutes, zones without colon or minutes."""
INTEGER = r"-?(0|[1-9][0-9]{0,18})"
"""An integer as JSON writes it; one of 19 digits may still be beyond 64 bits."""
FLOAT_OVERFLOW = 2.0**128 - 2.0**103
"""From here on a double is rounded to infinity as a 32-bit `float`."""
_DECIMAL = re.compile(r"([+-]?)(?:([0-9]++)\.?([0-9]*+)|\.([0-9]++))(?:[eE]([+-]?)0*+([0-9]*+))?")
_EXPONENT_DIGITS = 18
"""An exponent with more is beyond any payload's digits, and Python would not make a number of thousands."""


Wrong = tuple[str, pa.BooleanArray]
"""The dotted name of a field, and in which rows its value is not of the declared type."""


@dataclass(frozen=True)
class Parsed:
    """`values` has the type that was asked for; where `reasons` has one, the value means nothing."""

    values: pa.StructArray
    reasons: pa.StringArray
    undeclared: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=1024)
def spelled_type(wanted: pa.DataType, int64_as_text: bool = False, decimal_as_text: bool = False) -> pa.DataType:
    """How a value of the type is read first: what JSON writes as text is text, all floating point is double."""

    def spelled(inner: pa.DataType) -> pa.DataType:
        return spelled_type(inner, int64_as_text, decimal_as_text)

    if pa.types.is_struct(wanted):
        return pa.struct([(member.name, spelled(member.type)) for member in wanted])
    if pa.types.is_list(wanted):
        return pa.list_(pa.field("element", spelled(wanted.value_type)))
    if pa.types.is_map(wanted):
        return pa.map_(pa.string(), spelled(wanted.item_type))
    is_number_as_text = (int64_as_text and pa.types.is_int64(wanted)) or (
        decimal_as_text and pa.types.is_decimal(wanted)
    )
    if is_text(wanted) or is_number_as_text:
        return pa.string()
    return pa.float64() if pa.types.is_floating(wanted) else wanted


def is_text(wanted: pa.DataType) -> bool:
    """Whether JSON writes values of the type as text of a form of their own: instants, dates, bytes in base64."""
    return bool(pa.types.is_timestamp(wanted) or pa.types.is_date(wanted) or pa.types.is_binary(wanted))


def has_map(wanted: pa.DataType) -> bool:
    return any(pa.types.is_map(part) for part in _parts_of(wanted))


def has_decimal(wanted: pa.DataType) -> bool:
    return any(pa.types.is_decimal(part) for part in _parts_of(wanted))


def has_floating(wanted: pa.DataType) -> bool:
    return any(pa.types.is_floating(part) for part in _parts_of(wanted))


def has_int64(wanted: pa.DataType) -> bool:
    return any(pa.types.is_int64(part) for part in _parts_of(wanted))


def largest_scale(wanted: pa.DataType) -> int:
    """The most digits after the point of any decimal in the type."""
    return max((part.scale for part in _parts_of(wanted) if pa.types.is_decimal(part)), default=0)


def _parts_of(wanted: pa.DataType) -> Iterator[pa.DataType]:
    yield wanted
    for index in range(wanted.num_fields):
        yield from _parts_of(wanted.field(index).type)


def projection(array: pa.StructArray, wanted: pa.StructType) -> pa.StructArray:
    """The members of `wanted`, in its order, of an array that has at least those with the same leaf types."""
    return as_type(array, wanted)


def as_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`array` as `wanted`, undeclared members left out. ArrowInvalid for a text that is no such value."""
    if array.type == wanted:
        return array
    if pa.types.is_struct(wanted):
        columns = dict(zip((member.name for member in array.type), _members(array), strict=True))
        members = [as_type(columns[member.name], member.type) for member in wanted]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=_nulls(array))
    if pa.types.is_list(wanted):
        values = as_type(array.values, wanted.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=_nulls(array))
    if pa.types.is_map(wanted):
        items = as_type(array.items, wanted.item_type)
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, type=wanted, mask=_nulls(array))
    if pa.types.is_string(array.type):
        return _from_text(array, wanted)
    return array.cast(wanted)


def _nulls(array: pa.Array) -> pa.BooleanArray | None:
    return array.is_null() if array.null_count else None


def _from_text(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """Texts as `wanted`, for pages in which all are; ArrowInvalid if one is no such value."""
    values = each_or_null(texts, wanted)
    if values.null_count > texts.null_count:
        raise pa.ArrowInvalid(f"a text that is no {wanted}")
    return values


def _is_in_range(instants: pa.TimestampArray) -> pa.BooleanArray:
    micros = instants.cast(pa.int64())
    return pc.and_(pc.greater_equal(micros, _YEAR_ONE), pc.less(micros, _YEAR_10000))


def is_in_calendar(times: pa.Array) -> pa.BooleanArray:
    """Whether each date or timestamp is of the years 1 to 9999."""
    if pa.types.is_date(times.type):
        days = times.cast(pa.int32())
        return pc.and_(pc.greater_equal(days, _DAY_ONE), pc.less(days, _YEAR_10000 // _DAY_US))
    return _is_in_range(times)


def each_or_null(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """Each text as `wanted`, null where it is no such value.

    Instants are ISO 8601 with a zone, to the microsecond (finer fractions are cut off), years 1 to 9999.
    """
    if pa.types.is_timestamp(wanted):
        instants = _instants(texts, wanted)
        return pc.if_else(_is_in_range(instants), instants, pa.scalar(None, wanted))
    if pa.types.is_date(wanted):
        days = _matching(texts, DATE).cast(wanted)
        return pc.if_else(pc.greater_equal(days.cast(pa.int32()), _DAY_ONE), days, pa.scalar(None, wanted))
    if pa.types.is_binary(wanted):
        return pa.array([_unbase64(text) for text in texts.to_pylist()], wanted)
    if pa.types.is_decimal(wanted):
        return decimals_or_null(texts, wanted)
    return _each_number_or_null(_matching(texts, INTEGER) if pa.types.is_integer(wanted) else texts, wanted)


def _instants(texts: pa.StringArray, wanted: pa.TimestampType) -> pa.TimestampArray:
    try:
        return texts.cast(wanted)
    except pa.ArrowInvalid:
        plain = pc.ascii_upper(_matching(texts, INSTANT))
        return pc.replace_substring_regex(plain, _FRACTION_BEYOND_MICROSECONDS, r"\1").cast(wanted)


def _matching(texts: pa.StringArray, pattern: str) -> pa.StringArray:
    """The texts that are of a pattern as a whole, null for the others."""
    is_like_it = pc.match_substring_regex(texts, f"^({pattern})$")
    return texts if pc.all(is_like_it).as_py() else pc.if_else(is_like_it, texts, pa.scalar(None, pa.string()))


def _each_number_or_null(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """By halves: only numbers beyond the type's range are refused, and they are rare."""
    try:
        return texts.cast(wanted)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, wanted)
    half = len(texts) // 2
    return pa.concat_arrays([_each_number_or_null(part, wanted) for part in (texts[:half], texts[half:])])


def decimals_or_null(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """Each text as `wanted`, null where it is no number that the type holds exactly; plain ones at once."""
    integer = f"[0-9]{{1,{wanted.precision - wanted.scale}}}" if wanted.precision > wanted.scale else "0"
    fraction = rf"(\.[0-9]{{1,{wanted.scale}}})?" if wanted.scale else ""
    is_plain = pc.match_substring_regex(texts, f"^-?{integer}{fraction}$")
    if pc.all(is_plain).as_py() is not False:
        return texts.cast(wanted)
    none = pa.scalar(None, pa.string())
    plain = pc.if_else(is_plain, texts, none).cast(wanted)
    is_too_fine = pc.match_substring_regex(texts, rf"^-?[0-9]+\.[0-9]{{{wanted.scale}}}[0-9]*[1-9]$")
    others = pc.if_else(pc.or_(is_plain, is_too_fine), none, texts).to_pylist()
    read = pa.array([None if text is None else decimal_or_none(text, wanted) for text in others], wanted)
    return pc.coalesce(plain, read)


def decimal_or_none(text: str, wanted: pa.DataType) -> Decimal | None:
    """The number as written, if the type can hold exactly that; zeros at its ends and its exponent do not matter.

    Total and linear for any text: Arrow reads beyond its tables where the exponent is large.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None or (match[6] == "" and not text[-1].isdigit()):
        return None
    sign, whole, fraction, only_fraction, exponent_sign, exponent_digits = match.groups(default="")
    fraction += only_fraction
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return Decimal(0)
    if len(exponent_digits) > _EXPONENT_DIGITS:
        return None
    significant = digits.rstrip("0")
    exponent = int(f"{exponent_sign}{exponent_digits or 0}") - len(fraction) + len(digits) - len(significant)
    if exponent < -wanted.scale or len(significant) + exponent > wanted.precision - wanted.scale:
        return None
    return Decimal(f"{sign}{significant}E{exponent}")


def _unbase64(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except ValueError:
        return None


def as_type_or_wrong(array: pa.Array, wanted: pa.DataType, path: str = "") -> tuple[pa.Array, list[Wrong]]:
    """As `as_type`, but a text that is no such value is null, and its row is reported with the field's dotted name.

    In declared order. ArrowInvalid where such a text is an item of a list or map: rows have no mask there.
    """
    if pa.types.is_struct(wanted):
        columns = dict(zip((member.name for member in array.type), _members(array), strict=True))
        prefix = f"{path}." if path else ""
        read = [as_type_or_wrong(columns[member.name], member.type, prefix + member.name) for member in wanted]
        values = pa.StructArray.from_arrays([value for value, _ in read], fields=list(wanted), mask=_nulls(array))
        return values, [wrong for _, found in read for wrong in found]
    if not pa.types.is_string(array.type) or pa.types.is_string(wanted):
        return as_type(array, wanted), []
    values = each_or_null(array, wanted)
    is_wrong = pc.and_(pc.is_valid(array), pc.is_null(values))
    return values, [(path, is_wrong)] if values.null_count > array.null_count else []


def first_reason(claims: list[tuple[pa.BooleanArray, pa.Array | pa.Scalar]]) -> pa.StringArray:
    """For each row the reason of the first claim that holds, null where none does."""
    conditions, reasons = zip(*claims, strict=True)
    filled = [pc.fill_null(condition, False) for condition in conditions]
    if not any(pc.any(condition).as_py() for condition in filled):
        return pa.nulls(len(filled[0]), pa.string())
    return pc.case_when(pc.make_struct(*filled), *reasons)


def rows_or_null(column: pa.Array, mask: pa.BooleanArray) -> pa.Array:
    """`column` where the mask holds, null elsewhere; structs too, which `if_else` does not take."""
    rows = pc.if_else(mask, pa.array(np.arange(len(column))), pa.scalar(None, pa.int64()))
    return column.take(rows)


def is_sound(array: pa.Array) -> bool:
    """Whether no number is NaN, infinite or wider than its decimal type, all of which Arrow reads."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.is_finite(array)).as_py() is not False
    if pa.types.is_struct(array.type):
        return all(is_sound(member) for member in _members(array))
    if pa.types.is_decimal(array.type):
        array.validate(full=True)
    if pa.types.is_map(array.type):
        return is_sound(array.items)
    return is_sound(array.values) if pa.types.is_list(array.type) else True


def _members(array: pa.StructArray) -> list[pa.Array]:
    """The columns of a struct, null where the struct is: Arrow leaves empty values there."""
    columns: list[pa.Array] = array.flatten()
    return columns
