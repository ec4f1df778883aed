"""How fast hours are mirrored: a folder against a plain copy, every target with its parts, a day of hours side by side.

    python -m bench.mirror [--rows N] [--targets folder,duckdb,hdfs,hive,gcs,bigquery]

Servers are started for it; one that this machine cannot have is left out with its reason. BigQuery is an emulator here:
its figures show our side, not BigQuery's.
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

from bench.report import Report
from lakehouse import parquet
from lakehouse.checksum import id_checksum
from lakehouse.config import Config, Settings
from lakehouse.events import sealed_schema
from lakehouse.hours import Hour, after
from lakehouse.ledger import Ledger
from lakehouse.mirrors.bigquery import BigQueryMirror, BigQueryOptions, client_of
from lakehouse.mirrors.catalogue import mirror_named
from lakehouse.mirrors.contract import Mirror, SealedHour
from lakehouse.mirrors.filesystems import google_client
from lakehouse.mirrors.stage import mirror_due
from lakehouse.sandbox.services.downloads import CONNECTOR, jars
from lakehouse.sandbox.services.servers import UnavailableError
from lakehouse.sandbox.services.together import Servers
from lakehouse.sandbox.services.warehouse import PROJECT, connector_settings
from lakehouse.session import spark_session
from lakehouse.tables import DataFile, commit, folders_of, ledger_table, silver_table
from lakehouse.topics import Topic, topic_from

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
    lake = Lake(BUILD / "lake", [*targets])
    hour = lake.sealed(HOUR, rows)
    _against_a_copy(report, hour)
    small = lake.sealed(after(HOUR), 1_000)
    report.at_most(
        "folder: an hour of 1,000 rows", _best(lambda n: _folder(f"small-{n}").publish(small)), 1.0, "seconds"
    )
    spark: SparkSession | None = None
    if set(targets) & {"hdfs", "hive", "gcs"}:
        spark = spark_session(lake.settings, "bench mirror")
    mirrors: dict[str, Mirror] = {}
    for name in targets:
        try:
            mirrors[name] = _opened(name, servers, spark)
        except UnavailableError as reason:
            print(f"{name} is left out: {reason}")
    for name, mirror in mirrors.items():
        with _parts(mirror) as parts:
            whole = _seconds(lambda mirror=mirror: mirror.publish(hour))  # type: ignore[misc]
        about = f"{name}: {rows:,} rows, "
        report.shown(f"{about}publish", whole, "seconds")
        for part, seconds in parts.items():
            report.shown(f"{about}of that {part}", seconds, "seconds")
        counted = _seconds(lambda mirror=mirror: mirror.read_back(lake.topic, HOUR))  # type: ignore[misc]
        report.shown(f"{about}read back", counted, "seconds")
    _backfill(report, lake, mirrors, rows // HOURS_OF_BACKFILL)
    if spark is not None:
        spark.stop()


def _against_a_copy(report: Report, hour: SealedHour) -> None:
    """In turns, as the machine's disk is faster at one time than at another; both are on the disk when they end."""
    copies, ours = [], []
    for number in range(REPEATS):
        copies.append(_seconds(lambda number=number: _plain_copy(hour, BUILD / f"copy-{number}")))  # type: ignore[misc]
        ours.append(_seconds(lambda number=number: _folder(f"large-{number}").publish(hour)))  # type: ignore[misc]
    report.shown(f"plain copy of {hour.rows:,} rows", min(copies), "seconds")
    report.shown(f"folder: {hour.rows:,} rows", min(ours), "seconds")
    report.at_most("folder against a plain copy", min(ours) / min(copies), 1.3)


