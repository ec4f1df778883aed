"""What Great Expectations needs to know of an hour to judge it, measured for all expectations in one scan.

An expectation asks for metrics: so many rows, so many of them against it, a largest value. Those of the types here are
aggregates of one DuckDB query over only the columns that are named; whether they are as expected is for Great
Expectations to say. They mean what its Spark engine means by them, for instance in what it makes of nulls and of
regular expressions; what cannot be said so in SQL is not measured here, and left to that engine.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

MEMORY_LIMIT = "1GB"

Scan = Callable[[Sequence[str]], pa.RecordBatchReader | str]
"""The hour's rows, each time anew: only the given columns, in which `route.origin` is a column of that name.

As batches, or as the query that gives them, where DuckDB can read the files itself: that is twice as fast.
"""

_BATCH_ROWS = 500_000
_HASHES_IN_MEMORY = 64_000_000
"""8 bytes each, while they are sorted twice."""
_COUNT = ".unexpected_count"
_IN_SCOPE = ".filtered_row_count"


@dataclass(frozen=True)
class Measure:
    """An aggregate over the hour's rows, and what makes GX's metric of it."""

    sql: str
    columns: tuple[str, ...] = ()
    metric: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Rule:
    """Which rows an expectation speaks of, and which of them break it; both are conditions that are never null."""

    columns: tuple[str, ...]
    speaks_of: str
    breaks: str


@dataclass(frozen=True)
class Sole(Rule):
    """A rule that a row breaks by having the same values as another; `breaks` is not known from the row alone."""

    breaks: str = field(default="false")


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


def rule_of(name: str, domain: Mapping[str, Any], values: Mapping[str, Any], schema: pa.Schema) -> Rule | None:
    """The rule behind the metric `name`, such as `column_values.between`; None when it is not known here."""
    make = _RULES.get(name)
    columns = _columns_of(domain)
    if make is None or not columns or not set(columns) <= set(schema.names) or domain.get("row_condition") is not None:
        return None
    try:
        return make(columns, {**domain, **values}, [schema.field(column).type for column in columns])
    except _Unsaid:
        return None


class Hour:
    """An hour's rows and the one database that looks at them."""

    def __init__(self, scan: Scan, database: duckdb.DuckDBPyConnection) -> None:
        self._scan, self._database = scan, database

    def measured(self, measures: Mapping[Any, Measure]) -> dict[Any, Any]:
        """Every measure's metric, by its key; the same SQL is computed once, all of it in one scan."""
        columns = sorted({column for each in measures.values() for column in each.columns})
        expressions = list(dict.fromkeys(each.sql for each in measures.values()))
        if not expressions:
            return {}
        self._rows(columns)
        (row,) = self._database.execute(f"select {', '.join(expressions)} from hour").fetchall()
        found = dict(zip(expressions, row, strict=True))
        return {key: each.metric(found[each.sql]) for key, each in measures.items()}

    def repeats(self, rule: Sole) -> int:
        """How many rows break a rule about repeated values: exact, also where two values have the same hash.

        Not part of the shared scan: there a distinct count makes all else twice as dear.
        """
        if not self._may_repeat(rule):
            return 0
        self._suspects(rule)
        ((count,),) = self._database.execute(f"select count(*) from ({self._repeated(rule)})").fetchall()
        return int(count)

    def examples(self, rule: Rule, also: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """The first rows that break the rule, in the files' order: `also` and the columns it speaks of."""
        columns = list(dict.fromkeys([*also, *rule.columns]))
        if isinstance(rule, Sole):
            self._suspects(rule, columns)
            query = f"{self._repeated(rule)} order by all limit {limit}"
        else:
            self._rows(columns)
            query = f"select * from hour where {rule.speaks_of} and {rule.breaks} limit {limit}"
        return list(self._database.sql(query).to_arrow_table().select(columns).to_pylist())

    def _may_repeat(self, rule: Sole) -> bool:
        """Whether a hash occurs twice, of what memory holds; beyond that the database looks in full."""
        self._rows(rule.columns)
        hashes = self._database.sql(f"select {_hashed(rule.columns)} as h from hour where {rule.speaks_of}")
        kept: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        rows = 0
        for batch in hashes.to_arrow_reader(_BATCH_ROWS):
            kept.append(batch.column(0).to_numpy())
            rows += len(batch)
            if rows > _HASHES_IN_MEMORY:
                return True
        together = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.uint64)
        return bool((together[1:] == together[:-1]).any())

    def _rows(self, columns: Sequence[str]) -> None:
        rows = self._scan(columns or ["event_id"])
        if isinstance(rows, str):
            self._database.execute(f"create or replace temp view hour as {rows}").fetchall()
        else:
            self._database.register("hour", rows)

    def _suspects(self, rule: Sole, columns: Sequence[str] = ()) -> None:
        """The table `suspects`: few rows, with everything that breaks the rule among them."""
        key = _hashed(rule.columns)
        self._rows(rule.columns)
        self._database.execute(
            f"create or replace temp table often as select {key} as h from hour "
            f"where {rule.speaks_of} group by h having count(*) > 1"
        ).fetchall()
        self._rows(list(dict.fromkeys([*columns, *rule.columns])))
        self._database.execute(
            f"create or replace temp table suspects as select * from hour "
            f"where {rule.speaks_of} and {key} in (select h from often)"
        ).fetchall()

    @staticmethod
    def _repeated(rule: Sole) -> str:
        by = ", ".join(map(quoted, rule.columns))
        return f"select * from suspects qualify count(*) over (partition by {by}) > 1"


