"""Ingest: batches of facts become bronze commits that also close hours. Most without Spark, some with all of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.pubsub_v1 import PublisherClient
from pyspark.sql import SparkSession
from recorded import Recorded
from subscribing import (
    SUBSCRIPTION,
    TOPIC,
    create_subscription,
    create_topic,
    delete_subscription,
    subscribed_broker,
)

from lakehouse import failpoints, hours
from lakehouse.config import Config
from lakehouse.crews import Crew
from lakehouse.errors import LakeError, LakehouseError, SourceError, StaleDriverError
from lakehouse.ingest.batch import Batch
from lakehouse.ingest.commits import Outcome
from lakehouse.ingest.facts import Fact
from lakehouse.ingest.frontier import ClockCheck, DrainedFrontier
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.parking import Pace
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing import bundles
from lakehouse.landing.bundles import Bundle, pulled
from lakehouse.landing.manifests import Manifest, listed_manifests, manifest_path
from lakehouse.landing.pull import Puller
from lakehouse.landing.slots import Slot
from lakehouse.landing.source import FactStream
from lakehouse.operations import status
from lakehouse.progress import Frontier
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.faults import Faults
from lakehouse.schemas import FACTS
from lakehouse.spark.partitions import Ended
from lakehouse.store import bronze_log
from lakehouse.store.bronze_log import ingest_commits, newest_state, segment_of
from lakehouse.store.delta import files
from lakehouse.store.files import LocalStorage, Storage
from lakehouse.store.table_log import ConflictError
from lakehouse.topics import Topic
from tests.clock import Clock
from tests.lake import Lake as OneTopic
from tests.pulls import facts_of, land_of
from tests.supervised import ingest_of

NINE, TEN, ELEVEN, TWELVE = (f"2026-11-23T{hour:02d}" for hour in (9, 10, 11, 12))
ACK_DEADLINE = timedelta(seconds=10)
PATIENCE_SECONDS = 100
"""For what is due soon; only a failing test waits this long."""


def at(text: str) -> datetime:
    """`08:30` on the day of these tests."""
    return datetime.fromisoformat(f"2026-11-23T{text}:00+00:00")


class Told:
    """A frontier that the test decides on."""

    def __init__(self, answer: datetime | None) -> None:
        self.at = answer

    def observe(self, facts: Iterable[Any], now: datetime) -> Frontier:
        return Frontier(self.at, self.at, "no sample")


def play(played_at: str, event_id: str = "", **more: Any) -> bytes:
    event = {"event_id": event_id or played_at, "played_at": at(played_at).isoformat(), "n": 1, **more}
    return json.dumps(event).encode()


@pytest.fixture
def frontier() -> Told:
    return Told(None)


@pytest.fixture
def broker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, clock.seconds) as broker:
        yield broker


def publish(*payloads: bytes) -> None:
    publisher = PublisherClient()
    for sent in [publisher.publish(TOPIC, payload) for payload in payloads]:
        sent.result(PATIENCE_SECONDS)
    publisher.stop()
    publisher.transport.close()


@dataclass
class Lake(OneTopic):
    """One topic's lake, and drivers over it as of new processes."""

    frontier: Told = field(default_factory=lambda: Told(None))

    @property
    def storage(self) -> Storage:
        return self.tables.raw.files()

    def with_topic(self, topic: Topic) -> Lake:
        return replace(self, topic=topic, config=replace(self.config, topics={topic.name: topic}))

    def driver(self, run: str = "one", **more: Any) -> TopicIngest:
        driver = TopicIngest(self.topic, self.config, run=run, clock=self.clock, frontier=self.frontier, **more)
        driver.open_topic(ACK_DEADLINE)
        return driver

    def pulled(self, epoch: int, slots: int = 1, *, first_slot: int = 0, **bounds: Any) -> list[Fact]:
        """The facts of an epoch, as the source tells them to a batch."""
        settings = self.config.settings.ingest.model_copy(update=bounds)
        planned = [Slot(epoch, slot, self.state().open_hour) for slot in range(first_slot, first_slot + slots)]
        return facts_of(
            land_of(self.topic, self.folders.raw, settings), planned, Puller(clock=self.clock), self.topic.name
        )

    def state(self) -> Any:
        return newest_state(self.bronze)

    def metadata(self) -> dict[str, Any]:
        """Of the newest commit."""
        return next(ingest_commits(self.bronze))[1]

    def delivered(self) -> dict[str, list[str | None]]:
        """Message ids by bucket, as the log has them."""
        buckets: dict[str, list[str | None]] = {}
        for file in files(self.bronze):
            with self.storage.open(f"bronze/{file.path}") as source:
                for row in pq.read_table(source).to_pylist():
                    buckets.setdefault(row["event_id"] or "-", []).append(file.hour)
        return buckets


@pytest.fixture
def lake(topic: Topic, config: Config, clock: Clock, frontier: Told, broker: Broker) -> Lake:
    return Lake(topic, config, clock=clock, frontier=frontier)


# --- one commit per batch ------------------------------------------------------------------------------------------


def test_a_batch_is_one_commit_of_its_files_in_their_buckets(lake: Lake) -> None:
    driver = lake.driver()
    publish(play("10:10"), play("11:10"), b"not json")
    batch = driver.commit_facts(lake.pulled(1))
    assert (batch.epoch, batch.version, batch.rows) == (1, 1, 3)
    assert lake.bronze.version() == 1
    assert lake.delivered() == {"10:10": [TEN], "11:10": [ELEVEN], "-": [None]}
    assert lake.bronze.transaction_version("ingest") == 1
    assert lake.bronze.transaction_version("open-hour") == hours.ordinal_of(TEN)


