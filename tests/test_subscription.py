"""Pulling, leasing and acknowledging, against a broker in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud.pubsub_v1 import PublisherClient
from google.pubsub_v1.types import PublishRequest, PubsubMessage, PullResponse
from hypothesis import given
from hypothesis import strategies as st
from recorded import Recorded
from subscribing import SUBSCRIPTION, TOPIC, create_subscription, create_topic, subscribed_broker

from lakehouse.errors import SourceError
from lakehouse.landing.brokers.answers import PAGE_READERS
from lakehouse.landing.brokers.contract import Refused
from lakehouse.landing.brokers.leases import Leases
from lakehouse.landing.brokers.pubsub import MAX_ACK_IDS, Pauses, SubscriptionReader
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.schemas import DELIVERED
from tests.clock import Clock

SHORT = 0.05
"""Seconds; how long an empty subscription is waited for."""
PATIENCE_SECONDS = 15
"""For what is due at once; only a failing test waits this long."""
SHORT_PAUSES = Pauses(first=timedelta(milliseconds=1), patience=timedelta(seconds=PATIENCE_SECONDS))
IMPATIENT = Pauses(patience=timedelta(0))


@pytest.fixture
def broker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, clock.seconds, ack_deadline_seconds=30) as broker:
        yield broker


@pytest.fixture
def publish(broker: Broker) -> Iterator[Callable[[int], None]]:
    publisher = PublisherClient()

    def published(count: int) -> None:
        for sent in [publisher.publish(TOPIC, b"%d" % number) for number in range(count)]:
            sent.result(PATIENCE_SECONDS)

    yield published
    publisher.stop()
    publisher.transport.close()


@pytest.fixture
def reader(broker: Broker) -> Iterator[SubscriptionReader]:
    reader = SubscriptionReader(SUBSCRIPTION, answers="ptars", pauses=SHORT_PAUSES)
    yield reader
    reader.close()


@pytest.fixture
def hasty(broker: Broker) -> Iterator[SubscriptionReader]:
    """Asks once."""
    reader = SubscriptionReader(SUBSCRIPTION, answers="ptars", pauses=IMPATIENT)
    yield reader
    reader.close()


def payloads(reader: SubscriptionReader, limit: int = 1000) -> list[bytes]:
    """What is there at once."""
    page = reader.pull(limit, PATIENCE_SECONDS)
    assert page is not None
    return list(page.messages["payload"].to_pylist())


def is_dry(reader: SubscriptionReader) -> bool:
    return reader.pull(1000, SHORT) is None


# --- answers -------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "data": st.binary(max_size=40),
        "attributes": st.dictionaries(TEXT, TEXT, max_size=4),
        "message_id": TEXT,
        "publish_time": st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),
        "ordering_key": TEXT,
    },
)
RECEIVED = st.fixed_dictionaries(
    {}, optional={"ack_id": TEXT, "message": MESSAGES, "delivery_attempt": st.integers(0, 2**31 - 1)}
)


@pytest.mark.parametrize("answers", PAGE_READERS)
@given(received=st.lists(RECEIVED, max_size=20))
def test_any_answer_is_read_as_google_s_own_classes_read_it(answers: str, received: list[dict[str, Any]]) -> None:
    """By each reader, so that one can take the place of the other; also where a message lacks what is always sent."""
    answer = PullResponse.pb(PullResponse(received_messages=received))
    page = PAGE_READERS[answers](answer.SerializeToString())
    assert page.messages.schema == DELIVERED
    page.messages.validate(full=True)
    assert page.ack_ids == [each.ack_id for each in answer.received_messages]
    assert [{**row, "attributes": dict(row["attributes"])} for row in page.messages.to_pylist()] == [
        {
            "message_id": each.message.message_id,
            "publish_time": each.message.publish_time.ToDatetime(UTC),
            "attributes": dict(each.message.attributes),
            "payload": each.message.data,
            "ordering_key": each.message.ordering_key or None,
        }
        for each in answer.received_messages
    ]


@pytest.mark.parametrize("answers", PAGE_READERS)
def test_parts_of_an_answer_that_are_not_known_yet_are_skipped(answers: str) -> None:
    """Pub/Sub may add fields at any time."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    message = field(3, b"m1") + field(14, b"new") + bytes([15 << 3, 5]) + field(1, b"payload")
    page = PAGE_READERS[answers](field(9, b"new") + field(1, field(2, message) + field(11, b"new") + field(1, b"ack")))
    assert (page.ack_ids, page.messages["message_id"].to_pylist()) == (["ack"], ["m1"])
    assert page.messages["payload"].to_pylist() == [b"payload"]


