"""How fast a backlog in Kafka comes to committed bronze, against Spark's own Kafka source in the same run.

The broker is a real one, on the same cores; what it uses is not counted as ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.decoding import FIELDS
from bench.measuring import core_seconds
from bench.pages import payload
from lakehouse.topics import Topic, topic_from
from tests.servers.downloads import jars
from tests.servers.kafka import Kafka

PARTITIONS = 2
BATCH = 500_000
"""Messages of an epoch of ours at most, and of a batch of Spark's."""
_JARS = (  # of the token provider there is no 4.1.2
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.2",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.1.1",
    "org.apache.kafka:kafka-clients:3.9.1",
    "org.apache.commons:commons-pool2:2.12.1",
)
_PATIENCE_SECONDS = 1200


def source_jars() -> str:
    """What Spark's own source is made of, for `spark.jars`."""
    return ",".join(map(str, sorted(jars("spark-kafka", _JARS).glob("*.jar"))))


@contextmanager
def broker(folder: Path) -> Iterator[Kafka]:
    kafka = Kafka(folder)
    try:
        yield kafka
    finally:
        kafka.end()


def topic_of(kafka: Kafka, name: str, slots: int = PARTITIONS) -> Topic:
    """Our topic of the Kafka topic of that name."""
    values: dict[str, Any] = {
        "source": {"kind": "kafka", "bootstrap": kafka.address, "topic": name},
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": FIELDS,
        "first_hour": "earliest",
        "empty_hours": "skip",
        "slots": {"min": slots, "max": slots},
    }
    return topic_from("plays", values)


def publish(kafka: Kafka, name: str, messages: int, partitions: int = PARTITIONS) -> None:
    """A new topic with so many messages, in its partitions in turn."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": kafka.address})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
    time.sleep(1)  # until the broker knows it, too
    producer = Producer({"bootstrap.servers": kafka.address, "linger.ms": 50, "queue.buffering.max.messages": 100_000})
    for place in range(messages):
        while True:
            try:
                producer.produce(name, payload(place), partition=place % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError("the broker did not take the messages")


def sparks_own(spark: SparkSession, kafka: Kafka, name: str, folder: Path) -> tuple[float, float]:
    """(events/s, core-seconds per 100k) of Spark's source, the same fields by from_json, and Delta.

    Without the first batch, in which everything is started.
    """
    schema = "event_id string, played_at timestamp, " + ", ".join(f"{each} {kind}" for each, kind in FIELDS.items())
    rows = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", kafka.address)
        .option("subscribe", name)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", BATCH)
        .load()
        .withColumn("parsed", F.from_json(F.col("value").cast("string"), schema))
    )
    columns = ["partition", "offset", "timestamp", "key", "value", "parsed.event_id"]
    event = F.struct(*(F.col(f"parsed.{each}") for each in FIELDS)).alias("event")
    hour = F.date_format("parsed.played_at", "yyyy-MM-dd'T'HH").alias("hour")
    begun = Begun(kafka)
    query = (
        rows.select(*columns, F.col("parsed.played_at").alias("event_time"), event, hour)
        .writeStream.format("delta")
        .partitionBy("hour")
        .option("checkpointLocation", str(folder / "checkpoint"))
        .trigger(availableNow=True)
        .start(str(folder / "table"))
    )
    while query.isActive and not query.recentProgress:
        time.sleep(0.01)
    begun.restart()
    if not query.awaitTermination(_PATIENCE_SECONDS):
        raise RuntimeError("Spark's own source did not end")
    later = [each for each in query.recentProgress if each["numInputRows"]][1:]
    return begun.figures(sum(each["numInputRows"] for each in later))


class Begun:
    """When a measurement began, and what was used until then by all but the broker."""

    def __init__(self, kafka: Kafka) -> None:
        self._broker = kafka.process.process.pid
        self.restart()

    def restart(self) -> None:
        self._at, self._used = time.monotonic(), core_seconds(self._is_ours)

    def figures(self, rows: int) -> tuple[float, float]:
        seconds, used = time.monotonic() - self._at, core_seconds(self._is_ours) - self._used
        return rows / seconds, used / rows * 100_000

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.pid != self._broker
