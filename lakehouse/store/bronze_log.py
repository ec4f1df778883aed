"""What bronze's own log says of a topic: each commit of ours carries the whole state of assigning and closing.

So the files, their buckets, the closed hours and the reasons are one serialized history, and nothing else has to be
remembered. The state is also in app transactions, which Delta keeps in every checkpoint: it stays when the commits that
carried it are cleaned away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.errors import LakeError
from lakehouse.hours import EPOCH, Hour
from lakehouse.progress import IngestState, NewestEvent, OpenHour
from lakehouse.store.delta import (
    Conflicts,
    DataFile,
    change_of,
    commit,
    commit_to_log,
    files,
    metadata_of_commits,
    reaches_back,
    sizes,
    table_errors,
)
from lakehouse.store.table_log import ConflictError, LogEntry, TableLog, log_of

INGEST = "ingest"
OPEN_HOUR = "open-hour"
_MICROSECOND = timedelta(microseconds=1)
_NEWEST_EVENT, _NEWEST_PUBLISHED = "newest-event-us", "newest-event-published-us"
_MAX_EVENT, _MAX_PUBLISHED = "max-event-time-us", "max-publish-time-us"
_REJECTED, _SLOTS = "rejected", "slots"
_NONE = -(2**62)
"""An instant that the state does not have."""

Bronze = DeltaTable | TableLog
"""The table, or only its log, up to the version that is meant."""

Segment = str
"""`<epoch>-<slot>-<attempt>`, the stem of its files' names: a slot that is ever pulled again is another segment."""


def newest_state(bronze: Bronze) -> IngestState:
    """The state after the newest commit of the table's version; the initial one when ingest has never committed.

    Where the log no longer has a commit that carries it, it is put together from the checkpoint. LakeError when that
    does not have it either: to begin again would write to hours that are sealed.
    """
    log = log_of(bronze)
    for version, metadata in metadata_of_commits(log):
        if "state" in metadata:
            with table_errors(f"{log.uri} version {version}: the state of ingest"):
                return IngestState.from_json(metadata["state"])
    with table_errors(log.uri):
        table = log.table()
    epoch = table.transaction_version(INGEST)
    if epoch is None and reaches_back(log):
        return IngestState()
    return _state_in_checkpoint(table, epoch)


def state_in(entry: LogEntry) -> IngestState | None:
    """The state that an entry of bronze's log carries; None for a commit of another kind.

    ValueError, KeyError, TypeError or AttributeError when it is not what a commit writes.
    """
    if not entry.info:
        raise ValueError("an entry without commitInfo")
    return IngestState.from_json(entry.metadata["state"]) if "state" in entry.metadata else None


def ingest_commits(bronze: Bronze) -> Iterator[tuple[int, dict[str, Any]]]:
    """(version, metadata) of ingest's commits, newest first; the log is read as far as it is asked for.

    LakeError at one that lacks what each of them has.
    """
    log = log_of(bronze)
    for version, metadata in metadata_of_commits(log):
        if metadata.get("kind") == INGEST:
            with table_errors(f"{log.uri} version {version}: what ingest said of its commit"):
                _check(metadata)
            yield version, metadata


def closes_since(bronze: Bronze, hour: Hour, state: IngestState | None = None) -> list[tuple[int, dict[str, Any]]]:
    """(version, what its commit says of it) of each hour that closed after the given one, oldest first.

    `state` is the newest, where it is known.
    """
    log = log_of(bronze)
    found: list[tuple[int, dict[str, Any]]] = []
    for version, metadata in _closing_commits(log, (state or newest_state(log)).closed_in):
        found += [(version, closed) for closed in metadata["closed"] if closed["hour"] > hour]
        if any(closed["hour"] <= hour for closed in metadata["closed"]):
            break
    return sorted(found, key=lambda close: str(close[1]["hour"]))


