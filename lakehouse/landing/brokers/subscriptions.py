"""Pub/Sub as landing reads it: subscriptions are polled together, pages are leased, and acknowledged when durable."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pyarrow as pa

from lakehouse.clock import Clock, now
from lakehouse.config import Ingest
from lakehouse.errors import SourceError
from lakehouse.landing.brokers.answers import Page
from lakehouse.landing.brokers.channel import shared_channel
from lakehouse.landing.brokers.contract import Bounds, Ended, Idle, Key, Reading, Refused, Wanted
from lakehouse.landing.brokers.leases import Leases
from lakehouse.landing.brokers.polls import Polled, polled
from lakehouse.landing.brokers.pubsub import PAGE_MESSAGES, Pauses, PendingPull, SubscriptionReader
from lakehouse.progress import Positions, ReadFrom
from lakehouse.sources import Source, SubscriptionSource
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

_PULLS_AHEAD = 3
"""Pulls that are under way at a time: a pull takes tens of milliseconds, in which pages can be decoded."""
_LARGEST_PAGE_BYTES = 10 * 1024**2
"""Pub/Sub's largest message, which comes alone."""
_MOST_PARTS = 100
"""Parts of a slot: each has a manifest and files of its own."""
_UNKNOWN_LEASE = timedelta(seconds=10)
"""The shortest that a subscription can have."""


@dataclass(frozen=True)
class PubSub:
    """The broker of kind `pubsub`.

    `channel` gives the channel of the nth subscription of those that a task asks at the same time.
    """

    connect: Callable[..., SubscriptionReader] = SubscriptionReader
    channel: Callable[[str, int], Any] = shared_channel

    is_log: ClassVar[bool] = False

    def lease(self, topic: Topic, ingest: Ingest, patience: timedelta | None = None) -> timedelta:
        """The subscription's ack deadline."""
        pauses = Pauses(patience=patience) if patience else None
        reader = SubscriptionReader(topic.subscription, answers=ingest.answers, pauses=pauses)
        try:
            return reader.ack_deadline()
        finally:
            reader.close()

    def start(self, topic: Topic, ingest: Ingest, known: ReadFrom | None = None) -> Positions | None:
        """None: a subscription knows by itself what was acknowledged."""
        return None

    def readings(
        self, wanted: Mapping[Key, Wanted], ingest: Ingest, clock: Clock, page_messages: int
    ) -> Iterator[tuple[Key, Reading | Idle | SourceError]]:
        """A page of each, or that nothing came within `ingest.empty_after`."""
        readers = {key: self._reader(each, ingest, clock, number) for number, (key, each) in enumerate(wanted.items())}
        messages = min(page_messages, ingest.max_messages)
        for key, answer in polled(readers, messages, ingest.empty_after.total_seconds()):
            if answer.error is not None:
                yield key, answer.error
            elif answer.page is None:
                yield key, Idle(answer.drained_at, answer.unanswered_at)
            else:
                yield key, SubscriptionReading(readers[key], wanted[key], answer)

    def reading(self, wanted: Wanted, ingest: Ingest, clock: Clock) -> Reading:
        return SubscriptionReading(self._reader(wanted, ingest, clock, 0), wanted)

    def peek(self, source: Source, ingest: Ingest, most: int, seconds: float) -> pa.RecordBatch:
        """Each counts as one delivery attempt, and comes again at once."""
        assert isinstance(source, SubscriptionSource)
        return peek(source.subscription, most, seconds, answers=ingest.answers)

    def _reader(self, wanted: Wanted, ingest: Ingest, clock: Clock, number: int) -> SubscriptionReader:
        subscription = wanted.topic.subscription
        channel = self.channel(subscription, number)
        return self.connect(subscription, answers=ingest.answers, channel=channel, clock=clock)


