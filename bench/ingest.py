"""How fast events come from Pub/Sub to committed bronze, against Spark's own way with the same payloads.

python -m bench.ingest [--messages N]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.pages import PAGE, payload
from bench.report import Report
from lakehouse.config import Config, Settings
from lakehouse.events import DELIVERED
from lakehouse.ingest import TopicIngest, stop_between_triggers
from lakehouse.session import spark_session
from lakehouse.sources.subscription import SubscriptionReader
from lakehouse.topics import topic_from

BUILD = Path("build/bench/ingest")
SUBSCRIPTION = "projects/bench/subscriptions/plays"
FIELDS = {
    "user": "string",
    "country": "string",
    "track": "string",
    "ms": "int",
    "score": "double",
    "shuffled": "boolean",
    "context": "string",
}
TOPIC = topic_from(
    "plays",
    {
        "subscription": SUBSCRIPTION,
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": FIELDS,
        "first_hour": "earliest",
        "empty_hours": "skip",
        "slots": {"min": 2, "max": 2},
    },
)
SETTINGS = Settings(
    raw_root=str(BUILD / "lake"),
    sealed_root=str(BUILD / "lake"),
    release="bench",
    frontier={"source": "dry"},
    ingest={"trigger": "0 seconds", "dry_after": "0.3 seconds", "max_messages": 250_000},
    spark={
        "spark.master": "local[2]",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "3g",
        "spark.log.level": "ERROR",
    },
)
WARM_UP = 60 * PAGE


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=2_000_000)
    messages = parser.parse_args().messages
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("ingest")
    with _server() as release:
        pulled = _bare_pulls(messages, release)
        report.shown("bare pull and acknowledge, 2 processes", pulled, "events/s")
        spark = spark_session(SETTINGS, "bench")
        ours, core_seconds = _ingested(spark, messages, release)
    plain = _plain_spark(spark, messages)
    report.shown("from Pub/Sub to committed bronze", ours, "events/s")
    report.shown("plain Spark batch: Parquet, from_json, Delta", plain, "events/s")
    report.at_least("ingest against the plain Spark batch", ours / plain, 1.2)
    report.at_most("core-seconds per 100k events, our processes", core_seconds, 1.1, "core-seconds")
    report.shown("share of time spent outside pulling", 1 - ours / pulled, "")
    return report.finish()


@contextmanager
def _server() -> Iterator[Any]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.pages"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    channel: IO[str] = process.stdin
    os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{process.stdout.readline().strip()}"

    def release(messages: int) -> None:
        channel.write(f"{messages // PAGE}\n")
        channel.flush()

    try:
        yield release
    finally:
        channel.close()
        process.wait(10)


def _bare_pulls(messages: int, release: Any) -> float:
    """Events per second of two processes that only pull and acknowledge."""
    command = [sys.executable, "-c", "from bench.ingest import pull_all; pull_all()"]
    pullers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for puller in pullers:
        assert puller.stdout is not None
        puller.stdout.readline()
    release(messages)
    started = time.monotonic()
    for puller in pullers:
        assert puller.stdin is not None
        puller.stdin.write("go\n")
        puller.stdin.flush()
    ended = max(float(puller.communicate()[0]) for puller in pullers)
    return messages / (ended - started)


def pull_all() -> None:
    """In a process of its own: pull and acknowledge until nothing comes; prints when the last page came."""
    reader = SubscriptionReader(SUBSCRIPTION)
    print("ready", flush=True)
    sys.stdin.readline()
    last = time.monotonic()
    while (found := reader.pull(PAGE, 0.5)) is not None:
        reader.acknowledge(found.ack_ids)
        last = time.monotonic()
    print(last)


def _ingested(spark: SparkSession, messages: int, release: Any) -> tuple[float, float]:
    """(events per second, core-seconds per 100k events) after a warm-up."""
    config = Config(Path("bench"), SETTINGS, {TOPIC.name: TOPIC}, Path("bench"))
    ingest = TopicIngest(TOPIC, config, run=uuid.uuid4().hex)
    rows = [0]
    arrived = threading.Condition()
    commit_facts = ingest.commit_facts

    def counted(facts: list[dict[str, Any]]) -> Any:
        batch = commit_facts(facts)
        with arrived:
            rows[0] += batch.rows
            arrived.notify_all()
        return batch

    ingest.commit_facts = counted  # type: ignore[method-assign]
    query = ingest.start(spark)
    release(WARM_UP)
    with arrived:
        arrived.wait_for(lambda: rows[0] >= WARM_UP, 300)
    cpu, started = _core_seconds(), time.monotonic()
    release(messages)
    with arrived:
        arrived.wait_for(lambda: rows[0] >= WARM_UP + messages, 900)
    seconds, used = time.monotonic() - started, _core_seconds() - cpu
    stop_between_triggers(query)
    return messages / seconds, used / messages * 100_000


def _core_seconds() -> float:
    """Of this process, its JVM and their workers; not of the server, which stands for Pub/Sub."""
    me = psutil.Process()
    family = [me, *(child for child in me.children(recursive=True) if "bench.pages" not in child.cmdline())]
    total = 0.0
    for process in family:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def _plain_spark(spark: SparkSession, messages: int) -> float:
    """Rows per second of a batch that reads the same payloads, parses the same fields and writes the same columns."""
    source, target = str(BUILD / "payloads"), str(BUILD / "plain")
    _write_payloads(Path(source), messages)
    schema = "event_id string, played_at timestamp, " + ", ".join(f"{name} {kind}" for name, kind in FIELDS.items())

    def run(folder: str, into: str) -> None:
        parsed = F.from_json(F.col("payload").cast("string"), schema)
        frame = spark.read.parquet(folder).withColumn("parsed", parsed)
        columns = ["message_id", "publish_time", "attributes", "payload", "parsed.event_id"]
        event = F.struct(*(F.col(f"parsed.{name}") for name in FIELDS)).alias("event")
        time_of_event = F.col("parsed.played_at").alias("event_time")
        hour = F.date_format("parsed.played_at", "yyyy-MM-dd'T'HH").alias("hour")
        frame.select(*columns, time_of_event, event, hour).write.format("delta").partitionBy("hour").save(into)

    _write_payloads(Path(source + "-warm"), WARM_UP)
    run(source + "-warm", target + "-warm")
    started = time.monotonic()
    run(source, target)
    return messages / (time.monotonic() - started)


def _write_payloads(folder: Path, messages: int, files: int = 8) -> None:
    folder.mkdir(parents=True)
    distinct = [payload(number) for number in range(64 * PAGE)]
    each = messages // files
    for number in range(files):
        places = range(number * each, (number + 1) * each)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([str(10**16 + place) for place in places]),
                pa.array([datetime(2026, 1, 1, 5, tzinfo=UTC)] * each, DELIVERED.field("publish_time").type),
                pa.array([[]] * each, DELIVERED.field("attributes").type),
                pa.array([distinct[place % len(distinct)] for place in places], pa.binary()),
            ],
            schema=DELIVERED,
        )
        pq.write_table(pa.Table.from_batches([batch]), folder / f"{number:03d}.parquet", compression="zstd")


if __name__ == "__main__":
    sys.exit(main())