def _closing_commits(log: TableLog, version: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Commits that closed hours, newest first, each by what the one after it says; all others are read where it does
    not.
    """
    while version:
        with table_errors(f"{log.uri} version {version}: what ingest said of its commit"):
            entry = log.entry(version)
            if entry is None:  # cleaned away, and so recorded long ago
                return
            _check(entry.metadata)
        yield version, entry.metadata
        log, version = log.at(version - 1), entry.metadata.get("closed_before")
    if version is None:
        yield from ((number, metadata) for number, metadata in ingest_commits(log) if metadata["closed"])


def _check(metadata: Mapping[str, Any]) -> None:
    """KeyError, TypeError or ValueError when it is not what ingest writes."""
    IngestState.from_json(metadata["state"])
    closed = [hours.parse_hour(details["hour"]) for details in metadata["closed"]]
    if not all(isinstance(segment, str) for segment in (*metadata["segments"], *closed)):
        raise TypeError("segments that are no text")


def segments_in_log(bronze: Bronze, since_epoch: int) -> set[Segment]:
    """Every segment of `since_epoch` or later that a commit has taken.

    A segment is committed with its own epoch or, when it is adopted, with a later one: commits of an earlier epoch
    cannot hold it. Where commits that could have been cleaned away, the table's files say what they took.
    """
    found: set[Segment] = set()
    for version, metadata in ingest_commits(bronze):
        if metadata["state"]["epoch"] < since_epoch:
            return found
        found.update(metadata["segments"])
        if version <= 1:
            return found
    table = bronze if isinstance(bronze, DeltaTable) else bronze.table()
    return found | {segment_of(file.path) for file in files(table)}


def segment_of(path: str) -> Segment:
    """The segment that a data file belongs to."""
    return path.rpartition("/")[2].removesuffix(".parquet")


def commit_batch(bronze: DeltaTable, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]) -> int:
    """One ingest commit: the files and the state after them; gives its version.

    ConflictError when another commit that carries the state came since `bronze` was read: then nothing was written.
    """
    entry, _ = commit_to(log_of(bronze), files, state, metadata)
    with table_errors(bronze.table_uri):
        bronze.update_incremental()
    return entry.version


def commit_to(
    log: TableLog, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]
) -> tuple[LogEntry, IngestState]:
    """As `commit_batch`, of who has the log alone; gives the entry and the state after it. It reads nothing.

    A commit that closes hours names the one before it that did (`closed_before`): who looks for closes reads no others.
    """
    has_closes, refused = bool(metadata.get("closed")), int(metadata.get("unacknowledged") or 0)

    def after(version: int) -> IngestState:
        return state.committed_as(version, has_closes=has_closes, unacknowledged=refused)

    def text_at(version: int) -> str:
        before = {"closed_before": state.closed_in} if has_closes else {}
        return json.dumps({**metadata, **before, "kind": INGEST, "state": after(version).as_json()}, sort_keys=True)

    change = change_of(files, (), _transactions(state))
    entry = commit_to_log(log, change, text_at, partition_by=["hour"])
    return entry, after(entry.version)


def commit_change(
    bronze: DeltaTable,
    *,
    added: Iterable[DataFile] = (),
    removed: Iterable[DataFile],
    metadata: Mapping[str, Any],
    transactions: Mapping[str, int] | None = None,
    state: IngestState | None = None,
) -> int:
    """One commit of somebody else than ingest, which replaces or removes files: it carries the state on.

    `transactions` are what else it is to carry; `state` is the one after it, where that differs from the newest.

    ConflictError as `commit_batch`: no commit of ingest can come between, so no close of an hour can be overlooked. So
    it is where the table has not all of `removed`: it was opened after a compaction put one of them into another file.
    """
    removed, present = list(removed), sizes(bronze)
    if gone := next((file.path for file in removed if file.path not in present), None):
        raise ConflictError(f"the table has no longer {gone}")
    state = state or newest_state(bronze)
    return commit(
        bronze,
        added,
        metadata={**metadata, "state": state.as_json()},
        transactions={**_transactions(state), **(transactions or {})},
        removed=removed,
    )


class Compactions:
    """Commits, one after the other, that put rows of the table into other files of it; what others commit is read once.

    They remove files that the log at `read_at` has.
    """

    def __init__(self, read_at: TableLog) -> None:
        self._log, self._gone = read_at, set[str | None]()
        self._state: IngestState | None = None

    def commit(self, added: Iterable[DataFile], removed: Iterable[DataFile], metadata: Mapping[str, Any]) -> int | None:
        """The version of it; None, and nothing is written, where one of `removed` went since.

        It carries the state on as `commit_change` does.
        """
        added, removed = list(added), list(removed)
        conflicts = Conflicts(self._log.uri)
        while True:
            with table_errors(self._log.uri):
                state = self._followed()
            if self._lack(removed):
                return None
            text = json.dumps({**metadata, "state": state.as_json()}, sort_keys=True)
            change = change_of(added, removed, _transactions(state), is_data=False)
            try:
                return commit_to_log(self._log, change, partial(_same, text), operation="OPTIMIZE").version
            except ConflictError as conflict:
                conflicts.meet(conflict)

    def have_lost(self, files: Iterable[DataFile]) -> bool:
        """Whether somebody has taken one of these out of the table since."""
        with table_errors(self._log.uri):
            self._followed()
        return self._lack(files)

    def _lack(self, files: Iterable[DataFile]) -> bool:
        return not self._gone.isdisjoint(file.path for file in files)

    def _followed(self) -> IngestState:
        """The state after all that came since, this one's own commit included."""
        entries = self._log.next_entries()
        self._log = self._log.followed_by(entries)
        self._gone.update(gone.get("path") for entry in entries for gone in entry.of("remove"))
        carried = next((entry.metadata["state"] for entry in reversed(entries) if "state" in entry.metadata), None)
        if carried is not None:
            self._state = IngestState.from_json(carried)
        return self._state or newest_state(self._log)


def _same(text: str, version: int) -> str:
    return text


def as_of_close(bronze_at: Callable[[int | None], DeltaTable], version: int) -> DeltaTable:
    """The table of which a closed hour's files are those that it had when it closed, at that version.

    A closed bucket is never written to again, so where the version was cleaned away the newest one serves. `bronze_at`
    opens a version, or the newest.
    """
    try:
        return bronze_at(version)
    except LakeError:
        newest = bronze_at(None)
        if newest.version() < version:
            raise
        return newest


def _transactions(state: IngestState) -> dict[str, int]:
    """All of the state that the table's files do not say."""
    newest = state.newest
    transactions = {
        INGEST: state.epoch,
        _MAX_EVENT: _micros(state.max_event_time),
        _MAX_PUBLISHED: _micros(state.max_publish_time),
        _NEWEST_EVENT: _micros(newest.event_time if newest else None),
        _NEWEST_PUBLISHED: _micros(newest.publish_time if newest else None),
        _REJECTED: state.rejected,
        _SLOTS: state.slots,
    }
    if state.open_hour is not None:
        transactions[OPEN_HOUR] = hours.ordinal_of(state.open_hour)
    return transactions


def _state_in_checkpoint(bronze: DeltaTable, epoch: int | None) -> IngestState:
    known = {
        app: bronze.transaction_version(app)
        for app in (_MAX_EVENT, _MAX_PUBLISHED, _NEWEST_EVENT, _NEWEST_PUBLISHED, _REJECTED, _SLOTS)
    }
    if epoch is None or None in known.values():
        cut = f"epoch {epoch} of ingest" if epoch is not None else "a log whose first commits are cleaned away"
        raise LakeError(
            bronze.table_uri,
            found=f"{cut}, and no commit that says which hours are open",
            expected="a log that reaches back to the newest ingest commit, or a checkpoint of this release",
            next_step="Restore `_delta_log` from a copy; a new start would deliver into hours that are sealed.",
        )
    ordinal = bronze.transaction_version(OPEN_HOUR)
    open_hour = hours.from_ordinal(ordinal) if ordinal is not None else None
    event_time, publish_time = _instant(known[_NEWEST_EVENT]), _instant(known[_NEWEST_PUBLISHED])
    held: dict[str, OpenHour] = {}
    for file in files(bronze):
        if file.hour is not None and open_hour is not None and file.hour >= open_hour:
            before = held.get(file.hour, OpenHour(0, file.written_at))
            last_write = max(before.last_write or file.written_at, file.written_at)
            held[file.hour] = OpenHour(before.rows + file.rows, last_write)
    return IngestState(
        epoch,
        open_hour,
        _instant(known[_MAX_EVENT]),
        _instant(known[_MAX_PUBLISHED]),
        held,
        known[_SLOTS] or 0,
        known[_REJECTED] or 0,
        NewestEvent(event_time, publish_time) if event_time and publish_time else None,
        closed_in=None,
    )


def _micros(instant: datetime | None) -> int:
    return (instant - EPOCH) // _MICROSECOND if instant else _NONE


def _instant(micros: int | None) -> datetime | None:
    return EPOCH + micros * _MICROSECOND if micros is not None and micros != _NONE else None
