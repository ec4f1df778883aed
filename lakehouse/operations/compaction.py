"""Compaction: after an hour is delivered, its many small files of bronze become a few, whose rows are the same.

One commit that changes no data. The files before it stay for a day, for who has begun to read them; which of them a row
came from, the new file says itself.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import failpoints, hours
from lakehouse.errors import LakeError, in_one_line
from lakehouse.hours import Hour
from lakehouse.store import parquet
from lakehouse.store.bronze_log import Compactions, segment_of
from lakehouse.store.delta import DataFile, event_time_stats
from lakehouse.store.files import ReadOnce, Storage
from lakehouse.store.tables import TopicTables

log = logging.getLogger(__name__)

COMPACT = "compact"
COMPACTED = "compacted-"
"""That the names of such files begin with."""

SMALL_BYTES, TARGET_BYTES = 64 * 1024**2, 256 * 1024**2
_ROW_GROUP_BYTES = 64 * 1024**2
_ORIGINS, _WRITTEN = b"lakehouse.files", b"lakehouse.written"


@dataclass(frozen=True)
class Compacted:
    """What became of some files of an hour."""

    hour: Hour
    files: tuple[DataFile, ...]
    into: tuple[DataFile, ...]


def is_compacted(path: str) -> bool:
    return path.rpartition("/")[2].startswith(COMPACTED)


def segments_in(schema: pa.Schema) -> Mapping[tuple[int, int], str]:
    """Of a file of bronze: the segment that each (epoch, slot) in its rows came in; empty where its name says it."""
    return {key: segment_of(name) for name in _names(schema) if (key := _epoch_and_slot(segment_of(name)))}


def written_in(schema: pa.Schema) -> Mapping[str, datetime]:
    """Of a file of bronze: when the file of each segment in it was written; empty where it is that file itself."""
    written = json.loads((schema.metadata or {}).get(_WRITTEN, b"[]"))
    return {segment_of(name): datetime.fromisoformat(at) for name, at in zip(_names(schema), written, strict=False)}


def origins(storage: Storage, path: str) -> list[str]:
    """The files of bronze that one of the storage took the place of. LakeError where it cannot be read."""
    with parquet.LakeFile(storage, path) as file:
        return _names(file.schema_arrow)


def _names(schema: pa.Schema) -> list[str]:
    return [str(name) for name in json.loads((schema.metadata or {}).get(_ORIGINS, b"[]"))]


def small_files(of_hour: Iterable[DataFile]) -> list[DataFile]:
    """Those of an hour that are worth it, each of them once: none where only one is small."""
    found = [file for file in of_hour if file.size_bytes < SMALL_BYTES and not is_compacted(file.path)]
    return sorted(found, key=lambda file: file.path) if len(found) > 1 else []


def compact_hour(tables: TopicTables, commits: Compactions, hour: Hour, files: Sequence[DataFile]) -> Compacted | None:
    """Let a few files take the place of these; None where one of them went meanwhile.

    A crash before the commit leaves a file that nothing names, which `maintain` removes; so does a commit that fails,
    which the store may have made all the same. LakeError when one cannot be read, or nothing can be written.
    """
    into = _merged(tables, hour, files)
    failpoints.reach("compact.file_durable")
    metadata = {"kind": COMPACT, "hours": [hour], "files": len(files), "release": tables.settings.release}
    if commits.commit(into, files, metadata) is None:
        _delete(tables, (file.path for file in into))
        return None
    failpoints.reach("compact.committed")
    log.info("compact: topic=%s hour=%s files=%d into=%d", tables.topic.name, hour, len(files), len(into))
    return Compacted(hour, tuple(files), tuple(into))


def _merged(tables: TopicTables, hour: Hour, files: Sequence[DataFile]) -> list[DataFile]:
    """Durable, or gone again where one of them failed; a removal that fails, too, hides no other error."""
    merging = _Hour(tables, hour)
    try:
        return list(merging.merged(files))
    except Exception:
        try:
            _delete(tables, merging.begun)
        except Exception as refused:
            log.warning(
                "compact: topic=%s hour=%s not_removed=%s error=%s",
                *(tables.topic.name, hour, ",".join(merging.begun), in_one_line(refused)),
            )
        raise


def _delete(tables: TopicTables, paths: Iterable[str]) -> None:
    tables.raw.files().delete(f"bronze/{path}" for path in paths)


class _Hour:
    """Reads each small file of an hour once, however often it is asked for. `begun` are the paths it has written to."""

    def __init__(self, tables: TopicTables, hour: Hour) -> None:
        self._storage, self._hour = tables.raw.files(), hour
        self._raw = ReadOnce(self._storage)
        self.begun: list[str] = []

    def merged(self, files: Sequence[DataFile]) -> Iterator[DataFile]:
        schemas = {
            file.path: self._schema_of(file, opened) for file, opened in zip(files, self._opened(files), strict=True)
        }
        start = hours.start_of(self._hour)

        def kind(file: DataFile) -> tuple[bool, str]:
            """Files of one kind become one: those with the same columns, and with skewed events apart."""
            first = file.stats.get("minValues", {}).get("event_time")
            return first is None or first < start, str(schemas[file.path].remove_metadata())

        for _, alike in groupby(sorted(files, key=lambda file: (kind(file), file.path)), key=kind):
            for group in _cut(alike):
                yield self._merged_group(group, schemas[group[0].path])

    def _schema_of(self, file: DataFile, opened: pq.ParquetFile) -> pa.Schema:
        """LakeError where it does not have the rows that the log names."""
        rows = opened.metadata.num_rows
        if rows != file.rows:
            raise LakeError(
                self._storage.address(f"bronze/{file.path}"),
                found=f"{rows} rows",
                expected=f"{file.rows}, as the log has it",
                next_step="Restore it from a copy.",
            )
        return opened.schema_arrow

    def _merged_group(self, files: Sequence[DataFile], schema: pa.Schema) -> DataFile:
        """One durable file of their rows, in their order."""
        path = f"{self._hour}/{COMPACTED}{uuid.uuid4().hex[:12]}.parquet"
        self.begun.append(path)
        names, written = [file.path for file in files], [file.written_at.isoformat() for file in files]
        schema = schema.with_metadata({_ORIGINS: json.dumps(names), _WRITTEN: json.dumps(written)})
        rows, bounds = 0, _Bounds()
        with self._storage.create(f"bronze/{path}") as sink:
            with pq.ParquetWriter(sink, schema, **parquet.options(schema)) as writer:
                for group in _row_groups(opened.read() for opened in self._opened(files)):
                    writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=len(group))
                    bounds.add(group)
                    rows += len(group)
            size_bytes = sink.tell()
        self._storage.finish([f"bronze/{path}"])
        stats = event_time_stats(bounds.first, bounds.last)
        return DataFile(path, self._hour, rows, size_bytes, datetime.now(UTC), stats)

    def _opened(self, files: Iterable[DataFile]) -> Iterator[pq.ParquetFile]:
        return parquet.open_ahead(partial(parquet.LakeFile, self._raw, f"bronze/{file.path}") for file in files)


def _cut(files: Iterable[DataFile]) -> Iterator[list[DataFile]]:
    waiting: list[DataFile] = []
    for file in files:
        if waiting and sum(each.size_bytes for each in waiting) + file.size_bytes > TARGET_BYTES:
            yield waiting
            waiting = []
        waiting.append(file)
    yield waiting


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part.replace_schema_metadata(None))
        if sum(each.nbytes for each in waiting) > _ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


class _Bounds:
    """Of the event times that were written."""

    def __init__(self) -> None:
        self.first: datetime | None = None
        self.last: datetime | None = None

    def add(self, rows: pa.Table) -> None:
        found = pc.min_max(rows["event_time"]).as_py()
        self.first = min((time for time in (self.first, found["min"]) if time), default=None)
        self.last = max((time for time in (self.last, found["max"]) if time), default=None)


def _epoch_and_slot(segment: str) -> tuple[int, int] | None:
    epoch, _, rest = segment.partition("-")
    slot = rest.partition("-")[0]
    return (int(epoch), int(slot)) if epoch.isdigit() and slot.isdigit() else None
