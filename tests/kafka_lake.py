"""A topic of Kafka: publishing to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from log_lake import FIELDS

from lakehouse.topics import Topic, topic_from

PATIENCE_SECONDS = 30
"""For what is due soon; only a failing test waits this long."""


def kafka_topic(bootstrap: str, name: str, **values: Any) -> Topic:
    source = {"kind": "kafka", "bootstrap": bootstrap, "topic": name, **values.pop("source", {})}
    return topic_from("plays", {**FIELDS, "source": source, **values})


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
