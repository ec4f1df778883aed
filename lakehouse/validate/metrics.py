"""What Great Expectations needs to know of an hour to judge it, as aggregates of one scan.

An expectation asks for metrics: so many rows, so many of them against it, a largest value. Each is an aggregate of one
DuckDB query over only the columns that are named; whether it is as expected is for Great Expectations to say. There is
no other engine, so that a verdict does not depend on the size of the hour: what is not measured here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse.validate.bounds import deviation, middle
from lakehouse.validate.conditions import columns_of, condition_sql
from lakehouse.validate.literals import (
    NotExpressibleInSql,
    exact,
    identifier,
    is_comparable,
    is_number,
    is_ordered,
    is_single,
    set_literal,
    type_name,
)
from lakehouse.validate.rules import Values, rule_of
from lakehouse.validate.scan import Measure, Rule, SumsMeasure, UniqueRule
from lakehouse.validate.sums import Sums

_COUNT = ".unexpected_count"
_IN_SCOPE = ".filtered_row_count"
_MOST_VALUES = 20
"""How many values Great Expectations lists by default."""


def measure(name: str, values: Values, schema: pa.Schema, table_columns: Sequence[str] | None = None) -> Measure | None:
    """How the metric is measured, None when it is not; NotExpressibleInSql when not of columns of these types.

    `values` are the expectation's own, as its suite has them, with what the metric adds. `table_columns` are those of
    silver; without them those of the scan, in which members of structs are columns.
    """
    condition = condition_sql(values.get("row_condition"), schema)
    also_read = tuple(columns_of(values.get("row_condition")))
    if name.endswith((_COUNT, _IN_SCOPE)):
        rule = rule_of(name.rpartition(".")[0], values, schema)
        return _count(rule, name.endswith(_IN_SCOPE)) if rule else None
    if name == "table.row_count":
        return Measure(f"count(*) filter ({condition})", also_read)
    if name in ("table.columns", "table.column_count"):
        columns = list(schema.names if table_columns is None else table_columns)
        return Measure("0", metric=lambda _: columns if name == "table.columns" else len(columns))
    aggregate, column = AGGREGATES.get(name), str(values.get("column"))
    if aggregate is None:
        return None
    if column not in schema.names:
        raise NotExpressibleInSql(f"{column!r} is no column")
    kind = schema.field(column).type
    if not aggregate.fits(kind):
        raise NotExpressibleInSql(f"values of {type_name(kind)} cannot be asked that")
    value = identifier(column) if condition == "true" else f"(case when {condition} then {identifier(column)} end)"
    sql = aggregate.sql(value, values, kind).replace("count(*)", f"count(*) filter ({condition})")
    measured = SumsMeasure if aggregate.is_of_sums else Measure
    return measured(sql, (column, *also_read), aggregate.metric(values, kind))


def _count(rule: Rule, all_in_scope: bool) -> Measure:
    columns = (*rule.columns, *rule.also_read)
    if all_in_scope:
        return Measure(f"count(*) filter ({rule.applies_to})", columns)
    if isinstance(rule, UniqueRule):
        return Measure("0")
    return Measure(f"count(*) filter ({rule.applies_to} and {rule.violates})", columns)


# --- aggregates ----------------------------------------------------------------------------------------------------

Metric = Callable[[Any], Any]
MetricOf = Callable[[Values, pa.DataType], Metric]


def _as_is(values: Values, kind: pa.DataType) -> Metric:
    return lambda value: value


def _of_sums(take: Callable[[Sums], Any], special: Callable[[Sums], float] = lambda sums: sums.special) -> MetricOf:
    """What is taken of exact sums; of values that are not all finite, what floats come to."""

    def metric(values: Values, kind: pa.DataType) -> Metric:
        return lambda sums: None if not sums.count else special(sums) if sums.special else take(sums)

    return metric


def _middle(values: Values, kind: pa.DataType) -> Metric:
    return middle


@dataclass(frozen=True)
class Aggregate:
    """An aggregate of one column: `sql` from the SQL of its values, `metric` makes Great Expectations' metric of it.

    With `is_of_sums` the metric is made of the exact sums of what `sql` gives for each row.
    """

    sql: Callable[[str, Values, pa.DataType], str]
    fits: Callable[[pa.DataType], bool]
    metric: MetricOf = _as_is
    is_of_sums: bool = False


def _plain(
    template: str,
    fits: Callable[[pa.DataType], bool],
    metric: MetricOf = _as_is,
    *,
    is_of_sums: bool = False,
) -> Aggregate:
    def sql(value: str, values: Values, kind: pa.DataType) -> str:
        return template.format(value)

    return Aggregate(sql, fits, metric, is_of_sums)


def _not_in_set(value: str, values: Values, kind: pa.DataType) -> str:
    kept = f"{value} not in {set_literal(values.get('value_set'), kind)}"
    return f"list_sort(list(distinct {value}) filter ({kept}))[1:{values.get('limit') or _MOST_VALUES}]"


def _not_in_set_count(value: str, values: Values, kind: pa.DataType) -> str:
    return f"count(distinct {value}) filter ({value} not in {set_literal(values.get('value_set'), kind)})"


def _in_set(value: str, values: Values, kind: pa.DataType) -> str:
    return f"list(distinct {value}) filter ({value} in {set_literal(values.get('value_set'), kind)})"


def _spelled(values: Values, kind: pa.DataType) -> dict[Any, Any]:
    """The suite's spelling of each value that it names."""
    return {exact(value, kind): value for value in values.get("value_set") or ()}


