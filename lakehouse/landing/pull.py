"""One attempt at one slot, on an executor: pull, decode, write a segment, publish its manifest; then acknowledge."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
from pyspark import TaskContext

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.config import Ingest
from lakehouse.decode.events import decode
from lakehouse.errors import UnknownOutcomeError
from lakehouse.landing.brokers.answers import Page
from lakehouse.landing.brokers.channel import shared_channel
from lakehouse.landing.brokers.leases import Leases, Refused
from lakehouse.landing.brokers.pubsub import PAGE_MESSAGES, PendingPull, SubscriptionReader
from lakehouse.landing.manifests import Manifest, SegmentFile, Slot, manifest_path, read_manifest
from lakehouse.landing.quarantine import QuarantiningDecoder
from lakehouse.landing.segments import Decoder, SegmentWriter
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

_TIDIED_AFTER = (Exception, GeneratorExit, KeyboardInterrupt, SystemExit)
"""How an attempt may end and still leave nothing behind. Not `Death`, the crash kit's simulated SIGKILL."""
_DECODE_BYTES = 4 * 1024**2
"""Payload bytes that are decoded in one go: enough to make the cost per call small, little enough to stay in cache."""
_PULLS_AHEAD = 3
"""Pulls that are under way at a time: a pull takes tens of milliseconds, in which pages can be decoded."""
_LARGEST_PAGE_BYTES = 10 * 1024**2
"""Pub/Sub's largest message, which comes alone."""
_MOST_PARTS = 100
"""Parts of a slot: each has a manifest and files of its own."""


@dataclass(frozen=True)
class Pulled:
    """The manifest of one part, and the messages of this attempt whose acknowledgement was refused for good."""

    manifest: Manifest
    refused: Refused = field(default_factory=Refused)


class Budget:
    """Payload bytes that the slots of one task may hold together. For several threads."""

    def __init__(self, size_bytes: int) -> None:
        self._left, self._lock = size_bytes, threading.Lock()

    @property
    def left(self) -> int:
        return self._left

    def take(self, size_bytes: int) -> None:
        with self._lock:
            self._left -= size_bytes

    def give(self, size_bytes: int) -> None:
        self.take(-size_bytes)


@dataclass(frozen=True)
class Share:
    """What a slot has of the bundle that it is pulled in.

    `first` is a page that was pulled for it before, which `leases` hold. `looks_first` says that a manifest may be
    there; without it an attempt finds out when it publishes its own. `keeps_empty` says that a slot of which nothing
    came has a manifest, too: where nothing adopts what is left out, a replay must not pull again.
    """

    budget: Budget | None = None
    reader: SubscriptionReader | None = None
    first: Page | None = None
    unanswered_at: datetime | None = None
    decoder: Decoder | None = None
    attempt: int | None = None
    leases: Leases | None = None
    looks_first: bool = True
    keeps_empty: bool = True

    def holding(self, leases: Leases) -> Share:
        return replace(self, leases=leases)


ALONE = Share()


@dataclass(frozen=True)
class Puller:
    """How slots are pulled: the connection, the sizes, the decoders, and the clock of manifests. Its defaults are what
    runs.

    `channel` gives the channel of the nth subscription of those that a task asks at the same time.
    """

    connect: Callable[..., SubscriptionReader] = SubscriptionReader
    channel: Callable[[str, int], Any] = shared_channel
    page_messages: int = PAGE_MESSAGES
    decode_bytes: int = _DECODE_BYTES
    decode: Decoder = decode
    quarantine: Callable[[], AbstractContextManager[Decoder]] = QuarantiningDecoder
    clock: Clock = now

    def parts(
        self,
        topic: Topic,
        ingest: Ingest,
        storage: Storage,
        slot: Slot,
        check: Callable[[], None],
        share: Share = ALONE,
    ) -> Iterator[Pulled]:
        """The slot's parts: each this attempt's, or that of an attempt that was first.

        `check` is called between the manifest and the acknowledgements, and may refuse what comes too late. SourceError
        when the subscription cannot be read.
        """
        ends = time.monotonic() + ingest.max_pull.total_seconds()
        part = slot
        while True:
            manifest = read_manifest(storage, part.epoch, part.slot) if share.looks_first else None
            if manifest is not None:
                done = Pulled(manifest)
            else:
                with without_cycle_collector():
                    done = _Attempt(self, topic, ingest, storage, part, check, ends, share).part()
            yield done
            if not done.manifest.continues:
                return
            part, share = part.next_part(), replace(share, first=None, leases=None, unanswered_at=None)


