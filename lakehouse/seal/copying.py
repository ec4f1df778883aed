"""Copying the rows of Parquet files into silver files, in Arrow: no row passes through a JVM."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse import hours
from lakehouse.checksum import id_checksum
from lakehouse.hours import Hour
from lakehouse.schemas import sealed_schema
from lakehouse.store import parquet
from lakehouse.store.contents import DigestingSink
from lakehouse.store.delta import DataFile, event_time_stats
from lakehouse.store.files import Readable, Storage
from lakehouse.store.memory import keep_freed_memory
from lakehouse.store.place import Place
from lakehouse.store.records import FileDigest
from lakehouse.topics import Topic

READ_COLUMNS = ["event", "event_id", "event_time", "publish_time", "message_id"]
"""What a copy reads of bronze: not the payload."""

_ROW_GROUP_BYTES = 64 * 1024**2
_BATCH_ROWS = 131_072
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Piece:
    """One row group of a bronze file; `kept` has a bit for each of its rows, None when no row is left out."""

    path: str
    row_group: int
    rows: int
    size_bytes: int
    kept: bytes | None = None
    first: int = 0
    """The number of its first row in the file."""


@dataclass(frozen=True)
class Copy:
    """One silver file to be made: what a task reads and where it writes. The file's name begins with `target`."""

    topic_json: str
    hour: Hour
    raw: Place
    sealed: Place
    target: str
    pieces: tuple[Piece, ...]
    unrepeated: frozenset[str] = frozenset()
    """Names of leaf columns that get no dictionary, see `parquet.unrepeated`."""


@dataclass(frozen=True)
class Copied:
    """A silver file that is durable; `checksum` is the part of the hour's that its rows make."""

    path: str
    rows: int
    size_bytes: int
    skewed: int
    checksum: str
    min_event_time_us: int
    max_event_time_us: int
    sha256: str
    crc32c: str

    @property
    def digest(self) -> FileDigest:
        return FileDigest(name=self.path.rpartition("/")[2], sha256=self.sha256, crc32c=self.crc32c)

    def as_data_file(self, hour: Hour) -> DataFile:
        first, last = (
            hours.EPOCH + timedelta(microseconds=us) for us in (self.min_event_time_us, self.max_event_time_us)
        )
        return DataFile(self.path, hour, self.rows, self.size_bytes, datetime.now(UTC), event_time_stats(first, last))


COPIED = pa.schema(
    [
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("size_bytes", pa.int64()),
        ("skewed", pa.int64()),
        ("checksum", pa.string()),
        ("min_event_time_us", pa.int64()),
        ("max_event_time_us", pa.int64()),
        ("sha256", pa.string()),
        ("crc32c", pa.string()),
    ]
)


