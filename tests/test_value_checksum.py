from __future__ import annotations

import hashlib
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from hypothesis import HealthCheck, given
from hypothesis import settings as given_with
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from lakehouse.checksum import Engine
from lakehouse.types import arrow_type
from lakehouse.value_checksum import ROWS, Leaf, leaves_of, value_checksum, value_sql
from tests.examples import examples

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 0.5, -0.25, 2.0**62, -(2.0**63), math.inf, math.nan])
DOUBLES = FLOATS | st.floats() | st.sampled_from([0.1, -1e-30, 1e15 + 0.3, 2.0**62 - 1024])
DECIMAL = st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**19), max_value=10**19)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXTS,
    "tinyint": st.integers(-(2**7), 2**7 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "float": FLOATS,
    "double": DOUBLES,
    "boolean": st.booleans(),
    "timestamp": INSTANTS,
    "date": st.dates(date(1, 1, 2), date(9999, 12, 30)),
    "binary": st.binary(max_size=8),
    "decimal(38, 18)": DECIMAL,
    "decimal(5, 2)": st.decimals(-999, 999, places=2),
    "decimal(2, 2)": st.decimals(Decimal("-0.99"), Decimal("0.99"), places=2),
    "decimal(9, 0)": st.decimals(-(10**9) + 1, 10**9 - 1, places=0),
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ODD: dict[str, list[Any]] = {
    "string": ["", "-", "--", ",", "1:", "a", "A", "a ", "a\0", "\0", "a\0b", "á", "a\u0301", "ß", "\ufeff", "\u2028",
               "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0010ffff", "\n", "\r\n", "\\", "'",
               "x" * 99_999, "x" * 100_000],
    "binary": [b"", b"\0", b"\0\0", b"\xff", b"\xff\0", b"-", b"a", bytes(range(256))],
    "bigint": [0, -1, -(2**63), 2**63 - 1, 2**53, 2**53 + 1],
    "boolean": [False, True],
    "date": [date(1, 1, 1), date(9999, 12, 31), date(1582, 10, 4), date(1582, 10, 10), date(1582, 10, 15),
             date(100, 3, 1), date(1900, 2, 28), date(1969, 12, 31), date(1970, 1, 1), date(2000, 2, 29)],
    "timestamp": [
        *(EPOCH + timedelta(microseconds=each) for each in (-1_000_001, -1_000_000, -999_999, -1, 0, 1, 10, 100_000)),
        datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime(1582, 10, 10, 1, tzinfo=UTC),
        datetime(1883, 11, 18, 12, 3, 58, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        *(datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)),
    ],
    "double": [0.0, 1.0, -1.0, 0.1, -0.1, 0.3, 0.1 + 0.2, 2.0**-62, -(2.0**-62), 2.0**-61, 1 / 3, 1e15 + 0.5,
               2.0**53, 2.0**53 + 2, 2.0**52 - 0.5, 2.0**62 - 1024, -math.inf, math.nan],
    "float": [0.0, 0.5, 2.0**24 - 1, 2.0**24, 2.0**-62, -math.inf, math.nan],
    **{
        f"decimal({digits}, {places})": [
            Decimal((sign, each, -places)) for sign in (0, 1) for each in ((1,), (1, 0)[:digits], (9,) * digits)
        ]
        for digits, places in ((2, 1), (2, 2), (18, 18), (19, 0), (29, 9), (38, 0), (38, 1), (38, 37), (38, 38))
    },
}  # fmt: skip
"""Values of each type that tell from one another, though some engine might read or print them alike."""
ODD_NAMES = dict(zip([f"odd_{number}" for number in range(len(ODD))], ODD, strict=True))


def odd_columns() -> dict[str, list[Any]]:
    """As many rows as the longest of them needs; the others begin again. The first row is null."""
    count = max(map(len, ODD.values()))
    return {name: [None, *islice(cycle(ODD[kind]), count)] for name, kind in ODD_NAMES.items()}


TRACK = "struct<id: string, inner: struct<ms: int, at: timestamp, Größe: double>>"
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        *((f"a {number}", arrow_type(kind)) for number, kind in enumerate(VALUES)),
        ("track", arrow_type(TRACK)),
        ("tags", arrow_type("array<string>")),
        ("attributes", arrow_type("map<string, int>")),
    ]
)
LEAVES = list(leaves_of(SCHEMA))


