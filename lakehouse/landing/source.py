"""`format("pubsub")`: a Pub/Sub subscription as a replay-safe Structured Streaming source.

Its offset is an epoch, its rows are facts about segments. A slot that has a manifest yields the manifest's facts, for
ever; a slot that has none pulls, writes, publishes its manifest, and only then acknowledges. With
`option("read", "messages")` its rows are the messages themselves, for anybody's query: see `messages`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lakehouse.config import Ingest
from lakehouse.errors import noting_errors
from lakehouse.hours import Hour
from lakehouse.landing.manifests import Manifest, Slot, listed_manifests, read_manifest
from lakehouse.landing.messages import Segments, source_options_of, topic_named
from lakehouse.progress import IngestState
from lakehouse.schemas import FACTS, segment_schema
from lakehouse.spark.workers import spare_next_task
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.delta import open_table
from lakehouse.store.files import Storage, storage_for
from lakehouse.topics import Topic

FORMAT = "pubsub"


def source_options(topic: Topic, raw: str, ingest: Ingest, storage_options: Mapping[str, str]) -> dict[str, str]:
    """The options of `spark.readStream.format("pubsub")` for a topic whose raw folder is `raw`."""
    return {
        "topic": topic.as_json(),
        "raw": raw,
        "ingest": ingest.model_dump_json(),
        "storage": json.dumps(dict(storage_options)),
    }


@dataclass(frozen=True)
class Offset:
    """An epoch and what a replay of it needs to plan the same: how many slots, and a hint at the first open hour."""

    epoch: int
    slots: int
    open_hour: Hour | None

    def as_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "slots": self.slots, "open_hour": self.open_hour}


class PubSubSource(DataSource):
    @classmethod
    def name(cls) -> str:
        return FORMAT

    def schema(self) -> StructType:
        return from_arrow_schema(segment_schema(topic_named(self.options)) if self._serves_messages() else FACTS)

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:
        if self._serves_messages():
            return MessageStream(source_options_of(self.options))
        return SegmentStream(self.options)

    def _serves_messages(self) -> bool:
        return self.options.get("read", "facts") == "messages"


class SegmentStream(DataSourceStreamReader):
    """Plans epochs on the driver, pulls slots on executors. Between calls only the newest epoch is remembered."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._topic = Topic.from_json(options["topic"])
        self._raw = options["raw"]
        self._ingest = Ingest.model_validate_json(options["ingest"])
        self._storage_options = dict(json.loads(options["storage"]))
        self._last: Offset | None = None

    def initialOffset(self) -> dict[str, Any]:
        """After the last epoch that was ever used: epochs are not used again.

        Where a checkpoint was lost, ingest adopts the manifests that no commit took. No slots: it is the end of
        nothing, so the first batch, planned again after its epoch is known, never looks empty.
        """
        with noting_errors(self._raw):
            state = self._state()
            return Offset(self._used(state), 0, state.open_hour).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on, whatever there is to read. Spark 4.1 asks a new query for this before it asks for a start."""
        if start is not None:
            self._remember(Offset(**start))
        with noting_errors(self._raw):
            state = self._state()
            epoch = max(self._last.epoch if self._last else self._used(state), state.epoch) + 1
            self._last = Offset(epoch, self._next_slots(), state.open_hour)
        return self._last.as_dict()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        end_offset = Offset(**end)
        self._remember(end_offset)
        if start == end:
            return []
        return [Slot(end_offset.epoch, slot, end_offset.open_hour) for slot in range(end_offset.slots)]

    def commit(self, end: dict[str, Any]) -> None:
        """Nothing: ingest clears manifests away by what bronze's log says of them."""

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, Slot)
        storage = storage_for(self._raw, self._storage_options)
        with noting_errors(self._raw):
            manifest = read_manifest(storage, partition.epoch, partition.slot)
            pulled = facts(manifest or self._pulled(storage, partition))
        yield pulled
        spare_next_task()

    def _pulled(self, storage: Storage, slot: Slot, check: Callable[[], None] = lambda: None) -> Manifest:
        # Pub/Sub's client takes 11 MiB, which a process that only plans need not have: there is one for each topic.
        from lakehouse.landing.pull import pulled

        return pulled(self._topic, self._ingest, storage, slot, check)

    def _remember(self, offset: Offset) -> None:
        if self._last is None or offset.epoch > self._last.epoch:
            self._last = offset

    def _used(self, state: IngestState) -> int:
        """The last epoch that bronze or a manifest knows of."""
        listed = listed_manifests(storage_for(self._raw, self._storage_options))
        return max([state.epoch, *(epoch for epoch, _ in listed)])

    def _state(self) -> IngestState:
        return newest_state(open_table(f"{self._raw}/bronze", self._storage_options))

    def _next_slots(self) -> int:
        """More when every slot of the last epoch stopped at its bound, fewer when every one ran dry."""
        bounds = self._topic.slots
        if self._last is None:
            return bounds.min
        storage = storage_for(self._raw, self._storage_options)
        manifests = [read_manifest(storage, self._last.epoch, slot) for slot in range(self._last.slots)]
        slots = self._last.slots
        if all(manifest and manifest.full for manifest in manifests):
            slots *= 2
        elif all(manifest and manifest.dry_at for manifest in manifests):
            slots -= 1
        return max(bounds.min, min(bounds.max, slots))


class MessageStream(SegmentStream):
    """The same segments, served as messages to a query whose checkpoint is all that there is: see `messages`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        self._segments = Segments(self._raw, self._topic, self._storage_options)

    def initialOffset(self) -> dict[str, Any]:
        """Before the first segment that is still there: without a checkpoint nobody knows who has its rows."""
        return Offset(self._segments.first(), 0, None).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on; with all slots of one that was pulled before."""
        if start is not None:
            self._remember(Offset(**start))
        epoch = (self._last.epoch if self._last else self._segments.first()) + 1
        self._last = Offset(epoch, max(self._next_slots(), self._segments.slots_of(epoch)), None)
        return self._last.as_dict()

    def commit(self, end: dict[str, Any]) -> None:
        """The batch that ends there is in Spark's commit log: what came before it is never planned again."""
        self._segments.clear(Offset(**end).epoch)

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        assert isinstance(partition, Slot)
        storage = storage_for(self._raw, self._storage_options)
        manifest = read_manifest(storage, partition.epoch, partition.slot)
        if manifest is None:
            self._segments.check(partition.epoch)
            manifest = self._pulled(storage, partition, lambda: self._segments.check(partition.epoch))
        yield from self._segments.rows(manifest)


def facts(manifest: Manifest) -> pa.RecordBatch:
    """A manifest as rows of `FACTS`."""
    counts = json.dumps({"reasons": manifest.reasons, "undeclared": manifest.undeclared}, sort_keys=True)
    common = {
        "epoch": manifest.epoch,
        "slot": manifest.slot,
        "written_at": manifest.written_at,
        "dry_at": manifest.dry_at,
        "full": manifest.full,
        "attempt": manifest.attempt,
    }
    rows: list[dict[str, Any]] = [
        {**common, **vars(file), "rejected": 0 if file.event_hour else file.rows} for file in manifest.files
    ]
    rows = rows or [{**common, "rows": 0, "size_bytes": 0, "rejected": 0}]
    rows[0]["counts"] = counts
    return pa.RecordBatch.from_pylist(rows, schema=FACTS)
