"""One topic as a run of ingest has it: claimed, polled, committed; and how it is, for others to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

from lakehouse.clock import Clock, now
from lakehouse.config import Config
from lakehouse.errors import StaleDriverError
from lakehouse.hours import Hour
from lakehouse.ingest.adoption import SWEEP_EVERY
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.claim import ClaimedTopic, claim
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.frontier import FrontierSource
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.positions import next_stride
from lakehouse.landing.brokers.catalogue import broker_of
from lakehouse.landing.manifests import PART_STRIDE
from lakehouse.landing.plan import TopicPlan, next_slots
from lakehouse.store.heartbeats import Pulse, TopicState
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

_SOURCE_PATIENCE = timedelta(seconds=5)
"""For a source to answer at the start."""
_NO_LOAD = 0.0001
"""Of a slot that is full: a topic that brings less is idle."""


class TopicIngest:
    """One topic's ingest run. Batches come one at a time, from whichever thread.

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
        self._slots = 0
        self._stride = config.settings.ingest.max_messages
        self._load = 0.0
        self.last_batch: Batch | None = None
        self.pulse = Pulse(subscription=topic.reads.address, state="starting", since=clock())
        """How the topic is; a new value with each change, so that another thread may read it."""

    @property
    def name(self) -> str:
        return self.topic.name

    def ack_deadline(self) -> timedelta:
        """How long its source keeps messages back for a reader.

        SourceError when it cannot be read, before anything of the topic is touched.
        """
        broker = broker_of(self.topic.reads.kind)
        return broker.lease(self.topic, self._config.settings.ingest, _SOURCE_PATIENCE)

    def open_topic(self, ack_deadline: timedelta) -> None:
        """Claim the topic, see `claim`."""
        self._ack_deadline = ack_deadline
        broker = broker_of(self.topic.reads.kind)
        self._claimed = claim(
            self.topic,
            self._config,
            run=self._run,
            ack_deadline=ack_deadline,
            clock=self._clock,
            frontier=self._frontier,
            sweep_every=self._sweep_every,
            log_start=partial(broker.start, self.topic, self._config.settings.ingest) if broker.is_log else None,
        )

    @property
    def is_claimed(self) -> bool:
        return self._claimed is not None

    def plan(self) -> TopicPlan:
        """How it is polled next; the topic must be claimed."""
        deadline = self._ack_deadline.total_seconds() if self._ack_deadline else None
        claimed = self._claim()
        slots = self._slots or next_slots(claimed.last_slots, self.topic.slots, [])
        read_from = claimed.read_from()
        place = replace(read_from, stride=self._stride).as_json() if read_from else None
        return TopicPlan(slots, round(self._load, 4), claimed.open_hour, deadline, claimed.last_used, read_from=place)

    def remind(self) -> None:
        """Look into the ledger with the next batch: somebody has written to it."""
        self._claim().remind()

    def miss(self, facts: Sequence[Fact]) -> None:
        """An epoch's facts that no batch is made of."""
        self._claim().miss(facts)

    def look(self, facts: Sequence[Fact]) -> bool:
        """Whether the batch is done without a request to the store; False when it takes a commit, or a failure to end.

        The facts are those of an epoch, at least one for each slot.
        """
        self._note_load(facts)
        batch = None if self._has_failed else self._claim().look(facts)
        if batch is None:
            return False
        self.last_batch = batch
        if not any(fact.get("error") for fact in facts):
            self._note_batch(batch)
        return True

    def commit_facts(self, facts: Sequence[Fact]) -> Batch:
        """Commit one epoch's facts, see `ClaimedTopic.commit`; the topic must be claimed."""
        batch = self.last_batch = self._claim().commit(facts)
        if not any(fact.get("error") for fact in facts):
            if self._has_failed:
                self._journal.record_recovery()
                self._has_failed = False
            self._note_batch(batch)
        if batch.closed:
            self._on_closed([closed.hour for closed in batch.closed])
        return batch

    def check_newest(self) -> None:
        """StaleDriverError when a newer run has taken the topic."""
        self._claim().check_newest()

    def record_failure(self, error: BaseException, tried_again_in: timedelta | None = None) -> None:
        """Why the topic cannot go on or could not start, see `Journal.record_failure`; None: nobody tries again."""
        self._has_failed = True
        self.note_failure(error, tried_again_in)
        self._journal.record_failure(error, has_claimed=self._claimed is not None)

    def note_failure(self, error: BaseException, tried_again_in: timedelta | None) -> None:
        """The same for the heartbeat alone: for a topic whose store does not answer."""
        at = self._clock()
        state: TopicState = "parked" if self.last_batch else "failed at start"
        state = "taken over" if isinstance(error, StaleDriverError) else state
        next_try_at = None if tried_again_in is None else at + tried_again_in
        self.pulse = self.pulse.after_failure(state, at, str(error), next_try_at)

    def record_stop(self) -> None:
        """That nobody runs the topic from here on, see `Journal.record_stop`."""
        self.pulse = self.pulse.after_change("ended", self._clock())
        if self._claimed is not None:  # else there may be no lake yet, and this must not make one
            self._journal.record_stop()

    def _claim(self) -> ClaimedTopic:
        if self._claimed is None:
            raise ValueError(f"topic {self.name} is not claimed")
        return self._claimed

    def _note_batch(self, batch: Batch) -> None:
        self.last_batch = batch
        self.pulse = self.pulse.after_trigger(self._clock(), batch.epoch, batch.frontier, self._claim().version)

    def _note_load(self, facts: Sequence[Fact]) -> None:
        """How many slots the next epoch is to have, and how much each of them brought."""
        slots: dict[int, list[Fact]] = {}
        for fact in facts:
            slots.setdefault(fact["slot"] % PART_STRIDE, []).append(fact)
        ends = [(bool(rows[-1]["full"]), rows[-1]["dry_at"] is not None) for rows in slots.values()]
        self._slots = next_slots(self._slots or len(slots), self.topic.slots, ends)
        self._stride = next_stride(self._stride, self._config.settings.ingest.max_messages, facts)
        brought = max(map(self._share, slots.values()), default=0.0)
        load = max(brought, float(any(is_full for is_full, _ in ends)))
        self._load = load if load > self._load / 2 else self._load / 2
        if self._load < _NO_LOAD:
            self._load = 0.0

    def _share(self, facts: Sequence[Fact]) -> float:
        """Of what a slot may bring: in messages or in bytes, whichever is more."""
        bounds = self._config.settings.ingest
        messages, size_bytes = (sum(fact.get(name) or 0 for fact in facts) for name in ("rows", "pulled_bytes"))
        return max(messages / bounds.max_messages, size_bytes / bounds.max_bytes)
