"""Spark's tasks find the same losers as the driver, whatever the hash of the ids is worth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_with
from pyspark.sql import SparkSession

from lakehouse import failpoints
from lakehouse.config import Config, Seal
from lakehouse.crash.cluster import cluster
from lakehouse.crash.processes import UnavailableError
from lakehouse.seal import distributed
from lakehouse.seal.dedup import duplicates, late_duplicates
from lakehouse.seal.distributed import Rows
from lakehouse.seal.hashes import Hashes, HashOf, hashes_of
from lakehouse.store import parquet
from lakehouse.store.files import LocalStorage
from lakehouse.store.place import Place
from lakehouse.topics import Topic
from lakehouse.underway import Work
from tests import lake
from tests.clock import NOON
from tests.examples import examples
from tests.lake import FIVE, SIX, Lake
from tests.test_dedup import DELIVERIES, FILES, IDENTITIES, Delivery, addresses, scan_of

pytestmark = pytest.mark.slow

FEW = given_with(max_examples=examples(8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def weak() -> HashOf:
    """Many ids share it; by value, as tasks know no tests."""

    def lengths_of(ids: pa.Array) -> Hashes:
        return pc.binary_length(ids).to_numpy().astype(np.uint64)

    lengths_of.__module__ = "__main__"
    return lengths_of


Written = Callable[[Sequence[Sequence[Delivery]]], Rows]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Files of the deliveries, each time in a folder of its own; a row group for every two."""
    count = 0

    def rows(files: Sequence[Sequence[Delivery]]) -> Rows:
        nonlocal count
        count += 1
        folder = tmp_path / f"files-{count}"
        folder.mkdir()
        columns = ["event_id", "event_time", "publish_time", "message_id"]
        for number, file in enumerate(files):
            batches = [batch.select(columns) for batch in scan_of(list(file))(columns)]
            schema = next(iter(scan_of([("a", 0, 0, "1")])(columns))).select(columns).schema
            pq.write_table(pa.Table.from_batches(batches, schema), folder / f"{number}.parquet", row_group_size=2)
        paths = tuple(f"{number}.parquet" for number in range(len(files)))
        return Rows(Place(str(folder)), paths, sum(map(len, files)))

    return rows


def in_driver(rows: Rows) -> partial[None]:
    storage = LocalStorage(rows.place.uri)
    return partial(parquet.visit_rows, [partial(parquet.LakeFile, storage, path) for path in rows.paths])


@given(FILES, IDENTITIES)
@FEW
def test_duplicates_are_the_driver_s_to_the_row(
    spark: SparkSession, written: Written, weak: HashOf, files: list[list[Delivery]], identity: tuple[str, ...]
) -> None:
    rows = written(files)
    expected = addresses(duplicates(in_driver(rows), identity))
    for hash_of in (hashes_of, weak):
        work = Work()
        found = distributed.duplicates(spark, rows, identity, work, hash_of)
        assert addresses(found) == expected
    assert not files or work.text() == f"scan: {rows.count:,} of {rows.count:,} rows"


@given(FILES, DELIVERIES, IDENTITIES)
@FEW
def test_late_duplicates_are_the_driver_s_to_the_row(
    spark: SparkSession,
    written: Written,
    weak: HashOf,
    files: list[list[Delivery]],
    sealed: Delivery,
    identity: tuple[str, ...],
) -> None:
    earlier = [sealed, *(each for file in files[:1] for each in file[:2])]
    expected = addresses(
        late_duplicates(
            scan_of(*files), lambda columns: (each.select(columns) for each in scan_of(earlier)(columns)), identity
        )
    )
    for hash_of in (hashes_of, weak):
        found = distributed.late_duplicates(spark, written(files), written([earlier]), identity, Work(), hash_of)
        assert addresses(found) == expected


def test_only_skewed_deliveries_of_the_files_that_have_some_are_late(spark: SparkSession, written: Written) -> None:
    """An event of the hour itself cannot have been sealed before, whatever has its id and its time."""
    files = [[("a", 0, 0, "1")], [("a", 0, 0, "2"), ("b", 5, 0, "3")]]
    rows = replace(written(files), before=NOON + timedelta(microseconds=5), numbers=(1,))
    found = distributed.late_duplicates(
        spark, rows, written([[*files[0], *files[1]]]), ("event_id", "event_time"), Work()
    )
    assert addresses(found) == [(1, 0)]


# --- on a cluster --------------------------------------------------------------------------------------------------

SEAL_ALL = """
import sys
from lakehouse.config import Settings
from lakehouse.seal.stage import Sealer
from lakehouse.spark.session import spark_session
from lakehouse.topics import Topic

topic, settings = Topic.from_json(sys.argv[1]), Settings.model_validate_json(sys.argv[2])
sealer = Sealer(topic, settings, lambda: spark_session(settings, "seal"), run="test")
for hour in sealer.due():
    sealer.seal(hour)
"""
"""A driver of its own: there is one Spark session in a process."""


def on_cluster(master: str, deaths: Path, events: Path) -> dict[str, str]:
    return {
        "spark.master": master,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.executor.cores": "1",
        "spark.executor.memory": "512m",
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": "1",
        "spark.dynamicAllocation.schedulerBacklogTimeout": "1s",
        f"spark.executorEnv.{failpoints.EXECUTORS_VARIABLE}": str(deaths),
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{events}",
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
    }


def reasons_of_removal(events: Path) -> Iterator[str]:
    for line in (line for log in events.iterdir() for line in log.read_text(encoding="utf-8").splitlines()):
        event = json.loads(line)
        if event["Event"] == "SparkListenerExecutorRemoved":
            yield event["Removed Reason"]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_an_hour_is_the_same_whatever_executors_do(topic: Topic, config: Config, tmp_path: Path) -> None:
    """They come as there is work, share nothing but the store, and one dies when it has compared its hashes."""
    deaths, events = tmp_path / "deaths", tmp_path / "events"
    deaths.mkdir()
    events.mkdir()
    doubled = [lake.Delivery(f"e{number % 40}", number % 40, number % 3, f"m{number}", number) for number in range(100)]
    late = [lake.Delivery(f"e{number}", number, 70, "late", number) for number in range(30, 60)]
    here = Lake(topic, config)
    for hour, bucket in ((FIVE, doubled), (SIX, late)):
        here.deliver(*bucket, hour=hour, parts=3)
        here.close(hour)
    there = here.copied(tmp_path / "there")
    try:
        with cluster(tmp_path / "cluster") as master:
            spark = on_cluster(master, deaths, events)
            settings = there.settings.model_copy(update={"seal": Seal(small_rows=0, driver_rows=0), "spark": spark})
            (deaths / "seal.hashes_compared").touch()
            command = [sys.executable, "-c", SEAL_ALL, topic.as_json(), settings.model_dump_json()]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(deaths.iterdir())
    assert "Command exited with code 137" in list(reasons_of_removal(events))
    sealed = [here.sealer().seal(hour) for hour in (FIVE, SIX)]
    assert [entry and entry.details["late_duplicates"] for entry in sealed] == [0, 10]
    for hour in (FIVE, SIX):
        assert there.sealed(hour) == here.sealed(hour)
