"""`format("pubsub")`: a Pub/Sub subscription as a replay-safe Structured Streaming source.

Its offset is an epoch, its rows are facts about segments. A slot that has a manifest yields the manifest's facts, for
ever; a slot that has none pulls, writes, publishes its manifest, and only then acknowledges. With
`option("read", "messages")` its rows are the messages themselves, for anybody's query: see `messages`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lakehouse.clock import clock_of
from lakehouse.config import Ingest
from lakehouse.errors import noting_errors
from lakehouse.hours import Hour
from lakehouse.landing.manifests import Manifest, Slot, listed_manifests, read_manifest, read_parts
from lakehouse.landing.messages import Segments, source_options_of, topic_named
from lakehouse.progress import IngestState
from lakehouse.schemas import FACTS, segment_schema
from lakehouse.spark.workers import spare_next_task
from lakehouse.store.bronze_head import StateFollower
from lakehouse.store.place import Place
from lakehouse.topics import Topic

if TYPE_CHECKING:
    from lakehouse.landing.pull import Pulled, Puller

FORMAT = "pubsub"


_SUSPECT_FOR = timedelta(minutes=10)
"""How long after an attempt that may have died of a message slots decode with care: the message has to come again."""


def source_options(
    topic: Topic,
    raw: str,
    ingest: Ingest,
    storage_options: Mapping[str, str],
    ack_deadline: timedelta | None = None,
) -> dict[str, str]:
    """The options of `spark.readStream.format("pubsub")` for a topic whose raw folder is `raw`.

    `ack_deadline` is the subscription's; each slot asks for it where it is not given.
    """
    options = {
        "topic": topic.as_json(),
        "raw": raw,
        "ingest": ingest.model_dump_json(),
        "storage": json.dumps(dict(storage_options)),
    }
    return options if ack_deadline is None else {**options, "ack_deadline": str(ack_deadline.total_seconds())}


@dataclass(frozen=True)
class Offset:
    """An epoch and what a replay of it needs to plan the same: how many slots, and a hint at the first open hour."""

    epoch: int
    slots: int
    open_hour: Hour | None

    def as_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "slots": self.slots, "open_hour": self.open_hour}


class PubSubSource(DataSource):
    """`format("pubsub")`: the messages of one Pub/Sub subscription, for Structured Streaming.

    Register it once per session, `spark.dataSource.register(PubSubSource)`. With `option("read", "messages")` the rows
    are the messages: bronze's columns without `hour` (`message_id`, `publish_time`, `attributes`, `payload`,
    `ordering_key`; `event_id`, `event_time`, `event` with the declared fields, `reject_reason`; `epoch`, `slot`,
    `position`). Times are UTC. Options: `topic` (a file such as `conf/topics/plays.yaml`, or JSON), `segments` (a
    folder of this query's own), and those of `ingest` in `conf/`; see `lakehouse.landing.messages`. Without it the rows
    are what ingest commits (`lakehouse.schemas.FACTS`).

    A batch that Spark plans again has the same rows, and nothing is acknowledged before it is durable. SourceError when
    an option is missing, when the folder is another's, or when the subscription cannot be read.
    """

    @classmethod
    def name(cls) -> str:
        return FORMAT

    def schema(self) -> StructType:
        """`FACTS`, rows for each part of a slot; with the option `read=messages` the topic's `segment_schema`."""
        return from_arrow_schema(segment_schema(topic_named(self.options)) if self._serves_messages() else FACTS)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:
        """The reader that Spark plans and pulls with, by the option `read`."""
        if self._serves_messages():
            return MessageStream(source_options_of(self.options))
        return SegmentStream(self.options)

    def _serves_messages(self) -> bool:
        return self.options.get("read", "facts") == "messages"


class SegmentStream(DataSourceStreamReader):
    """Plans epochs on the driver, pulls slots on executors. Between calls only the newest epoch is remembered."""

    def __init__(self, options: Mapping[str, str], puller: Puller | None = None) -> None:
        self._topic = Topic.from_json(options["topic"])
        self._raw = Place(options["raw"], dict(json.loads(options["storage"])))
        self._ingest = Ingest.model_validate_json(options["ingest"])
        deadline = options.get("ack_deadline")
        self._ack_deadline = timedelta(seconds=float(deadline)) if deadline else None
        self._given_puller = puller
        self._bronze = StateFollower(self._raw.below("bronze"))
        self._last: Offset | None = None
        self._planned_here: set[int] = set()
        self._suspect_until = 0.0

    def initialOffset(self) -> dict[str, Any]:
        """After the last epoch that was ever used: epochs are not used again.

        Where a checkpoint was lost, ingest adopts the manifests that no commit took. No slots: it is the end of
        nothing, so the first batch, planned again after its epoch is known, never looks empty.
        """
        with noting_errors(self._raw.uri):
            state = self._bronze.state()
            return Offset(self._last_epoch(state), 0, state.open_hour).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on, whatever there is to read. Spark 4.1 asks a new query for this before it asks for a start."""
        if start is not None:
            self._remember(Offset(**start))
        with noting_errors(self._raw.uri):
            state = self._bronze.state()
            epoch = max(self._last.epoch if self._last else self._last_epoch(state), state.epoch) + 1
            return self._plan(Offset(epoch, self._next_slots(), state.open_hour))

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        """The slots of the epoch `end`, a task each; none when it is `start`."""
        end_offset = Offset(**end)
        self._remember(end_offset)
        if start == end:
            return []
        if end_offset.epoch not in self._planned_here:
            self._suspect()
        is_suspect = time.monotonic() < self._suspect_until
        return [
            Slot(end_offset.epoch, slot, end_offset.open_hour, is_suspect, self._ack_deadline)
            for slot in range(end_offset.slots)
        ]

    def commit(self, end: dict[str, Any]) -> None:
        """Nothing: ingest clears manifests away by what bronze's log says of them."""

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """On an executor: the facts (`FACTS`) of the slot's parts, once their segments and manifests are durable."""
        assert isinstance(partition, Slot)
        with noting_errors(self._raw.uri):
            parts = list(self._puller().parts(self._topic, self._ingest, self._raw.files(), partition, lambda: None))
        yield from facts_of_slot(parts)
        spare_next_task()

    def _puller(self) -> Puller:
        # Pub/Sub's client takes 11 MiB, which a process that only plans need not have: there is one for each topic.
        from lakehouse.landing.pull import Puller

        return self._given_puller or Puller(clock=clock_of(self._raw.uri.rpartition("/")[0]))

    def _plan(self, offset: Offset) -> dict[str, Any]:
        self._last = offset
        self._planned_here.add(offset.epoch)
        return offset.as_dict()

    def _suspect(self) -> None:
        """An epoch is read again, in another process or by another attempt: the first one may have died of a message.

        What it had leased comes again within an ack deadline, in whichever epoch.
        """
        window = max(_SUSPECT_FOR, 2 * (self._ack_deadline or timedelta()))
        self._suspect_until = time.monotonic() + window.total_seconds()

    def _remember(self, offset: Offset) -> None:
        if self._last is None or offset.epoch > self._last.epoch:
            self._last = offset

    def _last_epoch(self, state: IngestState) -> int:
        """The last epoch that bronze or a manifest knows of."""
        listed = listed_manifests(self._raw.files())
        return max([state.epoch, *(epoch for epoch, _ in listed)])

    def _next_slots(self) -> int:
        """More when every slot of the last epoch stopped at its bound, fewer when every one was drained."""
        bounds = self._topic.slots
        if self._last is None:
            return bounds.min
        slots, storage = self._last.slots, self._raw.files()
        parts = [read_parts(storage, self._last.epoch, slot) for slot in range(slots)]
        if any(manifest.attempt for manifests in parts for manifest in manifests):
            self._suspect()
        ends = [manifests[-1] for manifests in parts if manifests]
        if len(ends) < slots:
            return max(bounds.min, min(bounds.max, slots))
        if all(manifest.full for manifest in ends):
            slots *= 2
        elif all(manifest.dry_at for manifest in ends):
            slots -= 1
        return max(bounds.min, min(bounds.max, slots))


class MessageStream(SegmentStream):
    """The same segments, served as messages to a query whose checkpoint is all that there is: see `messages`."""

    def __init__(self, options: Mapping[str, str], puller: Puller | None = None) -> None:
        super().__init__(options, puller)
        self._segments = Segments(self._raw, self._topic)

    def initialOffset(self) -> dict[str, Any]:
        """Before the first segment that is still there: without a checkpoint nobody knows who has its rows."""
        self._segments.check_own()
        return Offset(self._segments.first(), 0, None).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on; with all slots of one that was pulled before."""
        self._segments.check_own()
        if start is not None:
            self._remember(Offset(**start))
        epoch = (self._last.epoch if self._last else self._segments.first()) + 1
        return self._plan(Offset(epoch, max(self._next_slots(), self._segments.slots_of(epoch)), None))

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        if self._ack_deadline is None and start != end:
            self._ack_deadline = self._asked_ack_deadline()
        return super().partitions(start, end)

    def commit(self, end: dict[str, Any]) -> None:
        """The batch that ends there is in Spark's commit log: what came before it is never planned again."""
        self._segments.check_own()
        self._segments.clear(Offset(**end).epoch)

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, Slot)
        storage = self._raw.files()
        if read_manifest(storage, partition.epoch, partition.slot) is None:
            self._segments.check_own()
            self._segments.check(partition.epoch)

        def check() -> None:
            self._segments.check(partition.epoch)

        for part in self._puller().parts(self._topic, self._ingest, storage, partition, check):
            yield from self._segments.rows(part.manifest)

    def _asked_ack_deadline(self) -> timedelta:
        reader = self._puller().connect(self._topic.subscription, answers=self._ingest.answers)
        try:
            return reader.ack_deadline()
        finally:
            reader.close()


