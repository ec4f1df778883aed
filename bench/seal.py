"""How fast hours are sealed: against a plain Spark copy, `dropDuplicates`, DuckDB and Polars on the same files.

    python -m bench.seal [--rows N]      # the largest hour; a quarter and a sixteenth of it are measured, too

Rows are of about 350 bytes as delivered. Every way reads the same bronze files and writes the same silver columns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import duckdb
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.report import Report
from lakehouse import hours, parquet
from lakehouse.bronze import IngestState, commit_batch
from lakehouse.config import Settings
from lakehouse.events import segment_schema
from lakehouse.hours import Hour
from lakehouse.ledger import Ledger
from lakehouse.seal import Sealer
from lakehouse.session import spark_session
from lakehouse.tables import DataFile, bronze_table, event_time_stats, folders_of, ledger_table
from lakehouse.topics import Topic, topic_from

BUILD = Path("build/bench/seal")
HOUR = "2026-11-23T05"
ROWS_OF_FILE = 250_000
REPEATS = 2
BEHIND_HOURS, BEHIND_TOPICS, BEHIND_ROWS = 48, 10, 1_000
FIELDS = {
    "user": "string",
    "country": "string",
    "track": "struct<id: string, album: string, ms: int>",
    "session": "string",
    "score": "double",
    "shuffled": "boolean",
    "position": "bigint",
}
SPARK = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "3g",
    "spark.log.level": "ERROR",
    "spark.sql.warehouse.dir": str(BUILD / "warehouse"),
}

_runs = count(1)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="bench.seal", description=__doc__.partition("\n")[0] if __doc__ else "")
    arguments.add_argument("--rows", type=int, default=16_000_000, help="rows of the largest hour (%(default)s)")
    largest: int = arguments.parse_args().rows
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    shutil.rmtree(BUILD, ignore_errors=True)
    report = Report("seal")
    spark = spark_session(_settings("none"), "bench seal")
    spark.sparkContext.setLogLevel("ERROR")
    try:
        _warm_up(spark)
        _against_others(report, spark, largest)
        _kinds_of_hours(report, spark, largest // 4)
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
        with _hour(f"hour-{rows}", rows, duplicates=0.02) as lake:
            with _peak_memory() as peak:
                seconds[rows] = _best(partial(lake.seal, spark))
            memory[rows] = peak[0]
            copy = _best(partial(_by_spark, spark, lake))
            distinct = _seconds(partial(_by_spark, spark, lake, is_distinct=True))
            about = f"{rows:,} rows, 2% duplicates: "
            report.shown(f"{about}seal", seconds[rows], "seconds")
            report.shown(f"{about}plain Spark copy", copy, "seconds")
            report.shown(f"{about}dropDuplicates and write", distinct, "seconds")
            report.at_most(f"{about}seal against the copy", seconds[rows] / copy, 1.0)
            report.at_least(f"{about}dropDuplicates against seal", distinct / seconds[rows], 2.2)
            for name, way in {"DuckDB": _by_duckdb, "Polars": _by_polars}.items():
                report.shown(f"{about}{name} doing the same", _seconds(partial(way, lake)), "seconds")
    smallest = largest // 16
    growth = (seconds[largest] / largest) / (seconds[smallest] / smallest)
    report.at_most(f"time of a row, {largest:,} against {smallest:,} rows", growth, 1.15)
    report.shown(f"peak memory of all Python processes, {largest:,} rows", memory[largest] / 1024**2, "MiB")
    report.at_most(
        f"peak memory, {largest:,} against {largest // 4:,} rows", memory[largest] / memory[largest // 4], 1.2
    )


def _kinds_of_hours(report: Report, spark: SparkSession, rows: int) -> None:
    kinds = {
        "no duplicates": _hour("none", rows),
        "30% duplicates": _hour("many", rows, duplicates=0.3),
        "one event republished 100,000 times": _hour("republished", rows, republished=min(100_000, rows // 2)),
        "all in one bronze file": _hour("one-file", rows, duplicates=0.02, rows_of_file=rows),
    }
    for name, hour in kinds.items():
        with hour as lake, _peak_memory() as peak:
            report.shown(f"{rows:,} rows, {name}: seal", _best(partial(lake.seal, spark)), "seconds")
        report.shown(f"{rows:,} rows, {name}: peak memory of all Python processes", peak[0] / 1024**2, "MiB")


def _small_hour(report: Report, spark: SparkSession) -> None:
    """The third of three, as a running application would meet it."""
    with _behind(["small"], 3) as (lake,):
        sealer = Sealer(lake.topic, lake.settings, lambda: spark, run="bench")
        for hour in sealer.due():
            started = time.monotonic()
            sealer.seal(hour)
            seconds = time.monotonic() - started
    report.at_most(f"an hour of {BEHIND_ROWS:,} rows on a warm session", seconds, 1.0, "seconds")


def _far_behind(report: Report) -> None:
    names = [f"topic_{number}" for number in range(BEHIND_TOPICS)]

    about = f"{BEHIND_HOURS} hours behind, {BEHIND_TOPICS} topics of {BEHIND_ROWS:,} rows an hour"
    with _behind(names, BEHIND_HOURS) as lakes, ThreadPoolExecutor(len(lakes)) as topics:
        report.shown(f"{about}: side by side", _seconds(lambda: list(topics.map(_caught_up, lakes))), "seconds")
    with _behind(names, BEHIND_HOURS) as lakes:
        report.shown(f"{about}: one by one", _seconds(lambda: list(map(_caught_up, lakes))), "seconds")


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


# --- hours ---------------------------------------------------------------------------------------------------------


@dataclass
class Lake:
    """A topic with closed hours, sealed as often as one likes."""

    topic: Topic
    settings: Settings
    paths: list[str]
    closed: dict[Hour, int]

    def seal(self, spark: SparkSession) -> None:
        """Each time into a lake of its own, as an hour is sealed once."""
        sealed_root = str(self.target("sealed"))
        lake = self.settings.model_copy(update={"sealed_root": sealed_root})
        _record_closes(self.topic, lake, self.closed)
        sealer = Sealer(self.topic, lake, lambda: spark, run="bench")
        for hour in sealer.due():
            sealer.seal(hour)

    def target(self, name: str) -> Path:
        """A place that nothing was written to; what was written before is removed."""
        folder = BUILD / "written" / self.topic.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return (folder / f"{name}-{next(_runs)}").absolute()


@contextmanager
def _hour(
    name: str, rows: int, *, duplicates: float = 0.0, republished: int = 0, rows_of_file: int = ROWS_OF_FILE
) -> Iterator[Lake]:
    """One closed hour of a topic of its own, for as long as it is measured."""
    settings = _settings(name)
    topic = _topic(name.replace("-", "_"))
    bronze = Path(folders_of(settings, topic.name).bronze)
    files = []
    for number, first in enumerate(range(0, rows, rows_of_file)):
        path = f"{HOUR}/{number:012d}-0000-bench.parquet"
        size = min(rows_of_file, rows - first)
        files.append(_file(topic, bronze, path, HOUR, first, size, duplicates, republished))
    version = commit_batch(bronze_table(folders_of(settings, topic.name), topic, {}), files, _state(1, HOUR), _METADATA)
    yield Lake(topic, settings, [str(bronze / file.path) for file in files], {HOUR: version})
    shutil.rmtree(settings.raw_root)


@contextmanager
def _behind(names: Sequence[str], number_of_hours: int) -> Iterator[list[Lake]]:
    """Topics with many small hours closed and none sealed."""
    settings = _settings("behind")
    lakes = []
    for name in names:
        topic, closed = _topic(name), {}
        folders = folders_of(settings, name)
        table = bronze_table(folders, topic, {})
        for number in range(number_of_hours):
            hour = hours.after(HOUR, number)
            path = f"{hour}/{number:012d}-0000-bench.parquet"
            file = _file(topic, Path(folders.bronze), path, hour, number * BEHIND_ROWS, BEHIND_ROWS, 0.02, 0)
            closed[hour] = commit_batch(table, [file], _state(number + 1, hour), _METADATA)
        _record_closes(topic, settings, closed)
        lakes.append(Lake(topic, settings, [], closed))
    yield lakes
    shutil.rmtree(settings.raw_root)


_METADATA = {"release": "bench", "run": "bench", "segments": [], "closed": [], "rows": 0}


def _file(
    topic: Topic, bronze: Path, path: str, hour: Hour, first: int, rows: int, duplicates: float, republished: int
) -> DataFile:
    file = bronze / path
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = segment_schema(topic)
    with pq.ParquetWriter(file, schema, **parquet.options(schema)) as writer:
        for start in range(first, first + rows, 100_000):
            size = min(100_000, first + rows - start)
            writer.write_table(_deliveries(hour, start, size, duplicates, republished).cast(schema))
    stats = event_time_stats(hours.start_of(hour), hours.end_of(hour) - _MILLISECOND)
    return DataFile(path, hour, rows, file.stat().st_size, datetime.now(UTC), stats)


_MILLISECOND = timedelta(milliseconds=1)


def _deliveries(hour: Hour, first: int, rows: int, duplicates: float, republished: int) -> pa.Table:
    """Deliveries number `first` and on: some are of an event a little before, the first `republished` all of one."""
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'; set threads = 2")
        return database.sql(
            f"""
            with numbered as (
                select range as n, case
                    when range < {republished} then 0
                    when hash(range) % 10000 < {duplicates * 10000:.0f} and range > 1000
                        then range - 1 - (hash(range + 1) % 1000)::bigint
                    else range end as e
                from range({first}, {first + rows})
            ), told as (
                select *, md5(e::varchar) as id, md5((e + 1)::varchar) as other,
                    timestamptz '{hours.start_of(hour).isoformat()}' + to_milliseconds(e % 3600000) as moment
                from numbered
            )
            select n::varchar as message_id, moment + to_milliseconds(1000 + n % 1000) as publish_time,
                map {{'origin': 'bench'}}::map(varchar, varchar) as attributes,
                encode(id || other || repeat(other, 7) || repeat('x', 62)) as payload,
                id as event_id, moment as event_time,
                {{
                    'user': 'u' || (e % 1000003), 'country': ['se', 'de', 'us', 'br', 'jp'][1 + e % 5],
                    'track': {{'id': other, 'album': left(id, 12), 'ms': (e % 300000)::int}},
                    'session': left(other, 16) || right(id, 16), 'score': (e % 1000) / 1000,
                    'shuffled': e % 3 = 0, 'position': e
                }} as event,
                null::varchar as reject_reason, 1::bigint as epoch, 0::int as slot, (n % 2000000000)::int as position
            from told
            """
        ).to_arrow_table()


def _topic(name: str) -> Topic:
    values = {
        "subscription": f"projects/bench/subscriptions/{name}",
        "event_id": "payload.event_id",
        "event_time": "payload.at",
        "fields": FIELDS,
    }
    return topic_from(name, values)


def _settings(name: str) -> Settings:
    root = str((BUILD / name).absolute())
    return Settings(raw_root=root, sealed_root=root, release="bench", spark=SPARK)


def _state(epoch: int, hour: Hour) -> IngestState:
    return IngestState(epoch, hours.after(hour))


def _record_closes(topic: Topic, settings: Settings, closed: dict[Hour, int]) -> None:
    ledger = Ledger(ledger_table(folders_of(settings, topic.name), topic, {}), "ingest/bench/bench")
    for hour, version in closed.items():
        ledger.record("closed", hour, {"bronze_version": version})


# --- measuring -----------------------------------------------------------------------------------------------------


def _warm_up(spark: SparkSession) -> None:
    """JVM, Python workers and libraries are loaded before anything counts."""
    with _hour("warm-up", 120_000, duplicates=0.02) as lake:
        for _ in range(2):
            lake.seal(spark)
            _by_spark(spark, lake, is_distinct=True)


def _best(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """The largest sum, so far, of what this process and its Python workers hold: bytes, in a list of one."""
    peak, is_over = [0], threading.Event()
    me = psutil.Process()

    def watch() -> None:
        while not is_over.wait(0.1):
            peak[0] = max(peak[0], sum(_resident(process) for process in (me, *me.children(recursive=True))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield peak
    is_over.set()
    watcher.join()


def _resident(process: psutil.Process) -> int:
    try:
        return 0 if "java" in process.name() else int(process.memory_info().rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    sys.exit(main())
