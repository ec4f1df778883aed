"""One database that reads an hour's rows: aggregates of all expectations in one scan, rows that violate one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow as pa

from lakehouse.store.scratch import scratch_database
from lakehouse.validate import functions
from lakehouse.validate.literals import identifier, text_literal
from lakehouse.validate.sums import Sums

Scan = Callable[[Sequence[str]], pa.RecordBatchReader | str]
"""The hour's rows, read again at each call: only the given columns, in which `route.origin` is a column of that name.

As batches, or as the query that gives them, where DuckDB can read the files itself: that is twice as fast.
"""

Hashed = Callable[[Sequence[str]], str]

_BATCH_ROWS = 500_000
_HASHES_IN_MEMORY = 64_000_000
"""8 bytes each, while they are sorted twice."""
_LONG_BYTES, _SHORT = 4096, 50
"""Of a text in an example: from so many bytes on, only so many characters."""


@dataclass(frozen=True)
class Measure:
    """An aggregate over the hour's rows, and what makes Great Expectations' metric of it."""

    sql: str
    columns: tuple[str, ...] = ()
    metric: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class SumsMeasure(Measure):
    """What is made of exact sums: `sql` gives a number for each row."""


@dataclass(frozen=True)
class Rule:
    """Which rows an expectation is about, and which of them violate it: two conditions that are never null.

    `columns` are those it is about, `also_read` those that only its conditions name.
    """

    columns: tuple[str, ...]
    applies_to: str
    violates: str
    also_read: tuple[str, ...] = ()

    def where(self, condition: str, columns: Sequence[str]) -> Self:
        """The same about fewer rows."""
        if condition == "true":
            return self
        return replace(self, applies_to=f"({condition} and {self.applies_to})", also_read=tuple(columns))


@dataclass(frozen=True)
class UniqueRule(Rule):
    """A rule that a row violates by having the same values as another; the row alone does not say."""

    violates: str = field(default="false")


def row_hash(columns: Sequence[str]) -> str:
    return f"hash({', '.join(map(identifier, columns))})"


class HourScan:
    """An hour's rows and the one database that reads them. `row_hash` is given so that a test can make it poor."""

    def __init__(self, scan: Scan, database: duckdb.DuckDBPyConnection, row_hash: Hashed = row_hash) -> None:
        self._scan, self._database, self._hashed = scan, database, row_hash
        self._registered: set[str] = set()

    def metrics(self, measures: Mapping[Any, Measure]) -> dict[Any, Any]:
        """Every measure's metric, by its key; the same SQL is computed once, all of it in one scan."""
        of_sums = {key: each for key, each in measures.items() if isinstance(each, SumsMeasure)}
        others = {key: each for key, each in measures.items() if key not in of_sums}
        found = self._aggregates(others) | self._sums(of_sums)
        return {key: each.metric(found[type(each), each.sql]) for key, each in measures.items()}

    def _aggregates(self, measures: Mapping[Any, Measure]) -> dict[Any, Any]:
        expressions = list(dict.fromkeys(each.sql for each in measures.values()))
        if not expressions:
            return {}
        self._read(_columns_of(measures))
        listed = ", ".join(f"{expression} as m{place}" for place, expression in enumerate(expressions))
        (row,) = self._rows(f"select count(*) as rows, {listed} from hour")
        return {(Measure, expression): row[f"m{place}"] for place, expression in enumerate(expressions)}

    def _sums(self, measures: Mapping[Any, Measure]) -> dict[Any, Any]:
        """In a scan of its own, which only the columns of which a sum is asked are read for."""
        expressions = list(dict.fromkeys(each.sql for each in measures.values()))
        sums = [Sums() for _ in expressions]
        if expressions:
            self._read(_columns_of(measures))
            batches = self._database.sql(f"select {', '.join(expressions)} from hour").to_arrow_reader(_BATCH_ROWS)
            for batch in batches:
                for each, column in zip(sums, batch.columns, strict=True):
                    each.add(column)
        return {(SumsMeasure, expression): each for expression, each in zip(expressions, sums, strict=True)}

    def repeats(self, rule: UniqueRule) -> int:
        """How many rows violate a rule about repeated values: exact, also where two values have the same hash.

        Not part of the shared scan: there a distinct count doubles the cost of all else.
        """
        if not self._may_repeat(rule):
            return 0
        self._suspects(rule)
        ((count,),) = self._database.execute(f"select count(*) from ({self._repeated_rows(rule)})").fetchall()
        return int(count)

    def examples(self, rule: Rule, also: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """The first rows that violate the rule, by their values in this order: `also`, the columns it is about.

        Of long texts only the beginning, and how much there was: rows are sorted in memory.
        """
        columns = list(dict.fromkeys([*also, *rule.columns]))
        if isinstance(rule, UniqueRule):
            self._suspects(rule, columns)
            violating = self._repeated_rows(rule)
        else:
            self._read([*columns, *rule.also_read])
            violating = f"select * from hour where {rule.applies_to} and {rule.violates}"
        types = dict(self._database.execute(f"select column_name, column_type from (describe {violating})").fetchall())
        shown = ", ".join(_shortened(name) if types[name] == "VARCHAR" else identifier(name) for name in columns)
        return self._rows(f"select {shown} from ({violating}) order by all limit {limit}")

    def with_one_thread(self) -> None:
        """Slower, and in less memory: each thread holds rows of its own."""
        self._database.execute("set threads = 1")

    def probe(self, columns: Sequence[str]) -> None:
        """Read every value of the columns; raises what the files raise."""
        self._read(columns)
        values = ", ".join(f"max(hash({identifier(column)}))" for column in columns) or "count(*)"
        self._database.execute(f"select {values} from hour").fetchall()

    def _rows(self, query: str) -> list[dict[str, Any]]:
        for name in functions.FUNCTIONS:
            if f"{name}(" in query and name not in self._registered:
                functions.register(name, self._database)
                self._registered.add(name)
        return list(self._database.sql(query).to_arrow_table().to_pylist())

    def forget_functions(self) -> None:
        """The database may serve another scan, which registers its own."""
        for name in self._registered:
            self._database.remove_function(name)
        self._registered.clear()

    def _may_repeat(self, rule: UniqueRule) -> bool:
        """Whether a hash occurs twice, of what memory holds; beyond that the database compares in full."""
        self._read([*rule.columns, *rule.also_read])
        hashes = self._database.sql(f"select {self._hashed(rule.columns)} as h from hour where {rule.applies_to}")
        kept: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        rows = 0
        for batch in hashes.to_arrow_reader(_BATCH_ROWS):
            kept.append(batch.column(0).to_numpy())
            rows += len(batch)
            if rows > _HASHES_IN_MEMORY:
                return True
        together = np.sort(np.concatenate(kept)) if kept else np.empty(0, np.uint64)
        return bool((together[1:] == together[:-1]).any())

    def _read(self, columns: Sequence[str]) -> None:
        rows = self._scan(list(dict.fromkeys(columns)) or ["event_id"])
        self._database.unregister("hour")  # some columns may come as batches, and others by a query
        if isinstance(rows, str):
            self._database.execute(f"create or replace temp view hour as {rows}").fetchall()
        else:
            self._database.register("hour", rows)

    def _suspects(self, rule: UniqueRule, columns: Sequence[str] = ()) -> None:
        """The table `suspects`: few rows, with all that violate the rule among them."""
        key = self._hashed(rule.columns)
        self._read([*rule.columns, *rule.also_read])
        self._database.execute(
            f"create or replace temp table often as select {key} as h from hour "
            f"where {rule.applies_to} group by h having count(*) > 1"
        ).fetchall()
        self._read([*columns, *rule.columns, *rule.also_read])
        self._database.execute(
            f"create or replace temp table suspects as select * from hour "
            f"where {rule.applies_to} and {key} in (select h from often)"
        ).fetchall()

    @staticmethod
    def _repeated_rows(rule: UniqueRule) -> str:
        by = ", ".join(map(identifier, rule.columns))
        return f"select * from suspects qualify count(*) over (partition by {by}) > 1"


def _shortened(column: str) -> str:
    name = identifier(column)
    cut = f"left({name}, {_SHORT}) || '… (' || format('{{:,}}', strlen({name})) || ' bytes, cut)'"
    return f"case when strlen({name}) > {_LONG_BYTES} then {cut} else {name} end as {name}"


def _columns_of(measures: Mapping[Any, Measure]) -> list[str]:
    return sorted({column for each in measures.values() for column in each.columns})


@contextmanager
def hour_scan(scan: Scan, row_hash: Hashed = row_hash) -> Iterator[HourScan]:
    """A database of its own for the hour, gone with all that it spilled when the block ends."""
    with scratch_database() as database:
        hour = HourScan(scan, database, row_hash)
        try:
            yield hour
        finally:
            hour.forget_functions()


def of_files(
    files: Sequence[str],
    columns: Sequence[str],
    constants: Mapping[str, str],
    paths: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The query for columns of Parquet files on this machine; a column of `constants` is the same in every row.

    `paths` say which members of which columns they are; a column without one is that of its name.
    """
    members = [
        f"{text_literal(constants[name])} as {identifier(name)}"
        if name in constants
        else f"{'.'.join(map(identifier, (paths or {}).get(name, (name,))))} as {identifier(name)}"
        for name in columns
    ]
    listed = ", ".join(map(text_literal, files))
    return f"select {', '.join(members)} from read_parquet([{listed}], hive_partitioning = false)"
