"""`format("pubsub")`: topics of Pub/Sub, Kafka and Pub/Sub Lite as a replay-safe Structured Streaming source.

Its offset is an epoch, its rows are facts about segments. A slot that has a manifest yields the manifest's facts, for
ever; a slot that has none pulls, writes, publishes its manifest, and only then acknowledges. With
`option("read", "messages")` its rows are the messages themselves, for anybody's query: see `messages`.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lakehouse.clock import clock_of
from lakehouse.config import Ingest
from lakehouse.errors import noting_errors
from lakehouse.landing.bundles import SIDE_BY_SIDE, Bundle, Land, pulled
from lakehouse.landing.message_stream import SUSPECT_FOR, MessageStream
from lakehouse.landing.messages import source_options_of, topic_named
from lakehouse.landing.plan import Offset, Plan, bundles
from lakehouse.landing.pull import Puller
from lakehouse.schemas import FACTS, segment_schema
from lakehouse.spark.workers import spare_next_task
from lakehouse.store.place import Place
from lakehouse.topics import Topic

FORMAT = "pubsub"


def source_options(
    topics: Iterable[Topic], raw_root: str, ingest: Ingest, storage_options: Mapping[str, str], plan: Path
) -> dict[str, str]:
    """The options of `spark.readStream.format("pubsub")` for topics whose raw folders are below `raw_root`.

    `plan` is the file in which the driver leaves what is to be planned.
    """
    return {
        "topics": _packed({topic.name: topic.as_json() for topic in topics}),
        "raw_root": raw_root,
        "ingest": ingest.model_dump_json(),
        "storage": json.dumps(dict(storage_options)),
        "plan": str(plan),
    }


class PubSubSource(DataSource):
    """`format("pubsub")`: the messages of topics, from whichever broker their files name, for Structured Streaming.

    Register it once per session, `spark.dataSource.register(PubSubSource)`. With `option("read", "messages")` the rows
    are the messages: bronze's columns without `hour` (`message_id`, `publish_time`, `attributes`, `payload`,
    `ordering_key`; `event_id`, `event_time`, `event` with the declared fields, `reject_reason`; `epoch`, `slot`,
    `position`). Times are UTC. Options: `topic` (a file such as `conf/topics/plays.yaml`, or JSON), `segments` (a
    folder of this query's own), and those of `ingest` in `conf/`; see `lakehouse.landing.messages`. Without it the rows
    are what ingest commits (`lakehouse.schemas.FACTS`).

    A batch that Spark plans again has the same rows, and nothing is acknowledged before it is durable. SourceError when
    an option is missing, when the folder is another's, or when the source cannot be read.
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
        return FactStream(self.options)

    def _serves_messages(self) -> bool:
        return self.options.get("read", "facts") == "messages"


class FactStream(DataSourceStreamReader):
    """Plans epochs of many topics on the driver, pulls bundles on executors. Plans by what the driver leaves it."""

    def __init__(
        self, options: Mapping[str, str], puller: Puller | None = None, side_by_side: int = SIDE_BY_SIDE
    ) -> None:
        self._topics = options["topics"]
        self._raw_root = Place(options["raw_root"], dict(json.loads(options["storage"])))
        self._ingest = Ingest.model_validate_json(options["ingest"])
        self._plan_path = Path(options["plan"])
        self._puller, self._side_by_side = puller or Puller(clock=clock_of(self._raw_root.uri)), side_by_side
        self._last: Offset | None = None
        self._fresh: set[int] = set()
        self._suspect_until = 0.0

    def initialOffset(self) -> dict[str, Any]:
        """After the last epoch that any of the topics ever used, in whichever application: none is used again.

        Where a checkpoint was lost, ingest adopts the manifests that no commit took. No topic is polled: it is the end
        of nothing, so the first batch, planned again after its epoch is known, never looks empty.
        """
        return Offset(self._plan().last_epoch, {}, tuple(sorted(_unpacked(self._topics)))).as_dict()

    def latestOffset(self, start: dict[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
        """One epoch on, whatever there is to read. Spark 4.1 asks a new query for this before it asks for a start."""
        if start is not None:
            self._remember(Offset.from_dict(start))
        plan = self._plan()
        epoch = max(self._last.epoch if self._last else 0, plan.last_epoch) + 1
        self._last = Offset.of(epoch, plan, _unpacked(self._topics))
        self._fresh.add(epoch)
        return self._last.as_dict()

    def partitions(self, start: dict[str, Any], end: dict[str, Any]) -> Sequence[InputPartition]:
        """The bundles of the epoch `end`, a task each; none when it is `start`."""
        offset = Offset.from_dict(end)
        self._remember(offset)
        if start == end:
            return []
        is_fresh = offset.epoch in self._fresh
        self._fresh.discard(offset.epoch)
        if not is_fresh:
            self._suspect_until = time.monotonic() + SUSPECT_FOR.total_seconds()
        plan = self._plan()
        is_suspect = plan.is_suspect or time.monotonic() < self._suspect_until
        planned = bundles(offset, plan, _unpacked(self._topics), is_fresh=is_fresh, is_suspect=is_suspect)
        self._note(planned)
        return planned

    def commit(self, end: dict[str, Any]) -> None:
        """Nothing: ingest clears manifests away by what bronze's log says of them."""

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """On an executor: the facts (`FACTS`) of the bundle's slots, once their segments and manifests are durable."""
        assert isinstance(partition, Bundle)
        with noting_errors(self._raw_root.uri):
            rows = pulled(partition, self._land(), self._puller, self._side_by_side)
        yield pa.RecordBatch.from_pylist(rows, schema=FACTS)
        spare_next_task()

    def _land(self) -> Land:
        packed = self._topics
        return Land(lambda name: _topic(packed, name), self._raw_root.below, self._ingest)

    def _plan(self) -> Plan:
        return Plan.read(self._plan_path)

    def _note(self, planned: Sequence[Bundle]) -> None:
        """Which topics each task has, by its number: Spark names a task that died by nothing else."""
        names = [sorted({name for name, _ in bundle.slots}) for bundle in planned]
        bundles_file(self._plan_path).write_text(json.dumps(names))

    def _remember(self, offset: Offset) -> None:
        if self._last is None or offset.epoch > self._last.epoch:
            self._last = offset


def bundles_file(plan: Path) -> Path:
    """Where the planner notes the topics of each task of the last epoch, beside the plan."""
    return plan.with_suffix(".bundles")


def _packed(topics: Mapping[str, str]) -> str:
    """Topics are alike, and Spark carries the options with every task."""
    return base64.b64encode(zlib.compress(json.dumps(topics).encode())).decode()


@cache
def _unpacked(packed: str) -> Mapping[str, str]:
    topics: dict[str, str] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return topics


@cache
def _topic(packed: str, name: str) -> Topic:
    return Topic.from_json(_unpacked(packed)[name])
