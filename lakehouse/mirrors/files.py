"""The few things that a mirrored folder asks of a file system, and the one of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse import failpoints
from lakehouse.checksum import id_checksum
from lakehouse.mirrors.contract import Count, SealedHour
from lakehouse.store.contents import Contents, sha256_of_stream
from lakehouse.store.delta import first_line
from lakehouse.store.parquet import LakeFile
from lakehouse.store.place import Place

COPIERS = 8
"""Files that one process copies at a time: enough to hide a store's latency."""
SPREAD_FROM_BYTES = 1024**3
"""Hours from this size on are copied by Spark's executors, smaller ones sooner by the driver alone."""

CHUNK_BYTES = 4 * 1024**2
_ROWS_AT_A_TIME = 1_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Copy:
    """One file to be copied as it is: `path` in the folder `source` to the address `target`."""

    source: Place
    path: str
    target: str
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """A file or folder as listed; a folder's size means nothing."""

    size_bytes: int
    changed_at: datetime


class Files(Protocol):
    """All paths are whole addresses. What the file system refuses is an OSError."""

    renames_are_atomic: bool

    def listing(self, folder: str) -> dict[str, Found] | None:
        """What is in the folder, by name, without hidden files; None when there is no such folder."""

    def text(self, path: str) -> str | None: ...

    def write(self, path: str, text: str) -> None: ...

    def make_folder(self, folder: str) -> None: ...

    def copy(self, copies: Sequence[Copy]) -> None: ...

    def settle(self, folder: str) -> None:
        """Make durable what was added to the folder and removed from it."""

    def rename(self, folder: str, to: str) -> None:
        """FileExistsError when there is something at `to`, FileNotFoundError when there is no `folder`."""

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; nothing there is fine."""

    def count(self, paths: Sequence[str]) -> Count:
        """Rows and id checksum of Parquet files, from their ids alone."""

    def contents(self, paths: Sequence[str]) -> list[Contents]:
        """A digest of each file's bytes, in the order of the paths: one that the store keeps, else by reading it."""


class LocalFiles:
    """The file system of this machine; what was written survives a power cut."""

    renames_are_atomic = True

    def listing(self, folder: str) -> dict[str, Found] | None:
        try:
            with os.scandir(folder) as entries:
                return {entry.name: _found(entry) for entry in entries if not entry.name.startswith(".")}
        except FileNotFoundError:
            return None

    def text(self, path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def write(self, path: str, text: str) -> None:
        Path(path).write_text(text, encoding="utf-8")
        _sync(path, os.O_RDONLY)

    def make_folder(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def copy(self, copies: Sequence[Copy]) -> None:
        def copy_one(copy: Copy) -> None:
            if is_local(copy.source.uri):  # by the kernel, in less than half of the time
                shutil.copyfile(f"{local_path(copy.source.uri)}/{copy.path}", copy.target)
            else:
                with copy.source.open(copy.path) as source, open(copy.target, "xb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
            _sync(copy.target, os.O_RDONLY)
            failpoints.reach("mirror.half_copied")

        in_parallel(copy_one, copies)

    def settle(self, folder: str) -> None:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, folder: str, to: str) -> None:
        if os.path.lexists(to):  # the kernel would replace an empty folder without an error
            raise FileExistsError(f"{to} exists")
        os.rename(folder, to)

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def count(self, paths: Sequence[str]) -> Count:
        return sum_of(in_parallel(lambda path: count_of_file(path, path), paths))

    def contents(self, paths: Sequence[str]) -> list[Contents]:
        return in_parallel(_contents_of_file, paths)


def rows_of(hour: SealedHour) -> Iterator[pa.RecordBatchReader]:
    """The hour's rows as Arrow, one stream for each file, for a target that takes no files."""
    for file in hour.files:
        with LakeFile(hour.silver.files(), file.path) as opened:
            yield pa.RecordBatchReader.from_batches(opened.schema_arrow, opened.iter_batches())


def is_local(address: str) -> bool:
    return "://" not in address or address.startswith("file://")


def local_path(address: str) -> str:
    return address.removeprefix("file://")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(COPIERS, len(items))) as pool:
        return list(pool.map(work, items))


def _contents_of_file(path: str) -> Contents:
    with open(path, "rb") as file:
        return sha256_of_stream(file)


def sum_of(counts: Sequence[Count]) -> Count:
    return Count(sum(count.rows for count in counts), sum(count.id_checksum for count in counts))


def count_of_file(source: Any, path: str) -> Count:
    """Of a Parquet file, which `source` is or names; `path` is what it is called. OSError when it cannot be read."""
    rows = checksum = 0
    try:
        with pq.ParquetFile(source) as file:
            if "event_id" not in file.schema_arrow.names:
                raise OSError(f"{path} has no column event_id")
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=["event_id"]):
                rows += batch.num_rows
                checksum += id_checksum(batch.column(0))
    except pa.ArrowException as unreadable:
        raise OSError(f"{path}: {first_line(unreadable)}") from unreadable
    return Count(rows, checksum)


def _sync(path: str, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _found(entry: os.DirEntry[str]) -> Found:
    status = entry.stat(follow_symlinks=False)
    return Found(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))
