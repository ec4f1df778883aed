"""A sealed hour is exact, the same however it is made, and is made once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_with
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from lakehouse import failpoints, hours
from lakehouse.checksum import checksum_of
from lakehouse.config import Config, Seal
from lakehouse.errors import LakeError, SealError
from lakehouse.operations.audit import audit_hour
from lakehouse.seal import stage
from lakehouse.seal.deliveries import KEPT_ROWS, Room
from lakehouse.seal.stage import app_of, newest_seal, seal_due
from lakehouse.store.bronze_log import segment_of
from lakehouse.store.delta import commit, files_of_hour
from lakehouse.topics import Topic
from tests.lake import FIVE, SEVEN, SIX, Delivery, Lake

EIGHT = "2025-06-01T08"


@pytest.fixture
def lake(topic: Topic, config: Config) -> Lake:
    return Lake(topic, config)


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    failpoints.watch(None)


class Crash(BaseException):
    """The process ends here."""


def crash_at(step: str) -> None:
    def watcher(reached: str) -> None:
        if reached == step:
            failpoints.watch(None)
            raise Crash

    failpoints.watch(watcher)


# --- against ten lines of plain Python -------------------------------------------------------------------------------

Event = tuple[str, datetime]
"""An id and a time."""


def event_of(delivery: Delivery) -> Event:
    return str(delivery.event_id), delivery.event_time


def reference(buckets: Sequence[Sequence[Delivery]], horizon_hours: int) -> list[dict[Event, Delivery]]:
    """What each hour should hold: the earliest delivery of each event that no earlier hour in the horizon has."""
    sealed: list[dict[Event, Delivery]] = []
    for number, bucket in enumerate(buckets):
        start = hours.start_of(hours.after(FIVE, number))
        firsts: dict[Event, Delivery] = {}
        for delivery in sorted(bucket, key=lambda each: (each.publish_time, each.message_id)):
            firsts.setdefault(event_of(delivery), delivery)
        earlier = sealed[max(0, number - horizon_hours) :]
        is_late = {key for key, first in firsts.items() if first.event_time < start and any(key in e for e in earlier)}
        sealed.append({key: first for key, first in firsts.items() if key not in is_late})
    return sealed


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[list[Delivery]], int, int]:
    """Four hours' buckets of few events, each delivered again and again, now and later; files; horizon in hours.

    Events share their ids with others of another time.
    """
    minutes = draw(st.lists(st.integers(-200, 239), min_size=1, max_size=8))
    buckets: list[list[Delivery]] = [[], [], [], []]
    for number, minute in enumerate(minutes):
        own = max(0, minute // 60)
        for _ in range(draw(st.integers(1, 4))):
            bucket = draw(st.integers(own, 3))
            message = draw(st.sampled_from("abc"))
            # One message has one content: what differs between deliveries of an event is reported by both.
            published = draw(st.integers(0, 2))
            value = published * 3 + "abc".index(message)
            buckets[bucket].append(Delivery(f"e{number % 3}", minute, published, message, value))
    return buckets, draw(st.integers(1, 3)), draw(st.integers(1, 4))


@pytest.fixture
def numbered(tmp_path: Path, topic_with: Callable[..., Topic], config: Config) -> Callable[..., Lake]:
    """A new lake at each call, its horizon in hours; other keys of the topic as given."""
    count = 0

    def lake(horizon_hours: int, **changes: Any) -> Lake:
        nonlocal count
        count += 1
        root = str(tmp_path / f"lake-{count}")
        settings = config.settings.model_copy(update={"raw_root": root, "sealed_root": root})
        return Lake(
            topic_with(dedup_horizon=f"{horizon_hours} hours", **changes),
            replace(config, settings=settings),
            row_group_rows=2,
        )

    return lake


def sealed_by(lake: Lake, buckets: Sequence[Sequence[Delivery]], files: int, spark: Any = None) -> list[dict[str, Any]]:
    manifests = []
    for number, bucket in enumerate(buckets):
        hour = hours.after(FIVE, number)
        is_skewed = [each.event_time < hours.start_of(hour) for each in bucket]
        for wanted in (False, True):
            alike = [each for each, skewed in zip(bucket, is_skewed, strict=True) if skewed is wanted]
            if alike:
                lake.deliver(*alike, hour=hour, parts=files)
        manifests.append(lake.seal(hour, spark))
    return manifests


def assert_as_expected(lake: Lake, expected: list[dict[Event, Delivery]]) -> None:
    for number, wanted in enumerate(expected):
        hour = hours.after(FIVE, number)
        rows = lake.sealed(hour)
        assert [(row["event_id"], row["event_time"]) for row in rows] == sorted(wanted)
        assert [(row["n"], row["message_id"], row["publish_time"]) for row in rows] == [
            (wanted[key].value, wanted[key].message_id, wanted[key].publish_time) for key in sorted(wanted)
        ]
        assert [row["event_hour"] for row in rows] == [hours.hour_of(wanted[key].event_time) for key in sorted(wanted)]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["kept in memory", "read again", "by Spark's tasks"])
@given(deliveries())
@given_with(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hours_hold_what_plain_python_says(
    numbered: Callable[[int], Lake],
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    case: tuple[list[list[Delivery]], int, int],
) -> None:
    """Redelivered, republished, late, late and doubled, at equal times: by definition, in ten lines."""
    buckets, files, horizon_hours = case
    lake, expected = numbered(horizon_hours), reference(buckets, horizon_hours)
    is_distributed = way == "by Spark's tasks"
    if is_distributed:
        lake = lake.with_settings(seal=Seal(driver_rows=0))
    room = Room(KEPT_ROWS if way == "kept in memory" else 0)
    monkeypatch.setattr("lakehouse.seal.deliveries._room", room)
    manifests = sealed_by(lake, buckets, files, spark=(lambda: spark) if is_distributed else None)
    assert_as_expected(lake, expected)
    for number, (manifest, wanted, bucket) in enumerate(zip(manifests, expected, buckets, strict=True)):
        start = hours.start_of(hours.after(FIVE, number))
        assert manifest["deliveries"] == len(bucket)
        assert manifest["rows"] == len(wanted)
        assert manifest["duplicates"] == len(bucket) - len({event_of(each) for each in bucket})
        assert manifest["duplicates"] + manifest["late_duplicates"] + manifest["rows"] == len(bucket)
        assert manifest["skewed"] == sum(first.event_time < start for first in wanted.values())
        assert manifest["id_checksum"] == str(checksum_of([event_id for event_id, _ in wanted]))


def test_hours_share_the_room_in_memory_and_give_it_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that failed. Else what an application may keep would grow with its topics, or shrink with its days."""
    room = Room(10)
    monkeypatch.setattr("lakehouse.seal.deliveries._room", room)
    (path,) = lake.deliver(*(Delivery(f"e{number}") for number in range(8)))
    file = Path(lake.folders.bronze, path)
    content = file.read_bytes()
    file.write_bytes(b"no Parquet")
    with pytest.raises(LakeError):
        lake.seal(FIVE)
    assert room.take(10)
    assert not room.take(1)
    room.give_back(10)
    file.write_bytes(content)
    assert lake.seal(FIVE)["rows"] == 8
    assert room.take(10)


