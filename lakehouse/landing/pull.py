"""One attempt at one slot, on an executor: pull, decode, write a segment, publish its manifest; then acknowledge."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pyspark import TaskContext

from lakehouse import failpoints
from lakehouse.clock import Clock, now
from lakehouse.config import Ingest
from lakehouse.decode.events import decode
from lakehouse.errors import UnknownOutcomeError, in_one_line
from lakehouse.landing.brokers.catalogue import broker_of
from lakehouse.landing.brokers.contract import Bounds, Broker, Page, Reading, Refused, Wanted
from lakehouse.landing.manifests import Manifest, SegmentFile, manifest_path, read_manifest
from lakehouse.landing.quarantine import QuarantiningDecoder
from lakehouse.landing.segments import Decoder, SegmentWriter
from lakehouse.landing.slots import Slot
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

_TIDIED_AFTER = (Exception, GeneratorExit, KeyboardInterrupt, SystemExit)
"""How an attempt may end and still leave nothing behind. Not `Death`, the crash kit's simulated SIGKILL."""
_DECODE_BYTES = 4 * 1024**2
"""Payload bytes that are decoded in one go: enough to make the cost per call small, little enough to stay in cache."""
PAGE_MESSAGES = 1_000
"""Of a page at most: Pub/Sub's largest."""


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

    `reading` is one that has begun. `looks_first` says that a manifest may be there; without it an attempt finds out
    when it publishes its own. `keeps_empty` says that a slot of which nothing came has a manifest, too: where nothing
    adopts what is left out, a replay must not pull again. `on_pulled` is called when all is pulled, and only a store is
    waited for. Once others wait for it, which `is_awaited` says, a slot that holds anything pulls no more; once it
    `is_given_up`, its messages are not kept leased any longer.
    """

    budget: Budget | None = None
    reading: Reading | None = None
    decoder: Decoder | None = None
    attempt: int | None = None
    looks_first: bool = True
    keeps_empty: bool = True
    on_pulled: Callable[[], None] = lambda: None
    is_awaited: Callable[[], bool] = lambda: False
    is_given_up: Callable[[], bool] = lambda: False


ALONE = Share()


@dataclass(frozen=True)
class Puller:
    """How slots are pulled: the brokers by their kind, the sizes, the decoders, and the clock of manifests. Its
    defaults are what runs."""

    broker: Callable[[str], Broker] = broker_of
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
        when the source cannot be read.
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
            part, share = part.next_part(), replace(share, reading=None)


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
        self._held_bytes = 0

    def part(self) -> Pulled:
        reading = self._share.reading or self._begun()
        try:
            return self._pull_result(reading)
        except _TIDIED_AFTER:
            reading.give_back()
            raise
        finally:
            reading.close()
            self._hold_bytes(-self._held_bytes)

    def _begun(self) -> Reading:
        puller, wanted = self._puller, Wanted(self._topic, self._slot, self._share.is_given_up)
        return puller.broker(self._topic.reads.kind).reading(wanted, self._ingest, puller.clock)

    def _hold_bytes(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._share.budget is not None:
            self._share.budget.take(size_bytes)

    def _decoder(self) -> AbstractContextManager[Decoder]:
        if self._share.decoder is not None:
            return nullcontext(self._share.decoder)
        is_suspect = self._slot.is_suspect or self._number > 0
        return self._puller.quarantine() if is_suspect else nullcontext(self._puller.decode)

    def _pull_result(self, reading: Reading) -> Pulled:
        with self._decoder() as decoder:
            slot = self._slot
            place, clock = (slot.epoch, slot.slot, slot.open_hour), self._puller.clock
            writer = SegmentWriter(self._topic, self._storage, *place, decoder, clock=clock)
            try:
                for messages in self._messages(reading):
                    writer.add(messages)
                failpoints.reach("pull.received")
                if not reading.ended().goes_on:
                    self._share.on_pulled()
                files = writer.close()
            except _TIDIED_AFTER:
                self._abandon(writer)
                raise
        if not files and not self._share.keeps_empty and not self._slot.part:
            return Pulled(self._manifest(writer, files, reading))
        failpoints.reach("pull.files_durable")
        mine = self._manifest(writer, files, reading)
        winner = self._manifest_there(mine)
        if winner.attempt_id != mine.attempt_id:
            failpoints.reach("pull.race_lost")
            writer.abandon()
            reading.give_back()
            return Pulled(winner)
        failpoints.reach("pull.manifest_durable")
        self._check()
        refused = reading.forget()
        if refused.messages:
            log.warning(
                "acknowledge: topic=%s epoch=%d slot=%d messages=%d error=%s",
                *(self._topic.name, mine.epoch, mine.slot, refused.messages, refused.error),
            )
        failpoints.reach("pull.acknowledged")
        return Pulled(winner, refused)

    def _abandon(self, writer: SegmentWriter) -> None:
        """A store that took no file may take no removal either: why it took none is what has to be known."""
        try:
            writer.abandon()
        except Exception as refused:
            log.warning("pull: topic=%s not_removed=segment error=%s", self._topic.name, in_one_line(refused))

    def _manifest(self, writer: SegmentWriter, files: tuple[SegmentFile, ...], reading: Reading) -> Manifest:
        ended = reading.ended()
        return writer.manifest(
            files,
            attempt=self._number,
            dry_at=ended.drained_at,
            full=ended.full,
            unanswered_at=ended.unanswered_at,
            continues=ended.goes_on,
            read=ended.read.as_text() if ended.read else None,
            pulled_bytes=self._held_bytes,
        )

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

    def _messages(self, reading: Reading) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        waiting_bytes = 0
        for page in self._pages(reading):
            self._hold_bytes(page.size_bytes)
            waiting.append(page.messages)
            waiting_bytes += page.size_bytes
            if waiting_bytes >= self._puller.decode_bytes:
                yield pa.concat_batches(waiting)
                waiting, waiting_bytes = [], 0
        if waiting:
            yield pa.concat_batches(waiting)

    def _pages(self, reading: Reading) -> Iterator[Page]:
        """Pages until a bound of the slot is reached or nothing comes."""
        wait = self._ingest.empty_after.total_seconds()
        sizes = self._ingest.max_messages, self._puller.page_messages
        return reading.pages(Bounds(*sizes, self._bytes_left, self._ends, wait))

    def _bytes_left(self) -> int:
        if self._held_bytes and self._share.is_awaited():
            return 0
        own = self._ingest.max_bytes - self._held_bytes
        return own if self._share.budget is None else min(own, self._share.budget.left)


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
