"""One attempt at one slot, on an executor: pull, decode, write a segment, publish its manifest; then acknowledge."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa
from pyspark import TaskContext

from lakehouse import failpoints
from lakehouse.config import Ingest
from lakehouse.errors import UnknownOutcomeError
from lakehouse.landing.brokers.pubsub import PAGE_MESSAGES, Asked, Leases, Page, SubscriptionReader
from lakehouse.landing.manifests import Manifest, Slot, manifest_path, read_manifest
from lakehouse.landing.segments import SegmentWriter
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

_TIDIED_AFTER = (Exception, GeneratorExit, KeyboardInterrupt, SystemExit)
"""How an attempt may end and still leave nothing behind. A death that is played in one process is none of them."""
_DECODE_BYTES = 4 * 1024**2
"""Payload bytes that are decoded in one go: enough to make the cost per call small, little enough to stay in cache."""
_PULLS_AHEAD = 3
"""Pulls that are under way at a time: a pull takes tens of milliseconds, in which pages can be decoded."""
_LARGEST_PAGE_BYTES = 10 * 1024**2
"""Pub/Sub's largest message, which comes alone."""


def pulled(topic: Topic, ingest: Ingest, storage: Storage, slot: Slot, check: Callable[[], None]) -> Manifest:
    """The slot's manifest: this attempt's, or that of an attempt that was first.

    `check` is called between the manifest and the acknowledgements, and may refuse what comes too late. SourceError
    when the subscription cannot be read.
    """
    with _without_cycle_collector():
        return _Pull(topic, ingest, storage, slot, check).manifest()


class _Pull:
    """One attempt at one slot: pull, decode, write; then the manifest, and only then the acknowledgements."""

    def __init__(self, topic: Topic, ingest: Ingest, storage: Storage, slot: Slot, check: Callable[[], None]) -> None:
        self._topic, self._ingest, self._storage, self._slot, self._check = topic, ingest, storage, slot, check
        self._dry_at: datetime | None = None
        self._full = False

    def manifest(self) -> Manifest:
        reader = SubscriptionReader(self._topic.subscription)
        try:
            leases = Leases(reader, reader.ack_deadline())
            try:
                return self._pulled(reader, leases)
            except _TIDIED_AFTER:
                leases.give_back()
                raise
            finally:
                leases.stop()
        finally:
            reader.close()

    def _pulled(self, reader: SubscriptionReader, leases: Leases) -> Manifest:
        writer = SegmentWriter(self._topic, self._storage, self._slot.epoch, self._slot.slot, self._slot.open_hour)
        try:
            for messages in self._messages(reader, leases):
                writer.add(messages)
            failpoints.reached("pull.received")
            files = writer.close()
        except _TIDIED_AFTER:
            writer.abandon()
            raise
        failpoints.reached("pull.files_durable")
        mine = writer.manifest(files, attempt=_attempt(), dry_at=self._dry_at, full=self._full)
        winner = self._published(mine)
        if winner.attempt_id != mine.attempt_id:
            failpoints.reached("pull.race_lost")
            writer.abandon()
            leases.give_back()
            return winner
        failpoints.reached("pull.manifest_durable")
        self._check()
        leases.acknowledge()
        failpoints.reached("pull.acknowledged")
        return winner

    def _published(self, mine: Manifest) -> Manifest:
        """The manifest that stands once we have tried to publish ours; after a silence, whoever's it is."""
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
                found="neither our manifest nor another's",
                expected="one of them",
                next_step="Start ingest again.",
            )
        return winner

    def _messages(self, reader: SubscriptionReader, leases: Leases) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        waiting_bytes = 0
        for page in self._pages(reader):
            leases.hold(page.ack_ids)
            waiting.append(page.messages)
            waiting_bytes += page.size_bytes
            if waiting_bytes >= _DECODE_BYTES:
                yield pa.concat_batches(waiting)
                waiting, waiting_bytes = [], 0
        if waiting:
            yield pa.concat_batches(waiting)

    def _pages(self, reader: SubscriptionReader) -> Iterator[Page]:
        """Pages until a bound of the slot is reached or the subscription is dry.

        Some pulls are under way while their predecessors' pages are decoded. When one comes back empty no more are
        sent; if all that are out come back empty, too, nothing waited when the last of them was sent.
        """
        ingest, wait = self._ingest, self._ingest.empty_after.total_seconds()
        ends = time.monotonic() + ingest.max_pull.total_seconds()
        messages_left, bytes_left = ingest.max_messages, ingest.max_bytes
        out: deque[tuple[int, Asked]] = deque()
        empty: list[datetime] = []
        try:
            while True:
                while len(out) < _ahead(bytes_left) and not empty and time.monotonic() < ends:
                    messages = min(PAGE_MESSAGES, messages_left - sum(asked for asked, _ in out))
                    if messages <= 0:
                        break
                    out.append((messages, reader.ask(messages, wait)))
                if not out:
                    break
                _, oldest = out.popleft()
                page = oldest.page()
                if page is None:
                    empty.append(oldest.at)
                    continue
                empty.clear()
                messages_left -= len(page.messages)
                bytes_left -= page.size_bytes
                yield page
        finally:
            for _, asked in out:
                if (page := asked.page()) is not None:
                    reader.give_back(page.ack_ids)
        self._dry_at = max(empty, default=None)
        self._full = not empty


def _ahead(bytes_left: int) -> int:
    """How many pulls may be out: what they bring must fit, and a page may be as large as the largest message."""
    return max(int(bytes_left > 0), min(_PULLS_AHEAD, bytes_left // _LARGEST_PAGE_BYTES))


@contextmanager
def _without_cycle_collector() -> Iterator[None]:
    """A slot makes millions of objects and no cycles; looking for cycles would take most of its pulling time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _attempt() -> int:
    context = TaskContext.get()
    return context.attemptNumber() if context else 0
