from __future__ import annotations

import hashlib
import random
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from lakehouse.checksum import _FEW, Engine, checksum_of, id_checksum, sql_for

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ODD_IDS = [
    "",
    "a",
    "é",
    "e\u0301",
    "😀",
    "x" * 55,
    "x" * 56,
    "x" * 1000,
    "with\nnewline",
    "with\0zero",
    " padded ",
    "a",
]


def many_ids() -> list[str]:
    """More than are hashed one by one."""
    return [f"{number:032x}" for number in range(_FEW)] + ODD_IDS


def test_the_checksum_is_the_sum_of_fifteen_hex_digits_of_each_md5() -> None:
    """Spelled out once more, so that nobody changes the definition that mirrors were counted by."""
    digits = [hashlib.md5(text.encode()).hexdigest()[:15] for text in ("one", "two")]
    assert checksum_of(["one", "two"]) == int(digits[0], 16) + int(digits[1], 16)
    assert checksum_of([]) == 0
    assert checksum_of(["flight-1"]) == 0xD5FB5406E0152DA


@given(st.lists(TEXTS, max_size=20), st.randoms(use_true_random=False))
def test_order_does_not_change_it_and_parts_add_up(ids: list[str], order: random.Random) -> None:
    """Files, tasks and engines each see the ids in another order, and in parts."""
    shuffled = order.sample(ids, len(ids))
    cut = len(ids) // 2
    assert checksum_of(shuffled) == checksum_of(ids) == checksum_of(ids[:cut]) + checksum_of(ids[cut:])


def test_a_repeated_or_missing_or_changed_id_changes_it() -> None:
    ids = ["a", "b", "c"]
    assert len({checksum_of(each) for each in (ids, [*ids, "c"], ids[:2], ["a", "b", "C"], ["a", "a", "b"])}) == 5


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_the_fast_way_gives_what_the_definition_says(kind: pa.DataType) -> None:
    """Parquet readers hand ids over in any of Arrow's text types."""
    ids = many_ids()
    array = pa.array(ids).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(ids).dictionary_encode()
    assert id_checksum(array) == checksum_of(ids)


def test_chunks_slices_and_nulls_are_counted_rightly() -> None:
    """A slice shares its buffers with what is not in it."""
    ids = many_ids()
    chunked = pa.chunked_array([pa.array(["no", *ids, "no"]).slice(1, len(ids)), pa.array([None, None], pa.string())])
    assert id_checksum(chunked) == checksum_of(ids)
    assert id_checksum(pa.array([None, "a"])) == checksum_of(["a"])
    assert id_checksum(pa.chunked_array([], pa.string())) == 0


def test_sums_beyond_64_bits_are_exact() -> None:
    """Sixteen ids are enough to overflow a signed long; a hundred thousand overflow a double's precision."""
    ids = ["same"] * (_FEW * 10)
    assert id_checksum(pa.array(ids)) == checksum_of(["same"]) * len(ids) > 2**64


@pytest.mark.parametrize("engine", ["spark", "hive"])
def test_spark_computes_the_same(spark: SparkSession, tmp_path: Path, engine: Engine) -> None:
    """Hive's expression uses Hive's functions, all of which Spark has too."""
    ids = many_ids()
    pq.write_table(pa.table({"event_id": [*ids, None]}), tmp_path / "ids.parquet")
    rows = spark.read.parquet(str(tmp_path / "ids.parquet"))
    assert int(rows.selectExpr(sql_for(engine)).collect()[0][0]) == checksum_of(ids)
    assert int(rows.where("false").selectExpr(sql_for(engine)).collect()[0][0]) == 0


@pytest.mark.parametrize("engine", ["duckdb", "bigquery"])
def test_duckdb_computes_the_same(engine: Engine) -> None:
    """BigQuery's expression as sqlglot says it in DuckDB: its servers are not to be had here."""
    values = many_ids()
    ids = pa.table({"event_id": [*values, None]})
    sql = sql_for(engine).replace("as numeric", "as numeric(29, 0)")  # BigQuery's digits, which casts may not give
    expression = sqlglot.transpile(sql, read=engine, write="duckdb")[0]
    with duckdb.connect(":memory:") as connection:
        connection.register("ids", ids)
        found = connection.execute(f"select {expression} from ids").fetchone()
        nothing = connection.execute(f"select {expression} from ids where false").fetchone()
    assert found is not None
    assert int(Decimal(found[0])) == checksum_of(values)
    assert nothing is not None
    assert int(nothing[0]) == 0
