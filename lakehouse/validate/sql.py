"""DuckDB's SQL for values and patterns, where it means what Great Expectations' Spark engine means by them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa


class NotExpressibleInSql(Exception):
    """SQL would say something else than Spark's engine, or nothing."""


def quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind))


def is_exact(kind: pa.DataType) -> bool:
    """Whether two values are the same in every engine: of floats, 0.0 and -0.0 are not."""
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_timestamp, pa.types.is_date)
    return any(is_kind(kind) for is_kind in kinds)


def only(types: Sequence[pa.DataType], fits: Callable[[pa.DataType], bool]) -> None:
    if not all(map(fits, types)):
        raise NotExpressibleInSql


def literal(value: Any, kind: pa.DataType) -> str:
    """The value in SQL, where it is of the column's kind: another would be converted, by each engine in its own way."""
    if isinstance(value, bool):
        if pa.types.is_boolean(kind):
            return str(value).lower()
    elif isinstance(value, int) and is_number(kind):
        return str(value)
    elif isinstance(value, float) and is_number(kind):
        return f"{value!r}::double"
    elif isinstance(value, str) and pa.types.is_string(kind):
        return text_literal(value)
    elif isinstance(value, str | datetime) and pa.types.is_timestamp(kind):
        return f"{text_literal(_instant(value))}::timestamptz"
    raise NotExpressibleInSql


def text_literal(value: str) -> str:
    if "\0" in value:
        raise NotExpressibleInSql
    return "'" + value.replace("'", "''") + "'"


def _instant(value: str | datetime) -> str:
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError as error:
        raise NotExpressibleInSql from error
    if instant.tzinfo is None:
        raise NotExpressibleInSql
    return instant.isoformat()


# --- regular expressions -------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    (?P<any>\.) | (?P<end>\$) | (?P<start>\^) | (?P<space>\\s)
    | (?P<same>
        \\[dDwW]                                            # the same letters and digits in both
        | \\[^A-Za-z0-9]                                    # an escaped sign
        | \[\^?(?:[^][\\&~|^-]|[^][\\&~|^-]-[^][\\&~|^-]|\\[dDwWs]|\\[^A-Za-z0-9])+-?\]
        | \(\?: | \((?!\?) | [)|]
        | (?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})\??(?![+*?])    # greedy and lazy, but not possessive
        | [^\\.^$*+?{}()|[\]]
    )
    """,
    re.VERBOSE,
)
_SPACE = r"\t\n\x0B\f\r "
_ANY = r"[^\n\r\x{85}\x{2028}\x{2029}]"
_END = r"(?:\r\n|[\n\r\x{85}\x{2028}\x{2029}])?\z"


def pattern_literal(pattern: Any, kind: pa.DataType) -> str:
    """A pattern of Java's for RE2: `.`, `$` and `\\s` mean other ends of lines. Only what both read alike is taken."""
    if not pa.types.is_string(kind):
        raise NotExpressibleInSql
    translated, place = "", 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise NotExpressibleInSql
        same = token.group().replace(r"\s", _SPACE)
        translated += {"any": _ANY, "end": _END, "space": f"[{_SPACE}]"}.get(str(token.lastgroup), same)
        place = token.end()
    return text_literal(translated)
