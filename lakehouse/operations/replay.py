"""Replay: rejected deliveries that today's configuration can decode go into an open hour, exactly once.

A message that was rejected stays in bronze as it came. When the topic's declaration is corrected, its delivery moves
from the rejected rows to the bucket that an event of its time would get now: its event hour if that is still open, else
the first open hour, where it is skewed. Each delivery keeps its epoch, slot and position, so `trace` still says where
it came from.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.config import Config
from lakehouse.decode.events import decode
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.ingest.buckets import bucket_of
from lakehouse.progress import IngestState, OpenHour
from lakehouse.schemas import DELIVERED, segment_schema
from lakehouse.store import bronze_log, parquet
from lakehouse.store.delta import ConflictError, Conflicts, DataFile, event_time_stats, files
from lakehouse.store.ledger import Clock, now
from lakehouse.store.records import Replayed
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

REPLAY = "replay"


@dataclass(frozen=True)
class Choice:
    """Which rejected deliveries to decode again. `reason` is the whole reason, or the part before its colon."""

    reason: str | None = None
    since: datetime | None = None

    def mask(self, rows: pa.Table) -> pa.Array:
        reasons = rows.column("reject_reason")
        chosen = pc.is_valid(reasons)
        if self.reason is not None:
            begins = pc.starts_with(reasons, f"{self.reason}:")
            chosen = pc.and_(chosen, pc.fill_null(pc.or_(pc.equal(reasons, self.reason), begins), False))
        if self.since is not None:
            chosen = pc.and_(chosen, pc.greater_equal(rows.column("publish_time"), pa.scalar(self.since)))
        return chosen


@dataclass
class Replay:
    """What a replay did, or with a dry run would do. Counts are deliveries."""

    topic: str
    examined: Counter[str] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)
    still_rejected: Counter[str] = field(default_factory=Counter)
    hours: Counter[Hour] = field(default_factory=Counter)
    bronze_version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Not by `asdict`, which counts a Counter's items anew."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class _Moved:
    """One file of rejected deliveries: what stays in its place, and what goes to which bucket."""

    file: DataFile
    left: pa.Table
    by_bucket: Mapping[Hour, pa.Table]


def replay_rejected(
    topic: Topic,
    config: Config,
    choice: Choice,
    *,
    by: str,
    dry_run: bool = False,
    clock: Clock = now,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Replay:
    """Decode the chosen rejected deliveries again; those that are events now go into open hours, in one commit.

    Idempotent: a delivery that was replayed is no longer rejected. A run that is cut off before its commit changed
    nothing, and the files that it wrote are removed by `maintain`. LakeError when the topic has no open hour yet.
    """
    tables = TopicTables(topic, config.settings)
    conflicts = Conflicts(tables.raw.below("bronze").uri)
    while True:
        done = Replay(topic.name)
        table = tables.bronze()
        state = bronze_log.newest_state(table)
        if state.open_hour is None:
            raise LakeError(
                f"topic {topic.name}",
                found="no open hour",
                expected="one, as the topic's first batch sets it",
                next_step="Let the topic deliver its first event, then replay.",
            )
        moved = list(
            _moves(tables, [file for file in files(table) if file.hour is None], state, choice, done, progress)
        )
        if dry_run or not moved:
            return done
        written = [file for move in moved for file in _written(tables, move, clock())]
        try:
            done.bronze_version = bronze_log.commit_change(
                table,
                added=written,
                state=_with_moved(state, moved, clock()),
                metadata={
                    "kind": REPLAY,
                    "deliveries": done.replayed.total(),
                    "by": by,
                    "release": config.settings.release,
                },
                removed=[move.file for move in moved],
            )
        except ConflictError as conflict:
            tables.raw.files().delete(f"bronze/{file.path}" for file in written)
            conflicts.meet(conflict)
            continue
        _record(tables, done, done.bronze_version, by)
        log.info("replay: topic=%s rows=%d bronze=%d", topic.name, done.replayed.total(), done.bronze_version)
        return done


def _record(tables: TopicTables, done: Replay, version: int, by: str) -> None:
    """The rejected files themselves stay on the store until `maintain`: a reader may still have them open."""
    tables.ledger(f"{REPLAY}/{tables.settings.release}/{by}").record(
        Replayed(
            bronze_version=version,
            deliveries=done.replayed.total(),
            reasons=dict(done.replayed),
            hours=dict(done.hours),
            by=by,
        )
    )


def _moves(
    tables: TopicTables,
    rejected: list[DataFile],
    state: IngestState,
    choice: Choice,
    done: Replay,
    progress: Callable[[int, int], None],
) -> Iterator[_Moved]:
    """One file after the other, as payloads are large; `done` counts what they hold."""
    for number, file in enumerate(rejected):
        rows = _rows(tables, file)
        chosen = choice.mask(rows)
        again = rows.filter(chosen)
        decoded = _decoded(again, tables.topic)
        is_event = pc.is_null(decoded.column("reject_reason"))
        done.examined += _counts(again.column("reject_reason"))
        done.replayed += _counts(again.column("reject_reason").filter(is_event))
        done.still_rejected += _counts(decoded.column("reject_reason"))
        progress(number + 1, len(rejected))
        events = decoded.filter(is_event)
        if len(events):
            moving = pa.array(_scattered(chosen.to_pylist(), is_event.to_pylist()))
            by_bucket = dict(_by_bucket(events, state.open_hour))
            done.hours.update({bucket: len(part) for bucket, part in by_bucket.items()})
            yield _Moved(file, rows.filter(pc.invert(moving)), by_bucket)


def _rows(tables: TopicTables, file: DataFile) -> pa.Table:
    """The file with the columns of today: what bronze has gained since is null."""
    with tables.raw.open(f"bronze/{file.path}") as source, pq.ParquetFile(source) as opened:
        rows = opened.read()
    wanted = segment_schema(tables.topic)
    return pa.table(
        [rows.column(column.name) if _is_kept(rows, column) else pa.nulls(len(rows), column.type) for column in wanted],
        schema=wanted,
    )


def _is_kept(rows: pa.Table, column: pa.Field) -> bool:
    """A rejected delivery's event is decoded again, so an older shape of it need not be read."""
    return column.name in rows.column_names and rows.schema.field(column.name).type == column.type


