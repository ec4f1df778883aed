"""Copies of an hour's files at an address that BigQuery can read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.errors import MirrorError
from lakehouse.mirrors.contract import SealedHour
from lakehouse.mirrors.files import CHUNK_BYTES
from lakehouse.mirrors.retention import refuse_retention
from lakehouse.store.delta import DataFile
from lakehouse.store.files import google_client
from lakehouse.store.place import Place


@contextmanager
def stage_files(hour: SealedHour, staging: str, mirror: str, *, drops_nulls: bool = False) -> Iterator[list[str]]:
    """The addresses of the hour's files: silver's own on GCS, else copies that are removed after the load.

    With `drops_nulls` they are copies wherever an array holds a null, which the copy leaves out.
    """
    drops = drops_nulls and any(_has_nulls(hour, file) for file in hour.files)
    if hour.silver.uri.startswith("gs://") and not drops:
        yield [f"{hour.silver.uri}/{file.path}" for file in hour.files]
        return
    if hour.files and not staging:
        raise MirrorError(
            f"mirror {mirror}: {hour.topic.name} {hour.hour}",
            found=f"{'nulls in arrays' if drops else 'a lake'} at {hour.silver.uri}",
            expected="a place for copies without them" if drops else "one on gs://, which BigQuery can read",
            next_step=f"Give `staging` of mirrors.{mirror} a gs:// folder for copies.",
        )
    folder = f"{_folder(hour, mirror)}/{hour.hour}-r{hour.revision}"
    parts = {f"{folder}/{number:05d}.parquet": file for number, file in enumerate(hour.files)}
    storage = Place(staging, hour.silver.options).files() if parts else None
    if parts and staging.startswith("gs://"):
        refuse_retention(google_client(hour.silver.options), staging)
    try:
        for path, file in parts.items():
            _stage(storage, path, hour, file, drops)
        yield [f"{staging}/{path}" for path in parts]
    finally:
        if storage is not None:
            storage.delete(parts)


def staged_before(hour: SealedHour, staging: str, mirror: str, revision: int) -> list[str]:
    """Copies of revisions of the hour before that one, which a process left that died."""
    return [f"{staging}/{path}" for path in _paths_before(hour, staging, mirror, revision)]


def remove_staged(hour: SealedHour, staging: str, mirror: str, *, before: int) -> None:
    """Remove such copies."""
    if paths := _paths_before(hour, staging, mirror, before):
        Place(staging, hour.silver.options).files().delete(paths)


def _paths_before(hour: SealedHour, staging: str, mirror: str, revision: int) -> list[str]:
    if not staging or revision < 2:
        return []
    form = re.compile(rf"{re.escape(_folder(hour, mirror))}/{hour.hour}-r(\d+)/")
    listed = [stored.path for stored in Place(staging, hour.silver.options).files().listing(_folder(hour, mirror))]
    return [path for path in listed if (found := form.match(path)) and int(found[1]) < revision]


def _folder(hour: SealedHour, mirror: str) -> str:
    """Below the mirror's name: mirrors that share a staging folder would delete each other's files."""
    return f"{mirror}/{hour.topic.name}"


def _stage(storage: Any, path: str, hour: SealedHour, file: DataFile, drops_nulls: bool) -> None:
    with hour.silver.open(file.path) as source, storage.create(path) as target:
        if drops_nulls:
            copy_without_nulls(source, target)
        else:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
    storage.finish([path])


def _has_nulls(hour: SealedHour, file: DataFile) -> bool:
    """Whether an array of the file holds a null. Columns with arrays are read, the others are not."""
    with hour.silver.open(file.path) as source, pq.ParquetFile(source) as parquet:
        names = [each.name for each in parquet.schema_arrow if _holds_arrays(each.type)]
        batches = parquet.iter_batches(columns=names) if names else ()
        return any(holds_null_elements(column) for batch in batches for column in batch.columns)


def copy_without_nulls(source: Any, target: Any) -> None:
    """The Parquet file with the same rows, its arrays without their nulls."""
    with pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        with pq.ParquetWriter(target, schema) as writer:
            for batch in parquet.iter_batches():
                kept = [without_null_elements(column) for column in batch.columns]
                writer.write_batch(pa.RecordBatch.from_arrays(kept, schema=schema))


def _holds_arrays(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_arrays(member.type) for member in kind)
    return bool(pa.types.is_list(kind) or (pa.types.is_map(kind) and _holds_arrays(kind.item_type)))


def holds_null_elements(column: pa.Array) -> bool:
    """Whether an array within the column, at any depth, holds a null."""
    kind = column.type
    if pa.types.is_struct(kind):
        return any(holds_null_elements(member) for member in column.flatten())
    if pa.types.is_map(kind):
        return holds_null_elements(_entries(column).field(1))
    if pa.types.is_list(kind):
        values = column.flatten()
        return values.null_count > 0 or holds_null_elements(values)
    return False


def without_null_elements(column: pa.Array) -> pa.Array:
    """The column with the same rows, its arrays at any depth without their nulls."""
    kind = column.type
    if not holds_null_elements(column):
        return column
    if pa.types.is_struct(kind):
        members = [without_null_elements(member) for member in column.flatten()]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=column.is_null())
    if pa.types.is_map(kind):
        pairs = _entries(column)
        offsets = _offsets([len(row) if row is not None else None for row in column.to_pylist()])
        return pa.MapArray.from_arrays(offsets, pairs.field(0), without_null_elements(pairs.field(1)), type=kind)
    values = column.flatten()
    kept = without_null_elements(values.filter(values.is_valid()))
    rows = pc.list_parent_indices(column).filter(values.is_valid()).to_pylist()
    lengths = [0 if is_there else None for is_there in column.is_valid().to_pylist()]
    for row in rows:
        lengths[row] = (lengths[row] or 0) + 1
    return pa.ListArray.from_arrays(_offsets(lengths), kept, type=kind)


def _entries(column: pa.MapArray) -> pa.StructArray:
    """The pairs of the rows that are there; a slice's own, whatever its buffers hold beside."""
    first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
    return pa.StructArray.from_arrays(
        [column.keys.slice(first, last - first), column.items.slice(first, last - first)], ["key", "value"]
    )


def _offsets(lengths: list[int | None]) -> pa.Array:
    """Where each row's elements begin and the last one's end; null for a row that is null."""
    offsets: list[int | None] = []
    at = 0
    for length in lengths:
        offsets.append(at if length is not None else None)
        at += length or 0
    return pa.array([*offsets, at], pa.int32())
