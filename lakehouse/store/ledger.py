"""What happened to each hour of a topic: rows that are only ever added, and what they say is due."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from lakehouse.hours import EPOCH, Hour
from lakehouse.schemas import LEDGER
from lakehouse.store.delta import Conflicts

HOUR_STATES = ("closed", "sealed", "valid", "invalid", "released", "mirrored")
OTHER_STATES = ("started", "failed", "recovered", "held", "close_requested")

Clock = Callable[[], datetime]

_APP = "ledger"
_TICK = timedelta(microseconds=1)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Entry:
    """One row. `hour` is None for what concerns the whole topic; `by` is `<stage>/<release>/<run>`."""

    hour: Hour | None
    state: str
    at: datetime
    by: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A ledger's rows in the order in which they were added, and the questions that the stages ask of them."""

    entries: tuple[Entry, ...] = ()
    _by_hour: dict[Hour, list[Entry]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for entry in self.entries:
            if entry.hour is not None and entry.state in HOUR_STATES:
                self._by_hour.setdefault(entry.hour, []).append(entry)

    def hours(self) -> list[Hour]:
        """Hours that have closed, oldest first."""
        return sorted(self._by_hour)

    def of_hour(self, hour: Hour) -> list[Entry]:
        return self._by_hour.get(hour, [])

    def last(self, state: str, hour: Hour | None = None) -> Entry | None:
        """The newest row of that state: of the hour, or of any when none is given."""
        rows = self.entries if hour is None else self.of_hour(hour)
        return next((entry for entry in reversed(rows) if entry.state == state), None)

    def newest(self, *states: str) -> Entry | None:
        """The newest row of any of these states."""
        return next((entry for entry in reversed(self.entries) if entry.state in states), None)

    def first(self, state: str, hour: Hour) -> Entry | None:
        return next((entry for entry in self.of_hour(hour) if entry.state == state), None)

    def state_of(self, hour: Hour) -> str:
        """`open` before it closed; else the newest of its states, `mirrored` only when nothing newer came."""
        rows = self.of_hour(hour)
        return rows[-1].state if rows else "open"

    def current(self, hour: Hour) -> list[Entry]:
        """The hour's rows from its newest seal on: what was said of an older revision no longer counts."""
        rows = self.of_hour(hour)
        seals = [index for index, entry in enumerate(rows) if entry.state == "sealed"]
        return rows[seals[-1] :] if seals else []

    def revision(self, hour: Hour) -> int:
        """How often the hour was sealed; 0 before the first seal."""
        seal = self.last("sealed", hour)
        return int(seal.details.get("revision", 1)) if seal else 0

    def is_cleared(self, hour: Hour) -> bool:
        """Whether the newest verdict lets the hour go further: valid, or released by a person."""
        verdicts = [entry.state for entry in self.current(hour) if entry.state in ("valid", "invalid", "released")]
        return bool(verdicts) and verdicts[-1] != "invalid"

    def targets_done(self, hour: Hour) -> set[str]:
        return {str(entry.details["target"]) for entry in self.current(hour) if entry.state == "mirrored"}

    def due_to_seal(self) -> list[Hour]:
        return [hour for hour in self.hours() if not self.first("sealed", hour)]

    def due_to_validate(self) -> list[Hour]:
        return [
            hour
            for hour in self.hours()
            if (rows := self.current(hour)) and not any(row.state in ("valid", "invalid") for row in rows)
        ]

    def due_to_mirror(self, target: str) -> list[Hour]:
        return [hour for hour in self.hours() if self.is_cleared(hour) and target not in self.targets_done(hour)]

    def requested_close(self) -> Entry | None:
        """The request that reaches furthest; its `hour` is the last one to close."""
        requests = [entry for entry in self.entries if entry.state == "close_requested" and entry.hour]
        return max(requests, key=lambda entry: entry.hour or "", default=None)


class Ledger:
    """A topic's ledger table. Appends are serialized: each is decided on the rows that were there before it."""

    def __init__(self, table: DeltaTable, by: str, clock: Clock = now) -> None:
        self._table, self._by, self._clock = table, by, clock
        self._read: tuple[int, History] | None = None

    def history(self) -> History:
        """All rows as of now; read again only when the table has moved on."""
        self._table.update_incremental()
        version = int(self._table.version())
        if self._read is None or self._read[0] != version:
            self._read = version, History(tuple(_entries(self._table)))
        return self._read[1]

    def record(
        self,
        state: str,
        hour: Hour | None = None,
        details: Mapping[str, Any] | None = None,
        *,
        unless: Callable[[History], bool] = lambda history: False,
    ) -> Entry | None:
        """Add one row, unless what is there by then makes it wrong; None when it was not added.

        LakeError when others are always faster, or nothing can be written.
        """
        conflicts = Conflicts(self._table.table_uri)
        while True:
            history = self.history()
            if unless(history):
                return None
            entry = Entry(hour, state, self._now(history), self._by, dict(details or {}))
            try:
                self._append(entry)
            except CommitFailedError as conflict:
                conflicts.meet(conflict)
            else:
                return entry

    def _now(self, history: History) -> datetime:
        """Later than every row before it, also where two machines' clocks differ: rows are ordered by their time."""
        last = max((entry.at for entry in history.entries), default=datetime.min.replace(tzinfo=UTC))
        return max(self._clock(), last + _TICK)

    def _append(self, entry: Entry) -> None:
        number = (self._table.transaction_version(_APP) or 0) + 1
        write_deltalake(
            self._table,
            _rows([entry]),
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction(_APP, number)]),
        )


def _rows(entries: Iterable[Entry]) -> pa.Table:
    rows = [
        {**vars(entry), "details": json.dumps(dict(entry.details), sort_keys=True, default=str)} for entry in entries
    ]
    return pa.Table.from_pylist(rows, schema=LEDGER)


def _entries(table: DeltaTable) -> list[Entry]:
    """Read without pandas, which Arrow imports to spell tables and instants: a second that no status command has."""
    query = "select hour, state, cast(at as bigint) as at, by, details from ledger"
    rows = pa.RecordBatchReader.from_stream(QueryBuilder().register("ledger", table).execute(query)).read_all()
    columns = (column.to_pylist() for column in rows.columns)
    entries = (
        Entry(hour, state, EPOCH + timedelta(microseconds=at), by, json.loads(details))
        for hour, state, at, by, details in zip(*columns, strict=True)
    )
    return sorted(entries, key=lambda entry: entry.at)
