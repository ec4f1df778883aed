"""A lake of a few hours of flights, through the real stages without Spark: only the pulling is done by hand."""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import yaml
from folders import folders_of

from lakehouse.config import Config, load
from lakehouse.ingest.query import TopicIngest
from lakehouse.landing.manifests import manifest_path
from lakehouse.landing.segments import SegmentWriter
from lakehouse.landing.source import facts
from lakehouse.mirrors.stage import mirror_due
from lakehouse.progress import Frontier
from lakehouse.sandbox import flights
from lakehouse.sandbox.flights import Message
from lakehouse.schemas import DELIVERED
from lakehouse.seal.stage import seal_due
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.files import storage_for
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic
from lakehouse.validate import mlflow_background
from lakehouse.validate.stage import validate_due

HOUSE = Path(__file__).parent.parent
DIRTY = "flight_landed"
"""The topic of which every hour with a long delay is held back here."""


@dataclass
class FlightsLake:
    conf: Path
    config: Config
    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def observe(self, facts: Iterable[Any], now: datetime) -> Frontier:
        """All that was published by now has been pulled."""
        return Frontier(now, now, "")


@cache
def shared_lake() -> FlightsLake:
    """Eight hours, once for all tests of a run: they look at it, and some release an hour."""
    folder = Path(mkdtemp(prefix="flights-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return flights_lake(folder, 8, log_runs=lambda tables: None)


def flights_lake(
    folder: Path,
    number: int = 6,
    topics: Sequence[str] = (),
    log_runs: Callable[[TopicTables], object] = mlflow_background.log_soon,
) -> FlightsLake:
    """`number` hours of publishing; events of the last hours are still open, and one topic has invalid hours."""
    conf = _configured(folder)
    lake = FlightsLake(conf, load(conf), flights.FIRST)
    messages = flights.messages(flights.FIRST, flights.FIRST + timedelta(hours=number))
    for name in topics or sorted(lake.config.topics):
        topic = lake.config.topic(name)
        _ingested(topic, lake, [message for message in messages if message.topic == name], number)
        seal_due(topic, lake.config, None, run="small")
        validate_due(topic, lake.config, run="small", log_runs=log_runs)
        if name != DIRTY:
            mirror_due(topic, lake.config, None, run="small")
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


def _ingested(topic: Topic, lake: FlightsLake, messages: Sequence[Message], number: int) -> None:
    """A batch for each half hour of publishing, as if the application had run then."""
    driver = TopicIngest(topic, lake.config, run="small", clock=lake, frontier=lake)
    lake.now = flights.FIRST
    driver.open_topic(timedelta(seconds=10))
    storage = storage_for(folders_of(lake.config.settings, topic.name).raw)
    open_hour = None
    for epoch in range(1, 2 * number + 1):
        first, lake.now = lake.now, flights.FIRST + epoch * timedelta(minutes=30)
        page = [message for message in messages if first <= message.publish_at < lake.now]
        writer = SegmentWriter(topic, storage, epoch, 0, open_hour, clock=lambda: lake.now - timedelta(minutes=5))
        if page:
            writer.add(_delivered(page, epoch))
        manifest = writer.manifest(writer.close(), attempt=0, dry_at=lake.now, full=False)
        storage.put_if_absent(manifest_path(epoch, 0), manifest.as_json())
        driver.commit_facts(facts(manifest).to_pylist())
        open_hour = newest_state(TopicTables(topic, lake.config.settings).bronze()).open_hour


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