def test_the_commit_says_all_that_was_known(lake: Lake) -> None:
    """The log is the heartbeat and the audit trail."""
    lake.frontier.at = at("11:30")
    driver = lake.driver("run-7")
    publish(play("10:10", mood="calm"), play("11:40"), b"not json", play("23:00"))
    facts = lake.pulled(1)
    driver.commit_facts(facts)
    metadata = lake.metadata()
    assert {key: metadata[key] for key in ("release", "run", "epochs", "rows", "rejected", "closed", "adopted")} == {
        "release": "test",
        "run": "run-7",
        "epochs": [1],
        "rows": 4,
        "rejected": 2,
        "closed": [],
        "adopted": [],
    }
    assert metadata["watermark"] == at("10:40").isoformat()
    assert metadata["frontier"] == at("11:30").isoformat()
    assert metadata["segments"] == sorted({segment_of(fact["path"]) for fact in facts})
    assert metadata["undeclared"] == {"mood": 1}
    assert metadata["reasons"]["from the future"] == 1
    assert sum(metadata["reasons"].values()) == 2
    assert metadata["state"]["hours"][TEN]["rows"] == 1
    assert metadata["state"]["slots"] == 1


def test_late_events_go_to_the_first_open_hour(lake: Lake) -> None:
    """Whether the source knew that they are late, or planned before the hour closed."""
    lake.frontier.at = at("12:00")
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    driver.commit_facts(lake.pulled(1))
    assert lake.state().open_hour == ELEVEN
    publish(play("10:20"), play("09:20"))
    driver.commit_facts(lake.pulled(2))
    publish(play("10:30"), play("09:30"))
    unaware = [fact for fact in _planned_without_hint(lake, 3)]
    assert {fact["event_hour"] for fact in unaware} == {NINE, TEN}
    driver.commit_facts(unaware)
    late = {event_id: buckets for event_id, buckets in lake.delivered().items() if event_id < "10:59"}
    assert late == {
        "10:10": [TEN],
        "10:20": [ELEVEN],
        "09:20": [ELEVEN],
        "10:30": [ELEVEN],
        "09:30": [ELEVEN],
    }
    assert lake.state().hours[ELEVEN].rows == 4


def _planned_without_hint(lake: Lake, epoch: int) -> list[Fact]:
    return facts_of(land_of(lake.topic, lake.folders.raw, lake.config.settings.ingest), [Slot(epoch, 0, None)])


def test_a_repeated_batch_changes_nothing(lake: Lake) -> None:
    """Spark repeats a batch whose end it did not record."""
    driver = lake.driver()
    publish(play("10:10"))
    first = driver.commit_facts(lake.pulled(1))
    again = driver.commit_facts(lake.pulled(1))
    afresh = lake.driver("two").commit_facts(lake.pulled(1))
    assert first.version == 1
    assert (again.version, again.rows) == (afresh.version, afresh.rows) == (None, 0)
    assert lake.delivered() == {"10:10": [TEN]}


def test_a_batch_without_rows_and_closes_commits_nothing(lake: Lake) -> None:
    driver = lake.driver()
    version = lake.bronze.version()
    assert driver.commit_facts(lake.pulled(1)).version is None
    assert lake.bronze.version() == version


def test_an_empty_batch_can_close_an_hour(lake: Lake) -> None:
    """What held it may have been the frontier."""
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    assert driver.commit_facts(lake.pulled(1)).closed == ()
    lake.frontier.at = at("12:00")
    batch = driver.commit_facts(lake.pulled(2))
    assert [hour.hour for hour in batch.closed] == [TEN]
    assert (batch.version, batch.rows) == (2, 0)


def test_a_batch_s_own_rows_belong_to_the_hour_that_it_closes(lake: Lake) -> None:
    """A close is valid from the next batch on."""
    lake.frontier.at = at("12:00")
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    batch = driver.commit_facts(lake.pulled(1))
    assert [(hour.hour, hour.rows) for hour in batch.closed] == [(TEN, 1)]
    assert lake.delivered()["10:10"] == [TEN]
    assert TEN not in lake.state().hours


def test_events_from_the_future_do_not_move_the_watermark(lake: Lake) -> None:
    """One event of the year 2100 would close everything."""
    driver = lake.driver()
    publish(play("10:10"), play("12:11"))
    driver.commit_facts(lake.pulled(1))
    assert lake.metadata()["watermark"] == at("09:10").isoformat()
    assert lake.metadata()["reasons"] == {"from the future": 1}


def test_the_watermark_does_not_go_back(lake: Lake) -> None:
    driver = lake.driver()
    publish(play("11:10"))
    driver.commit_facts(lake.pulled(1))
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(2))
    assert lake.metadata()["watermark"] == at("10:10").isoformat()


# --- the first hour ------------------------------------------------------------------------------------------------


def test_earliest_begins_with_the_first_batch_s_oldest_event(lake: Lake) -> None:
    driver = lake.driver()
    assert lake.state().open_hour is None
    publish(b"not json")
    driver.commit_facts(lake.pulled(1))
    assert lake.state().open_hour is None
    publish(play("11:10"), play("10:10"))
    driver.commit_facts(lake.pulled(2))
    assert lake.state().open_hour == TEN


@pytest.mark.parametrize(("first_hour", "opened"), [("now", TWELVE), (ELEVEN, ELEVEN)])
def test_now_or_an_hour_begin_at_the_first_start(
    lake: Lake, topic_with: Callable[..., Topic], first_hour: str, opened: str
) -> None:
    """What is older is skewed into it."""
    lake = lake.with_topic(topic_with(first_hour=first_hour))
    driver = lake.driver()
    assert lake.state().open_hour == opened
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(1))
    assert lake.delivered() == {"10:10": [opened]}


def test_the_first_hour_is_set_once_in_a_topic_s_life(lake: Lake, topic_with: Callable[..., Topic]) -> None:
    lake.with_topic(topic_with(first_hour="now")).driver()
    lake.clock.now = at("15:00")
    lake.with_topic(topic_with(first_hour="now")).driver()
    lake.with_topic(topic_with(first_hour=TEN)).driver()
    assert lake.state().open_hour == TWELVE


# --- the ledger ----------------------------------------------------------------------------------------------------