class SubscriptionReading:
    """One part of a slot. What it has pulled is leased until it is acknowledged or given back.

    `polled` is a page that was pulled for it before: leased from here on, also while it waits for its turn.
    """

    def __init__(self, reader: SubscriptionReader, wanted: Wanted, polled: Polled | None = None) -> None:
        self._reader, self._wanted = reader, wanted
        self._first = polled.page if polled else None
        self._unanswered_at: datetime | None = polled.unanswered_at if polled else None
        self._drained_at: datetime | None = None
        self._is_full = self._has_keys = False
        self._bounds: Bounds | None = None
        self._leases: Leases | None = None
        if self._first is not None:
            self._leases = self._lease_for(wanted.slot.ack_deadline or _UNKNOWN_LEASE)
            self._leases.hold(self._first.ack_ids)

    def pages(self, bounds: Bounds) -> Iterator[Page]:
        """Pages until a bound of the slot is reached or nothing comes.

        Some pulls are under way while their predecessors' pages are decoded. When one comes back empty no more are
        sent; if all that are out come back empty, too, nothing waited when the last of them was sent. That is known
        only if each was answered, and if none of this slot's messages has an ordering key that others may wait for.
        """
        self._bounds = bounds
        leases, messages_left = self._leased(), bounds.messages
        out: deque[tuple[int, PendingPull]] = deque()
        empty: list[PendingPull] = []
        try:
            if (first := self._first) is not None:
                messages_left -= len(first.messages)
                self._has_keys |= first.has_keys
                yield first
            while True:
                while len(out) < _ahead(bounds.bytes_left()) and not empty and time.monotonic() < bounds.ends:
                    messages = min(bounds.page_messages, messages_left - sum(asked for asked, _ in out))
                    if messages <= 0:
                        break
                    out.append((messages, self._reader.ask(messages, bounds.wait)))
                if not out:
                    break
                _, oldest = out.popleft()
                page = oldest.page()
                self._note_silence(oldest)
                if page is None:
                    empty.append(oldest)
                    continue
                empty.clear()
                messages_left -= len(page.messages)
                leases.hold(page.ack_ids)
                self._has_keys |= page.has_keys
                yield page
        finally:
            for _, pending in out:
                self._return(pending)
        self._is_full = not empty
        if empty and not self._has_keys and all(pending.is_empty for pending in empty):
            self._drained_at = max(pending.at for pending in empty)

    def ended(self) -> Ended:
        goes_on = self._goes_on()
        is_full = self._is_full or (self._has_keys and not goes_on)
        return Ended(self._drained_at, self._unanswered_at, is_full, goes_on)

    def forget(self) -> Refused:
        return self._leases.acknowledge() if self._leases else Refused()

    def give_back(self) -> None:
        if self._leases:
            self._leases.give_back()

    def close(self) -> None:
        if self._leases:
            self._leases.stop()

    def _leased(self) -> Leases:
        if self._leases is None:
            self._leases = self._lease_for(self._wanted.slot.ack_deadline or self._reader.ack_deadline())
        return self._leases

    def _lease_for(self, deadline: timedelta) -> Leases:
        return Leases(self._reader, deadline, self._wanted.of, self._wanted.is_given_up)

    def _goes_on(self) -> bool:
        """Whether what waits behind this part's messages of an ordering key is pulled in another part.

        Pub/Sub promises no more than one batch of a key at a time ("Order messages" in its documentation): the next
        comes when this one is acknowledged, and so not before the manifest is durable.
        """
        assert self._bounds is not None
        has_time = time.monotonic() + self._bounds.wait < self._bounds.ends
        return self._has_keys and not self._is_full and has_time and self._wanted.slot.part < _MOST_PARTS

    def _return(self, pending: PendingPull) -> None:
        """What a pull brings that was under way when there was no more room."""
        if (page := pending.page()) is not None and (refused := self._reader.give_back(page.ack_ids)).messages:
            topic = self._wanted.topic.name
            log.warning("give_back: topic=%s messages=%d error=%s", topic, refused.messages, refused.error)
        self._note_silence(pending)

    def _note_silence(self, pending: PendingPull) -> None:
        if pending.unanswered_at is not None:
            self._unanswered_at = max(self._unanswered_at or pending.unanswered_at, pending.unanswered_at)


def peek(subscription: str, most: int, seconds: float, *, answers: str) -> pa.RecordBatch:
    """What waits there now; each counts as one delivery attempt, and comes again at once.

    SourceError when nothing comes for so many seconds.
    """
    reader = SubscriptionReader(subscription, answers=answers, clock=now)
    pages: list[pa.RecordBatch] = []
    held: list[str] = []
    try:
        while len(held) < most and (page := reader.pull(min(PAGE_MESSAGES, most - len(held)), seconds)):
            pages.append(page.messages)
            held += page.ack_ids
    finally:
        try:
            if held:
                reader.give_back(held)
        finally:
            reader.close()
    if not pages:
        raise SourceError(
            subscription,
            found=f"no message within {seconds:.0f} seconds",
            expected="messages that wait",
            next_step="Publish some, or stop what reads this subscription.",
        )
    return pa.Table.from_batches(pages).combine_chunks().to_batches()[0]


def _ahead(bytes_left: int) -> int:
    """How many pulls may be out: what they bring must fit, and a page may be as large as the largest message."""
    return max(int(bytes_left > 0), min(_PULLS_AHEAD, bytes_left // _LARGEST_PAGE_BYTES))
