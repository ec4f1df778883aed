"""`option("read", "messages")`: the source for a query of anybody's own, with Delta's own sink."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from google.pubsub_v1 import types
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from subscribing import SUBSCRIPTION, TOPIC

from lakehouse import failpoints
from lakehouse.config import Settings
from lakehouse.errors import SourceError
from lakehouse.landing.manifests import listed_manifests
from lakehouse.landing.messages import Segments, source_options_of
from lakehouse.landing.slots import Slot
from lakehouse.landing.source import MessageStream, PubSubSource
from lakehouse.sandbox.broker import Broker
from lakehouse.sandbox.direct import DirectChannel
from lakehouse.schemas import segment_schema
from lakehouse.store.files import storage_for
from lakehouse.store.place import Place
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from tests.status_lake import FIVE

PATIENCE_SECONDS = 60
"""Only a failing test waits this long."""


@pytest.fixture
def broker(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with Broker() as broker:
        call(broker, "CreateTopic", types.Topic, name=TOPIC)
        call(broker, "CreateSubscription", types.Subscription, name=SUBSCRIPTION, topic=TOPIC)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        monkeypatch.setitem(spark.sparkContext.environment, "PUBSUB_EMULATOR_HOST", broker.address)
        yield broker


def call(broker: Broker, method: str, kind: Any, **values: Any) -> None:
    DirectChannel(broker).unary_unary(f"/x/{method}")(kind.pb()(**values))


def publish(broker: Broker, *ids: str) -> None:
    messages = [types.PubsubMessage.pb()(data=payload(each), attributes={"id": each}) for each in ids]
    call(broker, "Publish", types.PublishRequest, topic=TOPIC, messages=messages)


def payload(event_id: str) -> bytes:
    return b'{"event_id": "%b", "played_at": "2026-11-23T10:00:00Z", "n": 1}' % event_id.encode()


@pytest.fixture
def options(topic: Topic, tmp_path: Path) -> dict[str, str]:
    segments = str(tmp_path / "segments-of-mine")
    return {"read": "messages", "topic": topic.as_json(), "segments": segments, "empty_after": "0.2 seconds"}


@pytest.fixture
def started(spark: SparkSession, options: dict[str, str], tmp_path: Path) -> Callable[[], StreamingQuery]:
    spark.dataSource.register(PubSubSource)

    def query() -> StreamingQuery:
        messages = spark.readStream.format("pubsub").options(**options).load()
        sink = messages.writeStream.format("delta").option("checkpointLocation", str(tmp_path / "checkpoint"))
        return sink.trigger(processingTime="1 second").start(str(tmp_path / "table"))

    return query


def ids(tmp_path: Path) -> Counter[str]:
    if not DeltaTable.is_deltatable(str(tmp_path / "table")):
        return Counter()
    return Counter(DeltaTable(str(tmp_path / "table")).to_pyarrow_table(columns=["event_id"])["event_id"].to_pylist())


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def forget_the_last_commit(log: Path) -> None:
    """As if the query had died before it; it may have done so by itself when it was stopped."""
    for newest in sorted(log.glob("[0-9]*"), key=lambda path: int(path.name))[-1:]:
        newest.unlink()
        (log / f".{newest.name}.crc").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_query_that_is_cut_off_anywhere_has_each_delivery_once(
    broker: Broker, started: Callable[[], StreamingQuery], options: dict[str, str], tmp_path: Path
) -> None:
    """First between its sink and Spark's commit log, then between a segment's manifest and everything else."""
    publish(broker, "a", "b", "c")
    query = started()
    until(lambda: len(ids(tmp_path)) == 3)
    query.stop()
    forget_the_last_commit(tmp_path / "checkpoint" / "commits")
    publish(broker, "d")
    epoch = max(listed_manifests(storage_for(options["segments"])))[0]
    list(MessageStream(source_options_of(options)).read(Slot(epoch + 1, 0, None)))
    assert broker.unacked(SUBSCRIPTION) == []
    publish(broker, "e")
    query = started()
    until(lambda: {"d", "e"} <= ids(tmp_path).keys())
    query.stop()
    assert ids(tmp_path) == Counter(["a", "b", "c", "d", "e"])


def test_rows_have_bronze_s_columns_but_the_hour(
    broker: Broker, spark: SparkSession, options: dict[str, str], topic: Topic
) -> None:
    spark.dataSource.register(PubSubSource)
    columns = spark.readStream.format("pubsub").options(**options).load().columns
    assert columns == segment_schema(topic).names


def answer(stream: MessageStream, epoch: int, slots: int = 1) -> list[str]:
    batches = [batch for slot in range(slots) for batch in stream.read(Slot(epoch, slot, None))]
    return [event_id for batch in batches for event_id in batch.column("event_id").to_pylist()]


def test_without_its_checkpoint_a_query_starts_with_what_is_still_there(
    broker: Broker, options: dict[str, str]
) -> None:
    """It was acknowledged, and nobody else has it."""
    publish(broker, "a", "b")
    lost = MessageStream(source_options_of(options))
    assert lost.latestOffset()["epoch"] == 1
    assert answer(lost, 1) == ["a", "b"]
    afresh = MessageStream(source_options_of(options))
    assert afresh.latestOffset()["epoch"] == 1
    assert afresh.initialOffset()["epoch"] == 0
    assert answer(afresh, 1) == ["a", "b"]


def test_what_spark_has_committed_is_cleared_away_when_the_next_batch_is(
    broker: Broker, options: dict[str, str]
) -> None:
    stream = MessageStream(source_options_of(options))
    ends = [stream.latestOffset() for _ in range(3)]
    for end in ends:
        publish(broker, f"e{end['epoch']}")
        answer(stream, end["epoch"])
        stream.commit(end)
    stored = storage_for(options["segments"])
    assert listed_manifests(stored) == [(3, 0)]
    assert len(stored.listing("bronze")) == 1


def test_a_checkpoint_older_than_what_was_cleared_away_is_refused(broker: Broker, options: dict[str, str]) -> None:
    """Its sink has seen the batch and would skip what is new in it."""
    stream = MessageStream(source_options_of(options))
    for _ in range(3):
        end = stream.latestOffset()
        answer(stream, end["epoch"])
        stream.commit(end)
    publish(broker, "new")
    with pytest.raises(SourceError, match="a checkpoint that plans epoch 1, whose files were delivered"):
        answer(MessageStream(source_options_of(options)), 1)
    assert len(broker.unacked(SUBSCRIPTION)) == 1


def test_an_attempt_that_wakes_after_its_epoch_was_cleared_away_acknowledges_nothing(
    broker: Broker, options: dict[str, str]
) -> None:
    """Nobody reads that epoch again: what the attempt pulled has to come to another one."""
    publish(broker, "a")
    stream = MessageStream(source_options_of(options))
    ends = [stream.latestOffset() for _ in range(3)]
    slept: list[str] = []

    def sleep(step: str) -> None:
        if step == "pull.files_durable" and not slept:
            slept.append(step)
            for end in ends:
                answer(MessageStream(source_options_of(options)), end["epoch"])
                stream.commit(end)

    failpoints.watch(sleep)
    try:
        with pytest.raises(SourceError, match="plans epoch 1, whose files were delivered"):
            answer(stream, 1)
    finally:
        failpoints.watch(None)
    assert len(broker.unacked(SUBSCRIPTION)) == 1
    assert answer(stream, 4) == ["a"]
    stream.commit(ends[-1])  # once more: what the attempt left is cleared away, and no earlier epoch is open again
    with pytest.raises(SourceError, match="an epoch after 2"):
        answer(MessageStream(source_options_of(options)), 2)


@pytest.mark.parametrize("missing", ["topic", "segments"])
def test_an_option_that_is_missing_is_reported(options: dict[str, str], missing: str) -> None:
    del options[missing]
    with pytest.raises(SourceError, match=f"no option '{missing}'"):
        source_options_of(options)


@pytest.mark.parametrize("inside", ["", "/bronze", "/segments"])
def test_a_lake_s_own_folder_is_refused(
    broker: Broker, options: dict[str, str], settings: Settings, topic: Topic, inside: str
) -> None:
    """What Spark has committed is cleared away: in this folder, that would be bronze's files."""
    TopicTables(topic, settings).ensure_bronze()
    options["segments"] = TopicTables(topic, settings).raw.uri + inside
    stream = MessageStream(source_options_of(options))
    for act in (
        stream.initialOffset,
        stream.latestOffset,
        lambda: stream.commit({"epoch": 9, "slots": 1, "open_hour": None}),
    ):
        with pytest.raises(SourceError, match=r"a folder of a lake.*a folder of this query's own"):
            act()