def _decoded(rows: pa.Table, topic: Topic) -> pa.Table:
    """The rows with what decoding says of them today."""
    messages = rows.select(DELIVERED.names).combine_chunks().to_batches() or [
        pa.RecordBatch.from_pylist([], schema=DELIVERED)
    ]
    decoded = pa.Table.from_batches([decode(batch, topic).columns for batch in messages])
    for name in decoded.column_names:
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), decoded.column(name))
    return rows


def _scattered(chosen: list[bool], is_event: list[bool]) -> Iterator[bool]:
    """For each row of the file whether it moves: `is_event` speaks of the chosen ones only."""
    answers = iter(is_event)
    return (is_chosen and next(answers) for is_chosen in chosen)


def _counts(reasons: pa.ChunkedArray) -> Counter[str]:
    return Counter(each for each in reasons.to_pylist() if each is not None)


def _by_bucket(events: pa.Table, open_hour: Hour | None) -> Iterator[tuple[Hour, pa.Table]]:
    buckets = [bucket_of(hours.hour_of(at), open_hour) or "" for at in events.column("event_time").to_pylist()]
    for bucket in sorted(set(buckets)):
        yield bucket, events.filter(pa.array([each == bucket for each in buckets]))


def _written(tables: TopicTables, moved: _Moved, at: datetime) -> list[DataFile]:
    """New files under the same segment's name, in a folder of this replay's own; durable."""
    folder = f"replayed-{uuid.uuid4().hex[:8]}"
    parts: list[tuple[Hour | None, pa.Table]] = [(None, moved.left), *moved.by_bucket.items()]
    return [_write(tables, f"{folder}/{bucket or 'left'}/{moved.file.path.rpartition('/')[2]}", bucket, rows, at)
            for bucket, rows in parts if len(rows)]  # fmt: skip


def _write(tables: TopicTables, path: str, bucket: Hour | None, rows: pa.Table, at: datetime) -> DataFile:
    storage, place = tables.raw.files(), f"bronze/{path}"
    with storage.create(place) as sink:
        with pq.ParquetWriter(sink, rows.schema, **parquet.options(rows.schema)) as writer:
            writer.write_table(rows)
        size_bytes = sink.tell()
    storage.finish([place])
    times = pc.min_max(rows.column("event_time"))
    return DataFile(
        path, bucket, len(rows), size_bytes, at, event_time_stats(times["min"].as_py(), times["max"].as_py())
    )


def _with_moved(state: IngestState, moved: list[_Moved], at: datetime) -> IngestState:
    """The state with the deliveries in their buckets; the hours wait until these files are no longer new."""
    held = dict(state.hours)
    for move in moved:
        for bucket, rows in move.by_bucket.items():
            before = held[bucket].rows if bucket in held else 0
            held[bucket] = OpenHour(before + len(rows), at)
    return replace(state, hours=held)
