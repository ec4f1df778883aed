"""One Spark session for the whole suite, and the smallest lake that the stages can work on."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pyspark.sql import SparkSession

from lakehouse.config import Config, Settings
from lakehouse.crash.lives import SHORT_LIVED_JVM
from lakehouse.crash.processes import UnavailableError
from lakehouse.spark.session import spark_session
from lakehouse.topics import Topic, topic_from
from tests.clock import Clock
from tests.servers.object_store import ObjectStoreServer, serving
from tests.servers.together import Servers

SPARK_SETTINGS = {
    "spark.master": "local[2]",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.scheduler.mode": "FAIR",
    "spark.driver.memory": "2g",
    "spark.driver.extraJavaOptions": SHORT_LIVED_JVM,
    "spark.sql.warehouse.dir": "build/spark-warehouse",
    # How long a closed file on HDFS is waited for when its one DataNode has not reported it yet; 400 without.
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
}

PLAYS: dict[str, Any] = {
    "subscription": "projects/test/subscriptions/plays",
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"user": "string", "track": "struct<id: string, ms: int>", "n": "bigint"},
    "lateness": "1 hour",
    "quiet_period": "0 seconds",
    "first_hour": "earliest",
    "mirrors": ["folder"],
}

_FETCHED_SECONDS = 900
"""Whichever test with servers is first on a fresh machine waits until what they are made of is there."""


_IN_MEMORY, _LEAST_FREE_BYTES = Path("/dev/shm"), 4 * 1024**3
"""Where folders of tests are: nearly all that a test on a disk waits for is that each file is durable."""


def pytest_configure(config: pytest.Config) -> None:
    """A `--basetemp` or a temporary folder that the caller names are used as they are."""
    if "not slow" in config.option.markexpr:
        hypothesis.settings.load_profile("fast")
    elif "not long" in config.option.markexpr:
        hypothesis.settings.load_profile("change")
    if _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free >= _LEAST_FREE_BYTES:
        for variable in ("PYTEST_DEBUG_TEMPROOT", "TMPDIR"):
            os.environ.setdefault(variable, str(_IN_MEMORY))
        tempfile.tempdir = None  # asked for already, by pytest


# An example of a property may take long on a busy machine: no test is about that.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.register_profile("change", deadline=None, max_examples=40)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=20)
hypothesis.settings.load_profile("house")


_GROUP = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """What starts Spark is slow; and for `--dist loadgroup`, which tests are of one worker, the longest first."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        item.stash[_GROUP] = _group(item)
        item.add_marker(pytest.mark.xdist_group(item.stash[_GROUP]))
        if item.stash[_GROUP] == "stores" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_FETCHED_SECONDS))
    yield  # here those that were not asked for are left out, and xdist names the groups
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in items):
        raise pytest.UsageError(
            "pytest-xdist has named no groups: what is shared by a group would be made by each worker"
        )
    seconds: Counter[str] = Counter()
    for item in items:
        seconds[item.stash[_GROUP]] += _guessed_seconds(item)
    items.sort(key=lambda item: -seconds[item.stash[_GROUP]])


_OF_A_SECOND = {f"test_{name}.py" for name in "crash erased_everywhere quarantine cli_verdicts store_requests".split()}
"""Files of few tests that take about a second each, as most do not."""


def _guessed_seconds(item: pytest.Item) -> float:
    """A long group that comes last keeps one worker busy while the other has nothing left to do."""
    if item.get_closest_marker("timeout"):  # it asks for more time than usual
        return 30
    if item.get_closest_marker("slow"):
        return 3
    return 1 if item.path.name in _OF_A_SECOND else 0.1


def _group(item: pytest.Item) -> str:
    """A file's tests stay together; and those that share what takes long to make: servers, or the flights' lake."""
    if item.get_closest_marker("stores") is not None:
        return "stores"
    asked = item.get_closest_marker("xdist_group")
    return str(asked.args[0]) if asked else item.path.name


_RUNNING = pytest.StashKey[pytest.Item]()
_MAY_BE_SLOW = {"slow", "long", "stores", "services"}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_RUNNING] = item


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """In a folder of a name that no other test had: a process knows tables by their addresses, as it does in a lake."""
    folder = tmp_path / uuid.uuid4().hex[:8]
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def spark(request: pytest.FixtureRequest) -> Iterator[SparkSession]:
    """A test that asks for it by `getfixturevalue` is not seen to need Spark before it runs: it says so itself."""
    running = request.config.stash[_RUNNING]
    if not _MAY_BE_SLOW & {mark.name for mark in running.iter_markers()}:
        pytest.fail(f"{running.nodeid} starts Spark: mark it slow")
    session = spark_session(Settings(raw_root="build/test-lake", spark=SPARK_SETTINGS), "tests")
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


class ServersOrSkip(Servers):
    """Each is started by the first test that asks for it; a test of one that cannot be had is skipped."""

    def _once(self, name: str, start: Callable[[], Any]) -> Any:
        try:
            return super()._once(name, start)
        except UnavailableError as missing:
            pytest.skip(str(missing))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    running = ServersOrSkip(tmp_path_factory.mktemp("servers"))
    yield running
    running.end()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStoreServer]:
    with serving() as started:
        yield started


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def topic() -> Topic:
    return topic_from("plays", PLAYS)


@pytest.fixture
def topic_with() -> Callable[..., Topic]:
    return lambda **changes: topic_from(changes.pop("name", "plays"), {**PLAYS, **changes})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def settings_in(folder: Path) -> Settings:
    """Of an environment below the folder: its lake, and a folder mirror."""
    lake = str(folder / "lake")
    return Settings(
        raw_root=lake,
        sealed_root=lake,
        release="test",
        frontier={"source": "drained"},
        ingest={"trigger": "1 second", "empty_after": "0.2 seconds"},
        mirrors={"folder": {"kind": "folder", "path": str(folder / "mirror")}},
        spark=SPARK_SETTINGS,
    )


@pytest.fixture
def config(settings: Settings, topic: Topic, tmp_path: Path) -> Config:
    return config_in(tmp_path, topic, settings)


def config_in(folder: Path, topic: Topic, settings: Settings | None = None) -> Config:
    return Config(
        folder / "conf" / "test.yaml", settings or settings_in(folder), {topic.name: topic}, folder / "expectations"
    )
