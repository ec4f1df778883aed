"""Delta tables without a JVM: opened, read as they were, and committed to by reference."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import PostCommitHookProperties

from lakehouse import hours
from lakehouse.errors import LakeError, LakehouseError, in_one_line, unavailable
from lakehouse.hours import Hour
from lakehouse.store.files import Storage, storage_for, sync
from lakehouse.store.table_log import (
    CHECKPOINT_EVERY,
    KEPT_CHECKPOINTS,
    RECENT_CHECKPOINTS,
    RESTORE_ENTRY,
    Change,
    ConflictError,
    LogEntry,
    TableLog,
    append_entry,
    checkpoint_path,
    log_of,
    refuse_unknown_features,
)

logger = logging.getLogger(__name__)

MOST_CONFLICTS = 100
"""In a row. Each of them is somebody else's success, so in practice a few; what never ends has another cause."""


NO_CLEAN_UP = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
"""For commits by delta-rs: looking for expired entries lists the whole log, so `maintain` does it."""

_CHECKPOINT, _PATIENCE_SECONDS = "checkpoint of", 10.0
_checkpoints = threading.BoundedSemaphore(8)
"""So many are written at a time: each opens its table, whose files take megabytes."""

_LOG_FILE = re.compile(r"[0-9]{20}\.(json|checkpoint.*\.parquet)")
_NEWEST_COMMITS = 100
"""That are looked through for what is damaged."""


@contextmanager
def table_errors(subject: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """The store's edge: what delta-rs, Arrow, the file system or Google's clients raise within becomes a LakeError.

    So does what is damaged: a log or a file that is no JSON, or lacks what it must have. ConflictError and our own
    errors pass, those that are `passing`, too, and so does FileNotFoundError, which callers explain better.
    """
    try:
        yield
    except BaseException as raised:
        passes = isinstance(raised, (LakehouseError, ConflictError, FileNotFoundError, *passing))
        if passes or not is_of_a_library(raised):
            raise
        raise unavailable(subject, raised) from raised


def is_of_a_library(raised: BaseException) -> bool:
    """Whether delta-rs, Arrow, the file system or Google's clients raise such errors, or what is damaged does."""
    known = (DeltaError, OSError, pa.ArrowException, ValueError, KeyError, TypeError, OverflowError, AttributeError)
    # Rust's panics are no Exceptions; Google's errors are not imported only to be named. DataFusion's have no class.
    return (
        isinstance(raised, known)
        or type(raised) is Exception
        or type(raised).__name__ == "PanicException"
        or type(raised).__module__.startswith("google.")
    )


@dataclass
class Conflicts:
    """The conflicts that one commit has met so far."""

    table: str
    most: int = MOST_CONFLICTS
    met: int = 0

    def meet(self, conflict: Exception) -> None:
        """One more; LakeError when that is too many."""
        self.met += 1
        if self.met >= self.most:
            raise LakeError(
                self.table,
                found=f"a commit that met {self.met} conflicts in a row, the last: {first_line(conflict)}",
                expected="one that succeeds once others have written",
                next_step="See who else writes there (`started` in the ledger) and whether this account may.",
            ) from conflict


@dataclass(frozen=True)
class DataFile:
    """A Parquet file and what Delta's log says of it. `path` is relative to the table; `hour` is its partition.

    The path is as in the log, where odd characters are encoded; names of ours have none.
    """

    path: str
    hour: Hour | None
    rows: int
    size_bytes: int
    written_at: datetime
    stats: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, added: Mapping[str, Any]) -> DataFile:
        """Of the action that added it; ValueError, KeyError or TypeError when that lacks what it must have."""
        stats = json.loads(added.get("stats") or "{}")
        rows = stats.pop("numRecords", 0)
        for kind in ("minValues", "maxValues"):
            if "event_time" in stats.get(kind, {}):
                stats[kind]["event_time"] = datetime.fromisoformat(stats[kind]["event_time"])
        written_at = datetime.fromtimestamp(added["modificationTime"] / 1000, UTC)
        return cls(added["path"], added["partitionValues"].get("hour"), rows, added["size"], written_at, stats)

    def as_added(self, *, is_new: bool = True) -> dict[str, Any]:
        """The action that adds it; not `is_new` where its rows were in other files of the table before."""
        return {
            "path": self.path,
            "partitionValues": {"hour": self.hour},
            "size": self.size_bytes,
            "modificationTime": _millis(self.written_at),
            "dataChange": is_new,
            "stats": json.dumps({"numRecords": self.rows, **self.stats}, default=_stat),
        }

    def as_removed(self, at: datetime, *, is_gone: bool = True) -> dict[str, Any]:
        """The action that removes it; not `is_gone` where its rows are in other files of the table from then on."""
        return {
            "path": self.path,
            "deletionTimestamp": _millis(at),
            "dataChange": is_gone,
            "extendedFileMetadata": True,
            "partitionValues": {"hour": self.hour},
            "size": self.size_bytes,
        }