def test_a_close_is_recorded_with_what_was_measured(lake: Lake) -> None:
    lake.frontier.at = at("12:00")
    driver = lake.driver("run-7")
    publish(play("10:10"), play("12:00"))
    driver.commit_facts(lake.pulled(1))
    row = lake.history().last("closed", TEN)
    assert row is not None
    assert row.by == "ingest/test/run-7"
    details = row.details
    assert (details["why"], details["rows"], details["bronze_version"], details["epoch"]) == ("watermark", 1, 1, 1)
    assert details["watermark"] == at("11:00").isoformat()
    assert details["frontier"] == at("12:00").isoformat()
    assert [condition["condition"] for condition in details["conditions"]] == ["time", "backlog", "quiet"]
    assert "requested_by" not in details


def test_what_was_rejected_is_reported_with_the_next_close_and_once(lake: Lake) -> None:
    """It has no hour of its own; in the sum over all hours each counts once."""
    lake.frontier.at = at("12:00")
    driver = lake.driver()
    publish(play("10:10"), b"not json")
    driver.commit_facts(lake.pulled(1))
    assert lake.state().rejected == 1
    publish(b"nor this", play("12:00"))
    driver.commit_facts(lake.pulled(2))
    assert [row.details["rejected"] for row in lake.history().entries if row.state == "closed"] == [2]
    assert lake.state().rejected == 0


def test_a_requested_close_is_carried_out_and_says_who_asked(lake: Lake) -> None:
    driver = lake.driver()
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(1))
    lake.ledger.record("close_requested", TEN, {"by": "ann", "reason": "the source is gone"})
    batch = driver.commit_facts(lake.pulled(2))
    assert [hour.hour for hour in batch.closed] == [TEN]
    row = lake.history().last("closed", TEN)
    assert row is not None
    assert (row.details["why"], row.details["requested_by"], row.details["request_reason"]) == (
        "request",
        "ann",
        "the source is gone",
    )
    assert driver.commit_facts(lake.pulled(3)).closed == ()


class CrashError(Exception):
    pass


def crash_at(wanted: str) -> Callable[[str], None]:
    def watcher(step: str) -> None:
        if step == wanted:
            raise CrashError(step)

    return watcher


@pytest.fixture
def crash() -> Iterator[Callable[[str], None]]:
    """Makes this process's ingest stop at a step; taken back afterwards."""
    yield lambda step: failpoints.watch(crash_at(step))
    failpoints.watch(None)


def test_closes_that_a_crash_kept_from_the_ledger_are_recorded_at_the_next_start(
    lake: Lake, crash: Callable[[str], None]
) -> None:
    """The log knows them, with the version at which they were valid."""
    lake.frontier.at = at("12:00")
    publish(play("10:10"), play("12:00"))
    driver = lake.driver()
    facts = lake.pulled(1)
    crash("ingest.committed")
    with pytest.raises(CrashError):
        driver.commit_facts(facts)
    failpoints.watch(None)
    assert lake.history().hours() == []
    lake.clock.now = at("12:01")
    lake.driver("two").commit_facts(lake.pulled(1))
    row = lake.history().last("closed", TEN)
    assert row is not None
    assert row.details["bronze_version"] == 1
    assert row.by == "ingest/test/two"
    assert len(lake.history().of_hour(TEN)) == 1


def test_half_recorded_closes_are_completed(lake: Lake, crash: Callable[[str], None]) -> None:
    lake.clock.now, lake.frontier.at = at("14:00"), at("14:00")
    publish(play("10:10"), play("14:00"))
    driver = lake.driver()
    facts = lake.pulled(1)
    crash("ingest.close_recorded")
    with pytest.raises(CrashError):
        driver.commit_facts(facts)
    failpoints.watch(None)
    assert lake.history().hours() == [TEN]
    lake.driver("two")
    assert lake.history().hours() == [TEN, ELEVEN, TWELVE]
    assert [len(lake.history().of_hour(hour)) for hour in (TEN, ELEVEN, TWELVE)] == [1, 1, 1]


def test_an_hour_is_reported_to_be_held_only_when_the_reason_changes(lake: Lake) -> None:
    """Batches come every few seconds. A backlog of which nothing is known is another reason than one that waits."""
    driver = lake.driver()
    publish(play("10:10"))
    for epoch in range(1, 4):
        driver.commit_facts(lake.pulled(epoch))
    publish(play("12:00"))
    driver.commit_facts(lake.pulled(4))
    lake.frontier.at = at("11:30")
    driver.commit_facts(lake.pulled(5))
    lake.frontier.at = at("12:00")
    driver.commit_facts(lake.pulled(6))
    driver.commit_facts(lake.pulled(7))
    held = [entry for entry in lake.history().entries if entry.state == "held"]
    answer = [(each.hour, each.details["reasons"][0]["condition"], each.details.get("problem")) for each in held]
    assert answer == [
        (TEN, "time", "unknown"),
        (TEN, "backlog", "unknown"),
        (TEN, "backlog", None),
        (ELEVEN, "time", None),
    ]
    assert [entry.details["epoch"] for entry in held] == [1, 4, 5, 6]
    assert held[0].details["rows"] == 1
    assert "newest_write" not in held[0].details  # published when the hour was due: late


def test_each_run_leaves_a_row_when_it_starts(lake: Lake) -> None:
    lake.driver("one")
    lake.driver("two")
    started = [entry for entry in lake.history().entries if entry.state == "started"]
    assert [entry.details["run"] for entry in started] == ["one", "two"]
    assert started[0].details["release"] == "test"


# --- two drivers ---------------------------------------------------------------------------------------------------


def test_an_older_run_stops_when_a_newer_one_has_started(lake: Lake) -> None:
    older = lake.driver("one")
    lake.driver("two")
    publish(play("10:10"))
    with pytest.raises(StaleDriverError, match=r"run two on .* to be the newest"):
        older.commit_facts(lake.pulled(1))
    assert lake.delivered() == {}