def facts_of_slot(parts: Sequence[Pulled]) -> Iterator[pa.RecordBatch]:
    """Rows of `FACTS` for each part of one slot; how the slot ended is how its last part did."""
    last = parts[-1].manifest
    unanswered_at = _latest(part.manifest.unanswered_at for part in parts)
    for part in parts:
        ended = replace(part.manifest, dry_at=last.dry_at, full=last.full, unanswered_at=unanswered_at)
        yield facts(ended, part.refused.messages, part.refused.error)


def facts(manifest: Manifest, unacknowledged: int = 0, ack_error: str | None = None) -> pa.RecordBatch:
    """A manifest as rows of `FACTS`."""
    counts = json.dumps({"reasons": manifest.reasons, "undeclared": manifest.undeclared}, sort_keys=True)
    common = {
        "epoch": manifest.epoch,
        "slot": manifest.slot,
        "written_at": manifest.written_at,
        "dry_at": manifest.dry_at,
        "unanswered_at": manifest.unanswered_at,
        "full": manifest.full,
        "attempt": manifest.attempt,
        "unacknowledged": 0,
    }
    rows: list[dict[str, Any]] = [
        {**common, **vars(file), "rejected": 0 if file.event_hour else file.rows} for file in manifest.files
    ]
    rows = rows or [{**common, "rows": 0, "size_bytes": 0, "rejected": 0}]
    rows[0] |= {"counts": counts, "unacknowledged": unacknowledged, "ack_error": ack_error}
    return pa.RecordBatch.from_pylist(rows, schema=FACTS)


def _latest(instants: Iterable[datetime | None]) -> datetime | None:
    return max((instant for instant in instants if instant is not None), default=None)