def event_time_stats(first: datetime | None, last: datetime | None) -> dict[str, dict[str, str]]:
    """Delta's bounds of `event_time`, in whole milliseconds: no event is outside. Nothing without events."""
    if first is None or last is None:
        return {}
    millisecond = timedelta(milliseconds=1)
    low = hours.EPOCH + (first - hours.EPOCH) // millisecond * millisecond
    high = hours.EPOCH - (hours.EPOCH - last) // millisecond * millisecond
    return {"minValues": {"event_time": _stat(low)}, "maxValues": {"event_time": _stat(high)}}


def _stat(instant: datetime) -> str:
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def open_table(uri: str, options: Mapping[str, str], version: int | None = None) -> DeltaTable:
    """The table at `uri`; LakeError when there is none or it cannot be read."""
    try:
        table = DeltaTable(uri, version=version, storage_options=dict(options) or None)
    except TableNotFoundError as missing:
        raise LakeError(
            uri, found="no Delta table", expected="a table made by ingest", next_step="Run ingest for this topic."
        ) from missing
    except BaseException as unreadable:
        if not is_of_a_library(unreadable):
            raise
        subject, next_step = _damaged_part(uri, options) or (uri, "Check the path, the permissions and the version.")
        raise LakeError(
            subject, found=first_line(unreadable), expected="a readable Delta table", next_step=next_step
        ) from unreadable
    _refuse_empty_commits(table, int(table.version()), 1)
    return table


def _damaged_part(uri: str, options: Mapping[str, str]) -> tuple[str, str] | None:
    """The newest commit that is no JSON, or checkpoint that is no Parquet or not there, and what to do about it.

    For where delta-rs says what is wrong, but not where.
    """
    with suppress(Exception):  # what cannot be listed or read is not named either
        storage = storage_for(uri, options)
        entries = [stored.path for stored in storage.listing("_delta_log")]
        for path in [each for each in entries if each.endswith(".json")][: -_NEWEST_COMMITS - 1 : -1]:
            lines = (storage.read(path) or b"").decode(errors="replace").splitlines()
            if not lines or not all(map(_is_json, lines)):
                return storage.address(path), RESTORE_ENTRY
        hint = "_delta_log/_last_checkpoint"
        version = json.loads(storage.read(hint) or b"{}").get("version")
        if version is not None and not any(each.startswith(checkpoint_path(version)[:-8]) for each in entries):
            return storage.address(hint), "Remove it: the log's own names say where its newest checkpoint is."
        newest = [each for each in entries if each.endswith(".parquet")][-1]
        if not _is_parquet(storage, newest):
            return storage.address(newest), "Restore it from a backup."
    return None


