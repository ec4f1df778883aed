"""Ingest's Structured Streaming query: Spark plans and pulls the epochs of a topic; each batch goes to its claim."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.config import Config
from lakehouse.errors import StaleDriverError
from lakehouse.hours import Hour
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.checkpoint import set_aside_if_damaged
from lakehouse.ingest.claim import ClaimedTopic, claim
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.frontier import FrontierSource
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.manifests import SWEEP_EVERY
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.source import FORMAT, PubSubSource, source_options
from lakehouse.store.heartbeats import Pulse, TopicState
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

_POLL_SECONDS = 0.02
_SETTLED_SECONDS = 2.0
"""How long Spark may take to log a batch that is done, before its query is stopped all the same."""


class TopicIngest:
    """One topic's ingest run. Batches come one at a time, from the query's thread.

    `on_closed` gets the hours that a batch closed, oldest first, once the ledger has them.
    """

    def __init__(
        self,
        topic: Topic,
        config: Config,
        *,
        run: str,
        clock: Clock = now,
        frontier: FrontierSource | None = None,
        sweep_every: int = SWEEP_EVERY,
        on_closed: Callable[[Sequence[Hour]], None] = lambda closed: None,
    ) -> None:
        self._on_closed = on_closed
        self.topic, self._config, self._run, self._clock = topic, config, run, clock
        self._frontier, self._sweep_every = frontier, sweep_every
        self._tables = TopicTables(topic, config.settings)
        self._journal = Journal(self._tables, run, clock)
        self._claimed: ClaimedTopic | None = None
        self._ack_deadline: timedelta | None = None
        self._has_failed = False
        self._stopping = threading.Event()
        self._batch_under_way = threading.Lock()
        self.failure: BaseException | None = None
        self.last_batch: Batch | None = None
        self.pulse = Pulse(subscription=topic.subscription, state="starting", since=clock())
        """How the topic is; a new value with each change, so that another thread may read it."""

    @property
    def name(self) -> str:
        return self.topic.name

    def ack_deadline(self) -> timedelta:
        """The subscription's; SourceError when it cannot be read, before anything of the topic is touched."""
        reader = SubscriptionReader(
            self.topic.subscription,
            answers=self._config.settings.ingest.answers,
            pauses=Pauses(patience=timedelta(seconds=5)),
        )
        try:
            return reader.ack_deadline()
        finally:
            reader.close()

    def open_topic(self, ack_deadline: timedelta) -> None:
        """Claim the topic, see `claim`."""
        self._ack_deadline = ack_deadline
        self._claimed = claim(
            self.topic,
            self._config,
            run=self._run,
            ack_deadline=ack_deadline,
            clock=self._clock,
            frontier=self._frontier,
            sweep_every=self._sweep_every,
        )

    def start(self, spark: SparkSession) -> StreamingQuery:
        """Start the query, on a topic that is claimed first where that was not done."""
        if self._claimed is None:
            self.open_topic(self.ack_deadline())
        set_aside_if_damaged(self._tables.raw.files(), self.topic.name, self._clock())
        spark.dataSource.register(PubSubSource)
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", self.topic.name)
        facts = spark.readStream.format(FORMAT).options(**self._source_options()).load()
        trigger_ms = int(self._config.settings.ingest.trigger.total_seconds() * 1000)
        return (
            facts.withWatermark("max_event_time", f"{int(self.topic.lateness.total_seconds())} seconds")
            .writeStream.queryName(f"ingest {self.topic.name}")
            .foreachBatch(self.on_batch)
            .option("checkpointLocation", self._tables.checkpoint)
            .trigger(processingTime=f"{trigger_ms} milliseconds")
            .start()
        )

    def start_again(self, spark: SparkSession) -> StreamingQuery:
        """Start the query after a failure; StaleDriverError when a newer run has taken the topic meanwhile."""
        if self._claimed is not None:
            deadline = self.ack_deadline()
            self._claimed.check_newest()
            self._claimed.update()
            self._ack_deadline = deadline
            self._claimed.watch_frontier(deadline, self._clock() + deadline)
        self.failure = self.last_batch = None
        self.pulse = self.pulse.after_change("starting", self._clock())
        return self.start(spark)

    def commit_facts(self, facts: Sequence[Fact]) -> Batch:
        """Commit one epoch's facts, see `ClaimedTopic.commit`; the topic must be claimed."""
        if self._claimed is None:
            raise ValueError(f"topic {self.name} is not claimed")
        self.last_batch = self._claimed.commit(facts)
        self.pulse = self.pulse.after_trigger(self._clock(), self.last_batch.epoch, self.last_batch.frontier)
        if self._has_failed:
            self._journal.record_recovery()
            self._has_failed = False
        if self.last_batch.closed:
            self._on_closed([closed.hour for closed in self.last_batch.closed])
        return self.last_batch

    def on_batch(self, frame: DataFrame, batch_id: int) -> None:
        """One micro-batch: its facts are committed, unless the query is being drained."""
        with self._batch_under_way:
            # An epoch of a drained query pulls nothing; what was pulled for it before is adopted by the next run.
            if self._stopping.is_set():
                return
            try:
                failpoints.reach("ingest.offsets_logged")
                # Two drivers on one checkpoint can log one epoch under two numbers; the second is then of nothing.
                if facts := frame.toArrow().to_pylist():
                    self.commit_facts(facts)
                failpoints.reach("ingest.batch_done")
            except BaseException as failure:
                self.failure = failure
                raise

    def record_failure(self, error: BaseException, tried_again_in: timedelta | None = None) -> None:
        """Why the topic's query ended or could not start, see `Journal.record_failure`; None: nobody tries again."""
        self._has_failed = True
        at = self._clock()
        state: TopicState = "parked" if self.last_batch else "failed at start"
        state = "taken over" if isinstance(error, StaleDriverError) else state
        next_try_at = None if tried_again_in is None else at + tried_again_in
        self.pulse = self.pulse.after_failure(state, at, str(error), next_try_at)
        self._journal.record_failure(error, has_claimed=self._claimed is not None)

    def record_stop(self) -> None:
        """That nobody runs the topic from here on, see `Journal.record_stop`."""
        self.pulse = self.pulse.after_change("ended", self._clock())
        if self._claimed is not None:  # else there may be no lake yet, and this must not make one
            self._journal.record_stop()

    def drain(self) -> None:
        """Stop pulling: later batches are empty."""
        self._stopping.set()

    def stop(self, query: StreamingQuery) -> None:
        """End the query once the batch under way is done.

        A query stopped in the middle of a Python foreachBatch leaves stack traces and half a batch to repeat.
        """
        self.drain()
        with self._batch_under_way:
            settled_at = time.monotonic() + _SETTLED_SECONDS
        while query.isActive and query.status["isTriggerActive"] and time.monotonic() < settled_at:
            time.sleep(_POLL_SECONDS)
        query.stop()

    def _source_options(self) -> dict[str, str]:
        raw = self._tables.raw
        return source_options(self.topic, raw.uri, self._config.settings.ingest, raw.options, self._ack_deadline)
