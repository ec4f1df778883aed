"""What an event costs from Pub/Sub to a mirrored folder, part by part, beside the same path written by hand.

    python -m bench.path [--only PART …] [--events N] [--by-hand N]

The synthetic server of `bench.pages` answers Pull; what it uses is not counted. Parts: `ours` (ingest, seal, validate,
mirror), `hand` (a Spark stream of the same source into Delta, `dropDuplicates` of the hour, Great Expectations on
Spark, a copy), and `json` (the same payloads from files through DuckDB's `read_json`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import duckdb
from pyspark.sql import functions as F

from bench.decoding import FIELDS
from bench.ingest import BUILD, WARM_UP, Bench, ingesting, our_core_seconds, session, settings_of, topic_of
from bench.pages import PAGE, Served, payload, served
from bench.report import Report
from bench.validate import EVERY_TOPIC
from lakehouse.config import Config
from lakehouse.landing.source import FORMAT, PubSubSource
from lakehouse.mirrors.stage import mirror_due
from lakehouse.schemas import silver_schema
from lakehouse.seal.stage import seal_due
from lakehouse.store.records import Closed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate.stage import validate_due
from lakehouse.validate.suite_files import suite_of
from lakehouse.validate.suites import parameters_of
from tests.gx_engines import findings_on_spark

HOUR = "2026-01-01T05"
"""That of the server's events."""
OF_TOPIC: list[dict[str, Any]] = [
    {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "user", "regex": "^user[0-9]+$"}},
    {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "country", "value_set": ["SE", "US", "DE", "BR"]},
    },
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "track"}},
    {"type": "expect_column_values_to_be_between", "kwargs": {"column": "ms", "min_value": 0, "max_value": 300_000}},
]
MOST_CORE_SECONDS, MOST_CORES = 1.6, 20
_DAY = 100e9 / 86_400 / 100_000
"""100,000s of events a second, of 100 billion a day."""
_Part = Callable[[Report, Served, argparse.Namespace], None]


