"""Messages and subscriptions that nobody expects: nothing is lost, and what is refused is reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from google.pubsub_v1 import types
from subscribing import SUBSCRIPTION, TOPIC

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.durations import LONGEST
from lakehouse.errors import SourceError
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.slots import Slot
from lakehouse.operations.audit import audit_hour
from lakehouse.operations.maintain import maintain_topic
from lakehouse.operations.status import statuses
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.faults import Faults
from lakehouse.seal.stage import seal_due
from lakehouse.store.delta import files
from lakehouse.topics import Topic
from tests.lake import Lake
from tests.pulls import facts_of, land_of

ACK_DEADLINE = timedelta(seconds=10)
HOUR = hours.hour_of(datetime.now(UTC) - timedelta(hours=3))


def event(event_id: str, minute: int = 10, hour: str = HOUR, **more: Any) -> bytes:
    played_at = hours.start_of(hour) + timedelta(minutes=minute)
    return json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": 1, **more}).encode()


class PulledLake(Lake):
    """With a subscription, and a driver that commits one epoch after the other."""

    def __init__(self, config: Config, broker: Broker) -> None:
        super().__init__(config.topic("plays"), config)
        self.broker = broker
        self.driver = TopicIngest(self.topic, config, run="one")
        self.driver.open_topic(ACK_DEADLINE)

    def call(self, method: str, kind: Any, **values: Any) -> Any:
        return DirectChannel(self.broker).unary_unary(f"/x/{method}")(kind.pb()(**values))

    def subscribe(self) -> None:
        self.call("CreateSubscription", types.Subscription, name=SUBSCRIPTION, topic=TOPIC,
                  enable_message_ordering=True)  # fmt: skip

    def publish(self, *messages: bytes | dict[str, Any]) -> None:
        wired = [{"data": each} if isinstance(each, bytes) else each for each in messages]
        for first in range(0, len(wired), 1000):
            chunk = [types.PubsubMessage.pb()(**each) for each in wired[first : first + 1000]]
            self.call("Publish", types.PublishRequest, topic=TOPIC, messages=chunk)

    def ingest(self) -> None:
        """Epochs until the subscription owes nothing."""
        while self.broker.unacked(SUBSCRIPTION):
            self.ingest_once()

    def ingest_once(self) -> None:
        land = land_of(self.topic, self.folders.raw, self.config.settings.ingest)
        facts = facts_of(land, [Slot(self.epoch + 1, 0, None)])
        self.epoch += 1
        self.driver.commit_facts(facts)

    def bronze_column(self, name: str) -> list[Any]:
        """Of all deliveries: a column alone, as some of these messages are large."""
        paths = [Path(self.folders.bronze, file.path) for file in files(self.bronze)]
        return [each for path in paths for each in pq.ParquetFile(path).read(columns=[name])[name].to_pylist()]

    def close_and_seal(self, hour: str) -> None:
        """As an operator asks for it."""
        self.tables.ledger("ann").record("close_requested", hour, {"by": "ann", "reason": "done"})
        self.ingest_once()
        seal_due(self.topic, self.config, run="one")


@pytest.fixture
def for_ever(config: Config) -> Config:
    """The configuration with each of the topic's durations as long as one can be."""
    spans = {name: LONGEST for name, key in Topic.model_fields.items() if key.annotation is timedelta}
    assert len(spans) == 7
    topic = config.topic("plays").model_copy(update=spans | {"first_hour": "0001-01-01T00"})
    return replace(config, topics={topic.name: topic})


