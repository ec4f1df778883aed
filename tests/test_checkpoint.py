"""A checkpoint that Spark cannot read is set aside, and ingest goes on as if it were lost: which it may be."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.cloud.pubsub_v1 import PublisherClient
from pyspark.sql import SparkSession
from subscribing import TOPIC, subscribed_broker

from lakehouse.config import Config
from lakehouse.crash.lives import KilledLake
from lakehouse.ingest.checkpoint import damage_of, is_readable, set_aside_if_damaged
from lakehouse.sandbox.broker import Broker
from lakehouse.store.files import storage_for
from lakehouse.store.tables import TopicTables
from tests.servers.together import Servers
from tests.supervised import APPLICATION, ingest_of

Damage = Callable[[Path], None]


def newest(folder: Path) -> Path:
    return max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def emptied(name: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name
        (newest(path) if path.is_dir() else path).write_bytes(b"")

    return damage


def cut(name: str, share: float) -> Damage:
    def damage(checkpoint: Path) -> None:
        path = newest(checkpoint / name)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        path.with_name(f".{path.name}.crc").unlink()  # a cut that no checksum tells

    return damage


def flipped(checkpoint: Path) -> None:
    """One digit, which is JSON as before: only the checksum tells."""
    path = newest(checkpoint / "offsets")
    text = path.read_text()
    path.write_text(text.replace('"batchTimestampMs":1', '"batchTimestampMs":2'))
    assert path.read_text() != text


def without_metadata(checkpoint: Path) -> None:
    (checkpoint / "metadata").unlink()


DAMAGES = {
    "newest offsets empty": emptied("offsets"),
    "newest commit empty": emptied("commits"),
    "metadata empty": emptied("metadata"),
    "metadata gone": without_metadata,
    "offsets cut in the version": cut("offsets", 0.01),
    "offsets cut in the middle": cut("offsets", 0.5),
    "offsets cut near the end": cut("offsets", 0.95),
    "commit cut": cut("commits", 0.5),
    "a bit flipped": flipped,
}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, spark: SparkSession) -> Iterator[Broker]:
    with subscribed_broker(monkeypatch, ack_deadline_seconds=10) as broker:
        monkeypatch.setitem(spark.sparkContext.environment, "PUBSUB_EMULATOR_HOST", broker.address)
        yield broker


def publish(*event_ids: str) -> None:
    publisher = PublisherClient()
    for event_id in event_ids:
        event = {"event_id": event_id, "played_at": "2026-01-01T05:00:00Z", "n": 1}
        publisher.publish(TOPIC, json.dumps(event).encode()).result(10)
    publisher.stop()
    publisher.transport.close()


def ingest_once(config: Config, spark: SparkSession, run: str, until: Callable[[], bool]) -> None:
    """A life of the query, from its claim to its end between two triggers."""
    supervisor, _ = ingest_of(config, spark, run)
    stop, deadline = threading.Event(), time.monotonic() + 100
    waiting = threading.Thread(target=lambda: (_wait(until, deadline), stop.set()))
    waiting.start()
    supervisor.run(stop)
    waiting.join()


def _wait(until: Callable[[], bool], deadline: float) -> None:
    while not until() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_no_checkpoint_and_a_whole_one_are_left_alone(tmp_path: Path) -> None:
    storage = storage_for(str(tmp_path))
    assert damage_of(storage) is None
    (tmp_path / "checkpoint" / "offsets").mkdir(parents=True)
    (tmp_path / "checkpoint" / "metadata").write_text('{"id":"x"}')
    (tmp_path / "checkpoint" / "offsets" / "0").write_text('v1\n{"batchWatermarkMs":0}\n{"epoch":1}')
    assert set_aside_if_damaged(storage, "plays", datetime.now(UTC)) is None
    assert (tmp_path / "checkpoint" / "metadata").exists()


LIVED_WITH = "offsets cut in the middle", "metadata gone"
"""Once it is aside, one damage is like another: these two have a life of the query after them."""


@pytest.mark.timeout(300)
def test_a_damaged_checkpoint_is_set_aside_and_nothing_is_lost_or_doubled(
    config: Config, spark: SparkSession, broker: Broker, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Every damage of a checkpoint that Spark wrote is found; and a topic lives on after one and another."""
    tables = TopicTables(config.topic("plays"), config.settings)
    home = Path(config.settings.raw_root, "_applications", APPLICATION)
    subscription = config.topic("plays").subscription

    def is_read() -> bool:
        return not broker.unacked(subscription) and (home / "checkpoint" / "commits" / "1").exists()

    publish("first")
    ingest_once(config, spark, "run-0", is_read)
    for name, damage in DAMAGES.items():
        copy = tmp_path / name
        shutil.copytree(home / "checkpoint", copy / "checkpoint")
        assert set_aside_if_damaged(storage_for(str(copy)), "plays", datetime.now(UTC)) is None
        damage(copy / "checkpoint")
        assert set_aside_if_damaged(storage_for(str(copy)), "plays", datetime.now(UTC)), name
        assert [path.name.startswith("checkpoint-damaged-") for path in copy.iterdir()] == [True], name
    for number, name in enumerate(LIVED_WITH, 1):
        DAMAGES[name](home / "checkpoint")
        publish(f"after {name}")
        caplog.clear()
        ingest_once(config, spark, f"run-{number}", is_read)
        assert "error=damaged checkpoint" in caplog.text, name
        assert len(list(home.glob("checkpoint-damaged-*"))) == number, name
    ids = tables.bronze().to_pyarrow_table(columns=["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == sorted(["first", *(f"after {name}" for name in LIVED_WITH)])


@pytest.mark.timeout(300)
def test_a_checkpoint_of_a_place_of_its_own_can_be_lost(
    config: Config, spark: SparkSession, broker: Broker, tmp_path: Path
) -> None:
    """As with the disk of a machine that is gone: the next run goes on behind the last epoch, and adopts what waits."""
    root = tmp_path / "disk"
    ingest = config.settings.ingest.model_copy(update={"checkpoint_root": str(root)})
    config = replace(config, settings=config.settings.model_copy(update={"ingest": ingest}))
    tables, subscription = TopicTables(config.topic("plays"), config.settings), config.topic("plays").subscription
    checkpoint = root / APPLICATION / "checkpoint"

    def is_read() -> bool:
        return not broker.unacked(subscription) and (checkpoint / "commits" / "0").exists()

    for run in ("first", "second", "third"):
        publish(run)
        ingest_once(config, spark, run, is_read)
        assert (checkpoint / "metadata").exists()
        shutil.rmtree(root)
    assert not list(Path(config.settings.raw_root).glob("_applications/*/checkpoint*"))
    ids = tables.bronze().to_pyarrow_table(columns=["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == ["first", "second", "third"]


@pytest.mark.stores
@pytest.mark.timeout(900)
def test_a_checkpoint_on_hdfs_can_be_lost_with_the_application(servers: Servers, tmp_path: Path) -> None:
    """It dies with a segment that no commit has, then with a commit that no checkpoint has; each time all is gone."""
    hdfs = servers.hdfs()
    ingest = {"trigger": "1 second", "empty_after": "0.2 seconds", "checkpoint_root": f"{hdfs.address}/checkpoints"}
    with Broker() as broker:
        lake = KilledLake(tmp_path, broker, random.Random(1), settings={"ingest": ingest})
        for step in ("pull.manifest_durable", "ingest.committed"):
            assert lake.life_until(step) == []
            assert hdfs.names("/checkpoints/crash/checkpoint") >= {"metadata", "offsets"}
            hdfs.remove("/checkpoints")
        assert lake.last_life() == []
        assert hdfs.names("/checkpoints/crash/checkpoint") >= {"metadata", "offsets", "commits"}
    assert not list(Path(lake.config.settings.raw_root).glob("_applications/*/checkpoint*"))


def test_hdfs_is_read_by_spark_alone() -> None:
    assert not is_readable("hdfs://namenode:8020/checkpoints")
    assert is_readable("gs://lake-raw/_applications/plays")
    assert is_readable("/var/checkpoints")