def main() -> int:
    parts: dict[str, Callable[[Report, Served, argparse.Namespace], None]] = {
        "ours": _ours,
        "hand": _by_hand,
        "json": _json,
    }
    parser = argparse.ArgumentParser(prog="bench.path", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts), help="parts to measure (all)")
    parser.add_argument("--events", type=int, default=20_000_000, help="of the whole path (%(default)s)")
    parser.add_argument("--by-hand", type=int, default=2_000_000, help="of the other ways (%(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("path", is_part=len(arguments.only) < len(parts) or arguments.events != 20_000_000)
    try:
        with served() as server:  # one: a JVM keeps the address that it was started with
            for name in arguments.only:
                parts[name](report, server, arguments)
    finally:
        shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


class _Shares:
    """Core-seconds and seconds of the parts of a path, all of the same events."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._taken: dict[str, tuple[float, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        core, started = our_core_seconds(), time.monotonic()
        yield
        self._taken[name] = our_core_seconds() - core, time.monotonic() - started

    def tell(self, report: Report, about: str) -> float:
        """Core-seconds of 100,000 events, all parts together."""
        for name, (core, seconds) in self._taken.items():
            report.shown(f"{about}: {name}", core / self._events * 100_000, "core-s/100k")
            report.shown(f"{about}: {name}, time", seconds, "seconds")
        core, seconds = (sum(taken[place] for taken in self._taken.values()) for place in (0, 1))
        report.shown(f"{about}: events a second", self._events / seconds, "events/s")
        return core / self._events * 100_000


def _ours(report: Report, server: Served, arguments: argparse.Namespace) -> None:
    events: int = arguments.events
    topic = topic_of("plays", slots=2, mirrors=["folder"])
    root = BUILD / "path"
    mirrors = {"folder": {"kind": "folder", "path": str(root / "mirrored")}}
    shares = _Shares(events + WARM_UP)
    with session(2) as spark:
        bench = Bench(report, spark, server, events, events)
        with ingesting(bench, [topic], root=root, keeps=True) as (plays,), shares.part("ingest"):
            plays.take(WARM_UP + events)
        settings = settings_of(root.name)
        config = _with_suites(Config(root / "path.yaml", settings, {topic.name: topic}, root / "expectations"))
        config = replace(config, settings=settings.model_validate({**settings.model_dump(), "mirrors": mirrors}))
        tables = TopicTables(topic, config.settings)
        tables.ledger("ingest/bench/bench").record(Closed(bronze_version=int(tables.bronze().version())), HOUR)
        with shares.part("seal"):
            (sealed,) = seal_due(topic, config, lambda: spark, run="bench")
        with shares.part("validate"):
            (verdict,) = validate_due(topic, config, run="bench", log_runs=lambda _: None)
        with shares.part("mirror"):
            (mirrored,) = mirror_due(topic, config, None, run="bench")
    if sealed.details["rows"] != events + WARM_UP or verdict.state != "valid":
        raise RuntimeError(f"{sealed.details['rows']} rows of {events + WARM_UP} events, {verdict.state}; {mirrored}")
    about = f"{events + WARM_UP:,} events from Pub/Sub to a mirrored folder"
    used = shares.tell(report, about)
    report.at_most(f"{about}: core-seconds per 100k", used, MOST_CORE_SECONDS, "core-seconds")
    report.at_most("whole path: cores for 100 billion events a day", used * _DAY, MOST_CORES, "cores")


def _with_suites(config: Config) -> Config:
    config.expectations.mkdir(parents=True)
    of_topic = [{**each, "meta": {"severity": "critical"}} for each in OF_TOPIC]
    for name, expected in (("_every_topic", EVERY_TOPIC), ("plays", of_topic)):
        (config.expectations / f"{name}.json").write_text(json.dumps({"name": name, "expectations": expected}))
    return config


def _by_hand(report: Report, server: Served, arguments: argparse.Namespace) -> None:
    """As a good engineer would write it with Spark alone; nothing is counted again, and nothing says what was lost."""
    events: int = arguments.by_hand
    topic = topic_of("hand", slots=2)
    shares = _Shares(events + WARM_UP)
    bronze, silver, mirrored = (str(BUILD / "hand" / name) for name in ("bronze", "silver", "mirrored"))
    with session(2) as spark:
        spark.dataSource.register(PubSubSource)
        source = spark.readStream.format(FORMAT).option("read", "messages").option("topic", topic.as_json())
        source = source.option("segments", str(BUILD / "hand-messages")).option("max_messages", 250_000)
        rows = source.option("empty_after", "0.3 seconds").load()
        hour = F.date_format("event_time", "yyyy-MM-dd'T'HH").alias("hour")
        query = (
            rows.select("*", hour)
            .writeStream.format("delta")
            .partitionBy("hour")
            .option("checkpointLocation", f"{bronze}-checkpoint")
            .trigger(processingTime="0 seconds")
            .start(bronze)
        )
        with shares.part("ingest"):
            server.release(topic.subscription, events + WARM_UP)
            _wait_for(query, events + WARM_UP)
        query.stop()
        with shares.part("dropDuplicates"):
            delivered = spark.read.format("delta").load(bronze).where(F.col("hour") == HOUR)
            columns = ["event.*", "event_id", "event_time", "publish_time", "message_id", "hour"]
            event_hour = F.date_format("event_time", "yyyy-MM-dd'T'HH").alias("event_hour")
            distinct = delivered.dropDuplicates(["event_id"]).select(*columns, event_hour)
            distinct.write.format("delta").partitionBy("hour").save(silver)
        with shares.part("Great Expectations"):
            _judged(topic, spark.read.format("delta").load(silver), events + WARM_UP)
        with shares.part("copy"):
            shutil.copytree(silver, mirrored)
    about = f"{events + WARM_UP:,} events by hand"
    used = shares.tell(report, about)
    report.shown(f"{about}: core-seconds per 100k", used, "core-seconds")


def _judged(topic: Topic, rows: Any, count: int) -> None:
    config = Config(BUILD / "hand.yaml", settings_of("hand"), {topic.name: topic}, BUILD / "hand" / "expectations")
    named = topic.model_copy(update={"name": "plays"})  # as the suite's file is
    suite = suite_of(named, _with_suites(config)).of_hour(parameters_of(HOUR, count))
    if not all(finding.success for finding in findings_on_spark(suite, rows.select(*silver_schema(topic).names))):
        raise RuntimeError("an expectation failed on the hour that was written by hand")


def _wait_for(query: Any, rows: int) -> None:
    seen, count = -1, 0
    while count < rows:
        time.sleep(0.1)
        if not query.isActive:
            raise RuntimeError(f"{count} of {rows} events came: {query.exception()}")
        for progress in query.recentProgress:
            if progress["batchId"] > seen:
                seen, count = progress["batchId"], count + progress["numInputRows"]


def _json(report: Report, server: Served, arguments: argparse.Namespace) -> None:
    """Without a broker: lines of the same payloads, typed, into zstd Parquet; what ingest is measured against."""
    events: int = arguments.by_hand
    folder = BUILD / "json"
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, events, 100 * PAGE)):
        lines = (payload(place) + b"\n" for place in range(first, min(first + 100 * PAGE, events)))
        (folder / f"{number:04d}.json").write_bytes(b"".join(lines))
    columns = {"event_id": "varchar", "played_at": "timestamptz", **FIELDS}
    with duckdb.connect() as database:
        database.execute("set threads = 2; set timezone = 'UTC'; set preserve_insertion_order = false")
        core = our_core_seconds()
        database.execute(
            f"""
            copy (from read_json('{folder}/*.json', format = 'newline_delimited', columns = {columns}))
            to '{folder / "typed.parquet"}' (format parquet, compression zstd, compression_level 1)
            """
        )
        used = our_core_seconds() - core
    report.shown(f"{events:,} payloads from files by DuckDB's read_json", events / used, "events/s/core")
    report.shown(
        f"{events:,} payloads from files by DuckDB's read_json, per 100k", used / events * 100_000, "core-s/100k"
    )


if __name__ == "__main__":
    sys.exit(main())
