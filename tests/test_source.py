"""The source as Spark drives it, without Spark: epochs are planned, slots are pulled once, facts are given for ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import Forbidden
from google.cloud.pubsub_v1 import PublisherClient
from google.pubsub_v1 import types
from pyspark.sql.datasource import InputPartition
from recorded import Recorded
from subscribing import SUBSCRIPTION, TOPIC, create_subscription, delete_subscription, subscribed_broker

from lakehouse import failpoints
from lakehouse.config import Config, Ingest
from lakehouse.decode.events import Decoded, Schemas
from lakehouse.errors import LakeError, SlowStoreError, SourceError, UnexpectedError, UnknownOutcomeError, from_trace
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.supervisor import Supervisor
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing import bundles as bundles_module
from lakehouse.landing.brokers.contract import LONGEST_HOLD
from lakehouse.landing.brokers.pubsub import Pauses, SubscriptionReader
from lakehouse.landing.brokers.subscriptions import PubSub
from lakehouse.landing.bundles import Bundle, Land, pulled
from lakehouse.landing.facts import rows_of
from lakehouse.landing.manifests import Manifest, SegmentFile, manifest_path, read_manifest
from lakehouse.landing.plan import Offset, Plan, TopicPlan, bundles, next_slots
from lakehouse.landing.pull import Puller
from lakehouse.landing.segments import SegmentWriter
from lakehouse.landing.slots import Slot
from lakehouse.landing.source import FactStream, source_options
from lakehouse.progress import IngestState
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.sandbox.faults import Faults
from lakehouse.schemas import FACTS
from lakehouse.store.bronze_log import commit_batch
from lakehouse.store.files import LocalStorage, Storage
from lakehouse.store.place import Place
from lakehouse.topics import Slots, Topic
from tests.clock import NOON, Clock
from tests.lake import Lake
from tests.pulls import facts_of, land_of

MANY = 300
"""Messages of a topic to which much comes at once."""
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

    def stream(self, **planned: Any) -> FactStream:
        path = Path(self.folders.raw).with_suffix(".plan")
        Plan({"plays": TopicPlan(**planned)}).write(path)
        return FactStream(source_options([self.topic], self.settings.raw_root, self.settings.ingest, {}, path))

    def claimed(self, run: str = "one") -> TopicIngest:
        ingest = TopicIngest(self.topic, self.config, run=run)
        ingest.open_topic(timedelta(seconds=10))
        return ingest

    def read(self, epoch: int = 1, slot: int = 0, open_hour: str | None = None, **ingest: Any) -> list[dict[str, Any]]:
        settings = Ingest(**{**self.settings.ingest.model_dump(), **ingest})
        wanted = Slot(epoch, slot, open_hour, ack_deadline=self.ack_deadline)
        return facts_of(land_of(self.topic, self.folders.raw, settings), [wanted], self.puller)

    def commit_epoch(self, epoch: int, open_hour: str | None = None) -> None:
        commit_batch(self.bronze, [], IngestState(epoch, open_hour), {"segments": [], "closed": []})

    def put(self, manifest: Manifest) -> None:
        assert self.storage.put_if_absent(manifest_path(manifest.epoch, manifest.slot), manifest.as_json())


def puller_of(pauses: Pauses) -> Puller:
    broker = PubSub(connect=partial(SubscriptionReader, pauses=pauses))
    return Puller(broker=lambda kind: broker)


def offset(epoch: int, **slots: int) -> dict[str, Any]:
    return {"epoch": epoch, "slots": slots, "left_out": []}


def slots_of(planned: Sequence[InputPartition]) -> list[tuple[str, Slot]]:
    return [slot for each in planned if isinstance(each, Bundle) for slot in each.slots]


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


def test_a_new_application_begins_before_its_first_epoch(lake: ReadLake) -> None:
    assert lake.stream().initialOffset() == {"epoch": 0, "slots": {}, "left_out": ["plays"]}


def test_each_trigger_is_one_epoch_also_when_there_is_nothing_to_read(lake: ReadLake) -> None:
    stream = lake.stream()
    start = stream.initialOffset()
    first = stream.latestOffset(start)
    assert first["epoch"] == 1
    assert stream.latestOffset(first)["epoch"] == 2
    assert stream.latestOffset()["epoch"] == 3


def test_offsets_are_plain_json(lake: ReadLake) -> None:
    """Spark writes them to the checkpoint."""
    offset = lake.stream(slots=2).latestOffset()
    assert json.loads(json.dumps(offset)) == offset


def test_a_lost_checkpoint_goes_on_after_the_last_epoch_that_any_topic_used(lake: ReadLake) -> None:
    """Epochs are never reused, in whichever application: the manifests of one would answer for messages that are
    new."""
    stream = lake.stream(after=7)
    start = stream.initialOffset()
    assert start["epoch"] == 7
    assert stream.latestOffset(start)["epoch"] == 8


def test_an_old_checkpoint_goes_on_after_the_last_epoch_that_any_topic_used(lake: ReadLake) -> None:
    assert lake.stream(after=7).latestOffset(offset(3))["epoch"] == 8


def test_a_checkpoint_ahead_of_all_topics_goes_on_after_itself(lake: ReadLake) -> None:
    """Empty epochs leave nothing."""
    assert lake.stream(after=7).latestOffset(offset(9))["epoch"] == 10


def test_a_replayed_epoch_is_followed_by_the_next(lake: ReadLake) -> None:
    """After a restart Spark plans the last epoch again before it asks for a new one."""
    stream = lake.stream()
    assert len(stream.partitions(offset(4), offset(5))) == 1
    assert stream.latestOffset()["epoch"] == 6


def test_a_claim_knows_the_last_epoch_of_log_and_manifests(lake: ReadLake, broker: Broker) -> None:
    """Adopted or not: a manifest that no commit took is of an epoch that was used."""
    lake.commit_epoch(7)
    assert lake.claimed().plan().after == 7
    lake.put(manifest(9))
    assert lake.claimed("two").plan().after == 9


def test_slots_split_late_events_by_the_first_open_hour_as_the_driver_knows_it(lake: ReadLake, broker: Broker) -> None:
    lake.commit_epoch(1, "2026-11-23T05")
    planned = lake.claimed().plan()
    assert planned.open_hour == "2026-11-23T05"
    (bundle,) = bundles(Offset(2), Plan({"plays": planned}), ["plays"], is_fresh=True, is_suspect=False)
    assert [slot.open_hour for _, slot in bundle.slots] == ["2026-11-23T05"]


# --- slots ---------------------------------------------------------------------------------------------------------


def test_planning_is_pure(lake: ReadLake) -> None:
    """Spark plans a batch as often as it likes; a new driver plans an old batch with the same slots."""
    start, end = offset(4), offset(5, plays=3)
    stream = lake.stream()
    planned = stream.partitions(start, end)
    assert slots_of(planned) == [("plays", Slot(5, slot, None)) for slot in range(3)]
    assert slots_of(stream.partitions(start, end)) == slots_of(lake.stream().partitions(start, end))


def test_an_epoch_is_fresh_only_when_it_is_planned_for_the_first_time(lake: ReadLake) -> None:
    """Whoever plans it again must look for manifests before anything is pulled."""
    stream = lake.stream()
    start = stream.initialOffset()
    end = stream.latestOffset(start)
    assert [stream.partitions(start, end)[0].is_fresh for _ in range(2)] == [True, False]  # type: ignore[attr-defined]


def test_no_epochs_are_no_slots(lake: ReadLake) -> None:
    assert lake.stream().partitions(offset(5), offset(5)) == []


def test_a_topic_that_was_left_out_is_left_out_again_when_its_epoch_is_replayed(lake: ReadLake) -> None:
    assert lake.stream().partitions(offset(4), {**offset(5), "left_out": ["plays"]}) == []


def test_a_topic_that_has_come_from_another_application_is_not_pulled_for_an_epoch_before_its_last(
    lake: ReadLake,
) -> None:
    """Of an old checkpoint, planned again: that epoch was another one in the application before."""
    assert lake.stream(after=9).partitions(offset(7), offset(8)) == []
    assert len(lake.stream(after=9).partitions(offset(8), offset(9))) == 1


@pytest.mark.parametrize(
    ("slots", "ends", "then"),
    [
        (2, ["full", "full"], 4),
        (4, ["full"] * 4, 5),
        (3, ["dry"] * 3, 2),
        (2, ["dry"] * 2, 2),
        (3, ["full", "full", "dry"], 3),
        (3, ["full", "full"], 3),
        (9, ["full"] * 9, 5),
    ],
)
def test_slots_follow_the_load_between_their_bounds(slots: int, ends: list[str], then: int) -> None:
    """Doubled when every slot stopped at its bound, one less when every one was drained; unknown changes nothing."""
    known = [(end == "full", end == "dry") for end in ends]
    assert next_slots(slots, Slots(min=2, max=5), known) == then


def planned(loads: dict[str, float], **more: Any) -> list[list[str]]:
    """Topics of each task."""
    plan = Plan({name: TopicPlan(load=load) for name, load in loads.items()}, **more)
    tasks = bundles(Offset(1), plan, list(loads), is_fresh=True, is_suspect=False)
    return [sorted(name for name, _ in task.slots) for task in tasks]


def test_idle_topics_share_a_task_and_a_busy_one_has_its_own() -> None:
    idle = {f"idle-{number:03d}": 0.0 for number in range(300)}
    tasks = planned({**idle, "busy": 1.0})
    assert ["busy"] in tasks
    assert len(tasks) == 2


def test_bundles_have_about_as_much_to_do() -> None:
    tasks = planned({f"t{number}": 0.3 for number in range(10)})
    assert [len(task) for task in tasks] == [3, 3, 2, 2]


def test_quiet_topics_share_no_task_with_busy_ones_and_begin_before_them() -> None:
    """What a topic brought is committed when its task has ended."""
    busy = {f"busy-{number}": 0.15 + 0.1 * number for number in range(9)}
    quiet = {f"quiet-{number}": 0.005 for number in range(45)}
    tasks = planned({**busy, **quiet, "idle": 0.0})
    kinds = [{name.partition("-")[0] for name in names} for names in tasks]
    assert kinds == [{"quiet"}, {"quiet", "idle"}] + [{"busy"}] * (len(tasks) - 2)


def test_few_large_messages_are_a_load(lake: ReadLake, broker: Broker, publish: Callable[..., None]) -> None:
    """By their number they are nothing, and a task pulls them as long as many small ones."""
    claimed, size_bytes = lake.claimed(), 400_000
    publish(b'"' + b"x" * (size_bytes - 2) + b'"')
    claimed.look(lake.read())
    assert claimed.plan().load == round(size_bytes / lake.settings.ingest.max_bytes, 4) > 0


def test_the_slots_of_a_topic_that_has_several_are_tasks_of_their_own() -> None:
    plan = Plan({"big": TopicPlan(slots=2, load=1.0), "small": TopicPlan()})
    tasks = bundles(Offset.of(1, plan, plan.topics), plan, plan.topics, is_fresh=True, is_suspect=False)
    assert sorted([(name, slot.slot) for name, slot in task.slots] for task in tasks) == [
        [("big", 0)],
        [("big", 1)],
        [("small", 0)],
    ]


def test_a_topic_that_may_have_killed_a_task_is_alone_in_one() -> None:
    plan = Plan({"a": TopicPlan(), "b": TopicPlan(is_apart=True, patience_seconds=2.0), "c": TopicPlan()})
    tasks = bundles(Offset(1), plan, plan.topics, is_fresh=True, is_suspect=False)
    assert sorted([name for name, _ in task.slots] for task in tasks) == [["a", "c"], ["b"]]
    assert {task.patience for task in tasks} == {None, timedelta(seconds=2)}


# --- bundles -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(lake: ReadLake, topic_with: Callable[..., Topic], broker: Broker) -> Land:
    """`plays`, and `skips` with a subscription of its own."""
    skips = topic_with(name="skips", subscription="projects/test/subscriptions/skips")
    create_subscription(skips.subscription)
    topics = {"plays": lake.topic, "skips": skips}
    root = Place(lake.settings.raw_root)
    return Land(lambda name: topics[name], root.below, lake.settings.ingest)


def bundle(epoch: int = 1, **more: Any) -> Bundle:
    return Bundle((("plays", Slot(epoch, 0, None)), ("skips", Slot(epoch, 0, None))), **more)


def by_topic(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {row["topic"]: row["rows"] for row in rows}


def test_a_bundle_pulls_its_topics_together_and_tells_what_each_brought(
    lake: ReadLake, two: Land, publish: Callable[..., None], broker: Broker
) -> None:
    publish(play(1), play(2))
    recorded = broker.faults = Recorded()
    rows = pulled(bundle(is_fresh=True), two, Puller())
    assert by_topic(rows) == {"plays": 2, "skips": 2}
    assert recorded.calls.count("Acknowledge") == 2
    assert broker.unacked(SUBSCRIPTION) == []


def test_the_first_answers_of_many_topics_are_small_and_all_is_pulled(
    lake: ReadLake, two: Land, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers may come at once, and wait in memory for their turn: 300 full pages would be no bound."""
    monkeypatch.setattr("lakehouse.landing.bundles._FIRST_MESSAGES", 8)
    monkeypatch.setattr("lakehouse.landing.bundles._LEAST_FIRST_MESSAGES", 3)
    asked: list[int] = []
    pull_request = SubscriptionReader.pull_request

    def noted(reader: SubscriptionReader, max_messages: int, *, at_once: bool = False) -> Any:
        asked.append(max_messages)
        return pull_request(reader, max_messages, at_once=at_once)

    monkeypatch.setattr(SubscriptionReader, "pull_request", noted)
    publish(*map(play, range(9)))
    rows = pulled(bundle(is_fresh=True), two, Puller(page_messages=50))
    assert by_topic(rows) == {"plays": 9, "skips": 9}
    assert asked[:2] == [4, 4]
    assert 50 in asked


