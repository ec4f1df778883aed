"""Ingest: one Structured Streaming query per topic, whose batches become bronze commits that also close hours."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from lakehouse import failpoints, hours
from lakehouse.config import Config, Settings
from lakehouse.durations import written
from lakehouse.errors import SourceError, StaleDriverError
from lakehouse.ingest.buckets import bucket_of
from lakehouse.ingest.checkpoint import set_aside_if_damaged
from lakehouse.ingest.closing import ClosedHour, Condition, Decision, Signals, awaits_frontier, decide
from lakehouse.ingest.frontier import DryFrontier, FrontierSource, MonitoringFrontier, monitoring_client
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.manifests import listed_manifests, read_manifest, stored_manifests
from lakehouse.landing.source import FORMAT, PubSubSource, source_options
from lakehouse.landing.source import facts as facts_of
from lakehouse.progress import Frontier, IngestState, OpenHour, watermark
from lakehouse.store import bronze_log
from lakehouse.store.bronze_log import Segment
from lakehouse.store.delta import ConflictError, Conflicts, DataFile, event_time_stats, open_table, table_exists
from lakehouse.store.files import storage_for
from lakehouse.store.ledger import History, Ledger
from lakehouse.store.tables import bronze_table, folders_of, ledger_table
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

SWEEP_EVERY = 20
"""Batches between two looks at the manifests: adopting what no commit took, clearing away what is long committed."""
_MONITORING_EVERY = timedelta(seconds=30)
_POLL_SECONDS = 0.1
_SETTLED_SECONDS = 2.0
"""How long Spark may take to log a batch that is done, before its query is stopped all the same."""

Fact = dict[str, Any]
"""A row of `FACTS`."""


@dataclass(frozen=True)
class Batch:
    """What one batch came to. `blocked` is why the topic can never be finished, as things stand."""

    epoch: int
    version: int | None
    rows: int
    closed: tuple[ClosedHour, ...]
    is_finished: bool
    blocked: SourceError | None = None


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
        self._given_frontier = frontier
        self._batches = 0
        self._settled: set[Segment] = set()
        self._held: tuple[str, str, str] | None = None
        self._awaited: tuple[datetime | None, datetime] | None = None
        self._has_failed = False
        self._is_open = False
        self._stopping = threading.Event()
        self._batch_under_way = threading.Lock()
        self.failure: BaseException | None = None
        self.last_batch: Batch | None = None

    def start(self, spark: SparkSession) -> StreamingQuery:
        """Start the query, on a topic that is claimed first where that was not done."""
        if not self._is_open:
            self.open_topic(self.ack_deadline())
        set_aside_if_damaged(self._storage, self._topic.name, self._clock())
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

    def start_again(self, spark: SparkSession) -> StreamingQuery:
        """Start the query after a failure; StaleDriverError when a newer run has taken the topic meanwhile."""
        if self._is_open:
            deadline = self.ack_deadline()
            self._check_newest()
            self._watch_frontier(deadline, self._clock() + deadline)
        self.failure = self.last_batch = None
        return self.start(spark)

    @property
    def name(self) -> str:
        return self._topic.name

    def ack_deadline(self) -> timedelta:
        """The subscription's; SourceError when it cannot be read, before anything of the topic is touched."""
        reader = SubscriptionReader(self._topic.subscription, pauses=Pauses(patience=timedelta(seconds=5)))
        try:
            return reader.ack_deadline()
        finally:
            reader.close()

    def open_topic(self, ack_deadline: timedelta) -> None:
        """Tables, the `started` row, the first open hour, and closes that the log has and the ledger has not."""
        self._bronze = bronze_table(self._folders, self._topic, self._options)
        self._ledger = self._opened_ledger(ledger_table(self._folders, self._topic, self._options))
        is_first_run = self._ledger.history().last("started") is None
        self._ledger.record("started", details={"release": self._settings.release, **self._who()})
        failpoints.reached("ingest.started")
        self._record_missing_closes()
        self._recorded_until = bronze_log.newest_state(self._bronze).open_hour
        self._set_first_hour()
        self._is_open = True
        self._watch_frontier(ack_deadline, self._clock() + (timedelta(0) if is_first_run else ack_deadline))

    def record_failure(self, error: BaseException) -> None:
        """Why the topic's query ended or could not start, for those who ask where it stands; once for each reason.

        Nothing is recorded where there is no lake yet, or where a newer run has the topic.
        """
        self._has_failed = True
        if not self._is_open and not table_exists(self._folders.ledger, self._options):
            return
        try:
            ledger = (
                self._ledger if self._is_open else self._opened_ledger(open_table(self._folders.ledger, self._options))
            )
            details = {"error": str(error), **self._who()}
            ledger.record("failed", details=details, unless=lambda history: self._is_told(history, str(error)))
        except Exception as unwritable:  # the failure itself is what matters, and is raised by the caller
            log.warning("ingest: topic=%s its failure is not in the ledger: %s", self._topic.name, unwritable)

    def _is_told(self, history: History, error: str) -> bool:
        started, newest = history.last("started"), history.newest("started", "failed", "recovered")
        is_ours = not self._is_open or (started is not None and started.details["run"] == self._run)
        is_known = newest is not None and newest.state == "failed" and newest.details["error"] == error
        return is_known or not is_ours

    def _opened_ledger(self, table: DeltaTable) -> Ledger:
        return Ledger(table, f"ingest/{self._settings.release}/{self._run}", self._clock)

    def record_stop(self) -> None:
        """That nobody runs the topic from here on; nothing where a newer run has it."""
        try:
            self._ledger.record("stopped", details=self._who(), unless=self._is_another_runs)
        except Exception as unwritable:  # the end of a run waits for nothing
            log.warning("ingest: topic=%s its end is not in the ledger: %s", self._topic.name, unwritable)

    def _is_another_runs(self, history: History) -> bool:
        newest = history.last("started")
        return newest is not None and newest.details["run"] != self._run

    def _who(self) -> dict[str, str]:
        return {"run": self._run, "host": socket.gethostname()}

    def _watch_frontier(self, ack_deadline: timedelta, trusted_from: datetime) -> None:
        self._ack_deadline = ack_deadline
        self._patience = self._settings.frontier.max_age + ack_deadline
        source = self._given_frontier
        self._frontier = source or _frontier_source(self._topic, self._settings, ack_deadline, trusted_from)

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
        if self._has_failed:
            self._ledger.record("recovered", details=self._who())
            self._has_failed = False
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
                failpoints.reached("ingest.offsets_logged")
                # Two drivers on one checkpoint can log one epoch under two numbers; the second is then of nothing.
                if facts := frame.toArrow().to_pylist():
                    self.commit_facts(facts)
                failpoints.reached("ingest.batch_done")
            except BaseException as failure:
                self.failure = failure
                raise

    def _source_options(self) -> dict[str, str]:
        return source_options(self._topic, self._folders.raw, self._settings.ingest, self._options, self._ack_deadline)

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
        state = bronze_log.newest_state(self._bronze)
        if state.open_hour != self._recorded_until:
            self._record_missing_closes()
            self._recorded_until = state.open_hour
        epoch = max(fact["epoch"] for fact in facts)
        adopted = self._adoptable(state, epoch, facts) if self._batches % SWEEP_EVERY == 0 else []
        new = _with_files(self._unknown_to_log(facts, state)) + adopted
        before = self._with_first_hour(state, new)
        after = _with_rows(before, new, slots=len({fact["slot"] for fact in facts}))
        now = self._clock()
        frontier = self._frontier.observe(facts, now)
        signals = self._signals(after, frontier, now)
        decision = decide(signals, self._topic)
        rejected = after.rejected
        after = _with_closes(replace(after, epoch=max(epoch, state.epoch)), decision)
        version = None
        if new or decision.open_hour != state.open_hour:
            files = [_data_file(fact, before.open_hour) for fact in new]
            metadata = self._metadata(facts, adopted, new, after, frontier, decision, rejected)
            failpoints.reached("ingest.decided")
            version = bronze_log.commit_batch(self._bronze, files, after, metadata)
            failpoints.reached("ingest.committed")
            for details in metadata["closed"]:
                self._record_close(details, version)
            self._recorded_until = decision.open_hour
        self._record_held(decision, after, frontier, epoch)
        self._settled.update(bronze_log.segment_of(fact["path"]) for fact in facts + adopted if fact["path"])
        if self._batches % SWEEP_EVERY == SWEEP_EVERY - 1:
            self._clear_manifests(epoch)
        rows = sum(fact["rows"] for fact in new)
        is_dry = all(fact["dry_at"] for fact in facts)
        awaits = is_dry and awaits_frontier(decision, signals, self._topic)
        is_finished = is_dry and not awaits and self._is_finished(decision, frontier)
        return Batch(epoch, version, rows, decision.closed, is_finished, self._blocked(awaits, signals))

    def _unknown_to_log(self, facts: list[Fact], state: IngestState) -> list[Fact]:
        """The facts whose files no commit has taken; a batch that comes again finds none."""
        epoch = min(fact["epoch"] for fact in facts)
        if epoch > state.epoch:
            return facts
        known = bronze_log.segments_in_log(self._bronze, epoch)
        return [fact for fact in facts if not fact["path"] or bronze_log.segment_of(fact["path"]) not in known]

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
            "segments": sorted({bronze_log.segment_of(fact["path"]) for fact in new}),
            "adopted": sorted({bronze_log.segment_of(fact["path"]) for fact in adopted}),
            "rows": sum(fact["rows"] for fact in new),
            "rejected": sum(fact["rejected"] for fact in new),
            "reasons": _summed(count["reasons"] for count in counts),
            "undeclared": _summed(count["undeclared"] for count in counts),
            "unacknowledged": sum(fact["unacknowledged"] or 0 for fact in facts),
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

    def _is_finished(self, decision: Decision, frontier: Frontier) -> bool:
        """Whether no hour of a dry topic could close by itself if only we waited a little."""
        unmet = [reason.condition for reason in decision.held.reasons] if decision.held else []
        waits_for_events = decision.open_hour is None or unmet[:1] == ["time"]
        waits_for_leases = self._settings.frontier.source == "drained" and frontier.at is None
        return not decision.closed and waits_for_events and not waits_for_leases

    def _blocked(self, awaits: bool, signals: Signals) -> SourceError | None:
        """When the frontier alone has kept a dry topic's hour open, and has not moved, for longer than it may."""
        if not awaits:
            self._awaited = None
            return None
        if self._awaited is None or self._awaited[0] != signals.frontier.at:
            self._awaited = signals.frontier.at, signals.now
        if signals.now - self._awaited[1] <= self._patience:
            return None
        return SourceError(
            f"topic {self._topic.name}: {signals.open_hour}",
            found=f"for {written(self._patience)} no frontier that lets it close: {signals.frontier.text}",
            expected="to hear that everything published until its end and lateness is consumed",
            next_step="Mend what it says (Cloud Monitoring needs roles/monitoring.viewer), or use `lakehouse close`.",
        )

    # --- the ledger, derived from the log ----------------------------------------------------------------------------

    def _record_close(self, details: Mapping[str, Any], version: int) -> None:
        hour = details["hour"]

        def is_known(history: History) -> bool:
            return history.first("closed", hour) is not None

        self._ledger.record("closed", hour, {**details, "bronze_version": version}, unless=is_known)
        failpoints.reached("ingest.close_recorded")

    def _record_missing_closes(self) -> None:
        """A crash may have come between the commit and the ledger, ours or another run's: the log knows what closed.

        It must come before the next close is recorded: the newest in the ledger tells how far to look.
        """
        newest = max(self._ledger.history().hours(), default="")
        missing: list[tuple[int, dict[str, Any]]] = []
        for version, metadata in bronze_log.ingest_commits(self._bronze):
            missing += [(version, details) for details in metadata["closed"] if details["hour"] > newest]
            if any(details["hour"] <= newest for details in metadata["closed"]):
                break
        for version, details in sorted(missing, key=lambda found: found[1]["hour"]):
            self._record_close(details, version)

    def _record_held(self, decision: Decision, state: IngestState, frontier: Frontier, epoch: int) -> None:
        """When the oldest open hour changes, or what it waits for first, or what is known of the backlog."""
        held = decision.held
        if held is None:
            return
        is_behind = any(reason.condition == "backlog" for reason in held.reasons)
        problem = (frontier.problem or "unknown") if frontier.at is None else None
        key = held.hour, held.reasons[0].condition, (problem or "behind") if is_behind else ""
        if key == self._held:
            return
        self._held = key
        mark = watermark(state.max_event_time, self._topic)
        details = {
            "reasons": _as_details(held.reasons),
            "rows": held.rows,
            "watermark": mark.isoformat() if mark else None,
            "frontier": frontier.at.isoformat() if frontier.at else None,
            "frontier_text": frontier.text,
            "problem": problem if is_behind else None,
            "newest_write": state.hours[held.hour].last_write.isoformat() if held.hour in state.hours else None,
            "epoch": epoch,
        }
        self._ledger.record("held", held.hour, details)

    def _set_first_hour(self) -> None:
        """Once in a topic's life; `earliest` waits for the first events."""
        state = bronze_log.newest_state(self._bronze)
        if state.open_hour is not None or self._topic.first_hour == "earliest":
            return
        first = self._topic.first_hour
        opened = replace(state, open_hour=hours.hour_of(self._clock()) if first == "now" else first)
        metadata = {"release": self._settings.release, "run": self._run, "segments": [], "closed": [], "epochs": []}
        zeros = {"rows": 0, "rejected": 0, "reasons": {}, "undeclared": {}, "watermark": None, "frontier": None}
        try:
            bronze_log.commit_batch(self._bronze, [], opened, {**metadata, **zeros, "adopted": []})
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
        unsettled = [fact for fact in _with_files(found) if bronze_log.segment_of(fact["path"]) not in self._settled]
        if not unsettled:
            return []
        known = bronze_log.segments_in_log(table, min(fact["epoch"] for fact in unsettled))
        return [fact for fact in unsettled if bronze_log.segment_of(fact["path"]) not in known]

    def _clear_manifests(self, epoch: int) -> None:
        """Remove manifests of epochs that Spark cannot plan again, once the log has all their files."""
        past = {key: stored for key, stored in stored_manifests(self._storage).items() if key[0] < epoch - 1}
        waiting = {(fact["epoch"], fact["slot"]) for fact in self._left_out(self._bronze, sorted(past))}
        for key, stored in sorted(past.items()):
            if key not in waiting:
                self._storage.delete_as_listed(stored)
                failpoints.reached("ingest.manifests_half_cleared")
        self._settled = {segment for segment in self._settled if segment >= f"{epoch - 1:012d}"}


def _frontier_source(
    topic: Topic, settings: Settings, ack_deadline: timedelta, trusted_from: datetime
) -> FrontierSource:
    max_age = settings.frontier.max_age
    if settings.frontier.source == "drained":
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
