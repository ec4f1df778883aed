"""What the ledger's rows say of each hour of a topic, and what is due by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
from pydantic_core import from_json

from lakehouse import hours
from lakehouse.errors import LakeError
from lakehouse.hours import EPOCH, Hour
from lakehouse.schemas import LEDGER
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

R = TypeVar("R", bound=Record)


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
class _Newest:
    """What an hour's rows say since its newest seal: `current` are these rows, `verdict` is the state of the last."""

    current: list[Entry]
    verdict: str | None
    is_judged: bool

    @classmethod
    def of(cls, rows: list[Entry]) -> _Newest:
        seals = [index for index, entry in enumerate(rows) if entry.state == State.SEALED]
        current = rows[seals[-1] :] if seals else []
        verdicts = [entry.state for entry in current if entry.state in VERDICTS]
        is_judged = any(state in (State.VALID, State.INVALID) for state in verdicts)
        return cls(current, verdicts[-1] if verdicts else None, is_judged)


@dataclass(frozen=True)
class History:
    """A ledger's rows in the order in which they were added, and the questions that the stages ask of them.

    What an hour's rows say is computed once: a stage asks it of every hour that there ever was. `erased_before` are
    revisions of hours that an erasure sealed again, and whose rows are left out.
    """

    entries: tuple[Entry, ...] = ()
    erased_before: Mapping[Hour, int] = field(default_factory=dict)
    _by_hour: dict[Hour, list[Entry]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _ranges: list[tuple[Entry, Hour]] = field(init=False, repr=False, compare=False, default_factory=list)
    _mirror_failures: dict[Hour, list[Entry]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _newest: dict[Hour, _Newest] = field(init=False, repr=False, compare=False, default_factory=dict)
    _targets: dict[Hour, frozenset[str]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _due: dict[tuple[str, ...], frozenset[Hour]] = field(init=False, repr=False, compare=False, default_factory=dict)
    """Hours of which a question holds, by the question's name and what is asked with it."""

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
            return History(in_order([*self.entries, *added]), self.erased_before)
        following = History(tuple(added))
        whole = copy(self)
        object.__setattr__(whole, "entries", (*self.entries, *added))
        for name in ("_by_hour", "_mirror_failures"):
            joined = dict(getattr(self, name))
            joined |= {hour: [*joined.get(hour, ()), *rows] for hour, rows in getattr(following, name).items()}
            object.__setattr__(whole, name, joined)
        for name in ("_newest", "_targets"):
            known = dict(getattr(self, name))
            for hour in following._by_hour:
                known.pop(hour, None)
            object.__setattr__(whole, name, known)
        object.__setattr__(whole, "_due", _due_after(self._due, whole, set(following._by_hour)))
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
        known = {hour: revision for hour in self.sealed_hours() if (revision := self.revision(hour)) > 1}
        return dict(sorted({**self.erased_before, **known}.items()))

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
        return self._newest_of(hour).current

    def _newest_of(self, hour: Hour) -> _Newest:
        known = self._newest.get(hour)
        if known is None:
            known = self._newest[hour] = _Newest.of(self.of_hour(hour))
        return known

    def revision(self, hour: Hour) -> int:
        """How often the hour was sealed; 0 before the first seal."""
        seal = self.seal_of(hour)
        return seal.revision if seal else 0

    def is_cleared(self, hour: Hour) -> bool:
        """Whether the newest verdict lets the hour go further: valid, or released by a person."""
        return self._newest_of(hour).verdict not in (None, State.INVALID)

    def targets_done(self, hour: Hour) -> frozenset[str]:
        """Names of the mirrors that have the newest revision. LakeError when such a row is broken."""
        known = self._targets.get(hour)
        if known is None:
            rows = [entry for entry in self.current(hour) if entry.state == State.MIRRORED]
            known = self._targets[hour] = frozenset(entry.of(Mirrored).target for entry in rows)
        return known

    def due_to_seal(self) -> list[Hour]:
        """Closed hours that were never sealed, oldest first."""
        return self._hours_of("_is_to_seal")

    def due_to_validate(self) -> list[Hour]:
        """Sealed hours whose newest revision has no verdict yet, oldest first."""
        return self._hours_of("_is_to_validate")

    def due_to_mirror(self, target: str) -> list[Hour]:
        """Hours, valid or released, whose newest revision the target does not have, oldest first."""
        return self._hours_of("_is_to_mirror", target)

    def due_to_withdraw(self, target: str) -> list[Hour]:
        """Hours that an erasure changed and whose newest revision is invalid, as long as the target may have an older
        one, oldest first.
        """
        return self._hours_of("_is_to_withdraw", target)

    def _hours_of(self, question: str, *asked: str) -> list[Hour]:
        """Hours of which the question holds, oldest first; asked of each hour once, and again when it has new rows."""
        key = (question, *asked)
        known = self._due.get(key)
        if known is None:
            known = self._due[key] = frozenset(hour for hour in self._by_hour if getattr(self, question)(hour, *asked))
        return sorted(known)

    def _is_to_seal(self, hour: Hour) -> bool:
        return not self.current(hour)

    def _is_to_validate(self, hour: Hour) -> bool:
        newest = self._newest_of(hour)
        return bool(newest.current) and not newest.is_judged

    def _is_to_mirror(self, hour: Hour, target: str) -> bool:
        return self.is_cleared(hour) and target not in self.targets_done(hour)

    def _is_to_withdraw(self, hour: Hour, target: str) -> bool:
        if not self.must_be_nowhere(hour):
            return False
        rows = [entry for entry in self.current(hour) if entry.state == State.WITHDRAWN]
        return not any(entry.of(Withdrawn).target == target for entry in rows)

    def must_be_nowhere(self, hour: Hour) -> bool:
        """Whether no target may have the hour: its newest revision is invalid, and an older one holds the erased."""
        return self._newest_of(hour).verdict == State.INVALID and self.revision(hour) > 1

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


def _due_after(
    due: Mapping[tuple[str, ...], frozenset[Hour]], whole: History, changed: set[Hour]
) -> dict[tuple[str, ...], frozenset[Hour]]:
    """The same for a history in which only these hours have new rows; without what a broken row leaves open."""
    after = {}
    for (question, *asked), known in due.items():
        with suppress(LakeError):
            new = {hour for hour in changed if getattr(whole, question)(hour, *asked)}
            after[(question, *asked)] = known - changed | new
    return after


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


def with_changes(rows: pa.Table, changed: Callable[[Entry], Entry]) -> pa.Table:
    """The same rows, with other details where `changed` gives them."""
    details = rows["details"].to_pylist()
    columns = [rows["hour"], rows["state"], rows["at"].cast(pa.int64()), rows["by"]]
    for place, row in enumerate(zip(*(column.to_pylist() for column in columns), details, strict=True)):
        entry = _entry(*row, ledger="")
        if (new := changed(entry)) != entry:
            details[place] = _details_text(new)
    texts = pa.array(details, pa.string())
    return rows.set_column(rows.column_names.index("details"), "details", texts).cast(LEDGER)


def entries_of(rows: pa.Table, ledger: str) -> list[Entry]:
    """Without pandas, which Arrow imports to spell instants: a second that no status command has."""
    columns = [rows["hour"], rows["state"], rows["at"].cast(pa.int64()), rows["by"], rows["details"]]
    return [_entry(*row, ledger=ledger) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.at))


_STATES = frozenset(State)


def _entry(
    hour: str | None, state: str | None, at: int | None, by: str | None, details: str | None, *, ledger: str
) -> Entry:
    """The row as it is; what no stage would write of it is its `problem`."""
    problem = None
    parsed: Any = {}
    try:
        parsed = parsed_json(details or "")
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
    if state not in _STATES:
        problem = f"the state {state!r}"
    if hour is not None and not hours.is_hour(hour):
        problem = f"{hour!r} as its hour"
    if hour is None and state in HOUR_STATES:
        problem = "no hour"
    through = Closed.range_end(parsed) if state == State.CLOSED else None
    if through is not None and not (isinstance(through, str) and hours.is_hour(through)):
        problem = f"{through!r} as the end of a range of hours"
    return Entry(hour, state or "", moment or EPOCH, by or "", parsed, problem, ledger)


def parsed_json(text: str | bytes) -> Any:
    """As `json.loads`, but equal keys and short texts of all rows are one: a ledger of years is half as large."""
    try:
        return from_json(text)
    except ValueError:  # half a surrogate pair, or no JSON
        return json.loads(text)