def test_spark_s_tasks_seal_the_same(numbered: Callable[[int], Lake], spark: SparkSession) -> None:
    """Large hours are copied by executors; nothing but the place differs."""
    buckets = [
        [Delivery(f"e{number % 40}", number % 40, number % 3, f"m{number}", number) for number in range(100)],
        [Delivery(f"e{number}", number, 70, "late", number) for number in range(30, 90)],
    ]
    here, there = numbered(24), numbered(24).with_settings(seal=Seal(small_rows=0, driver_rows=0))
    sealed_by(here, buckets, files=3)
    sealed_by(there, buckets, files=3, spark=lambda: spark)
    assert_as_expected(there, reference(buckets, 24))
    for hour in (FIVE, SIX):
        assert here.sealed(hour) == there.sealed(hour)


@pytest.mark.parametrize("driver_rows", [0, 1_000], ids=["found by tasks", "copied by tasks"])
def test_a_damaged_file_is_the_same_error_from_a_task(
    numbered: Callable[..., Lake], spark: SparkSession, driver_rows: int
) -> None:
    """It names the file and what to do, whoever came upon it."""
    lake = numbered(24).with_settings(seal=Seal(small_rows=0, driver_rows=driver_rows))
    (path,) = lake.deliver(*(Delivery(f"e{number}", value=number) for number in range(300)))
    file = Path(lake.folders.bronze, path)
    column = "event_id" if driver_rows == 0 else "event.user"
    group = pq.read_metadata(file).row_group(0)
    chunk = next(each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == column)
    content = bytearray(file.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 8] = b"\xff" * 8
    file.write_bytes(bytes(content))
    with pytest.raises(LakeError, match=f"{path}: found a file that cannot be read"):
        lake.seal(FIVE, lambda: spark)


