"""What happened to each hour of a topic: a table of rows that are only ever added, and who adds them."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse.clock import Clock, now
from lakehouse.concealed import without_secrets_in
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.store.delta import Conflicts, commit_to_log, table_errors
from lakehouse.store.digest import Digest
from lakehouse.store.history import Entry, History, entries_of, rows_of, with_changes
from lakehouse.store.ledger_files import LedgerFile, rows_in
from lakehouse.store.ledger_rows import AllRows, DigestRows
from lakehouse.store.records import Record, State
from lakehouse.store.table_log import Change, ConflictError, LostLogError, TableLog, log_of, refuse_unknown_features

_APP = "ledger"
_FEW_ROWS = 16
_STATES = tuple(State)
_TICK = timedelta(microseconds=1)

FAN_OUT = 4
"""Files of about the same size that become one: who needs all rows reads all files, and each append makes one. A row is
written again as often as its file grows that many times.
"""


class LedgerTable:
    """A topic's ledger table, as one process has it for all its stages; it holds the rows alone of a digest.

    Whoever appends makes one of `fan_out` files of about the same size, so there are few, and few rows are written
    again: the rows stay what they are.
    """

    def __init__(
        self,
        table: DeltaTable | TableLog,
        fan_out: int = FAN_OUT,
        check_every: float = 30.0,
        mirrors: Iterable[str] = (),
        properties: Mapping[str, str] | None = None,
        digest: Digest | None = None,
    ) -> None:
        """`digest` is the table's, as it is now; with one nothing is read."""
        if isinstance(table, DeltaTable):
            refuse_unknown_features(table)
        log = log_of(table)
        self.uri = log.uri
        self.lock = threading.RLock()
        self._fan_out, self._check_every = fan_out, check_every
        self._rows = DigestRows(log, mirrors, properties or {}, check_every, digest)
        self._recent: dict[str, pa.Table] = {}
        """The rows of small files that were written here, to become a larger one."""

    def digest(self) -> History:
        """The rows of a digest as of now: what is due, and the newest hours; see `digest_rows`."""
        with self.lock, table_errors(self.uri):
            return self._rows.history()

    def known_digest(self) -> History:
        """What the last call of `digest` gave."""
        with self.lock, table_errors(self.uri):
            return self._rows.known_history()

    def all_rows(self) -> AllRows:
        """To be read by who needs more than the digest."""
        return AllRows(self._rows.log, self._check_every)

    @property
    def version(self) -> int:
        """That is known here."""
        return self._rows.log.version

    @property
    def newest_at(self) -> datetime | None:
        """The time of the newest row that is known here; None without any."""
        return self._rows.newest_at

    def append(self, entry: Entry) -> None:
        """ConflictError when somebody else has appended since `digest`."""
        with self.lock, table_errors(self.uri, passing=(ConflictError,)):
            self._rows.known_history()
            try:
                self._rows.check_known()
            except LostLogError as lost:
                self._rows.forget()
                raise ConflictError("the log was set back") from lost
            rows = rows_of([entry])
            file = self._written(rows)
            # Two appends with one app id conflict. Each makes a version: this is beyond what older releases counted.
            change = Change((file.as_added(is_new=True),), transactions={_APP: self._rows.log.version + 1})
            if not self._commit(change, [file], []):
                return
            try:
                self._rows.extend(entries_of(rows, self.uri))
            except LostLogError:
                self._rows.forget()
                return
            self._compact()
            self._rows.write_digest(after=entry)

    def rewrite(self, changed: Callable[[Entry], Entry]) -> None:
        """Write every row again as `changed` gives it, in one commit; ConflictError as `append`.

        Only for what an erasure takes out of a row. The files before it stay until they are removed.
        """
        with self.lock, table_errors(self.uri, passing=(ConflictError,)):
            self._rows.read()
            replaced = self._rows.files
            file = self._written(with_changes(self._stored_rows(replaced), changed))
            change = Change(
                (file.as_added(is_new=True),),
                tuple(each.as_removed(is_gone=True) for each in replaced),
                {_APP: self._rows.log.version + 1},
            )
            self._commit(change, [file], replaced)
            self._rows.forget()

    def holding(self, changed: Callable[[Entry], Entry], states: Collection[str] = _STATES) -> list[tuple[str, bool]]:
        """(name, whether the table has it now) of each file in its folder with a row that `changed` gives otherwise.

        `changed` leaves rows of other `states` as they are. Files of older versions are there, too; one of them that
        cannot be read may hold anything.
        """
        with self.lock, table_errors(self.uri):
            listed = [stored.path for stored in self._rows.log.files.listing("")]
            self._rows.history()
            try:
                self._rows.check_known()
            except LostLogError:
                self._rows.read()
            present = {file.path for file in self._rows.files}
            names = [path for path in listed if "/" not in path and path.endswith(".parquet")]
            return [(name, name in present) for name in names if self._may_hold(name, name in present, changed, states)]

    def remove(self, names: Iterable[str]) -> None:
        """Files that the table has no longer."""
        with table_errors(self.uri):
            self._rows.log.files.delete(names)

    def _may_hold(
        self, name: str, is_present: bool, changed: Callable[[Entry], Entry], states: Collection[str]
    ) -> bool:
        try:
            rows = rows_in(self._rows.log.files, self.uri, [name])
            rows = rows.filter(pc.is_in(rows["state"], pa.array(states, pa.string())))
            return any(changed(row) != row for row in entries_of(rows, self.uri))
        except LakeError:
            if is_present:
                raise
            return True

    def _stored_rows(self, of: Sequence[LedgerFile]) -> pa.Table:
        known = [self._recent[file.path] for file in of if file.path in self._recent]
        others = [file.path for file in of if file.path not in self._recent]
        return pa.concat_tables([*known, rows_in(self._rows.log.files, self.uri, others)])

    def _written(self, rows: pa.Table) -> LedgerFile:
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd")
        content = buffer.getvalue().to_pybytes()
        file = LedgerFile(f"{uuid.uuid4().hex}.parquet", len(rows), len(content))
        self._rows.log.files.write(file.path, content)
        present = {each.path for each in self._rows.files}
        self._recent = {path: rows for path, rows in self._recent.items() if path in present}
        if file.rows <= _FEW_ROWS:
            self._recent[file.path] = rows
        return file

    def _commit(
        self, change: Change, added: Sequence[LedgerFile], removed: Sequence[LedgerFile], operation: str = "WRITE"
    ) -> bool:
        """Whether it is the version right behind the one that is known, and so is known, too."""
        following = self._rows.log.version + 1
        try:
            entry = commit_to_log(self._rows.log, change, lambda version: None, operation=operation)
        except ConflictError:
            self._rows.log.files.delete([file.path for file in added])
            raise
        if entry.version == following:
            self._rows.take(entry, added, [file.path for file in removed])
        return entry.version == following

    def _compact(self) -> None:
        by_size: dict[int, list[LedgerFile]] = {}
        for file in self._rows.files:
            by_size.setdefault(math.floor(math.log(max(file.rows, 1), self._fan_out)), []).append(file)
        small = next((alike for _, alike in sorted(by_size.items()) if len(alike) >= self._fan_out), None)
        if small is None:
            return
        with suppress(ConflictError):  # somebody wrote meanwhile: there is a next time
            file = self._written(self._stored_rows(small))
            gone = tuple(each.as_removed(is_gone=False) for each in small)
            self._commit(Change((file.as_added(is_new=False),), gone), [file], small, "OPTIMIZE")


