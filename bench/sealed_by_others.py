"""Sealing a closed hour by DuckDB, Polars and Spark: the same bronze files, the same silver columns and properties.

Each leaves one row per event in zstd Parquet of level 1, in row groups of about the size that ours have, on the disk,
with what a seal's manifest says: the rows, the id checksum, and SHA-256 and CRC32C of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import google_crc32c
import polars as pl
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bench.closed_hours import Lake

ROW_GROUP_ROWS = 330_000
"""Ours are of 64 MiB in memory; of the rows that are measured, so many."""

_CHUNK_BYTES = 4 * 1024**2
_CORES = 2


@dataclass(frozen=True)
class Sealed:
    """What is known of the file; `checksum` is DuckDB's own sum of 64 bits of each id's md5."""

    rows: int
    checksum: int
    sha256: str
    crc32c: int


def by_duckdb(lake: Lake, spill: Path) -> Sealed:
    """Duplicates from the ids alone, then one copy without them."""
    target = Path(f"{lake.target('duckdb')}.parquet")
    with duckdb.connect() as database:
        database.execute(f"set threads = {_CORES}; set memory_limit = '4GB'; set preserve_insertion_order = false")
        database.execute(f"set temp_directory = '{spill}'; set timezone = 'UTC'")
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
            ) to '{target}'
            (format parquet, compression zstd, compression_level 1, row_group_size {ROW_GROUP_ROWS})
            """
        )
    return _durable(target)


def by_polars(lake: Lake) -> Sealed:
    target = Path(f"{lake.target('polars')}.parquet")
    delivered = pl.scan_parquet(lake.paths, row_index_name="row")
    ids = delivered.select("row", "event_id", "publish_time", "message_id")
    often = ids.group_by("event_id").len().filter(pl.col("len") > 1)
    candidates = ids.join(often, on="event_id", how="semi").collect(engine="streaming")
    first = candidates.sort("publish_time", "message_id").unique("event_id", keep="first")
    lost = candidates.join(first, on="row", how="anti").lazy()
    hour = pl.col("event_time").dt.strftime("%Y-%m-%dT%H").alias("event_hour")
    columns = delivered.select("row", "event", "event_id", "event_time", "publish_time", "message_id")
    sealed = columns.join(lost, on="row", how="anti").drop("row").with_columns(hour).unnest("event")
    sealed.sink_parquet(target, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)
    return _durable(target)


OTHERS: dict[str, Callable[[Lake, Path], Sealed]] = {"DuckDB": by_duckdb, "Polars": lambda lake, _: by_polars(lake)}


def by_spark(spark: SparkSession, lake: Lake, *, is_distinct: bool = False) -> None:
    """A plain copy, or with `dropDuplicates`; nothing is known of the files."""
    event_hour = F.date_format("event_time", "yyyy-MM-dd'T'HH").alias("event_hour")
    delivered = spark.read.parquet(*lake.paths)
    rows = delivered.select("event.*", "event_id", "event_time", event_hour, "publish_time", "message_id")
    if is_distinct:
        rows = rows.dropDuplicates(["event_id"])
    rows.write.option("compression", "zstd").parquet(str(lake.target("spark")))


def _durable(file: Path) -> Sealed:
    """Rows and checksum on all cores, in the fastest of DuckDB's ways; both digests in one pass over the bytes."""
    with duckdb.connect() as database:
        database.execute(f"set threads = {_CORES}")
        rows, checksum = database.execute(
            "select count(*), sum(md5_number(event_id) & 18446744073709551615::uhugeint)::hugeint from read_parquet(?)",
            [str(file)],
        ).fetchall()[0]
    sha256, crc32c = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            crc32c = google_crc32c.extend(crc32c, chunk)
        os.fsync(stream.fileno())
    folder = os.open(file.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return Sealed(rows, checksum, sha256.hexdigest(), crc32c)
