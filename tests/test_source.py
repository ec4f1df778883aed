"""The source as Spark drives it, without Spark: epochs are planned, slots are pulled once, facts are given for ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.pubsub_v1 import PublisherClient
from google.pubsub_v1 import types
from recorded import Recorded
from subscribing import SUBSCRIPTION, TOPIC, create_subscription, delete_subscription, subscribed_broker

from lakehouse import failpoints
from lakehouse.config import Config, Ingest
from lakehouse.errors import SourceError, UnexpectedError, UnknownOutcomeError
from lakehouse.ingest.query import TopicIngest
from lakehouse.ingest.supervisor import open_topics
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.manifests import Manifest, SegmentFile, Slot, manifest_path, read_manifest
from lakehouse.landing.pull import Puller
from lakehouse.landing.segments import SegmentWriter
from lakehouse.landing.source import SegmentStream, facts, source_options
from lakehouse.progress import IngestState
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.faults import Faults
from lakehouse.schemas import FACTS
from lakehouse.store.bronze_log import commit_batch
from lakehouse.store.files import LocalStorage, Storage
from lakehouse.topics import Topic
from tests.clock import NOON, Clock
from tests.lake import Lake

PATIENCE_SECONDS = 15
"""For what is due at once; only a failing test waits this long."""


@pytest.fixture
def broker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, clock.seconds) as broker:
        yield broker


@pytest.fixture
def publish(broker: Broker) -> Iterator[Callable[..., None]]:
    publisher = PublisherClient()

    def published(*payloads: bytes) -> None:
        for sent in [publisher.publish(TOPIC, payload) for payload in payloads]:
            sent.result(PATIENCE_SECONDS)

    yield published
    publisher.stop()
    publisher.transport.close()


@dataclass
class ReadLake(Lake):
    """With streams over its raw folder, as of new drivers."""

    puller: Puller = field(default_factory=Puller)
    ack_deadline: timedelta | None = None

    @property
    def storage(self) -> Storage:
        return self.tables.raw.files()

    def stream(self, **ingest: Any) -> SegmentStream:
        settings = Ingest(**{**self.settings.ingest.model_dump(), **ingest})
        return SegmentStream(source_options(self.topic, self.folders.raw, settings, {}), self.puller)

    def read(self, epoch: int = 1, slot: int = 0, open_hour: str | None = None, **ingest: Any) -> list[dict[str, Any]]:
        return answer(self.stream(**ingest).read(Slot(epoch, slot, open_hour, ack_deadline=self.ack_deadline)))

    def commit_epoch(self, epoch: int, open_hour: str | None = None) -> None:
        commit_batch(self.bronze, [], IngestState(epoch, open_hour), {"segments": [], "closed": []})

    def put(self, manifest: Manifest) -> None:
        assert self.storage.put_if_absent(manifest_path(manifest.epoch, manifest.slot), manifest.as_json())


def answer(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture
def lake(topic: Topic, config: Config) -> ReadLake:
    lake = ReadLake(topic, config)
    lake.tables.ensure_bronze()
    return lake


@pytest.fixture
def watched(broker: Broker) -> Iterator[dict[str, Callable[[], None]]]:
    """What is to happen when a step is reached; `steps.watch` is taken back afterwards."""
    happenings: dict[str, Callable[[], None]] = {}
    failpoints.watch(lambda step: happenings.get(step, lambda: None)())
    yield happenings
    failpoints.watch(None)


def play(minute: int = 0, number: int = 0) -> bytes:
    event = {"event_id": f"e{number}", "played_at": f"2026-11-23T11:{minute:02d}:00Z", "user": "ann", "n": number}
    return json.dumps(event).encode()


def manifest(epoch: int, slot: int = 0, *, full: bool = False, dry: bool = False) -> Manifest:
    return Manifest(epoch, slot, f"other-{epoch}-{slot}", 0, NOON, NOON if dry else None, full)


def waiting(limit: int = 100) -> list[bytes]:
    """What another puller gets at once."""
    reader = SubscriptionReader(SUBSCRIPTION, answers="ptars")
    page = reader.pull(limit, PATIENCE_SECONDS)
    reader.close()
    assert page is not None
    return sorted(page.messages["payload"].to_pylist())


# --- offsets -------------------------------------------------------------------------------------------------------


def test_a_new_topic_begins_before_its_first_epoch(lake: ReadLake) -> None:
    assert lake.stream().initialOffset() == {"epoch": 0, "slots": 0, "open_hour": None}


def test_each_trigger_is_one_epoch_also_when_there_is_nothing_to_read(lake: ReadLake) -> None:
    stream = lake.stream()
    start = stream.initialOffset()
    first = stream.latestOffset(start)
    assert first["epoch"] == 1
    assert stream.latestOffset(first)["epoch"] == 2
    assert stream.latestOffset()["epoch"] == 3


def test_offsets_are_plain_json(lake: ReadLake) -> None:
    """Spark writes them to the checkpoint."""
    offset = lake.stream().latestOffset()
    assert json.loads(json.dumps(offset)) == offset


def test_a_lost_checkpoint_goes_on_after_the_log_s_epoch(lake: ReadLake) -> None:
    """Epochs are never reused: their app transaction would make the commit a repeated one."""
    lake.commit_epoch(7)
    stream = lake.stream()
    start = stream.initialOffset()
    assert start["epoch"] == 7
    assert stream.latestOffset(start)["epoch"] == 8


def test_a_lost_checkpoint_goes_on_after_the_last_manifest(lake: ReadLake) -> None:
    """Empty epochs are not in the log; used again, their manifests would answer for messages that are new."""
    lake.commit_epoch(7)
    lake.put(manifest(9))
    assert lake.stream().initialOffset()["epoch"] == 9


def test_an_old_checkpoint_goes_on_after_the_log_s_epoch(lake: ReadLake) -> None:
    lake.commit_epoch(7)
    assert lake.stream().latestOffset({"epoch": 3, "slots": 1, "open_hour": None})["epoch"] == 8


def test_a_checkpoint_ahead_of_the_log_goes_on_after_itself(lake: ReadLake) -> None:
    """Empty epochs commit nothing."""
    lake.commit_epoch(7)
    assert lake.stream().latestOffset({"epoch": 9, "slots": 1, "open_hour": None})["epoch"] == 10


def test_a_replayed_epoch_is_followed_by_the_next(lake: ReadLake) -> None:
    """After a restart Spark plans the last epoch again before it asks for a new one."""
    stream = lake.stream()
    start, end = ({"epoch": epoch, "slots": 1, "open_hour": None} for epoch in (4, 5))
    assert len(stream.partitions(start, end)) == 1
    assert stream.latestOffset()["epoch"] == 6


def test_the_offset_carries_the_first_open_hour(lake: ReadLake) -> None:
    """So that a replay splits late events from others in the same way."""
    lake.commit_epoch(1, "2026-11-23T05")
    assert lake.stream().latestOffset()["open_hour"] == "2026-11-23T05"


# --- slots ---------------------------------------------------------------------------------------------------------


def test_planning_is_pure(lake: ReadLake) -> None:
    """Spark plans a batch as often as it likes; a new driver plans an old batch the same."""
    start = {"epoch": 4, "slots": 2, "open_hour": None}
    end = {"epoch": 5, "slots": 3, "open_hour": "2026-11-23T05"}
    stream = lake.stream()
    planned = stream.partitions(start, end)
    assert planned == [Slot(5, slot, "2026-11-23T05") for slot in range(3)]
    assert stream.partitions(start, end) == lake.stream().partitions(start, end) == planned


def test_no_epochs_are_no_slots(lake: ReadLake) -> None:
    offset = {"epoch": 5, "slots": 3, "open_hour": None}
    assert lake.stream().partitions(offset, offset) == []


@pytest.mark.parametrize(
    ("slots", "manifests", "then"),
    [
        (2, [{"full": True}, {"full": True}], 4),
        (4, [{"full": True}] * 4, 5),
        (3, [{"dry": True}] * 3, 2),
        (2, [{"dry": True}] * 2, 2),
        (3, [{"full": True}, {"full": True}, {"dry": True}], 3),
        (3, [{"full": True}, {"full": True}], 3),
        (9, [{"full": True}] * 9, 5),
    ],
)
def test_slots_follow_the_load_between_their_bounds(
    lake: ReadLake, topic_with: Callable[..., Topic], slots: int, manifests: list[dict[str, bool]], then: int
) -> None:
    """Doubled when every slot stopped at its bound, one less when every one was drained; unknown changes nothing."""
    lake.topic = topic_with(slots={"min": 2, "max": 5})
    for slot, values in enumerate(manifests):
        lake.put(manifest(1, slot, **values))
    assert lake.stream().latestOffset({"epoch": 1, "slots": slots, "open_hour": None})["slots"] == then


# --- pulling -------------------------------------------------------------------------------------------------------


def test_a_slot_gives_facts_about_its_files_and_acknowledges(
    lake: ReadLake, publish: Callable[..., None], broker: Broker
) -> None:
    publish(play(1), play(59), b"not json")
    rows = sorted(lake.read(slot=1, open_hour="2026-11-23T05"), key=lambda row: row["event_hour"] or "")
    rejected, events = rows
    assert (events["epoch"], events["slot"], events["event_hour"], events["rows"]) == (1, 1, "2026-11-23T11", 2)
    assert events["max_event_time"] == datetime(2026, 11, 23, 11, 59, tzinfo=UTC)
    assert events["max_publish_time"] == NOON
    assert (rejected["event_hour"], rejected["rows"], rejected["rejected"]) == (None, 1, 1)
    assert {(row["full"], row["attempt"]) for row in rows} == {(False, 0)}
    assert {stored.path for stored in lake.storage.listing("bronze") if stored.path.endswith(".parquet")} == {
        f"bronze/{row['path']}" for row in rows
    }
    assert broker.unacked(SUBSCRIPTION) == []


def test_an_empty_slot_gives_one_fact_without_a_file(lake: ReadLake, broker: Broker) -> None:
    """It may say that the subscription was drained."""
    (row,) = lake.read()
    assert (row["path"], row["event_hour"], row["rows"], row["rejected"], row["size_bytes"]) == (None, None, 0, 0, 0)
    assert row["dry_at"] is not None
    assert lake.storage.listing("segments")


def test_counts_are_reported_once_for_a_segment(lake: ReadLake) -> None:
    """Whoever sums them over rows must not count them twice."""
    files = tuple(
        SegmentFile(f"{hour}/a.parquet", hour, 1, 9, NOON, NOON, NOON, NOON)
        for hour in ("2026-11-23T11", "2026-11-23T12")
    )
    batch = facts(Manifest(1, 0, "a", 0, NOON, None, False, files, {"from the future": 2}, {"mood": 1}))
    assert batch.schema == FACTS
    assert [row["counts"] and json.loads(row["counts"]) for row in batch.to_pylist()] == [
        {"reasons": {"from the future": 2}, "undeclared": {"mood": 1}},
        None,
    ]


def test_a_slot_with_a_manifest_never_pulls(lake: ReadLake, publish: Callable[..., None], broker: Broker) -> None:
    """An action on the batch's frame reads again, and so does a batch that is repeated."""
    publish(play())
    first = lake.read()
    publish(play(1))
    recorded = broker.faults = Recorded()
    assert lake.read() == lake.read() == first
    assert recorded.calls == []
    assert waiting() == [play(1)]


