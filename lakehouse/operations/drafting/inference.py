"""Field types guessed from sample documents, and what is unsure about each guess."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse.decode.columns import DATE, INSTANT, each_or_null
from lakehouse.schemas import TIMESTAMP
from lakehouse.topics import DELIVERY_COLUMNS
from lakehouse.types import arrow_type

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names that every table, every target and `payload.<dotted path>` can spell."""
NOT_DECLARED = "not declared: every sealed hour has a column of that name"
_INT64 = range(-(2**63), 2**63)
_EXACT_IN_DOUBLE = 2**53
_MANY_MEMBERS = 12
"""An object with more names over all samples, most of them in few, is a map from ids."""
_FEW = 0.5


@dataclass(frozen=True)
class Doubt:
    """What the samples do not settle: about a key, the `samples` or a field (dotted), in few words for who decides."""

    about: str
    text: str
    is_of_field: bool = False


@dataclass(frozen=True)
class Doubting:
    """Where doubts go, and how many values of a field may be of another kind: their messages would be rejected."""

    doubts: list[Doubt]
    spare: int = 0

    def __call__(self, about: str, text: str) -> None:
        self.doubts.append(Doubt(about, text, is_of_field=True))


def declarable_types(documents: Sequence[Mapping[str, Any]], doubt: Doubting) -> dict[str, str]:
    """Name and Spark type of each top-level member that can be a column, in the order in which they first come."""
    reserved = [name for name in _names(documents) if name.lower() in DELIVERY_COLUMNS]
    for name in reserved:
        doubt(name, NOT_DECLARED)
    return _members(documents, "", doubt, without=reserved)


def _members(
    objects: Sequence[Mapping[str, Any]], path: str, doubt: Doubting, without: Iterable[str] = ()
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _names(objects):
        where = f"{path}{name}"
        if name in without:
            continue
        if not _PLAIN.fullmatch(name):
            doubt(where, "left out: a column's name has letters, digits and _ only")
        elif name.lower() in (each.lower() for each in found):
            doubt(where, "left out: another field has this name in another case")
        else:
            values = [each[name] for each in objects if each.get(name) is not None]
            kind = _type(values, where, doubt)
            if kind and _is_a_type(f"struct<{name}: {kind}>"):
                found[name] = kind
            elif kind:
                doubt(where, "left out: no Spark type can be written with these names")
    return found


def _names(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in objects for name in each))


def _type(values: Sequence[Any], where: str, doubt: Doubting) -> str | None:
    """The Spark type that holds all the values; None, with a doubt, when there is none."""
    kinds = Counter(_kind(value) for value in values)
    if not kinds:
        doubt(where, "left out: always null or empty, so its type is unknown")
        return None
    if set(kinds) >= {"integer", "number"}:
        kinds["number"] += kinds.pop("integer")
    (kind, count), *others = kinds.most_common()
    found = " and ".join(f"{name} in {number:,}" for name, number in kinds.most_common())
    if sum(kinds.values()) - count > doubt.spare:
        doubt(where, f"left out: {found}, which no type holds")
        return None
    if others:
        doubt(where, f"{found}: the others are rejected")
    wanted = {"integer", "number"} if kind == "number" else {kind}
    return _TYPES[kind]([value for value in values if _kind(value) in wanted], where, doubt)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    return {int: "integer", float: "number", str: "text", dict: "object", list: "array"}[type(value)]


def _integer(values: Sequence[int], where: str, doubt: Doubting) -> str | None:
    if all(value in _INT64 for value in values):
        return "bigint"
    if max(len(str(abs(value))) for value in values) <= 38:
        doubt(where, "integers beyond 64 bits")
        return "decimal(38,0)"
    doubt(where, "left out: integers of more than 38 digits")
    return None


def _number(values: Sequence[float], where: str, doubt: Doubting) -> str:
    if any(isinstance(value, int) and abs(value) > _EXACT_IN_DOUBLE for value in values):
        doubt(where, "a double does not hold its largest integers exactly; a decimal would")
    return "double"


def _text(values: Sequence[str], where: str, doubt: Doubting) -> str:
    for kind, pattern, wanted in (("timestamp", INSTANT, TIMESTAMP), ("date", DATE, pa.date32())):
        if are_like(values, pattern, wanted):
            return kind
    if all(re.fullmatch(r"-?[0-9]{1,19}", value) for value in values):
        doubt(where, "digits written as text stay text; `int64_as_text` with bigint would make numbers of them")
    return "string"


def are_like(values: Sequence[str], pattern: str, wanted: pa.DataType) -> bool:
    """Whether the decoder reads all of the texts as `wanted`."""
    try:
        is_like = all(re.fullmatch(pattern, value) for value in values)
        return bool(is_like and not each_or_null(pa.array(values, pa.string()), wanted).null_count)
    except (pa.ArrowInvalid, UnicodeError):
        return False


def _object(values: Sequence[Mapping[str, Any]], where: str, doubt: Doubting) -> str | None:
    names = _names(values)
    if len(names) > _MANY_MEMBERS and sum(map(len, values)) < _FEW * len(names) * len(values):
        items = [item for each in values for item in each.values() if item is not None]
        kind = _type(items, f"{where}.*", doubt)
        doubt(where, f"taken for a map: {len(names)} names, few of them in each message")
        return kind and f"map<string, {kind}>"
    members = _members(values, f"{where}.", doubt)
    if not members:
        doubt(where, "left out: an object without a member that could be declared")
        return None
    return f"struct<{', '.join(f'{name}: {kind}' for name, kind in members.items())}>"


def _array(values: Sequence[list[Any]], where: str, doubt: Doubting) -> str | None:
    items = [item for each in values for item in each if item is not None]
    kind = _type(items, f"{where}[]", doubt)
    return kind and f"array<{kind}>"


_TYPES: dict[str, Callable[[Any, str, Doubting], str | None]] = {
    "true or false": lambda values, where, doubt: "boolean",
    "integer": _integer,
    "number": _number,
    "text": _text,
    "object": _object,
    "array": _array,
}


def _is_a_type(text: str) -> bool:
    try:
        arrow_type(text)
    except ValueError:
        return False
    return True
