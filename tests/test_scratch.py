"""What does not fit into a scratch database's memory goes to disk, or is one clear error until there is room."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from lakehouse.errors import LakeError
from lakehouse.schemas import TIMESTAMP
from lakehouse.seal import hashes
from lakehouse.seal.dedup import ADDRESS, VisitRows, duplicates
from lakehouse.store import scratch
from lakehouse.store.parquet import Addresses, Visit
from lakehouse.validate.findings import Finding
from lakehouse.validate.gx import findings_in_scan
from lakehouse.validate.suites import Expectation

ROWS = 800_000
"""Their hashes and addresses are more than the memory of these tests, and what DuckDB holds at least is less."""


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "MEMORY_LIMIT", "16MB")
    monkeypatch.setattr(hashes, "MEMORY_BYTES", 4_000_000)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


Scarcity = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def no_larger_files(folder: Path) -> Iterator[None]:
    """As where a quota ends: a write says so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """A disk of 200 kB: DuckDB asks it for its room and writes no more than that. Skipped where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def no_folder(folder: Path) -> Iterator[None]:
    aside = folder.rename(folder.with_suffix(".aside"))
    yield
    aside.rename(folder)


@pytest.fixture(scope="module")
def rows() -> VisitRows:
    numbers = np.arange(ROWS)
    same = pa.array(np.zeros(ROWS, np.int64))
    texts = pa.array(numbers).cast(pa.string())
    table = pa.table({"event_id": texts, "message_id": texts, "publish_time": same.cast(TIMESTAMP)})

    def visit_rows(columns: list[str], visit: Visit, *, only: Addresses | None = None) -> None:
        assert only is None
        for number, batch in enumerate(table.select(columns).to_batches(max_chunksize=50_000)):
            visit(numbers[number * 50_000 :][: len(batch)], batch)

    return visit_rows


@pytest.mark.parametrize("scarcity", [no_larger_files, no_room, no_folder])
def test_finding_duplicates_without_room_is_one_error_and_goes_on_when_there_is_some(
    scarcity: Scarcity, folder: Path, rows: VisitRows
) -> None:
    with scarcity(folder), pytest.raises(LakeError, match=r"scratch space in .*room there.*tries it again") as refused:
        duplicates(rows, ("event_id",))
    assert "\n" not in str(refused.value)
    assert duplicates(rows, ("event_id",)) == ADDRESS.empty_table()
    assert not list(folder.iterdir()), "nothing is left behind"


@pytest.mark.slow
def test_an_expectation_without_room_has_no_verdict(folder: Path) -> None:
    """It is not one without an answer, which as a critical one would hold its hour for ever."""
    schema = pa.schema([("event_id", pa.string())])
    table = pa.table({"event_id": pa.array(np.arange(ROWS) // 2).cast(pa.string())})
    unique = Expectation("expect_column_values_to_be_unique", {"column": "event_id"})

    def finding(rows: pa.Table) -> Finding:
        (found,), _ = findings_in_scan([unique], schema, lambda columns: rows.select(list(columns)).to_reader())
        return found

    finding(table.slice(0, 1))  # compiled modules are written before files can be no larger
    with no_larger_files(folder), pytest.raises(LakeError, match="scratch space in"):
        finding(table)
    assert finding(table.slice(0, 1_000)).unexpected == 1_000


def test_a_database_has_nothing_of_the_question_before_it() -> None:
    """An idle one serves again, as making one takes longer than most questions; neither rows nor settings stay."""
    for leave in ("create temp table t as select 1", "create table t as select 1", "create view t as select 1"):
        with scratch.scratch_database() as database:
            database.execute(f"{leave}; set threads = 1; set preserve_insertion_order = false")
            database.register("registered", pa.table({"a": [1]}))
        with scratch.scratch_database() as database:
            database.execute("create temp table t as select 2 as two")
            assert database.execute("select two from t").fetchall() == [(2,)]
            with pytest.raises(duckdb.CatalogException):
                database.execute("from registered")
            assert database.execute("select current_setting('preserve_insertion_order')").fetchall() == [(True,)]
            assert database.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_a_database_that_a_question_failed_in_serves_no_other() -> None:
    with pytest.raises(duckdb.BinderException), scratch.scratch_database() as database:
        database.execute("select nothing")
    with scratch.scratch_database() as database:
        assert database.execute("select 1").fetchall() == [(1,)]


LARGE_QUESTION = """
import psutil
from lakehouse.store.scratch import scratch_database

def ask(rows):
    with scratch_database() as database:
        database.execute(f"create temp table ids as select md5(range::varchar) as id, range as n from range({rows})")
        database.sql("select n from ids qualify row_number() over (partition by id order by n) > 1").fetchall()

ask(10)
before = psutil.Process().memory_info().rss
for _ in range(3):
    ask(1_500_000)
print(psutil.Process().memory_info().rss - before)
"""


def test_a_large_question_leaves_no_memory_behind() -> None:
    """An idle database would keep the 180 MB that this one takes, beside whatever comes after it."""
    done = subprocess.run([sys.executable, "-c", LARGE_QUESTION], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50 * 1024**2
