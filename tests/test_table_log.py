"""Commits that we write to a Delta log ourselves: proper ones to every reader, safe beside every other writer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lakehouse.crash.processes import UnavailableError
from lakehouse.errors import LakeError, UnknownOutcomeError
from lakehouse.store import delta, table_log
from lakehouse.store.delta import DataFile, change_of, commit, commit_to_log, files, open_table
from lakehouse.store.files import LocalStorage
from lakehouse.store.table_log import CHECKPOINT_EVERY, ConflictError, TableLog, entry_path, log_of, newest_log
from tests.clock import NOON
from tests.servers.downloads import duckdb_command

SCHEMA = pa.schema([("n", pa.int64()), ("hour", pa.string())])
FIVE, ODD = "2026-11-23T05", "ä b%20?#=5"


@dataclass
class Lake:
    """A small table, and what it takes to commit to it."""

    uri: str

    def log(self) -> TableLog:
        log = newest_log(self.uri, {})
        assert log is not None
        return log

    def data_file(self, name: str, numbers: list[int], hour: str | None = FIVE) -> DataFile:
        path = Path(self.uri, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"n": numbers}), path)
        return DataFile(name, hour, len(numbers), path.stat().st_size, NOON)

    def put(self, log: TableLog, name: str, numbers: list[int], app: str = "a", number: int = 1) -> int:
        change = change_of([self.data_file(name, numbers)], (), {app: number})
        return commit_to_log(log, change, lambda version: json.dumps({"at": version})).version

    def numbers(self) -> list[int]:
        table = DeltaTable(self.uri).to_pyarrow_table()
        return sorted(table["n"].to_pylist())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    DeltaTable.create(str(tmp_path / "t"), SCHEMA, partition_by=["hour"])
    return Lake(str(tmp_path / "t"))


def test_delta_rs_and_spark_read_what_we_commit(lake: Lake, spark: Any) -> None:
    """Adds, removals, a null and an odd partition, app transactions and what a commit says of itself."""
    gone = lake.data_file("gone.parquet", [9])
    added = [lake.data_file("any/folder/a.parquet", [1, 2], ODD), lake.data_file("c.parquet", [3], None), gone]
    commit_to_log(lake.log(), change_of(added, (), {"app": 7}), lambda version: '{"kind": "one"}')
    commit_to_log(lake.log(), change_of((), [gone], {"app": 8}), lambda version: '{"kind": "two"}')
    assert lake.numbers() == [1, 2, 3]
    assert [(file.path, file.hour) for file in files(DeltaTable(lake.uri))] == [
        ("any/folder/a.parquet", ODD),
        ("c.parquet", None),
    ]
    assert DeltaTable(lake.uri).transaction_version("app") == 8
    rows = spark.read.format("delta").load(lake.uri).select("n", "hour").collect()
    assert sorted((row.n, row.hour) for row in rows) == [(1, ODD), (2, ODD), (3, None)]
    history = spark.sql(f"DESCRIBE HISTORY delta.`{lake.uri}`").select("version", "operation", "userMetadata").collect()
    assert [tuple(row) for row in history][:2] == [(2, "WRITE", '{"kind": "two"}'), (1, "WRITE", '{"kind": "one"}')]
    assert spark.read.format("delta").option("versionAsOf", 1).load(lake.uri).count() == 4
    spark.createDataFrame([(5, ODD)], "n long, hour string").write.format("delta").mode("append").save(lake.uri)
    assert lake.put(lake.log(), "after.parquet", [6]) == 4
    assert lake.numbers() == [1, 2, 3, 5, 6]
    theirs = [file for file in files(DeltaTable(lake.uri)) if file.path.startswith("hour=")]
    commit_to_log(lake.log(), change_of((), theirs, {}), lambda version: None)
    assert lake.numbers() == [1, 2, 3, 6]


_SCAN = """
import json, sys, duckdb
connection = duckdb.connect()
connection.load_extension("delta")
print(json.dumps(connection.sql(f"select n, hour from delta_scan('{sys.argv[1]}') order by n").fetchall()))
"""


@pytest.mark.stores
def test_duckdb_reads_what_we_commit(lake: Lake) -> None:
    """Its kernel is Rust's, another one than delta-rs': adds, removals, an odd partition, and a checkpoint."""
    try:
        python = duckdb_command()
    except UnavailableError as why:
        pytest.skip(str(why))
    gone = lake.data_file("gone.parquet", [99])
    added = [lake.data_file("any/folder/a.parquet", [1], ODD), lake.data_file("c.parquet", [2], None), gone]
    commit_to_log(lake.log(), change_of(added, (), {"app": 7}), lambda version: '{"kind": "one"}')
    commit_to_log(lake.log(), change_of((), [gone], {"app": 8}), lambda version: '{"kind": "two"}')

    def read() -> list[list[Any]]:
        return list(json.loads(subprocess.check_output([str(python), "-c", _SCAN, lake.uri], text=True, timeout=60)))

    assert read() == [[1, ODD], [2, None]]
    for number in range(3, CHECKPOINT_EVERY + 3):
        lake.put(lake.log(), f"{number}.parquet", [number], number=number)
    assert Path(lake.uri, "_delta_log", f"{CHECKPOINT_EVERY - 1:020d}.checkpoint.parquet").is_file()
    assert [n for n, _ in read()] == list(range(1, CHECKPOINT_EVERY + 3))


def test_a_checkpoint_follows_every_so_many_commits_and_is_read_by_others(lake: Lake, spark: Any) -> None:
    for number in range(1, CHECKPOINT_EVERY + 2):
        lake.put(lake.log(), f"{number}.parquet", [number], number=number)
    checkpoint = Path(lake.uri, "_delta_log", f"{CHECKPOINT_EVERY - 1:020d}.checkpoint.parquet")
    assert checkpoint.is_file()
    for version in range(CHECKPOINT_EVERY - 1):
        Path(lake.uri, entry_path(version)).unlink()
    assert lake.numbers() == list(range(1, CHECKPOINT_EVERY + 2))
    assert DeltaTable(lake.uri).transaction_version("a") == CHECKPOINT_EVERY + 1
    assert spark.read.format("delta").load(lake.uri).count() == CHECKPOINT_EVERY + 1
    assert lake.log().version == CHECKPOINT_EVERY + 1


def test_few_checkpoints_stay_for_good(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest ones, for who has begun to read one, and a few for who reads an older version."""
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(delta, "RECENT_CHECKPOINTS", 3)
    monkeypatch.setattr(delta, "KEPT_CHECKPOINTS", 4)
    for number in range(1, 24):
        lake.put(lake.log(), f"{number}.parquet", [number], number=number)
    kept = sorted(file.name[:20] for file in Path(lake.uri, "_delta_log").glob("*.checkpoint.parquet"))
    assert [int(version) for version in kept] == [7, 15, 19, 21, 23]
    assert DeltaTable(lake.uri, version=12).to_pyarrow_table().num_rows == 12