@pytest.mark.parametrize(("is_asked", "bucket"), [(False, TEN), (True, ELEVEN)])
def test_a_driver_that_commits_second_looks_again(lake: Lake, is_asked: bool, bucket: str) -> None:
    """Between its decision and its commit another one closes the hour: what has a manifest is adopted before, and what
    has none yet is late."""
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    driver.commit_facts(lake.pulled(1))
    frontier = Told(None)
    other = TopicIngest(lake.topic, lake.config, run="one", clock=lake.clock, frontier=frontier)
    other.open_topic(ACK_DEADLINE)
    other.commit_facts(lake.pulled(1))
    frontier.at = at("12:00")
    publish(play("10:20"))
    facts = lake.pulled(2)
    if is_asked:
        lake.storage.delete([manifest_path(2, 0)])
    interrupted = []

    def close_meanwhile(step: str) -> None:
        if step == "ingest.decided" and not interrupted:
            interrupted.append(step)
            other.commit_facts(lake.pulled(3))

    failpoints.watch(close_meanwhile)
    try:
        driver.commit_facts(facts)
    finally:
        failpoints.watch(None)
    assert lake.state().open_hour == ELEVEN
    assert lake.delivered()["10:20"] == [bucket]
    assert lake.state().epoch == 3


def test_a_commit_that_always_meets_a_conflict_is_an_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a batch that never ends: somebody has to look. What was pulled stays in its manifest."""

    def refused(*answer: object) -> int:
        raise ConflictError("Concurrent transaction failed")

    driver = lake.driver()
    publish(play("10:10"))
    facts = lake.pulled(1)
    with monkeypatch.context() as patched:
        patched.setattr(bronze_log, "commit_to", refused)
        with pytest.raises(LakeError, match=r"bronze: found a commit that met 100 conflicts in a row"):
            driver.commit_facts(facts)
    assert lake.driver("two").commit_facts(facts).rows == 1


def test_a_close_that_another_run_did_not_live_to_record_is_recorded_by_this_one(
    lake: Lake, crash: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older run passed its check, commits after the newer one has started and dies: the hour must be sealed."""
    older = lake.driver("one")
    publish(play("10:10"), play("12:00"))
    older.commit_facts(lake.pulled(1))
    newer = lake.driver("two")
    monkeypatch.setattr(Journal, "check_newest", lambda journal: None)
    lake.frontier.at = at("12:00")
    facts = lake.pulled(2)
    crash("ingest.committed")
    with pytest.raises(CrashError):
        older.commit_facts(facts)
    failpoints.watch(None)
    assert lake.history().hours() == []
    lake.clock.now = lake.frontier.at = at("13:00")
    publish(play("13:00"))
    newer.commit_facts(lake.pulled(3))
    assert lake.history().hours() == [TEN, ELEVEN]
    row = lake.history().last("closed", TEN)
    assert row is not None
    assert (row.by, row.details["bronze_version"]) == ("ingest/test/two", 2)


# --- manifests -----------------------------------------------------------------------------------------------------


def test_a_manifest_that_no_commit_took_is_adopted(lake: Lake) -> None:
    """A driver planned two slots for epoch 1 and died; the next planned one."""
    publish(play("10:10"))
    lake.driver("one")
    left_out = lake.pulled(1, first_slot=1)
    driver = lake.driver("two")
    publish(play("10:20"))
    batch = driver.commit_facts(lake.pulled(1))
    assert batch.rows == 2
    assert lake.delivered() == {"10:10": [TEN], "10:20": [TEN]}
    assert lake.metadata()["adopted"] == [segment_of(left_out[0]["path"])]


def test_what_was_left_out_of_an_hour_is_adopted_before_it_closes(lake: Lake) -> None:
    """Of an attempt that was thought dead, between two looks at the manifests: its events are not late."""
    lake.frontier.at = at("12:00")
    driver = lake.driver("one")
    driver.commit_facts(lake.pulled(1))  # a run looks at the manifests in its first batch
    publish(play("10:10"))
    lake.pulled(1, first_slot=1)
    publish(play("10:20"), play("12:00"))
    driver.commit_facts(lake.pulled(2))
    assert lake.state().open_hour == ELEVEN
    assert lake.delivered()["10:10"] == [TEN]


@pytest.mark.parametrize("held_seconds", [0, 2])
def test_no_hour_closes_without_what_a_hung_attempt_holds(
    lake: Lake, broker: Broker, monkeypatch: pytest.MonkeyPatch, held_seconds: int
) -> None:
    """Its store does not answer, so it was given up: what it has leased comes again before a frontier is known."""
    deadline, goes_on, put = timedelta(seconds=1), threading.Event(), LocalStorage.put_if_absent

    def hanging(storage: LocalStorage, path: str, content: bytes) -> bool:
        if path == manifest_path(2, 0):
            assert faults.extended.acquire(timeout=PATIENCE_SECONDS)
            goes_on.wait(PATIENCE_SECONDS)
        return put(storage, path, content)

    def batch(epoch: int) -> None:
        slot = Slot(epoch, 0, lake.state().open_hour, ack_deadline=deadline)
        land = land_of(lake.topic, lake.folders.raw, lake.config.settings.ingest)
        task = Bundle((("plays", slot),), patience=deadline)
        driver.commit_facts(pulled(task, land, Puller(clock=lake.clock)))

    monkeypatch.setattr(LocalStorage, "put_if_absent", hanging)
    monkeypatch.setattr(bundles, "HOLD", timedelta(seconds=held_seconds))
    monkeypatch.setattr(bundles, "LONGEST_HOLD", timedelta(seconds=held_seconds))
    lake.clock.advance(-0.5)  # at noon, what is published until then decides on ten o'clock's hour
    frontier = DrainedFrontier(deadline, timedelta(minutes=5), lake.clock(), ClockCheck(lake.clock.seconds))
    driver = TopicIngest(lake.topic, lake.config, run="one", clock=lake.clock, frontier=frontier)
    driver.open_topic(deadline)
    faults = broker.faults = Recorded()
    for epoch, played_at in enumerate(["10:00", "10:10", "12:00"], 1):
        publish(play(played_at))
        batch(epoch)
    while faults.extended.acquire(blocking=False):
        pass
    extended = []
    for epoch in range(4, 20):
        is_extended = faults.extended.acquire(timeout=deadline.total_seconds())
        lake.clock.advance(0.4 if is_extended else 0.9)  # less than has really passed: it is extended by real time
        batch(epoch)
        if lake.state().open_hour == ELEVEN:
            break
        extended.append(is_extended)
    assert lake.state().open_hour == ELEVEN
    assert any(extended) or not held_seconds
    goes_on.set()
    assert lake.delivered()["10:10"][0] == TEN


