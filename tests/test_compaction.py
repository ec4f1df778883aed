"""Bronze's small files become few once their hour is delivered; which segment brought an event can still be said."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse import failpoints
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.landing.manifests import Manifest, manifest_path
from lakehouse.operations import compaction, maintain
from lakehouse.operations.audit import audit_hour
from lakehouse.operations.compaction import compact_hour, is_compacted
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.removal import Removal
from lakehouse.operations.trace import trace_event
from lakehouse.store.bronze_log import Compactions, newest_state
from lakehouse.store.delta import commit, files, files_of_hour
from lakehouse.store.files import LocalStorage
from lakehouse.store.table_log import TableLog, log_of
from lakehouse.topics import Topic
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake

SOON = datetime.now(UTC) + timedelta(hours=1)


class Death(BaseException):
    """As SIGKILL: nothing cleans up after it."""


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    """FIVE is delivered, of four files, one of them with a skewed event; SIX is open."""
    lake = Lake(topic, config)
    lake.deliver(Delivery("early", -30, 31, "m1"), Delivery("a", 1, 0, "m2"))
    lake.deliver(Delivery("b", 2, 0, "m3"), Delivery("c", 3, 0, "m4"), parts=2)
    lake.deliver(Delivery("a", 1, 5, "m5"))
    lake.deliver(Delivery("open", 61, 0, "m6"), hour=SIX)
    lake.deliver(Delivery("open too", 62, 0, "m7"), hour=SIX)
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    return lake


@pytest.fixture
def watched() -> Iterator[Callable[[Callable[[str], None]], None]]:
    yield failpoints.watch
    failpoints.watch(None)


def run(lake: Lake, now: datetime = SOON, **more: Any) -> list[Removal]:
    return maintain_topic(lake.topic, lake.config, now, **more)


def of_five(lake: Lake) -> list[str]:
    return [file.path for file in files_of_hour(lake.bronze, FIVE)]


def on_disk(lake: Lake) -> set[str]:
    root = Path(lake.folders.bronze)
    return {str(file.relative_to(root)) for file in root.glob("2*/*.parquet")}


def aged(lake: Lake) -> None:
    moment = (datetime.now(UTC) - timedelta(days=3)).timestamp()
    for path in on_disk(lake):
        os.utime(Path(lake.folders.bronze, path), (moment, moment))


def test_a_delivered_hour_s_small_files_become_few(lake: Lake) -> None:
    """Those with skewed events stay apart, and an open hour stays as it is."""
    before, rows, state = of_five(lake), lake.bronze_rows(), newest_state(lake.bronze)
    assert [(removal.kind, removal.hour) for removal in run(lake, dry_run=True)] == [("small files", FIVE)]
    assert of_five(lake) == before
    assert [(removal.kind, removal.hour) for removal in run(lake)] == [("small files", FIVE)]
    assert len(of_five(lake)) == 2
    assert all(map(is_compacted, of_five(lake)))
    assert len(files_of_hour(lake.bronze, SIX)) == 2
    assert lake.bronze_rows() == rows
    assert newest_state(lake.bronze) == state
    assert run(lake) == []


def test_a_dry_run_says_what_a_run_does_where_a_manifest_goes_first(lake: Lake) -> None:
    path = manifest_path(1, 0)
    moment = datetime.now(UTC)
    lake.tables.raw.files().write(path, Manifest(1, 0, "abc", 0, moment, None, False, ()).as_json())
    dry = [(removal.kind, removal.hour) for removal in run(lake, dry_run=True)]
    assert dry == [("manifest", None), ("small files", FIVE)]
    assert [(removal.kind, removal.hour) for removal in run(lake)] == dry


def test_the_files_before_it_stay_for_a_day(lake: Lake) -> None:
    """A query may have begun to read them, and a seal that came a moment before."""
    before = set(of_five(lake))
    aged(lake)
    run(lake)
    run(lake)
    assert before <= on_disk(lake)
    later = datetime.now(UTC) + timedelta(days=2)
    assert {removal.path for removal in run(lake, later)} == {f"bronze/{path}" for path in before}
    assert not before & on_disk(lake)
    assert run(lake, later) == []
    assert len(lake.bronze_rows()) == 7


def test_files_with_skewed_events_stay_for_a_day_too(topic: Topic, config: Config) -> None:
    """They do not lie in their hour's folder, as a slot cannot know which hour will be open."""
    lake = Lake(topic, config)
    lake.deliver(Delivery("a", 1, 0, "m1"))
    for number in (2, 3):
        file = lake.bronze_file([Delivery(f"early {number}", -30, 31, f"m{number}")], FIVE, number)
        late = Path(lake.folders.bronze, "late", Path(file.path).name)
        late.parent.mkdir(exist_ok=True)
        Path(lake.folders.bronze, file.path).rename(late)
        lake.commit([replace(file, path=f"late/{late.name}")])
    lake.seal(FIVE)
    lake.clear(FIVE, "folder")
    for file in Path(lake.folders.bronze).rglob("*.parquet"):
        moment = (SOON - timedelta(days=3)).timestamp()
        os.utime(file, (moment, moment))
    run(lake)
    run(lake)
    assert len(list(Path(lake.folders.bronze, "late").iterdir())) == 2
    run(lake, datetime.now(UTC) + timedelta(days=2))
    assert list(Path(lake.folders.bronze, "late").iterdir()) == []
    assert len(lake.bronze_rows()) == 3