def _listed(values: Values, kind: pa.DataType) -> Metric:
    return lambda found: list(found or ())


def _missing(values: Values, kind: pa.DataType) -> Metric:
    wanted, limit = _spelled(values, kind), values.get("limit") or _MOST_VALUES
    return lambda found: [spelled for value, spelled in wanted.items() if value not in set(found or ())][:limit]


def _missing_count(values: Values, kind: pa.DataType) -> Metric:
    wanted = _spelled(values, kind)
    return lambda found: len(wanted.keys() - set(found or ()))


def _most_common(value: str, values: Values, kind: pa.DataType) -> str:
    """Of many that are equally common: all that the suite names, and the first others."""
    counts = f"histogram({value})"
    often = f"list_filter(map_entries({counts}), lambda e: e.value = list_max(map_values({counts})))"
    found = f"list_transform({often}, lambda e: e.key)"
    named = set_literal(values.get("value_set"), kind)
    others = f"list_sort(list_filter({found}, lambda k: k not in {named}))[1:{_MOST_VALUES}]"
    return f"list_concat(list_sort(list_filter({found}, lambda k: k in {named})), {others})"


def _most_common_spelled(values: Values, kind: pa.DataType) -> Metric:
    wanted = _spelled(values, kind)
    return lambda found: [wanted.get(value, value) for value in found or ()]


def _quantiles(value: str, values: Values, kind: pa.DataType) -> str:
    if values.get("allow_relative_error"):
        raise NotExpressibleInSql("allow_relative_error: quantiles are exact here")
    wanted = [float(quantile) for quantile in values["quantile_ranges"]["quantiles"]]
    return f"quantile_disc({value}, {wanted})"


AGGREGATES: Mapping[str, Aggregate] = {
    "column.min": _plain("min({})", is_ordered),
    "column.max": _plain("max({})", is_ordered),
    "column.mean": _plain("{}", is_number, _of_sums(lambda sums: sums.mean), is_of_sums=True),
    "column.sum": _plain("{}", is_number, _of_sums(lambda sums: sums.total), is_of_sums=True),
    "column.standard_deviation": _plain(
        "{}", is_number, _of_sums(lambda sums: deviation(sums.variance), lambda sums: math.nan), is_of_sums=True
    ),
    "column.median": _plain("[quantile_disc({0}, 0.5), quantile_disc({0}, -0.5)]", is_number, _middle),
    "column.quantile_values": Aggregate(_quantiles, is_number),
    "column.distinct_values.count": _plain("count(distinct {})", is_comparable),
    "column.unique_proportion": _plain("coalesce(count(distinct {0}) / nullif(count({0}), 0), 0)", is_comparable),
    "column.non_null_count": _plain("count({})", lambda kind: True),
    "column.non_null_proportion": _plain("coalesce(count({}) / nullif(count(*), 0), 0)", lambda kind: True),
    "column.distinct_values.not_in_set": Aggregate(_not_in_set, is_single, _listed),
    "column.distinct_values.not_in_set.count": Aggregate(_not_in_set_count, is_single),
    "column.distinct_values.missing_from_column": Aggregate(_in_set, is_single, _missing),
    "column.distinct_values.missing_from_column.count": Aggregate(_in_set, is_single, _missing_count),
    "column.most_common_value": Aggregate(_most_common, is_single, _most_common_spelled),
}