class Ledger:
    """A topic's ledger for one who records in it. Each row is decided on the rows that were there before it."""

    def __init__(self, table: LedgerTable, by: str, clock: Clock = now) -> None:
        self._table, self._by, self._clock = table, by, clock
        self._all: AllRows | None = None

    def history(self) -> History:
        """All rows as of now. Of a topic of years they take a second and tens of megabytes, held as long as this is."""
        with self._table.lock, table_errors(self._table.uri):
            if self._all is None:
                self._all = self._table.all_rows()
            return self._all.history()

    def digest(self) -> History:
        """The rows as of now that say what is due, and those of the newest hours; see `digest_rows`."""
        return self._table.digest()

    def known_digest(self) -> History:
        """The same as this process read them last, without a look at the store."""
        return self._table.known_digest()

    def history_with(self, hour: Hour | None) -> History:
        """The rows of a digest where they have all of the hour's, else all rows; as of now."""
        digest = self.digest()
        return digest if _has_all(digest, hour) else self.history()

    def _known_history_with(self, hour: Hour | None) -> History:
        digest = self.known_digest()
        return digest if _has_all(digest, hour) else self.history()

    @property
    def version(self) -> int:
        """Of the table, as of the last row that was read or recorded here."""
        return self._table.version

    def erase(self, changed: Callable[[Entry], Entry], states: Collection[str] = _STATES) -> list[str]:
        """Rows of these states become what `changed` gives, and files that have any as it was are removed.

        Gives their names.
        """
        conflicts = Conflicts(self._table.uri)
        while any(is_present for _, is_present in self._table.holding(changed, states)):
            try:
                self._table.rewrite(changed)
            except ConflictError as conflict:
                conflicts.meet(conflict)
        removed = [name for name, is_present in self._table.holding(changed, states) if not is_present]
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
                # What is wrong by the rows that are known is looked at again; what is right is not, as somebody's row
                # since then makes the append a conflict.
                if unless(self._known_history_with(hour)) and unless(self.history_with(hour)):
                    return None
                entry = Entry(hour, state, self._now(), self._by, details, ledger=self._table.uri)
                try:
                    self._table.append(entry)
                except ConflictError as conflict:
                    conflicts.meet(conflict)
                    self.digest()
                else:
                    return entry

    def _now(self) -> datetime:
        """Later than every row before it, also where two machines' clocks differ: rows are ordered by their time."""
        last = self._table.newest_at
        return max(self._clock(), last + _TICK) if last else self._clock()


def _has_all(digest: History, hour: Hour | None) -> bool:
    """Whether it has all rows of the hour, or the hour has none."""
    return hour is None or bool(digest.of_hour(hour)) or hour > (digest.closed_through() or "")
