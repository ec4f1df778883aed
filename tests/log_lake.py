"""The lake of a topic that is a log: an application's epochs, without Spark."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakehouse.clock import Clock, now
from lakehouse.config import Config
from lakehouse.crews import Crew
from lakehouse.ingest.query import IngestQuery
from lakehouse.ingest.topic import TopicIngest
from lakehouse.landing.message_stream import MessageStream
from lakehouse.landing.messages import source_options_of
from lakehouse.landing.pull import Puller
from lakehouse.landing.source import FactStream
from lakehouse.schemas import FACTS
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.history import History
from lakehouse.store.records import LossAccepted
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

PATIENCE_SECONDS = 60
"""For what is due soon; only a failing test waits this long."""

FIELDS = {
    "event_id": "payload.event_id",
    "event_time": "payload.played_at",
    "fields": {"n": "bigint"},
    "lateness": "1 minute",
    "quiet_period": "0 seconds",
    "first_hour": "earliest",
}


def event(played_at: datetime, event_id: str, n: int = 1) -> bytes:
    return json.dumps({"event_id": event_id, "played_at": played_at.isoformat(), "n": n}).encode()


class Application:
    """One run of ingest over one topic, batch by batch, in this process."""

    def __init__(self, topic: Topic, config: Config, folder: Path, run: str = "one", clock: Clock = now) -> None:
        self.topic, self.config = topic, config
        self.ingest = TopicIngest(topic, config, run=run, clock=clock)
        self.ingest.open_topic(self.ingest.ack_deadline())
        self.query = IngestQuery(
            [self.ingest], config.settings, clock=clock, commits=Crew(0, "commit"), plan_path=folder / f"{run}.plan"
        )
        self.query.add(self.ingest)
        self.stream = FactStream(self.query.source_options(), Puller(clock=clock), side_by_side=0)
        self._offset = self.stream.initialOffset()

    def batch(self) -> list[dict[str, Any]]:
        """One epoch, from its plan to its commit; its facts."""
        begin, self._offset = self._offset, self.stream.latestOffset()
        planned = self.stream.partitions(begin, self._offset)
        batches = [batch for partition in planned for batch in self.stream.read(partition)]
        self.query.take([(0, pa.Table.from_batches(batches, FACTS))])
        return [row for batch in batches for row in batch.to_pylist()]

    def batches(self, count: int) -> None:
        for _ in range(count):
            self.batch()

    @property
    def tables(self) -> TopicTables:
        return TopicTables(self.topic, self.config.settings)

    def bronze(self) -> pa.Table:
        return self.tables.bronze().to_pyarrow_table()

    def ids(self) -> list[str]:
        """Of all deliveries in bronze, sorted."""
        return sorted(each or "" for each in self.bronze().column("event_id").to_pylist())

    def positions(self) -> dict[int, int]:
        positions = newest_state(self.tables.bronze()).positions
        return dict(positions.offsets) if positions else {}

    def history(self) -> History:
        return self.tables.ledger("test").history()

    def states(self) -> list[str]:
        return [entry.state for entry in self.history().entries]


class Query:
    """What Spark does with `option("read", "messages")`, in this process."""

    def __init__(self, topic: Topic, folder: Path, offset: dict[str, Any] | None = None) -> None:
        self.stream = MessageStream(source_options_of({"topic": topic.as_json(), "segments": str(folder)}))
        self.offset = offset or self.stream.initialOffset()

    def batch(self) -> list[str]:
        begin, self.offset = self.offset, self.stream.latestOffset(self.offset)
        return self.rows(begin, self.offset)

    def rows(self, begin: dict[str, Any], end: dict[str, Any]) -> list[str]:
        planned = self.stream.partitions(begin, end)
        return [each for slot in planned for rows in self.stream.read(slot) for each in rows["message_id"].to_pylist()]


def closed(history: History) -> list[str]:
    return sorted(entry.hour for entry in history.entries if entry.state == "closed" and entry.hour)


def config_of(topic: Topic, folder: Path, settings: Any) -> Config:
    return Config(folder / "conf.yaml", settings, {topic.name: topic}, folder / "expectations")


def hour_long_over() -> datetime:
    """Its begin."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)


def starter(config: Config, folder: Path) -> Callable[..., Application]:
    """Starts runs of the topic `plays`, with other keys of its file where they are given."""

    def application(run: str = "one", **changes: Any) -> Application:
        topic = config.topics["plays"].model_copy(update=changes)
        return Application(topic, config_of(topic, folder, config.settings), folder, run)

    return application


def numbered(prefix: str, numbers: Iterable[int]) -> Sequence[str]:
    return [f"{prefix}{number}" for number in numbers]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def parked(application: Application) -> Any:
    found = application.query.parking.parked.get("plays")
    return found.error if found else None


def accept_loss(application: Application, reason: str) -> None:
    """As a person does, until what was lost is in the ledger and what is there in bronze."""
    application.tables.ledger("ann").record(LossAccepted(by="ann", reason=reason))
    for _ in range(3):
        go_on(application)
        application.batch()


def go_on(application: Application) -> None:
    """As if the pause were over."""
    application.query.parking.parked.clear()
    application.query._write_plan()