@contextmanager
def looked_at(scan: Scan) -> Iterator[Hour]:
    with tempfile.TemporaryDirectory(prefix="measures-") as spill, duckdb.connect() as database:
        database.execute(f"set memory_limit = '{MEMORY_LIMIT}'; set temp_directory = '{spill}'; set timezone = 'UTC'")
        yield Hour(scan, database)


def of_files(paths: Sequence[str], columns: Sequence[str], constants: Mapping[str, str]) -> str:
    """The query for columns of Parquet files on this machine; a column of `constants` is the same in every row."""
    members = [
        f"{_text(constants[name])} as {quoted(name)}"
        if name in constants
        else f"{'.'.join(map(quoted, name.split('.')))} as {quoted(name)}"
        for name in columns
    ]
    listed = ", ".join(map(_text, paths))
    return f"select {', '.join(members)} from read_parquet([{listed}], hive_partitioning = false)"


def quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _count(rule: Rule, all_in_scope: bool) -> Measure:
    if all_in_scope:
        return Measure(f"count(*) filter ({rule.speaks_of})", rule.columns)
    if isinstance(rule, Sole):
        return Measure("0")
    return Measure(f"count(*) filter ({rule.speaks_of} and {rule.breaks})", rule.columns)


def _hashed(columns: Sequence[str]) -> str:
    return f"hash({', '.join(map(quoted, columns))})"


def _columns_of(domain: Mapping[str, Any]) -> tuple[str, ...]:
    named = [domain.get("column"), domain.get("column_A"), domain.get("column_B"), *(domain.get("column_list") or ())]
    return tuple(str(column) for column in named if column is not None)


# --- rules ---------------------------------------------------------------------------------------------------------


class _Unsaid(Exception):
    """SQL would say something else than Spark's engine, or nothing."""


Make = Callable[[tuple[str, ...], Mapping[str, Any], list[pa.DataType]], Rule]


