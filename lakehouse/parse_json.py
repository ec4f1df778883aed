"""JSON payloads to typed Arrow columns: a page at once where it is clean, else message by message.

Fields declared as timestamp, date, binary (base64) or decimal are JSON strings (a decimal may be a number too). A wrong
type is a reason, never a null. `page` accepts only what `by_message` accepts with the same values; tests hold that.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

NOT_JSON = "not JSON"

_FRACTION_BEYOND_MICROSECONDS = r"(\.\d{6})\d+"
_YEAR_ONE = pa.scalar(-62_135_596_800_000_000, pa.timestamp("us", "UTC"))
_FEW = 32
"""Reading so many messages one by one costs less than another attempt at their page."""
_MAX_DEPTH = 200
"""Brackets nested deeper than this are not JSON to us: Python and Arrow would each find limits of their own."""


_LARGEST_FLOAT = 3.4028234663852886e38
"""What Spark's 32-bit `float` holds at most."""


@dataclass(frozen=True)
class Parsed:
    """`values` has the type that was asked for; where `reasons` has one, the value is null."""

    values: pa.StructArray
    reasons: pa.StringArray
    undeclared: Counter[str] = field(default_factory=Counter)


def page(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """All messages of a page in one pass of Arrow's reader; the parts of it that are odd, `by_message`."""
    clean = _clean_page(payloads, wanted)
    if clean or len(payloads) <= _FEW or not _has_fast_path(wanted):
        return clean or by_message(payloads, wanted)
    half = len(payloads) // 2
    return _joined(page(payloads[:half], wanted), page(payloads[half:], wanted))


def _joined(first: Parsed, second: Parsed) -> Parsed:
    return Parsed(
        pa.concat_arrays([first.values, second.values]),
        pa.concat_arrays([first.reasons, second.reasons]),
        first.undeclared + second.undeclared,
    )


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """The exact reading, one message at a time."""
    undeclared: Counter[str] = Counter()
    values: list[dict[str, Any] | None] = []
    reasons: list[str | None] = []
    for payload in payloads.to_pylist():
        value, reason, names = _read(payload or b"", wanted)
        values.append(value)
        reasons.append(reason)
        undeclared.update(names)
    spelled = pa.array(values, _spelled_type(wanted))
    return Parsed(_typed(spelled, wanted), pa.array(reasons, pa.string()), undeclared)


def _clean_page(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed | None:
    """None when the page has to be read message by message.

    Each payload begins with { and ends with }, so a line that does not close its own brackets cannot be completed by the
    next one (after a } JSON goes on with a comma or a closing bracket, never with a {): as many objects as payloads
    means one in each.
    """
    if not len(payloads) or not _has_fast_path(wanted):
        return None
    starts = pc.starts_with(payloads, b"{")
    ends = pc.ends_with(payloads, b"}")
    if not pc.all(pc.and_(starts, ends), skip_nulls=False).as_py():
        return None
    joined = b"\n".join(payloads.to_pylist())
    if joined.count(b"\n") != len(payloads) - 1 or b"\\ud" in joined or b"\\uD" in joined or _may_be_deep(joined):
        return None
    try:
        payloads.cast(pa.string())
        table = pyarrow.json.read_json(
            pa.BufferReader(joined),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(joined) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(_spelled_type(wanted))), unexpected_field_behavior="infer"
            ),
        )
        if table.num_rows != len(payloads):
            return None
        spelled = table.combine_chunks().to_struct_array()
        spelled = spelled.combine_chunks() if isinstance(spelled, pa.ChunkedArray) else spelled
        if not _is_finite(spelled):
            return None
        return Parsed(_typed(spelled, wanted), pa.nulls(len(payloads), pa.string()), _undeclared(spelled, wanted))
    except pa.ArrowException:
        return None


def _may_be_deep(joined: bytes) -> bool:
    """Whether nesting could pass `_MAX_DEPTH`: cheap, never wrong about a deep page, sometimes about a flat one."""
    return joined.count(b"[") + joined.count(b"{") > _MAX_DEPTH and any(
        line.count(b"[") + line.count(b"{") > _MAX_DEPTH for line in joined.split(b"\n")
    )


