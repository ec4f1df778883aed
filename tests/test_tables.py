"""A topic's Delta tables: created, grown with the topic, and committed to by reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from folders import Folders, bronze_table, folders_of, ledger_table, silver_table

from lakehouse.config import Settings
from lakehouse.errors import LakeError
from lakehouse.store.delta import (
    Conflicts,
    DataFile,
    commit,
    event_time_stats,
    files,
    files_of_hour,
    metadata_of_commits,
    open_table,
    table_exists,
)
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic
from tests.clock import NOON

FIVE, SIX = "2026-11-23T05", "2026-11-23T06"


@pytest.fixture
def folders(settings: Settings) -> Folders:
    return folders_of(settings, "plays")


@pytest.fixture
def bronze(folders: Folders, topic: Topic) -> Callable[[], DeltaTable]:
    """Handles of the one table, each as if of another process."""
    return lambda: bronze_table(folders, topic, {})


def data_file(name: str, hour: str | None = FIVE, rows: int = 3) -> DataFile:
    return DataFile(f"{hour or 'rejected'}/{name}.parquet", hour, rows, 100, NOON)


def put(table: DeltaTable, added: Sequence[DataFile], epoch: int, app: str = "ingest") -> int:
    return commit(table, added, metadata={"epoch": epoch}, transactions={app: epoch})


def names(struct: pa.DataType) -> list[str]:
    return [member.name for member in struct]


def columns(table: DeltaTable) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())


# --- folders and creation ------------------------------------------------------------------------------------------


def test_everything_of_a_topic_is_below_its_two_folders(settings: Settings) -> None:
    apart = settings.model_copy(update={"raw_root": "gs://raw", "sealed_root": "gs://sealed"})
    folders = folders_of(apart, "plays")
    assert (folders.bronze, folders.segments, folders.checkpoint) == (
        "gs://raw/plays/bronze",
        "gs://raw/plays/segments",
        "gs://raw/plays/checkpoint",
    )
    assert (folders.silver, folders.ledger, folders.reports) == (
        "gs://sealed/plays/silver",
        "gs://sealed/plays/ledger",
        "gs://sealed/plays/reports",
    )


def test_tables_keep_their_history_as_long_as_it_is_needed(folders: Folders, topic_with: Callable[..., Topic]) -> None:
    """Bronze's log somewhat longer than its deliveries; who reads a file that another replaced ends within a day."""
    topic = topic_with(audit_window="90 days", bronze_retention="10 days")
    expected = (
        (bronze_table, "17 days", "1 day"),
        (silver_table, "90 days", "90 days"),
        (ledger_table, "90 days", "1 day"),
    )
    for ensured, log_kept, files_kept in expected:
        properties = ensured(folders, topic, {}).metadata().configuration
        assert properties["delta.logRetentionDuration"] == f"interval {log_kept}"
        assert properties["delta.deletedFileRetentionDuration"] == f"interval {files_kept}"


def test_a_changed_audit_window_reaches_tables_that_are_there(
    folders: Folders, topic_with: Callable[..., Topic]
) -> None:
    """An auditor who asks for a longer window must not find that it holds for new topics only."""
    silver_table(folders, topic_with(audit_window="90 days"), {})
    longer = silver_table(folders, topic_with(audit_window="400 days"), {})
    assert longer.metadata().configuration["delta.logRetentionDuration"] == "interval 400 days"
    again = silver_table(folders, topic_with(audit_window="400 days"), {})
    assert again.version() == longer.version()


def test_only_silver_is_append_only(folders: Folders, topic: Topic) -> None:
    """A sealed hour never changes; bronze's files are deleted when their retention is over."""
    assert silver_table(folders, topic, {}).metadata().configuration["delta.appendOnly"] == "true"
    assert "delta.appendOnly" not in bronze_table(folders, topic, {}).metadata().configuration


def test_bronze_and_silver_are_partitioned_by_hour(folders: Folders, topic: Topic) -> None:
    assert bronze_table(folders, topic, {}).metadata().partition_columns == ["hour"]
    assert silver_table(folders, topic, {}).metadata().partition_columns == ["hour"]
    assert ledger_table(folders, topic, {}).metadata().partition_columns == []


def test_a_table_that_is_there_is_left_as_it_is(bronze: Callable[[], DeltaTable]) -> None:
    assert bronze().version() == 0
    assert bronze().version() == 0


def test_whether_a_table_exists_can_be_asked_of_any_path(folders: Folders, topic: Topic, tmp_path: Path) -> None:
    assert not table_exists(folders.ledger, {})
    ledger_table(folders, topic, {})
    assert table_exists(folders.ledger, {})
    (tmp_path / "file").touch()
    assert not table_exists(str(tmp_path / "file" / "ledger"), {})


# --- what an operator can meet -------------------------------------------------------------------------------------


