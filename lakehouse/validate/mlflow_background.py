"""MLflow's runs are logged beside the stage: no hour waits for a server; one that fails is left alone for a while."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import timedelta

from lakehouse.concealed import without_secrets
from lakehouse.store.tables import TopicTables
from lakehouse.validate.mlflow_runs import is_a_refusal, log_due, remove_erased, tracking_uri

log = logging.getLogger(__name__)

_LEFT_ALONE = timedelta(minutes=5)
"""After an error: the other topics of a process do not wait for the same server, each for its own deadline."""

_LAST_WAIT = timedelta(seconds=30)
"""At the end of a process, for one topic: a server that answers a byte at a time meets no deadline of a client."""


def log_and_clear(tables: TopicTables) -> int:
    """Log what is due, and remove what an erasure left in MLflow; how many verdicts were logged."""
    logged = log_due(tables)
    remove_erased(tables)
    return logged


class BackgroundLog:
    """Calls `log_runs` for one topic after the other, in a thread of its own.

    The end of the process waits for it, but not for a server that lets nothing come to an end: what is not logged by
    then is noted, and is logged by the next run.
    """

    def __init__(
        self, log_runs: Callable[[TopicTables], int] = log_and_clear, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log_runs, self._clock = log_runs, clock
        self._left_alone_until: dict[str, float] = {}
        """By tracking server."""
        self._lock = threading.Lock()
        self._topics: queue.SimpleQueue[TopicTables] = queue.SimpleQueue()
        self._waiting: dict[str, Future[int]] = {}
        """By the address of their reports: a topic that waits already need not wait twice."""
        self._under_way: set[Future[int]] = set()
        self._thread: threading.Thread | None = None

    def log_soon(self, tables: TopicTables) -> Future[int] | None:
        """Gives how many verdicts will have been logged; None where there is no place for runs."""
        if not tracking_uri(tables.settings):
            return None
        with self._lock:
            address = tables.reports.uri
            if address not in self._waiting:
                self._waiting[address] = Future()
                self._topics.put(tables)
            if self._thread is None:
                self._thread = threading.Thread(target=self._log_all, name="mlflow", daemon=True)
                self._thread.start()
                atexit.register(self.finish)
            return self._waiting[address]

    def finish(self, longest: timedelta = _LAST_WAIT) -> bool:
        """Wait as long as one topic after the other is done, each within so long; whether all are."""
        while pending := self._pending():
            done, _ = wait(pending, longest / timedelta(seconds=1), FIRST_COMPLETED)
            if not done:
                log.warning(
                    "validate: topics=%d next=log to MLflow in the next run error=no answer within %s",
                    len(pending), longest,
                )  # fmt: skip
                return False
        return True

    def _pending(self) -> set[Future[int]]:
        with self._lock:
            return {*self._waiting.values(), *self._under_way}

    def _log_all(self) -> None:
        while True:
            tables = self._topics.get()
            with self._lock:
                future = self._waiting.pop(tables.reports.uri)
                self._under_way.add(future)
            logged = self.log_or_warn(tables)
            with self._lock:
                self._under_way.remove(future)
            future.set_result(logged)

    def log_or_warn(self, tables: TopicTables) -> int:
        """How many verdicts were logged; what fails is logged as a warning, since the verdicts are in the ledger."""
        uri = tracking_uri(tables.settings) or ""
        if self._clock() < self._left_alone_until.get(uri, 0.0):
            return 0
        try:
            return self._log_runs(tables)
        except Exception as error:  # whatever a server can answer
            if not is_a_refusal(error):
                self._left_alone_until[uri] = self._clock() + _LEFT_ALONE / timedelta(seconds=1)
            reason = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
            log.warning("validate: topic=%s next=log to MLflow in the next run error=%s", tables.topic.name, reason)
            return 0


log_soon = BackgroundLog().log_soon
"""All stages of a process have one: its thread, and what it knows of servers."""
