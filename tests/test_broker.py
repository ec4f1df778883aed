"""One contract for the sandbox's broker and for Google's emulator, then what only the broker has."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.monitoring_v3 import MetricServiceClient, TimeInterval
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from google.cloud.pubsub_v1.types import FlowControl, PublisherOptions
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import types
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from lakehouse.errors import UsageError
from lakehouse.sandbox.broker import Broker, topic_path
from lakehouse.sandbox.faults import CODES, Faults, RandomFaults
from lakehouse.sandbox.monitoring import DENIED, MISSING, OLDEST_UNACKED_MESSAGE_AGE, Sampling
from lakehouse.sandbox.registry import PUBLISH_TIME
from lakehouse.sandbox.subscriptions import Message
from tests.clock import Clock

pytestmark = pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning")

PROJECT = "projects/contract"
PATIENCE_SECONDS = 15
"""For answers that are due at once; only a failing test waits this long."""


@dataclass
class Server:
    address: str
    now: Callable[[], float]
    elapse: Callable[[float], None]


@dataclass
class Session:
    """A topic with one subscription, and the ordinary clients."""

    server: Server
    publisher: PublisherClient
    subscriber: SubscriberClient
    topic: str
    subscription: str

    def publish(self, *payloads: bytes, ordering_key: str = "", **attributes: str) -> list[str]:
        sent = [self.publisher.publish(self.topic, data, ordering_key, **attributes) for data in payloads]
        return [future.result(PATIENCE_SECONDS) for future in sent]

    def subscribed(self, **settings: Any) -> str:
        name = f"{PROJECT}/subscriptions/another-{uuid.uuid4().hex}"
        self.subscriber.create_subscription(request={"name": name, "topic": self.topic, **settings})
        return name

    def pull(self, limit: int = 100, *, subscription: str = "") -> list[types.ReceivedMessage]:
        """Waits until there is something."""
        request = {"subscription": subscription or self.subscription, "max_messages": limit}
        return list(self.subscriber.pull(request=request, timeout=PATIENCE_SECONDS).received_messages)

    def at_once(self) -> list[types.ReceivedMessage]:
        """What an impatient pull gets."""
        request = {"subscription": self.subscription, "max_messages": 100, "return_immediately": True}
        return list(self.subscriber.pull(request=request, timeout=PATIENCE_SECONDS).received_messages)

    def ready(self) -> list[bytes]:
        return payloads(self.at_once())

    def ack(self, received: Sequence[types.ReceivedMessage]) -> None:
        request = {"subscription": self.subscription, "ack_ids": [each.ack_id for each in received]}
        self.subscriber.acknowledge(request=request)

    def move_deadline(self, received: Sequence[types.ReceivedMessage], seconds: int) -> None:
        ack_ids = [each.ack_id for each in received]
        self.subscriber.modify_ack_deadline(
            request={"subscription": self.subscription, "ack_ids": ack_ids, "ack_deadline_seconds": seconds}
        )


def payloads(received: Sequence[types.ReceivedMessage]) -> list[bytes]:
    return [each.message.data for each in received]


@pytest.fixture(scope="session")
def emulator() -> Iterator[Server]:
    program = _emulator_program()
    if program is None:
        pytest.skip("Google's Pub/Sub emulator is not installed: gcloud components install pubsub-emulator, and Java")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    process = subprocess.Popen(
        [program, f"--host={host}", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield Server(address, time.time, time.sleep)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _emulator_program() -> Path | None:
    if shutil.which("gcloud") is None or shutil.which("java") is None:
        return None
    asked = subprocess.run(
        ["gcloud", "info", "--format=value(installation.sdk_root)"], capture_output=True, text=True, check=True
    )
    program = Path(asked.stdout.strip(), "platform/pubsub-emulator/bin/cloud-pubsub-emulator")
    return program if program.exists() else None


@pytest.fixture
def broker(clock: Clock) -> Iterator[Broker]:
    with Broker(clock=clock.seconds) as broker:
        yield broker


@pytest.fixture(params=["broker", pytest.param("emulator", marks=pytest.mark.services)])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "emulator":
        emulator: Server = request.getfixturevalue("emulator")
        return emulator
    clock = request.getfixturevalue("clock")
    return Server(request.getfixturevalue("broker").address, clock.seconds, clock.advance)


@contextmanager
def opened(server: Server, **settings: Any) -> Iterator[Session]:
    with pytest.MonkeyPatch.context() as patch, ExitStack() as closing:
        patch.setenv("PUBSUB_EMULATOR_HOST", server.address)
        publisher = PublisherClient(publisher_options=PublisherOptions(enable_message_ordering=True))
        subscriber = closing.enter_context(SubscriberClient())
        closing.callback(publisher.transport.close)
        closing.callback(publisher.stop)
        name = uuid.uuid4().hex
        topic, subscription = f"{PROJECT}/topics/events-{name}", f"{PROJECT}/subscriptions/lake-{name}"
        publisher.create_topic(request={"name": topic})
        subscriber.create_subscription(request={"name": subscription, "topic": topic, **settings})
        yield Session(server, publisher, subscriber, topic, subscription)


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    with opened(server) as session:
        yield session


@pytest.fixture
def own(broker: Broker, clock: Clock) -> Iterator[Session]:
    """A session with the broker alone."""
    with opened(Server(broker.address, clock.seconds, clock.advance)) as session:
        yield session


# --- The contract -----------------------------------------------------------------------------------------------------


def test_a_message_arrives_as_published(session: Session) -> None:
    """Attributes and payload are the caller's, id and publish time the server's: `frontier` trusts the latter."""
    before = session.server.now()
    ids = session.publish(b"one", origin="JFK", empty="")
    (received,) = session.pull()
    assert received.message.data == b"one"
    assert dict(received.message.attributes) == {"origin": "JFK", "empty": ""}
    assert [received.message.message_id] == ids
    published_at: Any = received.message.publish_time
    assert before - 0.01 <= published_at.timestamp() <= session.server.now() + 0.01


def test_message_ids_are_unique_over_batches(session: Session) -> None:
    """Message ids tell deliveries apart in bronze."""
    ids = session.publish(*[b"x"] * 50) + session.publish(*[b"x"] * 50)
    assert len(set(ids)) == 100


@pytest.mark.parametrize("payload", [bytes(range(256)), b"\n{}\n\x00\xff", "Zürich ✈ 東京".encode()])
def test_any_bytes_survive(session: Session, payload: bytes) -> None:
    """A payload is not text: bronze keeps what cannot be parsed."""
    session.publish(payload)
    assert payloads(session.pull()) == [payload]


def test_unicode_attributes_survive(session: Session) -> None:
    """Attributes are text in any script, keys too."""
    session.publish(b"x", **{"ville": "Genève", "都市": "東京 ✈"})
    assert dict(session.pull()[0].message.attributes) == {"ville": "Genève", "都市": "東京 ✈"}


def test_a_message_may_have_attributes_only(session: Session) -> None:
    """Notifications often do."""
    session.publish(b"", kind="ping")
    assert payloads(session.pull()) == [b""]


def test_five_megabytes_pass(session: Session) -> None:
    """Through a channel that takes them: the one made for PUBSUB_EMULATOR_HOST keeps gRPC's limit of 4 MiB."""
    payload = random.Random(5).randbytes(5_000_000)
    session.publish(payload)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(session.server.address, options) as channel:
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        request = {"subscription": session.subscription, "max_messages": 1}
        assert payloads(subscriber.pull(request=request, timeout=PATIENCE_SECONDS).received_messages) == [payload]


