"""Seal: a closed hour becomes one silver commit with exactly one row per event, and never changes again."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lakehouse import hours, parquet, steps
from lakehouse.checksum import id_checksum
from lakehouse.config import Config, Settings
from lakehouse.dedup import ADDRESS, duplicates, late_duplicates
from lakehouse.errors import SealError
from lakehouse.events import sealed_schema
from lakehouse.hours import Hour
from lakehouse.ledger import Entry, Ledger
from lakehouse.parquet import FILE, ROW
from lakehouse.storage import Storage, storage_for
from lakehouse.tables import (
    ConflictError,
    DataFile,
    commit,
    event_time_stats,
    files_of_hour,
    folders_of,
    ledger_table,
    metadata_of_commits,
    open_table,
    silver_table,
)
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

SparkOrNone = Callable[[], SparkSession] | None
"""Asked for a session only when an hour is big enough to need one; None runs everything in this process."""

_ROW_GROUP_BYTES = 64 * 1024**2
_BATCH_ROWS = 65_536
_READ_COLUMNS = ["event", "event_id", "event_time", "publish_time", "message_id"]
_HOUR_US = 3_600_000_000
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Piece:
    """Some row groups of one bronze file, and which of the file's rows to leave out (sorted row numbers)."""

    path: str
    row_groups: tuple[int, ...]
    first_row: int
    losers: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Copy:
    """One silver file in the making: what a task reads and where it writes."""

    topic_json: str
    raw: str
    sealed: str
    storage_options: dict[str, str]
    target: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Copied:
    """A silver file that is durable; `checksum` is the part of the hour's that its rows make."""

    path: str
    rows: int
    size_bytes: int
    skewed: int
    checksum: str
    min_event_time_us: int
    max_event_time_us: int


_COPIED = pa.schema(
    [
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("skewed", pa.int64()),
        ("checksum", pa.string()),
        ("min_event_time_us", pa.int64()),
        ("max_event_time_us", pa.int64()),
    ]
)


def seal_due(topic: Topic, config: Config, spark: SparkOrNone = None, *, run: str) -> list[Entry]:
    """Seal every closed hour of the topic that is not sealed, oldest first; gives the ledger rows that were added."""
    sealer = Sealer(topic, config.settings, spark, run=run)
    return [entry for hour in sealer.due() if (entry := sealer.seal(hour)) is not None]