def test_nothing_is_acknowledged_before_the_manifest_is_durable(
    lake: ReadLake, publish: Callable[..., None], broker: Broker
) -> None:
    """The order on which everything rests."""
    publish(play())
    seen: list[tuple[str, bool, bool, bool]] = []

    def look(step: str) -> None:
        files = any(stored.path.endswith(".parquet") for stored in lake.storage.listing("bronze"))
        seen.append((step, files, read_manifest(lake.storage, 1, 0) is not None, not broker.unacked(SUBSCRIPTION)))

    failpoints.watch(look)
    try:
        lake.read()
    finally:
        failpoints.watch(None)
    assert seen[1:] == [
        ("pull.files_durable", True, False, False),
        ("pull.manifest_durable", True, True, False),
        ("pull.acknowledged", True, True, True),
    ]
    assert seen[0][2:] == (False, False)


def test_an_attempt_that_loses_the_race_gives_everything_back(
    lake: ReadLake, publish: Callable[..., None], broker: Broker, watched: dict[str, Callable[[], None]]
) -> None:
    """The winner's manifest names other files: what we pulled is in none of them."""
    publish(play(1), play(2))
    winner = manifest(1, dry=True)
    watched["pull.files_durable"] = lambda: lake.put(winner)
    recorded = broker.faults = Recorded()
    assert lake.read() == answer([facts(winner)])
    assert "Acknowledge" not in recorded.calls
    assert waiting() == [play(1), play(2)]
    assert [stored for stored in lake.storage.listing("bronze") if stored.path.endswith(".parquet")] == []