def test_adopted_files_go_to_the_then_open_hour(lake: Lake) -> None:
    lake.frontier.at = at("12:00")
    driver = lake.driver("one")
    publish(play("10:20"), play("12:00"))
    driver.commit_facts(lake.pulled(2))
    assert lake.state().open_hour == ELEVEN
    publish(play("10:10"))
    left_out = lake.pulled(1, first_slot=1)
    assert left_out[0]["event_hour"] == TEN
    lake.driver("two").commit_facts(lake.pulled(3))
    assert lake.delivered()["10:10"] == [ELEVEN]


def test_what_was_adopted_is_not_committed_again(lake: Lake) -> None:
    lake.driver()
    publish(play("10:10"))
    facts = lake.pulled(1)
    lake.driver("two").commit_facts(lake.pulled(2))
    assert lake.delivered() == {"10:10": [TEN]}
    assert lake.driver("three").commit_facts(facts).version is None
    assert lake.driver("four").commit_facts(lake.pulled(3)).version is None
    assert lake.delivered() == {"10:10": [TEN]}


def test_manifests_of_epochs_that_can_come_again_are_kept(lake: Lake) -> None:
    """Spark plans the last epoch again, and after a crash in its own log the one before."""
    driver = lake.driver(sweep_every=2)
    for epoch in range(1, 7):
        publish(play("10:10", f"e{epoch}"))
        driver.commit_facts(lake.pulled(epoch))
    assert listed_manifests(lake.storage) == [(5, 0), (6, 0)]
    assert len(lake.delivered()) == 6


def test_files_of_others_among_the_manifests_are_left_alone(lake: Lake) -> None:
    """A note, a copy or an editor's backup in the folder must not stop the topic."""
    driver = lake.driver(sweep_every=2)
    names = ["notes.json", "000000000001-0000.json~", "0001-1.json", "000000000001-0000 (copy).json", ".x.json"]
    names += ["x/y.json", "000000000009-000x.json", "\u0660" * 12 + "-0000.json"]
    for name in names:
        stray = Path(lake.folders.raw, "segments", name)
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_text("{}")
    for epoch in range(1, 4):
        publish(play("10:10", f"e{epoch}"))
        driver.commit_facts(lake.pulled(epoch))
    lake.driver(sweep_every=2)
    assert len(lake.delivered()) == 3
    assert all(Path(lake.folders.raw, "segments", name).exists() for name in names)


def test_no_manifest_is_removed_before_its_files_are_in_the_log(lake: Lake) -> None:
    """Whatever is acknowledged is in the log or in a manifest, at each moment."""
    driver = lake.driver(sweep_every=2)
    for epoch in range(1, 4):
        driver.commit_facts(lake.pulled(epoch))
    publish(play("10:10"))
    lake.pulled(1, first_slot=1)
    driver.commit_facts(lake.pulled(4))
    assert listed_manifests(lake.storage) == [(1, 1)], "slots to which nothing comes have none"
    assert lake.delivered() == {}
    driver.commit_facts(lake.pulled(5))
    assert lake.delivered() == {"10:10": [TEN]}
    driver.commit_facts(lake.pulled(6))
    assert listed_manifests(lake.storage) == []


def test_what_an_idle_topic_has_left_out_is_adopted_within_an_hour(lake: Lake) -> None:
    """It commits nothing that would be counted; and its settled manifests go with that look."""
    driver = lake.driver()
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(1))
    publish(play("10:20"))
    lake.pulled(1, first_slot=1)
    for epoch, minutes in ((2, 1), (3, 30), (4, 28)):
        lake.clock.now += timedelta(minutes=minutes)
        assert driver.look(lake.pulled(epoch)), "nothing asks the store before"
    lake.clock.now += timedelta(minutes=2)
    facts = lake.pulled(5)
    assert not driver.look(facts)
    driver.commit_facts(facts)
    assert lake.delivered() == {"10:10": [TEN], "10:20": [TEN]}
    assert listed_manifests(lake.storage) == []
    assert driver.look(lake.pulled(6))


def test_a_clean_up_that_was_interrupted_is_done_again(lake: Lake, crash: Callable[[str], None]) -> None:
    driver = lake.driver(sweep_every=2)
    for epoch in range(1, 4):
        publish(play("10:10", f"e{epoch}"))
        driver.commit_facts(lake.pulled(epoch))
    crash("ingest.manifests_half_cleared")
    publish(play("10:10", "e4"))
    facts = lake.pulled(4)
    with pytest.raises(CrashError):
        driver.commit_facts(facts)
    failpoints.watch(None)
    assert listed_manifests(lake.storage) == [(2, 0), (3, 0), (4, 0)]
    again = lake.driver("two", sweep_every=2)
    again.commit_facts(lake.pulled(4))
    publish(play("10:10", "e5"))
    again.commit_facts(lake.pulled(5))
    assert listed_manifests(lake.storage) == [(4, 0), (5, 0)]


