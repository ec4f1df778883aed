"""The newest version of a topic's bronze table, as one process follows it with few requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deltalake import DeltaTable

from lakehouse.progress import IngestState
from lakehouse.store import bronze_log
from lakehouse.store.delta import DataFile, newly_opened, table_errors
from lakehouse.store.place import Place
from lakehouse.store.table_log import LogEntry, LostLogError, TableLog, log_of, refuse_unknown_features

_LONGEST_PAUSE_SECONDS = 600.0
"""Between two looks at the log's next name; no log is kept for a time that short."""


class Head:
    """Bronze for the one who commits to it: what was committed here is not read again.

    It may be behind what others have committed. That does no harm: every commit that carries a state has the same app
    transactions, so one that was decided on an older state is a ConflictError, and `update` shows what came.
    """

    def __init__(self, bronze: DeltaTable | TableLog) -> None:
        """LakeError when a table asks more of its writers than is known here; a log is of one that does not."""
        if isinstance(bronze, DeltaTable):
            refuse_unknown_features(bronze)
        self.log = log_of(bronze)
        self._state: IngestState | None = None

    def update(self) -> None:
        """Read what others have committed; the table is opened again where its log does not follow on what is known."""
        with table_errors(self.log.uri, passing=(LostLogError,)):
            try:
                _, *entries = self.log.entries_on()
            except (LostLogError, ValueError):
                entries = None
        if entries is None or any(entry.changes_table for entry in entries):
            table = newly_opened(self.log)
            refuse_unknown_features(table)
            self.log, self._state = log_of(table), None
        elif entries:
            self._state = _state_after(entries, self._state)
            self.log = self.log.followed_by(entries)

    def state(self) -> IngestState:
        """The state after the version that is known here, see `newest_state`."""
        if self._state is None:
            self._state = bronze_log.newest_state(self.log)
        return self._state

    def commit(self, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]) -> int:
        """See `commit_batch`; nothing is read."""
        version, after = bronze_log.commit_to(self.log, files, state, metadata)
        if version == self.log.version + 1:
            self.log, self._state = self.log.committed(version), after
        return version


class StateFollower:
    """The newest state for one who only reads: the log's new entries by their names, with a request for each.

    Where the next entry is not there, nothing is new. After a pause in which entries can have been cleaned away, and
    where one cannot be read, the log is opened again.
    """

    def __init__(self, bronze: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._bronze, self._clock = bronze, clock
        self._known: tuple[TableLog, IngestState] | None = None
        self._looked_at = 0.0

    def __reduce__(self) -> Any:
        """Without what it knows: Spark sends a planner to every executor, where nobody asks for the state."""
        return type(self), (self._bronze,)

    def state(self) -> IngestState:
        """LakeError when there is no table, or its log cannot be read."""
        known, paused = self._known, self._clock() - self._looked_at
        self._known = None if known is None or paused > _LONGEST_PAUSE_SECONDS else self._successor(*known)
        if self._known is None:
            log = log_of(self._bronze.table())
            self._known = log, bronze_log.newest_state(log)
        self._looked_at = self._clock()
        return self._known[1]

    def _successor(self, log: TableLog, state: IngestState) -> tuple[TableLog, IngestState] | None:
        """The log and state that follow on those; None where an entry is not what a commit writes."""
        with table_errors(self._bronze.uri):
            try:
                entries = log.next_entries()
                after = _state_after(entries, state)
            except (ValueError, KeyError, TypeError, AttributeError):
                return None
        assert after is not None
        return log.followed_by(entries), after


def _state_after(entries: Iterable[LogEntry], state: IngestState | None) -> IngestState | None:
    """The newest that one of the entries carries, else the one before them."""
    for entry in entries:
        state = bronze_log.state_in(entry) or state
    return state