class Sealer:
    """Seals a topic's hours one at a time, in order."""

    def __init__(self, topic: Topic, settings: Settings, spark: SparkOrNone = None, *, run: str) -> None:
        self._topic, self._settings, self._spark = topic, settings, spark
        self._folders = folders_of(settings, topic.name)
        self._options = settings.storage_options
        self._raw = storage_for(self._folders.raw, self._options)
        by = f"seal/{settings.release}/{run}"
        self._ledger = Ledger(ledger_table(self._folders, topic, self._options), by)

    def due(self) -> list[Hour]:
        return self._ledger.history().due_to_seal()

    def seal(self, hour: Hour) -> Entry | None:
        """One row per event of the closed hour, in one commit; None when the ledger has the seal already.

        SealError when silver holds the hour sealed from another bronze version than the hour was closed at.
        """
        started = time.monotonic()
        close = self._ledger.history().first("closed", hour)
        if close is None:
            raise SealError(f"{self._topic.name} {hour}", found="an hour that has not closed", expected="a closed hour",
                            next_step="Wait for ingest to close it, or see `lakehouse explain`.")  # fmt: skip
        manifest = self._committed(hour, int(close.details["bronze_version"]))
        steps.reached("seal committed, not recorded")
        details = {**manifest, "seconds": round(time.monotonic() - started, 3)}
        entry = self._ledger.record("sealed", hour, details, unless=lambda history: bool(history.first("sealed", hour)))
        log.info(
            "seal: topic=%s hour=%s rows=%d duplicates=%d late=%d skewed=%d seconds=%.2f",
            *(self._topic.name, hour, manifest["rows"], manifest["duplicates"], manifest["late_duplicates"]),
            *(manifest["skewed"], time.monotonic() - started),
        )
        return entry

    def _committed(self, hour: Hour, bronze_version: int) -> dict[str, Any]:
        """The seal's manifest with `silver_version`: of the commit that silver has, else of one made now."""
        while True:
            silver = silver_table(self._folders, self._topic, self._options)
            if silver.transaction_version(app_of(hour)) is not None:
                return self._sealed_before(silver, hour, bronze_version)
            manifest, files = self._sealed_files(silver, hour, bronze_version)
            steps.reached("silver files durable, no commit")
            try:
                version = commit(
                    silver, files, metadata=manifest, transactions={app_of(hour): int(manifest["revision"])}
                )
            except ConflictError:
                continue
            return {**manifest, "silver_version": version}

    def _sealed_before(self, silver: DeltaTable, hour: Hour, bronze_version: int) -> dict[str, Any]:
        version, manifest = newest_seal(silver, hour)
        if manifest["bronze_version"] != bronze_version:
            raise SealError(
                f"{self._topic.name} {hour}",
                found=f"silver sealed from bronze version {manifest['bronze_version']}",
                expected=f"version {bronze_version}, at which the hour closed",
                next_step="Do not touch either table; `lakehouse verify` and `lakehouse audit` show what differs.",
            )
        return {**manifest, "silver_version": version}

    def _sealed_files(
        self, silver: DeltaTable, hour: Hour, bronze_version: int
    ) -> tuple[dict[str, Any], list[DataFile]]:
        bronze = open_table(self._folders.bronze, self._options, bronze_version)
        files = files_of_hour(bronze, hour)
        doubled = duplicates(lambda columns: self._rows(files, columns))
        late = self._late(silver, hour, files, doubled)
        copies = self._planned(hour, files, pa.concat_tables([doubled, late]))
        copied = self._run(copies, sum(file.rows for file in files))
        manifest = {
            "kind": "seal",
            "hour": hour,
            "revision": 1,
            "bronze_version": bronze_version,
            "release": self._settings.release,
            "deliveries": sum(file.rows for file in files),
            "duplicates": len(doubled),
            "late_duplicates": len(late),
            "rows": sum(copy.rows for copy in copied),
            "skewed": sum(copy.skewed for copy in copied),
            "files": sum(1 for copy in copied if copy.rows),
            "id_checksum": str(sum(int(copy.checksum) for copy in copied)),
        }
        if manifest["rows"] + len(doubled) + len(late) != manifest["deliveries"]:
            raise SealError(f"{self._topic.name} {hour}", found=f"{manifest['rows']} rows copied of {manifest}",
                            expected="deliveries less duplicates", next_step="Nothing was committed; report this.")  # fmt: skip
        return manifest, [_data_file(copy, hour) for copy in copied if copy.rows]

    def _rows(self, files: Sequence[DataFile], columns: list[str]) -> Iterator[pa.RecordBatch]:
        return parquet.addressed([self._raw.open(f"bronze/{file.path}") for file in files], columns)

    # --- late duplicates -----------------------------------------------------------------------------------------------

    def _late(self, silver: DeltaTable, hour: Hour, files: list[DataFile], doubled: pa.Table) -> pa.Table:
        """Skewed deliveries, not doubled here, whose event an earlier sealed hour within the horizon has."""
        skewed = self._skewed(hour, files, doubled)
        if not len(skewed):
            return ADDRESS.empty_table()
        bounds = pc.min_max(skewed["event_time"])
        earliest, latest = bounds["min"].as_py(), bounds["max"].as_py()
        first = max(hours.hour_of(earliest), hours.hour_of(hours.start_of(hour) - self._topic.dedup_horizon))
        earlier = [file for each in hours.hours_between(first, hour) for file in files_of_hour(silver, each)]
        candidates = [file for file in earlier if _may_hold(file, earliest, latest)]
        return late_duplicates(skewed.drop_columns(["event_time"]), self._ids(candidates))

    def _skewed(self, hour: Hour, files: list[DataFile], doubled: pa.Table) -> pa.Table:
        start = hours.start_of(hour)
        schema = pa.schema([("event_id", pa.string()), ("event_time", pa.timestamp("us", "UTC")), *ADDRESS])
        candidates = [index for index, file in enumerate(files) if _may_hold_skewed(file, hour)]
        batches = []
        for index in candidates:
            for batch in self._rows([files[index]], ["event_id", "event_time"]):
                of_file = batch.set_column(2, FILE, pa.array(np.full(len(batch), index, np.int32)))
                batches.append(of_file.filter(pc.less(of_file["event_time"], pa.scalar(start))).cast(schema))
        skewed = pa.Table.from_batches(batches, schema)
        return skewed.join(doubled, [FILE, ROW], join_type="left anti") if len(doubled) and len(skewed) else skewed

    def _ids(self, files: list[DataFile]) -> Iterator[pa.RecordBatch]:
        storage = storage_for(self._folders.sealed, self._options)
        for file in files:
            with pq.ParquetFile(storage.open(f"silver/{file.path}")) as opened:
                yield from opened.iter_batches(columns=["event_id"])

    # --- copying -------------------------------------------------------------------------------------------------------

    def _planned(self, hour: Hour, files: list[DataFile], losers: pa.Table) -> list[Copy]:
        """Copies of about the target size; skewed rows apart, so that few files are read to find a late duplicate."""
        attempt = uuid.uuid4().hex[:12]
        plan: list[Copy] = []
        for is_skewed in (False, True):
            chosen = [(index, file) for index, file in enumerate(files) if _may_hold_skewed(file, hour) == is_skewed]
            for pieces in self._grouped(chosen, losers):
                target = f"hour={hour}/part-{len(plan):05d}-{attempt}.parquet"
                plan.append(self._copy(target, pieces))
        return plan

    def _copy(self, target: str, pieces: list[Piece]) -> Copy:
        folders, options = self._folders, dict(self._options)
        return Copy(self._topic.as_json(), folders.raw, folders.sealed, options, target, tuple(pieces))

    def _grouped(self, files: list[tuple[int, DataFile]], losers: pa.Table) -> Iterator[list[Piece]]:
        """Row groups in order, cut where a silver file is full; one bronze file may fill many, many may fill one."""
        target = self._settings.seal.target_file_bytes
        pieces: list[Piece] = []
        filled = 0
        for index, file in files:
            rows_to_lose = _rows_of_file(losers, index)
            with pq.ParquetFile(self._raw.open(f"bronze/{file.path}")) as opened:
                groups = _row_groups(opened.metadata)
            waiting: list[int] = []
            first_row = row = 0
            for number, (rows, size_bytes) in enumerate(groups):
                if filled and filled + size_bytes > target:
                    if waiting:
                        pieces.append(Piece(file.path, tuple(waiting), first_row, rows_to_lose))
                    yield pieces
                    pieces, waiting, filled, first_row = [], [], 0, row
                waiting.append(number)
                filled += size_bytes
                row += rows
            if waiting:
                pieces.append(Piece(file.path, tuple(waiting), first_row, rows_to_lose))
        if pieces:
            yield pieces

    def _run(self, copies: list[Copy], rows: int) -> list[Copied]:
        """Small hours here, the others by Spark tasks."""
        if self._spark is None or rows <= self._settings.seal.small_rows:
            return [copy_rows(copy) for copy in copies]
        spark = self._spark()

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                copied = [vars(copy_rows(copies[number])) for number in batch.column(0).to_pylist()]
                yield pa.RecordBatch.from_pylist(copied, schema=_COPIED)

        schema = "path string, rows long, size_bytes long, skewed long, checksum string, min_event_time_us long, " \
                 "max_event_time_us long"  # fmt: skip
        numbers = spark.range(0, len(copies), 1, len(copies))
        return [Copied(**row.asDict()) for row in numbers.mapInArrow(run, schema).collect()]