def test_an_old_epoch_pulled_again_is_another_segment(lake: Lake) -> None:
    """A checkpoint was restored from a copy, and the manifest is long cleared away: what it pulls must not be lost."""
    driver = lake.driver()
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(1))
    publish(play("10:20"))
    driver.commit_facts(lake.pulled(2))
    lake.storage.delete([manifest_path(1, 0)])
    publish(play("10:30"))
    batch = lake.driver("two").commit_facts(lake.pulled(1))
    assert batch.rows == 1
    assert lake.delivered() == {"10:10": [TEN], "10:20": [TEN], "10:30": [TEN]}
    assert lake.state().epoch == 2
    assert lake.bronze.transaction_version("ingest") == 2


# --- finished ------------------------------------------------------------------------------------------------------


def finished(batch: Batch) -> bool:
    return batch.is_finished


def test_a_topic_is_finished_when_it_is_drained_and_waits_for_events_alone(lake: Lake) -> None:
    lake.frontier.at = at("12:00")
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    assert not finished(driver.commit_facts(lake.pulled(1, max_messages=2)))
    assert finished(driver.commit_facts(lake.pulled(2)))


def test_a_topic_whose_frontier_never_comes_is_blocked_and_says_why(lake: Lake) -> None:
    """`--until-dry` waited for it for ever. A frontier that moves may still come: Cloud Monitoring lags."""
    driver = lake.driver()
    publish(play("09:10"), play("11:10"))
    driver.commit_facts(lake.pulled(1))

    def waited(epoch: int, minutes: float) -> Batch:
        lake.clock.now += timedelta(minutes=minutes)
        return driver.commit_facts(lake.pulled(epoch))

    assert [waited(epoch, 2).blocked for epoch in (2, 3)] == [None, None]
    blocked = waited(4, 1.5).blocked
    assert isinstance(blocked, SourceError)
    assert str(blocked).startswith(
        f"topic plays: {NINE}: found for 310 seconds no frontier that lets it close: no sample"
    )
    lake.frontier.at = at("10:30")
    assert waited(5, 1).blocked is None
    assert waited(6, 4).blocked is None
    assert waited(7, 2).blocked is not None
    lake.frontier.at = at("11:00")
    batch = waited(8, 1)
    assert (batch.blocked, [hour.hour for hour in batch.closed]) == (None, [NINE])


def test_an_idle_topic_is_not_finished_while_a_frontier_may_close_its_hours(lake: Lake) -> None:
    """Its events are all old. With one they are delivered; without it the run must not end as if all were well."""
    driver = lake.driver()
    lake.clock.now, lake.frontier.at = at("10:15"), at("10:14")
    publish(play("09:10"))
    assert finished(driver.commit_facts(lake.pulled(1)))
    lake.clock.now, lake.frontier.at = at("11:01"), at("10:59")
    assert not finished(driver.commit_facts(lake.pulled(2)))
    lake.frontier.at = at("11:01")
    assert [hour.hour for hour in driver.commit_facts(lake.pulled(3)).closed] == [NINE]
    assert finished(driver.commit_facts(lake.pulled(4)))


def test_a_topic_is_not_finished_while_an_hour_waits_for_the_frontier(lake: Lake) -> None:
    """A little later it will close."""
    lake.frontier.at = at("11:50")
    driver = lake.driver()
    publish(play("10:10"), play("12:00"))
    driver.commit_facts(lake.pulled(1))
    assert not finished(driver.commit_facts(lake.pulled(2)))


# --- the end of a run ----------------------------------------------------------------------------------------------


def task_of(facts: list[Fact], number: int = 0) -> Ended:
    """What comes of a task that brought these facts."""
    return number, pa.Table.from_pylist(facts, schema=FACTS)


def test_a_topic_that_a_newer_run_has_leaves_the_plan_of_the_older_one(lake: Lake) -> None:
    """For good; the older run's other topics go on."""
    older = lake.driver("one")
    query = IngestQuery([older], lake.config.settings)
    query.add(older)
    lake.driver("two")
    assert query.is_polled("plays")
    query.take([task_of(lake.pulled(1))])
    parked = query.parking.parked["plays"]
    assert isinstance(parked.error, StaleDriverError)
    assert "run two" in str(parked.error)
    assert parked.until is None
    assert not query.is_polled("plays")
    assert older.pulse.state == "taken over"


# --- an epoch, task by task ----------------------------------------------------------------------------------------


@pytest.fixture
def skips(lake: Lake, topic_with: Callable[..., Topic]) -> Lake:
    """Another topic beside that of `lake`."""
    topic = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    create_subscription(topic.subscription)
    return lake.with_topic(topic)


def test_what_a_task_brought_is_committed_while_another_one_is_held_open(lake: Lake, skips: Lake) -> None:
    """An epoch lasts as long as its slowest task, and a topic's commit only as long as its own."""
    query = query_of(lake, lake.driver(), skips.driver())
    publish(play("10:10"))
    mine, others = lake.pulled(1), [{**fact, "topic": "skips"} for fact in skips.pulled(1)]
    held_until = time.monotonic() + PATIENCE_SECONDS

    def tasks() -> Iterator[Ended]:
        yield task_of(mine)
        while not lake.delivered():
            assert time.monotonic() < held_until, "nothing was committed while a task was held open"
            time.sleep(0.01)
        assert not skips.delivered()
        yield task_of(others, 1)

    query.take(tasks())
    assert lake.delivered() == skips.delivered() == {"10:10": [TEN]}


def test_a_topic_of_several_slots_is_committed_when_all_of_them_have_ended(lake: Lake) -> None:
    """In one commit: whether the topic is drained is known only then."""
    query = query_of(lake, lake.driver(), commits=Crew(0, "commit"))
    publish(play("10:10"))
    first = [{**fact, "slots": 2} for fact in lake.pulled(1)]
    publish(play("10:20"))
    second = [{**fact, "slots": 2} for fact in lake.pulled(1, first_slot=1)]

    def tasks() -> Iterator[Ended]:
        yield task_of(first)
        assert not lake.delivered()
        yield task_of(second, 1)

    query.take(tasks())
    assert lake.delivered() == {"10:10": [TEN], "10:20": [TEN]}
    batch = query.topics["plays"].last_batch
    assert batch is not None
    assert batch.version == 1


