"""Closed hours of a topic, as ingest leaves them, for who measures what comes after."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lakehouse import hours
from lakehouse.config import Settings
from lakehouse.hours import Hour
from lakehouse.progress import IngestState
from lakehouse.schemas import segment_schema
from lakehouse.seal.stage import Sealer
from lakehouse.store import parquet
from lakehouse.store.bronze_log import commit_batch
from lakehouse.store.delta import DataFile, event_time_stats
from lakehouse.store.records import Closed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic, topic_from

HOUR = "2026-11-23T05"
ROWS_OF_FILE = 250_000
FIELDS = {
    "user": "string",
    "country": "string",
    "track": "struct<id: string, album: string, ms: int>",
    "session": "string",
    "score": "double",
    "shuffled": "boolean",
    "position": "bigint",
}
NARROW_FIELDS = {"position": "bigint"}
SPARK = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.driver.memory": "3g",
    "spark.log.level": "ERROR",
    "spark.sql.warehouse.dir": "build/bench/warehouse",
}

_runs = count(1)


@dataclass
class Lake:
    """A topic with closed hours, sealed as often as one likes."""

    topic: Topic
    settings: Settings
    paths: list[str]
    closed: dict[Hour, int]

    def seal(self, spark: SparkSession) -> Settings:
        """Each time into a lake of its own, as an hour is sealed once; gives that lake's settings."""
        lake = self.unsealed()
        self.seal_in(lake, spark)
        return lake

    def unsealed(self) -> Settings:
        """The settings of a lake of its own, where these hours are closed and due."""
        lake = self.settings.model_copy(update={"sealed_root": str(self.target("sealed"))})
        record_closes(self.topic, lake, self.closed)
        TopicTables(self.topic, lake).ensure_silver()
        return lake

    def seal_in(self, lake: Settings, spark: SparkSession) -> None:
        sealer = Sealer(self.topic, lake, lambda: spark, run="bench")
        for hour in sealer.due():
            sealer.seal(hour)

    def target(self, name: str) -> Path:
        """A place that nothing was written to; what was written before is removed."""
        folder = Path(self.settings.raw_root, "written")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return (folder / f"{name}-{next(_runs)}").absolute()


@contextmanager
def closed_hour(
    build: Path,
    name: str,
    rows: int,
    *,
    duplicates: float = 0.0,
    republished: int = 0,
    rows_of_file: int = ROWS_OF_FILE,
    is_narrow: bool = False,
) -> Iterator[Lake]:
    """One closed hour of a topic of its own, for as long as it is measured; of a narrow one only the ids are large."""
    settings = settings_of(build, name)
    topic = _topic(name.replace("-", "_"), NARROW_FIELDS if is_narrow else FIELDS)
    given = settings, topic, rows, duplicates, republished, rows_of_file
    with ProcessPoolExecutor(1, get_context("spawn")) as other:  # what it takes is not to be measured
        lake = other.submit(_written, *given).result()
    try:
        yield lake
    finally:
        shutil.rmtree(settings.raw_root)


def _written(
    settings: Settings, topic: Topic, rows: int, duplicates: float, republished: int, rows_of_file: int
) -> Lake:
    tables = TopicTables(topic, settings)
    bronze = Path(tables.raw.uri, "bronze")
    files = []
    for number, first in enumerate(range(0, rows, rows_of_file)):
        path = f"{HOUR}/{number:012d}-0000-bench.parquet"
        size = min(rows_of_file, rows - first)
        files.append(_file(topic, bronze, path, HOUR, first, size, duplicates, republished))
    version = commit_batch(tables.ensure_bronze(), files, _state(1, HOUR), _METADATA)
    return Lake(topic, settings, [str(bronze / file.path) for file in files], {HOUR: version})


@contextmanager
def hours_behind(build: Path, names: Sequence[str], number_of_hours: int, rows: int) -> Iterator[list[Lake]]:
    """Topics with many small hours closed and none sealed."""
    settings = settings_of(build, "behind")
    lakes = []
    for name in names:
        topic, closed = _topic(name), {}
        tables = TopicTables(topic, settings)
        table = tables.ensure_bronze()
        for number in range(number_of_hours):
            hour = hours.after(HOUR, number)
            path = f"{hour}/{number:012d}-0000-bench.parquet"
            file = _file(topic, Path(tables.raw.uri, "bronze"), path, hour, number * rows, rows, 0.02, 0)
            closed[hour] = commit_batch(table, [file], _state(number + 1, hour), _METADATA)
        record_closes(topic, settings, closed)
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
            is_narrow = topic.fields.keys() == NARROW_FIELDS.keys()
            deliveries = _deliveries(hour, start, size, duplicates, republished, is_narrow=is_narrow)
            writer.write_table(deliveries.select(schema.names).cast(schema))
    stats = event_time_stats(hours.start_of(hour), hours.end_of(hour) - _MILLISECOND)
    return DataFile(path, hour, rows, file.stat().st_size, datetime.now(UTC), stats)


_MILLISECOND = timedelta(milliseconds=1)

_WIDE = """
    encode(id || other || repeat(other, 7) || repeat('x', 62)) as payload,
    {
        'user': 'u' || (e % 1000003), 'country': ['se', 'de', 'us', 'br', 'jp'][1 + e % 5],
        'track': {'id': other, 'album': left(id, 12), 'ms': (e % 300000)::int},
        'session': left(other, 16) || right(id, 16), 'score': (e % 1000) / 1000,
        'shuffled': e % 3 = 0, 'position': e
    } as event
    """
_NARROW = "encode('') as payload, {'position': e} as event"


def _deliveries(hour: Hour, first: int, rows: int, duplicates: float, republished: int, *, is_narrow: bool) -> pa.Table:
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
            ), recorded as (
                select *, md5(e::varchar) as id, md5((e + 1)::varchar) as other,
                    timestamptz '{hours.start_of(hour).isoformat()}' + to_milliseconds(e % 3600000) as moment
                from numbered
            )
            select n::varchar as message_id, moment + to_milliseconds(1000 + n % 1000) as publish_time,
                map {{'origin': 'bench'}}::map(varchar, varchar) as attributes,
                null::varchar as ordering_key, id as event_id, moment as event_time,
                null::varchar as reject_reason, 1::bigint as epoch, 0::int as slot, (n % 2000000000)::int as position,
                {_NARROW if is_narrow else _WIDE}
            from recorded
            """
        ).to_arrow_table()


def _topic(name: str, fields: Mapping[str, str] = FIELDS) -> Topic:
    values = {
        "subscription": f"projects/bench/subscriptions/{name}",
        "event_id": "payload.event_id",
        "event_time": "payload.at",
        "fields": dict(fields),
    }
    return topic_from(name, values)


def settings_of(build: Path, name: str) -> Settings:
    root = str((build / name).absolute())
    return Settings(raw_root=root, sealed_root=root, release="bench", spark=SPARK)


def _state(epoch: int, hour: Hour) -> IngestState:
    return IngestState(epoch, hours.after(hour))


def record_closes(topic: Topic, settings: Settings, closed: dict[Hour, int]) -> None:
    ledger = TopicTables(topic, settings).ledger("ingest/bench/bench")
    for hour, version in closed.items():
        ledger.record(Closed(bronze_version=version), hour)