def test_an_empty_message_is_invalid(session: Session) -> None:
    """And the batch it is in with it."""
    with pytest.raises(exceptions.InvalidArgument, match="Some messages are empty"):
        session.publish(b"")


def test_an_empty_subscription_answers_an_impatient_pull(session: Session) -> None:
    """So that `drained` is known without waiting."""
    assert session.ready() == []


def test_a_waiting_pull_gets_what_is_published_meanwhile(session: Session) -> None:
    """The wait is the server's: clients do not poll."""
    timer = threading.Timer(0.3, session.publish, [b"late"])
    timer.start()
    assert payloads(session.pull()) == [b"late"]
    timer.join()


def test_a_waiting_pull_ends_with_an_empty_answer(session: Session) -> None:
    """Before the caller's own deadline, so that quiet is no error."""
    request = {"subscription": session.subscription, "max_messages": 1}
    assert not session.subscriber.pull(request=request, timeout=3, retry=None).received_messages


def test_leased_messages_are_not_handed_out_again(session: Session) -> None:
    """Two pullers share a subscription."""
    session.publish(*[b"%d" % n for n in range(10)])
    first, second = _pulled(session, 6), _pulled(session, 4)
    assert sorted(payloads(first + second)) == [b"%d" % n for n in range(10)]
    assert session.ready() == []


def test_each_subscription_gets_everything(session: Session) -> None:
    """A second reader takes nothing from the first."""
    another = session.subscribed()
    session.publish(b"a", b"b")
    session.ack(_pulled(session, 2))
    assert sorted(payloads(_pulled(session, 2, subscription=another))) == [b"a", b"b"]


def test_a_subscription_starts_with_its_creation(session: Session) -> None:
    """What was published before is not for it."""
    session.publish(b"before")
    another = session.subscribed()
    session.publish(b"after")
    assert payloads(session.pull(subscription=another)) == [b"after"]