def test_a_failure_to_write_gives_everything_back(
    lake: ReadLake, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not when the leases end; and a full disk is not made fuller."""
    publish(play(1), play(2))
    monkeypatch.setattr(SegmentWriter, "close", lambda writer: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(UnexpectedError, match="no space left"):
        lake.read()
    assert waiting() == [play(1), play(2)]
    assert lake.storage.listing("segments") == []
    assert [stored for stored in lake.storage.listing("bronze") if stored.path.endswith(".parquet")] == []


def test_a_failure_while_pulling_gives_back_what_was_pulled_before(
    lake: ReadLake, publish: Callable[..., None], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(play(1), play(2))
    broker.faults = _DeniedAfterFirstPull()
    with pytest.raises(SourceError, match="no permission"):
        lake.read(max_messages=10)
    broker.faults = Faults()
    assert waiting() == [play(1), play(2)]


class _DeniedAfterFirstPull(Faults):
    def __init__(self) -> None:
        self._pulls = 0

    def refused(self, method: str) -> grpc.StatusCode | None:
        self._pulls += method == "Pull"
        return grpc.StatusCode.PERMISSION_DENIED if method == "Pull" and self._pulls > 1 else None


# --- a silent store ------------------------------------------------------------------------------------------------


def silence(path: str) -> UnknownOutcomeError:
    return UnknownOutcomeError(path, found="a timeout", expected="an answer", next_step="Look whose file is there.")


def test_after_silence_our_own_manifest_is_recognised(
    lake: ReadLake, publish: Callable[..., None], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names its attempt."""
    publish(play())
    put = LocalStorage.put_if_absent

    def put_and_fall_silent(storage: LocalStorage, path: str, content: bytes) -> bool:
        put(storage, path, content)
        raise silence(path)

    monkeypatch.setattr(LocalStorage, "put_if_absent", put_and_fall_silent)
    (row,) = lake.read()
    assert row["rows"] == 1
    assert broker.unacked(SUBSCRIPTION) == []
    assert lake.storage.read(f"bronze/{row['path']}") is not None


def test_after_silence_without_a_manifest_nothing_is_acknowledged_and_no_file_removed(
    lake: ReadLake, publish: Callable[..., None], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest may still come to stand, and would name the files."""
    publish(play())

    def fall_silent(storage: LocalStorage, path: str, content: bytes) -> bool:
        raise silence(path)

    monkeypatch.setattr(LocalStorage, "put_if_absent", fall_silent)
    with pytest.raises(UnknownOutcomeError):
        lake.read()
    assert len(broker.unacked(SUBSCRIPTION)) == 1
    assert waiting() == [play()]
    assert [stored for stored in lake.storage.listing("bronze") if stored.path.endswith(".parquet")]


# --- bounds --------------------------------------------------------------------------------------------------------


def test_a_slot_stops_at_its_greatest_number_of_messages(lake: ReadLake, publish: Callable[..., None]) -> None:
    publish(*(play(number) for number in range(5)))
    (row,) = lake.read(max_messages=3)
    assert (row["rows"], row["full"], row["dry_at"]) == (3, True, None)
    assert len(waiting()) == 2


def test_a_slot_stops_once_it_has_so_many_bytes(lake: ReadLake, publish: Callable[..., None]) -> None:
    """It may exceed them by one page."""
    lake.puller = Puller(page_messages=1)
    publish(*(play(number) + b" " * 600 for number in range(5)))
    (row,) = lake.read(max_bytes=1024)
    assert (row["rows"], row["full"], row["dry_at"]) == (2, True, None)


def test_a_slot_stops_after_so_long(lake: ReadLake, publish: Callable[..., None]) -> None:
    """A busy subscription is never drained."""
    publish(play())
    (row,) = lake.read(max_pull="0 seconds")
    assert (row["rows"], row["full"], row["dry_at"]) == (0, True, None)


def test_a_subscription_is_drained_only_when_it_was_asked_and_had_nothing(
    lake: ReadLake, publish: Callable[..., None]
) -> None:
    """Three messages pulled of three is not the same as none left."""
    publish(play(1), play(2), play(3))
    (full,) = lake.read(epoch=1, max_messages=3)
    assert full["dry_at"] is None
    before = datetime.now(UTC)
    (dry,) = lake.read(epoch=2, max_messages=3)
    assert dry["dry_at"] is not None
    assert before <= dry["dry_at"] < datetime.now(UTC) - timedelta(seconds=0.2)


def test_pages_are_decoded_together(lake: ReadLake, publish: Callable[..., None]) -> None:
    """And positions go on over pages and over what is decoded at once."""
    lake.puller = Puller(page_messages=2, decode_bytes=500)
    publish(*(play(number, number) for number in range(9)))
    (row,) = lake.read()
    assert row["rows"] == 9


# --- ordering keys -------------------------------------------------------------------------------------------------


@pytest.fixture
def ordered(broker: Broker, clock: Clock) -> None:
    delete_subscription()
    create_subscription(enable_message_ordering=True)


def publish_key(broker: Broker, count: int, key: str = "k") -> None:
    for first in range(0, count, 1000):
        messages = [
            types.PubsubMessage.pb()(data=play(number % 60, number), ordering_key=key)
            for number in range(first, min(count, first + 1000))
        ]
        DirectChannel(broker).unary_unary("/x/Publish")(types.PublishRequest.pb()(topic=TOPIC, messages=messages))


@pytest.mark.usefixtures("ordered")
def test_a_slot_goes_on_with_what_waits_behind_its_own_messages_of_a_key(lake: ReadLake, broker: Broker) -> None:
    """Pub/Sub has one batch of a key out at a time: an hour was closed with 1,000 of its 2,520 rows."""
    publish_key(broker, 2520)
    rows = lake.read()
    assert [row["rows"] for row in rows] == [1000, 1000, 520, 0]
    assert broker.unacked(SUBSCRIPTION) == []
    assert all(row["dry_at"] for row in rows)
    assert [row["slot"] for row in rows] == [0, 10_000, 20_000, 30_000]
    assert lake.read() == rows


@pytest.mark.usefixtures("ordered")
def test_a_slot_that_has_no_time_for_what_waits_behind_its_own_messages_is_full(lake: ReadLake, broker: Broker) -> None:
    """Neither dry, as more may wait, nor a reason for fewer slots."""
    publish_key(broker, 1200)
    (row,) = lake.read(max_pull="1 second", empty_after="1 second")
    assert (row["rows"], row["dry_at"], row["full"]) == (1000, None, True)
    assert lake.stream().latestOffset({"epoch": 1, "slots": 1, "open_hour": None})["slots"] == 2


@pytest.mark.usefixtures("ordered")
def test_a_death_between_two_parts_loses_nothing(
    lake: ReadLake, broker: Broker, watched: dict[str, Callable[[], None]]
) -> None:
    """The first part says that another follows, so whoever reads the slot again reads on."""
    publish_key(broker, 1500)
    seen: list[int] = []

    def die() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    watched["pull.files_durable"] = die
    with pytest.raises(KeyboardInterrupt):
        lake.read()
    assert [row["rows"] for row in lake.read()] == [1000, 500, 0]
    assert broker.unacked(SUBSCRIPTION) == []


# --- a silent network ----------------------------------------------------------------------------------------------


class _Silent(Faults):
    """Pulls have their effect, and their answers are lost."""

    def answer_lost(self, method: str) -> grpc.StatusCode | None:
        return grpc.StatusCode.DEADLINE_EXCEEDED if method == "Pull" else None


def test_a_pull_that_was_not_answered_is_no_drained_subscription(
    lake: ReadLake, publish: Callable[..., None], broker: Broker
) -> None:
    """Ten messages waited while five hours were closed."""
    publish(*(play(number) for number in range(10)))
    broker.faults = _Silent()
    (row,) = lake.read()
    assert (row["rows"], row["dry_at"]) == (0, None)
    broker.faults = Faults()
    (after,) = lake.read(epoch=2)
    assert (after["rows"], after["unanswered_at"]) == (0, None), "they are leased to the lost answers"
    assert row["unanswered_at"] is not None


def test_what_cannot_be_acknowledged_is_counted(lake: ReadLake, publish: Callable[..., None], broker: Broker) -> None:
    """On the first row only, so that it can be summed."""
    publish(play(1), b"not json")
    broker.faults = Recorded(Acknowledge=[grpc.StatusCode.PERMISSION_DENIED])
    rows = lake.read()
    assert [row["unacknowledged"] for row in rows] == [2, 0]
    assert rows[0]["ack_error"] == "PERMISSION_DENIED: Fault injected by the sandbox"


def test_the_subscription_is_asked_for_only_where_its_deadline_is_not_known(lake: ReadLake, broker: Broker) -> None:
    recorded = broker.faults = Recorded()
    lake.read()
    lake.ack_deadline = timedelta(seconds=10)
    lake.read(epoch=2)
    assert recorded.calls.count("GetSubscription") == 1


def test_a_run_asks_once_for_each_topic_whatever_its_slots(lake: ReadLake, broker: Broker) -> None:
    """An administrator's call, of which a project has few per minute: 300 topics of 8 slots used them up."""
    recorded = broker.faults = Recorded()
    ingest = TopicIngest(lake.topic, lake.config, run="one")
    (ready,), failures = open_topics([ingest])
    assert not failures
    stream = SegmentStream(ready._source_options(), lake.puller)
    offset = stream.initialOffset()
    for _ in range(3):
        start, offset = offset, stream.latestOffset(offset) | {"slots": 4}
        for slot in stream.partitions(start, offset):
            answer(stream.read(slot))
    assert (recorded.calls.count("GetSubscription"), recorded.calls.count("Pull") >= 12) == (1, True)


def test_ordering_keys_are_kept(lake: ReadLake, broker: Broker, publish: Callable[..., None]) -> None:
    publish_key(broker, 1)
    publish(play(2))
    (row, *_) = lake.read()
    with lake.storage.open(f"bronze/{row['path']}") as file:
        assert sorted(pq.read_table(file)["ordering_key"].to_pylist(), key=str) == [None, "k"]


# --- leases --------------------------------------------------------------------------------------------------------


def test_leases_are_kept_while_a_slot_writes(
    lake: ReadLake,
    publish: Callable[..., None],
    broker: Broker,
    clock: Clock,
    watched: dict[str, Callable[[], None]],
) -> None:
    """Writing may take longer than the ack deadline; the messages must not go to another slot meanwhile."""
    publish(play())
    lake.ack_deadline = timedelta(seconds=1)
    recorded = broker.faults = Recorded()

    def take_long() -> None:
        for _ in range(2):
            assert recorded.extended.acquire(timeout=PATIENCE_SECONDS)
            clock.advance(0.9)

    watched["pull.files_durable"] = take_long
    lake.read()
    assert broker.unacked(SUBSCRIPTION) == []


# --- what an operator can meet -------------------------------------------------------------------------------------


def test_a_missing_subscription_is_reported(lake: ReadLake, broker: Broker, topic_with: Callable[..., Topic]) -> None:
    lake.topic = topic_with(subscription="projects/test/subscriptions/skips")
    with pytest.raises(SourceError, match=r"projects/test/subscriptions/skips: found no such subscription"):
        lake.read()
    assert lake.storage.listing("segments") == []


def test_a_denied_subscription_is_reported(lake: ReadLake, broker: Broker) -> None:
    broker.faults = Recorded(Pull=[grpc.StatusCode.PERMISSION_DENIED])
    with pytest.raises(SourceError, match=r"no permission.*Grant roles/pubsub\.subscriber"):
        lake.read()


def test_an_unreachable_broker_is_reported(lake: ReadLake, monkeypatch: pytest.MonkeyPatch) -> None:
    with Broker() as gone:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", gone.address)
    lake.puller = Puller(connect=partial(SubscriptionReader, pauses=Pauses(patience=timedelta(0))))
    with pytest.raises(SourceError, match=f"the emulator at {gone.address} UNAVAILABLE"):
        lake.read()


def test_a_broker_that_is_away_for_a_while_is_waited_for(
    lake: ReadLake, publish: Callable[..., None], broker: Broker
) -> None:
    lake.puller = Puller(connect=partial(SubscriptionReader, pauses=Pauses(first=timedelta(milliseconds=1))))
    publish(play())
    away = [grpc.StatusCode.UNAVAILABLE] * 3
    broker.faults = Recorded(GetSubscription=away, Pull=away, Acknowledge=away)
    (row,) = lake.read()
    assert row["rows"] == 1
    assert broker.unacked(SUBSCRIPTION) == []
