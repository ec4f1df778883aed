"""What happened to each hour of a topic: rows that are only ever added, and what they say is due."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.concealed import without_secrets_in
from lakehouse.errors import LakeError
from lakehouse.hours import EPOCH, Hour
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import (
    NO_CLEAN_UP,
    Conflicts,
    files_of,
    is_of_a_library,
    make_durable,
    newly_opened,
    table_errors,
)
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
from lakehouse.store.table_log import log_of

R = TypeVar("R", bound=Record)

_APP = "ledger"
_TICK = timedelta(microseconds=1)

MOST_FILES = 100
"""Of a ledger: a process reads all of them at its start, and each append makes one."""


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


class LedgerTable:
    """A topic's ledger table and its rows, as one process has them for all its stages.

    Whoever appends makes one of the small files once there are more than `most_files`; the rows stay what they are.
    """

    def __init__(self, table: DeltaTable, most_files: int = MOST_FILES) -> None:
        self.uri = table.table_uri
        self.lock = threading.RLock()
        self._table, self._most_files, self._version = table, most_files, -1
        self._files: frozenset[str] = frozenset()
        self._history = History()

    def history(self) -> History:
        """All rows as of now; only files that the table has gained since the last call are read."""
        with self.lock, table_errors(self.uri):
            try:
                self._table.update_incremental()
                self._follow()
            except BaseException as lost:
                if not is_of_a_library(lost):
                    raise
                self._table, self._version = newly_opened(log_of(self._table)), -1
                self._follow()
            return self._history

    def known_history(self) -> History:
        """What the last call of `history` gave."""
        return self._history if self._version >= 0 else self.history()

    def append(self, entry: Entry) -> None:
        """CommitFailedError when somebody else has appended since `history`."""
        with table_errors(self.uri, passing=(CommitFailedError,)):
            # Two appends with one app id conflict. Each makes a version: this is beyond what older releases counted.
            number = int(self._table.version()) + 1
            write_deltalake(
                self._table,
                _rows([entry]),
                mode="append",
                commit_properties=CommitProperties(app_transactions=[Transaction(_APP, number)]),
                post_commithook_properties=NO_CLEAN_UP,
            )
            make_durable(self._table)
            if len(self._table.file_uris()) > self._most_files:
                with suppress(CommitFailedError):  # somebody wrote meanwhile: there is a next time
                    self._table.optimize.compact(post_commithook_properties=NO_CLEAN_UP)
                    make_durable(self._table)

    def rewrite(self, changed: Callable[[Entry], Entry]) -> None:
        """Write every row again as `changed` gives it, in one commit; CommitFailedError as `append`.

        Only for what an erasure takes out of a row. The files before it stay until they are removed.
        """
        with self.lock, table_errors(self.uri, passing=(CommitFailedError,)):
            self._table.update_incremental()
            number = int(self._table.version()) + 1
            write_deltalake(
                self._table,
                _with_changes(_stored_rows(self._table), changed),
                mode="overwrite",
                commit_properties=CommitProperties(app_transactions=[Transaction(_APP, number)]),
                post_commithook_properties=NO_CLEAN_UP,
            )
            make_durable(self._table)

    def holding(self, changed: Callable[[Entry], Entry]) -> list[tuple[str, bool]]:
        """(name, whether the table has it now) of each file in its folder with a row that `changed` gives otherwise.

        Files of older versions are there, too; one of them that cannot be read may hold anything.
        """
        with self.lock, table_errors(self.uri):
            listed = [stored.path for stored in files_of(self._table).listing("")]
            self._table.update_incremental()
            present = {uri.rpartition("/")[2] for uri in self._table.file_uris()}
            names = [path for path in listed if "/" not in path and path.endswith(".parquet")]
            return [(name, name in present) for name in names if self._may_hold(name, name in present, changed)]

    def _may_hold(self, name: str, is_present: bool, changed: Callable[[Entry], Entry]) -> bool:
        try:
            return any(changed(row) != row for row in _entries_of_file(self._table, name))
        except (OSError, pa.ArrowException):
            if is_present:
                raise
            return True

    def remove(self, names: Iterable[str]) -> None:
        """Files that the table has no longer."""
        with table_errors(self.uri):
            files_of(self._table).delete(names)

    def _follow(self) -> None:
        version = int(self._table.version())
        if version == self._version:
            return
        files = frozenset(self._table.file_uris())
        if self._version >= 0 and self._files <= files:
            added = [entry for uri in sorted(files - self._files) for entry in _entries_of_file(self._table, uri)]
            if added:
                self._history = History(_in_order([*self._history.entries, *added]))
        else:
            self._history = History(_in_order(_entries(self._table)))
        self._version, self._files = version, files


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
            except CommitFailedError as conflict:
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
                except CommitFailedError as conflict:
                    conflicts.meet(conflict)
                else:
                    return entry

    def _now(self, history: History) -> datetime:
        """Later than every row before it, also where two machines' clocks differ: rows are ordered by their time."""
        last = max((entry.at for entry in history.entries), default=datetime.min.replace(tzinfo=UTC))
        return max(self._clock(), last + _TICK)


def _rows(entries: Iterable[Entry]) -> pa.Table:
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


def _entries(table: DeltaTable) -> list[Entry]:
    """Read without pandas, which Arrow imports to spell tables and instants: a second that no status command has."""
    query = "select hour, state, cast(at as bigint) as at, by, details from ledger"
    rows = pa.RecordBatchReader.from_stream(QueryBuilder().register("ledger", table).execute(query)).read_all()
    columns = (column.to_pylist() for column in rows.columns)
    return [_entry(*row, ledger=table.table_uri) for row in zip(*columns, strict=True)]


def _stored_rows(table: DeltaTable) -> pa.Table:
    """As they are, whatever is broken in them."""
    query = "select hour, state, at, by, details from ledger"
    return pa.RecordBatchReader.from_stream(QueryBuilder().register("ledger", table).execute(query)).read_all()


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


def _entries_of_file(table: DeltaTable, uri: str) -> list[Entry]:
    """Of one of its files."""
    content = files_of(table).read(uri.rpartition("/")[2])
    if content is None:
        raise OSError(f"{uri} is not there")
    rows = pq.ParquetFile(pa.BufferReader(content)).read(["hour", "state", "at", "by", "details"])
    rows = rows.set_column(2, "at", rows["at"].cast(pa.int64()))
    columns = (column.to_pylist() for column in rows.columns)
    return [_entry(*row, ledger=table.table_uri) for row in zip(*columns, strict=True)]


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
