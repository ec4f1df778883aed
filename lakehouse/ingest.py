"""Ingest: one Structured Streaming query per topic, whose batches become bronze commits that also close hours."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse import bronze, hours, steps
from lakehouse.bronze import IngestState, Segment
from lakehouse.buckets import bucket_of
from lakehouse.closing import ClosedHour, Condition, Decision, Frontier, OpenHour, Signals, decide, watermark
from lakehouse.config import Config, Settings
from lakehouse.errors import LakehouseError, SourceError, StaleDriverError
from lakehouse.ledger import History, Ledger
from lakehouse.sources.frontier import DryFrontier, FrontierSource, MonitoringFrontier, monitoring_client
from lakehouse.sources.pubsub import FORMAT, PubSubSource, source_options
from lakehouse.sources.pubsub import facts as facts_of
from lakehouse.sources.segments import listed_manifests, read_manifest, stored_manifests
from lakehouse.sources.subscription import SubscriptionReader
from lakehouse.storage import storage_for
from lakehouse.tables import (
    ConflictError,
    Conflicts,
    DataFile,
    bronze_table,
    event_time_stats,
    folders_of,
    ledger_table,
)
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

SWEEP_EVERY = 20
"""Batches between two looks at the manifests: adopting what no commit took, clearing away what is long committed."""
_MONITORING_EVERY = timedelta(seconds=30)
_POLL_SECONDS = 0.1
_MOST_STARTS = 5
_SETTLED_SECONDS = 2.0
"""How long Spark may take to log a batch that is done, before its query is stopped all the same."""

Fact = dict[str, Any]
"""A row of `FACTS`."""


@dataclass(frozen=True)
class Batch:
    """What one batch came to."""

    epoch: int
    version: int | None
    rows: int
    closed: tuple[ClosedHour, ...]
    is_finished: bool


class TopicIngest:
    """One topic's ingest run. Batches come one at a time, from the query's thread."""

    def __init__(
        self,
        topic: Topic,
        config: Config,
        *,
        run: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        frontier: FrontierSource | None = None,
    ) -> None:
        self._topic, self._settings, self._run, self._clock = topic, config.settings, run, clock
        self._folders = folders_of(config.settings, topic.name)
        self._options = config.settings.storage_options
        self._storage = storage_for(self._folders.raw, self._options)
        self._frontier = frontier
        self._batches = 0
        self._settled: set[Segment] = set()
        self._held: tuple[str, str] | None = None
        self._is_open = False
        self._stopping = threading.Event()
        self._batch_under_way = threading.Lock()
        self.failure: BaseException | None = None
        self.last_batch: Batch | None = None

    def start(self, spark: SparkSession) -> StreamingQuery:
        """Start the query, on a topic that is claimed first where that was not done."""
        if not self._is_open:
            self.open_topic(self.ack_deadline())
        spark.dataSource.register(PubSubSource)
        spark.sparkContext.setLocalProperty("spark.scheduler.pool", self._topic.name)
        facts = spark.readStream.format(FORMAT).options(**self._source_options()).load()
        return (
            facts.withWatermark("max_event_time", f"{int(self._topic.lateness.total_seconds())} seconds")
            .writeStream.queryName(f"ingest {self._topic.name}")
            .foreachBatch(self._on_batch)
            .option("checkpointLocation", self._folders.checkpoint)
            .trigger(processingTime=f"{int(self._settings.ingest.trigger.total_seconds() * 1000)} milliseconds")
            .start()
        )

    def ack_deadline(self) -> timedelta:
        """The subscription's; SourceError when it cannot be read, before anything of the topic is touched."""
        reader = SubscriptionReader(self._topic.subscription, patience=timedelta(seconds=5))
        try:
            return reader.ack_deadline()
        finally:
            reader.close()

    def open_topic(self, ack_deadline: timedelta) -> None:
        """Tables, the `started` row, the first open hour, and closes that the log has and the ledger has not."""
        self._bronze = bronze_table(self._folders, self._topic, self._options)
        by = f"ingest/{self._settings.release}/{self._run}"
        self._ledger = Ledger(ledger_table(self._folders, self._topic, self._options), by, self._clock)
        is_first_run = self._ledger.history().last("started") is None
        host = socket.gethostname()
        self._ledger.record("started", details={"release": self._settings.release, "run": self._run, "host": host})
        steps.reached("started, nothing made good")
        self._record_missing_closes()
        self._recorded_until = bronze.newest_state(self._bronze).open_hour
        self._set_first_hour()
        self._is_open = True
        if self._frontier is None:
            trusted_from = self._clock() + (timedelta(0) if is_first_run else ack_deadline)
            self._frontier = _frontier_source(self._topic, self._settings, ack_deadline, trusted_from)

    def commit_facts(self, facts: list[Fact]) -> Batch:
        """Commit one epoch's facts; repeated, it changes nothing.

        StaleDriverError when a newer run has started; LakeError when the commit meets one conflict after the other.
        """
        self._check_newest()
        started = time.monotonic()
        conflicts = Conflicts(self._folders.bronze)
        while True:
            self._bronze.update_incremental()
            try:
                batch = self._committed(facts)
                break
            except ConflictError as conflict:
                self._check_newest()
                conflicts.meet(conflict)
        self._batches += 1
        if batch.version is not None:
            log.info(
                "ingest: topic=%s epoch=%d rows=%d closed=%s seconds=%.2f",
                *(self._topic.name, batch.epoch, batch.rows, ",".join(hour.hour for hour in batch.closed) or "-"),
                time.monotonic() - started,
            )
        self.last_batch = batch
        return batch

    def pass_over(self) -> None:
        """From now on batches read nothing, so that the query comes to rest."""
        self._stopping.set()

    def stop(self, query: StreamingQuery) -> None:
        """End the query once the batch under way is done.

        A query stopped in the middle of a Python foreachBatch leaves stack traces and half a batch to repeat.
        """
        self.pass_over()
        with self._batch_under_way:
            settled_at = time.monotonic() + _SETTLED_SECONDS
        while query.isActive and query.status["isTriggerActive"] and time.monotonic() < settled_at:
            time.sleep(_POLL_SECONDS / 5)
        query.stop()

    def _on_batch(self, frame: DataFrame, batch_id: int) -> None:
        with self._batch_under_way:
            # An epoch that is passed over pulls nothing; what was pulled for it before is adopted by the next run.
            if self._stopping.is_set():
                return
            try:
                steps.reached("offsets logged, nothing pulled")
                # Two drivers on one checkpoint can log one epoch under two numbers; the second is then of nothing.
                if facts := frame.toArrow().to_pylist():
                    self.commit_facts(facts)
                steps.reached("batch done, no Spark commit log")
            except BaseException as failure:
                self.failure = failure
                raise

    def _source_options(self) -> dict[str, str]:
        return source_options(self._topic, self._folders.raw, self._settings.ingest, self._options)

    def _check_newest(self) -> None:
        newest = self._ledger.history().last("started")
        if newest is not None and newest.details["run"] != self._run:
            raise StaleDriverError(
                f"topic {self._topic.name}",
                found="run {run} on {host}, ".format_map(newest.details) + f"started at {newest.at:%Y-%m-%d %H:%M:%S}",
                expected=f"this run, {self._run}, to be the newest",
                next_step="Leave the newer run alone; stop it first if this one should take over.",
            )

    # --- one commit ------------------------------------------------------------------------------------------------

    def _committed(self, facts: list[Fact]) -> Batch:
        """One attempt at the commit, on the state that the log has now."""
        state = bronze.newest_state(self._bronze)
        if state.open_hour != self._recorded_until:
            self._record_missing_closes()
            self._recorded_until = state.open_hour
        epoch = max(fact["epoch"] for fact in facts)
        adopted = self._adoptable(state, epoch, facts) if self._batches % SWEEP_EVERY == 0 else []
        new = _with_files(self._unknown_to_log(facts, state)) + adopted
        before = self._with_first_hour(state, new)
        after = _with_rows(before, new, slots=len({fact["slot"] for fact in facts}))
        now = self._clock()
        assert self._frontier is not None
        frontier = self._frontier.observe(facts, now)
        decision = decide(self._signals(after, frontier, now), self._topic)
        rejected = after.rejected
        after = _with_closes(replace(after, epoch=max(epoch, state.epoch)), decision)
        version = None
        if new or decision.open_hour != state.open_hour:
            files = [_data_file(fact, before.open_hour) for fact in new]
            metadata = self._metadata(facts, adopted, new, after, frontier, decision, rejected)
            steps.reached("batch decided, not committed")
            version = bronze.commit_batch(self._bronze, files, after, metadata)
            steps.reached("bronze committed, no ledger row")
            self._record(decision, version, metadata)
            self._recorded_until = decision.open_hour
        self._record_held(decision, after, frontier, epoch)
        self._settled.update(bronze.segment_of(fact["path"]) for fact in facts + adopted if fact["path"])
        if self._batches % SWEEP_EVERY == SWEEP_EVERY - 1:
            self._clear_manifests(epoch)
        rows = sum(fact["rows"] for fact in new)
        return Batch(epoch, version, rows, decision.closed, self._is_finished(facts, decision, frontier))

    def _unknown_to_log(self, facts: list[Fact], state: IngestState) -> list[Fact]:
        """The facts whose files no commit has taken; a batch that comes again finds none."""
        epoch = min(fact["epoch"] for fact in facts)
        if epoch > state.epoch:
            return facts
        known = bronze.segments_in_log(self._bronze, epoch)
        return [fact for fact in facts if not fact["path"] or bronze.segment_of(fact["path"]) not in known]

    def _with_first_hour(self, state: IngestState, new: list[Fact]) -> IngestState:
        """`first_hour: earliest` is the hour of the first batch's earliest event."""
        if state.open_hour is None and (event_hours := [fact["event_hour"] for fact in new if fact["event_hour"]]):
            return replace(state, open_hour=min(event_hours))
        return state

    def _signals(self, state: IngestState, frontier: Frontier, now: datetime) -> Signals:
        request = self._ledger.history().requested_close()
        return Signals(
            now,
            state.open_hour,
            state.hours,
            state.max_event_time,
            state.max_publish_time,
            frontier,
            request.hour if request else None,
        )

    def _metadata(
        self,
        facts: list[Fact],
        adopted: list[Fact],
        new: list[Fact],
        after: IngestState,
        frontier: Frontier,
        decision: Decision,
        rejected: int,
    ) -> dict[str, Any]:
        counts = [json.loads(fact["counts"]) for fact in new if fact["counts"]]
        mark = watermark(after.max_event_time, self._topic)
        # What was rejected belongs to no hour: it is told with the first that closes after it.
        closed = zip(decision.closed, chain([rejected], repeat(0)), strict=False)
        common = {
            "watermark": mark.isoformat() if mark else None,
            "frontier": frontier.at.isoformat() if frontier.at else None,
        }
        return {
            **common,
            "release": self._settings.release,
            "run": self._run,
            "epochs": sorted({fact["epoch"] for fact in new}),
            "segments": sorted({bronze.segment_of(fact["path"]) for fact in new}),
            "adopted": sorted({bronze.segment_of(fact["path"]) for fact in adopted}),
            "rows": sum(fact["rows"] for fact in new),
            "rejected": sum(fact["rejected"] for fact in new),
            "reasons": _summed(count["reasons"] for count in counts),
            "undeclared": _summed(count["undeclared"] for count in counts),
            "closed": [self._close_details(hour, common, after, rejected) for hour, rejected in closed],
        }

    def _close_details(
        self, hour: ClosedHour, common: Mapping[str, Any], after: IngestState, rejected: int
    ) -> dict[str, Any]:
        request = self._ledger.history().requested_close() if hour.why == "request" else None
        quiet = next(condition for condition in hour.conditions if condition.condition == "quiet")
        return {
            **common,
            "hour": hour.hour,
            "why": hour.why,
            "rows": hour.rows,
            "rejected": rejected,
            "conditions": _as_details(hour.conditions),
            "newest_write": quiet.measured,
            "epoch": after.epoch,
            "release": self._settings.release,
            "requested_by": request.details["by"] if request else None,
            "request_reason": request.details["reason"] if request else None,
        }

    def _is_finished(self, facts: list[Fact], decision: Decision, frontier: Frontier) -> bool:
        """Whether nothing waits, and no hour could close by itself if only we waited a little."""
        is_dry = all(fact["dry_at"] for fact in facts)
        unmet = [reason.condition for reason in decision.held.reasons] if decision.held else []
        waits_for_events = decision.open_hour is None or unmet[:1] == ["time"]
        waits_for_leases = self._settings.frontier.source == "dry" and frontier.at is None
        return is_dry and not decision.closed and waits_for_events and not waits_for_leases

    # --- the ledger, derived from the log ----------------------------------------------------------------------------

    def _record(self, decision: Decision, version: int, metadata: Mapping[str, Any]) -> None:
        for details in metadata["closed"]:
            self._record_close(details, version)

    def _record_close(self, details: Mapping[str, Any], version: int) -> None:
        hour = details["hour"]

        def is_known(history: History) -> bool:
            return history.first("closed", hour) is not None

        self._ledger.record("closed", hour, {**details, "bronze_version": version}, unless=is_known)
        steps.reached("close recorded")

    def _record_missing_closes(self) -> None:
        """A crash may have come between the commit and the ledger, ours or another run's: the log knows what closed.

        It must come before the next close is recorded: the newest in the ledger tells how far to look.
        """
        newest = max(self._ledger.history().hours(), default="")
        missing: list[tuple[int, dict[str, Any]]] = []
        for version, metadata in bronze.ingest_commits(self._bronze):
            missing += [(version, details) for details in metadata["closed"] if details["hour"] > newest]
            if any(details["hour"] <= newest for details in metadata["closed"]):
                break
        for version, details in sorted(missing, key=lambda found: found[1]["hour"]):
            self._record_close(details, version)

    def _record_held(self, decision: Decision, state: IngestState, frontier: Frontier, epoch: int) -> None:
        """When the oldest open hour changes, or what it waits for first."""
        held = decision.held
        key = (held.hour, held.reasons[0].condition) if held else None
        if held is None or key == self._held:
            return
        self._held = key
        mark = watermark(state.max_event_time, self._topic)
        details = {
            "reasons": _as_details(held.reasons),
            "rows": held.rows,
            "watermark": mark.isoformat() if mark else None,
            "frontier": frontier.at.isoformat() if frontier.at else None,
            "newest_write": state.hours[held.hour].last_write.isoformat() if held.hour in state.hours else None,
            "epoch": epoch,
        }
        self._ledger.record("held", held.hour, details)

    def _set_first_hour(self) -> None:
        """Once in a topic's life; `earliest` waits for the first events."""
        state = bronze.newest_state(self._bronze)
        if state.open_hour is not None or self._topic.first_hour == "earliest":
            return
        first = self._topic.first_hour
        opened = replace(state, open_hour=hours.hour_of(self._clock()) if first == "now" else first)
        metadata = {"release": self._settings.release, "run": self._run, "segments": [], "closed": [], "epochs": []}
        zeros = {"rows": 0, "rejected": 0, "reasons": {}, "undeclared": {}, "watermark": None, "frontier": None}
        try:
            bronze.commit_batch(self._bronze, [], opened, {**metadata, **zeros, "adopted": []})
        except ConflictError:
            self._bronze.update_incremental()

    # --- manifests ---------------------------------------------------------------------------------------------------

    def _adoptable(self, state: IngestState, epoch: int, facts: list[Fact]) -> list[Fact]:
        """Facts of segments that some driver made durable and no commit took."""
        mine = {(fact["epoch"], fact["slot"]) for fact in facts}
        listed = listed_manifests(self._storage)
        candidates = [key for key in listed if key not in mine and key[0] <= max(epoch, state.epoch)]
        return self._left_out(self._bronze, candidates) if candidates else []

    def _left_out(self, table: DeltaTable, keys: list[tuple[int, int]]) -> list[Fact]:
        manifests = [read_manifest(self._storage, *key) for key in keys]
        found = [fact for manifest in manifests if manifest for fact in facts_of(manifest).to_pylist()]
        unsettled = [fact for fact in _with_files(found) if bronze.segment_of(fact["path"]) not in self._settled]
        if not unsettled:
            return []
        known = bronze.segments_in_log(table, min(fact["epoch"] for fact in unsettled))
        return [fact for fact in unsettled if bronze.segment_of(fact["path"]) not in known]

    def _clear_manifests(self, epoch: int) -> None:
        """Remove manifests of epochs that Spark cannot plan again, once the log has all their files."""
        past = {key: stored for key, stored in stored_manifests(self._storage).items() if key[0] < epoch - 1}
        waiting = {(fact["epoch"], fact["slot"]) for fact in self._left_out(self._bronze, sorted(past))}
        for key, stored in sorted(past.items()):
            if key not in waiting:
                self._storage.delete_as_listed(stored)
                steps.reached("clean-up half done")
        self._settled = {segment for segment in self._settled if segment >= f"{epoch - 1:012d}"}