def test_a_checkpoint_that_cannot_be_written_fails_no_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(table: DeltaTable) -> None:
        raise OSError("no room")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", refused)
    monkeypatch.setattr(delta, "CHECKPOINT_EVERY", 2)
    assert lake.put(lake.log(), "a.parquet", [1]) == 1
    assert lake.numbers() == [1]


# --- others commit, too ----------------------------------------------------------------------------------------------


def test_what_goes_together_is_committed_behind_what_came_first(lake: Lake) -> None:
    stale = lake.log()
    lake.put(stale, "a.parquet", [1], app="a")
    write_deltalake(lake.uri, pa.table({"n": [2], "hour": [FIVE]}), mode="append")
    assert lake.put(stale, "b.parquet", [3], app="b") == 3
    assert lake.numbers() == [1, 2, 3]
    entry = lake.log().entry(3)
    assert entry is not None
    assert entry.metadata == {"at": 3}


def _same_app(lake: Lake) -> None:
    lake.put(lake.log(), "theirs.parquet", [7], number=99)


def _new_properties(lake: Lake) -> None:
    DeltaTable(lake.uri).alter.set_table_properties({"delta.appendOnly": "false"})


def _new_column(lake: Lake) -> None:
    wider = pa.table({"n": [7], "hour": [FIVE], "more": [1]})
    write_deltalake(lake.uri, wider, mode="append", schema_mode="merge")