def test_a_message_given_back_comes_again_at_once(session: Session) -> None:
    """Deadline 0, under a new ack id: how a slot that lost its race returns its messages."""
    session.publish(b"one")
    first = session.pull()
    session.move_deadline(first, 0)
    second = session.pull()
    assert payloads(second) == [b"one"]
    assert second[0].ack_id != first[0].ack_id
    assert second[0].message == first[0].message


def test_a_message_comes_again_after_the_ack_deadline(session: Session) -> None:
    """Ten seconds unless a subscription says otherwise: what a crashed reader held is not lost."""
    session.publish(b"one")
    first = session.pull()
    session.server.elapse(10.5)
    second = session.pull()
    assert payloads(second) == [b"one"]
    assert second[0].ack_id != first[0].ack_id


def test_an_acknowledged_message_never_comes_back(session: Session) -> None:
    """Neither after its lease nor when the lease is given back afterwards."""
    session.publish(b"one")
    received = session.pull()
    session.move_deadline(received, 1)
    session.ack(received)
    session.move_deadline(received, 0)
    session.server.elapse(2)
    assert session.ready() == []


def test_a_late_ack_is_ignored(session: Session) -> None:
    """An ack id is worth nothing once its message was handed out again."""
    session.publish(b"one")
    first = session.pull()
    session.move_deadline(first, 1)
    session.server.elapse(2)
    second = session.pull()
    session.ack(first)
    session.move_deadline(second, 0)
    assert payloads(session.pull()) == [b"one"]


def test_an_extended_lease_holds(session: Session) -> None:
    """Slots extend the leases of what they still write."""
    session.publish(b"one")
    received = session.pull()
    session.move_deadline(received, 1)
    session.move_deadline(received, 60)
    session.server.elapse(2)
    assert session.ready() == []


def test_the_ordinary_subscriber_streams(session: Session) -> None:
    """`subscribe()` as in Google's documentation, with its own leases, flow control and acknowledgements."""
    expected = {b"%d" % n for n in range(300)}
    session.publish(*expected)
    assert _streamed(session, 1, len(expected)) == Counter(expected)
    assert session.ready() == []


def test_two_streams_share_a_subscription(session: Session) -> None:
    """Nothing is handed to both."""
    expected = {b"%d" % n for n in range(300)}
    session.publish(*expected)
    assert _streamed(session, 2, len(expected)) == Counter(expected)


def test_a_stream_gets_what_is_published_while_it_is_open(session: Session) -> None:
    """And again what its callback gives back."""
    seen: list[bytes] = []
    done = threading.Event()

    def once_refused(message: Any) -> None:
        seen.append(message.data)
        if len(seen) < 2:
            message.nack()
        else:
            message.ack()
            done.set()

    with _subscribed(session, once_refused):
        session.publish(b"one")
        assert done.wait(PATIENCE_SECONDS)
    assert seen == [b"one", b"one"]


def test_ordered_messages_wait_for_their_predecessors(server: Server) -> None:
    """One batch per ordering key is out at a time."""
    with opened(server, enable_message_ordering=True) as session:
        session.publish(b"0", b"1", b"2", ordering_key="tail")
        first = session.pull(2)
        assert payloads(first) == [b"0", b"1"]
        assert session.ready() == []
        session.ack(first)
        assert payloads(session.pull()) == [b"2"]


def test_ordering_keys_need_not_be_honoured(session: Session) -> None:
    """A subscription without ordering takes keys as labels."""
    session.publish(b"0", b"1", ordering_key="tail")
    assert sorted(payloads(session.pull(1) + session.pull(1))) == [b"0", b"1"]


def test_what_does_not_exist_is_not_found(session: Session) -> None:
    """`Missing` must differ from `empty`."""
    missing = {"topic": f"{session.topic}-x", "subscription": f"{session.subscription}-x"}
    topic, subscription = {"topic": missing["topic"]}, {"subscription": missing["subscription"]}
    calls: list[tuple[Callable[..., object], dict[str, Any], str]] = [
        (session.publisher.get_topic, topic, "Topic not found"),
        (session.publisher.delete_topic, topic, "Topic not found"),
        (session.subscriber.get_subscription, subscription, "Subscription does not exist"),
        (session.subscriber.delete_subscription, subscription, "Subscription does not exist"),
        (session.subscriber.pull, {**subscription, "max_messages": 1}, "Subscription does not exist"),
        (session.subscriber.acknowledge, {**subscription, "ack_ids": ["a"]}, "Subscription does not exist"),
        (
            session.subscriber.create_subscription,
            {"name": missing["subscription"], **topic},
            "Subscription topic does not exist",
        ),
    ]
    for call, request, text in calls:
        with pytest.raises(exceptions.NotFound, match=text):
            call(request=request)
    with pytest.raises(exceptions.NotFound, match="Topic not found"):
        session.publisher.publish(missing["topic"], b"x").result(PATIENCE_SECONDS)
    with pytest.raises(exceptions.NotFound, match="Subscription does not exist"):
        session.subscriber.subscribe(missing["subscription"], lambda message: None).result(PATIENCE_SECONDS)


