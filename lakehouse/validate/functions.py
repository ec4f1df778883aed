"""What SQL cannot say of a string: functions of Python that the scan calls, each (text, argument) -> bool.

They mean what Great Expectations means: `dateutil.parser.parse`, `datetime.strptime`, `json.loads`, jsonschema. But a
date that names no year is one of a leap year, not of the year in which it is asked; and a `pattern` is RE2's, since
Python's takes a time without end for some texts. A row costs microseconds here, not nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb.func import PythonUDFType

_SOME_DAY = datetime(2000, 1, 1)


def is_date_text(text: str, _: str) -> bool:
    from dateutil.parser import parse  # type: ignore[import-untyped]

    try:
        parse(text, default=_SOME_DAY)
    except (ValueError, OverflowError):
        return False
    return True


def has_time_format(text: str, wanted: str) -> bool:
    try:
        datetime.strptime(text, wanted)
    except ValueError:
        return False
    return True


def is_json(text: str, _: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def has_json_schema(text: str, schema: str) -> bool:
    validator = _validator(schema)
    try:
        return bool(validator.is_valid(json.loads(text)))
    except (ValueError, RecursionError):  # nested too deep
        return False


@lru_cache(maxsize=100)
def _validator(schema: str) -> Any:
    """jsonschema.SchemaError when it is none, ValueError where it would take Python's regular expressions."""
    from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]
    from jsonschema.validators import extend, validator_for  # type: ignore[import-untyped]

    def pattern(validator: Any, wanted: str, instance: object, _: object) -> Iterator[Any]:
        if isinstance(instance, str) and not _is_found(wanted, instance):
            yield ValidationError(f"{wanted!r} is not found")

    document = json.loads(schema)
    kind = validator_for(document)
    kind.check_schema(document)
    for member in _members(document):
        if isinstance(member, dict) and isinstance(member.get("patternProperties"), dict):
            raise ValueError("patternProperties in a json_schema: names are matched by other regular expressions")
        if isinstance(member, dict) and isinstance(member.get("pattern"), str):
            _is_found(member["pattern"], "")
    validator = extend(kind, {"pattern": pattern})(document)
    validator.is_valid(None)  # a schema that leads nowhere, or in a circle
    return validator


def _is_found(pattern: str, text: str) -> bool:
    """By RE2; pa.ArrowInvalid when it is no pattern."""
    return bool(pc.match_substring_regex(pa.scalar(text), pattern).as_py())


def _members(document: Any) -> Iterator[Any]:
    yield document
    for member in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from _members(member)


FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    each.__name__: each for each in (is_date_text, has_time_format, is_json, has_json_schema)
}


def register(name: str, database: duckdb.DuckDBPyConnection) -> None:
    """Let the database call it; a missing text gives a missing answer."""
    function = FUNCTIONS[name]

    def of_batch(texts: Any, arguments: Any) -> pa.Array:
        pairs = zip(texts.to_pylist(), arguments.to_pylist(), strict=True)
        return pa.array([None if text is None else function(text, argument) for text, argument in pairs], pa.bool_())

    database.create_function(name, of_batch, ["VARCHAR", "VARCHAR"], "BOOLEAN", type=PythonUDFType.ARROW)
