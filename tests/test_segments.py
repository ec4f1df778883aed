"""Segments: what one slot pulled, split by hour into files that Delta readers can read, and a manifest."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import Folders, bronze_table, folders_of
from pyspark.sql import SparkSession

from lakehouse import hours
from lakehouse.config import Settings
from lakehouse.landing import segments
from lakehouse.landing.manifests import (
    Manifest,
    SegmentFile,
    _epoch_and_slot,
    listed_manifests,
    manifest_path,
    read_manifest,
)
from lakehouse.landing.segments import SegmentWriter
from lakehouse.schemas import DELIVERED, segment_schema
from lakehouse.store.delta import DataFile, commit
from lakehouse.store.files import Storage, storage_for
from lakehouse.topics import Topic
from tests.clock import NOON

FIVE, SIX = "2026-11-23T05", "2026-11-23T06"


def at(text: str) -> str:
    return f"2026-11-23T{text}:00Z"


def play(played_at: str, number: int = 0, **more: Any) -> bytes:
    event = {"event_id": f"e{number}", "played_at": played_at, "user": "ann", "n": number, **more}
    return json.dumps(event).encode()


def delivered(*payloads: bytes, first: int = 0) -> pa.RecordBatch:
    """Payloads as a page of messages, published at noon."""
    rows = [
        {"message_id": f"m{first + number}", "publish_time": NOON, "attributes": {}, "payload": payload}
        for number, payload in enumerate(payloads)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DELIVERED)


@pytest.fixture
def folders(settings: Settings) -> Folders:
    return folders_of(settings, "plays")


@pytest.fixture
def storage(folders: Folders) -> Storage:
    return storage_for(folders.raw)


@pytest.fixture
def writer(topic: Topic, storage: Storage) -> Callable[..., SegmentWriter]:
    return lambda open_hour=None, epoch=7, slot=1, **sizes: SegmentWriter(
        topic, storage, epoch, slot, open_hour, **sizes
    )


def rows_of(storage: Storage, file: SegmentFile) -> list[dict[str, Any]]:
    with storage.open(f"bronze/{file.path}") as source:
        rows: list[dict[str, Any]] = pq.read_table(source).to_pylist()
    return rows


def described(file: SegmentFile) -> tuple[str, str | None, int]:
    return file.path.partition("/")[0], file.event_hour, file.rows


# --- splitting -----------------------------------------------------------------------------------------------------


def test_each_event_hour_has_its_file(writer: Callable[..., SegmentWriter]) -> None:
    """So that a bucket is a partition value in the log, and nothing in a file."""
    segment = writer(FIVE)
    segment.add(delivered(play(at("05:59")), play(at("06:00")), play(at("05:00"))))
    files = segment.close()
    assert sorted(map(described, files)) == [(FIVE, FIVE, 2), (SIX, SIX, 1)]


def test_events_of_hours_that_have_closed_share_one_file(writer: Callable[..., SegmentWriter]) -> None:
    """They share a bucket; a file for each of many old hours would be a file per event."""
    segment = writer(SIX)
    segment.add(delivered(*(play(f"2026-11-{day:02d}T05:00:00Z") for day in range(1, 20))))
    segment.add(delivered(play(at("05:59")), play(at("06:00"))))
    files = segment.close()
    assert sorted(map(described, files)) == [(SIX, SIX, 1), ("late", "2026-11-01T05", 20)]


def test_before_there_is_an_open_hour_nothing_is_late(topic: Topic, storage: Storage) -> None:
    patient = topic.model_copy(update={"past_tolerance": timedelta(days=30_000)})
    segment = SegmentWriter(patient, storage, 7, 1, None)
    segment.add(delivered(play("1969-12-31T23:59:59Z"), play(at("05:00"))))
    assert sorted(described(file)[0] for file in segment.close()) == ["1969-12-31T23", FIVE]


def test_rejected_messages_have_a_file_apart(writer: Callable[..., SegmentWriter], storage: Storage) -> None:
    segment = writer(FIVE)
    segment.add(delivered(b"not json", play(at("05:00")), play("2027-01-01T00:00:00Z"), b""))
    files = {described(file)[0]: file for file in segment.close()}
    assert described(files["rejected"]) == ("rejected", None, 3)
    assert (files["rejected"].min_event_time, files["rejected"].max_event_time) == (None, None)
    reasons = [row["reject_reason"] for row in rows_of(storage, files["rejected"])]
    assert None not in reasons
    assert "from the future" in reasons
    manifest = segment.manifest((), attempt=0, dry_at=None, full=False)
    assert sum(manifest.reasons.values()) == 3
    assert manifest.reasons["from the future"] == 1


def test_payloads_stay_compressed_as_they_came(topic: Topic, storage: Storage) -> None:
    """Bronze has what the publisher sent, so that a corrected topic can read it again."""
    payloads = [gzip.compress(play(at("05:00"))), gzip.compress(b" " * 2000), b"not gzip"]
    segment = SegmentWriter(
        topic.model_copy(update={"compression": "gzip", "max_decompressed_bytes": 1024}), storage, 7, 1, FIVE
    )
    segment.add(delivered(*payloads))
    rows = {row["position"]: row for file in segment.close() for row in rows_of(storage, file)}
    assert [rows[position]["payload"] for position in range(3)] == payloads
    reasons = [None, "not decompressed: more than 1024 bytes", "not decompressed: not gzip"]
    assert [rows[position]["reject_reason"] for position in range(3)] == reasons


def test_positions_count_the_messages_of_the_segment_in_their_order(
    writer: Callable[..., SegmentWriter], storage: Storage
) -> None:
    """(epoch, slot, position) names a delivery whatever file it is in."""
    segment = writer(SIX)
    segment.add(delivered(play(at("06:00")), b"not json", play(at("05:00"))))
    segment.add(delivered(play(at("07:00")), play(at("06:30")), first=3))
    rows = [row for file in segment.close() for row in rows_of(storage, file)]
    assert sorted(row["position"] for row in rows) == [0, 1, 2, 3, 4]
    assert all(row["message_id"] == f"m{row['position']}" for row in rows)
    assert {(row["epoch"], row["slot"]) for row in rows} == {(7, 1)}


def test_a_file_says_what_it_holds(writer: Callable[..., SegmentWriter], storage: Storage, folders: Folders) -> None:
    segment = writer(FIVE)
    segment.add(delivered(play(at("05:10")), play(at("05:50"))))
    segment.add(delivered(play(at("05:01"))))
    (file,) = segment.close()
    assert (file.min_event_time, file.max_event_time) == (
        datetime(2026, 11, 23, 5, 1, tzinfo=UTC),
        datetime(2026, 11, 23, 5, 50, tzinfo=UTC),
    )
    assert (file.min_publish_time, file.max_publish_time) == (NOON, NOON)
    assert file.size_bytes == Path(folders.bronze, file.path).stat().st_size
    assert file.path == f"{FIVE}/000000000007-0001-{segment.attempt_id[:12]}.parquet"


def test_two_attempts_at_one_slot_never_write_the_same_file(writer: Callable[..., SegmentWriter]) -> None:
    names = set()
    for _ in range(2):
        segment = writer(FIVE)
        segment.add(delivered(play(at("05:10"))))
        names.update(file.path for file in segment.close())
    assert len(names) == 2


def test_a_segment_without_messages_has_no_files(writer: Callable[..., SegmentWriter], storage: Storage) -> None:
    assert writer(FIVE).close() == ()
    assert storage.listing("bronze") == []


def test_full_row_groups_are_written_before_the_end(writer: Callable[..., SegmentWriter], folders: Folders) -> None:
    """What a slot holds in memory is bounded by row groups, not by its file."""
    segment = writer(FIVE, row_group_bytes=10_000)
    for first in range(0, 400, 100):
        segment.add(delivered(*(play(at("05:10"), n) for n in range(first, first + 100)), first=first))
    (file,) = segment.close()
    assert pq.ParquetFile(Path(folders.bronze, file.path)).num_row_groups == 4
    assert file.rows == 400


@pytest.fixture
def most_open(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were open at a time, each time that one was opened."""
    is_open: set[int] = set()
    counts: list[int] = []
    opened, closed = pq.ParquetWriter.__init__, pq.ParquetWriter.close

    def open_(writer: pq.ParquetWriter, *answer: Any, **more: Any) -> None:
        opened(writer, *answer, **more)
        is_open.add(id(writer))
        counts.append(len(is_open))

    def close(writer: pq.ParquetWriter) -> None:
        closed(writer)
        is_open.discard(id(writer))

    monkeypatch.setattr(pq.ParquetWriter, "__init__", open_)
    monkeypatch.setattr(pq.ParquetWriter, "close", close)
    return counts