def copy_rows(copy: Copy) -> Copied:
    """Write one silver file: the pieces' rows but the losers, in their order, with the sealed columns."""
    topic = Topic.from_json(copy.topic_json)
    schema = sealed_schema(topic)
    raw, sealed = storage_for(copy.raw, copy.storage_options), storage_for(copy.sealed, copy.storage_options)
    start = hours.start_of(copy.target.partition("/")[0].removeprefix("hour="))
    path = f"silver/{copy.target}"
    rows = skewed = checksum = 0
    times: list[int] = []
    sink = sealed.create(path)
    with pq.ParquetWriter(sink, schema, **parquet.options(schema)) as writer:
        for table in _row_group_sized(_kept(raw, copy.pieces, schema)):
            writer.write_table(table, row_group_size=len(table))
            rows += len(table)
            skewed += pc.sum(pc.less(table["event_time"], pa.scalar(start))).as_py() or 0
            checksum += id_checksum(table["event_id"])
            bounds = pc.min_max(table["event_time"].cast(pa.int64()))
            times += [bounds["min"].as_py(), bounds["max"].as_py()]
    size_bytes = sink.tell()
    sink.close()
    sealed.finish([path])
    return Copied(copy.target, rows, size_bytes, skewed, str(checksum), min(times, default=0), max(times, default=0))


