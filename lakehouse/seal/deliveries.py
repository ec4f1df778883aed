"""The deliveries of one hour at a bronze version, and which of them its seal leaves out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.hours import Hour
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS, duplicates, late_duplicates
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile
from lakehouse.store.files import Readable, ReadOnce
from lakehouse.store.parquet import FILE, ROW
from lakehouse.store.tables import TopicTables
from lakehouse.underway import Work

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from lakehouse.seal.distributed import Rows

KEPT = ["event_id", "event_time", "publish_time", "message_id"]
KEPT_ROWS = 4_000_000
"""Of so many rows of this process, of about 80 bytes each, these columns are read once and kept until all is copied."""

SealedFiles = Callable[[Sequence[Hour]], Sequence[DataFile]]
"""Gives silver's files of hours."""

_TICK = timedelta(microseconds=1)
_SKEWED = pa.schema([("event_id", pa.string()), ("event_time", TIMESTAMP), *ADDRESS])


class Room:
    """Rows that may be kept in memory, of all hours that are sealed at a time."""

    def __init__(self, rows: int) -> None:
        self._left, self._lock = rows, threading.Lock()

    def take(self, rows: int) -> bool:
        """Whether there is room for so many, which are taken from it then."""
        with self._lock:
            is_enough = rows <= self._left
            self._left -= rows if is_enough else 0
            return is_enough

    def give_back(self, rows: int) -> None:
        with self._lock:
            self._left += rows


_room = Room(KEPT_ROWS)


