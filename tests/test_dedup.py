"""Which deliveries lose, by address."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as given_with
from hypothesis import strategies as st

from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS, duplicates, late_duplicates
from lakehouse.store.parquet import FILE, ROW, Scan
from tests.clock import NOON
from tests.examples import examples

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_time", TIMESTAMP),
        ("publish_time", TIMESTAMP),
        ("message_id", pa.string()),
        *ADDRESS,
    ]
)
ID, ID_AND_TIME = ("event_id",), ("event_id", "event_time")
"""What makes an event: in topics whose time is the publish time, and in all others."""

Delivery = tuple[str, int, int, str]
"""Event id, event time and publish time in microseconds after noon, message id."""


def scan_of(*files: list[Delivery]) -> Scan:
    rows = [
        (event_id, *(NOON + timedelta(microseconds=each) for each in (happened, published)), message_id, number, row)
        for number, file in enumerate(files)
        for row, (event_id, happened, published, message_id) in enumerate(file)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 6, schema=SCHEMA)

    def scan(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from table.select([*columns, FILE, ROW]).to_batches(max_chunksize=3)

    return scan


def addresses(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table[FILE].to_pylist(), table[ROW].to_pylist(), strict=True))


DELIVERIES = st.tuples(
    st.sampled_from(["a", "b", "ä", "aa", ""]), st.integers(0, 1), st.integers(0, 2), st.sampled_from("123")
)
FILES = st.lists(st.lists(DELIVERIES, max_size=8), max_size=3)
IDENTITIES = st.sampled_from([ID, ID_AND_TIME])


def event_of(delivery: Delivery, identity: tuple[str, ...]) -> tuple[object, ...]:
    return delivery[: len(identity)]


@given(FILES, IDENTITIES)
@given_with(max_examples=examples(40), deadline=None)
def test_all_but_the_first_of_each_event_lose(files: list[list[Delivery]], identity: tuple[str, ...]) -> None:
    """By definition, in three lines: sort by (publish time, message id), keep the first of each event."""
    everything = [(each, (number, row)) for number, file in enumerate(files) for row, each in enumerate(file)]
    firsts: dict[tuple[object, ...], tuple[int, int]] = {}
    for delivery, address in sorted(everything, key=lambda each: (each[0][2], each[0][3], each[1])):
        firsts.setdefault(event_of(delivery, identity), address)
    losers = sorted({address for _, address in everything} - set(firsts.values()))
    found = duplicates(scan_of(*files), identity)
    assert addresses(found) == losers
    assert found.schema == ADDRESS


@given(FILES, st.lists(DELIVERIES, max_size=8), IDENTITIES)
@given_with(max_examples=examples(40), deadline=None)
def test_a_delivery_is_late_exactly_when_its_event_is_sealed(
    files: list[list[Delivery]], sealed: list[Delivery], identity: tuple[str, ...]
) -> None:
    """Whatever else is sealed or late: a neighbour with the same id and another time decides nothing."""
    known = {event_of(each, identity) for each in sealed}
    late = [
        (number, row)
        for number, file in enumerate(files)
        for row, each in enumerate(file)
        if event_of(each, identity) in known
    ]
    found = late_duplicates(
        scan_of(*files), lambda columns: (each.select(columns) for each in scan_of(sealed)(columns)), identity
    )
    assert addresses(found) == late
    assert found.schema == ADDRESS


def test_ids_that_share_a_hash_are_reported_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash finds suspects, the ids decide."""
    connect = duckdb.connect

    def colliding() -> duckdb.DuckDBPyConnection:
        database = connect()
        database.execute("create function hash(id) as 7")
        return database

    monkeypatch.setattr(duckdb, "connect", colliding)
    assert addresses(duplicates(scan_of([("a", 0, 0, "1"), ("b", 0, 0, "1"), ("a", 0, 1, "1")]), ID_AND_TIME)) == [
        (0, 2)
    ]


def test_an_event_republished_very_often_loses_all_but_one() -> None:
    deliveries = [("a", 0, 10_000 - number, str(number)) for number in range(10_000)]
    assert addresses(duplicates(scan_of(deliveries), ID_AND_TIME)) == [(0, row) for row in range(9_999)]