def started(ingests: Iterable[TopicIngest], spark: SparkSession) -> dict[TopicIngest, StreamingQuery]:
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
            queries[ingest] = ingest.start(spark)
        else:
            time.sleep(_POLL_SECONDS)


def _is_starting(query: StreamingQuery) -> bool:
    return query.isActive and str(query.status["message"]).startswith("Initializing")


def _planner_was_late(query: StreamingQuery) -> bool:
    return not query.isActive and "Python worker failed to connect back" in str(query.exception())


def run_until_stopped(
    ingests: Mapping[TopicIngest, StreamingQuery], stop: threading.Event, *, until_dry: bool = False
) -> None:
    """Wait for the queries; end them between two triggers when `stop` is set or, `until_dry`, when all are finished.

    Raises what ended a query, in the words of `errors.py` where it is one of ours.
    """
    while not stop.wait(_POLL_SECONDS) and all(query.isActive for query in ingests.values()):
        if until_dry and all(ingest.last_batch and ingest.last_batch.is_finished for ingest in ingests):
            break
    died = [ingest for ingest, query in ingests.items() if not query.isActive]
    for ingest in ingests:
        ingest.pass_over()
    for ingest, query in ingests.items():
        ingest.stop(query)
    for ingest, query in ingests.items():
        if ingest in died or ingest.failure is not None:
            raise _cause(ingest, query)


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


