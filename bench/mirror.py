"""How fast hours are mirrored: a folder against a plain copy, every target with its parts, a day of hours side by side.

    python -m bench.mirror [--rows N] [--targets folder,duckdb,hdfs,hive,gcs,bigquery]

Servers are started for it; one that this machine cannot have is left out with its reason. BigQuery and GCS are
emulators, each one process: their figures show our side, not Google's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from bench.measuring import seconds_of
from bench.report import Report
from lakehouse import hours
from lakehouse.checksum import id_checksum
from lakehouse.config import Config, Settings
from lakehouse.crash.processes import Server, UnavailableError
from lakehouse.hours import Hour, after
from lakehouse.mirrors.bigquery.dataset import BigQueryOptions, client_of
from lakehouse.mirrors.bigquery.mirror import BigQueryMirror
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Count, Mirror, SealedHour
from lakehouse.mirrors.stage import mirror_due
from lakehouse.schemas import sealed_schema
from lakehouse.spark.session import spark_session
from lakehouse.store import parquet
from lakehouse.store.delta import DataFile, commit
from lakehouse.store.files import google_client
from lakehouse.store.records import Closed, Sealed, Valid
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic, topic_from
from tests.servers.together import Servers
from tests.servers.warehouse import PROJECT

BUILD = Path("build/bench/mirror").absolute()
HOUR = "2026-11-23T05"
ROWS_OF_FILE = 1_000_000
HOURS_OF_BACKFILL = 24
REPEATS = 3
TARGETS = ("folder", "duckdb", "hdfs", "hive", "gcs", "bigquery")
SPARK = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "2g",
    "spark.log.level": "ERROR",
    "spark.sql.warehouse.dir": str(BUILD / "warehouse"),
    # As conf/dataproc.yaml advises where mirrors are on HDFS: by default each small file takes 0.4 seconds.
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
}


def main() -> int:
    arguments = argparse.ArgumentParser(prog="bench.mirror")
    arguments.add_argument("--rows", type=int, default=4_000_000, help="rows of the large hour (%(default)s)")
    arguments.add_argument("--targets", default=",".join(TARGETS), help="which (%(default)s)")
    given = arguments.parse_args()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report, servers = Report("mirror"), Servers(BUILD / "servers")
    try:
        _measured(report, servers, given.rows, given.targets.split(","))
    finally:
        servers.end()
        shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


def _measured(report: Report, servers: Servers, rows: int, targets: list[str]) -> None:
    lake, day = Lake(BUILD / "lake"), Lake(BUILD / "day")
    large, small = lake.sealed(HOUR, rows), lake.sealed(after(HOUR), 1_000)
    for number in range(HOURS_OF_BACKFILL):
        day.sealed(after(HOUR, number), rows // HOURS_OF_BACKFILL, is_cleared=True)
    _against_a_copy(report, large)
    report.at_most(
        "folder: an hour of 1,000 rows", _best(lambda n: _folder(f"small-{n}").publish(small)), 1.0, "seconds"
    )
    spark: SparkSession | None = None
    if set(targets) & {"hdfs", "hive"}:
        spark = spark_session(lake.settings, "bench mirror")
    for name in targets:
        try:
            opened = _targets(name, servers, spark)
        except UnavailableError as reason:
            print(f"{name} is left out: {reason}")
            continue
        _with_its_parts(report, name, opened(f"{name}_parts"), small, large)
        _backfill(report, name, opened, rows // HOURS_OF_BACKFILL)
    if spark is not None:
        spark.stop()


def _with_its_parts(report: Report, name: str, mirror: Mirror, small: SealedHour, hour: SealedHour) -> None:
    """After a small hour: what is made once for a topic, and what a JVM compiles, is not the hour's."""
    mirror.publish(small)
    mirror.read_back(small.topic, small.hour)
    with _parts(mirror) as parts:
        whole = seconds_of(lambda: mirror.publish(hour))
    about = f"{name}: {hour.rows:,} rows, "
    report.shown(f"{about}publish", whole, "seconds")
    for part, seconds in parts.items():
        report.shown(f"{about}of that {part}", seconds, "seconds")
    began = time.monotonic()
    count = mirror.read_back(hour.topic, hour.hour)
    report.shown(f"{about}read back", time.monotonic() - began, "seconds")
    if count != Count(hour.rows, hour.id_checksum):
        raise SystemExit(f"{name} has {count}, and {hour.rows} rows were published")


