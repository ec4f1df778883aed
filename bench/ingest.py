"""How fast events come from Pub/Sub and Kafka to committed bronze, against Spark's own ways with the same payloads.

    python -m bench.ingest [--messages N] [--long N] [--only PART …]

A synthetic server answers Pull with prepared pages, on the same cores; what it uses is not counted as ours.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

from bench import decoding, formats, kafka, pages
from bench.decoding import FIELDS
from bench.measuring import core_seconds, core_seconds_by_process, is_java, is_python, resident_bytes
from bench.pages import PAGE, Served, payload
from bench.report import Report
from lakehouse.config import Config, Settings
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.brokers.pubsub import SubscriptionReader
from lakehouse.landing.source import FORMAT, PubSubSource
from lakehouse.schemas import DELIVERED
from lakehouse.spark.partitions import Ended
from lakehouse.spark.session import spark_session
from lakehouse.store.delta import open_table
from lakehouse.topics import Topic, topic_from

BUILD = Path("build/bench/ingest").absolute()
SPARK = {
    "spark.scheduler.mode": "FAIR",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "3g",
    "spark.log.level": "ERROR",
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    ),
    "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
}
REPEATS = 3
PARTITION_BATCH = 100_000
"""Messages that a slot has of an epoch, where one partition is read."""
WARM_UP = 60 * PAGE
SAMPLED_EVERY = 1_000_000
IDLE_TRIGGERS = 40
_PATIENCE = 1200.0

_runs = count(1)


def main() -> int:
    parts = {"speed": _speed, "formats": _formats, "textbook": _textbook, "idle": _idle}
    own = {"kinds": _kinds, "kafka": _kafka, "partition": _partition}
    parser = argparse.ArgumentParser(prog="bench.ingest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=2_000_000, help="of each measured run (%(default)s)")
    parser.add_argument("--long", type=int, default=20_000_000, help="over which memory is watched (%(default)s)")
    parser.add_argument(
        "--only", nargs="*", choices=[*parts, *own], default=[*parts, *own], help="parts to measure (all)"
    )
    arguments = parser.parse_args()
    if arguments.long < 2 * REPEATS * arguments.messages:
        parser.error(f"--long {arguments.long}: expected at least {2 * REPEATS} times --messages")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("ingest", is_part=len(arguments.only) < len(parts) + len(own))
    with pages.served() as server:
        try:
            for name in arguments.only:
                if name in own:
                    own[name](report, arguments.messages)
                    continue
                with session(2) as spark:
                    parts[name](Bench(report, spark, server, arguments.messages, arguments.long))
        finally:
            shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


@contextmanager
def session(slots: int, more: Mapping[str, str] | None = None) -> Iterator[SparkSession]:
    settings = settings_of("none")
    settings = settings.model_copy(update={"spark": {**SPARK, **(more or {}), "spark.master": f"local[{slots}]"}})
    spark = spark_session(settings, "bench ingest")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()
        _end_jvm()


def _end_jvm() -> None:
    """The next session has settings of its own: a JVM that runs takes no more `spark.jars`."""
    gateway: Any = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()
    SparkContext._gateway = SparkContext._jvm = None


@dataclass(frozen=True)
class Bench:
    """What every part has."""

    report: Report
    spark: SparkSession
    server: Served
    messages: int
    long: int


# --- speed and memory ----------------------------------------------------------------------------------------------


def _speed(bench: Bench) -> None:
    report, messages = bench.report, bench.messages
    pulled = _bare_pulls(messages, bench.server)
    report.shown("bare pull and acknowledge, 2 processes", pulled, "events/s")
    plain = messages / plain_spark(bench.spark, messages)
    report.shown("plain Spark batch: Parquet, from_json, Delta", plain, "events/s")
    with ingesting(bench, [topic_of("plays", slots=2)]) as (plays,):
        plays.take(WARM_UP)
        cpu = our_core_seconds()
        seconds = [plays.take(messages) for _ in range(REPEATS)]
        used = (our_core_seconds() - cpu) / (REPEATS * messages) * 100_000
        ours = messages / min(seconds)
        report.shown("from Pub/Sub to committed bronze", ours, "events/s")
        report.at_least("ingest against the plain Spark batch", ours / plain, 1.2)
        report.at_most("core-seconds per 100k events, our processes", used, 1.1, "core-seconds")
        report.shown("cores for 100 billion events a day", 100e9 / 86_400 / 100_000 * used, "cores")
        report.shown("share of time spent outside pulling", 1 - ours / pulled, "")
        _memory(report, plays, bench.long - REPEATS * messages)


def _memory(report: Report, topic: Running, messages: int) -> None:
    """A mean of the second quarter against one of the last: both are after the warm-up."""
    samples: dict[str, list[int]] = {"driver and executor's JVM": [], "all Python processes": []}
    for _ in range(0, messages, SAMPLED_EVERY):
        topic.take(min(SAMPLED_EVERY, messages))
        samples["driver and executor's JVM"].append(resident_bytes(is_java))
        samples["all Python processes"].append(resident_bytes(is_ours))
    for name, held in samples.items():
        quarter = max(1, len(held) // 4)
        early, late = statistics.mean(held[quarter : 2 * quarter] or held), statistics.mean(held[-quarter:])
        report.shown(f"memory over {messages:,} events: {name}", late / 1024**2, "MiB")
        report.at_most(f"memory over {messages:,} events: {name}, last quarter against second", late / early, 1.1)


def _bare_pulls(messages: int, server: Served) -> float:
    """Events per second of two processes that only pull and acknowledge."""
    command = [sys.executable, "-c", "from bench.ingest import pull_all; pull_all()"]
    pullers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for puller in pullers:
        assert puller.stdout is not None
        puller.stdout.readline()
    server.release(_subscription("bare"), messages)
    started = time.monotonic()
    for puller in pullers:
        assert puller.stdin is not None
        puller.stdin.write("go\n")
        puller.stdin.flush()
    ended = max(float(puller.communicate()[0]) for puller in pullers)
    return messages / (ended - started)


def pull_all() -> None:
    """In a process of its own: pull and acknowledge until nothing comes; prints when the last page came."""
    reader = SubscriptionReader(_subscription("bare"), answers="ptars")
    print("ready", flush=True)
    sys.stdin.readline()
    last = time.monotonic()
    while (found := reader.pull(PAGE, 0.5)) is not None:
        reader.acknowledge(found.ack_ids)
        last = time.monotonic()
    print(last)


# --- Spark's own ways ----------------------------------------------------------------------------------------------


def plain_spark(spark: SparkSession, messages: int) -> float:
    """Seconds of a batch that reads the same payloads, parses the same fields and writes the same columns."""
    source = BUILD / "payloads"
    schema = "event_id string, played_at timestamp, " + ", ".join(f"{name} {kind}" for name, kind in FIELDS.items())

    def run(folder: Path) -> float:
        started = time.monotonic()
        parsed = F.from_json(F.col("payload").cast("string"), schema)
        frame = spark.read.parquet(str(folder)).withColumn("parsed", parsed)
        columns = ["message_id", "publish_time", "attributes", "payload", "parsed.event_id"]
        event = F.struct(*(F.col(f"parsed.{name}") for name in FIELDS)).alias("event")
        time_of_event = F.col("parsed.played_at").alias("event_time")
        hour = F.date_format("parsed.played_at", "yyyy-MM-dd'T'HH").alias("hour")
        target = str(BUILD / f"plain-{next(_runs)}")
        frame.select(*columns, time_of_event, event, hour).write.format("delta").partitionBy("hour").save(target)
        seconds = time.monotonic() - started
        shutil.rmtree(target)
        return seconds

    _write_payloads(source / "warm", WARM_UP)
    _write_payloads(source / "all", messages)
    run(source / "warm")
    return min(run(source / "all") for _ in range(REPEATS))


def _write_payloads(folder: Path, messages: int, files: int = 8) -> None:
    folder.mkdir(parents=True)
    each = messages // files
    for number in range(files):
        places = range(number * each, (number + 1) * each)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array([f"{place:016d}" for place in places]),
                pa.array([datetime(2026, 1, 1, 5, tzinfo=UTC)] * each, DELIVERED.field("publish_time").type),
                pa.array([[]] * each, DELIVERED.field("attributes").type),
                pa.array([payload(place) for place in places], pa.binary()),
                pa.nulls(each, pa.string()),
            ],
            schema=DELIVERED,
        )
        pq.write_table(pa.Table.from_batches([batch]), folder / f"{number:03d}.parquet", compression="zstd")


def _textbook(bench: Bench) -> None:
    """The same source, its messages through Spark, with what its guide says: a watermark and dropDuplicates."""
    report, messages = bench.report, bench.messages
    topic = topic_of("textbook", slots=2)
    bench.spark.dataSource.register(PubSubSource)
    source = bench.spark.readStream.format(FORMAT).option("read", "messages").option("topic", topic.as_json())
    source = source.option("segments", str(BUILD / "textbook")).option("max_messages", 250_000)
    rows = source.option("empty_after", "0.3 seconds").load().withWatermark("event_time", "1 hour")
    query = (
        rows.dropDuplicatesWithinWatermark(["event_id"])
        .writeStream.format("delta")
        .option("checkpointLocation", str(BUILD / "textbook/checkpoint"))
        .trigger(processingTime="0 seconds")
        .start(str(BUILD / "textbook/table"))
    )
    taken = _Counted(query)
    bench.server.release(topic.subscription, WARM_UP)
    taken.wait_for(WARM_UP)
    started = time.monotonic()
    bench.server.release(topic.subscription, messages)
    taken.wait_for(WARM_UP + messages)
    seconds = time.monotonic() - started
    late = 5 * PAGE
    bench.server.release(topic.subscription, late, "late")
    taken.wait_for(WARM_UP + messages + late)
    query.stop()
    report.shown("textbook pipeline, dropDuplicatesWithinWatermark into Delta", messages / seconds, "events/s")
    report.shown("textbook pipeline: ids in its state", taken.state_rows, "rows")
    report.shown("textbook pipeline: its state on disk", _size_of(BUILD / "textbook/checkpoint/state") / 1024**2, "MiB")
    report.shown(f"textbook pipeline: dropped of {late:,} events that were late", taken.dropped, "events")


class _Counted:
    """What a query's progress says, added up."""

    def __init__(self, query: StreamingQuery) -> None:
        self._query = query
        self._seen = -1
        self._rows = 0
        self.state_rows = 0
        self.dropped = 0

    def wait_for(self, rows: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._rows < rows:
            if not self._query.isActive or time.monotonic() > deadline:
                raise RuntimeError(f"{self._rows} of {rows} events came: {self._query.exception() or 'too slow'}")
            time.sleep(0.05)
            for progress in self._query.recentProgress:
                if progress["batchId"] > self._seen:
                    self._seen = progress["batchId"]
                    self._rows += progress["numInputRows"]
                    (state,) = progress["stateOperators"]
                    self.state_rows = state["numRowsTotal"]
                    self.dropped += state["numRowsDroppedByWatermark"]


# --- an idle topic ---------------------------------------------------------------------------------------------------


def _idle(bench: Bench) -> None:
    report = bench.report
    with ingesting(bench, [topic_of("idle")]) as (topic,):
        topic.take(PAGE)
        topic.wait_for_triggers(IDLE_TRIGGERS)
        version, cpu = topic.bronze_version(), our_core_seconds()
        triggers = topic.wait_for_triggers(IDLE_TRIGGERS)
        used = (our_core_seconds() - cpu) / triggers
        commits = topic.bronze_version() - version
    report.at_most("idle topic: core-seconds per trigger", used, 0.25, "core-seconds")
    report.at_most(f"idle topic: Delta commits in {triggers} triggers", commits, 0, "commits")


# --- other formats ---------------------------------------------------------------------------------------------------


def _formats(bench: Bench) -> None:
    """The same events as JSON, Avro and Protobuf, one after another, each to committed bronze in a lake of its own."""
    json_rate = _rate(bench, "JSON", "on time", {})
    for name, title in (("avro", "Avro"), ("protobuf", "Protobuf")):
        rate = _rate(bench, title, name, formats.options(name))
        bench.report.at_least(f"Pub/Sub, {title} against JSON", rate / json_rate, formats.LEAST_SHARE)


def _rate(bench: Bench, title: str, kind: str, options: Mapping[str, Any]) -> float:
    """Events a second, the best of some rounds."""
    report, messages = bench.report, bench.messages
    with ingesting(bench, [topic_of(f"plays_{title.lower()}", slots=2, **options)]) as (plays,):
        plays.take(WARM_UP, kind)
        cpu = our_core_seconds()
        seconds = [plays.take(messages, kind) for _ in range(REPEATS)]
        cost = (our_core_seconds() - cpu) / (REPEATS * messages) * 100_000
    rate = messages / min(seconds)
    report.shown(f"Pub/Sub, {title}", rate, "events/s")
    report.shown(f"Pub/Sub, {title}: core-seconds per 100k events, our processes", cost, "core-seconds")
    return rate


# --- messages of every kind ---------------------------------------------------------------------------------------


def _kinds(report: Report, messages: int) -> None:
    """Decoding alone, in this process: each kind's bound is a share of what the clean page reaches beside it."""
    for kind in decoding.KINDS:
        clean, found = decoding.speeds(kind)
        report.at_least(f"decoding, {kind.name}", found, decoding.LEAST_SHARE * clean, "messages/s")
    for kind in decoding.FORMATS:
        clean, found = decoding.speeds(kind)
        report.at_least(f"decoding, {kind.name} against JSON", found / clean, formats.LEAST_SHARE)


# --- Kafka ---------------------------------------------------------------------------------------------------------


def _kafka(report: Report, messages: int) -> None:
    """A backlog by Spark's own source and by ours, from the same broker; each without its first batch."""
    with kafka.broker(BUILD / "kafka") as broker, session(2, {"spark.jars": kafka.source_jars()}) as spark:
        kafka.publish(broker, "plays", messages)
        theirs, their_cpu = kafka.sparks_own(spark, broker, "plays", BUILD / "spark-kafka")
        bench = Bench(report, spark, _NoServer(), messages, 0)  # type: ignore[arg-type]
        with ingesting(bench, [kafka.topic_of(broker, "plays")]) as (plays,):
            first = plays.wait_for(1)
            begun = kafka.Begun(broker)
            plays.wait_for(messages)
            ours, our_cpu = begun.figures(messages - first)
    report.shown("Spark's own Kafka source, from_json, Delta", theirs, "events/s")
    report.shown("Spark's own Kafka source: core-seconds per 100k events", their_cpu, "core-seconds")
    report.shown("from Kafka to committed bronze", ours, "events/s")
    report.shown("from Kafka: core-seconds per 100k events, our processes", our_cpu, "core-seconds")
    report.at_least("Kafka: ingest against Spark's own source", ours / theirs, 2.0)


def _partition(report: Report, messages: int) -> None:
    """One partition's backlog, by one slot and then by two, from the same broker; each without its first batch.

    Where nothing else wants the cores a batch takes as long as its busiest task; else only that task's work tells.
    """
    rates, busiest = {}, {}
    with kafka.broker(BUILD / "kafka-partition") as broker, session(2) as spark:
        kafka.publish(broker, "one", messages, partitions=1)
        bench = Bench(report, spark, _NoServer(), messages, 0)  # type: ignore[arg-type]
        ingest = settings_of("none").ingest.model_copy(update={"max_messages": PARTITION_BATCH})
        for slots in (1, 2):
            with ingesting(bench, [kafka.topic_of(broker, "one", slots)], changes={"ingest": ingest}) as (plays,):
                first = plays.wait_for(1)
                begun = kafka.Begun(broker)
                busiest[slots] = _busiest(plays, first, messages)
                rates[slots], cpu = begun.figures(messages - first)
            name = f"from one partition of Kafka, {'one slot' if slots == 1 else 'two slots'}"
            report.shown(name, rates[slots], "events/s")
            report.shown(f"{name}: core-seconds per 100k events", cpu, "core-seconds")
            report.shown(f"{name}: of the busiest task of a batch", busiest[slots], "core-seconds")
    report.shown("one partition of Kafka: events/s of two slots against one", rates[2] / rates[1], "times")
    report.at_most("one partition of Kafka: the busiest task's work with two slots against one",
                   busiest[2] / busiest[1], 0.7)  # fmt: skip


def _busiest(topic: Running, rows: int, messages: int) -> float:
    """Core-seconds per 100k events of that process in each batch which used most, all batches together."""
    me, total, wanted = os.getpid(), 0.0, messages - rows
    before = core_seconds_by_process(is_python)
    while rows < messages:
        rows = topic.wait_for(rows + 1)
        used = core_seconds_by_process(is_python)
        total += max(seconds - before.get(pid, 0.0) for pid, seconds in used.items() if pid != me)
        before = used
    return total / wanted * 100_000


class _NoServer:
    """Of messages that are there already."""

    def release(self, subscription: str, messages: int, kind: str = "on time") -> None:
        """Nothing."""


# --- ingest as it runs ---------------------------------------------------------------------------------------------


class Running:
    """One topic's ingest, and how many rows it has committed."""

    query: StreamingQuery
    application: TimedQuery

    def __init__(self, topic: Topic, settings: Settings, server: Served) -> None:
        self.topic, self._settings, self._server = topic, settings, server
        self.ingest = TopicIngest(topic, _config(settings, topic), run=uuid.uuid4().hex)
        self._arrived = threading.Condition()
        self._commit_facts, self._look = self.ingest.commit_facts, self.ingest.look
        self.ingest.commit_facts = self._counted  # type: ignore[method-assign]
        self.ingest.look = self._looked  # type: ignore[method-assign]
        self.triggers: list[float] = []
        self.rows = 0
        self.commit_seconds = 0.0
        """From the beginning of its epoch until what came last was committed."""

    @property
    def raw_root(self) -> str:
        return self._settings.raw_root

    @property
    def is_alive(self) -> bool:
        return bool(self.query.isActive)

    def release(self, messages: int, kind: str = "on time") -> None:
        self._server.release(self.topic.subscription, messages, kind)

    def take(self, messages: int, kind: str = "on time") -> float:
        """Release so many messages; the seconds until they are committed."""
        wanted, started = self.rows + messages, time.monotonic()
        self.release(messages, kind)
        self.wait_for(wanted)
        return time.monotonic() - started

    def wait_for(self, rows: int) -> int:
        """Until so many are committed; how many they are then."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self.rows >= rows or not self.query.isActive, _PATIENCE):
                raise RuntimeError(f"{self.topic.name}: {rows - self.rows} of {rows} events did not come")
            return self.rows

    def wait_for_triggers(self, number: int) -> int:
        """Wait for at least so many; how many they were."""
        first = len(self.triggers)
        while len(self.triggers) < first + number:
            time.sleep(0.01)
        return len(self.triggers) - first

    def wait_for_first_trigger(self) -> None:
        while not self.triggers:
            time.sleep(0.01)

    def bronze_version(self) -> int:
        table = open_table(f"{self._settings.raw_root}/{self.topic.name}/bronze", {})
        assert table is not None
        return table.version()

    def last_batch(self) -> int:
        return max((progress["batchId"] for progress in self.query.recentProgress), default=-1)

    def batch_seconds(self, after: int = -1) -> list[float]:
        """How long each trigger took, of the batches after that one that Spark still knows (the last hundred)."""
        known = [progress for progress in self.query.recentProgress if progress["batchId"] > after]
        return [progress["durationMs"]["triggerExecution"] / 1000 for progress in known]

    def _looked(self, facts: Sequence[dict[str, Any]]) -> bool:
        is_done = self._look(facts)
        if is_done:
            self.triggers.append(time.monotonic())
        return is_done

    def _counted(self, facts: Sequence[dict[str, Any]]) -> Batch:
        batch = self._commit_facts(facts)
        if rejected := sum(fact["rejected"] for fact in facts):
            raise RuntimeError(f"{rejected} of the benchmark's own messages were rejected")
        with self._arrived:
            self.commit_seconds = time.monotonic() - self.application.began
            self.rows += batch.rows
            self.triggers.append(time.monotonic())
            self._arrived.notify_all()
        return batch


class TimedQuery(IngestQuery):
    """One that says when its epoch has begun, by the steady clock."""

    began = 0.0

    def take(self, tasks: Iterable[Ended]) -> None:
        self.began = time.monotonic()
        super().take(tasks)


@contextmanager
def ingesting(
    bench: Bench,
    topics: Sequence[Topic],
    trigger: str = "0 seconds",
    *,
    root: Path | None = None,
    keeps: bool = False,
    changes: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[list[Running]]:
    """In a new lake, or that of `root`; it is removed unless the caller `keeps` it. `changes` are of the settings."""
    settings = settings_of(root.name if root else f"lake-{next(_runs)}", trigger).model_copy(update=dict(changes))
    running = [Running(topic, settings, bench.server) for topic in topics]
    ingests = [each.ingest for each in running]
    query = TimedQuery(ingests, settings)
    supervisor = Supervisor(query, ingests, lambda: query.start(bench.spark))
    supervisor.open()
    streaming = query.start(bench.spark)
    for each in running:
        each.query, each.application = streaming, query
    try:
        yield running
    finally:
        query.stop(streaming)
        if not keeps and "://" not in settings.raw_root:
            shutil.rmtree(settings.raw_root)


def raw_folder(running: Running) -> Path:
    return Path(running.raw_root, running.topic.name)


def _config(settings: Settings, topic: Topic) -> Config:
    return Config(Path("bench"), settings, {topic.name: topic}, Path("bench"))


def settings_of(name: str, trigger: str = "0 seconds") -> Settings:
    ingest = {"trigger": trigger, "empty_after": "0.3 seconds", "max_messages": 250_000}
    root = str(BUILD / name)
    return Settings(
        raw_root=root,
        sealed_root=root,
        release="bench",
        application="bench",
        frontier={"source": "drained"},
        ingest=ingest,
        spark=SPARK,
    )


def topic_of(name: str, slots: int = 1, **changes: Any) -> Topic:
    values: dict[str, Any] = {
        "subscription": _subscription(name),
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": FIELDS,
        "first_hour": "earliest",
        "empty_hours": "skip",
        "slots": {"min": slots, "max": 2},
        **changes,
    }
    return topic_from(name, values)


def _subscription(name: str) -> str:
    return f"projects/bench/subscriptions/{name}"


def is_ours(process: psutil.Process) -> bool:
    """Not the server, which plays Pub/Sub; one that ended and is a zombie, without a command line, is."""
    try:
        return is_python(process) and pages.MODULE not in process.cmdline()
    except psutil.ZombieProcess:
        return True


def our_core_seconds() -> float:
    return core_seconds(lambda process: is_java(process) or is_ours(process))


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
