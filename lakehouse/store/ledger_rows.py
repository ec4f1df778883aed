"""A ledger's rows as one process knows them: read once, then followed by the names of the log's entries."""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.store.delta import files, is_of_a_library, newly_opened, table_errors
from lakehouse.store.digest import (
    DIGEST,
    SHOWN_HOURS,
    Digest,
    decoded,
    digest_rows,
    encoded,
    followed,
    is_due_after,
)
from lakehouse.store.history import Entry, History, entries_of, in_order
from lakehouse.store.ledger_files import LedgerFile, files_with_new_rows, rows_in
from lakehouse.store.table_log import LogEntry, LostLogError, TableLog, log_of

logger = logging.getLogger(__name__)

MOST_BEHIND = 16
"""Versions that a digest may be behind the table before the table is read instead."""
_MOST_NEW_ROWS = 500
"""That are put behind those of a digest one by one."""


class AllRows:
    """Every row of a ledger. One thread at a time.

    `check_every` seconds it looks whether what it has read is still there.
    """

    def __init__(self, table: DeltaTable | TableLog, check_every: float = 30.0) -> None:
        self.log, self._check_every = log_of(table), check_every
        self._table = table if isinstance(table, DeltaTable) else None
        self._checked_at = time.monotonic()
        self._files: dict[str, LedgerFile] | None = None
        self._history = History()

    @property
    def uri(self) -> str:
        return self.log.uri

    @property
    def files(self) -> list[LedgerFile]:
        """Those of the version that is known."""
        return list((self._files or {}).values())

    def history(self) -> History:
        """The rows as of now; only files that the table has gained since the last call are read."""
        if self._files is None:
            self._open()
        try:
            self._follow()
        except BaseException as lost:
            if not (isinstance(lost, (LostLogError, LakeError)) or is_of_a_library(lost)):
                raise
            self.read()
        return self._history

    def known_history(self) -> History:
        """What the last call of `history` gave."""
        return self._history if self._files is not None else self.history()

    @property
    def newest_at(self) -> datetime | None:
        """The time of the newest row that is known; None without any."""
        return self._history.entries[-1].at if self._history.entries else None

    def read(self) -> None:
        """All of the table, whatever is known of it."""
        table = self._table or newly_opened(self.log)
        self._table = None  # it is large, and what follows its version is read by names
        log, there = log_of(table), files(table)
        rows = rows_in(log.files, log.uri, [file.path for file in there])
        self._keep(History(in_order(entries_of(rows, log.uri))))
        self.log, self._files = log, {file.path: LedgerFile(file.path, file.rows, file.size_bytes) for file in there}
        self._checked_at = time.monotonic()

    def forget(self) -> None:
        """So that the table is read with the next call."""
        self._files = None

    def check_known(self) -> None:
        """LostLogError when the version that is known is gone, or is another one: the log was set back."""
        known = self.log.known_entry()
        if not _is_made_by(known, self._files or {}):
            raise LostLogError(self.uri)
        self.log = self.log.followed_by([known])
        self._checked_at = time.monotonic()

    def take(self, entry: LogEntry, added: Iterable[LedgerFile], removed: Iterable[str]) -> None:
        """Know the entry that follows: which files it added, and which it removed."""
        assert self._files is not None
        for path in removed:
            self._files.pop(path, None)
        self._files.update({file.path: file for file in added})
        self.log = self.log.followed_by([entry])

    def extend(self, added: Sequence[Entry]) -> None:
        """Know these rows, which came last."""
        if added:
            self._history = self._history.followed_by(in_order(added))

    def _open(self) -> None:
        self.read()

    def _keep(self, whole: History) -> None:
        self._history = whole

    def _follow(self) -> None:
        """LostLogError, LakeError or an error of a library where all is to be read again."""
        entries = self.log.next_entries()
        if entries or time.monotonic() >= self._checked_at + self._check_every:
            self.check_known()
        self.extend([row for entry in entries for row in _new_rows(self.log, entry)])
        for entry in entries:
            self._files = _files_after(self._files or {}, entry)
        self.log = self.log.followed_by(entries)