def test_a_new_file_that_is_damaged_ends_no_maintenance_and_nothing_it_may_have_replaced_goes(lake: Lake) -> None:
    aged(lake)
    run(lake)
    before = on_disk(lake)
    Path(lake.folders.bronze, of_five(lake)[0]).write_bytes(b"PAR1")
    assert run(lake) == []
    assert on_disk(lake) == before


def cut(file: Path) -> None:
    file.write_bytes(b"PAR1")


def of_other_rows(file: Path) -> None:
    pq.write_table(pq.read_table(file, partitioning=None).slice(0, 0), file)


@pytest.mark.parametrize("damage", [cut, of_other_rows, Path.unlink])
def test_a_small_file_that_is_damaged_leaves_its_hour_and_ends_no_maintenance(
    lake: Lake, damage: Callable[[Path], None]
) -> None:
    lake.seal(SIX)
    lake.clear(SIX, "folder")
    report = Path(lake.folders.reports, "old.html")
    report.parent.mkdir(parents=True)
    report.write_bytes(b"")
    os.utime(report, (0, 0))
    before = of_five(lake)
    damage(Path(lake.folders.bronze, before[0]))
    assert [(removal.kind, removal.hour) for removal in run(lake)] == [("small files", SIX), ("report", None)]
    assert of_five(lake) == before
    assert {path for path in on_disk(lake) if is_compacted(path)} == {
        file.path for file in files_of_hour(lake.bronze, SIX)
    }


def test_no_commit_of_others_takes_it_for_new_data(lake: Lake, spark: Any) -> None:
    """Who streams from bronze must not get each event twice."""
    rows = spark.read.format("delta").load(lake.folders.bronze).count()
    before = lake.bronze.version()
    run(lake)
    assert spark.read.format("delta").load(lake.folders.bronze).count() == rows
    reader = spark.readStream.format("delta").option("startingVersion", before + 1).load(lake.folders.bronze)
    query = reader.writeStream.format("memory").queryName("changes").trigger(availableNow=True).start()
    query.awaitTermination(120)
    assert spark.sql("select * from changes").count() == 0