@pytest.mark.slow
def test_a_replay_of_years_holds_few_files_open_and_no_more_than_its_rows(
    writer: Callable[..., SegmentWriter], storage: Storage, most_open: list[int]
) -> None:
    """Before the topic's first hour is set nothing is late: 2,000 hours are 2,000 files, of one segment."""
    first = datetime(2020, 1, 1, tzinfo=UTC)
    pages = [
        delivered(
            *(play((first + timedelta(hours=hour)).isoformat(), hour) for hour in range(2_000)), first=2_000 * page
        )
        for page in range(8)
    ]
    segment = writer(None, row_group_bytes=1024**2)
    held = [0]
    before = pa.total_allocated_bytes()
    for page in pages:
        segment.add(page)
        held.append(pa.total_allocated_bytes() - before)
    files = segment.close()
    rows_bytes = sum(page.nbytes for page in pages)
    assert most_open
    assert max(most_open) <= 1 + segments._CLOSING
    assert max(held) < 4 * rows_bytes
    assert [described(file) for file in files[::500]] == [
        (hours.hour_of(first + timedelta(hours=hour)), hours.hour_of(first + timedelta(hours=hour)), 8)
        for hour in range(0, 2_000, 500)
    ]
    assert (len(files), len(most_open), sum(file.rows for file in files)) == (2_000, 2_000, 16_000)
    assert {row["message_id"] for row in rows_of(storage, files[1234])} == {f"m{1234 + 2_000 * n}" for n in range(8)}