def test_what_exists_is_not_created_again(session: Session) -> None:
    """So that set-up can be repeated."""
    with pytest.raises(exceptions.AlreadyExists, match="Topic already exists"):
        session.publisher.create_topic(request={"name": session.topic})
    with pytest.raises(exceptions.AlreadyExists, match="Subscription already exists"):
        session.subscriber.create_subscription(request={"name": session.subscription, "topic": session.topic})


@pytest.mark.parametrize("seconds", [-1, 601])
def test_an_ack_deadline_out_of_bounds_is_invalid(session: Session, seconds: int) -> None:
    """When the subscription is made."""
    with pytest.raises(exceptions.InvalidArgument, match="ack_deadline_secs out of bounds"):
        session.subscribed(ack_deadline_seconds=seconds)


def test_a_negative_lease_is_invalid(session: Session) -> None:
    """When it is asked for."""
    session.publish(b"one")
    with pytest.raises(exceptions.InvalidArgument, match="Ack deadline cannot be negative"):
        session.move_deadline(session.pull(), -1)


def test_an_ack_id_that_was_never_given_is_invalid(session: Session) -> None:
    """Unlike one that has run out."""
    with pytest.raises(exceptions.InvalidArgument, match=r"Invalid ack id \(ack_id=bogus\)"):
        session.subscriber.acknowledge(request={"subscription": session.subscription, "ack_ids": ["bogus"]})


@pytest.mark.parametrize("name", ["events", "projects/p/topics/", "projects/p/topics/ab", "projects/p/topics/google"])
def test_a_malformed_name_is_invalid(session: Session, name: str) -> None:
    """Names are checked before anything is looked up."""
    with pytest.raises(exceptions.InvalidArgument, match=r"Invalid \[topics\] name"):
        session.publisher.create_topic(request={"name": name})


def test_listings_know_what_was_made(session: Session) -> None:
    """Page by page."""
    another = session.subscribed()
    assert session.topic in [each.name for each in session.publisher.list_topics(request={"project": PROJECT})]
    of_topic = session.publisher.list_topic_subscriptions(request={"topic": session.topic, "page_size": 1})
    assert set(of_topic) == {session.subscription, another}
    of_project = session.subscriber.list_subscriptions(request={"project": PROJECT, "page_size": 1})
    assert {session.subscription, another} <= {each.name for each in of_project}


def test_a_subscription_has_the_services_defaults(session: Session) -> None:
    """What was left out reads as what holds."""
    settings = session.subscriber.get_subscription(request={"subscription": session.subscription})
    assert (settings.topic, settings.ack_deadline_seconds) == (session.topic, 10)
    assert settings.message_retention_duration == timedelta(days=7)


def test_the_ack_deadline_can_be_changed(session: Session) -> None:
    """Only by a mask that says so."""
    changed = types.Subscription(name=session.subscription, topic=session.topic, ack_deadline_seconds=60)
    update = session.subscriber.update_subscription
    mask = FieldMask(paths=["ack_deadline_seconds"])
    assert update(request={"subscription": changed, "update_mask": mask}).ack_deadline_seconds == 60
    with pytest.raises(exceptions.InvalidArgument, match="the topic field in the Subscription is not mutable"):
        update(request={"subscription": changed, "update_mask": FieldMask(paths=["topic"])})


def test_a_deleted_topic_leaves_its_subscriptions(session: Session) -> None:
    """With what they still owe."""
    session.publish(b"one")
    session.publisher.delete_topic(request={"topic": session.topic})
    settings = session.subscriber.get_subscription(request={"subscription": session.subscription})
    assert settings.topic == "_deleted-topic_"
    assert payloads(session.pull()) == [b"one"]


def test_a_deleted_subscription_forgets(session: Session) -> None:
    """One made again under its name starts empty."""
    session.publish(b"one")
    session.subscriber.delete_subscription(request={"subscription": session.subscription})
    with pytest.raises(exceptions.NotFound):
        session.ready()
    session.subscriber.create_subscription(request={"name": session.subscription, "topic": session.topic})
    assert session.ready() == []


def _pulled(session: Session, count: int, *, subscription: str = "") -> list[types.ReceivedMessage]:
    """Exactly `count`, since one answer may be short."""
    received: list[types.ReceivedMessage] = []
    while len(received) < count:
        received += session.pull(count - len(received), subscription=subscription)
    return received


