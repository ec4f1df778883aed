"""Which deliveries of a bucket lose: exact, in memory that does not grow with the bucket.

DuckDB groups hashes of the ids and spills to disk beyond its limit; the few rows whose hash occurs twice are then
compared in full, by the topic's `identity`. 16 bytes for each row instead of its id make finding the duplicates of an
hour cheaper than one more column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from lakehouse.schemas import TIMESTAMP
from lakehouse.store.parquet import FILE, ROW, ReaderOf, Scan, readers
from lakehouse.store.scratch import scratch_database

ADDRESS = pa.schema([(FILE, pa.int32()), (ROW, pa.int64())])

_TYPES = {"event_id": pa.string(), "publish_time": TIMESTAMP, "message_id": pa.string(), "event_time": TIMESTAMP}


def duplicates(scan: Scan, identity: Sequence[str]) -> pa.Table:
    """Addresses (columns `ADDRESS`) of every delivery but the first of its event, by file and row.

    `scan` gives a bucket's rows with their addresses, `identity` the columns that make an event (`Topic.identity`).
    First is the earliest by (publish_time, message_id); deliveries that agree in both are one message, so any of them
    gives the same row.
    """
    event = ", ".join(identity)
    columns = list(dict.fromkeys([*identity, "publish_time", "message_id"]))
    with _database() as database, readers() as reader_of:
        ids = _reader(reader_of, scan, ["event_id"])
        database.register("ids", ids)
        database.execute(f"create temp table hashes as select hash(event_id) as h, {FILE}, {ROW} from ids")
        database.execute("create temp table often as select h from hashes group by h having count(*) > 1")
        [(suspects,)] = database.execute("select count(*) from often").fetchall()
        if not suspects:
            return ADDRESS.empty_table()
        database.execute(f"create temp table suspects as select {FILE}, {ROW} from hashes semi join often using (h)")
        database.register("deliveries", _reader(reader_of, scan, columns))
        return database.sql(
            f"""
            select {FILE}, {ROW} from (
                select {", ".join(columns)}, {FILE}, {ROW} from deliveries semi join suspects using ({FILE}, {ROW})
                qualify row_number() over (partition by {event} order by publish_time, message_id, {FILE}, {ROW}) > 1
            ) order by {FILE}, {ROW}
            """
        ).to_arrow_table()


def late_duplicates(scan: Scan, sealed: Scan, identity: Sequence[str]) -> pa.Table:
    """Addresses of the deliveries whose event is among the sealed rows, by file and row.

    `scan` gives a bucket's rows with their addresses, `sealed` rows of silver. Only sealed rows with the id of one
    of the deliveries are kept in memory.
    """
    event = ", ".join(identity)
    schema = pa.schema([(name, _TYPES[name]) for name in identity])
    with _database() as database, readers() as reader_of:
        ids = _reader(reader_of, scan, ["event_id"])
        database.register("ids", ids)
        database.execute("create temp table hashes as select distinct hash(event_id) as h from ids")
        rows = reader_of(schema, (batch.cast(schema) for batch in sealed(list(identity))))
        database.register("sealed", rows)
        database.execute(
            f"""
            create temp table known as
            select {event} from (select {event}, hash(event_id) as h from sealed) semi join hashes using (h)
            """
        )
        [(found,)] = database.execute("select count(*) from known").fetchall()
        if not found:
            return ADDRESS.empty_table()
        database.register("deliveries", _reader(reader_of, scan, list(identity)))
        return database.sql(
            f"select {FILE}, {ROW} from deliveries semi join known using ({event}) order by {FILE}, {ROW}"
        ).to_arrow_table()


def _reader(reader_of: ReaderOf, scan: Scan, columns: list[str]) -> pa.RecordBatchReader:
    schema = pa.schema([*((name, _TYPES[name]) for name in columns), *ADDRESS])
    return reader_of(schema, (batch.cast(schema) for batch in scan(columns)))


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    with scratch_database() as database:
        database.execute("set preserve_insertion_order = false")
        yield database
