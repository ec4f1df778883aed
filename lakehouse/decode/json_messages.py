"""JSON payloads to typed Arrow columns: a page at once where it is clean, else message by message.

Fields declared as timestamp, date, binary (base64) or decimal are JSON strings (a decimal may be a number too). A wrong
type is a reason, never a null. `page` accepts only what `by_message` accepts with the same values; tests hold that.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

NOT_JSON = "not JSON"

_PART_SIZE = 300
"""A page that cannot be read at once is read in parts of so many messages."""
_MAX_DEPTH = 200
"""Brackets nested deeper than this are not JSON to us: Python and Arrow would each find limits of their own."""
_FLOAT_OVERFLOW = 2.0**128 - 2.0**103
"""From here on a double is rounded to infinity as a 32-bit `float`."""
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


def page(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """All messages of a page in one pass of Arrow's reader, which has no maps; in parts, if one of them is odd."""
    if not len(payloads) or _has_map(wanted):
        return by_message(payloads, wanted)
    parts = (payloads[start : start + _PART_SIZE] for start in range(0, len(payloads), _PART_SIZE))
    return _at_once(payloads, wanted) or _joined([_part(part, wanted) for part in parts])


def _part(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    return _at_once(payloads, wanted) or by_message(payloads, wanted)


def _joined(parts: list[Parsed]) -> Parsed:
    undeclared: Counter[str] = Counter()
    for part in parts:
        undeclared.update(part.undeclared)
    values = pa.concat_arrays([part.values for part in parts])
    return Parsed(values, pa.concat_arrays([part.reasons for part in parts]), undeclared)


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """The exact reading, one message at a time."""
    check, declared, is_quick = _check(wanted, ""), _names(wanted), not _has_decimal(wanted)
    undeclared: list[str] = []
    values: list[dict[str, Any] | None] = []
    reasons: list[str | None] = []
    for payload in payloads.to_pylist():
        value = reason = None
        try:
            document = _document(payload or b"", is_quick)
            undeclared += _undeclared_names(document, declared)
            value = check(document)
        except _WrongType as wrong:
            reason = f"wrong type: {wrong}"
        except (ValueError, RecursionError):
            reason = NOT_JSON
        values.append(value)
        reasons.append(reason)
    spelled = pa.array(values, _spelled_type(wanted))
    return Parsed(_typed(spelled, wanted), pa.array(reasons, pa.string()), Counter(undeclared))


# --- a page at once ------------------------------------------------------------------------------------------------


def _at_once(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events, which is the usual page."""
    return _as_declared(payloads, wanted) or _with_more(payloads, wanted)


def _as_declared(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events that have declared fields only."""
    values = _values(payloads, wanted, "error")
    return None if values is None else Parsed(values, pa.nulls(len(values), pa.string()))


def _with_more(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None unless all messages are events; Arrow reads the declared fields, the others are only counted.

    Arrow could infer them too, but makes a column of each name, which fills the memory when names are ids, and goes
    down into nested values until the stack ends.
    """
    values = _values(payloads, wanted, "ignore")
    if values is None:
        return None
    undeclared = _counted(payloads, _names(wanted))
    return None if undeclared is None else Parsed(values, pa.nulls(len(values), pa.string()), undeclared)


def _counted(payloads: pa.BinaryArray, declared: _Names) -> Counter[str] | None:
    """The undeclared fields by name; None if one may hold what is no JSON to us, since Arrow passes over it."""
    names: list[str] = []
    for payload in payloads.to_pylist():
        document = None if _may_be_deep(payload) else _quick_document(payload)
        if document is None:
            return None
        names += _undeclared_names(document, declared)
    return Counter(names)


def _values(payloads: pa.BinaryArray, wanted: pa.StructType, undeclared_fields: str) -> pa.StructArray | None:
    """None when a message is no event, or has a field that nobody declared and `undeclared_fields` is "error"."""
    joined = _lines(payloads)
    if joined is None:
        return None
    try:
        values = _typed(_read_lines(joined, _spelled_type(wanted), undeclared_fields), wanted)
        is_one_each = len(values) == len(payloads)
        return values if is_one_each and _is_sound(values) else None
    except pa.ArrowException:
        return None


def _lines(payloads: pa.BinaryArray) -> pa.Buffer | None:
    """The payloads, one after another, if as many objects as payloads in them means one object in each.

    Each payload begins with { and ends with }. Where two meet, no object can go on: between a } and a { stands a comma
    or it is another object, and no text of JSON holds a line break. So each payload is some whole objects, or an error.
    """
    delimited = pc.and_(pc.starts_with(payloads, b"{"), pc.ends_with(payloads, b"}"))
    if not pc.all(delimited, skip_nulls=False).as_py():
        return None
    try:
        payloads.cast(pa.string())
        whole = pa.ListArray.from_arrays(pa.array([0, len(payloads)], pa.int32()), payloads)
        return pc.binary_join(whole, b"\n")[0].as_buffer()
    except pa.ArrowException:
        return None


def _read_lines(joined: pa.Buffer, spelled_type: pa.StructType, undeclared_fields: str) -> pa.StructArray:
    table = pyarrow.json.read_json(
        pa.BufferReader(joined),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=joined.size + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(spelled_type)), unexpected_field_behavior=undeclared_fields
        ),
    )
    return pa.concat_arrays(table.to_struct_array().chunks)


def _is_sound(array: pa.Array) -> bool:
    """Whether no number is NaN, infinite or wider than its decimal type, all of which Arrow reads."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.is_finite(array)).as_py() is not False
    if pa.types.is_struct(array.type):
        return all(_is_sound(member) for member in _members(array))
    if pa.types.is_decimal(array.type):
        array.validate(full=True)
    return _is_sound(array.values) if pa.types.is_list(array.type) else True


def _members(array: pa.StructArray) -> list[pa.Array]:
    """The columns of a struct, null where the struct is: Arrow leaves empty values there."""
    columns: list[pa.Array] = array.flatten()
    return columns


# --- the types as JSON spells them, and back ---------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _spelled_type(wanted: pa.DataType) -> pa.DataType:
    """How a value of the type is read first: what JSON writes as text is text, all floating point is double."""
    if pa.types.is_struct(wanted):
        return pa.struct([(member.name, _spelled_type(member.type)) for member in wanted])
    if pa.types.is_list(wanted):
        return pa.list_(pa.field("element", _spelled_type(wanted.value_type)))
    if pa.types.is_map(wanted):
        return pa.map_(pa.string(), _spelled_type(wanted.item_type))
    if pa.types.is_timestamp(wanted) or pa.types.is_date(wanted) or pa.types.is_binary(wanted):
        return pa.string()
    return pa.float64() if pa.types.is_floating(wanted) else wanted


def _has_map(wanted: pa.DataType) -> bool:
    return any(pa.types.is_map(part) for part in _parts_of(wanted))


def _has_decimal(wanted: pa.DataType) -> bool:
    return any(pa.types.is_decimal(part) for part in _parts_of(wanted))


def _parts_of(wanted: pa.DataType) -> Iterator[pa.DataType]:
    yield wanted
    for index in range(wanted.num_fields):
        yield from _parts_of(wanted.field(index).type)


def projected(array: pa.StructArray, wanted: pa.StructType) -> pa.StructArray:
    """The members of `wanted`, in its order, of an array that has at least those with the same leaf types."""
    return _typed(array, wanted)


def _typed(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`array` as `wanted`, undeclared members left out. ArrowInvalid for a text that is no such value."""
    if array.type == wanted:
        return array
    if pa.types.is_struct(wanted):
        columns = dict(zip((member.name for member in array.type), _members(array), strict=True))
        members = [_typed(columns[member.name], member.type) for member in wanted]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=_nulls(array))
    if pa.types.is_list(wanted):
        values = _typed(array.values, wanted.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=_nulls(array))
    if pa.types.is_map(wanted):
        items = _typed(array.items, wanted.item_type)
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
        return _typed(texts, wanted)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, wanted)
    half = len(texts) // 2
    return pa.concat_arrays([each_or_null(texts[:half], wanted), each_or_null(texts[half:], wanted)])


# --- one message ---------------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]
"""From a JSON value to what `_spelled_type` takes in its place; `_WrongType` where it is no such value."""

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MINUS_ZERO = re.compile(rb"-0[\s,\]}]")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_DECIMAL_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PLAIN_DATE = r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_PLAIN_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z"


class _WrongType(Exception):
    """Its text is the dotted name of the field."""


class _NotJSON(ValueError):
    pass


class _Number(str):
    """A JSON number as written: a decimal must not pass through a double."""


def _document(payload: bytes, is_quick: bool) -> dict[str, Any]:
    """The object in a payload; with `is_quick`, numbers may be Python's, where they are the same values."""
    if _may_be_deep(payload) and _depth(payload) > _MAX_DEPTH:
        raise _NotJSON
    document = (_quick_document(payload) if is_quick else None) or _exact_document(payload)
    if not isinstance(document, dict):
        raise _NotJSON
    return document


def _quick_document(payload: bytes) -> Any:
    """None where orjson has no answer, or one that is not exact: it reads the integer -0 as 0."""
    if _MINUS_ZERO.search(payload):
        return None
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None


def _exact_document(payload: bytes) -> Any:
    document = json.loads(payload.decode("utf-8"), parse_float=_Number, parse_int=_Number, parse_constant=_refuse)
    _check_text(document)
    return document


def _refuse(constant: str) -> None:
    raise _NotJSON(constant)


def _check_text(value: Any) -> None:
    """Half a surrogate pair is no text; a number beyond a double is none that two readers would agree on."""
    if isinstance(value, dict):
        for name, member in value.items():
            name.encode("utf-8")
            _check_text(member)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, _Number):
        if math.isinf(float(value)):
            raise _NotJSON(value)
    elif isinstance(value, str):
        value.encode("utf-8")


def _may_be_deep(payload: bytes) -> bool:
    return len(payload) > 2 * _MAX_DEPTH and payload.count(b"[") + payload.count(b"{") > _MAX_DEPTH


def _depth(payload: bytes) -> int:
    deepest = depth = 0
    for bracket in _TEXT.sub(b"", payload).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


@dataclass(frozen=True)
class _Names:
    """The declared names of an object, and those of the objects in it."""

    names: frozenset[str]
    objects: dict[str, _Names]


@lru_cache(maxsize=1024)
def _names(wanted: pa.StructType) -> _Names:
    objects = {member.name: _names(member.type) for member in wanted if pa.types.is_struct(member.type)}
    return _Names(frozenset(member.name for member in wanted), objects)


def _undeclared_names(document: dict[str, Any], declared: _Names, prefix: str = "") -> list[str]:
    names = [prefix + name for name in document.keys() - declared.names if document[name] is not None]
    for name, members in declared.objects.items():
        if isinstance(member := document.get(name), dict):
            names += _undeclared_names(member, members, f"{prefix}{name}.")
    return names


@lru_cache(maxsize=1024)
def _check(wanted: pa.DataType, path: str) -> Check:
    """The check of values of a type; `path` is the dotted name of the field that is wrong if one is."""
    if pa.types.is_struct(wanted):
        reading = _structure(wanted, path)
    elif pa.types.is_list(wanted):
        reading = _items(_check(wanted.value_type, path))
    elif pa.types.is_map(wanted):
        reading = _entries(_check(wanted.item_type, path))
    else:
        reading = _leaf(wanted)

    def check(value: Any) -> Any:
        if value is None:
            return None
        read = reading(value)
        if read is None:
            raise _WrongType(path)
        return read

    return check


def _structure(wanted: pa.StructType, path: str) -> Check:
    prefix = f"{path}." if path else ""
    checks = [(member.name, _check(member.type, prefix + member.name)) for member in wanted]

    def reading(value: Any) -> dict[str, Any] | None:
        return {name: check(value.get(name)) for name, check in checks} if isinstance(value, dict) else None

    return reading


def _items(check: Check) -> Check:
    return lambda value: [check(item) for item in value] if isinstance(value, list) else None


def _entries(check: Check) -> Check:
    return lambda value: [(key, check(item)) for key, item in value.items()] if isinstance(value, dict) else None


def _leaf(wanted: pa.DataType) -> Check:
    if pa.types.is_boolean(wanted):
        return lambda value: value if isinstance(value, bool) else None
    if pa.types.is_integer(wanted):
        return _integer(-(2 ** (wanted.bit_width - 1)), 2 ** (wanted.bit_width - 1))
    if pa.types.is_floating(wanted):
        return _double(math.inf if wanted.bit_width == 64 else _FLOAT_OVERFLOW)
    if pa.types.is_decimal(wanted):
        return lambda value: _decimal(value, wanted)
    if pa.types.is_string(wanted):
        return lambda value: value if type(value) is str else None
    plain = {pa.date32(): _PLAIN_DATE, pa.timestamp("us", "UTC"): f"{_PLAIN_DATE}T{_PLAIN_TIME}"}.get(wanted)
    return _spelled(wanted, re.compile(plain or r"(?!)"))


def _integer(least: int, bound: int) -> Check:
    def reading(value: Any) -> int | None:
        if type(value) is _Number and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        return value if type(value) is int and least <= value < bound else None

    return reading


def _double(bound: float) -> Check:
    def reading(value: Any) -> float | None:
        number = float(value) if type(value) in (float, int, _Number) else math.inf
        return number if abs(number) < bound else None

    return reading


def _decimal(value: Any, wanted: pa.DataType) -> Decimal | None:
    if not isinstance(value, str) or not _DECIMAL_NUMBER.fullmatch(value):
        return None
    try:
        number: Decimal = pa.scalar(Decimal(value), wanted).as_py()
    except (InvalidOperation, pa.ArrowException):
        return None
    return number


def _spelled(wanted: pa.DataType, plain: re.Pattern[str]) -> Check:
    """Texts of which Arrow says that they are such a value; of `plain` ones it need not be asked."""

    def reading(value: Any) -> str | None:
        if type(value) is not str:
            return None
        return (
            value if plain.fullmatch(value) or each_or_null(pa.array([value]), wanted).is_valid()[0].as_py() else None
        )

    return reading
