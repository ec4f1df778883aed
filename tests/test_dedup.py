"""Which deliveries lose, by address."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as given_with
from hypothesis import strategies as st

from lakehouse.schemas import TIMESTAMP
from lakehouse.seal import dedup
from lakehouse.seal.dedup import ADDRESS, duplicates, late_duplicates
from lakehouse.store.parquet import FILE, ROW

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCHEMA = pa.schema([("event_id", pa.string()), ("publish_time", TIMESTAMP), ("message_id", pa.string()), *ADDRESS])

Delivery = tuple[str, int, str]
"""Event id, publish time in microseconds after noon, message id."""


def scan_of(*files: list[Delivery]) -> dedup.Scan:
    rows = [
        (event_id, NOON + timedelta(microseconds=published), message_id, number, row)
        for number, file in enumerate(files)
        for row, (event_id, published, message_id) in enumerate(file)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 5, schema=SCHEMA)

    def scan(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from table.select([*columns, FILE, ROW]).to_batches(max_chunksize=3)

    return scan


def addresses(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table[FILE].to_pylist(), table[ROW].to_pylist(), strict=True))


DELIVERIES = st.tuples(st.sampled_from(["a", "b", "ä", "aa", ""]), st.integers(0, 2), st.sampled_from("123"))


@given(st.lists(st.lists(DELIVERIES, max_size=8), max_size=3))
@given_with(max_examples=30, deadline=None)
def test_all_but_the_first_of_each_event_lose(files: list[list[Delivery]]) -> None:
    """By definition, in three lines: sort by (publish time, message id), keep the first of each id."""
    everything = [(each, (number, row)) for number, file in enumerate(files) for row, each in enumerate(file)]
    firsts: dict[str, tuple[int, int]] = {}
    for (event_id, _, _), address in sorted(everything, key=lambda each: (each[0][1], each[0][2], each[1])):
        firsts.setdefault(event_id, address)
    losers = sorted({address for _, address in everything} - set(firsts.values()))
    found = duplicates(scan_of(*files))
    assert addresses(found) == losers
    assert found.schema == ADDRESS


def test_ids_that_share_a_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash finds suspects, the ids decide."""
    connect = duckdb.connect

    def colliding() -> duckdb.DuckDBPyConnection:
        database = connect()
        database.execute("create function hash(id) as 7")
        return database

    monkeypatch.setattr(duckdb, "connect", colliding)
    assert addresses(duplicates(scan_of([("a", 0, "1"), ("b", 0, "1"), ("a", 1, "1")]))) == [(0, 2)]


def test_an_event_republished_very_often_loses_all_but_one() -> None:
    deliveries = [("a", 10_000 - number, str(number)) for number in range(10_000)]
    assert addresses(duplicates(scan_of(deliveries))) == [(0, row) for row in range(9_999)]


def test_late_duplicates_are_those_whose_id_is_sealed() -> None:
    skewed = pa.table({"event_id": ["a", "b", "c"], FILE: [0, 0, 2], ROW: [5, 6, 7]}).cast(
        pa.schema([("event_id", pa.string()), *ADDRESS])
    )
    sealed = [pa.record_batch({"event_id": ["x", "c"]}), pa.record_batch({"event_id": ["a", "c"]})]
    found = late_duplicates(skewed, sealed)
    assert addresses(found) == [(0, 5), (2, 7)]
    assert found.schema == ADDRESS
    assert addresses(late_duplicates(skewed, [])) == []