SPELLINGS: dict[str, Callable[[Path, Path], str]] = {
    "the topic's": lambda raw, link: str(raw),
    "by a URL": lambda raw, link: f"file://{raw}",
    "by a URL with one slash": lambda raw, link: f"file:{raw}",
    "by a detour": lambda raw, link: f"{raw}/bronze/../",
    "below a table": lambda raw, link: f"{raw}/bronze/{FIVE}",
    "above the topic's": lambda raw, link: str(raw.parent),
    "by a link": lambda raw, link: linked(link, raw),
    "by a link to what is below": lambda raw, link: linked(link, raw / "segments"),
    "by a link as a URL": lambda raw, link: f"file://{linked(link, raw / 'segments')}",
}


def linked(link: Path, to: Path) -> str:
    to.mkdir(exist_ok=True)
    link.symlink_to(to)
    return str(link)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_lake_s_folder_is_refused_however_it_is_spelled(
    settings: Settings, topic: Topic, tmp_path: Path, spelling: str
) -> None:
    tables = TopicTables(topic, settings)
    tables.ensure_bronze()
    before = set(Path(tables.raw.uri).parent.rglob("*"))
    uri = SPELLINGS[spelling](Path(tables.raw.uri), tmp_path / "link")
    segments = Path(tables.raw.uri, "segments")
    with pytest.raises(SourceError, match="a folder of a lake"):
        Segments(Place(uri.rstrip("/")), topic).check_own()
    assert set(Path(tables.raw.uri).parent.rglob("*")) - {segments} == before, "nothing is left there"


def test_the_folder_of_another_subscription_s_query_is_refused(
    broker: Broker, options: dict[str, str], topic_with: Callable[..., Topic]
) -> None:
    MessageStream(source_options_of(options)).latestOffset()
    options["topic"] = topic_with(subscription="projects/test/subscriptions/skips").as_json()
    with pytest.raises(SourceError, match="found the segments of projects/test/subscriptions/plays"):
        MessageStream(source_options_of(options)).latestOffset()