# --- files -----------------------------------------------------------------------------------------------------------


def test_one_bronze_file_is_split_over_several_silver_files(lake: Lake) -> None:
    """An hour in one giant file must not become one task."""
    lake = lake.with_settings(seal=lake.settings.seal.model_copy(update={"target_file_bytes": 1500}))
    lake.row_group_rows = 10
    lake.deliver(*(Delivery(f"e{number:03d}", number % 60, 0, f"m{number}", number) for number in range(95)))
    lake.deliver(*(Delivery(f"e{number:03d}", number % 60, 5, f"n{number}", 0) for number in range(0, 95, 9)))
    manifest = lake.seal()
    assert manifest["files"] > 2
    assert lake.ids() == [f"e{number:03d}" for number in range(95)]
    assert [row["n"] for row in lake.sealed()] == list(range(95))


def test_many_small_files_become_one(lake: Lake) -> None:
    """Files come by epoch and slot, and there are thousands in an hour."""
    for epoch in range(6):
        lake.deliver(*(Delivery(f"e{epoch}-{number}") for number in range(4)), parts=2)
    manifest = lake.seal()
    assert (manifest["rows"], manifest["files"]) == (24, 1)


def test_skewed_rows_stand_in_files_of_their_own(lake: Lake) -> None:
    """So that a later hour reads few files when it looks for its late duplicates."""
    lake.seal(FIVE)
    lake.deliver(Delivery("late", 10), hour=SIX)
    lake.deliver(Delivery("own", 70), hour=SIX)
    manifest = lake.seal(SIX)
    assert (manifest["files"], manifest["skewed"]) == (2, 1)
    files = [Path(lake.folders.silver, file.path) for file in files_of_hour(lake.silver, SIX)]
    assert sorted(pq.ParquetFile(file).read()["event_id"].to_pylist() for file in files) == [["late"], ["own"]]


def test_files_without_rows_are_not_left(lake: Lake) -> None:
    """All that was late was there already; a file that no commit names would look like somebody's doing."""
    lake.deliver(Delivery("e", 10))
    lake.seal(FIVE)
    lake.deliver(Delivery("e", 10, published=60), hour=SIX)
    manifest = lake.seal(SIX)
    assert (manifest["rows"], manifest["late_duplicates"], manifest["files"]) == (0, 1, 0)
    assert files_of_hour(lake.silver, SIX) == []
    assert list(Path(lake.folders.silver, f"hour={SIX}").glob("*")) == []


