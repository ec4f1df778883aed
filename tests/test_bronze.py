"""Bronze's log as ingest's only memory: the state after each commit, and which segments it has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from deltalake import DeltaTable
from folders import bronze_table, folders_of
from hypothesis import given
from hypothesis import strategies as st

from lakehouse import hours
from lakehouse.config import Settings
from lakehouse.errors import LakeError
from lakehouse.progress import IngestState, NewestEvent, OpenHour
from lakehouse.store import bronze_log
from lakehouse.store.bronze_head import Head
from lakehouse.store.bronze_log import (
    INGEST,
    OPEN_HOUR,
    commit_batch,
    ingest_commits,
    newest_state,
    segment_of,
    segments_in_log,
)
from lakehouse.store.delta import DataFile, commit, open_table
from lakehouse.store.files import LocalStorage
from lakehouse.store.table_log import ConflictError, entry_path
from lakehouse.topics import Topic
from tests.clock import NOON

FIVE, SIX = "2026-11-23T05", "2026-11-23T06"

STATE = IngestState(
    epoch=7,
    open_hour=FIVE,
    max_event_time=datetime(2026, 11, 23, 6, 1, 2, 345678, tzinfo=UTC),
    max_publish_time=NOON,
    hours={FIVE: OpenHour(10, NOON), SIX: OpenHour(2, NOON)},
    slots=3,
    rejected=4,
)


@pytest.fixture
def table(settings: Settings, topic: Topic) -> DeltaTable:
    return bronze_table(folders_of(settings, topic.name), topic, {})


def put(table: DeltaTable, epoch: int, segments: Iterable[str] = ()) -> int:
    return commit_batch(table, [], IngestState(epoch, FIVE), {"segments": list(segments), "closed": []})


def other_commits(table: DeltaTable, count: int) -> None:
    for number in range(count):
        commit(table, [], metadata={"kind": "retire"}, transactions={"retire": number + 1})


# --- the state -----------------------------------------------------------------------------------------------------

INSTANTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
HOURS = st.integers(0, 1_000_000).map(hours.from_ordinal)
STATES = st.builds(
    IngestState,
    st.integers(0, 2**40),
    st.none() | HOURS,
    st.none() | INSTANTS,
    st.none() | INSTANTS,
    st.dictionaries(HOURS, st.builds(OpenHour, st.integers(0, 2**40), INSTANTS), max_size=4),
    st.integers(0, 1024),
    closed_in=st.none() | st.integers(0, 2**40),
)


@given(STATES)
def test_a_state_survives_json(state: IngestState) -> None:
    assert IngestState.from_json(json.loads(json.dumps(state.as_json()))) == state


def test_a_new_table_is_at_the_beginning(table: DeltaTable) -> None:
    assert newest_state(table) == IngestState()
    assert newest_state(table).epoch == 0


def test_the_state_is_that_of_the_newest_commit(table: DeltaTable) -> None:
    put(table, 6)
    commit_batch(table, [], STATE, {"segments": [], "closed": []})
    assert newest_state(table) == STATE


def test_the_state_is_that_of_the_table_s_version(table: DeltaTable) -> None:
    """Time travel: what ingest knew then."""
    put(table, 1)
    put(table, 2)
    assert newest_state(open_table(table.table_uri, {}, version=1)).epoch == 1


def test_other_commits_do_not_hide_the_state(table: DeltaTable) -> None:
    """However many they are: retention may run while ingest is stopped."""
    put(table, 6)
    commit_batch(table, [], STATE, {"segments": [], "closed": []})
    other_commits(table, 21)
    assert newest_state(table) == STATE
    assert [metadata["state"]["epoch"] for _, metadata in ingest_commits(table)] == [7, 6]


def test_both_app_transactions_stand_in_the_log(table: DeltaTable) -> None:
    """Epoch and open hour can be read without our metadata, by whoever reads Delta."""
    commit_batch(table, [], STATE, {"segments": [], "closed": []})
    assert table.transaction_version("ingest") == 7
    assert table.transaction_version("open-hour") == hours.ordinal_of(FIVE)


def test_a_commit_before_the_first_open_hour_has_one_transaction(table: DeltaTable) -> None:
    commit_batch(table, [], IngestState(1, None), {"segments": [], "closed": []})
    assert table.transaction_version("open-hour") is None
    assert newest_state(table).open_hour is None


def test_a_commit_on_an_older_log_is_a_conflict_and_writes_nothing(table: DeltaTable) -> None:
    older = open_table(table.table_uri, {})
    put(table, 1)
    file = DataFile(f"{FIVE}/000000000002-0000-a.parquet", FIVE, 3, 100, NOON)
    with pytest.raises(ConflictError):
        commit_batch(older, [file], IngestState(2, FIVE), {"segments": [], "closed": []})
    assert open_table(table.table_uri, {}).version() == 1


# --- segments ------------------------------------------------------------------------------------------------------


def test_a_file_s_segment_is_its_name(table: DeltaTable) -> None:
    """The files of one segment share a stem, in the folders of different hours."""
    assert bronze_log.segment_of(f"{FIVE}/000000000007-0001-abc.parquet") == "000000000007-0001-abc"
    assert bronze_log.segment_of("late/000000000007-0001-abc.parquet") == "000000000007-0001-abc"


def test_segments_are_found_from_their_epoch_on(table: DeltaTable) -> None:
    put(table, 1, ["1-0"])
    put(table, 2, ["2-0", "2-1"])
    put(table, 4, ["4-0"])
    assert segments_in_log(table, 1) == {"1-0", "2-0", "2-1", "4-0"}
    assert segments_in_log(table, 2) == {"2-0", "2-1", "4-0"}
    assert segments_in_log(table, 3) == {"4-0"}
    assert segments_in_log(table, 5) == set()


def test_a_segment_adopted_later_is_found_by_its_own_epoch(table: DeltaTable) -> None:
    """It was committed with a younger epoch, so the commits from its own epoch on hold it."""
    put(table, 2, ["2-0"])
    put(table, 5, ["5-0"])
    put(table, 5, ["3-1"])
    assert "3-1" in segments_in_log(table, 3)


def test_looking_for_segments_ends_at_the_first_commit_of_an_older_epoch(
    table: DeltaTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log of a year must not be read for a segment of this minute."""
    for epoch in range(1, 5):
        put(table, epoch, [f"{epoch}-0"])
    read: list[int] = []

    def recorded(table: DeltaTable) -> Iterable[tuple[int, dict[str, object]]]:
        for version, metadata in ingest_commits(table):
            read.append(version)
            yield version, metadata

    monkeypatch.setattr(bronze_log, "ingest_commits", recorded)
    assert segments_in_log(table, 4) == {"4-0"}
    assert read == [4, 3]


