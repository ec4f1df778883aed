"""A store that takes no more, at each durable step: a clear error of one topic, which goes on when there is room."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from google.cloud.pubsub_v1 import PublisherClient
from pyspark.sql import SparkSession
from subscribing import TOPIC, create_subscription, create_topic
from two_topics import DAMAGED, NEIGHBOUR, TwoTopics

from lakehouse import application as doors
from lakehouse import failpoints, hours
from lakehouse.errors import LakehouseError, UnexpectedError
from lakehouse.sandbox.broker import Broker
from lakehouse.store.delta import files
from tests.clock import Clock

BOTH = (DAMAGED, NEIGHBOUR)
JOBS = (doors.seal, doors.validate, doors.mirror)
FIRST = datetime(2025, 6, 1, 9, tzinfo=UTC)
MADE = {"a", "b", "c", "d", "e", "s900", "s901"}
"""The events of `two_topics`."""


class World:
    """Two topics, a broker, and an ingest whose clock is two hours after the newest events."""

    def __init__(self, lake: TwoTopics, broker: Broker, clock: Clock) -> None:
        self.lake, self.broker, self.clock = lake, broker, clock
        self.published: set[str] = set()

    def publish(self) -> None:
        """Some events of the next hour."""
        self.clock.now += timedelta(hours=1)
        with PublisherClient() as publisher:
            for number in range(3):
                event_id = f"{hours.hour_of(self.clock.now)}-{number}"
                event = {"event_id": event_id, "played_at": self.clock.now.isoformat(), "user": "u" * 50, "n": number}
                publisher.publish(TOPIC, json.dumps(event).encode()).result(30)
                self.published.add(event_id)

    def run(self) -> dict[str, list[BaseException]]:
        """Ingest and all stages once; what failed, by topic."""
        failed: dict[str, list[BaseException]] = {}
        later = self.clock.now + timedelta(hours=2)
        for name, error in self.lake.ingest(self.lake.pulled_facts, lambda: later).items():
            failed.setdefault(name, []).append(error)
        for job in JOBS:
            error = self.lake.stage(job)
            if error is not None:
                name = next(each for each in BOTH if each in str(error))
                failed.setdefault(name, []).append(error)
        return failed

    def check(self, *names: str) -> None:
        """All that was published is in silver once, recorded and mirrored; nothing is named that is not there."""
        for name in names:
            tables, history = self.lake.tables(name), self.lake.history(name)
            assert {history.state_of(hour) for hour in history.hours()} == {"mirrored"}
            ids: Counter[str] = Counter()
            for table, place in (
                (tables.silver(), tables.sealed.below("silver")),
                (tables.bronze(), tables.raw.below("bronze")),
            ):
                for file in files(table):
                    path = Path(place.uri, file.path)
                    assert path.stat().st_size == file.size_bytes
                    if place.uri.endswith("silver"):
                        ids.update(pq.ParquetFile(path).read(["event_id"])["event_id"].to_pylist())
            assert ids == dict.fromkeys(MADE | self.published, 1)
            mirrored = (self.lake.folder / "mirror" / name).rglob("*.parquet")
            assert sum(pq.read_metadata(file).num_rows for file in mirrored) == len(ids)


def is_ours(error: BaseException) -> bool:
    return isinstance(error, LakehouseError) and not isinstance(error, UnexpectedError)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TwoTopics:
    return TwoTopics.made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def clock() -> Clock:
    return Clock(FIRST)


@pytest.fixture
def broker(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with Broker(clock=clock.seconds) as broker:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", broker.address)
        create_topic()
        for name in BOTH:
            create_subscription(f"projects/test/subscriptions/{name}", ack_deadline_seconds=10)
        yield broker


STEPS = (
    "ingest.started", "pull.received", "pull.files_durable", "pull.manifest_durable", "pull.acknowledged",
    "ingest.decided", "ingest.committed", "ingest.close_recorded", "seal.files_durable", "seal.committed",
    "seal.recorded", "validate.report_durable", "validate.recorded", "mirror.whole", "mirror.in_place",
    "mirror.counted", "mirror.recorded",
)  # fmt: skip


@pytest.fixture
def no_room_at() -> Iterator[Callable[[str], list[str]]]:
    """Makes the first to reach a step meet a full disk; gives a list that says whether that happened."""

    def set_up(wanted: str) -> list[str]:
        met: list[str] = []

        def watch(step: str) -> None:
            if step == wanted and not met:
                met.append(step)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/lake/at/{step}")

        failpoints.watch(watch)
        return met

    yield set_up
    failpoints.watch(None)


@pytest.mark.timeout(300)
def test_a_topic_that_finds_no_room_at_any_step_fails_alone_and_goes_on_by_itself(
    made: TwoTopics,
    broker: Broker,
    clock: Clock,
    tmp_path: Path,
    spark: SparkSession,
    no_room_at: Callable[[str], list[str]],
) -> None:
    """On one lake that lives through all of them, one after the other."""
    world = World(made.copied(tmp_path / "lakes", spark), broker, clock)
    for step in STEPS:
        world.publish()
        met = no_room_at(step)
        failed = world.run()
        failpoints.watch(None)
        assert met, step
        assert len(failed) == 1, (step, failed)
        ((name, errors),) = failed.items()
        assert all(map(is_ours, errors)), (step, errors)
        assert "No space left" in str(errors[0]), step
        world.check(*(each for each in BOTH if each != name))
        assert world.run() == {}, step
        world.check(name)
        assert all(not broker.unacked(f"projects/test/subscriptions/{each}") for each in BOTH), step


@pytest.fixture
def on_a_small_disk() -> Iterator[Callable[[Path], None]]:
    """Moves a folder to a file system of 16 MiB, mounted in its place; skipped where nobody lets us mount one."""
    mounted: list[Path] = []

    def move(folder: Path) -> None:
        aside = folder.rename(folder.with_suffix(".aside"))
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        shutil.copytree(aside, folder, dirs_exist_ok=True)

    yield move
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_disk_that_is_really_full_loses_and_doubles_nothing(
    made: TwoTopics,
    broker: Broker,
    clock: Clock,
    tmp_path: Path,
    spark: SparkSession,
    on_a_small_disk: Callable[[Path], None],
) -> None:
    """The damaged topic's folders are on a disk of their own, with room for a few pages more each time."""
    world = World(made.copied(tmp_path / "lakes", spark), broker, clock)
    place = world.lake.at("")
    on_a_small_disk(place)
    filler = place / "filler"
    fails = 0
    for free_pages in (0, 1, 2, 4, 7, 10, 14, 20, 30):
        world.publish()
        fill(filler, free_pages)
        failed = world.run()
        assert set(failed) <= {DAMAGED}
        assert all(map(is_ours, failed.get(DAMAGED, []))), failed
        fails += bool(failed)
        world.check(NEIGHBOUR)
        filler.unlink()
        for _ in range(3):  # what was leased when the disk was full comes again within the ack deadline
            assert world.run() == {}
            if not broker.unacked(f"projects/test/subscriptions/{DAMAGED}"):
                break
        world.check(DAMAGED)
    assert fails >= 4


def fill(filler: Path, free_pages: int) -> None:
    free = os.statvfs(filler.parent).f_bavail - free_pages
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free * os.statvfs(filler.parent).f_bsize)
