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
from lakehouse.progress import RECENT_COMMITS, IngestState
from lakehouse.store import records
from lakehouse.store.bronze_log import INGEST, ingest_commits
from lakehouse.store.delta import metadata_of_commits, table_errors
from lakehouse.store.history import History
from lakehouse.store.ledger_rows import all_rows
from lakehouse.store.place import Place
from lakehouse.store.records import State
from lakehouse.store.table_log import TableLog, entry_path, newest_log
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

_MOST_AHEAD = 32
"""Commits that are followed from one that a heartbeat names, before the log is listed instead."""


@dataclass(frozen=True)
class Batch:
    """Ingest's last commit to bronze: the heartbeat, and what the next batch starts from.

    `unacknowledged` counts messages whose acknowledgement Pub/Sub refused for good, in the newest `RECENT_COMMITS`.
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


def read_topic(
    topic: Topic, config: Config, *, newest_hours: int | None = None, commit: int | None = None
) -> TopicSnapshot:
    """What the topic's lake says; LakeError when it is there and cannot be read, or one of its tables is gone.

    With `newest_hours` the history is what tells how the topic is and its newest hours, 0 for how it is alone, where a
    digest of the ledger has that. `commit` is a version of bronze that is known: newer ones are looked for from there.
    """
    tables = TopicTables(topic, config.settings)
    brief = tables.digest_history(newest_hours) if newest_hours is not None else None
    ledger = _table(tables.sealed.below("ledger")) if brief is None else None
    history = brief or (all_rows(ledger) if ledger else History())
    place = tables.raw.below("bronze")
    batch = _batch_since(TableLog(place.uri, commit, place.options)) if commit is not None else None
    bronze = _newest_log(place) if batch is None else None
    batch = batch or (_last_batch(bronze) if bronze else None)
    known = (
        (tables.sealed.below("ledger"), batch is not None and brief is None and ledger is None),
        (place, bool(history.hours()) and batch is None and bronze is None),
        (tables.sealed.below("silver"), bool(history.sealed_hours()) and not _has_silver(tables)),
    )
    for missing, is_missing in known:
        if is_missing:
            raise LakeError(
                missing.uri,
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


def _newest_log(place: Place) -> TableLog | None:
    with table_errors(place.uri):
        return newest_log(place.uri, place.options)


def _has_silver(tables: TopicTables) -> bool:
    """By a small file that tables of some age have, or by the first entry, which the others have; else by a list."""
    files = tables.sealed.below("silver").files()
    with table_errors(tables.sealed.uri):
        is_there = any(files.read(path) is not None for path in ("_delta_log/_last_checkpoint", entry_path(0)))
    return is_there or tables.has_silver()


def _batch_since(known: TableLog) -> Batch | None:
    """The newest batch, where the log has that version, and few more; None where it must be opened to see."""
    with table_errors(known.uri):
        newest = known.entry(known.version)
        if newest is None:
            return None
        while (entry := known.entry(newest.version + 1)) is not None:
            newest = entry
            if newest.version > known.version + _MOST_AHEAD:
                return None
        log, is_batch = known.at(newest.version), newest.metadata.get("kind") == INGEST
    return _batch_of(log, newest.version, newest.metadata) if is_batch else _last_batch(log)


def _last_batch(bronze: TableLog) -> Batch | None:
    newest = next(ingest_commits(bronze), None)
    return _batch_of(bronze, *newest) if newest else None


def _batch_of(bronze: TableLog, version: int, metadata: dict[str, Any]) -> Batch:
    with table_errors(f"{bronze.uri} version {version}: what ingest said of its commit"):
        state = IngestState.from_json(metadata["state"])
        at = _committed_at(bronze, version, metadata)
    return Batch(version, at, state, metadata, _unacknowledged(bronze, version, state))


def _unacknowledged(bronze: TableLog, version: int, state: IngestState) -> int:
    """In the newest commits; the state of an older release's commit does not say."""
    first = bronze.version - RECENT_COMMITS + 1
    if state.unacknowledged is not None:
        return sum(count for each, count in state.unacknowledged.items() if each >= first)
    recent = metadata_of_commits(bronze, RECENT_COMMITS)
    return sum(int(each.get("unacknowledged") or 0) for _, each in recent if each.get("kind") == INGEST)


def _committed_at(bronze: TableLog, version: int, metadata: dict[str, Any]) -> datetime:
    """By the lake's clock; a commit of an older release has only Delta's own time."""
    if "at" in metadata:
        return datetime.fromisoformat(metadata["at"])
    entry = bronze.entry(version)
    assert entry is not None
    return datetime.fromtimestamp(entry.info["timestamp"] / 1000, UTC)
