"""A topic moves from Pub/Sub Lite to Kafka in the middle of a day, by docs/lite.md: nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

pytest.importorskip("confluent_kafka")
pytest.importorskip("google.cloud.pubsublite_v1")

from fake_lite import FakeLite
from kafka_lake import Publisher, kafka_topic
from log_lake import Application, closed, config_of, event
from test_lite import SUBSCRIPTION, TOPIC, lite_topic

from lakehouse import hours
from lakehouse.clock import FILE, Replayed
from lakehouse.config import Settings
from lakehouse.seal.stage import seal_due
from lakehouse.store.records import CloseRequested
from lakehouse.topics import Topic
from tests.servers.together import Servers

pytestmark = [pytest.mark.stores, pytest.mark.timeout(300)]

HOUR, HALF = timedelta(hours=1), 12
OVERLAP = 3
"""Hours of which publishers write to both."""


class Day:
    """The events of 24 hours, each published where and when the test says; and the lake that they go to."""

    def __init__(self, fake: FakeLite, kafka: Publisher, name: str, settings: Settings, folder: Path) -> None:
        self._fake, self._kafka, self._name = fake, kafka, name
        self._settings, self._folder = settings, folder
        Path(settings.raw_root).mkdir(parents=True)
        self._clock = Replayed(Path(settings.raw_root, FILE))
        self.first = datetime(2026, 11, 23, tzinfo=UTC)
        self._clock.set(self.first, "fake")
        fake.clock = self._clock
        more = {"dedup_horizon": "2 days", "lateness": "10 minutes"}
        self.of_lite = lite_topic(fake, **more)
        self.of_kafka = kafka_topic(kafka.bootstrap, name, **more)

    def hour(self, number: int) -> str:
        return hours.hour_of(self.first + number * HOUR)

    def events(self, number: int) -> list[bytes]:
        start = self.first + number * HOUR
        return [event(start + n * timedelta(minutes=6), f"{number:02d}-{n}") for n in range(10)]

    def publish(self, number: int, *, lite: bool = False, kafka: bool = False) -> None:
        """At the end of that hour, which it is from then on."""
        self._clock.set(self.first + number * HOUR + timedelta(minutes=58), "fake")
        at = self._clock()
        for partition, payloads in enumerate((self.events(number)[::2], self.events(number)[1::2])):
            if lite:
                self._fake.publish(TOPIC, *payloads, partition=partition, at=at)
            if kafka:
                self._kafka.publish(self._name, *payloads, partition=partition, at=at)

    def application(self, topic: Topic, run: str) -> Application:
        return Application(topic, config_of(topic, self._folder, self._settings), self._folder, run, self._clock)

    def seal(self, topic: Topic) -> None:
        seal_due(topic, config_of(topic, self._folder, self._settings), run="seal")


@pytest.fixture
def fake() -> Iterator[FakeLite]:
    with FakeLite() as fake:
        fake.create(TOPIC, 2, SUBSCRIPTION)
        yield fake


@pytest.fixture
def day(fake: FakeLite, servers: Servers, settings: Settings, tmp_path: Path) -> Day:
    kafka, name = Publisher(servers.kafka().address), f"plays-{uuid4().hex[:8]}"
    kafka.create(name, 2)
    return Day(fake, kafka, name, settings, tmp_path)


def test_half_of_a_day_by_lite_and_half_by_kafka_is_one_day_with_each_event_once(day: Day) -> None:
    application = day.application(day.of_lite, "lite")
    for number in range(HALF):
        day.publish(number, lite=True, kafka=number >= HALF - OVERLAP)
        application.batch()
        day.seal(day.of_lite)
    reached = application.positions()
    day.publish(HALF, lite=True, kafka=True)  # what Lite has and nobody has read from it

    application = day.application(day.of_kafka, "kafka")
    assert application.positions() == {0: 0, 1: 0} != reached
    for number in range(HALF + 1, 24):
        day.publish(number, kafka=True)
        application.batch()
        day.seal(day.of_kafka)
    ledger = application.tables.ledger("ann")
    ledger.record(CloseRequested(by="ann", reason="the day is over"), day.hour(23))
    application.ingest.remind()
    application.batches(2)
    day.seal(day.of_kafka)

    assert closed(application.history()) == [day.hour(number) for number in range(24)]
    silver = application.tables.silver().to_pyarrow_table().to_pylist()
    found: dict[str, list[str]] = {}
    for row in silver:
        found.setdefault(row["hour"], []).append(row["event_id"])
    assert {hour: sorted(ids) for hour, ids in found.items()} == {
        day.hour(number): [f"{number:02d}-{n}" for n in range(10)] for number in range(24)
    }
    deliveries = Counter(application.ids())
    assert {each for each, count in deliveries.items() if count == 2} == {
        f"{number:02d}-{n}" for number in range(HALF - OVERLAP, HALF) for n in range(10)
    }
    assert "lost" not in application.states()


@pytest.mark.parametrize("is_same_log", [True, False])
def test_another_address_of_the_same_log_changes_no_position_and_another_log_is_read_from_its_start(
    day: Day, fake: FakeLite, is_same_log: bool
) -> None:
    other = SUBSCRIPTION + "-2"
    fake.create("projects/7/locations/europe-west1-b/topics/other", 2)
    fake.subscriptions[other] = type(fake.subscriptions[SUBSCRIPTION])(
        TOPIC if is_same_log else "projects/7/locations/europe-west1-b/topics/other"
    )
    application = day.application(day.of_lite, "one")
    day.publish(0, lite=True)
    application.batch()
    again = day.application(lite_topic(fake, source={"subscription": other}), "two")
    assert again.positions() == (application.positions() if is_same_log else {0: 0, 1: 0})
    day.publish(1, lite=True)
    again.batch()
    assert len(again.ids()) == (20 if is_same_log else 10)
