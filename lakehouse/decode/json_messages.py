"""JSON payloads to typed Arrow columns, one message at a time: the exact reference of `json_pages`.

Fields declared as timestamp, date, binary (base64) or decimal are JSON strings (a decimal may be a number too). A wrong
type is a reason, never a null.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from lakehouse.decode.columns import (
    DATE,
    FLOAT_OVERFLOW,
    INSTANT,
    INTEGER,
    Parsed,
    as_type,
    decimal_or_none,
    each_or_null,
    has_decimal,
    spelled_type,
)
from lakehouse.decode.one_by_one import UndecodableError, WrongTypeError, each_read

NOT_JSON = "not JSON"
COMPRESSED = {
    b"\x1f\x8b": "gzip",  # RFC 1952
    b"\x28\xb5\x2f\xfd": "zstd",  # RFC 8878
    b"\x04\x22\x4d\x18": "lz4",  # the LZ4 frame format
    b"\x78\x01": "zlib",  # RFC 1950, by level
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}
"""How compressed data begins. None of it begins a JSON document."""
_FIRST_OF_COMPRESSED = frozenset(beginning[0] for beginning in COMPRESSED)

MAX_DEPTH = 200
"""Brackets nested deeper than this are not JSON to us: Python and Arrow would each find limits of their own."""


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType, int64_as_text: bool = False) -> Parsed:
    """The exact reading, one message at a time."""
    check, declared, is_quick = _check(wanted, "", int64_as_text), names_of(wanted), not has_decimal(wanted)
    undeclared: Counter[str] = Counter()

    def value(payload: bytes) -> Any:
        try:
            document = _document(payload, is_quick)
            undeclared.update(undeclared_names(document, declared))
            return check(document)
        except (ValueError, RecursionError):
            raise UndecodableError(reason_of_no_object(payload)) from None

    values, reasons = each_read(payloads.to_pylist(), value)
    spelled = pa.array(values, spelled_type(wanted, int64_as_text))
    return Parsed(as_type(spelled, wanted), pa.array(reasons, pa.string()), undeclared)


def reason_of_no_object(payload: bytes | None) -> str:
    """Why a payload that is no JSON object is rejected: `compressed (gzip)`, where its first bytes say so."""
    if payload and payload[0] in _FIRST_OF_COMPRESSED:
        for beginning, name in COMPRESSED.items():
            if payload.startswith(beginning):
                return f"compressed ({name})"
    return NOT_JSON


Check = Callable[[Any], Any]
"""From a JSON value to what `spelled_type` takes in its place; WrongTypeError where it is no such value."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A text, or the rest where it does not end. Without a way back, so that it takes linear time."""
_TEXT_OR_NUMBER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?', re.DOTALL
)
_LARGE_NUMBER = re.compile(rb"[0-9]{200}|[eE]\+?[0-9]{3}")
"""Part of every number beyond a double: with fewer digits, and an exponent below 100, none is."""
_QUOTE = ord('"')
_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[list(b"[{")] = 1
_BRACKETS[list(b"]}")] = -1
_MINUS_ZERO = re.compile(rb"-0[\s,\]}]")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_INTEGER_TEXT = re.compile(INTEGER)
_DATE = re.compile(rf"(?!0000){DATE}")
_PLAIN_INSTANT = re.compile(rf"(?!0000|0001|9999){INSTANT}")
"""Without the years in which a zone could lead out of the range; these are left to Arrow."""


class _NotJSON(ValueError):
    pass


class _Number(str):
    """A JSON number as written: a decimal must not pass through a double."""


def _document(payload: bytes, is_quick: bool) -> dict[str, Any]:
    """The object in a payload; with `is_quick`, numbers may be Python's, where they are the same values."""
    if is_too_deep(payload):
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
    """What orjson refuses is no JSON here either: it also sees a value that a later one of the same name hides.

    But for numbers beyond a double, which it refuses, too: they are JSON, and of no type that a field can have.
    """
    orjson.loads(_without_large_numbers(payload))
    document = json.loads(payload.decode("utf-8"), parse_float=_Number, parse_int=_Number, parse_constant=_refuse)
    _check_text(document)
    return document


def may_hold_large_number(payload: bytes) -> bool:
    """Whether a number beyond a double may be in it."""
    return _LARGE_NUMBER.search(payload) is not None


def _without_large_numbers(payload: bytes) -> bytes:
    """With 0 for each number beyond a double, so that what is left tells whether it is JSON."""
    if not may_hold_large_number(payload):
        return payload
    return _TEXT_OR_NUMBER.sub(lambda token: b"0" if _is_large(token[0]) else token[0], payload)


def _is_large(token: bytes) -> bool:
    return not token.startswith(b'"') and math.isinf(float(token))


def _refuse(constant: str) -> None:
    raise _NotJSON(constant)


def _check_text(value: Any) -> None:
    """Half a surrogate pair is no text."""
    if isinstance(value, dict):
        for name, member in value.items():
            name.encode("utf-8")
            _check_text(member)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, str):
        value.encode("utf-8")