def test_a_missing_table_is_reported_with_the_next_step(folders: Folders) -> None:
    with pytest.raises(LakeError, match=r"plays/bronze: found no Delta table; .* Run ingest for this topic\."):
        open_table(folders.bronze, {})


def test_a_version_that_never_was_is_reported(folders: Folders, bronze: Callable[[], DeltaTable]) -> None:
    bronze()
    with pytest.raises(LakeError, match="expected a readable Delta table"):
        open_table(folders.bronze, {}, version=99)


def test_a_root_that_cannot_be_written_to_is_reported(settings: Settings, topic: Topic, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = settings.model_copy(update={"raw_root": str(tmp_path / "file")})
    with pytest.raises(LakeError, match="Check raw_root and sealed_root and the permissions there"):
        bronze_table(folders_of(below, "plays"), topic, {})


# --- a topic that changes ------------------------------------------------------------------------------------------

FIELDS = {"user": "string", "track": "struct<id: string, ms: int>", "n": "bigint"}


def test_a_table_gains_the_fields_that_its_topic_gains(folders: Folders, topic_with: Callable[..., Topic]) -> None:
    """At the top, inside a struct and inside the elements of a list."""
    before = topic_with(fields={**FIELDS, "tags": "array<struct<key: string>>"})
    grown = {
        **FIELDS,
        "track": "struct<id: string, ms: int, isrc: string>",
        "tags": "array<struct<key: string, value: string>>",
        "score": "double",
    }
    put(bronze_table(folders, before, {}), [data_file("a")], 1)
    event = columns(bronze_table(folders, topic_with(fields=grown), {})).field("event").type
    assert names(event) == ["user", "track", "n", "tags", "score"]
    assert names(event.field("track").type) == ["id", "ms", "isrc"]
    assert names(event.field("tags").type.value_type) == ["key", "value"]
    silver_table(folders, before, {})
    assert "score" in columns(silver_table(folders, topic_with(fields=grown), {})).names


def test_gaining_fields_keeps_the_files(folders: Folders, topic_with: Callable[..., Topic]) -> None:
    put(bronze_table(folders, topic_with(), {}), [data_file("a")], 1)
    grown = bronze_table(folders, topic_with(fields={**FIELDS, "score": "double"}), {})
    assert [file.path for file in files(grown)] == [f"{FIVE}/a.parquet"]
    assert grown.transaction_version("ingest") == 1


def test_a_field_that_is_no_longer_declared_stays_in_the_table(
    folders: Folders, topic_with: Callable[..., Topic]
) -> None:
    """Older hours have it, and are still read."""
    bronze_table(folders, topic_with(), {})
    lessened = bronze_table(folders, topic_with(fields={"user": "string"}), {})
    assert names(columns(lessened).field("event").type) == ["user", "track", "n"]
    assert lessened.version() == 0


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("n", "string", "event.n as int64 in the table and as string in the configuration"),
        ("track", "struct<id: bigint, ms: int>", "event.track.id as string in the table and as int64"),
        ("user", "array<string>", "event.user as string"),
    ],
)
def test_a_field_whose_type_changes_is_refused(
    folders: Folders, topic_with: Callable[..., Topic], name: str, kind: str, answer: str
) -> None:
    """Files of both types cannot be read together."""
    bronze_table(folders, topic_with(), {})
    with pytest.raises(LakeError, match=f"{answer}.*Give a field whose type changes a new name"):
        bronze_table(folders, topic_with(fields={**FIELDS, name: kind}), {})
    assert bronze_table(folders, topic_with(), {}).version() == 0


# --- commits by reference ------------------------------------------------------------------------------------------


def test_a_commit_names_files_that_others_wrote(bronze: Callable[[], DeltaTable]) -> None:
    table = bronze()
    added = [data_file("a"), data_file("b", SIX, 4), data_file("c", None, 1)]
    assert put(table, added, 1) == 1
    assert table.version() == 1
    assert files(bronze()) == sorted(added, key=lambda file: file.path)
    assert files_of_hour(bronze(), SIX) == [added[1]]
    assert files_of_hour(bronze(), "2026-11-23T07") == []


def test_a_table_without_files_has_none_in_any_hour(bronze: Callable[[], DeltaTable]) -> None:
    assert files(bronze()) == []
    assert files_of_hour(bronze(), FIVE) == []


def test_a_rejected_file_is_of_no_hour(bronze: Callable[[], DeltaTable]) -> None:
    put(bronze(), [data_file("c", None, 1)], 1)
    assert [file.hour for file in files(bronze())] == [None]


def test_of_two_that_read_the_same_version_the_second_conflicts(bronze: Callable[[], DeltaTable]) -> None:
    """Two drivers: the one that decided on an older log must decide again."""
    one, other = bronze(), bronze()
    put(one, [data_file("a")], 1)
    with pytest.raises(ConflictError):
        put(other, [data_file("b")], 2)
    assert [file.path for file in files(bronze())] == [f"{FIVE}/a.parquet"]


