"""What Great Expectations needs to know of an hour to judge it, as aggregates of one scan.

An expectation asks for metrics: so many rows, so many of them against it, a largest value. Those of the types here are
aggregates of one DuckDB query over only the columns that are named; whether they are as expected is for Great
Expectations to say. They mean what its Spark engine means by them, for instance in what it makes of nulls and of
regular expressions; what cannot be said so in SQL is not measured here, and left to that engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from lakehouse.validate.rules import rule_of, set_literal
from lakehouse.validate.scan import Measure, Rule, UniqueRule
from lakehouse.validate.sql import NotExpressibleInSql, is_exact, is_number, quoted

_COUNT = ".unexpected_count"
_IN_SCOPE = ".filtered_row_count"
_MOST_VALUES = 20
"""How many values Great Expectations lists by default."""

Aggregate = Callable[[str, Mapping[str, Any], pa.Schema], Measure | None]


def measure(name: str, domain: Mapping[str, Any], values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    """How the metric is measured; None when it is not known here, or not for columns of these types."""
    if domain.get("row_condition") is not None:
        return None
    if name.endswith((_COUNT, _IN_SCOPE)):
        rule = rule_of(name.rpartition(".")[0], domain, values, schema)
        return _count(rule, name.endswith(_IN_SCOPE)) if rule else None
    if name == "table.row_count":
        return Measure("count(*)")
    if name in ("table.columns", "table.column_count"):
        columns = list(dict.fromkeys(column.split(".")[0] for column in schema.names))
        return Measure("0", metric=lambda _: columns if name == "table.columns" else len(columns))
    aggregate = _AGGREGATES.get(name)
    column = domain.get("column")
    return aggregate(str(column), values, schema) if aggregate and column in schema.names else None


def _count(rule: Rule, all_in_scope: bool) -> Measure:
    if all_in_scope:
        return Measure(f"count(*) filter ({rule.applies_to})", rule.columns)
    if isinstance(rule, UniqueRule):
        return Measure("0")
    return Measure(f"count(*) filter ({rule.applies_to} and {rule.violates})", rule.columns)


def _plain(function: str, fits: Callable[[pa.DataType], bool]) -> Aggregate:
    def aggregate(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
        if not fits(schema.field(column).type):
            return None
        return Measure(function.format(quoted(column)), (column,))

    return aggregate


def _not_in_set(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    kept = _membership(column, values, schema, "not in")
    if kept is None:
        return None
    return _listed(f"list(distinct {quoted(column)}) filter ({kept})", column, values)


def _not_in_set_count(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    kept = _membership(column, values, schema, "not in")
    if kept is None:
        return None
    return Measure(f"count(distinct {quoted(column)}) filter ({kept})", (column,))


def _missing_from_column(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    wanted = list(values.get("value_set") or ())
    kept = _membership(column, values, schema, "in")
    if kept is None:
        return None
    limit = values.get("limit") or _MOST_VALUES
    return Measure(
        f"list(distinct {quoted(column)}) filter ({kept})",
        (column,),
        lambda found: [value for value in dict.fromkeys(wanted) if value not in (found or ())][:limit],
    )


def _missing_from_column_count(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    """As Spark's engine counts: what is wanted twice is missed once if it is there once."""
    wanted = list(values.get("value_set") or ())
    kept = _membership(column, values, schema, "in")
    if kept is None:
        return None
    counted = f"count(distinct {quoted(column)}) filter ({kept})"
    return Measure(counted, (column,), lambda found: len(wanted) - found)


def _membership(column: str, values: Mapping[str, Any], schema: pa.Schema, how: str) -> str | None:
    try:
        return f"{quoted(column)} {how} {set_literal(values.get('value_set'), schema.field(column).type)}"
    except NotExpressibleInSql:
        return None


def _listed(sql: str, column: str, values: Mapping[str, Any]) -> Measure:
    limit = values.get("limit") or _MOST_VALUES
    return Measure(sql, (column,), lambda found: sorted(found or ())[:limit])


def _most_common(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    if not is_exact(schema.field(column).type) or pa.types.is_timestamp(schema.field(column).type):
        return None

    def most(counts: Mapping[Any, int] | None) -> list[Any]:
        highest = max((counts or {}).values(), default=0)
        return sorted(value for value, count in (counts or {}).items() if count == highest)

    return Measure(f"histogram({quoted(column)})", (column,), most)


def _quantiles(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    if values.get("allow_relative_error") or not is_number(schema.field(column).type):
        return None
    wanted = [float(quantile) for quantile in values["quantiles"]]
    sql = f"quantile_disc({quoted(column)}::double, {wanted}) filter ({quoted(column)} is not null)"
    return Measure(sql, (column,), lambda found: list(found or ()))


_AGGREGATES: dict[str, Aggregate] = {
    "column.min": _plain("min({})", lambda kind: is_number(kind) or pa.types.is_string(kind)),
    "column.max": _plain("max({})", lambda kind: is_number(kind) or pa.types.is_string(kind)),
    "column.mean": _plain("avg({})", is_number),
    "column.sum": _plain("sum({})", is_number),
    "column.standard_deviation": _plain("stddev_samp({}::double)", is_number),
    "column.median": _plain("median({}::double)", is_number),
    "column.quantile_values": _quantiles,
    "column.distinct_values.count": _plain("count(distinct {})", is_exact),
    "column.unique_proportion": _plain("coalesce(count(distinct {0}) / nullif(count({0}), 0), 0)", is_exact),
    "column.non_null_count": _plain("count({})", lambda kind: True),
    "column.non_null_proportion": _plain("coalesce(count({}) / nullif(count(*), 0), 0)", lambda kind: True),
    "column.distinct_values.not_in_set": _not_in_set,
    "column.distinct_values.not_in_set.count": _not_in_set_count,
    "column.distinct_values.missing_from_column": _missing_from_column,
    "column.distinct_values.missing_from_column.count": _missing_from_column_count,
    "column.most_common_value": _most_common,
}
