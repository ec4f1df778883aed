"""Segments: what one slot pulled in one epoch, as Parquet files in bronze's folder, by event hour."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.clock import Clock, now
from lakehouse.decode.events import Decoded, Schemas, decode
from lakehouse.decode.undeclared import top_names
from lakehouse.hours import Hour
from lakehouse.landing.manifests import Manifest, SegmentFile
from lakehouse.landing.registries.writers import schemas_of
from lakehouse.schemas import segment_schema
from lakehouse.store import parquet
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

REJECTED = "rejected"
LATE = "late"

ROW_GROUP_BYTES = 32 * 1024**2
"""Bytes of an hour's rows before a row group is written; half as many wait together before they are split by hour.

A file is opened for its first row group, so there are no more open files than such groups in a slot, however many hours
its events are of: the rest waits in memory, which `max_bytes` bounds, and is written file by file in the end.
"""
_CLOSING = 8
"""Files that are completed side by side: on a store, each takes its time."""
_HOUR_US = 3_600_000_000

Decoder = Callable[[pa.RecordBatch, Topic, Schemas | None], Decoded]


class SegmentWriter:
    """Splits decoded messages by event hour and writes a Parquet file for each; nothing counts before its manifest."""

    def __init__(
        self,
        topic: Topic,
        storage: Storage,
        epoch: int,
        slot: int,
        open_hour: Hour | None,
        decode: Decoder = decode,
        *,
        row_group_bytes: int = ROW_GROUP_BYTES,
        clock: Clock = now,
    ) -> None:
        self._topic, self._storage, self._epoch, self._slot, self._decode = topic, storage, epoch, slot, decode
        self._row_group_bytes, self._clock = row_group_bytes, clock
        self._open_ordinal = hours.ordinal_of(open_hour) if open_hour else None
        self._schema = segment_schema(topic)
        self._position = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._files: dict[str, _HourFile] = {}
        self._reasons: Counter[str] = Counter()
        self._undeclared: Counter[str] = Counter()
        self.attempt_id = uuid.uuid4().hex

    def add(self, messages: pa.RecordBatch) -> None:
        """Decode a page; its messages go to the files of their event hours.

        SourceError where the topic's registry does not say by which schema they are written.
        """
        decoded = self._decode(messages, self._topic, schemas_of(self._topic))
        self._undeclared = top_names(self._undeclared + decoded.undeclared)
        rows = pa.RecordBatch.from_arrays(
            [*messages.columns, *decoded.columns.columns, *self._where_from(len(messages))], schema=self._schema
        )
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= self._row_group_bytes // 2:
            self._split()

    def close(self) -> tuple[SegmentFile, ...]:
        """Every file complete and durable."""
        self._split()
        with ThreadPoolExecutor(_CLOSING) as pool:
            files = tuple(pool.map(_HourFile.close, self._files.values()))
        self._storage.finish(f"bronze/{file.path}" for file in files)
        return files

    def abandon(self) -> None:
        """Remove what this attempt has written."""
        self._waiting = []
        try:
            for file in self._files.values():
                file.abandon()
        finally:
            self._storage.delete(f"bronze/{file.path}" for file in self._files.values())

    def manifest(
        self,
        files: tuple[SegmentFile, ...],
        *,
        attempt: int,
        dry_at: datetime | None,
        full: bool,
        unanswered_at: datetime | None = None,
        continues: bool = False,
        read: str | None = None,
        pulled_bytes: int = 0,
    ) -> Manifest:
        """The manifest of this attempt's segment, with `files` as `close` gave them; written by nobody yet.

        Times are UTC, `attempt` counts from 0; the other arguments are as in `FACTS` and `Manifest`.
        """
        return Manifest(
            self._epoch,
            self._slot,
            self.attempt_id,
            attempt,
            self._clock(),
            dry_at,
            full,
            files,
            dict(self._reasons),
            dict(self._undeclared),
            unanswered_at,
            continues,
            read,
            pulled_bytes,
        )

    def _where_from(self, rows: int) -> list[pa.Array]:
        positions = pa.array(np.arange(self._position, self._position + rows, dtype=np.int32))
        self._position += rows
        return [
            pa.array(np.full(rows, self._epoch, np.int64)),
            pa.array(np.full(rows, self._slot, np.int32)),
            positions,
        ]

    def _split(self) -> None:
        if self._waiting:
            rows = pa.Table.from_batches(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            for group, part in self._by_hour(rows):
                self._file(group).add(part)

    def _by_hour(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        reasons = rows.column("reject_reason")
        if reasons.null_count < len(reasons):
            rejected = pc.is_valid(reasons)
            self._reasons.update(reasons.filter(rejected).to_pylist())
            yield REJECTED, rows.filter(rejected)
            rows = rows.filter(pc.invert(rejected))
        if not len(rows):
            return
        ordinals = rows.column("event_time").cast(pa.int64()).to_numpy() // _HOUR_US
        if self._open_ordinal is not None:
            # Hours that have closed share a bucket, so they share a file; -1 below the first open hour is for all.
            ordinals = np.maximum(ordinals, self._open_ordinal - 1)
        distinct, counts = np.unique(ordinals, return_counts=True)
        if len(distinct) > 1:
            rows = rows.take(pa.array(np.argsort(ordinals, kind="stable")))
        ends = np.cumsum(counts)
        for ordinal, count, end in zip(distinct.tolist(), counts.tolist(), ends.tolist(), strict=True):
            is_late = self._open_ordinal is not None and ordinal < self._open_ordinal
            yield LATE if is_late else hours.from_ordinal(ordinal), rows.slice(end - count, count)

    def _file(self, group: str) -> _HourFile:
        if group not in self._files:
            path = f"{group}/{self._epoch:012d}-{self._slot:04d}-{self.attempt_id[:12]}.parquet"
            self._files[group] = _HourFile(group, path, self._storage, self._schema, self._row_group_bytes)
        return self._files[group]


class _HourFile:
    """One Parquet file in the making; rows wait until they fill a row group, or the segment ends."""

    def __init__(self, group: str, path: str, storage: Storage, schema: pa.Schema, row_group_bytes: int) -> None:
        self._group, self.path, self._storage, self._schema = group, path, storage, schema
        self._row_group_bytes = row_group_bytes
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._rows = 0
        self._event_times: list[int] = []
        self._publish_times: list[int] = []

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        self._rows += len(rows)
        self._publish_times += _bounds(rows.column("publish_time"))
        if self._group != REJECTED:
            self._event_times += _bounds(rows.column("event_time"))
        if self._waiting_bytes >= self._row_group_bytes:
            self._flush()

    def close(self) -> SegmentFile:
        writer = self._flush()
        writer.close()
        size_bytes = self._sink.tell()
        self._sink.close()
        first_event = _instant(min(self._event_times, default=None))
        return SegmentFile(
            self.path,
            hours.hour_of(first_event) if first_event else None,
            self._rows,
            size_bytes,
            first_event,
            _instant(max(self._event_times, default=None)),
            _instant(min(self._publish_times)) or hours.EPOCH,
            _instant(max(self._publish_times)) or hours.EPOCH,
        )

    def abandon(self) -> None:
        self._waiting = []
        if self._writer is not None:
            self._writer.close()
            self._sink.close()

    def _flush(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._sink = self._storage.create(f"bronze/{self.path}")
            self._writer = pq.ParquetWriter(self._sink, self._schema, **parquet.options(self._schema))
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._waiting, self._waiting_bytes = [], 0
            self._writer.write_table(table, row_group_size=len(table))
        return self._writer


def _bounds(times: pa.ChunkedArray) -> list[int]:
    bounds = pc.min_max(times.cast(pa.int64()))
    return [bounds["min"].as_py(), bounds["max"].as_py()]


def _instant(micros: int | None) -> datetime | None:
    return hours.EPOCH + timedelta(microseconds=micros) if micros is not None else None