class _Attempt:
    """One attempt at one part: pull, decode, write; then the manifest, and only then the acknowledgements."""

    def __init__(
        self,
        puller: Puller,
        topic: Topic,
        ingest: Ingest,
        storage: Storage,
        slot: Slot,
        check: Callable[[], None],
        ends: float,
        share: Share,
    ) -> None:
        self._puller, self._topic, self._ingest, self._storage = puller, topic, ingest, storage
        self._slot, self._check, self._ends, self._share = slot, check, ends, share
        self._number = attempt_number() if share.attempt is None else share.attempt
        self._drained_at: datetime | None = None
        self._unanswered_at = share.unanswered_at
        self._full = False
        self._has_keys = False
        self._held_bytes = 0

    def part(self) -> Pulled:
        share, slot = self._share, self._slot
        reader = share.reader or self._connected()
        try:
            of = self._topic.name, f"{slot.epoch}-{slot.slot}"
            leases = share.leases or Leases(reader, slot.ack_deadline or reader.ack_deadline(), of)
            try:
                return self._pull_result(reader, leases)
            except _TIDIED_AFTER:
                leases.give_back()
                raise
            finally:
                leases.stop()
        finally:
            self._hold_bytes(-self._held_bytes)
            if share.reader is None:
                reader.close()

    def _connected(self) -> SubscriptionReader:
        puller, subscription = self._puller, self._topic.subscription
        return puller.connect(subscription, answers=self._ingest.answers, clock=puller.clock)

    def _hold_bytes(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._share.budget is not None:
            self._share.budget.take(size_bytes)

    def _decoder(self) -> AbstractContextManager[Decoder]:
        if self._share.decoder is not None:
            return nullcontext(self._share.decoder)
        is_suspect = self._slot.is_suspect or self._number > 0
        return self._puller.quarantine() if is_suspect else nullcontext(self._puller.decode)

    def _pull_result(self, reader: SubscriptionReader, leases: Leases) -> Pulled:
        with self._decoder() as decoder:
            slot = self._slot
            place, clock = (slot.epoch, slot.slot, slot.open_hour), self._puller.clock
            writer = SegmentWriter(self._topic, self._storage, *place, decoder, clock=clock)
            try:
                for messages in self._messages(reader, leases):
                    writer.add(messages)
                failpoints.reach("pull.received")
                files = writer.close()
            except _TIDIED_AFTER:
                writer.abandon()
                raise
        if not files and not self._share.keeps_empty and not self._slot.part:
            return Pulled(self._manifest(writer, files))
        failpoints.reach("pull.files_durable")
        mine = self._manifest(writer, files)
        winner = self._manifest_there(mine)
        if winner.attempt_id != mine.attempt_id:
            failpoints.reach("pull.race_lost")
            writer.abandon()
            leases.give_back()
            return Pulled(winner)
        failpoints.reach("pull.manifest_durable")
        self._check()
        refused = leases.acknowledge()
        if refused.messages:
            log.warning(
                "acknowledge: topic=%s epoch=%d slot=%d messages=%d error=%s",
                *(self._topic.name, mine.epoch, mine.slot, refused.messages, refused.error),
            )
        failpoints.reach("pull.acknowledged")
        return Pulled(winner, refused)

    def _manifest(self, writer: SegmentWriter, files: tuple[SegmentFile, ...]) -> Manifest:
        goes_on = self._goes_on()
        return writer.manifest(
            files,
            attempt=self._number,
            dry_at=self._drained_at,
            full=self._full or (self._has_keys and not goes_on),
            unanswered_at=self._unanswered_at,
            continues=goes_on,
        )

    def _goes_on(self) -> bool:
        """Whether what waits behind this part's messages of an ordering key is pulled in another part.

        Pub/Sub promises no more than one batch of a key at a time ("Order messages" in its documentation): the next
        comes when this one is acknowledged, and so not before the manifest is durable.
        """
        has_time = time.monotonic() + self._ingest.empty_after.total_seconds() < self._ends
        return self._has_keys and not self._full and has_time and self._slot.part < _MOST_PARTS

    def _manifest_there(self, mine: Manifest) -> Manifest:
        """The manifest that is there after we tried to publish ours; if the outcome is unknown, whoever wrote it."""
        path = manifest_path(mine.epoch, mine.slot)
        try:
            if self._storage.put_if_absent(path, mine.as_json()):
                return mine
        except UnknownOutcomeError:
            if self._storage.read(path) is None:
                raise
        winner = read_manifest(self._storage, mine.epoch, mine.slot)
        if winner is None:
            raise UnknownOutcomeError(
                path,
                found="no manifest, though one was there a moment ago",
                expected="this driver's manifest, or that of a newer one",
                next_step="The topic is tried again by itself; see what deletes files below `segments/`.",
            )
        return winner

    def _messages(self, reader: SubscriptionReader, leases: Leases) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        waiting_bytes = 0
        for page in self._pages(reader):
            if page is not self._share.first:
                leases.hold(page.ack_ids)
            self._has_keys = self._has_keys or page.has_keys
            waiting.append(page.messages)
            waiting_bytes += page.size_bytes
            if waiting_bytes >= self._puller.decode_bytes:
                yield pa.concat_batches(waiting)
                waiting, waiting_bytes = [], 0
        if waiting:
            yield pa.concat_batches(waiting)

    def _pages(self, reader: SubscriptionReader) -> Iterator[Page]:
        """Pages until a bound of the slot is reached or nothing comes.

        Some pulls are under way while their predecessors' pages are decoded. When one comes back empty no more are
        sent; if all that are out come back empty, too, nothing waited when the last of them was sent. That is known
        only if each was answered, and if none of this slot's messages has an ordering key that others may wait for.
        """
        ingest, wait = self._ingest, self._ingest.empty_after.total_seconds()
        messages_left = ingest.max_messages
        out: deque[tuple[int, PendingPull]] = deque()
        empty: list[PendingPull] = []
        try:
            if (first := self._share.first) is not None:
                messages_left -= len(first.messages)
                self._hold_bytes(first.size_bytes)
                yield first
            while True:
                while len(out) < _ahead(self._bytes_left()) and not empty and time.monotonic() < self._ends:
                    messages = min(self._puller.page_messages, messages_left - sum(asked for asked, _ in out))
                    if messages <= 0:
                        break
                    out.append((messages, reader.ask(messages, wait)))
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
                self._hold_bytes(page.size_bytes)
                yield page
        finally:
            for _, pending in out:
                if (page := pending.page()) is not None and (refused := reader.give_back(page.ack_ids)).messages:
                    log.warning(
                        "give_back: topic=%s messages=%d error=%s", self._topic.name, refused.messages, refused.error
                    )
                self._note_silence(pending)
        self._full = not empty
        if empty and not self._has_keys and all(pending.is_empty for pending in empty):
            self._drained_at = max(pending.at for pending in empty)

    def _bytes_left(self) -> int:
        own = self._ingest.max_bytes - self._held_bytes
        return own if self._share.budget is None else min(own, self._share.budget.left)

    def _note_silence(self, pending: PendingPull) -> None:
        if pending.unanswered_at is not None:
            self._unanswered_at = max(self._unanswered_at or pending.unanswered_at, pending.unanswered_at)


def _ahead(bytes_left: int) -> int:
    """How many pulls may be out: what they bring must fit, and a page may be as large as the largest message."""
    return max(int(bytes_left > 0), min(_PULLS_AHEAD, bytes_left // _LARGEST_PAGE_BYTES))


@contextmanager
def without_cycle_collector() -> Iterator[None]:
    """A slot makes millions of objects and no cycles; looking for cycles would take most of its pulling time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def attempt_number() -> int:
    """Which of Spark's tries at the task this is; 0 without Spark."""
    context = TaskContext.get()
    return context.attemptNumber() if context else 0