@pytest.mark.parametrize("is_large", [False, True], ids=["here", "by Spark's tasks"])
def test_an_hour_that_takes_long_says_in_the_log_how_far_it_is(
    numbered: Callable[[int], Lake], spark: SparkSession, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    """A seal of 360 million rows is minutes without a line, which looks like one that hangs."""
    told = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if f"hour={FIVE} state=working step=copy: 2 of 2 rows seconds=" in record.getMessage():
                told.set()

    def wait_at(step: str) -> None:
        assert step != "seal.files_durable" or told.wait(30)

    monkeypatch.setattr(stage, "WORKING_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(failpoints, "reach", wait_at)
    listener = Listener()
    stage.log.setLevel(logging.INFO)
    stage.log.addHandler(listener)
    lake = numbered(24).with_settings(seal=Seal(small_rows=0 if is_large else 50_000))
    try:
        lake.deliver(Delivery("e"), Delivery("f"), Delivery("e"))
        assert lake.seal(FIVE, lambda: spark)["rows"] == 2
    finally:
        stage.log.removeHandler(listener)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("seal ")]


def test_an_empty_hour_is_sealed_without_files(lake: Lake) -> None:
    """Who waits for it must learn that it is over."""
    manifest = lake.seal()
    assert (manifest["rows"], manifest["files"], manifest["id_checksum"]) == (0, 0, "0")
    assert lake.silver.transaction_version(app_of(FIVE)) == 1


def test_rejected_deliveries_are_in_no_hour(lake: Lake) -> None:
    lake.deliver(Delivery("e"))
    lake.deliver(Delivery(None, reject_reason="event time missing"), hour=None)
    assert lake.seal()["deliveries"] == 1


def test_fields_that_the_topic_gained_are_null_in_older_rows(
    lake: Lake, topic_with: Callable[..., Topic], config: Config
) -> None:
    """At any depth: hours closed before a release are sealed after it."""
    lake.deliver(Delivery("before", value=7))
    fields = {
        "user": "string",
        "track": "struct<id: string, ms: int, album: struct<name: string>>",
        "n": "bigint",
        "tags": "array<struct<k: string>>",
    }
    after = Lake(topic_with(fields=fields), config, epoch=lake.epoch)
    after.seal()
    (row,) = after.sealed()
    assert row["track"] == {"id": "t7", "ms": 7, "album": None}
    assert (row["n"], row["tags"]) == (7, None)


def test_members_gained_within_lists_and_maps_are_null(topic_with: Callable[..., Topic]) -> None:
    """The rows of a batch need not be the first of their list."""
    from lakehouse.schemas import sealed_schema, segment_schema
    from lakehouse.seal.copying import sealed_columns

    old = topic_with(fields={"tags": "array<struct<k: string>>", "by": "map<string, struct<k: string>>"})
    new = topic_with(
        fields={"tags": "array<struct<k: string, v: int>>", "by": "map<string, struct<k: string, v: int>>"}
    )
    event = {"tags": [{"k": "a"}, {"k": "b"}], "by": [("x", {"k": "c"})]}
    moment = hours.start_of(FIVE)
    row = {"event": event, "event_id": "e", "event_time": moment, "publish_time": moment, "message_id": "m"}
    rows = [{**row, "event": {"tags": None, "by": None}}, row, row]
    batch = pa.Table.from_pylist(rows, schema=segment_schema(old)).to_batches()[0].slice(1)
    sealed = sealed_columns(batch, sealed_schema(new)).to_pylist()
    assert sealed[0]["tags"] == [{"k": "a", "v": None}, {"k": "b", "v": None}]
    assert sealed[1]["by"] == [("x", {"k": "c", "v": None})]


def test_spark_and_duckdb_read_the_sealed_hour(lake: Lake, spark: SparkSession) -> None:
    """Everything is plain Delta: the id checksum is the same in both."""
    lake.deliver(*(Delivery(f"e{number}", number) for number in range(50)))
    manifest = lake.seal()
    from lakehouse.checksum import sql_for

    frame = spark.read.format("delta").load(lake.folders.silver).where(f"hour = '{FIVE}'")
    count, checksum = frame.selectExpr("count(*)", sql_for("spark")).first() or (0, 0)
    assert (count, str(checksum)) == (50, manifest["id_checksum"])
    assert frame.select("track.ms").where("event_id = 'e7'").first() == (0,)
    files = [str(Path(lake.folders.silver, file.path)) for file in files_of_hour(lake.silver, FIVE)]
    with duckdb.connect() as connection:
        read = connection.execute(f"select count(*), {sql_for('duckdb')} from read_parquet(?)", [files]).fetchone()
    assert read is not None
    assert (read[0], str(read[1])) == (50, manifest["id_checksum"])


# --- late duplicates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("microsecond", [0, 1, 999, 1000, 999_999])
def test_a_late_duplicate_is_found_at_the_very_instant(lake: Lake, microsecond: int) -> None:
    """Delta's bounds are whole milliseconds: a file must not be skipped for a part of one."""

    class Exact(Delivery):
        event_time = property(lambda self: hours.start_of(FIVE) + timedelta(microseconds=microsecond))  # type: ignore[assignment]

    lake.deliver(Exact("e"))
    lake.seal(FIVE)
    lake.deliver(Exact("e", published=90), hour=SIX)
    assert lake.seal(SIX)["late_duplicates"] == 1


@pytest.mark.parametrize(("horizon", "found"), [("3 hours", 1), ("2 hours", 0), ("150 minutes", 1), ("0 hours", 0)])
def test_the_horizon_reaches_back_by_whole_hours(
    topic_with: Callable[..., Topic], config: Config, horizon: str, found: int
) -> None:
    """The hour in which the horizon begins is searched; the one before it is not."""
    lake = Lake(topic_with(dedup_horizon=horizon), config)
    lake.deliver(Delivery("e", 10))
    for hour in (FIVE, SIX, SEVEN):
        lake.seal(hour)
    lake.deliver(Delivery("e", 10, published=200), hour=EIGHT)
    assert lake.seal(EIGHT)["late_duplicates"] == found


def test_duplicates_of_several_earlier_hours_are_found(lake: Lake) -> None:
    for number, hour in enumerate((FIVE, SIX, SEVEN)):
        lake.deliver(Delivery(f"e{number}", 60 * number), hour=hour)
        lake.seal(hour)
    lake.deliver(*(Delivery(f"e{number}", 60 * number, 300) for number in range(3)), hour=EIGHT)
    lake.deliver(Delivery("new", 30, 300), hour=EIGHT)
    manifest = lake.seal(EIGHT)
    assert (manifest["late_duplicates"], lake.ids(EIGHT)) == (3, ["new"])


def test_an_event_skewed_twice_is_delivered_once(lake: Lake) -> None:
    """Its first delivery was late itself: it stands in a later hour than its own, and is found there."""
    lake.seal(FIVE)
    lake.deliver(Delivery("e", 10, 70), hour=SIX)
    assert lake.seal(SIX)["skewed"] == 1
    lake.deliver(Delivery("e", 10, 130), hour=SEVEN)
    assert lake.seal(SEVEN)["late_duplicates"] == 1


def test_a_doubled_late_duplicate_is_counted_once_as_each(lake: Lake) -> None:
    """Two late deliveries of a sealed event: one loses to the other, which loses to the sealed one."""
    lake.deliver(Delivery("e", 10))
    lake.seal(FIVE)
    lake.deliver(Delivery("e", 10, 70), Delivery("e", 10, 71), hour=SIX)
    manifest = lake.seal(SIX)
    assert (manifest["rows"], manifest["duplicates"], manifest["late_duplicates"]) == (0, 1, 1)


# --- what makes an event --------------------------------------------------------------------------------------------


def test_one_id_at_two_times_is_two_events(lake: Lake) -> None:
    """Also in one bucket, where one of them comes late."""
    lake.deliver(Delivery("e", 10))
    lake.deliver(Delivery("e", 10, 1))
    lake.deliver(Delivery("e", -50, 120))
    manifest = lake.seal(FIVE)
    assert (manifest["rows"], manifest["duplicates"]) == (2, 1)
    assert [row["event_hour"] for row in lake.sealed()] == ["2025-06-01T04", FIVE]


@pytest.mark.parametrize("neighbour", [None, -300, 5])
def test_a_late_neighbour_does_not_decide_over_an_event(lake: Lake, neighbour: int | None) -> None:
    """One whose time is far off makes more files be searched; in these the event has to be found by its time, too."""
    lake.deliver(Delivery("e", 10))
    lake.seal(FIVE)
    lake.deliver(Delivery("e", 20, 60), hour=SIX)
    if neighbour is not None:
        lake.deliver(Delivery("neighbour", neighbour, 400), hour=SIX)
    manifest = lake.seal(SIX)
    assert manifest["late_duplicates"] == 0
    assert "e" in lake.ids(SIX)


PUBLICATIONS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 239)), min_size=1, max_size=10)


