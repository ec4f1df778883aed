"""Spark's type names to Arrow types, without a JVM."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate

import pyarrow as pa
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

KNOWN = "string, tinyint, smallint, int, bigint, float, double, boolean, timestamp, date, binary, decimal(p,s)"
"""Leaf types; `array<…>`, `map<string,…>` and `struct<name: …>` nest them."""

MAX_NESTING = 64
"""Levels of array, map and struct in a field: beyond, readers of Parquet and parsers of types run out of stack."""

_T = exp.DType
_LEAVES: dict[exp.DType, pa.DataType] = {
    _T.TEXT: pa.string(),
    _T.TINYINT: pa.int8(),
    _T.SMALLINT: pa.int16(),
    _T.INT: pa.int32(),
    _T.BIGINT: pa.int64(),
    _T.FLOAT: pa.float32(),
    _T.DOUBLE: pa.float64(),
    _T.BOOLEAN: pa.bool_(),
    _T.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
    _T.DATE: pa.date32(),
    _T.BINARY: pa.binary(),
}


@lru_cache(maxsize=1024)  # a thousand topics have few types, and each costs a parse
def arrow_type(spark_type: str) -> pa.DataType:
    """The Arrow type of a Spark DDL type; ValueError with what is known when Spark has no such type."""
    if max(accumulate((letter == "<") - (letter == ">") for letter in spark_type), default=0) > MAX_NESTING:
        raise ValueError(f"a type with at most {MAX_NESTING} levels of array, map and struct")
    try:
        tree = exp.DataType.build(spark_type, dialect="spark")
    except (ParseError, TokenError):
        tree = None
    converted = _converted(tree) if isinstance(tree, exp.DataType) else None
    if converted is None or _spelling(tree) != _letters(spark_type) or not _is_balanced(spark_type):
        raise ValueError(f"a Spark type: {KNOWN}, array<…>, map<string,…> or struct<name: …>")
    return converted


def _converted(tree: object) -> pa.DataType | None:
    if not isinstance(tree, exp.DataType):
        return None
    nested = _NESTED.get(tree.this)
    return nested(tree) if nested else _LEAVES.get(tree.this) if not tree.expressions else None


def _decimal(tree: exp.DataType) -> pa.DataType | None:
    digits = [int(parameter.name) for parameter in tree.expressions] or [10, 0]
    precision, scale = (*digits, 0)[:2]
    return pa.decimal128(precision, scale) if 1 <= precision <= 38 and 0 <= scale <= precision else None


def _array(tree: exp.DataType) -> pa.DataType | None:
    items = [_converted(item) for item in tree.expressions]
    return pa.list_(pa.field("element", items[0])) if len(items) == 1 and items[0] is not None else None


def _map(tree: exp.DataType) -> pa.DataType | None:
    parts = [_converted(part) for part in tree.expressions]
    return pa.map_(*parts) if len(parts) == 2 and parts[0] == pa.string() and parts[1] is not None else None


def _struct(tree: exp.DataType) -> pa.DataType | None:
    fields = [(member.name, _converted(member.args.get("kind"))) for member in tree.expressions]
    usable = (
        fields
        and all(kind is not None for _, kind in fields)
        and len({without_case(name) for name, _ in fields}) == len(fields)
    )
    return pa.struct(fields) if usable else None


_NESTED: dict[exp.DType, Callable[[exp.DataType], pa.DataType | None]] = {
    _T.DECIMAL: _decimal,
    _T.ARRAY: _array,
    _T.MAP: _map,
    _T.STRUCT: _struct,
}

_SPELLINGS = {"timestamptz": "timestamp", "long": "bigint", "integer": "int", "short": "smallint",
              "byte": "tinyint", "real": "float", "dec": "decimal", "numeric": "decimal"}  # fmt: skip


def _spelling(tree: exp.DataType | None) -> str:
    return _letters(tree.sql("spark")) if tree is not None else ""


def _letters(text: str) -> str:
    """Only what carries meaning, so that `int, b string` is not taken for `int`."""
    words = "".join(character if character.isalnum() or character == "_" else " " for character in text.lower()).split()
    return " ".join(_SPELLINGS.get(word, word) for word in words)


def _is_balanced(text: str) -> bool:
    """The parser closes what is left open."""
    return all(text.count(opened) == text.count(closed) for opened, closed in ("<>", "()"))


def without_case(name: str) -> str:
    """The same for two names that Spark takes for one: it compares them letter by letter, as Java does.

    So do a long s and an s, a dotted capital I and an i, the two signs for micro.
    """
    return "".join(_letter_without_case(letter) for letter in name)


def _letter_without_case(letter: str) -> str:
    upper = letter.upper()
    return (upper if len(upper) == 1 else letter).lower()[0]
