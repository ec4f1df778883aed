"""Spark's part, played in one process: what it does with the source and with `foreachBatch`, and its two logs.

A death is an exception that nothing catches; the run is abandoned there, without any clean-up, and its leases end by
the broker's clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.clock import Clock
from lakehouse.crash.checkpoints import Log
from lakehouse.crash.world import ACK_DEADLINE, World
from lakehouse.decode.events import decode
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.checkpoint import FOLDER, set_aside_if_damaged
from lakehouse.ingest.frontier import FrontierSource
from lakehouse.ingest.query import TopicIngest
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.manifests import Slot
from lakehouse.landing.pull import Puller
from lakehouse.landing.source import SegmentStream, source_options
from lakehouse.progress import Frontier
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.schemas import FACTS
from lakehouse.store.files import storage_for
from lakehouse.topics import Topic


class Death(BaseException):
    """SIGKILL, as far as one process can play it."""


class Driver:
    """One life of a topic's ingest query: the checkpoint's two logs, and what Spark calls between them."""

    def __init__(self, world: World, topic: Topic, checkpoint: Path, run: str, chance: random.Random) -> None:
        settings = world.config.settings
        bounds = settings.ingest.model_copy(update={"max_messages": chance.choice([3, 8, 50])})
        raw = world.tables.raw
        self._options = source_options(topic, raw.uri, bounds, raw.options)
        config = replace(world.config, topics={topic.name: topic})
        self._world, self._checkpoint, self.run = world, checkpoint, run
        self.frontier = _Remembered(world.frontier())
        self._ingest = TopicIngest(
            topic, config, run=run, clock=lambda: world.now, frontier=self.frontier, sweep_every=world.sweep_every
        )
        self._offsets, self._commits = (Log(checkpoint / FOLDER / name) for name in ("offsets", "commits"))
        self._puller = hasty_puller(world.broker)
        self._stream = SegmentStream(self._options, self._puller)
        self._batch: int | None = None
        self._end: dict[str, Any] | None = None
        self.slot: Slot | None = None

    @property
    def last_batch(self) -> Batch | None:
        return self._ingest.last_batch

    def open(self) -> None:
        """As `TopicIngest.start` does."""
        self._ingest.open_topic(ACK_DEADLINE)
        storage = storage_for(str(self._checkpoint))
        set_aside_if_damaged(storage, self._ingest.name, self._world.now)
        storage.put_if_absent(f"{FOLDER}/metadata", b'{"id":"the query"}')

    def batch(self) -> None:
        """One trigger; the first one of a life may be the last one of another that was not finished."""
        number, start, end = self._plan()
        if start is None:
            start = self._stream.initialOffset()
        slots = [slot for slot in self._stream.partitions(start, end) if isinstance(slot, Slot)]
        frame: Any = _Frame(lambda: [batch for slot in slots for batch in self._read(slot)])
        self._ingest.on_batch(frame, number)
        self._commits.put(number)
        self._batch, self._end = number, end

    def read_again(self) -> None:
        """Another attempt at the slot that is being read, on another executor."""
        assert self.slot is not None
        list(SegmentStream(self._options, self._puller).read(self.slot))

    def _plan(self) -> tuple[int, dict[str, Any] | None, dict[str, Any]]:
        """The batch's number, start and end: the next one, or at first the one that has no entry in the commit log."""
        if self._batch is None and (last := self._offsets.latest()) is not None:
            number, end = last
            if not self._commits.has(number):
                return number, self._offsets.read(number - 1), end
            self._stream.partitions(end, end)
            self._batch, self._end = number, end
        number = -1 if self._batch is None else self._batch
        following = self._stream.latestOffset()
        self._offsets.put(number + 1, following)
        return number + 1, self._end, following

    def _read(self, slot: Slot) -> Iterator[pa.RecordBatch]:
        self.slot = slot
        for batch in self._stream.read(slot):
            # What an executor writes, it writes by the world's clock.
            place = batch.schema.get_field_index("written_at")
            written_at = pa.array([self._world.now] * len(batch), batch.schema.field(place).type)
            yield batch.set_column(place, batch.schema.field(place), written_at)
        self.slot = None


class _Remembered:
    """A source of the frontier, and what it said last."""

    def __init__(self, source: FrontierSource) -> None:
        self._source = source
        self.newest: Frontier | None = None

    def observe(self, facts: Iterable[Mapping[str, Any]], now: datetime) -> Frontier:
        self.newest = self._source.observe(facts, now)
        return self.newest


class _Frame:
    """The part of a DataFrame that a batch uses: reads happen when it is collected."""

    def __init__(self, batches: Callable[[], list[pa.RecordBatch]]) -> None:
        self._batches = batches

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches(self._batches(), FACTS)


def hasty_puller(broker: Broker) -> Puller:
    """One whose calls reach the broker directly, with short pauses and small requests.

    After a death it decodes in this process: no message here kills a decoder, and a process takes a second.
    """
    return Puller(connect=partial(_hasty_reader, broker), quarantine=lambda: nullcontext(decode))


def _hasty_reader(broker: Broker, subscription: str, answers: str, clock: Clock) -> SubscriptionReader:
    pauses = Pauses(timedelta(seconds=0.0005), timedelta(seconds=0.001))
    channel: Any = DirectChannel(broker)
    return SubscriptionReader(subscription, answers=answers, channel=channel, pauses=pauses, max_ack_ids=3, clock=clock)
