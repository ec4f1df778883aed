"""What happened to each hour of a topic: rows that are only ever added, and what they say is due."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.concealed import without_secrets_in
from lakehouse.errors import LakeError
from lakehouse.hours import EPOCH, Hour
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import Conflicts, commit_to_log, files, is_of_a_library, newly_opened, table_errors
from lakehouse.store.records import (
    HOUR_STATES,
    VERDICTS,
    Closed,
    Mirrored,
    MirrorFailed,
    Record,
    Sealed,
    State,
    Withdrawn,
    record_of,
)
from lakehouse.store.table_log import Change, ConflictError, LostLogError, log_of, refuse_unknown_features

R = TypeVar("R", bound=Record)

_APP = "ledger"
_TICK = timedelta(microseconds=1)

FAN_OUT = 4
"""Files of about the same size that become one: a process reads all of a ledger's at its start, and each append makes
one. A row is written again as often as its file grows that many times.
"""

_READERS = 16


@dataclass(frozen=True)
class Entry:
    """One row. `hour` is None for what concerns the whole topic; `by` is `<stage>/<release>/<run>`.

    `details` are as stored, `record` is what they mean. `problem` says what makes a row unreadable that no stage wrote:
    such a row has no part in any hour's history, and `verify` reports it.
    """

    hour: Hour | None
    state: str
    at: datetime
    by: str
    details: Mapping[str, Any]
    problem: str | None = None
    ledger: str = field(default="", compare=False, repr=False)

    @cached_property
    def record(self) -> Record:
        """The details, typed; LakeError that names the row when they are not those of its state."""
        if self.problem is not None:
            raise self._broken(self.problem)
        try:
            return record_of(self.state, self.details)
        except ValueError as wrong:
            raise self._broken(str(wrong)) from wrong

    @property
    def through(self) -> Hour | None:
        """The last hour of a range of empty hours that closed together; None for every other row."""
        is_sound_close = self.state == State.CLOSED and self.problem is None
        through: Hour | None = Closed.range_end(self.details) if is_sound_close else None
        return through

    def of(self, kind: type[R]) -> R:
        """The details of a row of that state; ValueError when it has another, LakeError when they are broken."""
        record = self.record
        if not isinstance(record, kind):
            raise ValueError(f"a row of state {self.state} read as {kind.__name__}")
        return record

    def _broken(self, found: str) -> LakeError:
        of_hour = f" of {self.hour}" if self.hour else ""
        return LakeError(
            f"{self.ledger or 'ledger'}: row `{self.state}`{of_hour} by {self.by or '?'} at {self.at.isoformat()}",
            found=found,
            expected=f"the details of a row of state {self.state}",
            next_step="No release writes such a row: see who else writes to the ledger, and `lakehouse verify`.",
        )


@dataclass(frozen=True)
class History:
    """A ledger's rows in the order in which they were added, and the questions that the stages ask of them."""

    entries: tuple[Entry, ...] = ()
    _by_hour: dict[Hour, list[Entry]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _ranges: list[tuple[Entry, Hour]] = field(init=False, repr=False, compare=False, default_factory=list)
    _mirror_failures: dict[Hour, list[Entry]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            if through := entry.through:
                self._ranges.append((entry, through))
            elif entry.hour is not None and entry.state in HOUR_STATES and entry.problem is None:
                self._by_hour.setdefault(entry.hour, []).append(entry)
            elif entry.hour is not None and entry.state == State.MIRROR_FAILED and entry.problem is None:
                self._mirror_failures.setdefault(entry.hour, []).append(entry)

    def followed_by(self, added: Sequence[Entry]) -> History:
        """With these rows after them; what is known of the others is kept where they are newer than all of these."""
        if self.entries and added and added[0].at < self.entries[-1].at:
            return History(_in_order([*self.entries, *added]))
        following = History(tuple(added))
        whole = copy(self)
        object.__setattr__(whole, "entries", (*self.entries, *added))
        for name in ("_by_hour", "_mirror_failures"):
            joined = dict(getattr(self, name))
            joined |= {hour: [*joined.get(hour, ()), *rows] for hour, rows in getattr(following, name).items()}
            object.__setattr__(whole, name, joined)
        object.__setattr__(whole, "_ranges", [*self._ranges, *following._ranges])
        whole.__dict__["sound_entries"] = (*self.sound_entries, *following.sound_entries)
        return whole

    def hours(self) -> list[Hour]:
        """Hours that have closed, oldest first; without ranges of empty hours, with which no stage has to do."""
        return sorted(self._by_hour)

    def ranges(self) -> dict[Hour, Hour]:
        """Ranges of empty hours that closed together, first hour to last, oldest first."""
        return {str(entry.hour): through for entry, through in self._ranges}

    def is_in_range(self, hour: Hour) -> bool:
        """Whether the hour closed in a range of empty hours: it is not sealed, and nothing waits for it."""
        return hour not in self._by_hour and any(first <= hour <= last for first, last in self.ranges().items())

    def sealed_hours(self) -> list[Hour]:
        """Hours that were ever sealed, oldest first."""
        return [hour for hour in self.hours() if self.first(State.SEALED, hour)]

    def erased_hours(self) -> dict[Hour, int]:
        """Hours that an erasure sealed again, with their newest revision, oldest first."""
        return {hour: revision for hour in self.sealed_hours() if (revision := self.revision(hour)) > 1}

    def closed_through(self) -> Hour | None:
        """The newest hour that has closed, alone or in a range of empty hours."""
        return max([*self._by_hour, *(through for _, through in self._ranges)], default=None)

    def of_hour(self, hour: Hour) -> list[Entry]:
        """The hour's rows; of an empty hour that closed in a range, that row."""
        if hour in self._by_hour:
            return self._by_hour[hour]
        return [entry for entry, through in self._ranges if str(entry.hour) <= hour <= through]

    def last(self, state: str, hour: Hour | None = None) -> Entry | None:
        """The newest row of that state: of the hour, or of any when none is given."""
        rows = self.sound_entries if hour is None else self.of_hour(hour)
        return next((entry for entry in reversed(rows) if entry.state == state), None)

    def newest(self, *states: str) -> Entry | None:
        """The newest row of any of these states."""
        return next((entry for entry in reversed(self.sound_entries) if entry.state in states), None)

    def first(self, state: str, hour: Hour) -> Entry | None:
        """The oldest row of that state of the hour."""
        return next((entry for entry in self.of_hour(hour) if entry.state == state), None)

    @cached_property
    def sound_entries(self) -> tuple[Entry, ...]:
        """Without rows that have a `problem`."""
        return tuple(entry for entry in self.entries if entry.problem is None)

    def close_of(self, hour: Hour) -> Closed | None:
        """How the hour closed; None while it is open. LakeError when the row is broken."""
        entry = self.first(State.CLOSED, hour)
        return entry.of(Closed) if entry else None

    def seal_of(self, hour: Hour) -> Sealed | None:
        """The hour's newest seal; None before the first. LakeError when the row is broken."""
        entry = self.last(State.SEALED, hour)
        return entry.of(Sealed) if entry else None

    def state_of(self, hour: Hour) -> str:
        """`open` before it closed; else the newest of its states, `mirrored` only when nothing newer came.

        That a target no longer has it is no state of the hour.
        """
        states = [entry.state for entry in self.of_hour(hour) if entry.state != State.WITHDRAWN]
        return states[-1] if states else "open"

    def current(self, hour: Hour) -> list[Entry]:
        """The hour's rows from its newest seal on: what was said of an older revision no longer counts."""
        rows = self.of_hour(hour)
        seals = [index for index, entry in enumerate(rows) if entry.state == State.SEALED]
        return rows[seals[-1] :] if seals else []

    def revision(self, hour: Hour) -> int:
        """How often the hour was sealed; 0 before the first seal."""
        seal = self.seal_of(hour)
        return seal.revision if seal else 0

    def is_cleared(self, hour: Hour) -> bool:
        """Whether the newest verdict lets the hour go further: valid, or released by a person."""
        verdicts = [entry.state for entry in self.current(hour) if entry.state in VERDICTS]
        return bool(verdicts) and verdicts[-1] != State.INVALID

    def targets_done(self, hour: Hour) -> set[str]:
        """Names of the mirrors that have the newest revision. LakeError when such a row is broken."""
        return {entry.of(Mirrored).target for entry in self.current(hour) if entry.state == State.MIRRORED}

    def due_to_seal(self) -> list[Hour]:
        """Closed hours that were never sealed, oldest first."""
        return [hour for hour in self.hours() if not self.first(State.SEALED, hour)]

    def due_to_validate(self) -> list[Hour]:
        """Sealed hours whose newest revision has no verdict yet, oldest first."""
        return [
            hour
            for hour in self.hours()
            if (rows := self.current(hour)) and not any(row.state in (State.VALID, State.INVALID) for row in rows)
        ]

    def due_to_mirror(self, target: str) -> list[Hour]:
        """Hours, valid or released, whose newest revision the target does not have, oldest first."""
        return [hour for hour in self.hours() if self.is_cleared(hour) and target not in self.targets_done(hour)]

    def due_to_withdraw(self, target: str) -> list[Hour]:
        """Hours that an erasure changed and whose newest revision is invalid, as long as the target may have an older
        one, oldest first.
        """
        return [hour for hour in self.hours() if self._is_to_withdraw(hour, target)]

    def _is_to_withdraw(self, hour: Hour, target: str) -> bool:
        rows = [entry for entry in self.current(hour) if entry.state == State.WITHDRAWN]
        return self.must_be_nowhere(hour) and not any(entry.of(Withdrawn).target == target for entry in rows)

    def must_be_nowhere(self, hour: Hour) -> bool:
        """Whether no target may have the hour: its newest revision is invalid, and an older one holds the erased."""
        verdicts = [entry.state for entry in self.current(hour) if entry.state in VERDICTS]
        return bool(verdicts) and verdicts[-1] == State.INVALID and self.revision(hour) > 1

    def mirror_failures(self, hour: Hour, target: str) -> list[Entry]:
        """How the target refused the hour's newest revision, oldest first, as long as it has not taken it."""
        if hour not in self._mirror_failures or target in self.targets_done(hour):
            return []
        revision = self.revision(hour)
        found = [(entry, entry.of(MirrorFailed)) for entry in self._mirror_failures[hour]]
        return [entry for entry, failed in found if (failed.target, failed.revision) == (target, revision)]

    def requested_close(self) -> Entry | None:
        """The request that reaches furthest; its `hour` is the last one to close."""
        requests = [entry for entry in self.sound_entries if entry.state == State.CLOSE_REQUESTED and entry.hour]
        return max(requests, key=lambda entry: entry.hour or "", default=None)


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

    def __init__(self, table: DeltaTable, fan_out: int = FAN_OUT, check_every: float = 30.0) -> None:
        refuse_unknown_features(table)
        self.uri = table.table_uri
        self.lock = threading.RLock()
        self._log, self._fan_out, self._check_every = log_of(table), fan_out, check_every
        self._checked_at = time.monotonic()
        self._files: dict[str, LedgerFile] | None = None
        self._history = History()
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
                self._extend(_entries_of(rows, self.uri))
                self._compact()

    def rewrite(self, changed: Callable[[Entry], Entry]) -> None:
        """Write every row again as `changed` gives it, in one commit; ConflictError as `append`.

        Only for what an erasure takes out of a row. The files before it stay until they are removed.
        """
        with self.lock, table_errors(self.uri, passing=(ConflictError,)):
            self._read_all()
            replaced = list((self._files or {}).values())
            file = self._written(_with_changes(self._stored_rows(replaced), changed))
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
            return any(changed(row) != row for row in _entries_of(self._stored(name), self.uri))
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
        self._history = History(_in_order(_entries_of(rows, self.uri)))
        self._checked_at = time.monotonic()

    def _follow(self) -> None:
        """LostLogError or an error of a library where all is to be read again."""
        entries = self._log.next_entries()
        if entries or time.monotonic() >= self._checked_at + self._check_every:
            self._check_known()
        for entry in entries:
            if entry.changes_table or any(removed.get("dataChange", True) for removed in entry.of("remove")):
                raise LostLogError(self.uri)
            added = [LedgerFile.of(action) for action in entry.of("add")]
            self._take(entry.version, added, [str(removed["path"]) for removed in entry.of("remove")])
            new = [file for file, action in zip(added, entry.of("add"), strict=True) if action.get("dataChange", True)]
            if new:
                self._extend(_entries_of(self._stored_rows(new), self.uri))

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
        self._history = self._history.followed_by(_in_order(entries))

    def _stored_rows(self, of: Sequence[LedgerFile]) -> pa.Table:
        """As they are, whatever is broken in them."""
        with ThreadPoolExecutor(_READERS) as readers:
            parts = list(readers.map(lambda file: self._stored(file.path), of))
        return pa.concat_tables([LEDGER.empty_table(), *parts])

    def _stored(self, path: str) -> pa.Table:
        address = f"{self.uri.rstrip('/')}/{path}"
        content = self._log.files.read(unquote(path))
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


class Ledger:
    """A topic's ledger for one who records in it. Each row is decided on the rows that were there before it."""

    def __init__(self, table: LedgerTable, by: str, clock: Clock = now) -> None:
        self._table, self._by, self._clock = table, by, clock

    def history(self) -> History:
        """All rows as of now."""
        return self._table.history()

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
        last = max((entry.at for entry in history.entries), default=datetime.min.replace(tzinfo=UTC))
        return max(self._clock(), last + _TICK)


def rows_of(entries: Iterable[Entry]) -> pa.Table:
    rows = [
        {
            "hour": entry.hour,
            "state": entry.state,
            "at": entry.at,
            "by": entry.by,
            "details": _details_text(entry),
        }
        for entry in entries
    ]
    return pa.Table.from_pylist(rows, schema=LEDGER)


def _details_text(entry: Entry) -> str:
    return json.dumps(dict(entry.details), sort_keys=True, default=str)


def _with_changes(rows: pa.Table, changed: Callable[[Entry], Entry]) -> pa.Table:
    """The same rows, with other details where `changed` gives them."""
    details = rows["details"].to_pylist()
    columns = [rows["hour"], rows["state"], rows["at"].cast(pa.int64()), rows["by"]]
    for place, row in enumerate(zip(*(column.to_pylist() for column in columns), details, strict=True)):
        entry = _entry(*row, ledger="")
        if (new := changed(entry)) != entry:
            details[place] = _details_text(new)
    texts = pa.array(details, pa.string())
    return rows.set_column(rows.column_names.index("details"), "details", texts).cast(LEDGER)


def _entries_of(rows: pa.Table, ledger: str) -> list[Entry]:
    """Without pandas, which Arrow imports to spell instants: a second that no status command has."""
    columns = [rows["hour"], rows["state"], rows["at"].cast(pa.int64()), rows["by"], rows["details"]]
    return [_entry(*row, ledger=ledger) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


def _in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.at))


def _entry(
    hour: str | None, state: str | None, at: int | None, by: str | None, details: str | None, *, ledger: str
) -> Entry:
    """The row as it is; what no stage would write of it is its `problem`."""
    problem = None
    parsed: Any = {}
    try:
        parsed = json.loads(details or "")
    except ValueError as wrong:
        problem = f"details that are no JSON: {wrong}"
    if not isinstance(parsed, dict):
        problem, parsed = "details that are no JSON object", {}
    try:
        moment = EPOCH + timedelta(microseconds=at) if at is not None else None
    except OverflowError:
        moment = None
    if moment is None:
        problem = "no time"
    if state not in set(State):
        problem = f"the state {state!r}"
    if hour is not None and not hours.is_hour(hour):
        problem = f"{hour!r} as its hour"
    if hour is None and state in HOUR_STATES:
        problem = "no hour"
    through = Closed.range_end(parsed) if state == State.CLOSED else None
    if through is not None and not (isinstance(through, str) and hours.is_hour(through)):
        problem = f"{through!r} as the end of a range of hours"
    return Entry(hour, state or "", moment or EPOCH, by or "", parsed, problem, ledger)
