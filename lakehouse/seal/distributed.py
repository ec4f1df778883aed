"""The losers of a bucket that outgrows one machine, found by Spark's tasks: the same ones, to the row.

Narrow rows are exchanged only: of every row a hash of its id and its address, 16 bytes, and of the few that share a
hash what tells them apart. Tasks need nothing but the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lakehouse import failpoints
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS, losers_among, narrow_columns
from lakehouse.seal.hashes import HashOf, SharedHashes, hashes_of
from lakehouse.spark.tasks import Task, errors_of_tasks, mapped
from lakehouse.store import parquet
from lakehouse.store.parquet import FILE, ROW, Addresses
from lakehouse.store.place import Place
from lakehouse.store.scratch import scratch_database, scratch_folder
from lakehouse.underway import Work

_ROWS_OF_TASK = 4_000_000
_HASHED = pa.schema([("hash", pa.int64()), ("address", pa.int64())])
_SUSPECT = pa.schema([("address", pa.int64())])


@dataclass(frozen=True)
class Rows:
    """Rows of Parquet files below a place, `count` of them.

    `before`: only those whose event time is before it, which are in the files with the given `numbers`.
    """

    place: Place
    paths: tuple[str, ...]
    count: int
    before: datetime | None = None
    numbers: tuple[int, ...] | None = None


def duplicates(
    spark: SparkSession, deliveries: Rows, identity: Sequence[str], work: Work, hash_of: HashOf = hashes_of
) -> pa.Table:
    """As `lakehouse.seal.dedup.duplicates`; `work` counts the rows that are hashed."""
    return _found(spark, [deliveries], identity, losers_among("suspects", identity), work, hash_of)


def late_duplicates(
    spark: SparkSession,
    deliveries: Rows,
    sealed: Rows,
    identity: Sequence[str],
    work: Work,
    hash_of: HashOf = hashes_of,
) -> pa.Table:
    """As `lakehouse.seal.dedup.late_duplicates`; `work` counts the rows that are hashed, of both."""
    event, first_sealed = ", ".join(identity), len(deliveries.paths)
    known = f"select {event} from suspects where {FILE} >= {first_sealed}"
    late = f"select {FILE}, {ROW} from suspects semi join ({known}) using ({event}) where {FILE} < {first_sealed}"
    return _found(spark, [deliveries, sealed], identity, late, work, hash_of)


def _found(
    spark: SparkSession, sides: Sequence[Rows], identity: Sequence[str], question: str, work: Work, hash_of: HashOf
) -> pa.Table:
    """What `question` (SQL) gives of `suspects`: rows that share the hash of their id, files numbered through."""
    files = [
        _File(side.place, path, side.before, side.numbers is None or number in side.numbers)
        for side in sides
        for number, path in enumerate(side.paths)
    ]
    read = [number for number, file in enumerate(files) if file.is_read]
    count = sum(side.count for side in sides)
    if not read:
        return ADDRESS.empty_table()
    columns = narrow_columns(identity)
    hashed = spark.sparkContext.accumulator(0)
    work.begin("scan", count, "rows", lambda: hashed.value)
    tasks = max(spark.sparkContext.defaultParallelism, -(-count // _ROWS_OF_TASK))
    numbers = spark.range(0, len(read), 1, min(len(read), 4 * tasks))
    rows = _mapped(numbers, partial(_hashes, read, files, hash_of, hashed.add), _HASHED)
    suspects = _mapped(rows.repartition(tasks, "hash"), _sharing, _SUSPECT)
    by_file = suspects.repartition(tasks, F.shiftright("address", parquet.ROW_BITS))
    described = _mapped(by_file, partial(_described, files, columns), _narrow(columns))
    found = _mapped(described.repartition(tasks, "event_id"), partial(_answered, question, columns), ADDRESS)
    with errors_of_tasks():
        addresses = found.toArrow()
    return addresses.cast(ADDRESS).sort_by([(FILE, "ascending"), (ROW, "ascending")])


def _mapped(rows: DataFrame, task: Task, schema: pa.Schema) -> DataFrame:
    return mapped(rows, task, ", ".join(f"{field.name} {_DDL[field.type]}" for field in schema), "finding duplicates")


_DDL = {pa.int64(): "long", pa.int32(): "int", pa.string(): "string"}


# --- tasks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    place: Place
    path: str
    before: datetime | None
    is_read: bool

    def rows(
        self, number: int, columns: list[str], only: Addresses | None = None
    ) -> Iterator[tuple[Addresses, pa.RecordBatch]]:
        with parquet.LakeFile(self.place.files(), self.path) as file:
            yield from parquet.addressed(file, number, columns, only)


def _hashes(
    read: Sequence[int],
    files: Sequence[_File],
    hash_of: HashOf,
    add: Callable[[int], Any],
    places: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """From places in `read`, which are numbers of files: the hash and the address of each row that counts."""
    for number in (read[place] for batch in places for place in batch.column(0).to_pylist()):
        before = files[number].before
        for addresses, rows in files[number].rows(
            number, ["event_id"] if before is None else ["event_id", "event_time"]
        ):
            add(len(rows))
            if before is not None:
                is_skewed = pc.less(rows.column("event_time"), pa.scalar(before, TIMESTAMP))
                rows, addresses = rows.filter(is_skewed), addresses[is_skewed.to_numpy(zero_copy_only=False)]
            if len(rows):
                hashes = hash_of(rows.column("event_id")).view(np.int64)
                yield pa.RecordBatch.from_arrays([pa.array(hashes), pa.array(addresses)], schema=_HASHED)


def _sharing(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """From hashes and addresses: the addresses of the rows whose hash another one has, too."""
    with scratch_folder() as folder:
        shared = SharedHashes(folder)
        for batch in batches:
            shared.add(batch.column(0).to_numpy().view(np.uint64), batch.column(1).to_numpy())
        addresses = shared.addresses()
        failpoints.reach("seal.hashes_compared")
        yield pa.RecordBatch.from_arrays([pa.array(addresses)], schema=_SUSPECT)


def _described(
    files: Sequence[_File], columns: list[str], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """From addresses: the columns of these rows, and where they are."""
    schema = _narrow(columns)
    wanted = np.sort(np.concatenate([np.empty(0, np.int64), *(batch.column(0).to_numpy() for batch in batches)]))
    for number in np.unique(wanted >> parquet.ROW_BITS).tolist():
        for addresses, rows in files[number].rows(number, columns, wanted):
            arrays = [*rows.columns, *parquet.files_and_rows(addresses)]
            cast = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(cast, schema=schema)


def _answered(question: str, columns: list[str], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """From described rows: what the question gives of them. All of an event are here."""
    schema = _narrow(columns)
    with scratch_database() as database:
        database.register(
            "described", pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))
        )
        database.execute("create temp table suspects as from described")
        yield from database.sql(question).to_arrow_table().cast(ADDRESS).to_batches()


def _narrow(columns: Sequence[str]) -> pa.Schema:
    """Times as microseconds, which no session's time zone touches."""
    types = {"event_time": pa.int64(), "publish_time": pa.int64()}
    return pa.schema([*((name, types.get(name, pa.string())) for name in columns), *ADDRESS])
