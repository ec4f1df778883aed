"""Which deliveries of a bucket lose: exact, in memory that does not grow with the bucket.

Hashes of the ids find the few rows that may be of one event; these are then compared in full, by the topic's
`identity`. What memory does not hold goes to disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import duckdb
import pyarrow as pa

from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.hashes import HashOf, SharedHashes, hashes_of
from lakehouse.store.parquet import FILE, ROW, Addresses, ReaderOf, Scan, Visit, files_and_rows, readers
from lakehouse.store.scratch import scratch_database, scratch_folder

_MEMORY_LIMIT = "400MB"
"""Of the database that compares rows in full: of two million. What is more goes to disk."""

ADDRESS = pa.schema([(FILE, pa.int32()), (ROW, pa.int64())])

_TYPES = {"event_id": pa.string(), "publish_time": TIMESTAMP, "message_id": pa.string(), "event_time": TIMESTAMP}


class VisitRows(Protocol):
    """Gives a bucket's rows to `visit`: all of them, or those at the (sorted) addresses `only`."""

    def __call__(self, columns: list[str], visit: Visit, *, only: Addresses | None = None) -> None: ...


def duplicates(visit_rows: VisitRows, identity: Sequence[str], hash_of: HashOf = hashes_of) -> pa.Table:
    """Addresses (columns `ADDRESS`) of every delivery but the first of its event, by file and row.

    `identity` are the columns that make an event (`Topic.identity`). First is the earliest by (publish_time,
    message_id); deliveries that agree in both are one message, so any of them gives the same row.
    """
    suspects = _suspects(visit_rows, hash_of)
    if not len(suspects):
        return ADDRESS.empty_table()
    columns = narrow_columns(identity)
    with _database() as database:
        database.register("batch", _narrow(columns).empty_table())
        database.execute("create temp table suspects as from batch")
        adding = threading.Lock()

        def add(addresses: Addresses, rows: pa.RecordBatch) -> None:
            batch = addressed(addresses, rows)
            with adding:
                database.register("batch", batch)
                database.execute("insert into suspects from batch")

        visit_rows(columns, add, only=suspects)
        return database.sql(losers_among("suspects", identity)).to_arrow_table()


def _suspects(visit_rows: VisitRows, hash_of: HashOf) -> Addresses:
    with scratch_folder() as folder:
        shared = SharedHashes(folder)
        visit_rows(["event_id"], lambda addresses, rows: shared.add(hash_of(rows.column(0)), addresses))
        return shared.addresses()


def narrow_columns(identity: Sequence[str]) -> list[str]:
    """What tells deliveries of one event from others, and the first of them from the rest."""
    return list(dict.fromkeys([*identity, "publish_time", "message_id"]))


def addressed(addresses: Addresses, rows: pa.RecordBatch) -> pa.Table:
    """The rows, of narrow columns, with the columns `ADDRESS` after their own."""
    names = rows.schema.names
    return pa.table([*rows.columns, *files_and_rows(addresses)], names=[*names, *ADDRESS.names]).cast(_narrow(names))


def _narrow(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([*((name, _TYPES[name]) for name in columns), *ADDRESS])


def losers_among(rows: str, identity: Sequence[str]) -> str:
    """SQL: the addresses of all but the first of each event, of the database's table `rows`, by file and row."""
    event = ", ".join(identity)
    return f"""
        select {FILE}, {ROW} from {rows}
        qualify row_number() over (partition by {event} order by publish_time, message_id, {FILE}, {ROW}) > 1
        order by {FILE}, {ROW}
        """


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
    schema = _narrow(columns)
    return reader_of(schema, (batch.cast(schema) for batch in scan(columns)))


@contextmanager
def _database() -> Iterator[duckdb.DuckDBPyConnection]:
    with scratch_database(_MEMORY_LIMIT) as database:
        database.execute("set preserve_insertion_order = false")
        yield database
