"""Which deliveries of a bucket lose: exact, from the ids alone, in memory that does not grow with the bucket.

DuckDB groups hashes of the ids and spills to disk beyond its limit; the few ids whose hash occurs twice are then looked
at in full. 16 bytes for each row instead of its id make finding the duplicates of an hour cheaper than one more column.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from lakehouse.schemas import TIMESTAMP
from lakehouse.store.parquet import FILE, ROW

MEMORY_LIMIT = "1GB"

ADDRESS = pa.schema([(FILE, pa.int32()), (ROW, pa.int64())])

Scan = Callable[[list[str]], Iterable[pa.RecordBatch]]
"""A bucket's rows: for some of bronze's columns, batches of these and the rows' addresses."""

_TYPES = {"event_id": pa.string(), "publish_time": TIMESTAMP, "message_id": pa.string(), "event_time": TIMESTAMP}


def duplicates(scan: Scan) -> pa.Table:
    """Addresses (columns `ADDRESS`) of every delivery but the first of its event, by file and row.

    First is the earliest by (publish_time, message_id); deliveries that agree in both are one message, so any of them
    gives the same row.
    """
    with _database() as database:
        ids = _reader(scan, ["event_id"])
        database.register("ids", ids)
        database.execute(f"create temp table hashes as select hash(event_id) as h, {FILE}, {ROW} from ids")
        database.execute("create temp table often as select h from hashes group by h having count(*) > 1")
        [(suspects,)] = database.execute("select count(*) from often").fetchall()
        if not suspects:
            return ADDRESS.empty_table()
        database.execute(f"create temp table suspects as select {FILE}, {ROW} from hashes semi join often using (h)")
        database.register("deliveries", _reader(scan, ["event_id", "publish_time", "message_id"]))
        return database.sql(
            f"""
            select {FILE}, {ROW} from (
                select event_id, publish_time, message_id, {FILE}, {ROW} from deliveries
                semi join suspects using ({FILE}, {ROW})
                qualify row_number() over (
                    partition by event_id order by publish_time, message_id, {FILE}, {ROW}
                ) > 1
            ) order by {FILE}, {ROW}
            """
        ).to_arrow_table()


def late_duplicates(skewed: pa.Table, sealed_ids: Iterable[pa.RecordBatch]) -> pa.Table:
    """Addresses of the skewed deliveries (`event_id`, `file`, `row`) whose event an earlier sealed hour has."""
    with _database() as database:
        reader = pa.RecordBatchReader.from_batches(pa.schema([("event_id", pa.string())]), sealed_ids)
        database.register("skewed", skewed)
        database.register("sealed", reader)
        return database.sql(
            f"select {FILE}, {ROW} from skewed semi join sealed using (event_id) order by {FILE}, {ROW}"
        ).to_arrow_table()


def _reader(scan: Scan, columns: list[str]) -> pa.RecordBatchReader:
    schema = pa.schema([*((name, _TYPES[name]) for name in columns), *ADDRESS])
    return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in scan(columns)))


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory(prefix="dedup-") as spill, duckdb.connect() as database:
        database.execute(f"set memory_limit = '{MEMORY_LIMIT}'; set temp_directory = '{spill}'")
        database.execute("set preserve_insertion_order = false; set timezone = 'UTC'")
        yield database