def test_trace_and_audit_still_say_what_an_event_came_in(lake: Lake) -> None:
    then = datetime.now(UTC)

    def said(as_of: datetime | None = None) -> tuple[Any, ...]:
        trace = trace_event(lake.topic, lake.config, "a", as_of)
        deliveries = [(each.segment, each.position, each.written_at, each.batch.get("bronze_version"), each.outcome)
                      for each in trace.deliveries]  # fmt: skip
        audit = audit_hour(lake.topic, lake.config, FIVE, as_of)
        return (
            deliveries,
            audit.is_right,
            audit.rows,
            audit.counts,
            sorted(row.event_id or "" for row in audit.explained),
        )

    before = said()
    assert before[0][0][0] == "000000000001-0000-abc"
    run(lake)
    assert said() == before
    aged(lake)
    run(lake, datetime.now(UTC) + timedelta(days=2))
    assert said() == before
    assert said(then) == before


@pytest.mark.parametrize("step", failpoints.CARE_STEPS)
def test_a_crash_at_any_step_loses_nothing_and_leaves_nothing(
    lake: Lake, step: str, watched: Callable[[Callable[[str], None]], None]
) -> None:
    rows, before = lake.bronze_rows(), set(of_five(lake))

    def die(reached: str) -> None:
        if reached == step:
            raise Death

    watched(die)
    kept = {path: Path(lake.folders.bronze, path).read_bytes() for path in on_disk(lake)}
    with pytest.raises(Death):
        run(lake)
    watched(None)  # type: ignore[arg-type]
    assert kept.keys() <= on_disk(lake)
    assert lake.bronze_rows() == rows
    run(lake)
    assert lake.bronze_rows() == rows
    assert len(of_five(lake)) == 2
    aged(lake)
    run(lake, datetime.now(UTC) + timedelta(days=2))
    assert on_disk(lake) == {file.path for file in files(lake.bronze)}
    assert not before & on_disk(lake)


def test_a_batch_that_commits_meanwhile_is_no_obstacle(lake: Lake, watched: Callable[..., None]) -> None:
    """Each carries the state on from the other: no file and no hour is lost."""
    rows = len(lake.bronze_rows())

    def deliver(step: str) -> None:
        failpoints.watch(None)
        lake.deliver(Delivery("meanwhile", 63), hour=SIX)

    watched(deliver)
    run(lake)
    assert len(of_five(lake)) == 2
    assert len(lake.bronze_rows()) == rows + 1
    assert newest_state(lake.bronze).epoch == lake.epoch


def test_an_hour_that_an_erasure_changes_meanwhile_is_left_for_the_next_time(
    lake: Lake, watched: Callable[..., None]
) -> None:
    """Its rows would come back."""
    (gone, *_) = files_of_hour(lake.bronze, FIVE)

    def erase(step: str) -> None:
        failpoints.watch(None)
        commit(lake.bronze, [], metadata={"kind": "erase"}, transactions={"erase": 1}, removed=[gone])

    bronze = lake.bronze
    watched(erase)
    assert compact_hour(lake.tables, Compactions(log_of(bronze)), FIVE, files_of_hour(bronze, FIVE)) is None
    assert len(of_five(lake)) == 3
    assert not any(map(is_compacted, on_disk(lake)))


