"""What happened to each hour of a topic: a table of rows that are only ever added, and who adds them."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.clock import Clock, now
from lakehouse.concealed import without_secrets_in
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import Conflicts, commit_to_log, files, is_of_a_library, newly_opened, table_errors
from lakehouse.store.digest import DIGEST, Digest, decoded, digest_rows, encoded, is_due_after, reaches_back
from lakehouse.store.files import Storage
from lakehouse.store.history import Entry, History, entries_of, in_order, rows_of, with_changes
from lakehouse.store.place import Place
from lakehouse.store.records import Record
from lakehouse.store.table_log import (
    Change,
    ConflictError,
    LogEntry,
    LostLogError,
    TableLog,
    log_of,
    refuse_unknown_features,
)

logger = logging.getLogger(__name__)

_APP = "ledger"
_TICK = timedelta(microseconds=1)

FAN_OUT = 4
"""Files of about the same size that become one: a process reads all of a ledger's at its start, and each append makes
one. A row is written again as often as its file grows that many times.
"""

_READERS = 16
_MOST_BEHIND = 16
"""Versions that a digest may be behind the table before the table is read instead."""


@dataclass(frozen=True)
class LedgerFile:
    """One of the table's files; `path` as in its log."""

    path: str
    rows: int
    size_bytes: int

    @classmethod
    def of(cls, added: Mapping[str, Any]) -> LedgerFile:
        rows = json.loads(added.get("stats") or "{}").get("numRecords", 0)
        return cls(str(added["path"]), int(rows), int(added["size"]))

    def as_added(self, *, is_new: bool) -> dict[str, Any]:
        stats = json.dumps({"numRecords": self.rows})
        at = {"modificationTime": _millis(now()), "dataChange": is_new}
        return {"path": self.path, "partitionValues": {}, "size": self.size_bytes, **at, "stats": stats}

    def as_removed(self, *, is_gone: bool) -> dict[str, Any]:
        at = {"deletionTimestamp": _millis(now()), "dataChange": is_gone}
        more = {"extendedFileMetadata": True, "partitionValues": {}, "size": self.size_bytes}
        return {"path": self.path, **at, **more}


