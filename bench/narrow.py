"""Deliveries of which only what tells them apart is written: as many as an hour of the biggest topics has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import duckdb

from lakehouse.seal.dedup import VisitRows
from lakehouse.seal.distributed import Rows
from lakehouse.store import parquet
from lakehouse.store.files import LocalStorage
from lakehouse.store.place import Place

ROWS_OF_FILE = 1_000_000


@contextmanager
def deliveries(folder: Path, count: int, *, duplicates: float) -> Iterator[Rows]:
    """Files with real ids (an md5 each), event and publish times and message ids, for as long as they are measured."""
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as other:  # what it takes is not to be measured
        paths = other.submit(_write, folder, count, duplicates).result()
    try:
        yield Rows(Place(str(folder.absolute())), tuple(paths), count)
    finally:
        shutil.rmtree(folder)


def _write(folder: Path, count: int, duplicates: float) -> list[str]:
    """The files' names."""
    paths = []
    with duckdb.connect() as database:
        database.execute("set timezone = 'UTC'; set threads = 2; set memory_limit = '2GB'")
        for first in range(0, count, ROWS_OF_FILE):
            paths.append(f"{first:012d}.parquet")
            database.execute(
                f"""
                copy (
                    with numbered as (
                        select range as n, case when hash(range) % 10000 < {duplicates * 10000:.0f} and range > 1000
                            then range - 1 - (hash(range + 1) % 1000)::bigint else range end as e
                        from range({first}, {min(first + ROWS_OF_FILE, count)})
                    )
                    select md5(e::varchar) as event_id,
                        timestamptz '2026-11-23T05:00:00Z' + to_microseconds(e % 3600000000) as event_time,
                        timestamptz '2026-11-23T05:00:01Z' + to_microseconds(n % 3600000000) as publish_time,
                        n::varchar as message_id
                    from numbered
                ) to '{folder / paths[-1]}' (format parquet, compression zstd, compression_level 1)
                """
            )
    return paths


def visit(rows: Rows) -> VisitRows:
    """The rows as the driver reads them."""
    storage = LocalStorage(rows.place.uri)
    return partial(parquet.visit_rows, [partial(parquet.LakeFile, storage, path) for path in rows.paths])
