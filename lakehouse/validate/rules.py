"""Which rows violate an expectation, as SQL: the rule behind each row metric of Great Expectations.

Regular expressions are RE2's (https://github.com/google/re2/wiki/Syntax), searched for anywhere in the text: word
characters, digits and white space are ASCII, `$` is the end of the text, no look-ahead. Lengths are code points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa

from lakehouse.validate.bounds import exact_number
from lakehouse.validate.conditions import columns_of, condition_sql
from lakehouse.validate.literals import (
    NotExpressibleInSql,
    at_least,
    at_most,
    digits_of,
    identifier,
    is_comparable,
    is_float,
    is_number,
    is_ordered,
    is_single,
    literal,
    set_literal,
    text_literal,
    type_name,
    unscaled,
)
from lakehouse.validate.scan import Rule, UniqueRule

Values = Mapping[str, Any]


def rule_of(name: str, values: Values, schema: pa.Schema) -> Rule | None:
    """The rule behind the metric `name`, such as `column_values.between`, None when there is none.

    `values` are the expectation's own, as its suite has them. NotExpressibleInSql when they do not fit the columns.
    """
    columns = _columns_of(values)
    if not columns:
        return None
    unknown = [column for column in columns if column not in schema.names]
    if unknown:
        raise NotExpressibleInSql(f"{unknown[0]!r} is no column")
    types = [schema.field(column).type for column in columns]
    if name in _COLUMN_RULES:
        rule = _COLUMN_RULES[name].rule(columns[0], values, types[0])
    elif name in _NULL_RULES:
        rule = Rule(columns[:1], "true", _NULL_RULES[name].format(identifier(columns[0])))
    elif name in _PAIR_RULES:
        rule = _pair_rule(_PAIR_RULES[name], columns, values, types)
    elif name in _ROW_RULES:
        rule = _ROW_RULES[name](columns, values, types, _in_scope(columns, values))
    else:
        return None
    return rule.where(
        condition_sql(values.get("row_condition"), schema), tuple(columns_of(values.get("row_condition")))
    )


def _columns_of(values: Values) -> tuple[str, ...]:
    named = [values.get("column"), values.get("column_A"), values.get("column_B"), *(values.get("column_list") or ())]
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
    fits: Callable[[pa.DataType], bool] = is_single

    def rule(self, column: str, values: Values, kind: pa.DataType) -> Rule:
        _need(self.fits, kind)
        name = identifier(column)
        satisfied = self.predicate(name, values, kind)
        return Rule((column,), f"{name} is not null", f"({satisfied})" if self.negated else f"not ({satisfied})")


def _need(fits: Callable[[pa.DataType], bool], *types: pa.DataType) -> None:
    for kind in types:
        if not fits(kind):
            raise NotExpressibleInSql(f"values of {type_name(kind)} cannot be asked that")


def _between(name: str, values: Values, kind: pa.DataType) -> str:
    low, high = values.get("min_value"), values.get("max_value")
    bounds = []
    if low is not None:
        bounds.append(at_least(name, low, kind, bool(values.get("strict_min"))))
    if high is not None:
        bounds.append(at_most(name, high, kind, bool(values.get("strict_max"))))
    if not bounds:
        raise NotExpressibleInSql("neither min_value nor max_value is given")
    return " and ".join(bounds)


def _length_between(name: str, values: Values, kind: pa.DataType) -> str:
    return _between(f"length({name})", values, pa.int64())


def _length_equals(name: str, values: Values, kind: pa.DataType) -> str:
    return f"length({name}) = {literal(values['value'], pa.int64())}"


def _in_set(name: str, values: Values, kind: pa.DataType) -> str:
    return f"{name} in {set_literal(values.get('value_set'), kind)}"


def _matches(name: str, values: Values, kind: pa.DataType) -> str:
    return _found(name, values["regex"])


def _matches_list(name: str, values: Values, kind: pa.DataType) -> str:
    return (" and " if values.get("match_on") == "all" else " or ").join(_patterns_found(name, values))


def _matches_any(name: str, values: Values, kind: pa.DataType) -> str:
    return " or ".join(_patterns_found(name, values))


def _patterns_found(name: str, values: Values) -> list[str]:
    if not values.get("regex_list"):
        raise NotExpressibleInSql("the regex_list is empty")
    return [_found(name, pattern) for pattern in values["regex_list"]]


def _found(name: str, pattern: object) -> str:
    if not isinstance(pattern, str):
        raise NotExpressibleInSql(f"{pattern!r} is no pattern")
    return f"regexp_matches({name}, {text_literal(pattern)})"


def _calls(function: str, argument: Callable[[Values], str] = lambda values: "") -> Callable[..., str]:
    return lambda name, values, kind: f"{function}({name}, {text_literal(argument(values))})"


_NULL_RULES = {"column_values.nonnull": "{} is null", "column_values.null": "{} is not null"}

_is_text = pa.types.is_string
_COLUMN_RULES: dict[str, ColumnRule] = {
    "column_values.between": ColumnRule(_between, fits=is_ordered),
    "column_values.value_length.between": ColumnRule(_length_between, fits=_is_text),
    "column_values.value_length.equals": ColumnRule(_length_equals, fits=_is_text),
    "column_values.in_set": ColumnRule(_in_set),
    "column_values.not_in_set": ColumnRule(_in_set, negated=True),
    "column_values.match_regex": ColumnRule(_matches, fits=_is_text),
    "column_values.not_match_regex": ColumnRule(_matches, negated=True, fits=_is_text),
    "column_values.match_regex_list": ColumnRule(_matches_list, fits=_is_text),
    "column_values.not_match_regex_list": ColumnRule(_matches_any, negated=True, fits=_is_text),
    "column_values.dateutil_parseable": ColumnRule(_calls("is_date_text"), fits=_is_text),
    "column_values.match_strftime_format": ColumnRule(
        _calls("has_time_format", lambda values: str(values["strftime_format"])), fits=_is_text
    ),
    "column_values.json_parseable": ColumnRule(_calls("is_json"), fits=_is_text),
    "column_values.match_json_schema": ColumnRule(
        _calls("has_json_schema", lambda values: json.dumps(values["json_schema"])), fits=_is_text
    ),
}

# --- several columns -----------------------------------------------------------------------------------------------


def _greater(a: str, b: str, values: Values, types: Sequence[pa.DataType]) -> str:
    _need(is_ordered, *types)
    return f"{a} >= {b}" if values.get("or_equal") else f"{a} > {b}"


def _equal(a: str, b: str, values: Values, types: Sequence[pa.DataType]) -> str:
    _need(is_comparable, *types)
    return f"{a} = {b}"


def _pair_in_set(a: str, b: str, values: Values, types: Sequence[pa.DataType]) -> str:
    _need(is_single, *types)
    pairs = values.get("value_pairs_set") or ()
    if not pairs:
        raise NotExpressibleInSql("an empty set has no answer")
    one, other = types
    return " or ".join(f"({a} = {literal(x, one)} and {b} = {literal(y, other)})" for x, y in pairs)


_PAIR_RULES: dict[str, Callable[[str, str, Values, Sequence[pa.DataType]], str]] = {
    "column_pair_values.a_greater_than_b": _greater,
    "column_pair_values.equal": _equal,
    "column_pair_values.in_set": _pair_in_set,
}


def _pair_rule(
    predicate: Callable[[str, str, Values, Sequence[pa.DataType]], str],
    columns: tuple[str, ...],
    values: Values,
    types: Sequence[pa.DataType],
) -> Rule:
    """About two columns of types that compare with each other; not about a pair with one missing."""
    one, other = types
    if predicate is not _pair_in_set and one != other and not (is_number(one) and is_number(other)):
        raise NotExpressibleInSql(f"values of {type_name(one)} and {type_name(other)} do not compare")
    a, b = map(identifier, columns)
    if predicate is _pair_in_set:
        satisfied = predicate(a, b, values, types)
    elif pa.types.is_integer(one) != pa.types.is_integer(other):
        satisfied = _compared_exactly(predicate, a, b, values, types)
    else:
        one_a, one_b = _in_one_type(columns, types)
        satisfied = predicate(one_a, one_b, values, types)
    return Rule(columns, f"({a} is not null and {b} is not null)", f"not ({satisfied})")


def _in_one_type(columns: Sequence[str], types: Sequence[pa.DataType]) -> list[str]:
    """Two columns as they compare: of a decimal and a float, it counts as the nearest one of the float's width.

    Two decimals of different digits are compared exactly: no decimal holds the digits of both.
    """
    if types[0] == types[1] or not any(map(pa.types.is_decimal, types)):
        return list(map(identifier, columns))
    if all(map(pa.types.is_decimal, types)):
        scale = max(kind.scale for kind in types)
        return [unscaled(column, kind, scale) for column, kind in zip(columns, types, strict=True)]
    width = "real" if any(map(pa.types.is_float32, types)) else "double"
    return [
        f"{identifier(column)}::varchar::{width}" if pa.types.is_decimal(kind) else identifier(column)
        for column, kind in zip(columns, types, strict=True)
    ]


def _compared_exactly(
    predicate: Callable[[str, str, Values, Sequence[pa.DataType]], str],
    a: str,
    b: str,
    values: Values,
    types: Sequence[pa.DataType],
) -> str:
    """An integer with a float or a decimal, which the database would compare as doubles, or not at all.

    Between two integers lies no integer: the other number counts as the one below or above it. NaN is above every
    number.
    """
    one, other = types
    number, fraction = (a, b) if pa.types.is_integer(one) else (b, a)
    value = f"{fraction}::double" if is_float(one) or is_float(other) else fraction
    low, high = f"floor({value})", f"ceil({value})"
    or_equal = bool(values.get("or_equal"))
    sign = ">=" if or_equal else ">"
    if predicate is _equal:
        above = below = "false"
        inside = f"{low} = {high} and {low}::hugeint = {number}::hugeint"
    elif number == a:
        above, below = "false", "true"
        inside = f"{number}::hugeint {sign} ({high if or_equal else low})::hugeint"
    else:
        above, below = "true", "false"
        inside = f"({low if or_equal else high})::hugeint {sign} {number}::hugeint"
    if value == fraction:
        return f"({inside})"
    is_above = f"isnan({value}) or {value} > {_BEYOND}"
    return f"(case when {is_above} then {above} when {value} < -{_BEYOND} then {below} else {inside} end)"


_BEYOND = "1e19::double"
"""Beyond every bigint, and within what 128 bits hold."""


def _in_scope(columns: Sequence[str], values: Values) -> str:
    """`all_values_are_missing` is Great Expectations' default."""
    nulls = [f"{identifier(column)} is null" for column in columns]
    ignored = values.get("ignore_row_if") or "all_values_are_missing"
    joined = {"all_values_are_missing": " and ", "any_value_is_missing": " or "}.get(str(ignored))
    return f"not ({joined.join(nulls)})" if joined else "true"