def _is_parquet(storage: Storage, path: str) -> bool:
    try:
        with storage.open(path) as file:
            pq.read_metadata(file)
    except pa.ArrowInvalid:
        return False
    return True


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def as_it_was(
    table: DeltaTable, as_of: datetime | str | int | None, machine_time: Callable[[datetime], datetime]
) -> DeltaTable:
    """The table as of a time or version, or as it is; LakeError when it was not there yet, or is not any more.

    `machine_time` gives what the machine's clock said at a time of the lake: see `Settings.machine_time`.
    """
    if as_of is None:
        return table
    wanted = datetime.fromisoformat(as_of) if isinstance(as_of, str) else as_of
    if isinstance(wanted, datetime) and wanted.tzinfo is None:
        wanted = wanted.replace(tzinfo=UTC)
    wanted = machine_time(wanted) if isinstance(wanted, datetime) else wanted
    if isinstance(wanted, datetime) and wanted < _created_at(table):
        raise _no_version(table, as_of)
    try:
        table.load_as_version(wanted)
    except (DeltaError, OSError) as error:
        raise _no_version(table, as_of) from error
    return table


def _created_at(table: DeltaTable) -> datetime:
    """Of a time before it delta-rs would give the first version."""
    return datetime.fromtimestamp(table.history()[-1]["timestamp"] / 1000, UTC)


def _no_version(table: DeltaTable, as_of: datetime | str | int) -> LakeError:
    return LakeError(
        table.table_uri,
        found=f"no version as of {as_of}",
        expected="a time or a version since the table was created, within the audit window",
        next_step="Give a later time; `lakehouse hours` says when each hour was sealed.",
    )


def newly_opened(log: TableLog) -> DeltaTable:
    """The table as it is now, for one who cannot follow it: its log was set back, or cleaned beyond what was known."""
    return open_table(log.uri, log.options)


def files_of(table: DeltaTable) -> Storage:
    """The storage that the table is in; paths are relative to the table."""
    return storage_for(table.table_uri.rstrip("/"), table._storage_options)


def table_exists(uri: str, options: Mapping[str, str]) -> bool:
    try:
        if "://" not in uri:  # each look of a stage asks; delta-rs lists and sorts the whole log
            with os.scandir(f"{uri}/_delta_log") as entries:
                return any(_LOG_FILE.fullmatch(entry.name) for entry in entries)
        return DeltaTable.is_deltatable(uri, storage_options=dict(options) or None)
    except (DeltaError, OSError):
        return False


def commit(
    table: DeltaTable,
    added: Iterable[DataFile],
    *,
    metadata: Mapping[str, Any],
    transactions: Mapping[str, int],
    removed: Iterable[DataFile] = (),
) -> int:
    """One commit by reference; gives its version, which is not the newest where somebody else has committed since.

    ConflictError when a commit with one of the same app ids came since `table` was read. The table is updated.
    """
    version = commit_once(table, added, metadata=metadata, transactions=transactions, removed=removed)
    with table_errors(table.table_uri):
        table.update_incremental()
    return version


def commit_once(
    table: DeltaTable,
    added: Iterable[DataFile],
    *,
    metadata: Mapping[str, Any],
    transactions: Mapping[str, int],
    removed: Iterable[DataFile] = (),
) -> int:
    """As `commit`, for who is done with the table then: it stays as it was read."""
    refuse_unknown_features(table)
    return commit_to_log(
        log_of(table),
        change_of(added, removed, transactions),
        lambda version: json.dumps(metadata, sort_keys=True),
        partition_by=table.metadata().partition_columns,
    ).version


def change_of(
    added: Iterable[DataFile], removed: Iterable[DataFile], transactions: Mapping[str, int], *, is_data: bool = True
) -> Change:
    """What a commit is to do; not `is_data` where the rows of the table stay what they are."""
    now = datetime.now(UTC)
    return Change(
        tuple(file.as_added(is_new=is_data) for file in added),
        tuple(file.as_removed(now, is_gone=is_data) for file in removed),
        dict(transactions),
    )