def test_segments_are_found_beyond_many_other_commits(table: DeltaTable) -> None:
    put(table, 1, ["1-0"])
    other_commits(table, 21)
    put(table, 2, ["2-0"])
    assert segments_in_log(table, 1) == {"1-0", "2-0"}


def closing(table: DeltaTable, epoch: int, *closed: str) -> int:
    state = replace(newest_state(table), epoch=epoch, open_hour=hours.after(closed[-1]))
    return commit_batch(table, [], state, {"segments": [], "closed": [{"hour": hour} for hour in closed]})


def test_closes_are_found_without_the_commits_between(table: DeltaTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart read every commit since the last close, and of a topic that never closed an hour all there are."""
    put(table, 1)
    first = closing(table, 2, FIVE)
    for epoch in range(3, 9):
        commit_batch(table, [], replace(newest_state(table), epoch=epoch), {"segments": [], "closed": []})
    second = closing(table, 9, SIX, "2026-11-23T07")
    other_commits(table, 3)
    commit_batch(table, [], replace(newest_state(table), epoch=10), {"segments": [], "closed": []})
    head = Head(open_table(table.table_uri, {}))
    head.state()
    read: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, path: read.append(path) or real(self, path))

    def closes(after: str) -> list[tuple[int, str]]:
        return [(version, details["hour"]) for version, details in bronze_log.closes_since(head.log, after)]

    assert closes(SIX) == [(second, "2026-11-23T07")]
    assert read == [entry_path(head.log.version), entry_path(second)]
    assert closes(FIVE) == [(second, SIX), (second, "2026-11-23T07")]
    assert closes("") == [(first, FIVE), (second, SIX), (second, "2026-11-23T07")]


def test_closes_of_an_older_release_are_found_by_reading_on(table: DeltaTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IngestState, "committed_as", lambda state, version, **more: state)
    old = commit_batch(table, [], IngestState(1, SIX, closed_in=None), {"segments": [], "closed": [{"hour": FIVE}]})
    monkeypatch.undo()
    put(table, 2)
    commit_batch(table, [], IngestState(3, SIX, closed_in=None), {"segments": [], "closed": []})
    assert bronze_log.closes_since(table, "") == [(old, {"hour": FIVE})]
    new = commit_batch(table, [], newest_state(table), {"segments": [], "closed": [{"hour": SIX}]})
    assert [version for version, _ in bronze_log.closes_since(table, "")] == [old, new]


# --- followed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"{", b'{"add": {}}', b'{"commitInfo": {"userMetadata": "{"state": 1}"}}'])
def test_a_driver_refuses_a_damaged_commit_as_opening_does(table: DeltaTable, damage: bytes) -> None:
    head = Head(open_table(table.table_uri, {}))
    assert head.state() == IngestState()
    log_of(table, entry_path(table.version() + 1)).write_bytes(damage)
    with pytest.raises(LakeError):
        head.update()


def test_a_driver_goes_on_behind_a_commit_without_commit_info(table: DeltaTable) -> None:
    """Delta's protocol leaves it to the writer."""
    head = Head(open_table(table.table_uri, {}))
    put(table, 1)
    log_of(table, entry_path(table.version() + 1)).write_bytes(b'{"txn": {"appId": "other", "version": 1}}')
    for _ in range(2):
        head.update()
        assert head.state().epoch == 1
    assert head.commit([], IngestState(2, FIVE), {"segments": [], "closed": []}) == table.version() + 2


def test_a_driver_goes_on_with_a_log_that_was_cleaned_or_set_back(table: DeltaTable, tmp_path: Path) -> None:
    """What another process committed and cleaned, or an operator restored, is no damage."""
    head = Head(open_table(table.table_uri, {}))
    for epoch in (1, 2, 3):
        put(table, epoch)
    shutil.copytree(log_of(table, ""), tmp_path / "copy")
    put(table, 4)
    table.create_checkpoint()
    for version in range(4):
        log_of(table, entry_path(version)).unlink()
    head.update()
    assert head.state().epoch == 4
    shutil.rmtree(log_of(table, ""))
    shutil.copytree(tmp_path / "copy", log_of(table, ""))
    head.update()
    assert head.state().epoch == 3
    assert head.commit([], IngestState(5, FIVE), {"segments": [], "closed": []}) == 4


def opened(table: DeltaTable) -> Head:
    for epoch in (2, 3):
        put(table, epoch)
    head = Head(open_table(table.table_uri, {}))
    head.state()
    return head


def followed(table: DeltaTable) -> Head:
    head = Head(open_table(table.table_uri, {}))
    for epoch in (2, 3):
        put(table, epoch)
    head.update()
    return head


def committed(table: DeltaTable) -> Head:
    head = Head(open_table(table.table_uri, {}))
    for epoch in (2, 3):
        head.commit([], IngestState(epoch, FIVE), {"segments": [], "closed": []})
    return head


@pytest.mark.parametrize("known", [opened, followed, committed])
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("more", [1, 2, 3])
def test_a_driver_sees_that_a_log_was_set_back_and_grew_again(
    table: DeltaTable, tmp_path: Path, known: Callable[[DeltaTable], Head], others: int, more: int
) -> None:
    """Below, at and beyond the version that it knows: the state that it has is of commits that are gone."""
    put(table, 1)
    shutil.copytree(log_of(table, ""), tmp_path / "copy")
    head = known(open_table(table.table_uri, {}))
    shutil.rmtree(log_of(table, ""))
    shutil.copytree(tmp_path / "copy", log_of(table, ""))
    for number in range(more - others):
        put(table, 10 + number)
    other_commits(table, others)
    head.update()
    assert head.log.version == table.version()
    assert head.state() == newest_state(table)
    assert head.commit([], IngestState(20, FIVE), {"segments": [], "closed": []}) == table.version() + 1


def log_of(table: DeltaTable, name: str) -> Path:
    return Path(urlsplit(table.table_uri).path, name)


# --- commits that are cleaned away ---------------------------------------------------------------------------------


def by_delta_rs(table: DeltaTable, request: pytest.FixtureRequest) -> None:
    table.create_checkpoint()


def by_spark(table: DeltaTable, request: pytest.FixtureRequest) -> None:
    spark = request.getfixturevalue("spark")
    logs = spark._jvm.org.apache.spark.sql.delta.DeltaLog
    logs.forTable(spark._jsparkSession, table.table_uri).checkpoint()


WRITERS = {"delta-rs": by_delta_rs, "spark": by_spark}
BY_EACH = pytest.mark.parametrize("writer", ["delta-rs", pytest.param("spark", marks=pytest.mark.slow)])


def cleaned(table: DeltaTable, request: pytest.FixtureRequest, writer: str) -> DeltaTable:
    """As Delta cleans after `delta.logRetentionDuration`: of what came before the checkpoint no commit is left."""
    table.alter.set_table_properties({"delta.checkpointInterval": "49"})
    WRITERS[writer](table, request)
    newest, log = table.version(), Path(urlsplit(table.table_uri).path, "_delta_log")
    for version in range(newest):
        (log / f"{version:020d}.json").unlink()
    assert sorted(file.name for file in log.glob("*.json")) == [f"{newest:020d}.json"]
    assert (log / f"{newest:020d}.checkpoint.parquet").is_file()
    return open_table(table.table_uri, {})


@BY_EACH
def test_the_state_is_in_every_checkpoint_whoever_wrote_it(
    table: DeltaTable, request: pytest.FixtureRequest, writer: str
) -> None:
    """A topic that is quiet for longer than its log is kept must not forget which hours are sealed."""
    file = DataFile(f"{FIVE}/{7:012d}-0000-abc.parquet", FIVE, 10, 1, NOON)
    state = replace(STATE, hours={FIVE: OpenHour(10, NOON)}, newest=NewestEvent(NOON, NOON))
    commit_batch(table, [file], state, {"segments": [segment_of(file.path)], "closed": []})
    stale, bronze = open_table(table.table_uri, {}), cleaned(table, request, writer)
    assert newest_state(bronze) == replace(state, closed_in=None)
    assert segments_in_log(bronze, 7) == {segment_of(file.path)}
    other_commits(bronze, 1)
    assert newest_state(open_table(table.table_uri, {})) == replace(state, closed_in=None)
    put(bronze, 8)
    with pytest.raises((ConflictError, LakeError)):
        put(stale, 8)
    assert newest_state(open_table(table.table_uri, {})) == IngestState(8, FIVE)


@BY_EACH
@pytest.mark.parametrize("transactions", [{INGEST: 7, OPEN_HOUR: 3}, {"another": 1}])
def test_a_topic_whose_state_is_nowhere_is_not_taken_for_a_new_one(
    table: DeltaTable, request: pytest.FixtureRequest, writer: str, transactions: dict[str, int]
) -> None:
    """The commits are gone, and the checkpoint is of a release that kept less, or its transactions have expired."""
    commit(table, [], metadata={"kind": "another"}, transactions=transactions)
    with pytest.raises(LakeError, match="no commit that says which hours are open"):
        newest_state(cleaned(table, request, writer))