def _against_a_copy(report: Report, hour: SealedHour) -> None:
    """In turns, as the machine's disk is faster at one time than at another; both are on the disk when they end."""
    copies, ours = [], []
    for number in range(REPEATS):
        copies.append(seconds_of(lambda number=number: _plain_copy(hour, BUILD / f"copy-{number}")))  # type: ignore[misc]
        ours.append(seconds_of(lambda number=number: _folder(f"large-{number}").publish(hour)))  # type: ignore[misc]
    size_mb = sum(file.size_bytes for file in hour.files) / 1e6
    report.shown(f"plain copy of {hour.rows:,} rows, {size_mb:,.0f} MB", min(copies), "seconds")
    report.shown(f"folder: {hour.rows:,} rows", min(ours), "seconds")
    report.at_most("folder against a plain copy", min(ours) / min(copies), 1.3)


def _plain_copy(hour: SealedHour, to: Path) -> None:
    to.mkdir(parents=True)
    for number, file in enumerate(hour.files):
        target = to / f"{number}.parquet"
        shutil.copyfile(Path(hour.silver.uri) / file.path, target)
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _backfill(report: Report, name: str, opened: Callable[[str], Mirror], rows: int) -> None:
    """A day of one topic, as after an outage: one hour after the other, and as many at once as the target takes."""
    for each, how in ((opened(f"{name}_by_one"), "one by one"), (opened(f"{name}_day"), "side by side")):
        if how == "one by one":
            each.hours_at_once = 1
        elif each.hours_at_once > 1:
            how = f"{each.hours_at_once} {how}"
        else:
            continue
        lake = Lake(BUILD / "again")
        shutil.copytree(BUILD / "day", BUILD / "again")
        topic = lake.topic.model_copy(update={"mirrors": (each.name,)})
        began = time.monotonic()
        mirror_due(topic, lake.config, None, run="bench", mirrors={each.name: each})
        report.shown(f"{name}: {HOURS_OF_BACKFILL} hours of {rows:,} rows, {how}", time.monotonic() - began, "seconds")
        shutil.rmtree(BUILD / "again")


