"""A bundle: slots of many topics that one task pulls at the same time, none of which holds up another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from pyspark.sql.datasource import InputPartition

from lakehouse.config import Ingest
from lakehouse.crews import Crew
from lakehouse.decode.events import Decoded
from lakehouse.durations import duration_text
from lakehouse.errors import SlowStoreError, unexpected
from lakehouse.landing.brokers.leases import Leases
from lakehouse.landing.brokers.polls import Polled, polled
from lakehouse.landing.brokers.pubsub import PAGE_MESSAGES, SubscriptionReader
from lakehouse.landing.facts import Row, row_of_error, row_of_idle, rows_of_slot
from lakehouse.landing.manifests import Slot, read_manifest
from lakehouse.landing.pull import Budget, Puller, Share, attempt_number
from lakehouse.landing.segments import Decoder
from lakehouse.store.place import Place
from lakehouse.topics import Topic

_UNKNOWN_DEADLINE = timedelta(seconds=10)
"""The shortest that a subscription can have."""
SIDE_BY_SIDE = 4
"""Slots of a bundle that pull, decode and write at the same time: most of it waits for a store."""
_LOOKERS = 16
"""Manifests that are looked for at the same time."""

Key = tuple[str, int]
"""Topic and slot."""


@dataclass
class Bundle(InputPartition):
    """Slots of one epoch that a task pulls, each with its topic's name.

    `is_fresh` says that nobody has planned the epoch before: a manifest that is there is another driver's. `patience`
    is how long the task waits for a slot that has messages before it is reported as failed, None without an end.
    """

    slots: tuple[tuple[str, Slot], ...]
    is_fresh: bool = False
    patience: timedelta | None = None


@dataclass(frozen=True)
class Land:
    """What a task knows of the application: its topics and their raw folders, by name."""

    topic: Callable[[str], Topic]
    raw: Callable[[str], Place]
    ingest: Ingest


def pulled(bundle: Bundle, land: Land, puller: Puller, side_by_side: int = SIDE_BY_SIDE) -> list[Row]:
    """Rows of `FACTS` of every slot, with its topic; a slot that fails is a row with an error.

    With `side_by_side` 0 all is done in this thread, one slot after the other, however long it takes.
    """
    return _Pulling(bundle, land, puller, side_by_side).rows()


class _Pulling:
    """One attempt at a bundle."""

    def __init__(self, bundle: Bundle, land: Land, puller: Puller, side_by_side: int) -> None:
        self._land, self._puller, self._patience = land, puller, bundle.patience
        self._slots: dict[Key, Slot] = {(name, slot.slot): slot for name, slot in bundle.slots}
        self._attempt = attempt_number()
        self._looks_first = not bundle.is_fresh or self._attempt > 0
        self._budget = Budget(land.ingest.max_bytes)
        self._crew: Crew[Key, list[Row]] = Crew(side_by_side, "pull")
        self._readers: dict[Key, SubscriptionReader] = {}
        self._decoder: Decoder | None = None
        self._rows: list[Row] = []

    def rows(self) -> list[Row]:
        with ExitStack() as ends:
            if self._attempt > 0 or any(slot.is_suspect for slot in self._slots.values()):
                self._decoder = _OneAtATime(ends.enter_context(self._puller.quarantine()))
            known = self._slots_with_manifest() if self._looks_first else []
            for key in known:
                self._begin(key, self._share())
            asked = [key for key in self._slots if key not in known]
            if len(asked) == 1:  # nobody waits for it, and its pulls can go ahead of each other
                self._begin(asked[0], self._share(self._reader(asked[0], 0)))
            else:
                self._poll(asked)
            self._wait()
        return self._rows

    def _slots_with_manifest(self) -> list[Key]:
        """Also those of which it cannot be read whether they have one: that is found again where it is reported."""

        def has_manifest(key: Key) -> bool:
            slot = self._slots[key]
            try:
                return read_manifest(self._land.raw(key[0]).files(), slot.epoch, slot.slot) is not None
            except Exception:
                return True

        with ThreadPoolExecutor(min(_LOOKERS, len(self._slots))) as lookers:
            return [
                key for key, found in zip(self._slots, lookers.map(has_manifest, self._slots), strict=True) if found
            ]

    def _poll(self, keys: Sequence[Key]) -> None:
        readers = {key: self._reader(key, number) for number, key in enumerate(keys)}
        messages = min(PAGE_MESSAGES, self._land.ingest.max_messages)
        for key, answer in polled(readers, messages, self._land.ingest.empty_after.total_seconds()):
            self._answer(key, answer)

    def _answer(self, key: Key, answer: Polled) -> None:
        slot, now = self._slots[key], self._puller.clock()
        if answer.error is not None:
            self._add(key, [row_of_error(slot, now, answer.error, self._attempt)])
        elif answer.page is None:
            self._add(key, [row_of_idle(slot, now, answer.drained_at, answer.unanswered_at, self._attempt)])
        else:
            self._begin(key, self._share(self._readers[key], answer))

    def _share(self, reader: SubscriptionReader | None = None, answer: Polled | None = None) -> Share:
        return Share(
            self._budget,
            reader,
            answer.page if answer else None,
            answer.unanswered_at if answer else None,
            self._decoder,
            self._attempt,
            looks_first=self._looks_first,
            keeps_empty=False,
        )

    def _reader(self, key: Key, number: int) -> SubscriptionReader:
        subscription = self._land.topic(key[0]).subscription
        channel = self._puller.channel(subscription, number)
        answers, clock = self._land.ingest.answers, self._puller.clock
        reader = self._puller.connect(subscription, answers=answers, channel=channel, clock=clock)
        self._readers[key] = reader
        return reader

    def _begin(self, key: Key, share: Share) -> None:
        """What was pulled stays leased from here on, also while it waits for its turn."""
        topic, slot = self._land.topic(key[0]), self._slots[key]
        leases = None
        if share.first is not None and share.reader is not None:
            deadline = slot.ack_deadline or _UNKNOWN_DEADLINE
            leases = Leases(share.reader, deadline, (topic.name, f"{slot.epoch}-{slot.slot}"))
            leases.hold(share.first.ack_ids)

        def work() -> list[Row]:
            try:
                storage = self._land.raw(topic.name).files()
                given = share if leases is None else share.holding(leases)
                return rows_of_slot(
                    list(self._puller.parts(topic, self._land.ingest, storage, slot, lambda: None, given))
                )
            except MemoryError:
                raise
            except Exception as error:
                ours = unexpected(self._land.raw(topic.name).uri, error)
                return [row_of_error(slot, self._puller.clock(), ours, self._attempt)]
            finally:
                if leases is not None:
                    leases.stop()

        self._crew.begin(key, work)

    def _wait(self) -> None:
        patience = self._patience or timedelta.max
        for key, rows in self._crew.results(patience.total_seconds()):
            self._add(key, rows)
        for key in self._crew.busy:
            late = _late(self._land.raw(key[0]), patience)
            self._add(key, [row_of_error(self._slots[key], self._puller.clock(), late, self._attempt)])

    def _add(self, key: Key, rows: Sequence[Row]) -> None:
        self._rows += [{**row, "topic": key[0]} for row in rows]


class _OneAtATime:
    """A decoder for several threads of one that is not."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._lock = decoder, threading.Lock()

    def __call__(self, messages: pa.RecordBatch, topic: Topic) -> Decoded:
        with self._lock:
            return self._decoder(messages, topic)


def _late(raw: Place, patience: timedelta) -> SlowStoreError:
    return SlowStoreError(
        raw.uri,
        found=f"a segment that was not durable after {duration_text(patience)}",
        expected="a store that answers",
        next_step="It is tried again by itself, and nothing is lost; see how long requests to that store take.",
    )
