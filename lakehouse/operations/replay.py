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
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse import hours
from lakehouse.clock import Clock
from lakehouse.config import Config
from lakehouse.decode.avro_messages import NOT_AVRO
from lakehouse.decode.compression import NOT_DECOMPRESSED
from lakehouse.decode.events import FROM_THE_FUTURE, FROM_THE_PAST, NO_EVENT_ID, NO_EVENT_TIME, decode
from lakehouse.decode.json_messages import COMPRESSED, NOT_JSON
from lakehouse.decode.protobuf_messages import NO_REQUIRED, NOT_PROTOBUF, OTHER_MESSAGE
from lakehouse.decode.writers import NO_SCHEMA_ID, UNKNOWN_SCHEMA
from lakehouse.errors import LakeError
from lakehouse.hours import Hour
from lakehouse.ingest.buckets import bucket_of
from lakehouse.landing.quarantine import KILLS_THE_DECODER
from lakehouse.landing.registries.writers import schemas_of
from lakehouse.landing.segments import LATE
from lakehouse.progress import IngestState, OpenHour
from lakehouse.schemas import DELIVERED, segment_schema
from lakehouse.store import bronze_log, parquet
from lakehouse.store.delta import Conflicts, DataFile, event_time_stats, files
from lakehouse.store.records import Replayed
from lakehouse.store.table_log import ConflictError
from lakehouse.store.tables import TopicTables
from lakehouse.topics import Topic

log = logging.getLogger(__name__)

REPLAY = "replay"

REASONS = (
    NOT_JSON,
    *sorted({f"compressed ({name})" for name in COMPRESSED.values()}),
    NOT_DECOMPRESSED,
    NOT_AVRO,
    UNKNOWN_SCHEMA,
    NOT_PROTOBUF,
    NO_REQUIRED,
    OTHER_MESSAGE,
    NO_SCHEMA_ID,
    "wrong type",
    NO_EVENT_ID,
    NO_EVENT_TIME,
    FROM_THE_FUTURE,
    FROM_THE_PAST,
    KILLS_THE_DECODER,
)
"""All reasons of rejection; those with a colon, such as `wrong type: user`, by the part before it."""


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
        """Not by `asdict`, which would count a Counter's items again."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class _Moved:
    """One file of rejected deliveries, and the files that take its place: what stays rejected, and the events."""

    file: DataFile
    written: tuple[DataFile, ...] = ()


def replay_rejected(
    topic: Topic, config: Config, choice: Choice, *, by: str, dry_run: bool = False, clock: Clock | None = None
) -> Replay:
    """Decode the chosen rejected deliveries again; those that are events now go into open hours, in one commit.

    Idempotent: a delivery that was replayed is no longer rejected. A run that is cut off before its commit changed
    nothing, and the files that it wrote are removed by `maintain`. LakeError when the topic has no open hour yet.
    """
    tables, clock = TopicTables(topic, config.settings), clock or config.settings.clock
    conflicts = Conflicts(tables.raw.below("bronze").uri)
    while True:
        done = Replay(topic.name)
        table = tables.bronze()
        state = bronze_log.newest_state(table)
        if state.open_hour is None:
            raise LakeError(
                f"topic {topic.name}",
                found="no open hour",
                expected="an open hour, which the topic's first batch sets",
                next_step="Let the topic deliver its first event, then replay.",
            )
        rejected = [file for file in files(table) if file.hour is None]
        moved = list(_moves(tables, rejected, state.open_hour, choice, done, None if dry_run else clock()))
        if dry_run or not moved:
            return done
        try:
            done.bronze_version = _commit(table, tables, state, moved, done, by)
        except ConflictError as conflict:
            tables.raw.files().delete(f"bronze/{file.path}" for move in moved for file in move.written)
            conflicts.meet(conflict)
            continue
        _record(tables, done, by)
        return done


def _commit(
    table: DeltaTable, tables: TopicTables, state: IngestState, moved: list[_Moved], done: Replay, by: str
) -> int:
    written = [file for move in moved for file in move.written]
    return bronze_log.commit_change(
        table,
        added=written,
        state=_with_moved(state, written),
        metadata={
            "kind": REPLAY,
            "deliveries": done.replayed.total(),
            "by": by,
            "release": tables.settings.release,
        },
        removed=[move.file for move in moved],
    )


def _record(tables: TopicTables, done: Replay, by: str) -> None:
    """The rejected files themselves stay on the store until `maintain`: a reader may still have them open."""
    assert done.bronze_version is not None
    tables.ledger(f"{REPLAY}/{tables.settings.release}/{by}").record(
        Replayed(
            bronze_version=done.bronze_version,
            deliveries=done.replayed.total(),
            reasons=dict(done.replayed),
            hours=dict(done.hours),
            by=by,
        )
    )
    log.info("replay: topic=%s rows=%d bronze=%d", tables.topic.name, done.replayed.total(), done.bronze_version)


def _moves(
    tables: TopicTables,
    rejected: list[DataFile],
    open_hour: Hour,
    choice: Choice,
    done: Replay,
    written_at: datetime | None,
) -> Iterator[_Moved]:
    """One file after the other, as payloads are large; `done` counts what they hold. Written only with a time."""
    for file in rejected:
        rows = _rows(tables, file)
        chosen = choice.mask(rows)
        again = rows.filter(chosen)
        decoded = _decode(again, tables.topic)
        is_event = pc.is_null(decoded.column("reject_reason"))
        done.examined += _counts(again.column("reject_reason"))
        done.replayed += _counts(again.column("reject_reason").filter(is_event))
        done.still_rejected += _counts(decoded.column("reject_reason"))
        events = decoded.filter(is_event)
        if not len(events):
            continue
        moving = pa.array(_moves_by_row(chosen.to_pylist(), is_event.to_pylist()))
        parts = [_Part(None, rows.filter(pc.invert(moving))), *_by_bucket(events, open_hour)]
        for part in parts[1:]:
            done.hours[part.bucket or ""] += len(part.rows)
        yield _Moved(file) if written_at is None else _Moved(file, _write_parts(tables, file, parts, written_at))


def _rows(tables: TopicTables, file: DataFile) -> pa.Table:
    """The file with the columns of today: what bronze has gained since is null."""
    with parquet.LakeFile(tables.raw.files(), f"bronze/{file.path}") as opened:
        rows = opened.read()
    wanted = segment_schema(tables.topic)
    return pa.table(
        [rows.column(column.name) if _is_kept(rows, column) else pa.nulls(len(rows), column.type) for column in wanted],
        schema=wanted,
    )


def _is_kept(rows: pa.Table, column: pa.Field) -> bool:
    """A rejected delivery's event is decoded again, so an older shape of it need not be read."""
    return column.name in rows.column_names and rows.schema.field(column.name).type == column.type