@contextmanager
def _subscribed(session: Session, callback: Callable[[Any], None]) -> Iterator[None]:
    future = session.subscriber.subscribe(session.subscription, callback, flow_control=FlowControl(max_messages=20))
    try:
        yield
    finally:
        future.cancel()
        future.result(PATIENCE_SECONDS)


def _streamed(session: Session, streams: int, count: int) -> Counter[bytes]:
    """What the callbacks of some streams saw, all acknowledged, when it was `count` messages."""
    seen: Counter[bytes] = Counter()
    lock, done = threading.Lock(), threading.Event()

    def take(message: Any) -> None:
        message.ack()
        with lock:
            seen[message.data] += 1
            if seen.total() >= count:
                done.set()

    with ExitStack() as stack:
        for _ in range(streams):
            stack.enter_context(_subscribed(session, take))
        assert done.wait(PATIENCE_SECONDS), f"{seen.total()} of {count}"
    return seen


# --- The broker alone -------------------------------------------------------------------------------------------------


def test_no_ack_deadline_is_shorter_than_ten_seconds(own: Session) -> None:
    """As in the service; the emulator is more lenient."""
    with pytest.raises(exceptions.InvalidArgument, match="ack_deadline_secs out of bounds"):
        own.subscribed(ack_deadline_seconds=9)


def test_a_lease_lasts_to_its_deadline(own: Session, clock: Clock) -> None:
    """Not less, and not more."""
    own.publish(b"one")
    own.pull()
    clock.advance(9.9)
    assert own.ready() == []
    clock.advance(0.1)
    assert own.ready() == [b"one"]


def test_an_ack_after_the_deadline_is_worth_nothing(own: Session, clock: Clock) -> None:
    """Even if nobody got the message in between: the strictest service a client may meet."""
    own.publish(b"one")
    received = own.pull()
    clock.advance(10)
    own.ack(received)
    assert own.ready() == [b"one"]


def test_what_is_unacked_and_published_can_be_read(own: Session, broker: Broker) -> None:
    """For tests that count, and for the status of the sandbox."""
    ids = own.publish(b"a", b"b", b"c")
    own.ack(own.pull(1))
    assert broker.published(own.topic) == ids
    assert broker.unacked(own.subscription) == ids[1:]


def test_a_publisher_may_say_when_a_message_is_published(clock: Clock) -> None:
    """The demo replays a day: messages carry its times, come when it has got there, and nothing tells them apart."""
    day = Clock(datetime(2013, 1, 2, 12, tzinfo=UTC))
    with (
        Broker(clock=clock.seconds, publish_clock=day.seconds) as broker,
        opened(Server(broker.address, day.seconds, clock.advance)) as session,
    ):
        for payload, minutes in ((b"later", 30), (b"sooner", 10)):
            moment = day.now + timedelta(minutes=minutes)
            session.publish(payload, **{PUBLISH_TIME: moment.isoformat(), "client": "aircraft"})
        assert (broker.backlog(session.subscription), len(broker.unacked(session.subscription))) == (0, 2)
        assert session.ready() == []
        day.advance(600)
        assert broker.backlog(session.subscription) == 1
        (sooner,) = session.pull()
        published_at: Any = sooner.message.publish_time
        assert (sooner.message.data, published_at) == (b"sooner", day.now)
        assert dict(sooner.message.attributes) == {"client": "aircraft"}
        day.advance(1200)
        assert session.ready() == [b"later"]
        clock.advance(9)
        assert session.ready() == []  # a lease goes by the machine's clock, however far the day leaps
        clock.advance(2)
        assert sorted(session.ready()) == [b"later", b"sooner"]


@pytest.mark.parametrize("said", ["yesterday", "2013-01-02T12:00:00"])
def test_a_publish_time_that_cannot_be_read_is_refused(own: Session, broker: Broker, said: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match=f"a time with its zone, not {said}"):
        own.publish(b"one", **{PUBLISH_TIME: said})
    assert broker.unacked(own.subscription) == []


def test_a_setting_that_the_broker_lacks_is_refused(own: Session) -> None:
    """Rather than ignored: a filter that does not filter is worse than none."""
    with pytest.raises(exceptions.MethodNotImplemented, match="no filter"):
        own.subscribed(filter='attributes.origin = "JFK"')


def test_more_than_a_request_may_have_is_invalid(own: Session) -> None:
    """Said by the broker, not by gRPC's limits."""
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert _refusal(own, *[bytes(6_000_000)] * 2) == (
        invalid,
        "Request payload size exceeds the limit: 10485760 bytes.",
    )
    assert _refusal(own, *[b"x"] * 1001) == (invalid, "Too many messages to publish")


