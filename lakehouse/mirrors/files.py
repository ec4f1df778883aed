"""The few things that a mirrored folder asks of a file system: the local one, or any that Hadoop reaches."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler
from py4j.protocol import Py4JJavaError
from pyarrow.fs import PyFileSystem
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lakehouse import failpoints
from lakehouse.checksum import id_checksum, sql_for
from lakehouse.errors import MirrorError
from lakehouse.mirrors.contract import Count, SealedHour

COPIERS = 8
"""Files that one process copies at a time: enough to hide a store's latency."""

SPREAD_FROM_BYTES = 1024**3
"""Hours from this size on are copied by Spark's executors, smaller ones sooner by the driver alone."""

_ATOMIC = ("hdfs", "viewfs", "webhdfs", "file")
"""Schemes whose folders are renamed in one step; an object store copies them file by file."""

_CHUNK_BYTES = 4 * 1024**2
_ROWS_AT_A_TIME = 1_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Copy:
    """One file to be copied as it is: `path` in the folder `source` to the address `target`."""

    source: str
    path: str
    target: str
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """A file or folder as listed; a folder's size means nothing."""

    size_bytes: int
    changed_at: datetime


class Files(Protocol):
    """All paths are whole addresses. What is refused is an OSError."""

    renames_are_atomic: bool

    def listing(self, folder: str) -> dict[str, Found] | None:
        """What is in the folder, by name, without hidden files; None when there is no such folder."""

    def text(self, path: str) -> str | None: ...

    def write(self, path: str, text: str) -> None: ...

    def make_folder(self, folder: str) -> None: ...

    def copy(self, copies: Sequence[Copy], options: Mapping[str, str]) -> None:
        """Copy files; `options` are delta-rs' for the storage of the sources."""

    def settle(self, folder: str) -> None:
        """Make durable what was added to the folder and removed from it."""

    def rename(self, folder: str, to: str) -> None:
        """FileExistsError when there is something at `to`, FileNotFoundError when there is no `folder`."""

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; nothing there is fine."""

    def count(self, paths: Sequence[str]) -> Count:
        """Rows and id checksum of Parquet files, from their ids alone."""


class LocalFiles:
    """The file system of this machine; what is said to be written survives a power cut."""

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

    def copy(self, copies: Sequence[Copy], options: Mapping[str, str]) -> None:
        def copied(copy: Copy) -> None:
            if _is_local(copy.source):  # by the kernel, in less than half of the time
                shutil.copyfile(f"{_local(copy.source)}/{copy.path}", copy.target)
            else:
                with open_file(copy.source, copy.path, options) as source, open(copy.target, "xb") as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
            _sync(copy.target, os.O_RDONLY)
            failpoints.reached("mirror.half_copied")

        _in_parallel(copied, copies)

    def settle(self, folder: str) -> None:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, folder: str, to: str) -> None:
        if os.path.lexists(to):  # the kernel would take the place of an empty folder without a word
            raise FileExistsError(f"{to} exists")
        os.rename(folder, to)

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    def count(self, paths: Sequence[str]) -> Count:
        counts = _in_parallel(_count_of_file, paths)
        return Count(sum(count.rows for count in counts), sum(count.id_checksum for count in counts))


class HadoopFiles:
    """`hdfs://`, `gs://` and whatever else the JVM of a Spark session has a file system for."""

    def __init__(
        self,
        spark: SparkSession,
        root: str,
        target_options: Mapping[str, str] | None = None,
        spread_from_bytes: int = SPREAD_FROM_BYTES,
    ) -> None:
        """`target_options` are delta-rs' for the storage at `root`, where it is not the one of the lake."""
        self._spark, self._target_options, self._spread_from = spark, target_options, spread_from_bytes
        self._jvm = cast(Any, spark.sparkContext._jvm)
        self._conf: Any = cast(Any, spark.sparkContext._jsc).hadoopConfiguration()
        uri = self._jvm.java.net.URI(root)
        with _refusals():
            self._system: Any = self._jvm.org.apache.hadoop.fs.FileSystem.get(uri, self._conf)
            # FileSystem.rename says False or nests when something is in its way; a FileContext's raises.
            self._context: Any = self._jvm.org.apache.hadoop.fs.FileContext.getFileContext(uri, self._conf)
        self.renames_are_atomic = root.partition("://")[0] in _ATOMIC

    def listing(self, folder: str) -> dict[str, Found] | None:
        try:
            with _refusals():
                statuses = self._system.listStatus(self._path(folder))
        except FileNotFoundError:
            return None
        found = {status.getPath().getName(): _status(status) for status in statuses}
        return {name: status for name, status in found.items() if not name.startswith(".")}

    def text(self, path: str) -> str | None:
        try:
            with _refusals():
                stream = self._system.open(self._path(path))
                try:
                    return cast(str, self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
                finally:
                    stream.close()
        except FileNotFoundError:
            return None

    def write(self, path: str, text: str) -> None:
        with _refusals():
            stream = self._system.create(self._path(path), True)
            try:
                stream.write(bytearray(text.encode()))
                stream.hsync()
            finally:
                stream.close()

    def make_folder(self, folder: str) -> None:
        with _refusals():
            self._system.mkdirs(self._path(folder))

    def copy(self, copies: Sequence[Copy], options: Mapping[str, str]) -> None:
        if copies and sum(copy.size_bytes for copy in copies) >= self._spread_from:
            target_options = options if self._target_options is None else self._target_options
            copy_in_tasks(self._spark, copies, options, target_options)
        else:
            _in_parallel(self._copy, copies)

    def _copy(self, copy: Copy) -> None:
        source = self._path(f"{copy.source}/{copy.path}")
        with _refusals():
            source_system = source.getFileSystem(self._conf)
            self._jvm.org.apache.hadoop.fs.FileUtil.copy(
                source_system, source, self._system, self._path(copy.target), False, True, self._conf
            )
        failpoints.reached("mirror.half_copied")

    def settle(self, folder: str) -> None:
        """A closed file and a finished rename are durable by themselves there."""

    def rename(self, folder: str, to: str) -> None:
        kind = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = cast(Any, self._spark.sparkContext._gateway).new_array(kind, 1)
        options[0] = kind.NONE
        with _refusals():
            self._context.rename(self._path(folder), self._path(to), options)

    def remove(self, path: str) -> None:
        with _refusals():
            self._system.delete(self._path(path), True)

    def count(self, paths: Sequence[str]) -> Count:
        if not paths:
            return Count(0, 0)
        with _refusals():
            ids = self._spark.read.schema("event_id string").parquet(*paths)
            rows, checksum = ids.selectExpr("count(*)", sql_for("spark")).collect()[0]
        return Count(int(rows), int(checksum))

    def _path(self, address: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(address)


class GoogleFiles(HadoopFiles):
    """`gs://`: what is there already is copied by the store itself, and no byte of it comes here."""

    def copy(self, copies: Sequence[Copy], options: Mapping[str, str]) -> None:
        if not all(copy.source.startswith("gs://") for copy in copies):
            return super().copy(copies, options)
        from google.api_core.exceptions import GoogleAPIError

        client = google_client(options if self._target_options is None else self._target_options)
        try:
            _in_parallel(lambda copy: _rewrite(client, copy), copies)
        except GoogleAPIError as refused:
            raise OSError(first_line(refused)) from refused


def _rewrite(client: Any, copy: Copy) -> None:
    source, target = (_blob(client, address) for address in (f"{copy.source}/{copy.path}", copy.target))
    token, _, _ = target.rewrite(source)
    while token is not None:  # large objects between locations take several calls
        token, _, _ = target.rewrite(source, token=token)


def _blob(client: Any, address: str) -> Any:
    bucket, _, name = address.removeprefix("gs://").partition("/")
    return client.bucket(bucket).blob(name)


def google_client(options: Mapping[str, str]) -> Any:
    """A client of GCS by delta-rs' options: those of an emulator, or none for the machine's own account."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    if options.get("google_skip_signature") != "true":
        return storage.Client()
    endpoint = {"api_endpoint": options["google_base_url"]}
    return storage.Client("anonymous", credentials=AnonymousCredentials(), client_options=endpoint)  # type: ignore[no-untyped-call]


def files_at(
    path: str, mirror: str, spark: SparkSession | None, target_options: Mapping[str, str] | None = None
) -> Files:
    """The file system of an address; MirrorError when nothing here reaches it."""
    if "://" not in path:
        return LocalFiles()
    if spark is None:
        raise MirrorError(
            f"mirror {mirror}",
            found=f"no Spark session for {path}",
            expected="one, as its Hadoop reaches that address",
            next_step="Run the mirror stage as a Spark job.",
        )
    kind = GoogleFiles if path.startswith("gs://") else HadoopFiles
    try:
        return kind(spark, path, target_options)
    except OSError as refused:
        raise MirrorError(
            f"mirror {mirror}",
            found=first_line(refused),
            expected=f"{path} within reach",
            next_step="Check the address, the server and the connector's jar.",
        ) from refused


def copy_in_tasks(
    spark: SparkSession, copies: Sequence[Copy], options: Mapping[str, str], target_options: Mapping[str, str]
) -> None:
    """Copy each file in a Spark task of its own, by delta-rs' clients: Python workers have no Hadoop."""
    work = spark.createDataFrame([(json.dumps(vars(copy)),) for copy in copies], "copy string")

    def copied(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            for text in batch.column(0).to_pylist():
                _copy_in_task(Copy(**json.loads(text)), options, target_options)
            yield batch

    with _refusals():
        done = work.repartition(len(copies)).mapInArrow(copied, "copy string").count()
    if done != len(copies):
        raise OSError(f"{done} of {len(copies)} files were copied")


def _copy_in_task(copy: Copy, options: Mapping[str, str], target_options: Mapping[str, str]) -> None:
    with open_file(copy.source, copy.path, options) as source, _target(copy.target, target_options) as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)


def open_file(folder: str, path: str, options: Mapping[str, str]) -> IO[bytes]:
    """A file of a table to read; `options` are delta-rs' for its storage."""
    if _is_local(folder):
        return open(f"{_local(folder)}/{path}", "rb")
    return cast(IO[bytes], DeltaStorageHandler(folder, dict(options)).open_input_file(path))


def rows_of(hour: SealedHour) -> Iterator[pa.RecordBatchReader]:
    """The hour's rows as Arrow, one stream for each file, for a target that takes no files."""
    for file in hour.files:
        with open_file(hour.silver_uri, file.path, hour.storage_options) as source, pq.ParquetFile(source) as parquet:
            yield pa.RecordBatchReader.from_batches(parquet.schema_arrow, parquet.iter_batches())


def _target(address: str, options: Mapping[str, str]) -> IO[bytes]:
    if _is_local(address):
        return open(_local(address), "wb")
    folder, _, name = address.rpartition("/")
    store = PyFileSystem(DeltaStorageHandler(folder, dict(options)))
    # Through a buffer larger than any one write, as delta-rs' stream takes bytes and pyarrow would hand it its Buffer.
    return cast(IO[bytes], store.open_output_stream(name, buffer_size=2 * _CHUNK_BYTES))


def _is_local(address: str) -> bool:
    return "://" not in address or address.startswith("file://")


def _local(address: str) -> str:
    return address.removeprefix("file://")


def _in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(COPIERS, len(items))) as pool:
        return list(pool.map(work, items))


def _count_of_file(path: str) -> Count:
    rows = checksum = 0
    try:
        with pq.ParquetFile(path) as file:
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


def _status(status: Any) -> Found:
    return Found(int(status.getLen()), datetime.fromtimestamp(status.getModificationTime() / 1000, UTC))


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _refusals() -> Iterator[None]:
    """What the JVM throws, as the OSError that Python would raise for it."""
    try:
        yield
    except Py4JJavaError as thrown:
        kind = str(thrown.java_exception.getClass().getSimpleName())
        message = (str(thrown.java_exception.getMessage()).splitlines() or [""])[0][:300]
        raise _KINDS.get(kind, OSError)(f"{kind}: {message}") from thrown
    except PySparkException as thrown:
        raise OSError(first_line(thrown)) from thrown


_KINDS: dict[str, type[OSError]] = {
    "FileNotFoundException": FileNotFoundError,
    "FileAlreadyExistsException": FileExistsError,
}
