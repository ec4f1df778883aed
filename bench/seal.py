"""How fast hours are sealed: against DuckDB, Polars and Spark on the same files, and by more than one machine.

    python -m bench.seal [--only PART …] [--rows N] [--narrow N]

Rows are of about 350 bytes as delivered. Every way reads the same bronze files and writes the same silver columns;
`bench.sealed_by_others` says what the others leave. Ways that are compared take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from bench.closed_hours import Lake, closed_hour, hours_behind, settings_of
from bench.measuring import best, core_seconds, peak_memory, seconds_of
from bench.report import Report
from bench.sealed_by_others import OTHERS, by_spark
from lakehouse.config import Config
from lakehouse.operations.verify import verify_hours
from lakehouse.seal import distributed
from lakehouse.seal.dedup import duplicates
from lakehouse.seal.deliveries import KEPT_ROWS
from lakehouse.seal.distributed import Rows
from lakehouse.seal.stage import Sealer
from lakehouse.spark.session import spark_session
from lakehouse.store import parquet
from lakehouse.store.files import LocalStorage
from lakehouse.store.place import Place
from lakehouse.underway import Work

BUILD = Path("build/bench/seal")
BEHIND_HOURS, BEHIND_TOPICS, BEHIND_ROWS = 48, 10, 1_000
TURNS = 3
MIB = 1024**2
IDENTITY = ("event_id", "event_time")
NARROW_ROWS_OF_FILE = 1_000_000

Measured = TypeVar("Measured")


def main() -> int:
    parts: dict[str, Callable[[Report, SparkSession, argparse.Namespace], None]] = {
        "engines": _against_engines,
        "spark": _against_spark,
        "kinds": _kinds_of_hours,
        "verify": _verified,
        "small": _small_hour,
        "behind": _far_behind,
        "distributed": _distributed,
    }
    parser = argparse.ArgumentParser(prog="bench.seal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(parts), default=list(parts), help="parts to measure (all)")
    parser.add_argument("--rows", type=int, default=16_000_000, help="rows of the largest hour (%(default)s)")
    parser.add_argument("--narrow", type=int, default=100_000_000, help="narrow rows to compare (%(default)s)")
    arguments = parser.parse_args()
    is_whole = len(arguments.only) == len(parts) and arguments.rows == 16_000_000
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("seal", is_part=not is_whole)
    try:
        with _session() as spark:
            _warm_up(spark)
            for name in arguments.only:
                parts[name](report, spark, arguments)
    finally:
        shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


# --- figures -------------------------------------------------------------------------------------------------------


def _against_engines(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    """The best of some turns each, in seconds; of that turn also the processor time."""
    largest: int = arguments.rows
    memory: dict[int, int] = {}
    for rows in (largest // 16, largest // 4, largest):
        with closed_hour(BUILD, f"hour-{rows}", rows, duplicates=0.02) as lake:
            taken: dict[str, list[tuple[float, float]]] = {"seal": [], **{name: [] for name in OTHERS}}
            for _ in range(TURNS):
                taken["seal"].append(_taken(partial(lake.seal_in, lake.unsealed(), spark)))
                for name, way in OTHERS.items():
                    taken[name].append(_taken(partial(way, lake, BUILD / "spill")))
            with peak_memory(_is_driver) as peak:  # who looks takes a fifth of a core
                lake.seal(spark)
            memory[rows] = peak[0]
        about = f"{rows:,} rows, 2% duplicates: "
        fastest = {name: min(times) for name, times in taken.items()}
        for name, (seconds, core) in fastest.items():
            how = "seal" if name == "seal" else f"{name} doing the same"
            report.shown(f"{about}{how}", seconds, "seconds")
            report.shown(f"{about}{how}, processor time", core, "core-seconds")
        others = min(fastest[name][0] for name in OTHERS)
        report.at_most(f"{about}seal against the faster of {' and '.join(OTHERS)}", fastest["seal"][0] / others, 1.0)
    for rows, size_bytes in memory.items():
        report.shown(f"peak memory of the driver's Python, {rows:,} rows", size_bytes / MIB, "MiB")
    quarter = largest // 4
    if quarter >= KEPT_ROWS:  # below it memory grows with what is kept
        report.at_most(
            f"peak memory of the driver's Python, {largest:,} against {quarter:,} rows",
            memory[largest] / memory[quarter],
            1.15,
        )


def _against_spark(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    seconds: dict[int, float] = {}
    largest: int = arguments.rows
    for rows in (largest // 16, largest // 4, largest):
        with closed_hour(BUILD, f"hour-{rows}", rows, duplicates=0.02) as lake:
            seconds[rows] = best(partial(lake.seal, spark))
            copy = best(partial(by_spark, spark, lake))
            distinct = seconds_of(partial(by_spark, spark, lake, is_distinct=True))
        about = f"{rows:,} rows, 2% duplicates: "
        report.shown(f"{about}plain Spark copy", copy, "seconds")
        report.shown(f"{about}dropDuplicates and write", distinct, "seconds")
        report.at_most(f"{about}seal against the copy", seconds[rows] / copy, 1.0)
        report.at_least(f"{about}dropDuplicates against seal", distinct / seconds[rows], 2.2)
    smallest = largest // 16
    growth = (seconds[largest] / largest) / (seconds[smallest] / smallest)
    report.at_most(f"time of a row, {largest:,} against {smallest:,} rows", growth, 1.15)


def _distributed(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    """Finding duplicates by the driver and by Spark's tasks, which are on the same cores here, and whole seals.

    What is measured has a process of its own. Of the finding it does it twice, and the second time counts: its memory
    is that of a driver that has had such an hour before. Of a whole seal, where the larger hours are left to tasks.
    """
    largest: int = arguments.narrow
    sealed: dict[int, int] = {}
    memory = "peak memory of the driver's Python"
    for rows in (largest // 25, largest * 8 // 25, largest):
        with closed_hour(
            BUILD, f"narrow-{rows}", rows, duplicates=0.02, rows_of_file=NARROW_ROWS_OF_FILE, is_narrow=True
        ) as lake:
            if rows == largest:
                _find(report, lake, rows)
            seconds, sealed[rows] = _in_another_process(_sealed, lake)
        report.shown(f"{rows:,} narrow deliveries: seal", seconds, "seconds")
        report.shown(f"{rows:,} narrow deliveries: seal, {memory}", sealed[rows] / MIB, "MiB")
    fewest = min(sealed)
    growth = max(sealed.values()) / sealed[fewest]
    report.at_most(
        f"{fewest:,} to {largest:,} narrow deliveries: seal, {memory}, most against the fewest", growth, 1.15
    )


def _find(report: Report, lake: Lake, count: int) -> None:
    about = f"{count:,} narrow deliveries: finding duplicates"
    found = {}
    for name, way in {"in the driver": _found_in_driver, "by Spark's tasks": _found_by_tasks}.items():
        seconds, peak_bytes, found[name] = _in_another_process(way, lake)
        report.shown(f"{about} {name}", seconds, "seconds")
        report.at_most(f"{about} {name}, peak memory of the driver's Python", peak_bytes / MIB, 1024, "MiB")
    in_driver, by_tasks = found.values()
    if in_driver != by_tasks:
        raise RuntimeError(f"{len(in_driver)} losers in the driver, {len(by_tasks)} by Spark's tasks, or other ones")
    report.shown(f"{about}: found, the same rows both ways", len(in_driver), "rows")


Found = tuple[float, int, pa.Table]
"""Seconds, the peak of the process' memory in bytes, and the rows."""


