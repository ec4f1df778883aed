"""A lake of a few hours of flights, through the real stages without Spark: only the pulling is done by hand."""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import yaml

from lakehouse.clock import Replayed
from lakehouse.config import Config, load
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.facts import rows_of
from lakehouse.landing.manifests import manifest_path
from lakehouse.landing.segments import SegmentWriter
from lakehouse.mirrors.stage import mirror_due
from lakehouse.progress import Frontier
from lakehouse.sandbox import flights
from lakehouse.sandbox.flights import Message
from lakehouse.sandbox.replay import STEP, new_clock
from lakehouse.schemas import DELIVERED
from lakehouse.seal.stage import seal_due
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate.stage import validate_due

HOUSE = Path(__file__).parent.parent
BROKER = "127.0.0.1:8085"
DIRTY = "flight_landed"
"""The topic of which every hour with a long delay is held back here."""


@dataclass
class FlightsLake:
    """It goes by the clock of the day, as the demo's does."""

    conf: Path
    config: Config
    clock: Replayed

    def now(self) -> datetime:
        return self.clock()

    def observe(self, facts: Iterable[Any], now: datetime) -> Frontier:
        """All that was published by now has been pulled."""
        return Frontier(now, now, "")


@cache
def shared_lake() -> FlightsLake:
    """Eight hours, once for all tests of a run: they look at it, and some release an hour."""
    folder = Path(mkdtemp(prefix="flights-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return flights_lake(folder, 8)


def flights_lake(folder: Path, number: int = 6, topics: Sequence[str] = ()) -> FlightsLake:
    """`number` hours of publishing; events of the last hours are still open, and one topic has invalid hours.

    MLflow has no runs of it.
    """
    conf = _configured(folder)
    config = load(conf)
    lake = FlightsLake(conf, config, new_clock(config))
    lake.clock.set(flights.FIRST, BROKER)
    messages = flights.messages(flights.FIRST, flights.FIRST + timedelta(hours=number))
    chosen = [config.topic(name) for name in topics or sorted(config.topics)]
    drivers = [_Driver(topic, lake, messages) for topic in chosen]
    for epoch in range(1, int(timedelta(hours=number) / STEP) + 1):
        lake.clock.set(flights.FIRST + epoch * STEP, BROKER)
        for driver in drivers:
            driver.ingest(epoch)
            seal_due(driver.topic, config, None, run="small")
            validate_due(driver.topic, config, run="small", log_runs=lambda tables: None)
            if driver.topic.name != DIRTY:
                mirror_due(driver.topic, config, None, run="small")
    return lake


def _configured(folder: Path) -> Path:
    values = yaml.safe_load((HOUSE / "conf" / "local.yaml").read_text())
    expectations = folder / "expectations"
    expectations.mkdir(parents=True)
    for file in (HOUSE / "expectations").glob("*.json"):
        suite = json.loads(file.read_text())
        if file.stem == DIRTY:
            punctual = {"column": "arrival_delay_minutes", "max_value": 120}
            suite["expectations"].append({"type": "expect_column_values_to_be_between", "kwargs": punctual})
        (expectations / file.name).write_text(json.dumps(suite))
    values |= {
        "raw_root": str(folder / "lake"),
        "sealed_root": str(folder / "lake"),
        "release": "test",
        "topics": str(HOUSE / "conf" / "topics"),
        "expectations": str(expectations),
    }
    values["mirrors"]["folder"]["path"] = str(folder / "mirror")
    conf = folder / "conf.yaml"
    conf.write_text(yaml.safe_dump(values))
    return conf


class _Driver:
    """A batch for each step of the day's clock, as if the application had run then."""

    def __init__(self, topic: Topic, lake: FlightsLake, messages: Sequence[Message]) -> None:
        self.topic, self._clock = topic, lake.clock
        self._waiting = [message for message in messages if message.topic == topic.name]
        self._ingest = TopicIngest(topic, lake.config, run="small", clock=lake.clock, frontier=lake)
        self._ingest.open_topic(timedelta(seconds=10))
        self._tables = TopicTables(topic, lake.config.settings)

    def ingest(self, epoch: int) -> None:
        storage, moment = self._tables.raw.files(), self._clock()
        page = [message for message in self._waiting if message.publish_at <= moment]
        self._waiting = self._waiting[len(page) :]
        open_hour = newest_state(self._tables.bronze()).open_hour if epoch > 1 else None
        writer = SegmentWriter(self.topic, storage, epoch, 0, open_hour, clock=lambda: moment - timedelta(seconds=5))
        if page:
            writer.add(_delivered(page, epoch))
        manifest = writer.manifest(writer.close(), attempt=0, dry_at=moment, full=False)
        storage.put_if_absent(manifest_path(epoch, 0), manifest.as_json())
        self._ingest.commit_facts(rows_of(manifest))


def _delivered(page: Sequence[Message], epoch: int) -> pa.RecordBatch:
    rows = [
        {
            "message_id": f"{epoch}-{number}",
            "publish_time": message.publish_at.astimezone(UTC),
            "attributes": sorted(message.attributes.items()),
            "payload": message.payload,
        }
        for number, message in enumerate(page)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=DELIVERED)
