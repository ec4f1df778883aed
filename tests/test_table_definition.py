"""What a table is, read from what its commits say: never anything else than the table opened as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.store import table_definition
from lakehouse.store.delta import NO_CLEAN_UP, DataFile, change_of, commit_to_log
from lakehouse.store.files import LocalStorage
from lakehouse.store.table_definition import TableDefinition, defined_log
from lakehouse.store.table_log import Change, ConflictError, TableLog, entry_path, log_of, newest_versions
from tests.clock import NOON
from tests.examples import examples

SCHEMA = pa.schema([("n", pa.int64()), ("hour", pa.string())])
HOUR = "2026-11-23T05"


class Written:
    """A table that several write to: two of them know its log, which may be old; others know nothing of ours."""

    def __init__(self, uri: str) -> None:
        self.uri, self._numbers = uri, count()
        DeltaTable.create(uri, SCHEMA, partition_by=["hour"])
        self.logs = [log_of(self._table()), self.defined()[0]]

    def defined(self) -> tuple[TableLog, TableDefinition]:
        found = defined_log(self.uri, {})
        assert found is not None
        return found

    def is_as_opened(self) -> bool:
        log, definition = self.defined()
        return definition == TableDefinition.of(self._table()) and log.version == self._table().version()

    def commit(self, writer: int) -> None:
        """Behind what the writer knows; where that does not do, it reads what came and leaves it at that."""
        name = f"{next(self._numbers)}.parquet"
        try:
            entry = commit_to_log(self.logs[writer], self._change(name), lambda version: None)
        except ConflictError:
            self.logs[writer] = self.defined()[0]
        else:
            self.logs[writer] = self.logs[writer].followed_by([entry])

    def follow(self, writer: int) -> None:
        self.logs[writer] = self.logs[writer].followed_by(self.logs[writer].next_entries())

    def open_again(self, writer: int) -> None:
        self.logs[writer] = log_of(self._table())

    def append_as_others_do(self, writer: int) -> None:
        self._append(pa.table({"n": [1], "hour": [HOUR]}))

    def alter(self, writer: int) -> None:
        self._table().alter.set_table_properties({"delta.logRetentionDuration": f"interval {next(self._numbers)} days"})

    def widen(self, writer: int) -> None:
        self._append(pa.table({"n": [1], "hour": [HOUR], f"c{next(self._numbers)}": [1]}))

    def checkpoint(self, writer: int) -> None:
        self._table().create_checkpoint()

    def clean(self, writer: int) -> None:
        """What is older than the newest checkpoint goes, as `maintain` has it."""
        files = LocalStorage(self.uri)
        versions = newest_versions(files)
        files.delete(entry_path(version) for version in range((versions and versions[1]) or 0))

    def _append(self, rows: pa.Table) -> None:
        write_deltalake(self.uri, rows, mode="append", schema_mode="merge", post_commithook_properties=NO_CLEAN_UP)

    def _change(self, name: str) -> Change:
        return change_of([DataFile(name, HOUR, 1, 1, NOON)], (), {})

    def _table(self) -> DeltaTable:
        return DeltaTable(self.uri)


Act = Callable[[Written, int], None]

OURS: list[Act] = [Written.commit] * 4 + [Written.follow, Written.open_again]
ANYBODY_S: list[Act] = [
    *OURS,
    Written.append_as_others_do,
    Written.alter,
    Written.widen,
    Written.checkpoint,
    Written.clean,
]


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ANYBODY_S), st.sampled_from([0, 1])), max_size=25))
def test_a_table_is_what_it_is_to_who_opens_it_whoever_wrote_last(acts: list[tuple[Act, int]]) -> None:
    """A commit says since when nothing changed the table, and is believed: it must never say it of a change."""
    with tempfile.TemporaryDirectory() as folder:
        table = Written(f"{folder}/t")
        for act, writer in acts:
            act(table, writer)
            assert table.is_as_opened(), act.__name__


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of the store from now on."""
    paths: list[str] = []
    real = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, path: paths.append(path) or real(self, path))
    return paths


@pytest.mark.parametrize("commits", [30, 49, 80, 110])
def test_who_opens_a_log_reads_no_entry_for_each_commit(tmp_path: Path, read: list[str], commits: int) -> None:
    """It read all since the checkpoint: up to 49 requests of each restart."""
    table = Written(str(tmp_path / "t"))
    for _ in range(commits):
        table.commit(1)
    read.clear()
    table.defined()
    assert len([path for path in read if path.endswith(".json")]) <= 4


def test_what_an_older_release_has_written_is_read_entry_by_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose commits do not say it; the first of ours does."""
    table = Written(str(tmp_path / "t"))
    for _ in range(20):
        table.append_as_others_do(0)
    table.alter(0)
    for _ in range(20):
        table.append_as_others_do(0)
    assert table.is_as_opened()
    monkeypatch.setattr(table_definition, "open_table", lambda *of: pytest.fail("opened as a whole"))
    assert table.is_as_opened()
