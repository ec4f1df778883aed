"""What status and explain read, without any rows: ledgers and bronze commits of two topics, at times of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.config import Config, load
from lakehouse.operations import status as fleet
from lakehouse.operations.explain import Explanation, explain_hour
from lakehouse.operations.hour_status import HourStatus, hour_statuses
from lakehouse.operations.snapshot import TopicSnapshot, read_topic
from lakehouse.progress import IngestState
from lakehouse.store.bronze_log import newest_state
from lakehouse.store.tables import TopicTables
from tests.lake import FIVE, SEVEN, SIX, write_conf, write_suite
from tests.lake import Lake as OneTopicLake

__all__ = ["FIVE", "SEVEN", "SIX"]

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)

MET = [
    {
        "condition": name,
        "is_met": True,
        "required": "2025-06-01T06:00:00+00:00",
        "measured": None,
        "text": f"{name} met",
    }
    for name in ("time", "backlog", "quiet")
]
BACKLOG = {"condition": "backlog", "is_met": False, "required": "2025-06-01T07:00:00+00:00", "measured": None}
CLOSED = {"why": "watermark", "conditions": MET, "rows": 1000, "bronze_version": 3, "epoch": 7, "release": "r1"}
SEALED = {
    "revision": 1, "silver_version": 2, "bronze_version": 3, "rows": 990, "deliveries": 1000, "duplicates": 8,
    "late_duplicates": 2, "skewed": 5, "files": 1, "id_checksum": 12345, "release": "r1", "seconds": 1.5,
}  # fmt: skip
FAILED = {"expectation": "expect_column_values_to_not_be_null", "column": "user", "severity": "critical"}
INVALID = {"failed": [FAILED | {"unexpected": 1234, "observed": None}], "warnings": [], "rows": 990, "report": "r.html"}
MIRRORED = {"target": "folder", "rows": 990, "id_checksum": 12345, "where": "/mirror/plays", "seconds": 0.2}


class Lake:
    """Writes what the stages would; `now` is its clock."""

    def __init__(self, conf: Path) -> None:
        self.conf = conf
        self.now = NOON
        self._epoch = 0

    @property
    def config(self) -> Config:
        return load(self.conf)

    def record(
        self, state: str, hour: str | None = None, details: dict[str, Any] | None = None, topic: str = "plays"
    ) -> None:
        lake = self.of(topic)
        if state == "sealed":
            lake.tables.ensure_silver()
        lake.ledger.record(state, hour, details)

    def of(self, topic: str) -> OneTopicLake:
        """One topic's lake, at this moment."""
        config = self.config
        return OneTopicLake(config.topic(topic), config, "test/r1/run", lambda: self.now, self._epoch)

    def tables(self, topic: str = "plays") -> TopicTables:
        return TopicTables(self.config.topic(topic), self.config.settings)

    def start(self, topic: str = "plays", **state: Any) -> None:
        self.now -= timedelta(hours=8)
        self.record("started", details={"release": "r1", "run": "run", "host": "here", "number": 1}, topic=topic)
        self.now += timedelta(hours=8)
        self.batch(topic=topic, **state)

    def batch(self, topic: str = "plays", closed: tuple[dict[str, Any], ...] = (), **state: Any) -> None:
        """A bronze commit in which FIVE is the open hour of `plays`, 07:30 being its newest event."""
        lake, seen = self.of(topic), self.now.replace(hour=7, minute=30)
        said = {
            "release": "r1", "rows": 1000, "rejected": 3, "closed": list(closed),
            "watermark": (seen - timedelta(hours=1)).isoformat(), "frontier": state.pop("frontier", None),
            "unacknowledged": state.pop("unacknowledged", 0),
        }  # fmt: skip
        common = {"open_hour": FIVE, "slots": 2, "max_event_time": seen, "max_publish_time": seen}
        before = newest_state(lake.tables.bronze()).unacknowledged if lake.tables.has_bronze() else {}
        lake.commit(state=IngestState(**{"epoch": 0, "unacknowledged": before, **common, **state}), **said)
        self._epoch = lake.epoch

    def closed(self, hour: str) -> None:
        self.record("closed", hour, CLOSED)

    def sealed(self, hour: str) -> None:
        self.closed(hour)
        self.record("sealed", hour, SEALED)

    def snapshot(self) -> TopicSnapshot:
        return read_topic(self.config.topic("plays"), self.config)

    def status(self) -> fleet.TopicStatus:
        return fleet.statuses(self.config, ["plays"], NOON)[0]

    def hours(self) -> list[HourStatus]:
        return hour_statuses(self.snapshot(), 24, NOON)

    def explained(self, hour: str) -> Explanation:
        return explain_hour(self.snapshot(), hour, NOON)

    def ledger(self) -> list[tuple[str, str | None]]:
        return [(entry.state, entry.hour) for entry in self.snapshot().history.entries]

    def break_bronze(self, topic: str) -> None:
        log = Path(self.tables(topic).raw.uri, "bronze", "_delta_log")
        for file in log.glob("*.json"):
            file.write_text("not a log", encoding="utf-8")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    settings = {
        "raw_root": str(tmp_path / "lake"),
        "release": "r1",
        "mirrors": {"folder": {"kind": "folder", "path": str(tmp_path / "mirror")}},
    }
    usual = {
        "event_id": "payload.event_id",
        "event_time": "payload.played_at",
        "fields": {"user": "string"},
        "mirrors": ["folder"],
    }
    topics = {name: {**usual, "subscription": f"projects/test/subscriptions/{name}"} for name in ("plays", "skips")}
    for name in ("_every_topic", *topics):
        write_suite(tmp_path / "expectations", name)
    return Lake(write_conf(tmp_path, settings, topics))