def is_too_deep(payload: bytes) -> bool:
    """Whether brackets nest deeper than we read, in time linear in the payload's length whatever it holds."""
    if len(payload) <= 2 * MAX_DEPTH or payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    characters = np.frombuffer(payload, np.uint8)
    steps = _BRACKETS[characters]
    if b"\\" in payload:
        steps = _BRACKETS[np.frombuffer(_TEXT.sub(b"", payload), np.uint8)]
    else:
        steps[np.cumsum(characters == _QUOTE) % 2 == 1] = 0
    return bool(np.cumsum(steps, dtype=np.int32).max(initial=0) > MAX_DEPTH)


@dataclass(frozen=True)
class Names:
    """The declared names of an object, and those of the objects in it."""

    names: frozenset[str]
    objects: dict[str, Names]


@lru_cache(maxsize=1024)
def names_of(wanted: pa.StructType) -> Names:
    objects = {member.name: names_of(member.type) for member in wanted if pa.types.is_struct(member.type)}
    return Names(frozenset(member.name for member in wanted), objects)


def undeclared_names(document: dict[str, Any], declared: Names, prefix: str = "") -> list[str]:
    names = [prefix + name for name in document.keys() - declared.names if document[name] is not None]
    for name, members in declared.objects.items():
        if isinstance(member := document.get(name), dict):
            names += undeclared_names(member, members, f"{prefix}{name}.")
    return names


@lru_cache(maxsize=1024)
def _check(wanted: pa.DataType, path: str, int64_as_text: bool) -> Check:
    """The check of values of a type; `path` is the dotted name of the field that is wrong if one is."""
    if pa.types.is_struct(wanted):
        reading = _structure(wanted, path, int64_as_text)
    elif pa.types.is_list(wanted):
        reading = _items(_check(wanted.value_type, path, int64_as_text))
    elif pa.types.is_map(wanted):
        reading = _entries(_check(wanted.item_type, path, int64_as_text))
    else:
        reading = _leaf(wanted, int64_as_text)

    def check(value: Any) -> Any:
        if value is None:
            return None
        read = reading(value)
        if read is None:
            raise WrongTypeError(path)
        return read

    return check


def _structure(wanted: pa.StructType, path: str, int64_as_text: bool) -> Check:
    prefix = f"{path}." if path else ""
    checks = [(member.name, _check(member.type, prefix + member.name, int64_as_text)) for member in wanted]

    def reading(value: Any) -> dict[str, Any] | None:
        return {name: check(value.get(name)) for name, check in checks} if isinstance(value, dict) else None

    return reading


def _items(check: Check) -> Check:
    return lambda value: [check(item) for item in value] if isinstance(value, list) else None


def _entries(check: Check) -> Check:
    return lambda value: [(key, check(item)) for key, item in value.items()] if isinstance(value, dict) else None


def _leaf(wanted: pa.DataType, int64_as_text: bool) -> Check:
    if pa.types.is_boolean(wanted):
        return lambda value: value if isinstance(value, bool) else None
    if pa.types.is_integer(wanted):
        bound = 2 ** (wanted.bit_width - 1)
        return _int64_or_text if int64_as_text and wanted.bit_width == 64 else _integer(-bound, bound)
    if pa.types.is_floating(wanted):
        return _double(math.inf if wanted.bit_width == 64 else FLOAT_OVERFLOW)
    if pa.types.is_decimal(wanted):
        return lambda value: decimal_or_none(value, wanted) if isinstance(value, str) else None
    if pa.types.is_string(wanted):
        return lambda value: value if type(value) is str else None
    if pa.types.is_timestamp(wanted):
        return lambda value: _value_text(value, wanted, _PLAIN_INSTANT)
    if pa.types.is_date(wanted):
        return lambda value: value if type(value) is str and _DATE.fullmatch(value) else None
    return lambda value: _value_text(value, wanted, None)


def _integer(least: int, bound: int) -> Check:
    def reading(value: Any) -> int | None:
        if type(value) is _Number and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        return value if type(value) is int and least <= value < bound else None

    return reading


_int64 = _integer(-(2**63), 2**63)


def _int64_or_text(value: Any) -> str | None:
    """As text in either form, which is how a column that has both is read."""
    if type(value) is str and _INTEGER_TEXT.fullmatch(value):
        value = int(value)
    number = _int64(value)
    return None if number is None else str(number)


def _double(bound: float) -> Check:
    def reading(value: Any) -> float | None:
        number = float(value) if type(value) in (float, int, _Number) else math.inf
        return number if abs(number) < bound else None

    return reading


def _value_text(value: Any, wanted: pa.DataType, plain: re.Pattern[str] | None) -> str | None:
    """Texts of which Arrow says that they are such a value; of `plain` ones it need not be asked."""
    if type(value) is not str:
        return None
    is_plain = plain is not None and plain.fullmatch(value) is not None
    return value if is_plain or each_or_null(pa.array([value]), wanted).is_valid()[0].as_py() else None
