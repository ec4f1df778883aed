"""Rows of the lake's files as an erasure reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakehouse.store import parquet
from lakehouse.store.delta import DataFile
from lakehouse.store.files import Storage
from lakehouse.topics import Topic

Event = tuple[Any, ...]
"""The values of the topic's `identity`; an instant in microseconds."""


@dataclass(frozen=True)
class Match:
    """A file that holds rows to erase."""

    file: DataFile
    count: int
    skewed: int = 0
    events: tuple[Event, ...] = ()
    event_ids: tuple[str, ...] = ()


def events_of(rows: pa.Table, topic: Topic) -> list[Event]:
    """What makes each row's event."""
    columns = [rows[name].cast(pa.int64()) if name == "event_time" else rows[name] for name in topic.identity]
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def with_hour(batch: pa.RecordBatch, file: DataFile) -> pa.Table:
    rows = pa.Table.from_batches([batch])
    return rows.append_column("hour", pa.array([file.hour] * len(rows), pa.string()))


def batches(storage: Storage, path: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """The columns that the file has of those asked for."""
    with parquet.LakeFile(storage, path) as file:
        present = file.schema_arrow.names
        yield from file.iter_batches(columns=None if columns is None else [name for name in columns if name in present])