def _is_finite(array: pa.Array) -> bool:
    """Whether no NaN or infinity stands anywhere: Arrow reads them as numbers, JSON has no such thing."""
    if pa.types.is_floating(array.type):
        return pc.all(pc.is_finite(array)).as_py() is not False
    if pa.types.is_struct(array.type):
        return all(_is_finite(member) for member in _members(array))
    return _is_finite(array.values) if pa.types.is_list(array.type) else True


def _undeclared(array: pa.StructArray, wanted: pa.StructType, prefix: str = "") -> Counter[str]:
    declared = {member.name: member.type for member in wanted}
    names: Counter[str] = Counter()
    for member, column in zip(array.type, _members(array), strict=True):
        if member.name not in declared:
            names[prefix + member.name] = len(column) - column.null_count
        elif pa.types.is_struct(member.type):
            names.update(_undeclared(column, declared[member.name], f"{prefix}{member.name}."))
    return +names


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


@lru_cache(maxsize=1024)
def _has_fast_path(wanted: pa.DataType) -> bool:
    """Arrow's JSON reader has no maps; base64 is read in Python."""
    if pa.types.is_struct(wanted):
        return all(_has_fast_path(member.type) for member in wanted)
    if pa.types.is_list(wanted):
        return _has_fast_path(wanted.value_type)
    return not (pa.types.is_map(wanted) or pa.types.is_binary(wanted))


def projected(array: pa.StructArray, wanted: pa.StructType) -> pa.StructArray:
    """The members of `wanted`, in its order, of an array that has at least those with the same leaf types."""
    return array if array.type == wanted else _typed(array, wanted)


def _typed(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """`array` as `wanted`, undeclared members left out. ArrowInvalid for a text that is no such value."""
    if array.type == wanted:
        return array
    if pa.types.is_struct(wanted):
        columns = dict(zip((member.name for member in array.type), _members(array), strict=True))
        members = [_typed(columns[member.name], member.type) for member in wanted]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=array.is_null())
    if pa.types.is_list(wanted):
        values = _typed(array.values, wanted.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=array.is_null())
    if pa.types.is_map(wanted):
        items = _typed(array.items, wanted.item_type)
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, type=wanted, mask=array.is_null())
    if pa.types.is_binary(wanted):
        return pa.array([_unbase64(text) for text in array.to_pylist()], wanted)
    return _timestamps(array) if pa.types.is_timestamp(wanted) else array.cast(wanted)


def _unbase64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _timestamps(texts: pa.StringArray) -> pa.TimestampArray:
    """ISO 8601 with a zone, to the microsecond; ArrowInvalid otherwise. Finer fractions are cut off."""
    instant = pa.timestamp("us", "UTC")
    try:
        instants = texts.cast(instant)
    except pa.ArrowInvalid:
        instants = pc.replace_substring_regex(texts, _FRACTION_BEYOND_MICROSECONDS, r"\1").cast(instant)
    if pc.any(pc.less(instants, _YEAR_ONE)).as_py():
        raise pa.ArrowInvalid("a time before the year 1, which Spark cannot hold")
    return instants


def lenient_timestamps(texts: pa.StringArray) -> pa.TimestampArray:
    """Instants, null where a text is none."""
    try:
        return _timestamps(texts)
    except pa.ArrowInvalid:
        return each_or_null(texts, pa.timestamp("us", "UTC"))