def test_undeclared_fields_are_counted_by_name(writer: Callable[..., SegmentWriter]) -> None:
    segment = writer(FIVE)
    segment.add(delivered(play(at("05:10"), mood="calm"), play(at("05:10"), mood="blue", place={"city": "Oslo"})))
    segment.close()
    manifest = segment.manifest((), attempt=0, dry_at=None, full=False)
    assert manifest.undeclared["mood"] == 2
    assert sum(manifest.undeclared.values()) == 3


def test_an_abandoned_attempt_leaves_nothing(writer: Callable[..., SegmentWriter], storage: Storage) -> None:
    """Before its files are there, before they are complete, and after."""
    unwritten, unfinished, finished = writer(FIVE), writer(FIVE, row_group_bytes=1), writer(FIVE)
    for segment in (unwritten, finished):
        segment.add(delivered(play(at("05:10")), play(at("06:10")), b"not json"))
    unfinished.add(delivered(play(at("05:10")), play(at("06:10")), b"not json"))
    finished.close()
    assert len(storage.listing("bronze")) == 6
    unwritten.abandon()
    unfinished.abandon()
    finished.abandon()
    assert storage.listing("bronze") == []


# --- what others read ----------------------------------------------------------------------------------------------


def test_the_files_have_bronze_s_columns(writer: Callable[..., SegmentWriter], topic: Topic, folders: Folders) -> None:
    segment = writer(FIVE)
    segment.add(delivered(play(at("05:10"), track={"id": "t", "ms": 5})))
    (file,) = segment.close()
    table = pq.read_table(Path(folders.bronze, file.path), partitioning=None)
    assert table.schema.remove_metadata() == segment_schema(topic)
    assert table.to_pylist()[0]["event"] == {"user": "ann", "track": {"id": "t", "ms": 5}, "n": 0}