def test_what_a_task_failed_of_ends_the_batch_when_all_others_are_committed(lake: Lake, skips: Lake) -> None:
    query = query_of(lake, lake.driver(), skips.driver())
    publish(play("10:10"))
    died = RuntimeError("Python worker exited unexpectedly")
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        query.take([(0, died), task_of(lake.pulled(1), 1)])
    assert lake.delivered() == {"10:10": [TEN]}
    assert (query.failure, query.died, query.batches) == (died, {0: died}, 0)


# --- lakes of others -----------------------------------------------------------------------------------------------


def next_epoch(lake: Lake, query: IngestQuery) -> int:
    """One trigger without Spark, from planning to commit; its epoch."""
    stream = FactStream(query.source_options(), Puller(clock=lake.clock))
    start = stream.initialOffset()
    end = stream.latestOffset(start)
    rows = [row for task in stream.partitions(start, end) for batch in stream.read(task) for row in batch.to_pylist()]
    query.take([task_of(rows)])
    return int(end["epoch"])


def query_of(lake: Lake, *ingests: TopicIngest, commits: Crew[str, Outcome] | None = None) -> IngestQuery:
    query = IngestQuery(ingests, lake.config.settings, clock=lake.clock, commits=commits)
    for ingest in ingests:
        query.add(ingest)
    return query


def test_a_lake_of_the_release_before_is_taken_over_without_loss(lake: Lake) -> None:
    """It had a checkpoint for each topic, and a manifest for each slot, also of those to which nothing came."""
    driver = lake.driver("old")
    publish(play("10:10"))
    driver.commit_facts(lake.pulled(5))
    empty = Manifest(6, 0, "a" * 32, 0, lake.clock.now, lake.clock.now, False)
    assert lake.storage.put_if_absent(manifest_path(6, 0), empty.as_json())
    publish(play("10:20"))
    lake.pulled(7)
    checkpoint = Path(lake.folders.raw, "checkpoint", "offsets", "3")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text('v1\n{}\n{"epoch": 7, "slots": 1, "open_hour": null}')
    query = query_of(lake, lake.driver("new"))
    publish(play("10:30"))
    assert next_epoch(lake, query) == 8
    assert lake.delivered() == {"10:10": [TEN], "10:20": [TEN], "10:30": [TEN]}
    assert lake.state().epoch == 8


def test_an_application_goes_on_after_the_last_epoch_of_any_of_its_topics(
    lake: Lake, topic_with: Callable[..., Topic]
) -> None:
    """So a topic comes from another application and goes back, and no epoch of its is used twice."""
    skips = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    create_subscription(skips.subscription)
    other = lake.with_topic(skips)
    mine, ahead = lake.driver("one"), other.driver("one")
    publish(play("10:10"))
    mine.commit_facts(lake.pulled(3))
    ahead.commit_facts([{**fact, "topic": "skips"} for fact in other.pulled(100)])
    both = query_of(lake, lake.driver("two"), other.driver("two"))
    publish(play("10:20"))
    assert next_epoch(lake, both) == 101
    assert (lake.state().epoch, other.state().epoch) == (101, 101)
    alone = query_of(lake, lake.driver("three"))
    publish(play("10:30"))
    assert next_epoch(lake, alone) == 102
    assert sorted(lake.delivered()) == ["10:10", "10:20", "10:30"]


# --- with Spark ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live_broker() -> Iterator[Broker]:
    """By real time. One for all tests: Spark's Python workers are restarted for another environment."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def live(live_broker: Broker, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """Found by Spark's Python workers too; the topic and its subscription are new."""
    monkeypatch.setitem(spark.sparkContext.environment, "PUBSUB_EMULATOR_HOST", live_broker.address)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", live_broker.address)
    create_topic()
    create_subscription()
    yield live_broker
    live_broker.faults = Faults()
    delete_subscription()
    with PublisherClient() as publisher:
        publisher.delete_topic(request={"topic": TOPIC})


def real_play(event_time: datetime, event_id: str) -> bytes:
    return json.dumps({"event_id": event_id, "played_at": event_time.isoformat(), "n": 1}).encode()


def of_config(config: Config) -> list[Lake]:
    return [Lake(topic, config, clock=Clock()) for topic in config.topics.values()]


def test_a_query_runs_until_drained_and_goes_on_where_it_was(config: Config, live: Broker, spark: SparkSession) -> None:
    """From the subscription to bronze and the ledger; then a second run on the same checkpoint."""
    now = datetime.now(UTC)
    long_ago = now - timedelta(hours=5)
    publish(real_play(long_ago, "old"), real_play(now, "new"), b"not json")
    ingest_of(config, spark, "one")[0].run(threading.Event(), until_drained=True)
    (lake,) = of_config(config)
    assert live.unacked(SUBSCRIPTION) == []
    assert {key: len(buckets) for key, buckets in lake.delivered().items()} == {"old": 1, "new": 1, "-": 1}
    assert lake.history().hours()[0] == hours.hour_of(long_ago)
    epoch = lake.state().epoch
    publish(real_play(long_ago, "late"))
    stop = threading.Event()
    watcher = threading.Thread(target=_stop_after, args=(stop, lambda: lake.state().epoch > epoch))
    watcher.start()
    ingest_of(config, spark, "two")[0].run(stop)
    watcher.join()
    assert not spark.streams.active
    assert lake.delivered()["late"] == [lake.history().hours() and hours.after(lake.history().hours()[-1])]
    assert lake.state().epoch > epoch