@contextmanager
def _parts(mirror: Mirror) -> Iterator[dict[str, float]]:
    """Seconds in the named parts of a publish, as far as the target has them."""
    seconds: dict[str, float] = {}
    places: dict[str, tuple[Any, str]] = {}
    for part, (holder, name) in {
        "stage": (getattr(mirror, "_folders", mirror), "_stage"),
        "put in place": (getattr(mirror, "_folders", mirror), "_swap"),
        "load": (mirror, "_load"),
        "partition": (mirror, "_point"),
    }.items():
        if hasattr(holder, name):
            places[part] = holder, name

    def timed(part: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.monotonic()
            try:
                return real(*arguments, **named)
            finally:
                seconds[part] = seconds.get(part, 0.0) + time.monotonic() - began

        return call

    for part, (holder, name) in places.items():
        setattr(holder, name, timed(part, getattr(holder, name)))
    try:
        yield seconds
    finally:
        for holder, name in places.values():
            delattr(holder, name)


def _best(work: Callable[[int], Any]) -> float:
    return min(seconds_of(lambda number=number: work(number)) for number in range(REPEATS))  # type: ignore[misc]


# --- targets


def _mirror(name: str, values: dict[str, Any], spark: SparkSession | None = None) -> Mirror:
    settings = Settings(raw_root=str(BUILD), mirrors={name: values})
    return mirror_named(name, settings, Path("bench"), None if spark is None else lambda: spark)


def _folder(name: str) -> Mirror:
    return _mirror(name, {"kind": "folder", "path": str(BUILD / "folders" / name)})


def _targets(kind: str, servers: Servers, spark: SparkSession | None) -> Callable[[str], Mirror]:
    """How a mirror of that kind is opened by a name, with a place of its own there."""
    match kind:
        case "duckdb":
            return lambda name: _mirror(name, {"kind": "duckdb", "path": str(BUILD / f"{name}.duckdb")})
        case "hdfs":
            hdfs = servers.hdfs().address
            return lambda name: _mirror(name, {"kind": "folder", "path": f"{hdfs}/{name}"}, spark)
        case "hive":
            at, hdfs = urlsplit(f"//{servers.hive().address}"), servers.hdfs().address
            where = {"kind": "hive", "host": at.hostname, "port": at.port}
            return lambda name: _mirror(name, {**where, "database": name, "path": f"{hdfs}/{name}"}, spark)
        case "gcs":
            options = {"google_base_url": servers.gcs().address, "google_skip_signature": "true"}
            google_client(options).create_bucket("bench")
            values = {"kind": "folder", "storage_options": options}
            return lambda name: _mirror(name, {**values, "path": f"gs://bench/{name}"}, spark)
        case "bigquery":
            server = servers.bigquery()
            return lambda name: _bigquery(name, server)
    return _folder


def _bigquery(name: str, server: Server) -> Mirror:
    """The emulator's `gs://` is a folder, so staging is a copy into it."""
    values = {"kind": "bigquery", "project": PROJECT, "dataset": name, "endpoint": server.address}
    options = BigQueryOptions.model_validate(values)

    @contextmanager
    def staged(hour: SealedHour) -> Iterator[list[str]]:
        folder = server.folder / "gcs" / "lake" / hour.hour
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(hour.files):
            shutil.copyfile(Path(hour.silver.uri) / file.path, folder / f"{number}.parquet")
        yield [f"gs://lake/{hour.hour}/{number}.parquet" for number in range(len(hour.files))]

    return BigQueryMirror(name, options, client_of(options), staged)


# --- a lake


class Lake:
    """Silver and ledger as the seal leaves them."""

    def __init__(self, root: Path) -> None:
        values = {
            "subscription": "projects/bench/subscriptions/plays",
            "event_id": "payload.event_id",
            "event_time": "payload.played_at",
            "fields": {
                "user": "string",
                "track": "struct<id: string, ms: int>",
                "session": "string",
                "score": "double",
            },
        }
        self.topic: Topic = topic_from("plays", values)
        self.settings = Settings(raw_root=str(root), sealed_root=str(root), release="bench", spark=SPARK)
        self.tables = TopicTables(self.topic, self.settings)
        self.config = Config(BUILD / "bench.yaml", self.settings, {"plays": self.topic}, BUILD)

    def sealed(self, hour: Hour, rows: int, *, is_cleared: bool = False) -> SealedHour:
        table = self.tables.ensure_silver()
        silver = self.tables.sealed.below("silver")
        (Path(silver.uri) / f"hour={hour}").mkdir(exist_ok=True)
        sizes = [min(ROWS_OF_FILE, rows - first) for first in range(0, rows, ROWS_OF_FILE)]
        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(lambda each: self._written(Path(silver.uri), hour, *each), enumerate(sizes)))
        files = [file for file, _ in written]
        checksum = sum(part for _, part in written)
        version = commit(table, files, metadata={}, transactions={f"seal/{hour}": 1})
        if is_cleared:
            self._recorded(hour, rows, checksum, version, files)
        return SealedHour(
            self.topic, hour, 1, silver, version, tuple(files), rows, checksum, "bench", sealed_schema(self.topic)
        )

    def _recorded(self, hour: Hour, rows: int, checksum: int, version: int, files: list[DataFile]) -> None:
        ledger = self.tables.ledger("seal/bench/1")
        ledger.record(Closed(bronze_version=1), hour)
        seal = Sealed(
            silver_version=version, bronze_version=1, rows=rows, id_checksum=checksum, files=len(files), release="bench"
        )
        ledger.record(seal, hour)
        ledger.record(Valid(), hour)

    def _written(self, silver: Path, hour: Hour, number: int, rows: int) -> tuple[DataFile, int]:
        part = _plays(self.topic, hour, number, rows)
        path = f"hour={hour}/{number}.parquet"
        pq.write_table(part, silver / path, **parquet.options(part.schema))
        size = (silver / path).stat().st_size
        return DataFile(path, hour, rows, size, datetime.now(UTC)), id_checksum(part["event_id"])


def _plays(topic: Topic, hour: Hour, seed: int, rows: int) -> pa.Table:
    numbers = np.random.default_rng(seed)
    at = hours.start_of(hour)
    ids = pa.array([f"{value:016x}{hour}{seed:04x}" for value in numbers.integers(0, 2**62, rows)])
    times = pa.array(np.datetime64(at.replace(tzinfo=None), "us") + np.sort(numbers.integers(0, 3_600_000_000, rows)))
    columns = {
        "user": pa.array([f"user-{value}" for value in numbers.integers(0, 100_000, rows)]),
        "track": pa.StructArray.from_arrays(
            [pa.array([f"track-{value}" for value in numbers.integers(0, 50_000, rows)]),
             pa.array(numbers.integers(1_000, 400_000, rows).astype(np.int32))], ["id", "ms"]
        ),
        "session": pa.array([f"{value:024x}" for value in numbers.integers(0, 2**62, rows)]),
        "score": pa.array(numbers.random(rows)),
        "event_id": ids,
        "event_time": times.cast(pa.timestamp("us", "UTC")),
        "event_hour": pa.repeat(hour, rows),
        "publish_time": pa.repeat(pa.scalar(at + timedelta(minutes=1), pa.timestamp("us", "UTC")), rows),
        "message_id": pa.array([str(value) for value in numbers.integers(0, 2**62, rows)]),
    }  # fmt: skip
    schema = sealed_schema(topic)
    return pa.table([columns[name] for name in schema.names], schema=schema)


if __name__ == "__main__":
    sys.exit(main())
