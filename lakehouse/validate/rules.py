"""Which rows violate an expectation, as SQL: the rule behind each row metric of Great Expectations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse.validate.scan import Rule, UniqueRule
from lakehouse.validate.sql import NotExpressibleInSql, is_exact, is_number, literal, only, pattern_literal, quoted

Values = Mapping[str, Any]


def rule_of(name: str, domain: Values, values: Values, schema: pa.Schema) -> Rule | None:
    """The rule behind the metric `name`, such as `column_values.between`; None when it is not known here."""
    columns = _columns_of(domain)
    if not columns or not set(columns) <= set(schema.names) or domain.get("row_condition") is not None:
        return None
    types = [schema.field(column).type for column in columns]
    given = {**domain, **values}
    try:
        if name in _COLUMN_RULES:
            return _COLUMN_RULES[name].rule(columns[0], given, types[0])
        if name in _NULL_RULES:
            return Rule(columns, "true", _NULL_RULES[name].format(quoted(columns[0])))
        if name in _PAIR_RULES:
            return _pair_rule(_PAIR_RULES[name], columns, given, types)
        if name in _ROW_RULES:
            return _ROW_RULES[name](columns, given, types, _in_scope(columns, given))
    except NotExpressibleInSql:
        return None
    return None


def _columns_of(domain: Values) -> tuple[str, ...]:
    named = [domain.get("column"), domain.get("column_A"), domain.get("column_B"), *(domain.get("column_list") or ())]
    return tuple(str(column) for column in named if column is not None)


# --- one column ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnRule:
    """A rule about the values of one column; it is not about missing ones.

    `predicate` gives the SQL that a value satisfies, from the column's quoted name, the expectation's values and the
    column's type; `negated` turns it round. `fits` says for which types there is one.
    """

    predicate: Callable[[str, Values, pa.DataType], str]
    negated: bool = False
    fits: Callable[[pa.DataType], bool] = lambda kind: True

    def rule(self, column: str, values: Values, kind: pa.DataType) -> Rule:
        only([kind], self.fits)
        name = quoted(column)
        satisfied = self.predicate(name, values, kind)
        violates = satisfied if self.negated else f"not ({satisfied})"
        return Rule((column,), f"{name} is not null", f"({violates})")


def _between(name: str, values: Values, kind: pa.DataType) -> str:
    low, high = values.get("min_value"), values.get("max_value")
    bounds = []
    if low is not None:
        bounds.append(f"{name} {'>' if values.get('strict_min') else '>='} {literal(low, kind)}")
    if high is not None:
        bounds.append(f"{name} {'<' if values.get('strict_max') else '<='} {literal(high, kind)}")
    if not bounds or (low is not None and high is not None and low > high):
        raise NotExpressibleInSql
    return " and ".join(bounds)


def _length_between(name: str, values: Values, kind: pa.DataType) -> str:
    given = [values[key] for key in ("min_value", "max_value") if values.get(key) is not None]
    if not all(isinstance(value, int | float) and float(value).is_integer() for value in given):
        raise NotExpressibleInSql
    return _between(f"length({name})", values, pa.int64())


def _length_equals(name: str, values: Values, kind: pa.DataType) -> str:
    return f"length({name}) = {literal(values['value'], pa.int64())}"


def _in_set(name: str, values: Values, kind: pa.DataType) -> str:
    return "true" if values.get("value_set") is None else f"{name} in {set_literal(values['value_set'], kind)}"


def set_literal(value_set: Any, kind: pa.DataType) -> str:
    if not value_set:
        raise NotExpressibleInSql
    return f"({', '.join(literal(value, kind) for value in value_set)})"


def _matches(name: str, values: Values, kind: pa.DataType) -> str:
    return f"regexp_matches({name}, {pattern_literal(values['regex'], kind)})"


def _matches_list(name: str, values: Values, kind: pa.DataType) -> str:
    how = values.get("match_on") or "any"
    if how not in ("any", "all"):
        raise NotExpressibleInSql
    return (" or " if how == "any" else " and ").join(_found(name, values, kind))


def _matches_any(name: str, values: Values, kind: pa.DataType) -> str:
    return " or ".join(_found(name, values, kind))


def _found(name: str, values: Values, kind: pa.DataType) -> list[str]:
    patterns = [str(pattern) for pattern in values.get("regex_list") or ()]
    if not patterns:
        raise NotExpressibleInSql
    return [f"regexp_matches({name}, {pattern_literal(pattern, kind)})" for pattern in patterns]


_NULL_RULES = {"column_values.nonnull": "{} is null", "column_values.null": "{} is not null"}

_COLUMN_RULES: dict[str, ColumnRule] = {
    "column_values.between": ColumnRule(_between),
    "column_values.value_length.between": ColumnRule(_length_between, fits=pa.types.is_string),
    "column_values.value_length.equals": ColumnRule(_length_equals, fits=pa.types.is_string),
    "column_values.in_set": ColumnRule(_in_set),
    "column_values.not_in_set": ColumnRule(_in_set, negated=True),
    "column_values.match_regex": ColumnRule(_matches),
    "column_values.not_match_regex": ColumnRule(_matches, negated=True),
    "column_values.match_regex_list": ColumnRule(_matches_list),
    "column_values.not_match_regex_list": ColumnRule(_matches_any, negated=True),
}

# --- several columns -----------------------------------------------------------------------------------------------

_PAIR_RULES: dict[str, Callable[[str, str, Values], str]] = {
    "column_pair_values.a_greater_than_b": lambda a, b, values: (
        f"{a} >= {b}" if values.get("or_equal") else f"{a} > {b}"
    ),
    "column_pair_values.equal": lambda a, b, values: f"{a} = {b}",
}


def _pair_rule(
    predicate: Callable[[str, str, Values], str],
    columns: tuple[str, ...],
    values: Values,
    types: Sequence[pa.DataType],
) -> Rule:
    """About two columns of types that compare with each other; not about a pair with one missing."""
    one, other = types
    is_comparable = one == other or (is_number(one) and is_number(other))
    if not is_comparable or pa.types.is_nested(one) or values.get("ignore_row_if") != "either_value_is_missing":
        raise NotExpressibleInSql
    a, b = map(quoted, columns)
    return Rule(columns, f"({a} is not null and {b} is not null)", f"not ({predicate(a, b, values)})")


def _in_scope(columns: Sequence[str], values: Values) -> str:
    nulls = [f"{quoted(column)} is null" for column in columns]
    joined = {"all_values_are_missing": " and ", "any_value_is_missing": " or "}.get(str(values.get("ignore_row_if")))
    return f"not ({joined.join(nulls)})" if joined else "true"


def _unique(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    only(types, is_exact)
    return UniqueRule(columns, f"{quoted(columns[0])} is not null")


def _unique_together(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    only(types, is_exact)
    return UniqueRule(columns, in_scope)


def _unique_in_row(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    if len(set(types)) > 1 or len(columns) < 2:
        raise NotExpressibleInSql
    names = list(map(quoted, columns))
    same = [f"{a} is not distinct from {b}" for place, a in enumerate(names) for b in names[place + 1 :]]
    return Rule(columns, in_scope, f"({' or '.join(same)})")


def _sum(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    """Of integers alone: what floats add up to depends on who adds. A missing one counts as 0."""
    only(types, pa.types.is_integer)
    total = " + ".join(f"coalesce({quoted(column)}, 0)::hugeint" for column in columns)
    return Rule(columns, in_scope, f"({total})::double <> {literal(float(values['sum_total']), pa.float64())}")


_ROW_RULES: dict[str, Callable[[tuple[str, ...], Values, Sequence[pa.DataType], str], Rule]] = {
    "column_values.unique": _unique,
    "compound_columns.unique": _unique_together,
    "select_column_values.unique.within_record": _unique_in_row,
    "multicolumn_sum.equal": _sum,
}
