"""How a Kafka cluster is reached, and what it says when it is not: without a broker."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("confluent_kafka")

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from kafka_lake import kafka_topic

from lakehouse.clock import Clock, now
from lakehouse.concealed import HIDDEN, know_only, without_secrets
from lakehouse.config import Ingest
from lakehouse.errors import ConfigError, SourceError, UnansweredError
from lakehouse.landing.brokers import kafka, partitions
from lakehouse.landing.brokers.contract import Bounds, Wanted
from lakehouse.landing.brokers.kafka import Cluster, Kafka, google_token
from lakehouse.landing.brokers.kafka_messages import page_of
from lakehouse.landing.brokers.kafka_stream import KafkaStream
from lakehouse.landing.brokers.log_client import ANSWER_SECONDS, ReadRequest
from lakehouse.landing.brokers.log_messages import PageBuilder, attributes_of
from lakehouse.landing.brokers.partitions import LogReading
from lakehouse.landing.slots import Slot
from lakehouse.progress import LogRead, Range
from lakehouse.sources import KafkaSource, source_at
from tests.raw_kafka import library, raw_kafka

SOURCE = KafkaSource(bootstrap="127.0.0.1:1", topic="plays")


@pytest.fixture(autouse=True)
def _forgets_secrets() -> Any:
    before = know_only([])
    yield
    know_only(before)


def cluster(**options: str) -> Cluster:
    return Cluster({"bootstrap.servers": SOURCE.bootstrap, **{k.replace("_", "."): v for k, v in options.items()}}, "")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "no such topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "no permission"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "no valid credentials"),
        (KafkaError._SSL, "no valid credentials"),
        (KafkaError._INVALID_ARG, "a refused request"),
    ],
)
def test_what_is_refused_for_good_is_named(code: int, found: str) -> None:
    error = cluster().error_of(SOURCE, KafkaException(KafkaError(code)))
    assert (type(error), error.found.partition(" (")[0]) == (SourceError, found)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    ],
)
def test_what_may_pass_is_asked_again(code: int) -> None:
    assert isinstance(cluster().error_of(SOURCE, KafkaError(code)), UnansweredError)


def test_where_nobody_is_somebody_may_come() -> None:
    (error,) = cluster().topics([SOURCE], 0.5).values()
    assert isinstance(error, UnansweredError)
    assert f"Kafka at {SOURCE.bootstrap}" in str(error)


def test_passwords_come_from_the_environment_and_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYS_PASSWORD", "from-outside")
    made = cluster(sasl_password="${PLAYS_PASSWORD}", ssl_key_password="in-the-file")
    assert made._settings["sasl.password"] == "from-outside"
    assert without_secrets("from-outside in-the-file") == f"{HIDDEN} {HIDDEN}"
    with pytest.raises(ConfigError, match="no environment variable NOT_THERE"):
        cluster(sasl_password="${NOT_THERE}")


class Failing:
    """A consumer of which nothing comes but that error."""

    def __init__(self, code: int) -> None:
        self._code = code

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def consume(self, count: int, seconds: float) -> list[Any]:
        return [SimpleNamespace(error=lambda: KafkaError(self._code), partition=lambda: 0)] * 2


def test_what_may_pass_is_no_sign_of_life_and_is_the_reason_for_a_silence() -> None:
    """A partition that fails again and again, each time in passing, is one that nobody answers for."""
    share = partitions._Share(SOURCE, LogRead("log", now(), 1, (Range(0, 3, 3, 5),)))
    made = cluster()
    consumer: Any = Failing(KafkaError.KAFKA_STORAGE_ERROR)

    @contextmanager
    def stream(request: ReadRequest, clock: Clock) -> Iterator[KafkaStream]:
        yield KafkaStream(consumer, request, clock, lambda error: made.error_of(SOURCE, error))

    client: Any = SimpleNamespace(stream=stream, error_of=made.error_of)
    reading = LogReading(client, share, now)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "_SILENCE_SECONDS", 0.05)
        with pytest.raises(UnansweredError, match="KAFKA_STORAGE_ERROR"):
            list(reading.pages(Bounds(10, 10, lambda: 1, time.monotonic() + 30, 1.0)))


def test_an_option_that_would_change_what_is_read_is_refused() -> None:
    for name in ("group.id", "isolation.level", "enable.auto.commit", "auto.offset.reset"):
        with pytest.raises(ValueError, match="which ingest decides"):
            KafkaSource(bootstrap="h:1", topic="t", options={name: "x"})


def test_messages_that_the_client_cannot_give_stop_nothing() -> None:
    """A header's name that is no UTF-8 is another program's: its client gives none of the headers. The rest is kept.

    A time of -1 is none, as older clients send it: to take it for 1969 would reject the event as from the future.
    """
    loaded = library()
    if loaded is None:
        pytest.skip("librdkafka is not where the client's wheel has it")
    with raw_kafka(loaded) as cluster:
        cluster.publish([(b"source", b"web")], 1_700_000_000_000)
        cluster.publish([(b"caf\xe9", b"x"), (b"source", b"web")], 1_700_000_000_000)
        cluster.publish([], -1)
        cluster.publish([], 2**62)
        consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "g"})
        consumer.assign([TopicPartition("plays", 0, 0)])
        messages = consumer.consume(4, 30)
        received = now()
        rows = page_of(messages, received).messages.to_pylist()
        consumer.close()
    assert [row["message_id"] for row in rows] == ["0:0", "0:1", "0:2", "0:3"]
    assert [row["payload"] for row in rows] == [b"v"] * 4
    assert rows[0]["attributes"] == [("source", "web")]
    ((name, why),) = rows[1]["attributes"]
    assert name == "kafka.headers.unread"
    assert "can't decode byte 0xe9" in why
    assert rows[0]["publish_time"] == rows[1]["publish_time"] == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert rows[2]["publish_time"] == rows[3]["publish_time"] == received


def test_no_header_takes_the_place_of_another() -> None:
    """Whatever others are called: a name that an attribute would have anyway gets a number, too."""
    headers = [("a", b"1"), ("a#1", b"x"), ("a", b"2"), ("b", b"\xff"), ("b.base64", b"y")]
    assert attributes_of(headers) == [
        ("a#1", "1"),
        ("a#1#1", "x"),
        ("a", "2"),
        ("b.base64", "/w=="),
        ("b.base64#1", "y"),
    ]
    builder = PageBuilder("kafka.key")
    builder.add(0, 0, 0, [("kafka.key.base64", "z")], b"", b"\xfe")
    assert builder.page().messages.column("attributes").to_pylist() == [
        [("kafka.key.base64", "z"), ("kafka.key.base64#1", "/g==")]
    ]


@pytest.mark.parametrize(
    "bootstrap", ["h", "", "h:", "h:1,", "h h:1", "h:1;i:2", "SSL://h:1", "u:secretpw@h:1", "[::1]", "h:123456"]
)
def test_hosts_that_are_none_are_refused(bootstrap: str) -> None:
    with pytest.raises(ValidationError, match="<host>:<port>"):
        KafkaSource(bootstrap=bootstrap, topic="t")


@pytest.mark.parametrize("topic", ["", ".", "..", "a b", "a/b", "a!", "é", "x" * 250])
def test_names_that_no_topic_can_have_are_refused(topic: str) -> None:
    with pytest.raises(ValidationError, match="a topic's name"):
        KafkaSource(bootstrap="[::1]:9092,h.example:1", topic=topic)


def test_an_address_says_what_is_read_there() -> None:
    source = source_at("kafka://a:1,b:2/plays.v1")
    assert source == KafkaSource(bootstrap="a:1,b:2", topic="plays.v1")
    assert source.address == "kafka://a:1,b:2/plays.v1"
    assert source_at("plays.jsonl") is None


def test_a_cluster_that_is_silent_and_one_without_its_password_are_their_own_topics_failures() -> None:
    """What one bundle reads of several clusters is asked at the same time."""
    sources = {
        "silent": {},
        "silent_too": {"bootstrap": "127.0.0.1:2"},
        "open": {"options": {"sasl.password": "${NOT_THERE}"}},
    }
    wanted = {
        (name, 0): Wanted(kafka_topic(SOURCE.bootstrap, SOURCE.topic, source=source), Slot(1, 0, None))
        for name, source in sources.items()
    }
    began = time.monotonic()
    found = dict(Kafka().readings(wanted, Ingest(), now, 1000))
    assert time.monotonic() - began < 1.9 * ANSWER_SECONDS
    assert {name: type(error) for (name, _), error in found.items()} == {
        "silent": UnansweredError,
        "silent_too": UnansweredError,
        "open": SourceError,
    }
    assert "NOT_THERE" in str(found["open", 0])


def test_google_s_credentials_are_a_token_of_three_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Google's own handler for the Managed Service gives it: header, claims and the access token, in base64."""
    expiry = datetime(2026, 11, 23, 12)

    class Credentials:
        service_account_email, token = "lake@p.iam.gserviceaccount.com", "access"

        def __init__(self) -> None:
            self.expiry = expiry - timedelta(hours=1)

        def refresh(self, request: Any) -> None:
            self.expiry = expiry

    import google.auth

    monkeypatch.setattr(google.auth, "default", lambda scopes: (Credentials(), "p"))
    token, ends = google_token("")
    header, claims, access = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    assert json.loads(header) == {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    assert json.loads(claims)["sub"] == Credentials.service_account_email
    assert json.loads(claims)["exp"] == ends == datetime.fromisoformat("2026-11-23T12:00:00+00:00").timestamp()
    assert access == b"access"


def test_the_managed_service_is_reached_by_tls_and_that_token() -> None:
    made = Cluster({"bootstrap.servers": SOURCE.bootstrap}, "google")
    assert (made._settings["security.protocol"], made._settings["sasl.mechanisms"]) == ("SASL_SSL", "OAUTHBEARER")
    assert made._extra["oauth_cb"] is kafka.google_token
