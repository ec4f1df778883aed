"""How fast hours are sealed: against a plain Spark copy, `dropDuplicates`, DuckDB and Polars on the same files.

    python -m bench.seal [--rows N]      # the largest hour; a quarter and a sixteenth of it are measured, too

Rows are of about 350 bytes as delivered. Every way reads the same bronze files and writes the same silver columns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.closed_hours import Lake, closed_hour, hours_behind, settings_of
from bench.measuring import best, peak_memory, seconds_of
from bench.report import Report
from lakehouse.config import Config
from lakehouse.operations.verify import verify_hours
from lakehouse.seal.stage import Sealer
from lakehouse.spark.session import spark_session

BUILD = Path("build/bench/seal")
BEHIND_HOURS, BEHIND_TOPICS, BEHIND_ROWS = 48, 10, 1_000


def main() -> int:
    arguments = argparse.ArgumentParser(prog="bench.seal", description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--rows", type=int, default=16_000_000, help="rows of the largest hour (%(default)s)")
    largest: int = arguments.parse_args().rows
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("seal")
    spark = spark_session(settings_of(BUILD, "none"), "bench seal")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        _warm_up(spark)
        _against_others(report, spark, largest)
        _kinds_of_hours(report, spark, largest // 4)
        _verified(report, spark, largest // 4)
        _small_hour(report, spark)
        _far_behind(report)
    finally:
        spark.stop()
        shutil.rmtree(BUILD, ignore_errors=True)
    return report.finish()


# --- figures -------------------------------------------------------------------------------------------------------


def _against_others(report: Report, spark: SparkSession, largest: int) -> None:
    seconds: dict[int, float] = {}
    memory: dict[int, int] = {}
    for rows in (largest // 16, largest // 4, largest):
        with closed_hour(BUILD, f"hour-{rows}", rows, duplicates=0.02) as lake:
            with peak_memory() as peak:
                seconds[rows] = best(partial(lake.seal, spark))
            memory[rows] = peak[0]
            copy = best(partial(_by_spark, spark, lake))
            distinct = seconds_of(partial(_by_spark, spark, lake, is_distinct=True))
            about = f"{rows:,} rows, 2% duplicates: "
            report.shown(f"{about}seal", seconds[rows], "seconds")
            report.shown(f"{about}plain Spark copy", copy, "seconds")
            report.shown(f"{about}dropDuplicates and write", distinct, "seconds")
            report.at_most(f"{about}seal against the copy", seconds[rows] / copy, 1.0)
            report.at_least(f"{about}dropDuplicates against seal", distinct / seconds[rows], 2.2)
            for name, way in {"DuckDB": _by_duckdb, "Polars": _by_polars}.items():
                report.shown(f"{about}{name} doing the same", seconds_of(partial(way, lake)), "seconds")
    smallest = largest // 16
    growth = (seconds[largest] / largest) / (seconds[smallest] / smallest)
    report.at_most(f"time of a row, {largest:,} against {smallest:,} rows", growth, 1.15)
    report.shown(f"peak memory of all Python processes, {largest:,} rows", memory[largest] / 1024**2, "MiB")
    report.at_most(
        f"peak memory, {largest:,} against {largest // 4:,} rows", memory[largest] / memory[largest // 4], 1.2
    )


def _kinds_of_hours(report: Report, spark: SparkSession, rows: int) -> None:
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


def _verified(report: Report, spark: SparkSession, rows: int) -> None:
    """Every byte and every id read again, against the seal that wrote them."""
    with closed_hour(BUILD, "verified", rows, duplicates=0.02) as lake:
        sealing = best(partial(lake.seal, spark))
        settings = lake.seal(spark)
        config = Config(BUILD / "bench.yaml", settings, {lake.topic.name: lake.topic}, BUILD)
        for about, is_quick in (("verify", False), ("verify --quick", True)):
            look = partial(verify_hours, lake.topic, config, [], datetime.now(UTC), is_quick=is_quick)
            if look().findings:
                raise RuntimeError(f"{about} found {look().findings[:3]} in an hour as it was sealed")
            report.at_most(f"{rows:,} rows: {about} against seal", best(look) / sealing, 0.5)


def _small_hour(report: Report, spark: SparkSession) -> None:
    """The third of three, as a running application would meet it."""
    with hours_behind(BUILD, ["small"], 3, BEHIND_ROWS) as (lake,):
        sealer = Sealer(lake.topic, lake.settings, lambda: spark, run="bench")
        for hour in sealer.due():
            started = time.monotonic()
            sealer.seal(hour)
            seconds = time.monotonic() - started
    report.at_most(f"an hour of {BEHIND_ROWS:,} rows on a warm session", seconds, 1.0, "seconds")


def _far_behind(report: Report) -> None:
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


# --- the other ways ------------------------------------------------------------------------------------------------


def _by_spark(spark: SparkSession, lake: Lake, *, is_distinct: bool = False) -> None:
    event_hour = F.date_format("event_time", "yyyy-MM-dd'T'HH").alias("event_hour")
    delivered = spark.read.parquet(*lake.paths)
    rows = delivered.select("event.*", "event_id", "event_time", event_hour, "publish_time", "message_id")
    if is_distinct:
        rows = rows.dropDuplicates(["event_id"])
    rows.write.option("compression", "zstd").parquet(str(lake.target("spark")))


def _by_duckdb(lake: Lake) -> None:
    with duckdb.connect() as database:
        database.execute("set threads = 2; set memory_limit = '4GB'; set preserve_insertion_order = false")
        database.execute(f"set temp_directory = '{BUILD / 'spill'}'; set timezone = 'UTC'")
        database.execute(
            f"""
            copy (
                with ids as (
                    select event_id, publish_time, message_id, filename, file_row_number
                    from read_parquet({lake.paths}, filename = true, file_row_number = true)
                ), often as (select event_id from ids group by event_id having count(*) > 1), lost as (
                    select filename, file_row_number from (from ids semi join often using (event_id))
                    qualify row_number() over (partition by event_id order by publish_time, message_id) > 1
                )
                select unnest(event), event_id, event_time, strftime(event_time, '%Y-%m-%dT%H') as event_hour,
                    publish_time, message_id
                from (from read_parquet({lake.paths}, filename = true, file_row_number = true)
                      anti join lost using (filename, file_row_number))
            ) to '{lake.target("duckdb")}.parquet' (format parquet, compression zstd, compression_level 1)
            """
        )


def _by_polars(lake: Lake) -> None:
    delivered = pl.scan_parquet(lake.paths, row_index_name="row")
    ids = delivered.select("row", "event_id", "publish_time", "message_id")
    often = ids.group_by("event_id").len().filter(pl.col("len") > 1)
    candidates = ids.join(often, on="event_id", how="semi").collect(engine="streaming")
    first = candidates.sort("publish_time", "message_id").unique("event_id", keep="first")
    lost = candidates.join(first, on="row", how="anti").lazy()
    hour = pl.col("event_time").dt.strftime("%Y-%m-%dT%H").alias("event_hour")
    columns = delivered.select("row", "event", "event_id", "event_time", "publish_time", "message_id")
    sealed = columns.join(lost, on="row", how="anti").drop("row").with_columns(hour).unnest("event")
    sealed.sink_parquet(f"{lake.target('polars')}.parquet", compression="zstd", compression_level=1)


# --- measuring -----------------------------------------------------------------------------------------------------


def _warm_up(spark: SparkSession) -> None:
    """JVM, Python workers and libraries are loaded before anything counts."""
    with closed_hour(BUILD, "warm-up", 120_000, duplicates=0.02) as lake:
        for _ in range(2):
            lake.seal(spark)
            _by_spark(spark, lake, is_distinct=True)


if __name__ == "__main__":
    sys.exit(main())
