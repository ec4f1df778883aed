"""What SQL cannot say of a string: functions of Python that the scan calls, each (text, argument) -> bool.

They mean what Great Expectations means: `dateutil.parser.parse`, `datetime.strptime`, `json.loads`, jsonschema. A row
costs microseconds here, not nanoseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import PythonUDFType


def is_date_text(text: str, _: str) -> bool:
    from dateutil.parser import parse  # type: ignore[import-untyped]

    try:
        parse(text)
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
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(_validator(schema).is_valid(document))


@lru_cache(maxsize=100)
def _validator(schema: str) -> Any:
    """jsonschema.SchemaError when it is none."""
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]

    document = json.loads(schema)
    kind = validator_for(document)
    kind.check_schema(document)
    return kind(document)


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