def _millis(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


class LedgerTable:
    """A topic's ledger table and its rows, as one process has them for all its stages.

    Whoever appends makes one of `fan_out` files of about the same size, so there are few, and few rows are written
    again: the rows stay what they are. `check_every` seconds it looks whether what it has read is still there.
    """

    def __init__(
        self, table: DeltaTable, fan_out: int = FAN_OUT, check_every: float = 30.0, mirrors: Iterable[str] = ()
    ) -> None:
        refuse_unknown_features(table)
        self.uri = table.table_uri
        self.lock = threading.RLock()
        self._log, self._fan_out, self._check_every = log_of(table), fan_out, check_every
        self._checked_at = time.monotonic()
        self._files: dict[str, LedgerFile] | None = None
        self._history, self._mirrors = History(), tuple(mirrors)
        self._digest_rows: History | None = None
        self._table: DeltaTable | None = table

    def history(self) -> History:
        """All rows as of now; only files that the table has gained since the last call are read."""
        with self.lock, table_errors(self.uri):
            if self._files is None:
                self._read_all()
            try:
                self._follow()
            except BaseException as lost:
                if not (isinstance(lost, LostLogError) or is_of_a_library(lost)):
                    raise
                self._read_all()
            return self._history

    @property
    def version(self) -> int:
        """That is known here."""
        return self._log.version

    def known_history(self) -> History:
        """What the last call of `history` gave."""
        return self._history if self._files is not None else self.history()

    def append(self, entry: Entry) -> None:
        """ConflictError when somebody else has appended since `history`."""
        with self.lock, table_errors(self.uri, passing=(ConflictError,)):
            self.known_history()
            try:
                self._check_known()
            except LostLogError as lost:
                self._files = None
                raise ConflictError("the log was set back") from lost
            rows = rows_of([entry])
            file = self._written(rows)
            # Two appends with one app id conflict. Each makes a version: this is beyond what older releases counted.
            change = Change((file.as_added(is_new=True),), transactions={_APP: self._log.version + 1})
            if self._commit(change, [file], []):
                self._extend(entries_of(rows, self.uri))
                self._compact()
                if is_due_after(entry):
                    self._write_digest()

    def rewrite(self, changed: Callable[[Entry], Entry]) -> None:
        """Write every row again as `changed` gives it, in one commit; ConflictError as `append`.

        Only for what an erasure takes out of a row. The files before it stay until they are removed.
        """
        with self.lock, table_errors(self.uri, passing=(ConflictError,)):
            self._read_all()
            replaced = list((self._files or {}).values())
            file = self._written(with_changes(self._stored_rows(replaced), changed))
            change = Change(
                (file.as_added(is_new=True),),
                tuple(each.as_removed(is_gone=True) for each in replaced),
                {_APP: self._log.version + 1},
            )
            self._commit(change, [file], replaced)
            self._files = None

    def holding(self, changed: Callable[[Entry], Entry]) -> list[tuple[str, bool]]:
        """(name, whether the table has it now) of each file in its folder with a row that `changed` gives otherwise.

        Files of older versions are there, too; one of them that cannot be read may hold anything.
        """
        with self.lock, table_errors(self.uri):
            listed = [stored.path for stored in self._log.files.listing("")]
            self._read_all()
            present = set(self._files or ())
            names = [path for path in listed if "/" not in path and path.endswith(".parquet")]
            return [(name, name in present) for name in names if self._may_hold(name, name in present, changed)]

    def remove(self, names: Iterable[str]) -> None:
        """Files that the table has no longer."""
        with table_errors(self.uri):
            self._log.files.delete(names)

    def _may_hold(self, name: str, is_present: bool, changed: Callable[[Entry], Entry]) -> bool:
        try:
            return any(changed(row) != row for row in entries_of(_rows_in(self._log.files, self.uri, [name]), self.uri))
        except LakeError:
            if is_present:
                raise
            return True

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        table = self._table or newly_opened(self._log)
        self._table = None  # it is large, and what follows its version is read by names
        self._log = log_of(table)
        self._files = {file.path: LedgerFile(file.path, file.rows, file.size_bytes) for file in files(table)}
        rows = self._stored_rows(list(self._files.values()))
        self._history, self._digest_rows = History(in_order(entries_of(rows, self.uri))), None
        self._checked_at = time.monotonic()

    def _follow(self) -> None:
        """LostLogError or an error of a library where all is to be read again."""
        entries = self._log.next_entries()
        if entries or time.monotonic() >= self._checked_at + self._check_every:
            self._check_known()
        for entry in entries:
            new = _files_with_new_rows(entry)
            added = [LedgerFile.of(action) for action in entry.of("add")]
            self._take(entry.version, added, [str(removed["path"]) for removed in entry.of("remove")])
            if new:
                self._extend(entries_of(self._stored_rows(new), self.uri))

    def _check_known(self) -> None:
        """LostLogError when the version that is known is gone, or is another one: the log was set back."""
        entry = self._log.entry(self._log.version)
        if entry is None or not {added.get("path") for added in entry.of("add")} <= (self._files or {}).keys():
            raise LostLogError(self.uri)
        self._checked_at = time.monotonic()

    def _take(self, version: int, added: Iterable[LedgerFile], removed: Iterable[str]) -> None:
        assert self._files is not None
        for path in removed:
            self._files.pop(path, None)
        self._files.update({file.path: file for file in added})
        self._log = self._log.at(version)

    def _extend(self, entries: Iterable[Entry]) -> None:
        added = in_order(entries)
        self._history = self._history.followed_by(added)
        self._digest_rows = _continued(self._digest_rows, added) if self._digest_rows else None

    def _stored_rows(self, of: Sequence[LedgerFile]) -> pa.Table:
        return _rows_in(self._log.files, self.uri, [file.path for file in of])

    # --- writing -----------------------------------------------------------------------------------------------------

    def _written(self, rows: pa.Table) -> LedgerFile:
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd")
        content = buffer.getvalue().to_pybytes()
        file = LedgerFile(f"{uuid.uuid4().hex}.parquet", len(rows), len(content))
        self._log.files.write(file.path, content)
        return file

    def _commit(
        self, change: Change, added: Sequence[LedgerFile], removed: Sequence[LedgerFile], operation: str = "WRITE"
    ) -> bool:
        """Whether it is the version right behind the one that is known, and so is known, too."""
        following = self._log.version + 1
        try:
            version = commit_to_log(self._log, change, lambda version: None, operation=operation)
        except ConflictError:
            self._log.files.delete([file.path for file in added])
            raise
        if version == following:
            self._take(version, added, [file.path for file in removed])
        return version == following

    def _compact(self) -> None:
        by_size: dict[int, list[LedgerFile]] = {}
        for file in (self._files or {}).values():
            by_size.setdefault(math.floor(math.log(max(file.rows, 1), self._fan_out)), []).append(file)
        small = next((alike for _, alike in sorted(by_size.items()) if len(alike) >= self._fan_out), None)
        if small is None:
            return
        with suppress(ConflictError):  # somebody wrote meanwhile: there is a next time
            file = self._written(self._stored_rows(small))
            gone = tuple(each.as_removed(is_gone=False) for each in small)
            self._commit(Change((file.as_added(is_new=False),), gone), [file], small, "OPTIMIZE")

    def _write_digest(self) -> None:
        """For who asks how the topic is; where that fails, they read the table."""
        try:
            with table_errors(self.uri):
                self._digest_rows = digest_rows(self._digest_rows or self._history, self._mirrors)
                content = encoded(self._digest_rows, self._mirrors, self._log.version, self._files or ())
                if content is not None:
                    self._log.files.write(DIGEST, content)
        except LakeError as refused:
            logger.warning("ledger: table=%s not_written=%s error=%s", self.uri, DIGEST, refused)


def digest_history(ledger: Place, mirrors: Iterable[str], newest: int) -> History | None:
    """The ledger's rows that tell how its topic is now, and its `newest` hours, with few requests; see `digest_rows`.

    None where only the table says it.
    """
    files = ledger.files()
    with table_errors(ledger.uri):
        content = files.read(DIGEST)
        digest = decoded(content, mirrors, newest, ledger.uri) if content else None
        return _brought_up_to_date(TableLog(ledger.uri, digest.version, ledger.options), digest) if digest else None


def _brought_up_to_date(log: TableLog, digest: Digest) -> History | None:
    made_at = log.entry(digest.version)
    if made_at is None or not {added.get("path") for added in made_at.of("add")} <= digest.files:
        return None
    known, version = digest.history, digest.version
    while (entry := log.entry(version + 1)) is not None:
        version += 1
        if version > digest.version + _MOST_BEHIND:
            return None
        try:
            new = [file.path for file in _files_with_new_rows(entry)]
        except LostLogError:
            return None
        rows = in_order(entries_of(_rows_in(log.files, log.uri, new), log.uri)) if new else ()
        continued = _continued(known, rows)
        if continued is None:
            return None
        known = continued
    return known


def _continued(known: History, added: Sequence[Entry]) -> History | None:
    """None where one of the rows is of an hour that was left out of those before it."""
    for entry in added:
        if reaches_back(entry, known):
            return None
        known = known.followed_by([entry])
    return known


def _files_with_new_rows(entry: LogEntry) -> list[LedgerFile]:
    """Those that a version added; LostLogError where it did anything else than that, or than to compact."""
    if entry.changes_table or any(removed.get("dataChange", True) for removed in entry.of("remove")):
        raise LostLogError(f"version {entry.version}")
    return [LedgerFile.of(action) for action in entry.of("add") if action.get("dataChange", True)]


def _rows_in(files: Storage, ledger: str, paths: Iterable[str]) -> pa.Table:
    """As they are, whatever is broken in them."""
    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(lambda path: _stored(files, ledger, path), paths))
    return pa.concat_tables([pa.Table.from_batches([], schema=LEDGER), *parts])


