"""Which rows an expectation is asked about: Great Expectations' `row_condition` as SQL.

As in SQL a comparison with a missing value is unknown, and a row of which the condition is unknown is left out: of
`country != "SE"`, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa

from lakehouse.validate.condition_text import Condition, parsed
from lakehouse.validate.literals import (
    NotExpressibleInSql,
    at_least,
    at_most,
    identifier,
    is_single,
    literal,
    set_literal,
    type_name,
)


def columns_of(condition: object) -> Iterator[str]:
    """The columns that a `row_condition` names: as text, such as `col("n") == 1`, or as JSON has it.

    None of a text that is refused.
    """
    if isinstance(condition, str):
        with suppress(NotExpressibleInSql):
            yield from columns_of(parsed(condition))
    elif isinstance(condition, Mapping):
        column = condition.get("column")
        name = column.get("name") if isinstance(column, Mapping) else column
        if isinstance(name, str):
            yield name
        for member in condition.get("conditions") or ():
            yield from columns_of(member)


def condition_sql(condition: Condition | None, schema: pa.Schema) -> str:
    """The condition in SQL, never null; NotExpressibleInSql where it has no one meaning."""
    return "true" if condition is None else f"coalesce({_sql(condition, schema)}, false)"


def _sql(condition: Condition, schema: pa.Schema) -> str:
    kind = condition.get("type")
    if kind in ("and", "or"):
        members = [_sql(member, schema) for member in condition["conditions"]]
        if not members:
            raise NotExpressibleInSql("the row_condition joins nothing")
        return "(" + f" {kind} ".join(members) + ")"
    if kind not in ("comparison", "nullity"):
        raise NotExpressibleInSql("the row_condition is none of comparison, nullity, and, or")
    column = str(condition["column"]["name"])
    if column not in schema.names:
        raise NotExpressibleInSql(f"the row_condition names {column!r}, which is no column")
    name = identifier(column)
    if kind == "nullity":
        return f"{name} is {'' if condition['is_null'] else 'not '}null"
    return _comparison(name, str(condition["operator"]), condition["parameter"], schema.field(column).type)


def _comparison(name: str, operator: str, value: Any, kind: pa.DataType) -> str:
    if not is_single(kind):
        raise NotExpressibleInSql(f"a row_condition cannot compare values of {type_name(kind)}")
    if operator in ("==", "!="):
        return f"{name} {'=' if operator == '==' else '<>'} {literal(value, kind)}"
    if operator in ("IN", "NOT_IN"):
        return f"{name} {'in' if operator == 'IN' else 'not in'} {set_literal(value, kind)}"
    if operator in (">", ">="):
        return f"({at_least(name, value, kind, operator == '>')} and {name} is not null)"
    if operator in ("<", "<="):
        return f"({at_most(name, value, kind, operator == '<')} and {name} is not null)"
    raise NotExpressibleInSql(f"the row_condition compares by {operator!r}")
