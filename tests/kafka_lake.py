"""A topic of Kafka and its lake: publishing, and an application's epochs without Spark."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from lakehouse.config import Config
from lakehouse.crews import Crew
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.pull import Puller
from lakehouse.landing.source import FactStream
from lakehouse.schemas import FACTS
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.history import History
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic, topic_from

PATIENCE_SECONDS = 30
"""For what is due soon; only a failing test waits this long."""

FIELDS = {
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"n": "bigint"},
    "lateness": "1 minute",
    "quiet_period": "0 seconds",
    "first_hour": "earliest",
}


def kafka_topic(bootstrap: str, name: str, **values: Any) -> Topic:
    source = {"kind": "kafka", "bootstrap": bootstrap, "topic": name, **values.pop("source", {})}
    return topic_from("plays", {**FIELDS, "source": source, **values})


def event(played_at: datetime, event_id: str, n: int = 1) -> bytes:
    return json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": n}).encode()


@dataclass
class Publisher:
    """Of one cluster. `transactional` is the id of a publisher of transactions."""

    bootstrap: str
    transactional: str = ""
    producer: Any = field(init=False)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = {"bootstrap.servers": self.bootstrap, "linger.ms": 5, "log_level": 2}
        if self.transactional:
            settings["transactional.id"] = self.transactional
        self.producer = Producer(settings)
        if self.transactional:
            self.producer.init_transactions(PATIENCE_SECONDS)
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})

    def create(self, name: str, partitions: int = 1, **settings: str) -> None:
        topic = NewTopic(name, partitions, 1, config={key.replace("_", "."): each for key, each in settings.items()})
        self.admin.create_topics([topic])[name].result(PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while name not in self.admin.list_topics(timeout=PATIENCE_SECONDS).topics:  # every broker learns it by itself
            assert time.monotonic() < deadline

    def widen(self, name: str, partitions: int) -> None:
        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(PATIENCE_SECONDS)

    def delete(self, name: str) -> None:
        self.admin.delete_topics([name])[name].result(PATIENCE_SECONDS)

    def publish(self, name: str, *payloads: bytes | None, partition: int = 0, at: datetime | None = None,
                **more: Any) -> None:  # fmt: skip
        millis = int((at or datetime.now(UTC)).timestamp() * 1000)
        for payload in payloads:
            self.producer.produce(name, payload, partition=partition, timestamp=millis, on_delivery=self._note, **more)
        if not self.transactional:
            self.flush()

    def flush(self) -> None:
        assert self.producer.flush(PATIENCE_SECONDS) == 0
        assert self.refused == []

    def _note(self, error: Any, message: Any) -> None:
        if error is not None:
            self.refused.append(str(error))


class Frame:
    """What `foreachBatch` is given, of facts that were read in this process."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self._batches = batches

    def toArrow(self) -> pa.Table:
        return pa.Table.from_batches(self._batches, FACTS)


class Application:
    """One run of ingest over one topic, batch by batch, in this process."""

    def __init__(self, topic: Topic, config: Config, folder: Path, run: str = "one") -> None:
        self.topic, self.config = topic, config
        self.ingest = TopicIngest(topic, config, run=run)
        self.ingest.open_topic(self.ingest.ack_deadline())
        self.query = IngestQuery(
            [self.ingest], config.settings, commits=Crew(0, "commit"), plan_path=folder / f"{run}.plan"
        )
        self.query.add(self.ingest)
        self.stream = FactStream(self.query.source_options(), Puller(), side_by_side=0)
        self._offset = self.stream.initialOffset()
        self._batches = 0

    def batch(self) -> list[dict[str, Any]]:
        """One epoch, from its plan to its commit; its facts."""
        begin, self._offset = self._offset, self.stream.latestOffset()
        planned = self.stream.partitions(begin, self._offset)
        batches = [batch for partition in planned for batch in self.stream.read(partition)]
        self.query.on_batch(Frame(batches), self._batches)  # type: ignore[arg-type]
        self._batches += 1
        return [row for batch in batches for row in batch.to_pylist()]

    def batches(self, count: int) -> None:
        for _ in range(count):
            self.batch()

    @property
    def tables(self) -> TopicTables:
        return TopicTables(self.topic, self.config.settings)

    def bronze(self) -> pa.Table:
        return self.tables.bronze().to_pyarrow_table()

    def ids(self) -> list[str]:
        """Of all deliveries in bronze, sorted."""
        return sorted(each or "" for each in self.bronze().column("event_id").to_pylist())

    def positions(self) -> dict[int, int]:
        positions = newest_state(self.tables.bronze()).positions
        return dict(positions.offsets) if positions else {}

    def history(self) -> History:
        return self.tables.ledger("test").history()

    def states(self) -> list[str]:
        return [entry.state for entry in self.history().entries]


def closed(history: History) -> list[str]:
    return sorted(entry.hour for entry in history.entries if entry.state == "closed" and entry.hour)


def config_of(topic: Topic, folder: Path, settings: Any) -> Config:
    return Config(folder / "conf.yaml", settings, {topic.name: topic}, folder / "expectations")


def numbered(prefix: str, numbers: Iterable[int]) -> Sequence[str]:
    return [f"{prefix}{number}" for number in numbers]