def test_an_idle_topic_asks_the_store_for_nothing(lake: ReadLake, two: Land, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it leave anything there: 300 of them would be a bill."""

    def touched(*_: object) -> None:
        raise AssertionError("the store was asked")

    for name in ("read", "listing", "put_if_absent", "create", "write"):
        monkeypatch.setattr(LocalStorage, name, touched)
    rows = pulled(bundle(is_fresh=True), two, Puller())
    assert by_topic(rows) == {"plays": 0, "skips": 0}
    assert all(row["dry_at"] is not None and row["error"] is None for row in rows)


def test_a_topic_that_fails_is_a_fact_and_the_others_are_pulled(
    lake: ReadLake, two: Land, publish: Callable[..., None]
) -> None:
    publish(play())
    delete_subscription("projects/test/subscriptions/skips")
    rows = {row["topic"]: row for row in pulled(bundle(is_fresh=True), two, Puller())}
    assert (rows["plays"]["rows"], rows["plays"]["error"]) == (1, None)
    error = from_trace(rows["skips"]["error"])
    assert isinstance(error, SourceError)
    assert "no such subscription" in str(error)
    assert rows["skips"]["dry_at"] is None, "nothing is known of it"


def test_a_store_that_refuses_writes_and_removals_is_named_by_what_it_refused_first(
    lake: ReadLake, two: Land, publish: Callable[..., None], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not write may not remove either, and must read which permission is missing."""

    def refused(*_: object) -> None:
        raise Forbidden("storage.objects.create")

    def not_removed(*_: object) -> None:
        raise Forbidden("storage.objects.delete")

    monkeypatch.setattr(LocalStorage, "finish", refused)
    monkeypatch.setattr(LocalStorage, "delete", not_removed)
    publish(play())
    rows = [row for row in pulled(bundle(is_fresh=True), two, Puller()) if row["topic"] == "plays"]
    error = from_trace(rows[0]["error"])
    assert isinstance(error, LakeError)
    assert "found 403 storage.objects.create; expected a lake" in str(error)
    assert len(broker.unacked(SUBSCRIPTION)) == 1, "given back"


def test_a_slot_whose_store_does_not_answer_is_not_waited_for(
    lake: ReadLake, two: Land, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, and what it makes durable is adopted."""
    goes_on = threading.Event()
    put = LocalStorage.put_if_absent

    def slow(storage: LocalStorage, path: str, content: bytes) -> bool:
        if "/skips/" in storage.address(path):
            goes_on.wait(PATIENCE_SECONDS)
        return put(storage, path, content)

    monkeypatch.setattr(LocalStorage, "put_if_absent", slow)
    publish(play())
    monkeypatch.setattr(bundles_module, "_STRAGGLER_SECONDS", 0.5)
    began = time.monotonic()
    patience = timedelta(seconds=PATIENCE_SECONDS)
    rows = {row["topic"]: row for row in pulled(bundle(is_fresh=True, patience=patience), two, Puller())}
    assert time.monotonic() - began < PATIENCE_SECONDS, "others wait with it"
    assert rows["plays"]["rows"] == 1
    late = rows["skips"]
    assert isinstance(from_trace(late["error"]), SlowStoreError)
    assert late["unanswered_at"] == late["written_at"] + LONGEST_HOLD, "it keeps its leases as long"
    storage = two.raw("skips").files()
    assert read_manifest(storage, 1, 0) is None
    goes_on.set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while read_manifest(storage, 1, 0) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert read_manifest(storage, 1, 0) is not None


def test_a_slot_that_others_wait_for_pulls_the_rest_in_the_next_epoch(
    lake: ReadLake, two: Land, publish: Callable[..., None], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic that is not known to be busy yet."""
    decode, decoded = Puller().decode, threading.Event()

    def slow(messages: pa.RecordBatch, topic: Topic, schemas: Schemas | None) -> Decoded:
        decoded.wait(0.2)
        return decode(messages, topic, schemas)

    publish(*(play(number=number) for number in range(MANY)))
    monkeypatch.setattr(bundles_module, "_STRAGGLER_SECONDS", 0.5)
    puller = Puller(page_messages=5, decode_bytes=1, decode=slow)
    first = [row for row in pulled(bundle(is_fresh=True), two, puller) if row["topic"] == "plays"]
    assert 0 < sum(row["rows"] for row in first) < MANY
    assert all(row["full"] and row["dry_at"] is None and not row["error"] for row in first)
    decoded.set()
    rest = [row for row in pulled(bundle(epoch=2, is_fresh=True), two, puller) if row["topic"] == "plays"]
    assert sum(row["rows"] for row in [*first, *rest]) == MANY
    assert broker.unacked(SUBSCRIPTION) == []


def test_a_bundle_that_is_read_again_finds_its_manifests(
    lake: ReadLake, two: Land, publish: Callable[..., None], broker: Broker
) -> None:
    """Whatever it is bundled with then."""
    publish(play())
    first = pulled(bundle(is_fresh=True), two, Puller())
    recorded = broker.faults = Recorded()
    again = [row for name in ("plays", "skips") for row in pulled(Bundle(((name, Slot(1, 0, None)),)), two, Puller())]
    assert sorted(again, key=lambda row: row["topic"]) == sorted(first, key=lambda row: row["topic"])
    assert recorded.calls == []


def test_the_slots_of_a_task_share_one_bound_of_memory(lake: ReadLake, two: Land, publish: Callable[..., None]) -> None:
    publish(*(play(number) + b" " * 1000 for number in range(20)))
    bound = two.ingest.model_copy(update={"max_bytes": 20_000})
    rows = pulled(bundle(is_fresh=True), replace(two, ingest=bound), Puller(page_messages=5), side_by_side=0)
    held = {row["topic"]: (row["rows"], row["full"]) for row in rows}
    assert held["plays"][1] or held["skips"][1]


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
    assert lake.storage.listing("segments") == [], "what is not there can be pulled again"


def test_counts_are_reported_once_for_a_segment(lake: ReadLake) -> None:
    """Whoever sums them over rows must not count them twice."""
    files = tuple(
        SegmentFile(f"{hour}/a.parquet", hour, 1, 9, NOON, NOON, NOON, NOON)
        for hour in ("2026-11-23T11", "2026-11-23T12")
    )
    rows = rows_of(Manifest(1, 0, "a", 0, NOON, None, False, files, {"from the future": 2}, {"mood": 1}))
    batch = pa.RecordBatch.from_pylist(rows, schema=FACTS)
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
    assert lake.read() == [{**row, "topic": "plays", "slots": 1} for row in rows_of(winner)]
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
    """Neither dry, as more may wait, nor a reason for fewer slots: so there are more in the next epoch."""
    publish_key(broker, 1200)
    (row,) = lake.read(max_pull="1 second", empty_after="1 second")
    assert (row["rows"], row["dry_at"], row["full"]) == (1000, None, True)


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
    query = IngestQuery([ingest], lake.settings)
    Supervisor(query, [ingest], lambda: None).open()  # type: ignore[arg-type, return-value]
    stream = FactStream(query.source_options(), lake.puller)
    end = stream.initialOffset()
    for _ in range(3):
        start, end = end, stream.latestOffset(end) | {"slots": {"plays": 4}}
        for task in stream.partitions(start, end):
            list(stream.read(task))
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
    lake.puller = puller_of(Pauses(patience=timedelta(0)))
    with pytest.raises(SourceError, match=f"the emulator at {gone.address} UNAVAILABLE"):
        lake.read()


def test_a_broker_that_is_away_for_a_while_is_waited_for(
    lake: ReadLake, publish: Callable[..., None], broker: Broker
) -> None:
    lake.puller = puller_of(Pauses(first=timedelta(milliseconds=1)))
    publish(play())
    away = [grpc.StatusCode.UNAVAILABLE] * 3
    broker.faults = Recorded(GetSubscription=away, Pull=away, Acknowledge=away)
    (row,) = lake.read()
    assert row["rows"] == 1
    assert broker.unacked(SUBSCRIPTION) == []