@pytest.mark.slow
@given(PUBLICATIONS, st.integers(1, 4))
@given_with(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_published_again_over_the_full_hour_is_delivered_once(
    numbered: Callable[..., Lake], publications: list[tuple[str, int]], horizon_hours: int
) -> None:
    """Where the time is that of the publishing, a copy never comes late: it looks like an event of its own hour."""
    lake = numbered(horizon_hours, event_time="publish_time")
    expected: list[set[str]] = []
    for number in range(4):
        bucket = [Delivery(*each, message_id=f"m{each[1]}") for each in publications if each[1] // 60 == number]
        lake.deliver(*bucket, hour=hours.after(FIVE, number))
        known = set().union(*expected[max(0, number - horizon_hours) :])
        expected.append({str(each.event_id) for each in bucket} - known)
        manifest = lake.seal(hours.after(FIVE, number))
        assert lake.ids(hours.after(FIVE, number)) == sorted(expected[-1])
        assert manifest["rows"] + manifest["duplicates"] + manifest["late_duplicates"] == len(bucket)
        assert audit_hour(lake.topic, lake.config, hours.after(FIVE, number)).is_right


# --- once, and in order ----------------------------------------------------------------------------------------------


def test_a_second_seal_changes_nothing(lake: Lake) -> None:
    lake.deliver(Delivery("e"))
    lake.seal()
    version, rows = lake.silver.version(), len(lake.ledger.history().entries)
    assert lake.sealer().seal(FIVE) is None
    assert seal_due(lake.topic, lake.config, run="test") == []
    assert (lake.silver.version(), len(lake.ledger.history().entries)) == (version, rows)


@pytest.mark.parametrize("step", ["seal.files_durable", "seal.committed"])
def test_a_crash_is_made_good_by_the_next_run(lake: Lake, step: str) -> None:
    """Wherever it comes: the commit is the truth, the ledger follows, nothing is doubled."""
    lake.deliver(Delivery("e"), Delivery("e", published=1), Delivery("f"))
    lake.close(FIVE)
    crash_at(step)
    with pytest.raises(Crash):
        lake.sealer().seal(FIVE)
    assert lake.ledger.history().revision(FIVE) == 0
    (entry,) = seal_due(lake.topic, lake.config, run="test")
    assert (entry.details["rows"], lake.ids()) == (2, ["e", "f"])
    assert entry.details["silver_version"] == newest_seal(lake.silver, FIVE)[0]


def test_of_two_sealers_one_commits(lake: Lake) -> None:
    """The other finds the hour sealed by the same bronze version, and nothing is recorded twice."""
    lake.deliver(Delivery("e"), Delivery("f"))
    lake.close(FIVE)
    other = lake.sealer()

    def meanwhile(step: str) -> None:
        if step == "seal.files_durable":
            failpoints.watch(None)
            other.seal(FIVE)

    failpoints.watch(meanwhile)
    assert lake.sealer().seal(FIVE) is None
    assert [entry.state for entry in lake.ledger.history().of_hour(FIVE)] == ["closed", "sealed"]
    assert lake.ids() == ["e", "f"]


def test_another_content_under_the_same_hour_is_an_error(lake: Lake) -> None:
    """Silver says that the hour was sealed from another bronze version than the ledger closed it at."""
    lake.deliver(Delivery("e"))
    lake.close(FIVE)
    counts = {"rows": 0, "files": 0, "id_checksum": "0"}
    metadata = {"kind": "seal", "hour": FIVE, "revision": 1, "bronze_version": 99, **counts}
    commit(lake.silver, [], metadata=metadata, transactions={app_of(FIVE): 1})
    with pytest.raises(SealError, match="from bronze version 99"):
        lake.sealer().seal(FIVE)
    assert lake.ledger.history().revision(FIVE) == 0


def test_hours_are_sealed_in_order(lake: Lake) -> None:
    """A late duplicate is looked for in the hours before, so these must be there."""
    for hour in (FIVE, SIX, SEVEN):
        lake.close(hour)
    with pytest.raises(SealError, match=f"{FIVE} closed and not sealed"):
        lake.sealer().seal(SIX)
    assert [entry.hour for entry in seal_due(lake.topic, lake.config, run="test")] == [FIVE, SIX, SEVEN]


def test_an_open_hour_is_not_sealed(lake: Lake) -> None:
    lake.deliver(Delivery("e"))
    with pytest.raises(SealError, match="not closed"):
        lake.sealer().seal(FIVE)


def test_what_came_after_the_close_is_not_in_it(lake: Lake) -> None:
    """The hour is read at the version at which it closed, whoever wrote what since."""
    lake.deliver(Delivery("e"))
    lake.close(FIVE)
    lake.deliver(Delivery("stray"), hour=FIVE)
    (entry,) = seal_due(lake.topic, lake.config, run="test")
    assert (entry.details["rows"], lake.ids()) == (1, ["e"])


def test_a_lost_bronze_file_is_named(lake: Lake) -> None:
    (path,) = lake.deliver(Delivery("e"))
    Path(lake.folders.bronze, path).unlink()
    lake.close(FIVE)
    with pytest.raises(LakeError, match=segment_of(path)):
        lake.sealer().seal(FIVE)


def test_the_commit_carries_the_manifest(lake: Lake) -> None:
    """The log alone says what was sealed, from what and by which release."""
    lake.deliver(Delivery("e"), Delivery("e"))
    details = lake.seal()
    version, manifest = newest_seal(lake.silver, FIVE)
    said_twice = {key: value for key, value in manifest.items() if key not in ("kind", "hour")}
    assert {**said_twice, "silver_version": version, "seconds": details["seconds"]} == details
    assert manifest["release"] == "test"
    assert (manifest["deliveries"], manifest["duplicates"], manifest["revision"]) == (2, 1, 1)