def each_or_null(texts: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    """Each text as `wanted`, null where it is no such value."""
    return pa.concat_arrays([_one_or_null(texts[index : index + 1], wanted) for index in range(len(texts))])


def _one_or_null(text: pa.StringArray, wanted: pa.DataType) -> pa.Array:
    # A slice keeps the buffers of its parent, and a cast looks at the slice alone.
    try:
        return _typed(text, wanted)
    except pa.ArrowInvalid:
        return pa.nulls(1, wanted)


# --- one message ---------------------------------------------------------------------------------------------------


class _WrongType(Exception):
    pass


class _NotJSON(ValueError):
    pass


def _read(payload: bytes, wanted: pa.StructType) -> tuple[dict[str, Any] | None, str | None, list[str]]:
    try:
        document = _document(payload)
    except (ValueError, RecursionError):
        return None, NOT_JSON, []
    names = _undeclared_names(document, wanted)
    try:
        return _checked(document, wanted, ""), None, names
    except _WrongType as wrong:
        return None, f"wrong type: {wrong}", names


def _document(payload: bytes) -> dict[str, Any]:
    if payload.count(b"[") + payload.count(b"{") > _MAX_DEPTH and _depth(payload) > _MAX_DEPTH:
        raise _NotJSON
    document = json.loads(payload.decode("utf-8"), parse_float=_Number, parse_int=_Integer, parse_constant=_refuse)
    if not isinstance(document, dict):
        raise _NotJSON
    _check_text(document)
    return document


class _Number(str):
    """A JSON number with a fraction or an exponent, as written: a decimal must not pass through a double."""


class _Integer(str):
    """A JSON integer as written: of any size, and `-0` is still negative for a double."""


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
    elif isinstance(value, (_Number, _Integer)):
        if math.isinf(float(value)):
            raise _NotJSON(value)
    elif isinstance(value, str):
        value.encode("utf-8")


def _depth(payload: bytes) -> int:
    deepest = depth = 0
    in_text = escaped = False
    for character in payload:
        if escaped:
            escaped = False
        elif in_text:
            escaped, in_text = character == 0x5C, character != 0x22
        elif character == 0x22:
            in_text = True
        elif character in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in b"]}":
            depth -= 1
    return deepest


def _undeclared_names(document: dict[str, Any], wanted: pa.StructType, prefix: str = "") -> list[str]:
    declared = {member.name: member.type for member in wanted}
    names = []
    for name, value in document.items():
        if name not in declared:
            names += [prefix + name] if value is not None else []
        elif isinstance(value, dict) and pa.types.is_struct(declared[name]):
            names += _undeclared_names(value, declared[name], f"{prefix}{name}.")
    return names


def _checked(value: Any, wanted: pa.DataType, path: str) -> Any:
    """`value` as `_spelled_type(wanted)` takes it; `_WrongType` with the field's dotted name."""
    if value is None:
        return None
    checked = _reading(value, wanted, path)
    if checked is None:
        raise _WrongType(path)
    return checked


def _reading(value: Any, wanted: pa.DataType, path: str) -> Any:
    if pa.types.is_struct(wanted):
        return _structure(value, wanted, path)
    if pa.types.is_list(wanted):
        return [_checked(item, wanted.value_type, path) for item in value] if isinstance(value, list) else None
    if pa.types.is_map(wanted):
        items = value.items() if isinstance(value, dict) else None
        return None if items is None else [(key, _checked(item, wanted.item_type, path)) for key, item in items]
    if pa.types.is_boolean(wanted):
        return value if isinstance(value, bool) else None
    if pa.types.is_integer(wanted):
        return _integer(value, wanted.bit_width) if isinstance(value, _Integer) else None
    if pa.types.is_floating(wanted):
        return _double(value, wanted) if isinstance(value, (_Number, _Integer)) else None
    if pa.types.is_decimal(wanted):
        return _decimal(value, wanted)
    return _text(value, wanted)


def _structure(value: Any, wanted: pa.StructType, path: str) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    prefix = f"{path}." if path else ""
    return {member.name: _checked(value.get(member.name), member.type, prefix + member.name) for member in wanted}


def _integer(written: str, bits: int) -> int | None:
    number = int(written) if len(written) <= 20 else None  # noqa: PLR2004 - 2**63 has 19 digits and perhaps a sign
    return number if number is not None and -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None


def _double(written: str, wanted: pa.DataType) -> float | None:
    number = float(written)
    return number if wanted.bit_width == 64 or abs(number) <= _LARGEST_FLOAT else None  # noqa: PLR2004


def _decimal(value: Any, wanted: pa.DataType) -> Decimal | None:
    try:
        number = Decimal(value) if isinstance(value, str) and value.strip() == value and "_" not in value else None
        return pa.scalar(number, wanted).as_py() if number is not None and number.is_finite() else None
    except (InvalidOperation, pa.ArrowException):
        return None


def _text(value: Any, wanted: pa.DataType) -> str | None:
    if not isinstance(value, str) or isinstance(value, (_Number, _Integer)):
        return None
    if pa.types.is_string(wanted):
        return value
    try:
        _typed(pa.array([value], pa.string()), wanted)
    except (pa.ArrowException, binascii.Error):
        return None
    return value
