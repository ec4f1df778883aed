"""An application's ingest from start to end: a topic that fails is tried again, and holds up no other."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pyspark.sql.streaming.query import StreamingQuery

from lakehouse.crews import Crew
from lakehouse.durations import duration_text
from lakehouse.errors import LakehouseError, SlowStoreError, UnexpectedError, from_trace
from lakehouse.ingest.failures import own_error
from lakehouse.ingest.parking import USUAL, Pace, Parking
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.source import bundles_file
from lakehouse.spark.shutdown import concerns_all

log = logging.getLogger(__name__)

OPENERS = 32
"""Topics that are opened at the same time: most of it waits for a store."""
OPENED_WITHIN = timedelta(seconds=30)
"""At the start of a run: who takes longer comes later."""
_MOST_STARTS = 5
"""Of a query that dies again and again without a batch in between."""
_DEATHS = ("Python worker exited unexpectedly", "ExecutorLostFailure")

Start = Callable[[], StreamingQuery]
Check = Callable[[TopicIngest], None]
Result = TypeVar("Result")


class Supervisor:
    """The life of an application's ingest. Each topic is opened (`check`, then its subscription, then the claim), and
    opened again with growing pauses where that fails; the query over all of them is started again when it dies."""

    def __init__(
        self,
        query: IngestQuery,
        ingests: Iterable[TopicIngest],
        start: Start,
        *,
        check: Check = lambda ingest: None,
        pace: Pace = USUAL,
    ) -> None:
        self._query, self._start, self._check, self._pace = query, start, check, pace
        self._ingests = {ingest.name: ingest for ingest in ingests}
        self._openers: Crew[str, timedelta | LakehouseError | None] = Crew(OPENERS, "open")
        self._unopened = Parking(pace)
        self._streaming: StreamingQuery | None = None
        self._fatal: BaseException | None = None
        self._starts = self._batches = 0

    @property
    def failures(self) -> dict[str, LakehouseError]:
        """Why topics cannot be opened, by their names."""
        return {name: parked.error for name, parked in self._unopened.parked.items()}

    def open(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Claim the topics that can be; each that can is part of the query from then on.

        Whether each can be read, and passes `check`, is found before the first is claimed, so that a run that can read
        nothing claims nothing. `meanwhile` begins what takes long and is needed next: nobody reads what is claimed.
        """
        deadlines = dict(self._side_by_side(self._ingests, self._ack_deadline))
        if deadlines:
            meanwhile()
        for name, _ in self._side_by_side(deadlines, lambda name: self._ingests[name].open_topic(deadlines[name])):
            self._query.add(self._ingests[name])

    def run(self, stop: threading.Event, *, until_drained: bool = False) -> None:
        """Run the query until `stop` is set or, `until_drained`, until all topics are finished; ends it between two
        triggers. `stop` is set here when somebody asks for it through the store.

        When every topic fails, or something happens that concerns all (`concerns_all`), all is over. Raises what ended
        the run, or what a topic still fails of.
        """
        if until_drained:
            self._query.parking.is_final = True
        if self._query.topics:
            self._streaming = self._start()
        while self._is_any_well() and self._fatal is None and not stop.wait(self._pace.poll_seconds):
            self._look_at_query()
            if self._is_asked_to_stop():
                stop.set()
            if until_drained and all(map(_is_done, self._well())):
                break
            if not until_drained:
                self._open_again()
        self._end()
        self._raise(until_drained)

    def _raise(self, until_drained: bool) -> None:
        failing = [parked.error for parking in self._parkings for parked in parking.parked.values()]
        topics = self._query.topics.values()
        blocked = [ingest.last_batch.blocked for ingest in topics if until_drained and ingest.last_batch]
        for error in (self._fatal, *failing, *blocked):
            if error is not None:
                raise error

    def _is_asked_to_stop(self) -> bool:
        """Also when it was asked to leave one topic after the other, and none is left."""
        for name in self._query.to_leave & self._unopened.parked.keys() - set(self._openers.busy):
            self._unopened.recover(name)
            self._ingests[name].record_stop()
        is_empty = not self._query.topics and not self._unopened.parked
        return self._query.is_asked_to_stop or (bool(self._query.to_leave) and is_empty)

    # --- topics ----------------------------------------------------------------------------------------------------

    @property
    def _parkings(self) -> tuple[Parking, Parking]:
        return self._query.parking, self._unopened

    def _well(self) -> list[TopicIngest]:
        """Those of the query that do not fail; a store that is slow is no reason to give a topic up."""
        return [ingest for name, ingest in self._query.topics.items() if not self._query.parking.is_failing(name)]

    def _is_any_well(self) -> bool:
        return bool(self._well())

    def _ack_deadline(self, name: str) -> timedelta:
        self._check(self._ingests[name])
        return self._ingests[name].ack_deadline()

    def _open_one(self, name: str) -> None:
        self._ingests[name].open_topic(self._ack_deadline(name))

    def _side_by_side(self, names: Iterable[str], work: Callable[[str], Result]) -> Iterator[tuple[str, Result]]:
        """What the work gives for each topic; those of which it fails, or does not end in time, are parked."""
        for name in names:
            self._openers.begin(name, partial(self._attempt, name, work))  # type: ignore[arg-type]
        for name, found in self._openers.results(OPENED_WITHIN.total_seconds()):
            if isinstance(found, LakehouseError):
                self._park(name, found)
            else:
                yield name, found  # type: ignore[misc]
        for name in self._openers.busy:
            self._park(name, _slow_start(name), is_recorded=False)

    @staticmethod
    def _attempt(name: str, work: Callable[[str], Result]) -> Result | LakehouseError:
        try:
            return work(name)
        except BaseException as error:
            return own_error(name, error)

    def _park(self, name: str, error: LakehouseError, *, is_recorded: bool = True) -> None:
        pause, ingest = self._unopened.next_pause(name, error), self._ingests[name]
        record = ingest.record_failure if is_recorded else ingest.note_failure
        record(error, pause)
        if self._unopened.park(name, error, time.monotonic()) and self._query.topics:
            then = f"tried again in {duration_text(pause)}" if pause is not None else "left to the newer run"
            log.error("ingest: topic=%s state=parked next=%s error=%s", name, then, error)

    def _open_again(self) -> None:
        """Topics that could not be opened, when their pause is over; no look waits for any of them."""
        now, parked = time.monotonic(), list(self._unopened.parked)
        for name in parked:
            if name not in self._openers.busy and not self._unopened.is_out(name, now):
                self._openers.begin(name, partial(self._attempt, name, self._open_one))
        for name, found in self._openers.results(0.0) if self._openers.busy else ():
            if isinstance(found, LakehouseError):
                self._park(name, found)
            elif self._ingests[name].is_claimed:
                self._unopened.recover(name)
                self._query.add(self._ingests[name])

    # --- the query -------------------------------------------------------------------------------------------------

    def _look_at_query(self) -> None:
        """Start it again when it has died."""
        query = self._streaming
        if query is None or query.isActive:
            return
        cause = _cause(self._query, query)
        self._starts = self._starts + 1 if self._query.batches == self._batches else 1
        self._batches = self._query.batches
        if concerns_all(cause) or self._starts >= _MOST_STARTS:
            self._fatal = cause
            return
        text = str(query.exception() or "")
        log.warning("ingest: starts=%d error=the query died: %s", self._starts, str(cause).partition("\n")[0][:300])
        if any(sign in text for sign in _DEATHS):
            self._blame()
        self._check_newest()
        if self._is_any_well():
            self._streaming = self._start()

    def _blame(self) -> None:
        """Of the tasks that died: their topics are pulled apart from now on, and one that kills again is parked.

        Only of the first: a process that ends takes tasks along that have done nothing.
        """
        noted = bundles_file(self._query.plan_path)
        tasks: Sequence[Sequence[str]] = json.loads(noted.read_text()) if noted.exists() else []
        died = [tasks[number] for number in self._query.died if number < len(tasks)] or [list(self._query.topics)]
        first = died[0]
        was_apart = self._query.is_apart(first[0]) if len(first) == 1 else False
        self._query.suspect([name for names in died for name in names])
        if was_apart:
            self._query.park(first[0], _deadly(first[0]))

    def _check_newest(self) -> None:
        """A query can die of a newer run that has its checkpoint."""
        for name, ingest in list(self._query.topics.items()):
            try:
                ingest.check_newest()
            except BaseException as error:
                self._query.park(name, own_error(name, error))

    def _end(self) -> None:
        """The query, between two of its triggers; one that dies of it has failed, too."""
        if self._streaming is not None:
            if not self._streaming.isActive and self._fatal is None:
                self._fatal = _cause(self._query, self._streaming)
            self._query.stop(self._streaming)
            self._fatal = self._fatal or self._query.failure
        if self._fatal is None:
            self._query.record_stops()
            return
        for ingest in self._query.topics.values():
            ingest.record_failure(self._fatal)


def _is_done(ingest: TopicIngest) -> bool:
    batch = ingest.last_batch
    return batch is not None and (batch.is_finished or batch.blocked is not None)


def _cause(ours: IngestQuery, query: StreamingQuery) -> BaseException:
    """Ours where it is known, also when another process raised it; else what Spark says."""
    if isinstance(ours.failure, LakehouseError):
        return ours.failure
    failure = query.exception()
    for each in (failure, ours.failure):
        if each is not None and (known := from_trace(str(each))):
            return known
    return ours.failure or failure or RuntimeError("the query ended without saying why")


def _deadly(name: str) -> UnexpectedError:
    return UnexpectedError(
        f"ingest of {name}",
        found="a task that died twice while it pulled this topic alone",
        expected="a task that ends",
        next_step="The other topics go on; see the executor's log, and give it more memory if that is what it lacks.",
    )


def _slow_start(name: str) -> SlowStoreError:
    return SlowStoreError(
        f"topic {name}",
        found=f"a start that takes longer than {duration_text(OPENED_WITHIN)}",
        expected="a store and a broker that answer",
        next_step="It goes on by itself; see how long requests to them take.",
    )
