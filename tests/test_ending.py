"""How jobs under spark-submit end: by themselves, asked to, soon and between two hours; when their JVM is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyspark
import pytest
from deltalake import write_deltalake
from subscribing import subscribed_broker
from test_maintain import manifest
from two_topics import DAMAGED, TwoTopics

from lakehouse import hours
from lakehouse.spark.shutdown import GRACE
from lakehouse.store.bronze_log import commit_batch, newest_state, segment_of
from lakehouse.store.history import Entry, rows_of
from lakehouse.store.records import Closed, State
from tests.lake import FIVE, Delivery, Lake

ROOT = Path(__file__).parent.parent
DUE_HOURS = 300
"""Minutes of work for the stages."""
ENDS_WITHIN_SECONDS = 60
"""The hour under way in each stage, the batch under way, and the end of Spark, on a busy machine."""
HOURS_UNDER_WAY = 2
"""The one being sealed when the signal comes, and one that the test has not seen yet."""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """One topic with many hours that have closed; `conf/test.yaml` is beside it."""
    folder = TwoTopics(tmp_path)
    folder.configure()
    config = folder.config
    lake = Lake(config.topic(DAMAGED), config)
    names = [hours.from_ordinal(hours.ordinal_of(FIVE) + number) for number in range(DUE_HOURS)]
    files = [lake.bronze_file([Delivery(f"e{n}", 60 * n)], hour, 0, n) for n, hour in enumerate(names)]
    state = replace(newest_state(lake.bronze), epoch=1, open_hour=hours.after(names[-1]))
    segments = [segment_of(file.path) for file in files]
    metadata = {"release": "test", "run": "run", "epochs": [1], "rows": len(files), "rejected": 0, "closed": []}
    version = commit_batch(lake.bronze, files, state, {**metadata, "segments": segments})
    details = Closed(bronze_version=version, why="watermark", rows=1).as_json()
    closes = [Entry(hour, State.CLOSED, datetime.now(UTC), "ingest/test/run", details) for hour in names]
    write_deltalake(lake.folders.ledger, rows_of(closes), mode="append")
    return lake


@pytest.fixture
def submitted(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """`run`, once the first hours are sealed."""
    with subscribed_broker(monkeypatch), submitted_job("run", lake, lambda: sealed(lake) >= 2) as process:
        yield process


@contextmanager
def submitted_job(
    job: str, lake: Lake, has_begun: Callable[[], bool], *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """`spark-submit jobs/<job>.py`, once it has begun; its process is the JVM, the driver its child."""
    home = os.path.dirname(pyspark.__file__)
    environment = {"SPARK_HOME": home, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [f"{home}/bin/spark-submit", "--master", "local[2]", str(ROOT / "jobs" / f"{job}.py")]
    process = subprocess.Popen(
        [*command, "--conf", str(lake.config.path), DAMAGED, *arguments],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    drivers: list[psutil.Process] = []
    try:
        wait_until(has_begun, process)
        drivers += psutil.Process(process.pid).children(recursive=True)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        for driver in drivers:
            if driver.is_running():
                driver.kill()
        process.communicate()


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not is_so():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)


def sealed(lake: Lake) -> int:
    return len(lake.tables.history().sealed_hours())


def driver_of(process: subprocess.Popen[str]) -> psutil.Process:
    children = [each for each in psutil.Process(process.pid).children() if each.status() != psutil.STATUS_ZOMBIE]
    (driver,) = [each for each in children if f"{ROOT}/jobs/" in " ".join(each.cmdline())]
    return driver


@pytest.fixture
def maintainable(tmp_path: Path) -> tuple[Lake, Path]:
    """A topic, and a manifest that maintain removes: of a past epoch, whose files the log has."""
    folder = TwoTopics(tmp_path)
    folder.configure()
    lake = Lake(folder.config.topic(DAMAGED), folder.config)
    manifests = []
    for number in range(4):
        (path,) = lake.deliver(Delivery(f"e{number}"))
        manifests.append(manifest(lake, lake.epoch, path))
    return lake, manifests[0]


@pytest.mark.slow
def test_a_job_that_needs_no_spark_does_its_work_and_ends_with_0(maintainable: tuple[Lake, Path]) -> None:
    """It ended at once with an AssertionError, and no topic was touched: its threads expected a session."""
    lake, removable = maintainable
    with submitted_job("maintain", lake, lambda: True) as process:
        _, said = process.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert process.returncode == 0, said
    assert not removable.exists(), said


@pytest.mark.slow
def test_sigterm_ends_a_job_that_waits_for_its_next_turn(maintainable: tuple[Lake, Path]) -> None:
    """spark-submit is gone at once where no session's hook is installed, and leaves its driver behind."""
    lake, removable = maintainable
    with submitted_job("maintain", lake, lambda: not removable.exists(), "--every", "1 hour") as process:
        driver = driver_of(process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=ENDS_WITHIN_SECONDS)
        driver.wait(timeout=ENDS_WITHIN_SECONDS)
    assert "Traceback" not in said, said


@pytest.mark.long
@pytest.mark.timeout(400)
def test_sigterm_ends_a_run_between_two_hours(lake: Lake, submitted: subprocess.Popen[str]) -> None:
    """spark-submit was gone after two minutes, and its driver went on sealing for six more."""
    driver, begun = driver_of(submitted), time.monotonic()
    submitted.send_signal(signal.SIGTERM)
    before = sealed(lake)
    _, said = submitted.communicate(timeout=ENDS_WITHIN_SECONDS)
    driver.wait(timeout=max(1.0, ENDS_WITHIN_SECONDS - (time.monotonic() - begun)))
    assert sealed(lake) <= before + HOURS_UNDER_WAY, said
    assert lake.tables.history().last(State.STOPPED) is not None, said
    assert "Traceback" not in said, said


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_driver_ends_by_itself_when_its_jvm_is_killed(lake: Lake, submitted: subprocess.Popen[str]) -> None:
    """By the kernel, short of memory: nobody is left who could end the driver, which needs no JVM to seal."""
    driver = driver_of(submitted)
    submitted.kill()
    driver.wait(timeout=GRACE.total_seconds() + 20)
    assert sealed(lake) < DUE_HOURS
