"""The queries of an application's topics, side by side: one that fails is tried again, and holds up no other."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pyspark.sql.streaming.query import StreamingQuery

from lakehouse.durations import duration_text
from lakehouse.errors import LakehouseError, StaleDriverError, from_trace, unexpected
from lakehouse.ingest.query import TopicIngest
from lakehouse.spark.shutdown import concerns_all

log = logging.getLogger(__name__)

_MOST_STARTS = 5


@dataclass(frozen=True)
class Pace:
    """How long to wait: `poll_seconds` between two looks at the queries; between two tries of a topic that fails
    `first_pause`, then twice as long each time, at most `longest_pause`, until one of its batches succeeds."""

    poll_seconds: float = 0.1
    first_pause: timedelta = timedelta(seconds=5)
    longest_pause: timedelta = timedelta(minutes=5)


USUAL = Pace()
Start = Callable[[TopicIngest], StreamingQuery]


def open_topics(
    ingests: Iterable[TopicIngest], check: Callable[[TopicIngest], None] = lambda ingest: None
) -> tuple[list[TopicIngest], dict[TopicIngest, LakehouseError]]:
    """Those that are claimed and can start, and why the others are not; none holds up another.

    Whether each can be read, and passes `check`, is found before the first is claimed, so that a run that can read
    nothing claims nothing.
    """
    deadlines: dict[TopicIngest, timedelta] = {}
    failures: dict[TopicIngest, LakehouseError] = {}
    for ingest in ingests:
        try:
            check(ingest)
            deadlines[ingest] = ingest.ack_deadline()
        except BaseException as error:
            failures[ingest] = _own(ingest, error)
    for ingest, deadline in deadlines.items():
        try:
            ingest.open_topic(deadline)
        except BaseException as error:
            failures[ingest] = _own(ingest, error)
    return [ingest for ingest in deadlines if ingest not in failures], failures


def _own(ingest: TopicIngest, error: BaseException) -> LakehouseError:
    """The topic's own failure, in our words and with its trace in the log; raises what concerns all topics."""
    if concerns_all(error):
        raise error
    if not isinstance(error, LakehouseError):
        log.error("ingest: topic=%s error=unexpected %s", ingest.name, type(error).__name__, exc_info=error)
    return unexpected(f"ingest of {ingest.name}", error)


def start_queries(
    ingests: Iterable[TopicIngest],
    start: Start,
    failures: dict[TopicIngest, LakehouseError] | None = None,
    *,
    pace: Pace = USUAL,
) -> dict[TopicIngest, StreamingQuery]:
    """Their queries, all of them up; no more are starting at a time than there are cores.

    Those that cannot be started are put into `failures`; without it, the first of them is raised.

    Spark gives a query's planner, a Python process of its own, ten seconds to come up, and fails the query after them:
    on a busy machine it is started again.
    """
    waiting = deque(ingests)
    attempts: Counter[TopicIngest] = Counter()
    queries: dict[TopicIngest, StreamingQuery] = {}
    while True:
        late = [ingest for ingest, query in queries.items() if _planner_was_late(query)]
        again = [ingest for ingest in late if attempts[ingest] < _MOST_STARTS and ingest not in waiting]
        for ingest in again:
            log.warning(
                "ingest: topic=%s starts=%d error=its planner was not up in time", ingest.name, attempts[ingest]
            )
        waiting.extend(again)
        starting = sum(map(_is_starting, queries.values()))
        if not waiting and not starting:
            return queries
        if waiting and starting < (os.cpu_count() or 1):
            ingest = waiting.popleft()
            attempts[ingest] += 1
            try:
                queries[ingest] = start(ingest)
            except BaseException as error:
                if failures is None:
                    raise
                queries.pop(ingest, None)
                failures[ingest] = _own(ingest, error)
        else:
            time.sleep(pace.poll_seconds)


def _is_starting(query: StreamingQuery) -> bool:
    return query.isActive and str(query.status["message"]).startswith("Initializing")


def _planner_was_late(query: StreamingQuery) -> bool:
    return not query.isActive and "Python worker failed to connect back" in str(query.exception())


def run_until_stopped(
    queries: Mapping[TopicIngest, StreamingQuery],
    stop: threading.Event,
    *,
    until_drained: bool = False,
    failures: Mapping[TopicIngest, LakehouseError] | None = None,
    start_again: Start | None = None,
    pace: Pace = USUAL,
) -> None:
    """Wait for the queries; end them between two triggers when `stop` is set or, `until_drained`, when all are
    finished.

    A topic fails alone, also those of `failures`, which did not come so far: it is parked, the others go on, and it is
    tried by `start_again` with growing pauses until it works. When no query is left, or one ends for a cause that
    concerns all (`concerns_all`), all is over. Raises what ended the run, or what a topic still fails of.
    """
    topics = _Topics(queries, failures or {}, pace)
    while topics.running and topics.fatal is None and not stop.wait(pace.poll_seconds):
        topics.look()
        if until_drained and all(map(_is_done, topics.running)):
            break
        if start_again is not None and not until_drained and topics.running:
            topics.try_again(start_again)
    topics.end()
    blocked = [ingest.last_batch.blocked for ingest in queries if until_drained and ingest.last_batch]
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
        self,
        queries: Mapping[TopicIngest, StreamingQuery],
        failures: Mapping[TopicIngest, LakehouseError],
        pace: Pace,
    ) -> None:
        self._pace = pace
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
                    self.running |= start_queries([ingest], start_again, pace=self._pace)
                    del self.failing[ingest]
                except BaseException as error:
                    self._fail(ingest, error)

    def end(self) -> None:
        """Every query, between two of its triggers; one that dies of it has failed, too."""
        self.look()
        ending, self.running = self.running, {}
        for ingest in ending:
            ingest.drain()
        for ingest, query in ending.items():
            ingest.stop(query)
        for ingest, query in ending.items():
            if ingest.failure is not None:
                self._fail(ingest, _cause(ingest, query))
            else:
                ingest.record_stop()

    def _fail(self, ingest: TopicIngest, error: BaseException) -> None:
        if concerns_all(error):
            ingest.record_failure(error)
            self.fatal = self.fatal or error
            return
        error = _own(ingest, error)
        pause = self._pauses.get(ingest, self._pace.first_pause)
        self._pauses[ingest] = min(2 * pause, self._pace.longest_pause)
        may_try = not isinstance(error, StaleDriverError)
        ingest.record_failure(error, pause if may_try else None)
        before = self.failing.get(ingest)
        if self.running and (before is None or str(before.error) != str(error)):
            then = f"tried again in {duration_text(pause)}" if may_try else "left to the newer run"
            log.error("ingest: topic=%s state=parked next=%s error=%s", ingest.name, then, error)
        self.failing[ingest] = _Failing(error, time.monotonic() + pause.total_seconds() if may_try else None)


def _cause(ingest: TopicIngest, query: StreamingQuery) -> BaseException:
    """Ours where it is known, also when another process raised it; else what Spark says."""
    if isinstance(ingest.failure, LakehouseError):
        return ingest.failure
    failure = query.exception()
    for each in (failure, ingest.failure):
        if each is not None and (ours := from_trace(str(each))):
            return ours
    return ingest.failure or failure or RuntimeError("the query ended without saying why")