@pytest.mark.parametrize("first", [_same_app, _new_properties, _new_column])
def test_what_does_not_go_together_is_a_conflict_and_writes_nothing(lake: Lake, first: Callable[[Lake], None]) -> None:
    stale = lake.log()
    first(lake)
    before = DeltaTable(lake.uri).version()
    with pytest.raises(ConflictError):
        lake.put(stale, "ours.parquet", [1])
    assert DeltaTable(lake.uri).version() == before


def test_of_two_that_remove_a_file_one_wins(lake: Lake) -> None:
    """Both have put its rows into a file of their own: they would be there twice."""
    small = lake.data_file("small.parquet", [1])
    commit_to_log(lake.log(), change_of([small], (), {}), lambda version: None)
    stale = lake.log()
    commit_to_log(
        stale, change_of([lake.data_file("x.parquet", [1])], [small], {}, is_data=False), lambda version: None
    )
    with pytest.raises(ConflictError, match="removed a file"):
        commit_to_log(
            stale, change_of([lake.data_file("y.parquet", [1])], [small], {}, is_data=False), lambda version: None
        )
    assert lake.numbers() == [1]


# --- what a store on the network does --------------------------------------------------------------------------------


def _answers(monkeypatch: pytest.MonkeyPatch, *answers: Callable[[bool], bool]) -> None:
    """Let the next puts be done and give another answer; what follows them is answered as it is."""
    real, waiting = LocalStorage.put_if_absent, list(answers)

    def put(self: LocalStorage, path: str, content: bytes) -> bool:
        done = real(self, path, content)
        return waiting.pop(0)(done) if waiting else done

    monkeypatch.setattr(LocalStorage, "put_if_absent", put)


def _silence(done: bool) -> bool:
    raise UnknownOutcomeError("entry", found="503", expected="an answer", next_step="Look.")


def test_a_refusal_after_our_own_first_try_is_a_success(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client sends a request again whose answer got lost, and the store says truly that the object is there."""
    _answers(monkeypatch, lambda done: False)
    assert lake.put(lake.log(), "a.parquet", [1]) == 1
    assert lake.numbers() == [1]


def test_a_commit_whose_answer_is_lost_is_found(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, _silence)
    assert lake.put(lake.log(), "a.parquet", [1]) == 1
    stale = lake.log()
    lake.put(lake.log(), "b.parquet", [2], app="b")
    _answers(monkeypatch, _silence)
    assert lake.put(stale, "c.parquet", [3], app="c") == 3
    assert lake.numbers() == [1, 2, 3]


def test_a_commit_that_may_still_arrive_is_an_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStorage, "put_if_absent", lambda *of: _silence(False))
    with pytest.raises(LakeError, match="503"):
        lake.put(lake.log(), "a.parquet", [1])


def test_a_list_that_lags_hides_no_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        lake.put(lake.log(), f"{number}.parquet", [number], number=number)
    listing = LocalStorage.listing
    monkeypatch.setattr(LocalStorage, "listing", lambda *of, **more: listing(*of, **more)[:-2])
    assert lake.log().version == 3


# --- of which tables we may be a writer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "feature"),
    [({"delta.enableRowTracking": "true"}, "rowTracking"), ({"delta.columnMapping.mode": "name"}, "columnMapping")],
)
def test_a_table_that_asks_more_of_its_writers_is_refused(
    tmp_path: Path, spark: Any, properties: dict[str, str], feature: str
) -> None:
    uri = str(tmp_path / "t")
    listed = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
    spark.sql(f"CREATE TABLE delta.`{uri}` (n long) USING delta TBLPROPERTIES ({listed})")
    with pytest.raises(LakeError, match=feature):
        commit(open_table(uri, {}), [], metadata={}, transactions={"a": 1})


def test_an_entry_is_read_as_far_as_it_is_asked_for(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for the newest state must not read a year."""
    for number in range(40):
        lake.put(lake.log(), f"{number}.parquet", [number], number=number)
    read: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, path: read.append(path) or real(self, path))
    assert next(log_of(DeltaTable(lake.uri)).entries_back()).version == 40
    assert read == [entry_path(40)]
    assert [entry.version for entry in lake.log().entries_back(3)] == [40, 39, 38]
    assert len(list(lake.log().entries_back())) == 41
    assert table_log.newest_log(str(Path(lake.uri, "none")), {}) is None