def test_a_page_fits_a_channel_with_grpcs_limit(own: Session) -> None:
    """Big messages come in several pages, none of which the client would refuse."""
    own.publish(*[bytes(1_500_000)] * 5)
    assert len(own.pull()) == 2
    assert len(_pulled(own, 3)) == 3


def test_a_stream_holds_no_more_than_it_asked_for(own: Session) -> None:
    """Flow limits count what is not acknowledged, and acks by any road make room."""
    own.publish(*[b"%d" % n for n in range(5)])
    with _raw_stream(own, max_outstanding_messages=2) as replies:
        held = _received(replies, 2)
        assert sorted(own.ready()) == [b"2", b"3", b"4"]
        own.move_deadline(held, 0)
        assert sorted(payloads(_received(replies, 2))) == [b"0", b"1"]


@pytest.mark.parametrize("order", [("ack", "nack"), ("nack", "ack")])
def test_a_message_of_a_key_that_comes_again_brings_all_its_successors_again(
    order: tuple[str, str], broker: Broker, clock: Clock
) -> None:
    """Also one that was acknowledged ("Order messages" in Google's documentation); it must be acknowledged again."""
    with opened(Server(broker.address, clock.seconds, clock.advance), enable_message_ordering=True) as own:
        own.publish(b"0", b"1", b"2", b"3", ordering_key="tail")
        before, first, second = own.pull(3)
        own.ack([before])
        for act in order:
            own.ack([second]) if act == "ack" else own.move_deadline([first], 0)
        again = own.pull()
        assert payloads(again) == [b"1", b"2", b"3"]
        assert len(broker.unacked(own.subscription)) == 3
        own.ack(again)
        assert broker.unacked(own.subscription) == []
        assert own.ready() == []


def test_a_pull_that_waits_on_a_deleted_subscription_is_reported(own: Session) -> None:
    """At once, not when its wait is over."""
    timer = threading.Timer(0.2, own.subscriber.delete_subscription, [{"subscription": own.subscription}])
    timer.start()
    with pytest.raises(exceptions.NotFound):
        own.pull()
    timer.join()


def test_a_port_in_use_is_an_operators_error(broker: Broker, capfd: pytest.CaptureFixture[str]) -> None:
    """Two brokers on one port would each get some of the calls. gRPC has nothing to add."""
    with (
        pytest.raises(UsageError, match="cannot be bound"),
        Broker(port=int(broker.address.rpartition(":")[2])),
    ):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_an_operators_error(host: str) -> None:
    with pytest.raises(UsageError, match="cannot be bound"), Broker(host=host):
        pass


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_a_host_of_this_machine_is_served(host: str) -> None:
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Broker(host=host) as broker:
        assert int(broker.address.rpartition(":")[2]) > 0


def test_a_broker_creates_a_subscription_with_its_topic() -> None:
    with Broker() as broker:
        assert broker.create("projects/p/subscriptions/plays") == topic_path("projects/p/subscriptions/plays")
        assert broker.published("projects/p/topics/plays") == broker.unacked("projects/p/subscriptions/plays") == []
        with pytest.raises(UsageError, match=r"projects/p/subscriptions/x: found Invalid .*; expected a name that"):
            broker.create("projects/p/subscriptions/x")


def test_a_broker_that_went_away_comes_back_with_what_it_owed() -> None:
    """An outage: the same port, topics and messages, since entering again only serves again."""
    broker = Broker()
    with broker, opened(Server(broker.address, time.time, time.sleep)) as session:
        address, ids = broker.address, session.publish(b"one")
    with broker:
        assert broker.address == address
        assert broker.unacked(session.subscription) == ids