def commit_to_log(
    log: TableLog,
    change: Change,
    metadata_at: Callable[[int], str | None],
    *,
    partition_by: Iterable[str] = (),
    operation: str = "WRITE",
) -> LogEntry:
    """The change as a commit behind the log; gives its entry. See `append_entry`; a checkpoint follows where due."""
    now = _millis(datetime.now(UTC))
    with table_errors(log.uri):
        entry = append_entry(log, change, metadata_at, at_millis=now, partition_by=partition_by, operation=operation)
    if (entry.version + 1) % CHECKPOINT_EVERY == 0:
        _begin_checkpoint(log.at(entry.version))
    return entry


def _begin_checkpoint(log: TableLog) -> None:
    """In a thread of its own where a store is on the network: a hundred requests, which no commit waits for."""
    if _local_log(log.uri) is not None:
        write_checkpoint(log)
        return

    def work() -> None:
        with _checkpoints:
            write_checkpoint(log)

    threading.Thread(target=work, name=f"{_CHECKPOINT} {log.uri}", daemon=True).start()


@atexit.register
def await_checkpoints() -> None:
    """Until those that were begun are written; a store that does not answer holds up the end of a process no longer."""
    until = time.monotonic() + _PATIENCE_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith(_CHECKPOINT):
            thread.join(max(0.0, until - time.monotonic()))


def write_checkpoint(log: TableLog) -> None:
    """So that whoever opens the table need not read all of its log; where that fails, the next one will do.

    Of those that are no longer recent most go: a version between two is read from the older one and the entries since.
    """
    try:
        with table_errors(log.uri):
            log.table().create_checkpoint()
            make_durable(log)
            number = (log.version + 1) // CHECKPOINT_EVERY - RECENT_CHECKPOINTS
            if number > 0 and number % KEPT_CHECKPOINTS:
                log.files.delete([checkpoint_path(number * CHECKPOINT_EVERY - 1)])
    except LakeError as refused:
        logger.warning("store: table=%s version=%d not_written=checkpoint error=%s", log.uri, log.version, refused)


def _millis(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


_durable: dict[str, int] = {}
"""The version until which each local log is known to be on disk."""


def make_durable(log: TableLog) -> None:
    """On a local disk: the log until its version outlives a power cut. Other stores see to that themselves.

    What follows from a commit (ledger rows, manifests that are cleared, files that are removed) must not be there
    without it, and delta-rs syncs nothing.
    """
    folder = _local_log(log.uri)
    if folder is None:
        return
    newest, known = log.version, _durable.get(folder, -1)
    if known > newest:  # another table has taken its place
        known = -1
    names = set(os.listdir(folder)) if known < 0 else set()
    for version in range(known + 1, newest + 1):
        for name in (f"{version:020d}.json", f"{version:020d}.checkpoint.parquet"):
            if known >= 0 or name in names:
                with suppress(FileNotFoundError):
                    sync(os.path.join(folder, name))
    with suppress(FileNotFoundError):
        sync(os.path.join(folder, "_last_checkpoint"))
    sync(folder)
    if known < 0:
        _sync_parents(folder)
    _durable[folder] = newest


def _local_log(uri: str) -> str | None:
    """The folder of a log on a local disk; None elsewhere."""
    address = urlsplit(uri)
    if address.scheme not in ("", "file"):
        return None
    return os.path.join(unquote(address.path) if address.scheme else uri, "_delta_log")


def _refuse_empty_commits(table: DeltaTable, newest: int, count: int) -> None:
    """LakeError when one of the `count` newest commits on a local disk is an empty file, as a power cut can leave it.

    delta-rs takes it for a commit of nothing: files would be missing from the table, and its history would give every
    older commit another commit's number.
    """
    folder = _local_log(table.table_uri)
    if folder is None:
        return
    for version in range(newest, max(newest - count, -1), -1):
        path = os.path.join(folder, f"{version:020d}.json")
        with suppress(FileNotFoundError):  # retired: a checkpoint replaces it
            if not os.path.getsize(path):
                raise LakeError(
                    path,
                    found="an empty file",
                    expected="a commit of the table",
                    next_step=RESTORE_ENTRY,
                )


def _sync_parents(folder: str) -> None:
    """The folders above, as far as they are ours: delta-rs has made some of them."""
    parent = os.path.dirname(folder.rstrip("/"))
    while parent != os.path.dirname(parent):
        with suppress(PermissionError):
            sync(parent)
        parent = os.path.dirname(parent)


def files(table: DeltaTable) -> list[DataFile]:
    """Every file of the table's version."""
    return _data_files(_actions(table))


def sizes(table: DeltaTable) -> dict[str, int]:
    """Bytes of every file of the table's version, by path: what is said of their rows is not looked at."""
    actions = _actions(table)
    return dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))