def _stored(files: Storage, ledger: str, path: str) -> pa.Table:
    address = f"{ledger.rstrip('/')}/{path}"
    content = files.read(unquote(path))
    if content is None:
        raise LakeError(
            address,
            found="no such file",
            expected="the rows of the ledger that the log names",
            next_step="Restore it from a backup.",
        )
    with table_errors(address):
        stored = pq.ParquetFile(pa.BufferReader(content)).read()
    known = [stored[name] if name in stored.column_names else pa.nulls(len(stored)) for name in LEDGER.names]
    return pa.table(dict(zip(LEDGER.names, known, strict=True))).cast(LEDGER)


class Ledger:
    """A topic's ledger for one who records in it. Each row is decided on the rows that were there before it."""

    def __init__(self, table: LedgerTable, by: str, clock: Clock = now) -> None:
        self._table, self._by, self._clock = table, by, clock

    def history(self) -> History:
        """All rows as of now."""
        return self._table.history()

    @property
    def version(self) -> int:
        """Of the table, as of the last row that was read or recorded here."""
        return self._table.version

    def known_history(self) -> History:
        """The rows as this process read them last, without a look at the store."""
        return self._table.known_history()

    def erase(self, changed: Callable[[Entry], Entry]) -> list[str]:
        """Rows become what `changed` gives, and files that have any as it was are removed; gives their names."""
        conflicts = Conflicts(self._table.uri)
        while any(is_present for _, is_present in self._table.holding(changed)):
            try:
                self._table.rewrite(changed)
            except ConflictError as conflict:
                conflicts.meet(conflict)
        removed = [name for name, _ in self._table.holding(changed)]
        self._table.remove(removed)
        return removed

    def record(
        self,
        record: Record | str,
        hour: Hour | None = None,
        details: Mapping[str, Any] | None = None,
        *,
        unless: Callable[[History], bool] = lambda history: False,
    ) -> Entry | None:
        """Add one row, unless what is there by then makes it wrong; None when it was not added.

        LakeError when others are always faster, or nothing can be written.
        """
        if isinstance(record, Record):
            state, details = str(record.state), record.as_json()
        else:
            state = record
        details = without_secrets_in(details or {})
        conflicts = Conflicts(self._table.uri)
        while True:
            with self._table.lock:
                history = self.history()
                if unless(history):
                    return None
                entry = Entry(hour, state, self._now(history), self._by, details, ledger=self._table.uri)
                try:
                    self._table.append(entry)
                except ConflictError as conflict:
                    conflicts.meet(conflict)
                else:
                    return entry

    def _now(self, history: History) -> datetime:
        """Later than every row before it, also where two machines' clocks differ: rows are ordered by their time."""
        last = history.entries[-1].at if history.entries else datetime.min.replace(tzinfo=UTC)
        return max(self._clock(), last + _TICK)