def _in_another_process(way: Callable[[Lake], Measured], lake: Lake) -> Measured:
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(way, lake).result()


def _found_in_driver(lake: Lake) -> Found:
    storage = LocalStorage("/")
    visit = partial(parquet.visit_rows, [partial(parquet.LakeFile, storage, path) for path in lake.paths])
    return _found(lambda: duplicates(visit, IDENTITY))


def _found_by_tasks(lake: Lake) -> Found:
    rows = Rows(Place("/"), tuple(lake.paths), sum(pq.read_metadata(path).num_rows for path in lake.paths))
    with _session() as spark:
        return _found(lambda: distributed.duplicates(spark, rows, IDENTITY, Work()))


def _found(way: Callable[[], pa.Table]) -> Found:
    way()
    started = time.monotonic()
    with peak_memory(_is_driver) as peak:
        found = way()
    return time.monotonic() - started, peak[0], found


def _sealed(lake: Lake) -> tuple[float, int]:
    """Seconds, and the peak of the process' memory in bytes."""
    with _session() as spark, peak_memory(_is_driver) as peak:
        seconds = seconds_of(partial(lake.seal, spark))
    return seconds, peak[0]


@contextmanager
def _session() -> Iterator[SparkSession]:
    spark = spark_session(settings_of(BUILD, "none"), "bench seal")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


