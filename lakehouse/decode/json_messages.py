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
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import orjson
import pyarrow as pa

from lakehouse.decode.columns import Parsed, each_or_null, has_decimal, spelled_type, typed

NOT_JSON = "not JSON"

_MAX_DEPTH = 200
"""Brackets nested deeper than this are not JSON to us: Python and Arrow would each find limits of their own."""
_FLOAT_OVERFLOW = 2.0**128 - 2.0**103
"""From here on a double is rounded to infinity as a 32-bit `float`."""


def by_message(payloads: pa.BinaryArray, wanted: pa.StructType) -> Parsed:
    """The exact reading, one message at a time."""
    check, declared, is_quick = _check(wanted, ""), names_of(wanted), not has_decimal(wanted)
    undeclared: list[str] = []
    values: list[dict[str, Any] | None] = []
    reasons: list[str | None] = []
    for payload in payloads.to_pylist():
        value = reason = None
        try:
            document = _document(payload or b"", is_quick)
            undeclared += undeclared_names(document, declared)
            value = check(document)
        except _WrongType as wrong:
            reason = f"wrong type: {wrong}"
        except (ValueError, RecursionError):
            reason = NOT_JSON
        values.append(value)
        reasons.append(reason)
    spelled = pa.array(values, spelled_type(wanted))
    return Parsed(typed(spelled, wanted), pa.array(reasons, pa.string()), Counter(undeclared))


Check = Callable[[Any], Any]
"""From a JSON value to what `spelled_type` takes in its place; `_WrongType` where it is no such value."""

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
    if may_be_deep(payload) and _depth(payload) > _MAX_DEPTH:
        raise _NotJSON
    document = (quick_document(payload) if is_quick else None) or _exact_document(payload)
    if not isinstance(document, dict):
        raise _NotJSON
    return document


def quick_document(payload: bytes) -> Any:
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


def may_be_deep(payload: bytes) -> bool:
    return len(payload) > 2 * _MAX_DEPTH and payload.count(b"[") + payload.count(b"{") > _MAX_DEPTH


def _depth(payload: bytes) -> int:
    deepest = depth = 0
    for bracket in _TEXT.sub(b"", payload).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


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
