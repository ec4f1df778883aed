"""What silver's log says of the hours that were sealed. Its files, many after years, are not looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from lakehouse.hours import Hour
from lakehouse.store.delta import DataFile, change_of, commit_to_log, files_of_hours, open_table, table_errors
from lakehouse.store.place import Place
from lakehouse.store.records import Sealed
from lakehouse.store.table_definition import TableDefinition
from lakehouse.store.table_log import LogEntry, LostLogError, TableLog

SEAL = "seal"
_LOOKED_BACK = 32
"""Entries in which the newest seal is looked for; where it is not among them, any hour may be sealed."""


class SilverHead:
    """Silver for the one who seals: its log as far as it is known, followed by the names of its entries.

    Hours are sealed in order, each of them before the next is begun: the newest seal says which may have one.
    """

    def __init__(self, opened: Callable[[], tuple[TableLog, TableDefinition]]) -> None:
        """`opened` gives the log as it is now, of a table that it has created or changed where that was due."""
        self._opened, self._lock = opened, threading.Lock()
        self.log: TableLog
        self.columns: pa.Schema
        """Of the table, the partition's among them."""
        self._newest: Hour | None
        self._read()

    def update(self) -> None:
        """See what others have committed; all is read again where the log does not follow on what is known."""
        with self._lock, table_errors(self.log.uri):
            try:
                known, *entries = self.log.entries_on()
            except LostLogError:
                return self._read()
            if any(entry.changes_table for entry in entries):
                return self._read()
            self._newest = _newest_seal(reversed(entries)) or self._newest
            self.log = self.log.followed_by([known, *entries])

    def without(self, hour: Hour) -> TableLog | None:
        """The log as far as it is known, if that has no seal of the hour; None where it may have one."""
        with self._lock:
            return self.log if self._newest is not None and hour > self._newest else None

    def commit(
        self, log: TableLog, files: Iterable[DataFile], manifest: Mapping[str, Any], transactions: Mapping[str, int]
    ) -> int:
        """An hour's seal as one commit behind the `log` that has none of it; gives its version.

        ConflictError where one that came since has one of the transactions.
        """
        text = json.dumps(manifest, sort_keys=True)
        entry = commit_to_log(log, change_of(files, (), transactions), lambda version: text, partition_by=["hour"])
        with self._lock:
            if entry.version == self.log.version + 1:
                self.log = self.log.followed_by([entry])
                self._newest = max(self._newest or "", manifest["hour"])
        return entry.version

    def _read(self) -> None:
        log, definition = self._opened()
        back = log.entries_back(_LOOKED_BACK)
        newest = list(islice(back, 1))
        self.log, self.columns = log.followed_by(newest), definition.columns
        self._newest = _newest_seal_of(chain(newest, back))


def _newest_seal_of(back: Iterable[LogEntry]) -> Hour | None:
    """The hour of the newest first seal among entries, newest first: "" before the first, None where none has it."""
    for entry in back:
        hour = _newest_seal([entry])
        if hour is not None or entry.version == 0:
            return hour or ""
    return None


def _newest_seal(back: Iterable[LogEntry]) -> Hour | None:
    """The hour of the newest first seal among entries, newest first; a later one of an hour is an erasure's."""
    seals = (entry.metadata for entry in back if entry.metadata.get("kind") == SEAL)
    return next((str(seal["hour"]) for seal in seals if seal.get("revision") == 1), None)


def files_of_seal(silver: Place, hour: Hour, seal: Sealed) -> list[DataFile]:
    """The hour's files at the version of its seal, ordered by path: as that commit says, or else the table as of then.

    LakeError when there is no such version.
    """
    log = TableLog(silver.uri, seal.silver_version, silver.options)
    with table_errors(silver.uri):
        entry = log.entry(seal.silver_version) if seal.revision == 1 else None
        manifest = entry.metadata if entry else {}
    if entry and (manifest.get("kind"), manifest.get("hour"), manifest.get("revision")) == (SEAL, hour, 1):
        with table_errors(f"{silver.uri} version {seal.silver_version}"):
            return sorted(_files_in(entry, hour), key=lambda file: file.path)
    return files_of_hours(open_table(silver.uri, silver.options, seal.silver_version), [hour])


def _files_in(entry: LogEntry, hour: Hour) -> Iterator[DataFile]:
    for added in map(DataFile.of, entry.of("add")):
        if added.hour == hour:
            yield added
