"""Ingest from a real Kafka broker: every message once, whatever ends, moves or is missing in between."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytest.importorskip("confluent_kafka")

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from kafka_lake import Publisher, kafka_topic
from log_lake import (
    PATIENCE_SECONDS,
    Application,
    Query,
    accept_loss,
    closed,
    config_of,
    event,
    go_on,
    hour_long_over,
    numbered,
    parked,
    starter,
    until,
)

from lakehouse.concealed import HIDDEN, without_secrets
from lakehouse.config import Config, Settings
from lakehouse.errors import LostMessagesError, SourceError, UnansweredError
from lakehouse.ingest.journal import Journal
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.brokers import kafka as brokers_kafka
from lakehouse.landing.manifests import listed_manifests
from lakehouse.store.records import LossAccepted, Lost
from lakehouse.topics import Slots, Topic
from tests.servers.kafka import PASSWORD, USER, Kafka
from tests.servers.together import Servers

pytestmark = [pytest.mark.stores, pytest.mark.timeout(300)]

HOUR = timedelta(hours=1)


@pytest.fixture
def kafka(servers: Servers) -> Kafka:
    return servers.kafka()


@pytest.fixture
def publisher(kafka: Kafka) -> Publisher:
    return Publisher(kafka.address)


@pytest.fixture
def name() -> str:
    """Of a topic of this test's own."""
    return f"plays-{uuid4().hex[:8]}"


@pytest.fixture
def first() -> datetime:
    return hour_long_over()


@pytest.fixture
def config(settings: Settings, kafka: Kafka, name: str, tmp_path: Path) -> Config:
    return config_of(kafka_topic(kafka.address, name), tmp_path, settings)


@pytest.fixture
def started(config: Config, tmp_path: Path) -> Callable[..., Application]:
    return starter(config, tmp_path)


# --- the whole way -------------------------------------------------------------------------------------------------


