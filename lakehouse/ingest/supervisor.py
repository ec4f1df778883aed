"""The queries of an application's topics, side by side: one that fails is tried again, and holds up no other."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql.streaming.query import StreamingQuery

from lakehouse.durations import written
from lakehouse.errors import LakehouseError, SourceError, StaleDriverError
from lakehouse.ingest.query import TopicIngest

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_MOST_STARTS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
"""Between two tries of a topic that fails; twice as long each time, until one of its batches succeeds."""


Start = Callable[[TopicIngest], StreamingQuery]


def opened(ingests: Iterable[TopicIngest]) -> tuple[list[TopicIngest], dict[TopicIngest, LakehouseError]]:
    """Those that are claimed and can start, and why the others are not; none holds up another.

    Whether each can be read is found before the first is claimed, so that a run that can read nothing claims nothing.
    """
    deadlines: dict[TopicIngest, timedelta] = {}
    failures: dict[TopicIngest, LakehouseError] = {}
    for ingest in ingests:
        try:
            deadlines[ingest] = ingest.ack_deadline()
        except LakehouseError as error:
            failures[ingest] = error
    for ingest, deadline in deadlines.items():
        try:
            ingest.open_topic(deadline)
        except LakehouseError as error:
            failures[ingest] = error
    return [ingest for ingest in deadlines if ingest not in failures], failures


def started(ingests: Iterable[TopicIngest], start: Start) -> dict[TopicIngest, StreamingQuery]:
    """Their queries, all of them up; no more are starting at a time than there are cores.

    Spark gives a query's planner, a Python process of its own, ten seconds to come up, and fails the query after them:
    on a busy machine it is started again.
    """
    waiting = deque(ingests)
    attempts: Counter[TopicIngest] = Counter()
    queries: dict[TopicIngest, StreamingQuery] = {}
    while True:
        late = [ingest for ingest, query in queries.items() if _planner_was_late(query)]
        waiting.extend(ingest for ingest in late if attempts[ingest] < _MOST_STARTS and ingest not in waiting)
        starting = sum(map(_is_starting, queries.values()))
        if not waiting and not starting:
            return queries
        if waiting and starting < (os.cpu_count() or 1):
            ingest = waiting.popleft()
            attempts[ingest] += 1
            queries[ingest] = start(ingest)
        else:
            time.sleep(_POLL_SECONDS)


def _is_starting(query: StreamingQuery) -> bool:
    return query.isActive and str(query.status["message"]).startswith("Initializing")


def _planner_was_late(query: StreamingQuery) -> bool:
    return not query.isActive and "Python worker failed to connect back" in str(query.exception())


def run_until_stopped(
    queries: Mapping[TopicIngest, StreamingQuery],
    stop: threading.Event,
    *,
    until_dry: bool = False,
    failures: Mapping[TopicIngest, LakehouseError] | None = None,
    start_again: Start | None = None,
) -> None:
    """Wait for the queries; end them between two triggers when `stop` is set or, `until_dry`, when all are finished.

    A topic with an error of ours fails alone, also those of `failures`, which did not come so far: the others go on,
    and it is tried by `start_again` until it works. When no query is left, or one ends for another cause, all is over.
    Raises what ended a query, or what a topic still fails of, in the words of `errors.py` where it is one of ours.
    """
    topics = _Topics(queries, failures or {})
    while topics.running and topics.fatal is None and not stop.wait(_POLL_SECONDS):
        topics.look()
        if until_dry and all(map(_is_done, topics.running)):
            break
        if start_again is not None and not until_dry:
            topics.try_again(start_again)
    topics.end()
    blocked = [ingest.last_batch.blocked for ingest in queries if until_dry and ingest.last_batch]
    for error in (topics.fatal, *(failing.error for failing in topics.failing.values()), *blocked):
        if error is not None:
            raise error


def _is_done(ingest: TopicIngest) -> bool:
    batch = ingest.last_batch
    return batch is not None and (batch.is_finished or batch.blocked is not None)


@dataclass(frozen=True)
class _Failing:
    """`next_at` is when it is tried again, by the monotonic clock; None for one that must not be."""

    error: LakehouseError
    next_at: float | None


class _Topics:
    """Which queries run, which topics fail, and what has ended the whole run, if anything."""

    def __init__(
        self, queries: Mapping[TopicIngest, StreamingQuery], failures: Mapping[TopicIngest, LakehouseError]
    ) -> None:
        self.running = dict(queries)
        self.failing: dict[TopicIngest, _Failing] = {}
        self.fatal: BaseException | None = None
        self._pauses: dict[TopicIngest, timedelta] = {}
        for ingest, error in failures.items():
            self._fail(ingest, error)

    def look(self) -> None:
        """Which queries have died since."""
        for ingest, query in list(self.running.items()):
            if not query.isActive:
                del self.running[ingest]
                self._fail(ingest, _cause(ingest, query))
            elif ingest.last_batch is not None:
                self._pauses.pop(ingest, None)

    def try_again(self, start_again: Start) -> None:
        for ingest, failing in list(self.failing.items()):
            if failing.next_at is not None and time.monotonic() >= failing.next_at:
                try:
                    self.running |= started([ingest], start_again)
                    del self.failing[ingest]
                except Exception as error:
                    self._fail(ingest, error)

    def end(self) -> None:
        """Every query, between two of its triggers; one that dies of it has failed, too."""
        self.look()
        ending, self.running = self.running, {}
        for ingest in ending:
            ingest.pass_over()
        for ingest, query in ending.items():
            ingest.stop(query)
        for ingest, query in ending.items():
            if ingest.failure is not None:
                self._fail(ingest, _cause(ingest, query))

    def _fail(self, ingest: TopicIngest, error: BaseException) -> None:
        ingest.record_failure(error)
        if not isinstance(error, LakehouseError):
            self.fatal = self.fatal or error
            return
        pause = self._pauses.get(ingest, _FIRST_PAUSE)
        self._pauses[ingest] = min(2 * pause, _LONGEST_PAUSE)
        may_try = not isinstance(error, StaleDriverError)
        before = self.failing.get(ingest)
        if self.running and (before is None or str(before.error) != str(error)):
            then = f"tried again in {written(pause)}" if may_try else "left to the newer run"
            log.error("ingest: topic=%s fails, the others go on; %s: %s", ingest.name, then, error)
        self.failing[ingest] = _Failing(error, time.monotonic() + pause.total_seconds() if may_try else None)


_OURS = re.compile(r"lakehouse\.errors\.(\w+): (.+)")


def _cause(ingest: TopicIngest, query: StreamingQuery) -> BaseException:
    if isinstance(ingest.failure, LakehouseError):
        return ingest.failure
    failure = query.exception()
    ours = _OURS.search(str(failure)) if failure else None
    if ours:
        return ExecutorError(ours[2])
    return failure or ingest.failure or RuntimeError("the query ended without saying why")


class ExecutorError(SourceError):
    """One of our errors, as an executor said it."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return str(self.args[0])
