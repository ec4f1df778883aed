"""The demo's verdict: it must be able to say that something is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flights_lake import FlightsLake, flights_lake

from lakehouse.sandbox import flights
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.tally import Outcome, outcome_of
from lakehouse.store.delta import files_of_hour, open_table
from lakehouse.store.tables import TopicTables

NAME = "weather_observed"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> tuple[FlightsLake, list[Message]]:
    """A lake, and the messages of its sealed hours."""
    lake = flights_lake(tmp_path_factory.mktemp("tally"), topics=[NAME])
    sealed = set(TopicTables(lake.config.topic(NAME), lake.config.settings).history().hours())
    silver = TopicTables(lake.config.topic(NAME), lake.config.settings).sealed.below("silver").uri
    table = open_table(silver, {})
    paths = [f"{silver}/{file.path}" for hour in sealed for file in files_of_hour(table, hour)]
    ids = {each for path in paths for each in pq.read_table(path, partitioning=None)["event_id"].to_pylist()}
    published = flights.messages(flights.FIRST, flights.FIRST + 6 * (flights.UNTIL - flights.FIRST) / 8)
    mine = [message for message in published if message.topic == NAME]
    return lake, [message for message in mine if message.event_id is None or message.event_id in ids]


@pytest.fixture
def tally(delivered: tuple[FlightsLake, list[Message]]) -> Callable[[], Outcome]:
    lake, messages = delivered
    return lambda: outcome_of(lake.config.topic(NAME), lake.config, messages)


@pytest.fixture
def mirrored_file(delivered: tuple[FlightsLake, list[Message]], tmp_path: Path) -> object:
    """A file that a reader of the mirror sees; put back afterwards."""
    lake, _ = delivered
    file = next(Path(lake.config.settings.mirrors["folder"]["path"], NAME).glob("2013*/part-*.parquet"))
    shutil.copy(file, tmp_path / "kept")
    yield file
    shutil.copy(tmp_path / "kept", file)


def written(file: Path, rows: pa.Table) -> None:
    pq.write_table(rows, file)


def test_a_right_delivery_is_right(tally: Callable[[], Outcome]) -> None:
    """Otherwise the tests below would show nothing."""
    outcome = tally()
    assert outcome.is_right, outcome
    assert outcome.delivered == outcome.distinct > 0
    assert outcome.rejected == 5


def test_an_event_that_was_published_and_not_delivered_is_lost(
    delivered: tuple[FlightsLake, list[Message]],
) -> None:
    """The first thing that the demo promises."""
    lake, messages = delivered
    never = Message(NAME, flights.FIRST, b"{}", {}, "never/delivered")
    outcome = outcome_of(lake.config.topic(NAME), lake.config, [*messages, never])
    assert outcome.lost == {"never/delivered"}
    assert not outcome.is_right


def test_a_row_missing_from_a_mirror_is_lost_and_changed(tally: Callable[[], Outcome], mirrored_file: Path) -> None:
    """Silver alone is not what people read."""
    rows = pq.read_table(mirrored_file, partitioning=None)
    written(mirrored_file, rows.slice(1))
    outcome = tally()
    assert outcome.lost == {rows["event_id"][0].as_py()}
    assert outcome.changed


def test_a_row_twice_in_a_mirror_is_doubled(tally: Callable[[], Outcome], mirrored_file: Path) -> None:
    """Counted twice is as wrong as not at all."""
    rows = pq.read_table(mirrored_file, partitioning=None)
    written(mirrored_file, pa.concat_tables([rows, rows.slice(0, 1)]))
    assert tally().doubled == {rows["event_id"][0].as_py()}


def test_an_event_that_nobody_published_is_unexpected(delivered: tuple[FlightsLake, list[Message]]) -> None:
    """Events must not come from nowhere."""
    lake, messages = delivered
    known = next(message for message in messages if message.event_id)
    without = [message for message in messages if message.event_id != known.event_id]
    outcome = outcome_of(lake.config.topic(NAME), lake.config, without)
    assert known.event_id in outcome.unexpected
