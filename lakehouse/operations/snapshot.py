"""What a topic's lake says of it: its bronze log and its ledger, read by delta-rs without a JVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.progress import IngestState
from lakehouse.store import records
from lakehouse.store.bronze_log import INGEST, ingest_commits
from lakehouse.store.delta import metadata_of_commits
from lakehouse.store.history import History
from lakehouse.store.ledger import LedgerTable
from lakehouse.store.place import Place
from lakehouse.store.records import State
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

RECENT = 20
"""Commits of bronze in which what went wrong is counted."""


@dataclass(frozen=True)
class Batch:
    """Ingest's last commit to bronze: the heartbeat, and what the next batch starts from.

    `unacknowledged` counts, in the newest `RECENT` commits, messages whose acknowledgement Pub/Sub refused for good.
    """

    version: int
    committed_at: datetime
    state: IngestState
    metadata: Mapping[str, Any]
    unacknowledged: int = 0

    @property
    def rows(self) -> int:
        return int(self.metadata["rows"])

    def instant(self, key: str) -> datetime | None:
        """The `watermark` or the `frontier` as of then; None where it was not known."""
        text = self.metadata.get(key)
        return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class TopicSnapshot:
    """What a topic's lake says of it. A lake that is not there yet has neither a batch nor a history."""

    topic: Topic
    history: History = field(default_factory=History)
    batch: Batch | None = None

    @property
    def is_started(self) -> bool:
        return self.batch is not None or bool(self.history.entries)

    @property
    def open_hour(self) -> Hour | None:
        return self.batch.state.open_hour if self.batch else None


def read_topic(topic: Topic, config: Config) -> TopicSnapshot:
    """What the topic's lake says; LakeError when it is there and cannot be read, or one of its tables is gone."""
    tables = TopicTables(topic, config.settings)
    ledger, bronze = _table(tables.sealed.below("ledger")), _table(tables.raw.below("bronze"))
    history = LedgerTable(ledger).history() if ledger else History()
    batch = _last_batch(bronze) if bronze else None
    known = (
        (tables.sealed.below("ledger"), batch is not None and ledger is None),
        (tables.raw.below("bronze"), bool(history.hours()) and bronze is None),
        (tables.sealed.below("silver"), bool(history.sealed_hours()) and not tables.has_silver()),
    )
    for place, is_missing in known:
        if is_missing:
            raise LakeError(
                place.uri,
                found="no Delta table",
                expected="the topic's: its other tables know of hours that it must have",
                next_step="Restore the folder from a backup.",
            )
    return TopicSnapshot(topic, history, batch)


def is_open(snapshot: TopicSnapshot, hour: Hour) -> bool:
    """Whether events can still be delivered in the hour."""
    is_passed = snapshot.open_hour is not None and hour < snapshot.open_hour
    return not is_passed and snapshot.history.first(State.CLOSED, hour) is None


def first_hour(snapshot: TopicSnapshot) -> Hour | None:
    """The oldest hour that closed, was held or is open; None before the first event."""
    return min(_hours_known(snapshot), default=None)


def has_hour(snapshot: TopicSnapshot, hour: Hour, now: datetime) -> bool:
    """Whether the topic has or had the hour: from its first on, up to now or to its newest."""
    known = _hours_known(snapshot)
    return bool(known) and min(known) <= hour and (hour <= max(known) or hours.start_of(hour) <= now)


def waits_for(snapshot: TopicSnapshot, hour: Hour) -> str | None:
    """The next thing that must happen to an hour; None when it is everywhere it goes."""
    history = snapshot.history
    if is_open(snapshot, hour):
        return "close"
    rows = history.current(hour)
    if not rows:
        return "seal" if history.of_hour(hour) and not history.is_in_range(hour) else None
    if not any(entry.state in records.VERDICTS for entry in rows):
        return "validate"
    if not history.is_cleared(hour):
        return "release"
    missing = [target for target in snapshot.topic.mirrors if target not in history.targets_done(hour)]
    return f"mirror {', '.join(missing)}" if missing else None


def _hours_known(snapshot: TopicSnapshot) -> set[Hour]:
    recorded = {entry.hour for entry in snapshot.history.entries if entry.state in (State.CLOSED, State.HELD)}
    return {hour for hour in recorded | {snapshot.open_hour} if hour} | set(snapshot.history.hours())


def _table(place: Place) -> DeltaTable | None:
    """None when there is no table; one that cannot be read is an error, not an absence."""
    try:
        return place.table()
    except LakeError as error:
        if isinstance(error.__cause__, TableNotFoundError):
            return None
        raise


def _last_batch(bronze: DeltaTable) -> Batch | None:
    recent = [found for found in metadata_of_commits(bronze, RECENT) if found[1].get("kind") == INGEST]
    newest = next(iter(recent), None) or next(ingest_commits(bronze), None)
    if newest is None:
        return None
    version, metadata = newest
    unacknowledged = sum(int(each.get("unacknowledged") or 0) for _, each in recent)
    return Batch(
        version,
        _committed_at(bronze, version, metadata),
        IngestState.from_json(metadata["state"]),
        metadata,
        unacknowledged,
    )


def _committed_at(bronze: DeltaTable, version: int, metadata: dict[str, Any]) -> datetime:
    """By the lake's clock; a commit of an older release has only Delta's own time."""
    if "at" in metadata:
        return datetime.fromisoformat(metadata["at"])
    *_, committed = bronze.history(int(bronze.version()) - version + 1)
    return datetime.fromtimestamp(committed["timestamp"] / 1000, UTC)
