"""Ingest's Structured Streaming query: all topics of an application, each committed apart from the others."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.config import Settings
from lakehouse.crews import Crew
from lakehouse.errors import LakehouseError, SlowStoreError, from_trace
from lakehouse.ingest.checkpoint import FOLDER, is_readable, set_aside_if_damaged
from lakehouse.ingest.commits import Commits, Outcome
from lakehouse.ingest.facts import Arriving, Fact
from lakehouse.ingest.failures import own_error
from lakehouse.ingest.parking import USUAL, Pace, Parking
from lakehouse.ingest.planning import Planning
from lakehouse.ingest.requests import Requests
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.plan import Plan, TopicPlan
from lakehouse.landing.source import FORMAT, PubSubSource, source_options
from lakehouse.schemas import FACTS
from lakehouse.spark.partitions import Ended, partitions_as_they_end
from lakehouse.store.applications import checkpoint_folder
from lakehouse.store.notes import StopRequest

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.02
_SETTLED_SECONDS = 2.0
"""How long Spark may take to log a batch that is done, before its query is stopped all the same."""


class IngestQuery:
    """The claimed topics of one application, from epoch to epoch. One that fails is left out for a while.

    `commits` does the topics' work, at most so many side by side; one of size 0 does it in the batch's own thread.
    Of requests to stop, those count that name `run`.
    """

    def __init__(
        self,
        ingests: Iterable[TopicIngest],
        settings: Settings,
        *,
        run: str = "",
        clock: Clock = now,
        commits: Crew[str, Outcome] | None = None,
        pace: Pace = USUAL,
        plan_path: Path | None = None,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._all = [ingest.topic for ingest in ingests]
        self.parking = Parking(pace)
        self.topics: dict[str, TopicIngest] = {}
        self.failure: BaseException | None = None
        self.died: dict[int, BaseException] = {}
        """The tasks of the last epoch that died, by their numbers."""
        self.batches = 0
        self._commits = Commits(self.topics, self.parking, settings.ingest.trigger, commits)
        self._requests = Requests(settings, run, 1 if commits is None else 0)
        self.to_leave: set[str] = set()
        """Topics that somebody has asked this run to leave, for good."""
        self.is_asked_to_stop = False
        self.plan_path = plan_path or _scratch_path()
        """The file by which Spark's planner knows what to plan."""
        self._planning = Planning(settings.ingest, self.parking)
        self._stopping = threading.Event()
        self._under_way = threading.Lock()

    def add(self, ingest: TopicIngest) -> None:
        """A claimed topic: from the next epoch on it is polled."""
        with self._under_way:
            self.topics[ingest.name] = ingest
            self.parking.recover(ingest.name)
            self._write_plan()

    # --- Spark -----------------------------------------------------------------------------------------------------

    def start(self, spark: SparkSession) -> StreamingQuery:
        """Start the query over all topics that there are or may come."""
        self.failure = None
        self._write_plan()
        place = checkpoint_folder(self._settings)
        if is_readable(place.uri):
            set_aside_if_damaged(place.files(), self._settings.application, self._clock())
        spark.dataSource.register(PubSubSource)
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", "ingest")
        trigger_ms = int(self._settings.ingest.trigger.total_seconds() * 1000)
        return (
            spark.readStream.format(FORMAT)
            .options(**self.source_options())
            .load()
            .writeStream.queryName(f"ingest {self._settings.application}")
            .foreachBatch(self.on_batch)
            .option("checkpointLocation", place.below(FOLDER).uri)
            .trigger(processingTime=f"{trigger_ms} milliseconds")
            .start()
        )

    def source_options(self) -> dict[str, str]:
        """With all topics, also those that are not claimed yet."""
        settings = self._settings
        return source_options(self._all, settings.raw_root, settings.ingest, settings.storage_options, self.plan_path)

    def on_batch(self, frame: DataFrame, batch_id: int) -> None:
        """One micro-batch, whose tasks begin here."""
        self.take(partitions_as_they_end(frame, FACTS))

    def take(self, tasks: Iterable[Ended]) -> None:
        """An epoch, task by task: what each brought is committed when it has ended, unless the query is being drained.

        What a task failed of is raised when all others have ended, and what they brought is committed.
        """
        with self._under_way:
            # An epoch of a drained query pulls nothing; what was pulled for it before is adopted by the next run.
            if self._stopping.is_set():
                return
            try:
                failpoints.reach("ingest.offsets_logged")
                self._commit(tasks)
                failpoints.reach("ingest.batch_done")
            except BaseException as failure:
                self.failure = failure
                raise
            self.batches += 1
            self._write_plan()

    def drain(self) -> None:
        """Stop pulling: later batches are empty."""
        self._stopping.set()

    def stop(self, query: StreamingQuery) -> None:
        """End the query once the batch under way is done.

        A query stopped in the middle of a Python foreachBatch leaves stack traces and half a batch to repeat.
        """
        self.drain()
        with self._under_way:
            settled_at = time.monotonic() + _SETTLED_SECONDS
        while query.isActive and query.status["isTriggerActive"] and time.monotonic() < settled_at:
            time.sleep(_POLL_SECONDS)
        query.stop()

    # --- failures --------------------------------------------------------------------------------------------------

    def suspect(self, names: Collection[str]) -> None:
        """A task died that had these topics: each is pulled in a task of its own for a while, and decoded with care."""
        with self._under_way:
            self._planning.suspect(time.monotonic(), names)
            self._write_plan()

    def is_polled(self, name: str) -> bool:
        """Whether the topic is in the plan of the next epoch."""
        return name in self.plan().topics

    def is_apart(self, name: str) -> bool:
        """Whether a task has died lately that had the topic."""
        return self._planning.is_apart(name, time.monotonic())

    def park(self, name: str, error: LakehouseError) -> None:
        """Leave the topic out for a while, for what it did elsewhere than in its batch."""
        with self._under_way:
            if name not in self._commits.busy:
                self._commits.begin(name, [], error)
                self._commits.take_results()
                self._write_plan()

    def record_stops(self) -> None:
        """That nobody runs these topics from here on; nothing of one whose store does not answer."""
        for name, ingest in self.topics.items():
            if name not in self._commits.busy and name not in self.parking.parked:
                ingest.record_stop()

    # --- a batch ---------------------------------------------------------------------------------------------------

    def _commit(self, tasks: Iterable[Ended]) -> None:
        """Every topic's facts, as soon as they are there; those that need the store, side by side."""
        noted = self._requests.look(self._clock())
        for name in noted.topics & self.topics.keys():
            self.topics[name].remind()
        arriving = Arriving()
        self.died = {}
        for number, brought in tasks:
            if isinstance(brought, BaseException):
                self.died[number] = brought
            else:
                self._arrive(arriving, brought.to_pylist())
        self._commits.take_results()
        self._heed(noted.stops)
        for failure in self.died.values():
            raise failure

    def _arrive(self, arriving: Arriving, facts: Sequence[Fact]) -> None:
        if any(fact["attempt"] for fact in facts):
            self._planning.suspect(time.monotonic())
        for name, brought in arriving.whole(facts).items():
            if name in self.topics and name not in self._commits.busy:
                self._attend(name, brought)

    def _heed(self, requests: Iterable[StopRequest]) -> None:
        """Leave what is to stop: its batch is done. A topic whose commit goes on is left when that has ended."""
        for asked in requests:
            subject = asked.topic or self._settings.application
            log.info("ingest: state=asked to stop what=%s by=%s reason=%s", subject, asked.by, asked.reason)
            self.is_asked_to_stop |= asked.topic is None
            self.to_leave |= {asked.topic} if asked.topic else set()
        for name in self.to_leave & self.topics.keys() - self._commits.busy:
            self.parking.recover(name)
            self.topics.pop(name).record_stop()

    def _attend(self, name: str, facts: Sequence[Fact]) -> None:
        error = next((from_trace(fact["error"]) for fact in facts if fact["error"]), None)
        if isinstance(error, SlowStoreError) and not self._had_own_task(name):
            self._planning.note_late(name, time.monotonic())
            self.topics[name].miss(facts)
            self.topics[name].remind()  # what becomes durable is adopted with its next batch
            return
        if error is not None and self.parking.passes(name, error, time.monotonic()):
            error = None
        try:
            is_done = self.topics[name].look(facts)
        except BaseException as raised:
            self.topics[name].miss(facts)
            facts, error, is_done = [], own_error(name, raised), False
        if isinstance(error, SlowStoreError):  # its ledger may hang as well: nobody waits for what is recorded there
            self._commits.leave_out(name, error)
        if not is_done or error is not None:
            self._commits.begin(name, facts, error)
        elif not any(fact["error"] for fact in facts):
            self.parking.recover(name, has_answered=False)

    def _had_own_task(self, name: str) -> bool:
        at = time.monotonic()
        return self.parking.is_slow(name) or self._planning.is_apart(name, at) or self._planning.is_late(name, at)

    # --- the next epoch --------------------------------------------------------------------------------------------

    def _write_plan(self) -> None:
        self.plan().write(self.plan_path)

    def plan(self) -> Plan:
        """What the next epoch is to be."""
        at, busy = time.monotonic(), self._commits.busy
        topics: dict[str, TopicPlan] = {}
        for name, ingest in self.topics.items():
            if name not in busy and not self.parking.is_out(name, at):
                try:
                    topics[name] = ingest.plan()
                except BaseException as raised:
                    self._commits.park(name, own_error(name, raised))
        return self._planning.next(topics, len(self.topics), at)


def _scratch_path() -> Path:
    """In a folder that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "plan.json"
