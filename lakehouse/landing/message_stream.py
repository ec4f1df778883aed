"""The source of `option("read", "messages")`: one topic's segments, served as rows. See `messages`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSourceStreamReader, InputPartition

from lakehouse.config import Ingest
from lakehouse.errors import LostMessagesError
from lakehouse.landing.manifests import read_manifest, read_parts
from lakehouse.landing.message_log import read_from
from lakehouse.landing.messages import Segments
from lakehouse.landing.plan import next_slots
from lakehouse.landing.pull import Puller
from lakehouse.landing.slots import Slot
from lakehouse.store.place import Place
from lakehouse.topics import Topic

SUSPECT_FOR = timedelta(minutes=10)
"""How long after a process that may have died of a message slots decode with care: the message has to come again."""


@dataclass(frozen=True)
class MessageOffset:
    """An epoch and in how many slots a replay of it must be pulled. `open_hour` was part of it in release 0.1."""

    epoch: int
    slots: int
    open_hour: None = None

    def as_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "slots": self.slots, "open_hour": None}


class MessageStream(DataSourceStreamReader):
    """For a query whose checkpoint is all that there is. Between calls only the newest epoch is remembered.

    Every slot has a manifest, also one of which nothing came: nobody adopts what a replay does not bring.
    """

    def __init__(self, options: Mapping[str, str], puller: Puller | None = None) -> None:
        self._topic = Topic.from_json(options["topic"])
        self._raw = Place(options["raw"], dict(json.loads(options["storage"])))
        self._ingest = Ingest.model_validate_json(options["ingest"])
        self._ack_deadline: timedelta | None = None
        self._puller = puller or Puller()
        self._broker = self._puller.broker(self._topic.reads.kind)
        self._segments = Segments(self._raw, self._topic)
        self._last: MessageOffset | None = None
        self._planned_here: set[int] = set()
        self._suspect_until = 0.0

    def initialOffset(self) -> dict[str, Any]:
        """Before the first segment that is still there: without a checkpoint nobody knows who has its rows."""
        self._segments.check_own()
        return MessageOffset(self._segments.first(), 0).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on, whatever there is to read; with all slots of one that was pulled before."""
        self._segments.check_own()
        if start is not None:
            self._remember(MessageOffset(**start))
        epoch = (self._last.epoch if self._last else self._segments.first()) + 1
        self._last = MessageOffset(epoch, max(self._next_slots(), self._segments.slots_of(epoch)))
        self._planned_here.add(epoch)
        return self._last.as_dict()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        """The slots of the epoch `end`, a task each; none when it is `start`."""
        offset = MessageOffset(**end)
        self._remember(offset)
        if start == end:
            return []
        if self._ack_deadline is None:
            self._ack_deadline = self._asked_ack_deadline()
        if offset.epoch not in self._planned_here:
            self._suspect()
        is_suspect = time.monotonic() < self._suspect_until
        begins = read_from(self._raw.files(), self._topic, self._ingest, self._broker, offset.epoch)
        return [
            Slot(offset.epoch, slot, None, is_suspect, self._ack_deadline, offset.slots, begins)
            for slot in range(offset.slots)
        ]

    def commit(self, end: dict[str, Any]) -> None:
        """The batch that ends there is in Spark's commit log: what came before it is never planned again."""
        self._segments.check_own()
        self._segments.clear(MessageOffset(**end).epoch)

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """On an executor: the rows of the slot, once they are durable."""
        assert isinstance(partition, Slot)
        storage = self._raw.files()
        if read_manifest(storage, partition.epoch, partition.slot) is None:
            self._segments.check_own()
            self._segments.check(partition.epoch)

        def check() -> None:
            self._segments.check(partition.epoch)

        try:
            for part in self._puller.parts(self._topic, self._ingest, storage, partition, check):
                yield from self._segments.rows(part.manifest)
        except LostMessagesError as lost:
            raise _without_a_lake(lost) from lost

    def _asked_ack_deadline(self) -> timedelta:
        return self._broker.lease(self._topic, self._ingest)

    def _suspect(self) -> None:
        """An epoch is read again, in another process or by another attempt: the first one may have died of a message.

        What it had leased comes again within an ack deadline, in whichever epoch.
        """
        window = max(SUSPECT_FOR, 2 * (self._ack_deadline or timedelta()))
        self._suspect_until = time.monotonic() + window.total_seconds()

    def _remember(self, offset: MessageOffset) -> None:
        if self._last is None or offset.epoch > self._last.epoch:
            self._last = offset

    def _next_slots(self) -> int:
        if self._last is None:
            return self._topic.slots.min
        slots, storage = self._last.slots, self._raw.files()
        parts = [read_parts(storage, self._last.epoch, slot) for slot in range(slots)]
        if any(manifest.attempt for manifests in parts for manifest in manifests):
            self._suspect()
        ends = [(manifests[-1].full, manifests[-1].dry_at is not None) for manifests in parts if manifests]
        return next_slots(slots, self._topic.slots, ends)


def _without_a_lake(lost: LostMessagesError) -> LostMessagesError:
    """There is no ledger in which a person could accept the loss."""
    return LostMessagesError(
        lost.subject,
        found=lost.found,
        expected=lost.expected,
        next_step='To go on without them, start with another folder, .option("segments", …), and a new checkpoint: it '
        "begins at the source's `start`.",
    )