def _row_group_sized(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for batch in batches:
        waiting.append(batch)
        waiting_bytes += batch.nbytes
        if waiting_bytes >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _kept(raw: Storage, pieces: Sequence[Piece], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for piece in pieces:
        row = piece.first_row
        with pq.ParquetFile(raw.open(f"bronze/{piece.path}")) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(piece.row_groups), columns=_READ_COLUMNS):
                first, row = row, row + len(batch)
                kept = batch.filter(_mask(piece.losers, first, row)) if _has_any(piece.losers, first, row) else batch
                if len(kept):
                    yield _sealed_columns(kept, schema)


def _has_any(losers: np.ndarray[Any, Any], first: int, until: int) -> bool:
    low, high = np.searchsorted(losers, [first, until])
    return bool(low < high)


def _mask(losers: np.ndarray[Any, Any], first: int, until: int) -> pa.BooleanArray:
    low, high = np.searchsorted(losers, [first, until])
    mask = np.ones(until - first, bool)
    mask[losers[low:high] - first] = False
    return pa.array(mask)


def _sealed_columns(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The sealed schema's columns; fields that the topic gained after these rows were ingested are null."""
    event = rows.column("event")
    members = dict(zip((member.name for member in event.type), event.flatten(), strict=True))
    event_time = rows.column("event_time")
    delivery = {
        "event_id": rows.column("event_id"),
        "event_time": event_time,
        "event_hour": _hours_of(event_time),
        "publish_time": rows.column("publish_time"),
        "message_id": rows.column("message_id"),
    }
    columns = [
        _as_declared(delivery[field.name] if field.name in delivery else members.get(field.name), field.type, len(rows))
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _as_declared(array: pa.Array | None, wanted: pa.DataType, rows: int) -> pa.Array:
    """`array` with the members that `wanted` has, null where it lacks them."""
    if array is None:
        return pa.nulls(rows, wanted)
    if array.type == wanted:
        return array
    if pa.types.is_struct(wanted):
        members = dict(zip((member.name for member in array.type), array.flatten(), strict=True))
        columns = [_as_declared(members.get(member.name), member.type, rows) for member in wanted]
        return pa.StructArray.from_arrays(columns, fields=list(wanted), mask=array.is_null())
    if pa.types.is_list(wanted) and array.offset == 0:
        values = _as_declared(array.values, wanted.value_type, len(array.values))
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=array.is_null())
    return array.cast(wanted)


def _hours_of(instants: pa.TimestampArray) -> pa.StringArray:
    """Event hours as text: a dictionary of the few that occur, spelled once each."""
    ordinals = np.floor_divide(instants.cast(pa.int64()).to_numpy(), _HOUR_US)
    distinct, codes = np.unique(ordinals, return_inverse=True)
    names = pa.array([hours.from_ordinal(int(ordinal)) for ordinal in distinct], pa.string())
    return names.take(pa.array(codes))


def app_of(hour: Hour) -> str:
    """The app id of an hour's seals: one for each hour, or an older hour would be taken for done."""
    return f"seal/{hour}"


def newest_seal(silver: DeltaTable, hour: Hour) -> tuple[int, dict[str, Any]]:
    """(version, manifest) of the newest commit that sealed the hour."""
    for version, metadata in metadata_of_commits(silver):
        if metadata.get("kind") == "seal" and metadata["hour"] == hour:
            return version, metadata
    raise SealError(
        f"{silver.table_uri} {hour}",
        found="a seal without its manifest",
        expected="the commit that sealed the hour in the log",
        next_step="The log was cut or edited; `lakehouse verify` shows where.",
    )


def _data_file(copied: Copied, hour: Hour) -> DataFile:
    times = [hours.EPOCH + timedelta(microseconds=us) for us in (copied.min_event_time_us, copied.max_event_time_us)]
    stats = event_time_stats(*times)
    return DataFile(copied.path, hour, copied.rows, copied.size_bytes, datetime.now(UTC), stats)


def _may_hold(file: DataFile, first: datetime, last: datetime) -> bool:
    """Whether the file may hold an event of [first, last]; a file without figures may."""
    low, high = (file.stats.get(kind, {}).get("event_time") for kind in ("minValues", "maxValues"))
    return low is None or high is None or (low <= last and high >= first)


def _may_hold_skewed(file: DataFile, hour: Hour) -> bool:
    return _may_hold(file, hours.YEAR_ONE, hours.start_of(hour) - _TICK)


def _rows_of_file(losers: pa.Table, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    rows = losers.filter(pc.equal(losers[FILE], index))[ROW].to_numpy()
    return np.sort(rows)


def _row_groups(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """(rows, bytes of the columns that seal copies) of each row group."""
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(position) for position in range(group.num_columns)]
        wanted = [column for column in columns if column.path_in_schema.partition(".")[0] in _READ_COLUMNS]
        groups.append((group.num_rows, sum(column.total_compressed_size for column in wanted)))
    return groups