def test_hours_land_whole_through_restarts_a_lost_checkpoint_transactions_and_holes(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """Three hours on two partitions. Each delivery is in bronze once, and each hour closes by the exact frontier."""
    publisher.create(name, 2, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms="100",
                     max_compaction_lag_ms="100", delete_retention_ms="100")  # fmt: skip
    transactional = Publisher(kafka.address, transactional=name)
    application = started()
    assert application.positions() == {0: 0, 1: 0}

    for n in range(10):  # all but the last of a key may be compacted away
        publisher.publish(name, event(first, f"compacted{n}"), key=b"same", at=first)
    transactional.producer.begin_transaction()
    transactional.publish(name, event(first + timedelta(minutes=1), "kept0"), partition=1, at=first, key=b"a")
    transactional.producer.commit_transaction(PATIENCE_SECONDS)
    transactional.producer.begin_transaction()
    transactional.publish(name, event(first + timedelta(minutes=1), "aborted"), partition=1, at=first, key=b"b")
    transactional.flush()
    transactional.producer.abort_transaction(PATIENCE_SECONDS)
    application.batch()
    assert {"compacted9", "kept0"} <= set(application.ids())
    assert "aborted" not in application.ids()
    assert application.positions()[1] == 4  # two messages and two markers

    kafka.end()
    kafka.start()
    publisher.publish(name, *(event(first + HOUR, f"second{n}") for n in range(5)), at=first + HOUR, key=b"c")
    until(lambda: bool(application.batch()) and "second4" in application.ids())

    again = started("two")  # a new process without a checkpoint, and without the old one's memory
    publisher.publish(name, *(event(first + 2 * HOUR, f"third{n}") for n in range(5)), at=first + 2 * HOUR,
                      partition=1, key=b"d")  # fmt: skip
    again.batches(3)
    ids = [each for each in again.ids() if not each.startswith("compacted")]
    assert ids == ["kept0", *numbered("second", range(5)), *numbered("third", range(5))]
    assert closed(again.history())[:3] == [f"{first + n * HOUR:%Y-%m-%dT%H}" for n in range(3)]
    assert again.ingest.last_batch is not None
    assert again.ingest.last_batch.frontier is not None


def test_what_compaction_has_removed_ends_no_reading(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """A range ends by its position: the offsets in it may be few."""
    publisher.create(name, 1, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms="100",
                     max_compaction_lag_ms="200")  # fmt: skip
    for n in range(50):
        publisher.publish(name, event(first, f"e{n}"), key=b"same")  # a segment ends by its messages' times
        if n % 10 == 0:
            time.sleep(0.15)  # so that there are segments to be compacted
    publisher.publish(name, event(first, "last"), key=b"other")

    def count() -> int:
        consumer = Consumer({"bootstrap.servers": publisher.bootstrap, "group.id": name, "enable.partition.eof": True})
        consumer.assign([TopicPartition(name, 0, 0)])
        messages = consumer.consume(100, 2.0)
        consumer.close()
        return sum(message.error() is None for message in messages)

    until(lambda: count() < 51)
    application = started()
    application.batch()
    assert application.positions() == {0: 51}
    assert len(application.ids()) < 51
    assert application.ids()[-1] == "last"


def test_messages_of_a_transaction_under_way_come_when_it_ends_and_hold_the_frontier(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """They were published before the frontier would say that everything is there."""
    publisher.create(name)
    transactional = Publisher(kafka.address, transactional=name)
    application = started()
    application.batch()
    known = application.ingest.last_batch
    assert known is not None
    assert known.frontier is not None
    transactional.producer.begin_transaction()
    transactional.publish(name, event(first, "open"), at=first)
    transactional.flush()
    application.batches(2)
    held = application.ingest.last_batch
    assert held is not None
    assert held.frontier == known.frontier
    transactional.producer.commit_transaction(PATIENCE_SECONDS)
    until(lambda: bool(application.batch()) and application.tables.bronze().version() > 1)
    assert application.ids() == ["open"]
    application.batch()
    after = application.ingest.last_batch
    assert after is not None
    assert after.frontier is not None
    assert after.frontier > known.frontier


def test_partitions_added_later_are_read_from_their_begin(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name)
    application = started()
    publisher.publish(name, event(first, "a"), at=first)
    application.batch()
    publisher.widen(name, 3)
    Publisher(publisher.bootstrap).publish(name, event(first, "b"), at=first, partition=2)
    until(lambda: bool(application.batch()) and "b" in application.ids())
    assert application.positions() == {0: 1, 1: 0, 2: 1}


def test_slots_share_the_partitions(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name, 5)
    application = started(slots=Slots(min=2, max=2))
    for partition in range(5):
        publisher.publish(name, event(first, f"p{partition}"), at=first, partition=partition)
    facts = application.batch()
    assert {fact["slot"] for fact in facts} == {0, 1}
    assert application.ids() == numbered("p", range(5))
    assert application.positions() == dict.fromkeys(range(5), 1)


def test_ranges_of_one_partition_are_read_side_by_side_while_it_is_far_behind(
    publisher: Publisher, name: str, first: datetime, config: Config, tmp_path: Path
) -> None:
    """Each offset once, also where a range ends early: what those after it have read is left, and read again."""
    publisher.create(name)
    ids = [f"e{n:04d}" for n in range(1000)]
    publisher.publish(name, *(event(first, each) for each in ids), at=first)
    topic = config.topics["plays"].model_copy(update={"slots": Slots(min=4, max=4)})
    ingest = config.settings.ingest.model_copy(update={"max_messages": 100})
    settings = config.settings.model_copy(update={"ingest": ingest})
    application = Application(topic, config_of(topic, tmp_path, settings), tmp_path)
    ends = []
    for _ in range(2):
        application.batch()
        ends.append(application.positions()[0])
    assert ends == [400, 800]
    application.stream._ingest = application.stream._ingest.model_copy(update={"max_messages": 30})
    application.batch()
    assert application.positions() == {0: 830}
    for _ in range(3):
        application.batch()
    assert application.positions() == {0: 1000}
    assert application.ids() == ids
    assert Counter(application.bronze().column("message_id").to_pylist()) == {f"0:{n}": 1 for n in range(1000)}


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_message_has_its_place_its_headers_its_key_and_the_client_s_time(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """What is no UTF-8 is in base64, and named so; a time that is still to come is when it was read."""
    publisher.create(name, 2, message_timestamp_after_max_ms=str(2**63 - 1))
    headers = [("source", b"web"), ("raw", b"\xff"), ("twice", b"1"), ("twice", b"2"), ("none", None)]
    publisher.publish(name, event(first, "a"), at=first, partition=1, headers=headers, key="käy".encode())
    publisher.publish(name, event(first, "b"), at=datetime(2100, 1, 1, tzinfo=UTC), key=b"\xfe")
    publisher.publish(name, None, at=first)
    application = started()
    application.batch()
    rows = {row["message_id"]: row for row in application.bronze().to_pylist()}
    assert set(rows) == {"1:0", "0:0", "0:1"}
    attributes = {"source": "web", "raw.base64": "/w==", "twice#1": "1", "twice": "2", "none": ""}
    assert dict(rows["1:0"]["attributes"]) == attributes
    assert (rows["1:0"]["ordering_key"], rows["1:0"]["publish_time"]) == ("käy", first)
    assert (rows["0:0"]["ordering_key"], dict(rows["0:0"]["attributes"])) == (None, {"kafka.key.base64": "/g=="})
    assert rows["0:0"]["publish_time"] <= datetime.now(UTC)
    assert rows["0:1"]["reject_reason"] is not None


def test_a_topic_that_keeps_the_broker_s_time_is_taken_by_its_word(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name, message_timestamp_type="LogAppendTime")
    publisher.publish(name, event(first, "a"), at=first)
    application = started()
    application.batch()
    (row,) = application.bronze().to_pylist()
    assert datetime.now(UTC) - row["publish_time"] < timedelta(minutes=1)


def test_a_query_of_one_s_own_has_each_message_once_and_the_same_again_when_it_is_planned_again(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, tmp_path: Path
) -> None:
    publisher.create(name, 2)
    topic = kafka_topic(kafka.address, name, slots={"min": 2, "max": 2})
    publisher.publish(name, event(first, "a"), event(first, "b"), at=first)
    query = Query(topic, tmp_path)
    assert query.batch() == ["0:0", "0:1"]
    begin = query.offset
    publisher.publish(name, event(first, "c"), at=first, partition=1)
    assert query.batch() == ["1:0"]
    query.stream.commit(begin)
    publisher.publish(name, event(first, "d"), at=first)
    again = Query(topic, tmp_path, begin)
    assert again.rows(begin, query.offset) == ["1:0"]
    again.offset = query.offset
    assert again.batch() == ["0:2"]


# --- exactly once --------------------------------------------------------------------------------------------------


def test_segments_that_no_commit_took_are_adopted_once_and_never_beside_another_of_their_messages(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """A driver dies between its segments and their commit. Its successor's own reading of the same range is dropped."""
    publisher.create(name)
    dying = started()
    publisher.publish(name, *(event(first, f"a{n}") for n in range(3)), at=first)
    offset = dying.stream.latestOffset()
    for partition in dying.stream.partitions({}, offset):
        list(dying.stream.read(partition))
    assert len(listed_manifests(dying.tables.raw.files())) == 1
    publisher.publish(name, event(first, "b"), at=first)
    application = started("two")
    application.batches(3)
    assert application.ids() == ["a0", "a1", "a2", "b"]
    assert application.positions() == {0: 4}


def test_an_epoch_that_is_planned_again_is_the_same(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name)
    application = started()
    publisher.publish(name, event(first, "a"), at=first)
    offset = application.stream.latestOffset()
    (partition,) = application.stream.partitions({}, offset)
    before = [batch.to_pylist() for batch in application.stream.read(partition)]
    publisher.publish(name, event(first, "b"), at=first)
    (partition,) = application.stream.partitions({}, offset)
    after = [batch.to_pylist() for batch in application.stream.read(partition)]
    assert [row["path"] for row in before[0]] == [row["path"] for row in after[0]]


def test_a_bound_ends_a_range_and_the_next_goes_on_there(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application], config: Config
) -> None:
    publisher.create(name)
    publisher.publish(name, *(event(first, f"e{n:03d}") for n in range(250)), at=first)
    application = started(slots=Slots(min=1, max=1))
    application.stream._ingest = application.stream._ingest.model_copy(update={"max_messages": 100})
    ends = []
    for _ in range(3):
        application.batch()
        ends.append(application.positions()[0])
    assert ends == [100, 200, 250]
    assert application.ids() == [f"e{n:03d}" for n in range(250)]


def test_the_group_s_offsets_are_stored_for_others_and_read_by_nobody(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name)
    group = Consumer({"bootstrap.servers": publisher.bootstrap, "group.id": "lakehouse"})

    def stored() -> int:
        (place,) = group.committed([TopicPartition(name, 0)], timeout=PATIENCE_SECONDS)
        return int(place.offset)

    application = started()
    publisher.publish(name, event(first, "a"), event(first, "b"), at=first)
    application.batch()
    application.batch()
    until(lambda: stored() == 2)
    group.commit(offsets=[TopicPartition(name, 0, 0)], asynchronous=False)
    again = started("two")
    again.batch()
    assert again.ids() == ["a", "b"]
    group.close()


# --- what fails ----------------------------------------------------------------------------------------------------


def test_messages_that_were_gone_before_they_were_read_stop_the_topic_until_a_person_accepts_it(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """It says how many and since when; nothing is skipped without a word, and the ledger keeps what was."""
    publisher.create(name)
    application = started()
    publisher.publish(name, event(first, "a"), at=first)
    application.batch()
    publisher.publish(name, *(event(first, f"lost{n}") for n in range(4)), event(first, "b"), at=first)
    done = publisher.admin.delete_records([TopicPartition(name, 0, 5)])
    assert all(each.result(PATIENCE_SECONDS).low_watermark == 5 for each in done.values())
    application.batch()
    error = parked(application)
    assert isinstance(error, LostMessagesError)
    assert f"up to 4 messages gone, published after {first:%Y-%m-%dT%H:%M}" in error.found
    assert "0: 1 to 4" in error.found
    go_on(application)
    application.batch()
    assert application.ids() == ["a"]
    accept_loss(application, "seen")
    assert parked(application) is None
    assert application.ids() == ["a", "b"]
    lost = [entry.of(Lost) for entry in application.history().entries if entry.state == "lost"]
    assert [(each.messages, each.by, each.reason) for each in lost] == [(4, "ann", "seen")]
    assert [(each.partition, each.begin, each.end) for each in lost[0].ranges] == [(0, 1, 5)]


def test_a_run_that_dies_between_the_commit_and_the_ledger_tells_of_the_loss_when_it_starts_again(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application], monkeypatch: Any
) -> None:
    publisher.create(name)
    application = started()
    publisher.publish(name, *(event(first, f"lost{n}") for n in range(3)), at=first)
    for done in publisher.admin.delete_records([TopicPartition(name, 0, 2)]).values():
        done.result(PATIENCE_SECONDS)
    application.batch()
    application.tables.ledger("ann").record(LossAccepted(by="ann", reason="seen"))
    with monkeypatch.context() as dying:
        dying.setattr(Journal, "record_loss", _die)
        go_on(application)
        application.batch()
    assert application.positions() == {0: 2}
    assert "lost" not in application.states()
    again = started("two")
    again.batch()
    lost = [entry.of(Lost) for entry in again.history().entries if entry.state == "lost"]
    assert [each.messages for each in lost] == [2]
    assert again.ids() == ["lost2"]


def _die(*_: object) -> None:
    raise RuntimeError("the process is gone")


def test_a_topic_that_was_created_again_is_another_one(
    publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    """With as many messages as before: only its id tells."""
    publisher.create(name)
    application = started()
    publisher.publish(name, event(first, "a"), at=first)
    application.batch()
    publisher.delete(name)
    application.batch()
    assert "found no such topic" in str(parked(application))
    until(lambda: name not in publisher.admin.list_topics(timeout=10).topics)
    publisher.create(name)
    publisher.publish(name, event(first, "b"), event(first, "c"), at=first)
    go_on(application)
    application.batch()
    assert "another topic of that name" in str(parked(application))
    accept_loss(application, "ours")
    assert application.ids() == ["a", "b", "c"]


def test_a_topic_that_is_missing_is_claimed_by_nobody(config: Config) -> None:
    ingest = TopicIngest(config.topics["plays"], config, run="one")
    with pytest.raises(SourceError, match="found no such topic") as caught:
        ingest.ack_deadline()
    assert not isinstance(caught.value, UnansweredError)


def guarded(kafka: Kafka, name: str, password: str) -> Topic:
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": USER,
        "sasl.password": password,
    }
    return kafka_topic(kafka.guarded, name, source={"options": options})


def test_a_wrong_password_is_named_as_the_cause_and_shown_nowhere(
    kafka: Kafka, publisher: Publisher, name: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.create(name)
    monkeypatch.setenv("PASSWORD_OF_KAFKA", "wrong-password")
    ingest = TopicIngest(guarded(kafka, name, "${PASSWORD_OF_KAFKA}"), config, run="one")
    with pytest.raises(SourceError, match="found no valid credentials") as caught:
        ingest.ack_deadline()
    assert not isinstance(caught.value, UnansweredError)
    assert "wrong-password" not in str(caught.value)
    assert without_secrets("wrong-password") == HIDDEN


def unsigned(sub: str, ends: float) -> str:
    """A token as Kafka's brokers take it that have no key: JSON Web Signature without a signature."""
    claims = {"sub": sub, "iat": time.time() - 1, "exp": ends}
    parts = (json.dumps({"alg": "none"}), json.dumps(claims), "")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


def test_a_token_is_asked_for_where_google_s_credentials_are_and_again_before_it_ends(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, config: Config, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The way of `auth: google` but for TLS and Google: librdkafka's callback, and a broker that wants a token."""
    asked: list[float] = []

    def token(_: str) -> tuple[str, float]:
        asked.append(time.time())
        ends = time.time() + 8
        return unsigned("lake@p.iam.gserviceaccount.com", ends), ends

    monkeypatch.setattr(brokers_kafka, "google_token", token)
    monkeypatch.setitem(brokers_kafka._BY_GOOGLE, "security.protocol", "SASL_PLAINTEXT")
    publisher.create(name)
    topic = kafka_topic(kafka.by_token, name, source={"auth": "google"})
    application = Application(topic, config_of(topic, tmp_path, config.settings), tmp_path)
    publisher.publish(name, event(first, "a"), at=first)
    until(lambda: bool(application.batch()) and application.positions() == {0: 1})
    known = len(asked)
    until(lambda: bool(application.batch()) and len(asked) > known)
    publisher.publish(name, event(first, "b"), at=first)
    until(lambda: bool(application.batch()) and application.ids() == ["a", "b"])


def test_a_token_that_the_broker_refuses_is_named_as_the_cause_and_shown_nowhere(
    kafka: Kafka, publisher: Publisher, name: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = unsigned("somebody", time.time() - 10)
    monkeypatch.setattr(brokers_kafka, "google_token", lambda _: (refused, time.time() + 3600))
    monkeypatch.setitem(brokers_kafka._BY_GOOGLE, "security.protocol", "SASL_PLAINTEXT")
    publisher.create(name)
    topic = kafka_topic(kafka.by_token, name, source={"auth": "google", "options": {"client.id": "refused"}})
    with pytest.raises(SourceError, match="found no valid credentials") as caught:
        TopicIngest(topic, config, run="one").ack_deadline()
    assert not isinstance(caught.value, UnansweredError)
    assert refused not in str(caught.value)


def test_a_topic_that_may_not_be_read_any_more_is_parked_until_it_may(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, config: Config, tmp_path: Path
) -> None:
    publisher.create(name)
    topic = guarded(kafka, name, PASSWORD)
    application = Application(topic, config_of(topic, tmp_path, config.settings), tmp_path)
    publisher.publish(name, event(first, "a"), at=first)
    application.batch()
    assert application.ids() == ["a"]
    allowing = (ResourceType.TOPIC, name, ResourcePatternType.LITERAL, "User:nobody", "*", AclOperation.READ)
    rule = AclBinding(*allowing, AclPermissionType.ALLOW)
    for done in publisher.admin.create_acls([rule]).values():
        done.result(PATIENCE_SECONDS)

    def denied() -> bool:
        application.batch()
        return "found no permission" in str(parked(application))

    until(denied)
    anyone = AclBindingFilter(*allowing, AclPermissionType.ALLOW)
    for done in publisher.admin.delete_acls([anyone]).values():
        done.result(PATIENCE_SECONDS)
    publisher.publish(name, event(first, "b"), at=first)

    def is_read() -> bool:
        go_on(application)
        application.batch()
        return application.ids() == ["a", "b"]

    until(is_read)


def test_a_broker_that_is_away_may_come_back(
    kafka: Kafka, publisher: Publisher, name: str, first: datetime, started: Callable[..., Application]
) -> None:
    publisher.create(name)
    application = started()
    application.batch()
    kafka.end()
    try:
        facts = application.batch()
        assert [fact["dry_at"] for fact in facts] == [None]
        assert parked(application) is None  # it may pass
        with pytest.raises(UnansweredError, match=f"Kafka at {kafka.address}"):
            application.ingest.ack_deadline()
    finally:
        kafka.start()
    publisher.publish(name, event(first, "a"), at=first)
    until(lambda: bool(application.batch()) and application.tables.bronze().version() > 1)
    assert application.ids() == ["a"]
