"""The newest version of a topic's bronze table, as one process follows it with few requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deltalake import DeltaTable

from lakehouse.progress import IngestState
from lakehouse.store import bronze_log
from lakehouse.store.delta import DataFile, is_of_a_library, log_entry, newest_version, newly_opened, table_errors
from lakehouse.store.place import Place

_LONGEST_PAUSE_SECONDS = 600.0
"""Between two looks at the log's next name; no log is kept for a time that short."""


class Head:
    """Bronze for the one who commits to it: what was committed here is not read again.

    It may be behind what others have committed. That does no harm: every commit that carries a state has the same app
    transactions, so one that was decided on an older state is a ConflictError, and `update` shows what came.
    """

    def __init__(self, table: DeltaTable) -> None:
        self.table = table
        self._known: tuple[int, IngestState] | None = None

    def update(self) -> None:
        """Read what others have committed; the table is opened again where its log does not follow on what is known."""
        with table_errors(self.table.table_uri):
            known = self.table.version()
            try:
                self.table.update_incremental()
                follows = self.table.version() > known or newest_version(self.table) == known
            except BaseException as lost:
                if not is_of_a_library(lost):
                    raise
                follows = False
            if not follows:
                self.table, self._known = newly_opened(self.table), None

    def state(self) -> IngestState:
        """The state after the version that is known here, see `newest_state`."""
        version = int(self.table.version())
        if self._known is None or self._known[0] != version:
            self._known = version, bronze_log.newest_state(self.table)
        return self._known[1]

    def commit(self, files: Iterable[DataFile], state: IngestState, metadata: Mapping[str, Any]) -> int:
        """See `commit_batch`."""
        version = bronze_log.commit_batch(self.table, files, state, metadata)
        if version == self.table.version():
            self._known = version, state
        return version


class StateFollower:
    """The newest state for one who only reads: the log's new entries by their names, with a request for each.

    Where the next entry is not there, nothing is new. After a pause in which entries can have been cleaned away, and
    where one cannot be read, the table is opened again.
    """

    def __init__(self, bronze: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._bronze, self._clock = bronze, clock
        self._known: tuple[int, IngestState] | None = None
        self._looked_at = 0.0

    def __reduce__(self) -> Any:
        """Without what it knows: Spark sends a planner to every executor, where nobody asks for the state."""
        return type(self), (self._bronze,)

    def state(self) -> IngestState:
        """LakeError when there is no table, or its log cannot be read."""
        known, paused = self._known, self._clock() - self._looked_at
        self._known = None if known is None or paused > _LONGEST_PAUSE_SECONDS else self._successor(*known)
        if self._known is None:
            table = self._bronze.table()
            self._known = int(table.version()), bronze_log.newest_state(table)
        self._looked_at = self._clock()
        return self._known[1]

    def _successor(self, version: int, state: IngestState) -> tuple[int, IngestState] | None:
        """The version and state that follow on those; None where an entry is not what a commit writes."""
        with table_errors(self._bronze.uri):
            files = self._bronze.files()
            while (entry := files.read(log_entry(version + 1))) is not None:
                try:
                    version, state = version + 1, bronze_log.state_in(entry) or state
                except (ValueError, KeyError, TypeError, AttributeError):
                    return None
        return version, state
