"""The newest version of a topic's bronze table, as one process follows it with few requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deltalake import DeltaTable

from lakehouse.progress import IngestState
from lakehouse.store import bronze_log
from lakehouse.store.delta import DataFile, newly_opened, table_errors
from lakehouse.store.table_log import LogEntry, LostLogError, TableLog, log_of, refuse_unknown_features


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
        with table_errors(self.log.uri):
            try:
                known, *entries = self.log.entries_on()
                is_first = self.log.checksum is None  # of which it is not known whether the state here is its own
                unread = [known, *entries] if is_first and known.info else entries
                state = _state_after(unread, None if is_first else self._state)
            except (LostLogError, ValueError, KeyError, TypeError, AttributeError):  # or no commit of ours
                return self._open()
            if any(entry.changes_table for entry in entries):
                return self._open()
            self.log, self._state = self.log.followed_by([known, *entries]), state

    def _open(self) -> None:
        table = newly_opened(self.log)
        refuse_unknown_features(table)
        self.log, self._state = log_of(table), None

    def state(self) -> IngestState:
        """The state after the version that is known here, see `newest_state`."""
        if self._state is None:
            self._state = bronze_log.newest_state(self.log)
        return self._state

    def commit(self, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]) -> int:
        """See `commit_batch`; nothing is read."""
        entry, after = bronze_log.commit_to(self.log, files, state, metadata)
        if entry.version == self.log.version + 1:
            self.log, self._state = self.log.followed_by([entry]), after
        return entry.version


def _state_after(entries: Iterable[LogEntry], state: IngestState | None) -> IngestState | None:
    """The newest that one of the entries carries, else the one before them."""
    for entry in entries:
        state = bronze_log.state_in(entry) or state
    return state