def _of_values(expected: Callable[[str, Mapping[str, Any], pa.DataType], str]) -> Make:
    """A rule about the values of one column: of a missing one it says nothing."""

    def rule(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
        name = quoted(columns[0])
        return Rule(columns, f"{name} is not null", f"not ({expected(name, values, types[0])})")

    return rule


def _between(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    low, high = values.get("min_value"), values.get("max_value")
    bounds = []
    if low is not None:
        bounds.append(f"{name} {'>' if values.get('strict_min') else '>='} {_literal(low, kind)}")
    if high is not None:
        bounds.append(f"{name} {'<' if values.get('strict_max') else '<='} {_literal(high, kind)}")
    if not bounds or (low is not None and high is not None and low > high):
        raise _Unsaid
    return " and ".join(bounds)


def _length(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    if not pa.types.is_string(kind):
        raise _Unsaid
    if "value" in values:
        return f"length({name}) = {_literal(values['value'], pa.int64())}"
    given = [values[key] for key in ("min_value", "max_value") if values.get(key) is not None]
    if not all(isinstance(value, int | float) and float(value).is_integer() for value in given):
        raise _Unsaid
    return _between(f"length({name})", values, pa.int64())


def _in_set(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    return "true" if values.get("value_set") is None else f"{name} in {_set(values['value_set'], kind)}"


def _set(value_set: Any, kind: pa.DataType) -> str:
    if not value_set:
        raise _Unsaid
    return f"({', '.join(_literal(value, kind) for value in value_set)})"


def _matches(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    return f"regexp_matches({name}, {_pattern(values['regex'], kind)})"


def _matches_list(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    patterns = [str(pattern) for pattern in values.get("regex_list") or ()]
    how = values.get("match_on") or "any"
    if not patterns or how not in ("any", "all"):
        raise _Unsaid
    found = [f"regexp_matches({name}, {_pattern(pattern, kind)})" for pattern in patterns]
    return (" or " if how == "any" else " and ").join(found)


def _matches_none(name: str, values: Mapping[str, Any], kind: pa.DataType) -> str:
    patterns = [str(pattern) for pattern in values.get("regex_list") or ()]
    if not patterns:
        raise _Unsaid
    return " and ".join(f"not regexp_matches({name}, {_pattern(pattern, kind)})" for pattern in patterns)


def _not(expected: Callable[[str, Mapping[str, Any], pa.DataType], str]) -> Any:
    return lambda name, values, kind: f"not ({expected(name, values, kind)})"


def _present(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
    return Rule(columns, "true", f"{quoted(columns[0])} is null")


def _missing(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
    return Rule(columns, "true", f"{quoted(columns[0])} is not null")


def _unique(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
    _only(types, _is_exact)
    return Sole(columns, f"{quoted(columns[0])} is not null")


def _pair(expected: Callable[[str, str, Mapping[str, Any]], str]) -> Make:
    """A rule about two columns of types that compare with each other; of a pair with one missing it says nothing."""

    def rule(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
        one, other = types
        is_comparable = one == other or (_is_number(one) and _is_number(other))
        if not is_comparable or pa.types.is_nested(one) or values.get("ignore_row_if") != "either_value_is_missing":
            raise _Unsaid
        a, b = map(quoted, columns)
        return Rule(columns, f"({a} is not null and {b} is not null)", f"not ({expected(a, b, values)})")

    return rule


def _several(make: Callable[[tuple[str, ...], Mapping[str, Any], list[pa.DataType], str], Rule]) -> Make:
    def rule(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType]) -> Rule:
        nulls = [f"{quoted(column)} is null" for column in columns]
        ignored = {"all_values_are_missing": " and ", "any_value_is_missing": " or "}.get(str(values["ignore_row_if"]))
        return make(columns, values, types, f"not ({ignored.join(nulls)})" if ignored else "true")

    return rule


def _unique_together(
    columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType], speaks_of: str
) -> Rule:
    _only(types, _is_exact)
    return Sole(columns, speaks_of)


def _unique_in_row(
    columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType], speaks_of: str
) -> Rule:
    if len(set(types)) > 1 or len(columns) < 2:
        raise _Unsaid
    names = list(map(quoted, columns))
    same = [f"{a} is not distinct from {b}" for place, a in enumerate(names) for b in names[place + 1 :]]
    return Rule(columns, speaks_of, f"({' or '.join(same)})")


def _sum(columns: tuple[str, ...], values: Mapping[str, Any], types: list[pa.DataType], speaks_of: str) -> Rule:
    """Of integers alone: what floats add up to depends on who adds. A missing one counts as 0."""
    _only(types, pa.types.is_integer)
    total = " + ".join(f"coalesce({quoted(column)}, 0)::hugeint" for column in columns)
    return Rule(columns, speaks_of, f"({total})::double <> {_literal(float(values['sum_total']), pa.float64())}")


_RULES: dict[str, Make] = {
    "column_values.nonnull": _present,
    "column_values.null": _missing,
    "column_values.unique": _unique,
    "column_values.between": _of_values(_between),
    "column_values.value_length.between": _of_values(_length),
    "column_values.value_length.equals": _of_values(_length),
    "column_values.in_set": _of_values(_in_set),
    "column_values.not_in_set": _of_values(_not(_in_set)),
    "column_values.match_regex": _of_values(_matches),
    "column_values.not_match_regex": _of_values(_not(_matches)),
    "column_values.match_regex_list": _of_values(_matches_list),
    "column_values.not_match_regex_list": _of_values(_matches_none),
    "column_pair_values.a_greater_than_b": _pair(
        lambda a, b, values: f"{a} >= {b}" if values.get("or_equal") else f"{a} > {b}"
    ),
    "column_pair_values.equal": _pair(lambda a, b, values: f"{a} = {b}"),
    "compound_columns.unique": _several(_unique_together),
    "select_column_values.unique.within_record": _several(_unique_in_row),
    "multicolumn_sum.equal": _several(_sum),
}

# --- aggregates ----------------------------------------------------------------------------------------------------

Aggregate = Callable[[str, Mapping[str, Any], pa.Schema], Measure | None]


def _plain(function: str, fits: Callable[[pa.DataType], bool]) -> Aggregate:
    def aggregate(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
        if not fits(schema.field(column).type):
            return None
        return Measure(function.format(quoted(column)), (column,))

    return aggregate


def _not_in_set(count_only: bool) -> Aggregate:
    def aggregate(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
        try:
            kept = f"{quoted(column)} not in {_set(values.get('value_set'), schema.field(column).type)}"
        except _Unsaid:
            return None
        if count_only:
            return Measure(f"count(distinct {quoted(column)}) filter ({kept})", (column,))
        return _listed(f"list(distinct {quoted(column)}) filter ({kept})", column, values)

    return aggregate


def _missing_from_column(count_only: bool) -> Aggregate:
    """As Spark's engine counts: what is wanted twice is missed once if it is there once."""

    def aggregate(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
        wanted = list(values.get("value_set") or ())
        try:
            kept = f"{quoted(column)} in {_set(wanted, schema.field(column).type)}"
        except _Unsaid:
            return None
        if count_only:
            return Measure(
                f"count(distinct {quoted(column)}) filter ({kept})", (column,), lambda found: len(wanted) - found
            )
        limit = values.get("limit") or _MOST_VALUES
        return Measure(
            f"list(distinct {quoted(column)}) filter ({kept})",
            (column,),
            lambda found: [value for value in dict.fromkeys(wanted) if value not in (found or ())][:limit],
        )

    return aggregate


_MOST_VALUES = 20
"""How many values Great Expectations lists when it is not told."""


def _listed(sql: str, column: str, values: Mapping[str, Any]) -> Measure:
    limit = values.get("limit") or _MOST_VALUES
    return Measure(sql, (column,), lambda found: sorted(found or ())[:limit])


def _most_common(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    if not _is_exact(schema.field(column).type) or pa.types.is_timestamp(schema.field(column).type):
        return None

    def most(counts: Mapping[Any, int] | None) -> list[Any]:
        highest = max((counts or {}).values(), default=0)
        return sorted(value for value, count in (counts or {}).items() if count == highest)

    return Measure(f"histogram({quoted(column)})", (column,), most)


def _quantiles(column: str, values: Mapping[str, Any], schema: pa.Schema) -> Measure | None:
    if values.get("allow_relative_error") or not _is_number(schema.field(column).type):
        return None
    wanted = [float(quantile) for quantile in values["quantiles"]]
    sql = f"quantile_disc({quoted(column)}::double, {wanted}) filter ({quoted(column)} is not null)"
    return Measure(sql, (column,), lambda found: list(found or ()))


_AGGREGATES: dict[str, Aggregate] = {
    "column.min": _plain("min({})", lambda kind: _is_number(kind) or pa.types.is_string(kind)),
    "column.max": _plain("max({})", lambda kind: _is_number(kind) or pa.types.is_string(kind)),
    "column.mean": _plain("avg({})", lambda kind: _is_number(kind)),
    "column.sum": _plain("sum({})", lambda kind: _is_number(kind)),
    "column.standard_deviation": _plain("stddev_samp({}::double)", lambda kind: _is_number(kind)),
    "column.median": _plain("median({}::double)", lambda kind: _is_number(kind)),
    "column.quantile_values": _quantiles,
    "column.distinct_values.count": _plain("count(distinct {})", lambda kind: _is_exact(kind)),
    "column.unique_proportion": _plain(
        "coalesce(count(distinct {0}) / nullif(count({0}), 0), 0)", lambda kind: _is_exact(kind)
    ),
    "column.non_null_count": _plain("count({})", lambda kind: True),
    "column.non_null_proportion": _plain("coalesce(count({}) / nullif(count(*), 0), 0)", lambda kind: True),
    "column.distinct_values.not_in_set": _not_in_set(count_only=False),
    "column.distinct_values.not_in_set.count": _not_in_set(count_only=True),
    "column.distinct_values.missing_from_column": _missing_from_column(count_only=False),
    "column.distinct_values.missing_from_column.count": _missing_from_column(count_only=True),
    "column.most_common_value": _most_common,
}

# --- types and literals --------------------------------------------------------------------------------------------


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind))


def _is_exact(kind: pa.DataType) -> bool:
    """Whether two values are the same in every engine: of floats, 0.0 and -0.0 are not."""
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_boolean, pa.types.is_timestamp, pa.types.is_date)
    return any(is_kind(kind) for is_kind in kinds)


def _only(types: Sequence[pa.DataType], fits: Callable[[pa.DataType], bool]) -> None:
    if not all(map(fits, types)):
        raise _Unsaid


def _literal(value: Any, kind: pa.DataType) -> str:
    """The value in SQL, where it is of the column's kind: another would be converted, by each engine in its own way."""
    if isinstance(value, bool):
        if pa.types.is_boolean(kind):
            return str(value).lower()
    elif isinstance(value, int) and _is_number(kind):
        return str(value)
    elif isinstance(value, float) and _is_number(kind):
        return f"{value!r}::double"
    elif isinstance(value, str) and pa.types.is_string(kind):
        return _text(value)
    elif isinstance(value, str | datetime) and pa.types.is_timestamp(kind):
        return f"{_text(_instant(value))}::timestamptz"
    raise _Unsaid


def _text(value: str) -> str:
    if "\0" in value:
        raise _Unsaid
    return "'" + value.replace("'", "''") + "'"


def _instant(value: str | datetime) -> str:
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError as error:
        raise _Unsaid from error
    if instant.tzinfo is None:
        raise _Unsaid
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


def _pattern(pattern: Any, kind: pa.DataType) -> str:
    """A pattern of Java's for RE2: `.`, `$` and `\\s` mean other ends of lines. Only what both read alike is taken."""
    if not pa.types.is_string(kind):
        raise _Unsaid
    translated, place = "", 0
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            raise _Unsaid
        same = token.group().replace(r"\s", _SPACE)
        translated += {"any": _ANY, "end": _END, "space": f"[{_SPACE}]"}.get(str(token.lastgroup), same)
        place = token.end()
    return _text(translated)
