"""Pub/Sub Lite in Spark's own processes: the planner's, and the executors', whose streams are their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.pubsublite_v1")

from deltalake import DeltaTable
from fake_lite import FakeLite
from log_lake import event, until
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery
from test_lite import SUBSCRIPTION, TOPIC, lite_topic

from lakehouse.landing.source import PubSubSource

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def fake() -> Iterator[FakeLite]:
    with FakeLite() as fake:
        fake.create(TOPIC, 3, SUBSCRIPTION)
        yield fake
        assert fake.violations == []


def test_a_query_in_spark_that_is_cut_off_and_started_again_has_each_message_once(
    spark: SparkSession, fake: FakeLite, tmp_path: Path
) -> None:
    spark.dataSource.register(PubSubSource)
    topic = lite_topic(fake, slots={"min": 2, "max": 2})
    options = {"read": "messages", "topic": topic.as_json(), "segments": str(tmp_path / "segments")}

    def started() -> StreamingQuery:
        messages = spark.readStream.format("pubsub").options(**options).option("empty_after", "0.2 seconds").load()
        sink = messages.writeStream.format("delta").option("checkpointLocation", str(tmp_path / "checkpoint"))
        return sink.trigger(processingTime="1 second").start(str(tmp_path / "table"))

    def ids() -> Counter[str]:
        if not DeltaTable.is_deltatable(str(tmp_path / "table")):
            return Counter()
        table = DeltaTable(str(tmp_path / "table")).to_pyarrow_table(columns=["event_id"])
        return Counter(table["event_id"].to_pylist())

    published = [f"e{n}" for n in range(60)]
    for number, event_id in enumerate(published[:30]):
        fake.publish(TOPIC, event(NOON, event_id), partition=number % 3)
    query = started()
    until(lambda: len(ids()) == 30)
    query.stop()
    for newest in sorted((tmp_path / "checkpoint/commits").glob("[0-9]*"), key=lambda path: int(path.name))[-1:]:
        newest.unlink()  # as if it had died before it
        newest.with_name(f".{newest.name}.crc").unlink(missing_ok=True)
    for number, event_id in enumerate(published[30:]):
        fake.publish(TOPIC, event(NOON, event_id), partition=number % 3)
    query = started()
    until(lambda: len(ids()) == 60)
    query.stop()
    assert ids() == Counter(published)