class DigestRows(AllRows):
    """The rows alone that a digest for these mirrors has, and what came since: a topic of years has few such.

    They are read from the digest, where that is what the table says. `properties` are what the table is declared with.
    """

    def __init__(
        self,
        log: TableLog,
        mirrors: Iterable[str],
        properties: Mapping[str, str],
        check_every: float = 30.0,
        digest: Digest | None = None,
    ) -> None:
        super().__init__(log, check_every)
        self._mirrors, self._properties = tuple(mirrors), dict(properties)
        self._digested_at: int | None = None
        self._newest_at: datetime | None = None
        if digest is not None:
            self._take_digest(digest)

    def extend(self, added: Sequence[Entry]) -> None:
        """Of an hour that was left out all rows are read; LostLogError where these are not there, or too many came."""
        try:
            continued = _continued(self._history, in_order(added), StoredRows(self.log, self._files or ()))
        except LakeError as gone:
            raise LostLogError(self.uri) from gone
        if continued is None:
            raise LostLogError(self.uri)
        self._history, self._newest_at = continued, _newest([self._newest_at, *(entry.at for entry in added)])

    @property
    def newest_at(self) -> datetime | None:
        """Also of a row that is left out."""
        return self._newest_at

    def write_digest(self, after: Entry) -> None:
        """Where there is none or it is due; where that fails, they read the table who would read it."""
        is_behind = self._digested_at is None or self.log.version >= self._digested_at + MOST_BEHIND // 2
        if not (is_behind or is_due_after(after)):
            return
        try:
            with table_errors(self.uri):
                self._history = digest_rows(self._history, self._mirrors)
                files, checksum = tuple(self.files), self.log.checksum
                digest = Digest(
                    self.log.version, files, self._history, self._newest_at, self._properties, checksum=checksum
                )
                content = encoded(digest, self._mirrors)
                if content is not None:
                    self.log.files.write(DIGEST, content)
                self._digested_at = self.log.version
        except LakeError as refused:
            logger.warning("ledger: table=%s not_written=%s error=%s", self.uri, DIGEST, refused)

    def _open(self) -> None:
        digest = followed_digest(self.log, self._mirrors)
        if digest is not None:
            self._take_digest(digest)
        else:
            self.read()

    def _take_digest(self, digest: Digest) -> None:
        self.log = self.log.at(digest.version, digest.checksum)
        self._files = {file.path: file for file in digest.files}
        self._history, self._newest_at = digest.history, digest.newest_at
        self._digested_at = digest.version
        self._checked_at = time.monotonic()

    def _keep(self, whole: History) -> None:
        self._newest_at = _newest(entry.at for entry in whole.entries)
        try:
            self._history = digest_rows(whole, self._mirrors)
        except LakeError:  # a broken row is an error of who asks for it
            self._history = whole


class StoredRows:
    """The rows in some files of a ledger, read when they are first asked for; no others are made sense of."""

    def __init__(self, log: TableLog, paths: Iterable[str]) -> None:
        self._log, self._paths = log, paths

    def of_hours(self, wanted: Iterable[Hour]) -> History:
        """Every row of some hours; one for a range of empty hours is its first hour's.

        LakeError where a file is gone.
        """
        rows = self._rows.filter(pc.is_in(self._rows["hour"], pa.array(wanted, pa.string())))
        return History(in_order(entries_of(rows, self._log.uri)))

    @cached_property
    def _rows(self) -> pa.Table:
        with table_errors(self._log.uri):
            return rows_in(self._log.files, self._log.uri, self._paths)


def all_rows(table: DeltaTable) -> History:
    """Every row of a ledger as of now."""
    with table_errors(table.table_uri):
        return AllRows(table).history()


def followed_digest(ledger: TableLog, mirrors: Iterable[str], newest: int = SHOWN_HOURS) -> Digest | None:
    """The ledger's digest with the rows that came since it was written; None where only the table says them.

    Of `ledger` it takes where that is.
    """
    with table_errors(ledger.uri):
        content = ledger.files.read(DIGEST)
        digest = decoded(content, mirrors, newest, ledger.uri) if content else None
        return _brought_up_to_date(ledger.at(digest.version, digest.checksum), digest) if digest else None


def _brought_up_to_date(log: TableLog, digest: Digest) -> Digest | None:
    known = {file.path: file for file in digest.files}
    history, newest_at = digest.history, digest.newest_at
    stored = StoredRows(log, list(known))
    try:
        if not _is_made_by(log.known_entry(), known):
            return None
    except LostLogError:
        return None
    while (entry := log.entry(log.version + 1)) is not None:
        log = log.followed_by([entry])
        if log.version > digest.version + MOST_BEHIND:
            return None
        try:
            rows = _new_rows(log, entry)
            continued = _continued(history, rows, stored)
        except (LostLogError, LakeError):  # it, or one after it, took away what was there
            return None
        if continued is None:
            return None
        history, known = continued, _files_after(known, entry)
        newest_at = _newest([newest_at, *(entry.at for entry in rows)])
    files, version, checksum = tuple(known.values()), log.version, log.checksum
    return replace(digest, version=version, files=files, history=history, newest_at=newest_at, checksum=checksum)


def _new_rows(log: TableLog, entry: LogEntry) -> Sequence[Entry]:
    """LostLogError where the entry did more than to add rows, or to compact; LakeError where its files are gone."""
    new = [file.path for file in files_with_new_rows(entry)]
    return in_order(entries_of(rows_in(log.files, log.uri, new), log.uri)) if new else ()


def _newest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((instant for instant in instants if instant is not None), default=None)


def _files_after(known: Mapping[str, LedgerFile], entry: LogEntry) -> dict[str, LedgerFile]:
    gone = {str(removed["path"]) for removed in entry.of("remove")}
    added = {file.path: file for file in map(LedgerFile.of, entry.of("add"))}
    return {path: file for path, file in known.items() if path not in gone} | added


def _is_made_by(entry: LogEntry, known: Container[str]) -> bool:
    """Whether a version with these files can be the one that the entry made."""
    return all(added.get("path") in known for added in entry.of("add"))


def _continued(known: History, added: Sequence[Entry], stored: StoredRows) -> History | None:
    """None where they are too many."""
    if len(added) > _MOST_NEW_ROWS:
        return None
    for entry in added:
        known = followed(known, entry, lambda hour: stored.of_hours([hour]).entries)
    return known
