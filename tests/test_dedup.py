"""Which deliveries lose, by address."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import settings as given_with
from hypothesis import strategies as st

from lakehouse.schemas import TIMESTAMP
from lakehouse.seal.dedup import ADDRESS, VisitRows, duplicates, late_duplicates
from lakehouse.seal.hashes import Hashes, HashOf, hashes_of
from lakehouse.store.parquet import FILE, ROW, Addresses, Scan, Visit, address_of
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


def scan_of(*files: list[Delivery], at_once: int = 3) -> Scan:
    rows = [
        (event_id, *(NOON + timedelta(microseconds=each) for each in (happened, published)), message_id, number, row)
        for number, file in enumerate(files)
        for row, (event_id, happened, published, message_id) in enumerate(file)
    ]
    table = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 6, schema=SCHEMA)

    def scan(columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from table.select([*columns, FILE, ROW]).to_batches(max_chunksize=at_once)

    return scan


def visits_of(*files: list[Delivery], at_once: int = 3) -> VisitRows:
    """The same rows, as sealing reads them: by file, and some of them only."""

    def visit_rows(columns: list[str], visit: Visit, *, only: Addresses | None = None) -> None:
        for number, file in enumerate(files):
            for batch in scan_of(file, at_once=at_once)(columns):
                where = address_of(number, batch.column(ROW).to_numpy())
                rows = batch.select(columns)
                if only is not None:
                    is_wanted = np.isin(where, only)
                    where, rows = where[is_wanted], rows.filter(pa.array(is_wanted))
                visit(where, rows)

    return visit_rows


def addresses(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table[FILE].to_pylist(), table[ROW].to_pylist(), strict=True))


def lengths_of(ids: pa.Array) -> Hashes:
    """A hash that many ids share."""
    return pc.binary_length(ids).to_numpy().astype(np.uint64)


DELIVERIES = st.tuples(
    st.sampled_from(["a", "b", "ä", "aa", ""]), st.integers(0, 1), st.integers(0, 2), st.sampled_from("123")
)
FILES = st.lists(st.lists(DELIVERIES, max_size=8), max_size=3)
IDENTITIES = st.sampled_from([ID, ID_AND_TIME])


def event_of(delivery: Delivery, identity: tuple[str, ...]) -> tuple[object, ...]:
    return delivery[: len(identity)]


@given(FILES, IDENTITIES, st.sampled_from([hashes_of, lengths_of]))
@given_with(max_examples=examples(40), deadline=None)
def test_all_but_the_first_of_each_event_lose(
    files: list[list[Delivery]], identity: tuple[str, ...], hash_of: HashOf
) -> None:
    """By definition, in three lines: sort by (publish time, message id), keep the first of each event.

    The hash finds suspects, the ids decide.
    """
    everything = [(each, (number, row)) for number, file in enumerate(files) for row, each in enumerate(file)]
    firsts: dict[tuple[object, ...], tuple[int, int]] = {}
    for delivery, address in sorted(everything, key=lambda each: (each[0][2], each[0][3], each[1])):
        firsts.setdefault(event_of(delivery, identity), address)
    losers = sorted({address for _, address in everything} - set(firsts.values()))
    found = duplicates(visits_of(*files), identity, hash_of)
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


def test_an_event_republished_very_often_loses_all_but_one() -> None:
    deliveries = [("a", 0, 10_000 - number, str(number)) for number in range(10_000)]
    assert addresses(duplicates(visits_of(deliveries, at_once=4_000), ID_AND_TIME)) == [
        (0, row) for row in range(9_999)
    ]