def test_the_conflict_is_by_app_id_whatever_the_number(bronze: Callable[[], DeltaTable]) -> None:
    """A driver that only adopts files commits with the epoch that is there already."""
    one, other = bronze(), bronze()
    put(one, [data_file("a")], 5)
    with pytest.raises(ConflictError):
        put(other, [data_file("b")], 5)
    other.update_incremental()
    assert put(other, [data_file("b")], 5) == 2


def test_commits_of_different_apps_do_not_conflict(bronze: Callable[[], DeltaTable]) -> None:
    """Sealing hour 05 and sealing hour 06 may end at the same moment."""
    one, other = bronze(), bronze()
    put(one, [data_file("a")], 1, app=f"seal/{FIVE}")
    put(other, [data_file("b", SIX)], 1, app=f"seal/{SIX}")
    assert bronze().transaction_version(f"seal/{FIVE}") == 1
    assert bronze().transaction_version(f"seal/{SIX}") == 1


def test_a_commit_s_version_is_its_own_when_another_comes_right_after_it(
    bronze: Callable[[], DeltaTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger names it, and an hour is sealed as of it."""
    table, update = bronze(), DeltaTable.update_incremental

    def after_another(answer: DeltaTable) -> None:
        if answer is table:
            monkeypatch.setattr(DeltaTable, "update_incremental", update)
            commit(bronze(), [], metadata={"kind": "retire"}, transactions={"retire": 1})
        update(answer)

    monkeypatch.setattr(DeltaTable, "update_incremental", after_another)
    assert commit(table, [], metadata={"kind": "ingest"}, transactions={"ingest": 1}) == 1
    assert (table.version(), bronze().version()) == (2, 2)


def test_conflicts_are_borne_up_to_a_bound() -> None:
    conflicts = Conflicts("gs://lake/plays/bronze", most=3)
    for _ in range(2):
        conflicts.meet(ConflictError("Concurrent transaction failed"))
    with pytest.raises(LakeError, match=r"^gs://lake/plays/bronze: found a commit that met 3 conflicts in a row"):
        conflicts.meet(ConflictError("Concurrent transaction failed"))


def test_a_commit_can_take_files_out(bronze: Callable[[], DeltaTable]) -> None:
    """Bronze's retention: the log forgets what is deleted afterwards."""
    table = bronze()
    old, young = data_file("a"), data_file("b", SIX)
    rejected = data_file("c", None)
    put(table, [old, young, rejected], 1)
    commit(table, [], metadata={}, transactions={"retire": 1}, removed=[old, rejected])
    assert files(bronze()) == [young]


def test_metadata_comes_back_newest_first(bronze: Callable[[], DeltaTable]) -> None:
    """Commits without metadata, as of other tools, are skipped."""
    table = bronze()
    commit(table, [], metadata={"kind": "ingest", "reasons": {"Ænima\n": 2}}, transactions={"ingest": 1})
    commit(table, [], metadata={"kind": "retire", "none": None}, transactions={"retire": 1})
    table.alter.set_table_properties({"delta.checkpointInterval": "60"})
    table.update_incremental()
    assert list(metadata_of_commits(table)) == [
        (2, {"kind": "retire", "none": None}),
        (1, {"kind": "ingest", "reasons": {"Ænima\n": 2}}),
    ]
    assert [version for version, _ in metadata_of_commits(table, 2)] == [2]


def test_the_metadata_is_that_of_the_table_s_version(bronze: Callable[[], DeltaTable], folders: Folders) -> None:
    table = bronze()
    put(table, [], 1)
    put(table, [], 2)
    earlier = open_table(folders.bronze, {}, version=1)
    assert [metadata["epoch"] for _, metadata in metadata_of_commits(earlier)] == [1]


# --- statistics ----------------------------------------------------------------------------------------------------


def test_event_time_bounds_are_widened_to_milliseconds() -> None:
    """Readers skip files by them: an event outside its file's bounds would not be found."""
    first, last = NOON + timedelta(microseconds=1), NOON + timedelta(microseconds=1001)
    assert event_time_stats(first, last) == {
        "minValues": {"event_time": "2026-11-23T12:00:00.000Z"},
        "maxValues": {"event_time": "2026-11-23T12:00:00.002Z"},
    }
    assert event_time_stats(None, None) == {}


@pytest.mark.parametrize("instant", [NOON, datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, tzinfo=UTC)])
def test_event_time_bounds_are_read_again(bronze: Callable[[], DeltaTable], instant: datetime) -> None:
    """Also of the year 1, which a phone without a clock may send."""
    file = DataFile(f"{FIVE}/a.parquet", FIVE, 1, 100, NOON, event_time_stats(instant, instant))
    put(bronze(), [file], 1)
    stats = files(bronze())[0].stats
    assert stats["minValues"]["event_time"].replace(tzinfo=UTC) == instant
    assert stats["maxValues"]["event_time"].replace(tzinfo=UTC) == instant