def _frontier_source(
    topic: Topic, settings: Settings, ack_deadline: timedelta, trusted_from: datetime
) -> FrontierSource:
    max_age = settings.frontier.max_age
    if settings.frontier.source == "dry":
        return DryFrontier(ack_deadline, max_age, trusted_from)
    return MonitoringFrontier(topic.subscription, monitoring_client(), max_age, ask_every=_MONITORING_EVERY)


def _with_files(facts: Iterable[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact["path"]]


def _with_rows(state: IngestState, new: list[Fact], slots: int) -> IngestState:
    held = dict(state.hours)
    for fact in new:
        bucket = bucket_of(fact["event_hour"], state.open_hour)
        if bucket is not None:
            before = held.get(bucket, OpenHour(0, fact["written_at"]))
            held[bucket] = OpenHour(before.rows + fact["rows"], max(before.last_write, fact["written_at"]))
    return replace(
        state,
        hours=held,
        max_event_time=_latest([state.max_event_time, *(fact["max_event_time"] for fact in new)]),
        max_publish_time=_latest([state.max_publish_time, *(fact["max_publish_time"] for fact in new)]),
        slots=slots,
        rejected=state.rejected + sum(fact["rejected"] for fact in new),
    )


def _with_closes(state: IngestState, decision: Decision) -> IngestState:
    open_hour = decision.open_hour
    still_open = {hour: held for hour, held in state.hours.items() if open_hour is None or hour >= open_hour}
    rejected = 0 if decision.closed else state.rejected
    return replace(state, open_hour=open_hour, hours=still_open, rejected=rejected)


def _data_file(fact: Fact, open_hour: str | None) -> DataFile:
    bucket = bucket_of(fact["event_hour"], open_hour)
    stats = event_time_stats(fact["min_event_time"], fact["max_event_time"])
    return DataFile(fact["path"], bucket, fact["rows"], fact["size_bytes"], fact["written_at"], stats)


def _latest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((instant for instant in instants if instant is not None), default=None)


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _as_details(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    return [asdict(condition) for condition in conditions]
