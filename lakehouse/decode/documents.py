"""Columns from parsed documents, many values at a time, with the rows in which a value is of a wrong type.

What Arrow's reader of JSON has not: maps, undeclared fields, a value of a wrong type that spoils only its own row.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.decode.columns import FLOAT_OVERFLOW, each_or_null

_NULL = type(None)
_EXACT_DIGITS, _EXACT_POWERS = 15, 22
"""What a double holds exactly: decimals of so many digits, powers of ten up to this one."""


@dataclass
class Wrong:
    """The first wrong field of each row, by its dotted name, in the order in which messages are checked."""

    paths: dict[int, str] = field(default_factory=dict)
    unclear: set[int] = field(default_factory=set)
    """Rows whose first wrong field is not known: two in the items of one list, which are checked item by item."""
    _lists: dict[int, str] = field(default_factory=dict)

    def add(self, place: Place, positions: list[int]) -> None:
        for position in positions:
            row = position if place.rows is None else int(place.rows[position])
            if row not in self.paths:
                self.paths[row] = place.path
                if place.outer is not None:
                    self._lists[row] = place.outer
            elif self.paths[row] != place.path and self._lists.get(row, place) == place.outer:
                self.unclear.add(row)


@dataclass(frozen=True)
class Place:
    """Where values are: their field, the row of each (None: one a row), and the outermost list or map around them."""

    path: str = ""
    rows: np.ndarray | None = None
    outer: str | None = None

    def member(self, name: str) -> Place:
        return replace(self, path=f"{self.path}.{name}" if self.path else name)

    def items(self, lengths: list[int]) -> Place:
        rows = np.arange(len(lengths)) if self.rows is None else self.rows
        outer = self.path if self.outer is None else self.outer
        return replace(self, rows=np.repeat(rows, lengths), outer=outer)


def column(values: list[Any], wanted: pa.DataType, wrong: Wrong, int64_as_text: bool, place: Place) -> pa.Array:
    """JSON values, as orjson reads them, as one column; null where one is wrong, which is added to `wrong`.

    A number in a decimal column must be the shortest text of its double.
    """
    if pa.types.is_struct(wanted):
        values = _of_kinds(values, {dict}, wrong, place)
        objects = [value or {} for value in values]
        columns = []
        for name, member in _members_of(wanted):
            members = [each.get(name) for each in objects]
            columns.append(column(members, member, wrong, int64_as_text, place.member(name)))
        return pa.StructArray.from_arrays(columns, fields=list(wanted), mask=_nulls(values))
    if pa.types.is_list(wanted) or pa.types.is_map(wanted):
        return _nested_array(values, wanted, wrong, int64_as_text, place)
    return _leaves(values, wanted, wrong, int64_as_text, place)


@lru_cache(maxsize=1024)
def _members_of(wanted: pa.StructType) -> list[tuple[str, pa.DataType]]:
    return [(member.name, member.type) for member in wanted]


def _nested_array(values: list[Any], wanted: pa.DataType, wrong: Wrong, int64_as_text: bool, place: Place) -> pa.Array:
    values = _of_kinds(values, {list} if pa.types.is_list(wanted) else {dict}, wrong, place)
    inner_type = wanted.value_type if pa.types.is_list(wanted) else wanted.item_type
    if _is_strict(inner_type):
        with suppress(pa.ArrowException):
            return pa.array(values, wanted)
    lengths = [len(value or ()) for value in values]
    offsets = pa.array(list(accumulate(lengths, initial=0)), pa.int32())
    some, inner = list(filter(None, values)), place.items(lengths)
    if pa.types.is_list(wanted):
        items = column(list(chain.from_iterable(some)), wanted.value_type, wrong, int64_as_text, inner)
        return pa.ListArray.from_arrays(offsets, items, type=wanted, mask=_nulls(values))
    keys = pa.array(list(chain.from_iterable(some)), pa.string())
    flat = list(chain.from_iterable(each.values() for each in some))
    items = column(flat, wanted.item_type, wrong, int64_as_text, inner)
    return pa.MapArray.from_arrays(offsets, keys, items, type=wanted, mask=_nulls(values))


def _leaves(values: list[Any], wanted: pa.DataType, wrong: Wrong, int64_as_text: bool, place: Place) -> pa.Array:
    if _is_strict(wanted):
        with suppress(pa.ArrowException):
            return pa.array(values, wanted)
    values = _of_kinds(values, _kinds_of(wanted, int64_as_text), wrong, place)
    if pa.types.is_floating(wanted):
        return _doubles(values, wanted, wrong, place)
    if pa.types.is_integer(wanted) and not (int64_as_text and str in set(map(type, values))):
        return _integers(values, wanted, wrong, place)
    if pa.types.is_string(wanted) or pa.types.is_boolean(wanted):
        return pa.array(values, wanted)
    return _from_texts(values, wanted, wrong, place)


def _is_strict(wanted: pa.DataType) -> bool:
    """Whether Arrow refuses what `_of_kinds` would call wrong, so that its types need no check."""
    return bool(pa.types.is_string(wanted) or pa.types.is_boolean(wanted))


def _from_texts(values: list[Any], wanted: pa.DataType, wrong: Wrong, place: Place) -> pa.Array:
    exact = None
    if not set(map(type, values)) <= {str, _NULL}:
        if pa.types.is_decimal(wanted) and wanted.scale <= _EXACT_POWERS:
            exact, values = _exact_decimals(values, wanted)
        values = [each if each is None or type(each) is str else repr(each) for each in values]
    texts = pa.array(values, pa.string())
    if exact is not None and texts.null_count == len(texts):
        return exact
    read = each_or_null(texts, wanted)
    if read.null_count > texts.null_count:
        wrong.add(place, np.flatnonzero(pc.and_(pc.is_valid(texts), pc.is_null(read))).tolist())
    return read if exact is None else pc.coalesce(exact, read)


def _exact_decimals(values: list[Any], wanted: pa.DataType) -> tuple[pa.Array, list[Any]]:
    """Numbers as decimals, null where the double does not say which; and the values that are left.

    Decimals of at most 15 digits differ as doubles. So the one whose double this is, is what its shortest text says.
    """
    numbers = [None if type(each) is str else each for each in values]
    doubles, power = np.array(numbers, np.float64), 10.0**wanted.scale
    with np.errstate(over="ignore"):
        unscaled = np.rint(doubles * power)
        is_exact = np.abs(unscaled) < 10.0 ** min(_EXACT_DIGITS, wanted.precision)
        is_exact &= unscaled / power == doubles
    words = np.zeros((len(values), 2), np.int64)
    words[:, 0] = np.where(is_exact, unscaled, 0)
    words[:, 1] = words[:, 0] >> 63
    validity = pa.py_buffer(np.packbits(is_exact, bitorder="little"))
    exact = pa.Array.from_buffers(wanted, len(values), [validity, pa.py_buffer(words)])
    if is_exact.all():
        return exact, [None] * len(values)
    return exact, [None if known else each for each, known in zip(values, is_exact.tolist(), strict=True)]


def _kinds_of(wanted: pa.DataType, int64_as_text: bool) -> set[type]:
    if pa.types.is_boolean(wanted):
        return {bool}
    if pa.types.is_integer(wanted):
        return {int, str} if int64_as_text and pa.types.is_int64(wanted) else {int}
    if pa.types.is_decimal(wanted):
        return {int, float, str}
    return {int, float} if pa.types.is_floating(wanted) else {str}


def _of_kinds(values: list[Any], allowed: set[type], wrong: Wrong, place: Place) -> list[Any]:
    allowed = {*allowed, _NULL}
    if set(map(type, values)) <= allowed:
        return values
    return _without(values, [at for at, kind in enumerate(map(type, values)) if kind not in allowed], wrong, place)


def _without(values: list[Any], positions: list[int], wrong: Wrong, place: Place) -> list[Any]:
    wrong.add(place, positions)
    left = values.copy()
    for position in positions:
        left[position] = None
    return left


def _integers(values: list[Any], wanted: pa.DataType, wrong: Wrong, place: Place) -> pa.Array:
    try:
        return pa.array(values, wanted)
    except (pa.ArrowException, OverflowError):
        bound = 2 ** (wanted.bit_width - 1)
        is_wrong = [at for at, value in enumerate(values) if value is not None and not -bound <= value < bound]
        return pa.array(_without(values, is_wrong, wrong, place), wanted)


def _doubles(values: list[Any], wanted: pa.DataType, wrong: Wrong, place: Place) -> pa.Array:
    """Python's rounding of integers, since Arrow refuses those beyond 53 bits."""
    if int in set(map(type, values)):
        values = [None if value is None else float(value) for value in values]
    if wanted.bit_width < 64:
        is_wrong = [at for at, value in enumerate(values) if value is not None and abs(value) >= FLOAT_OVERFLOW]
        values = _without(values, is_wrong, wrong, place) if is_wrong else values
    return pa.array(values, pa.float64()).cast(wanted)


def _nulls(values: list[Any]) -> pa.BooleanArray | None:
    return pa.array([value is None for value in values]) if None in values else None