@pytest.fixture
def lake(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[PulledLake]:
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        lake = PulledLake(config, broker)
        lake.call("CreateTopic", types.Topic, name=TOPIC)
        lake.subscribe()
        yield lake


def test_the_largest_message_that_pub_sub_takes_arrives_whole(lake: PulledLake) -> None:
    """10 MB, far above what gRPC lets through by itself."""
    large = event("large", user="x" * (10_000_000 - 200))
    lake.publish(large, event("small"))
    lake.ingest()
    assert sorted(map(len, lake.bronze_column("payload"))) == sorted([len(large), len(event("small"))])
    assert sorted(lake.bronze_column("event_id")) == ["large", "small"]


def test_durations_as_long_as_all_of_time_stop_nothing(for_ever: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of the first year and of now are sealed and audited; a sum that no time can hold ends at the edge."""
    with Broker() as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        lake = PulledLake(for_ever, broker)
        lake.call("CreateTopic", types.Topic, name=TOPIC)
        lake.subscribe()
        lake.publish(event("zero", hour="0001-01-01T00"), event("old", hour="0001-01-01T01"), event("now"))
        lake.ingest()
        lake.publish(event("skewed", hour="0001-01-01T00"), event("now"))
        lake.ingest()
        lake.close_and_seal(HOUR)
    assert [lake.ids(hour) for hour in ("0001-01-01T00", "0001-01-01T01", HOUR)] == [
        ["skewed", "zero"],
        ["old"],
        ["now"],
    ]
    now = datetime.now(UTC)
    assert {removal.kind for removal in maintain_topic(lake.topic, for_ever, now)} <= {"manifest"}
    (status,) = statuses(for_ever, ["plays"], now)
    assert (status.failure, status.open_hour) == (None, hours.after(HOUR))
    assert audit_hour(lake.topic, for_ever, HOUR).is_right


@pytest.mark.parametrize("payload", [b"", b"\x00\xff\xfe" * 40, b"\n\n", b"{}{}", b"[]", b"null"])
def test_a_payload_that_is_no_event_is_kept_as_it_came(lake: PulledLake, payload: bytes) -> None:
    """Beside a good one, which does not suffer from it."""
    lake.publish({"data": payload, "attributes": {"why": "odd"}}, event("good"))
    lake.ingest()
    assert sorted(lake.bronze_column("payload")) == sorted([payload, event("good")])
    assert [reason is None for reason in lake.bronze_column("reject_reason")].count(True) == 1


def test_a_hundred_attributes_are_kept(lake: PulledLake) -> None:
    attributes = {f"key-{number:03d}": "v" * number for number in range(100)}
    lake.publish({"data": event("a"), "attributes": attributes})
    lake.ingest()
    assert [dict(each) for each in lake.bronze_column("attributes")] == [attributes]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_million_tiny_messages_all_arrive(lake: PulledLake) -> None:
    lake.publish(*(event(f"e{number}", number % 60) for number in range(1_000_000)))
    lake.ingest()
    assert len(set(lake.bronze_column("event_id"))) == len(lake.bronze_column("message_id")) == 1_000_000


def test_messages_of_one_ordering_key_all_arrive(lake: PulledLake) -> None:
    """Only one batch of a key is out at a time, so they come in many pulls."""
    ids = [f"e{number:02d}" for number in range(50)]
    lake.publish(*({"data": event(each), "ordering_key": "k"} for each in ids))
    lake.ingest()
    assert sorted(lake.bronze_column("event_id")) == ids


def test_an_event_a_year_late_goes_to_the_first_open_hour(lake: PulledLake) -> None:
    lake.publish(event("now"))
    lake.ingest()
    lake.publish(event("old", hour=hours.after(HOUR, -8760)))
    lake.ingest()
    lake.close_and_seal(HOUR)
    assert lake.ids(HOUR) == ["now", "old"]


def test_an_id_that_repeats_under_another_time_of_its_hour_is_another_event(lake: PulledLake) -> None:
    """An event is its id and its time: nobody can tell a publisher that stamps again from one that reuses ids."""
    lake.publish(event("a", 10), event("a", 50), event("a", 10), event("b"))
    lake.ingest()
    lake.close_and_seal(HOUR)
    assert lake.ids(HOUR) == ["a", "a", "b"]


def test_an_id_that_repeats_under_another_time_in_another_hour_is_in_both(lake: PulledLake) -> None:
    """Each hour has its own, also when one of them is late."""
    later = hours.after(HOUR)
    lake.publish(event("a"), event("a", hour=later), event("b", hour=later), event("b"))
    lake.ingest()
    lake.close_and_seal(HOUR)
    lake.publish(event("a", 55), event("c", 55))
    lake.ingest()
    lake.close_and_seal(later)
    assert lake.ids(HOUR) == ["a", "b"]
    assert lake.ids(later) == ["a", "a", "b", "c"]


class Denied(Faults):
    def refused(self, method: str) -> grpc.StatusCode | None:
        return grpc.StatusCode.PERMISSION_DENIED if method == "Pull" else None


def test_a_permission_that_is_revoked_for_a_while_costs_nothing(lake: PulledLake) -> None:
    lake.publish(event("a"))
    lake.ingest()
    lake.publish(event("b"))
    lake.broker.faults = Denied()
    with pytest.raises(SourceError, match=r"found no permission .*roles/pubsub\.subscriber"):
        lake.ingest_once()
    lake.broker.faults = Faults()
    lake.ingest()
    assert sorted(lake.bronze_column("event_id")) == ["a", "b"]


def test_a_subscription_that_is_deleted_is_reported_and_what_was_read_stays(lake: PulledLake) -> None:
    """What it still owed is gone with it: that is Pub/Sub's, not ours. What comes after its return is read."""
    lake.publish(event("a"))
    lake.ingest()
    lake.call("DeleteSubscription", types.DeleteSubscriptionRequest, subscription=SUBSCRIPTION)
    with pytest.raises(SourceError, match="found no such subscription"):
        lake.ingest_once()
    lake.subscribe()
    lake.publish(event("b"))
    lake.ingest()
    assert sorted(lake.bronze_column("event_id")) == ["a", "b"]


def test_no_file_of_a_refused_pull_is_left(lake: PulledLake) -> None:
    lake.broker.faults = Denied()
    with pytest.raises(SourceError):
        lake.ingest_once()
    assert list(Path(lake.folders.bronze).rglob("*.parquet")) == []