class Deliveries:
    """One bucket's rows. An address is the file's place in `files` and the row's in the file. `raw` reads them.

    As a context it keeps the columns `KEPT` in memory once they were read, where there is room. `work` counts what is
    read of deliveries, and of the sealed hours before. With `spark` its tasks look for duplicates where more than
    `driver_rows` would have to be compared.
    """

    def __init__(
        self,
        tables: TopicTables,
        hour: Hour,
        files: Sequence[DataFile],
        work: Work | None = None,
        *,
        spark: Callable[[], SparkSession] | None = None,
        driver_rows: int = 0,
    ) -> None:
        self._topic, self._hour, self._tables = tables.topic, hour, tables
        self._work = work or Work()
        self._spark, self._driver_rows = spark, driver_rows
        self._sealed = tables.sealed.files()
        self._may_keep = False
        self._kept: dict[str, dict[int, pa.RecordBatch]] = {}
        self.raw = ReadOnce(tables.raw.files())
        self.files = list(files)

    def __enter__(self) -> Deliveries:
        self._may_keep = _room.take(self.count)
        return self

    def __exit__(self, *failure: object) -> None:
        self._kept = {}
        if self._may_keep:
            _room.give_back(self.count)
        self._may_keep = False

    @property
    def count(self) -> int:
        return sum(file.rows for file in self.files)

    def rows(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The columns of every delivery, with its address."""
        batches = parquet.rows_with_addresses(_openers(self.raw, "bronze", self.files), columns)
        return self._work.rows("scan", self.count, batches)

    def visit(self, columns: list[str], visit: parquet.Visit, *, only: parquet.Addresses | None = None) -> None:
        """Give the columns of every delivery, or of those at the addresses `only`, to `visit`."""

        def counted(addresses: parquet.Addresses, rows: pa.RecordBatch) -> None:
            visit(addresses, rows)
            self._work.add(len(rows))

        self._work.begin("scan", self.count if only is None else len(only), "rows")
        if self._kept:
            self._visit_kept(columns, counted, only)
        elif self._may_keep and only is None:
            self._visit_and_keep(columns, counted)
        else:
            parquet.visit_rows(_openers(self.raw, "bronze", self.files), columns, counted, only=only)

    def kept(self, path: str) -> pa.Table | None:
        """The columns `KEPT` of all rows of a file of bronze, where they are in memory."""
        batches = self._kept.get(path)
        return pa.Table.from_batches([batches[first] for first in sorted(batches)]) if batches else None

    def _visit_and_keep(self, columns: list[str], visit: parquet.Visit) -> None:
        kept: dict[str, dict[int, pa.RecordBatch]] = {file.path: {} for file in self.files}

        def keep(addresses: parquet.Addresses, rows: pa.RecordBatch) -> None:
            file, row = parquet.file_and_row(int(addresses[0]))
            kept[self.files[file].path][row] = rows
            visit(addresses, rows.select(columns))

        parquet.visit_rows(_openers(self.raw, "bronze", self.files), KEPT, keep)
        self._kept = kept

    def _visit_kept(self, columns: list[str], visit: parquet.Visit, only: parquet.Addresses | None) -> None:
        for number, file in enumerate(self.files):
            for row, rows in self._kept[file.path].items():
                first = parquet.address_of(number, row)
                addresses = np.arange(first, first + len(rows))
                chosen = rows.select(columns)
                visit(*((addresses, chosen) if only is None else parquet.among(only, addresses, chosen)))

    def footers(self) -> Iterator[pq.FileMetaData]:
        """The footer of each file, in their order."""
        return (file.metadata for file in parquet.open_ahead(_openers(self.raw, "bronze", self.files)))

    def has_skewed(self, file: DataFile) -> bool:
        """Whether the file may hold skewed events; a file holds these only, or none."""
        return _may_hold(file, hours.YEAR_ONE, hours.instant_after(hours.start_of(self._hour), -_TICK))

    @cached_property
    def doubled(self) -> pa.Table:
        """Addresses of every delivery but the first of its event."""
        if self._spark is not None and self.count > self._driver_rows:
            from lakehouse.seal import distributed

            return distributed.duplicates(self._spark(), self._distributed(), self._topic.identity, self._work)
        return duplicates(self.visit, self._topic.identity)

    def late(self, sealed_files: SealedFiles) -> pa.Table:
        """Addresses of the deliveries, not doubled here, whose event an earlier sealed hour within the horizon has.

        An event with a time of its own can have been sealed before only if it is skewed here, and only in a file that
        may hold that time. Where `event_time` is `publish_time`, any earlier hour may have it.
        """
        late = self._late(sealed_files)
        return late.join(self.doubled, [FILE, ROW], join_type="left anti") if len(self.doubled) and len(late) else late

    def _late(self, sealed_files: SealedFiles) -> pa.Table:
        horizon = hours.hour_of(hours.instant_after(hours.start_of(self._hour), -self._topic.dedup_horizon))
        has_own_time = "event_time" in self._topic.identity
        compared = [file for file in self.files if self.has_skewed(file)] if has_own_time else self.files
        if self._spark is not None and sum(file.rows for file in compared) > self._driver_rows:
            return self._late_by_tasks(self._spark(), sealed_files, horizon, compared)
        if not has_own_time:
            files: Sequence[DataFile] = sealed_files(self._since(horizon))
            return late_duplicates(self.rows, self._sealed_scan(files), self._topic.identity)
        skewed = self._skewed()
        if not len(skewed):
            return ADDRESS.empty_table()
        times = np.sort(skewed["event_time"].cast(pa.int64()).to_numpy())
        first = max(hours.hour_of(pc.min(skewed["event_time"]).as_py()), horizon)
        files = [file for file in sealed_files(self._since(first)) if _may_hold_any(file, times)]
        return late_duplicates(_scan_of(skewed), self._sealed_scan(files), self._topic.identity)

    def _late_by_tasks(
        self, spark: SparkSession, sealed_files: SealedFiles, horizon: Hour, compared: Sequence[DataFile]
    ) -> pa.Table:
        from lakehouse.seal import distributed

        start = hours.start_of(self._hour)
        first = min((_bounds(file)[0] or hours.YEAR_ONE for file in compared), default=start)
        has_own_time = "event_time" in self._topic.identity
        files = sealed_files(self._since(max(hours.hour_of(first), horizon) if has_own_time else horizon))
        if has_own_time:
            files = [file for file in files if _may_hold(file, first, start)]
        paths = tuple(f"silver/{file.path}" for file in files)
        sealed = distributed.Rows(self._tables.sealed, paths, sum(file.rows for file in files))
        deliveries = self._distributed()
        if has_own_time:
            numbers = tuple(number for number, file in enumerate(self.files) if self.has_skewed(file))
            deliveries = replace(deliveries, count=sum(file.rows for file in compared), before=start, numbers=numbers)
        return distributed.late_duplicates(spark, deliveries, sealed, self._topic.identity, self._work)

    def _distributed(self) -> Rows:
        from lakehouse.seal.distributed import Rows

        return Rows(self._tables.raw, tuple(f"bronze/{file.path}" for file in self.files), self.count)

    def _since(self, first: Hour) -> Sequence[Hour]:
        return list(hours.hours_between(first, self._hour))

    def _sealed_scan(self, files: Sequence[DataFile]) -> parquet.Scan:
        def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
            for file in parquet.open_ahead(_openers(self._sealed, "silver", files)):
                yield from (batch.select(columns) for batch in file.iter_batches(columns=columns))

        rows = sum(file.rows for file in files)
        return lambda columns: self._work.rows("earlier", rows, batches(columns))

    def _skewed(self) -> pa.Table:
        start = pa.scalar(hours.start_of(self._hour))
        numbers = [number for number, file in enumerate(self.files) if self.has_skewed(file)]
        sources = _openers(self.raw, "bronze", [self.files[number] for number in numbers])
        batches = []
        for batch in parquet.rows_with_addresses(sources, ["event_id", "event_time"]):
            number_of_file = np.array(numbers, np.int32)[batch.column(FILE).to_numpy()]
            batch = batch.set_column(batch.schema.get_field_index(FILE), FILE, pa.array(number_of_file))
            batches.append(batch.filter(pc.less(batch.column("event_time"), start)).cast(_SKEWED))
        return pa.Table.from_batches(batches, _SKEWED)


def _scan_of(rows: pa.Table) -> parquet.Scan:
    return lambda columns: rows.select([*columns, FILE, ROW]).to_batches()


def _openers(storage: Readable, table: str, files: Sequence[DataFile]) -> list[parquet.Opener]:
    return [partial(parquet.LakeFile, storage, f"{table}/{file.path}") for file in files]


def _may_hold(file: DataFile, first: datetime, last: datetime) -> bool:
    """Whether the file may hold an event of [first, last]; a file without figures may."""
    low, high = _bounds(file)
    return low is None or high is None or (low <= last and high >= first)


def _may_hold_any(file: DataFile, times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    """Whether the file may hold an event of one of the instants (sorted, microseconds); one without figures may."""
    low, high = _bounds(file)
    if low is None or high is None:
        return True
    first, last = ((bound - hours.EPOCH) // _TICK for bound in (low, high))
    return bool(np.searchsorted(times, first, "left") < np.searchsorted(times, last, "right"))


def _bounds(file: DataFile) -> tuple[datetime | None, datetime | None]:
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    return low, high
