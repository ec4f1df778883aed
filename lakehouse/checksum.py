"""The id checksum: a sum over event ids that is the same in any order and in every engine that counts an hour.

It is the sum of the first 15 hexadecimal digits (60 bits) of each id's md5, as an exact integer: sums of parts add up,
and an hour of ten billion events stays below 2^94, which every engine's decimals hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cache
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa

Engine = Literal["spark", "bigquery", "hive", "duckdb"]

_HADOOP = "coalesce(sum(cast(conv(substr(md5({}), 1, 15), 16, 10) as decimal(20, 0))), 0)"
_SQL: dict[Engine, str] = {
    "spark": _HADOOP,
    "hive": _HADOOP,
    "bigquery": "coalesce(sum(cast(cast(concat('0x', substr(to_hex(md5({})), 1, 15)) as int64) as numeric)), 0)",
    "duckdb": "coalesce(sum(cast('0x' || substr(md5({}), 1, 15) as bigint)), 0)",
}

_FEW = 10_000
"""Ids up to which hashing them one by one is sooner done than a DuckDB connection is opened (10 ms)."""

_BATCH = 500_000
"""Ids whose hashes are in memory at a time, 8 bytes each."""

# DuckDB gives the digest as one little-endian number, so its low half holds the first eight bytes, last one first.
_HEADS = "select (md5_number(event_id) & 18446744073709551615::uhugeint)::ubigint from ids where event_id is not null"


def sql_for(engine: Engine, text: str = "event_id") -> str:
    """The checksum as an aggregate over a column of texts: an exact number, 0 without rows."""
    return _SQL[engine].replace("{}", text)


def checksum_of(ids: Iterable[str]) -> int:
    """The definition, id by id."""
    return sum(int(hashlib.md5(each.encode(), usedforsecurity=False).hexdigest()[:15], 16) for each in ids)


def id_checksum(ids: pa.Array | pa.ChunkedArray) -> int:
    """The checksum of a column of ids, on one core; nulls do not count, as in SQL."""
    if len(ids) <= _FEW:
        return checksum_of(each for each in ids.to_pylist() if each is not None)
    with one_core() as connection:
        connection.register("ids", pa.table({"event_id": ids}))
        batches: Iterable[pa.RecordBatch] = connection.sql(_HEADS).to_arrow_reader(_BATCH)
        sums: list[int] = [_sum_of_heads(batch.column(0).to_numpy()) for batch in batches]
        return sum(sums)


def one_core() -> duckdb.DuckDBPyConnection:
    """A connection for a function over a column, which runs in the thread that asks; a new database takes 10 ms."""
    return _database(os.getpid()).cursor()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """One for each process: what is forked must not share it."""
    return duckdb.connect(":memory:", config={"threads": 1})


def _sum_of_heads(heads: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> int:
    """In two halves, as a sum of 60-bit numbers overflows 64 bits."""
    numbers = heads.byteswap() >> np.uint64(4)
    upper, lower = numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)
    return (int(upper.sum()) << 32) + int(lower.sum())