def _plain_copy(hour: SealedHour, to: Path) -> None:
    to.mkdir(parents=True)
    for number, file in enumerate(hour.files):
        target = to / f"{number}.parquet"
        shutil.copyfile(Path(hour.silver_uri) / file.path, target)
        descriptor = os.open(target, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _backfill(report: Report, lake: Lake, mirrors: dict[str, Mirror], rows: int) -> None:
    """All targets at once, each oldest hour first, as after an outage."""
    for number in range(HOURS_OF_BACKFILL):
        lake.sealed(after(HOUR, 100 + number), rows, is_cleared=True)
    topic = lake.topic.model_copy(update={"mirrors": tuple(mirrors)})
    began = time.monotonic()
    done = mirror_due(topic, lake.config, None, run="bench", mirrors=mirrors)
    whole = time.monotonic() - began
    for name in mirrors:
        seconds = [each.seconds for each in done if each.target == name]
        report.shown(f"{name}: {len(seconds)} hours of {rows:,} rows, published and counted", sum(seconds), "seconds")
    report.shown(f"{HOURS_OF_BACKFILL} hours to all targets side by side", whole, "seconds")


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


def _seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _best(work: Callable[[int], Any]) -> float:
    return min(_seconds(lambda number=number: work(number)) for number in range(REPEATS))  # type: ignore[misc]


# --- targets


def _mirror(values: dict[str, Any], spark: SparkSession | None = None) -> Mirror:
    settings = Settings(raw_root=str(BUILD), mirrors={str(values["kind"]): values})
    return mirror_named(str(values["kind"]), settings, Path("bench"), spark)


def _folder(name: str) -> Mirror:
    return _mirror({"kind": "folder", "path": str(BUILD / "folders" / name)})


def _opened(name: str, servers: Servers, spark: SparkSession | None) -> Mirror:
    match name:
        case "duckdb":
            return _mirror({"kind": "duckdb", "path": str(BUILD / "mirror.duckdb")})
        case "hdfs":
            return _mirror({"kind": "folder", "path": f"{servers.hdfs().address}/mirror"}, spark)
        case "hive":
            at = urlsplit(f"//{servers.hive().address}")
            path = f"{servers.hdfs().address}/hive"
            where = {"host": at.hostname, "port": at.port, "database": "bench", "path": path}
            return _mirror({"kind": "hive", **where}, spark)
        case "gcs":
            assert spark is not None
            return _gcs(servers.gcs().address, spark)
        case "bigquery":
            return _bigquery(servers)
    return _folder("large")


def _gcs(address: str, spark: SparkSession) -> Mirror:
    (jar,) = jars("gcs-connector", [CONNECTOR]).glob("*.jar")
    spark.sql(f"add jar '{jar}'")
    jvm: Any = spark.sparkContext._jvm
    context: Any = spark.sparkContext
    conf = context._jsc.hadoopConfiguration()
    urls = context._gateway.new_array(jvm.java.net.URL, 1)
    urls[0] = jvm.java.io.File(str(jar)).toURI().toURL()
    conf.setClassLoader(jvm.java.net.URLClassLoader(urls, conf.getClassLoader()))
    for key, value in connector_settings(address).items():
        conf.set(key, value)
    options = {"google_base_url": address, "google_skip_signature": "true"}
    google_client(options).create_bucket("bench")
    return _mirror({"kind": "folder", "path": "gs://bench/mirror", "storage_options": options}, spark)


def _bigquery(servers: Servers) -> Mirror:
    """The emulator's `gs://` is a folder, so staging is a copy into it."""
    server = servers.bigquery()
    values = {"kind": "bigquery", "project": PROJECT, "dataset": "bench", "endpoint": server.address}
    options = BigQueryOptions.model_validate(values)

    @contextmanager
    def staged(hour: SealedHour) -> Iterator[list[str]]:
        folder = server.folder / "gcs" / "lake" / hour.hour
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(hour.files):
            shutil.copyfile(Path(hour.silver_uri) / file.path, folder / f"{number}.parquet")
        yield [f"gs://lake/{hour.hour}/{number}.parquet" for number in range(len(hour.files))]

    return BigQueryMirror("bigquery", options, client_of(options), staged)


# --- a lake


class Lake:
    """Silver and ledger as the seal leaves them."""

    def __init__(self, root: Path, mirrors: list[str]) -> None:
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
        self.config = Config(BUILD / "bench.yaml", self.settings, {"plays": self.topic}, BUILD)

    def sealed(self, hour: Hour, rows: int, *, is_cleared: bool = False) -> SealedHour:
        folders = folders_of(self.settings, self.topic.name)
        table = silver_table(folders, self.topic, {})
        (Path(folders.silver) / f"hour={hour}").mkdir(exist_ok=True)
        sizes = [min(ROWS_OF_FILE, rows - first) for first in range(0, rows, ROWS_OF_FILE)]
        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(lambda each: self._written(Path(folders.silver), hour, *each), enumerate(sizes)))
        files = [file for file, _ in written]
        checksum = sum(part for _, part in written)
        version = commit(table, files, metadata={}, transactions={f"seal/{hour}": 1})
        if is_cleared:
            self._recorded(hour, rows, checksum, version, files)
        return SealedHour(
            self.topic, hour, 1, folders.silver, version, tuple(files), rows, checksum, "bench", {}
        )  # fmt: skip

    def _recorded(self, hour: Hour, rows: int, checksum: int, version: int, files: list[DataFile]) -> None:
        ledger = Ledger(ledger_table(folders_of(self.settings, self.topic.name), self.topic, {}), "seal/bench/1")
        ledger.record("closed", hour)
        numbers = {"silver_version": version, "rows": rows, "files": len(files), "id_checksum": str(checksum)}
        ledger.record("sealed", hour, {"revision": 1, "bronze_version": 1, "release": "bench", **numbers})
        ledger.record("valid", hour)

    def _written(self, silver: Path, hour: Hour, number: int, rows: int) -> tuple[DataFile, int]:
        part = _plays(self.topic, hour, number, rows)
        path = f"hour={hour}/{number}.parquet"
        pq.write_table(part, silver / path, **parquet.options(part.schema))
        size = (silver / path).stat().st_size
        return DataFile(path, hour, rows, size, datetime.now(UTC)), id_checksum(part["event_id"])


def _plays(topic: Topic, hour: Hour, seed: int, rows: int) -> pa.Table:
    numbers = np.random.default_rng(seed)
    at = datetime(2026, 11, 23, 5, tzinfo=UTC)
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