def files_of_hour(table: DeltaTable, hour: Hour) -> list[DataFile]:
    """The files of one bucket, ordered by path."""
    return files_of_hours(table, [hour])


def files_of_hours(table: DeltaTable, wanted: Iterable[Hour]) -> list[DataFile]:
    """The files of some buckets, ordered by path."""
    actions = _actions(table)
    return _data_files(actions.filter(pc.is_in(actions["partition.hour"], pa.array(wanted, pa.string()))))


def _actions(table: DeltaTable) -> pa.Table:
    # Not pa.table(…), which imports pandas to see whether it was given one of its frames: a second of every command.
    with table_errors(table.table_uri):
        actions = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()
    if "partition.hour" not in actions.column_names:
        actions = actions.append_column("partition.hour", pa.nulls(len(actions), pa.string()))
    return actions


def _data_files(actions: pa.Table) -> list[DataFile]:
    return sorted(
        (
            DataFile(
                row["path"],
                row["partition.hour"],
                row["num_records"] or 0,
                row["size_bytes"],
                datetime.fromtimestamp(row["modification_time"] / 1000, UTC),
                _stats(row),
            )
            for row in _rows(actions)
        ),
        key=lambda file: file.path,
    )


def _rows(actions: pa.Table) -> Iterator[dict[str, Any]]:
    """As `to_pylist`, which imports pandas where there are times."""
    names, columns = actions.column_names, [_values(column) for column in actions.columns]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    first = datetime(1970, 1, 1, tzinfo=UTC if column.type.tz else None)
    microseconds = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_pylist()
    return [None if each is None else first + timedelta(microseconds=each) for each in microseconds]


def _stats(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = {"min": "minValues", "max": "maxValues", "null_count": "nullCount"}
    stats: dict[str, dict[str, Any]] = {}
    for key, value in row.items():
        kind, _, column = key.partition(".")
        if kind in kinds and value is not None:
            stats.setdefault(kinds[kind], {})[column] = value
    return stats


def metadata_of_commits(table: DeltaTable | TableLog, limit: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, our metadata) of the newest commits that carry some, newest first; none newer than the open version.

    The log is read as far as it is asked for; `limit` is how many commits at most.
    """
    for entry in entries_back(log_of(table), limit):
        with table_errors(f"{log_of(table).uri} at version {entry.version}"):
            metadata = entry.metadata
        if metadata:
            yield entry.version, metadata


def entries_back(log: TableLog, limit: int | None = None) -> Iterator[LogEntry]:
    """See `TableLog.entries_back`; LakeError where one cannot be read."""
    entries = log.entries_back(limit)
    while True:
        with table_errors(log.uri):
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def reaches_back(table: DeltaTable | TableLog) -> bool:
    """Whether the log still has the commit that made the table, and so every commit since."""
    log = log_of(table)
    with table_errors(log.uri):
        return log.entry(0) is not None


def first_line(error: BaseException) -> str:
    return in_one_line(error)