def test_spark_reads_the_files_through_the_log(
    writer: Callable[..., SegmentWriter], topic: Topic, folders: Folders, spark: SparkSession
) -> None:
    """The bucket comes from the log alone, the rest from files that Spark has not written."""
    segment = writer(SIX)
    tagged = delivered(play(at("06:10"), 1, track={"id": "t", "ms": 5}), play(at("05:10"), 2), b"not json")
    tagged = tagged.set_column(2, DELIVERED.field("attributes"), pa.array([[("k", "v")]] * 3, DELIVERED.field(2).type))
    segment.add(tagged)
    buckets = {SIX: SIX, "late": SIX, "rejected": None}
    added = [
        DataFile(file.path, buckets[file.path.partition("/")[0]], file.rows, file.size_bytes, NOON)
        for file in segment.close()
    ]
    commit(bronze_table(folders, topic, {}), added, metadata={}, transactions={"ingest": 7})
    bronze = spark.read.format("delta").load(folders.bronze).orderBy("position").collect()
    assert [(row.hour, row.event_id, row.position) for row in bronze] == [
        (SIX, "e1", 0),
        (SIX, "e2", 1),
        (None, None, 2),
    ]
    assert bronze[0].event.track.ms == 5
    assert bronze[0].attributes == {"k": "v"}
    assert bytes(bronze[2].payload) == b"not json"
    assert (bronze[0].event_time.hour, bronze[0].publish_time.hour) == (6, 12)


# --- manifests -----------------------------------------------------------------------------------------------------

MANIFEST = Manifest(
    epoch=7,
    slot=1,
    attempt_id="abc",
    attempt=2,
    written_at=NOON,
    dry_at=NOON,
    full=False,
    files=(
        SegmentFile("late/a.parquet", FIVE, 2, 99, NOON, NOON, NOON, NOON),
        SegmentFile("rejected/a.parquet", None, 1, 98, None, None, NOON, NOON),
    ),
    reasons={"from the future": 1},
    undeclared={"mood": 2},
)


def test_a_manifest_survives_json() -> None:
    assert Manifest.from_json(MANIFEST.as_json()) == MANIFEST


def test_an_empty_manifest_survives_json() -> None:
    """An epoch exists even when it is empty."""
    empty = Manifest(1, 0, "abc", 0, NOON, None, True)
    assert Manifest.from_json(empty.as_json()) == empty


def test_manifests_are_found_by_epoch_and_slot(storage: Storage) -> None:
    for epoch, slot in ((10, 0), (9, 1), (9, 0)):
        storage.put_if_absent(manifest_path(epoch, slot), replace(MANIFEST, epoch=epoch, slot=slot).as_json())
    assert listed_manifests(storage) == [(9, 0), (9, 1), (10, 0)]
    assert read_manifest(storage, 9, 1) == replace(MANIFEST, epoch=9, slot=1)
    assert read_manifest(storage, 9, 2) is None


def test_what_a_crash_left_aside_is_no_manifest(storage: Storage, folders: Folders) -> None:
    storage.put_if_absent(manifest_path(1, 0), MANIFEST.as_json())
    Path(folders.segments, ".000000000002-0000.json.1f2e").write_bytes(b"{")
    assert listed_manifests(storage) == [(1, 0)]


def test_a_manifest_s_path_sorts_and_names_its_slot() -> None:
    assert manifest_path(9, 0) < manifest_path(9, 1) < manifest_path(10, 0)
    assert _epoch_and_slot(manifest_path(123, 45)) == (123, 45)
