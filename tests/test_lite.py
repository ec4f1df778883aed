"""Ingest from Pub/Sub Lite: every message once, whatever ends, breaks off or is missing in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.cloud.pubsublite_v1")

import grpc
import yaml
from fake_lite import LEAST_QUOTA_BYTES, FakeLite, SequencedMessage
from log_lake import (
    FIELDS,
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

from lakehouse.config import Config, Settings, topic_of
from lakehouse.errors import ConfigError, LostMessagesError, SourceError, UnansweredError
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.brokers import lite, lite_stream, partitions
from lakehouse.landing.brokers.lite import Lite, client_of
from lakehouse.landing.brokers.lite_messages import page_of
from lakehouse.sources import LiteSource, source_at
from lakehouse.store.records import Lost
from lakehouse.topics import Slots, Topic, topic_from

TOPIC = "projects/7/locations/europe-west1-b/topics/plays"
SUBSCRIPTION = "projects/7/locations/europe-west1-b/subscriptions/lake"
HOUR = timedelta(hours=1)
Code = grpc.StatusCode


@pytest.fixture
def fake() -> Iterator[FakeLite]:
    with FakeLite() as fake:
        fake.create(TOPIC, 1, SUBSCRIPTION)
        yield fake
        assert fake.violations == []


@pytest.fixture
def first() -> datetime:
    return hour_long_over()


def lite_topic(fake: FakeLite, **values: Any) -> Topic:
    source = {"kind": "pubsublite", "subscription": SUBSCRIPTION, "endpoint": fake.endpoint, **values.pop("source", {})}
    return topic_from("plays", {**FIELDS, "source": source, **values})


@pytest.fixture
def config(settings: Settings, fake: FakeLite, tmp_path: Path) -> Config:
    return config_of(lite_topic(fake), tmp_path, settings)


@pytest.fixture
def started(config: Config, tmp_path: Path) -> Callable[..., Application]:
    return starter(config, tmp_path)


# --- the whole way -------------------------------------------------------------------------------------------------


def test_hours_land_whole_through_resets_broken_streams_a_lost_checkpoint_and_holes(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """Three hours on two partitions. Each delivery is in bronze once, and each hour closes by the exact frontier."""
    fake.widen(TOPIC, 2)
    application = started()
    assert application.positions() == {0: 0, 1: 0}
    fake.publish(TOPIC, *(event(first, f"a{n:03d}") for n in range(250)), at=first)
    fake.publish(TOPIC, *(event(first, f"b{n}") for n in range(5)), at=first, partition=1)
    fake.breaks_after = 100, Code.ABORTED
    application.batch()
    assert application.ids() == [*(f"a{n:03d}" for n in range(250)), *numbered("b", range(5))]
    assert application.positions() == {0: 250, 1: 5}

    fake.breaks_after = None
    fake.topics[TOPIC][1].head += 3  # offsets that nothing has
    fake.publish(TOPIC, *(event(first + HOUR, f"c{n}") for n in range(5)), at=first + HOUR, partition=1)
    fake.topics[TOPIC][1].head += 2
    fake.seek(SUBSCRIPTION, 0, 0)
    fake.refusals["ComputeTimeCursor"] = deque([None, None, Code.UNAVAILABLE])  # the question whether it is a hole
    application.batch()
    assert application.positions() == {0: 250, 1: 15}

    again = started("two")  # a new process without a checkpoint, and without the old one's memory
    fake.publish(TOPIC, event(first + 2 * HOUR, "d"), at=first + 2 * HOUR)
    again.batches(3)
    assert len(again.ids()) == len(set(again.ids())) == 261
    assert closed(again.history())[:3] == [f"{first + n * HOUR:%Y-%m-%dT%H}" for n in range(3)]
    assert again.ingest.last_batch is not None
    assert again.ingest.last_batch.frontier is not None


def test_partitions_added_later_are_read_from_their_begin(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    application.batch()
    fake.widen(TOPIC, 3)
    fake.publish(TOPIC, event(first, "b"), at=first, partition=2)
    application.batch()
    assert application.ids() == ["a", "b"]
    assert application.positions() == {0: 1, 1: 0, 2: 1}


def test_slots_share_the_partitions(fake: FakeLite, first: datetime, started: Callable[..., Application]) -> None:
    fake.widen(TOPIC, 20)
    application = started(slots=Slots(min=2, max=2))
    for partition in range(20):
        fake.publish(TOPIC, event(first, f"p{partition:02d}"), at=first, partition=partition)
    facts = application.batch()
    assert {fact["slot"] for fact in facts} == {0, 1}
    assert application.ids() == [f"p{n:02d}" for n in range(20)]


def test_a_first_start_may_be_at_an_hour_or_after_the_last_message(
    fake: FakeLite, first: datetime, config: Config
) -> None:
    fake.widen(TOPIC, 2)
    for n in range(3):
        fake.publish(TOPIC, event(first, "x"), at=first + n * HOUR)
    broker = Lite()
    for start, offsets in (
        ("earliest", {0: 0, 1: 0}),
        ("latest", {0: 3, 1: 0}),
        (f"{first + HOUR:%Y-%m-%dT%H}", {0: 1, 1: 0}),
    ):
        topic = lite_topic(fake, source={"start": start})
        positions = broker.start(topic, config.settings.ingest)
        assert positions is not None
        assert (start, dict(positions.offsets)) == (start, offsets)


def test_the_frontier_is_when_heads_were_asked_that_all_was_read_up_to(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    application = started()
    application.batch()
    known = application.ingest.last_batch
    assert known is not None
    assert known.frontier is not None
    fake.publish(TOPIC, event(first, "a"), at=first)
    fake.refusals["Subscribe"] = deque([Code.UNAVAILABLE] * 1000)
    application.stream._ingest = application.stream._ingest.model_copy(update={"max_pull": timedelta(seconds=0.3)})
    application.batch()
    held = application.ingest.last_batch
    assert held is not None
    assert held.frontier == known.frontier
    fake.refusals.clear()
    application.batches(2)
    after = application.ingest.last_batch
    assert after is not None
    assert after.frontier is not None
    assert after.frontier > known.frontier


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_message_has_its_place_its_attributes_its_key_and_the_service_s_time(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """What is no UTF-8 is in base64, and named so; of several values of an attribute the last has its name."""
    fake.widen(TOPIC, 2)
    attributes = {"source": [b"web"], "raw": [b"\xff"], "twice": [b"1", b"2"], "none": []}
    fake.publish(TOPIC, event(first, "a"), at=first, partition=1, attributes=attributes, key="käy".encode(),
                 event_time=first + timedelta(microseconds=7))  # fmt: skip
    fake.publish(TOPIC, event(first, "b"), at=first, key=b"\xfe")
    application = started()
    application.batch()
    rows = {row["message_id"]: row for row in application.bronze().to_pylist()}
    assert set(rows) == {"1:0", "0:0"}
    assert dict(rows["1:0"]["attributes"]) == {
        "source": "web",
        "raw.base64": "/w==",
        "twice#1": "1",
        "twice": "2",
        "pubsublite.event_time": f"{first:%Y-%m-%dT%H}:00:00.000007Z",
    }
    assert (rows["1:0"]["ordering_key"], rows["1:0"]["publish_time"]) == ("käy", first)
    assert (rows["0:0"]["ordering_key"], dict(rows["0:0"]["attributes"])) == (None, {"pubsublite.key.base64": "/g=="})


def test_the_event_time_that_a_publisher_gives_may_be_the_event_s(
    fake: FakeLite, first: datetime, settings: Settings, tmp_path: Path
) -> None:
    topic = lite_topic(fake, event_time="attributes.pubsublite.event_time")
    fake.publish(TOPIC, event(first, "a"), at=first, event_time=first + timedelta(minutes=3))
    application = Application(topic, config_of(topic, tmp_path, settings), tmp_path)
    application.batch()
    (row,) = application.bronze().to_pylist()
    assert row["event_time"] == first + timedelta(minutes=3)


def test_what_is_not_stored_yet_is_not_taken(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """A subscription that delivers immediately shows messages that the log may never have."""
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    fake.deliver_early(TOPIC, event(first, "vanishes"))
    application.batch()
    assert (application.ids(), application.positions()) == (["a"], {0: 1})
    fake.publish(TOPIC, event(first, "in its place"), at=first)
    application.batch()
    assert application.ids() == ["a", "in its place"]


# --- streams -------------------------------------------------------------------------------------------------------


def test_no_more_is_asked_for_than_is_wanted_and_a_large_message_comes(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """Tokens are for pages; a message that is larger than all tokens together would never come."""
    fake.publish(TOPIC, *(event(first, f"e{n:03d}") for n in range(250)), at=first)
    large = {"event_id": "large", "padding": b"x" * (9 * 1024**2)}
    fake.publish(TOPIC, event(first, "large").replace(b'"n"', b'"padding": "' + large["padding"] + b'", "n"'), at=first)
    application = started()
    application.stream._ingest = application.stream._ingest.model_copy(update={"max_messages": 100})
    ends = []
    for _ in range(3):
        application.batch()
        ends.append(application.positions()[0])
    assert ends == [100, 200, 251]
    assert application.ids() == [*(f"e{n:03d}" for n in range(250)), "large"]
    messages, size_bytes = fake.most_outstanding
    assert messages <= 100
    assert size_bytes <= 10 * 1024**2


def test_nothing_is_sent_before_the_first_request_is_answered(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """The fake breaks a stream, and says so, that does."""
    fake.answers_after = 0.3
    fake.publish(TOPIC, event(first, "a"), at=first)
    application = started()
    application.batch()
    assert application.ids() == ["a"]


def test_the_fake_breaks_streams_of_clients_that_do_not_keep_to_the_protocol() -> None:
    """Else the tests before this one would show nothing."""
    with FakeLite() as fake:
        fake.create(TOPIC, 1, SUBSCRIPTION)
        fake.publish(TOPIC, b"a", b"b", b"c")
        fake.answers_after = 0.2
        channel = grpc.insecure_channel(fake.endpoint.removeprefix("http://"))
        calls = lite.Calls(channel, 5)
        place = lite_stream.SeekRequest(cursor=lite_stream.Cursor(offset=0))
        initial = lite_stream.SubscribeRequest(
            initial=lite_stream.InitialSubscribeRequest(subscription=SUBSCRIPTION, initial_location=place)
        )
        tokens = lite_stream.SubscribeRequest(
            flow_control=lite_stream.FlowControlRequest(allowed_messages=2, allowed_bytes=10**6)
        )
        with pytest.raises(grpc.RpcError) as early:
            list(calls.subscribe(SUBSCRIPTION, 0, iter([initial, tokens])))
        assert early.value.code() == Code.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as uninitiated:
            list(calls.subscribe(SUBSCRIPTION, 0, iter([tokens])))
        assert uninitiated.value.code() == Code.INVALID_ARGUMENT
        assert fake.violations == [
            "a request before the first one was answered",
            "a stream that does not begin with an initial request",
        ]
        channel.close()


@pytest.mark.parametrize(
    "code", [Code.UNAVAILABLE, Code.ABORTED, Code.INTERNAL, Code.UNKNOWN, Code.RESOURCE_EXHAUSTED, Code.CANCELLED]
)
def test_a_stream_that_breaks_in_passing_goes_on_where_it_was(
    fake: FakeLite, first: datetime, started: Callable[..., Application], code: Code
) -> None:
    fake.publish(TOPIC, *(event(first, f"e{n:03d}") for n in range(300)), at=first)
    fake.breaks_after = 100, code
    application = started()
    application.batch()
    assert application.ids() == [f"e{n:03d}" for n in range(300)]
    assert fake.requests["Subscribe"] >= 3


def test_another_reader_of_the_subscription_costs_time_and_no_message(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    """The service ends the older stream of a partition: each goes on at its own position."""
    fake.publish(TOPIC, *(event(first, f"e{n:03d}") for n in range(300)), at=first)
    application = started()
    ((_, bundle),) = [(0, each) for each in application.stream.partitions({}, application.stream.latestOffset())]
    other = started("two")
    list(application.stream.read(bundle))
    other.batches(2)
    assert other.ids() == [f"e{n:03d}" for n in range(300)]


def test_committed_cursors_follow_bronze_for_others_and_are_read_by_nobody(
    fake: FakeLite, first: datetime, started: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lite, "COMMIT_EVERY_SECONDS", 0.0)
    cursors = fake.subscriptions[SUBSCRIPTION].cursors
    application = started()
    fake.publish(TOPIC, event(first, "a"), event(first, "b"), at=first)
    application.batch()
    assert cursors == {}
    application.batch()
    until(lambda: cursors == {0: 2})
    cursors[0] = 0
    again = started("two")
    again.batch()
    assert again.ids() == ["a", "b"]


def test_a_cursor_is_committed_no_more_often_than_quotas_allow(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    application = started()
    for n in range(5):
        fake.publish(TOPIC, event(first, f"e{n}"), at=first)
        application.batch()
    until(lambda: fake.requests["CommitCursor"] == 1)
    assert fake.requests["GetSubscription"] == 1


# --- a query of one's own ------------------------------------------------------------------------------------------


def test_a_query_of_its_own_has_each_message_once_and_the_same_again_when_it_is_planned_again(
    fake: FakeLite, first: datetime, tmp_path: Path
) -> None:
    fake.widen(TOPIC, 2)
    fake.publish(TOPIC, event(first, "before"), at=first)
    topic = lite_topic(fake, source={"start": "latest"}, slots={"min": 2, "max": 2})
    query = Query(topic, tmp_path)
    assert query.batch() == []
    begin = query.offset
    fake.publish(TOPIC, event(first, "a"), at=first)
    fake.publish(TOPIC, event(first, "b"), at=first, partition=1)
    assert query.batch() == ["0:1", "1:0"]
    query.stream.commit(begin)
    fake.publish(TOPIC, event(first, "c"), at=first)
    again = Query(topic, tmp_path, begin)  # the process died before the batch was in Spark's commit log
    assert again.rows(begin, query.offset) == ["0:1", "1:0"]
    again.offset = query.offset
    assert again.batch() == ["0:2"]
    again.stream.commit(again.offset)
    fake.publish(TOPIC, event(first, "d"), at=first, partition=1)
    assert again.batch() == ["1:1"]


def test_a_query_whose_first_batch_is_planned_again_begins_where_it_did(
    fake: FakeLite, first: datetime, tmp_path: Path
) -> None:
    """`start: latest` is somewhere else by then."""
    topic = lite_topic(fake, source={"start": "latest"})
    dying = Query(topic, tmp_path)
    end = dying.stream.latestOffset(dying.offset)
    dying.stream.partitions(dying.offset, end)
    fake.publish(TOPIC, event(first, "a"), at=first)
    assert Query(topic, tmp_path, dying.offset).rows(dying.offset, end) == ["0:0"]


@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_query_does_not_go_on_in_a_log_of_the_same_name(
    fake: FakeLite, first: datetime, tmp_path: Path, is_cleared: bool
) -> None:
    """With more messages than the former one had, so that its positions are there; also when nothing but empty epochs
    has a manifest any more."""
    topic = lite_topic(fake)
    query = Query(topic, tmp_path / "old")
    fake.publish(TOPIC, event(first, "a"), event(first, "b"), at=first)
    assert query.batch() == ["0:0", "0:1"]
    if is_cleared:
        assert query.batch() == query.batch() == []
        query.stream.commit(query.offset)
    fake.create(TOPIC, 1)
    fake.publish(TOPIC, *(event(first, f"c{n}") for n in range(4)), at=first + HOUR)
    with pytest.raises(LostMessagesError, match="another topic of that name"):
        query.batch()


@pytest.mark.parametrize("what", ["trimmed", "created again"])
def test_a_query_whose_messages_are_gone_is_not_told_to_use_the_lake_s_command(
    fake: FakeLite, first: datetime, tmp_path: Path, what: str
) -> None:
    """It has no ledger: what its error names is what lets it go on."""
    topic = lite_topic(fake)
    query = Query(topic, tmp_path / "old")
    fake.publish(TOPIC, event(first, "a"), event(first, "b"), at=first)
    assert query.batch() == ["0:0", "0:1"]
    if what == "trimmed":
        fake.publish(TOPIC, *(event(first, f"lost{n}") for n in range(3)), event(first, "kept"), at=first)
        fake.topics[TOPIC][0].trim(5)
    else:
        fake.create(TOPIC, 1)
        fake.publish(TOPIC, event(first, "kept"), at=first)
    with pytest.raises(LostMessagesError) as gone:
        query.batch()
    assert "accept-loss" not in str(gone.value)
    assert '.option("segments", …), and a new checkpoint' in gone.value.next_step
    assert len(Query(topic, tmp_path / "new").batch()) == 1


# --- what fails ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_trimmed", ["clamped", "refused", "silently"])
@pytest.mark.parametrize("is_late", [False, True])
def test_messages_that_are_gone_stop_the_topic_until_somebody_accepts_it(
    fake: FakeLite, first: datetime, started: Callable[..., Application], monkeypatch: Any, when_trimmed: str,
    is_late: bool
) -> None:  # fmt: skip
    """Also where they go between the question for the oldest and the stream, whatever the service does then."""
    fake.when_trimmed = when_trimmed
    application = started()
    fake.publish(TOPIC, *(event(first, f"e{n}") for n in range(3)), at=first)
    application.batch()
    fake.publish(TOPIC, *(event(first, f"lost{n}") for n in range(4)), event(first, "kept"), at=first)
    if is_late:
        client, trim = client_of(application.topic.reads), fake.topics[TOPIC][0].trim

        def is_same(*_: object) -> bool:
            trim(7)
            return True

        with monkeypatch.context() as late:
            late.setattr(client, "is_same", is_same)
            application.batch()
    else:
        fake.topics[TOPIC][0].trim(7)
        application.batch()
    assert isinstance(parked(application), LostMessagesError)
    assert application.positions() == {0: 3}
    accept_loss(application, "seen")
    assert application.ids() == ["e0", "e1", "e2", "kept"]
    lost = [entry.of(Lost) for entry in application.history().entries if entry.state == "lost"]
    assert [(each.messages, [(r.partition, r.begin, r.end) for r in each.ranges]) for each in lost] == [
        (4, [(0, 3, 7)])
    ]


@pytest.mark.parametrize("count", [1, 6])
def test_a_topic_that_was_created_again_is_another_one(
    fake: FakeLite, first: datetime, started: Callable[..., Application], count: int
) -> None:
    """Fewer messages than before, or more: topics have no ids, but what is read was published before."""
    application = started()
    fake.publish(TOPIC, *(event(first, f"a{n}") for n in range(3)), at=first)
    application.batch()
    fake.create(TOPIC, 1)
    fake.publish(TOPIC, *(event(first, f"b{n}") for n in range(count)), at=first + HOUR)
    application.batch()
    assert isinstance(parked(application), LostMessagesError)
    accept_loss(application, "ours")
    assert application.ids() == [*numbered("a", range(3)), *numbered("b", range(count))]


def test_what_retention_takes_of_a_read_topic_is_no_loss(
    fake: FakeLite, first: datetime, started: Callable[..., Application]
) -> None:
    application = started()
    fake.publish(TOPIC, *(event(first, f"e{n}") for n in range(3)), at=first)
    application.batch()
    fake.topics[TOPIC][0].trim(3)
    application.batch()
    assert parked(application) is None
    fake.publish(TOPIC, event(first, "f"), at=first)
    application.batch()
    assert application.ids() == ["e0", "e1", "e2", "f"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (Code.NOT_FOUND, "no such subscription or topic"),
        (Code.PERMISSION_DENIED, "no permission"),
        (Code.UNAUTHENTICATED, "no valid credentials"),
        (Code.FAILED_PRECONDITION, "a refused request"),
    ],
)
@pytest.mark.parametrize(
    "method", ["GetSubscription", "GetTopicPartitions", "ComputeHeadCursor", "ComputeTimeCursor", "Subscribe"]
)
def test_what_is_refused_for_good_parks_the_topic_and_is_named(
    fake: FakeLite, first: datetime, started: Callable[..., Application], monkeypatch: Any, method: str, code: Code,
    found: str
) -> None:  # fmt: skip
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    monkeypatch.setattr(lite, "KNOWN_SECONDS", 0.0)
    client = client_of(application.topic.reads)
    client._topics[SUBSCRIPTION] = (TOPIC, 0.0)
    fake.refusals[method] = deque([code])
    application.batch()
    assert isinstance(parked(application), SourceError)
    assert found in str(parked(application))
    go_on(application)
    application.batch()
    assert application.ids() == ["a"]


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("method", ["GetTopicPartitions", "ComputeHeadCursor", "ComputeTimeCursor"])
def test_what_may_pass_is_asked_again(
    fake: FakeLite, first: datetime, started: Callable[..., Application], method: str, code: Code
) -> None:
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    fake.refusals[method] = deque([code])
    assert [fact["dry_at"] for fact in application.batch()] == [None]
    assert parked(application) is None
    application.batch()
    assert application.ids() == ["a"]


@pytest.mark.parametrize("method", ["ComputeMessageStats", "ComputeTimeCursor"])
def test_a_hole_before_the_head_is_passed_though_the_questions_about_it_are_refused_at_first(
    fake: FakeLite, first: datetime, started: Callable[..., Application], method: str
) -> None:
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    fake.topics[TOPIC][0].head += 2
    fake.refusals[method] = deque([None, None, Code.UNAVAILABLE] if method == "ComputeTimeCursor" else [Code.ABORTED])
    application.batch()
    assert (application.ids(), application.positions()) == (["a"], {0: 3})


def test_a_service_that_is_away_may_come_back(fake: FakeLite, config: Config) -> None:
    fake.end()
    with pytest.raises(UnansweredError, match=r"Pub/Sub Lite at http://127\.0\.0\.1"):
        TopicIngest(config.topics["plays"], config, run="one").ack_deadline()


def test_a_service_that_sends_nothing_is_given_up_and_nothing_is_skipped(
    fake: FakeLite, first: datetime, started: Callable[..., Application], monkeypatch: Any
) -> None:
    """Streams open, and bring nothing: the messages are counted, and so they are waited for."""
    monkeypatch.setattr(partitions, "_SILENCE_SECONDS", 0.5)
    application = started()
    fake.publish(TOPIC, event(first, "a"), at=first)
    monkeypatch.setattr("fake_lite.PAGE_MESSAGES", 0)
    application.batch()
    assert application.positions() == {0: 0}
    monkeypatch.undo()
    application.batch()
    assert application.ids() == ["a"]


def test_an_export_subscription_is_not_for_readers(fake: FakeLite, config: Config) -> None:
    fake.subscriptions[SUBSCRIPTION].is_export = True
    with pytest.raises(SourceError, match="an export subscription"):
        TopicIngest(config.topics["plays"], config, run="one").ack_deadline()


# --- its address ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("location", "region"), [("europe-west1-b", "europe-west1"), ("us-central1", "us-central1")])
def test_a_subscription_is_of_a_zone_or_a_region(location: str, region: str) -> None:
    address = f"projects/my-project/locations/{location}/subscriptions/plays"
    source = source_at(address)
    assert isinstance(source, LiteSource)
    assert (source.region, source.address, source.endpoint) == (region, address, "")


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (-(2**62), 5), (253_402_300_800, 0), (5, -(2**31))])
def test_an_event_time_that_is_none_stops_nothing(seconds: int, nanos: int) -> None:
    """The service keeps what a publisher gives; an event that has its time from there is rejected."""
    message = SequencedMessage()
    message.message.event_time.seconds, message.message.event_time.nanos = seconds, nanos
    ((name, text),) = page_of(0, [message]).messages.column("attributes").to_pylist()[0]
    assert name == "pubsublite.event_time"
    assert text == (f"{seconds} s, {nanos} ns" if seconds != 5 else "1970-01-01T00:00:02.852516Z")


def test_another_kind_of_subscription_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    file = tmp_path / "plays.yaml"
    file.write_text(
        yaml.safe_dump({**FIELDS, "source": {"kind": "pubsublite", "subscription": "projects/p/subscriptions/s"}})
    )
    with pytest.raises(ConfigError, match="expected projects/<project>/locations/<zone or region>/subscriptions/"):
        topic_of(file)


def test_the_first_messages_are_shown_without_a_lake(fake: FakeLite, first: datetime, config: Config) -> None:
    reads = config.topics["plays"].reads
    with pytest.raises(SourceError, match="found no message that can be read"):
        Lite().peek(reads, config.settings.ingest, 3, 5.0)
    fake.publish(TOPIC, *(event(first, f"e{n}") for n in range(5)), at=first)
    found = Lite().peek(reads, config.settings.ingest, 3, 5.0)
    assert found.column("message_id").to_pylist() == ["0:0", "0:1", "0:2"]
    newest = reads.model_copy(update={"start": "latest"})
    found = Lite().peek(newest, config.settings.ingest, 3, 5.0)
    assert found.column("message_id").to_pylist() == ["0:2", "0:3", "0:4"]


def test_the_smallest_message_counts_as_256_bytes(fake: FakeLite) -> None:
    """As flow control does."""
    fake.publish(TOPIC, b"x")
    assert fake.topics[TOPIC][0].messages[0].size_bytes == LEAST_QUOTA_BYTES