def test_serve_ends_in_peace_when_asked_to() -> None:
    """SIGTERM is how a terminal, a container or a test ends the sandbox."""
    program = (
        "from lakehouse.sandbox.broker import serve; serve('127.0.0.1', 0, lambda b: print(b.address, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.parametrize("code", CODES)
def test_a_refused_call_has_no_effect(own: Session, broker: Broker, code: grpc.StatusCode) -> None:
    """And it says why."""

    class NoPublish(Faults):
        def refused(self, method: str) -> grpc.StatusCode | None:
            return code if method == "Publish" else None

    broker.faults = NoPublish()
    assert _refusal(own, b"one") == (code, "Fault injected by the sandbox")
    assert broker.published(own.topic) == []


def test_a_lost_answer_hides_an_effect(own: Session, broker: Broker) -> None:
    """The caller cannot know: the message is there."""

    class SilentPublish(Faults):
        def answer_lost(self, method: str) -> grpc.StatusCode | None:
            return grpc.StatusCode.UNAVAILABLE if method == "Publish" else None

    broker.faults = SilentPublish()
    assert _refusal(own, b"one")[0] is grpc.StatusCode.UNAVAILABLE
    assert own.ready() == [b"one"]


def test_the_clients_retry_publishes_twice(own: Session, broker: Broker) -> None:
    """Under two message ids, when it was the answer that got lost: only an event id can tell."""
    answers = iter([grpc.StatusCode.UNAVAILABLE])

    class FirstAnswerLost(Faults):
        def answer_lost(self, method: str) -> grpc.StatusCode | None:
            return next(answers, None) if method == "Publish" else None

    broker.faults = FirstAnswerLost()
    own.publish(b"one")
    assert own.ready() == [b"one", b"one"]
    assert len(broker.published(own.topic)) == 2


def test_duplicates_come_even_after_the_ack(own: Session, broker: Broker) -> None:
    """One message, two deliveries: `at least once` in its plainest form."""
    broker.faults = RandomFaults(1, duplicated=1.0)
    own.publish(b"one")
    own.ack(own.pull(1))
    assert broker.unacked(own.subscription) == []
    assert own.ready() == [b"one"]


def test_a_duplicate_is_not_owed_again(own: Session, broker: Broker, clock: Clock) -> None:
    """When its lease runs out and the message was acknowledged through its twin."""
    broker.faults = RandomFaults(1, duplicated=1.0)
    own.publish(b"one")
    first, _ = _pulled(own, 2)
    own.ack([first])
    clock.advance(10)
    assert own.ready() == []


def test_reordered_messages_all_arrive(own: Session, broker: Broker) -> None:
    """In another order than they were published in."""
    broker.faults = RandomFaults(1, reordered=1.0)
    messages = [types.PubsubMessage(data=b"%02d" % n) for n in range(50)]
    own.publisher.transport.publish(types.PublishRequest(topic=own.topic, messages=messages))
    arrived = payloads(_pulled(own, 50))
    assert arrived != sorted(arrived)
    assert sorted(arrived) == [message.data for message in messages]


def test_delayed_messages_are_owed_before_they_arrive(own: Session, broker: Broker, clock: Clock) -> None:
    """Their age counts from publishing, so the frontier waits for them."""

    class Slow(Faults):
        def arrivals(self, messages: Sequence[Message]) -> Sequence[tuple[float, Message]]:
            return [(5.0, message) for message in messages]

    broker.faults = Slow()
    ids = own.publish(b"one")
    assert own.ready() == []
    assert broker.unacked(own.subscription) == ids
    clock.advance(5)
    assert own.ready() == [b"one"]


def test_a_dropped_ack_looks_like_any_other(own: Session, broker: Broker, clock: Clock) -> None:
    """The message comes back when its lease ends."""
    broker.faults = RandomFaults(1, ack_dropped=1.0)
    own.publish(b"one")
    own.ack(own.pull())
    clock.advance(10)
    assert own.ready() == [b"one"]


def test_a_cut_lease_ends_early(own: Session, broker: Broker, clock: Clock) -> None:
    """Redelivery to another reader while the first still holds the message."""
    broker.faults = RandomFaults(1, lease_cut=1.0)
    own.publish(b"one")
    own.pull()
    clock.advance(9.9)
    assert own.ready() == [b"one"]


def test_random_faults_are_the_same_for_the_same_seed() -> None:
    """A schedule that failed can be run again."""

    def drawn(seed: int) -> list[object]:
        faults = RandomFaults(seed, refused=0.3, ack_dropped=0.3, lease_cut=0.3)
        return [draw for _ in range(50) for draw in (faults.refused("Pull"), faults.ack_dropped("a"))]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_everything_arrives_in_a_storm(own: Session, broker: Broker, clock: Clock) -> None:
    """Faults may delay and repeat, never lose: what the exactly-once tests stand on."""
    broker.faults = RandomFaults(
        23,
        duplicated=0.2,
        reordered=0.5,
        delayed=0.3,
        ack_dropped=0.2,
        lease_cut=0.3,
        longest_delay=timedelta(seconds=20),
    )
    ids = set(own.publish(*[b"%d" % n for n in range(200)]))
    seen: set[str] = set()
    for _ in range(100):
        if received := own.at_once():
            seen |= {each.message.message_id for each in received}
            own.ack(received)
        clock.advance(5)
    assert seen == ids
    assert broker.unacked(own.subscription) == []


# --- Cloud Monitoring -------------------------------------------------------------------------------------------------


def test_the_metric_is_the_age_of_the_oldest_unacked_message(own: Session, clock: Clock) -> None:
    """Leased or not, in whole seconds: a sample of age a taken at s says that all before s − a is consumed."""
    own.publish(b"old")
    clock.advance(30)
    own.publish(b"young")
    clock.advance(12.7)
    assert _sampled(own) == [(42, clock.seconds())]
    own.ack(own.pull(1))
    assert _sampled(own) == [(12, clock.seconds())]


def test_the_metric_is_zero_when_nothing_waits(own: Session, clock: Clock) -> None:
    """A sample that says so is other than no sample."""
    assert _sampled(own) == [(0, clock.seconds())]


def test_a_stale_sample_has_its_own_time(own: Session, broker: Broker, clock: Clock) -> None:
    """The real ones are minutes old: a reader must take their time, not its own."""
    own.publish(b"one")
    clock.advance(600)
    broker.sampling = Sampling(age=timedelta(minutes=4))
    assert _sampled(own) == [(360, clock.seconds() - 240)]
    assert _sampled(own, span=timedelta(minutes=3)) == []


def test_missing_samples_are_no_time_series(own: Session, broker: Broker) -> None:
    """Absence of data is not zero."""
    broker.sampling = MISSING
    assert _sampled(own) == []


def test_denied_samples_are_an_error(own: Session, broker: Broker) -> None:
    """A service account without monitoring.viewer."""
    broker.sampling = DENIED
    with pytest.raises(exceptions.PermissionDenied):
        _sampled(own)


def test_the_filter_selects_the_subscription(own: Session) -> None:
    """By label, one or several; what the filter does not name is not asked."""
    another = own.subscribed().rpartition("/")[2]
    mine = own.subscription.rpartition("/")[2]
    metric = f'metric.type = "{OLDEST_UNACKED_MESSAGE_AGE}"'
    label = "resource.labels.subscription_id"
    assert _listed(own, f'{metric} AND {label} = "{mine}"') == {mine}
    assert _listed(own, f'{metric} AND {label} = one_of("{mine}", "{another}")') == {mine, another}
    assert _listed(own, f'{metric} AND {label} = "nobody"') == set()
    assert _listed(own, metric) == {mine, another}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('metric.type = "pubsub.googleapis.com/subscription/num_undelivered_messages"', exceptions.NotFound),
        (f'metric.type = "{OLDEST_UNACKED_MESSAGE_AGE}" OR true', exceptions.InvalidArgument),
    ],
)
def test_a_filter_that_is_not_understood_is_refused(own: Session, text: str, error: type[Exception]) -> None:
    """Rather than answered with what was not asked for."""
    with pytest.raises(error):
        _listed(own, text)


