"""File systems that the JVM of a Spark session reaches: HDFS and whatever else Hadoop has a connector for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, cast

import pyarrow as pa
from deltalake.fs import DeltaStorageHandler
from py4j.protocol import Py4JJavaError
from pyarrow.fs import PyFileSystem
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lakehouse import failpoints
from lakehouse.checksum import sql_for
from lakehouse.mirrors.contract import Count
from lakehouse.mirrors.files import (
    CHUNK_BYTES,
    SPREAD_FROM_BYTES,
    Copy,
    Found,
    in_parallel,
    is_local,
    local_path,
)
from lakehouse.store.contents import Contents
from lakehouse.store.delta import first_line

_ATOMIC = ("hdfs", "viewfs", "webhdfs", "file")
"""Schemes whose folders are renamed in one step; an object store copies them file by file."""


class HadoopFiles:
    """`hdfs://` and whatever else the JVM of a Spark session has a file system for."""

    def __init__(
        self,
        spark: Callable[[], SparkSession],
        root: str,
        target_options: Mapping[str, str] | None = None,
        spread_from_bytes: int = SPREAD_FROM_BYTES,
    ) -> None:
        """`spark` is asked again in each thread that has work for its tasks: that names the thread's pool.

        `target_options` are delta-rs' for the storage at `root`, where it is not the one of the lake.
        """
        self._spark, self._target_options, self._spread_from = spark, target_options, spread_from_bytes
        context = cast(Any, spark().sparkContext)
        self._gateway, self._jvm, self._conf = context._gateway, context._jvm, context._jsc.hadoopConfiguration()
        uri = self._jvm.java.net.URI(root)
        with _refusals():
            self._system: Any = self._jvm.org.apache.hadoop.fs.FileSystem.get(uri, self._conf)
            # FileSystem.rename returns False or nests where its target exists; a FileContext's raises.
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

    def copy(self, copies: Sequence[Copy]) -> None:
        if copies and sum(copy.size_bytes for copy in copies) >= self._spread_from:
            copy_in_tasks(self._spark(), copies, self._target_options)
        else:
            in_parallel(self._copy, copies)

    def _copy(self, copy: Copy) -> None:
        source = self._path(f"{copy.source.uri}/{copy.path}")
        with _refusals():
            source_system = source.getFileSystem(self._conf)
            self._jvm.org.apache.hadoop.fs.FileUtil.copy(
                source_system, source, self._system, self._path(copy.target), False, True, self._conf
            )
        failpoints.reach("mirror.half_copied")

    def settle(self, folder: str) -> None:
        """Nothing to do: a closed file and a finished rename are durable there."""

    def rename(self, folder: str, to: str) -> None:
        kind = self._jvm.org.apache.hadoop.fs.Options.Rename
        options = self._gateway.new_array(kind, 1)
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
            ids = self._spark().read.schema("event_id string").parquet(*map(_literal, paths))
            rows, checksum = ids.selectExpr("count(*)", sql_for("spark")).collect()[0]
        return Count(int(rows), int(checksum))

    def contents(self, paths: Sequence[str]) -> list[Contents]:
        """By reading in the JVM: HDFS' own checksum of a file depends on its blocks, and is of another kind."""
        return in_parallel(self._contents_of_file, paths)

    def _contents_of_file(self, path: str) -> Contents:
        with _refusals():
            stream = self._system.open(self._path(path))
            try:
                return Contents(str(self._jvm.org.apache.commons.codec.digest.DigestUtils.sha256Hex(stream)))
            finally:
                stream.close()

    def _path(self, address: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(address)


def copy_in_tasks(spark: SparkSession, copies: Sequence[Copy], target_options: Mapping[str, str] | None) -> None:
    """Copy each file in a Spark task of its own, by delta-rs' clients: Python workers have no Hadoop.

    Without `target_options` the storage of the targets is reached as that of the sources is.
    """

    def copy_one(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                copy = copies[number]
                _copy_in_task(copy, copy.source.options if target_options is None else target_options)
            yield batch

    with _refusals():
        copied = spark.range(0, len(copies), 1, len(copies)).mapInArrow(copy_one, "id bigint").count()
    if copied != len(copies):
        raise OSError(f"{copied} of {len(copies)} files were copied")


def _copy_in_task(copy: Copy, target_options: Mapping[str, str]) -> None:
    with copy.source.open(copy.path) as source, _target(copy.target, target_options) as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


def _target(address: str, options: Mapping[str, str]) -> IO[bytes]:
    if is_local(address):
        return open(local_path(address), "wb")
    folder, _, name = address.rpartition("/")
    store = PyFileSystem(DeltaStorageHandler(folder, dict(options)))
    # Through a buffer larger than any one write, as delta-rs' stream takes bytes and pyarrow would hand it its Buffer.
    return cast(IO[bytes], store.open_output_stream(name, buffer_size=2 * CHUNK_BYTES))


def _literal(path: str) -> str:
    """The path as a pattern that only it matches: Spark takes paths for Hadoop's globs."""
    return re.sub(r"([\[\]{}*?\\,])", r"\\\1", path)


def _status(status: Any) -> Found:
    return Found(int(status.getLen()), datetime.fromtimestamp(status.getModificationTime() / 1000, UTC))


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