def _kinds_of_hours(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    rows = arguments.rows // 4
    kinds = {
        "no duplicates": closed_hour(BUILD, "none", rows),
        "30% duplicates": closed_hour(BUILD, "many", rows, duplicates=0.3),
        "one event republished 100,000 times": closed_hour(
            BUILD, "republished", rows, republished=min(100_000, rows // 2)
        ),
        "all in one bronze file": closed_hour(BUILD, "one-file", rows, duplicates=0.02, rows_of_file=rows),
    }
    for name, hour in kinds.items():
        with hour as lake, peak_memory() as peak:
            report.shown(f"{rows:,} rows, {name}: seal", best(partial(lake.seal, spark)), "seconds")
        report.shown(f"{rows:,} rows, {name}: peak memory of all Python processes", peak[0] / 1024**2, "MiB")


def _verified(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    """Every byte and every id read again, against the seal that wrote them."""
    rows = arguments.rows // 4
    with closed_hour(BUILD, "verified", rows, duplicates=0.02) as lake:
        sealing = best(partial(lake.seal, spark))
        settings = lake.seal(spark)
        config = Config(BUILD / "bench.yaml", settings, {lake.topic.name: lake.topic}, BUILD)
        for about, is_quick in (("verify", False), ("verify --quick", True)):
            look = partial(verify_hours, lake.topic, config, [], datetime.now(UTC), is_quick=is_quick)
            if look().findings:
                raise RuntimeError(f"{about} found {look().findings[:3]} in an hour as it was sealed")
            report.at_most(f"{rows:,} rows: {about} against seal", best(look) / sealing, 0.5)


def _small_hour(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    """The third of three, as a running application would meet it."""
    with hours_behind(BUILD, ["small"], 3, BEHIND_ROWS) as (lake,):
        sealer = Sealer(lake.topic, lake.settings, lambda: spark, run="bench")
        for hour in sealer.due():
            started = time.monotonic()
            sealer.seal(hour)
            seconds = time.monotonic() - started
    report.at_most(f"an hour of {BEHIND_ROWS:,} rows on a warm session", seconds, 1.0, "seconds")


def _far_behind(report: Report, spark: SparkSession, arguments: argparse.Namespace) -> None:
    names = [f"topic_{number}" for number in range(BEHIND_TOPICS)]

    about = f"{BEHIND_HOURS} hours behind, {BEHIND_TOPICS} topics of {BEHIND_ROWS:,} rows an hour"
    with hours_behind(BUILD, names, BEHIND_HOURS, BEHIND_ROWS) as lakes, ThreadPoolExecutor(len(lakes)) as topics:
        report.shown(f"{about}: side by side", seconds_of(lambda: list(topics.map(_caught_up, lakes))), "seconds")
    with hours_behind(BUILD, names, BEHIND_HOURS, BEHIND_ROWS) as lakes:
        report.shown(f"{about}: one by one", seconds_of(lambda: list(map(_caught_up, lakes))), "seconds")


def _caught_up(lake: Lake) -> None:
    sealer = Sealer(lake.topic, lake.settings, run="bench")
    for hour in sealer.due():
        sealer.seal(hour)


# --- measuring -----------------------------------------------------------------------------------------------------


def _taken(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, core-seconds of this process and its children)"""
    before = core_seconds()
    return seconds_of(work), core_seconds() - before


def _is_driver(process: psutil.Process) -> bool:
    return process.pid == os.getpid()


def _warm_up(spark: SparkSession) -> None:
    """JVM, Python workers and libraries are loaded before anything counts."""
    with closed_hour(BUILD, "warm-up", 120_000, duplicates=0.02) as lake:
        for _ in range(2):
            lake.seal(spark)
            by_spark(spark, lake, is_distinct=True)


if __name__ == "__main__":
    sys.exit(main())
