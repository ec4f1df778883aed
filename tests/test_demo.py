"""The demo and its day: what pages and commands say of it is of 2 January 2013, not of the day on which it is tried."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from flights_lake import FlightsLake, shared_lake
from typer.testing import CliRunner

from lakehouse.cli.app import app
from lakehouse.operations import report
from lakehouse.sandbox.flights import FIRST, UNTIL
from lakehouse.sandbox.replay import STEP
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables

HOUSE = Path(__file__).parent.parent
OF_ANOTHER_YEAR = re.compile(r"\b20(?!13)\d\d-\d\d-\d\d|\b\d{2,}(,\d{3})* d(ays)?\b")
"""A date that is not of 2013, or an age of weeks: every page was full of them."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("flights")]


@pytest.fixture(scope="module")
def lake() -> FlightsLake:
    return shared_lake()


def shown(conf: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--conf", str(conf), *words, "--json"])
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.output)


def test_every_moment_in_the_ledger_is_of_the_day_that_is_replayed(lake: FlightsLake) -> None:
    for topic in lake.config.topics.values():
        entries = TopicTables(topic, lake.config.settings).history().entries
        assert {entry.at.date() for entry in entries if entry.state != State.RELEASED} == {FIRST.date()}


@pytest.mark.parametrize(
    ("topic", "lateness"), [("flight_landed", 10), ("weather_observed", 30), ("flight_departed", 120)]
)
def test_an_hour_closes_with_the_first_step_after_its_lateness(lake: FlightsLake, topic: str, lateness: int) -> None:
    """The frontier is the day's: 20 minutes for landings, never 13 years."""
    due = timedelta(minutes=lateness)
    steps = -(-due // STEP) * STEP
    hours = [hour for hour in shown(lake.conf, "hours", topic)["hours"] if hour["closed_after_seconds"] is not None]
    assert len(hours) >= 4
    delays = [timedelta(seconds=hour["closed_after_seconds"]) for hour in hours if hour["hour"] > "2013-01-02T12"]
    assert all(steps <= delay < steps + STEP for delay in delays), delays


def test_what_is_late_is_late_by_minutes_and_hours(lake: FlightsLake) -> None:
    """Landings come at once, weather after ten minutes, departures when the plane has landed."""
    medians = {}
    for name, topic in lake.config.topics.items():
        reports = TopicTables(topic, lake.config.settings).reports.files()
        results = [
            json.loads(reports.read(each.path) or b"") for each in reports.listing("") if "/r1.json" in each.path
        ]
        medians[name] = median(result["lateness"]["p50_seconds"] for result in results)
    assert medians["flight_landed"] == 0
    assert medians["weather_observed"] == 600
    assert 3_600 < medians["flight_departed"] < 3 * 3_600


def test_no_page_speaks_of_another_year(lake: FlightsLake, tmp_path: Path) -> None:
    """Numbers on the pages mean something: closing times, ages, the lateness of events."""
    report.build(lake.config, str(tmp_path), lake.now())
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", page.read_text(), flags=re.DOTALL)
        assert not (found := OF_ANOTHER_YEAR.search(text)), f"{page.name}: {found and found[0]!r}"


def test_status_counts_from_the_end_of_the_day(lake: FlightsLake) -> None:
    """Hours later, too: the day's clock goes on as the machine's does."""
    for row in shown(lake.conf, "status")["topics"]:
        assert UNTIL - timedelta(hours=1) <= datetime.fromisoformat(row["frontier"]) <= UNTIL + STEP
        assert 0 <= row["last_commit_age_seconds"] < 3 * 3_600


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Two hours of it, as `make demo` runs it, in a folder of its own."""
    yield from run_demo("lakehouse.sandbox.demo", tmp_path)


@pytest.fixture
def demo_on_kafka(tmp_path: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    yield from run_demo("tests.servers.kafka_demo", tmp_path)


def run_demo(module: str, folder: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    for name in ("conf", "expectations"):
        (folder / name).symlink_to(HOUSE / name)
    environment = {**os.environ, "DEMO_HOURS": "2", "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(HOUSE)}
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=500)
        yield subprocess.CompletedProcess(process.args, process.returncode, said)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check_demo(done: subprocess.CompletedProcess[str], cwd: Path, folder: str) -> None:
    """Every message is accounted for, what is printed of where to look is there, and nothing is elsewhere."""
    assert done.returncode == 0, done.stdout[-3000:]
    assert "lost 0, doubled 0, changed 0" in done.stdout
    named = re.findall(r"^  (build/\S+)", done.stdout, re.MULTILINE)
    assert named == [f"{folder}/{name}" for name in ("lake", "mirror", "run.log")]
    assert all((cwd / each).exists() for each in named)
    assert [each.name for each in (cwd / "build").iterdir()] == [Path(folder).name]


@pytest.mark.long
@pytest.mark.stores
@pytest.mark.timeout(600)
def test_the_demo_runs_on_a_real_kafka_broker_too(
    demo_on_kafka: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    """In a folder of its own: it takes nothing from what the other demo left."""
    check_demo(demo_on_kafka, tmp_path, "build/demo-kafka")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_runs_on_its_own_clock(
    demo: subprocess.CompletedProcess[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Spark, its workers and the real broker: what slots, driver, stages and heartbeat write is of the day."""
    check_demo(demo, tmp_path, "build/demo")
    monkeypatch.chdir(tmp_path)
    conf = HOUSE / "conf" / "local.yaml"
    for name in ("flight_landed", "weather_observed", "flight_departed"):
        rows = shown(conf, "hours", name)["hours"]
        due = 2 * 3_600 + 1_200 if name == "flight_departed" else 3_600
        assert rows
        assert all(0 < row["mirrored_after_seconds"] < due for row in rows[1:]), rows
    for row in shown(conf, "status")["topics"]:
        assert row["state"] == "not running"
        assert row["not_running_since"].startswith("2013-01-02T")
        assert row["life"]["last_trigger"].startswith("2013-01-02T")
    ages = [row["last_sign_age_seconds"] for row in shown(conf, "status")["topics"]]
    assert max(ages) < 600
