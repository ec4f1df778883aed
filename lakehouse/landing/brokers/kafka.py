"""One Kafka cluster: its topics' partitions and offsets, and consumers that read ranges of them.

librdkafka by confluent-kafka. Nothing here joins a group: consumers are assigned what they are to read, and a group's
offsets are only stored, for the tools by which others watch lag.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from lakehouse.clock import Clock
from lakehouse.errors import SourceError, UnansweredError, joined_lines
from lakehouse.landing.brokers.kafka_stream import KafkaStream
from lakehouse.landing.brokers.log_client import ANSWER_SECONDS, EARLIEST, LATEST, Offsets, ReadRequest, TopicFacts
from lakehouse.landing.brokers.partitions import LogBroker
from lakehouse.landing.variables import resolved
from lakehouse.progress import ReadFrom
from lakehouse.sources import KafkaSource

log = logging.getLogger(__name__)

_KEPT_CONSUMERS = 4
"""Of a cluster and process, between two readings: as many slots of a bundle are read at a time."""
_ALWAYS = {
    "allow.auto.create.topics": "false",
    "client.id": "lakehouse",
    "log_level": "2",
    "socket.timeout.ms": "10000",
    "reconnect.backoff.max.ms": "2000",
}
_READING = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": "100",
    "queued.max.messages.kbytes": "32768",
    "check.crcs": "true",
}
_BY_GOOGLE = {"security.protocol": "SASL_SSL", "sasl.mechanisms": "OAUTHBEARER"}
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._UNKNOWN_TOPIC,
            KafkaError._UNKNOWN_PARTITION}  # fmt: skip
_DENIED = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
_UNKNOWN_TO_IT = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL}


class Cluster:
    """One process's connections to a cluster, by the settings that lead there. For several threads."""

    splits = True

    def __init__(self, settings: Mapping[str, str], auth: str) -> None:
        self._settings = _ALWAYS | {name: resolved(f"source.options.{name}", value) for name, value in settings.items()}
        self._refused: KafkaError | None = None
        self._extra: dict[str, Any] = {"error_cb": self._note}
        if auth == "google":
            self._settings |= _BY_GOOGLE
            self._extra["oauth_cb"] = google_token
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._idle: dict[str, list[Consumer]] = {}
        self._stored: dict[tuple[str, str], Mapping[int, int]] = {}

    # --- questions -------------------------------------------------------------------------------------------------

    def topics(
        self, sources: Iterable[KafkaSource], seconds: float = ANSWER_SECONDS
    ) -> dict[str, TopicFacts | SourceError]:
        """What there is of each, by its name."""
        by_name = {source.topic: source for source in sources}
        found: dict[str, TopicFacts | SourceError] = {}
        answers = self._client().describe_topics(TopicCollection(list(by_name)), request_timeout=seconds)
        for name, answer in answers.items():
            try:
                described = answer.result(seconds + 1)
                found[name] = TopicFacts(str(described.topic_id), len(described.partitions))
                self._refused = None
            except Exception as error:
                found[name] = self.error_of(by_name[name], error)
        return found

    def offsets(self, wanted: Mapping[str, Collection[int]], spec: str | datetime) -> Offsets:
        """As `LogClient` says. After its last message: published, or of a transaction under way."""
        kinds: Any = OffsetSpec
        asked = (
            {LATEST: kinds.latest, EARLIEST: kinds.earliest}[spec]()
            if isinstance(spec, str)
            else kinds.for_timestamp(int(spec.timestamp() * 1000))
        )
        places = {TopicPartition(name, number): asked for name, numbers in wanted.items() for number in numbers}
        if not places:
            return {}
        level = IsolationLevel.READ_UNCOMMITTED
        answers = self._client().list_offsets(places, isolation_level=level, request_timeout=ANSWER_SECONDS)
        found: Offsets = {}
        for place, answer in answers.items():
            try:
                found[place.topic, place.partition] = int(answer.result(ANSWER_SECONDS + 1).offset)
            except Exception as error:
                found[place.topic, place.partition] = error
        return found

    def is_same(self, source: KafkaSource, known: ReadFrom) -> bool:
        """Its id says so."""
        return True

    def store(self, positions: Mapping[tuple[str, str], Mapping[int, int]]) -> None:
        """Say how far groups have come in topics; what refuses it is logged, and nothing waits for it.

        By a consumer: with the administrator's requests a process was seen to end inside librdkafka 2.16 when the
        broker was killed meanwhile; librdkafka's issue 4605 tells of the like.
        """
        groups: dict[str, list[TopicPartition]] = {}
        for (group, topic), offsets in positions.items():
            if self._stored.get((group, topic)) != offsets and offsets:
                self._stored[group, topic] = dict(offsets)
                places = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
                groups.setdefault(group, []).extend(places)
        for group, places in groups.items():
            with self.consumer(group) as consumer:
                consumer.commit(offsets=places, asynchronous=True)

    def _note_stored(self, group: str, error: KafkaError | None, places: list[TopicPartition]) -> None:
        if error is not None:
            for place in places:
                self._stored.pop((group, place.topic), None)  # with the next epoch again
            log.warning("kafka: group=%s offsets=not stored error=%s", group, _text(error))

    # --- consumers -------------------------------------------------------------------------------------------------

    @contextmanager
    def consumer(self, group: str) -> Iterator[Consumer]:
        """One that nobody else has; what it is assigned is taken from it afterwards, and its connections stay."""
        with self._lock:
            idle = self._idle.setdefault(group, [])
            consumer = idle.pop() if idle else None
        if consumer is None:
            more = {"group.id": group, "on_commit": partial(self._note_stored, group), **self._extra}
            consumer = Consumer({**self._settings, **_READING, **more})
        is_sound = False
        try:
            yield consumer
            consumer.unassign()
            is_sound = True
        finally:
            with self._lock:
                is_kept = is_sound and sum(map(len, self._idle.values())) < _KEPT_CONSUMERS
                if is_kept:
                    idle.append(consumer)
            if not is_kept:
                consumer.close()

    @contextmanager
    def stream(self, request: ReadRequest, clock: Clock) -> Iterator[KafkaStream]:
        with self.consumer(request.source.group) as consumer:
            yield KafkaStream(consumer, request, clock, lambda error: self.error_of(request.source, error))

    def error_of(self, source: KafkaSource, error: Any) -> SourceError:
        """In our words; UnansweredError for what may pass."""
        if isinstance(error, SourceError):
            return error
        said = error.args[0] if isinstance(error, KafkaException) else error
        known = said if isinstance(said, KafkaError) else None
        if self._admin is not None:
            self._admin.poll(0)  # it calls `_note`
        if self._refused is not None and (known is None or known.code() not in _MISSING | _DENIED):
            known = self._refused
        found, next_step = _fatal(known, source)
        kind = SourceError if found else UnansweredError
        text = _text(known) if known is not None else f"{type(error).__name__}: {error}"
        return kind(
            source.address,
            found=f"{found} ({text})" if found else f"Kafka at {source.bootstrap} {text}",
            expected=f"a topic that can be read from Kafka at {source.bootstrap}",
            next_step=next_step or "Check that the brokers can be reached from here.",
        )

    def _client(self) -> AdminClient:
        with self._lock:
            if self._admin is None:
                self._admin = AdminClient({**self._settings, **self._extra})
        self._admin.poll(0)
        return self._admin

    def _note(self, error: KafkaError) -> None:
        """librdkafka connects again and again, whatever the reason is that it was refused."""
        if error.code() in _UNKNOWN_TO_IT:
            self._refused = error