def _sampled(own: Session, span: timedelta = timedelta(minutes=10)) -> list[tuple[int, Any]]:
    """Value and time of the points of the session's subscription."""
    name = own.subscription.rpartition("/")[2]
    text = f'metric.type = "{OLDEST_UNACKED_MESSAGE_AGE}" AND resource.labels.subscription_id = "{name}"'
    return [
        (point.value.int64_value, pytest.approx(point.interval.end_time.timestamp()))
        for series in _time_series(own, text, span)
        for point in series.points
    ]


def _listed(own: Session, text: str) -> set[str]:
    return {series.resource.labels["subscription_id"] for series in _time_series(own, text, timedelta(minutes=5))}


def _time_series(own: Session, text: str, span: timedelta) -> list[Any]:
    end = datetime.fromtimestamp(own.server.now(), UTC)
    interval = TimeInterval(start_time=end - span, end_time=end)
    with grpc.insecure_channel(own.server.address) as channel:
        client = MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
        return list(client.list_time_series(request={"name": PROJECT, "filter": text, "interval": interval}))


def _refusal(own: Session, *payloads: bytes) -> tuple[grpc.StatusCode, str]:
    """The answer to one Publish without the client library's retries."""
    request = types.PublishRequest.pb()(topic=own.topic, messages=[{"data": data} for data in payloads])
    with grpc.insecure_channel(own.server.address) as channel:
        call = channel.unary_unary("/google.pubsub.v1.Publisher/Publish")
        with pytest.raises(grpc.RpcError) as refused:
            call(request.SerializeToString(), timeout=PATIENCE_SECONDS)
    return refused.value.code(), refused.value.details()


@contextmanager
def _raw_stream(own: Session, **limits: int) -> Iterator[Iterator[Any]]:
    first = types.StreamingPullRequest.pb()(subscription=own.subscription, stream_ack_deadline_seconds=60, **limits)
    left = threading.Event()

    def requests() -> Iterator[bytes]:
        yield first.SerializeToString()
        left.wait()

    with grpc.insecure_channel(own.server.address) as channel:
        path = "/google.pubsub.v1.Subscriber/StreamingPull"
        stream = channel.stream_stream(path, response_deserializer=types.StreamingPullResponse.pb().FromString)
        yield stream(requests(), timeout=PATIENCE_SECONDS)
        left.set()


def _received(replies: Iterator[Any], count: int) -> list[Any]:
    received: list[Any] = []
    while len(received) < count:
        received += next(replies).received_messages
    return received