@st.composite
def rows(draw: st.DrawFn) -> pa.Table:
    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(st.none() | values, min_size=count, max_size=count))

    count = draw(st.integers(0, 12))
    inner = st.fixed_dictionaries({"ms": VALUES["int"], "at": st.none() | INSTANTS, "Größe": st.none() | DOUBLES})
    columns = [
        [f"id-{number}" for number in range(count)],
        *(column(values) for values in VALUES.values()),
        column(st.fixed_dictionaries({"id": st.none() | TEXTS, "inner": st.none() | inner})),
        column(st.lists(TEXTS, max_size=2)),
        column(st.dictionaries(TEXTS, VALUES["int"], max_size=2).map(lambda each: list(each.items()))),
    ]
    return pa.table([pa.array(each, field.type) for each, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def spelled(value: Any, leaf: Leaf) -> str:
    """The definition, value by value."""
    if value is None:
        return "-"
    if isinstance(value, float):
        sign = "-" if value < 0 else ""
        if not abs(value) < 2**62:
            return f"{sign}large"
        fraction, whole = math.modf(abs(value))
        return f"{sign}{int(whole)}.{int(fraction * 2**62)}"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, str):
        return f"{len(value)}:{value}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return str((value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
    if isinstance(value, date):
        return str((value - date(1970, 1, 1)).days)
    if isinstance(value, Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def at(row: Any, leaf: Leaf) -> Any:
    for name in leaf.path:
        row = row[name] if row is not None else None
    return row


def defined(table: pa.Table, leaves: list[Leaf]) -> int:
    texts = [",".join(spelled(at(row, leaf), leaf) for leaf in leaves) for row in table.to_pylist()]
    return sum(int(hashlib.md5(text.encode()).hexdigest()[:15], 16) for text in texts)


def test_arrays_and_maps_are_left_out() -> None:
    named = {str(leaf) for leaf in LEAVES}
    assert named == {*SCHEMA.names} - {"track", "tags", "attributes"} | {
        "track.id",
        "track.inner.ms",
        "track.inner.at",
        "track.inner.Größe",
    }


@given(rows())
@given_with(max_examples=examples(100), deadline=None)
def test_duckdb_gives_what_the_definition_says(table: pa.Table) -> None:
    assert value_checksum(table.to_batches(), LEAVES) == in_duckdb(value_sql("duckdb", LEAVES), table)
    assert value_checksum(table.to_batches(), LEAVES) == defined(table, LEAVES)


@given(rows())
@given_with(max_examples=examples(60), deadline=None)
def test_bigquery_s_expression_gives_the_same(table: pa.Table) -> None:
    """As sqlglot says it in DuckDB, which writes decimals below one otherwise: its servers are not to be had here."""
    leaves = [leaf for leaf in LEAVES if leaf.type != pa.decimal128(2, 2)]
    sql = value_sql("bigquery", leaves).replace("as numeric", "as numeric(29, 0)")
    expression = sqlglot.transpile(sql, read="bigquery", write="duckdb")[0]
    assert in_duckdb(expression, table) == defined(table, leaves)


def in_duckdb(expression: str, table: pa.Table) -> int:
    with duckdb.connect() as database:
        database.execute("set timezone = 'Asia/Kolkata'")
        database.register(ROWS, table)
        return int(database.execute(f"select {expression} from {ROWS}").fetchall()[0][0])


@given(rows())
@given_with(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spark_gives_the_same(spark: SparkSession, tmp_path: Path, table: pa.Table) -> None:
    """Also by Hive's expression, which uses Hive's functions: Spark has all of them, too."""
    file = tmp_path / "rows.parquet"
    pq.write_table(table, file)
    engines: list[Engine] = ["spark", "hive"]
    found = spark.read.parquet(str(file)).selectExpr(*(value_sql(engine, LEAVES) for engine in engines))
    assert {int(each) for each in found.collect()[0]} == {defined(table, LEAVES)}


def test_any_two_odd_values_differ() -> None:
    for kind, values in ODD.items():
        schema = pa.schema([("v", arrow_type(kind))])
        tables = [pa.table([pa.array([value], schema[0].type)], schema) for value in (None, *values)]
        sums = {value_checksum(table.to_batches(), list(leaves_of(schema))) for table in tables}
        assert len(sums) == len(set(map(repr, values))) + 1, kind


def test_odd_values_are_the_same_in_every_engine(spark: SparkSession, tmp_path: Path) -> None:
    """Hive's and BigQuery's expressions in other engines, as in the tests above; `tests/test_hive.py` asks Hive."""
    columns = odd_columns()
    schema = pa.schema([(name, arrow_type(ODD_NAMES[name])) for name in columns])
    table = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)
    leaves = list(leaves_of(schema))
    right = {str(leaf): defined(table, [leaf]) for leaf in leaves}
    assert {str(leaf): value_checksum(table.to_batches(), [leaf]) for leaf in leaves} == right
    pq.write_table(table, tmp_path / "rows.parquet")
    engines: list[Engine] = ["spark", "hive"]
    for engine in engines:
        sums = spark.read.parquet(str(tmp_path)).selectExpr(*(value_sql(engine, [leaf]) for leaf in leaves))
        assert dict(zip(right, map(int, sums.collect()[0]), strict=True)) == right, engine


@given(rows(), st.data())
@given_with(max_examples=examples(60), deadline=None)
def test_a_value_that_changes_changes_it_in_its_column_alone(table: pa.Table, data: st.DataObject) -> None:
    if not len(table):
        return
    name = data.draw(st.sampled_from([f"a {number}" for number in range(len(VALUES))]))
    place = SCHEMA.names.index(name)
    kind = list(VALUES)[place - 1]
    values = table[name].to_pylist()
    row = data.draw(st.integers(0, len(table) - 1))
    before = values[row]
    values[row] = data.draw(st.none() | VALUES[kind])
    changed = table.set_column(place, SCHEMA[place], pa.array(values, SCHEMA[place].type))
    if spelled(changed[name].to_pylist()[row], LEAVES[place]) == spelled(table[name].to_pylist()[row], LEAVES[place]):
        assert before == values[row] or kind in ("float", "double")
        return
    assert value_checksum(changed.to_batches(), LEAVES) != value_checksum(table.to_batches(), LEAVES)
    for leaf in LEAVES:
        is_same = value_checksum(changed.to_batches(), [leaf]) == value_checksum(table.to_batches(), [leaf])
        assert is_same == (str(leaf) != name)


def test_values_that_change_places_change_it() -> None:
    """The sums of a column alone would be the same."""
    schema = pa.schema([("event_id", pa.string()), ("n", pa.int64())])
    one, other = (pa.table({"event_id": ["a", "b"], "n": n}, schema) for n in ([1, 2], [2, 1]))
    leaves = list(leaves_of(schema))
    assert value_checksum(one.to_batches(), leaves) != value_checksum(other.to_batches(), leaves)