def _text(error: KafkaError) -> str:
    """Its name and what librdkafka says of it, whose lines are its own."""
    return f"{error.name()}: {joined_lines(error.str())}"


def _fatal(error: KafkaError | None, source: KafkaSource) -> tuple[str | None, str | None]:
    code = error.code() if error is not None else None
    if code in _MISSING:
        return "no such topic", "Create it, or fix `source.topic` in the topic's file."
    if code in _DENIED:
        return "no permission", "Grant this account READ and DESCRIBE on the topic (and READ on its group, for lag)."
    if code in _UNKNOWN_TO_IT:
        return "no valid credentials", "Fix `source.auth` and `source.options` in the topic's file."
    if code in (KafkaError._INVALID_ARG, KafkaError.TOPIC_EXCEPTION):
        return "a refused request", "Fix `source` in the topic's file."
    return None, None


class Kafka(LogBroker):
    """The broker of kind `kafka`."""

    def __init__(self) -> None:
        super().__init__(cluster_of)


def cluster_of(source: KafkaSource) -> Cluster:
    """This process's. ConfigError where an environment variable that the options name is not set."""
    settings = json.dumps({"bootstrap.servers": source.bootstrap, **source.options}, sort_keys=True)
    return _cluster(os.getpid(), settings, source.auth)


@lru_cache(maxsize=64)
def _cluster(process: int, settings: str, auth: str) -> Cluster:
    return Cluster(json.loads(settings), auth)


def google_token(_: str) -> tuple[str, float]:
    """(token, when it ends in seconds since 1970) for Google's Managed Service for Apache Kafka, by Google's own
    credentials of this machine."""
    import google.auth
    import google.auth.transport.requests

    credentials, _project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(google.auth.transport.requests.Request())  # type: ignore[no-untyped-call]
    ends = credentials.expiry.replace(tzinfo=UTC) if credentials.expiry else datetime.now(UTC) + timedelta(hours=1)
    claims = {
        "exp": ends.timestamp(),
        "iss": "Google",
        "iat": datetime.now(UTC).timestamp(),
        "scope": "kafka",
        "sub": getattr(credentials, "service_account_email", None) or "unknown",
    }
    parts = (json.dumps({"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}), json.dumps(claims), str(credentials.token))
    token = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    return token, ends.timestamp()