def test_a_run_that_never_pauses_is_stopped_after_the_batch_under_way(
    config: Config, live: Broker, spark: SparkSession
) -> None:
    """A trigger that is overdue follows at once, as in any backlog: there is no pause to wait for."""
    restless = config.settings.ingest.model_copy(update={"trigger": timedelta(0), "max_messages": 5})
    settings = config.settings.model_copy(update={"ingest": restless})
    publish(*(real_play(datetime.now(UTC), f"e{number}") for number in range(1000)))
    supervisor, _ = ingest_of(replace(config, settings=settings), spark)
    (lake,), stop = of_config(config), threading.Event()
    watcher = threading.Thread(target=_stop_after, args=(stop, lambda: lake.state().epoch >= 3))
    watcher.start()
    supervisor.run(stop)
    watcher.join()
    assert not spark.streams.active
    delivered = len(lake.delivered())
    assert 0 < delivered < 100
    assert len(live.unacked(SUBSCRIPTION)) == 1000 - delivered


def test_tasks_whose_workers_die_are_pulled_again_apart_and_with_care(
    config: Config,
    live: Broker,
    spark: SparkSession,
    topic_with: Callable[..., Topic],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each slot has a job of its own: what it died of is known all the same, and the run goes on."""
    held = tmp_path / "pull.received.held"
    held.with_suffix(".hold").touch()
    monkeypatch.setitem(spark.sparkContext.environment, failpoints.EXECUTORS_VARIABLE, str(tmp_path))
    plays = topic_with(slots={"min": 2, "max": 2})
    publish(*(real_play(datetime.now(UTC), f"e{number}") for number in range(10)))
    supervisor, query = ingest_of(replace(config, topics={"plays": plays}), spark)

    def kill() -> None:
        """The worker that holds, and all others of its daemon."""
        waits_until = time.monotonic() + PATIENCE_SECONDS
        while not held.exists() and time.monotonic() < waits_until:
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # which one that has ended already is, too
                parent = process.parent()
                if parent and "pyspark.daemon" in process.cmdline() and "pyspark.daemon" in parent.cmdline():
                    process.kill()
        held.unlink()

    (lake,) = of_config(config)
    stop = threading.Event()  # not until drained: what the dead had pulled is leased for a while
    threads = [
        threading.Thread(target=kill),
        threading.Thread(target=_stop_after, args=(stop, lambda: len(lake.delivered()) == 10)),
    ]
    for thread in threads:
        thread.start()
    supervisor.run(stop)
    for thread in threads:
        thread.join()
    assert {key: len(buckets) for key, buckets in lake.delivered().items()} == {f"e{n}": 1 for n in range(10)}
    assert query.is_apart("plays")


def _stop_after(stop: threading.Event, is_reached: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_SECONDS * 10):
        if is_reached():
            break
        stop.wait(0.1)
    stop.set()


class _Denied(Faults):
    def refused(self, method: str) -> grpc.StatusCode | None:
        return grpc.StatusCode.PERMISSION_DENIED if method == "Pull" else None


def test_a_topic_without_its_subscription_fails_alone_and_goes_on_when_it_is_there_again(
    config: Config, live: Broker, spark: SparkSession, topic_with: Callable[..., Topic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two topics of one application: the other one delivers meanwhile, and nothing is lost."""
    skips = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    both = replace(config, topics={**config.topics, "skips": skips})
    create_subscription(skips.subscription)
    now = datetime.now(UTC)
    publish(real_play(now, "first"))
    supervisor, _ = ingest_of(both, spark, pace=Pace(first_pause=timedelta(seconds=1)))
    lakes = of_config(both)
    stop = threading.Event()

    def all_that_happens() -> Iterator[Callable[[], bool]]:
        yield lambda: all("first" in lake.delivered() for lake in lakes)
        delete_subscription(skips.subscription)
        publish(real_play(now, "meanwhile"))
        yield lambda: "meanwhile" in lakes[0].delivered()
        yield lambda: status.statuses(both, ["skips"], datetime.now(UTC))[0].state == "failing"
        create_subscription(skips.subscription)
        publish(real_play(now, "after"))
        yield lambda: all("after" in lake.delivered() for lake in lakes)
        yield lambda: status.statuses(both, ["skips"], datetime.now(UTC))[0].state == "ok"

    seen: list[bool] = []
    watcher = threading.Thread(target=_follow, args=(all_that_happens(), seen, stop))
    watcher.start()
    supervisor.run(stop)
    watcher.join()
    delete_subscription(skips.subscription)
    assert seen == [True] * 5
    assert [sorted(lake.delivered()) for lake in lakes] == [["after", "first", "meanwhile"], ["after", "first"]]
    answer = [entry for entry in lakes[1].history().entries if entry.state != "held"]
    assert [entry.state for entry in answer] == ["started", "failed", "recovered", "stopped"]
    assert f"{skips.subscription}: found no such subscription" in answer[1].details["error"]


def _follow(happenings: Iterator[Callable[[], bool]], seen: list[bool], stop: threading.Event) -> None:
    """Each is waited for in its turn; the first that does not come ends it all."""
    try:
        for is_so in happenings:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (answer := is_so()) and time.monotonic() < deadline:
                time.sleep(0.2)
            seen.append(answer)
            if not answer:
                return
    finally:
        stop.set()


def test_an_executor_s_error_reaches_the_operator_in_its_own_words(
    config: Config, live: Broker, spark: SparkSession
) -> None:
    """Not as a page of Java; and the application must end with a failure."""
    live.faults = _Denied()
    with pytest.raises(LakehouseError, match=r"found no permission.*roles/pubsub\.subscriber") as raised:
        ingest_of(config, spark)[0].run(threading.Event())
    assert isinstance(raised.value, SourceError)
    assert "\n" not in str(raised.value)
    assert not spark.streams.active


def test_a_missing_subscription_is_reported_before_the_query_starts(
    config: Config, live: Broker, spark: SparkSession, topic_with: Callable[..., Topic]
) -> None:
    missing = topic_with(subscription="projects/test/subscriptions/skips")
    supervisor, query = ingest_of(replace(config, topics={"plays": missing}), spark)
    assert not query.topics
    with pytest.raises(SourceError, match="found no such subscription"):
        supervisor.run(threading.Event())