@pytest.mark.parametrize("answers", PAGE_READERS)
@pytest.mark.parametrize("answer", [b"\xff\xff\xff", b"\x0a\x05\x0a\x01a"])
def test_what_is_no_answer_is_an_error(answers: str, answer: bytes) -> None:
    with pytest.raises(ValueError, match="failed to decode"):
        PAGE_READERS[answers](answer)


# --- pages ---------------------------------------------------------------------------------------------------------


def test_a_page_brings_messages_with_what_acknowledges_them(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    publish(3)
    page = reader.pull(1000, PATIENCE_SECONDS)
    assert page is not None
    assert sorted(page.messages["payload"].to_pylist()) == [b"0", b"1", b"2"]
    assert page.size_bytes > 0
    assert len(broker.unacked(SUBSCRIPTION)) == 3
    reader.acknowledge(page.ack_ids)
    assert broker.unacked(SUBSCRIPTION) == []


def test_a_page_has_no_more_messages_than_asked_for(reader: SubscriptionReader, publish: Callable[[int], None]) -> None:
    publish(3)
    assert [len(payloads(reader, 2)), len(payloads(reader, 2))] == [2, 1]


def test_an_empty_subscription_is_waited_for_and_gives_nothing(reader: SubscriptionReader) -> None:
    started = time.monotonic()
    assert reader.pull(10, 0.2) is None
    assert time.monotonic() - started >= 0.2


def test_a_message_that_comes_while_waiting_is_brought(
    reader: SubscriptionReader, publish: Callable[[int], None]
) -> None:
    later = threading.Timer(0.1, publish, [1])
    later.start()
    page = reader.pull(10, PATIENCE_SECONDS)
    later.join()
    assert page is not None


def test_the_ack_deadline_is_the_subscription_s(reader: SubscriptionReader) -> None:
    assert reader.ack_deadline() == timedelta(seconds=30)


def test_messages_given_back_come_again_at_once(reader: SubscriptionReader, publish: Callable[[int], None]) -> None:
    publish(1)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    assert is_dry(reader)
    reader.give_back(page.ack_ids)
    assert payloads(reader) == [b"0"]


@pytest.mark.parametrize("length", [1, 164, 212, 1000, 5000])
def test_requests_about_many_messages_are_of_allowed_size(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ack ids have grown from 164 to more than 210 characters, and will again: only bytes can be trusted."""
    with Broker(ack_id_length=length) as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        create_topic()
        create_subscription()
        messages = [PubsubMessage.pb()(data=b"x")] * 1000
        for _ in range(3):
            DirectChannel(broker).unary_unary("/x/Publish")(PublishRequest.pb()(topic=TOPIC, messages=messages))
        reader = SubscriptionReader(SUBSCRIPTION, answers="ptars", pauses=IMPATIENT)
        pages = [reader.pull(1000, PATIENCE_SECONDS) for _ in range(3)]
        ack_ids = [ack_id for page in pages if page for ack_id in page.ack_ids]
        assert {len(ack_id) for ack_id in ack_ids} == {max(length, len(ack_ids[0]))}
        assert reader.extend(ack_ids, timedelta(seconds=60)) == Refused()
        assert reader.acknowledge(ack_ids) == Refused()
        assert broker.unacked(SUBSCRIPTION) == []
        reader.close()


def test_a_request_has_few_ids_and_few_bytes(reader: SubscriptionReader, broker: Broker) -> None:
    faults = broker.faults = Recorded()
    reader.acknowledge([f"{SUBSCRIPTION}:{number}" for number in range(MAX_ACK_IDS + 1)])
    assert faults.calls == ["Acknowledge"] * 2


class _Smaller(Recorded):
    """A service that takes fewer ids than it says."""

    def refused(self, method: str) -> grpc.StatusCode | None:
        super().refused(method)
        return None

    def most_bytes(self, method: str) -> int:
        return 2_000


def test_a_request_that_is_too_large_all_the_same_is_halved(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    """Whatever the limit will be one day."""
    publish(100)
    page = reader.pull(1000, PATIENCE_SECONDS)
    assert page is not None
    broker.faults = _Smaller()
    assert reader.acknowledge(page.ack_ids) == Refused()
    assert broker.unacked(SUBSCRIPTION) == []


def test_one_bad_id_does_not_keep_the_others_from_being_acknowledged(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    publish(20)
    page = reader.pull(1000, PATIENCE_SECONDS)
    assert page is not None
    refused = reader.acknowledge([*page.ack_ids, "bogus"])
    assert refused.messages == 1
    assert "INVALID_ARGUMENT: Invalid ack id" in str(refused.error)
    assert broker.unacked(SUBSCRIPTION) == []


def test_acknowledging_nothing_asks_nothing(reader: SubscriptionReader, broker: Broker) -> None:
    """A request without ack ids is refused."""
    faults = broker.faults = Recorded()
    reader.acknowledge([])
    reader.give_back([])
    assert faults.calls == []


# --- what fails in passing -----------------------------------------------------------------------------------------

PASSING = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]


def test_an_unavailable_service_is_asked_again(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    publish(1)
    faults = broker.faults = Recorded(Pull=PASSING, GetSubscription=PASSING)
    assert reader.ack_deadline() == timedelta(seconds=30)
    assert reader.pull(10, PATIENCE_SECONDS) is not None
    assert faults.calls == ["GetSubscription"] * 3 + ["Pull"] * 3


def test_acknowledgements_that_fail_in_passing_are_sent_again(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    publish(2)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    broker.faults = Recorded(Acknowledge=PASSING)
    reader.acknowledge(page.ack_ids)
    assert broker.unacked(SUBSCRIPTION) == []


def test_an_acknowledgement_that_fails_for_good_is_no_error(
    hasty: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    """The messages are durable and only come again; but if it goes on, somebody must hear of it."""
    publish(1)
    page = hasty.pull(10, PATIENCE_SECONDS)
    assert page is not None
    broker.faults = Recorded(Acknowledge=[grpc.StatusCode.UNAVAILABLE])
    assert hasty.acknowledge(page.ack_ids) == Refused(1, "UNAVAILABLE: Fault injected by the sandbox")
    broker.faults = Recorded(Acknowledge=[grpc.StatusCode.PERMISSION_DENIED])
    assert hasty.acknowledge(page.ack_ids) == Refused(1, "PERMISSION_DENIED: Fault injected by the sandbox")
    assert len(broker.unacked(SUBSCRIPTION)) == 1


# --- what fails for good -------------------------------------------------------------------------------------------


def test_a_missing_subscription_is_reported(broker: Broker) -> None:
    reader = SubscriptionReader("projects/test/subscriptions/skips", answers="ptars")
    with pytest.raises(SourceError, match=r"skips: found no such subscription.*Create it, or fix `subscription`"):
        reader.ack_deadline()
    with pytest.raises(SourceError, match="no such subscription"):
        reader.pull(10, SHORT)
    reader.close()


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, r"no permission.*roles/pubsub\.subscriber and roles/pubsub\.viewer"),
        (grpc.StatusCode.UNAUTHENTICATED, r"no valid credentials.*service account"),
        (grpc.StatusCode.FAILED_PRECONDITION, r"cannot be pulled.*must be a pull subscription"),
        (grpc.StatusCode.DATA_LOSS, r"DATA_LOSS.*reached from here"),
    ],
)
def test_a_refusal_is_reported_at_once(
    reader: SubscriptionReader, broker: Broker, code: grpc.StatusCode, reported: str
) -> None:
    """With all patience of a long-running query: waiting would not help."""
    faults = broker.faults = Recorded(Pull=[code, code])
    with pytest.raises(SourceError, match=reported):
        reader.pull(10, PATIENCE_SECONDS)
    assert faults.calls == ["Pull"]


def test_a_start_without_permission_names_both_roles_at_once(reader: SubscriptionReader, broker: Broker) -> None:
    """roles/pubsub.subscriber alone, which everybody grants first, may pull and may not ask for the deadline."""
    faults = broker.faults = Recorded(GetSubscription=[grpc.StatusCode.PERMISSION_DENIED])
    with pytest.raises(SourceError, match=r"no permission.*roles/pubsub\.subscriber and roles/pubsub\.viewer"):
        reader.ack_deadline()
    assert faults.calls == ["GetSubscription"]


def test_a_service_that_stays_away_is_reported_when_patience_ends(hasty: SubscriptionReader, broker: Broker) -> None:
    broker.faults = Recorded(Pull=[grpc.StatusCode.UNAVAILABLE])
    with pytest.raises(SourceError, match=f"the emulator at {broker.address} UNAVAILABLE"):
        hasty.pull(10, SHORT)


def test_a_broker_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker() as gone:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", gone.address)
    reader = SubscriptionReader(SUBSCRIPTION, answers="ptars", pauses=IMPATIENT)
    with pytest.raises(SourceError, match=f"{gone.address}.*`lakehouse sandbox` starts a broker"):
        reader.ack_deadline()
    reader.close()


# --- leases --------------------------------------------------------------------------------------------------------


def test_leases_are_extended_while_messages_are_held(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker, clock: Clock
) -> None:
    """A slot may write for longer than the ack deadline: its messages must not come to another meanwhile."""
    publish(2)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    faults = broker.faults = Recorded()
    leases = Leases(reader, timedelta(seconds=1))
    leases.hold(page.ack_ids)
    for _ in range(2):
        assert faults.extended.acquire(timeout=PATIENCE_SECONDS)
        clock.advance(0.9)
        assert is_dry(reader)
    leases.acknowledge()
    assert broker.unacked(SUBSCRIPTION) == []


def test_what_is_given_up_is_extended_no_longer(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker, clock: Clock
) -> None:
    """Whoever hangs with it for good would keep it from everybody."""
    publish(1)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    faults = broker.faults = Recorded()
    leases = Leases(reader, timedelta(seconds=1), is_given_up=lambda: extensions(faults) >= 2)
    leases.hold(page.ack_ids)
    assert has_ended(leases)
    assert extensions(faults) == 2
    clock.advance(1.1)
    assert payloads(reader) == [b"0"]


def test_an_extension_that_failed_is_not_tried_again_for_what_is_given_up(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    """It could succeed a minute later, when nobody counts on it any more."""
    publish(1)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    faults = broker.faults = Recorded(ModifyAckDeadline=[grpc.StatusCode.UNAVAILABLE] * 3)
    leases = Leases(reader, timedelta(seconds=1), is_given_up=lambda: extensions(faults) >= 1)
    leases.hold(page.ack_ids)
    assert has_ended(leases)
    assert extensions(faults) == 1


def extensions(faults: Recorded) -> int:
    """Those that were asked for, whatever the answer."""
    return faults.calls.count("ModifyAckDeadline")


def has_ended(leases: Leases) -> bool:
    """Whether they are extended no longer, within the tests' patience."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while leases.is_kept and time.monotonic() < ends:
        time.sleep(0.01)
    return not leases.is_kept


def test_leases_end_when_nobody_extends_them(
    reader: SubscriptionReader, publish: Callable[[int], None], clock: Clock
) -> None:
    """What the test before this one would see if the leases were not kept."""
    publish(1)
    assert len(payloads(reader)) == 1
    clock.advance(31)
    assert len(payloads(reader)) == 1


class _Refusing:
    """A broker that takes nothing about leases any more; as `LeaseHolder`."""

    def __init__(self) -> None:
        self.extended = threading.Event()

    def acknowledge(self, ack_ids: Iterable[str]) -> Refused:
        return Refused(len(list(ack_ids)), "PERMISSION_DENIED: no")

    def extend(self, ack_ids: Iterable[str], deadline: timedelta, goes_on: Callable[[], bool]) -> Refused:
        self.extended.set()
        return self.acknowledge(ack_ids)

    def give_back(self, ack_ids: Iterable[str]) -> Refused:
        return self.acknowledge(ack_ids)


def test_refusals_of_leases_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What is not extended comes to somebody else while it is written, and again later."""
    broker = _Refusing()
    leases = Leases(broker, timedelta(seconds=0.1), ("plays", "1-0"))
    leases.hold(["a", "b"])
    assert broker.extended.wait(PATIENCE_SECONDS)
    leases.give_back()
    assert leases.refused["give_back"] == 2
    assert leases.refused["extend"] >= 2
    text = "leases: topic=plays slot=1-0 refused=give_back messages=2 error=PERMISSION_DENIED: no"
    assert text in [record.getMessage() for record in caplog.records]


def test_what_was_let_go_is_never_extended_again(
    reader: SubscriptionReader, publish: Callable[[int], None], broker: Broker
) -> None:
    """Else a message given back would be held for another deadline."""
    publish(1)
    page = reader.pull(10, PATIENCE_SECONDS)
    assert page is not None
    leases = Leases(reader, timedelta(seconds=0.1))
    leases.hold(page.ack_ids)
    leases.give_back()
    faults = broker.faults = Recorded()
    assert not faults.extended.acquire(timeout=0.2)
    assert payloads(reader) == [b"0"]
    assert not leases.is_kept
    leases.acknowledge()
    assert "Acknowledge" not in faults.calls


def test_missing_credentials_are_named_with_what_would_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PUBSUB_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(SourceError, match=rf"{SUBSCRIPTION}.*no Google credentials.*PUBSUB_EMULATOR_HOST"):
        SubscriptionReader(SUBSCRIPTION, answers="ptars")
