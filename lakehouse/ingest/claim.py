"""A topic that a run of ingest has claimed: its facts become bronze commits, and their closes ledger rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from lakehouse import failpoints, hours
from lakehouse.clock import Clock, Replayed, now
from lakehouse.config import Config
from lakehouse.durations import duration_text
from lakehouse.errors import ConfigError
from lakehouse.ingest.adoption import SWEEP_EVERY, Manifests
from lakehouse.ingest.batch import Batch, BatchPlan, Observed, metadata_of, plan
from lakehouse.ingest.beginning import Beginning, LogStart
from lakehouse.ingest.closing import MAX_CLOSES_PER_BATCH
from lakehouse.ingest.facts import Fact, segments_of, with_files
from lakehouse.ingest.frontier import (
    ClockCheck,
    DrainedFrontier,
    FrontierSource,
    MonitoringFrontier,
    PositionFrontier,
    project_samples,
    seconds_since_boot,
    store_ahead,
)
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.positions import LogPlace, settled, with_positions
from lakehouse.ingest.waits import Waits
from lakehouse.landing.manifests import PART_STRIDE
from lakehouse.progress import IngestState, ReadFrom
from lakehouse.store import bronze_log
from lakehouse.store.bronze_head import Head
from lakehouse.store.bronze_log import Bronze
from lakehouse.store.delta import Conflicts
from lakehouse.store.notes import leave_note
from lakehouse.store.table_log import ConflictError
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

_MONITORING_EVERY = timedelta(seconds=30)

_UPDATE_EVERY = timedelta(seconds=30)
"""How often bronze is read for what others committed, where no commit of ours meets it first as a conflict."""

FARTHEST_FIRST_HOUR = timedelta(days=31)
"""A first hour that is further ahead is taken for a typing error: until then every event would be skewed into it."""


def claim(
    topic: Topic,
    config: Config,
    *,
    run: str,
    ack_deadline: timedelta,
    clock: Clock = now,
    frontier: FrontierSource | None = None,
    sweep_every: int = SWEEP_EVERY,
    log_start: LogStart | None = None,
) -> ClaimedTopic:
    """Take the topic over: tables, the `started` row, the first open hour, and closes that only the log has.

    `log_start` is where a log is read from, None for a queue. From then on older runs stop with StaleDriverError.
    ConfigError when `first_hour` is far in the future; LakeError when tables cannot be created, or the log has lost the
    topic's state.
    """
    tables = TopicTables(topic, config.settings)
    _check_first_hour(topic, clock())
    bronze = Head(tables.ensure_bronze_log())
    journal = Journal(tables, run, clock)
    is_first_run = journal.take_over()
    failpoints.reach("ingest.started")
    leave_note(config.settings, journal.former_application, topic.name)
    state = bronze.state()
    journal.record_missing_closes(bronze.log, state)
    beginning = Beginning(tables, bronze, run=run, clock=clock, log_start=log_start)
    claimed = ClaimedTopic(
        tables,
        bronze,
        journal,
        Manifests(tables.raw.files(), sweep_every),
        beginning,
        run=run,
        clock=clock,
        frontier=frontier,
        recorded_until=state.open_hour,
    )
    beginning.set_first_hour()
    beginning.set_first_positions()
    claimed.watch_frontier(ack_deadline, clock() + (timedelta(0) if is_first_run else ack_deadline))
    return claimed


def _check_first_hour(topic: Topic, now: datetime) -> None:
    first = topic.first_hour
    if first not in ("now", "earliest") and hours.start_of(first) > now + FARTHEST_FIRST_HOUR:
        raise ConfigError(
            f"topic {topic.name}: first_hour",
            found=f"{first}, more than {duration_text(FARTHEST_FIRST_HOUR)} ahead",
            expected="an hour that is over, or that comes soon",
            next_step="Correct it in conf/topics: all events before it would be delivered in that hour.",
        )


class ClaimedTopic:
    """Commits batches, one at a time, as long as no newer run claims the topic."""

    def __init__(
        self,
        tables: TopicTables,
        bronze: Head,
        journal: Journal,
        manifests: Manifests,
        beginning: Beginning,
        *,
        run: str,
        clock: Clock,
        frontier: FrontierSource | None,
        recorded_until: str | None,
    ) -> None:
        self._tables, self._bronze, self._journal, self._manifests = tables, bronze, journal, manifests
        self._beginning = beginning
        self._run, self._clock, self._given_frontier = run, clock, frontier
        self._frontier: FrontierSource | None = frontier
        self._missed: list[Fact] = []
        self._waits = Waits(tables.topic, tables.settings.frontier)
        self._clock_check: ClockCheck | None = None
        self._recorded_until = recorded_until
        self._updated_at = clock()
        self._is_reminded = False
        self._last_used = manifests.last_epoch()
        self.place = LogPlace()
        """Where the run is in a log."""

    @property
    def _topic(self) -> Topic:
        return self._tables.topic

    def check_newest(self) -> None:
        """StaleDriverError when a newer run has claimed the topic."""
        self._journal.check_newest()

    @property
    def open_hour(self) -> str | None:
        """As of the last look at the log."""
        return self._bronze.state().open_hour

    @property
    def version(self) -> int:
        """Of bronze, as of the last look at the log."""
        return self._bronze.log.version

    @property
    def last_used(self) -> int:
        """The last epoch that the topic has used, as far as a manifest or the log tells, or a batch of this run."""
        return max(self._last_used, self._bronze.state().epoch)

    @property
    def last_slots(self) -> int:
        """Those of the last epoch that was committed; 0 before the first."""
        return self._bronze.state().slots

    def read_from(self) -> ReadFrom | None:
        """Where the next epoch begins in a log; None for a queue."""
        return self.place.read_from(self._bronze.state()) if self._beginning.is_log else None

    def remind(self) -> None:
        """Ask the store with the next batch, whatever it brings: something may have been requested or left out."""
        self._is_reminded = True
        self._manifests.demand_sweep()

    def watch_frontier(self, ack_deadline: timedelta, trusted_from: datetime) -> None:
        """From a new start on; before `trusted_from` a drained subscription proves nothing."""
        self._waits.ack_deadline = ack_deadline
        self._frontier = self._given_frontier or self._frontier_source(ack_deadline, trusted_from)

    def _frontier_source(self, ack_deadline: timedelta, trusted_from: datetime) -> FrontierSource:
        settings, max_age = self._tables.settings, self._tables.settings.frontier.max_age
        if self._beginning.is_log:
            return PositionFrontier(lambda: self.place.reached, max_age, self._checked_clock())
        if settings.frontier.source == "drained":
            return DrainedFrontier(ack_deadline, max_age, trusted_from, self._checked_clock())
        subscription = self._topic.subscription
        samples = project_samples(subscription, max_age, _MONITORING_EVERY)
        return MonitoringFrontier(subscription, None, max_age, ask_every=_MONITORING_EVERY, samples=samples)

    def _checked_clock(self) -> ClockCheck:
        if self._clock_check is None:  # at the claim, whose row the store has just taken
            ledger = self._journal.ledger
            ahead = store_ahead(self._tables.sealed.below("ledger").files(), ledger.version, self._clock)
            # A replayed day goes on in leaps: it is its own steady clock.
            steady = self._clock.seconds if isinstance(self._clock, Replayed) else seconds_since_boot
            self._clock_check = ClockCheck(steady, store_ahead=ahead)
        return self._clock_check

    def look(self, facts: Sequence[Fact]) -> Batch | None:
        """What comes of an epoch to which nothing is to be committed; None when the store must be asked or written to.

        It needs no request: what the log and the ledger had at the last batch is known.
        """
        state, now = self._bronze.state(), self._clock()
        knows_all = not self._is_reminded and state.open_hour == self._recorded_until
        if not knows_all or with_files(facts) or self._manifests.is_sweep_due(now):
            return None
        epoch = max(fact["epoch"] for fact in facts)
        self.place.note(settled(state.positions, facts))
        batch_plan = plan(state, epoch, [], [], self._observe(facts), self._topic, slots=_slots(facts))
        if batch_plan.is_change or self._journal.is_news(batch_plan):
            return None
        self._last_used = max(self._last_used, epoch)
        self._waits.note(batch_plan)
        return self._waits.result(batch_plan, facts, None)

    def commit(self, facts: Sequence[Fact]) -> Batch:
        """Commit one epoch's facts; repeated, it changes nothing.

        StaleDriverError when a newer run has started; LakeError when the commit meets one conflict after the other.
        """
        started = time.monotonic()
        epoch = max(fact["epoch"] for fact in facts)
        self._last_used = max(self._last_used, epoch)
        batch = more = self._commit_facts(facts, epoch)
        while len(more.closed) == MAX_CLOSES_PER_BATCH:
            more = self._commit_facts([], epoch)
            batch = replace(batch, version=more.version or batch.version, closed=batch.closed + more.closed)
        if batch.version is not None:
            log.info(
                "ingest: topic=%s epoch=%d rows=%d closed=%s seconds=%.2f",
                *(self._topic.name, batch.epoch, batch.rows, ",".join(hour.hour for hour in batch.closed) or "-"),
                time.monotonic() - started,
            )
        return batch

    def _commit_facts(self, facts: Sequence[Fact], epoch: int) -> Batch:
        """One commit, on the state that the log has then; of no facts, when only more hours are to close."""
        self._is_reminded = False
        self.check_newest()
        self._beginning.accept_loss(self._journal, self.place)
        conflicts = Conflicts(self._tables.raw.below("bronze").uri)
        if self._clock() >= self._updated_at + _UPDATE_EVERY:
            self.update()
        while True:
            batch_plan = self._plan(facts, epoch)
            if batch_plan.decision.closed and facts and not self._manifests.is_sweep_due(self._clock()):
                self._manifests.demand_sweep()  # what was left out of the hour still belongs to it
                batch_plan = self._plan(facts, epoch)
            try:
                version = self._commit(batch_plan, facts) if batch_plan.is_change else None
                break
            except ConflictError as conflict:
                self.check_newest()
                conflicts.meet(conflict)
                self.update()
        self._journal.record_held(batch_plan)
        if facts:
            now, done = self._clock(), [*facts, *batch_plan.adopted]
            self._manifests.positions = self._bronze.state().positions
            self._manifests.batch_done(self._bronze.log, batch_plan.epoch, done, now)
        self._waits.note(batch_plan)
        return self._waits.result(batch_plan, facts, version)

    def update(self) -> None:
        """See what others have committed to bronze: a replay, a removal, another run."""
        self._bronze.update()
        self._updated_at = self._clock()

    def miss(self, facts: Sequence[Fact]) -> None:
        """The frontier hears of these with the next batch: what is leased of them is not consumed."""
        self._missed += facts

    def _plan(self, facts: Sequence[Fact], epoch: int) -> BatchPlan:
        state = self._bronze.state()
        if state.open_hour != self._recorded_until:
            self._journal.record_missing_closes(self._bronze.log, state)
            self._recorded_until = state.open_hour
        last, now = max(epoch, state.epoch), self._clock()
        self._manifests.positions = state.positions
        left_out = self._manifests.adoptable(self._bronze.log, last, facts, now) if facts else []
        result = settled(state.positions, [*left_out, *unknown_to_log(self._bronze.log, facts, state)])
        self.place.note(result)
        adopted = [fact for fact in result.facts if fact in left_out]
        new = with_files(fact for fact in result.facts if fact not in left_out)
        state = with_positions(state, result)
        return plan(state, epoch, new, adopted, self._observe(facts), self._topic, slots=_slots(facts))

    def _observe(self, facts: Sequence[Fact]) -> Observed:
        assert self._frontier is not None
        now = self._clock()
        missed, self._missed = self._missed, []
        frontier = self._frontier.observe([*missed, *facts], now)
        return Observed(now, frontier, self._journal.request(), self._waits.quiet_since)

    def _commit(self, batch_plan: BatchPlan, facts: Sequence[Fact]) -> int:
        metadata = metadata_of(
            batch_plan,
            self._topic,
            release=self._tables.settings.release,
            run=self._run,
            # Of all that the epoch pulled: a segment without files, or one that the log has, may have some, too.
            unacknowledged=sum(fact["unacknowledged"] or 0 for fact in facts),
        )
        failpoints.reach("ingest.decided")
        version = self._bronze.commit(batch_plan.files, batch_plan.state, metadata)
        failpoints.reach("ingest.committed")
        self._journal.record_closes(metadata["closed"], version)
        self._recorded_until = batch_plan.state.open_hour
        return version


def _slots(facts: Sequence[Fact]) -> int | None:
    """How many were pulled, parts of one counted once; None without any."""
    return len({fact["slot"] % PART_STRIDE for fact in facts}) or None


def unknown_to_log(bronze: Bronze, facts: Sequence[Fact], state: IngestState) -> list[Fact]:
    """The facts whose files no commit has taken; a batch that comes again finds none."""
    epoch = min((fact["epoch"] for fact in facts), default=state.epoch + 1)
    if epoch > state.epoch:
        return list(facts)
    known = bronze_log.segments_in_log(bronze, epoch)
    return [fact for fact in facts if not segments_of([fact]) or not segments_of([fact]) <= known]