def test_what_cannot_be_read_to_its_end_leaves_no_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An erasure removes the small files meanwhile: what is written by then holds what it has erased."""
    before, cut = on_disk(lake), compaction._row_groups

    def interrupted(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        yield from cut([next(iter(parts))])
        raise LakeError("a file", found="no such file", expected="the file that the log names", next_step="Wait.")

    monkeypatch.setattr(compaction, "_row_groups", interrupted)
    with pytest.raises(LakeError, match="no such file"):
        compact_hour(lake.tables, Compactions(log_of(lake.bronze)), FIVE, files_of_hour(lake.bronze, FIVE))
    assert on_disk(lake) == before


def test_what_failed_is_named_also_where_nothing_can_be_removed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which file is damaged has to be known; what is left `maintain` removes a day later. The other hours go on."""
    lake.seal(SIX)
    lake.clear(SIX, "folder")
    (early, *_) = before = of_five(lake)
    read = compaction.pq.ParquetFile.read

    def damaged(file: pq.ParquetFile, **more: Any) -> pa.Table:
        rows = read(file, **more)
        if "event_id" in rows.column_names and "early" in rows["event_id"].to_pylist():
            raise LakeError(path, found="a file that cannot be read", expected="its rows", next_step="Restore it.")
        return rows

    def refused(storage: LocalStorage, paths: Iterable[str]) -> None:
        if any(map(is_compacted, paths)):
            raise LakeError("bronze", found="no permission", expected="a store that takes removals", next_step="Grant.")

    path = lake.tables.raw.files().address(f"bronze/{early}")
    monkeypatch.setattr(compaction.pq.ParquetFile, "read", damaged)
    monkeypatch.setattr(LocalStorage, "delete", refused)
    with pytest.raises(LakeError, match="a file that cannot be read"):
        compact_hour(lake.tables, Compactions(log_of(lake.bronze)), FIVE, files_of_hour(lake.bronze, FIVE))
    assert [(removal.kind, removal.hour) for removal in run(lake)] == [("small files", SIX)]
    assert of_five(lake) == before


@pytest.mark.parametrize("hours_before", [0, 1], ids=["before any of its hours", "after the first"])
def test_an_hour_is_left_that_an_erasure_changed_while_others_were_compacted(lake: Lake, hours_before: int) -> None:
    compactions = Compactions(log_of(lake.bronze))
    of_six = files_of_hour(lake.bronze, SIX)

    def compacted() -> None:
        assert compact_hour(lake.tables, compactions, FIVE, files_of_hour(lake.bronze, FIVE))

    def erased() -> None:
        commit(lake.bronze, [], metadata={"kind": "erase"}, transactions={"erase": 1}, removed=of_six[:1])

    for step in (compacted, erased) if hours_before else (erased, compacted):
        step()
    assert compact_hour(lake.tables, compactions, SIX, of_six) is None
    assert [file.path for file in files_of_hour(lake.bronze, SIX)] == [of_six[1].path]


def test_compacting_many_hours_reads_each_entry_of_the_log_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    compactions = Compactions(log_of(lake.bronze))
    lake.deliver(Delivery("late", 125, 0, "m8"), hour=SEVEN)
    small = {hour: files_of_hour(lake.bronze, hour) for hour in (FIVE, SIX)}
    found, entry = [], TableLog.entry

    def noted(log: TableLog, version: int) -> Any:
        if read := entry(log, version):
            found.append(version)
        return read

    monkeypatch.setattr(TableLog, "entry", noted)
    for hour, its in small.items():
        assert compact_hour(lake.tables, compactions, hour, its)
    assert len(found) == len(set(found)) == 2
    monkeypatch.undo()
    assert newest_state(lake.bronze).epoch == lake.epoch


def test_segments_that_a_manifest_still_names_stay_as_they_are(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log is cut, only the names of the table's files say that a manifest is committed."""
    monkeypatch.setattr(maintain, "listed_manifests", lambda storage: [(2, 1)])
    before = of_five(lake)
    assert run(lake) == []
    assert of_five(lake) == before


def test_a_commit_whose_answer_is_lost_keeps_its_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table may name them, whatever the caller was told."""
    rows = lake.bronze_rows()

    committed = Compactions.commit

    def unanswered(*arguments: Any) -> None:
        committed(*arguments)
        raise LakeError("bronze", found="no answer", expected="a store that answers", next_step="Wait.")

    monkeypatch.setattr(Compactions, "commit", unanswered)
    with pytest.raises(LakeError, match="no answer"):
        compact_hour(lake.tables, Compactions(log_of(lake.bronze)), FIVE, files_of_hour(lake.bronze, FIVE))
    assert any(map(is_compacted, of_five(lake)))
    assert lake.bronze_rows() == rows
