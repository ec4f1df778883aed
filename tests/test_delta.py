"""The edge to delta-rs: what is committed is on disk, and what it throws is one of our errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import PLAYS
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.config import Settings
from lakehouse.errors import LakeError
from lakehouse.store import delta
from lakehouse.store.delta import DataFile, commit, files, metadata_of_commits, table_exists
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic, topic_from


def test_a_commit_and_all_before_it_are_synced_before_it_returns(
    settings: Settings, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests are cleared and ledger rows written on the log's word: a power cut must not take it back."""
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    bronze = TopicTables(topic, settings).ensure_bronze()
    log = Path(settings.raw_root, "plays", "bronze", "_delta_log")
    assert {str(log), str(log / f"{0:020d}.json"), str(log.parent), str(log.parent.parent)} <= set(synced)
    synced.clear()
    version = commit(bronze, [], metadata={"n": 1}, transactions={"a": 1})
    entry, folder = synced
    assert entry.startswith(f"{log}/.{version:020d}.json."), "before it has its name"
    assert folder == str(log)


DAMAGES = [b"", b"no commit", b'{"add":1}', b"{}", bytes(64), b'{"commitInfo"', b'{"commitInfo":{"userMetadata":"{"}}']


@pytest.mark.parametrize("later", [0, 1, 3])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_an_error_of_the_lake(settings: Settings, topic: Topic, damage: bytes, later: int) -> None:
    """Whatever the library makes of it: it reads an empty commit as one of nothing, and renumbers the others."""
    tables = TopicTables(topic, settings)
    bronze = tables.ensure_bronze()
    version = commit(bronze, [], metadata={"n": 1}, transactions={"a": 1})
    for n in range(later):
        commit(bronze, [], metadata={"n": n}, transactions={"a": n + 2})
    Path(settings.raw_root, "plays", "bronze", "_delta_log", f"{version:020d}.json").write_bytes(damage)
    with pytest.raises(LakeError):
        _read(tables)


@pytest.mark.parametrize(
    ("name", "content", "next_step"),
    [
        (f"{2:020d}.json", b'{"commitInfo"', "Restore it from a backup; where it is the newest"),
        (f"{1:020d}.checkpoint.parquet", b"PAR1", "Restore it from a backup."),
        ("_last_checkpoint", b'{"version":7,"size":1}', "Remove it"),
    ],
)
def test_what_is_damaged_in_a_log_is_named_with_what_to_do(
    settings: Settings, topic: Topic, name: str, content: bytes, next_step: str
) -> None:
    tables = TopicTables(topic, settings)
    bronze = tables.ensure_bronze()
    commit(bronze, [], metadata={"n": 1}, transactions={"a": 1})
    bronze.create_checkpoint()
    commit(bronze, [], metadata={"n": 2}, transactions={"a": 2})
    Path(settings.raw_root, "plays", "bronze", "_delta_log", name).write_bytes(content)
    with pytest.raises(LakeError) as error:
        tables.bronze()
    assert error.value.subject.endswith(name)
    assert error.value.next_step.startswith(next_step)


def _read(tables: TopicTables) -> None:
    bronze = tables.bronze()
    files(bronze)
    list(metadata_of_commits(bronze))


@pytest.mark.parametrize("name", ["Hour", "EVENT_ID", "Message_Id"])
def test_a_field_that_is_a_column_but_for_its_case_is_refused(name: str) -> None:
    """Delta does not tell them apart, and says so only at the first write."""
    with pytest.raises(Exception, match="which every sealed hour has anyway"):
        topic_from("plays", {**PLAYS, "fields": {name: "string"}})


def test_a_field_renamed_by_case_only_is_refused(
    settings: Settings, topic: Topic, topic_with: Callable[..., Topic]
) -> None:
    TopicTables(topic, settings).ensure_silver()
    renamed = topic_with(fields={"USER": "string"})
    with pytest.raises(LakeError, match="USER in the configuration, and in the table as user"):
        TopicTables(renamed, settings).ensure_silver()


ODD_PATHS = ["a%20b", "a\\b", "a#b", "a?b", "a[x]b", "a|b", "a^b", "a`b", "a*b", "a{b}", "a\tb"]
ODD_ADDRESSES = ["gs://bucket/a#b", "gs://bucket/a?b", "gs://bucket/a b", "file:///l/a%b"]


@pytest.mark.parametrize("root", [*(f"/l/{name}/lake" for name in ODD_PATHS), *ODD_ADDRESSES])
def test_an_address_that_libraries_read_differently_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="not every library reads alike"):
        Settings(raw_root=root)


def test_the_folder_that_a_relative_root_counts_from_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a#b").mkdir()
    monkeypatch.chdir(tmp_path / "a#b")
    with pytest.raises(ValueError, match="not every library reads alike"):
        Settings(raw_root="lake")


@pytest.mark.parametrize(
    "name", ["a b", "äöü", "A\u0308", "日本", "a%b", "a%", "a'b", 'a"b', "a;b", "a&b=c", "a:b", "a+b$~"]
)
def test_other_odd_folders_hold_tables(settings: Settings, topic: Topic, tmp_path: Path, name: str) -> None:
    """Files, state in the log, and the ledger are found again, and in no other folder."""
    root = tmp_path / name
    tables = TopicTables(topic, Settings(raw_root=str(root), sealed_root=str(root)))
    bronze = tables.ensure_bronze()
    file = DataFile("hour=2026-01-01T00/x.parquet", "2026-01-01T00", 1, 1, datetime(2026, 1, 1, tzinfo=UTC))
    version = commit(bronze, [file], metadata={"n": 1}, transactions={"a": 1})
    tables.ledger("test")
    assert list(metadata_of_commits(tables.bronze())) == [(version, {"n": 1})]
    assert [(each.path, each.rows) for each in files(tables.bronze())] == [(file.path, 1)]
    assert tables.has_ledger()
    assert (root / "plays" / "bronze" / "_delta_log" / f"{version:020d}.json").is_file()
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["00000000000000000000.json"],
        ["00000000000000000050.checkpoint.parquet"],
        ["_last_checkpoint"],
        [".00000000000000000000.json.7", "00000000000000000000.json.tmp"],
    ],
)
def test_a_folder_is_a_table_where_delta_rs_says_so(tmp_path: Path, names: list[str]) -> None:
    """It is asked for at each look of a stage, and delta-rs lists the whole log."""
    assert not table_exists(str(tmp_path), {})
    (tmp_path / "_delta_log").mkdir()
    for name in names:
        (tmp_path / "_delta_log" / name).write_bytes(b"{}")
    assert table_exists(str(tmp_path), {}) == DeltaTable.is_deltatable(str(tmp_path))


@given(st.lists(st.none() | st.datetimes(), min_size=1), st.sampled_from([None, "UTC"]))
def test_times_in_a_log_are_read_as_pyarrow_has_them(times: list[datetime | None], zone: str | None) -> None:
    """They are read without its conversion, which imports pandas."""
    column = pa.array(times, pa.timestamp("us")).cast(pa.timestamp("us", zone))
    actions = pa.table({"min.at": column, "path": [str(number) for number in range(len(times))]})
    assert list(delta._rows(actions)) == actions.to_pylist()