def pieces_of(path: str, footer: pq.FileMetaData, losers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[Piece]:
    """A bronze file's row groups; `losers` are the sorted numbers of the rows that are left out."""
    pieces = []
    first = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = (group.column(position) for position in range(group.num_columns))
        size_bytes = sum(
            column.total_compressed_size
            for column in columns
            if column.path_in_schema.partition(".")[0] in READ_COLUMNS
        )
        lost = losers[slice(*np.searchsorted(losers, [first, first + group.num_rows]))] - first
        pieces.append(Piece(path, number, group.num_rows, size_bytes, _bits_without(lost, group.num_rows), first))
        first += group.num_rows
    return pieces


def rows_per_file(pieces: Sequence[Piece], target_bytes: int, writers: int = 1) -> list[tuple[Piece, ...]]:
    """Pieces in order, divided among silver files: one bronze file may fill many, and many may fill one.

    Files are about alike, of about the target size at most, and so many that all `writers` have some; but for that
    none is made smaller than an eighth of the target.
    """
    ends = np.cumsum([piece.size_bytes for piece in pieces])
    total_bytes = int(ends[-1]) if pieces else 0
    fewest = -(-total_bytes // target_bytes)
    files = max(fewest, min(-(-fewest // writers) * writers, total_bytes * 8 // target_bytes))
    middles = ends - [piece.size_bytes / 2 for piece in pieces]
    file_of_piece = (middles * files // max(total_bytes, 1)).tolist()
    numbered = groupby(zip(file_of_piece, pieces, strict=True), key=lambda each: each[0])
    return [tuple(piece for _, piece in of_file) for _, of_file in numbered]


KnownColumns = Callable[[str], pa.Table | None]
"""Some columns of all rows of a bronze file, in their order; None where they are not in memory."""


def copy_rows(copy: Copy, raw: Readable | None = None, known: KnownColumns = lambda path: None) -> Copied:
    """Write one silver file: the rows that are kept, in their order, with the sealed columns.

    `raw` is given where some of the files have been read before, `known` where some columns are in memory.
    LakeError when a bronze file is gone or damaged.
    """
    keep_freed_memory()
    topic = Topic.from_json(copy.topic_json)
    schema = sealed_schema(topic)
    rows = (sealed_columns(batch, schema) for batch in _kept_rows(raw or copy.raw.files(), copy.pieces, known))
    return write_silver(copy.sealed.files(), copy.target, copy.hour, rows, schema, copy.unrepeated)


def write_silver(
    sealed: Storage,
    target: str,
    hour: Hour,
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    unrepeated: Set[str] = frozenset(),
) -> Copied:
    """One silver file of the rows, durable; none when there are no rows. The columns `unrepeated` get no dictionary.

    Each try has a name of its own: a speculative attempt must not overwrite a committed file.
    """
    path = f"hour={hour}/{target}-{uuid.uuid4().hex[:12]}.parquet"
    try:
        return _write(sealed, path, hour, rows, schema, parquet.options(schema, unrepeated))
    except Exception:
        sealed.delete([f"silver/{path}"])  # a disk that is full must not get fuller with each try
        raise


def _write(
    sealed: Storage,
    path: str,
    hour: Hour,
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    options: Mapping[str, Any],
) -> Copied:
    start = pa.scalar(hours.start_of(hour))
    count = skewed = checksum = 0
    times: list[int] = []
    with sealed.create(f"silver/{path}") as stream:
        sink = DigestingSink(stream)
        with pq.ParquetWriter(sink, schema, **options) as writer:
            for table in _row_groups(rows):
                writer.write_table(table, row_group_size=len(table))
                count += len(table)
                skewed += pc.sum(pc.less(table["event_time"], start)).as_py() or 0
                checksum += id_checksum(table["event_id"])
                bounds = pc.min_max(table["event_time"].cast(pa.int64()))
                times += [bounds["min"].as_py(), bounds["max"].as_py()]
        size_bytes = sink.tell()
    if count:
        sealed.finish([f"silver/{path}"])
    else:
        sealed.delete([f"silver/{path}"])
    return Copied(
        path=path,
        rows=count,
        size_bytes=size_bytes,
        skewed=skewed,
        checksum=str(checksum),
        min_event_time_us=min(times, default=0),
        max_event_time_us=max(times, default=0),
        sha256=sink.sha256,
        crc32c=sink.crc32c,
    )


def _bits_without(lost: np.ndarray[tuple[int], np.dtype[np.int64]], rows: int) -> bytes | None:
    if not len(lost):
        return None
    kept = np.ones(rows, bool)
    kept[lost] = False
    return np.packbits(kept).tobytes()


def _kept_rows(raw: Readable, pieces: Iterable[Piece], known: KnownColumns) -> Iterator[pa.RecordBatch]:
    by_file = [(path, list(of_file)) for path, of_file in groupby(pieces, key=lambda piece: piece.path)]
    files = parquet.open_ahead(partial(parquet.LakeFile, raw, f"bronze/{path}") for path, _ in by_file)
    for file, (path, of_file) in zip(files, by_file, strict=True):
        in_memory = known(path)
        for piece in of_file:
            batches = _rows_read(file, piece, in_memory)
            yield from batches if piece.kept is None else _rows_of(batches, piece)


def _rows_read(file: pq.ParquetFile, piece: Piece, in_memory: pa.Table | None) -> Iterator[pa.RecordBatch]:
    have = in_memory.column_names if in_memory is not None else []
    first = piece.first
    columns = [name for name in READ_COLUMNS if name not in have]
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[piece.row_group], columns=columns, use_threads=False):
        if in_memory is not None:
            (rest,) = in_memory.slice(first, len(batch)).combine_chunks().to_batches()
            batch = pa.RecordBatch.from_arrays([*batch.columns, *rest.columns], [*batch.schema.names, *have])
        first += len(batch)
        yield batch


def _rows_of(batches: Iterable[pa.RecordBatch], piece: Piece) -> Iterator[pa.RecordBatch]:
    kept = np.unpackbits(np.frombuffer(piece.kept or b"", np.uint8), count=piece.rows).astype(bool)
    first = 0
    for batch in batches:
        mask = pa.array(kept[first : first + len(batch)])
        columns = [_filtered(column, mask) for column in batch.columns]
        yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)
        first += len(batch)


def _filtered(column: pa.Array, mask: pa.BooleanArray) -> pa.Array:
    """Member by member: a struct filtered as a whole takes Arrow about ten times as long."""
    if not pa.types.is_struct(column.type) or not column.type.num_fields:
        return column.filter(mask)
    members = [_filtered(column.field(number), mask) for number in range(column.type.num_fields)]
    nulls = column.is_null().filter(mask) if column.null_count else None
    return pa.StructArray.from_arrays(members, fields=list(column.type), mask=nulls)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for batch in batches:
        if len(batch):
            waiting.append(batch)
            waiting_bytes += batch.nbytes
        if waiting_bytes >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def sealed_columns(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The sealed schema's columns; what the topic gained after these rows were ingested is null, at any depth."""
    event = rows.column("event")
    columns = dict(zip((member.name for member in event.type), event.flatten(), strict=True))
    columns |= {name: rows.column(name) for name in ("event_id", "event_time", "publish_time", "message_id")}
    columns["event_hour"] = _hours_of(rows.column("event_time"))
    declared = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(declared, schema=schema)


def _hours_of(instants: pa.TimestampArray) -> pa.StringArray:
    """Event hours as text: a dictionary of the few that occur, spelled once each."""
    ordinals = np.floor_divide(instants.cast(pa.int64()).to_numpy(), _HOUR_US)
    distinct, codes = np.unique(ordinals, return_inverse=True)
    names = pa.array([hours.from_ordinal(int(ordinal)) for ordinal in distinct], pa.string())
    return names.take(pa.array(codes))
