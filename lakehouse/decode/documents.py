"""Columns of a spelled type from parsed documents, many values at a time: for what Arrow's reader of JSON has not."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa


class NotOfType(Exception):
    """A value is not of the type, or cannot be read exactly at once."""


def column(values: list[Any], spelled: pa.DataType) -> pa.Array:
    """JSON values as one column; NotOfType unless each is null or exactly of the type, as the exact reading has it."""
    if pa.types.is_struct(spelled):
        return _structs(values, spelled)
    if pa.types.is_list(spelled):
        _check_kinds(values, {list})
        items = column(list(chain.from_iterable(filter(None, values))), spelled.value_type)
        return pa.ListArray.from_arrays(_offsets(values), items, type=spelled, mask=_nulls(values))
    if pa.types.is_map(spelled):
        _check_kinds(values, {dict})
        some = list(filter(None, values))
        keys = pa.array(list(chain.from_iterable(some)), pa.string())
        items = column(list(chain.from_iterable(each.values() for each in some)), spelled.item_type)
        return pa.MapArray.from_arrays(_offsets(values), keys, items, type=spelled, mask=_nulls(values))
    _check_kinds(values, _kinds_of(spelled))
    try:
        return pa.array(values, spelled)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise NotOfType from error


def _structs(values: list[Any], spelled: pa.StructType) -> pa.StructArray:
    _check_kinds(values, {dict})
    objects = [value or {} for value in values]
    members = [column([each.get(member.name) for each in objects], member.type) for member in spelled]
    return pa.StructArray.from_arrays(members, fields=list(spelled), mask=_nulls(values))


def _kinds_of(spelled: pa.DataType) -> set[type]:
    if pa.types.is_string(spelled):
        return {str}
    if pa.types.is_boolean(spelled):
        return {bool}
    if pa.types.is_integer(spelled):
        return {int}
    return {int, float} if pa.types.is_floating(spelled) else set()


def _check_kinds(values: Iterable[Any], allowed: set[type]) -> None:
    if not set(map(type, values)) <= {*allowed, type(None)}:
        raise NotOfType


def _offsets(values: list[Any]) -> pa.Array:
    return pa.array(list(accumulate((len(value or ()) for value in values), initial=0)), pa.int32())


def _nulls(values: list[Any]) -> pa.BooleanArray | None:
    return pa.array([value is None for value in values]) if None in values else None