def _decode(rows: pa.Table, topic: Topic) -> pa.Table:
    """The rows with what decoding says of them today."""
    messages = rows.select(DELIVERED.names).combine_chunks().to_batches() or [
        pa.RecordBatch.from_pylist([], schema=DELIVERED)
    ]
    decoded = pa.Table.from_batches([decode(batch, topic, schemas_of(topic)).columns for batch in messages])
    for name in decoded.column_names:
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), decoded.column(name))
    return rows


def _moves_by_row(chosen: list[bool], is_event: list[bool]) -> Iterator[bool]:
    """For each row of the file whether it moves: `is_event` speaks of the chosen ones only."""
    answers = iter(is_event)
    return (is_chosen and next(answers) for is_chosen in chosen)


def _counts(reasons: pa.ChunkedArray) -> Counter[str]:
    return Counter(each for each in reasons.to_pylist() if each is not None)


@dataclass(frozen=True)
class _Part:
    """Rows that go into one file of a bucket; None is the bucket of what stays rejected."""

    bucket: Hour | None
    rows: pa.Table
    is_skewed: bool = False


def _by_bucket(events: pa.Table, open_hour: Hour) -> Iterator[_Part]:
    """Skewed rows apart, as ingest writes them: a file holds these only, or none."""
    own = [hours.hour_of(at) for at in events.column("event_time").to_pylist()]
    places = [(bucket_of(hour, open_hour) or hour, hour < open_hour) for hour in own]
    for bucket, is_skewed in sorted(set(places)):
        here = pa.array([place == (bucket, is_skewed) for place in places])
        yield _Part(bucket, events.filter(here), is_skewed)


def _write_parts(tables: TopicTables, file: DataFile, parts: list[_Part], at: datetime) -> tuple[DataFile, ...]:
    """New files under the same segment's name, in a folder of this replay's own; durable."""
    folder, name = f"replayed-{uuid.uuid4().hex[:8]}", file.path.rpartition("/")[2]
    return tuple(
        _write(tables, f"{folder}/{_place(part)}/{name}", part.bucket, part.rows, at)
        for part in parts
        if len(part.rows)
    )


def _place(part: _Part) -> str:
    return LATE if part.is_skewed else part.bucket or "left"


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


def _with_moved(state: IngestState, written: list[DataFile]) -> IngestState:
    """The state with the deliveries in their buckets; the hours wait until these files are no longer new."""
    held = dict(state.hours)
    for file in written:
        if file.hour is not None:
            before = held[file.hour].rows if file.hour in held else 0
            held[file.hour] = OpenHour(before + file.rows, file.written_at)
    return replace(state, hours=held)