def _unique(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    _need(is_comparable, *types)
    return UniqueRule(columns, f"{identifier(columns[0])} is not null")


def _unique_together(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    _need(is_comparable, *types)
    return UniqueRule(columns, in_scope)


def _unique_in_row(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    _need_alike(columns, types)
    names = list(map(identifier, columns))
    same = [f"{a} is not distinct from {b}" for place, a in enumerate(names) for b in names[place + 1 :]]
    return Rule(columns, in_scope, f"({' or '.join(same)})")


def _equal_in_row(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    _need_alike(columns, types)
    first, *rest = map(identifier, columns)
    return Rule(columns, in_scope, f"({' or '.join(f'{first} is distinct from {each}' for each in rest)})")


def _need_alike(columns: Sequence[str], types: Sequence[pa.DataType]) -> None:
    _need(is_comparable, *types)
    if len(set(map(str, types))) > 1 or len(columns) < 2:
        raise NotExpressibleInSql("two or more columns of one type are needed")


def _sum(columns: tuple[str, ...], values: Values, types: Sequence[pa.DataType], in_scope: str) -> Rule:
    """Exact for integers and decimals; with a float among them as floats, in the order of the list. Missing is 0."""
    _need(is_number, *types)
    total = exact_number(values["sum_total"], any(map(pa.types.is_decimal, types)))
    if any(map(is_float, types)):
        parts = [f"coalesce({identifier(column)}, 0)::double" for column in columns]
        return Rule(columns, in_scope, f"({' + '.join(parts)}) <> {literal(values['sum_total'], pa.float64())}")
    scale = max(digits_of(kind)[1] for kind in types)
    units = total * 10**scale
    if units.denominator != 1:
        raise NotExpressibleInSql(f"{values['sum_total']!r} is no sum of these columns, which have {scale} digits")
    carried = len(str(len(types)))
    if max(digits_of(kind)[0] for kind in types) + carried + scale <= _DIGITS and abs(units) < 10**_DIGITS:
        sql_type, number = f"decimal({_DIGITS}, {scale})", f"{Decimal(units.numerator).scaleb(-scale, _WIDE):f}"
        parts = [f"coalesce({identifier(column)}, 0)::{sql_type}" for column in columns]
    else:
        sql_type, number = "bignum", str(units.numerator)
        parts = [
            f"coalesce({unscaled(column, kind, scale)}, '0'::bignum)"
            for column, kind in zip(columns, types, strict=True)
        ]
    return Rule(columns, in_scope, f"({' + '.join(parts)}) <> '{number}'::{sql_type}")


_DIGITS = 38
"""Of a decimal."""
_WIDE = Context(prec=100)


_ROW_RULES: dict[str, Callable[[tuple[str, ...], Values, Sequence[pa.DataType], str], Rule]] = {
    "column_values.unique": _unique,
    "compound_columns.unique": _unique_together,
    "select_column_values.unique.within_record": _unique_in_row,
    "multicolumn_values.equal": _equal_in_row,
    "multicolumn_sum.equal": _sum,
}
