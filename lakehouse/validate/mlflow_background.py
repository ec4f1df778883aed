"""MLflow's runs are logged beside the stage: no hour waits for a server; one that fails is left alone for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property

from lakehouse.concealed import without_secrets
from lakehouse.store.tables import TopicTables
from lakehouse.validate.mlflow_runs import is_a_refusal, log_due, remove_erased, tracking_uri

log = logging.getLogger(__name__)

_LEFT_ALONE = timedelta(minutes=5)
"""After an error: the other topics of a process do not wait for the same server, each for its own deadline."""


def log_and_clear(tables: TopicTables) -> int:
    """Log what is due, and remove what an erasure left in MLflow; how many verdicts were logged."""
    logged = log_due(tables)
    remove_erased(tables)
    return logged


class BackgroundLog:
    """Calls `log_runs` for one topic after the other, in a thread of its own; the process ends when it is done."""

    def __init__(
        self, log_runs: Callable[[TopicTables], int] = log_and_clear, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log_runs, self._clock = log_runs, clock
        self._left_alone_until: dict[str, float] = {}
        """By tracking server."""

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="mlflow")

    def log_soon(self, tables: TopicTables) -> Future[int] | None:
        """Gives how many verdicts will have been logged; None where there is no place for runs."""
        return self._thread.submit(self.log_or_warn, tables) if tracking_uri(tables.settings) else None

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
